//! What comes from Kubernetes: blocks of this node, the mesh, addresses of Services.
//!
//! The outcome follows from the file and the facts alone, whatever came before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::engine::{PathRules, PeerKind, PeerRouting};
use bgp_proto::policy::Policy;
use bgp_proto::types::{Asn, Community, FamilySet, HoldTime, Prefix};

use super::node::Node;
use super::peers::{CONNECT_RETRY, INTERNAL_TTL, PORT, RESTART_TIME};
use crate::decode::At;
use crate::model::{
    Cluster, ClusterFacts, FromKubernetes, Mesh, NodeFact, NodeFacts, Peer, Remote, Restart, ServiceAddress,
    ServiceFact, Services, Timers, Transport, Ttl,
};
use crate::problem::Sink;
use crate::schema::{self, Document, MeshMode};

/// What has to be asked of Kubernetes.
pub(super) fn wanted(document: &Document) -> FromKubernetes {
    let mesh = document
        .mesh
        .mode
        .as_ref()
        .is_some_and(|mode| mode.value != MeshMode::Off);
    FromKubernetes {
        nodes: document.node.blocks_of_cluster.is_some() || mesh,
        services: !document.services.advertise.is_empty(),
    }
}

fn selector(written: &[(At<String>, At<String>)]) -> BTreeMap<String, String> {
    let pair = |(key, value): &(At<String>, At<String>)| (key.value.clone(), value.value.clone());
    written.iter().map(pair).collect()
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

pub(super) fn mesh(written: &schema::Mesh, own_asn: bool, sink: &Sink) -> Mesh {
    let Some(mode) = &written.mode else {
        return Mesh::Off;
    };
    if own_asn && mode.value != MeshMode::Off {
        let message = "the mesh is iBGP: all nodes must be of one AS, and this one has an AS of its own";
        sink.error(mode.spot.problem(
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
                sink.error(mode.spot.problem("nothing says which nodes reflect", remedy));
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
    sink: &Sink,
) -> Vec<Prefix> {
    let Some(spot) = &document.node.blocks_of_cluster else {
        return Vec::new();
    };
    if cluster.pod_cidrs.is_empty() && document.cluster.pod_cidrs_known {
        let remedy =
            "add cluster.podCIDRs with the range that Kubernetes cuts node blocks from (--cluster-cidr)";
        sink.error(spot.problem("blocks: kubernetes needs cluster.podCIDRs", remedy));
    }
    let inside = |block: &&Prefix| cluster.pod_cidrs.iter().any(|cidr| cidr.contains(block));
    let all = facts.map(|fact| fact.blocks.as_slice()).unwrap_or_default();
    for outside in all.iter().filter(|block| !inside(block)) {
        let message = format!("this node's pod CIDR {outside} lies outside cluster.podCIDRs and is not used");
        sink.warn(spot.problem(message, "extend cluster.podCIDRs"));
    }
    all.iter().filter(inside).copied().collect()
}

/// What mesh peers are made of.
pub(super) struct Making<'a> {
    pub(super) written: &'a schema::Mesh,
    pub(super) mesh: &'a Mesh,
    pub(super) node: &'a Node,
    pub(super) asn: Asn,
}

impl Making<'_> {
    /// A peer for each node that this one shall have a session with, but for those that are configured by name or address.
    pub(super) fn peers(&self, facts: &NodeFacts, configured: &[Peer]) -> Vec<Peer> {
        let Some(cluster) = &facts.cluster else {
            return Vec::new();
        };
        let names: BTreeSet<&str> = configured.iter().map(|peer| peer.name.as_str()).collect();
        let taken: BTreeSet<IpAddr> = configured
            .iter()
            .filter_map(|peer| peer.remote.address())
            .collect();
        let own_v4 = own(cluster, self.node).iter().any(IpAddr::is_ipv4);
        cluster
            .nodes
            .iter()
            .filter(|(name, _)| Some(*name) != self.node.name.as_ref() && !names.contains(name.as_str()))
            .filter_map(|(name, other)| {
                let kind = self.relation(&other.labels)?;
                let preferred = other.addresses.iter().find(|addr| addr.is_ipv4() == own_v4);
                let address = *preferred.or(other.addresses.first())?;
                (!taken.contains(&address)).then(|| self.peer(name, address, kind))
            })
            .collect()
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

    fn peer(&self, name: &str, address: IpAddr, kind: PeerKind) -> Peer {
        let accept_all = Arc::new(Policy::accept_all());
        Peer {
            name: name.to_owned(),
            description: Some("a node of the mesh".to_owned()),
            of_mesh: true,
            selector: BTreeMap::new(),
            remote: Remote::Address(address),
            port: PORT,
            remote_asn: self.asn,
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
            shutdown: false,
            routing: PeerRouting {
                name: name.to_owned(),
                kind,
                local_asn: self.asn,
                remote_asn: self.asn,
                import: Arc::clone(&accept_all),
                export: accept_all,
                next_hop_self: false,
                allow_own_as: 0,
                max_prefixes: None,
                max_paths_per_prefix: super::peers::MAX_PATHS_PER_PREFIX,
                rules: PathRules::default(),
            },
            defaulted: vec![
                "port",
                "timers.connectRetry",
                "gracefulRestart.restartTime",
                "families",
                "ttl",
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

/// What this node announces for Services: addresses as single hosts, and the aggregates that stand for some. An address
/// whose Service keeps traffic on nodes with an endpoint is never hidden in an aggregate: other nodes announce that too.
pub(super) fn services(written: &schema::Services, facts: &NodeFacts) -> Services {
    let Some(cluster) = &facts.cluster else {
        return Services::default();
    };
    let selector = selector(&written.selector);
    let kinds: Vec<ServiceAddress> = written.advertise.iter().map(|at| at.value).collect();
    let class = written.class.as_ref().map(|class| class.value.as_str());
    let found = cluster
        .services
        .values()
        .filter(|service| selects(&selector, &service.labels))
        .flat_map(|service| {
            service
                .addresses
                .iter()
                .map(move |(kind, addr)| (service, *kind, *addr))
        })
        .filter(|(service, kind, _)| kinds.contains(kind) && announced(service, *kind, class));
    let mut services = Services::default();
    for (service, kind, addr) in found {
        let host = Prefix::host(addr);
        let covers = |aggregate: &&At<Prefix>| aggregate.value.contains(&host);
        let communities = match written.aggregates.iter().find(covers) {
            Some(aggregate) if !is_local(service, kind) => services.aggregates.entry(aggregate.value),
            _ => services.hosts.entry(host),
        };
        communities.or_default().extend(communities_of(written, service));
    }
    services
}

/// Communities of the classes that a Service belongs to.
fn communities_of<'a>(
    written: &'a schema::Services,
    service: &'a ServiceFact,
) -> impl Iterator<Item = Community> + 'a {
    let belongs = |class: &&schema::ServiceCommunities| {
        let named = class.class.as_ref().map(|class| &class.value);
        selects(&selector(&class.selector), &service.labels)
            && (named.is_none() || named == service.class.as_ref())
    };
    let classes = written.communities.iter().filter(belongs);
    classes.flat_map(|class| class.add.iter().map(|at| at.value))
}

/// Aggregates must not hide each other, nor pods.
pub(super) fn aggregates(written: &schema::Services, cluster: &Cluster, sink: &Sink) {
    for (index, aggregate) in written.aggregates.iter().enumerate() {
        let overlaps = |other: &Prefix| other.contains(&aggregate.value) || aggregate.value.contains(other);
        let earlier = written.aggregates.iter().take(index);
        if let Some(first) = earlier.map(|at| at.value).find(overlaps) {
            let message = format!("{} overlaps {first}", aggregate.value);
            sink.error(aggregate.spot.problem(message, "keep one of the two"));
        }
        if let Some(cidr) = cluster.pod_cidrs.iter().find(|cidr| overlaps(cidr)) {
            let message = format!("{} overlaps the pod CIDR {cidr}", aggregate.value);
            let remedy = "name a range that only Services have addresses from";
            sink.error(aggregate.spot.problem(message, remedy));
        }
    }
}

/// Whether traffic to this address stays on the node that it arrives at.
fn is_local(service: &ServiceFact, kind: ServiceAddress) -> bool {
    match kind {
        ServiceAddress::LoadBalancer | ServiceAddress::External => service.external_local,
        ServiceAddress::Cluster => service.internal_local,
    }
}

/// With a policy `Local` only nodes with a ready endpoint take traffic.
fn announced(service: &ServiceFact, kind: ServiceAddress, class: Option<&str>) -> bool {
    let local = is_local(service, kind);
    let ours =
        kind != ServiceAddress::LoadBalancer || service.class.as_deref() == class || service.class.is_none();
    ours && (!local || service.endpoint_here)
}
