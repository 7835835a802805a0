//! Path attributes (RFC 4271 §4.3, §5; RFC 4760 §3; RFC 1997; RFC 4360; RFC 4456; RFC 8092; RFC 9234).
//!
//! [`PathAttrs`] is interned by the RIB: common attributes are stored in place, others in one box, so that a
//! set takes about 100 bytes. `next_hop` also holds the next hop of MP_REACH_NLRI; the family of the prefixes
//! decides which attribute carries it on the wire. AS4_PATH and AS4_AGGREGATOR do not occur here: the decoder
//! merges them (RFC 6793 §4.2.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AsPath, Communities};
use crate::types::{Asn, Community, ExtCommunity, LargeCommunity, RouterId, scope_of, without_scope};

/// LOCAL_PREF of paths that carry none (RFC 4271 §9.1.1 leaves it to us).
pub const DEFAULT_LOCAL_PREF: u32 = 100;

/// ORIGIN (RFC 4271 §5.1.1), ordered by preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Origin {
    /// IGP; also for originated routes.
    #[default]
    Igp,
    /// EGP.
    Egp,
    /// INCOMPLETE.
    Incomplete,
}

/// A next hop: one address, or an IPv6 pair (RFC 2545 §3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NextHop {
    /// NEXT_HOP, or a 4-octet next hop of MP_REACH_NLRI.
    V4(Ipv4Addr),
    /// A global IPv6 address; also for IPv4 prefixes if RFC 8950 is negotiated.
    V6(Ipv6Addr),
    /// A global address and the link-local address of the same interface.
    V6Pair(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The address for resolution and comparison: the global one.
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

/// An unknown optional transitive attribute, which is stored to be sent on (RFC 4271 §5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnknownAttr {
    /// Flags as received; Partial is set when it is sent on.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// The value as received.
    pub value: Box<[u8]>,
}

/// Known attributes that were received with the Partial flag: a speaker on the way did not know them.
///
/// RFC 4271 §5: the flag is never cleared. The set covers AGGREGATOR, COMMUNITIES, extended and large
/// communities, and ONLY_TO_CUSTOMER; unknown attributes are always sent with Partial.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PartialSet(u8);

impl PartialSet {
    fn bit(code: u8) -> u8 {
        match code {
            7 => 1,
            8 => 2,
            16 => 4,
            32 => 8,
            35 => 16,
            _ => 0,
        }
    }

    /// Adds a type code; codes other than 7, 8, 16, 32 and 35 are ignored.
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
        let codes = [7, 8, 16, 32, 35].into_iter().filter(|code| self.contains(*code));
        f.debug_set().entries(codes).finish()
    }
}

/// Attributes that most paths do not have.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ExtraAttrs {
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
    /// ONLY_TO_CUSTOMER (RFC 9234 §5): the AS after which the route goes to customers only.
    pub only_to_customer: Option<Asn>,
    /// Unknown transitive attributes, by type code.
    pub unknown: Vec<UnknownAttr>,
    /// Known attributes that are Partial (RFC 4271 §5).
    pub partial: PartialSet,
    /// Properties of the kernel route that import policies set. Never sent.
    pub kernel: KernelRoute,
}

/// Properties of the kernel route of a prefix that import policies set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KernelRoute {
    /// The route is installed also outside of the configured prefixes.
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

impl ExtraAttrs {
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
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; on eBGP it is not received, but policy can set it.
    pub local_pref: Option<u32>,
    /// AS_PATH, always with 4-octet numbers.
    pub as_path: AsPath,
    /// COMMUNITIES, in the order received.
    pub communities: Communities,
    /// Further attributes, absent on most paths.
    pub extra: Option<Box<ExtraAttrs>>,
}

impl PathAttrs {
    /// Attributes of an originated route: IGP, empty path, this next hop.
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
            extra: None,
        }
    }

    /// The further attributes, created if absent. Call [`PathAttrs::normalize`] after editing.
    pub fn extra_mut(&mut self) -> &mut ExtraAttrs {
        self.extra.get_or_insert_default()
    }

    /// Removes an empty `extra`, so that equal sets compare equal. Call after editing.
    pub fn normalize(&mut self) {
        if self
            .extra
            .as_deref()
            .is_some_and(|extra| *extra == ExtraAttrs::default())
        {
            self.extra = None;
        }
    }

    /// Octets that the set allocates on the heap.
    pub(crate) fn heap_octets(&self) -> usize {
        let extra = self
            .extra
            .as_deref()
            .map_or(0, |extra| size_of::<ExtraAttrs>() + extra.heap_octets());
        self.as_path.heap_octets() + self.communities.heap_octets() + extra
    }

    /// ONLY_TO_CUSTOMER, if the path carries it (RFC 9234 §5).
    #[must_use]
    pub fn only_to_customer(&self) -> Option<Asn> {
        self.extra.as_deref()?.only_to_customer
    }

    /// Whether the path carries this community.
    #[must_use]
    pub fn has_community(&self, community: Community) -> bool {
        self.communities.contains(&community)
    }
}
