//! Netlink's framing (linux/netlink.h): a header before each message, attributes of type, length and value in it, all
//! padded to four octets, in the host's byte order. Pure.

/// Octets of `nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// Appends a message: its header, then what `body` appends.
pub(crate) fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]); // the length, when it is known
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]); // the kernel
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    patch(out, start, &length.to_ne_bytes());
}

/// Appends an attribute: its header, what `value` appends, padding.
pub(crate) fn attribute(out: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    value(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    patch(out, start, &length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Writes octets that were not known when their place was made.
pub(crate) fn patch(out: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = out.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// The messages of a datagram, each with its header; ends where one does not fit.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|_| length >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in these octets, by type without its flags; ends where one does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let (kind, value) = (half(bytes, 2)? & 0x3fff, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The type of a message.
pub(crate) fn kind(message: &[u8]) -> u16 {
    half(message, 4).unwrap_or(0)
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
