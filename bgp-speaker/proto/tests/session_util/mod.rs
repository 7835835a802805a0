//! A session under test: virtual time, a shell that checks that every output is legal, and builders for
//! messages.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ::bytes::{Bytes, BytesMut};
use bgp_proto::session::{ConnId, DownReason, Input, Negotiated, Output, Session, SessionConfig, State};
use bgp_proto::types::{Asn, FamilySet, HoldTime, RouterId};
use bgp_proto::wire::{
    Capability, MessageKind, Notification, Open, Refresh, RouteBatch, cut_frame, keepalive,
};

/// First id of incoming connections in the shell.
pub(crate) const INCOMING: u64 = 1 << 32;

pub(crate) fn id(value: u32) -> RouterId {
    RouterId::new(value).unwrap()
}

/// AS 64512, identifier 10.0.0.2, peer AS 65001.
pub(crate) fn config() -> SessionConfig {
    SessionConfig::new(Asn(64512), Asn(65001), id(0x0A00_0002))
}

/// The OPEN of the peer that [`config`] expects, with this identifier.
pub(crate) fn peer_open(router_id: u32) -> Open {
    Open {
        asn: Asn(65001),
        hold_time: HoldTime::new(90).unwrap(),
        router_id: id(router_id),
        capabilities: vec![
            Capability::Multiprotocol(bgp_proto::types::Family::Ipv4),
            Capability::Multiprotocol(bgp_proto::types::Family::Ipv6),
            Capability::RouteRefresh,
            Capability::FourOctetAs(Asn(65001)),
        ],
    }
}

/// A lower identifier than ours, and a higher one.
pub(crate) const LOW: u32 = 0x0A00_0001;
pub(crate) const HIGH: u32 = 0x0A00_0003;

