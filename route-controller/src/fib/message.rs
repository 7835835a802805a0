//! Netlink messages to and from podroute's types. Pure: bytes are sent and received elsewhere.

use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteScope, RouteType, RouteVia,
};

use linux::netlink::frame::{self, attribute};

use super::route::MAIN;
use super::{
    Address, AddressState, ForeignRoute, Link, NextHop, Op, PROTOCOL, RouteKey, RouteSpec, Target,
    WeightedNextHop,
};

/// Metric that the kernel gives IPv6 routes without one.
const V6_DEFAULT_METRIC: u32 = 1024;

/// A route as read from the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ReadRoute {
    Own(RouteKey, RouteSpec),
    Foreign(Prefix, ForeignRoute),
}

/// A change as bytes, appended to a buffer: `nlmsghdr`, `rtmsg`, attributes (linux/rtnetlink.h). Written by hand
/// because there may be a million of them; the tests read them back with netlink-packet-route.
pub(crate) fn encode(op: &Op, sequence: u32, ack: bool, out: &mut Vec<u8>) {
    let (kind, spec, flags) = match op {
        Op::Add(_, spec) => (NEW_ROUTE, Some(&**spec), NLM_F_CREATE | NLM_F_EXCL),
        Op::Replace(_, spec) => (NEW_ROUTE, Some(&**spec), NLM_F_CREATE | NLM_F_REPLACE),
        Op::Remove(_) => (DEL_ROUTE, None, 0),
    };
    let key = op.key();
    let table = key.table;
    let flags = NLM_F_REQUEST | flags | if ack { NLM_F_ACK } else { 0 };
    let family = match key.prefix.family() {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    let route_type = match spec.map(|spec| &spec.target) {
        Some(Target::Unreachable) => RouteType::Unreachable,
        Some(Target::Throw) => RouteType::Throw,
        Some(Target::Blackhole) => RouteType::BlackHole,
        Some(Target::NextHops(_) | Target::Group(_)) => RouteType::Unicast,
        None => RouteType::Unspec,
    };
    frame::message(out, kind, flags, sequence, |out| {
        out.extend([
            u8::from(family),
            key.prefix.len(),
            0,
            0,
            u8::try_from(table).unwrap_or(0),
            PROTOCOL,
            u8::from(RouteScope::Universe),
            u8::from(route_type),
        ]);
        out.extend([0; 4]);
        attribute(out, RTA_TABLE, |out| out.extend(table.to_ne_bytes()));
        attribute(out, RTA_DST, |out| address(out, key.prefix.addr()));
        attribute(out, RTA_PRIORITY, |out| out.extend(key.metric.to_ne_bytes()));
        if let Some(spec) = spec {
            put_spec(out, spec, key.prefix.family());
        }
    });
}

const NEW_ROUTE: u16 = 24;
const DEL_ROUTE: u16 = 25;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;

fn put_spec(out: &mut Vec<u8>, spec: &RouteSpec, family: Family) {
    if let Some(source) = spec.source {
        attribute(out, RTA_PREFSRC, |out| address(out, source));
    }
    match &spec.target {
        Target::Unreachable | Target::Blackhole | Target::Throw => {}
        Target::Group(id) => attribute(out, RTA_NH_ID, |out| out.extend(id.to_ne_bytes())),
        Target::NextHops(hops) => match &hops[..] {
            [next_hop] => {
                gateway(out, next_hop.hop, family);
                attribute(out, RTA_OIF, |out| out.extend(next_hop.hop.ifindex.to_ne_bytes()));
            }
            next_hops => attribute(out, RTA_MULTIPATH, |out| {
                next_hops
                    .iter()
                    .for_each(|next_hop| put_next_hop(out, *next_hop, family));
            }),
        },
    }
}

/// `struct rtnexthop`: length, flags, weight less one, interface; then its gateway.
fn put_next_hop(out: &mut Vec<u8>, next_hop: WeightedNextHop, family: Family) {
    let start = out.len();
    out.extend([0, 0, 0, next_hop.weight.saturating_sub(1)]);
    out.extend(next_hop.hop.ifindex.to_ne_bytes());
    gateway(out, next_hop.hop, family);
    frame::set_length(out, start);
}

/// RTA_GATEWAY, or RTA_VIA for an IPv6 gateway of an IPv4 route (RFC 8950).
fn gateway(out: &mut Vec<u8>, hop: NextHop, family: Family) {
    match (hop.gateway, family) {
        (None, _) => {}
        (Some(IpAddr::V6(addr)), Family::Ipv4) => attribute(out, RTA_VIA, |out| {
            out.extend(u16::from(u8::from(AddressFamily::Inet6)).to_ne_bytes());
            out.extend(addr.octets());
        }),
        (Some(addr), _) => attribute(out, RTA_GATEWAY, |out| address(out, addr)),
    }
}

fn address(out: &mut Vec<u8>, addr: IpAddr) {
    match addr {
        IpAddr::V4(addr) => out.extend(addr.octets()),
        IpAddr::V6(addr) => out.extend(addr.octets()),
    }
}

/// Reads a route of the main or the wanted table; `None` for another table or type.
pub(crate) fn read_route(message: &RouteMessage, table: u32) -> Option<ReadRoute> {
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
    // Routes for some packets only (IPv4 TOS, IPv6 source prefix) are others than those without, and never own ones.
    if message.header.tos != 0 || message.header.source_prefix_length != 0 {
        return None;
    }
    // Next hops are resolved by the main table too, and own blocks end there, whatever table learned routes go into.
    if !matches!(facts.table, MAIN) && facts.table != table || is_cached(message) {
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
    let mut next_hops = facts.next_hops;
    if next_hops.is_empty() && message.header.kind == RouteType::Unicast {
        next_hops.extend(facts.oif.map(|ifindex| WeightedNextHop {
            hop: NextHop {
                gateway: facts.gateway,
                ifindex,
            },
            weight: 1,
        }));
    }
    next_hops.sort_unstable();
    if protocol != PROTOCOL {
        return Some(ReadRoute::Foreign(
            prefix,
            ForeignRoute {
                metric,
                table: facts.table,
                protocol,
                hops: next_hops.iter().map(|next_hop| next_hop.hop).collect(),
                source: facts.source,
                object: facts.group,
                discards: message.header.kind != RouteType::Unicast,
            },
        ));
    }
    let target = match (message.header.kind, facts.group) {
        (RouteType::Unicast, Some(id)) => Target::Group(id),
        (RouteType::Unicast, None) => Target::NextHops(next_hops),
        (RouteType::Throw, _) => Target::Throw,
        (RouteType::BlackHole, _) => Target::Blackhole,
        _ => Target::Unreachable,
    };
    Some(ReadRoute::Own(
        RouteKey {
            prefix,
            metric,
            table: facts.table,
        },
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
    /// The kernel reports what the object resolves to as well; for own routes the id is enough.
    group: Option<u32>,
    next_hops: Vec<WeightedNextHop>,
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
            RouteAttribute::MultiPath(next_hops) => {
                self.next_hops = next_hops.iter().map(read_next_hop).collect()
            }
            _ => {}
        }
    }
}

fn read_next_hop(next_hop: &RouteNextHop) -> WeightedNextHop {
    let gateway = next_hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(addr) => ip(addr),
        RouteAttribute::Via(RouteVia::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    });
    WeightedNextHop {
        hop: NextHop {
            gateway,
            ifindex: next_hop.interface_index,
        },
        weight: next_hop.hops.saturating_add(1), // the kernel's field is the weight less one
    }
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}

/// Reads an interface: its index and the facts that resolution needs.
pub(crate) fn read_link(message: &LinkMessage) -> (u32, Link) {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        up: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
        enabled: flags.contains(LinkFlags::Up),
        carrier_losses: 0,
        mtu: 0,
        loopback: flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::CarrierDownCount(count) => link.carrier_losses = *count,
            _ => {}
        }
    }
    (message.header.index, link)
}

