//! rtnetlink messages (rtnetlink(7)): links, addresses, routes and neighbors.
//!
//! Routes on the host have protocol 246 (`podroute-cni`); protocol 245 belongs to the agent and is not used here. `veth`
//! decides which objects to create, and in which order.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::settings::Settings;
use crate::block::Family;
use crate::error::Result;
use linux::netlink::{Attributes, Batch, DUMP, Reply, Socket, u32_at};

/// Protocol number of the plugin's routes on the host.
pub const ROUTE_PROTOCOL: u8 = 246;

pub(crate) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const NUD_PERMANENT: u16 = 0x80;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_IFALIAS: u16 = 20;
pub(crate) const IFLA_AF_SPEC: u16 = 26;
pub(crate) const IFLA_GROUP: u16 = 27;
/// The link group of host interfaces whose sources are checked: "podr" in ASCII.
pub(crate) const LINK_GROUP: u32 = 0x706f_6472;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const SKIP_STATS: u32 = 8;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
pub(crate) const VETH_INFO_PEER: u16 = 1;
/// An attribute that holds attributes.
pub(crate) const NESTED: u16 = 0x8000;

const IFF_UP: u32 = 1;
const IFINFO: usize = 16;
const RTMSG: usize = 12;

pub(crate) const SCOPE_UNIVERSE: u8 = 0;
pub(crate) const SCOPE_LINK: u8 = 253;

/// `struct ifinfomsg`.
pub(crate) fn ifinfo(index: u32, up: bool) -> [u8; IFINFO] {
    let mut header = [0; IFINFO];
    let flag = if up { IFF_UP } else { 0 };
    let words = [0, index, flag, flag];
    for (to, from) in header
        .iter_mut()
        .zip(words.iter().flat_map(|w: &u32| w.to_ne_bytes()))
    {
        *to = from;
    }
    header
}

pub(crate) fn af(family: Family) -> u8 {
    let number = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    u8::try_from(number).unwrap_or_default()
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn address_from(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// An address on a link, without duplicate address detection.
pub(crate) fn add_address(batch: &mut Batch, flags: u16, index: u32, net: IpNet, scope: u8) {
    const IFA_F_NODAD: u8 = 0x02;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let family = Family::of(net.addr());
    let mut header = vec![af(family), net.prefix_len(), IFA_F_NODAD, scope];
    header.extend(index.to_ne_bytes());
    batch.begin(RTM_NEWADDR, flags, &header, format!("add address {net}"));
    let bytes = octets(net.addr());
    batch.attr(IFA_LOCAL, &bytes);
    batch.attr(IFA_ADDRESS, &bytes);
}

pub(crate) const RP_FILTER_STRICT: u32 = 1;
pub(crate) const RP_FILTER_LOOSE: u32 = 2;

/// The IPv4 part of a link's `IFLA_AF_SPEC`: `rp_filter`.
pub(crate) fn put_rp_filter(spec: &mut Batch, value: u32) {
    const RP_FILTER: u16 = 8;
    put_inet_conf(spec, RP_FILTER, value);
}

/// The IPv4 part of a link's `IFLA_AF_SPEC`: `forwarding`.
pub(crate) fn put_forwarding(spec: &mut Batch) {
    const FORWARDING: u16 = 1;
    put_inet_conf(spec, FORWARDING, 1);
}

fn put_inet_conf(spec: &mut Batch, setting: u16, value: u32) {
    const INET_CONF: u16 = 1;
    let inet = u16::from(af(Family::V4)) | NESTED;
    spec.nest(inet, |inet| {
        inet.nest(INET_CONF | NESTED, |conf| {
            conf.attr(setting, &value.to_ne_bytes())
        });
    });
}

/// A route to add.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRoute {
    pub(crate) dst: IpNet,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) source: Option<IpAddr>,
    pub(crate) index: u32,
    pub(crate) protocol: u8,
}

