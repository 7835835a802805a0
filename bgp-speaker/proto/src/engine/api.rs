//! Inputs and outputs of the engine.

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

/// Configuration of the engine.
#[derive(Clone, PartialEq, Debug)]
pub struct EngineConfig {
    /// Our AS number.
    pub asn: Asn,
    /// Our BGP identifier; also ORIGINATOR_ID and, by default, CLUSTER_ID.
    pub router_id: RouterId,
    /// Route reflector cluster (RFC 4456 §7); `None`: the BGP identifier.
    pub cluster_id: Option<u32>,
    /// Most equal paths installed in the kernel together, 1–64.
    pub max_paths: u8,
    /// Equal paths may come from different neighbor ASes.
    pub multipath_relax: bool,
    /// Weights of equal paths follow their link bandwidth (draft-ietf-idr-link-bandwidth).
    pub link_bandwidth: bool,
    /// Treat all next hops as reachable: for reflectors and route servers without a FIB.
    pub assume_reachable: bool,
}

/// Multipath rules: the part of [`EngineConfig`] that can change at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EqualPaths {
    /// As [`EngineConfig::max_paths`].
    pub max_paths: u8,
    /// As [`EngineConfig::multipath_relax`].
    pub multipath_relax: bool,
    /// As [`EngineConfig::link_bandwidth`].
    pub link_bandwidth: bool,
}

/// A route that this speaker originates.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Originated {
    /// The prefix.
    pub prefix: Prefix,
    /// Why it is originated; export policies can match it.
    pub source: Source,
    /// Its initial communities.
    pub communities: Vec<Community>,
}

/// An input of the engine.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer is configured, or its configuration changed: its routes are evaluated again.
    Configure(PeerId, Arc<PeerRouting>),
    /// A peer is no longer configured.
    Remove(PeerId),
    /// A session is established. Inputs of the peer's earlier sessions are ignored from now on.
    Up(SessionId, Box<SessionFacts>),
    /// Host facts of an established session changed, for example our address of a family.
    Facts(SessionId, Box<SessionFacts>),
    /// The session ended: the peer's routes are removed, including those retained for its restart.
    Down(SessionId),
    /// The session ended, but the peer is expected back: its routes of these families are retained as stale
    /// (RFC 4724 §4.2). The caller ends this state with `Down` of the same session or, once the peer is back,
    /// with `StaleExpired`.
    Restarting(SessionId, FamilySet),
    /// The restart time is over. Routes of these families stay as long-lived stale routes, which are used
    /// only where there is no other (RFC 9494 §4.2). Routes of other families are removed.
    LongLived(SessionId, FamilySet),
    /// The peer is back, but its End-of-RIB did not arrive in time: stale routes are removed (RFC 4724 §4.2).
    StaleExpired(SessionId),
    /// Routes from a peer.
    Routes(SessionId, RouteBatch),
    /// The peer requests our routes, or marks the begin or end of its own refresh.
    Refresh(SessionId, Refresh),
    /// The operator wants our routes of a family sent to the peer again.
    Resend(PeerId, Family),
    /// This speaker restarted. Peers that retained our routes are sent nothing (RFC 4724 §4.1) until the
    /// named peers have sent their End-of-RIB, or until [`Input::EndDeferral`].
    Defer(BTreeSet<String>),
    /// The deferral timer expired (RFC 4724 §4.1, Selection_Deferral_Timer).
    EndDeferral,
    /// Multipath rules changed: every destination is decided again, in slices.
    Multipath(EqualPaths),
    /// The complete set of routes to originate.
    Originate(Vec<Originated>),
    /// The complete set of routes to originate under conditions; [`Input::Originate`] takes precedence for a prefix of both.
    OriginateByRules(Vec<OriginateRule>),
    /// This node is about to shut down: routes are sent with GRACEFUL_SHUTDOWN, so that others prefer other
    /// paths (RFC 8326 §4).
    Drain(bool),
    /// Reachability of next hops changed.
    NextHops(Vec<(IpAddr, Reach)>),
    /// The caller wrote chunks of this cost ([`Chunk::cost_for`]) to the peer (flow control).
    Written(SessionId, usize),
}

/// A next hop of a kernel route and its weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FibNextHop {
    /// The BGP next hop.
    pub addr: IpAddr,
    /// Its weight, 1–255; 1 unless link bandwidths say otherwise.
    pub weight: u8,
}

/// The wanted kernel route of a prefix: the sorted next hops of its best paths, or none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FibChange {
    /// The prefix.
    pub prefix: Prefix,
    /// Equal next hops; an empty list removes the route, unless the route drops packets.
    pub next_hops: Arc<[FibNextHop]>,
    /// Properties of the kernel route that import policies set.
    pub route: KernelRoute,
}

/// An output of the engine.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write the part of the chunk that is for this peer, after all earlier chunks.
    Advertise(SessionId, Arc<Chunk>),
    /// Kernel routes; each prefix occurs at most once. `more`: further changes of the same cause follow.
    Fib {
        /// The changes.
        changes: Vec<FibChange>,
        /// Destinations of the same cause are not decided yet.
        more: bool,
    },
    /// Resolve these next hops and report each by [`Input::NextHops`].
    Watch(Vec<IpAddr>),
    /// These next hops are no longer needed.
    Unwatch(Vec<IpAddr>),
    /// End the session with this NOTIFICATION and keep it down for this time.
    Fail(SessionId, Notification, Duration),
    /// The peer's number of prefixes of a family exceeds the warning threshold or the limit. Once per
    /// session.
    PrefixLimitWarning(SessionId, Family, usize),
    /// The peer sent more paths of this prefix than `PeerRouting::max_paths_per_prefix`; the excess is
    /// dropped. Once per session.
    PathLimitWarning(SessionId, Prefix),
    /// The peer's routes take this many octets, which exceeds the warning threshold of
    /// `PeerRouting::max_memory` or the limit itself. Once per session.
    MemoryLimitWarning(SessionId, usize),
    /// The initial routes of a family are complete: the peer's End-of-RIB came (RFC 4724 §2) and the routes before it are
    /// decided, or the session does not carry the family.
    EndOfRib(SessionId, Family),
}
