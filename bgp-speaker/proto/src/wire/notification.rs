//! NOTIFICATION (RFC 4271 §4.5, §6; RFC 4486; RFC 9003; RFC 8538): code, subcode and data, and their text.
//!
//! Has constructors for errors without faulty bytes; [`super::DecodeError::notification`] covers the others.
//! `Display` also decodes the data, because operators read it when a session is down; control characters in
//! text from the peer are escaped.

use std::fmt;

use ::bytes::Bytes;

use super::codes::{cease, code, fsm_error, header_error, open_error, update_error};
use super::frame::message;
use super::{Capability, DecodeError, HEADER_LEN, MAX_LEN, MessageKind};
use crate::types::Family;

/// Longest shutdown communication, in octets (RFC 9003 §2).
pub const MAX_SHUTDOWN_TEXT: usize = 255;

/// A shutdown communication that does not fit into a NOTIFICATION.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the message has {octets} octets in UTF-8, and a peer takes {MAX_SHUTDOWN_TEXT} at most (RFC 9003 §2): \
     shorten it by {}",
    octets - MAX_SHUTDOWN_TEXT
)]
pub struct ShutdownMessageTooLong {
    /// Its length in octets.
    pub octets: usize,
    /// Octets of it that would be sent.
    pub fits: usize,
}

/// Checks that a shutdown communication can be sent whole (RFC 9003 §2).
///
/// # Errors
/// [`ShutdownMessageTooLong`]: [`Notification::cease_with_message`] would truncate it.
pub fn check_shutdown_message(text: &str) -> Result<(), ShutdownMessageTooLong> {
    let fits = truncate_text(text, MAX_SHUTDOWN_TEXT).len();
    if fits == text.len() {
        return Ok(());
    }
    let octets = text.len();
    Err(ShutdownMessageTooLong { octets, fits })
}

/// Most data in a message of [`MAX_LEN`] octets.
const MAX_DATA: usize = MAX_LEN - HEADER_LEN - 2;

/// A NOTIFICATION as sent or received.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code, 1–8.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data, depending on code and subcode.
    pub data: Bytes,
}

impl Notification {
    /// A NOTIFICATION of any kind.
    #[must_use]
    pub fn new(code: u8, subcode: u8, data: impl Into<Bytes>) -> Self {
        Self {
            code,
            subcode,
            data: data.into(),
        }
    }

    fn bare(code: u8, subcode: u8) -> Self {
        Self::new(code, subcode, Bytes::new())
    }

    /// Hold timer expired (RFC 4271 §6.5).
    #[must_use]
    pub fn hold_timer_expired() -> Self {
        Self::bare(code::HOLD_TIMER, 0)
    }

    /// Send hold timer expired (RFC 9687 §6). The peer does not read, so it is logged rather than delivered.
    #[must_use]
    pub fn send_hold_timer_expired() -> Self {
        Self::bare(code::SEND_HOLD_TIMER, 0)
    }

    /// A message that is not allowed in this state; `subcode` is one of [`fsm_error`] (RFC 6608 §4).
    #[must_use]
    pub fn unexpected_message(subcode: u8, kind: MessageKind) -> Self {
        Self::new(code::FSM, subcode, vec![kind.code()])
    }

    /// An event that is not allowed in this state, not caused by a message (RFC 4271 §6.6).
    #[must_use]
    pub fn fsm_error() -> Self {
        Self::bare(code::FSM, fsm_error::UNSPECIFIED)
    }

    /// OPEN with another AS number than configured (RFC 4271 §6.2).
    #[must_use]
    pub fn bad_peer_as() -> Self {
        Self::bare(code::OPEN, open_error::BAD_PEER_AS)
    }

    /// OPEN whose role does not fit ours (RFC 9234 §4.2).
    #[must_use]
    pub fn role_mismatch() -> Self {
        Self::bare(code::OPEN, open_error::ROLE_MISMATCH)
    }

