//! Reads the kernel: notifications of changes (the monitor), and complete dumps.
//!
//! The monitor reports its own overrun, after which everything is read again.

use std::collections::HashMap;
use std::io;

use linux::netlink::{Socket, messages};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use super::dump::{self, ObjectReading, Reading};
use super::foreign::Arrival;
use super::message::{ReadRoute, read_address, read_link, read_route};
use super::object_message;
use super::{Address, AddressState, Failure, Link};

/// Datagrams that are read together.
const MOST_DATAGRAMS: usize = 1024;

/// Nobody asked for it: it follows from something else that changed.
pub(crate) type ByKernel = bool;

/// What the kernel reported.
#[derive(Debug)]
pub(crate) enum KernelEvent {
    Link(u32, Option<Link>),
    AddressNew(Address, AddressState),
    AddressGone(Address),
    RouteNew(ReadRoute, Arrival),
    /// By the kernel itself: with its interface or an address.
    RouteGone(ReadRoute, ByKernel),
    /// Somebody, perhaps the kernel itself, changed nexthop objects.
    Objects,
    /// Somebody took this one away.
    ObjectGone(u32),
    /// Somebody changed policy rules.
    Rules,
    /// Notifications were lost.
    Overrun,
}

/// Listens to links, addresses and routes.
pub(crate) struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    /// Notifications were lost, and perhaps more will be until the socket is empty.
    overrun: bool,
}

impl Monitor {
    /// Listens to what everybody but the writer with this port does.
    pub(crate) fn new(own_port: u32) -> io::Result<Self> {
        let socket = Socket::route()?;
        ignore(&socket, own_port);
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_NEXTHOP,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ];
        socket.join(&groups)?;
        socket.set_receive_buffer(dump::RECEIVE_BUFFER);
        Ok(Self {
            socket: register(socket)?,
            buffer: vec![0; 64 << 10],
            overrun: false,
        })
    }

    /// The writer has a new port.
    pub(crate) fn ignore(&mut self, own_port: u32) {
        ignore(self.socket.get_ref(), own_port);
    }

    /// The events of all datagrams that are there, of at least one; those of own changes (`own_port`) are left out.
    /// However many nexthop objects changed, that is one piece of news.
    pub(crate) async fn next(&mut self, own_port: u32, table: u32) -> io::Result<Vec<KernelEvent>> {
        loop {
            let mut ready = self.socket.readable().await?;
            let (mut news, mut objects, mut is_empty) = (Vec::new(), false, true);
            for _ in 0..MOST_DATAGRAMS {
                match ready.get_inner().try_receive(&mut self.buffer) {
                    Ok(datagram) => {
                        objects |= read_events(datagram, own_port, table, &mut news);
                        is_empty = false;
                    }
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        // Until all of them are received the kernel adds no more, and does not say so again.
                        if std::mem::take(&mut self.overrun) {
                            news.push(KernelEvent::Overrun);
                            is_empty = false;
                        }
                        break;
                    }
                    Err(Errno::ENOBUFS) => self.overrun = true,
                    Err(error) => return Err(error.into()),
                }
            }
            if !is_empty {
                news.extend(objects.then_some(KernelEvent::Objects));
                return Ok(news);
            }
        }
    }
}

#[expect(unsafe_code, reason = "AsyncFd::register has a contract about the descriptor")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor, and neither closes nor replaces it before it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Without the filter everything works, only slower: [`read_events`] ignores own changes too.
fn ignore(socket: &Socket, own_port: u32) {
    if let Err(error) = socket.ignore_changes_by(own_port) {
        tracing::debug!(event = "no_notification_filter", %error, "cannot filter notifications of own changes; they are ignored after reading");
    }
}

/// Adds the news of a datagram; whether nexthop objects changed.
fn read_events(bytes: &[u8], own_port: u32, table: u32, news: &mut Vec<KernelEvent>) -> bool {
    let mut objects = false;
    for message in messages(bytes).filter(|message| message.port != own_port) {
        if matches!(message.kind, object_message::NEW | object_message::DEL) {
            if message.kind == object_message::DEL {
                news.extend(object_message::id(&message).map(KernelEvent::ObjectGone));
            }
            objects = true;
        } else if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.bytes) {
            news.extend(read_event(message, table));
        }
    }
    objects
}

fn read_event(message: NetlinkMessage<RouteNetlinkMessage>, table: u32) -> Option<KernelEvent> {
    let flags = message.header.flags;
    let by_kernel: ByKernel = message.header.port_number == 0;
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return None;
    };
    match message {
        // What a bridge says of its ports is no news of the links themselves.
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        RouteNetlinkMessage::NewLink(link) => {
            let (index, link) = read_link(&link);
            Some(KernelEvent::Link(index, Some(link)))
        }
        RouteNetlinkMessage::DelLink(link) => Some(KernelEvent::Link(link.header.index, None)),
        RouteNetlinkMessage::NewAddress(address) => {
            read_address(&address).map(|(address, state)| KernelEvent::AddressNew(address, state))
        }
        RouteNetlinkMessage::DelAddress(address) => {
            read_address(&address).map(|(address, _)| KernelEvent::AddressGone(address))
        }
        RouteNetlinkMessage::NewRoute(route) => {
            read_route(&route, table).map(|route| KernelEvent::RouteNew(route, Arrival::of(flags)))
        }
        RouteNetlinkMessage::DelRoute(route) => {
            read_route(&route, table).map(|route| KernelEvent::RouteGone(route, by_kernel))
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(KernelEvent::Rules),
        _ => None,
    }
}

/// Reads all links, addresses and routes of the main and of this table.
pub(crate) async fn read_all(table: u32) -> io::Result<Reading> {
    let reading = tokio::task::spawn_blocking(move || dump::read_all(table));
    reading.await.map_err(io::Error::other)?
}

/// Reads all nexthop objects; an error where the kernel knows none.
pub(crate) async fn read_objects() -> io::Result<ObjectReading> {
    let reading = tokio::task::spawn_blocking(dump::read_objects);
    reading.await.map_err(io::Error::other)?
}

/// How many changes failed, by what; for one log line per batch.
pub(crate) fn count_failures(outcomes: &[Result<(), Failure>]) -> HashMap<i32, usize> {
    let mut counts = HashMap::new();
    for outcome in outcomes {
        if let Err(Failure::Errno(errno)) = outcome {
            *counts.entry(*errno).or_default() += 1;
        }
    }
    counts
}
