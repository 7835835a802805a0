//! Socket options without a safe wrapper: TCP_MD5SIG, the minimum TTL of received packets, and the ICMPv6
//! filter.
#![allow(
    unsafe_code,
    reason = "setsockopt with structures that libc and nix do not wrap; nothing else is here"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use bgp_proto::types::Prefix;

/// Longest TCP MD5 key, in octets (TCP_MD5SIG_MAXKEYLEN).
pub(crate) const MD5_MAX: usize = 80;

/// linux/tcp.h.
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    addr: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: i32,
    key: [u8; MD5_MAX],
}

/// Sets the key for segments to and from the addresses of `peer`; an empty key removes it.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: Prefix, key: &[u8]) -> io::Result<()> {
    let storage = socket2::SockAddr::from(std::net::SocketAddr::new(peer.addr(), 0));
    // SAFETY: all-zero bytes are a valid value of this plain structure.
    let mut signature: TcpMd5Sig = unsafe { std::mem::zeroed() };
    // SAFETY: `storage` holds at least `len()` initialised octets, and never more than a sockaddr_storage.
    unsafe {
        std::ptr::copy_nonoverlapping(
            storage.as_ptr().cast::<u8>(),
            std::ptr::from_mut(&mut signature.addr).cast::<u8>(),
            storage.len() as usize,
        );
    }
    let length = key.len().min(MD5_MAX);
    signature.key_len = u16::try_from(length).unwrap_or(0);
    signature
        .key
        .iter_mut()
        .zip(key)
        .for_each(|(place, octet)| *place = *octet);
    if peer == Prefix::host(peer.addr()) {
        return set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature);
    }
    signature.flags = TCP_MD5SIG_FLAG_PREFIX;
    signature.prefix_len = peer.len();
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &signature)
}

/// Number of consecutive retransmissions of the oldest unacknowledged segment (`tcpi_retransmits`).
pub(crate) fn retransmissions(socket: BorrowedFd<'_>) -> io::Result<u8> {
    /// The first fields of `struct tcp_info` of linux/tcp.h; the kernel fills in as many as fit.
    #[repr(C)]
    #[derive(Default)]
    struct Beginning {
        state: u8,
        ca_state: u8,
        retransmits: u8,
        probes: u8,
    }
    let mut info = Beginning::default();
    let mut length = libc::socklen_t::try_from(size_of::<Beginning>()).unwrap_or(0);
    // SAFETY: the descriptor is borrowed and thus open; pointer and length describe one live value, of which any bytes are valid.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut info).cast::<libc::c_void>(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(info.retransmits)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Accepts only packets whose TTL (hop limit) is at least `minimum` (RFC 5082).
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, v4: bool, minimum: i32) -> io::Result<()> {
    if v4 {
        set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &minimum)
    } else {
        set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &minimum)
    }
}

/// linux/in6.h.
const IPV6_MINHOPCOUNT: i32 = 73;

fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the descriptor is borrowed and thus open; pointer and length describe one live `T`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<libc::c_void>(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct icmp6_filter` (RFC 3542 §3.2): a set bit blocks a type.
#[repr(C)]
struct Icmp6Filter([u32; 8]);

/// linux/icmpv6.h.
const ICMPV6_FILTER: i32 = 1;

/// Accepts only router solicitations (133) and advertisements (134).
pub(crate) fn only_router_messages(socket: &socket2::Socket) -> io::Result<()> {
    let mut filter = Icmp6Filter([u32::MAX; 8]);
    let [_, _, _, _, word, ..] = &mut filter.0;
    *word &= !(1 << (133 % 32) | 1 << (134 % 32));
    set(
        std::os::fd::AsFd::as_fd(socket),
        libc::IPPROTO_ICMPV6,
        ICMPV6_FILTER,
        &filter,
    )
}

/// Delivers the hop limit with each packet: IPV6_MINHOPCOUNT applies to TCP, not to raw sockets.
pub(crate) fn receive_hop_limit(socket: &socket2::Socket) -> io::Result<()> {
    set(
        std::os::fd::AsFd::as_fd(socket),
        libc::IPPROTO_IPV6,
        libc::IPV6_RECVHOPLIMIT,
        &1,
    )
}

/// A received datagram.
pub(crate) struct Datagram {
    pub(crate) length: usize,
    pub(crate) from: Option<std::net::SocketAddrV6>,
    /// Present after [`receive_hop_limit`].
    pub(crate) hop_limit: Option<i32>,
}

/// Receives one datagram.
pub(crate) fn receive_from(socket: &socket2::Socket, buffer: &mut [u8]) -> io::Result<Datagram> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn6>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let hop_limit = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6HopLimit(limit) => Some(limit),
        _ => None,
    });
    Ok(Datagram {
        length: message.bytes,
        from: message
            .address
            .map(|addr| std::net::SocketAddrV6::new(addr.ip(), 0, 0, addr.scope_id())),
        hop_limit,
    })
}

/// Registers a socket with the runtime.
pub(crate) fn watched(socket: socket2::Socket) -> io::Result<tokio::io::unix::AsyncFd<socket2::Socket>> {
    // SAFETY: a socket2 socket keeps its one descriptor open until it is dropped, which happens after the AsyncFd
    // that owns it has deregistered it.
    unsafe { tokio::io::unix::AsyncFd::register(socket) }.map_err(Into::into)
}
