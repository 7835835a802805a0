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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_framed_is_found_again() {
        let mut out = Vec::new();
        message(&mut out, 24, 5, 7, |body| {
            attribute(body, 1, |value| value.extend([1, 2, 3]));
            attribute(body, 0x8002, |value| {
                attribute(value, 9, |inner| inner.extend([4]))
            });
        });
        message(&mut out, 25, 0, 8, |_| {});
        let found: Vec<&[u8]> = messages(&out).collect();
        assert_eq!(
            found.iter().map(|message| kind(message)).collect::<Vec<_>>(),
            [24, 25]
        );
        assert_eq!((half(found[0], 6), word(found[0], 8)), (Some(5), Some(7)));
        let list: Vec<_> = attributes(&found[0][HEADER..]).collect();
        assert_eq!(
            (list[0], list[1].0),
            ((1, &[1, 2, 3][..]), 2),
            "without the flag of nesting"
        );
        assert_eq!(attributes(list[1].1).collect::<Vec<_>>(), [(9, &[4][..])]);
        // A datagram that was cut ends with the last whole message.
        assert_eq!(messages(&out[..out.len() - 1]).count(), 1);
        assert_eq!(messages(&[16, 0, 0]).count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// Lengths that lie end the walk: it never reads beyond, and never stands still.
        #[test]
        fn any_octets(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let found: usize = messages(&bytes).map(<[u8]>::len).sum();
            prop_assert!(found <= bytes.len());
            for (_, value) in attributes(&bytes) {
                prop_assert!(value.len() < bytes.len());
            }
        }
    }
}
