//! OPEN (RFC 4271 §4.2) with capabilities (RFC 5492) and extended optional parameters (RFC 9072).
//!
//! Decoding makes the checks of RFC 4271 §6.2 that need no configuration. The session checks the AS number
//! and the identifier.

use ::bytes::Bytes;

use super::frame::message;
use super::reader::{Parsed, long, octet, short, take};
use super::{AddPathDirection, Capability, DecodeError, GracefulRestart, HEADER_LEN, LongLivedFamily};
use super::{MAX_LEN, MessageKind};
use crate::types::{Asn, Family, FamilySet, HoldTime, RouterId};

/// The version of RFC 4271.
const VERSION: u8 = 4;
/// Optional parameter: capabilities (RFC 5492 §4).
const PARAM_CAPABILITIES: u8 = 2;
/// In place of the first parameter type: extended lengths follow (RFC 9072 §2).
const PARAM_EXTENDED: u8 = 255;
/// Octets available for capabilities in an OPEN of [`MAX_LEN`] with one parameter of extended length.
const MAX_CAPABILITIES: usize = MAX_LEN - HEADER_LEN - 10 - 3 - 3;

/// A decoded OPEN. The version is 4, the identifier non-zero and the hold time not 1 or 2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Open {
    /// The AS number: from the 4-octet AS capability if present (RFC 6793 §4.1), otherwise from the fixed
    /// field.
    pub asn: Asn,
    /// Offered hold time.
    pub hold_time: HoldTime,
    /// The sender's identifier.
    pub router_id: RouterId,
    /// Capabilities in the order received.
    pub capabilities: Vec<Capability>,
}

/// The fields before the optional parameters.
struct Fixed {
    version: u8,
    asn: u16,
    hold_time: u16,
    router_id: u32,
}

impl Open {
    /// Decodes the body.
    ///
    /// # Errors
    /// The OPEN errors of RFC 4271 §6.2, in the order of the fields; AS 0 (RFC 7607 §2), identifier 0 (RFC
    /// 6286 §2.2).
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let length = u16::try_from(HEADER_LEN + body.len()).unwrap_or(u16::MAX);
        let (params, fixed) = fixed(body).map_err(|_| DecodeError::BadLength { length })?;
        // RFC 4271 §6.2: the version is checked first, since another version may have another format.
        if fixed.version != VERSION {
            return Err(DecodeError::UnsupportedVersion {
                version: fixed.version,
            });
        }
        // RFC 7607 §2: AS 0 is answered with Bad Peer AS.
        if fixed.asn == 0 {
            return Err(DecodeError::ZeroAs);
        }
        let hold_time = HoldTime::new(fixed.hold_time).ok_or(DecodeError::UnacceptableHoldTime {
            seconds: fixed.hold_time,
        })?;
        let router_id = RouterId::new(fixed.router_id).ok_or(DecodeError::ZeroIdentifier)?;
        let capabilities = parameters(params)?;
        let mut open = Self {
            asn: Asn(u32::from(fixed.asn)),
            hold_time,
            router_id,
            capabilities,
        };
        // RFC 6793 §4.1: the capability has the number, the fixed field may be AS_TRANS.
        if let Some(asn) = open.four_octet_as() {
            open.asn = asn;
        }
        if open.asn == Asn(0) {
            return Err(DecodeError::ZeroAs);
        }
        Ok(open)
    }

    /// The whole message, at most 4096 octets (RFC 8654 §4); capabilities beyond that are omitted. More than
    /// 253 octets of them use the extended form (RFC 9072 §2). The 4-octet AS capability is encoded only if
    /// it is in `capabilities`.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut capabilities = Vec::with_capacity(64);
        for capability in &self.capabilities {
            let before = capabilities.len();
            capability.encode(&mut capabilities);
            if capabilities.len() > MAX_CAPABILITIES {
                capabilities.truncate(before);
                break;
            }
        }
        let mut body = Vec::with_capacity(16 + capabilities.len());
        body.push(VERSION);
        body.extend_from_slice(&self.asn.to_two_octets().to_be_bytes());
        body.extend_from_slice(&self.hold_time.seconds().to_be_bytes());
        body.extend_from_slice(&self.router_id.get().to_be_bytes());
        // RFC 5492 §4: one parameter with all capabilities.
        match u8::try_from(capabilities.len()) {
            Ok(0) => body.push(0),
            Ok(len @ ..=253) => body.extend_from_slice(&[len + 2, PARAM_CAPABILITIES, len]),
            _ => {
                let len = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
                // RFC 9072 §2: 255 as length (never 0) and as type, then the extended lengths.
                body.extend_from_slice(&[255, PARAM_EXTENDED]);
                body.extend_from_slice(&(len + 3).to_be_bytes());
                body.push(PARAM_CAPABILITIES);
                body.extend_from_slice(&len.to_be_bytes());
            }
        }
        body.extend_from_slice(&capabilities);
        message(MessageKind::Open, &body)
    }

    /// Whether exactly this capability is offered.
    #[must_use]
    pub fn has(&self, capability: &Capability) -> bool {
        self.capabilities.contains(capability)
    }

    /// The offered families. Without a multiprotocol capability: IPv4 (RFC 4760 §8).
    #[must_use]
    pub fn families(&self) -> FamilySet {
        // Another family is a multiprotocol capability too: then IPv4 is not implied.
        if !self.capabilities.iter().any(|capability| capability.code() == 1) {
            return FamilySet::from_iter([Family::Ipv4]);
        }
        let families = self
            .capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::Multiprotocol(family) => Some(*family),
                _ => None,
            });
        families.collect()
    }

    /// The AS number of the 4-octet AS capability, if offered (RFC 6793 §3).
    #[must_use]
    pub fn four_octet_as(&self) -> Option<Asn> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        })
    }

    /// The roles that the sender gives itself (RFC 9234 §4.1); more than one is an error of it.
    pub fn roles(&self) -> impl Iterator<Item = u8> {
        self.capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::Role(role) => Some(*role),
                _ => None,
            })
    }

    /// The ADD-PATH directions offered for the family (RFC 7911 §4).
    #[must_use]
    pub fn add_path(&self, family: Family) -> AddPathDirection {
        let offers = self
            .capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::AddPath(families) => Some(families),
                _ => None,
            });
        let found = offers.flatten().rfind(|(offered, _)| *offered == family);
        found.map_or_else(AddPathDirection::default, |(_, direction)| *direction)
    }

    /// Graceful restart; the last occurrence counts (RFC 4724 §3).
    #[must_use]
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities
            .iter()
            .rev()
            .find_map(|capability| match capability {
                Capability::GracefulRestart(restart) => Some(restart),
                _ => None,
            })
    }

    /// Long-lived graceful restart for the family; ignored without graceful restart (RFC 9494 §4.1).
    #[must_use]
    pub fn long_lived(&self, family: Family) -> Option<LongLivedFamily> {
        self.graceful_restart()?;
        let last = self
            .capabilities
            .iter()
            .rev()
            .find_map(|capability| match capability {
                Capability::LongLivedGracefulRestart(families) => Some(families),
                _ => None,
            });
        last?.iter().rev().find(|item| item.family == family).copied()
    }

    /// Families whose prefixes may have IPv6 next hops (RFC 8950 §4).
    #[must_use]
    pub fn extended_next_hop(&self) -> FamilySet {
        let offers = self
            .capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::ExtendedNextHop(families) => Some(families.iter().copied()),
                _ => None,
            });
        offers.flatten().collect()
    }

    /// ROUTE-REFRESH (RFC 2918 §2).
    #[must_use]
    pub fn route_refresh(&self) -> bool {
        self.has(&Capability::RouteRefresh)
    }

    /// Enhanced route refresh (RFC 7313 §3.1).
    #[must_use]
    pub fn enhanced_refresh(&self) -> bool {
        self.has(&Capability::EnhancedRefresh)
    }

    /// Messages up to 65535 octets (RFC 8654 §3).
    #[must_use]
    pub fn extended_message(&self) -> bool {
        self.has(&Capability::ExtendedMessage)
    }

    /// Host and domain name, for display.
    #[must_use]
    pub fn host_name(&self) -> Option<(&str, &str)> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::Fqdn { host, domain } => Some((host.as_str(), domain.as_str())),
            _ => None,
        })
    }
}

