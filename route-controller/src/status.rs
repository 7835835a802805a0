//! Requests and answers on the control socket: one line of JSON each.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::network_policy::{CutStatus, ExplainQuestion, ExplanationStatus, PoliciesStatus};

/// A question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Request {
    /// All peers.
    Peers,
    /// Learned and originated routes.
    Routes {
        /// Only inside this prefix.
        within: Option<String>,
    },
    /// Kernel routes.
    Fib,
    /// Policies, and how many routes each rule matches.
    Policies,
    /// This node's blocks.
    Blocks,
    /// Paths watched by BFD.
    Bfd,
    /// What Kubernetes says, and how this node is.
    Cluster,
    /// Services, their addresses and pools.
    Services,
    /// The whole RIB in MRT form: after the answer the connection carries nothing but the file.
    Dump,
    /// Prepare for this node's going, or take it back.
    Drain { on: bool, withdraw: bool },
    /// Read the configuration again.
    Reload,
    /// The level of the log, or a new one.
    LogLevel { level: Option<String> },
    /// What this configuration would change.
    Diff { text: String },
    /// Network policies.
    NetworkPolicies,
    /// Why a connection passes or does not.
    ExplainPolicies(ExplainQuestion),
    /// Connections that network policies of this text would cut.
    PolicyDiff { text: String },
    /// Keep a peer's session down, with a text for the peer.
    Disable { peer: String, message: String },
    /// Let it come up again.
    Enable { peer: String },
    /// End it and begin another, or refresh one direction.
    Clear { peer: String, soft: Option<Direction> },
}

/// A direction of a soft clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Direction {
    /// The peer sends its routes again.
    In,
    /// The own routes are sent again.
    Out,
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    Peers(Vec<PeerStatus>),
    Routes(Vec<RouteStatus>),
    Fib(Vec<FibStatus>),
    Policies(Vec<RuleStatus>),
    Blocks(Vec<BlockStatus>),
    Bfd(Vec<BfdStatus>),
    Cluster(ClusterStatus),
    Services(ServicesStatus),
    Diff(DiffStatus),
    NetworkPolicies(PoliciesStatus),
    Explanations(Vec<ExplanationStatus>),
    Cut(Vec<CutStatus>),
    Done(String),
    Error(String),
}

/// Counts by family.
pub(crate) type Counts = BTreeMap<String, usize>;

/// A peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerStatus {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// Of a link-local address.
    #[serde(default)]
    pub(crate) interface: Option<String>,
    /// The `listenRange` that it came from, by its peer's name.
    #[serde(default)]
    pub(crate) range: Option<String>,
    pub(crate) port: u16,
    /// Of the peer; absent while it is not known.
    #[serde(default)]
    pub(crate) asn: Option<u32>,
    /// What the configuration allows.
    #[serde(default)]
    pub(crate) allowed_asns: String,
    pub(crate) local_asn: u32,
    pub(crate) state: String,
    pub(crate) enabled: bool,
    /// The segments of the established session carry TCP MD5 signatures (RFC 2385).
    #[serde(default)]
    pub(crate) signed: bool,
    /// By the second key: `password.next`, or the content that the file had before.
    pub(crate) next_key: bool,
    /// Why the last established session ended; later attempts that fail do not hide it.
    #[serde(default)]
    pub(crate) last_end: Option<String>,
    /// Seconds since then.
    #[serde(default)]
    pub(crate) last_end_seconds: Option<u64>,
    /// Seconds in Established; absent otherwise.
    pub(crate) uptime_seconds: Option<u64>,
    pub(crate) received: Counts,
    pub(crate) advertised: Counts,
    pub(crate) last_error: Option<String>,
    /// What that probably means, and what to look at.
    pub(crate) hint: Option<String>,
    pub(crate) router_id: Option<String>,
    pub(crate) hold_seconds: Option<u16>,
    pub(crate) families: Vec<String>,
    pub(crate) capabilities: Vec<String>,
    /// Offered by us, not taken up by the peer.
    pub(crate) not_agreed: Vec<String>,
    pub(crate) times_established: u64,
    pub(crate) messages_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) updates_received: u64,
    pub(crate) last_sent: Option<String>,
    pub(crate) last_received: Option<String>,
    pub(crate) unwritten_bytes: usize,
    /// What the peer's routes take, about, and may take.
    #[serde(default)]
    pub(crate) memory_bytes: usize,
    #[serde(default)]
    pub(crate) max_memory_bytes: Option<usize>,
}

