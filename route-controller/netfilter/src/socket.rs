//! Sockets to netfilter: requests go out in one datagram, answers are matched to them.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::message::{Attrs, HEADER, Messages, Received, messages, u32_at};
use crate::sys;

/// A request that the kernel does not answer fails after this time.
const TIMEOUT_SECONDS: i64 = 10;
/// Room for one transaction, and for the answers to it.
const BUFFER: usize = 64 << 20;
const DATAGRAM: usize = 64 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;

pub type Result<T> = std::result::Result<T, Error>;

/// Why netfilter did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot {action}: {errno}{}", remedy(*errno))]
    Socket { action: &'static str, errno: Errno },
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
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open() -> Result<Self> {
        let fail = |errno| Error::Socket {
            action: "open a netlink socket",
            errno,
        };
        let kind = (
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        );
        let fd = socket(AddressFamily::Netlink, kind.0, kind.1, kind.2).map_err(fail)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(fail)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS)).map_err(fail)?;
        // Texts with errors, and errors without a copy of the request.
        sys::set_netlink_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1).map_err(fail)?;
        sys::set_netlink_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1).map_err(fail)?;
        // Without the right to force it the kernel's limit holds; a transaction that is too long is refused then.
        let _ = setsockopt(&fd, sockopt::SndBufForce, &BUFFER);
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER);
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The address of the socket, which notifications of its changes carry.
    pub(crate) fn port(&self) -> Result<u32> {
        let name: NetlinkAddr = getsockname(self.fd.as_raw_fd()).map_err(|errno| Error::Socket {
            action: "ask for a netlink socket's address",
            errno,
        })?;
        Ok(name.pid())
    }

    pub(crate) fn join(&self, group: i32) -> Result<()> {
        sys::set_netlink_option(self.fd(), libc::NETLINK_ADD_MEMBERSHIP, group).map_err(|errno| {
            Error::Socket {
                action: "subscribe to netfilter's notifications",
                errno,
            }
        })
    }

    /// Sequence numbers that no earlier request has.
    pub(crate) fn sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    pub(crate) fn send(&self, messages: &Messages) -> Result<()> {
        let fail = |errno| Error::Socket {
            action: "send to netfilter",
            errno,
        };
        send(self.fd.as_raw_fd(), &messages.bytes, MsgFlags::empty()).map_err(fail)?;
        Ok(())
    }

    /// One datagram; none where nothing is there and nobody waits.
    pub(crate) fn receive(&mut self, wait: bool) -> Result<Option<&[u8]>> {
        let flags = if wait {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(size) => return Ok(Some(self.buffer.get(..size).unwrap_or_default())),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if !wait => return Ok(None),
                Err(errno) => {
                    return Err(Error::Socket {
                        action: "read netfilter's answer",
                        errno,
                    });
                }
            }
        }
    }

    /// Sends one request whose answer are many messages, and hands each to `take`.
    pub(crate) fn dump(
        &mut self,
        request: &Messages,
        sequence: u32,
        what: &What,
        mut take: impl FnMut(Received<'_>),
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

    /// Reads answers until the one to `last` is there. Gives what was refused, and hands other messages to `take`.
    pub(crate) fn answers(
        &mut self,
        first: u32,
        last: u32,
        mut take: impl FnMut(Received<'_>),
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
}

impl Socket {
    /// The answer to one request that asked for an acknowledgement; none where all went well.
    pub(crate) fn answer(&mut self, sequence: u32) -> Result<Option<Failure>> {
        loop {
            let Some(bytes) = self.receive(true)? else {
                continue;
            };
            let of_request = |m: &Received<'_>| m.sequence == sequence && m.kind == NLMSG_ERROR;
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
fn failure(message: &Received<'_>) -> Option<Failure> {
    const CAPPED: u16 = 0x100;
    const TEXTS: u16 = 0x200;
    const TEXT: u16 = 1;
    let errno = u32_at(message.body, 0)?.cast_signed().wrapping_neg();
    if errno == 0 {
        return None;
    }
    let has_text = message.flags & TEXTS != 0 && message.flags & CAPPED != 0;
    let attrs = Attrs(message.body.get(4 + HEADER..).unwrap_or_default());
    let text = has_text.then(|| attrs.text(TEXT)).flatten();
    Some(Failure {
        sequence: message.sequence,
        errno: Errno::from_raw(errno),
        text: text.unwrap_or_default().to_owned(),
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
            port: socket.port()?,
            socket,
        })
    }

    /// What notifications of this socket's changes carry as their cause.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }
}
