//! Complete readings of the kernel (NLM_F_DUMP). Blocking: for threads that may wait.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rustc_hash::FxHashSet;

use super::foreign::ForeignRoutes;
use super::frame;
use super::message::{Read, read_address, read_link, read_route};
use super::object_message::{self, Found};
use super::objects::Content;
use super::route::{RouteKey, RouteSpec};
use super::socket::big_buffer;
use super::{Address, Link, Standing};

/// Links, addresses and routes.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) links: Vec<(u32, Link)>,
    pub(crate) addresses: Vec<(Address, Standing)>,
    pub(crate) foreign: ForeignRoutes,
    pub(crate) ours: Vec<(RouteKey, RouteSpec)>,
}

impl Reading {
    /// Sorts routes into ours and those of others, which keep the kernel's order.
    fn take_routes(&mut self, routes: Vec<Read>) {
        let foreign = routes.iter().filter_map(|route| match route {
            Read::Foreign(prefix, route) => Some(route.key(*prefix)),
            Read::Ours(..) => None,
        });
        let shared: FxHashSet<RouteKey> = foreign.collect();
        let mut before = FxHashSet::default();
        for route in routes {
            match route {
                Read::Ours(key, spec) => {
                    if shared.contains(&key) {
                        before.insert(key);
                    }
                    self.ours.push((key, spec));
                }
                Read::Foreign(prefix, route) => {
                    let ours = before.contains(&route.key(prefix));
                    self.foreign.read(prefix, route, ours);
                }
            }
        }
    }
}

/// Nexthop objects: ours with their contents, and the ids of others.
pub(crate) type ObjectReading = (Vec<(u32, Content)>, BTreeSet<u32>);

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const DONE: u16 = 3;
/// NLM_F_DUMP_INTR: what is dumped changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// An answer that the kernel changed meanwhile is asked for again, so often.
const TRIES: usize = 3;

/// Reads all links, addresses and routes of the main and of this table.
pub(crate) fn read_all(table: u32) -> io::Result<Reading> {
    let mut reading = Reading::default();
    let request = |kind, family: u8, length| {
        let mut out = Vec::new();
        frame::message(&mut out, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, |out| {
            out.push(family);
            out.resize(frame::HEADER + length, 0);
        });
        out
    };
    let links = dump(&request(GET_LINK, 0, 16), |message| match parse(message)? {
        RouteNetlinkMessage::NewLink(link) => Some(read_link(&link)),
        _ => None,
    })?;
    let addresses = dump(&request(GET_ADDRESS, 0, 8), |message| match parse(message)? {
        RouteNetlinkMessage::NewAddress(address) => read_address(&address),
        _ => None,
    })?;
    (reading.links, reading.addresses) = (links, addresses);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or(0);
        let routes = dump(&request(GET_ROUTE, family, 12), |message| match parse(message)? {
            RouteNetlinkMessage::NewRoute(route) => read_route(&route, table),
            _ => None,
        })?;
        reading.take_routes(routes);
    }
    Ok(reading)
}

fn parse(message: &[u8]) -> Option<RouteNetlinkMessage> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
        .ok()?
        .payload
    {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

/// Reads all nexthop objects; an error where the kernel knows none.
pub(crate) fn read_objects() -> io::Result<ObjectReading> {
    let found = dump(&object_message::dump(1), object_message::read_one)?;
    let (mut ours, mut foreign) = (Vec::new(), BTreeSet::new());
    for one in found {
        match one {
            Found::Ours(id, content) => ours.push((id, content)),
            Found::Foreign(id) => drop(foreign.insert(id)),
        }
    }
    Ok((ours, foreign))
}

/// Asks until the answer is of one moment, or often enough: what is wrong in it is found by the next one.
fn dump<T>(request: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found.clear();
        if dump_once(request, |message| found.extend(read(message)))? {
            break;
        }
    }
    Ok(found)
}

/// Whether the answer is of one moment.
fn dump_once(request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    big_buffer(&socket);
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    socket.send(request, 0)?;
    let (mut whole, mut buf) = (true, Vec::with_capacity(64 << 10));
    loop {
        buf.clear();
        socket.recv(&mut buf, 0)?;
        for message in frame::messages(&buf) {
            whole &= frame::half(message, 6).is_none_or(|flags| flags & INTERRUPTED == 0);
            let code = || frame::word(message, frame::HEADER).map_or(0, u32::cast_signed);
            match frame::kind(message) {
                // The end carries a code too.
                DONE if code() == 0 => return Ok(whole),
                DONE | object_message::ERROR => return Err(io::Error::from_raw_os_error(-code())),
                _ => each(message),
            }
        }
    }
}
