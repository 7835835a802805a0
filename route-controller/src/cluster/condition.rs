//! The node's condition NetworkUnavailable: while it is True the scheduler puts no pods there.
//!
//! A node that has just come up says True, with the reason, until it is ready; a restarted agent whose routes are still in
//! the kernel leaves the condition alone until then. A drained node says True too: nobody reaches its pods. The condition is written
//! again when the Node object is another one of the same name.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::sync::watch;

use super::client::LazyClient;
use super::error;

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
    /// Its routes are withdrawn.
    Drained,
}

/// What a condition says, and on which object.
#[derive(Clone, PartialEq, Debug)]
struct Wanted {
    network: Network,
    /// The UID of the Node object; empty before it is known.
    node: String,
}

/// The desired status of the node's condition; a task writes it, and tries until the API server has accepted it.
#[derive(Debug)]
pub(crate) struct Condition(watch::Sender<Wanted>);

impl Condition {
    pub(crate) fn of(node: String) -> Self {
        let (wanted, news) = watch::channel(Wanted {
            network: Network::Unknown,
            node: String::new(),
        });
        tokio::spawn(follow(node, news));
        Self(wanted)
    }

    pub(crate) fn say(&self, network: Network) {
        self.0.send_if_modified(|said| {
            let differs = said.network != network;
            said.network = network;
            differs
        });
    }

    /// The Node object that is there now.
    pub(crate) fn node_is(&self, uid: &str) {
        self.0.send_if_modified(|said| {
            let is_another = !said.node.is_empty() && said.node != uid;
            uid.clone_into(&mut said.node);
            is_another
        });
    }
}

/// Ends with the agent.
async fn follow(node: String, mut news: watch::Receiver<Wanted>) {
    let mut client = LazyClient::default();
    while news.changed().await.is_ok() {
        let mut failed = false;
        loop {
            let wanted = news.borrow_and_update().network.clone();
            match patch(&mut client, &node, &wanted).await {
                Ok(()) => {
                    break tracing::info!(event = "condition_written", network = ?wanted, "node condition NetworkUnavailable written");
                }
                // Once: it is tried until it is taken.
                Err(error) if !failed => {
                    let error = error::in_words(&error);
                    tracing::warn!(event = "condition_failed", %error, "cannot write the node condition NetworkUnavailable; trying again every 5 s");
                }
                Err(error) => {
                    tracing::debug!(event = "condition_failed", error = %error::in_words(&error), "cannot write the node condition NetworkUnavailable")
                }
            }
            failed = true;
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                changed = news.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

async fn patch(client: &mut LazyClient, node: &str, network: &Network) -> kube::Result<()> {
    let now = k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let Some(condition) = condition(network, &now) else {
        return Ok(());
    };
    let patch = serde_json::json!({"status": {"conditions": [condition]}});
    let params = PatchParams::default();
    client
        .run(|client| async move {
            let api = Api::<Node>::all(client);
            api.patch_status(node, &params, &Patch::Strategic(patch))
                .await
                .map(drop)
        })
        .await
}

/// The condition as the Node object has it; `None` where it stays as it is.
fn condition(network: &Network, now: &str) -> Option<serde_json::Value> {
    let (status, reason, message) = match network {
        Network::Unknown => return None,
        Network::Unavailable(why) => ("True", "PodrouteNotReady", why.as_str()),
        Network::Drained => (
            "True",
            "PodrouteDrained",
            "the node is drained and its routes are withdrawn; 'podroute undrain' ends that",
        ),
        Network::Available => (
            "False",
            "PodrouteReady",
            "sessions are up or excused, and the routes are in the kernel",
        ),
    };
    Some(serde_json::json!({
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_reads_the_status_and_people_the_message() {
        let of = |network| condition(&network, "2026-01-01T00:00:00Z");
        assert_eq!(of(Network::Unknown), None, "it stays as it is");
        let why = "no session is up: tor-a".to_owned();
        for (network, status, reason, words) in [
            (
                Network::Available,
                "False",
                "PodrouteReady",
                "the routes are in the kernel",
            ),
            (
                Network::Unavailable(why.clone()),
                "True",
                "PodrouteNotReady",
                why.as_str(),
            ),
            (Network::Drained, "True", "PodrouteDrained", "podroute undrain"),
        ] {
            let condition = of(network).unwrap();
            assert_eq!(condition["type"], "NetworkUnavailable");
            assert_eq!(
                (&condition["status"], &condition["reason"]),
                (&status.into(), &reason.into())
            );
            assert!(
                condition["message"].as_str().unwrap().contains(words),
                "{condition}"
            );
            assert_eq!(condition["lastTransitionTime"], "2026-01-01T00:00:00Z");
        }
    }

    /// What is said twice is written once, and a recreated Node object gets it again.
    #[tokio::test]
    async fn only_changes_are_written() {
        let (wanted, mut news) = watch::channel(Wanted {
            network: Network::Unknown,
            node: String::new(),
        });
        let condition = Condition(wanted);
        let mut changed = || {
            let changed = news.has_changed().unwrap();
            news.mark_unchanged();
            changed
        };
        condition.node_is("first");
        assert!(!changed(), "the first object is the one that was asked for");
        condition.say(Network::Available);
        assert!(changed());
        condition.say(Network::Available);
        condition.node_is("first");
        assert!(!changed());
        condition.node_is("second");
        assert!(changed());
    }
}
