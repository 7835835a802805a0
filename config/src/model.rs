//! The checked configuration: types of the speaker, all defaults set.
//!
//! Values that only the running node can determine stay [`Auto`] until the agent resolves them. [`Config::peers`] contains the
//! peers of this node; the others are in [`Config::skipped`] with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bgp_proto::engine::{EngineConfig, OriginateRule, Originated, PeerKind, PeerRouting, When};
use bgp_proto::policy::Source;
use bgp_proto::session::SessionConfig;
use bgp_proto::types::{Asn, Community, Family, FamilySet, HoldTime, PeerAs, Prefix, RouterId};
use bgp_proto::wire::{AddPathDirection, Capability, LongLivedFamily};

pub use crate::facts::*;
use crate::problem::Problem;

/// `auto` in the file, which the agent resolves, or the operator's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Auto<T> {
    /// The agent determines it.
    #[default]
    Auto,
    /// As configured.
    Fixed(T),
}

/// The whole configuration, for this node.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// What all nodes share.
    pub cluster: Cluster,
    /// This node.
    pub node: Node,
    /// Where peers connect to.
    pub listen: Listen,
    /// What goes into the kernel.
    pub fib: Fib,
    /// The peers of this node, in the order of the file.
    pub peers: Vec<Peer>,
    /// Peers in the file that are not for this node.
    pub skipped: Vec<Skipped>,
    /// How nodes find each other.
    pub mesh: Mesh,
    /// Addresses of Services that this node announces.
    pub services: Services,
    /// Routes of `originate`, without those of the kernel.
    pub originate: Vec<OriginateRule>,
    /// Which of the kernel's routes are originated.
    pub kernel_routes: Vec<KernelRoutes>,
    /// The kinds of objects to watch in Kubernetes.
    pub from_kubernetes: FromKubernetes,
    /// Rejected facts of Kubernetes; all others apply.
    pub rejected: Vec<Rejected>,
    /// Fields that differ from what runs, and take effect at the agent's next start.
    pub deferred: Vec<&'static str>,
    /// Why the node cannot be ready with the facts of Kubernetes.
    pub unready: Vec<String>,
    /// Enforcement of network policies.
    pub network_policy: NetworkPolicy,
    /// The network that the container runtime is given.
    pub cni: Cni,
    /// BMP stations.
    pub bmp: Vec<BmpStation>,
    /// Next hops that BFD watches beside the peers.
    pub next_hops: Vec<WatchedNextHop>,
    /// Prometheus.
    pub metrics: Metrics,
    /// Where the looking glass is served; none: nowhere.
    pub web: Option<SocketAddr>,
    /// What happens to sessions when the agent ends.
    pub shutdown: OnShutdown,
    /// Values that are valid but probably not intended.
    pub warnings: Vec<Problem>,
}

/// A BMP station (RFC 7854).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BmpStation {
    /// Where it listens.
    pub station: SocketAddr,
    /// It receives routes before import policies.
    pub pre_policy: bool,
    /// It receives routes after import policies.
    pub post_policy: bool,
    /// Between statistics reports; zero: none.
    pub statistics: Duration,
}

/// Metrics of the agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Where they are served; none: nowhere.
    pub sockets: Vec<SocketAddr>,
    /// Which peers have series of their own.
    pub per_peer: PerPeer,
}

/// Which peers have series of their own; all others are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PerPeer {
    /// All.
    #[default]
    All,
    /// Those in the file: not nodes of the mesh, and no dynamic ones.
    Configured,
    /// None.
    None,
}

/// What happens to sessions when the agent ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnShutdown {
    /// Connections close without a NOTIFICATION: peers that negotiated graceful restart keep our routes.
    #[default]
    Preserve,
    /// Cease/Administrative Shutdown: peers drop our routes at once (RFC 4486).
    Withdraw,
}

/// Routes that others put into the kernel. Empty lists leave the choice open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelRoutes {
    /// Numbers of protocols.
    pub protocols: Vec<u8>,
    /// Names of interfaces.
    pub interfaces: Vec<String>,
    /// Numbers of tables.
    pub tables: Vec<u32>,
    /// Only while another route is there, or is not.
    pub when: Option<When>,
    /// Communities that they start with.
    pub communities: Vec<Community>,
}

