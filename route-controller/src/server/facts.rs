//! What the node's NodeRoute object is made of.

use super::{RequestError, Server, ToAgent};
use crate::fib::{Fib, Progress};
use crate::node_route::{Facts, Routes};
use crate::status::{Reply, Request};
use crate::views;

impl Server {
    /// What the agent knows now.
    pub(crate) async fn facts(&self) -> Result<Facts, RequestError> {
        let peers = self.speaker.peers().await?;
        let blocks = match self.try_answer(Request::Blocks).await? {
            Reply::Blocks(blocks) => blocks,
            _ => Vec::new(),
        };
        Ok(Facts {
            peers: peers.iter().map(views::peer).collect(),
            blocks,
            cluster: self.ask_agent(ToAgent::Cluster).await?,
            routes: self.ask_fib(routes).await?,
        })
    }
}

fn routes(fib: &Fib) -> Routes {
    let mut routes = Routes::default();
    for progress in fib.delta.progresses() {
        match progress {
            Progress::Installed => routes.installed += 1,
            Progress::Pending => {}
            Progress::Failed(_) => routes.failed += 1,
        }
    }
    routes
}
