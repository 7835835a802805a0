//! What the kernel says when it is asked: for operators, one question at a time, synchronous.

use std::net::IpAddr;

use bgp_proto::types::Prefix;
use linux::netlink::{Attributes, Batch, DUMP, REQUEST, Reply, Socket, frame, u16_at, u32_at};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTM_F_FIB_MATCH: u32 = 0x2000;

const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;

const RTN_LOCAL: u8 = 2;

/// A packet whose route is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Packet {
    pub(crate) destination: IpAddr,
    pub(crate) source: Option<IpAddr>,
    /// The interface that it arrives on; none: it is sent by this host.
    pub(crate) arrives_on: Option<u32>,
}

/// What the kernel does with a packet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Decision {
    /// To this host itself.
    pub(crate) is_local: bool,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) interface: Option<String>,
    /// The preferred source address.
    pub(crate) source: Option<IpAddr>,
    /// An MTU that the kernel has learned or that the route has.
    pub(crate) mtu: Option<u32>,
    /// The route that matches.
    pub(crate) matched: Option<Matched>,
}

/// A route of the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Matched {
    pub(crate) prefix: String,
    /// Who made it; rtnetlink(7).
    pub(crate) protocol: u8,
    pub(crate) table: u32,
    pub(crate) metric: u32,
}

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// It is set up.
    pub(crate) is_up: bool,
    /// It has a carrier.
    pub(crate) has_carrier: bool,
    pub(crate) address: Vec<u8>,
}

/// A neighbor entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Neighbor {
    /// As `ip neigh` names it.
    pub(crate) state: String,
    pub(crate) link_address: Vec<u8>,
}

impl Neighbor {
    /// No answer came to the kernel's requests.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.state.as_str(), "FAILED" | "INCOMPLETE")
    }
}

/// A socket for questions.
pub(crate) struct Kernel(Socket);

impl Kernel {
    pub(crate) fn open() -> Result<Self, linux::Error> {
        Socket::route().map(Self)
    }

    /// What the kernel does with a packet: its route, or why it drops it. The errors: `EHOSTUNREACH`: an unreachable route, or no
    /// forwarding on the interface; `ENETUNREACH`: no route; `EACCES`: a prohibit route; `EINVAL`: a blackhole route, or (since Linux 6.13
    /// for all reasons) a packet that may not arrive on the interface.
    pub(crate) fn decide(
        &self,
        packet: Packet,
        links: &[Link],
    ) -> Result<Result<Decision, Errno>, linux::Error> {
        let reply = match self.route(packet, RTM_F_LOOKUP_TABLE)? {
            Ok(reply) => reply,
            Err(errno) => return Ok(Err(errno)),
        };
        let mut decision = decision(&reply, links);
        // A kernel that does not know the flag (before 4.13) leaves out which route matches: the rest of the answer stands.
        if let Ok(reply) = self.route(packet, RTM_F_LOOKUP_TABLE | RTM_F_FIB_MATCH)? {
            decision.matched = matched(&reply);
        }
        Ok(Ok(decision))
    }

    fn route(&self, packet: Packet, flags: u32) -> Result<Result<Reply, Errno>, linux::Error> {
        let destination = octets(packet.destination);
        let length = |address: &[u8]| u8::try_from(address.len() * 8).unwrap_or_default();
        let source = packet.source.map(octets).unwrap_or_default();
        let mut header = vec![family(packet.destination), length(&destination), length(&source)];
        header.extend([0; 5]);
        header.extend(flags.to_ne_bytes());
        let mut batch = Batch::default();
        batch.begin(
            RTM_GETROUTE,
            0,
            &header,
            format!("find the route to {}", packet.destination),
        );
        batch.attr(RTA_DST, &destination);
        if packet.source.is_some() {
            batch.attr(RTA_SRC, &source);
        }
        if let Some(index) = packet.arrives_on {
            batch.attr(RTA_IIF, &index.to_ne_bytes());
        }
        let outcome = self.0.try_run(&mut batch)?;
        if let Some(failure) = outcome.failures.first() {
            return Ok(Err(failure.errno));
        }
        Ok(outcome.replies.into_iter().next().ok_or(Errno::ENOMSG))
    }

