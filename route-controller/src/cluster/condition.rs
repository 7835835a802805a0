//! The node's condition NetworkUnavailable: the scheduler waits for it to be False.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

/// Between attempts.
const PAUSE: Duration = Duration::from_secs(5);

/// Says that pods of this node can be reached: the first routes are in the kernel. Tries until the API server
/// has taken it.
pub(crate) fn report_ready(node: String) {
    tokio::spawn(async move {
        loop {
            match patch(&node).await {
                Ok(()) => return tracing::info!("condition NetworkUnavailable is False"),
                Err(error) => tracing::debug!(%error, "condition NetworkUnavailable"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

async fn patch(node: &str) -> kube::Result<()> {
    let api = Api::<Node>::all(Client::try_default().await?);
    let now = k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let condition = serde_json::json!({
        "type": "NetworkUnavailable", "status": "False", "reason": "PodrouteReady",
        "message": "sessions are up or excused, and the routes are in the kernel",
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    let patch = serde_json::json!({"status": {"conditions": [condition]}});
    let params = PatchParams::default();
    api.patch_status(node, &params, &Patch::Strategic(patch))
        .await
        .map(drop)
}
