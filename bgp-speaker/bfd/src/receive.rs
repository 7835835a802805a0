//! Receiving sockets: each packet with its TTL and its input interface.
//!
//! The kernel has no option that drops UDP packets by TTL (IP_MINTTL and IPV6_MINHOPCOUNT apply to TCP), so
//! the TTL is read from a control message. One buffer serves all packets.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4PacketInfo, Ipv4RecvTtl, Ipv6RecvHopLimit, Ipv6RecvPacketInfo},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Port for single-hop sessions (RFC 5881 §4).
pub(crate) const SINGLE_HOP_PORT: u16 = 3784;
/// Port for multihop sessions (RFC 5883 §5).
pub(crate) const MULTI_HOP_PORT: u16 = 4784;
/// More than the longest control packet, 255 octets (RFC 5880 §4.1).
const BUFFER_LEN: usize = 512;

/// Receive buffer.
pub(crate) struct Buffer {
    bytes: [u8; BUFFER_LEN],
    control: Control,
}

/// Buffer for control messages, aligned as the kernel requires.
#[repr(align(8))]
struct Control([u8; 128]);

impl Buffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; BUFFER_LEN],
            control: Control([0; 128]),
        }
    }
}

/// A received packet.
pub(crate) struct Arrival<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) from: SocketAddr,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Index of the input interface.
    pub(crate) interface: u32,
}

/// A receiving socket of one family and port.
pub(crate) struct Receiver {
    socket: Socket,
    pub(crate) multihop: bool,
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Receiver {
    pub(crate) fn open(v4: bool, multihop: bool) -> io::Result<Self> {
        let port = if multihop { MULTI_HOP_PORT } else { SINGLE_HOP_PORT };
        let any = if v4 {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        } else {
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
        };
        let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
        if v4 {
            setsockopt(&socket, Ipv4RecvTtl, &true)?;
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        } else {
            socket.set_only_v6(true)?;
            setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&any.into()).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot open UDP port {port}: {error}; is another BFD daemon running (ss -ulnp)?"),
            )
        })?;
        Ok(Self { socket, multihop })
    }

    /// The next packet. `Ok(None)`: a packet without sender, TTL or interface.
    pub(crate) fn next<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Arrival<'a>>> {
        let Buffer { bytes, control } = buffer;
        let mut parts = [IoSliceMut::new(bytes)];
        let received = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control.0),
            MsgFlags::empty(),
        )?;
        let (mut ttl, mut interface) = (None, None);
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv4Ttl(value) | ControlMessageOwned::Ipv6HopLimit(value) => {
                    ttl = u8::try_from(value).ok();
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    interface = u32::try_from(info.ipi_ifindex).ok();
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => interface = Some(info.ipi6_ifindex),
                _ => {}
            }
        }
        let (from, length) = (received.address.as_ref().and_then(sender), received.bytes);
        let (Some(from), Some(ttl), Some(interface)) = (from, ttl, interface) else {
            return Ok(None);
        };
        let bytes = bytes.get(..length).unwrap_or_default();
        Ok(Some(Arrival {
            bytes,
            from,
            ttl,
            interface,
        }))
    }
}

fn sender(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|from| SocketAddr::new(IpAddr::V4(from.ip()), from.port()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|from| SocketAddr::V6((*from).into()))
    })
}
