//! The simulated network: nodes, links with delays, TCP connections, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::bytes::{Bytes, BytesMut};
use bgp_proto::engine::{
    Engine, EngineConfig, Input as ToEngine, Originated, Output as FromEngine, PeerKind, PeerRouting,
    Prefixes, RouteFilter, SessionFacts, SessionId,
};
use bgp_proto::policy::Source;
use bgp_proto::session::{ConnId, Input, Output, Session, SessionConfig, State};
use bgp_proto::types::{Asn, HoldTime, PeerId, Prefix, RouterId};

const INCOMING: u64 = 1 << 32;

/// A graph of nodes; both networks are described by it.
#[derive(Clone)]
pub(crate) struct Graph {
    /// AS number of each node.
    pub(crate) asns: Vec<u32>,
    /// Pairs of nodes.
    pub(crate) links: Vec<(usize, usize)>,
    /// Nodes that are reflectors.
    pub(crate) reflectors: BTreeSet<usize>,
}

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn identifier(node: usize) -> RouterId {
    RouterId::new(0x0A00_0001 + node as u32).unwrap()
}

pub(crate) fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xC000_0201 + node as u32)
}

fn prefix(node: usize) -> Prefix {
    Prefix::v4(0x0AF4_0000 + ((node as u32) << 8), 24)
}

/// One end of a link.
struct Side {
    session: Session,
    next_incoming: u64,
    /// The connection of the established session.
    up: Option<ConnId>,
    /// Number of sessions so far.
    epoch: u32,
    buffers: BTreeMap<ConnId, BytesMut>,
}

struct Node {
    engine: Engine,
    /// By link.
    sides: BTreeMap<usize, Side>,
}

#[derive(Debug)]
enum Event {
    /// Connection attempts from this end of the link arrive at the other.
    Call {
        link: usize,
        end: usize,
        conn: ConnId,
    },
    Bytes {
        link: usize,
        end: usize,
        tcp: usize,
        bytes: Bytes,
    },
    End {
        link: usize,
        end: usize,
        tcp: usize,
    },
    Refused {
        link: usize,
        end: usize,
        conn: ConnId,
    },
}

/// A TCP connection: its id at each end of its link.
struct Tcp {
    link: usize,
    ids: [Option<ConnId>; 2],
    /// Time of the last arrival at each end: order is preserved.
    last: [Instant; 2],
}

pub(crate) struct World {
    graph: Graph,
    nodes: Vec<Node>,
    now: Instant,
    random: Random,
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    tcp: Vec<Tcp>,
    /// Links that drop everything, without an error.
    black: BTreeSet<usize>,
    /// What they dropped: to which end, of which connection.
    held: BTreeMap<usize, Vec<(usize, usize, Event)>>,
    steps: u64,
}

