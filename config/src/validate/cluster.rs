//! Blocks of this node and the mesh, from objects of Kubernetes.
//!
//! The outcome follows from the file and the facts alone, whatever came before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::engine::{PathRules, PeerKind, PeerRouting};
use bgp_proto::policy::Policy;
use bgp_proto::types::{Asn, FamilySet, HoldTime, Prefix};

use super::limits::{OF_NODE, OF_REFLECTOR};
use super::node::Node;
use super::peers::{CONNECT_RETRY, INTERNAL_TTL, PORT, RESTART_TIME};
use crate::decode::Located;
use crate::model::{
    Cluster, ClusterFacts, FromKubernetes, IMPORT_OF_NODE, IMPORT_OF_REFLECTOR, Mesh, NodeFact, NodeFacts,
    Peer, Remote, Restart, Timers, Transport, Ttl, mesh_import,
};
use crate::problem::Problems;
use crate::schema::{self, Document, MeshMode};

/// What has to be asked of Kubernetes.
pub(super) fn wanted(document: &Document) -> FromKubernetes {
    let mesh = document
        .mesh
        .mode
        .as_ref()
        .is_some_and(|mode| mode.value != MeshMode::Off);
    let network = document.node.blocks_of_cluster.is_some() || mesh;
    let services = !document.services.advertise.is_empty() || !document.services.pools.is_empty();
    FromKubernetes {
        // Addresses of nodes are no addresses of Services.
        nodes: network || services || !document.node.annotations.is_empty(),
        services,
        network,
    }
}

pub(super) fn selector(written: &[(Located<String>, Located<String>)]) -> BTreeMap<String, String> {
    let pair = |(key, value): &(Located<String>, Located<String>)| (key.value.clone(), value.value.clone());
    written.iter().map(pair).collect()
}

pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn mesh(written: &schema::Mesh, own_asn: bool, problems: &Problems) -> Mesh {
    let Some(mode) = &written.mode else {
        return Mesh::Off;
    };
    if own_asn && mode.value != MeshMode::Off {
        let message = "the mesh is iBGP: all nodes must be of one AS, and this one has an AS of its own";
        problems.error(mode.location.problem(
            message,
            "remove node.asn, or set mode: off and let nodes meet over their routers",
        ));
    }
    match mode.value {
        MeshMode::Off => Mesh::Off,
        MeshMode::Full => Mesh::Full,
        MeshMode::Reflectors => {
            if written.reflector_selector.is_empty() {
                let remedy =
                    "add reflectorSelector: {podroute/reflector: \"true\"}, and label two nodes or more";
                problems.error(mode.location.problem("nothing says which nodes reflect", remedy));
            }
            Mesh::Reflectors(selector(&written.reflector_selector))
        }
    }
}

/// Blocks of this node, where they come from Kubernetes. One outside the pod CIDRs is left out, and warned of.
pub(super) fn blocks(
    document: &Document,
    cluster: &Cluster,
    facts: Option<&NodeFact>,
    problems: &Problems,
) -> Vec<Prefix> {
    let Some(location) = &document.node.blocks_of_cluster else {
        return Vec::new();
    };
    if cluster.pod_cidrs.is_empty() && document.cluster.pod_cidrs_known {
        let remedy =
            "add cluster.podCIDRs with the range that Kubernetes cuts node blocks from (--cluster-cidr)";
        problems.error(location.problem("blocks: kubernetes needs cluster.podCIDRs", remedy));
    }
    let inside = |block: &&Prefix| cluster.pod_cidrs.iter().any(|cidr| cidr.contains(block));
    let all = facts.map(|fact| fact.blocks.as_slice()).unwrap_or_default();
    for outside in all.iter().filter(|block| !inside(block)) {
        let message = format!("this node's pod CIDR {outside} lies outside cluster.podCIDRs and is not used");
        problems.warn(location.problem(message, "extend cluster.podCIDRs"));
        problems.reject(
            format!("pod CIDR {outside}"),
            "lies outside cluster.podCIDRs and is not used; extend cluster.podCIDRs",
        );
    }
    all.iter().filter(inside).copied().collect()
}

/// What the peers of the mesh are derived from.
pub(super) struct MeshInputs<'a> {
    pub(super) written: &'a schema::Mesh,
    pub(super) mesh: &'a Mesh,
    pub(super) node: &'a Node,
    pub(super) asn: Asn,
    /// What the file says of imports, in place of what follows.
    pub(super) import: Option<Arc<Policy>>,
    /// Blocks of nodes are those of Kubernetes.
    pub(super) blocks_known: bool,
    pub(super) pod_cidrs: &'a [Prefix],
    pub(super) services: &'a [Prefix],
}

