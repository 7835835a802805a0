//! Sockets to netfilter: requests go out in one datagram, answers are matched to them.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use linux::netlink::{self, DUMP_INTERRUPTED, Message, NLMSG_DONE, NLMSG_ERROR, messages};
use nix::errno::Errno;

use crate::message::Messages;

/// Room for one transaction, and for the answers to it.
const BUFFER: usize = 64 << 20;
const DATAGRAM: usize = 64 * 1024;

pub type Result<T> = std::result::Result<T, Error>;

/// Why netfilter did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot {action}: {errno}{}", remedy(*errno))]
    Socket { action: String, errno: Errno },
    /// The request that was refused, and what the kernel said to it.
    #[error("cannot {request}: {errno}{}{}", said(text), remedy(*errno))]
    Refused {
        request: What,
        errno: Errno,
        text: String,
    },
    /// Somebody changed the ruleset since the generation that the transaction was made for.
    #[error("the ruleset was changed by another program meanwhile; list it and try again")]
    Stale,
    /// A listing was changed while it was read.
    #[error("the ruleset was changed while it was listed; list it again")]
    Interrupted,
}

impl Error {
    /// The kernel's number, where it has one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket { errno, .. } | Self::Refused { errno, .. } => Some(*errno),
            Self::Stale | Self::Interrupted => None,
        }
    }
}

impl From<linux::Error> for Error {
    fn from(error: linux::Error) -> Self {
        Self::Socket {
            action: error.action,
            errno: error.errno,
        }
    }
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(" ({text})")
    }
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "; podroute needs CAP_NET_ADMIN",
        Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP => "; the kernel needs nf_tables and nf_conntrack_netlink",
        Errno::ENOBUFS | Errno::EMSGSIZE => "; raise net.core.wmem_max or give podroute CAP_NET_ADMIN",
        _ => "",
    }
}

/// What a message does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct What {
    pub action: &'static str,
    pub name: String,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action)?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.name)
    }
}

/// A request's failure.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) sequence: u32,
    pub(crate) errno: Errno,
    pub(crate) text: String,
}

/// A netlink socket of netfilter.
#[derive(Debug)]
pub(crate) struct Socket {
    netlink: netlink::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open() -> Result<Self> {
        let netlink = netlink::Socket::netfilter()?;
        // Without the right to force it the kernel's limit holds; a transaction that is too long is refused then.
        netlink.set_send_buffer(BUFFER);
        netlink.set_receive_buffer(BUFFER);
        Ok(Self {
            netlink,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.netlink.as_fd()
    }

    /// Subscribes to a group of notifications.
    pub(crate) fn join(&self, group: u32) -> Result<()> {
        Ok(self.netlink.join(&[group])?)
    }

    /// Leaves out notifications of what the socket with this port changes.
    pub(crate) fn ignore_changes_by(&self, port: u32) -> Result<()> {
        Ok(self.netlink.ignore_changes_by(port)?)
    }

    /// Sequence numbers that no earlier request has.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    pub(crate) fn send(&self, messages: &Messages) -> Result<()> {
        Ok(self.netlink.send(&messages.bytes)?)
    }

    /// One datagram; none where nothing is there and `wait` is false.
    pub(crate) fn receive(&mut self, wait: bool) -> Result<Option<&[u8]>> {
        if wait {
            return Ok(Some(self.netlink.receive(&mut self.buffer)?));
        }
        match self.netlink.try_receive(&mut self.buffer) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(linux::Error::new("read netfilter's answer", errno).into()),
        }
    }

    /// Sends one request that many messages answer, and calls `take` with each.
    pub(crate) fn dump(
        &mut self,
        request: &Messages,
        sequence: u32,
        what: &What,
        mut take: impl FnMut(Message<'_>),
    ) -> Result<()> {
        self.send(request)?;
        let mut interrupted = false;
        loop {
            let mut end = None;
            let Some(bytes) = self.receive(true)? else {
                continue;
            };
            for message in messages(bytes).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    NLMSG_DONE => end = Some(None),
                    NLMSG_ERROR => end = Some(failure(&message)),
                    _ => take(message),
                }
            }
            match end {
                None => {}
                Some(None) if interrupted => return Err(Error::Interrupted),
                Some(None) => return Ok(()),
                Some(Some(failure)) => return Err(refused(what, failure)),
            }
        }
    }

    /// Reads answers until the one to `last` is there. Gives what was refused, and calls `take` with other messages.
    pub(crate) fn answers(
        &mut self,
        first: u32,
        last: u32,
        mut take: impl FnMut(Message<'_>),
    ) -> Result<Vec<Failure>> {
        let count = last.wrapping_sub(first);
        let mut failures = Vec::new();
        let mut finished = false;
        // Answers are there when `send` returns: after a failure whatever is left is read without waiting.
        while let Some(bytes) = self.receive(!finished && failures.is_empty())? {
            for message in messages(bytes).filter(|m| m.sequence.wrapping_sub(first) <= count) {
                match message.kind {
                    NLMSG_ERROR => {
                        failures.extend(failure(&message));
                        finished |= message.sequence == last;
                    }
                    NLMSG_DONE => finished |= message.sequence == last,
                    _ => take(message),
                }
            }
        }
        Ok(failures)
    }

    /// The answer to one request that asked for an acknowledgement; none where all went well.
    pub(crate) fn answer(&mut self, sequence: u32) -> Result<Option<Failure>> {
        loop {
            let Some(bytes) = self.receive(true)? else {
                continue;
            };
            let of_request = |m: &Message<'_>| m.sequence == sequence && m.kind == NLMSG_ERROR;
            if let Some(message) = messages(bytes).find(of_request) {
                return Ok(failure(&message));
            }
        }
    }
}

pub(crate) fn refused(what: &What, failure: Failure) -> Error {
    Error::Refused {
        request: what.clone(),
        errno: failure.errno,
        text: failure.text,
    }
}

/// None for an acknowledgement.
fn failure(message: &Message<'_>) -> Option<Failure> {
    let errno = message.errno();
    (errno != 0).then(|| Failure {
        sequence: message.sequence,
        errno: Errno::from_raw(errno),
        text: message.explanation().to_owned(),
    })
}

/// A socket for nftables.
#[derive(Debug)]
pub struct Nftables {
    pub(crate) socket: Socket,
    port: u32,
}

impl Nftables {
    /// In the network namespace of this thread.
    ///
    /// # Errors
    /// The kernel has no netfilter, or a right is missing.
    pub fn open() -> Result<Self> {
        let socket = Socket::open()?;
        Ok(Self {
            port: socket.netlink.bind()?,
            socket,
        })
    }

    /// What notifications of this socket's changes carry as their cause.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }
}
