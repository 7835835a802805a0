//! Capabilities (RFC 5492) of an OPEN.
//!
//! | Code | Capability | RFC |
//! |---|---|---|
//! | 1 | multiprotocol | 4760 §8 |
//! | 2 | route refresh | 2918 §2 |
//! | 5 | extended next hop encoding | 8950 §4 |
//! | 6 | extended message | 8654 §3 |
//! | 9 | role | 9234 §4.1 |
//! | 64 | graceful restart | 4724 §3, 8538 §2 |
//! | 65 | 4-octet AS | 6793 §3 |
//! | 69 | ADD-PATH | 7911 §4 |
//! | 70 | enhanced route refresh | 7313 §3.1 |
//! | 71 | long-lived graceful restart | 9494 §3 |
//! | 73 | FQDN (host name, display only) | draft |
//!
//! A malformed value makes its capability unknown (RFC 5492 §3); only malformed framing is an error.

use std::fmt;

use super::notification::truncate_text;
use super::reader::{Parsed, afi_safi, long, octet, short, take};
use super::refresh::SAFI_UNICAST;
use crate::types::{Asn, Family, Role};

/// Direction flags of ADD-PATH (RFC 7911 §4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AddPathDirection {
    /// Able to receive several paths.
    pub receive: bool,
    /// Able to send several paths.
    pub send: bool,
}

/// Graceful restart (RFC 4724 §3).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct GracefulRestart {
    /// R: the speaker has restarted.
    pub restarting: bool,
    /// N: also after NOTIFICATION (RFC 8538 §2).
    pub notification: bool,
    /// How long the peer should retain routes, 0–4095 seconds.
    pub restart_time: u16,
    /// Families, each with F: forwarding state was preserved.
    pub families: Vec<(Family, bool)>,
}

/// One family of long-lived graceful restart (RFC 9494 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LongLivedFamily {
    /// The family.
    pub family: Family,
    /// F: forwarding state was preserved.
    pub forwarding: bool,
    /// Long-lived stale time in seconds, 24 bits.
    pub stale_time: u32,
}

/// A capability. Decoding omits families that podroute does not carry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Capability {
    /// A family (RFC 4760 §8). Another (AFI, SAFI) becomes `Unknown`.
    Multiprotocol(Family),
    /// Route refresh (RFC 2918).
    RouteRefresh,
    /// IPv4 prefixes with IPv6 next hops (RFC 8950): families with AFI 2 next hops.
    ExtendedNextHop(Vec<Family>),
    /// Extended message (RFC 8654).
    ExtendedMessage,
    /// The sender's role (RFC 9234 §4.1): a number that may be unknown.
    Role(u8),
    /// Graceful restart (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// The speaker's AS number in four octets (RFC 6793).
    FourOctetAs(Asn),
    /// ADD-PATH (RFC 7911).
    AddPath(Vec<(Family, AddPathDirection)>),
    /// Enhanced route refresh (RFC 7313).
    EnhancedRefresh,
    /// Long-lived graceful restart (RFC 9494).
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Host and domain name, for display.
    Fqdn {
        /// At most 255 octets.
        host: String,
        /// At most 255 octets.
        domain: String,
    },
    /// An unknown capability, ignored but displayed (RFC 5492 §3).
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        value: Vec<u8>,
    },
}

/// AFI of an IPv6 next hop (RFC 8950 §4).
const AFI_IPV6: u16 = 2;

