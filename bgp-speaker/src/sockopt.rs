//! The two socket options that no library sets for us: TCP_MD5SIG, and the minimum TTL of received packets.
#![allow(
    unsafe_code,
    reason = "setsockopt with structures that libc and nix do not wrap; nothing else is here"
)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest RFC 2385 key that the kernel takes, in octets (TCP_MD5SIG_MAXKEYLEN).
pub(crate) const MD5_MAX: usize = 80;

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

/// Sets the key for segments to and from `peer`; an empty key removes it.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    let storage = socket2::SockAddr::from(std::net::SocketAddr::new(peer, 0));
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
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &signature)
}

/// Takes only packets whose TTL (hop limit) is at least `minimum` (RFC 5082).
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
