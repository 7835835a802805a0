//! What two OPENs agree on (RFC 4271 §4.2, RFC 5492, RFC 4760, RFC 6793, RFC 7911, RFC 8654).

use crate::types::{Family, FamilySet, HoldTime, RouterId};
use crate::wire::Open;

/// The outcome of a successful OPEN exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Our OPEN.
    pub local: Open,
    /// The peer's OPEN.
    pub remote: Open,
    /// The lower of both hold times; zero means no timers.
    pub hold_time: HoldTime,
    /// Families that both sides offered. Without any multiprotocol capability: IPv4 (RFC 4760 §8).
    pub families: FamilySet,
    /// AS numbers have four octets on this session (RFC 6793).
    pub four_octet_as: bool,
    /// The peer answers ROUTE-REFRESH (RFC 2918).
    pub refresh: bool,
    /// With BoRR and EoRR (RFC 7313).
    pub enhanced_refresh: bool,
    /// Messages up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// Families in which the peer sends path identifiers (RFC 7911).
    pub add_path_receive: FamilySet,
    /// Families in which we send path identifiers.
    pub add_path_send: FamilySet,
    /// Families whose next hop may be IPv6 for IPv4 prefixes (RFC 8950).
    pub extended_next_hop: FamilySet,
}

impl Negotiated {
    /// The identifier of the peer.
    #[must_use]
    pub fn remote_id(&self) -> RouterId {
        self.remote.router_id
    }

    /// Whether the family is up on this session.
    #[must_use]
    pub fn carries(&self, family: Family) -> bool {
        self.families.contains(family)
    }
}
