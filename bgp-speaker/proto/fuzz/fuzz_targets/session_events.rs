//! A session with any sequence of events: operator, timers, both connections, valid and invalid messages; its
//! outputs go to an engine. It never panics, time always advances, and every output is legal.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::engine::{Engine, EngineConfig, Input as ToEngine, PeerKind, PeerRouting, SessionFacts, SessionId};
use bgp_proto::session::{ConnId, Input, Output, Session, SessionConfig};
use bgp_proto::types::{Asn, Family, HoldTime, PeerId, RouterId};
use bgp_proto::wire::{
    AddPathDirection, Capability, GracefulRestart, LongLivedFamily, Notification, Open, Refresh, RefreshKind, cease,
    keepalive,
};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const INCOMING: u64 = 1 << 32;
const PEER: PeerId = PeerId(1);

fn id(value: u32) -> RouterId {
    RouterId::new(value).expect("not zero")
}

fn capabilities() -> Vec<Capability> {
    let families = [Family::Ipv4, Family::Ipv6];
    let both = AddPathDirection {
        receive: true,
        send: true,
    };
    let long = |family| LongLivedFamily {
        family,
        forwarding: true,
        stale_time: 60,
    };
    vec![
        Capability::ExtendedNextHop(vec![Family::Ipv4]),
        Capability::AddPath(families.map(|family| (family, both)).to_vec()),
        Capability::LongLivedGracefulRestart(families.map(long).to_vec()),
    ]
}

fn config(choice: u8) -> SessionConfig {
    let remote_asn = if choice & 1 == 0 { Asn(65001) } else { Asn(64512) };
    SessionConfig {
        hold_time: HoldTime::new(if choice & 2 == 0 { 9 } else { 0 }).expect("allowed"),
        connect_retry: Duration::from_secs(1),
        passive: choice & 4 != 0,
        graceful_restart: (choice & 8 != 0).then_some(30),
        restart_on_notification: choice & 16 != 0,
        extra_capabilities: if choice & 32 != 0 { capabilities() } else { Vec::new() },
        ..SessionConfig::new(Asn(64512), remote_asn, id(0x0A00_0002))
    }
}

/// The AS number of the peer.
fn asn_of(config: &SessionConfig) -> Asn {
    config.remote_asn.only().expect("one number")
}

/// The peer's OPEN; `choice` modifies it.
fn open(ours: &SessionConfig, choice: u8) -> Open {
    let mut list = vec![
        Capability::Multiprotocol(Family::Ipv4),
        Capability::Multiprotocol(Family::Ipv6),
        Capability::RouteRefresh,
        Capability::EnhancedRefresh,
        Capability::FourOctetAs(asn_of(ours)),
    ];
    list.push(Capability::GracefulRestart(GracefulRestart {
        restarting: choice & 1 != 0,
        notification: choice & 2 != 0,
        restart_time: u16::from(choice),
        families: vec![(Family::Ipv4, choice & 4 != 0)],
    }));
    if choice & 8 != 0 {
        list.extend(capabilities());
    }
    Open {
        asn: if choice & 0x70 == 0x70 { Asn(1) } else { asn_of(ours) },
        hold_time: HoldTime::new(9).expect("allowed"),
        router_id: id(if choice & 0x80 == 0 { 0x0A00_0001 } else { 0x0A00_0003 }),
        capabilities: list,
    }
}

struct Shell {
    config: SessionConfig,
    session: Session,
    engine: Engine,
    /// The latest session of the engine.
    latest: SessionId,
    now: Instant,
    /// Requested and not yet answered.
    dialing: BTreeSet<ConnId>,
    open: BTreeSet<ConnId>,
    next_incoming: u64,
}

