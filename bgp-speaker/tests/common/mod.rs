//! Speakers on loopback addresses, and hand-made peers.
#![allow(dead_code, reason = "each test program uses a part")]

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{EngineConfig, Originated, PeerKind, PeerRouting, Prefixes, RouteFilter};
use bgp_proto::policy::Source;
use bgp_proto::session::{Negotiated, SessionConfig, State};
use bgp_proto::types::{Asn, FamilySet, HoldTime, PeerId, Prefix, RouterId};
use bgp_proto::wire::Open;
use bgp_speaker::{
    DatapathEvent, Event, PeerSnapshot, PeerSpec, Speaker, SpeakerConfig, SpeakerHandle, Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Node {
    pub(crate) handle: SpeakerHandle,
    pub(crate) datapath: mpsc::Receiver<DatapathEvent>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) addr: SocketAddr,
    pub(crate) asn: Asn,
    pub(crate) id: RouterId,
}

pub(crate) fn start(last: u8, asn: u32) -> Node {
    start_at([127, 0, 0, last].into(), asn)
}

pub(crate) fn start_at(addr: IpAddr, asn: u32) -> Node {
    let node = start_listening(addr, asn);
    node.handle.accept();
    node
}

/// Its listener has an accept queue, but connections are not accepted yet.
pub(crate) fn start_listening(addr: IpAddr, asn: u32) -> Node {
    let id = match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(_) => 1,
    };
    start_speaker(vec![SocketAddr::new(addr, 0)], id, asn)
}

/// Listens on all of these addresses.
pub(crate) fn start_on(listen: &[SocketAddr], id: u32, asn: u32) -> Node {
    let node = start_speaker(listen.to_vec(), id, asn);
    node.handle.accept();
    node
}

fn start_speaker(listen: Vec<SocketAddr>, id: u32, asn: u32) -> Node {
    let router_id = RouterId::new(id).unwrap();
    let engine = EngineConfig {
        asn: Asn(asn),
        router_id,
        cluster_id: None,
        max_paths: 8,
        multipath_relax: true,
        link_bandwidth: true,
        assume_reachable: true,
    };
    let started = Speaker::start(SpeakerConfig {
        engine,
        listen,
        seed: u64::from(id),
    })
    .unwrap();
    Node {
        addr: started.handle.listening()[0],
        handle: started.handle,
        datapath: started.datapath,
        events: started.events,
        asn: Asn(asn),
        id: router_id,
    }
}

pub(crate) fn spec(own: &Node, id: u32, remote: SocketAddr, remote_asn: Asn) -> PeerSpec {
    let name = format!("peer-{id}");
    let kind = if own.asn == remote_asn {
        PeerKind::Internal
    } else {
        PeerKind::External
    };
    PeerSpec {
        id: PeerId(id),
        name: name.clone(),
        session: SessionConfig {
            hold_time: HoldTime::new(9).unwrap(),
            connect_retry: Duration::from_millis(200),
            graceful_restart: Some(120),
            ..SessionConfig::new(own.asn, remote_asn, own.id)
        },
        routing: Arc::new(PeerRouting::new(name, kind, own.asn, remote_asn)),
        transport: Transport {
            local: Some(own.addr.ip()),
            ..Transport::new(remote)
        },
        enabled: true,
        connect_after: Duration::ZERO,
        waiting_for: None,
    }
}

