//! A test environment of one engine: peers that decode what they receive, and a kernel that resolves next
//! hops.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod bare;
pub(crate) mod count;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use ::bytes::BytesMut;
use bgp_proto::engine::{
    Chunk, Engine, EngineConfig, Input, Output, PeerKind, PeerRouting, Reach, RouteFilter, RouteView,
    SessionFacts, SessionId,
};
use bgp_proto::session::Negotiated;
use bgp_proto::types::{Asn, Family, FamilySet, HoldTime, PathId, PeerId, Prefix, RouterId};
use bgp_proto::wire::{
    AsPath, Capability, DecodeContext, GracefulRestart, MessageKind, NextHop, Nlri, Notification, Open,
    PathAttrs, Refresh, RefreshKind, RouteBatch, RouteOp, cut_frame, decode_update,
};

pub(crate) const OUR_AS: Asn = Asn(64512);

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        asn: OUR_AS,
        router_id: RouterId::new(0x0A00_0001).unwrap(),
        cluster_id: None,
        max_paths: 8,
        multipath_relax: false,
        link_bandwidth: true,
        assume_reachable: false,
    }
}

/// A peer's view of our routes.
#[derive(Default, Debug)]
pub(crate) struct ReceivedRoutes {
    pub(crate) routes: BTreeMap<Prefix, PathAttrs>,
    /// By prefix and path identifier: the table of a peer with ADD-PATH.
    pub(crate) paths: BTreeMap<(Prefix, PathId), PathAttrs>,
    pub(crate) add_path: FamilySet,
    pub(crate) extended_next_hop: FamilySet,
    pub(crate) end_of_rib: Vec<Family>,
    /// EoRR (RFC 7313 §4).
    pub(crate) ends_of_refresh: Vec<Family>,
    pub(crate) messages: usize,
    /// A slow peer: its chunks collect here until `drain`.
    pub(crate) slow: bool,
    pub(crate) queue: VecDeque<Arc<Chunk>>,
    pub(crate) queued_bytes: usize,
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Instant,
    pub(crate) kinds: BTreeMap<PeerId, PeerKind>,
    pub(crate) up: BTreeSet<PeerId>,
    /// Number of sessions so far.
    pub(crate) epochs: BTreeMap<PeerId, u32>,
    pub(crate) received: BTreeMap<PeerId, ReceivedRoutes>,
    pub(crate) fib: BTreeMap<Prefix, Vec<IpAddr>>,
    /// Prefixes whose packets are dropped.
    pub(crate) blackholes: BTreeSet<Prefix>,
    pub(crate) watched: BTreeSet<IpAddr>,
    pub(crate) unreachable: BTreeSet<IpAddr>,
    pub(crate) failed: Vec<(PeerId, Notification)>,
    pub(crate) ends: Vec<(PeerId, Family)>,
    pub(crate) fib_batches: usize,
    pub(crate) path_limits: Vec<(PeerId, Prefix)>,
    pub(crate) memory_limits: Vec<(PeerId, usize)>,
}

pub(crate) fn address(peer: PeerId) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xC000_0200 + 10 + peer.0)
}

/// The next hop of a peer's routes, by family.
pub(crate) fn next_hop_of(prefix: &Prefix, peer: u32) -> IpAddr {
    match prefix.family() {
        Family::Ipv4 => IpAddr::V4(address(PeerId(peer))),
        Family::Ipv6 => format!("2001:db8:ffff::{peer}").parse().unwrap(),
    }
}

pub(crate) fn asn_of(peer: PeerId, kind: PeerKind) -> Asn {
    if kind == PeerKind::External {
        Asn(65000 + peer.0)
    } else {
        OUR_AS
    }
}

pub(crate) fn routing(peer: PeerId, kind: PeerKind) -> PeerRouting {
    PeerRouting::new(format!("peer-{}", peer.0), kind, OUR_AS, asn_of(peer, kind))
}

