//! Starts and stops the control socket, the HTTP server of metrics and probes, and BGP listeners.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use podroute_config::Rejected;

use super::{Agent, AgentError};
use crate::glass::{self, Glass};
use crate::{metrics, server};

impl Agent {
    /// What answers are made of.
    pub(super) fn server(&self) -> server::Server {
        server::Server {
            speaker: self.speaker.clone(),
            fib: self.fib.clone(),
            agent: self.reports.orders.clone(),
            network_policies: self.reports.network_policies.clone(),
            identity: (self.config.node.asn, self.node.host.router_id),
        }
    }

    /// The socket of the operator's commands.
    pub(super) fn start_server(&mut self) -> Result<(), AgentError> {
        let server = self.server();
        let listener = server::listen(&self.node.run_dir).map_err(|source| AgentError::RunDir {
            path: self.node.run_dir.clone(),
            source,
        })?;
        let started = tokio::spawn(server.run(listener)).abort_handle();
        if let Some(before) = self.node.server.replace(started) {
            before.abort();
        }
        Ok(())
    }

    /// Listens for peers where the file says; where that is not possible, as before.
    pub(super) fn listen(&mut self) {
        let wanted: Vec<SocketAddr> = self.config.listen.sockets().collect();
        let outcome = self.speaker.listen(&wanted);
        self.node.not_listening = outcome.err().map(|error| Rejected {
            subject: "listen".to_owned(),
            reason: format!("{error}; until then the node listens where it did"),
        });
    }

    /// Whoever had the port may have gone.
    pub(super) fn check_listeners(&mut self) {
        if self.node.not_listening.is_none() {
            return;
        }
        self.listen();
        if self.node.not_listening.is_none() {
            tracing::info!(event = "listening", "listening on the configured addresses");
            self.report_cluster();
        }
    }

    /// The looking glass where the file wants it, and nowhere else.
    pub(super) fn serve_glass(&mut self) {
        let wanted = self.config.web;
        let served = self.reports.glass.as_ref().map(|(address, _)| *address);
        if wanted == served {
            return;
        }
        if let Some((_, server)) = self.reports.glass.take() {
            server.abort();
        }
        let Some(address) = wanted else { return };
        let glass = Glass::new(self.name(), self.server(), self.node.run_dir.clone());
        let task = tokio::spawn(glass::serve(address, glass)).abort_handle();
        self.reports.glass = Some((address, task));
    }

    /// Metrics where the file wants them, and nowhere else.
    pub(super) fn serve_metrics(&mut self) {
        let wanted: BTreeSet<SocketAddr> = self.config.metrics.sockets.iter().copied().collect();
        let series = metrics::Series {
            per_peer: self.config.metrics.per_peer,
            of_mesh: self.peers.of_mesh.clone(),
        };
        self.reports.health.configure(series, &self.config.node.blocks);
        self.reports.metrics.retain(|addr, server| {
            let stays = wanted.contains(addr) && !server.is_finished();
            if !stays {
                server.abort();
            }
            stays
        });
        for addr in wanted {
            let source = metrics::Source {
                speaker: self.speaker.clone(),
                fib: self.fib.clone(),
                health: Arc::clone(&self.reports.health),
                agent: self.reports.orders.clone(),
                watches: self.file.followed.watches.clone(),
                network_policies: self.reports.network_policies.clone(),
                run_dir: self.node.run_dir.clone(),
            };
            let start = || tokio::spawn(metrics::serve(addr, source)).abort_handle();
            self.reports.metrics.entry(addr).or_insert_with(start);
        }
    }
}
