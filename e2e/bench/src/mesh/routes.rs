//! Unicast routes of the main table, as the kernel lists and announces them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lab::failure::{Context, Result};
use lab::topology::Family;
use linux::netlink::{Attributes, Batch, DUMP, Message, REPLACE, REQUEST, Socket, frame, messages, u16_at};
use nix::errno::Errno;

/// RTNLGRP_IPV4_ROUTE and RTNLGRP_IPV6_ROUTE.
const ROUTE_GROUPS: [u32; 2] = [7, 11];
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTMSG: usize = 12;
/// Octets for notifications that have not been read yet.
const RECEIVE_BUFFER: usize = 32 << 20;

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) prefix: IpNet,
    /// Its gateway, if it has exactly one next hop with a gateway.
    pub(super) gateway: Option<IpAddr>,
    pub(super) protocol: u8,
    pub(super) metric: u32,
}

/// A notification.
#[derive(Debug)]
pub(super) enum Change {
    /// A route was added, or replaced another.
    Put { route: Route, replaced: bool },
    /// A route was deleted.
    Deleted(Route),
    /// The kernel dropped notifications.
    Lost,
}

/// A socket for requests.
pub(super) fn requests() -> Result<Socket> {
    Socket::route().context("netlink socket")
}

/// A socket for notifications of routes.
pub(super) fn notifications() -> Result<Socket> {
    let socket = requests()?;
    socket.set_receive_buffer(RECEIVE_BUFFER);
    socket.join(&ROUTE_GROUPS).context("notifications of routes")?;
    Ok(socket)
}

/// The changes of the next datagram that contains some; empty if no datagram waits to be read.
pub(super) fn changes(socket: &Socket, buffer: &mut [u8]) -> Result<Vec<Change>> {
    loop {
        let datagram = match socket.try_receive(buffer) {
            Ok(datagram) => datagram,
            Err(Errno::EAGAIN) => return Ok(Vec::new()),
            Err(Errno::ENOBUFS) => return Ok(vec![Change::Lost]),
            Err(error) => return Err(error).context("notifications of routes"),
        };
        let changes: Vec<Change> = messages(datagram)
            .filter_map(|message| change(&message))
            .collect();
        if !changes.is_empty() {
            return Ok(changes);
        }
    }
}

/// All routes of a family.
pub(super) fn list(socket: &Socket, family: Family) -> Result<Vec<Route>> {
    let mut request = Vec::new();
    frame::message(&mut request, RTM_GETROUTE, REQUEST | DUMP, 1, |out| {
        out.push(af(family));
        out.resize(out.len() + RTMSG - 1, 0);
    });
    let mut routes = Vec::new();
    socket
        .dump(&request, |message| routes.extend(parse(message.body())))
        .context("listing routes")?;
    Ok(routes)
}

/// Deletes a route.
pub(super) fn delete(socket: &Socket, route: &Route) -> Result<()> {
    let family = Family::of(route.prefix.addr());
    let mut header = vec![af(family), route.prefix.prefix_len(), 0, 0, RT_TABLE_MAIN];
    // The scope "nowhere" matches any.
    header.extend([route.protocol, 255, RTN_UNICAST, 0, 0, 0, 0]);
    let mut batch = Batch::default();
    batch.begin(RTM_DELROUTE, 0, &header, format!("delete route {}", route.prefix));
    match route.prefix.network() {
        IpAddr::V4(address) => batch.attr(RTA_DST, &address.octets()),
        IpAddr::V6(address) => batch.attr(RTA_DST, &address.octets()),
    }
    batch.attr(RTA_PRIORITY, &route.metric.to_ne_bytes());
    socket.run(batch).context("netlink").map(drop)
}

fn change(message: &Message<'_>) -> Option<Change> {
    match message.kind {
        RTM_NEWROUTE => Some(Change::Put {
            route: parse(message.body())?,
            replaced: message.flags & REPLACE != 0,
        }),
        RTM_DELROUTE => parse(message.body()).map(Change::Deleted),
        _ => None,
    }
}

fn af(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(*octets.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*octets.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// A unicast route of the main table; anything else is `None`.
fn parse(body: &[u8]) -> Option<Route> {
    let [family, length, _, _, table, protocol, _, kind] = *body.first_chunk::<8>()?;
    let any: IpAddr = match family {
        2 => Ipv4Addr::UNSPECIFIED.into(),
        10 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if kind != RTN_UNICAST {
        return None;
    }
    let (mut destination, mut gateway, mut metric, mut table) = (any, None, 0, u32::from(table));
    for (kind, value) in Attributes(body.get(RTMSG..)?) {
        match kind {
            RTA_DST => destination = address(value)?,
            RTA_GATEWAY => gateway = address(value),
            RTA_MULTIPATH => gateway = only_gateway(value),
            RTA_PRIORITY => metric = u32::from_ne_bytes(*value.first_chunk()?),
            RTA_TABLE => table = u32::from_ne_bytes(*value.first_chunk()?),
            _ => {}
        }
    }
    (table == u32::from(RT_TABLE_MAIN)).then_some(Route {
        prefix: IpNet::new(destination, length).ok()?,
        gateway,
        protocol,
        metric,
    })
}

/// The gateway of a list of next hops with one element.
fn only_gateway(list: &[u8]) -> Option<IpAddr> {
    // rtnexthop: length, flags, hops, interface; then attributes.
    if usize::from(u16_at(list, 0)?).next_multiple_of(4) < list.len() {
        return None;
    }
    Attributes(list.get(8..)?).get(RTA_GATEWAY).and_then(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0, RT_TABLE_MAIN, 245, 0, RTN_UNICAST, 0, 0, 0, 0];
        for (kind, value) in attributes {
            frame::attribute(&mut body, *kind, |out| out.extend(*value));
        }
        body
    }

    #[test]
    fn a_list_of_next_hops_has_a_gateway_if_it_has_one_element() {
        let mut hop = vec![16, 0, 0, 0, 7, 0, 0, 0];
        frame::attribute(&mut hop, RTA_GATEWAY, |out| out.extend([192, 0, 2, 1]));
        let two = [hop.clone(), hop.clone()].concat();
        let of = |list: &[u8]| parse(&body(&[(RTA_DST, &[10, 0, 1, 0]), (RTA_MULTIPATH, list)]));
        let one = of(&hop).expect("a route");
        assert_eq!(one.prefix.to_string(), "10.0.1.0/24");
        assert_eq!(one.gateway, Some([192, 0, 2, 1].into()));
        assert_eq!(of(&two).expect("a route").gateway, None);
    }

    #[test]
    fn a_notification_is_a_change_of_the_main_table() {
        let main = body(&[(RTA_DST, &[10, 0, 1, 0]), (RTA_PRIORITY, &20u32.to_ne_bytes())]);
        let other = body(&[(RTA_DST, &[10, 0, 2, 0]), (RTA_TABLE, &1000u32.to_ne_bytes())]);
        let mut bytes = Vec::new();
        frame::message(&mut bytes, RTM_NEWROUTE, REPLACE, 0, |out| out.extend(&main));
        frame::message(&mut bytes, RTM_DELROUTE, 0, 0, |out| out.extend(&other));
        let all: Vec<_> = messages(&bytes).map(|message| change(&message)).collect();
        let [
            Some(Change::Put {
                route,
                replaced: true,
            }),
            None,
        ] = &all[..]
        else {
            panic!("{all:?}")
        };
        assert_eq!(route.metric, 20);
    }
}