    /// OPEN with our own identifier from our own AS (RFC 6286 §2.2).
    #[must_use]
    pub fn bad_identifier() -> Self {
        Self::bare(code::OPEN, open_error::BAD_IDENTIFIER)
    }

    /// A hold time that is not acceptable (RFC 4271 §6.2).
    #[must_use]
    pub fn unacceptable_hold_time() -> Self {
        Self::bare(code::OPEN, open_error::UNACCEPTABLE_HOLD_TIME)
    }

    /// Required capabilities that the peer lacks (RFC 5492 §5).
    #[must_use]
    pub fn unsupported_capability(missing: &[Capability]) -> Self {
        let mut data = Vec::new();
        for capability in missing {
            capability.encode(&mut data);
        }
        data.truncate(MAX_DATA);
        Self::new(code::OPEN, open_error::UNSUPPORTED_CAPABILITY, data)
    }

    /// Cease with a subcode of [`cease`] and no data.
    #[must_use]
    pub fn cease(subcode: u8) -> Self {
        Self::bare(code::CEASE, subcode)
    }

    /// Cease with a shutdown communication (RFC 9003 §2), truncated between characters to 255 octets; see
    /// [`check_shutdown_message`]. Only Administrative Shutdown and Reset carry one; for other subcodes and
    /// empty texts, as [`Self::cease`].
    #[must_use]
    pub fn cease_with_message(subcode: u8, text: &str) -> Self {
        // RFC 9003 §2: only these two subcodes carry it.
        if text.is_empty() || !matches!(subcode, cease::ADMIN_SHUTDOWN | cease::ADMIN_RESET) {
            return Self::cease(subcode);
        }
        let text = truncate_text(text, MAX_SHUTDOWN_TEXT);
        let mut data = Vec::with_capacity(1 + text.len());
        data.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        data.extend_from_slice(text.as_bytes());
        Self::new(code::CEASE, subcode, data)
    }

    /// Cease because the peer exceeded its prefix limit (RFC 4486 §4).
    #[must_use]
    pub fn max_prefixes(family: Family, limit: u32) -> Self {
        let mut data = Vec::with_capacity(7);
        data.extend_from_slice(&family.afi().to_be_bytes());
        data.push(super::refresh::SAFI_UNICAST);
        data.extend_from_slice(&limit.to_be_bytes());
        Self::new(code::CEASE, cease::MAX_PREFIXES, data)
    }

    /// A Hard Reset that encapsulates this NOTIFICATION (RFC 8538 §3): the peer must not retain our routes.
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Self::new(code::CEASE, cease::HARD_RESET, data)
    }

    /// Whether it is a Hard Reset (RFC 8538 §3).
    #[must_use]
    pub fn is_hard_reset(&self) -> bool {
        self.code == code::CEASE && self.subcode == cease::HARD_RESET
    }

    /// The shutdown communication, lossily decoded; for a Hard Reset that of the encapsulated NOTIFICATION.
    #[must_use]
    pub fn shutdown_message(&self) -> Option<String> {
        if let Some(inner) = self.inside_hard_reset() {
            return inner.shutdown_message();
        }
        if self.code != code::CEASE || !matches!(self.subcode, cease::ADMIN_SHUTDOWN | cease::ADMIN_RESET) {
            return None;
        }
        let (&len, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(len)).filter(|text| !text.is_empty())?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// The NOTIFICATION encapsulated in a Hard Reset. A nested Hard Reset is not decoded.
    fn inside_hard_reset(&self) -> Option<Notification> {
        let (&[code, subcode], _) = self.data.split_first_chunk().filter(|_| self.is_hard_reset())?;
        let inner = Self::new(code, subcode, self.data.slice(2..));
        (!inner.is_hard_reset()).then_some(inner)
    }

    /// The whole message, at most [`MAX_LEN`] octets: longer data is truncated.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = vec![self.code, self.subcode];
        body.extend(self.data.iter().take(MAX_DATA));
        message(MessageKind::Notification, &body)
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`DecodeError::BadLength`] for less than two octets, which [`super::cut_frame`] already excludes. RFC
    /// 4271 §6.4: an error in a NOTIFICATION is logged, never answered.
    pub fn decode(body: &Bytes) -> Result<Self, DecodeError> {
        let (&[code, subcode], _) = body.split_first_chunk().ok_or(DecodeError::BadLength {
            length: u16::try_from(HEADER_LEN + body.len()).unwrap_or(u16::MAX),
        })?;
        Ok(Self::new(code, subcode, body.slice(2..)))
    }
}

