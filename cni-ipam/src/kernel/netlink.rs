//! Netlink sockets and messages, as bytes: one buffer of many messages, one send, all answers read.
//!
//! Owns framing (RFC 3549 §2), attributes, sequence numbers and errors. Knows no message type's meaning:
//! that is in `link`, `veth` and `nft`. A request that the kernel does not answer fails after ten
//! seconds. Bytes from the kernel are read with bounds checked; what is cut short is ignored.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::error::{Error, Result};
use crate::kernel::sys;

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
const TIMEOUT_SECONDS: i64 = 10;
/// More messages than any batch has.
const BATCH_LIMIT: u32 = 1 << 16;
static NEXT_BASE: AtomicU32 = AtomicU32::new(1);

/// Many messages in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// What each message does, for its error; the index is the sequence number, less `base`.
    actions: Vec<String>,
    /// The first message's sequence number: no two batches of a process share any.
    base: u32,
    start: usize,
    /// The last message that the kernel will answer.
    awaited: usize,
    /// A transaction: after one failure no more answers need come.
    is_transaction: bool,
}

impl Batch {
    /// A batch of which the kernel takes all or nothing.
    pub(crate) fn transaction() -> Self {
        Self {
            is_transaction: true,
            ..Self::default()
        }
    }

    /// Begins a message; `action` completes "cannot …".
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, body: &[u8], action: impl Into<String>) {
        self.start = self.bytes.len();
        if self.actions.is_empty() {
            self.base = NEXT_BASE.fetch_add(BATCH_LIMIT, Ordering::Relaxed);
        }
        let sequence = self
            .base
            .wrapping_add(u32::try_from(self.actions.len()).unwrap_or(u32::MAX));
        if !self.is_transaction || flags & ACK != 0 {
            self.awaited = self.actions.len();
        }
        self.actions.push(action.into());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.raw(body);
    }

    /// Bytes, padded to four.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.close(self.start, true);
    }

    /// An attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(value);
    }

    /// A zero-terminated text.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// An attribute that holds others.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.attr(kind, &[]);
        inner(self);
        self.close(at, false);
    }

    /// Writes the length of the message or attribute that begins at `at` and ends here.
    fn close(&mut self, at: usize, is_message: bool) {
        let length = self.bytes.len().saturating_sub(at);
        let width = if is_message { 4 } else { 2 };
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes();
        // Little or big endian: the low half of the number is what a 16-bit length holds.
        let source = if is_message || cfg!(target_endian = "little") {
            &length
        } else {
            length.split_at(2).1
        };
        for (to, from) in self.bytes.iter_mut().skip(at).take(width).zip(source) {
            *to = *from;
        }
    }

    /// The bytes, with an answer asked for by the last message.
    fn asking(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let flags = bytes.get_mut(self.start + 6..self.start + 8);
        if let Some(flags) = flags.filter(|_| !self.is_transaction) {
            let old = u16_at(flags, 0).unwrap_or_default();
            flags.copy_from_slice(&(old | ACK).to_ne_bytes());
        }
        bytes
    }

    /// Attributes alone, without a message around them.
    pub(crate) fn attributes(build: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut batch = Self::default();
        batch.begin(0, 0, &[], "");
        build(&mut batch);
        batch.bytes.get(HEADER..).unwrap_or_default().to_vec()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

/// An answer that carries data.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The attributes after a fixed header of `skip` bytes.
    pub(crate) fn attrs(&self, skip: usize) -> Attrs<'_> {
        Attrs(self.body.get(skip..).unwrap_or_default())
    }
}

/// Walks attributes.
#[derive(Debug, Clone)]
pub(crate) struct Attrs<'a>(pub(crate) &'a [u8]);

impl<'a> Attrs<'a> {
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn u32(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_ne_bytes)
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

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A message's failure.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Which message of the batch.
    pub(crate) index: usize,
    pub(crate) errno: Errno,
    pub(crate) error_text: String,
}

/// What a batch brought back.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) replies: Vec<Reply>,
    pub(crate) failures: Vec<Failure>,
}

