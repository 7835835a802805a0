//! Netlink messages to and from our own types. Pure: bytes are made and read elsewhere.

use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Address, Foreign, Hop, Link, Op, PROTOCOL, RouteKey, RouteSpec, Target};

/// Metric that the kernel gives IPv6 routes without one.
const V6_DEFAULT_METRIC: u32 = 1024;

/// The main table.
const MAIN: u32 = 254;

/// A route as read from the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    Ours(RouteKey, RouteSpec),
    Foreign(Prefix, Foreign),
}

/// A change as bytes, appended to a buffer.
pub(crate) fn encode(op: &Op, table: u32, sequence: u32, ack: bool, out: &mut Vec<u8>) {
    let (payload, flags) = match op {
        Op::Add(key, spec) => (
            RouteNetlinkMessage::NewRoute(route(*key, Some(spec), table)),
            NLM_F_CREATE | NLM_F_EXCL,
        ),
        Op::Replace(key, spec) => (
            RouteNetlinkMessage::NewRoute(route(*key, Some(spec), table)),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        Op::Remove(key) => (RouteNetlinkMessage::DelRoute(route(*key, None, table)), 0),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags | if ack { NLM_F_ACK } else { 0 };
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(payload));
    message.finalize();
    let start = out.len();
    out.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(place) = out.get_mut(start..) {
        message.serialize(place);
    }
}

fn route(key: RouteKey, spec: Option<&RouteSpec>, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(key.prefix.family());
    message.header.destination_prefix_length = key.prefix.len();
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = match spec.map(|spec| &spec.target) {
        Some(Target::Unreachable) => RouteType::Unreachable,
        Some(Target::Hops(_) | Target::Group(_)) => RouteType::Unicast,
        None => RouteType::Unspec,
    };
    message.header.table = u8::try_from(table).unwrap_or(0);
    message.attributes.push(RouteAttribute::Table(table));
    message
        .attributes
        .push(RouteAttribute::Destination(key.prefix.addr().into()));
    message.attributes.push(RouteAttribute::Priority(key.metric));
    if let Some(spec) = spec {
        if let Some(source) = spec.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        match &spec.target {
            Target::Hops(hops) => message
                .attributes
                .extend(hop_attributes(hops, key.prefix.family())),
            Target::Group(id) => message.attributes.push(RouteAttribute::NhId(*id)),
            Target::Unreachable => {}
        }
    }
    message
}

fn family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

fn hop_attributes(hops: &[Hop], family: Family) -> Vec<RouteAttribute> {
    if let [hop] = hops {
        let mut attributes: Vec<RouteAttribute> = gateway(*hop, family).into_iter().collect();
        attributes.push(RouteAttribute::Oif(hop.ifindex));
        return attributes;
    }
    let leg = |hop: &Hop| {
        let mut leg = RouteNextHop::default();
        leg.interface_index = hop.ifindex;
        leg.attributes = gateway(*hop, family).into_iter().collect();
        leg
    };
    vec![RouteAttribute::MultiPath(hops.iter().map(leg).collect())]
}

/// RTA_GATEWAY, or RTA_VIA for an IPv6 gateway of an IPv4 route (RFC 8950).
fn gateway(hop: Hop, family: Family) -> Option<RouteAttribute> {
    Some(match (hop.gateway?, family) {
        (IpAddr::V6(addr), Family::Ipv4) => RouteAttribute::Via(RouteVia::Inet6(addr)),
        (addr, _) => RouteAttribute::Gateway(addr.into()),
    })
}

/// Reads a unicast route of the wanted table; `None` for what does not concern us.
pub(crate) fn read_route(message: &RouteMessage, table: u32) -> Option<Read> {
    let family = match message.header.address_family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let mut facts = Facts {
        table: u32::from(message.header.table),
        ..Facts::default()
    };
    message
        .attributes
        .iter()
        .for_each(|attribute| facts.take(attribute));
    let protocol = u8::from(message.header.protocol);
    // Next hops are resolved by the main table, whatever table ours go into.
    let concerns = facts.table == table || (facts.table == MAIN && protocol != PROTOCOL);
    if !concerns || is_cached(message) {
        return None;
    }
    let any = if family == Family::Ipv4 {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    let prefix = Prefix::new(
        facts.destination.unwrap_or(any),
        message.header.destination_prefix_length,
    );
    let default = if family == Family::Ipv6 {
        V6_DEFAULT_METRIC
    } else {
        0
    };
    let metric = facts.metric.unwrap_or(default);
    let mut hops = facts.hops;
    if hops.is_empty() && message.header.kind == RouteType::Unicast {
        hops.extend(facts.oif.map(|ifindex| Hop {
            gateway: facts.gateway,
            ifindex,
        }));
    }
    hops.sort_unstable();
    if protocol != PROTOCOL {
        return Some(Read::Foreign(
            prefix,
            Foreign {
                metric,
                protocol,
                hops,
            },
        ));
    }
    let target = match (message.header.kind, facts.group) {
        (RouteType::Unicast, Some(id)) => Target::Group(id),
        (RouteType::Unicast, None) => Target::Hops(hops),
        _ => Target::Unreachable,
    };
    Some(Read::Ours(
        RouteKey { prefix, metric },
        RouteSpec {
            target,
            source: facts.source,
        },
    ))
}

/// Exceptions learned from ICMP are no routes of anybody.
fn is_cached(message: &RouteMessage) -> bool {
    message
        .header
        .flags
        .contains(netlink_packet_route::route::RouteFlags::Cloned)
}

#[derive(Default)]
struct Facts {
    table: u32,
    destination: Option<IpAddr>,
    metric: Option<u32>,
    gateway: Option<IpAddr>,
    oif: Option<u32>,
    source: Option<IpAddr>,
    /// The kernel tells what the object comes to as well; for routes of ours the id is enough.
    group: Option<u32>,
    hops: Vec<Hop>,
}

impl Facts {
    fn take(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Destination(addr) => self.destination = ip(addr),
            RouteAttribute::Priority(metric) => self.metric = Some(*metric),
            RouteAttribute::Gateway(addr) => self.gateway = ip(addr),
            RouteAttribute::Via(RouteVia::Inet6(addr)) => self.gateway = Some(IpAddr::V6(*addr)),
            RouteAttribute::Oif(ifindex) => self.oif = Some(*ifindex),
            RouteAttribute::PrefSource(addr) => self.source = ip(addr),
            RouteAttribute::NhId(id) => self.group = Some(*id),
            RouteAttribute::MultiPath(legs) => self.hops = legs.iter().map(leg).collect(),
            _ => {}
        }
    }
}

fn leg(leg: &RouteNextHop) -> Hop {
    let gateway = leg.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(addr) => ip(addr),
        RouteAttribute::Via(RouteVia::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    });
    Hop {
        gateway,
        ifindex: leg.interface_index,
    }
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}

