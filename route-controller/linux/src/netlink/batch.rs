//! Messages that are sent together, and what the kernel answers to them.
//!
//! The kernel reports every failure unasked, so only the last message of a batch asks for an acknowledgement: one
//! send and, when all goes well, one answer, however many messages there are.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::frame::{self, Attributes, messages, u16_at};
use super::{ACK, DUMP_INTERRUPTED, NLMSG_DONE, NLMSG_ERROR, REQUEST};
use crate::Error;

/// More messages than any batch has: each batch of a process has its own sequence numbers.
const SEQUENCES_PER_BATCH: u32 = 1 << 16;
static NEXT_BASE: AtomicU32 = AtomicU32::new(1);

/// Many messages in one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message does, for its error; the index is the sequence number, less `base`.
    actions: Vec<String>,
    /// The first message's sequence number.
    base: u32,
    /// Where the last message begins.
    start: usize,
    /// The last message that the kernel answers.
    last_answered: usize,
    is_transaction: bool,
}

impl Batch {
    /// A batch of which the kernel applies all or nothing; the messages that are answered carry [`ACK`] themselves.
    /// After a failure no further answer is awaited.
    pub fn transaction() -> Self {
        Self {
            is_transaction: true,
            ..Self::default()
        }
    }

    /// Begins a message with the fixed header of its protocol; `action` completes "cannot …".
    pub fn begin(&mut self, kind: u16, flags: u16, header: &[u8], action: impl Into<String>) {
        self.start = self.bytes.len();
        if self.actions.is_empty() {
            self.base = NEXT_BASE.fetch_add(SEQUENCES_PER_BATCH, Ordering::Relaxed);
        }
        let index = u32::try_from(self.actions.len()).unwrap_or(u32::MAX);
        if !self.is_transaction || flags & ACK != 0 {
            self.last_answered = self.actions.len();
        }
        self.actions.push(action.into());
        frame::header(
            &mut self.bytes,
            kind,
            flags | REQUEST,
            self.base.wrapping_add(index),
        );
        self.raw(header);
    }

    /// Appends octets that are no attribute: a header inside a nested attribute.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.pad();
    }

    /// Appends an attribute to the last message.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        frame::attribute(&mut self.bytes, kind, |out| out.extend(value));
        self.pad();
    }

    /// Appends a zero-terminated text.
    pub fn text(&mut self, kind: u16, value: &str) {
        frame::attribute(&mut self.bytes, kind, |out| {
            out.extend(value.as_bytes());
            out.push(0);
        });
        self.pad();
    }

    /// Appends an attribute that holds the attributes that `inner` appends.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attr(kind, &[]);
        inner(self);
        frame::set_length(&mut self.bytes, start);
    }

    /// Attributes alone, without a message around them.
    pub fn attributes(build: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut batch = Self::default();
        build(&mut batch);
        batch.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The error for a failure of one of the messages.
    pub fn error(&self, failure: &Failure) -> Error {
        let action = self
            .actions
            .get(failure.index)
            .map_or("send netlink messages", String::as_str);
        Error {
            action: action.to_owned(),
            errno: failure.errno,
            detail: failure.detail.clone(),
        }
    }

    /// The error for a listing that was interrupted each time.
    pub(super) fn interrupted(&self) -> Error {
        let action = self.actions.last().map_or("list kernel objects", String::as_str);
        Error {
            detail: "they changed each time they were listed".into(),
            ..Error::new(action, Errno::EINTR)
        }
    }

    /// The bytes, with an acknowledgement requested by the last message.
    pub(super) fn request(&mut self) -> &[u8] {
        let flags = self.bytes.get_mut(self.start + 6..self.start + 8);
        if let Some(flags) = flags.filter(|_| !self.is_transaction) {
            let old = u16_at(flags, 0).unwrap_or_default();
            flags.copy_from_slice(&(old | ACK).to_ne_bytes());
        }
        &self.bytes
    }

    /// Takes in one datagram; true when no further answer is awaited. Answers to an earlier batch (a transaction that
    /// failed has more than one) are ignored.
    pub(super) fn read_answers(&self, datagram: &[u8], outcome: &mut Outcome) -> bool {
        let mut is_complete = false;
        for message in messages(datagram) {
            let index = usize::try_from(message.sequence.wrapping_sub(self.base)).unwrap_or(usize::MAX);
            if index >= self.actions.len() {
                continue;
            }
            outcome.is_interrupted |= message.flags & DUMP_INTERRUPTED != 0;
            match message.kind {
                NLMSG_ERROR => {
                    if message.errno() != 0 {
                        outcome.failures.push(Failure {
                            index,
                            errno: Errno::from_raw(message.errno()),
                            detail: message.explanation().to_owned(),
                        });
                    }
                    is_complete |= index == self.last_answered;
                }
                NLMSG_DONE => is_complete |= index == self.last_answered,
                _ => outcome.replies.push(Reply {
                    body: message.body().to_vec(),
                }),
            }
        }
        is_complete || (self.is_transaction && !outcome.failures.is_empty())
    }

    /// Pads to four octets and sets the length of the last message.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        if !self.actions.is_empty() {
            frame::set_message_length(&mut self.bytes, self.start);
        }
    }
}