pub(crate) fn facts(peer: PeerId, kind: PeerKind) -> SessionFacts {
    let open = |asn, id| Open {
        asn,
        hold_time: HoldTime::DEFAULT,
        router_id: RouterId::new(id).unwrap(),
        capabilities: Vec::new(),
    };
    let negotiated = Negotiated {
        local: open(OUR_AS, 0x0A00_0001),
        remote: open(asn_of(peer, kind), 0x0A00_0100 + peer.0),
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
    };
    SessionFacts {
        negotiated: Arc::new(negotiated),
        remote_addr: address(peer).into(),
        local_v4: Some([192, 0, 2, 1].into()),
        local_v6: Some("2001:db8::1".parse().unwrap()),
        link_local: None,
        shared_subnets: Vec::new(),
    }
}

/// As above, for a peer that restarted gracefully (RFC 4724 §3) and retained its forwarding state for these
/// families.
pub(crate) fn graceful(peer: PeerId, kind: PeerKind, kept: FamilySet) -> SessionFacts {
    let mut facts = facts(peer, kind);
    let negotiated = Arc::make_mut(&mut facts.negotiated);
    let restart = |families: Vec<(Family, bool)>| {
        Capability::GracefulRestart(GracefulRestart {
            restarting: families.iter().any(|(_, kept)| *kept),
            notification: false,
            restart_time: 120,
            families,
        })
    };
    let families = Family::ALL.map(|family| (family, kept.contains(family)));
    negotiated.remote.capabilities.push(restart(families.into()));
    facts
}

/// As above, for a peer that retains our routes while we restart, and did not restart itself.
pub(crate) fn helping(peer: PeerId, kind: PeerKind) -> SessionFacts {
    let mut facts = graceful(peer, kind, FamilySet::EMPTY);
    let negotiated = Arc::make_mut(&mut facts.negotiated);
    negotiated.local.capabilities = negotiated.remote.capabilities.clone();
    facts
}

/// All routes that match a filter, by prefix.
pub(crate) fn routes_matching(engine: &Engine, filter: &RouteFilter) -> Vec<RouteView> {
    let (mut all, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let (page, next) = engine.routes(filter, from, 100);
        assert!(page.len() <= 100);
        all.extend(page);
        cursor = next;
    }
    all.sort_by_key(|route| route.prefix);
    all
}

/// End-of-RIB.
pub(crate) fn end_of_rib(family: Family) -> RouteBatch {
    RouteBatch {
        ops: vec![RouteOp::EndOfRib(family)],
        ..RouteBatch::default()
    }
}

pub(crate) fn attrs_from(peer: PeerId, kind: PeerKind) -> PathAttrs {
    let mut attrs = PathAttrs::originated(NextHop::V4(address(peer)));
    if kind == PeerKind::External {
        attrs.as_path = AsPath::sequence(&[asn_of(peer, kind)]);
    } else {
        attrs.local_pref = Some(100);
    }
    attrs
}

pub(crate) fn announce(attrs: PathAttrs, prefixes: &[Prefix]) -> RouteBatch {
    let nlri: Vec<Nlri> = prefixes
        .iter()
        .map(|prefix| Nlri {
            path_id: PathId(0),
            prefix: *prefix,
        })
        .collect();
    RouteBatch {
        ops: vec![RouteOp::Announce {
            attrs,
            nlri: 0..nlri.len(),
        }],
        nlri,
        ..RouteBatch::default()
    }
}

pub(crate) fn withdraw(prefixes: &[Prefix]) -> RouteBatch {
    let nlri: Vec<Nlri> = prefixes
        .iter()
        .map(|prefix| Nlri {
            path_id: PathId(0),
            prefix: *prefix,
        })
        .collect();
    RouteBatch {
        ops: vec![RouteOp::Withdraw { nlri: 0..nlri.len() }],
        nlri,
        ..RouteBatch::default()
    }
}

