//! BGP roles, and what they mean for the attribute ONLY_TO_CUSTOMER (RFC 9234).

use std::fmt;

use super::Asn;

/// Our role on an eBGP session (RFC 9234 §3).
///
/// ```
/// use bgp_proto::types::{Asn, Role};
///
/// // A route that came from a provider or peer does not go to another one.
/// assert!(Role::Customer.marks_received() && !Role::Peer.may_send_marked());
/// // A customer that sends such a route leaks it.
/// assert!(Role::Provider.is_leak(Some(Asn(65001)), Asn(65002)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// We carry the peer's traffic.
    Provider,
    /// We are a route server.
    RouteServer,
    /// The peer is a route server.
    RouteServerClient,
    /// The peer carries our traffic.
    Customer,
    /// Each carries the traffic of its own customers.
    Peer,
}

impl Role {
    /// All roles, in the order of their codes.
    pub const ALL: [Role; 5] = [
        Role::Provider,
        Role::RouteServer,
        Role::RouteServerClient,
        Role::Customer,
        Role::Peer,
    ];

    /// The value in the capability (RFC 9234 §4.1).
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The role that the peer must have (RFC 9234 §4.2).
    #[must_use]
    pub fn counterpart(self) -> Role {
        match self {
            Role::Provider => Role::Customer,
            Role::RouteServer => Role::RouteServerClient,
            Role::RouteServerClient => Role::RouteServer,
            Role::Customer => Role::Provider,
            Role::Peer => Role::Peer,
        }
    }

    /// Whether a received route with this attribute is a leak (RFC 9234 §5, ingress 1 and 2).
    #[must_use]
    pub fn is_leak(self, only_to_customer: Option<Asn>, remote_asn: Asn) -> bool {
        match (self, only_to_customer) {
            (Role::Provider | Role::RouteServer, Some(_)) => true,
            (Role::Peer, Some(asn)) => asn != remote_asn,
            _ => false,
        }
    }

    /// Whether received routes get the attribute with the peer's AS number (ingress 3).
    #[must_use]
    pub fn marks_received(self) -> bool {
        matches!(self, Role::Customer | Role::Peer | Role::RouteServerClient)
    }

    /// Whether sent routes get the attribute with our AS number (RFC 9234 §5, egress 1).
    #[must_use]
    pub fn marks_sent(self) -> bool {
        matches!(self, Role::Provider | Role::Peer | Role::RouteServer)
    }

    /// Whether routes with the attribute may be sent to the peer (egress 2).
    #[must_use]
    pub fn may_send_marked(self) -> bool {
        matches!(self, Role::Provider | Role::RouteServer)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Provider => "provider",
            Role::RouteServer => "rs-server",
            Role::RouteServerClient => "rs-client",
            Role::Customer => "customer",
            Role::Peer => "peer",
        })
    }
}