/// The longest prefix of at most `max` octets that ends between characters.
pub(super) fn truncate_text(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NOTIFICATION {}/{} data {:02x?}",
            self.code,
            self.subcode,
            &self.data[..]
        )
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, detail) = error_names(self.code, self.subcode);
        f.write_str(name)?;
        match detail {
            "" if self.subcode == 0 => {}
            "" => write!(f, ", subcode {}", self.subcode)?,
            detail => write!(f, ": {detail}")?,
        }
        write!(f, " ({}/{})", self.code, self.subcode)?;
        if self.data.is_empty() {
            return Ok(());
        }
        self.fmt_data(f)
    }
}

impl Notification {
    /// Decodes the data; unknown data is shown in hexadecimal.
    fn fmt_data(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.subcode, &self.data[..]) {
            (code::HEADER, header_error::BAD_LENGTH, &[high, low]) => {
                write!(f, ", length {}", u16::from_be_bytes([high, low]))
            }
            (code::HEADER, header_error::BAD_TYPE, &[kind]) => write!(f, ", type {kind}"),
            (code::OPEN, open_error::UNSUPPORTED_VERSION, &[high, low]) => {
                write!(f, ", version {} is supported", u16::from_be_bytes([high, low]))
            }
            // No RFC defines data here, but some speakers send the AS number that they received.
            (code::OPEN, open_error::BAD_PEER_AS, &[high, low]) => {
                write!(f, ", AS {}", u16::from_be_bytes([high, low]))
            }
            (code::OPEN, open_error::BAD_PEER_AS, &[a, b, c, d]) => {
                write!(f, ", AS {}", u32::from_be_bytes([a, b, c, d]))
            }
            (code::OPEN, open_error::UNSUPPORTED_CAPABILITY, data) => fmt_capabilities(f, data),
            (code::UPDATE, update_error::MISSING_WELL_KNOWN, &[missing]) => {
                write!(f, ", {}", super::error::attr_name(missing))
            }
            (code::UPDATE, 2 | 4..=6 | 8 | 9, [_, attribute, ..]) => {
                write!(f, ", {}", super::error::attr_name(*attribute))?;
                fmt_octets(f, &self.data)
            }
            (code::FSM, _, &[kind]) => match MessageKind::from_code(kind) {
                Some(kind) => write!(f, ", {kind}"),
                None => write!(f, ", type {kind}"),
            },
            (code::CEASE, cease::MAX_PREFIXES, [a, b, safi, limit @ ..]) if limit.len() == 4 => {
                match Family::from_afi_safi(u16::from_be_bytes([*a, *b]), *safi) {
                    Some(family) => write!(f, ", {family}")?,
                    None => write!(f, ", AFI {} SAFI {safi}", u16::from_be_bytes([*a, *b]))?,
                }
                let limit = limit
                    .iter()
                    .fold(0u32, |value, octet| value << 8 | u32::from(*octet));
                write!(f, ", limit {limit}")
            }
            (code::CEASE, cease::ADMIN_SHUTDOWN | cease::ADMIN_RESET, data) => {
                match self.shutdown_message() {
                    Some(text) => write!(f, ", \"{}\"", text.escape_debug()),
                    None => fmt_octets(f, data),
                }
            }
            (_, _, data) => match self.inside_hard_reset() {
                Some(inner) => write!(f, " because of {inner}"),
                None => fmt_octets(f, data),
            },
        }
    }
}

