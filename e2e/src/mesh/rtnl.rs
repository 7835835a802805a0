//! Routes over a netlink socket of the lab's own: dumps, notifications, deletions. Shares no code with the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};

use crate::failure::{Context, Failure, Result};
use crate::topology::Family;

/// RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE.
const ROUTE_GROUPS: u32 = 0x40 | 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REPLACE: u16 = 0x100;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP: u16 = 0x301;
/// NLM_F_REQUEST and NLM_F_ACK.
const ACKNOWLEDGED: u16 = 5;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
/// Room for the datagrams of notifications that nobody has read yet.
const QUEUE: usize = 32 << 20;

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) prefix: IpNet,
    /// Its gateway, if it has exactly one next hop, and that has one.
    pub(super) gateway: Option<IpAddr>,
    pub(super) protocol: u8,
    pub(super) metric: u32,
}

/// What a notification says.
#[derive(Debug)]
pub(super) enum Change {
    /// A route was put where none was, or in place of another.
    Put { route: Route, replaced: bool },
    /// A route was deleted.
    Deleted(Route),
    /// The kernel dropped notifications.
    Lost,
}

/// A netlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// For requests.
    pub(super) fn open() -> Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        );
        fd.context("netlink socket").map(Self)
    }

    /// For notifications of routes.
    pub(super) fn listen() -> Result<Self> {
        let socket = Self::open()?;
        // Where it is not allowed, what is lost is noticed.
        let _ = setsockopt(&socket.0, sockopt::RcvBufForce, &QUEUE);
        bind(socket.0.as_raw_fd(), &NetlinkAddr::new(0, ROUTE_GROUPS)).context("listening for routes")?;
        Ok(socket)
    }

    /// The changes of the next datagram that has some; empty if none waits to be read.
    pub(super) fn changes(&self, buffer: &mut [u8]) -> Result<Vec<Change>> {
        loop {
            let length = match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(Vec::new()),
                Err(Errno::ENOBUFS) => return Ok(vec![Change::Lost]),
                Err(error) => return Err(error).context("notifications of routes"),
            };
            let changes: Vec<Change> = Messages(buffer.get(..length).unwrap_or_default())
                .filter_map(|(kind, flags, body)| match kind {
                    RTM_NEWROUTE => Some(Change::Put {
                        route: parse(body)?,
                        replaced: flags & NLM_F_REPLACE != 0,
                    }),
                    RTM_DELROUTE => parse(body).map(Change::Deleted),
                    _ => None,
                })
                .collect();
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    /// All routes of a family.
    pub(super) fn dump(&self, family: Family, buffer: &mut [u8]) -> Result<Vec<Route>> {
        let request = request(RTM_GETROUTE, DUMP, &[af(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        send(self.0.as_raw_fd(), &request, MsgFlags::empty()).context("asking for routes")?;
        let mut routes = Vec::new();
        loop {
            let length = recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()).context("reading routes")?;
            for (kind, _, body) in Messages(buffer.get(..length).unwrap_or_default()) {
                match kind {
                    NLMSG_DONE => return Ok(routes),
                    NLMSG_ERROR => return Err(Failure::new("the kernel refuses to list routes")),
                    _ => routes.extend(parse(body)),
                }
            }
        }
    }

    /// Deletes a route.
    pub(super) fn delete(&self, route: &Route, buffer: &mut [u8]) -> Result<()> {
        let family = Family::of(route.prefix.addr());
        let mut body = vec![af(family), route.prefix.prefix_len(), 0, 0, RT_TABLE_MAIN];
        body.extend([route.protocol, 255, RTN_UNICAST, 0, 0, 0, 0]);
        match route.prefix.network() {
            IpAddr::V4(address) => attribute(&mut body, RTA_DST, &address.octets()),
            IpAddr::V6(address) => attribute(&mut body, RTA_DST, &address.octets()),
        }
        attribute(&mut body, RTA_PRIORITY, &route.metric.to_ne_bytes());
        let request = request(RTM_DELROUTE, ACKNOWLEDGED, &body);
        send(self.0.as_raw_fd(), &request, MsgFlags::empty()).context("deleting a route")?;
        let length = recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()).context("an acknowledgement")?;
        let answer = Messages(buffer.get(..length).unwrap_or_default()).next();
        match answer.and_then(|(_, _, body)| body.first_chunk().copied().map(i32::from_ne_bytes)) {
            Some(0) => Ok(()),
            code => Err(Failure::new(format!(
                "the kernel does not delete {}: error {code:?}",
                route.prefix
            ))),
        }
    }
}

fn af(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

/// The messages of a datagram: type, flags, body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let message = self.0.get(..length)?;
        let (kind, flags) = (half(message, 4)?, half(message, 6)?);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, message.get(16..)?))
    }
}

/// The attributes of a message: type, value.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(half(self.0, 0)?);
        // The upper two bits are flags.
        let kind = half(self.0, 2)? & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
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
    for (kind, value) in Attributes(body.get(12..)?) {
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

/// The gateway of a list of next hops that has one element.
fn only_gateway(list: &[u8]) -> Option<IpAddr> {
    // rtnexthop: length, flags, hops, interface; then attributes.
    if usize::from(half(list, 0)?).next_multiple_of(4) < list.len() {
        return None;
    }
    Attributes(list.get(8..)?)
        .find_map(|(kind, value)| if kind == RTA_GATEWAY { address(value) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![2, 24, 0, 0, RT_TABLE_MAIN, 245, 0, RTN_UNICAST, 0, 0, 0, 0];
        for (kind, value) in attributes {
            attribute(&mut body, *kind, value);
        }
        body
    }

    #[test]
    fn a_list_of_next_hops_has_a_gateway_if_it_has_one_element() {
        let mut hop = vec![16, 0, 0, 0, 7, 0, 0, 0];
        attribute(&mut hop, RTA_GATEWAY, &[192, 0, 2, 1]);
        let two = [hop.clone(), hop.clone()].concat();
        let of = |list: &[u8]| parse(&body(&[(RTA_DST, &[10, 0, 1, 0]), (RTA_MULTIPATH, list)]));
        let one = of(&hop).expect("a route");
        assert_eq!(one.prefix.to_string(), "10.0.1.0/24");
        assert_eq!(one.gateway, Some([192, 0, 2, 1].into()));
        assert_eq!(of(&two).expect("a route").gateway, None);
    }

    #[test]
    fn messages_are_taken_apart_and_other_tables_left_out() {
        let main = body(&[(RTA_DST, &[10, 0, 1, 0]), (RTA_PRIORITY, &20u32.to_ne_bytes())]);
        let other = body(&[(RTA_DST, &[10, 0, 2, 0]), (RTA_TABLE, &1000u32.to_ne_bytes())]);
        let bytes = [
            request(RTM_NEWROUTE, 0x100, &main),
            request(RTM_DELROUTE, 0, &other),
        ]
        .concat();
        let all: Vec<_> = Messages(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].0, all[0].1), (RTM_NEWROUTE, 0x100));
        assert_eq!(parse(all[0].2).expect("a route").metric, 20);
        assert_eq!(parse(all[1].2), None);
    }
}