/// A prefix with its paths.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteStatus {
    pub(crate) prefix: String,
    pub(crate) paths: Vec<PathStatus>,
    /// Where one prefix is asked for: policy and rule that send it to a peer or do not, by the peer's name.
    #[serde(default)]
    pub(crate) exports: BTreeMap<String, String>,
}

/// A path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathStatus {
    pub(crate) best: bool,
    pub(crate) next_hop: String,
    /// The peer's name, or `local`.
    pub(crate) from: String,
    pub(crate) as_path: String,
    pub(crate) local_pref: Option<u32>,
    pub(crate) med: Option<u32>,
    pub(crate) communities: Vec<String>,
    pub(crate) large_communities: Vec<String>,
    pub(crate) ext_communities: Vec<String>,
    /// The identifier of a path among several (RFC 7911), 0 without.
    pub(crate) path_id: u32,
    pub(crate) originator_id: Option<String>,
    pub(crate) cluster_list: Vec<String>,
    pub(crate) eligible: bool,
    /// One of the equal paths that packets take.
    #[serde(default)]
    pub(crate) used: bool,
    /// Not announced again since its session ended.
    #[serde(default)]
    pub(crate) stale: bool,
    /// Why it is not.
    pub(crate) reason: Option<String>,
    /// Policy and rule that accepted or rejected it, and the rules that changed it.
    #[serde(default)]
    pub(crate) policy: Option<String>,
}

/// A rule of a policy that is in use.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuleStatus {
    pub(crate) policy: String,
    /// `import` or `export`.
    pub(crate) direction: String,
    /// `POLICY[NAME]`; empty: no rule decides.
    pub(crate) rule: String,
    /// Paths (import), or best paths for each update group (export), that match now.
    pub(crate) routes: usize,
}

/// A kernel route.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FibStatus {
    pub(crate) prefix: String,
    pub(crate) kind: String,
    pub(crate) metric: u32,
    pub(crate) next_hops: Vec<HopStatus>,
    /// The nexthop object that the route refers to.
    pub(crate) nexthop_object: Option<u32>,
    /// `installed`, `pending`, `failed`, or `refused`: kept out by the rule in `error`.
    pub(crate) state: String,
    pub(crate) error: Option<String>,
}

/// One way out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HopStatus {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) interface: String,
    /// Its share beside the others'.
    pub(crate) weight: u8,
}

/// A path watched by BFD.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BfdStatus {
    pub(crate) peer: String,
    pub(crate) address: IpAddr,
    pub(crate) state: String,
    /// Since it came up, or went down.
    pub(crate) since_seconds: u64,
    /// How often it went down.
    pub(crate) downs: u64,
    pub(crate) last_down: Option<String>,
    /// Silence of this length takes it down.
    pub(crate) detection_ms: Option<u64>,
    /// How long it is still held back, because it was lost too often.
    pub(crate) held_seconds: Option<u64>,
    /// Packets that were not signed as agreed.
    pub(crate) refused: u64,
    pub(crate) last_refused: Option<String>,
}

/// A block.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockStatus {
    pub(crate) prefix: String,
    /// `advertised` once its unreachable route is in, `pending` before.
    pub(crate) state: String,
    /// Troubles of the host that keep pod traffic from flowing.
    pub(crate) troubles: Vec<String>,
}

/// What Kubernetes says, and how this node is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterStatus {
    pub(crate) node: String,
    /// Why it is not ready; empty when it is.
    pub(crate) not_ready: Vec<String>,
    /// `no`, `prefer-others` or `withdrawn`.
    pub(crate) drained: String,
    /// Something is asked of Kubernetes.
    pub(crate) followed: bool,
    /// Nodes and Services that are known.
    pub(crate) nodes: usize,
    pub(crate) services: usize,
    /// Addresses and aggregates of Services that this node announces.
    pub(crate) announced: usize,
    pub(crate) watches: Vec<WatchStatus>,
    /// What Kubernetes says and is not taken.
    pub(crate) rejected: Vec<RejectedStatus>,
    /// Fields of the file that take effect at the next start.
    pub(crate) next_start: Vec<String>,
    #[serde(default)]
    pub(crate) configuration: ConfigurationStatus,
}

