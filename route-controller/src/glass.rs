//! The looking glass of this node (`web:` of the configuration).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use podroute_kubectl::{Answers, document};
use podroute_web::{Listener, Source, View};
use serde_json::Value;

use crate::cli;
use crate::server::{RequestError, Server};

/// Documents are gathered at most this often, while a page is open.
const MAX_AGE: Duration = Duration::from_secs(2);
/// An address that cannot be listened on is tried again after this.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Why a page has no content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GlassError {
    #[error(transparent)]
    Agent(#[from] RequestError),
    #[error(transparent)]
    Pods(#[from] cni_ipam::Error),
    #[error("reading the pods ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("cannot write the answer: {0}")]
    Json(#[from] serde_json::Error),
}

/// What this node's agent knows.
#[derive(Clone)]
pub(crate) struct Glass {
    node: String,
    server: Server,
    run_dir: PathBuf,
}

impl Glass {
    pub(crate) fn new(node: String, server: Server, run_dir: PathBuf) -> Self {
        Self {
            node,
            server,
            run_dir,
        }
    }

    async fn answer(&self, view: View) -> Result<String, GlassError> {
        let value = if view == View::Pods {
            let state = self.run_dir.join("ipam");
            tokio::task::spawn_blocking(move || cli::pods_as_json(&state)).await??
        } else {
            self.server.view(view).await?
        };
        Ok(value.to_string())
    }
}

impl Source for Glass {
    type Error = GlassError;

    async fn document(&self, view: View) -> Result<Value, GlassError> {
        let answer = self.answer(view).await?;
        Ok(document(view, Answers::of_node(self.node.clone(), Ok(answer)))?)
    }

    fn max_age(&self) -> Duration {
        MAX_AGE
    }
}

/// Serves until the task is aborted; an address that is taken is tried again.
pub(crate) async fn serve(address: SocketAddr, glass: Glass) {
    let mut is_told = false;
    loop {
        let outcome = match Listener::bind(address).await {
            Ok(listener) => {
                tracing::info!(event = "web_listening", %address, "the looking glass is served");
                is_told = false;
                listener
                    .serve(glass.clone(), None)
                    .await
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome
            && !is_told
        {
            tracing::warn!(event = "web_failed", %address, %error, "cannot serve the looking glass; trying again every 5 s");
            is_told = true;
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