impl World {
    pub(crate) fn new(graph: Graph, seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            nodes: Vec::new(),
            now,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            queue: BTreeMap::new(),
            sequence: 0,
            tcp: Vec::new(),
            black: BTreeSet::new(),
            held: BTreeMap::new(),
            steps: 0,
            graph,
        };
        for node in 0..world.graph.asns.len() {
            let made = world.make(node);
            world.nodes.push(made);
        }
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world
    }

    /// A node after its start.
    fn make(&mut self, node: usize) -> Node {
        let asn = Asn(self.graph.asns[node]);
        let engine = Engine::new(EngineConfig {
            asn,
            router_id: identifier(node),
            cluster_id: None,
            max_paths: 1,
            multipath_relax: false,
            link_bandwidth: true,
            assume_reachable: true,
        });
        let mut made = Node {
            engine,
            sides: BTreeMap::new(),
        };
        for (link, (a, b)) in self.graph.links.clone().into_iter().enumerate() {
            let Some(other) = [(a, b), (b, a)]
                .into_iter()
                .find(|(one, _)| *one == node)
                .map(|(_, other)| other)
            else {
                continue;
            };
            let remote = Asn(self.graph.asns[other]);
            let kind = match (asn == remote, self.graph.reflectors.contains(&node)) {
                (false, _) => PeerKind::External,
                (true, true) if !self.graph.reflectors.contains(&other) => PeerKind::Client,
                (true, _) => PeerKind::Internal,
            };
            let config = SessionConfig {
                hold_time: HoldTime::new(9).unwrap(),
                ..SessionConfig::new(asn, remote, identifier(node))
            };
            let routing = PeerRouting::new(format!("node-{other}"), kind, asn, remote);
            made.engine.handle(
                self.now,
                ToEngine::Configure(PeerId(link as u32), Arc::new(routing)),
            );
            let side = Side {
                session: Session::new(config, self.random.below(u64::MAX)),
                next_incoming: INCOMING,
                up: None,
                epoch: 0,
                buffers: BTreeMap::new(),
            };
            made.sides.insert(link, side);
        }
        let own = Originated {
            prefix: prefix(node),
            source: Source::PodBlock,
            communities: vec![],
        };
        made.engine.handle(self.now, ToEngine::Originate(vec![own]));
        made
    }

    fn start(&mut self, node: usize) {
        let links: Vec<usize> = self.nodes[node].sides.keys().copied().collect();
        links
            .into_iter()
            .for_each(|link| self.session_input(node, link, Input::Start));
    }

    fn end_of(&self, link: usize, node: usize) -> usize {
        usize::from(self.graph.links[link].0 != node)
    }

    fn node_at(&self, link: usize, end: usize) -> usize {
        let (a, b) = self.graph.links[link];
        if end == 0 { a } else { b }
    }

    fn post(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    /// 1–30 ms of delay.
    fn arrival(&mut self) -> Instant {
        self.now + Duration::from_micros(1000 + self.random.below(29_000))
    }

    fn session_input(&mut self, node: usize, link: usize, input: Input<'_>) {
        let now = self.now;
        if let Some(side) = self.nodes[node].sides.get_mut(&link) {
            side.session.handle(now, input);
        }
        self.run_outputs(node, link);
    }

    fn tcp_of(&self, link: usize, end: usize, conn: ConnId) -> Option<usize> {
        self.tcp
            .iter()
            .rposition(|tcp| tcp.link == link && tcp.ids[end] == Some(conn))
    }

    /// Processes the outputs of a session and its engine.
    fn run_outputs(&mut self, node: usize, link: usize) {
        let end = self.end_of(link, node);
        let now = self.now;
        while let Some(output) = self.nodes[node]
            .sides
            .get_mut(&link)
            .and_then(|side| side.session.poll_output())
        {
            let session = SessionId {
                peer: PeerId(link as u32),
                epoch: self.nodes[node].sides[&link].epoch,
            };
            match output {
                Output::Connect(conn) => {
                    let at = self.arrival();
                    self.post(at, Event::Call { link, end, conn });
                }
                Output::Send { conn, bytes } => {
                    self.send(link, end, conn, bytes);
                    self.wrote(node, link);
                }
                Output::Close(conn) => self.close(link, end, conn),
                Output::State(_) => {}
                Output::Up { conn, negotiated } => {
                    let side = self.nodes[node].sides.get_mut(&link).unwrap();
                    side.up = Some(conn);
                    side.epoch += 1;
                    let session = SessionId {
                        epoch: side.epoch,
                        ..session
                    };
                    let facts = self.facts(node, link, Arc::new(*negotiated));
                    self.nodes[node]
                        .engine
                        .handle(now, ToEngine::Up(session, Box::new(facts)));
                }
                Output::Down { was_up, .. } => {
                    if was_up {
                        self.nodes[node].sides.get_mut(&link).unwrap().up = None;
                        self.nodes[node].engine.handle(now, ToEngine::Down(session));
                    }
                }
                Output::Routes(batch) => {
                    assert!(batch.issues.is_empty(), "{:?}", batch.issues);
                    self.nodes[node]
                        .engine
                        .handle(now, ToEngine::Routes(session, batch));
                }
                Output::Refresh(refresh) => self.nodes[node]
                    .engine
                    .handle(now, ToEngine::Refresh(session, refresh)),
            }
        }
        self.pump(node);
    }

    /// The kernel acknowledges what was written, unless the link drops it (RFC 9687).
    fn wrote(&mut self, node: usize, link: usize) {
        let now = self.now;
        if let Some(side) = self.nodes[node].sides.get_mut(&link)
            && !self.black.contains(&link)
        {
            side.session.handle(now, Input::Wrote);
        }
    }

    fn facts(
        &self,
        node: usize,
        link: usize,
        negotiated: Arc<bgp_proto::session::Negotiated>,
    ) -> SessionFacts {
        let other = self.node_at(link, 1 - self.end_of(link, node));
        SessionFacts {
            negotiated,
            remote_addr: IpAddr::V4(address(other)),
            local_v4: Some(address(node)),
            local_v6: None,
            link_local: None,
            shared_subnets: Vec::new(),
        }
    }

    fn pump(&mut self, node: usize) {
        let mut touched = BTreeSet::new();
        while let Some(output) = self.nodes[node].engine.poll_output() {
            let FromEngine::Advertise(session, chunk) = output else {
                assert!(!matches!(output, FromEngine::Fail(..)), "{output:?}");
                continue;
            };
            let link = session.peer.0 as usize;
            let side = &self.nodes[node].sides[&link];
            let Some(conn) = side.up.filter(|_| side.epoch == session.epoch) else {
                continue; // of an ended session
            };
            touched.insert(link);
            let end = self.end_of(link, node);
            for bytes in chunk.data_for(session.peer) {
                self.send(link, end, conn, bytes);
            }
            let now = self.now;
            let written = ToEngine::Written(session, chunk.cost_for(session.peer));
            self.nodes[node].engine.handle(now, written);
        }
        touched.into_iter().for_each(|link| self.wrote(node, link));
    }

    fn send(&mut self, link: usize, end: usize, conn: ConnId, bytes: Bytes) {
        if let Some(tcp) = self.tcp_of(link, end, conn) {
            let event = Event::Bytes {
                link,
                end: 1 - end,
                tcp,
                bytes,
            };
            self.carry(link, 1 - end, tcp, event);
        }
    }

    fn close(&mut self, link: usize, end: usize, conn: ConnId) {
        let node = self.node_at(link, end);
        if let Some(side) = self.nodes[node].sides.get_mut(&link) {
            side.buffers.remove(&conn);
        }
        if let Some(tcp) = self.tcp_of(link, end, conn) {
            self.tcp[tcp].ids[end] = None;
            self.end(link, 1 - end, tcp);
        }
    }

    fn end(&mut self, link: usize, end: usize, tcp: usize) {
        self.carry(link, end, tcp, Event::End { link, end, tcp });
    }

    /// TCP preserves order, and retransmits what the link dropped once it works again.
    fn carry(&mut self, link: usize, to: usize, tcp: usize, event: Event) {
        if self.black.contains(&link) {
            return self.held.entry(link).or_default().push((to, tcp, event));
        }
        let at = self.arrival().max(self.tcp[tcp].last[to]);
        self.tcp[tcp].last[to] = at;
        self.post(at, event);
    }

    fn heal(&mut self, link: usize) {
        self.black.remove(&link);
        for (to, tcp, event) in self.held.remove(&link).unwrap_or_default() {
            self.carry(link, to, tcp, event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call { link, end, conn } => self.call(link, end, conn),
            Event::Refused { link, end, conn } => {
                let node = self.node_at(link, end);
                let error = Some("refused".to_owned());
                self.session_input(node, link, Input::Closed { conn, error });
            }
            Event::Bytes {
                link,
                end,
                tcp,
                bytes,
            } => {
                let Some(conn) = self.tcp[tcp].ids[end] else {
                    return;
                };
                let (node, now) = (self.node_at(link, end), self.now);
                let Some(side) = self.nodes[node].sides.get_mut(&link) else {
                    return;
                };
                let Some(buf) = side.buffers.get_mut(&conn) else {
                    return;
                };
                buf.extend_from_slice(&bytes);
                let mut taken = std::mem::take(buf);
                side.session.handle(
                    now,
                    Input::Received {
                        conn,
                        buf: &mut taken,
                    },
                );
                if let Some(buf) = side.buffers.get_mut(&conn) {
                    *buf = taken;
                }
                self.run_outputs(node, link);
            }
            Event::End { link, end, tcp } => {
                let Some(conn) = self.tcp[tcp].ids[end].take() else {
                    return;
                };
                let node = self.node_at(link, end);
                if let Some(side) = self.nodes[node].sides.get_mut(&link) {
                    side.buffers.remove(&conn);
                }
                self.session_input(node, link, Input::Closed { conn, error: None });
            }
        }
    }

    fn call(&mut self, link: usize, end: usize, conn: ConnId) {
        if self.black.contains(&link) {
            return; // the connect-retry timer handles it
        }
        let (caller, called) = (self.node_at(link, end), self.node_at(link, 1 - end));
        let side = self.nodes[called].sides.get_mut(&link).unwrap();
        if side.session.state() == State::Idle {
            let at = self.arrival();
            return self.post(at, Event::Refused { link, end, conn });
        }
        let incoming = ConnId(side.next_incoming);
        side.next_incoming += 1;
        side.buffers.insert(incoming, BytesMut::new());
        let mut ids = [None; 2];
        (ids[end], ids[1 - end]) = (Some(conn), Some(incoming));
        let last = [self.now; 2];
        self.tcp.push(Tcp { link, ids, last });
        self.nodes[caller]
            .sides
            .get_mut(&link)
            .unwrap()
            .buffers
            .insert(conn, BytesMut::new());
        self.session_input(
            called,
            link,
            Input::Connected {
                conn: incoming,
                incoming: true,
            },
        );
        self.session_input(
            caller,
            link,
            Input::Connected {
                conn,
                incoming: false,
            },
        );
    }

    /// Resets all connections of a link at both ends.
    fn cut(&mut self, link: usize) {
        for tcp in 0..self.tcp.len() {
            if self.tcp[tcp].link != link {
                continue;
            }
            for end in [0, 1] {
                if let Some(conn) = self.tcp[tcp].ids[end].take() {
                    let node = self.node_at(link, end);
                    self.nodes[node]
                        .sides
                        .get_mut(&link)
                        .unwrap()
                        .buffers
                        .remove(&conn);
                    let error = Some("reset".to_owned());
                    self.session_input(node, link, Input::Closed { conn, error });
                }
            }
        }
    }

    /// The node's process restarts; its peers see their connections end.
    fn restart(&mut self, node: usize) {
        let links: Vec<usize> = self.nodes[node].sides.keys().copied().collect();
        for link in links {
            let end = self.end_of(link, node);
            for tcp in 0..self.tcp.len() {
                if self.tcp[tcp].link == link && self.tcp[tcp].ids[end].take().is_some() {
                    self.end(link, 1 - end, tcp);
                }
            }
            // Connection results of the ended process do not concern the new one.
            self.queue.retain(|_, event| match event {
                Event::Call {
                    link: of, end: from, ..
                }
                | Event::Refused {
                    link: of, end: from, ..
                } => (*of, *from) != (link, end),
                _ => true,
            });
        }
        self.nodes[node] = self.make(node);
        self.start(node);
    }

    /// Runs for this time.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.steps += 1;
            assert!(self.steps < 5_000_000, "the engine does not become idle");
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self.first_timer();
            let next = [event, timer.map(|(at, ..)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = self.now.max(next);
            match (event, timer) {
                (Some(at), _) if at <= next => {
                    let (_, event) = self.queue.pop_first().unwrap();
                    self.happen(event);
                }
                (_, Some((_, node, link))) => self.session_input(node, link, Input::Tick),
                _ => break,
            }
        }
        self.now = until;
    }

    fn first_timer(&self) -> Option<(Instant, usize, usize)> {
        let of_node = |(node, state): (usize, &Node)| {
            let sides = state.sides.iter();
            let timers = sides.filter_map(|(link, side)| Some((side.session.poll_timeout()?, node, *link)));
            timers.min()
        };
        self.nodes.iter().enumerate().filter_map(of_node).min()
    }

    /// The best path of a node to a prefix: its AS path, and its next hop unless it is originated locally.
    pub(crate) fn best(&self, node: usize, to: usize) -> Option<(Vec<u32>, Option<IpAddr>)> {
        let filter = RouteFilter {
            prefixes: Prefixes::Exactly(prefix(to)),
            ..RouteFilter::default()
        };
        let (routes, _) = self.nodes[node].engine.routes(&filter, 0, 1);
        let path = routes.first()?.paths.iter().find(|path| path.best)?;
        let asns = path.attrs.as_path.asns().map(|asn| asn.0).collect();
        let next_hop = (path.peer != PeerId::LOCAL).then(|| path.attrs.next_hop.addr());
        Some((asns, next_hop))
    }

    pub(crate) fn disturb(&mut self) {
        let links = self.graph.links.len() as u64;
        match self.random.below(4) {
            0 => {
                let link = self.random.below(links) as usize;
                self.cut(link);
            }
            1 => {
                let link = self.random.below(links) as usize;
                self.black.insert(link);
            }
            2 => {
                let node = self.random.below(self.nodes.len() as u64) as usize;
                self.restart(node);
            }
            _ => {
                if let Some(link) = self.black.first().copied() {
                    self.heal(link);
                }
            }
        }
        let pause = Duration::from_millis(self.random.below(20_000));
        self.run(pause);
    }

    /// Ends all disturbances.
    pub(crate) fn end_disturbances(&mut self) {
        while let Some(link) = self.black.first().copied() {
            self.heal(link);
        }
        // A silently cut peer is detected within the hold time and connects again within two back-off times.
        self.run(Duration::from_secs(300));
        for (node, state) in self.nodes.iter().enumerate() {
            for (link, side) in &state.sides {
                assert_eq!(
                    side.session.state(),
                    State::Established,
                    "node {node}, link {link}"
                );
            }
        }
    }
}