/// A unicast route in the main table.
pub(crate) fn add_route(batch: &mut Batch, flags: u16, route: NewRoute) {
    const TABLE_MAIN: u8 = 254;
    const UNICAST: u8 = 1;
    let family = Family::of(route.dst.addr());
    let scope = match (family, route.gateway) {
        (Family::V4, None) => SCOPE_LINK,
        _ => SCOPE_UNIVERSE,
    };
    let header = [
        af(family),
        route.dst.prefix_len(),
        0,
        0,
        TABLE_MAIN,
        route.protocol,
        scope,
        UNICAST,
        0,
        0,
        0,
        0,
    ];
    let via = route.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
    batch.begin(
        RTM_NEWROUTE,
        flags,
        &header,
        format!("add route {}{via}", route.dst),
    );
    if route.dst.prefix_len() > 0 {
        batch.attr(1, &octets(route.dst.network()));
    }
    batch.attr(4, &route.index.to_ne_bytes());
    if let Some(gateway) = route.gateway {
        batch.attr(5, &octets(gateway));
    }
    if let Some(source) = route.source {
        batch.attr(7, &octets(source));
    }
}

/// A neighbor that never expires.
pub(crate) fn add_neighbor(batch: &mut Batch, flags: u16, index: u32, address: IpAddr, mac: [u8; 6]) {
    let mut header = vec![af(Family::of(address)), 0, 0, 0];
    header.extend(index.to_ne_bytes());
    header.extend(NUD_PERMANENT.to_ne_bytes());
    header.extend([0, 0]);
    batch.begin(RTM_NEWNEIGH, flags, &header, format!("add neighbor {address}"));
    batch.attr(1, &octets(address));
    batch.attr(2, &mac);
}

/// Appends a request for a link by name.
pub(crate) fn get_link(batch: &mut Batch, name: &str) {
    batch.begin(
        RTM_GETLINK,
        0,
        &ifinfo(0, false),
        format!("find interface {name}"),
    );
    batch.text(IFLA_IFNAME, name);
    batch.attr(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
}

/// A link in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    pub(crate) mac: Vec<u8>,
    pub(crate) peer_index: u32,
    pub(crate) group: u32,
    pub(crate) is_up: bool,
    pub(crate) settings: Settings,
}

impl Link {
    pub(crate) fn read(reply: &Reply) -> Option<Self> {
        let attrs = reply.attrs(IFINFO);
        Some(Self {
            index: u32_at(&reply.body, 4)?,
            name: attrs.text(IFLA_IFNAME)?.to_owned(),
            alias: attrs.text(IFLA_IFALIAS).unwrap_or_default().to_owned(),
            mtu: attrs.u32(IFLA_MTU).unwrap_or_default(),
            mac: attrs.get(IFLA_ADDRESS).unwrap_or_default().to_vec(),
            peer_index: attrs.u32(IFLA_LINK).unwrap_or_default(),
            group: attrs.u32(IFLA_GROUP).unwrap_or_default(),
            is_up: u32_at(&reply.body, 8)? & IFF_UP != 0,
            settings: Settings::read(&attrs),
        })
    }
}

/// Finds a link by name.
pub(crate) fn find(socket: &Socket, name: &str) -> Result<Option<Link>> {
    let mut batch = Batch::default();
    get_link(&mut batch, name);
    let outcome = socket.try_run(&mut batch)?;
    match outcome.failures.first() {
        Some(failure) if failure.errno == Errno::ENODEV => Ok(None),
        Some(failure) => Err(batch.error(failure).into()),
        None => Ok(outcome.replies.first().and_then(Link::read)),
    }
}

/// All links.
pub(crate) fn links(socket: &Socket) -> Result<Vec<Link>> {
    let mut batch = Batch::default();
    batch.begin(RTM_GETLINK, DUMP, &ifinfo(0, false), "list interfaces");
    Ok(socket.run(batch)?.iter().filter_map(Link::read).collect())
}

/// Removes a link by name; false: there is none.
pub(crate) fn delete(socket: &Socket, name: &str) -> Result<bool> {
    delete_one(socket, 0, name)
}

/// Removes this link by its index: not another one that has its name by now.
pub(crate) fn delete_found(socket: &Socket, link: &Link) -> Result<bool> {
    delete_one(socket, link.index, &link.name)
}