/// Reads an interface: its index and what we need of it.
pub(crate) fn read_link(message: &LinkMessage) -> (u32, Link) {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        up: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        loopback: flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    (message.header.index, link)
}

/// Reads an address of an interface.
pub(crate) fn read_address(message: &AddressMessage) -> Option<Address> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On point-to-point links IFA_LOCAL is ours and IFA_ADDRESS the other end.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    let addr = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    })?;
    Some(Address {
        ifindex: message.header.index,
        addr,
        len: message.header.prefix_len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(prefix: &str, target: Target, source: Option<&str>) {
        let key = RouteKey {
            prefix: prefix.parse().unwrap(),
            metric: 20,
        };
        let spec = RouteSpec {
            target,
            source: source.map(|addr| addr.parse().unwrap()),
        };
        for table in [254, 1000] {
            let mut bytes = Vec::new();
            encode(
                &Op::Add(key, std::sync::Arc::new(spec.clone())),
                table,
                7,
                true,
                &mut bytes,
            );
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            assert_eq!(message.header.sequence_number, 7);
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload else {
                panic!()
            };
            assert_eq!(read_route(&route, table), Some(Read::Ours(key, spec.clone())));
            assert_eq!(read_route(&route, 255), None);
        }
    }

    fn hop(gateway: &str, ifindex: u32) -> Hop {
        Hop {
            gateway: Some(gateway.parse().unwrap()),
            ifindex,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        round_trip(
            "10.244.2.0/24",
            Target::Hops(vec![hop("192.0.2.12", 2)]),
            Some("192.0.2.11"),
        );
        round_trip(
            "10.244.2.0/24",
            Target::Hops(vec![hop("192.0.2.1", 2), hop("192.0.2.2", 3)]),
            None,
        );
        round_trip("10.244.2.0/24", Target::Hops(vec![hop("fe80::1", 2)]), None);
        round_trip(
            "fd00:10:244:2::/64",
            Target::Hops(vec![hop("2001:db8::1", 2), hop("2001:db8::2", 2)]),
            None,
        );
        round_trip("fd00:10:244:1::/64", Target::Unreachable, None);
        round_trip("10.244.2.0/24", Target::Group(0xf500_0001), Some("192.0.2.11"));
    }
}