impl Capability {
    /// The capability code (IANA).
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Capability::Multiprotocol(_) => 1,
            Capability::RouteRefresh => 2,
            Capability::ExtendedNextHop(_) => 5,
            Capability::ExtendedMessage => 6,
            Capability::Role(_) => 9,
            Capability::GracefulRestart(_) => 64,
            Capability::FourOctetAs(_) => 65,
            Capability::AddPath(_) => 69,
            Capability::EnhancedRefresh => 70,
            Capability::LongLivedGracefulRestart(_) => 71,
            Capability::Fqdn { .. } => 73,
            Capability::Unknown { code, .. } => *code,
        }
    }

    /// Decodes the triples of a capabilities parameter. `None` if the framing is malformed.
    pub(super) fn decode_list(bytes: &[u8]) -> Option<Vec<Self>> {
        let mut list = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (tail, (code, value)) = triple(rest).ok()?;
            list.push(Self::decode(code, value));
            rest = tail;
        }
        Some(list)
    }

    /// Decodes a capability; a malformed value makes it `Unknown` (RFC 5492 §3: ignored).
    fn decode(code: u8, value: &[u8]) -> Self {
        let known = match code {
            1 => multiprotocol(value),
            2 => value.is_empty().then_some(Capability::RouteRefresh),
            5 => extended_next_hop(value),
            6 => value.is_empty().then_some(Capability::ExtendedMessage),
            9 => match value {
                [role] => Some(Capability::Role(*role)),
                _ => None,
            },
            64 => graceful_restart(value),
            65 => value
                .try_into()
                .ok()
                .map(|asn| Capability::FourOctetAs(Asn(u32::from_be_bytes(asn)))),
            69 => add_path(value),
            70 => value.is_empty().then_some(Capability::EnhancedRefresh),
            71 => long_lived(value),
            73 => fqdn(value),
            _ => None,
        };
        known.unwrap_or_else(|| Capability::Unknown {
            code,
            value: value.to_vec(),
        })
    }

    /// Appends code, length and value. Lists are truncated to a value of 255 octets.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[self.code(), 0]);
        match self {
            Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRefresh => {}
            Capability::Multiprotocol(family) => {
                put_afi(out, *family);
                out.extend_from_slice(&[0, SAFI_UNICAST]);
            }
            Capability::ExtendedNextHop(families) => {
                for family in families.iter().take(255 / 6) {
                    put_afi(out, *family);
                    out.extend_from_slice(&[0, SAFI_UNICAST]);
                    out.extend_from_slice(&AFI_IPV6.to_be_bytes());
                }
            }
            Capability::Role(role) => out.push(*role),
            Capability::GracefulRestart(restart) => put_restart(out, restart),
            Capability::FourOctetAs(asn) => out.extend_from_slice(&asn.0.to_be_bytes()),
            Capability::AddPath(families) => put_add_path(out, families),
            Capability::LongLivedGracefulRestart(families) => put_long_lived(out, families),
            Capability::Fqdn { host, domain } => {
                let host = truncate_text(host, 253);
                put_text(out, host);
                put_text(out, truncate_text(domain, 253 - host.len()));
            }
            Capability::Unknown { value, .. } => out.extend(value.iter().take(255)),
        }
        let len = u8::try_from(out.len() - start - 2).unwrap_or(u8::MAX);
        if let Some(place) = out.get_mut(start + 1) {
            *place = len;
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Capability::Multiprotocol(family) => write!(f, "{family} unicast"),
            Capability::RouteRefresh => f.write_str("route refresh"),
            Capability::ExtendedNextHop(_) => f.write_str("extended next hop"),
            Capability::ExtendedMessage => f.write_str("extended message"),
            Capability::Role(code) => match Role::ALL.into_iter().find(|role| role.code() == *code) {
                Some(role) => write!(f, "role {role}"),
                None => write!(f, "role {code}"),
            },
            Capability::GracefulRestart(_) => f.write_str("graceful restart"),
            Capability::FourOctetAs(asn) => write!(f, "4-octet AS {asn}"),
            Capability::AddPath(_) => f.write_str("add-path"),
            Capability::EnhancedRefresh => f.write_str("enhanced route refresh"),
            Capability::LongLivedGracefulRestart(_) => f.write_str("long-lived graceful restart"),
            Capability::Fqdn { host, .. } => write!(f, "host name {}", host.escape_debug()),
            Capability::Unknown { code, .. } => write!(f, "capability {code}"),
        }
    }
}

/// Code, length, value (RFC 5492 §4).
fn triple(input: &[u8]) -> Parsed<'_, (u8, &[u8])> {
    let (input, code) = octet(input)?;
    let (input, len) = octet(input)?;
    let (input, value) = take(input, usize::from(len))?;
    Ok((input, (code, value)))
}

/// Decodes items to the end of the value; `None` if the last one is truncated.
fn items<'a, T>(mut value: &'a [u8], read: impl Fn(&'a [u8]) -> Parsed<'a, T>) -> Option<Vec<T>> {
    let mut list = Vec::new();
    while !value.is_empty() {
        let (rest, item) = read(value).ok()?;
        list.push(item);
        value = rest;
    }
    Some(list)
}

fn multiprotocol(value: &[u8]) -> Option<Capability> {
    // RFC 4760 §8: the third octet is reserved and ignored.
    let &[high, low, _, safi] = value else { return None };
    Family::from_afi_safi(u16::from_be_bytes([high, low]), safi).map(Capability::Multiprotocol)
}

fn extended_next_hop(value: &[u8]) -> Option<Capability> {
    let tuples = items(value, |input| {
        let (input, afi) = short(input)?;
        let (input, safi) = short(input)?;
        let (input, next_hop) = short(input)?;
        Ok((input, (afi, safi, next_hop)))
    })?;
    let families = tuples
        .into_iter()
        .filter(|(_, _, next_hop)| *next_hop == AFI_IPV6);
    let families = families.filter_map(|(afi, safi, _)| Family::from_afi_safi(afi, u8::try_from(safi).ok()?));
    Some(Capability::ExtendedNextHop(families.collect()))
}

