//! Route lookups in the kernel: whether a neighbor is reachable on the link of an interface (rtnetlink(7),
//! RTM_GETROUTE).

use std::io::{self, Read, Write};
use std::net::IpAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Length of nlmsghdr and rtmsg.
const HEADERS: usize = 16 + 12;
/// Return the matching FIB entry, not the resolved route (linux/rtnetlink.h).
const RTM_F_FIB_MATCH: u32 = 0x2000;

/// A netlink socket for route lookups.
pub(crate) struct Routes {
    socket: Socket,
    sequence: u32,
}

impl Routes {
    pub(crate) fn open() -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let protocol = Protocol::from(libc::NETLINK_ROUTE);
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Whether the neighbor can be on the link of this interface: the kernel has a route to it over the
    /// interface, and this route has no gateway unless even the best route has one (the neighbor's loopback
    /// address). False if the lookup fails.
    pub(crate) fn reaches_over(&mut self, addr: IpAddr, interface: u32) -> bool {
        let over = self.ask(addr, interface);
        over.over_interface && (!over.gateway || self.ask(addr, 0).gateway)
    }

    /// The route to an address over an interface; 0: over any interface.
    fn ask(&mut self, addr: IpAddr, interface: u32) -> Route {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(addr, interface, self.sequence);
        if self.socket.write(&request).is_err() {
            return Route::default();
        }
        // The kernel answers during the write. An answer to an earlier request may precede it.
        let mut answer = [0; 4096];
        while let Ok(length) = self.socket.read(&mut answer) {
            let answer = answer.get(..length).unwrap_or_default();
            if number(answer, 8) == Some(self.sequence) {
                return Route::read(answer, interface);
            }
        }
        Route::default()
    }
}

fn request(addr: IpAddr, interface: u32, sequence: u32) -> Vec<u8> {
    let (family, octets) = match addr {
        IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
    };
    let short = |number: usize| u16::try_from(number).unwrap_or(0).to_ne_bytes();
    let mut bytes = vec![0; 4];
    bytes.extend(libc::RTM_GETROUTE.to_ne_bytes());
    bytes.extend(u16::try_from(libc::NLM_F_REQUEST).unwrap_or(1).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([
        u8::try_from(family).unwrap_or(0),
        u8::try_from(octets.len() * 8).unwrap_or(0),
    ]);
    bytes.extend([0; 6]);
    bytes.extend(RTM_F_FIB_MATCH.to_ne_bytes());
    for (kind, value) in [
        (libc::RTA_DST, octets),
        (libc::RTA_OIF, interface.to_ne_bytes().to_vec()),
    ] {
        bytes.extend(short(4 + value.len()));
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
    }
    let length = u32::try_from(bytes.len()).unwrap_or(0).to_ne_bytes();
    bytes
        .iter_mut()
        .zip(length)
        .for_each(|(place, octet)| *place = octet);
    bytes
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|octets| u32::from_ne_bytes(*octets))
}

/// The relevant part of a route.
#[derive(Default)]
struct Route {
    /// It uses the requested interface.
    over_interface: bool,
    gateway: bool,
}

impl Route {
    /// Decodes RTM_NEWROUTE; any other message is no route.
    fn read(answer: &[u8], interface: u32) -> Self {
        let mut route = Self::default();
        let kind = answer.get(4..).and_then(<[u8]>::first_chunk);
        if kind.map(|octets| u16::from_ne_bytes(*octets)) == Some(libc::RTM_NEWROUTE) {
            route.attributes(answer.get(HEADERS..).unwrap_or_default(), interface);
        }
        route
    }

    fn attributes(&mut self, mut rest: &[u8], interface: u32) {
        while let Some((kind, value, tail)) = record(rest) {
            match kind {
                libc::RTA_OIF => self.over_interface |= number(value, 0) == Some(interface),
                libc::RTA_GATEWAY | libc::RTA_VIA => self.gateway = true,
                libc::RTA_MULTIPATH => self.next_hops(value, interface),
                _ => {}
            }
            rest = tail;
        }
    }

    /// struct rtnexthop: length, flags, hops, interface, then attributes.
    fn next_hops(&mut self, mut rest: &[u8], interface: u32) {
        while let Some((_, value, tail)) = record(rest) {
            self.over_interface |= number(value, 0) == Some(interface);
            self.attributes(value.get(4..).unwrap_or_default(), interface);
            rest = tail;
        }
    }
}

/// Splits off the first record: two octets of length, two of type, the value, and the rest.
fn record(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let [a, b, c, d] = *bytes.first_chunk()?;
    let length = usize::from(u16::from_ne_bytes([a, b]));
    let value = bytes.get(4..length)?;
    let tail = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes([c, d]), value, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_on_its_link() {
        let mut routes = Routes::open().unwrap();
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        assert!(routes.reaches_over("127.0.0.1".parse().unwrap(), lo));
        assert!(!routes.reaches_over("127.0.0.1".parse().unwrap(), lo + 100_000));
        assert!(routes.reaches_over("127.0.0.1".parse().unwrap(), lo));
    }
}
