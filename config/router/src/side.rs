//! What a router needs so that nodes have sessions with it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use bgp_proto::types::{Asn, Family, FamilySet, Prefix};

/// One router's side of its sessions with nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// Its AS.
    pub asn: Asn,
    /// Its BGP identifier: the IPv4 address that nodes connect to. `None` where they use IPv6 alone.
    pub router_id: Option<Ipv4Addr>,
    /// One for each peer of podroute.yaml that is this router.
    pub groups: Vec<Group>,
    /// Prefixes that nodes announce, and that they receive from other nodes.
    pub permits: Vec<PrefixRange>,
}

impl Side {
    /// The prefixes of a family.
    pub fn permits_of(&self, family: Family) -> impl Iterator<Item = &PrefixRange> {
        self.permits
            .iter()
            .filter(move |permit| permit.prefix.family() == family)
    }

    /// Whether a session watches the path by BFD.
    #[must_use]
    pub fn has_bfd(&self) -> bool {
        self.groups.iter().any(|group| group.session.bfd.is_some())
    }

    /// The families of all sessions.
    #[must_use]
    pub fn families(&self) -> FamilySet {
        let of = |group: &Group| group.session.families.iter().collect::<Vec<_>>();
        self.groups.iter().flat_map(of).collect()
    }
}

/// Sessions that are configured alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The peer of podroute.yaml.
    pub peer: String,
    /// The address at which nodes expect the router.
    pub router: Option<IpAddr>,
    /// Where nodes are.
    pub members: Vec<Member>,
    /// Their AS.
    pub node_as: NodeAs,
    /// Most sessions with a range.
    pub limit: u32,
    /// Prefixes that this node originates; other nodes originate some of the same kind.
    pub originated: Vec<Prefix>,
    /// How sessions are configured.
    pub session: Session,
}

impl Group {
    /// The family of the session's addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        let first = self.members.first();
        match first {
            Some(Member::Address(address)) if address.is_ipv4() => Family::Ipv4,
            Some(Member::Range(range)) => range.family(),
            Some(_) => Family::Ipv6,
            None => self.router.map_or(Family::Ipv4, family_of),
        }
    }

    /// Whether nodes are in the router's AS.
    #[must_use]
    pub fn is_internal(&self, router: Asn) -> bool {
        self.node_as == NodeAs::One(router)
    }
}

/// The family of an address.
pub(crate) fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

/// Where nodes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Member {
    /// One node.
    Address(IpAddr),
    /// All nodes of a subnet, which connect to the router.
    Range(Prefix),
    /// The node at the other end of a link without addresses; the name is the router's.
    Interface(String),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Range(range) => range.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

/// The AS of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeAs {
    /// All have this.
    One(Asn),
    /// Each has its own, all different from the router's.
    Any,
}

/// How a session is configured, as the router has to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// Families that the node offers.
    pub families: FamilySet,
    /// TCP MD5.
    pub password: bool,
    /// TTL of packets.
    pub ttl: Ttl,
    /// BFD.
    pub bfd: Option<Bfd>,
    /// Hold time that the node offers, in seconds.
    pub hold: u16,
    /// The node wants its routes kept while its agent restarts.
    pub graceful_restart: bool,
    /// The node waits for the router to connect.
    pub node_waits: bool,
    /// IPv4 prefixes with IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Most prefixes per family that the router accepts of a node.
    pub max_prefixes: u32,
    /// What becomes of paths with the AS of the node that they are sent to.
    pub own_as: OwnAs,
}

impl Session {
    /// Seconds between keepalives (RFC 4271 §4.4).
    #[must_use]
    pub fn keepalive(&self) -> u16 {
        self.hold / 3
    }
}

/// TTL of a session's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// The neighbor is directly connected.
    Direct,
    /// It is up to this number of hops away.
    Multihop(u8),
    /// GTSM (RFC 5082): it is up to this number of hops away, and packets with a lower TTL than that allows are dropped.
    Security(u8),
}

/// BFD of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bfd {
    /// Milliseconds between packets.
    pub interval: u32,
    /// Packets that may be missed.
    pub multiplier: u8,
    /// RFC 5883.
    pub multihop: bool,
}

/// What becomes of paths that contain the AS of the node that they are sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnAs {
    /// No node needs one.
    NotNeeded,
    /// The router replaces the number, because nodes would see a loop.
    Override,
    /// Nodes accept them (`allowOwnAs`); the router must not hold them back.
    Send,
}

/// Prefixes inside one, of some lengths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PrefixRange {
    /// Inside this.
    pub prefix: Prefix,
    /// The shortest length.
    pub min: u8,
    /// The longest length.
    pub max: u8,
}

impl PrefixRange {
    /// Only this prefix.
    #[must_use]
    pub fn exact(prefix: Prefix) -> Self {
        let len = prefix.len();
        Self {
            prefix,
            min: len,
            max: len,
        }
    }

    /// Whether it lies inside and has such a length.
    #[must_use]
    pub fn contains(&self, prefix: &Prefix) -> bool {
        self.prefix.contains(prefix) && (self.min..=self.max).contains(&prefix.len())
    }
}
