//! Probes: echo requests with a limited TTL, loss, the path MTU, and a connection to the port; from the source's network namespace.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use super::pod;
use crate::explain::{ProbeFacts, ProbedHop};
use crate::kernel_view::{Kernel, Packet};

/// Routers that are asked at most.
const HOPS: u8 = 16;
/// Distances without an answer after which the others are not tried.
const SILENT: usize = 3;
/// Probes for each distance.
const TRIES: u32 = 3;
/// Probes to the destination.
const PROBES: u32 = 10;
/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Octets of a probe, as ping's.
const SMALL: u32 = 84;
/// Every path takes packets of this size.
const SMALLEST: u32 = 576;

/// Sends probes from a pod's namespace, or from this host.
pub(super) fn measure(
    netns: Option<&str>,
    ends: (IpAddr, IpAddr),
    port: Option<&str>,
    first_mtu: u32,
) -> Result<ProbeFacts, ProbeError> {
    let work = move || run(ends, port, first_mtu).map_err(ProbeError::Socket);
    match netns {
        Some(netns) => {
            let entered = pod::inside(netns, |_| Some(work()));
            entered.unwrap_or_else(|| Err(ProbeError::Namespace(netns.to_owned())))
        }
        None => work(),
    }
}

/// Why probes cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("cannot enter the network namespace {0}")]
    Namespace(String),
    #[error("raw socket: {0}; podroute needs CAP_NET_RAW")]
    Socket(std::io::Error),
}

fn run(
    (source, destination): (IpAddr, IpAddr),
    port: Option<&str>,
    first_mtu: u32,
) -> std::io::Result<ProbeFacts> {
    let mut prober = Prober::open(source, destination)?;
    let mut hops: Vec<ProbedHop> = Vec::new();
    for distance in 1..=HOPS {
        let answers = prober.send(TRIES, Some(distance), SMALL)?;
        let first = answers.first().copied();
        hops.push(ProbedHop {
            distance,
            address: first.map(|answer| answer.from),
            sent: TRIES,
            answered: u32::try_from(answers.len()).unwrap_or_default(),
            micros: answers.iter().map(|answer| answer.micros).min(),
        });
        let silent = hops.iter().rev().take_while(|hop| hop.address.is_none()).count();
        if silent >= SILENT || first.is_some_and(|answer| answer.from == destination) {
            break;
        }
    }
    while hops.last().is_some_and(|hop| hop.address.is_none()) {
        hops.pop();
    }
    let answered = prober.send(PROBES, None, SMALL)?;
    let answered = answered
        .iter()
        .filter(|answer| answer.from == destination)
        .count();
    Ok(ProbeFacts {
        hops,
        sent: PROBES,
        answered: u32::try_from(answered).unwrap_or_default(),
        path_mtu: if answered > 0 {
            path_mtu(&mut prober, first_mtu)?
        } else {
            None
        },
        first_mtu,
        port_is_open: port.and_then(|port| is_open(destination, port)),
    })
}

/// The largest packet that is answered. What the kernel has learned from a router counts: it would divide larger ones.
fn path_mtu(prober: &mut Prober, first_mtu: u32) -> std::io::Result<Option<u32>> {
    let passes = |prober: &mut Prober, size| -> std::io::Result<bool> {
        let answers = prober.send(2, None, size)?;
        Ok(answers.iter().any(|answer| answer.from == prober.destination))
    };
    if let Some(mtu) = learned_mtu(prober.destination).filter(|mtu| *mtu < first_mtu) {
        return Ok(Some(mtu));
    }
    if passes(prober, first_mtu)? {
        return Ok(Some(first_mtu));
    }
    if let Some(mtu) = learned_mtu(prober.destination) {
        return Ok(Some(mtu));
    }
    let (mut low, mut high) = (SMALLEST, first_mtu);
    while high > low + 1 {
        let middle = low.midpoint(high);
        if passes(prober, middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

/// What a router has said to this network namespace.
fn learned_mtu(destination: IpAddr) -> Option<u32> {
    let kernel = Kernel::open().ok()?;
    let packet = Packet {
        destination,
        source: None,
        arrives_on: None,
    };
    kernel.decide(packet, &[]).ok()?.ok()?.mtu
}

fn is_open(destination: IpAddr, port: &str) -> Option<bool> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let address = SocketAddr::new(destination, number.parse().ok()?);
    if protocol != "tcp" {
        return None;
    }
    match TcpStream::connect_timeout(&address, 2 * PATIENCE) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(false),
        Err(_) => None,
    }
}

/// Who answered a probe, and after which time.
#[derive(Clone, Copy, Debug)]
struct Answer {
    from: IpAddr,
    micros: u64,
}

struct Prober {
    socket: Socket,
    destination: IpAddr,
    id: u16,
    sequence: u16,
}

impl Prober {
    fn open(source: IpAddr, destination: IpAddr) -> std::io::Result<Self> {
        let (domain, protocol) = match destination {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        // An address that is not here sends nothing: the kernel chooses one then.
        let _ = socket.bind(&SocketAddr::new(source, 0).into());
        Ok(Self {
            socket,
            destination,
            id: u16::try_from(std::process::id() & 0xffff).unwrap_or(1),
            sequence: 0,
        })
    }

    /// Sends probes of a size and gives the answers that come in time.
    fn send(&mut self, count: u32, ttl: Option<u8>, size: u32) -> std::io::Result<Vec<Answer>> {
        let ttl = u32::from(ttl.unwrap_or(64));
        if self.destination.is_ipv4() {
            self.socket.set_ttl_v4(ttl)?;
        } else {
            self.socket.set_unicast_hops_v6(ttl)?;
        }
        let mut sent = BTreeMap::new();
        for _ in 0..count {
            self.sequence = self.sequence.wrapping_add(1);
            let request = self.request(size);
            // Not sent at all is the same finding as no answer.
            if self
                .socket
                .send_to(&request, &SocketAddr::new(self.destination, 0).into())
                .is_ok()
            {
                sent.insert(self.sequence, Instant::now());
            }
        }
        self.receive(sent)
    }

    fn receive(&self, mut sent: BTreeMap<u16, Instant>) -> std::io::Result<Vec<Answer>> {
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 65536];
        while !sent.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left))?;
            let (length, from) = match recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let packet = buffer.get(..length).unwrap_or_default();
            let answer = sequence_of(self.destination, self.id, packet);
            let from = from.as_ref().and_then(address);
            if let (Some(at), Some(from)) = (answer.and_then(|sequence| sent.remove(&sequence)), from) {
                let micros = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
                answers.push(Answer { from, micros });
            }
        }
        Ok(answers)
    }

    fn request(&self, size: u32) -> Vec<u8> {
        let (kind, headers) = if self.destination.is_ipv4() {
            (8, 20)
        } else {
            (128, 40)
        };
        let mut packet = vec![kind, 0, 0, 0];
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.resize(
            usize::try_from(size.saturating_sub(headers))
                .unwrap_or_default()
                .max(8),
            0,
        );
        if self.destination.is_ipv4() {
            let sum = checksum(&packet).to_be_bytes();
            if let Some(place) = packet.get_mut(2..4) {
                place.copy_from_slice(&sum);
            }
        }
        packet
    }
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|address| address.ip().into());
    v4.or_else(|| from.as_sockaddr_in6().map(|address| address.ip().into()))
}

