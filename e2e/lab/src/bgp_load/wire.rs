//! Messages of the load, and the frames of what comes back.

use std::net::Ipv4Addr;

pub(super) const OPEN: u8 = 1;
pub(super) const UPDATE: u8 = 2;
pub(super) const NOTIFICATION: u8 = 3;
pub(super) const KEEPALIVE: u8 = 4;
/// Octets of a message's header (RFC 4271 §4.1).
pub(super) const HEADER: usize = 19;
/// Largest message without RFC 8654.
pub(super) const LARGEST: usize = 4096;

/// Appends a message with a correct header.
pub(super) fn message(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    out.extend([0xff; 16]);
    out.extend(
        u16::try_from(length)
            .expect("a message of at most 65,535 octets")
            .to_be_bytes(),
    );
    out.push(kind);
    parts.iter().for_each(|part| out.extend(*part));
}

/// An OPEN with IPv4 unicast and four-octet AS numbers, hold time 240 s.
pub(super) fn open(asn: u32, id: Ipv4Addr) -> Vec<u8> {
    let short = u16::try_from(asn).unwrap_or(23456).to_be_bytes();
    let mut body = vec![4, short[0], short[1], 0, 240];
    body.extend(id.octets());
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    let length = u8::try_from(capabilities.len()).expect("few capabilities");
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    let mut out = Vec::new();
    message(&mut out, OPEN, &[&body]);
    out
}

/// The first whole message: its type, its body, and its length.
pub(super) fn frame(octets: &[u8]) -> Option<(u8, &[u8], usize)> {
    let length = usize::from(u16::from_be_bytes([*octets.get(16)?, *octets.get(17)?]));
    let whole = octets.get(..length.max(HEADER))?;
    Some((whole[18], &whole[HEADER..], whole.len()))
}
