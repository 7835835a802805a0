//! The topology of the rack: segments, machines, addresses, peers.
//!
//! Pure data. The addresses of a machine follow from its number: on segment `192.0.2.0/24` machine
//! 11 is `192.0.2.11` and `2001:db8:a::11`. Sessions, underlay routes and the routes that BGP must
//! bring are computed from the drawing, so that a test changes the drawing and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Pod prefixes of the whole cluster.
pub const POD_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 unicast.
    V4,
    /// IPv6 unicast.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `IPv4` or `IPv6`.
    pub fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// `ipv4` or `ipv6`, as in configurations.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// A layer-2 segment: a switch with several machines, or a cable between two.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Name; a switch's namespace carries it.
    pub name: &'static str,
    /// IPv4 prefix.
    pub v4: Ipv4Net,
    /// IPv6 prefix.
    pub v6: Ipv6Net,
    /// Whether a bridge joins the machines.
    pub switched: bool,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A Kubernetes node: has pods and pod blocks.
    Node,
    /// A top-of-rack router.
    Tor,
}

/// A machine's port on a segment.
#[derive(Debug, Clone)]
pub struct Port {
    /// Interface name.
    pub ifname: &'static str,
    /// Index into [`Topology::segments`].
    pub segment: usize,
    /// Host part of both addresses.
    pub host: u8,
}

/// A node or a ToR.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Name and namespace.
    pub name: &'static str,
    /// Node or ToR.
    pub role: Role,
    /// AS number.
    pub asn: u32,
    /// Ports, the first one is the node's uplink.
    pub ports: Vec<Port>,
    /// Pod blocks (none on a ToR).
    pub blocks: Vec<IpNet>,
}

/// The whole drawing.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Segments.
    pub segments: Vec<Segment>,
    /// Machines.
    pub machines: Vec<Machine>,
}

/// One end of a BGP session as its machine sees it.
#[derive(Debug, Clone)]
pub struct Neighbor {
    /// Name of the other machine.
    pub machine: &'static str,
    /// Role of the other machine.
    pub role: Role,
    /// Name of the session: `tor-a` for IPv4, `tor-a-v6` for IPv6.
    pub name: String,
    /// Own address.
    pub local: IpAddr,
    /// The other's address.
    pub remote: IpAddr,
    /// The other's AS number.
    pub asn: u32,
    /// Wait for the other to connect.
    pub passive: bool,
}

/// A route that BGP must bring into a machine's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The block of another node.
    pub prefix: IpNet,
    /// Name of the machine it must go through.
    pub via: &'static str,
    /// Addresses of that machine on the shared segment.
    pub gateway: IpAddr,
}

impl Topology {
    /// The demo's rack: three nodes and a ToR on a switch, a fourth node behind a second ToR.
    pub fn demo() -> Self {
        let segments = vec![
            segment("rack-a", "192.0.2.0/24", "2001:db8:a::/64", true),
            segment("rack-b", "198.51.100.0/24", "2001:db8:b::/64", false),
            segment("spine", "203.0.113.0/30", "2001:db8:c::/64", false),
        ];
        let machines = vec![
            node("node-1", 1, 64512, 0, 11),
            node("node-2", 2, 64512, 0, 12),
            node("node-3", 3, 64512, 0, 13),
            node("node-4", 4, 64513, 1, 14),
            tor("tor-a", 65001, vec![port("rack", 0, 1), port("spine", 2, 1)]),
            tor("tor-b", 65002, vec![port("rack", 1, 1), port("spine", 2, 2)]),
        ];
        Self { segments, machines }
    }

    /// The smallest rack with a router in it: two nodes, each in an AS of its own, and a ToR.
    pub fn small() -> Self {
        let segments = vec![
            segment("rack-a", "192.0.2.0/24", "2001:db8:a::/64", false),
            segment("rack-b", "198.51.100.0/24", "2001:db8:b::/64", false),
        ];
        let machines = vec![
            node("node-1", 1, 64512, 0, 11),
            node("node-2", 2, 64513, 1, 12),
            tor("tor-a", 65001, vec![port("rack", 0, 1), port("rack-2", 1, 1)]),
        ];
        Self { segments, machines }
    }

    /// The machine of that name.
    pub fn machine(&self, name: &str) -> &Machine {
        self.machines
            .iter()
            .find(|m| m.name == name)
            .unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// The machine of that name, to change the drawing.
    pub fn machine_mut(&mut self, name: &str) -> &mut Machine {
        self.machines
            .iter_mut()
            .find(|m| m.name == name)
            .unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|m| m.role == Role::Node)
    }

