//! A peer as the RIB side sees it: relation, policies, limits, and the facts of its established session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::policy::Policy;
use crate::session::Negotiated;
use crate::types::{Asn, Prefix};

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