/// A netlink socket, in the namespace where it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// For links, addresses, routes and neighbours.
    pub(crate) fn route() -> Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For nftables.
    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> Result<Self> {
        let fail = |e| kernel_error("open a netlink socket", e, "");
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .map_err(fail)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS)).map_err(fail)?;
        // Words of explanation with errors, and errors without a copy of the request.
        sys::set_netlink_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1).map_err(fail)?;
        sys::set_netlink_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1).map_err(fail)?;
        Ok(Self { fd })
    }

    /// For links, addresses, routes and neighbours; a dump is of what its header names only (NETLINK_GET_STRICT_CHK).
    pub(crate) fn strict_route() -> Result<Self> {
        let socket = Self::route()?;
        // An older kernel lists all; readers leave out what they did not ask for.
        let _ = sys::set_netlink_option(socket.fd(), libc::NETLINK_GET_STRICT_CHK, 1);
        Ok(socket)
    }

    /// Subscribes to groups of notifications.
    pub(crate) fn join(&self, groups: &[i32]) -> Result<()> {
        let fail = |e| kernel_error("listen to the kernel's notifications", e, "");
        // Without an address of its own a socket gets no notification.
        bind(self.fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(fail)?;
        groups.iter().try_for_each(|group| {
            sys::set_netlink_option(self.fd(), libc::NETLINK_ADD_MEMBERSHIP, *group).map_err(fail)
        })
    }

    /// Has the kernel leave out notifications of routes of a protocol.
    pub(crate) fn drop_routes_of(&self, protocol: u8) -> Result<()> {
        sys::drop_routes_of(self.fd(), protocol)
            .map_err(|e| kernel_error("filter the kernel's notifications", e, ""))
    }

    /// Reads all notifications that are there; whether one of them matters (by kind, flags and body), or some were lost.
    pub(crate) fn notifications(&self, matters: impl Fn(u16, u16, &[u8]) -> bool) -> Result<bool> {
        let mut buffer = vec![0; 64 * 1024];
        let mut found = false;
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => {
                    let bytes = buffer.get(..size).unwrap_or_default();
                    found |= messages(bytes).any(|(kind, flags, body)| matters(kind, flags, body));
                }
                Err(Errno::EAGAIN) => return Ok(found),
                Err(Errno::ENOBUFS) => found = true,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(kernel_error("read notifications", e, "")),
            }
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends a batch, waits for all of it, and fails with the first failure.
    pub(crate) fn run(&self, batch: Batch) -> Result<Vec<Reply>> {
        let outcome = self.try_run(&batch)?;
        match outcome.failures.first() {
            None => Ok(outcome.replies),
            Some(failure) => Err(batch.error(failure)),
        }
    }

    /// Sends a batch and reads until its last message is answered. Only that one asks for an answer, for
    /// the kernel tells every failure unasked.
    pub(crate) fn try_run(&self, batch: &Batch) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        if batch.is_empty() {
            return Ok(outcome);
        }
        let fail = |e| kernel_error("talk netlink", e, "");
        send(self.fd.as_raw_fd(), &batch.asking(), MsgFlags::empty()).map_err(fail)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let size = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(size) => size,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(fail(e)),
            };
            let finished = read_answers(buffer.get(..size).unwrap_or_default(), batch, &mut outcome);
            if finished || (batch.is_transaction && !outcome.failures.is_empty()) {
                return Ok(outcome);
            }
        }
    }
}

impl Batch {
    /// The error that a failure of one of its messages is.
    pub(crate) fn error(&self, failure: &Failure) -> Error {
        let action = self
            .actions
            .get(failure.index)
            .map_or("talk netlink", String::as_str);
        kernel_error(action, failure.errno, &failure.error_text)
    }
}

/// Takes in one datagram; true when the awaited message has been answered. Answers to an earlier batch
/// (a transaction that failed has more than one) are passed over.
fn read_answers(mut bytes: &[u8], batch: &Batch, outcome: &mut Outcome) -> bool {
    let mut finished = false;
    while let (Some(length), Some(kind), Some(flags), Some(sequence)) = (
        u32_at(bytes, 0),
        u16_at(bytes, 4),
        u16_at(bytes, 6),
        u32_at(bytes, 8),
    ) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        let index = usize::try_from(sequence.wrapping_sub(batch.base)).unwrap_or(usize::MAX);
        match kind {
            _ if index >= batch.actions.len() => {}
            NLMSG_ERROR => {
                if let Some(errno) = u32_at(body, 0)
                    .map(|e| e.cast_signed().wrapping_neg())
                    .filter(|e| *e != 0)
                {
                    let error_text = error_text(body, flags).to_owned();
                    outcome.failures.push(Failure {
                        index,
                        errno: Errno::from_raw(errno),
                        error_text,
                    });
                }
                finished |= index == batch.awaited;
            }
            NLMSG_DONE => finished |= index == batch.awaited,
            _ => outcome.replies.push(Reply { body: body.to_vec() }),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    finished
}

/// The messages of a datagram: kind, flags and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).unwrap_or(usize::MAX);
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, body))
    })
}