/// Polls until there is a result.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut poll: impl FnMut() -> F,
) -> T {
    let polled = async {
        loop {
            if let Some(result) = poll().await {
                return result;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, polled)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

pub(crate) async fn peer(node: &SpeakerHandle, id: u32) -> PeerSnapshot {
    node.peers()
        .await
        .unwrap()
        .into_iter()
        .find(|peer| peer.id == PeerId(id))
        .unwrap()
}

pub(crate) async fn in_state(node: &SpeakerHandle, id: u32, state: State) -> PeerSnapshot {
    eventually(&format!("peer {id} is {state:?}"), || async {
        Some(peer(node, id).await).filter(|peer| peer.session.state == state)
    })
    .await
}

pub(crate) async fn has_route(node: &SpeakerHandle, text: &str, present: bool) {
    let prefix: Prefix = text.parse().unwrap();
    eventually(&format!("{text} present: {present}"), || async {
        let filter = RouteFilter {
            prefixes: Prefixes::Exactly(prefix),
            ..RouteFilter::default()
        };
        let (found, _) = node.routes(filter, 0, 1).await.unwrap();
        (found.is_empty() != present).then_some(())
    })
    .await;
}

pub(crate) fn block(text: &str) -> Originated {
    Originated {
        prefix: text.parse().unwrap(),
        source: Source::PodBlock,
        communities: Vec::new(),
    }
}

pub(crate) async fn connect_from(local: IpAddr, remote: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::new(local, 0)).unwrap();
    socket.connect(remote).await.unwrap()
}

/// The type of the next message from the speaker, on a connection on which nothing is sent.
pub(crate) async fn first_message(stream: &mut TcpStream) -> u8 {
    let mut header = [0; 19];
    let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut header)).await;
    read.expect("in time").unwrap();
    header[18]
}

/// Sends OPEN and KEEPALIVE for a client that does not read afterwards.
pub(crate) async fn handshake(stream: &mut TcpStream, asn: u16) {
    let [high, low] = asn.to_be_bytes();
    let mut open = vec![0xFF; 16];
    open.extend([0, 29, 1, 4, high, low, 0, 240, 10, 9, 9, 9, 0]);
    stream.write_all(&open).await.unwrap();
    let mut header = [0; 19];
    loop {
        stream.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
        stream.read_exact(&mut body).await.unwrap();
        if header[18] == 4 {
            break;
        }
        let mut keepalive = vec![0xFF; 16];
        keepalive.extend([0, 19, 4]);
        stream.write_all(&keepalive).await.unwrap();
    }
}

/// UPDATE with one prefix, from a two-octet AS.
pub(crate) fn announcement(asn: u16, prefix: [u8; 3]) -> Vec<u8> {
    announcement_via(asn, prefix, [10, 9, 9, 9])
}

pub(crate) fn announcement_via(asn: u16, prefix: [u8; 3], next_hop: [u8; 4]) -> Vec<u8> {
    let [high, low] = asn.to_be_bytes();
    let attributes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 2, 4, 2, 1, high, low],
        &[0x40, 3, 4],
        &next_hop,
    ]
    .concat();
    let mut body = vec![0, 0, 0, u8::try_from(attributes.len()).unwrap()];
    body.extend(attributes);
    body.push(24);
    body.extend(prefix);
    let mut message = vec![0xFF; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(2);
    message.extend(body);
    message
}

/// Reads messages until a NOTIFICATION; returns its code and subcode, `None` if the connection ends without
/// one.
pub(crate) async fn notification(stream: &mut TcpStream) -> Option<(u8, u8)> {
    let read = async {
        let mut header = [0; 19];
        loop {
            stream.read_exact(&mut header).await.ok()?;
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
            stream.read_exact(&mut body).await.ok()?;
            if header[18] == 3 {
                return Some((body[0], body[1]));
            }
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("the connection ends in time")
}

/// The negotiated result of two plain OPENs.
pub(crate) fn negotiated() -> Negotiated {
    let open = |asn, id| Open {
        asn: Asn(asn),
        hold_time: HoldTime::DEFAULT,
        router_id: RouterId::new(id).unwrap(),
        capabilities: Vec::new(),
    };
    Negotiated {
        local: open(64512, 1),
        remote: open(65001, 2),
        hold_time: HoldTime::DEFAULT,
        families: FamilySet::ALL,
        four_octet_as: true,
        refresh: true,
        enhanced_refresh: true,
        extended_message: false,
        add_path_receive: FamilySet::EMPTY,
        add_path_send: FamilySet::EMPTY,
        extended_next_hop: FamilySet::EMPTY,
        long_lived: FamilySet::EMPTY,
    }
}
