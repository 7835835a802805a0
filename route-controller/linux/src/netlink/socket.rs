//! A netlink socket: requests and their answers, dumps, notifications. Blocking.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::batch::{Batch, Outcome, Reply};
use super::frame::{Message, messages};
use super::{DUMP_INTERRUPTED, NLMSG_DONE, NLMSG_ERROR};
use crate::{Error, sockopt as options};

/// The longest wait for an answer, unless another is set.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same is listed at most this often.
const LISTINGS: usize = 10;
/// Larger than any datagram that the kernel sends.
const DATAGRAM: usize = 64 << 10;

/// A netlink protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbors, rules, nexthop objects.
    Route,
    /// nftables and conntrack.
    Netfilter,
}

/// A netlink socket, in the network namespace where it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens a socket whose answers are awaited for at most 10 s.
    pub fn open(protocol: Protocol) -> Result<Self, Error> {
        let fail = |errno| Error::new("open a netlink socket", errno);
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .map_err(fail)?;
        let socket = Self { fd };
        socket.set_timeout(TIMEOUT)?;
        // Explanations with errors, and errors without a copy of the request.
        options::set_netlink_option(socket.as_fd(), libc::NETLINK_EXT_ACK, 1).map_err(fail)?;
        options::set_netlink_option(socket.as_fd(), libc::NETLINK_CAP_ACK, 1).map_err(fail)?;
        Ok(socket)
    }

    /// For links, addresses, routes and neighbors.
    pub fn route() -> Result<Self, Error> {
        Self::open(Protocol::Route)
    }

    /// For nftables.
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(Protocol::Netfilter)
    }

    /// Like [`Socket::route`]; a dump contains only what its header asks for (NETLINK_GET_STRICT_CHK). An older kernel
    /// lists everything: readers filter too.
    pub fn strict_route() -> Result<Self, Error> {
        let socket = Self::route()?;
        let _ = options::set_netlink_option(socket.as_fd(), libc::NETLINK_GET_STRICT_CHK, 1);
        Ok(socket)
    }

    /// The longest wait for an answer. Microseconds count.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), Error> {
        let timeout = TimeVal::from(libc::timeval {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: libc::suseconds_t::from(timeout.subsec_micros().cast_signed()),
        });
        setsockopt(&self.fd, sockopt::ReceiveTimeout, &timeout)
            .map_err(|errno| Error::new("set a timeout of a netlink socket", errno))
    }

    /// Makes room for notifications and answers that wait to be read; less where the process lacks CAP_NET_ADMIN.
    pub fn set_receive_buffer(&self, octets: usize) {
        // Beyond net.core.rmem_max only with the privilege.
        if setsockopt(&self.fd, sockopt::RcvBufForce, &octets).is_err() {
            let _ = setsockopt(&self.fd, sockopt::RcvBuf, &octets);
        }
    }

    /// Makes room for a long request; without CAP_NET_ADMIN at most net.core.wmem_max.
    pub fn set_send_buffer(&self, octets: usize) {
        if setsockopt(&self.fd, sockopt::SndBufForce, &octets).is_err() {
            let _ = setsockopt(&self.fd, sockopt::SndBuf, &octets);
        }
    }

    /// Gives the socket a port of its own (its identity to the kernel) and returns it.
    pub fn bind(&self) -> Result<u32, Error> {
        let fail = |errno| Error::new("bind a netlink socket", errno);
        bind(self.fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(fail)?;
        let address: NetlinkAddr = getsockname(self.fd.as_raw_fd()).map_err(fail)?;
        Ok(address.pid())
    }

    /// Subscribes to groups of notifications (RTNLGRP_*, NFNLGRP_*).
    pub fn join(&self, groups: &[u32]) -> Result<(), Error> {
        // Without an address of its own a socket receives no notification.
        self.bind()?;
        groups.iter().try_for_each(|group| {
            options::set_netlink_option(
                self.as_fd(),
                libc::NETLINK_ADD_MEMBERSHIP,
                libc::c_int::try_from(*group).unwrap_or(0),
            )
            .map_err(|errno| Error::new("subscribe to the kernel's notifications", errno))
        })
    }

    /// Has the kernel drop notifications of routes with a protocol number, before they wake the reader.
    pub fn ignore_routes_of(&self, protocol: u8) -> Result<(), Error> {
        options::drop_routes_of(self.as_fd(), protocol).map_err(filter_error)
    }

    /// Has the kernel drop notifications that the socket with this port caused, before they wake the reader.
    pub fn ignore_changes_by(&self, port: u32) -> Result<(), Error> {
        options::drop_caused_by(self.as_fd(), port).map_err(filter_error)
    }

    /// Sends a batch, waits for all answers, and fails with the first failure. A listing ([`DUMP`](super::DUMP)) is a batch of its
    /// own; one that changed while it was read is asked for again, because it may lack objects that were there all the time.
    pub fn run(&self, mut batch: Batch) -> Result<Vec<Reply>, Error> {
        for _ in 0..LISTINGS {
            let outcome = self.try_run(&mut batch)?;
            match outcome.failures.first() {
                Some(failure) => return Err(batch.error(failure)),
                None if outcome.is_interrupted => {}
                None => return Ok(outcome.replies),
            }
        }
        Err(batch.interrupted())
    }

    /// Sends a batch and reads until its last message is answered. An error is one of the socket; refused messages are
    /// in the outcome.
    pub fn try_run(&self, batch: &mut Batch) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        if batch.is_empty() {
            return Ok(outcome);
        }
        self.send(batch.request())?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let datagram = self.receive(&mut buffer)?;
            if batch.read_answers(datagram, &mut outcome) {
                return Ok(outcome);
            }
        }
    }

    /// Sends a dump request (one message, with [`DUMP`](super::DUMP)) and calls `each` with every message of the answer.
    /// False: what is dumped changed meanwhile, so the answer may be inconsistent.
    pub fn dump(&self, request: &[u8], mut each: impl FnMut(&Message<'_>)) -> Result<bool, Error> {
        self.send(request)?;
        let mut is_consistent = true;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            for message in messages(self.receive(&mut buffer)?) {
                is_consistent &= message.flags & DUMP_INTERRUPTED == 0;
                match message.kind {
                    // The end carries an error number too.
                    NLMSG_DONE if message.errno() == 0 => return Ok(is_consistent),
                    NLMSG_DONE | NLMSG_ERROR => {
                        return Err(Error::new(
                            "list kernel objects",
                            Errno::from_raw(message.errno()),
                        ));
                    }
                    _ => each(&message),
                }
            }
        }
    }

    /// Sends messages without waiting for answers.
    pub fn send(&self, messages: &[u8]) -> Result<(), Error> {
        send(self.fd.as_raw_fd(), messages, MsgFlags::empty())
            .map(drop)
            .map_err(|errno| Error::new("send netlink messages", errno))
    }

    /// Waits for the next datagram.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(size) => return Ok(buffer.get(..size).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::new("read netlink messages", errno)),
            }
        }
    }

    /// The next datagram that waits to be read. EAGAIN: none; ENOBUFS: notifications were lost.
    pub fn try_receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        loop {
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => return Ok(buffer.get(..size).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Reads all notifications that wait to be read. True: `matters` holds for one of them, or some were lost.
    pub fn notifications(&self, matters: impl Fn(&Message<'_>) -> bool) -> Result<bool, Error> {
        let mut buffer = vec![0; DATAGRAM];
        let mut found = false;
        loop {
            match self.try_receive(&mut buffer) {
                Ok(datagram) => found |= messages(datagram).any(|message| matters(&message)),
                Err(Errno::EAGAIN) => return Ok(found),
                Err(Errno::ENOBUFS) => found = true,
                Err(errno) => return Err(Error::new("read notifications", errno)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For `tokio::io::unix::AsyncFd`.
impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn filter_error(errno: Errno) -> Error {
    Error::new("filter the kernel's notifications", errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{DUMP, REQUEST, frame, u32_at};

    const RTM_GETLINK: u16 = 18;

    #[test]
    fn a_dump_lists_loopback() {
        let socket = Socket::route().unwrap();
        let mut request = Vec::new();
        frame::message(&mut request, RTM_GETLINK, REQUEST | DUMP, 1, |out| {
            out.extend([0; 16])
        });
        let mut indices = Vec::new();
        socket
            .dump(&request, |message| indices.extend(u32_at(message.body(), 4)))
            .unwrap();
        assert!(indices.contains(&1), "{indices:?}");
    }

    #[test]
    fn a_refused_message_is_named() {
        let mut batch = Batch::default();
        batch.begin(RTM_GETLINK, 0, &[0; 16], "find interface no-such");
        batch.text(3, "no-such");
        let error = Socket::route().unwrap().run(batch).unwrap_err();
        assert_eq!(error.errno, Errno::ENODEV);
        assert_eq!(error.to_string(), "cannot find interface no-such: No such device");
    }

    #[test]
    fn a_bound_socket_has_a_port_and_nothing_to_read() {
        let socket = Socket::route().unwrap();
        assert_ne!(socket.bind().unwrap(), 0);
        assert_eq!(socket.try_receive(&mut [0; 64]), Err(Errno::EAGAIN));
    }
}
