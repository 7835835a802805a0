//! The floor: takes every session and hands each message with routes to all others, with no routing at all.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::wire;
use crate::failure::{Context, Result};

struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    out: Vec<Arc<[u8]>>,
    /// Octets of the first of `out` that are written.
    written: usize,
}

/// Serves on an address until the process is ended.
pub fn serve(address: Ipv4Addr, asn: u32) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("socket")?;
    socket.set_reuse_address(true).context("SO_REUSEADDR")?;
    let here = SocketAddr::from((address, 179));
    socket.bind(&here.into()).context(format!("binding {here}"))?;
    socket.listen(4096).context("listening")?;
    socket.set_nonblocking(true).context("non-blocking")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
    epoll
        .add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))
        .context("epoll")?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut events = vec![EpollEvent::empty(); 1024];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE).context("epoll")?;
        for event in &events[..ready] {
            if event.data() == u64::MAX {
                accept(&socket, &epoll, &mut peers, asn, address)?;
                continue;
            }
            let index = usize::try_from(event.data()).unwrap_or(0);
            if event.events().contains(EpollFlags::EPOLLIN) {
                let routes = read(&mut peers, index);
                share(&mut peers, index, routes);
            }
        }
        flush(&epoll, &mut peers)?;
    }
}

fn accept(
    socket: &Socket,
    epoll: &Epoll,
    peers: &mut Vec<Option<Peer>>,
    asn: u32,
    id: Ipv4Addr,
) -> Result<()> {
    while let Ok((socket, _)) = socket.accept() {
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_nonblocking(true).context("non-blocking")?;
        let mut hello = wire::open(asn, id);
        wire::message(&mut hello, wire::KEEPALIVE, &[]);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, peers.len() as u64);
        epoll.add(&stream, event).context("epoll")?;
        peers.push(Some(Peer {
            stream,
            unread: Vec::new(),
            out: vec![hello.into()],
            written: 0,
        }));
    }
    Ok(())
}

/// The UPDATEs of one reading, as one piece.
fn read(peers: &mut [Option<Peer>], index: usize) -> Vec<u8> {
    let mut routes = Vec::new();
    let mut buffer = [0; 1 << 16];
    let Some(peer) = &mut peers[index] else {
        return routes;
    };
    match peer.stream.read(&mut buffer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => return routes,
        Ok(count) if count > 0 => peer.unread.extend(&buffer[..count]),
        _ => {
            peers[index] = None;
            return routes;
        }
    }
    let mut used = 0;
    while let Some((kind, _, length)) = wire::frame(&peer.unread[used..]) {
        if kind == wire::UPDATE {
            routes.extend(&peer.unread[used..used + length]);
        }
        used += length;
    }
    peer.unread.drain(..used);
    routes
}

fn share(peers: &mut [Option<Peer>], from: usize, routes: Vec<u8>) {
    if routes.is_empty() {
        return;
    }
    let routes: Arc<[u8]> = routes.into();
    for (index, peer) in peers.iter_mut().enumerate() {
        if let Some(peer) = peer.as_mut().filter(|_| index != from) {
            peer.out.push(Arc::clone(&routes));
        }
    }
}

fn flush(epoll: &Epoll, peers: &mut [Option<Peer>]) -> Result<()> {
    for (index, slot) in peers.iter_mut().enumerate() {
        let Some(peer) = slot.as_mut().filter(|peer| !peer.out.is_empty()) else {
            continue;
        };
        if write(peer).is_err() {
            *slot = None;
            continue;
        }
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, !peer.out.is_empty());
        epoll
            .modify(&peer.stream, &mut EpollEvent::new(flags, index as u64))
            .context("epoll")?;
    }
    Ok(())
}

fn write(peer: &mut Peer) -> std::io::Result<()> {
    while !peer.out.is_empty() {
        let slices: Vec<_> = peer
            .out
            .iter()
            .take(64)
            .enumerate()
            .map(|(at, piece)| std::io::IoSlice::new(&piece[if at == 0 { peer.written } else { 0 }..]))
            .collect();
        let mut count = match peer.stream.write_vectored(&slices) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut done = 0;
        for piece in &peer.out {
            let left = piece.len() - peer.written;
            if count < left {
                peer.written += count;
                break;
            }
            count -= left;
            peer.written = 0;
            done += 1;
        }
        peer.out.drain(..done);
    }
    Ok(())
}