fn delete_one(socket: &Socket, index: u32, name: &str) -> Result<bool> {
    let mut batch = Batch::default();
    batch.begin(
        RTM_DELLINK,
        0,
        &ifinfo(index, false),
        format!("remove interface {name}"),
    );
    if index == 0 {
        batch.text(IFLA_IFNAME, name);
    }
    let outcome = socket.try_run(&mut batch)?;
    match outcome.failures.first() {
        Some(failure) if failure.errno == Errno::ENODEV => Ok(false),
        Some(failure) => Err(batch.error(failure).into()),
        None => Ok(true),
    }
}

/// Removes many links with one RCU grace period: puts them into a link group, then removes the group.
pub(crate) fn delete_many(socket: &Socket, names: &[String]) -> Result<()> {
    let (Some(first), Some(_)) = (names.first(), names.get(1)) else {
        return names
            .first()
            .map_or(Ok(()), |name| delete(socket, name).map(drop));
    };
    // A group number that nothing else uses: a prefix and the process id.
    let group = 0x706f_0000_u32 ^ std::process::id().rotate_left(8);
    // A netlink socket's receive buffer holds the errors of this many.
    for chunk in names.chunks(64) {
        let mut batch = Batch::default();
        for name in chunk {
            batch.begin(
                RTM_NEWLINK,
                0,
                &ifinfo(0, false),
                format!("group interface {name}"),
            );
            batch.text(IFLA_IFNAME, name);
            batch.attr(IFLA_GROUP, &group.to_ne_bytes());
        }
        // A link that does not exist any more needs no removal.
        let outcome = socket.try_run(&mut batch)?;
        if let Some(failure) = outcome.failures.iter().find(|f| f.errno != Errno::ENODEV) {
            return Err(batch.error(failure).into());
        }
    }
    let mut batch = Batch::default();
    batch.begin(
        RTM_DELLINK,
        0,
        &ifinfo(0, false),
        format!("remove interfaces {first} and others"),
    );
    batch.attr(IFLA_GROUP, &group.to_ne_bytes());
    let outcome = socket.try_run(&mut batch)?;
    match outcome.failures.first() {
        Some(failure) if failure.errno != Errno::ENODEV => Err(batch.error(failure).into()),
        _ => Ok(()),
    }
}

/// The addresses on a link.
pub(crate) fn addresses(socket: &Socket, index: u32) -> Result<Vec<IpAddr>> {
    let mut batch = Batch::default();
    batch.begin(RTM_GETADDR, DUMP, &[0; 8], "list addresses");
    let of_link = |reply: &Reply| {
        let attrs = reply.attrs(8);
        let address = attrs.get(2).or_else(|| attrs.get(1)).and_then(address_from)?;
        (u32_at(&reply.body, 4)? == index).then_some(address)
    };
    Ok(socket.run(batch)?.iter().filter_map(of_link).collect())
}

/// All usable addresses, each with its link.
pub(crate) fn all_addresses(socket: &Socket) -> Result<Vec<(u32, IpAddr)>> {
    const TENTATIVE: u8 = 0x40;
    const DAD_FAILED: u8 = 0x08;
    let mut batch = Batch::default();
    batch.begin(RTM_GETADDR, DUMP, &[0; 8], "list addresses");
    let in_force = |reply: &Reply| {
        let attrs = reply.attrs(8);
        let address = attrs.get(2).or_else(|| attrs.get(1)).and_then(address_from)?;
        let is_usable = reply.body.get(2)? & (TENTATIVE | DAD_FAILED) == 0;
        is_usable.then_some((u32_at(&reply.body, 4)?, address))
    };
    Ok(socket.run(batch)?.iter().filter_map(in_force).collect())
}

/// A route in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelRoute {
    pub(crate) dst: IpNet,
    pub(crate) index: u32,
    pub(crate) protocol: u8,
    pub(crate) gateway: Option<IpAddr>,
    /// Preferred source.
    pub(crate) source: Option<IpAddr>,
    pub(crate) is_local: bool,
}

impl KernelRoute {
    fn read(reply: &Reply) -> Option<Self> {
        const LOCAL: u8 = 2;
        let (family, length) = (*reply.body.first()?, *reply.body.get(1)?);
        let attrs: Attributes<'_> = reply.attrs(RTMSG);
        let zero: IpAddr = if family == af(Family::V4) {
            std::net::Ipv4Addr::UNSPECIFIED.into()
        } else {
            std::net::Ipv6Addr::UNSPECIFIED.into()
        };
        let dst = attrs.get(1).map_or(Some(zero), address_from)?;
        Some(Self {
            dst: IpNet::new(dst, length).ok()?,
            index: attrs.u32(4).unwrap_or_default(),
            protocol: *reply.body.get(5)?,
            gateway: attrs.get(5).and_then(address_from),
            source: attrs.get(7).and_then(address_from),
            is_local: reply.body.get(7) == Some(&LOCAL),
        })
    }
}

