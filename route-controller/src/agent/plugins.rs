//! What the agent does for the CNI plugins: writes node.json, and starts the thread that restores pods' interfaces and routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use bgp_proto::types::Prefix;

use super::Agent;
use crate::node_file::{self, NodeFile};
use crate::pod_guard::PodGuard;

/// The log names at most this number of inconsistencies among pods; `podroute ipam check` names all.
const FINDINGS_LOGGED: usize = 10;

impl Agent {
    /// The plugins work without the agent: a failure is logged.
    pub(super) fn help_plugins(&mut self) {
        let restored = Arc::clone(&self.reports.health.restored);
        self.node.pod_guard = PodGuard::start(&self.node.run_dir, &self.node.proc_sys, restored)
            .map_err(|error| tracing::error!(event = "pods_unguarded", %error, "cannot start the thread that restores pods' interfaces and routes"))
            .ok();
        let state_dir = self.node.run_dir.join("ipam");
        tokio::task::spawn_blocking(move || report_pods(&state_dir));
    }

    /// Network policies as the file wants them; what does not run is tried again.
    pub(super) fn enforce_policies(&self) {
        let (run_dir, wanted) = (&self.node.run_dir, &self.config.network_policy);
        let trouble = self
            .reports
            .network_policies
            .configure(run_dir, &self.name(), wanted);
        if let Ok(mut known) = self.reports.health.policies.lock() {
            *known = trouble.map(|trouble| format!("network policies are not enforced: {trouble}"));
        }
    }

    /// The addresses of peers and of the cluster's nodes.
    fn peer_addresses(&self) -> Vec<IpAddr> {
        let peers = self.config.peers.iter().filter_map(|peer| peer.remote.address());
        let nodes = self
            .file
            .facts
            .cluster
            .iter()
            .flat_map(|known| known.nodes.values());
        let all: BTreeSet<_> = peers
            .chain(nodes.flat_map(|node| node.addresses.clone()))
            .collect();
        all.into_iter().collect()
    }

    /// Without this file no pod can be added: a failure keeps the node from being ready, and it is tried again.
    pub(super) fn write_node_file(&mut self) {
        if !self.knows_cluster() {
            return; // what is there from before serves the plugins meanwhile
        }
        let text = |list: &[Prefix]| list.iter().map(ToString::to_string).collect();
        let content = NodeFile {
            version: 1,
            node: self.name(),
            blocks: text(&self.config.node.blocks),
            pod_cidrs: text(&self.config.cluster.pod_cidrs),
            mtu: self.node.host.mtu,
            node_addresses: self.node.host.addresses.clone(),
            peer_addresses: self.peer_addresses(),
        };
        let written = node_file::write(&self.node.run_dir, &content);
        let failure = written.err().map(|error| {
            let file = self.node.run_dir.join("node.json");
            format!(
                "cannot write {}: {error}; no pod can be added, or with old facts only",
                file.display()
            )
        });
        match (&failure, &self.node.no_node_file) {
            (Some(why), before) if before.as_ref() != Some(why) => {
                tracing::error!(event = "node_file_failed", "{why}; trying again")
            }
            (None, Some(_)) => tracing::info!(event = "node_file_restored", "node.json is written again"),
            _ => {}
        }
        self.node.no_node_file = failure;
        if let Some(guard) = &self.node.pod_guard {
            guard.wake();
        }
    }
}

fn report_pods(state_dir: &Path) {
    let (pods, found) = match (
        cni_ipam::attachments(state_dir),
        cni_ipam::check(state_dir, false),
    ) {
        (Ok(pods), Ok(found)) => (pods, found),
        (Err(error), _) | (_, Err(error)) => {
            return tracing::warn!(event = "pods_unchecked", %error, "cannot check the addresses of pods");
        }
    };
    let alive = pods
        .iter()
        .filter(|pod| pod.netns_status == cni_ipam::NetnsStatus::Alive && pod.complete)
        .count();
    tracing::info!(
        event = "pods_checked",
        pods = alive,
        inconsistencies = found.len(),
        "pods of this node checked"
    );
    for finding in found.iter().take(FINDINGS_LOGGED) {
        tracing::warn!(
            event = "pod_inconsistent",
            "{finding}; 'podroute ipam check --fix' repairs what can be repaired"
        );
    }
}