/// An answer that carries data.
#[derive(Debug)]
pub struct Reply {
    pub body: Vec<u8>,
}

impl Reply {
    /// The attributes after a fixed header of `skip` octets.
    pub fn attrs(&self, skip: usize) -> Attributes<'_> {
        Attributes(self.body.get(skip..).unwrap_or_default())
    }
}

/// A message that the kernel refused.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which message of the batch.
    pub index: usize,
    pub errno: Errno,
    /// The kernel's own explanation; often empty.
    pub detail: String,
}

/// The answers to a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    pub replies: Vec<Reply>,
    pub failures: Vec<Failure>,
    /// What was listed changed meanwhile: the replies may lack objects.
    pub is_interrupted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::frame::HEADER;
    use crate::netlink::u32_at;

    #[test]
    fn lengths_cover_messages_and_nested_attributes() {
        let mut batch = Batch::default();
        batch.begin(16, 0, &[1, 2, 3, 4], "test");
        batch.nest(18, |inner| inner.text(1, "veth"));
        let bytes = batch.request();
        // Header 16, body 4, nest 4, attribute 4 + 5 padded to 12.
        assert_eq!(u32_at(bytes, 0), Some(36));
        assert_eq!(u16_at(bytes, 6), Some(REQUEST | ACK));
        assert_eq!((u16_at(bytes, 20), u16_at(bytes, 22)), (Some(16), Some(18)));
        assert_eq!((u16_at(bytes, 24), bytes.len()), (Some(9), 36));
        let outer = Attributes(&bytes[20..]).get(18).unwrap();
        assert_eq!(Attributes(outer).text(1), Some("veth"));
    }

    #[test]
    fn only_the_last_message_asks_for_an_answer() {
        let mut batch = Batch::default();
        batch.begin(16, 0, &[], "first");
        batch.begin(17, 0, &[], "second");
        let flags: Vec<u16> = messages(batch.request()).map(|m| m.flags).collect();
        assert_eq!(flags, [REQUEST, REQUEST | ACK]);
    }

    #[test]
    fn a_failure_carries_the_kernels_explanation() {
        let mut batch = Batch::default();
        batch.begin(16, 0, &[], "add interface a");
        let mut datagram = Vec::new();
        // CAPPED and ACK_TLVS.
        frame::message(&mut datagram, NLMSG_ERROR, 0x300, batch.base, |out| {
            out.extend((-17_i32).to_ne_bytes());
            out.extend([0; HEADER]);
            frame::attribute(out, 1, |out| out.extend(b"exists\0"));
        });
        let mut outcome = Outcome::default();
        let mut later = Batch::default();
        later.begin(16, 0, &[], "another");
        assert!(
            !later.read_answers(&datagram, &mut outcome),
            "an earlier batch's answer"
        );
        assert!(outcome.failures.is_empty());
        assert!(batch.read_answers(&datagram, &mut outcome));
        let error = batch.error(&outcome.failures[0]);
        assert_eq!(error.to_string(), "cannot add interface a: File exists (exists)");
    }
}
