//! Facts of the cluster and the host, and the configuration that follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::policy::{Matcher, Policy, PrefixRange, Rule, RuleLabel, Verdict};
use bgp_proto::types::{Asn, Community, FamilySet, Prefix};

use crate::model::Fib;

/// Why a file of a list cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UnreadableFile(pub String);

/// What is known of the node without the file: from the host, later from the Node object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    /// Name, when `node.name` is absent.
    pub name: Option<String>,
    /// The name above also when `node.name` is there.
    pub name_wins: bool,
    /// Labels for `nodeSelector`; those of `node.labels` are added and win.
    pub labels: BTreeMap<String, String>,
    /// What Kubernetes says; `None`: not asked, or not answered yet.
    pub cluster: Option<ClusterFacts>,
    /// What the files of [`crate::list_files`] hold, or why they cannot be read. A list whose file is not here is empty.
    pub list_files: BTreeMap<PathBuf, Result<Arc<str>, UnreadableFile>>,
    /// What a running agent cannot change; `None` at its start.
    pub running: Option<Running>,
}

/// What stays as it was at the start of the agent, whatever the file says now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    /// This node's AS number.
    pub asn: Asn,
    /// `cluster.clusterId`.
    pub cluster_id: Option<u32>,
    /// The kernel's routes: `install`, `table` and `resolveViaDefault` of it.
    pub fib: Fib,
}

/// What Kubernetes says of the cluster, as far as this node wants to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterFacts {
    /// All nodes by name, this one included.
    pub nodes: BTreeMap<String, NodeFact>,
    /// Services with addresses, by `namespace/name`.
    pub services: BTreeMap<String, ServiceFact>,
}

/// A node as Kubernetes has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFact {
    /// Its UID: another one is another object of the same name.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its pod CIDRs.
    pub blocks: Vec<Prefix>,
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
    /// It has the taint [`DRAIN_TAINT`].
    pub draining: bool,
    /// The annotation [`ASN_ANNOTATION`]; kept of this node alone.
    pub asn: Option<String>,
    /// The annotation [`PEERS_ANNOTATION`]; kept of this node alone.
    pub peers: Option<String>,
    /// The annotation [`ROUTER_ID_ANNOTATION`]; kept of this node alone.
    pub router_id: Option<String>,
}

/// The annotation that gives a node an AS number of its own.
pub const ASN_ANNOTATION: &str = "podroute/asn";
/// The annotation that gives a node its BGP identifier.
pub const ROUTER_ID_ANNOTATION: &str = "podroute/router-id";
/// The annotation with peers of a node alone, as a YAML list like `peers` of the file.
pub const PEERS_ANNOTATION: &str = "podroute/peers";

/// The label of nodes that load balancers do not send traffic to.
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The key of the taint, of whatever effect, that asks a node's agent to drain it.
pub const DRAIN_TAINT: &str = "podroute/drain";

/// A Service as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceFact {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses by kind.
    pub addresses: Vec<(ServiceAddress, IpAddr)>,
    /// It is of type LoadBalancer.
    pub load_balancer: bool,
    /// Its `loadBalancerClass`.
    pub class: Option<String>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// Families of which a ready endpoint of it runs on this node.
    pub endpoint_here: FamilySet,
    /// Families of which it has a ready endpoint on any node.
    pub endpoint_anywhere: FamilySet,
}

/// A kind of Service address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ServiceAddress {
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    External,
    /// `spec.clusterIPs`.
    Cluster,
}

/// Which parts of the configuration come from Kubernetes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FromKubernetes {
    /// Node objects.
    pub nodes: bool,
    /// Services.
    pub services: bool,
    /// Blocks of this node, or the mesh: the pods' network is podroute's.
    pub network: bool,
}

impl FromKubernetes {
    /// Whether any does.
    #[must_use]
    pub fn any(self) -> bool {
        self.nodes || self.services
    }
}

/// How nodes find each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Mesh {
    /// Only configured peers.
    #[default]
    Off,
    /// Each node has a session with each other node.
    Full,
    /// Nodes with these labels reflect; the others have sessions with them alone.
    Reflectors(BTreeMap<String, String>),
}