/// A message of any type.
pub(crate) fn raw(kind: u8, body: &[u8]) -> Bytes {
    let mut message = vec![0xFF; 16];
    message.extend_from_slice(&u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend_from_slice(body);
    message.into()
}

/// An End-of-RIB of IPv4: the smallest UPDATE.
pub(crate) fn end_of_rib() -> Bytes {
    raw(2, &[0, 0, 0, 0])
}

/// An UPDATE that withdraws this many /24 prefixes.
pub(crate) fn withdrawals(count: u16) -> Bytes {
    let mut body = (count * 4).to_be_bytes().to_vec();
    for n in 0..count {
        body.push(24);
        body.push(10);
        body.extend_from_slice(&n.to_be_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    raw(2, &body)
}

/// The session's outputs, decoded.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Effect {
    Connect(u64),
    Open(u64, Open),
    Keepalive(u64),
    Notification(u64, Notification),
    Refresh(u64, Refresh),
    Close(u64),
    State(State),
    Up(u64, Box<Negotiated>),
    Down(bool, DownReason),
    Routes(RouteBatch),
    RefreshReceived(Refresh),
}

/// Checks that each output is legal.
#[derive(Default, Debug)]
pub(crate) struct Checker {
    /// Connections, and whether they are established or only requested.
    pub(crate) open: BTreeMap<ConnId, bool>,
    used: BTreeSet<ConnId>,
    pub(crate) up: Option<ConnId>,
    pub(crate) state: State,
    pub(crate) retained: Option<(FamilySet, Duration)>,
}

impl Checker {
    /// What the shell knows before the session processes it.
    pub(crate) fn input(&mut self, input: &Input<'_>) {
        match input {
            Input::Connected { conn, .. } => {
                self.open.insert(*conn, true);
            }
            Input::Closed { conn, .. } => {
                self.open.remove(conn);
            }
            _ => {}
        }
    }

    pub(crate) fn output(&mut self, output: &Output) {
        match output {
            Output::Connect(conn) => {
                assert!(self.used.insert(*conn), "{conn:?} twice");
                self.open.insert(*conn, false);
            }
            Output::Send { conn, bytes } => {
                assert_eq!(self.open.get(conn), Some(&true), "sent on {conn:?}");
                assert!(!bytes.is_empty());
            }
            Output::Close(conn) => {
                assert!(self.open.remove(conn).is_some(), "closed {conn:?} twice");
            }
            Output::State(state) => {
                assert_ne!(self.state, *state, "no change");
                self.state = *state;
            }
            Output::Up { conn, .. } => {
                assert_eq!(self.up, None, "up twice");
                assert_eq!(self.state, State::Established, "up, but not established");
                assert_eq!(self.open.get(conn), Some(&true));
                self.up = Some(*conn);
            }
            Output::Down {
                was_up,
                retain,
                retain_for,
                ..
            } => {
                assert_eq!(*was_up, self.up.is_some(), "down");
                self.up = self.up.filter(|_| !*was_up);
                self.retained = Some((*retain, *retain_for));
            }
            Output::Routes(batch) => {
                assert!(self.up.is_some() && !batch.is_empty());
                assert!(
                    batch.nlri.len() <= 4096 + 65535,
                    "a batch is bounded by 4096 and one message"
                );
            }
            Output::Refresh(_) => assert!(self.up.is_some()),
        }
    }

    /// After all outputs of a call.
    pub(crate) fn check_settled(&self, session: &Session) {
        assert_eq!(session.state(), self.state);
        assert_eq!(self.state == State::Established, self.up.is_some());
        let ours = self.open.keys().filter(|conn| conn.0 < INCOMING).count();
        // Beside the established connection there is at most one, opened by the peer.
        let beside = self.open.keys().filter(|conn| Some(**conn) != self.up);
        let (ours_beside, theirs_beside) = (
            beside.clone().filter(|conn| conn.0 < INCOMING).count(),
            beside.filter(|conn| conn.0 >= INCOMING).count(),
        );
        assert!(ours <= 1 && theirs_beside <= 1, "{:?}", self.open);
        match self.state {
            State::Established => assert_eq!(ours_beside, 0, "{:?}", self.open),
            State::Idle | State::Active => assert!(self.open.is_empty()),
            State::Connect | State::OpenSent | State::OpenConfirm => assert!(!self.open.is_empty()),
        }
        assert_eq!(session.negotiated().is_some(), self.up.is_some());
    }
}

/// A session and its shell.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) session: Session,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) checker: Checker,
    next_incoming: u64,
}

impl Lab {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self::seeded(config, 1)
    }

    pub(crate) fn seeded(config: SessionConfig, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            session: Session::new(config, seed),
            start: now,
            now,
            checker: Checker::default(),
            next_incoming: INCOMING,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.session.state()
    }

    pub(crate) fn input(&mut self, input: Input<'_>) -> Vec<Effect> {
        self.checker.input(&input);
        self.session.handle(self.now, input);
        let mut done = Vec::new();
        while let Some(output) = self.session.poll_output() {
            self.checker.output(&output);
            done.push(decode(output));
        }
        self.checker.check_settled(&self.session);
        if let Some(at) = self.session.poll_timeout() {
            assert!(at > self.now, "a timer is due that was just handled");
        }
        done
    }

    pub(crate) fn begin(&mut self) -> Vec<Effect> {
        self.input(Input::Start)
    }

    pub(crate) fn stop(&mut self, subcode: u8, message: &str) -> Vec<Effect> {
        let message = message.to_owned();
        self.input(Input::Stop { subcode, message })
    }

    pub(crate) fn connected(&mut self, conn: u64) -> Vec<Effect> {
        self.input(Input::Connected {
            conn: ConnId(conn),
            incoming: conn >= INCOMING,
        })
    }

    /// A new connection from the peer.
    pub(crate) fn incoming(&mut self) -> (u64, Vec<Effect>) {
        let conn = self.next_incoming;
        self.next_incoming += 1;
        (conn, self.connected(conn))
    }

    pub(crate) fn closed(&mut self, conn: u64, error: Option<&str>) -> Vec<Effect> {
        self.input(Input::Closed {
            conn: ConnId(conn),
            error: error.map(str::to_owned),
        })
    }

    pub(crate) fn bytes(&mut self, conn: u64, bytes: &[u8]) -> Vec<Effect> {
        let mut buf = BytesMut::from(bytes);
        self.input(Input::Received {
            conn: ConnId(conn),
            buf: &mut buf,
        })
    }

    pub(crate) fn open(&mut self, conn: u64, open: &Open) -> Vec<Effect> {
        self.bytes(conn, &open.encode())
    }

    pub(crate) fn keepalive(&mut self, conn: u64) -> Vec<Effect> {
        self.bytes(conn, &keepalive())
    }

    pub(crate) fn tick(&mut self) -> Vec<Effect> {
        self.input(Input::Tick)
    }

    /// Runs until the next timer.
    pub(crate) fn timeout(&self) -> Duration {
        self.session.poll_timeout().expect("a timer runs") - self.now
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// Advances time and runs every timer at its instant; returns the outputs with their times.
    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<(Duration, Effect)> {
        let (begin, end) = (self.now, self.now + duration);
        let mut all = Vec::new();
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            all.extend(self.tick().into_iter().map(|did| (at - begin, did)));
        }
        self.now = end;
        all
    }

    /// Started and connected by us; the OPEN is sent.
    pub(crate) fn open_sent(config: SessionConfig) -> Self {
        let mut lab = Self::new(config);
        lab.begin();
        lab.connected(0);
        assert_eq!(lab.state(), State::OpenSent);
        lab
    }

    pub(crate) fn open_confirm(config: SessionConfig) -> Self {
        let mut lab = Self::open_sent(config);
        lab.open(0, &peer_open(LOW));
        assert_eq!(lab.state(), State::OpenConfirm);
        lab
    }

    pub(crate) fn established(config: SessionConfig) -> Self {
        let mut lab = Self::open_confirm(config);
        lab.keepalive(0);
        assert_eq!(lab.state(), State::Established);
        lab
    }
}

