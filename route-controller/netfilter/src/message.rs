//! Netlink messages and attributes as bytes (RFC 3549 §2).

/// Asks for an answer.
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
/// The attribute holds others.
pub(crate) const NESTED: u16 = 0x8000;
/// A list's items.
pub(crate) const LIST_ELEM: u16 = 1 | NESTED;

const REQUEST: u16 = 0x1;
/// Length of a message's header.
pub(crate) const HEADER: usize = 16;

/// Messages, one after the other.
#[derive(Debug, Default, Clone)]
pub(crate) struct Messages {
    pub(crate) bytes: Vec<u8>,
    start: usize,
}

impl Messages {
    /// Begins a message with nfnetlink's header.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.start = self.bytes.len();
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        let [high, low] = resource.to_be_bytes();
        self.bytes.extend([family, 0, high, low]);
        self.close_message();
    }

    /// Adds flags to the message that was begun last.
    pub(crate) fn add_flags(&mut self, flags: u16) {
        if let Some(field) = self.bytes.get_mut(self.start + 6..self.start + 8) {
            let old = u16_at(field, 0).unwrap_or_default();
            field.copy_from_slice(&(old | flags).to_ne_bytes());
        }
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        attr(&mut self.bytes, kind, value);
        self.close_message();
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        text(&mut self.bytes, kind, value);
        self.close_message();
    }

    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
        nest(&mut self.bytes, kind, inner);
        self.close_message();
    }

    /// Appends attributes that are bytes already.
    pub(crate) fn append(&mut self, attributes: &[u8]) {
        self.bytes.extend(attributes);
        self.close_message();
    }

    /// Adds to the sequence number of each message.
    pub(crate) fn add_to_sequences(&mut self, first: u32) {
        let mut at = 0;
        while let (Some(length), Some(sequence)) = (u32_at(&self.bytes, at), u32_at(&self.bytes, at + 8)) {
            if let Some(field) = self.bytes.get_mut(at + 8..at + 12) {
                field.copy_from_slice(&sequence.wrapping_add(first).to_ne_bytes());
            }
            at += usize::try_from(length)
                .unwrap_or(usize::MAX)
                .next_multiple_of(4)
                .max(4);
        }
    }

    fn close_message(&mut self) {
        let length = self.bytes.len().saturating_sub(self.start);
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes();
        if let Some(field) = self.bytes.get_mut(self.start..self.start + 4) {
            field.copy_from_slice(&length);
        }
    }
}

/// Appends an attribute.
pub(crate) fn attr(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends a number in network order.
pub(crate) fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attr(out, kind, &value.to_be_bytes());
}

/// Appends a zero-terminated text.
pub(crate) fn text(out: &mut Vec<u8>, kind: u16, value: &str) {
    let length = u16::try_from(value.len() + 5).unwrap_or(u16::MAX);
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds others.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    attr(out, kind | NESTED, &[]);
    inner(out);
    let length = u16::try_from(out.len() - at).unwrap_or(u16::MAX).to_ne_bytes();
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&length);
    }
}

/// Walks attributes.
#[derive(Debug, Clone)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn nested(&self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// A number in network order.
    pub(crate) fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn text(&self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A message as received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Who caused a notification.
    pub(crate) port: u32,
    /// All after the netlink header.
    pub(crate) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes after nfnetlink's header.
    pub(crate) fn attrs(&self) -> Attrs<'a> {
        Attrs(self.body.get(4..).unwrap_or_default())
    }
}

/// The messages of a datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let received = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_written() {
        let mut out = Vec::new();
        nest(&mut out, 4, |inner| {
            text(inner, 1, "abc");
            number(inner, 2, 7);
        });
        attr(&mut out, 5, &[9]);
        let attrs = Attrs(&out);
        assert_eq!(attrs.nested(4).text(1), Some("abc"));
        assert_eq!(attrs.nested(4).u32(2), Some(7));
        assert_eq!(attrs.get(5), Some(&[9][..]));
        assert_eq!(out.len() % 4, 0);
    }

    #[test]
    fn a_message_that_is_cut_short_is_none() {
        let mut all = Messages::default();
        all.begin(1, 0, 5, 1, 0);
        all.number(1, 2);
        assert_eq!(messages(&all.bytes).count(), 1);
        for end in 0..all.bytes.len() {
            assert_eq!(messages(&all.bytes[..end]).count(), 0, "{end}");
        }
    }
}
