//! Complete readings of the kernel (NLM_F_DUMP). Blocking: for threads that may wait.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use linux::netlink::{DUMP, Message, REQUEST, Socket, frame};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustc_hash::FxHashSet;

use super::foreign::ForeignRoutes;
use super::message::{ReadRoute, read_address, read_link, read_route};
use super::object_message::{self, ReadObject};
use super::objects::Content;
use super::route::{RouteKey, RouteSpec};
use super::{Address, AddressState, Link};

/// Links, addresses and routes.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) links: Vec<(u32, Link)>,
    pub(crate) addresses: Vec<(Address, AddressState)>,
    pub(crate) foreign: ForeignRoutes,
    pub(crate) own: Vec<(RouteKey, RouteSpec)>,
    /// Something may be left out: it changed whenever it was read.
    pub(crate) is_doubtful: bool,
}

impl Reading {
    /// Sorts routes into own ones and those of others, which keep the kernel's order.
    fn take_routes(&mut self, routes: Vec<ReadRoute>) {
        let foreign = routes.iter().filter_map(|route| match route {
            ReadRoute::Foreign(prefix, route) => Some(route.key(*prefix)),
            ReadRoute::Own(..) => None,
        });
        let shared: FxHashSet<RouteKey> = foreign.collect();
        let mut before = FxHashSet::default();
        for route in routes {
            match route {
                ReadRoute::Own(key, spec) => {
                    if shared.contains(&key) {
                        before.insert(key);
                    }
                    self.own.push((key, spec));
                }
                ReadRoute::Foreign(prefix, route) => {
                    let own = before.contains(&route.key(prefix));
                    self.foreign.read(prefix, route, own);
                }
            }
        }
    }
}

/// Nexthop objects: own ones with their contents, and the ids of others.
pub(crate) type ObjectReading = (Vec<(u32, Content)>, BTreeSet<u32>);

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// What changes while it is read is read again, at most this often.
const TRIES: usize = 3;
/// The longest wait for a part of an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Room for what the kernel sends in bulk.
pub(super) const RECEIVE_BUFFER: usize = 8 << 20;

/// Reads all links, addresses and routes of the main and of this table.
pub(crate) fn read_all(table: u32) -> io::Result<Reading> {
    let mut reading = Reading::default();
    let request = |kind, family: u8, length| {
        let mut out = Vec::new();
        frame::message(&mut out, kind, REQUEST | DUMP, 1, |out| {
            out.push(family);
            out.resize(out.len() + length - 1, 0);
        });
        out
    };
    let links = dump(&request(GET_LINK, 0, 16), None, |message| match parse(message)? {
        RouteNetlinkMessage::NewLink(link) => Some(read_link(&link)),
        _ => None,
    })?;
    let addresses = dump(&request(GET_ADDRESS, 0, 8), None, |message| {
        match parse(message)? {
            RouteNetlinkMessage::NewAddress(address) => read_address(&address),
            _ => None,
        }
    })?;
    (reading.links, reading.addresses) = (links.found, addresses.found);
    for (family, group) in [(libc::AF_INET, None), (libc::AF_INET6, Some(RTNLGRP_IPV6_ROUTE))] {
        let family = u8::try_from(family).unwrap_or(0);
        let routes = dump(&request(GET_ROUTE, family, 12), group, |message| {
            match parse(message)? {
                RouteNetlinkMessage::NewRoute(route) => read_route(&route, table),
                _ => None,
            }
        })?;
        reading.take_routes(routes.found);
        reading.is_doubtful |= !routes.is_of_one_moment;
    }
    Ok(reading)
}

fn parse(message: &Message<'_>) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.bytes)
        .ok()?
        .payload
    {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

/// Reads all nexthop objects; an error where the kernel knows none.
pub(crate) fn read_objects() -> io::Result<ObjectReading> {
    let Answer { found, .. } = dump(&object_message::dump(1), None, object_message::read_one)?;
    let (mut own, mut foreign) = (Vec::new(), BTreeSet::new());
    for one in found {
        match one {
            ReadObject::Own(id, content) => own.push((id, content)),
            ReadObject::Foreign(id) => drop(foreign.insert(id)),
        }
    }
    Ok((own, foreign))
}

/// What the kernel answered.
struct Answer<T> {
    found: Vec<T>,
    /// Nothing changed while it was read.
    is_of_one_moment: bool,
}

/// Asks until the answer is of one moment, or often enough: what is wrong in it is found by the next one.
///
/// Links, addresses and nexthop objects carry NLM_F_DUMP_INTR after a change, and an IPv4 table continues where it was.
/// An IPv6 table begins again after a route was added, and leaves out as many nodes as it has listed before, also those
/// that were deleted meanwhile: routes that stayed are left out, and NLM_F_DUMP_INTR is not set. So notifications of
/// `group` say whether a route was added.
fn dump<T>(
    request: &[u8],
    group: Option<u32>,
    read: impl Fn(&Message<'_>) -> Option<T>,
) -> io::Result<Answer<T>> {
    let socket = Socket::route()?;
    socket.set_timeout(TIMEOUT)?;
    socket.set_receive_buffer(RECEIVE_BUFFER);
    let additions = group.map(additions).transpose()?;
    let mut answer = Answer {
        found: Vec::new(),
        is_of_one_moment: false,
    };
    for _ in 0..TRIES {
        answer.found.clear();
        let is_consistent = socket.dump(request, |message| answer.found.extend(read(message)))?;
        let is_new = |message: &Message<'_>| message.kind == NEW_ROUTE;
        let has_additions = match &additions {
            Some(additions) => additions.notifications(is_new)?,
            None => false,
        };
        answer.is_of_one_moment = is_consistent && !has_additions;
        if answer.is_of_one_moment {
            break;
        }
    }
    Ok(answer)
}

/// A socket that is notified of a group's changes.
fn additions(group: u32) -> io::Result<Socket> {
    let socket = Socket::route()?;
    socket.join(&[group])?;
    Ok(socket)
}
