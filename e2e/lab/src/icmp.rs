//! Echo requests from inside a namespace, many at once, over raw sockets.
//!
//! One request per target and no retry: a single lost packet is a finding, not noise.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::{Context, Result};

const DATA: &[u8] = b"podroute lab echo";

/// Sends one echo request to each target from the calling thread's namespace and waits for the
/// answers; answers the round-trip time of each target that replied within `limit`.
pub fn ping_all(targets: &[IpAddr], id: u16, limit: Duration) -> Result<BTreeMap<IpAddr, Duration>> {
    let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).context("raw ICMP socket")?;
    let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).context("raw ICMPv6 socket")?;
    let mut answered = BTreeMap::new();
    let mut sent = BTreeMap::new();
    for (seq, target) in targets.iter().enumerate() {
        let seq = u16::try_from(seq).context("number of targets")?;
        let socket = if target.is_ipv4() { &v4 } else { &v6 };
        sent.insert(seq, (*target, Instant::now()));
        // Not sent at all (no route, prohibited) is the same finding as no answer.
        let _ = socket.send_to(&request(*target, id, seq), &SocketAddr::new(*target, 0).into());
        receive(&v4, &v6, id, &sent, &mut answered, Duration::ZERO)?;
    }
    let deadline = Instant::now() + limit;
    while answered.len() < targets.len() && Instant::now() < deadline {
        receive(&v4, &v6, id, &sent, &mut answered, deadline - Instant::now())?;
    }
    Ok(answered)
}

type Sent = BTreeMap<u16, (IpAddr, Instant)>;

fn receive(
    v4: &Socket,
    v6: &Socket,
    id: u16,
    sent: &Sent,
    answered: &mut BTreeMap<IpAddr, Duration>,
    limit: Duration,
) -> Result<()> {
    let mut fds = [
        PollFd::new(v4.as_fd(), PollFlags::POLLIN),
        PollFd::new(v6.as_fd(), PollFlags::POLLIN),
    ];
    let timeout = PollTimeout::try_from(limit).context("poll timeout")?;
    poll(&mut fds, timeout).context("poll")?;
    let ready = fds.map(|fd| fd.any().unwrap_or(false));
    for (socket, family, ready) in [(v4, 4, ready[0]), (v6, 6, ready[1])] {
        if !ready {
            continue;
        }
        let mut buffer = [0u8; 2048];
        let Ok((length, _)) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer) else {
            continue;
        };
        let _ = MsgFlags::empty();
        let packet = &buffer[..length];
        let (icmp, reply) = match family {
            4 => (
                packet
                    .get(usize::from(packet.first().map_or(0, |b| b & 15)) * 4..)
                    .unwrap_or_default(),
                0,
            ),
            _ => (packet, 129),
        };
        let [kind, _, _, _, id_hi, id_lo, seq_hi, seq_lo, data @ ..] = icmp else {
            continue;
        };
        if *kind != reply || [*id_hi, *id_lo] != id.to_be_bytes() || data != DATA {
            continue;
        }
        if let Some((target, when)) = sent.get(&u16::from_be_bytes([*seq_hi, *seq_lo])) {
            answered.entry(*target).or_insert_with(|| when.elapsed());
        }
    }
    Ok(())
}

fn request(target: IpAddr, id: u16, seq: u16) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(seq.to_be_bytes());
    packet.extend(DATA);
    if target.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero() {
        let packet = request(IpAddr::from([192, 0, 2, 1]), 7, 9);
        assert_eq!(checksum(&packet), 0);
    }
}