    /// All ToRs.
    pub fn tors(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|m| m.role == Role::Tor)
    }

    /// Address of a port.
    pub fn address(&self, port: &Port, family: Family) -> IpAddr {
        let segment = &self.segments[port.segment];
        match family {
            Family::V4 => Ipv4Addr::from(u32::from(segment.v4.network()) + u32::from(port.host)).into(),
            // The host number as it reads: 11 is ::11.
            Family::V6 => {
                let host = u128::from_str_radix(&port.host.to_string(), 16).unwrap_or_default();
                Ipv6Addr::from(u128::from(segment.v6.network()) + host).into()
            }
        }
    }

    /// Prefix of a port's segment.
    pub fn subnet(&self, segment: usize, family: Family) -> IpNet {
        let segment = &self.segments[segment];
        match family {
            Family::V4 => segment.v4.into(),
            Family::V6 => segment.v6.into(),
        }
    }

    /// The address by which other machines know this one: that of its first port.
    pub fn uplink(&self, machine: &Machine, family: Family) -> IpAddr {
        self.address(&machine.ports[0], family)
    }

    /// A segment that both machines are on, with their ports.
    fn shared<'a>(&self, a: &'a Machine, b: &'a Machine) -> Option<(&'a Port, &'a Port)> {
        a.ports
            .iter()
            .find_map(|pa| Some((pa, b.ports.iter().find(|pb| pb.segment == pa.segment)?)))
    }

    /// The BGP neighbors of a machine: everybody on its segments, one session per family.
    pub fn neighbors(&self, machine: &Machine) -> Vec<Neighbor> {
        let mut out = Vec::new();
        for other in self.machines.iter().filter(|other| other.name != machine.name) {
            let Some((mine, theirs)) = self.shared(machine, other) else {
                continue;
            };
            for family in Family::BOTH {
                out.push(Neighbor {
                    machine: other.name,
                    role: other.role,
                    name: match family {
                        Family::V4 => other.name.to_owned(),
                        Family::V6 => format!("{}-v6", other.name),
                    },
                    local: self.address(mine, family),
                    remote: self.address(theirs, family),
                    asn: other.asn,
                    passive: false,
                });
            }
        }
        out
    }

    /// Routes of the physical network that exist before BGP: `(prefix, gateway)`.
    pub fn underlay(&self, machine: &Machine, family: Family) -> Vec<(String, IpAddr)> {
        let through = |tor: &Machine| {
            self.shared(machine, tor)
                .map(|(_, port)| self.address(port, family))
        };
        match machine.role {
            Role::Node => {
                let gateway = self.tors().find_map(through);
                gateway
                    .map(|gateway| ("default".to_owned(), gateway))
                    .into_iter()
                    .collect()
            }
            Role::Tor => {
                let others = self.tors().filter(|tor| tor.name != machine.name);
                others
                    .filter_map(|tor| Some((tor, through(tor)?)))
                    .flat_map(|(tor, gateway)| {
                        let far = tor.ports.iter().map(|port| port.segment);
                        let far = far.filter(|s| machine.ports.iter().all(|mine| mine.segment != *s));
                        far.map(move |s| (self.subnet(s, family).to_string(), gateway))
                            .collect::<Vec<_>>()
                    })
                    .collect()
            }
        }
    }

    /// The routes that BGP must bring to a machine: every other node's blocks.
    pub fn expected(&self, machine: &Machine) -> Vec<Expected> {
        let mut out = Vec::new();
        for owner in self.nodes().filter(|owner| owner.name != machine.name) {
            let via = self.next_machine(machine, owner);
            let Some((_, port)) = self.shared(machine, via) else {
                continue;
            };
            for prefix in &owner.blocks {
                let gateway = self.address(port, Family::of(prefix.addr()));
                out.push(Expected {
                    prefix: *prefix,
                    via: via.name,
                    gateway,
                });
            }
        }
        out
    }

    fn next_machine<'a>(&'a self, from: &Machine, to: &'a Machine) -> &'a Machine {
        if self.shared(from, to).is_some() {
            return to;
        }
        let tors: Vec<&Machine> = self
            .tors()
            .filter(|t| t.name != from.name && self.shared(from, t).is_some())
            .collect();
        // The ToR that sees the destination itself, or else the first on the way.
        tors.iter()
            .find(|t| self.shared(t, to).is_some())
            .or(tors.first())
            .copied()
            .unwrap_or(to)
    }
}

fn segment(name: &'static str, v4: &str, v6: &str, switched: bool) -> Segment {
    let (v4, v6) = (
        v4.parse().expect("literal IPv4 prefix"),
        v6.parse().expect("literal IPv6 prefix"),
    );
    Segment {
        name,
        v4,
        v6,
        switched,
    }
}

fn port(ifname: &'static str, segment: usize, host: u8) -> Port {
    Port {
        ifname,
        segment,
        host,
    }
}

fn node(name: &'static str, number: u8, asn: u32, segment: usize, host: u8) -> Machine {
    let blocks = [
        format!("10.244.{number}.0/24"),
        format!("fd00:10:244:{number}::/64"),
    ];
    Machine {
        name,
        role: Role::Node,
        asn,
        ports: vec![port("eth0", segment, host)],
        blocks: blocks.iter().map(|b| b.parse().expect("literal block")).collect(),
    }
}

fn tor(name: &'static str, asn: u32, ports: Vec<Port>) -> Machine {
    Machine {
        name,
        role: Role::Tor,
        asn,
        ports,
        blocks: Vec::new(),
    }
}
