//! ROUTE-REFRESH (RFC 2918 §3) with the subtypes of RFC 7313 §3.2.
//!
//! Decides the length of the message too, since it depends on the subtype. What we do not carry or
//! know is no error: the message is ignored.

use ::bytes::Bytes;

use super::frame::message;
use super::reader::{octet, short};
use super::{DecodeError, HEADER_LEN, MessageKind};
use crate::types::Family;

/// Which refresh message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefreshKind {
    /// Send your routes again (0).
    Request,
    /// BoRR (1): the resend begins.
    Begin,
    /// EoRR (2): the resend is done.
    End,
}

/// A decoded ROUTE-REFRESH for a family that we carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refresh {
    /// Which family.
    pub family: Family,
    /// Request or demarcation.
    pub kind: RefreshKind,
}

impl Refresh {
    /// Reads the body. `Ok(None)` for a family or subtype that we do not know (RFC 7313 §5: ignored).
    ///
    /// # Errors
    /// BoRR or EoRR of a wrong length: [`DecodeError::RefreshLength`] with the message; a request of a
    /// wrong length: [`DecodeError::BadLength`].
    pub fn decode(body: &[u8]) -> Result<Option<Self>, DecodeError> {
        let length = u16::try_from(HEADER_LEN + body.len()).unwrap_or(u16::MAX);
        let bad_length = DecodeError::BadLength { length };
        let fields = || -> super::reader::Parsed<'_, (u16, u8)> {
            let (rest, afi) = short(body)?;
            let (rest, subtype) = octet(rest)?;
            Ok((rest, (afi, subtype)))
        };
        let Ok((rest, (afi, subtype))) = fields() else {
            return Err(bad_length);
        };
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            // RFC 7313 §5: other subtypes are ignored.
            _ => return Ok(None),
        };
        match (rest, kind) {
            (&[safi], _) => Ok(Family::from_afi_safi(afi, safi).map(|family| Self { family, kind })),
            (_, RefreshKind::Request) => Err(bad_length),
            // RFC 7313 §5: the data is the complete message.
            _ => Err(DecodeError::RefreshLength {
                message: message(MessageKind::Refresh, body),
            }),
        }
    }

    /// The whole message, 23 octets.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let [high, low] = self.family.afi().to_be_bytes();
        let subtype = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
        };
        message(MessageKind::Refresh, &[high, low, subtype, SAFI_UNICAST])
    }
}

/// The SAFI of all that we carry (RFC 4760 §6).
pub(super) const SAFI_UNICAST: u8 = 1;