impl Shell {
    fn new(choice: u8) -> Self {
        let config = config(choice);
        let mut engine = Engine::new(EngineConfig {
            asn: config.local_asn,
            router_id: config.router_id,
            cluster_id: None,
            max_paths: 8,
            multipath_relax: true,
            link_bandwidth: true,
            assume_reachable: choice & 64 != 0,
        });
        let internal = config.is_internal();
        let kind = if internal { PeerKind::Client } else { PeerKind::External };
        let routing = PeerRouting::new("peer".to_owned(), kind, config.local_asn, asn_of(&config));
        let now = Instant::now();
        engine.handle(now, ToEngine::Configure(PEER, Arc::new(routing)));
        Self {
            session: Session::new(config.clone(), 7),
            config,
            engine,
            latest: SessionId { peer: PEER, epoch: 0 },
            now,
            dialing: BTreeSet::new(),
            open: BTreeSet::new(),
            next_incoming: INCOMING,
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll_output() {
            self.run_output(output);
        }
        if let Some(at) = self.session.poll_timeout() {
            assert!(at > self.now, "a timer that is due was not fired");
        }
    }

    fn run_output(&mut self, output: Output) {
        let (engine, latest, now) = (&mut self.engine, &mut self.latest, self.now);
        match output {
            Output::Connect(conn) => assert!(self.dialing.insert(conn), "connected twice"),
            Output::Send { conn, bytes } => {
                assert!(self.open.contains(&conn), "sent on a connection that does not exist");
                assert!(bytes.len() >= 19);
            }
            Output::Close(conn) => {
                assert!(self.dialing.remove(&conn) | self.open.remove(&conn), "closed twice");
            }
            Output::State(_) => {}
            Output::Up { conn, negotiated } => {
                assert!(self.open.contains(&conn));
                latest.epoch += 1;
                let facts = SessionFacts {
                    negotiated: Arc::new(*negotiated),
                    remote_addr: [192, 0, 2, 1].into(),
                    local_v4: Some([192, 0, 2, 2].into()),
                    local_v6: None,
                    link_local: None,
                    shared_subnets: Vec::new(),
                };
                engine.handle(now, ToEngine::Up(*latest, Box::new(facts)));
            }
            Output::Down { was_up, retain, .. } => {
                if was_up && !retain.is_empty() {
                    engine.handle(now, ToEngine::Restarting(*latest, retain));
                    engine.handle(now, ToEngine::LongLived(*latest, retain));
                } else if was_up {
                    engine.handle(now, ToEngine::Down(*latest));
                }
            }
            Output::Routes(batch) => engine.handle(now, ToEngine::Routes(*latest, batch)),
            Output::Refresh(refresh) => engine.handle(now, ToEngine::Refresh(*latest, refresh)),
        }
        loop {
            while self.engine.poll_output().is_some() {}
            if !self.engine.work() {
                break;
            }
        }
    }

    fn any(&self, choice: u8) -> Option<ConnId> {
        let count = self.open.len();
        self.open.iter().nth(usize::from(choice) % count.max(1)).copied()
    }

    fn bytes(&mut self, choice: u8, bytes: &[u8]) {
        let Some(conn) = self.any(choice) else { return };
        let mut buf = BytesMut::from(bytes);
        self.input(Input::Received { conn, buf: &mut buf });
    }

    /// Decodes one event from the input and removes its octets.
    fn event<'a>(&mut self, kind: u8, choice: u8, rest: &'a [u8]) -> &'a [u8] {
        match kind % 16 {
            0 => self.input(Input::Start),
            1 => self.input(Input::Stop {
                subcode: cease::ADMIN_SHUTDOWN,
                message: "why".to_owned(),
            }),
            2 => self.input(Input::Abandon),
            3 => {
                if let Some(conn) = self.dialing.pop_first() {
                    self.open.insert(conn);
                    self.input(Input::Connected { conn, incoming: false });
                }
            }
            4 => {
                let conn = ConnId(self.next_incoming);
                self.next_incoming += 1;
                self.open.insert(conn);
                self.input(Input::Connected { conn, incoming: true });
            }
            5 => {
                let conn = self.dialing.pop_first().or(self.any(choice));
                if let Some(conn) = conn {
                    self.open.remove(&conn);
                    self.input(Input::Closed { conn, error: None });
                }
            }
            6 | 7 => {
                let open = open(&self.config, choice).encode();
                self.bytes(choice, &open);
            }
            8 | 9 => self.bytes(choice, &keepalive()),
            10 => {
                self.now += Duration::from_millis(u64::from(choice) * 64);
                self.input(Input::Tick);
            }
            11 => self.input(Input::Wrote),
            12 => self.input(Input::Unread),
            13 => self.input(Input::SendRefresh(Refresh {
                family: Family::Ipv4,
                kind: RefreshKind::Request,
            })),
            14 => self.input(Input::Fail {
                notification: Notification::cease(cease::MAX_PREFIXES),
                idle_for: Duration::from_secs(u64::from(choice)),
            }),
            _ => {
                let (body, rest) = rest.split_at(usize::from(choice).min(rest.len()));
                let mut message = vec![0xFF; 16];
                message.extend(((20 + body.len().saturating_sub(1)) as u16 - u16::from(body.is_empty())).to_be_bytes());
                message.push(body.first().map_or(4, |kind| 1 + kind % 6));
                message.extend(body.iter().skip(1));
                let length = (message.len() as u16).to_be_bytes();
                message[16..18].copy_from_slice(&length);
                self.bytes(choice, &message);
                return rest;
            }
        }
        rest
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let mut shell = Shell::new(choice);
    shell.input(Input::Start);
    while let [kind, choice, tail @ ..] = rest {
        rest = shell.event(*kind, *choice, tail);
    }
});
