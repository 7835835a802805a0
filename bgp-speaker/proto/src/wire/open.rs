//! OPEN (RFC 4271 §4.2) with capabilities (RFC 5492) and extended optional parameters (RFC 9072).

use super::Capability;
use crate::types::{Asn, HoldTime, RouterId};

/// A decoded OPEN. The version is 4, the identifier non-zero and the hold time not 1 or 2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The AS number: of the 4-octet capability when present (RFC 6793 §4.1), else of the fixed field.
    pub asn: Asn,
    /// Offered hold time.
    pub hold_time: HoldTime,
    /// The sender's identifier.
    pub router_id: RouterId,
    /// Capabilities in the order received.
    pub capabilities: Vec<Capability>,
}