/// `cluster`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// The AS number of nodes that have none of their own; `None` when each has.
    pub asn: Option<Asn>,
    /// All pod addresses lie in these; disjoint.
    pub pod_cidrs: Vec<Prefix>,
    /// Route reflector cluster (RFC 4456 §7); the router id when `None`.
    pub cluster_id: Option<u32>,
}

/// `node`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// `None`: the host's name.
    pub name: Option<String>,
    /// BGP identifier.
    pub router_id: RouterIdChoice,
    /// This node's AS number: its own, or that of the cluster.
    pub asn: Asn,
    /// Pod blocks of this node, disjoint, each in a pod CIDR.
    pub blocks: Vec<Prefix>,
    /// MTU of pods, in octets.
    pub mtu: Auto<u16>,
    /// Labels for `nodeSelector`.
    pub labels: BTreeMap<String, String>,
    /// The node's own addresses, the first of a family being the preferred source of routes to pods.
    pub addresses: NodeAddresses,
    /// The internal addresses of the Node object, where it is known.
    pub internal: Vec<IpAddr>,
}

/// How the node's own addresses are chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeAddresses {
    /// The Node object's internal addresses that the host has, else what the kernel sends from.
    Auto,
    /// The Node object's internal addresses.
    InternalIp,
    /// The host's addresses in these.
    Cidrs(Vec<Prefix>),
    /// These.
    Fixed(Vec<IpAddr>),
}

impl NodeAddresses {
    /// The addresses, where the file names them.
    pub fn fixed(&self) -> Option<&[IpAddr]> {
        match self {
            Self::Fixed(list) => Some(list),
            _ => None,
        }
    }
}

/// How the BGP identifier is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouterIdChoice {
    /// Derived from the node's addresses once, and kept.
    Auto,
    /// The host's address in this IPv4 prefix.
    Cidr(Prefix),
    /// This.
    Fixed(RouterId),
}

/// `listen`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// False: no listening socket, all sessions are opened by this node.
    pub enabled: bool,
    /// TCP port.
    pub port: u16,
    /// Local addresses to bind.
    pub addresses: Vec<IpAddr>,
}

impl Listen {
    /// The sockets to listen on: none when listening is off.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses
            .iter()
            .filter(|_| self.enabled)
            .map(|addr| SocketAddr::new(*addr, self.port))
    }
}

/// `fib`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fib {
    /// False: learn and advertise, but leave the kernel's routes alone.
    pub install: bool,
    /// Metric (priority) of installed routes; lower wins.
    pub metric: u32,
    /// Number of the kernel's table; 254 is main.
    pub table: u32,
    /// Priority of the rules that lead to that table; none: nobody's but the operator's.
    pub rule_priority: Option<u32>,
    /// Most next hops per route, 1–64.
    pub max_paths: u8,
    /// Equal paths may come from different neighbor ASes.
    pub multipath_relax: bool,
    /// Shares of equal paths follow their link bandwidth.
    pub link_bandwidth: bool,
    /// Next hops may be reached over a default route.
    pub resolve_via_default: bool,
    /// Routes refer to the kernel's nexthop objects where it has them.
    pub nexthop_objects: bool,
    /// Groups keep flows where they are when their members change.
    pub resilient_groups: Option<ResilientGroups>,
}

/// `fib.resilientGroups`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResilientGroups {
    /// Parts that flows are hashed into, 1–32768.
    pub buckets: u16,
    /// A part moves to another member when nothing used it for this long.
    pub idle_seconds: u32,
}

/// A peer of this node.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// Unique.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// A node of the mesh, which nobody wrote down.
    pub of_mesh: bool,
    /// The labels that chose this node; empty when the peer is for every node.
    pub selector: BTreeMap<String, String>,
    /// Where it is.
    pub remote: Remote,
    /// TCP port to connect to.
    pub port: u16,
    /// The AS number that the peer must have.
    pub remote_asn: PeerAs,
    /// Another AS, our AS, or a reflector's client in our AS.
    pub kind: PeerKind,
    /// The TCP connection.
    pub transport: Transport,
    /// Hold and connect-retry time.
    pub timers: Timers,
    /// Watch the path to it by BFD.
    pub bfd: Option<Bfd>,
    /// What happens to routes while one side restarts.
    pub restart: Restart,
    /// Offer IPv4 prefixes over IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Offer to take several paths of a prefix (RFC 7911).
    pub add_path_receive: bool,
    /// Offer to send several; how many is in `routing`.
    pub add_path_send: bool,
    /// Families offered.
    pub families: FamilySet,
    /// A peer that says no role is refused (RFC 9234 §4.2); the role is in `routing`.
    pub strict_role: bool,
    /// Administratively down: configured, but no session is started.
    pub shutdown: bool,
    /// How its routes are treated.
    pub routing: PeerRouting,
    /// Paths of fields that were not written and have their default, as `timers.hold`.
    pub defaulted: Vec<&'static str>,
}

