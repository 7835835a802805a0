//! Unnumbered peers, found by router advertisements on a link.
//!
//! Each link has a task with a raw ICMPv6 socket. It sends router advertisements, so that the peer finds us
//! too, and uses the source of a received one as the peer's address (RFC 4861 §4.2, §6.1.2: hop limit 255,
//! link-local source). Our advertisements have router lifetime 0: we are no default router (§6.2.3).
//!
//! A neighbor with an established session stays, whoever else advertises: the session detects when it is
//! gone. Without a session each router has [`MIN_NEIGHBOR_TIME`] to bring one up. A second router is
//! reported.
//!
//! A missing interface is looked up each second.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bgp_proto::types::PeerId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Peers;
use crate::api::{Event, LinkSpec, PeerSpec, Stopped};
use crate::clock::now;
use crate::socket::interface_index;
use crate::sockopt;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2);
const ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 133;
/// Interval until the peer is found. RFC 4861 §10 allows up to 16 s between initial advertisements, which is
/// too long after a cable is plugged in.
const INITIAL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval once the peer is found.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a neighbor stays when another router advertises: since it was found, or since its session ended.
const MIN_NEIGHBOR_TIME: Duration = Duration::from_secs(10);
/// Interval of warnings about a second router.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Wait after an error, and between lookups of the interface.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Links with unnumbered peers.
#[derive(Default)]
pub(crate) struct Links(Mutex<BTreeMap<PeerId, DiscoveryTask>>);

/// The discovery task of a link, which ends when this is dropped.
pub(crate) struct DiscoveryTask {
    link: LinkSpec,
    found: Arc<Mutex<Option<SocketAddrV6>>>,
    task: tokio::task::AbortHandle,
}

impl DiscoveryTask {
    /// The neighbor, if it was found.
    pub(crate) fn found(&self) -> Option<SocketAddrV6> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DiscoveryTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    pub(crate) fn insert(&self, id: PeerId, running: DiscoveryTask) {
        self.lock().insert(id, running);
    }

    pub(crate) fn take(&self, id: PeerId) -> Option<DiscoveryTask> {
        self.lock().remove(&id)
    }

    pub(crate) fn forget(&self, id: PeerId) {
        drop(self.take(id));
    }

