//! What goes into the engine and what comes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;

use ::bytes::Bytes;

use crate::policy::{Policy, Source};
use crate::session::Negotiated;
use crate::types::{Asn, Community, Family, FamilySet, PeerId, Prefix, RouterId};
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
    /// Next hops count as reachable without being resolved: for reflectors and route servers without a FIB.
    pub assume_reachable: bool,
}

/// How a peer relates to us.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerKind {
    /// Another AS.
    External,
    /// Our AS.
    Internal,
    /// Our AS, and we reflect its routes (RFC 4456).
    Client,
}

/// How routes of a peer are treated.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerRouting {
    /// As in the configuration.
    pub name: String,
    /// Relation.
    pub kind: PeerKind,
    /// Our AS number towards the peer.
    pub local_asn: Asn,
    /// The peer's AS number.
    pub remote_asn: Asn,
    /// Import policy.
    pub import: Arc<Policy>,
    /// Export policy.
    pub export: Arc<Policy>,
    /// Put ourselves as next hop of routes sent to the peer (iBGP; on eBGP it is the rule anyway).
    pub next_hop_self: bool,
    /// How often our own AS number may stand in received paths, 0–10.
    pub allow_own_as: u8,
    /// Most prefixes per family taken from the peer (RFC 4486 §4, Cease/1), `None` for no limit.
    pub max_prefixes: Option<u32>,
}

/// Facts of an established session that export needs.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionFacts {
    /// What the OPENs agreed on.
    pub negotiated: Arc<Negotiated>,
    /// The peer's address.
    pub remote_addr: IpAddr,
    /// Our IPv4 address on the session's interface: the next hop of IPv4 routes we send.
    pub local_v4: Option<Ipv4Addr>,
    /// Our global IPv6 address on the session's interface: the next hop of IPv6 routes we send.
    pub local_v6: Option<Ipv6Addr>,
    /// Our link-local address there, sent beside the global one to directly connected peers (RFC 2545 §2).
    pub link_local: Option<Ipv6Addr>,
    /// The subnets that the peer and we share: a next hop inside them may be left as it is on eBGP
    /// (RFC 4271 §5.1.3).
    pub shared_subnets: Vec<Prefix>,
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

/// What the kernel says of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// No route to it, or only through an interface that is down.
    Unreachable,
    /// Reachable; `metric` is the cost for the decision (RFC 4271 §9.1.2.2 e), 0 when directly connected.
    Reachable {
        /// Lower wins.
        metric: u32,
    },
    /// It is one of our own addresses: a path through it is refused.
    Own,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer is configured, or its configuration changed (routes are evaluated anew).
    Configure(PeerId, Arc<PeerRouting>),
    /// A peer is not configured any more.
    Remove(PeerId),
    /// Its session is established.
    Up(PeerId, Box<SessionFacts>),
    /// Its session ended; its routes go, also those that were kept for its restart.
    Down(PeerId),
    /// Its session ended, but it is expected back soon: its routes of these families stay for now, stale
    /// (RFC 4724 §4.2). The shell ends this with `Down` or, once the peer is back, with `Swept`.
    Restarting(PeerId, FamilySet),
    /// The peer is back, but its End-of-RIB did not come in time: what is stale goes (RFC 4724 §4.2).
    Swept(PeerId),
    /// Routes from a peer.
    Routes(PeerId, RouteBatch),
    /// The peer asks for our routes again, or marks the bounds of its own resend.
    Refresh(PeerId, Refresh),
    /// The whole set of routes that we originate.
    Originate(Vec<Originated>),
    /// News of next hops.
    NextHops(Vec<(IpAddr, Reach)>),
    /// The shell wrote chunks of this cost ([`Chunk::cost_for`]) to the peer (flow control).
    Written(PeerId, usize),
}

/// What a flush of an update group sends: encoded once, shared by all members.
///
/// `common` goes to every member but for the ranges that `skips` names: a route is not sent back to the
/// peer it came from. `private` holds what goes to one member alone. Within a chunk each prefix occurs
/// at most once for a member, so that the order of the parts does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chunk {
    pub(crate) common: Bytes,
    pub(crate) skips: Vec<(PeerId, Range<usize>)>,
    pub(crate) private: Vec<(PeerId, Bytes)>,
}

impl Chunk {
    /// The bytes of the chunk that the member gets: whole messages, in order, as few slices as there can be.
    pub fn data_for(&self, peer: PeerId) -> impl Iterator<Item = Bytes> {
        let skips = entries(&self.skips, peer);
        let ends = std::iter::once(self.common.len());
        let starts = std::iter::once(0).chain(skips.clone().map(|(_, range)| range.end));
        let ranges = starts.zip(skips.map(|(_, range)| range.start).chain(ends));
        let common = ranges
            .filter(|(start, end)| start < end)
            .map(|(start, end)| self.common.slice(start..end));
        common.chain(entries(&self.private, peer).map(|(_, data)| data.clone()))
    }

    /// The least a chunk costs its member's credit, so that the number of chunks under way is bounded too.
    pub const MIN_COST: usize = 1024;

    /// What the chunk costs the member's credit until the shell has written it and says so by [`Input::Written`]:
    /// its bytes, at least [`Chunk::MIN_COST`].
    #[must_use]
    pub fn cost_for(&self, peer: PeerId) -> usize {
        self.len_for(peer).max(Self::MIN_COST)
    }

    /// How many bytes the member gets.
    #[must_use]
    pub fn len_for(&self, peer: PeerId) -> usize {
        let skips = entries(&self.skips, peer).map(|(_, range)| range.len());
        let private = entries(&self.private, peer).map(|(_, data)| data.len());
        self.common.len() - skips.sum::<usize>() + private.sum::<usize>()
    }
}

/// The entries of one peer in a list sorted by peer.
fn entries<T>(list: &[(PeerId, T)], peer: PeerId) -> impl Iterator<Item = &(PeerId, T)> + Clone {
    let first = list.partition_point(|(entry, _)| *entry < peer);
    list.iter()
        .skip(first)
        .take_while(move |(entry, _)| *entry == peer)
}

/// What the kernel should have for a prefix: the next hops of the best paths, sorted, or nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FibChange {
    /// Which prefix.
    pub prefix: Prefix,
    /// Equal next hops; empty means that the route goes.
    pub next_hops: Arc<[IpAddr]>,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write what the chunk holds for this peer, in order, after what was given before.
    Advertise(PeerId, Arc<Chunk>),
    /// Routes for the kernel, each prefix at most once.
    Fib(Vec<FibChange>),
    /// Begin to resolve these next hops and report each by [`Input::NextHops`].
    Watch(Vec<IpAddr>),
    /// These are not needed any more.
    Unwatch(Vec<IpAddr>),
    /// Ask the peer for its routes again: its Adj-RIB-In is no longer complete.
    RequestRefresh(PeerId, Family),
    /// End the session with this NOTIFICATION.
    Fail(PeerId, Notification),
    /// The peer's initial routes are all in (End-of-RIB, RFC 4724 §2).
    EndOfRib(PeerId, Family),
}