/// Reads an address of an interface, and how it stands.
pub(crate) fn read_address(message: &AddressMessage) -> Option<(Address, AddressState)> {
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On point-to-point links IFA_LOCAL is the own one and IFA_ADDRESS the other end.
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
    let address = Address {
        ifindex: message.header.index,
        addr,
        len: message.header.prefix_len,
    };
    let has = |flags: AddressHeaderFlags| message.header.flags.intersects(flags);
    // The same bit is IFA_F_SECONDARY of IPv4 and IFA_F_TEMPORARY of IPv6 (linux/if_addr.h).
    let passing =
        AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Optimistic;
    let is_wide = matches!(
        message.header.scope,
        AddressScope::Universe | AddressScope::Site | AddressScope::Other(_)
    );
    let state = if has(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed) {
        AddressState::Tentative
    } else if has(passing) || !is_wide {
        AddressState::NotPreferred
    } else {
        AddressState::Preferred
    };
    Some((address, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
    use netlink_packet_route::RouteNetlinkMessage;

    fn round_trip(prefix: &str, target: Target, source: Option<&str>) {
        let spec = RouteSpec {
            target,
            source: source.map(|addr| addr.parse().unwrap()),
        };
        for table in [254, 1000] {
            let key = RouteKey {
                prefix: prefix.parse().unwrap(),
                metric: 20,
                table,
            };
            let mut bytes = Vec::new();
            encode(
                &Op::Add(key, std::sync::Arc::new(spec.clone())),
                7,
                true,
                &mut bytes,
            );
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            assert_eq!(message.header.sequence_number, 7);
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = message.payload else {
                panic!()
            };
            assert_eq!(read_route(&route, table), Some(ReadRoute::Own(key, spec.clone())));
            assert_eq!(read_route(&route, 255).is_some(), table == 254);
        }
    }

    fn hop(gateway: &str, ifindex: u32) -> WeightedNextHop {
        weighted(gateway, ifindex, 1)
    }

    fn weighted(gateway: &str, ifindex: u32, weight: u8) -> WeightedNextHop {
        WeightedNextHop {
            hop: NextHop {
                gateway: Some(gateway.parse().unwrap()),
                ifindex,
            },
            weight,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        round_trip(
            "10.244.2.0/24",
            Target::NextHops(vec![hop("192.0.2.12", 2)]),
            Some("192.0.2.11"),
        );
        round_trip(
            "10.244.2.0/24",
            Target::NextHops(vec![weighted("192.0.2.1", 2, 4), weighted("192.0.2.2", 3, 255)]),
            None,
        );
        round_trip("10.244.2.0/24", Target::NextHops(vec![hop("fe80::1", 2)]), None);
        round_trip(
            "fd00:10:244:2::/64",
            Target::NextHops(vec![hop("2001:db8::1", 2), hop("2001:db8::2", 2)]),
            None,
        );
        round_trip("fd00:10:244:1::/64", Target::Unreachable, None);
        round_trip("10.244.1.0/24", Target::Throw, None);
        round_trip("203.0.113.7/32", Target::Blackhole, None);
        round_trip("10.244.2.0/24", Target::Group(0xf500_0001), Some("192.0.2.11"));
    }
}
