//! Path attributes as values (RFC 4271 §4.3, §5; RFC 4760 §3; RFC 1997; RFC 4360; RFC 4456; RFC 8092).
//!
//! [`PathAttrs`] is what the RIB interns: the common attributes in place, the rare ones behind one
//! box, so that a set costs about 100 bytes. The next hop of MP_REACH_NLRI stands in `next_hop` too;
//! which attribute carries it on the wire follows from the family of the prefixes. AS4_PATH and
//! AS4_AGGREGATOR never get here: the decoder merges them (RFC 6793 §4.2.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AsPath, Communities};
use crate::types::{Asn, Community, ExtCommunity, LargeCommunity, RouterId, scope_of, without_scope};

/// LOCAL_PREF of paths that carry none (RFC 4271 §9.1.1 leaves it to us).
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// ORIGIN (RFC 4271 §5.1.1), ordered by preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Origin {
    /// Interior to the originating AS; what we originate.
    #[default]
    Igp,
    /// Learned by EGP.
    Egp,
    /// By other means.
    Incomplete,
}

/// Where packets for the path go: one address, or an IPv6 pair (RFC 2545 §3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NextHop {
    /// NEXT_HOP, or a 4-octet MP next hop.
    V4(Ipv4Addr),
    /// A global IPv6 address; also for IPv4 prefixes where RFC 8950 is negotiated.
    V6(Ipv6Addr),
    /// A global address and the link-local one of the same interface.
    V6Pair(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The address that resolution and comparison use: the global one.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        match *self {
            NextHop::V4(addr) => IpAddr::V4(addr),
            NextHop::V6(addr) | NextHop::V6Pair(addr, _) => IpAddr::V6(addr),
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => NextHop::V4(addr),
            IpAddr::V6(addr) => NextHop::V6(addr),
        }
    }
}

impl std::fmt::Display for NextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.addr(), scope_of(self.addr())) {
            (IpAddr::V6(addr), Some(index)) => write!(f, "{}%{index}", without_scope(addr)),
            (addr, _) => addr.fmt(f),
        }
    }
}

/// AGGREGATOR (RFC 4271 §5.1.7), with AS4_AGGREGATOR merged in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Aggregator {
    /// The AS that aggregated.
    pub asn: Asn,
    /// The speaker that aggregated.
    pub id: Ipv4Addr,
}

/// An optional attribute we do not know, kept to be passed on when it is transitive (RFC 4271 §5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnknownAttr {
    /// Flags as received; Partial is set when we pass it on.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// The value as received.
    pub value: Box<[u8]>,
}

/// Which attributes that we know came with Partial set: someone on the way did not know them.
///
/// RFC 4271 §5: the flag is never taken away again. Holds AGGREGATOR, COMMUNITIES, extended and large
/// communities; unknown attributes are Partial anyway when we pass them on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PartialSet(u8);

impl PartialSet {
    fn bit(code: u8) -> u8 {
        match code {
            7 => 1,
            8 => 2,
            16 => 4,
            32 => 8,
            _ => 0,
        }
    }

    /// Adds a type code; others than 7, 8, 16 and 32 are left out.
    pub fn insert(&mut self, code: u8) {
        self.0 |= Self::bit(code);
    }

    /// Whether the attribute with this type code is Partial.
    #[must_use]
    pub fn contains(self, code: u8) -> bool {
        self.0 & Self::bit(code) != 0
    }
}

impl std::fmt::Debug for PartialSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let codes = [7, 8, 16, 32].into_iter().filter(|code| self.contains(*code));
        f.debug_set().entries(codes).finish()
    }
}

/// What most paths do not have.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct RareAttrs {
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// ORIGINATOR_ID (RFC 4456 §8).
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST (RFC 4456 §8), nearest reflector first.
    pub cluster_list: Vec<u32>,
    /// Extended communities (RFC 4360).
    pub ext_communities: Vec<ExtCommunity>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// Unknown transitive attributes, by type code.
    pub unknown: Vec<UnknownAttr>,
    /// Known attributes that are Partial (RFC 4271 §5).
    pub partial: PartialSet,
    /// What import policies want of the kernel's route. Never on the wire.
    pub kernel: KernelRoute,
}

/// What import policies want of the kernel's route of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KernelRoute {
    /// It goes into the kernel, wherever it lies.
    pub install: bool,
    /// Packets are dropped.
    pub blackhole: bool,
    /// Its metric; the configured one when `None`.
    pub metric: Option<u32>,
    /// Its table; the configured one when `None`.
    pub table: Option<u32>,
    /// Preferred source address; the node's when `None`.
    pub source: Option<IpAddr>,
    /// Share of the traffic beside other paths.
    pub weight: Option<u8>,
}

impl KernelRoute {
    /// Whether the route goes into the kernel wherever its prefix lies.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.install || self.blackhole
    }
}

impl RareAttrs {
    fn heap_octets(&self) -> usize {
        let unknown = self
            .unknown
            .iter()
            .map(|attr| size_of::<UnknownAttr>() + attr.value.len());
        size_of_val(self.cluster_list.as_slice())
            + size_of_val(self.ext_communities.as_slice())
            + size_of_val(self.large_communities.as_slice())
            + unknown.sum::<usize>()
    }
}

/// All attributes of a path. Equal values are interned once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PathAttrs {
    /// ORIGIN.
    pub origin: Origin,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// NEXT_HOP or the MP next hop.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; on eBGP never received, set by policy.
    pub local_pref: Option<u32>,
    /// AS_PATH, always with 4-octet numbers.
    pub as_path: AsPath,
    /// COMMUNITIES, in the order received.
    pub communities: Communities,
    /// The rest, absent on most paths.
    pub rare: Option<Box<RareAttrs>>,
}

impl PathAttrs {
    /// What a route that we originate starts from: IGP, empty path, the given next hop.
    #[must_use]
    pub fn originated(next_hop: NextHop) -> Self {
        Self {
            origin: Origin::Igp,
            atomic_aggregate: false,
            next_hop,
            med: None,
            local_pref: None,
            as_path: AsPath::default(),
            communities: Communities::default(),
            rare: None,
        }
    }

    /// The rare attributes, made if absent. Drop them again with [`PathAttrs::tidy`].
    pub fn rare_mut(&mut self) -> &mut RareAttrs {
        self.rare.get_or_insert_default()
    }

    /// Drops an empty `rare`, so that equal sets compare equal. Call after editing.
    pub fn tidy(&mut self) {
        if self
            .rare
            .as_deref()
            .is_some_and(|rare| *rare == RareAttrs::default())
        {
            self.rare = None;
        }
    }

    /// What the set takes beside itself.
    pub(crate) fn heap_octets(&self) -> usize {
        let rare = self
            .rare
            .as_deref()
            .map_or(0, |rare| size_of::<RareAttrs>() + rare.heap_octets());
        self.as_path.heap_octets() + self.communities.heap_octets() + rare
    }

    /// Whether the path carries this community.
    #[must_use]
    pub fn has_community(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }
}