impl MeshInputs<'_> {
    /// A peer for each node that this one has a session with, except for those that are configured by name or address.
    pub(super) fn peers(&self, facts: &NodeFacts, configured: &[Peer], problems: &Problems) -> Vec<Peer> {
        let Some(cluster) = &facts.cluster else {
            return Vec::new();
        };
        let names: BTreeSet<&str> = configured.iter().map(|peer| peer.name.as_str()).collect();
        let taken: BTreeSet<IpAddr> = configured
            .iter()
            .filter_map(|peer| peer.remote.address())
            .collect();
        let own_v4 = own(cluster, self.node).iter().any(IpAddr::is_ipv4);
        let others: Vec<(&String, &NodeFact)> = cluster
            .nodes
            .iter()
            .filter(|(name, _)| Some(*name) != self.node.name.as_ref() && !names.contains(name.as_str()))
            .filter(|(_, other)| !other.addresses.iter().any(|address| taken.contains(address)))
            .collect();
        let mut peers = Vec::new();
        for (name, other) in &others {
            let Some(kind) = self.relation(&other.labels) else {
                continue;
            };
            let preferred = other.addresses.iter().find(|addr| addr.is_ipv4() == own_v4);
            match preferred.or(other.addresses.first()) {
                Some(address) => peers.push(self.peer(name, *address, kind, other)),
                None => problems.reject(
                    format!("Node {name}"),
                    "has no InternalIP, so there is no session with it; see its status.addresses (kubelet --node-ip)",
                ),
            }
        }
        if peers.is_empty() && !others.is_empty() {
            self.is_empty(problems);
        }
        peers
    }

    fn is_empty(&self, problems: &Problems) {
        let why = match self.mesh {
            Mesh::Off => return,
            Mesh::Full => "no other node has an InternalIP".to_owned(),
            Mesh::Reflectors(selector) => {
                let labels: Vec<String> = selector
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                format!(
                    "no node has the labels of mesh.reflectorSelector; kubectl label node NAME {}",
                    labels.join(" ")
                )
            }
        };
        problems.unready(format!("the mesh is empty: {why}"));
    }

    /// What another node is to this one; `None`: no session.
    fn relation(&self, labels: &BTreeMap<String, String>) -> Option<PeerKind> {
        let reflectors = match self.mesh {
            Mesh::Off => return None,
            Mesh::Full => return Some(PeerKind::Internal),
            Mesh::Reflectors(selector) => selector,
        };
        match (
            selects(reflectors, &self.node.labels),
            selects(reflectors, labels),
        ) {
            (false, false) => None,
            (true, false) => Some(PeerKind::Client),
            (_, true) => Some(PeerKind::Internal),
        }
    }

    /// A reflector passes on what others have.
    fn reflects(&self, kind: PeerKind, other: &NodeFact) -> bool {
        let is_reflector =
            matches!(self.mesh, Mesh::Reflectors(selector) if selects(selector, &other.labels));
        is_reflector && kind == PeerKind::Internal
    }

    /// What is taken from a node: its own blocks and addresses of Services.
    fn import(&self, kind: PeerKind, other: &NodeFact) -> Arc<Policy> {
        if let Some(import) = &self.import {
            return Arc::clone(import);
        }
        let policy = if self.blocks_known && !self.reflects(kind, other) {
            mesh_import(IMPORT_OF_NODE, &other.blocks, self.services)
        } else {
            mesh_import(IMPORT_OF_REFLECTOR, self.pod_cidrs, self.services)
        };
        Arc::new(policy)
    }

    fn peer(&self, name: &str, address: IpAddr, kind: PeerKind, other: &NodeFact) -> Peer {
        let limits = if self.reflects(kind, other) {
            &OF_REFLECTOR
        } else {
            &OF_NODE
        };
        Peer {
            name: name.to_owned(),
            description: Some("a node of the mesh".to_owned()),
            of_mesh: true,
            selector: BTreeMap::new(),
            remote: Remote::Address(address),
            port: PORT,
            remote_asn: self.asn.into(),
            kind,
            transport: Transport {
                local_address: None,
                ttl: Ttl::Send(INTERNAL_TTL),
                password_file: self
                    .written
                    .password
                    .as_ref()
                    .map(|password| password.file.value.clone()),
                next_password_file: self.written.password.as_ref().and_then(schema::Password::next),
                passive: false,
            },
            timers: Timers {
                hold: self
                    .written
                    .hold
                    .as_ref()
                    .map_or(HoldTime::DEFAULT, |hold| hold.value),
                connect_retry: CONNECT_RETRY,
            },
            bfd: self.written.bfd.as_ref().map(super::bfd::plain),
            restart: Restart {
                time: Some(RESTART_TIME),
                notification: false,
                long_lived: 0,
            },
            extended_next_hop: address.is_ipv6(),
            add_path_receive: false,
            add_path_send: false,
            families: FamilySet::ALL,
            strict_role: false,
            shutdown: false,
            routing: PeerRouting {
                name: name.to_owned(),
                kind,
                local_asn: self.asn,
                remote_asn: Some(self.asn),
                import: self.import(kind, other),
                export: Arc::new(Policy::accept_all()),
                next_hop_self: false,
                allow_own_as: 0,
                max_prefixes: Some(limits.prefixes()),
                max_paths_per_prefix: super::peers::MAX_PATHS_PER_PREFIX,
                max_memory: Some(limits.memory),
                rules: PathRules::default(),
            },
            defaulted: vec![
                "port",
                "timers.connectRetry",
                "gracefulRestart.restartTime",
                "families",
                "ttl",
                "maxPrefixes",
                "maxMemory",
                "import",
                "export",
            ],
        }
    }
}

fn own<'a>(cluster: &'a ClusterFacts, node: &Node) -> &'a [IpAddr] {
    let fact = node.name.as_ref().and_then(|name| cluster.nodes.get(name));
    fact.map(|fact| fact.addresses.as_slice()).unwrap_or_default()
}

/// What of the Node objects keeps this node from being ready.
pub(super) fn look_at_node(
    document: &Document,
    name: Option<&String>,
    known: &ClusterFacts,
    blocks: &[Prefix],
    problems: &Problems,
) {
    if !wanted(document).network {
        return;
    }
    let name = name.map_or("", String::as_str);
    if !known.nodes.contains_key(name) {
        problems.unready(format!(
            "there is no Node object '{name}'; set NODE_NAME (in a DaemonSet from spec.nodeName) or node.name to the \
             node's name in Kubernetes"
        ));
    } else if document.node.blocks_of_cluster.is_some() && blocks.is_empty() {
        problems.unready(format!(
            "Node {name} has no pod CIDR in cluster.podCIDRs; kube-controller-manager gives one with \
             --allocate-node-cidrs and --cluster-cidr"
        ));
    }
}