/// What is announced for Services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Services {
    /// All of these lie here.
    pub ranges: Vec<Prefix>,
    /// What addresses are allocated from; `None`: another program allocates.
    pub allocation: Option<Allocation>,
    /// Each address of each Service, and what becomes of it on this node.
    pub outcomes: BTreeMap<String, Vec<AddressOutcome>>,
    /// Addresses, each as a single host, with their communities.
    pub hosts: BTreeMap<Prefix, BTreeSet<Community>>,
    /// Aggregates of which this node announces an address, with the communities of all of these; what of them nobody has
    /// ends here.
    pub aggregates: BTreeMap<Prefix, BTreeSet<Community>>,
}

impl Services {
    /// Whether both announce and allocate the same; why other addresses are not announced may differ.
    #[must_use]
    pub fn announces_like(&self, other: &Self) -> bool {
        let of = |services: &Self| {
            let Self {
                ranges,
                hosts,
                aggregates,
                allocation,
                ..
            } = services.clone();
            (ranges, hosts, aggregates, allocation)
        };
        of(self) == of(other)
    }
}

/// `services.pools`, and what else allocation needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allocation {
    /// Pools and guard.
    pub settings: podroute_services::Settings,
    /// Whose annotations are read too.
    pub compatibility: Vec<podroute_services::Compatibility>,
}

impl Allocation {
    /// Whether pools are chosen by labels of namespaces.
    #[must_use]
    pub fn needs_namespaces(&self) -> bool {
        let pools = &self.settings.pools;
        pools.iter().any(|pool| !pool.namespace_selector.is_empty())
    }
}

/// What becomes of an address on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressOutcome {
    /// The address.
    pub address: IpAddr,
    /// Its kind.
    pub kind: ServiceAddress,
    /// As what it is announced, or why not.
    pub outcome: Result<Prefix, podroute_services::Unannounced>,
}

/// The name of the policy for what is taken from a node of the mesh.
pub const IMPORT_OF_NODE: &str = "mesh-node";
/// The name of the policy for what is taken from a reflector of the mesh.
pub const IMPORT_OF_REFLECTOR: &str = "mesh-reflector";

/// Takes these blocks, and addresses of Services in these ranges, and no other route.
#[must_use]
pub fn mesh_import(name: &str, blocks: &[Prefix], services: &[Prefix]) -> Policy {
    let ranges = blocks.iter().chain(services).copied();
    let prefixes: Vec<PrefixRange> = ranges.map(PrefixRange::within).collect();
    // A matcher without prefixes matches all.
    let rule = (!prefixes.is_empty()).then(|| Rule {
        matcher: Matcher {
            prefixes: Some(prefixes.into()),
            ..Matcher::default()
        },
        verdict: Some(Verdict::Accept),
        label: RuleLabel {
            policy: name.into(),
            rule: "1".into(),
            line: 0,
        },
        ..Rule::default()
    });
    Policy {
        name: name.to_owned(),
        rules: rule.into_iter().collect(),
        default: Verdict::Reject,
    }
}

/// Something that Kubernetes says and this node does not take. Nothing else is affected.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rejected {
    /// What: a Service with an address, an annotation, a pod CIDR.
    pub subject: String,
    /// Why, and what to do.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

/// `cni`: the network that the container runtime is given.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cni {
    /// Its name; runtimes keep it with each pod.
    pub name: String,
    /// MTU of pods in octets; that of the agent when `None`.
    pub mtu: Option<u16>,
    /// Packets that leave the pod network have the node's address, but for those to these prefixes; `None`: no masquerade.
    pub masquerade: Option<Vec<Prefix>>,
    /// Firewall mark of packets from pods.
    pub mark: Option<u32>,
    /// Addresses that no pod gets by itself: an address, a prefix or `first-last` each.
    pub reserved: Vec<String>,
    /// The plugin `portmap` for hostPort.
    pub portmap: Portmap,
    /// The plugin `bandwidth` for the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth.
    pub bandwidth: bool,
    /// More plugins behind these, as they are written.
    pub plugins: Vec<serde_json::Value>,
}

impl Cni {
    /// As without the section.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            name: "pods".to_owned(),
            ..Self::default()
        }
    }
}

/// Enforcement of Kubernetes' network policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NetworkPolicy {
    /// Nothing is enforced.
    #[default]
    Off,
    /// The NetworkPolicy objects of the cluster are.
    Kubernetes {
        /// Established connections that a policy forbids end.
        ends_established: bool,
        /// CNI ADD waits at most this time for the rules of a pod.
        wait: Duration,
    },
}

/// Whether `portmap` is chained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Portmap {
    /// Where the plugin is installed.
    #[default]
    Auto,
    /// It must be there.
    On,
    /// Not.
    Off,
}
