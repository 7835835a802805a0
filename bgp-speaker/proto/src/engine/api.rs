//! What goes into the engine and what comes out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::conditional::OriginateRule;
pub use crate::export::chunk::Chunk;
pub use crate::peer::{
    LocalAs, MaxPrefixes, OverLimit, PathRules, PeerKind, PeerRouting, PrivateAs, SessionFacts, SessionId,
};
use crate::policy::Source;
pub use crate::rib::nexthop::Reach;
use crate::types::{Asn, Community, Family, FamilySet, PeerId, Prefix, RouterId};
pub use crate::wire::KernelRoute;
use crate::wire::{Notification, Refresh, RouteBatch};

/// What the engine knows of itself.
#[derive(Clone, PartialEq, Debug)]
pub struct EngineConfig {
    /// Our AS number (that of the cluster).
    pub asn: Asn,
    /// Our identifier; also ORIGINATOR_ID and, unless given, CLUSTER_ID.
    pub router_id: RouterId,
    /// Route reflector cluster (RFC 4456 §7).
    pub cluster_id: Option<u32>,
    /// Most equal paths that go into the kernel together, 1–64.
    pub max_paths: u8,
    /// Equal paths may come from different neighbour ASes.
    pub multipath_relax: bool,
    /// Shares of equal paths follow their link bandwidth (draft-ietf-idr-link-bandwidth).
    pub link_bandwidth: bool,
    /// Next hops count as reachable without being resolved: for reflectors and route servers without a FIB.
    pub assume_reachable: bool,
}

/// How equal paths are used: what of [`EngineConfig`] can change at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EqualPaths {
    /// As [`EngineConfig::max_paths`].
    pub max_paths: u8,
    /// As [`EngineConfig::multipath_relax`].
    pub multipath_relax: bool,
    /// As [`EngineConfig::link_bandwidth`].
    pub link_bandwidth: bool,
}

/// A route of our own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Originated {
    /// What we originate.
    pub prefix: Prefix,
    /// Why: seen by export policies.
    pub source: Source,
    /// Communities it starts with.
    pub communities: Vec<Community>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer is configured, or its configuration changed (routes are evaluated anew).
    Configure(PeerId, Arc<PeerRouting>),
    /// A peer is not configured any more.
    Remove(PeerId),
    /// A session is established. Inputs of the peer's earlier sessions are dropped from now on.
    Up(SessionId, Box<SessionFacts>),
    /// What the host says of an established session changed, for example our address of a family.
    Facts(SessionId, Box<SessionFacts>),
    /// The session ended; the peer's routes go, also those that were kept for its restart.
    Down(SessionId),
    /// The session ended, but the peer is expected back soon: its routes of these families stay for now, stale
    /// (RFC 4724 §4.2). The shell ends this with `Down` of the same session or, once the peer is back, with `Swept`.
    Restarting(SessionId, FamilySet),
    /// The restart time of a restarting peer is over, but its routes of these families stay on as long-lived stale routes,
    /// to be used only where there is no other (RFC 9494 §4.2); those of other families go.
    LongLived(SessionId, FamilySet),
    /// The peer is back, but its End-of-RIB did not come in time: what is stale goes (RFC 4724 §4.2).
    Swept(SessionId),
    /// Routes from a peer.
    Routes(SessionId, RouteBatch),
    /// The peer asks for our routes again, or marks the bounds of its own resend.
    Refresh(SessionId, Refresh),
    /// The operator wants our routes of a family sent to the peer again.
    Resend(PeerId, Family),
    /// We have restarted: what goes to peers that kept our routes (RFC 4724 §4.1) waits until the peers with these names
    /// have sent their End-of-RIB, or until [`Input::EndDeferral`].
    Defer(BTreeSet<String>),
    /// The deferral timer expired (RFC 4724 §4.1, Selection_Deferral_Timer).
    EndDeferral,
    /// Other rules for equal paths; everything is decided again, a slice at a time.
    Multipath(EqualPaths),
    /// The whole set of routes that we originate.
    Originate(Vec<Originated>),
    /// The whole set of routes that we originate under conditions; a prefix that is originated without them stays as it is.
    OriginateByRules(Vec<OriginateRule>),
    /// We are about to go: everything we send says so, so that others prefer other paths (RFC 8326 §4).
    Drain(bool),
    /// News of next hops.
    NextHops(Vec<(IpAddr, Reach)>),
    /// The shell wrote chunks of this cost ([`Chunk::cost_for`]) to the peer (flow control).
    Written(SessionId, usize),
}

/// A next hop of the kernel's, and its share of the traffic.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FibHop {
    /// The BGP next hop.
    pub addr: IpAddr,
    /// Its share beside the others', 1–255; 1 for all where nothing says otherwise.
    pub weight: u8,
}

/// What the kernel should have for a prefix: the next hops of the best paths, sorted, or nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FibChange {
    /// Which prefix.
    pub prefix: Prefix,
    /// Equal next hops; empty means that the route goes, unless it is to drop packets.
    pub next_hops: Arc<[FibHop]>,
    /// What import policies want of the route.
    pub route: KernelRoute,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write what the chunk holds for this peer, in order, after what was given before.
    Advertise(SessionId, Arc<Chunk>),
    /// Routes for the kernel, each prefix at most once. `more`: others are about to follow, for the same reason.
    Fib {
        /// The changes.
        changes: Vec<FibChange>,
        /// Destinations are still to be decided.
        more: bool,
    },
    /// Begin to resolve these next hops and report each by [`Input::NextHops`].
    Watch(Vec<IpAddr>),
    /// These are not needed any more.
    Unwatch(Vec<IpAddr>),
    /// End the session with this NOTIFICATION, and begin none for this time.
    Fail(SessionId, Notification, Duration),
    /// The peer has this number of prefixes of a family, more than it should; once a session.
    PrefixLimitWarning(SessionId, Family, usize),
    /// The peer sent more paths of this prefix than `PeerRouting::max_paths_per_prefix`; the excess is dropped. Once a session.
    PathLimitWarning(SessionId, Prefix),
    /// The peer's routes take this number of octets: most of `PeerRouting::max_memory`, or more than it. Once a session.
    MemoryLimitWarning(SessionId, usize),
    /// The initial routes of a family are complete: the peer's End-of-RIB came (RFC 4724 §2) and the routes before it are
    /// decided, or the session does not carry the family.
    EndOfRib(SessionId, Family),
}