/// The TCP connection of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transport {
    /// Source address of connections; the kernel's choice when `None`.
    pub local_address: Option<LocalAddress>,
    /// What TTL packets have.
    pub ttl: Ttl,
    /// File with the secret of TCP MD5 (RFC 2385).
    pub password_file: Option<PathBuf>,
    /// File with a second secret, which the peer may have already while the first one is being replaced.
    pub next_password_file: Option<PathBuf>,
    /// Wait for the peer to connect.
    pub passive: bool,
}

/// The source address of a peer's connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LocalAddress {
    /// This.
    Address(IpAddr),
    /// The address of the peer's family on this interface.
    Interface(String),
}

impl std::fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LocalAddress::Address(address) => address.fmt(f),
            LocalAddress::Interface(name) => write!(f, "the address of {name}"),
        }
    }
}

/// Where a peer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remote {
    /// At this address, unique on this node.
    Address(IpAddr),
    /// At the other end of this link; its address is learned from router advertisements.
    Interface(String),
    /// Anywhere in a range: peers that connect to us.
    Range {
        /// Of their addresses.
        prefix: Prefix,
        /// Most peers at the same time.
        limit: u32,
    },
}

impl Remote {
    /// The address, where it is known beforehand.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Remote::Address(address) => Some(*address),
            Remote::Interface(_) | Remote::Range { .. } => None,
        }
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Remote::Address(address) => address.fmt(f),
            Remote::Interface(name) => write!(f, "interface {name}"),
            Remote::Range { prefix, .. } => write!(f, "anywhere in {prefix}"),
        }
    }
}

/// BFD towards a peer (RFC 5880).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bfd {
    /// How often we send and can receive.
    pub interval: Duration,
    /// Packets that may be missed.
    pub multiplier: u8,
    /// The peer is some hops away (RFC 5883).
    pub multihop: bool,
    /// Of packets from some hops away, those with a lower TTL do not count: what `ttlSecurity` says of the peer, or 0.
    pub min_ttl: u8,
    /// The session waits for BFD.
    pub strict: bool,
    /// Packets are authenticated.
    pub auth: Option<BfdAuth>,
    /// Suppresses a path that fails repeatedly.
    pub dampening: Option<BfdDampening>,
}

/// Authentication of BFD (RFC 5880 §6.7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BfdAuth {
    /// How.
    pub kind: BfdAuthKind,
    /// The key's number, 0–255.
    pub key_id: u8,
    /// The key: 1–16 octets, with SHA-1 up to 20; an end of line is not part of it.
    pub file: PathBuf,
}

/// Types of authentication (RFC 5880 §4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BfdAuthKind {
    /// Password in clear text.
    Simple,
    /// Keyed MD5.
    KeyedMd5,
    /// Meticulous Keyed MD5.
    MeticulousKeyedMd5,
    /// Keyed SHA1.
    KeyedSha1,
    /// Meticulous Keyed SHA1.
    MeticulousKeyedSha1,
}

/// When a path is suppressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BfdDampening {
    /// Number of losses within a short time that suppresses a path.
    pub losses: u8,
    /// The count of losses halves in this time.
    pub half_life: Duration,
    /// Longest suppression after the last loss.
    pub longest: Duration,
}

/// A next hop that BFD watches, without a BGP session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchedNextHop {
    /// Where it is.
    pub address: IpAddr,
    /// Our address towards it; the kernel's choice when `None`.
    pub local_address: Option<IpAddr>,
    /// How it is watched.
    pub bfd: Bfd,
}

/// Graceful restart of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restart {
    /// How long the peer keeps our routes while we restart, in seconds; `None`: no graceful restart.
    pub time: Option<u16>,
    /// Also after a NOTIFICATION (RFC 8538).
    pub notification: bool,
    /// How long after that as long-lived stale routes, in seconds (RFC 9494); 0: not at all.
    pub long_lived: u32,
}