impl World {
    pub(crate) fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config),
            now: Instant::now(),
            kinds: BTreeMap::new(),
            up: BTreeSet::new(),
            epochs: BTreeMap::new(),
            received: BTreeMap::new(),
            fib: BTreeMap::new(),
            blackholes: BTreeSet::new(),
            watched: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            failed: Vec::new(),
            ends: Vec::new(),
            fib_batches: 0,
            path_limits: Vec::new(),
            memory_limits: Vec::new(),
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
        self.engine.handle(self.now, input);
    }

    pub(crate) fn add(&mut self, peer: PeerId, kind: PeerKind) {
        self.add_with(peer, routing(peer, kind), facts(peer, kind));
    }

    pub(crate) fn add_with(&mut self, peer: PeerId, routing: PeerRouting, facts: SessionFacts) {
        self.kinds.insert(peer, routing.kind);
        self.handle(Input::Configure(peer, Arc::new(routing)));
        let received = ReceivedRoutes {
            add_path: facts.negotiated.add_path_send,
            extended_next_hop: facts.negotiated.extended_next_hop,
            ..ReceivedRoutes::default()
        };
        self.received.insert(peer, received);
        self.up.insert(peer);
        *self.epochs.entry(peer).or_default() += 1;
        self.handle(Input::Up(self.session(peer), Box::new(facts)));
    }

    /// The peer's latest session.
    pub(crate) fn session(&self, peer: PeerId) -> SessionId {
        let epoch = self.epochs.get(&peer).copied().unwrap_or(0);
        SessionId { peer, epoch }
    }

    pub(crate) fn down(&mut self, peer: PeerId) {
        self.up.remove(&peer);
        self.received.insert(peer, ReceivedRoutes::default());
        self.handle(Input::Down(self.session(peer)));
    }

    pub(crate) fn restarting(&mut self, peer: PeerId) {
        self.restarting_in(peer, FamilySet::ALL);
    }

    pub(crate) fn restarting_in(&mut self, peer: PeerId, families: FamilySet) {
        self.up.remove(&peer);
        self.received.insert(peer, ReceivedRoutes::default());
        self.handle(Input::Restarting(self.session(peer), families));
    }

    pub(crate) fn end_of_rib(&mut self, peer: PeerId, family: Family) {
        self.handle(Input::Routes(self.session(peer), end_of_rib(family)));
    }

    pub(crate) fn refresh(&mut self, peer: PeerId, family: Family, kind: RefreshKind) {
        self.handle(Input::Refresh(self.session(peer), Refresh { family, kind }));
    }

    /// The session before the current one if the peer is up, otherwise its last one.
    pub(crate) fn ended(&self, peer: PeerId) -> SessionId {
        let mut session = self.session(peer);
        session.epoch -= u32::from(self.up.contains(&peer));
        session
    }

    pub(crate) fn announce(&mut self, peer: PeerId, texts: &[&str]) {
        let prefixes: Vec<Prefix> = texts.iter().map(|text| prefix(text)).collect();
        let attrs = attrs_from(peer, self.kinds[&peer]);
        self.handle(Input::Routes(self.session(peer), announce(attrs, &prefixes)));
    }

    pub(crate) fn withdraw(&mut self, peer: PeerId, texts: &[&str]) {
        let prefixes: Vec<Prefix> = texts.iter().map(|text| prefix(text)).collect();
        self.handle(Input::Routes(self.session(peer), withdraw(&prefixes)));
    }

    /// Processes the engine's outputs until there are none.
    pub(crate) fn pump(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.run_output(output);
        }
    }

    pub(crate) fn run_output(&mut self, output: Output) {
        match output {
            Output::Advertise(session, chunk) => {
                let peer = session.peer;
                if session != self.session(peer) || !self.up.contains(&peer) {
                    return; // of an ended session
                }
                let received = self.received.get_mut(&peer).unwrap();
                received.queued_bytes += chunk.len_for(peer);
                received.queue.push_back(chunk);
                if !received.slow {
                    self.drain(peer);
                }
            }
            Output::Fib { changes, .. } => {
                self.fib_batches += 1;
                for change in changes {
                    if change.route.blackhole {
                        assert!(change.next_hops.is_empty() && change.route.is_wanted());
                        self.blackholes.insert(change.prefix);
                    } else if self.blackholes.remove(&change.prefix) && change.next_hops.is_empty() {
                        continue;
                    } else if change.next_hops.is_empty() {
                        assert!(
                            self.fib.remove(&change.prefix).is_some(),
                            "{} was not there",
                            change.prefix
                        );
                    } else {
                        let hops = change.next_hops.iter().map(|hop| hop.addr);
                        self.fib.insert(change.prefix, hops.collect());
                    }
                }
            }
            Output::Watch(list) => {
                let reachability = list.iter().map(|addr| (*addr, self.reach(*addr))).collect();
                for addr in list {
                    assert!(self.watched.insert(addr), "{addr} watched twice");
                }
                self.handle(Input::NextHops(reachability));
            }
            Output::Unwatch(list) => {
                for addr in list {
                    assert!(self.watched.remove(&addr), "{addr} was not watched");
                }
            }
            Output::Fail(session, notification, _) => self.failed.push((session.peer, notification)),
            Output::PrefixLimitWarning(..) => {}
            Output::MemoryLimitWarning(session, octets) => self.memory_limits.push((session.peer, octets)),
            Output::PathLimitWarning(session, prefix) => self.path_limits.push((session.peer, prefix)),
            Output::EndOfRib(session, family) => self.ends.push((session.peer, family)),
        }
    }

    fn reach(&self, addr: IpAddr) -> Reach {
        if self.unreachable.contains(&addr) {
            Reach::Unreachable
        } else {
            Reach::Reachable { metric: 0 }
        }
    }

    pub(crate) fn set_reach(&mut self, addr: IpAddr, reachable: bool) {
        if reachable {
            self.unreachable.remove(&addr);
        } else {
            self.unreachable.insert(addr);
        }
        let reach = self.reach(addr);
        self.handle(Input::NextHops(vec![(addr, reach)]));
    }

    /// The peer reads all that is queued for it.
    pub(crate) fn drain(&mut self, peer: PeerId) {
        let received = self.received.get_mut(&peer).unwrap();
        let mut written = 0;
        while let Some(chunk) = received.queue.pop_front() {
            written += chunk.cost_for(peer);
            for data in chunk.data_for(peer) {
                read(received, BytesMut::from(&data[..]));
            }
        }
        received.queued_bytes = 0;
        self.handle(Input::Written(self.session(peer), written));
    }
}

