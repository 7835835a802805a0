//! The node's condition NetworkUnavailable: while it is True the scheduler puts no pods there.
//!
//! A node that has just come up says True, with the reason, until it is ready; a restarted agent whose routes are still in
//! the kernel leaves the condition alone until then.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;

/// Between attempts.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether pods of this node can be reached.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Network {
    /// The condition stays as it is.
    Unknown,
    /// Not yet, for this reason.
    Unavailable(String),
    /// The first routes are in the kernel, and sessions are up or excused.
    Available,
}

/// What the node's condition shall say; a task writes it, and tries until the API server has taken it.
#[derive(Debug)]
pub(crate) struct Condition(watch::Sender<Network>);

impl Condition {
    pub(crate) fn of(node: String) -> Self {
        let (wanted, news) = watch::channel(Network::Unknown);
        tokio::spawn(follow(node, news));
        Self(wanted)
    }

    pub(crate) fn say(&self, network: Network) {
        self.0.send_if_modified(|said| {
            let differs = *said != network;
            *said = network;
            differs
        });
    }
}

/// Ends with the agent.
async fn follow(node: String, mut news: watch::Receiver<Network>) {
    while news.changed().await.is_ok() {
        loop {
            let wanted = news.borrow_and_update().clone();
            match patch(&node, &wanted).await {
                Ok(()) => break tracing::info!(network = ?wanted, "condition NetworkUnavailable"),
                Err(error) => tracing::debug!(%error, "condition NetworkUnavailable"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn patch(node: &str, network: &Network) -> kube::Result<()> {
    let (status, reason, message) = match network {
        Network::Unknown => return Ok(()),
        Network::Unavailable(why) => ("True", "PodrouteNotReady", why.as_str()),
        Network::Available => (
            "False",
            "PodrouteReady",
            "sessions are up or excused, and the routes are in the kernel",
        ),
    };
    let api = Api::<Node>::all(Client::try_default().await?);
    let now = k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let condition = serde_json::json!({
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let patch = serde_json::json!({"status": {"conditions": [condition]}});
    let params = PatchParams::default();
    api.patch_status(node, &params, &Patch::Strategic(patch))
        .await
        .map(drop)
}