    /// All interfaces.
    pub(crate) fn links(&self) -> Result<Vec<Link>, linux::Error> {
        let mut links = Vec::new();
        self.dump(RTM_GETLINK, 0, 16, |body| links.extend(link(body)))?;
        Ok(links)
    }

    /// The host's own addresses, with the index of the interface.
    pub(crate) fn addresses(&self) -> Result<Vec<(IpAddr, u32)>, linux::Error> {
        let mut found = Vec::new();
        self.dump(RTM_GETADDR, 0, 8, |body| {
            let attributes = Attributes(body.get(8..).unwrap_or_default());
            let address = attributes.get(2).or_else(|| attributes.get(1)).and_then(address);
            found.extend(address.zip(u32_at(body, 4)));
        })?;
        Ok(found)
    }

    /// The neighbor entry of an address on an interface.
    pub(crate) fn neighbor(&self, address: IpAddr, index: u32) -> Result<Option<Neighbor>, linux::Error> {
        let wanted = octets(address);
        let mut found = None;
        self.dump(RTM_GETNEIGH, family(address), 12, |body| {
            let attributes = Attributes(body.get(12..).unwrap_or_default());
            if u32_at(body, 4) == Some(index) && attributes.get(1) == Some(&wanted) {
                found = u16_at(body, 8).map(|state| Neighbor {
                    state: neighbor_state(state).to_owned(),
                    link_address: attributes.get(2).unwrap_or_default().to_vec(),
                });
            }
        })?;
        Ok(found)
    }

    /// Interfaces that host routes of an address lead to.
    pub(crate) fn host_routes(&self, address: IpAddr) -> Result<Vec<u32>, linux::Error> {
        let wanted = octets(address);
        let mut found = Vec::new();
        self.dump(RTM_GETROUTE, family(address), RTMSG, |body| {
            let attributes = Attributes(body.get(RTMSG..).unwrap_or_default());
            let is_host = body.get(1).map(|length| usize::from(*length)) == Some(wanted.len() * 8);
            let is_unicast = body.get(7) == Some(&1);
            if is_host && is_unicast && attributes.get(RTA_DST) == Some(&wanted) {
                found.extend(attributes.u32(RTA_OIF));
            }
        })?;
        Ok(found)
    }

    fn dump(
        &self,
        kind: u16,
        family: u8,
        header: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), linux::Error> {
        let mut request = Vec::new();
        frame::message(&mut request, kind, REQUEST | DUMP, 1, |out| {
            out.push(family);
            out.resize(out.len() + header - 1, 0);
        });
        self.0.dump(&request, |message| each(message.body())).map(drop)
    }
}

fn decision(reply: &Reply, links: &[Link]) -> Decision {
    let attributes = reply.attrs(RTMSG);
    let index = attributes.u32(RTA_OIF);
    let link = links.iter().find(|link| Some(link.index) == index);
    let via = attributes.get(RTA_VIA).and_then(|via| address(via.get(2..)?));
    let metrics = attributes.get(RTA_METRICS).map(Attributes);
    Decision {
        is_local: reply.body.get(7) == Some(&RTN_LOCAL),
        gateway: attributes.get(RTA_GATEWAY).and_then(address).or(via),
        interface: link.map(|link| link.name.clone()),
        source: attributes.get(RTA_PREFSRC).and_then(address),
        mtu: metrics.and_then(|metrics| metrics.u32(RTAX_MTU)),
        matched: None,
    }
}