fn error_text(body: &[u8], flags: u16) -> &str {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    // error code + header of the request; the request itself is left out (CAPPED).
    if flags & ACK_TLVS == 0 || flags & CAPPED == 0 {
        return "";
    }
    Attrs(body.get(4 + HEADER..).unwrap_or_default())
        .text(NLMSGERR_ATTR_MSG)
        .unwrap_or_default()
}

/// A refusal by the kernel, with a remedy where the errno tells one.
pub(crate) fn kernel_error(action: &str, errno: Errno, said: &str) -> Error {
    let said = if said.is_empty() {
        String::new()
    } else {
        format!(" ({said})")
    };
    let remedy = match errno {
        Errno::EPERM | Errno::EACCES => "; run as root with CAP_NET_ADMIN",
        Errno::ENOBUFS | Errno::ENOMEM => "; the node is short of memory",
        Errno::EAGAIN => "; the kernel did not answer within 10 s, try again",
        Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => "; the kernel lacks this feature",
        _ => "",
    };
    Error::Kernel {
        action: action.to_owned(),
        errno: errno as i32,
        cause: format!("{}{said}{remedy}", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_messages_and_nests() {
        let mut batch = Batch::default();
        batch.begin(16, 0, &[1, 2, 3, 4], "test");
        batch.nest(18, |inner| inner.text(1, "veth"));
        let bytes = batch.asking();
        // Header 16, body 4, nest 4, attribute 4 + 5 padded to 12.
        assert_eq!(u32_at(&bytes, 0), Some(36));
        assert_eq!(u16_at(&bytes, 6), Some(REQUEST | ACK));
        assert_eq!((u16_at(&bytes, 20), u16_at(&bytes, 22)), (Some(16), Some(18)));
        assert_eq!((u16_at(&bytes, 24), bytes.len()), (Some(9), 36));
        let outer = Attrs(&bytes[20..]).get(18).unwrap();
        assert_eq!(Attrs(outer).text(1), Some("veth"));
    }

    #[test]
    fn an_error_carries_the_kernels_words() {
        let mut body = (-17_i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        let text = b"File exists\0";
        body.extend(u16::try_from(text.len() + 4).unwrap().to_ne_bytes());
        body.extend(1_u16.to_ne_bytes());
        body.extend(text);
        let mut message = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(NLMSG_ERROR.to_ne_bytes());
        message.extend((CAPPED | ACK_TLVS).to_ne_bytes());
        let mut batch = Batch::default();
        batch.begin(16, 0, &[], "test");
        message.extend(batch.base.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(&body);
        let mut outcome = Outcome::default();
        let mut later = Batch::default();
        later.begin(16, 0, &[], "another");
        assert!(
            !read_answers(&message, &later, &mut outcome),
            "an earlier batch's answer"
        );
        assert!(outcome.failures.is_empty());
        assert!(read_answers(&message, &batch, &mut outcome));
        assert_eq!(outcome.failures[0].errno, Errno::EEXIST);
        assert_eq!(outcome.failures[0].error_text, "File exists");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..300), small in 0_u8..64) {
            let mut bytes = bytes;
            // A plausible length, so that more than the first check is reached.
            for (to, from) in bytes.iter_mut().zip([small, 0, 0, 0, 2, 0]) {
                *to = from;
            }
            let mut outcome = Outcome::default();
            let mut batch = Batch::default();
            batch.begin(16, 0, &[], "test");
            if let Some(sequence) = bytes.get_mut(8..12) {
                sequence.copy_from_slice(&batch.base.to_ne_bytes());
            }
            read_answers(&bytes, &batch, &mut outcome);
            let reply = Reply { body: bytes };
            let _ = (reply.attrs(16).count(), crate::kernel::link::Link::read(&reply));
            prop_assert!(messages(&reply.body).count() <= reply.body.len());
        }
    }
}
