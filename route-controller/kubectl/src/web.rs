//! `kubectl podroute web`: the looking glass over all nodes, on this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use podroute_web::{Listener, Source, Token, View};
use serde_json::Value;

use crate::args::Options;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::{Outcome, documents};

/// All nodes, asked with the operator's rights.
struct Nodes {
    cluster: Cluster,
    options: Options,
    every: Duration,
}

impl Source for Nodes {
    type Error = Error;

    async fn document(&self, view: View) -> Result<Value, Error> {
        // Pods come and go while a page is open.
        let cluster = self.cluster.refreshed(&self.options).await?;
        let answers = cluster.ask(documents::command(view)).await;
        documents::document(view, answers).map_err(|error| Error::Form(error.to_string()))
    }

    fn max_age(&self) -> Duration {
        self.every
    }
}

/// Serves until it is interrupted.
pub(crate) async fn serve(
    cluster: Cluster,
    options: &Options,
    port: u16,
    every: u64,
) -> Result<Outcome, Error> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let listener = Listener::bind(address).await?;
    let address = listener.address().map_err(Error::Runtime)?;
    let token = Token::random()?;
    println!("http://{address}/?token={}", token.as_str());
    eprintln!("the address has a secret: who has it sees what you may see; Ctrl-C ends it");
    let nodes = Nodes {
        cluster: cluster.quiet(),
        options: options.clone(),
        every: Duration::from_secs(every),
    };
    tokio::select! {
        served = listener.serve(nodes, Some(token)) => served.map_err(Error::Runtime)?,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Error::Runtime)?,
    }
    Ok(Outcome::Complete)
}
