//! TCP sockets for BGP: options, listeners and connections.
//!
//! | option | value and reason |
//! |---|---|
//! | TTL, IP_MINTTL / IPV6_MINHOPCOUNT | 1 on eBGP; 255 on listeners and with GTSM (RFC 5082) |
//! | TCP_MD5SIG | RFC 2385, on listeners too |
//! | TCP_NODELAY | a message is sent at once |
//! | IP_TOS / IPV6_TCLASS | 0xC0, network control (CS6) |

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bgp_proto::types::Prefix;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::api::{Password, Transport, Ttl};
use crate::rotation::KeyInUse;
use crate::sockopt;

const NETWORK_CONTROL: u32 = 0xC0;
const BACKLOG: i32 = 1024;

/// The interface index of a link-local address.
pub(crate) fn scope(addr: &SocketAddr) -> Option<u32> {
    match addr {
        SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => {
            Some(addr.scope_id()).filter(|id| *id > 0)
        }
        _ => None,
    }
}

/// The name of an interface, if it exists.
pub(crate) fn interface_name(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok())
}

/// The index of an interface, if it exists.
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Opens and binds a socket. Connections are possible only after [`listen`], so keys can be set in between.
/// `shared`: see [`set_shared`].
///
/// # Errors
/// The operating system's; most often the port is in use or the privilege to bind it is missing.
pub(crate) fn bind(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // RFC 5082 §3: the SYN-ACK needs TTL 255 too. Accepted connections get the TTL of their peer later.
    if addr.is_ipv6() {
        socket.set_unicast_hops_v6(255)?;
    } else {
        socket.set_ttl_v4(255)?;
    }
    // The address may be added to an interface later.
    if addr.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Listens on a bound socket.
///
/// # Errors
/// The operating system's.
pub(crate) fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Allows another socket of this process to bind an overlapping address (SO_REUSEPORT). Only set while
/// listeners are replaced: at other times a second BGP speaker on the host must get an error.
///
/// # Errors
/// The operating system's.
pub(crate) fn set_shared(listener: &TcpListener, shared: bool) -> io::Result<()> {
    SockRef::from(listener).set_reuse_port(shared)
}

/// Signs segments to and from these addresses, and drops unsigned ones; `None` removes the key.
///
/// # Errors
/// The operating system's; ENOMEM if the keys of this socket exceed net.core.optmem_max.
pub(crate) fn set_md5(socket: BorrowedFd<'_>, peer: Prefix, key: Option<&Password>) -> io::Result<()> {
    sockopt::set_md5(socket, peer, key.map_or(&[], Password::key))
}

/// After this time without success, the second of two keys is tried in parallel.
const SECOND_KEY_DELAY: Duration = Duration::from_secs(1);

/// Opens a connection to a peer and returns it with the key that it uses. If two keys are configured, `key`
/// is tried first and, after [`SECOND_KEY_DELAY`], the other in parallel: the peer answers only segments that
/// are signed with its own key.
///
/// # Errors
/// The operating system's, with the failed step.
pub(crate) async fn dial(
    transport: Transport,
    key: KeyInUse,
    external: bool,
) -> io::Result<(TcpStream, Option<Password>)> {
    let password = key.of(&transport);
    let first = dial_with(&transport, password, external);
    if transport.next_password.is_none() || password.is_none() {
        return Ok((first.await?, password.cloned()));
    }
    let other = key.other().of(&transport);
    let second = async {
        tokio::time::sleep(SECOND_KEY_DELAY).await;
        dial_with(&transport, other, external).await
    };
    tokio::pin!(first, second);
    tokio::select! {
        stream = &mut first => match stream {
            Ok(stream) => Ok((stream, password.cloned())),
            // Connection refused or no route: not caused by the key.
            Err(error) => Err(error),
        },
        Ok(stream) = &mut second => Ok((stream, other.cloned())),
    }
}

/// Signs a connection if the peer has a password.
///
/// # Errors
/// The operating system's. The connection must not be used then.
pub(crate) fn sign(fd: BorrowedFd<'_>, remote: SocketAddr, password: Option<&Password>) -> io::Result<()> {
    let Some(password) = password else {
        return Ok(());
    };
    let signed = set_md5(fd, Prefix::host(remote.ip()), Some(password));
    signed.map_err(|error| io::Error::new(error.kind(), format!("cannot set the TCP MD5 key: {error}")))
}

/// Sets the options of a connection, before connecting or after accepting.
///
/// # Errors
/// The operating system's.
pub(crate) fn set_options(fd: BorrowedFd<'_>, transport: &Transport, external: bool) -> io::Result<()> {
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

async fn dial_with(
    transport: &Transport,
    password: Option<&Password>,
    external: bool,
) -> io::Result<TcpStream> {
    let socket = match transport.remote {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(local) = transport.local {
        let bind = socket.bind(SocketAddr::new(local, 0));
        bind.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot bind the local address {local}: {error}"),
            )
        })?;
    }
    sign(socket.as_fd(), transport.remote, password)?;
    set_options(socket.as_fd(), transport, external)?;
    socket.connect(transport.remote).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documentation addresses (RFC 5737, RFC 3849) are on no interface.
    #[tokio::test]
    async fn listens_on_an_address_that_does_not_exist_yet() {
        for addr in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let addr: SocketAddr = addr.parse().unwrap();
            let listener = listen(bind(addr, false).unwrap()).unwrap();
            assert_eq!(listener.local_addr().unwrap().ip(), addr.ip());
        }
    }
}
