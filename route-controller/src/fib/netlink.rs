//! What the kernel tells: a monitor for what others do, and complete readings.
//!
//! The monitor tells of its own overrun, after which everything is read anew.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use futures::FutureExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, TokioSocket};
use tokio::task::unconstrained;

use super::dump::{self, ObjectReading, Reading};
use super::foreign::Arrival;
use super::frame;
use super::message::{Read, read_address, read_link, read_route};
use super::object_message;
use super::socket::big_buffer;
use super::{Address, Failure, Link, Standing};

/// Datagrams that are read together.
const MOST_DATAGRAMS: usize = 1024;

/// Nobody asked for it: it follows from something else that changed.
pub(crate) type ByKernel = bool;

/// What the kernel told.
#[derive(Debug)]
pub(crate) enum News {
    Link(u32, Option<Link>),
    AddressNew(Address, Standing),
    AddressGone(Address),
    RouteNew(Read, Arrival),
    /// By the kernel itself: with its interface or an address.
    RouteGone(Read, ByKernel),
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
    socket: TokioSocket,
    buf: bytes::BytesMut,
    /// Notifications were lost, and perhaps more will be until the socket is empty.
    overrun: bool,
}

impl Monitor {
    /// Listens to what everybody but the writer with this port does.
    pub(crate) fn new(own_port: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_mut();
        inner.bind_auto()?;
        ignore(inner, own_port);
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_NEXTHOP,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ] {
            inner.add_membership(group)?;
        }
        big_buffer(inner);
        Ok(Self {
            socket,
            buf: bytes::BytesMut::with_capacity(64 << 10),
            overrun: false,
        })
    }

    /// The writer has a new port.
    pub(crate) fn ignore(&mut self, own_port: u32) {
        ignore(self.socket.socket_mut(), own_port);
    }

    /// The news of all datagrams that are there, of one at least; those of our own changes (`own_port`) are left out.
    /// However many nexthop objects changed, that is one piece of news.
    pub(crate) async fn next(&mut self, own_port: u32, table: u32) -> io::Result<Vec<News>> {
        let mut news = Vec::new();
        let mut objects = self.receive(own_port, table, &mut news).await?;
        for _ in 1..MOST_DATAGRAMS {
            // A task's budget is no empty socket.
            match unconstrained(self.receive(own_port, table, &mut news)).now_or_never() {
                Some(more) => objects |= more?,
                None => {
                    // Until all of them are received the kernel adds no more, and does not say so again.
                    news.extend(std::mem::take(&mut self.overrun).then_some(News::Overrun));
                    break;
                }
            }
        }
        news.extend(objects.then_some(News::Objects));
        Ok(news)
    }

    /// One datagram; whether nexthop objects changed.
    async fn receive(&mut self, own_port: u32, table: u32, news: &mut Vec<News>) -> io::Result<bool> {
        self.buf.clear();
        self.buf.reserve(64 << 10);
        match self.socket.recv_from(&mut self.buf).await {
            Ok(_) => return Ok(read_news(&self.buf, own_port, table, news)),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun = true,
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

/// Without the filter everything works, only slower: [`read_news`] leaves our own changes out too.
fn ignore(socket: &Socket, own_port: u32) {
    if let Err(error) = super::filter::drop_caused_by(socket.as_fd(), own_port) {
        tracing::debug!(%error, "no filter for our own route notifications");
    }
}

/// Adds the news of a datagram; whether nexthop objects changed.
fn read_news(bytes: &[u8], own_port: u32, table: u32, news: &mut Vec<News>) -> bool {
    let mut objects = false;
    for message in frame::messages(bytes).filter(|message| frame::word(message, 12) != Some(own_port)) {
        if matches!(frame::kind(message), object_message::NEW | object_message::DEL) {
            if frame::kind(message) == object_message::DEL {
                news.extend(object_message::id(message).map(News::ObjectGone));
            }
            objects = true;
        } else if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            news.extend(one_news(message, table));
        }
    }
    objects
}

fn one_news(message: NetlinkMessage<RouteNetlinkMessage>, table: u32) -> Option<News> {
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
            Some(News::Link(index, Some(link)))
        }
        RouteNetlinkMessage::DelLink(link) => Some(News::Link(link.header.index, None)),
        RouteNetlinkMessage::NewAddress(address) => {
            read_address(&address).map(|(address, standing)| News::AddressNew(address, standing))
        }
        RouteNetlinkMessage::DelAddress(address) => {
            read_address(&address).map(|(address, _)| News::AddressGone(address))
        }
        RouteNetlinkMessage::NewRoute(route) => {
            read_route(&route, table).map(|route| News::RouteNew(route, Arrival::of(flags)))
        }
        RouteNetlinkMessage::DelRoute(route) => {
            read_route(&route, table).map(|route| News::RouteGone(route, by_kernel))
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(News::Rules),
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
