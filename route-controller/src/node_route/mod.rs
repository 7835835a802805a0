//! The node's object of `noderoutes.podroute.io`: what `kubectl get noderoutes` shows, and conditions for `kubectl wait`.
//!
//! What it says is a pure function of what the agent knows (`status`, `conditions`); when it is written is decided by `pace`; `write`
//! talks to the API server. Nothing depends on the object: without the definition, or without the right, the agent works as before.

mod conditions;
mod pace;
mod status;
mod write;

use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::pace::Pace;
use self::write::Writer;
use crate::server::Server;

pub(crate) use self::status::{Facts, Routes};

/// Between two looks at what the agent knows.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Writes the object as long as the agent runs.
#[derive(Debug)]
pub(crate) struct NodeRoute {
    uid: watch::Sender<String>,
}

impl NodeRoute {
    /// Starts the task that looks and writes.
    pub(crate) fn start(node: String, server: Server) -> Self {
        let (uid, node_uid) = watch::channel(String::new());
        tokio::spawn(follow(Writer::new(node), server, node_uid));
        Self { uid }
    }

    /// The Node object that is there now: it owns the object, which is deleted with it.
    pub(crate) fn node_is(&self, uid: &str) {
        self.uid.send_if_modified(|known| {
            let differs = known != uid;
            uid.clone_into(known);
            differs
        });
    }
}

/// Ends with the agent.
async fn follow(mut writer: Writer, server: Server, mut node: watch::Receiver<String>) {
    let mut pace = Pace::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = node.changed() => {
                if changed.is_err() {
                    return;
                }
                pace.recreated();
            }
        }
        let uid = node.borrow_and_update().clone();
        if uid.is_empty() {
            continue; // an object without an owner would outlive the node
        }
        if !pace.has_previous() {
            pace.found(writer.read().await);
        }
        let Ok(facts) = server.facts().await else {
            continue; // the agent is stopping
        };
        let now = Instant::now();
        let Some(status) = pace.due(now, status::of(&facts), &timestamp()) else {
            continue;
        };
        let written = writer.write(&uid, &status).await;
        pace.written(now, status, written);
    }
}

/// As Kubernetes writes times.
fn timestamp() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
