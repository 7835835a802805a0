//! Samples of dropped packets for the log: at most one a second, each with how many were not logged since.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use podroute_netfilter::LoggedPacket;
use podroute_netpol::Model;

/// Between two samples.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Drops {
    last: Option<Instant>,
    left_out: u64,
}

impl Drops {
    pub(super) fn take(&mut self, now: Instant, packets: &[LoggedPacket], model: &Model) {
        for packet in packets {
            if self.last.is_some_and(|last| now.duration_since(last) < PAUSE) {
                self.left_out += 1;
                continue;
            }
            let Some(ends) = Ends::read(&packet.bytes) else {
                continue;
            };
            self.last = Some(now);
            let pod = |address| model.pod_at(address).unwrap_or_else(|| "no pod".to_owned());
            let direction = packet.prefix.split(' ').next().unwrap_or_default();
            tracing::info!(
                event = "policy_drop",
                %direction,
                from = %ends.source, from_pod = %pod(ends.source),
                to = %ends.destination, to_pod = %pod(ends.destination),
                protocol = ends.protocol, port = ends.port, others = self.left_out,
                "a packet was dropped by network policies; 'podroute network-policy explain' says why"
            );
            self.left_out = 0;
        }
    }
}

/// Both ends and the port, from the packet's headers.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    port: u16,
}

impl Ends {
    /// None where the packet is cut short. Extension headers of IPv6 are not followed.
    fn read(packet: &[u8]) -> Option<Self> {
        let v4 =
            |at: usize| -> Option<IpAddr> { Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into()) };
        let v6 = |at: usize| -> Option<IpAddr> {
            Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
        };
        let first = *packet.first()?;
        let (source, destination, protocol, transport) = match first >> 4 {
            4 => (v4(12)?, v4(16)?, *packet.get(9)?, usize::from(first & 15) * 4),
            6 => (v6(8)?, v6(24)?, *packet.get(6)?, 40),
            _ => return None,
        };
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let port = packet.get(transport + 2..transport + 4).filter(|_| has_ports);
        let port = port
            .and_then(|bytes| <[u8; 2]>::try_from(bytes).ok())
            .map(u16::from_be_bytes);
        Some(Self {
            source,
            destination,
            protocol,
            port: port.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_from_headers() {
        let mut v4 = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        v4.extend([0x10, 0, 0, 80]);
        let ends = Ends::read(&v4).unwrap();
        assert_eq!(
            (ends.destination, ends.protocol, ends.port),
            ("10.0.0.2".parse().unwrap(), 6, 80)
        );
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        v6.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        v6.extend([0, 1, 0, 53]);
        let ends = Ends::read(&v6).unwrap();
        assert_eq!((ends.source, ends.port), ("fd00::1".parse().unwrap(), 53));
        for end in 0..20 {
            assert_eq!(Ends::read(&v4[..end]), None);
        }
        assert_eq!(Ends::read(&v4[..20]).unwrap().port, 0);
    }
}