fn decode(output: Output) -> Effect {
    match output {
        Output::Connect(conn) => Effect::Connect(conn.0),
        Output::Send { conn, bytes } => message(conn.0, &bytes),
        Output::Close(conn) => Effect::Close(conn.0),
        Output::State(state) => Effect::State(state),
        Output::Up { conn, negotiated } => Effect::Up(conn.0, negotiated),
        Output::Down { was_up, reason, .. } => Effect::Down(was_up, reason),
        Output::Routes(batch) => Effect::Routes(batch),
        Output::Refresh(refresh) => Effect::RefreshReceived(refresh),
    }
}

fn message(conn: u64, bytes: &[u8]) -> Effect {
    let mut buf = BytesMut::from(bytes);
    let frame = cut_frame(&mut buf, true).unwrap().expect("a whole message");
    assert!(buf.is_empty(), "one message at a time");
    match frame.kind {
        MessageKind::Open => Effect::Open(conn, Open::decode(&frame.body).unwrap()),
        MessageKind::Keepalive => Effect::Keepalive(conn),
        MessageKind::Notification => Effect::Notification(conn, Notification::decode(&frame.body).unwrap()),
        MessageKind::Refresh => Effect::Refresh(conn, Refresh::decode(&frame.body).unwrap().unwrap()),
        MessageKind::Update => panic!("a session sends no UPDATE"),
    }
}

/// NOTIFICATIONs as (connection, code, subcode, data).
pub(crate) fn notifications(done: &[Effect]) -> Vec<(u64, u8, u8, Vec<u8>)> {
    let each = done.iter().filter_map(|did| match did {
        Effect::Notification(conn, sent) => Some((*conn, sent.code, sent.subcode, sent.data.to_vec())),
        _ => None,
    });
    each.collect()
}

/// The single NOTIFICATION, after which the connection is closed.
#[track_caller]
pub(crate) fn refusal(done: &[Effect]) -> (u8, u8, Vec<u8>) {
    let all = notifications(done);
    let [(conn, code, subcode, data)] = all.as_slice() else {
        panic!("one NOTIFICATION expected: {done:#?}");
    };
    let sent = done
        .iter()
        .position(|did| matches!(did, Effect::Notification(..)));
    let closed = done.iter().position(|did| *did == Effect::Close(*conn));
    assert_eq!(closed, sent.map(|at| at + 1), "sent, then closed: {done:#?}");
    (*code, *subcode, data.clone())
}

/// The connections that were opened.
pub(crate) fn connects(done: &[(Duration, Effect)]) -> Vec<(Duration, u64)> {
    let each = done.iter().filter_map(|(at, did)| match did {
        Effect::Connect(conn) => Some((*at, *conn)),
        _ => None,
    });
    each.collect()
}

/// Whether the session left Established.
pub(crate) fn is_down(done: &[Effect]) -> bool {
    done.iter().any(|did| matches!(did, Effect::Down(true, _)))
}

/// Whether the session reached Established.
pub(crate) fn is_up(done: &[Effect]) -> bool {
    done.iter().any(|did| matches!(did, Effect::Up(..)))
}
