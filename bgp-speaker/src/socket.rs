//! TCP sockets for BGP: options, listening, dialing, and what the kernel knows of a connection.
//!
//! | option | why |
//! |---|---|
//! | TTL, IP_MINTTL / IPV6_MINHOPCOUNT | one hop on eBGP; GTSM (RFC 5082) |
//! | TCP_MD5SIG | RFC 2385, on the listener too |
//! | TCP_NODELAY | a flush is a message, not a stream to be coalesced |
//! | IP_TOS / IPV6_TCLASS 0xC0 | network control (CS6) |

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use bgp_proto::types::Prefix;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::api::{Transport, Ttl};
use crate::sockopt;

const NETWORK_CONTROL: u32 = 0xC0;
const BACKLOG: i32 = 1024;

/// The interface's index of a link-local address.
pub(crate) fn scope(addr: &SocketAddr) -> Option<u32> {
    match addr {
        SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => {
            Some(addr.scope_id()).filter(|id| *id > 0)
        }
        _ => None,
    }
}

/// The name of an interface, while it is there.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok())
}

/// The index of an interface, while it is there.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// A listening socket.
///
/// # Errors
/// The system's, most often that the port is taken or that the caller may not bind it.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The RFC 2385 secret of a transport, read from its file; a line end at its end does not count.
///
/// # Errors
/// When the file cannot be read, is empty, or longer than the 80 octets that the kernel takes.
pub(crate) fn secret(transport: &Transport) -> io::Result<Option<Vec<u8>>> {
    let Some(path) = &transport.password_file else {
        return Ok(None);
    };
    let mut secret = std::fs::read(path).map_err(|error| {
        io::Error::new(error.kind(), format!("password file {}: {error}", path.display()))
    })?;
    while secret.last().is_some_and(|octet| matches!(octet, b'\n' | b'\r')) {
        secret.pop();
    }
    if secret.is_empty() || secret.len() > sockopt::MD5_MAX {
        let text = format!(
            "password file {}: {} octets, want 1 to {}",
            path.display(),
            secret.len(),
            sockopt::MD5_MAX
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(secret))
}

/// Lets a listener accept the peer's signed segments; `None` takes the key away.
///
/// # Errors
/// The system's.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: Prefix, secret: Option<&[u8]>) -> io::Result<()> {
    sockopt::set_md5(socket, peer, secret.unwrap_or_default())
}

/// Opens a connection to a peer.
///
/// # Errors
/// The system's, with what was being done.
pub(crate) async fn dial(transport: Transport, external: bool) -> io::Result<TcpStream> {
    let socket = match transport.remote {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(local) = transport.local {
        let bind = socket.bind(SocketAddr::new(local, 0));
        bind.map_err(|error| io::Error::new(error.kind(), format!("local address {local}: {error}")))?;
    }
    if let Some(secret) = secret(&transport)? {
        set_md5(socket.as_fd(), Prefix::host(transport.remote.ip()), Some(&secret))?;
    }
    tune(socket.as_fd(), &transport, external)?;
    socket.connect(transport.remote).await
}

/// Sets the options of a connection, before connecting or after accepting.
///
/// # Errors
/// The system's.
pub(crate) fn tune(fd: BorrowedFd<'_>, transport: &Transport, external: bool) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    socket.set_tcp_nodelay(true)?;
    let v4 = transport.remote.is_ipv4();
    let (ttl, minimum) = match transport.ttl {
        Ttl::Default => (if external { 1 } else { 64 }, None),
        Ttl::Multihop(hops) => (hops, None),
        Ttl::Gtsm(hops) => (255, Some(256 - i32::from(hops.max(1)))), // RFC 5082 §3
    };
    if v4 {
        socket.set_ttl_v4(u32::from(ttl))?;
        socket.set_tos_v4(NETWORK_CONTROL)?;
    } else {
        socket.set_unicast_hops_v6(u32::from(ttl))?;
        socket.set_tclass_v6(NETWORK_CONTROL)?;
    }
    minimum.map_or(Ok(()), |minimum| sockopt::set_min_ttl(fd, v4, minimum))
}
