//! The machines of a mesh: namespaces with one interface each, on one bridge.
//!
//! Neighbor entries are permanent: what the kernel allows of learned ones (1,024 in all namespaces together) is less than
//! a mesh on one machine needs, and broadcasts to all of them would be most of the load.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use lab::daemon::Kind;
use lab::failure::{Context, Result};
use lab::machine::Host;
use lab::netns;
use lab::topology::Family;

/// The addresses have room for no more.
pub(super) const MOST: usize = 1000;
const SWITCH: &str = "switch";
/// The bridge that carries the mesh, and the one of the other side of a partition.
const BRIDGES: [&str; 2] = ["br0", "br1"];
/// Route protocol numbers of what the daemons install.
const PROTOCOLS: [u8; 2] = [245, 12];

/// The number of a machine's routes in the kernel.
pub(super) fn protocol(kind: Kind) -> u8 {
    if kind == Kind::Podroute {
        PROTOCOLS[0]
    } else {
        PROTOCOLS[1]
    }
}

/// Counted from 1.
fn number(at: usize) -> u16 {
    u16::try_from(at + 1).unwrap_or(u16::MAX)
}

/// The address of a machine on the bridge.
pub(super) fn address(at: usize, family: Family) -> IpAddr {
    let number = number(at);
    match family {
        Family::V4 => Ipv4Addr::from(0xac10_0000 + u32::from(number)).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into(),
    }
}

/// A block of a machine. Generation 0 is what it always has; each later one is announced until the next.
pub(super) fn block(at: usize, generation: u16, family: Family) -> IpNet {
    let number = number(at);
    match family {
        Family::V4 => {
            let [high, low] = number.to_be_bytes();
            // Sixty generations of four times 256 machines, then from the first on again.
            let second = if generation == 0 {
                high
            } else {
                4 * (1 + u8::try_from(generation % 60).unwrap_or(0)) + high
            };
            let net = Ipv4Net::new(Ipv4Addr::new(10, second, low, 0), 24);
            net.map(IpNet::V4).expect("24 is a length")
        }
        Family::V6 => {
            let net = Ipv6Net::new(Ipv6Addr::new(0xfd00, 0x10, generation, number, 0, 0, 0, 0), 64);
            net.map(IpNet::V6).expect("64 is a length")
        }
    }
}

/// All blocks of all machines.
pub(super) const BLOCKS: [&str; 2] = ["10.0.0.0/8", "fd00:10::/32"];

/// The namespaces.
#[derive(Debug)]
pub(super) struct BridgedNodes {
    pub(super) hosts: Vec<Host>,
    switch: Host,
}

impl BridgedNodes {
    /// Builds this number of machines.
    pub(super) fn build(count: usize) -> Result<Self> {
        let switch = Host::create(SWITCH)?;
        let hosts = (0..count)
            .map(|at| Host::create(&format!("n{at}")))
            .collect::<Result<Vec<_>>>()?;
        let bridge = Self { hosts, switch };
        let mut lines = String::new();
        for bridge in BRIDGES {
            let _ = writeln!(
                lines,
                "link add {bridge} type bridge stp_state 0 mcast_snooping 0\nlink set {bridge} up"
            );
        }
        for (at, host) in bridge.hosts.iter().enumerate() {
            let _ = writeln!(
                lines,
                "link add p{at} type veth peer name eth0 address {} netns {}\nlink set p{at} master {} up",
                mac(at),
                host.name(),
                BRIDGES[0]
            );
        }
        batch(&bridge.switch, "ports", &lines)?;
        (0..count).try_for_each(|at| bridge.restore(at))?;
        Ok(bridge)
    }

    /// Sets up a machine's interface with its addresses and neighbors, as it was at first.
    pub(super) fn restore(&self, at: usize) -> Result<()> {
        let [v4, v6] = Family::BOTH.map(|family| address(at, family));
        let mut lines =
            format!("link set eth0 up\naddr replace {v4}/16 dev eth0\naddr replace {v6}/64 dev eth0 nodad\n");
        for other in (0..self.hosts.len()).filter(|other| *other != at) {
            let remote = address(other, Family::V4);
            let _ = writeln!(
                lines,
                "neigh replace {remote} lladdr {} dev eth0 nud permanent",
                mac(other)
            );
        }
        batch(&self.hosts[at], "interface", &lines)
    }

    /// A machine's port carries, or does not; the machine sees it, the others do not.
    pub(super) fn port(&self, at: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.switch.ip(&format!("link set p{at} {state}")).map(drop)
    }

    /// Puts machines on one of the two bridges, which nothing joins.
    pub(super) fn side(&self, machines: impl Iterator<Item = usize>, side: usize) -> Result<()> {
        let lines: String = machines
            .map(|at| format!("link set p{at} master {}\n", BRIDGES[side]))
            .collect();
        batch(&self.switch, "sides", &lines)
    }

    /// Takes away what daemons left: routes, nexthop objects, files.
    pub(super) fn clear(&self) -> Result<()> {
        let flush = PROTOCOLS.map(|protocol| format!("route flush proto {protocol}\n"));
        let lines = format!("nexthop flush proto 245\n{}", flush.concat());
        for host in &self.hosts {
            let file = host.write_config("clear", &lines)?;
            for family in ["-4", "-6"] {
                // Where nothing is left it may say so; what stays is found by the next dump.
                let _ = host.ip(&format!("{family} -force -batch {}", file.display()));
            }
            for left in ["podroute", "bird"] {
                let dir = host.run_file(left);
                if dir.exists() {
                    std::fs::remove_dir_all(&dir).context(dir.display())?;
                }
            }
        }
        Ok(())
    }

    /// Takes the machines away.
    pub(super) fn remove(self) -> Result<()> {
        let names = self.hosts.iter().chain([&self.switch]);
        names.map(Host::name).try_for_each(netns::delete)
    }
}

fn mac(at: usize) -> String {
    let [high, low] = number(at).to_be_bytes();
    format!("02:00:00:00:{high:02x}:{low:02x}")
}

fn batch(host: &Host, name: &str, lines: &str) -> Result<()> {
    let file = host.write_config(name, lines)?;
    host.ip(&format!("-batch {}", file.display())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn blocks_do_not_overlap_and_lie_in_the_clusters() {
        let all: Vec<IpNet> = BLOCKS.iter().map(|text| text.parse().expect("literal")).collect();
        for family in Family::BOTH {
            let mut seen = HashSet::new();
            for generation in 0..50 {
                for at in 0..MOST {
                    let block = block(at, generation, family);
                    assert!(seen.insert(block), "{block} twice");
                    assert!(all.iter().any(|net| net.contains(&block)), "{block}");
                }
            }
        }
    }
}