fn matched(reply: &Reply) -> Option<Matched> {
    let attributes = reply.attrs(RTMSG);
    let (family, length) = (*reply.body.first()?, *reply.body.get(1)?);
    let unspecified: IpAddr = if i32::from(family) == libc::AF_INET {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let destination = attributes.get(RTA_DST).and_then(address).unwrap_or(unspecified);
    Some(Matched {
        prefix: Prefix::new(destination, length).to_string(),
        protocol: *reply.body.get(5)?,
        table: attributes.u32(RTA_TABLE).unwrap_or_default(),
        metric: attributes.u32(RTA_PRIORITY).unwrap_or_default(),
    })
}

fn link(body: &[u8]) -> Option<Link> {
    const IFF_UP: u32 = 1;
    const IFF_LOWER_UP: u32 = 0x10000;
    let attributes = Attributes(body.get(16..)?);
    let flags = u32_at(body, 8)?;
    Some(Link {
        index: u32_at(body, 4)?,
        name: attributes.text(3)?.to_owned(),
        mtu: attributes.u32(4).unwrap_or_default(),
        is_up: flags & IFF_UP != 0,
        has_carrier: flags & IFF_LOWER_UP != 0,
        address: attributes.get(1).unwrap_or_default().to_vec(),
    })
}

fn neighbor_state(state: u16) -> &'static str {
    match state {
        0x01 => "INCOMPLETE",
        0x02 => "REACHABLE",
        0x04 => "STALE",
        0x08 => "DELAY",
        0x10 => "PROBE",
        0x20 => "FAILED",
        0x40 => "NOARP",
        0x80 => "PERMANENT",
        _ => "NONE",
    }
}

/// The name of a route protocol, as far as it is well known.
pub(crate) fn protocol_name(protocol: u8) -> String {
    match protocol {
        2 => "kernel".to_owned(),
        3 => "boot".to_owned(),
        4 => "static".to_owned(),
        9 => "ra".to_owned(),
        11 => "zebra".to_owned(),
        12 => "bird".to_owned(),
        16 => "dhcp".to_owned(),
        17 => "17 (kube-router)".to_owned(),
        186 => "bgp".to_owned(),
        crate::fib::PROTOCOL => "podroute".to_owned(),
        cni_ipam::ROUTE_PROTOCOL => "podroute-cni".to_owned(),
        other => other.to_string(),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).unwrap_or_default()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a network namespace of a thread; left out without the right to make one.
    fn in_namespace(test: fn()) {
        let thread = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => test(),
            Err(error) => println!("LEFT OUT: no network namespace: {error}"),
        });
        thread.join().unwrap();
    }

    fn ip(args: &str) {
        let status = std::process::Command::new("ip").args(args.split(' ')).status();
        assert!(status.unwrap().success(), "ip {args}");
    }

    #[test]
    fn the_kernels_decision_is_read() {
        in_namespace(|| {
            for args in [
                "link set lo up",
                "link add up0 type veth peer name far0",
                "addr add 192.0.2.1/24 dev up0",
                "link set up0 up",
                "link set far0 up",
                "route add 10.1.0.0/16 via 192.0.2.9 proto 245 metric 20",
                "route add unreachable 10.2.0.0/16",
                "neigh add 192.0.2.9 dev up0 lladdr 02:00:00:00:00:09 nud permanent",
            ] {
                ip(args);
            }
            let kernel = Kernel::open().unwrap();
            let links = kernel.links().unwrap();
            let up0 = links.iter().find(|link| link.name == "up0").unwrap();
            assert!(up0.is_up && up0.has_carrier && up0.mtu == 1500);
            let to = |destination: &str| Packet {
                destination: destination.parse().unwrap(),
                source: None,
                arrives_on: None,
            };
            let decided = kernel.decide(to("10.1.2.3"), &links).unwrap().unwrap();
            assert_eq!(decided.gateway, Some("192.0.2.9".parse().unwrap()));
            assert_eq!(decided.interface.as_deref(), Some("up0"));
            let matched = decided.matched.unwrap();
            assert_eq!(
                (matched.prefix.as_str(), matched.protocol, matched.metric),
                ("10.1.0.0/16", 245, 20)
            );
            assert!(kernel.decide(to("192.0.2.1"), &links).unwrap().unwrap().is_local);
            assert_eq!(
                kernel.decide(to("10.2.0.1"), &links).unwrap(),
                Err(Errno::EHOSTUNREACH)
            );
            assert_eq!(
                kernel.decide(to("10.9.0.1"), &links).unwrap(),
                Err(Errno::ENETUNREACH)
            );
            let neighbor = kernel.neighbor("192.0.2.9".parse().unwrap(), up0.index).unwrap();
            assert_eq!(neighbor.unwrap().state, "PERMANENT");
            let own = kernel.addresses().unwrap();
            assert!(
                own.contains(&("192.0.2.1".parse().unwrap(), up0.index)),
                "{own:?}"
            );
        });
    }
}