    pub(crate) fn is_same(&self, id: PeerId, link: &LinkSpec) -> bool {
        self.lock().get(&id).is_some_and(|running| running.link == *link)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, DiscoveryTask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Discovery of the peer on one link.
pub(crate) struct Discovery {
    link: LinkSpec,
    peers: Peers,
    found: Arc<Mutex<Option<SocketAddrV6>>>,
    /// When the neighbor was found.
    since: Instant,
    /// When a second router was last reported.
    reported: Option<Instant>,
}

/// A message received on the link.
enum LinkMessage {
    Router(SocketAddrV6),
    /// A router solicitation.
    Solicitation,
    Nothing,
}

impl Discovery {
    /// `known`: the former neighbor, kept if the interface is still the same.
    pub(crate) fn new(link: LinkSpec, peers: Peers, known: Option<SocketAddrV6>) -> Self {
        let same = known.filter(|known| interface_index(&link.interface) == Some(known.scope_id()));
        Self {
            link,
            peers,
            found: Arc::new(Mutex::new(same)),
            since: now(),
            reported: None,
        }
    }

    pub(crate) fn start(self) -> DiscoveryTask {
        let (link, found) = (self.link.clone(), Arc::clone(&self.found));
        DiscoveryTask {
            link,
            found,
            task: tokio::spawn(self.run()).abort_handle(),
        }
    }

    fn known(&self) -> Option<SocketAddrV6> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or changes the peer with what is known now.
    pub(crate) async fn update_peer(&mut self) -> Result<(), Stopped> {
        let spec = match self.known() {
            Some(peer) => self.spec_with(peer),
            None => self.spec_waiting(),
        };
        self.peers.put(spec).await
    }

    fn spec_with(&self, mut peer: SocketAddrV6) -> PeerSpec {
        let mut spec = self.link.template.clone();
        peer.set_port(spec.transport.remote.port());
        spec.transport.remote = SocketAddr::V6(peer);
        spec
    }

    fn spec_waiting(&self) -> PeerSpec {
        let mut spec = self.link.template.clone();
        let port = spec.transport.remote.port();
        spec.transport.remote = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let name = &self.link.interface;
        spec.waiting_for = Some(match interface_index(name) {
            Some(_) => format!("no router advertisement received on {name}; enable them on the peer"),
            None => format!("interface {name} does not exist"),
        });
        spec
    }

    async fn run(mut self) {
        loop {
            match self.watch().await {
                Ok(()) => return,
                Err(error) => tracing::debug!(
                    event = "discovery_failed", interface = %self.link.interface, %error,
                    "cannot discover the unnumbered peer; retrying"
                ),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Runs until the interface fails; `Ok` when the speaker has stopped.
    async fn watch(&mut self) -> io::Result<()> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such interface");
        let index = interface_index(&self.link.interface).ok_or_else(missing)?;
        let socket = sockopt::watched(open(&self.link.interface, index)?)?;
        send(socket.get_ref(), index, SOLICITATION)?;
        loop {
            send(socket.get_ref(), index, ADVERTISEMENT)?;
            let pause = if self.known().is_some() {
                INTERVAL
            } else {
                INITIAL_INTERVAL
            };
            let until = tokio::time::Instant::now() + pause;
            while let Ok(received) = tokio::time::timeout_at(until, receive(&socket, index)).await {
                match received? {
                    LinkMessage::Router(peer) => {
                        if self.on_advertisement(peer).await.is_err() {
                            return Ok(());
                        }
                    }
                    LinkMessage::Solicitation => break,
                    LinkMessage::Nothing => {}
                }
            }
            if interface_index(&self.link.interface) != Some(index) {
                return Err(missing());
            }
        }
    }

    async fn on_advertisement(&mut self, peer: SocketAddrV6) -> Result<(), Stopped> {
        let known = self.known();
        if known == Some(peer) {
            return Ok(());
        }
        let now = now();
        if let Some(known) = known {
            self.warn_second_router(now, known, peer);
            let id = self.link.template.id;
            if self.peers.registry.was_up_within(id, now, MIN_NEIGHBOR_TIME)
                || now.saturating_duration_since(self.since) < MIN_NEIGHBOR_TIME
            {
                return Ok(());
            }
        }
        self.since = now;
        tracing::info!(
            event = "neighbor_found", peer = %self.link.template.name, address = %peer.ip(),
            interface = %self.link.interface, "unnumbered peer found"
        );
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
        let spec = self.spec_with(peer);
        let found = spec.transport.remote;
        self.peers.change(spec).await?; // unless it was removed meanwhile
        let id = self.link.template.id;
        self.peers.report(Event::NeighborFound(id, found)).await
    }

    fn warn_second_router(&mut self, now: Instant, known: SocketAddrV6, second: SocketAddrV6) {
        let recent = |at: Instant| now.saturating_duration_since(at) < WARN_INTERVAL;
        if !self.reported.is_some_and(recent) {
            self.reported = Some(now);
            tracing::warn!(
                event = "second_router", peer = %self.link.template.name, interface = %self.link.interface,
                neighbor = %known.ip(), second = %second.ip(),
                "two routers advertise on the link of an unnumbered peer; make the link point-to-point"
            );
        }
    }
}

fn open(interface: &str, index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    sockopt::only_router_messages(&socket)?;
    socket.set_multicast_hops_v6(255)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_loop_v6(false)?;
    sockopt::receive_hop_limit(&socket)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    socket.join_multicast_v6(&ALL_NODES, index)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The kernel computes the checksum of a raw ICMPv6 socket (RFC 3542 §3.1).
fn send(socket: &Socket, index: u32, kind: u8) -> io::Result<()> {
    let (message, to): (&[u8], _) = if kind == SOLICITATION {
        (&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], ALL_ROUTERS)
    } else {
        // Type, code, checksum; hop limit and flags unspecified; lifetime 0; reachable and retransmission
        // time unspecified.
        (
            &[ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ALL_NODES,
        )
    };
    let to = SocketAddrV6::new(to, 0, 0, index);
    match socket.send_to(message, &SocketAddr::V6(to).into()) {
        // The link is down, or its address is tentative: the next advertisement may succeed.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other.map(drop),
    }
}

async fn receive(socket: &AsyncFd<Socket>, index: u32) -> io::Result<LinkMessage> {
    socket
        .async_io(Interest::READABLE, |socket| {
            let mut buffer = [0; 1500];
            let datagram = sockopt::receive_from(socket, &mut buffer)?;
            // RFC 4861 §6.1.1, §6.1.2: a forwarded message is not from this link.
            if datagram.hop_limit != Some(255) {
                return Ok(LinkMessage::Nothing);
            }
            let message = buffer.get(..datagram.length).unwrap_or_default();
            Ok(classify(message, datagram.from, index))
        })
        .await
}

/// Classifies a message. Its hop limit and type have been checked.
fn classify(message: &[u8], from: Option<SocketAddrV6>, index: u32) -> LinkMessage {
    match (message.first(), from) {
        (Some(&ADVERTISEMENT), Some(from)) if message.len() >= 16 && from.ip().is_unicast_link_local() => {
            LinkMessage::Router(SocketAddrV6::new(*from.ip(), 0, 0, index))
        }
        (Some(&SOLICITATION), Some(_)) => LinkMessage::Solicitation,
        _ => LinkMessage::Nothing,
    }
}