/// The configuration in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigurationStatus {
    /// The start of the SHA-1 of the file: the same on nodes with the same file.
    pub(crate) hash: String,
    /// The file on disk is another one, which was rejected.
    pub(crate) rejected: bool,
}

impl ConfigurationStatus {
    pub(crate) fn new(text: &str, rejected: bool) -> Self {
        let octets = Sha1::digest(text.as_bytes());
        Self {
            hash: octets
                .iter()
                .take(6)
                .map(|octet| format!("{octet:02x}"))
                .collect(),
            rejected,
        }
    }
}

/// Services, as this node sees them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServicesStatus {
    /// The configuration has pools.
    pub(crate) allocates: bool,
    /// The agent that allocates: its node's name and a unique part.
    pub(crate) allocator: Option<String>,
    /// It is this one.
    pub(crate) is_allocator: bool,
    /// Why the last request of the allocation failed.
    pub(crate) last_error: Option<String>,
    /// Known by the agent that allocates.
    pub(crate) pools: Vec<PoolStatus>,
    pub(crate) services: Vec<ServiceStatus>,
}

/// How full a pool is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolStatus {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) used: u64,
    pub(crate) free: u64,
}

/// A Service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceStatus {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) addresses: Vec<ServiceAddressStatus>,
    /// It waits for an address.
    pub(crate) pending: bool,
    /// Families of which an endpoint is ready.
    pub(crate) endpoints_here: Vec<String>,
    pub(crate) endpoints_anywhere: Vec<String>,
    /// Why it lacks an address; known by the agent that allocates.
    pub(crate) problems: Vec<String>,
}

/// An address of a Service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceAddressStatus {
    pub(crate) address: IpAddr,
    /// `loadBalancer`, `external` or `cluster`.
    pub(crate) kind: String,
    pub(crate) pool: Option<String>,
    /// The prefix that this node announces.
    pub(crate) announced: Option<String>,
    /// Why it announces none.
    pub(crate) not_announced: Option<String>,
    pub(crate) communities: Vec<String>,
}

/// The watch of one kind of objects.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WatchStatus {
    pub(crate) resource: String,
    pub(crate) answers: bool,
    /// Since when that is so.
    pub(crate) since_seconds: Option<u64>,
    pub(crate) failures: u64,
    pub(crate) last_error: Option<String>,
}

/// Something that is not taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RejectedStatus {
    pub(crate) subject: String,
    pub(crate) reason: String,
}

/// What another configuration would change.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiffStatus {
    /// What cannot be changed without a restart of the agent.
    pub(crate) restart: Option<String>,
    /// Peers that come.
    pub(crate) added: Vec<String>,
    /// Peers that go, with their sessions.
    pub(crate) removed: Vec<String>,
    /// Peers that have sent more prefixes than they may then, so that their sessions end.
    #[serde(default)]
    pub(crate) over_limit: Vec<String>,
    /// Peers whose sessions are reset.
    pub(crate) reset: Vec<String>,
    /// What established peers would receive.
    pub(crate) peers: Vec<PeerDiff>,
    /// Kernel routes that come.
    pub(crate) installed: Vec<String>,
    /// Kernel routes that lead elsewhere.
    pub(crate) moved: Vec<String>,
    /// Kernel routes that go.
    pub(crate) uninstalled: Vec<String>,
}

/// What a peer would receive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerDiff {
    pub(crate) peer: String,
    pub(crate) announced: Vec<String>,
    pub(crate) withdrawn: Vec<String>,
    /// Advertised with other attributes.
    pub(crate) changed: Vec<String>,
    /// What changes of these, by prefix: an attribute with its values before and after each.
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_start_of_sha1sum() {
        assert_eq!(ConfigurationStatus::new("abc", false).hash, "a9993e364706");
    }
}
