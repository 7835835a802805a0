//! Sees packets on a machine's interfaces through an AF_PACKET socket, both directions.
//!
//! Parses the outermost Ethernet and IP header only: that is what decides whether a packet between
//! pods crosses the wire as it left the pod.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

use crate::failure::{Context, Failure, Result};
use crate::netns;

/// Packet type of what the machine itself sends.
const OUTGOING: u8 = 4;

/// A packet as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whether the machine sent it (else it received it).
    pub outgoing: bool,
    /// Outermost source address.
    pub source: IpAddr,
    /// Outermost destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IP protocol number of what follows the outermost header.
    pub protocol: u8,
    /// Destination port, for UDP.
    pub udp_port: Option<u16>,
}

impl Packet {
    /// Whether the packet carries another one: IP in IP, GRE, VXLAN, Geneve, WireGuard's port.
    pub fn is_tunnel(&self) -> bool {
        matches!(self.protocol, 4 | 41 | 47) || matches!(self.udp_port, Some(4789 | 8472 | 6081 | 51820))
    }
}

/// A running capture on one interface.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Packet>>>>,
}

impl Capture {
    /// Starts to listen on an interface of a namespace; packets count from when this returns.
    pub fn start(namespace: &str, ifname: &str) -> Result<Self> {
        Self::with_file(namespace, ifname, None)
    }

    /// The same, and keeps the frames in a file of libpcap's format.
    pub fn into_file(namespace: &str, ifname: &str, file: &Path) -> Result<Self> {
        let mut file = File::create(file).context(file.display())?;
        // Magic (microseconds), version 2.4, no offset, whole frames, Ethernet.
        let header = [0xa1b2_c3d4_u32, 0x0002_0004, 0, 0, 65_536, 1];
        let header = header.map(u32::to_be_bytes).concat();
        file.write_all(&header).context("the recording")?;
        Self::with_file(namespace, ifname, Some(file))
    }

    fn with_file(namespace: &str, ifname: &str, file: Option<File>) -> Result<Self> {
        let (fd, index) = netns::within(namespace, || {
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .context("packet socket")?;
            setsockopt(&fd, sockopt::RcvBuf, &(8 << 20)).context("packet socket buffer")?;
            Ok((fd, if_nametoindex(ifname).context(ifname)?))
        })
        .map_err(|f| f.during(format_args!("capture on {namespace} {ifname}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || collect(&fd, index, &flag, file));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops and answers every IP packet seen.
    pub fn finish(mut self) -> Result<Vec<Packet>> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self
            .thread
            .take()
            .ok_or_else(|| Failure::new("the capture was finished"))?;
        thread
            .join()
            .map_err(|_| Failure::new("the capture thread panicked"))?
    }
}

fn collect(fd: &OwnedFd, index: u32, stop: &AtomicBool, mut file: Option<File>) -> Result<Vec<Packet>> {
    let mut seen = Vec::new();
    let mut buffer = vec![0u8; 65536];
    loop {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(50u8)).context("poll on the packet socket")?;
        // What was queued before the stop still counts.
        if ready == 0 && stop.load(Ordering::SeqCst) {
            return Ok(seen);
        }
        if ready == 0 {
            continue;
        }
        let (length, from) = recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut buffer).context("packet socket")?;
        let Some(from) = from.filter(|from| from.ifindex() == index as usize) else {
            continue;
        };
        if let Some(file) = &mut file {
            record(file, &buffer[..length]).context("the recording")?;
        }
        seen.extend(parse(&buffer[..length], from.pkttype() == OUTGOING));
    }
}

fn record(file: &mut File, frame: &[u8]) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
    let header = [seconds, now.subsec_micros(), length, length];
    file.write_all(&[&header.map(u32::to_be_bytes).concat(), frame].concat())
}

fn parse(frame: &[u8], outgoing: bool) -> Option<Packet> {
    let packet = frame.get(14..)?;
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at + 2..at + 4)?.try_into().ok()?));
    let (source, destination, ttl, protocol, header): (IpAddr, IpAddr, u8, u8, usize) =
        match frame.get(12..14)? {
            [0x08, 0x00] => {
                let address =
                    |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
                let header = usize::from(packet.first()? & 15) * 4;
                (
                    address(12)?.into(),
                    address(16)?.into(),
                    *packet.get(8)?,
                    *packet.get(9)?,
                    header,
                )
            }
            [0x86, 0xdd] => {
                let address = |at: usize| {
                    Some(Ipv6Addr::from(
                        <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                    ))
                };
                (
                    address(8)?.into(),
                    address(24)?.into(),
                    *packet.get(7)?,
                    *packet.get(6)?,
                    40,
                )
            }
            _ => return None,
        };
    let udp_port = if protocol == 17 { port(header) } else { None };
    Some(Packet {
        outgoing,
        source,
        destination,
        ttl,
        protocol,
        udp_port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_outermost_header() {
        let mut frame = vec![0u8; 12];
        frame.extend([
            0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 62, 1, 0, 0, 10, 244, 1, 2, 10, 244, 4, 3,
        ]);
        let packet = parse(&frame, true).expect("an IPv4 frame");
        assert_eq!((packet.ttl, packet.protocol), (62, 1));
        assert_eq!(packet.destination, IpAddr::from([10, 244, 4, 3]));
        assert!(!packet.is_tunnel());
        frame[23] = 4;
        assert!(parse(&frame, true).expect("an IPv4 frame").is_tunnel());
        assert_eq!(parse(&frame[..20], true), None);
    }
}