fn fixed(input: &[u8]) -> Parsed<'_, Fixed> {
    let (input, version) = octet(input)?;
    let (input, asn) = short(input)?;
    let (input, hold_time) = short(input)?;
    let (input, router_id) = long(input)?;
    Ok((
        input,
        Fixed {
            version,
            asn,
            hold_time,
            router_id,
        },
    ))
}

/// Decodes the optional parameters with their length, in either form (RFC 4271 §4.2, RFC 9072 §2).
fn parameters(input: &[u8]) -> Result<Vec<Capability>, DecodeError> {
    let malformed = |_| DecodeError::MalformedOpen;
    let (rest, len) = octet(input).map_err(malformed)?;
    // RFC 9072 §2: if the type is 255, the one-octet length is ignored, unless it is 0.
    let extended = len != 0 && rest.first() == Some(&PARAM_EXTENDED);
    let (mut rest, len) = if extended {
        let (rest, _) = octet(rest).map_err(malformed)?;
        let (rest, len) = short(rest).map_err(malformed)?;
        (rest, usize::from(len))
    } else {
        (rest, usize::from(len))
    };
    if rest.len() != len {
        return Err(DecodeError::MalformedOpen);
    }
    let mut capabilities = Vec::new();
    while !rest.is_empty() {
        let (tail, (code, value)) = parameter(rest, extended).map_err(malformed)?;
        // RFC 4271 §6.2: only capabilities are supported (RFC 4271 removed authentication).
        if code != PARAM_CAPABILITIES {
            return Err(DecodeError::UnsupportedParameter { code });
        }
        capabilities.extend(Capability::decode_list(value).ok_or(DecodeError::MalformedOpen)?);
        rest = tail;
    }
    Ok(capabilities)
}

/// One parameter: type, length of one or two octets, value.
fn parameter(input: &[u8], extended: bool) -> Parsed<'_, (u8, &[u8])> {
    let (input, code) = octet(input)?;
    let (input, len) = if extended {
        let (input, len) = short(input)?;
        (input, usize::from(len))
    } else {
        let (input, len) = octet(input)?;
        (input, usize::from(len))
    };
    let (input, value) = take(input, len)?;
    Ok((input, (code, value)))
}
