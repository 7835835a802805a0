//! Answers as the looking glass shows them: JSON, as the commands print it.

use podroute_web::View;
use serde_json::Value;

use super::{RequestError, Server};
use crate::status::{Reply, Request, RouteQuestion};

/// Prefixes that a page can show.
const PREFIXES: usize = 20_000;

impl Server {
    /// What `podroute show` prints with `-o json`; pods are not the agent's to know.
    pub(crate) async fn view(&self, view: View) -> Result<Value, RequestError> {
        let request = match view {
            View::Peers => Request::Peers,
            View::Blocks => Request::Blocks,
            View::Routes => {
                self.check_size().await?;
                Request::Routes(RouteQuestion::default())
            }
            View::Services => Request::Services,
            View::Policies => Request::Policies,
            View::Events => Request::Events {
                since_ms: 0,
                after: None,
                kinds: Vec::new(),
            },
            View::Pods => return Err(RequestError::NotKnown(view.name())),
        };
        let value = match self.try_answer(request).await? {
            Reply::Services(status) => serde_json::to_value(status),
            Reply::Events(status) => Ok(serde_json::json!({ "events": status.entries })),
            reply => serde_json::to_value(reply),
        };
        Ok(value?)
    }

    /// A full table of the Internet is nothing for a page.
    async fn check_size(&self) -> Result<(), RequestError> {
        let peers = self.speaker.peers().await?;
        let received = peers.iter().map(|peer| peer.counts.received.iter().sum());
        let most: usize = received.max().unwrap_or_default();
        if most > PREFIXES {
            return Err(RequestError::TooManyForPage(most));
        }
        Ok(())
    }
}
