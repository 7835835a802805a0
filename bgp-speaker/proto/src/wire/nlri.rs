//! Prefix lists (RFC 4271 §4.3, RFC 4760 §5), with or without path identifiers (RFC 7911 §3).
//!
//! Decodes into the caller's vector. Host bits beyond the length are cleared, since they are irrelevant (RFC
//! 4271 §4.3). The caller decides whether an error ends the session.

use ::bytes::BufMut;

use super::Nlri;
use super::reader::{Parsed, long, octet, take};
use crate::types::{Family, PathId, Prefix};

/// Why a prefix list cannot be decoded (RFC 7606 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum NlriFault {
    /// A length beyond that of the family.
    #[error("a prefix length of {0} bits")]
    Length(u8),
    /// The list ends inside a prefix or its path identifier.
    #[error("it ends inside a prefix")]
    Truncated,
}

/// Appends the prefixes of `bytes` to `out`; with `add_path` each has a path identifier.
///
/// # Errors
/// [`NlriFault`]; `out` then holds the prefixes before the fault.
pub fn decode_nlri(
    family: Family,
    add_path: bool,
    bytes: &[u8],
    out: &mut Vec<Nlri>,
) -> Result<(), NlriFault> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut path_id = PathId::default();
        if add_path {
            let (tail, id) = long(rest).map_err(|_| NlriFault::Truncated)?;
            (rest, path_id) = (tail, PathId(id));
        }
        let (tail, len) = octet(rest).map_err(|_| NlriFault::Truncated)?;
        // RFC 7606 §5.3: the rest of the list cannot be decoded.
        if len > family.max_len() {
            return Err(NlriFault::Length(len));
        }
        let read = match family {
            Family::Ipv4 => v4_prefix(tail, len),
            Family::Ipv6 => v6_prefix(tail, len),
        };
        let (tail, prefix) = read.map_err(|_| NlriFault::Truncated)?;
        out.push(Nlri { path_id, prefix });
        rest = tail;
    }
    Ok(())
}

/// Reads four octets at once if available; the mask removes those of the next prefix.
#[inline]
fn v4_prefix(input: &[u8], len: u8) -> Parsed<'_, Prefix> {
    let (rest, octets) = take(input, usize::from(len.div_ceil(8)))?;
    let bits = match input.first_chunk() {
        Some(whole) => u32::from_be_bytes(*whole),
        None => octets
            .iter()
            .zip([24, 16, 8, 0])
            .fold(0, |bits, (octet, shift)| bits | u32::from(*octet) << shift),
    };
    Ok((rest, Prefix::v4(bits, len)))
}

/// As [`v4_prefix`], for 16 octets.
#[inline]
fn v6_prefix(input: &[u8], len: u8) -> Parsed<'_, Prefix> {
    let (rest, octets) = take(input, usize::from(len.div_ceil(8)))?;
    let bits = match input.first_chunk() {
        Some(whole) => u128::from_be_bytes(*whole),
        None => {
            let mut whole = [0; 16];
            whole.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
            u128::from_be_bytes(whole)
        }
    };
    Ok((rest, Prefix::v6(bits, len)))
}

/// Encoded length of a prefix in octets.
#[must_use]
pub fn nlri_len(nlri: &Nlri, add_path: bool) -> usize {
    1 + usize::from(nlri.prefix.len().div_ceil(8)) + if add_path { 4 } else { 0 }
}

/// Encodes a prefix, with its path identifier if `add_path` is set.
pub fn encode_nlri(out: &mut impl BufMut, nlri: &Nlri, add_path: bool) {
    if add_path {
        out.put_u32(nlri.path_id.0);
    }
    out.put_u8(nlri.prefix.len());
    let octets = nlri.prefix.aligned_bits().to_be_bytes();
    let count = usize::from(nlri.prefix.len().div_ceil(8));
    out.put_slice(octets.get(..count).unwrap_or_default());
}