fn graceful_restart(value: &[u8]) -> Option<Capability> {
    let (value, head) = short(value).ok()?;
    let tuples = items(value, |input| {
        let (input, family) = afi_safi(input)?;
        let (input, flags) = octet(input)?;
        Ok((input, (family, flags)))
    })?;
    let families = tuples
        .into_iter()
        .filter_map(|((afi, safi), flags)| Some((Family::from_afi_safi(afi, safi)?, flags & 0x80 != 0)))
        .collect();
    Some(Capability::GracefulRestart(GracefulRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        restart_time: head & 0x0FFF,
        families,
    }))
}

fn add_path(value: &[u8]) -> Option<Capability> {
    let tuples = items(value, |input| {
        let (input, family) = afi_safi(input)?;
        let (input, direction) = octet(input)?;
        Ok((input, (family, direction)))
    })?;
    // RFC 7911 §4: with any other value the capability is ignored.
    if tuples.iter().any(|(_, direction)| !(1..=3).contains(direction)) {
        return None;
    }
    let families = tuples.into_iter().filter_map(|((afi, safi), direction)| {
        let direction = AddPathDirection {
            receive: direction & 1 != 0,
            send: direction & 2 != 0,
        };
        Some((Family::from_afi_safi(afi, safi)?, direction))
    });
    Some(Capability::AddPath(families.collect()))
}

fn long_lived(value: &[u8]) -> Option<Capability> {
    let tuples = items(value, |input| {
        let (input, family) = afi_safi(input)?;
        let (input, word) = long(input)?; // flags in the first octet, seconds in three
        Ok((input, (family, word)))
    })?;
    let families = tuples.into_iter().filter_map(|((afi, safi), word)| {
        let family = Family::from_afi_safi(afi, safi)?;
        Some(LongLivedFamily {
            family,
            forwarding: word & 0x8000_0000 != 0,
            stale_time: word & 0x00FF_FFFF,
        })
    });
    Some(Capability::LongLivedGracefulRestart(families.collect()))
}

fn fqdn(value: &[u8]) -> Option<Capability> {
    let text = |input| {
        let (input, len) = octet(input)?;
        let (input, text) = take(input, usize::from(len))?;
        Ok((input, String::from_utf8_lossy(text).into_owned()))
    };
    let names = |input| -> Parsed<'_, (String, String)> {
        let (input, host) = text(input)?;
        let (input, domain) = text(input)?;
        Ok((input, (host, domain)))
    };
    match names(value) {
        Ok(([], (host, domain))) => Some(Capability::Fqdn { host, domain }),
        _ => None,
    }
}

fn put_afi(out: &mut Vec<u8>, family: Family) {
    out.extend_from_slice(&family.afi().to_be_bytes());
}

fn put_restart(out: &mut Vec<u8>, restart: &GracefulRestart) {
    let mut head = restart.restart_time.min(0x0FFF);
    head |= if restart.restarting { 0x8000 } else { 0 };
    head |= if restart.notification { 0x4000 } else { 0 };
    out.extend_from_slice(&head.to_be_bytes());
    for (family, forwarding) in restart.families.iter().take(253 / 4) {
        put_afi(out, *family);
        out.extend_from_slice(&[SAFI_UNICAST, if *forwarding { 0x80 } else { 0 }]);
    }
}

fn put_add_path(out: &mut Vec<u8>, families: &[(Family, AddPathDirection)]) {
    let direction = |way: AddPathDirection| u8::from(way.receive) | u8::from(way.send) << 1;
    // RFC 7911 §4 has no value for "neither": such a family is omitted.
    for (family, way) in families
        .iter()
        .filter(|(_, way)| direction(*way) != 0)
        .take(255 / 4)
    {
        put_afi(out, *family);
        out.extend_from_slice(&[SAFI_UNICAST, direction(*way)]);
    }
}

fn put_long_lived(out: &mut Vec<u8>, families: &[LongLivedFamily]) {
    for item in families.iter().take(255 / 7) {
        put_afi(out, item.family);
        let flags = if item.forwarding { 0x8000_0000 } else { 0 };
        out.push(SAFI_UNICAST);
        out.extend_from_slice(&(flags | item.stale_time.min(0x00FF_FFFF)).to_be_bytes());
    }
}

/// A length octet and text of at most 255 octets.
fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}
