//! Netlink's framing (linux/netlink.h): a header before each message, in it attributes of length, type and value, all
//! padded to four octets, in the host's byte order. Pure.
//!
//! What is cut short ends an iteration; no input panics.

/// Octets of `nlmsghdr`.
pub const HEADER: usize = 16;

/// A message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The port of the socket that asked for it; in a notification, of the socket that caused it.
    pub port: u32,
    /// Header and body.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// The error number of NLMSG_ERROR or NLMSG_DONE, positive; 0: success.
    pub fn errno(&self) -> i32 {
        u32_at(self.body(), 0).map_or(0, |code| code.cast_signed().wrapping_neg())
    }

    /// The kernel's own explanation in an NLMSG_ERROR (extended acknowledgement); often empty.
    pub fn explanation(&self) -> &'a str {
        const NLM_F_CAPPED: u16 = 0x100;
        const NLM_F_ACK_TLVS: u16 = 0x200;
        const NLMSGERR_ATTR_MSG: u16 = 1;
        // The error code and the header of the request; the request itself is left out (NETLINK_CAP_ACK).
        const FIXED: usize = 4 + HEADER;
        if self.flags & NLM_F_ACK_TLVS == 0 || self.flags & NLM_F_CAPPED == 0 {
            return "";
        }
        Attributes(self.body().get(FIXED..).unwrap_or_default())
            .text(NLMSGERR_ATTR_MSG)
            .unwrap_or_default()
    }
}

/// The messages of a datagram.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = bytes.get(..length).filter(|_| length >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            port: u32_at(message, 12)?,
            bytes: message,
        })
    })
}

/// The attributes in these octets: type (without its flags) and value.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a type.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// A number of 32 bits.
    pub fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    /// A text, with or without a zero at its end.
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Appends a message: its header, then what `body` appends.
pub fn message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    header(out, kind, flags, sequence);
    body(out);
    set_message_length(out, start);
}

/// Appends an attribute: its header, what `value` appends, padding.
pub fn attribute(out: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    value(out);
    set_length(out, start);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends `nlmsghdr` with a length of zero.
pub fn header(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32) {
    out.extend([0; 4]); // the length, when it is known
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]); // the port: the kernel
}

/// Writes the length (32 bits) of the message that begins at `start` and ends here.
pub fn set_message_length(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len().saturating_sub(start)).unwrap_or(u32::MAX);
    patch(out, start, &length.to_ne_bytes());
}

/// Writes the length (16 bits) of an attribute or an array's element that begins at `start` and ends here.
pub fn set_length(out: &mut [u8], start: usize) {
    let length = u16::try_from(out.len().saturating_sub(start)).unwrap_or(u16::MAX);
    patch(out, start, &length.to_ne_bytes());
}

/// Overwrites octets at an offset.
fn patch(out: &mut [u8], at: usize, octets: &[u8]) {
    if let Some(place) = out.get_mut(at..at + octets.len()) {
        place.copy_from_slice(octets);
    }
}

/// A number of 16 bits at an offset.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// A number of 32 bits at an offset.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_and_attributes_read_back() {
        let mut bytes = Vec::new();
        message(&mut bytes, 24, 5, 7, |out| {
            attribute(out, 1, |out| out.extend([1, 2, 3, 4, 5]));
            attribute(out, 2 | 0x8000, |out| out.extend(9u32.to_ne_bytes()));
        });
        message(&mut bytes, 25, 0, 8, |_| ());
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (24, 5, 7));
        let attributes = Attributes(all[0].body());
        assert_eq!(attributes.get(1), Some([1, 2, 3, 4, 5].as_slice()));
        assert_eq!(attributes.u32(2), Some(9));
        assert_eq!((all[1].kind, all[1].body()), (25, [].as_slice()));
        // A datagram that was cut ends with the last whole message.
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(messages(&[16, 0, 0]).count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..300), small in 0_u8..64) {
            let mut bytes = bytes;
            // A plausible length, so that more than the first check is reached.
            for (to, from) in bytes.iter_mut().zip([small, 0, 0, 0]) {
                *to = from;
            }
            let count: usize = messages(&bytes).map(|m| Attributes(m.body()).count() + 1).sum();
            prop_assert!(count <= bytes.len());
            prop_assert!(Attributes(&bytes).count() <= bytes.len());
        }
    }
}