/// TTL (hop limit) of a session's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// Send with this TTL, accept any. 1 reaches only a directly connected peer.
    Send(u8),
    /// Send with 255 and drop what comes with less than [`Ttl::minimum`] (RFC 5082 §3).
    Security {
        /// How far away the peer may be; 1 is directly connected.
        hops: u8,
    },
}

impl Ttl {
    /// The TTL to send with.
    #[must_use]
    pub fn outgoing(self) -> u8 {
        match self {
            Ttl::Send(ttl) => ttl,
            Ttl::Security { .. } => 255,
        }
    }

    /// The lowest TTL to accept, if it matters (RFC 5082 §3: 255 from a direct neighbor).
    #[must_use]
    pub fn minimum(self) -> Option<u8> {
        match self {
            Ttl::Send(_) => None,
            Ttl::Security { hops } => Some(255 - hops.saturating_sub(1)),
        }
    }
}

/// Timers of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timers {
    /// Offered; the lower of both sides holds, keepalives go out at a third of it (RFC 4271 §4.4).
    pub hold: HoldTime,
    /// Between attempts to connect.
    pub connect_retry: Duration,
}

/// A peer in the file that is not for this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// The reason.
    pub reason: String,
}

impl Config {
    /// What the peer's session is configured with.
    #[must_use]
    pub fn session_config(&self, peer: &Peer, router_id: RouterId) -> SessionConfig {
        SessionConfig {
            local_asn: peer.routing.local_asn,
            remote_asn: peer.remote_asn.clone(),
            router_id,
            families: peer.families,
            hold_time: peer.timers.hold,
            connect_retry: peer.timers.connect_retry,
            passive: peer.transport.passive,
            graceful_restart: peer.restart.time,
            restart_on_notification: peer.restart.notification,
            restarting_until: None,
            forwarding_preserved: true,
            role: peer.routing.rules.role,
            strict_role: peer.strict_role,
            extra_capabilities: extra_capabilities(peer),
        }
    }

    /// What the engine is configured with. Without a FIB no next hop needs to be resolved.
    #[must_use]
    pub fn engine_config(&self, router_id: RouterId) -> EngineConfig {
        EngineConfig {
            asn: self.node.asn,
            router_id,
            cluster_id: self.cluster.cluster_id,
            max_paths: self.fib.max_paths,
            multipath_relax: self.fib.multipath_relax,
            link_bandwidth: self.fib.link_bandwidth,
            assume_reachable: !self.fib.install,
        }
    }

    /// The routes that this node originates: its pod blocks and addresses of Services.
    #[must_use]
    pub fn originated(&self) -> Vec<Originated> {
        let route = |prefix: &Prefix, source, communities: &BTreeSet<Community>| Originated {
            prefix: *prefix,
            source,
            communities: communities.iter().copied().collect(),
        };
        let none = BTreeSet::new();
        let blocks = self
            .node
            .blocks
            .iter()
            .map(|block| route(block, Source::PodBlock, &none));
        let services = self
            .services
            .hosts
            .iter()
            .chain(&self.services.aggregates)
            .map(|(address, communities)| route(address, Source::Service, communities));
        blocks.chain(services).collect()
    }
}

/// What a peer's OPEN offers beside the usual.
fn extra_capabilities(peer: &Peer) -> Vec<Capability> {
    let mut list = Vec::new();
    if peer.extended_next_hop && peer.families.contains(Family::Ipv4) {
        list.push(Capability::ExtendedNextHop(vec![Family::Ipv4]));
    }
    let direction = AddPathDirection {
        receive: peer.add_path_receive,
        send: peer.add_path_send,
    };
    if direction != AddPathDirection::default() {
        list.push(Capability::AddPath(
            peer.families.iter().map(|family| (family, direction)).collect(),
        ));
    }
    if peer.restart.time.is_some() && peer.restart.long_lived > 0 {
        let item = |family| LongLivedFamily {
            family,
            forwarding: true,
            stale_time: peer.restart.long_lived,
        };
        list.push(Capability::LongLivedGracefulRestart(
            peer.families.iter().map(item).collect(),
        ));
    }
    list
}
