//! A kernel route as podroute sees it: key, next hops, and the marks of an own route.

use std::fmt;
use std::net::IpAddr;

use bgp_proto::types::Prefix;

/// Our route protocol number (`examples/rt_protos.d/podroute.conf` gives `ip route` the name).
pub(crate) const PROTOCOL: u8 = 245;

/// The protocol number of the plugin's routes to pods.
pub(crate) const PODS_PROTOCOL: u8 = 246;

/// The kernel's main table (linux/rtnetlink.h).
pub(crate) const MAIN: u32 = 254;

/// What the kernel distinguishes routes by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RouteKey {
    pub(crate) prefix: Prefix,
    /// Priority; lower wins.
    pub(crate) metric: u32,
    pub(crate) table: u32,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.prefix, self.metric)?;
        match self.table {
            MAIN => Ok(()),
            table => write!(f, " table {table}"),
        }
    }
}

/// A gateway, or the link itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NextHop {
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: u32,
}

impl NextHop {
    pub(crate) fn is_ipv6(&self) -> bool {
        self.gateway.is_some_and(|gateway| gateway.is_ipv6())
    }
}

/// A next hop and its share of the traffic, 1–255 relative to the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct WeightedNextHop {
    pub(crate) hop: NextHop,
    pub(crate) weight: u8,
}

/// What becomes of a packet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Target {
    /// Forwarded to one of these (sorted, never empty).
    NextHops(Vec<WeightedNextHop>),
    /// Forwarded by the nexthop object with this id.
    Group(u32),
    /// Answered with ICMP unreachable: a free address of the node's block.
    Unreachable,
    /// Dropped without an answer: the action of an import policy.
    Blackhole,
    /// Looked up in the next table: the node's block, in a table before the main one.
    Throw,
}

/// Everything of a route but its key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RouteSpec {
    pub(crate) target: Target,
    /// Source address that the node itself uses on it.
    pub(crate) source: Option<IpAddr>,
}

impl RouteSpec {
    /// Whether the route itself names the interface.
    pub(crate) fn uses(&self, ifindex: u32) -> bool {
        match &self.target {
            Target::NextHops(hops) => hops.iter().any(|next_hop| next_hop.hop.ifindex == ifindex),
            Target::Group(_) | Target::Unreachable | Target::Blackhole | Target::Throw => false,
        }
    }

    /// The nexthop object that it refers to.
    pub(crate) fn group(&self) -> Option<u32> {
        match self.target {
            Target::Group(id) => Some(id),
            Target::NextHops(_) | Target::Unreachable | Target::Blackhole | Target::Throw => None,
        }
    }
}