/// Names of error and subcode (RFC 4271 §4.5 and others).
fn error_names(code: u8, subcode: u8) -> (&'static str, &'static str) {
    let name = match code {
        code::HEADER => "Message Header Error",
        code::OPEN => "OPEN Message Error",
        code::UPDATE => "UPDATE Message Error",
        code::HOLD_TIMER => "Hold Timer Expired",
        code::FSM => "Finite State Machine Error",
        code::CEASE => "Cease",
        code::REFRESH => "ROUTE-REFRESH Message Error",
        code::SEND_HOLD_TIMER => "Send Hold Timer Expired",
        _ => "unknown error",
    };
    let detail = match (code, subcode) {
        (code::HEADER, 1) => "Connection Not Synchronized",
        (code::HEADER, 2) => "Bad Message Length",
        (code::HEADER, 3) => "Bad Message Type",
        (code::OPEN, 1) => "Unsupported Version Number",
        (code::OPEN, 2) => "Bad Peer AS",
        (code::OPEN, 3) => "Bad BGP Identifier",
        (code::OPEN, 4) => "Unsupported Optional Parameter",
        (code::OPEN, 5) => "Authentication Failure",
        (code::OPEN, 6) => "Unacceptable Hold Time",
        (code::OPEN, 7) => "Unsupported Capability",
        (code::OPEN, 11) => "Role Mismatch",
        (code::UPDATE, 1) => "Malformed Attribute List",
        (code::UPDATE, 2) => "Unrecognized Well-known Attribute",
        (code::UPDATE, 3) => "Missing Well-known Attribute",
        (code::UPDATE, 4) => "Attribute Flags Error",
        (code::UPDATE, 5) => "Attribute Length Error",
        (code::UPDATE, 6) => "Invalid ORIGIN Attribute",
        (code::UPDATE, 7) => "AS Routing Loop",
        (code::UPDATE, 8) => "Invalid NEXT_HOP Attribute",
        (code::UPDATE, 9) => "Optional Attribute Error",
        (code::UPDATE, 10) => "Invalid Network Field",
        (code::UPDATE, 11) => "Malformed AS_PATH",
        (code::FSM, 1) => "Unexpected Message in OpenSent",
        (code::FSM, 2) => "Unexpected Message in OpenConfirm",
        (code::FSM, 3) => "Unexpected Message in Established",
        (code::CEASE, cease::MAX_PREFIXES) => "Maximum Number of Prefixes Reached",
        (code::CEASE, cease::ADMIN_SHUTDOWN) => "Administrative Shutdown",
        (code::CEASE, cease::PEER_DECONFIGURED) => "Peer De-configured",
        (code::CEASE, cease::ADMIN_RESET) => "Administrative Reset",
        (code::CEASE, cease::CONNECTION_REJECTED) => "Connection Rejected",
        (code::CEASE, cease::OTHER_CONFIGURATION_CHANGE) => "Other Configuration Change",
        (code::CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (code::CEASE, cease::OUT_OF_RESOURCES) => "Out of Resources",
        (code::CEASE, cease::HARD_RESET) => "Hard Reset",
        (code::CEASE, cease::BFD_DOWN) => "BFD Down",
        (code::REFRESH, 1) => "Invalid Message Length",
        _ => "",
    };
    (name, detail)
}

/// Names of the capabilities in a list of triples (RFC 5492 §4).
fn fmt_capabilities(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    match Capability::decode_list(data) {
        Some(list) if !list.is_empty() => list.iter().enumerate().try_for_each(|(at, capability)| {
            write!(f, "{}{capability}", if at == 0 { ", " } else { " and " })
        }),
        _ => fmt_octets(f, data),
    }
}

/// At most 32 octets in hexadecimal.
fn fmt_octets(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    f.write_str(", data")?;
    data.iter()
        .take(32)
        .try_for_each(|octet| write!(f, " {octet:02x}"))?;
    f.write_str(if data.len() > 32 { " …" } else { "" })
}
