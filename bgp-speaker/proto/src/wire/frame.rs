//! Framing (RFC 4271 §4.1, §6.1; RFC 8654): cuts whole messages out of a connection's read buffer.
//!
//! Checks the header (marker, length and type) and returns the exact header error for each fault, as soon as
//! the octets that show it have arrived. The body is not inspected.

use ::bytes::{BufMut, Bytes, BytesMut};

use super::DecodeError;

/// Octets of the header: marker 16, length 2, type 1 (RFC 4271 §4.1).
pub const HEADER_LEN: usize = 19;
/// Longest message, in octets, header included (RFC 4271 §4.1).
pub const MAX_LEN: usize = 4096;
/// Longest message if both sides offered extended messages (RFC 8654 §4).
pub const MAX_LEN_EXTENDED: usize = 65535;

pub(super) const MARKER: [u8; 16] = [0xFF; 16];

/// Type of a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MessageKind {
    /// 1.
    Open,
    /// 2.
    Update,
    /// 3.
    Notification,
    /// 4.
    Keepalive,
    /// 5, ROUTE-REFRESH (RFC 2918).
    Refresh,
}

impl MessageKind {
    /// The type octet, 1–5.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            MessageKind::Open => 1,
            MessageKind::Update => 2,
            MessageKind::Notification => 3,
            MessageKind::Keepalive => 4,
            MessageKind::Refresh => 5,
        }
    }

    /// The kind of a type octet.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(MessageKind::Open),
            2 => Some(MessageKind::Update),
            3 => Some(MessageKind::Notification),
            4 => Some(MessageKind::Keepalive),
            5 => Some(MessageKind::Refresh),
            _ => None,
        }
    }

    /// Shortest and longest length of a type, header included.
    fn bounds(self, extended: bool) -> (usize, usize) {
        let max = if extended { MAX_LEN_EXTENDED } else { MAX_LEN };
        match self {
            // RFC 8654 §4: OPEN and KEEPALIVE are never extended.
            MessageKind::Open => (29, MAX_LEN),
            MessageKind::Keepalive => (HEADER_LEN, HEADER_LEN),
            MessageKind::Update => (23, max),
            MessageKind::Notification => (21, max),
            // The length depends on the subtype (RFC 7313 §5): `Refresh::decode` checks it.
            MessageKind::Refresh => (HEADER_LEN, max),
        }
    }
}

impl std::fmt::Display for MessageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            MessageKind::Open => "OPEN",
            MessageKind::Update => "UPDATE",
            MessageKind::Notification => "NOTIFICATION",
            MessageKind::Keepalive => "KEEPALIVE",
            MessageKind::Refresh => "ROUTE-REFRESH",
        })
    }
}

/// A message without its header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Type of the message.
    pub kind: MessageKind,
    /// The octets after the header.
    pub body: Bytes,
}

/// Removes the first whole message from `buf`; `Ok(None)` if it is incomplete. `extended`: messages of up to
/// [`MAX_LEN_EXTENDED`] octets are negotiated.
///
/// # Errors
/// The header errors of RFC 4271 §6.1, also before the body has arrived; `buf` is then unchanged.
pub fn cut_frame(buf: &mut BytesMut, extended: bool) -> Result<Option<Frame>, DecodeError> {
    // RFC 4271 §6.1: a marker other than all ones is Connection Not Synchronized.
    if !buf.iter().zip(&MARKER).all(|(found, expected)| found == expected) {
        return Err(DecodeError::NotSynchronized);
    }
    let Some((&[high, low, code], _)) = buf.get(16..).and_then(|rest| rest.split_first_chunk()) else {
        return Ok(None);
    };
    let length = u16::from_be_bytes([high, low]);
    let size = usize::from(length);
    let max = if extended { MAX_LEN_EXTENDED } else { MAX_LEN };
    // RFC 4271 §6.1: the data of Bad Message Length is the length, of Bad Message Type the type.
    if !(HEADER_LEN..=max).contains(&size) {
        return Err(DecodeError::BadLength { length });
    }
    let kind = MessageKind::from_code(code).ok_or(DecodeError::BadType { code })?;
    let (least, most) = kind.bounds(extended);
    if !(least..=most).contains(&size) {
        return Err(DecodeError::BadLength { length });
    }
    if buf.len() < size {
        return Ok(None);
    }
    let message = buf.split_to(size).freeze();
    Ok(Some(Frame {
        kind,
        body: message.slice(HEADER_LEN..),
    }))
}

/// A KEEPALIVE (RFC 4271 §4.4), without an allocation.
#[must_use]
pub fn keepalive() -> Bytes {
    const MESSAGE: [u8; HEADER_LEN] = {
        let mut message = [0xFF; HEADER_LEN];
        let [.., high, low, kind] = &mut message;
        (*high, *low, *kind) = (0, 19, 4);
        message
    };
    Bytes::from_static(&MESSAGE)
}

/// Writes a header without length and returns the start of the message.
pub(super) fn begin(out: &mut BytesMut, kind: MessageKind) -> usize {
    let start = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(kind.code());
    start
}

/// Sets the length of the message that begins at `start`. The caller keeps it within 65535 octets.
pub(super) fn finish(out: &mut BytesMut, start: usize) {
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    put_u16_at(out, start + 16, length);
}

/// Overwrites two octets.
pub(super) fn put_u16_at(out: &mut BytesMut, at: usize, value: u16) {
    if let Some(place) = out.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// A whole message with a short body.
pub(crate) fn message(kind: MessageKind, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_LEN + body.len());
    let start = begin(&mut out, kind);
    out.put_slice(body);
    finish(&mut out, start);
    out.freeze()
}
