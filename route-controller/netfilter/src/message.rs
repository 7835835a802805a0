//! nfnetlink's messages and attributes as bytes: numbers are in network order, and a header of its own follows netlink's.

use linux::netlink::{Attributes, Message, NESTED, REQUEST, frame, u16_at, u32_at};

/// A list's items.
pub(crate) const LIST_ELEM: u16 = 1 | NESTED;

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
        frame::header(&mut self.bytes, kind, flags | REQUEST, sequence);
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
        frame::set_message_length(&mut self.bytes, self.start);
    }
}

/// Appends an attribute.
pub(crate) fn attr(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    frame::attribute(out, kind, |out| out.extend(value));
}

/// Appends a number in network order.
pub(crate) fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attr(out, kind, &value.to_be_bytes());
}

/// Appends a zero-terminated text.
pub(crate) fn text(out: &mut Vec<u8>, kind: u16, value: &str) {
    frame::attribute(out, kind, |out| {
        out.extend(value.as_bytes());
        out.push(0);
    });
}

/// Appends an attribute that holds others.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    frame::attribute(out, kind | NESTED, inner);
}

/// Attributes whose numbers are in network order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    /// Those after nfnetlink's header.
    pub(crate) fn of(message: &Message<'a>) -> Self {
        Self(message.body().get(4..).unwrap_or_default())
    }

    pub(crate) fn iter(self) -> Attributes<'a> {
        Attributes(self.0)
    }

    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().get(kind)
    }

    pub(crate) fn nested(self, kind: u16) -> Self {
        Self(self.get(kind).unwrap_or_default())
    }

    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        self.iter().text(kind)
    }
}

#[cfg(test)]
mod tests {
    use linux::netlink::messages;

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
