//! The API server's side: server-side apply of the object and of its status.

use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use super::status::Status;
use crate::cluster::{LazyClient, in_words};

/// Who owns the object's metadata.
const MANAGER: &str = "podroute";
/// Who owns the status. Another one: before Kubernetes 1.22 an apply of the object ends the ownership of its manager's status fields, and a
/// field that is left out later stays.
const STATUS_MANAGER: &str = "podroute-status";
const GROUP: &str = "podroute.io";
const VERSION: &str = "v1alpha1";
const KIND: &str = "NodeRoute";

/// Reads and writes the object of one node.
#[derive(Default)]
pub(super) struct Writer {
    node: String,
    client: LazyClient,
    /// The last write failed, and that was logged.
    failing: bool,
}

impl Writer {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            ..Self::default()
        }
    }

    /// The status of the object that is there.
    pub(super) async fn read(&mut self) -> Option<Status> {
        let node = self.node.clone();
        let object = self
            .client
            .run(|client| async move { api(client).get_opt(&node).await })
            .await;
        let object = object.ok()??;
        serde_json::from_value(object.data.get("status")?.clone()).ok()
    }

    /// Whether the API server has it now.
    pub(super) async fn write(&mut self, node_uid: &str, status: &Status) -> bool {
        match self.apply(node_uid, status).await {
            Ok(()) => {
                self.failing = false;
                true
            }
            Err(error) => {
                let error = in_words(&error);
                if self.failing {
                    tracing::debug!(event = "noderoute_failed", %error, "cannot write the node's NodeRoute object");
                } else {
                    tracing::info!(event = "noderoute_failed", %error, "cannot write the node's NodeRoute object: is examples/kubernetes/base/noderoutes.yaml applied? trying again");
                }
                self.failing = true;
                false
            }
        }
    }

    async fn apply(&mut self, node_uid: &str, status: &Status) -> kube::Result<()> {
        let (object, of_status) = (object(&self.node, node_uid), with_status(&self.node, status));
        let node = self.node.clone();
        // The object first: its owner may be another Node object than before. Unchanged fields make no new version.
        let [params, of_status_params] =
            [MANAGER, STATUS_MANAGER].map(|manager| PatchParams::apply(manager).force());
        self.client
            .run(|client| async move {
                let api = api(client);
                api.patch(&node, &params, &Patch::Apply(object)).await?;
                api.patch_status(&node, &of_status_params, &Patch::Apply(of_status))
                    .await
                    .map(drop)
            })
            .await
    }
}

fn api(client: kube::Client) -> Api<DynamicObject> {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, KIND), "noderoutes");
    Api::all_with(client, &resource)
}

/// Deleted by Kubernetes together with the Node.
fn object(node: &str, node_uid: &str) -> serde_json::Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {
            "name": node,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid}],
        },
    })
}

fn with_status(node: &str, status: &Status) -> serde_json::Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"name": node},
        "status": status,
    })
}