/// The sequence number of the probe that a packet answers: an echo reply, or a time exceeded with the probe inside.
fn sequence_of(destination: IpAddr, id: u16, packet: &[u8]) -> Option<u16> {
    let is_v4 = destination.is_ipv4();
    let icmp = if is_v4 { behind_ipv4(packet)? } else { packet };
    let (reply, exceeded) = if is_v4 { (0, 11) } else { (129, 3) };
    let echo = match *icmp.first()? {
        kind if kind == reply => icmp,
        kind if kind == exceeded && is_v4 => behind_ipv4(icmp.get(8..)?)?,
        kind if kind == exceeded => icmp.get(8 + 40..)?,
        _ => return None,
    };
    let number = |at: usize| Some(u16::from_be_bytes(echo.get(at..at + 2)?.try_into().ok()?));
    (number(4)? == id).then(|| number(6))?
}

fn behind_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 15) * 4;
    packet.get(length..)
}

/// The Internet checksum (RFC 1071).
fn checksum(octets: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        let (high, low) = (pair.first().copied(), pair.get(1).copied());
        u32::from(high.unwrap_or(0)) << 8 | u32::from(low.unwrap_or(0))
    };
    let mut sum: u32 = octets.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_answers_at_the_first_distance() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let found = match measure(None, (own, own), Some(&port), 1500) {
            Ok(found) => found,
            Err(error) => return println!("LEFT OUT: no raw socket: {error}"),
        };
        assert_eq!((found.sent, found.answered), (PROBES, PROBES));
        assert_eq!(found.hops.len(), 1);
        assert_eq!(found.hops[0].address, Some(own));
        assert_eq!(found.path_mtu, Some(1500));
        assert_eq!(found.port_is_open, Some(true));
        drop(listener);
        assert_eq!(is_open(own, &port), Some(false));
        assert_eq!(is_open(own, "53/udp"), None);
    }

    #[test]
    fn an_answer_is_told_from_other_packets() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let header = [[0x45].as_slice(), &[0; 19]].concat();
        let echo = |kind: u8| vec![kind, 0, 0, 0, 0, 7, 0, 9];
        let reply = [header.clone(), echo(0)].concat();
        assert_eq!(sequence_of(v4, 7, &reply), Some(9));
        assert_eq!(sequence_of(v4, 8, &reply), None, "of another process");
        let exceeded = [
            header.clone(),
            vec![11, 0, 0, 0, 0, 0, 0, 0],
            header.clone(),
            echo(8),
        ]
        .concat();
        assert_eq!(sequence_of(v4, 7, &exceeded), Some(9));
        for end in 0..exceeded.len() {
            assert_eq!(sequence_of(v4, 7, &exceeded[..end]), None, "cut off after {end}");
        }
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let exceeded = [vec![3, 0, 0, 0, 0, 0, 0, 0], vec![0; 40], echo(128)].concat();
        assert_eq!(sequence_of(v6, 7, &exceeded), Some(9));
        assert_eq!(checksum(&[0x45, 0x00, 0x01]), !0x4600);
    }
}