fn read(received: &mut ReceivedRoutes, mut buf: BytesMut) {
    let context = DecodeContext {
        four_octet_as: true,
        add_path: received.add_path,
        families: FamilySet::ALL,
        extended_next_hop: received.extended_next_hop,
        external: false,
    };
    while let Some(frame) = cut_frame(&mut buf, false).expect("a well-formed frame") {
        if frame.kind != MessageKind::Update {
            assert_eq!(frame.kind, MessageKind::Refresh);
            let refresh = Refresh::decode(&frame.body).expect("a well-formed ROUTE-REFRESH");
            if let Some(refresh) = refresh.filter(|refresh| refresh.kind == RefreshKind::End) {
                received.ends_of_refresh.push(refresh.family);
            }
            continue;
        }
        received.messages += 1;
        let mut batch = RouteBatch::default();
        decode_update(&frame.body, &context, &mut batch).expect("a well-formed UPDATE");
        assert!(batch.issues.is_empty(), "{:?}", batch.issues);
        for op in std::mem::take(&mut batch.ops) {
            match op {
                RouteOp::Announce { attrs, nlri } => {
                    for nlri in batch.slice(&nlri) {
                        received.routes.insert(nlri.prefix, attrs.clone());
                        received.paths.insert((nlri.prefix, nlri.path_id), attrs.clone());
                    }
                }
                RouteOp::Withdraw { nlri } => {
                    for nlri in batch.slice(&nlri) {
                        received.routes.remove(&nlri.prefix);
                        received.paths.remove(&(nlri.prefix, nlri.path_id));
                    }
                }
                RouteOp::EndOfRib(family) => received.end_of_rib.push(family),
            }
        }
    }
    assert!(buf.is_empty(), "a chunk ends with a whole message");
}
