//! Capabilities (RFC 5492) as values: what a speaker offers in OPEN.
//!
//! | Code | Capability | RFC |
//! |---|---|---|
//! | 1 | multiprotocol | 4760 §8 |
//! | 2 | route refresh | 2918 §2 |
//! | 5 | extended next hop encoding | 8950 §4 |
//! | 6 | extended message | 8654 §3 |
//! | 64 | graceful restart | 4724 §3, 8538 §2 |
//! | 65 | 4-octet AS | 6793 §3 |
//! | 69 | ADD-PATH | 7911 §4 |
//! | 70 | enhanced route refresh | 7313 §3.1 |
//! | 71 | long-lived graceful restart | 9494 §3 |
//! | 73 | FQDN (host name, shown only) | draft |

use crate::types::{Asn, Family};

/// Direction flags of ADD-PATH (RFC 7911 §4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AddPathDirection {
    /// Able to receive several paths.
    pub receive: bool,
    /// Able to send several paths.
    pub send: bool,
}

/// Graceful restart as offered (RFC 4724 §3).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct GracefulRestart {
    /// R: the speaker has just restarted.
    pub restarting: bool,
    /// N: also after NOTIFICATION (RFC 8538 §2).
    pub notification: bool,
    /// How long the helper keeps routes until the session is back; 0–4095 seconds.
    pub restart_time: u16,
    /// Families, with F: forwarding state was kept.
    pub families: Vec<(Family, bool)>,
}

/// One family of long-lived graceful restart (RFC 9494 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LongLivedFamily {
    /// Which.
    pub family: Family,
    /// F: forwarding state was kept.
    pub forwarding: bool,
    /// Long-lived stale time in seconds, 24 bits.
    pub stale_time: u32,
}

/// A capability. Families that we do not carry are left out of values on decoding.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Capability {
    /// A family (RFC 4760 §8). A (AFI, SAFI) that we do not carry becomes `Unknown`.
    Multiprotocol(Family),
    /// RFC 2918.
    RouteRefresh,
    /// IPv4 prefixes over IPv6 next hops (RFC 8950): families with AFI 2 next hops.
    ExtendedNextHop(Vec<Family>),
    /// RFC 8654.
    ExtendedMessage,
    /// RFC 4724.
    GracefulRestart(GracefulRestart),
    /// The speaker's AS number in four octets (RFC 6793).
    FourOctetAs(Asn),
    /// RFC 7911.
    AddPath(Vec<(Family, AddPathDirection)>),
    /// RFC 7313.
    EnhancedRefresh,
    /// RFC 9494.
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Host and domain name, for people.
    Fqdn {
        /// At most 255 octets.
        host: String,
        /// At most 255 octets.
        domain: String,
    },
    /// Ignored, but shown (RFC 5492 §3).
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}