/// The main table's routes of a family.
pub(crate) fn routes(socket: &Socket, family: Family) -> Result<Vec<KernelRoute>> {
    let mut header = [0; RTMSG];
    if let Some(first) = header.first_mut() {
        *first = af(family);
    }
    let mut batch = Batch::default();
    batch.begin(RTM_GETROUTE, DUMP, &header, format!("list {family} routes"));
    let main = |reply: &&Reply| reply.body.get(4) == Some(&254);
    Ok(socket
        .run(batch)?
        .iter()
        .filter(main)
        .filter_map(KernelRoute::read)
        .collect())
}

/// The main table's routes of a family and a protocol. On a strict socket the kernel filters.
pub(crate) fn routes_of(socket: &Socket, family: Family, protocol: u8) -> Result<Vec<KernelRoute>> {
    let header = [af(family), 0, 0, 0, 254, protocol, 0, 0, 0, 0, 0, 0];
    let mut batch = Batch::default();
    batch.begin(RTM_GETROUTE, DUMP, &header, format!("list {family} routes"));
    let wanted = |reply: &&Reply| reply.body.get(4) == Some(&254) && reply.body.get(5) == Some(&protocol);
    Ok(socket
        .run(batch)?
        .iter()
        .filter(wanted)
        .filter_map(KernelRoute::read)
        .collect())
}

/// The route of a packet to an address; `index`: through this interface, or 0.
pub(crate) fn route_to(socket: &Socket, address: IpAddr, index: u32) -> Result<Option<KernelRoute>> {
    look_up(socket, address, index, 0)
}

/// Whether there is a host route to this address, of any protocol.
pub(crate) fn has_host_route(socket: &Socket, address: IpAddr) -> Result<bool> {
    const FIB_MATCH: u32 = 0x2000;
    let found = look_up(socket, address, 0, FIB_MATCH)?;
    Ok(found.is_some_and(|r| r.dst.prefix_len() == Family::of(address).bits()))
}

fn look_up(socket: &Socket, address: IpAddr, index: u32, flags: u32) -> Result<Option<KernelRoute>> {
    let family = Family::of(address);
    let mut header = vec![af(family), family.bits(), 0, 0, 0, 0, 0, 0];
    header.extend(flags.to_ne_bytes());
    let mut batch = Batch::default();
    batch.begin(
        RTM_GETROUTE,
        0,
        &header,
        format!("look up the route to {address}"),
    );
    batch.attr(1, &octets(address));
    if index > 0 {
        batch.attr(4, &index.to_ne_bytes());
    }
    let outcome = socket.try_run(&mut batch)?;
    Ok(outcome.replies.first().and_then(KernelRoute::read))
}

/// A neighbor entry in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Neighbor {
    pub(crate) address: IpAddr,
    pub(crate) mac: Vec<u8>,
    pub(crate) is_permanent: bool,
}

/// The neighbors on a link, of both families.
pub(crate) fn neighbors(socket: &Socket, index: u32) -> Result<Vec<Neighbor>> {
    const NDMSG: usize = 12;
    let mut batch = Batch::default();
    batch.begin(RTM_GETNEIGH, DUMP, &[0; NDMSG], "list neighbors");
    let of_link = |reply: &Reply| {
        let attrs = reply.attrs(NDMSG);
        let state = reply.body.get(8..10)?.try_into().ok().map(u16::from_ne_bytes)?;
        let found = Neighbor {
            address: attrs.get(1).and_then(address_from)?,
            mac: attrs.get(2).unwrap_or_default().to_vec(),
            is_permanent: state & NUD_PERMANENT != 0,
        };
        (u32_at(&reply.body, 4)? == index).then_some(found)
    };
    Ok(socket.run(batch)?.iter().filter_map(of_link).collect())
}
