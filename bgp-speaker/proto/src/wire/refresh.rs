//! ROUTE-REFRESH (RFC 2918 §3) with the subtypes of RFC 7313 §3.2.
//!
//! Decoding also checks the length of the message, which depends on the subtype. Unknown families and
//! subtypes are ignored.

use ::bytes::Bytes;

use super::frame::message;
use super::reader::{octet, short};
use super::{DecodeError, HEADER_LEN, MessageKind};
use crate::types::Family;

/// Subtype of a ROUTE-REFRESH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefreshKind {
    /// Request to send routes again (0).
    Request,
    /// BoRR (1): begin of the route refresh.
    Begin,
    /// EoRR (2): end of the route refresh.
    End,
}

/// A decoded ROUTE-REFRESH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refresh {
    /// The family.
    pub family: Family,
    /// The subtype.
    pub kind: RefreshKind,
}

impl Refresh {
    /// Decodes the body. `Ok(None)` for an unknown family or subtype (RFC 7313 §5: ignored).
    ///
    /// # Errors
    /// BoRR or EoRR of a wrong length: [`DecodeError::RefreshLength`] with the message; a request of a wrong
    /// length: [`DecodeError::BadLength`].
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

/// SAFI unicast (RFC 4760 §6), the only one supported.
pub(super) const SAFI_UNICAST: u8 = 1;
