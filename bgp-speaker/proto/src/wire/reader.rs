//! Basic parsers for big-endian numbers and slices, on nom.
//!
//! Errors carry no data: each caller knows which error a short read means (RFC 4271 §6). No other module uses
//! nom.

use nom::bytes::complete::take as nom_take;
use nom::number::complete::{be_u8, be_u16, be_u32};

/// The rest of the input and a value; the error means "too short".
pub(super) type Parsed<'a, T> = nom::IResult<&'a [u8], T, ()>;

/// One octet.
pub(super) fn octet(input: &[u8]) -> Parsed<'_, u8> {
    be_u8(input)
}

/// Two octets, network order.
pub(super) fn short(input: &[u8]) -> Parsed<'_, u16> {
    be_u16(input)
}

/// Four octets, network order.
pub(super) fn long(input: &[u8]) -> Parsed<'_, u32> {
    be_u32(input)
}

/// `count` octets.
pub(super) fn take(input: &[u8], count: usize) -> Parsed<'_, &[u8]> {
    nom_take(count)(input)
}

/// An (AFI, SAFI) pair, three octets (RFC 4760 §3).
pub(super) fn afi_safi(input: &[u8]) -> Parsed<'_, (u16, u8)> {
    let (input, afi) = short(input)?;
    let (input, safi) = octet(input)?;
    Ok((input, (afi, safi)))
}
