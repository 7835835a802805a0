//! Two sessions on a simulated network with delays, cuts, packet loss, restarts and garbage, in virtual time.
//!
//! Checked: when the disturbances end, both are established on the same connection if both are enabled; a
//! session ends if nothing is received for the hold time; every output is legal; time always advances.
#![cfg(test)]

mod session_util;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ::bytes::{Bytes, BytesMut};
use bgp_proto::session::{ConnId, Input, Output, Session, SessionConfig, State};
use bgp_proto::types::{Asn, Family, HoldTime};
use bgp_proto::wire::{Notification, Refresh, RefreshKind, cease};
use proptest::prelude::*;
use session_util::{Checker, INCOMING, config, end_of_rib, id};

#[derive(Clone, Debug)]
enum Item {
    /// The connection is established, at the opener or at the other side.
    There,
    Refused,
    Bytes(Bytes),
    /// Closed or reset by the other side.
    End,
}

/// A TCP connection.
#[derive(Debug)]
struct Tcp {
    opener: usize,
    /// Its id at each side, while that side has it.
    ids: [Option<ConnId>; 2],
    /// Nothing is delivered any more, without an error.
    black: bool,
    /// Time of the last arrival in each direction: order is preserved.
    last: [Instant; 2],
    unread: [BytesMut; 2],
}

struct Side {
    config: SessionConfig,
    session: Session,
    checker: Checker,
    enabled: bool,
    next_incoming: u64,
    last_received: Instant,
    ups: u32,
    up_since: Option<Instant>,
}

struct World {
    now: Instant,
    random: u64,
    /// Range of the one-way delay in microseconds.
    delay: (u64, u64),
    /// Connection attempts are lost.
    deaf: [bool; 2],
    /// Until then everything is delayed and new connections are lost.
    parted: Instant,
    sides: [Side; 2],
    tcp: Vec<Tcp>,
    arrivals: BTreeMap<(Instant, u64), (usize, usize, Item)>,
    sequence: u64,
    steps: u64,
}

impl World {
    fn new(configs: [SessionConfig; 2], seed: u64, delay: (u64, u64)) -> Self {
        let now = Instant::now();
        let mut index = 0;
        let sides = configs.map(|config| {
            index += 1;
            Side {
                session: Session::new(config.clone(), seed ^ index),
                config,
                checker: Checker::default(),
                enabled: false,
                next_incoming: INCOMING,
                last_received: now,
                ups: 0,
                up_since: None,
            }
        });
        Self {
            now,
            random: seed,
            delay,
            deaf: [false; 2],
            parted: now,
            sides,
            tcp: Vec::new(),
            arrivals: BTreeMap::new(),
            sequence: 0,
            steps: 0,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn post(&mut self, tcp: usize, to: usize, item: Item) {
        let spread = self.delay.1 - self.delay.0 + 1;
        let delay = Duration::from_micros(self.delay.0 + self.random(spread));
        let at = (self.now.max(self.parted) + delay).max(self.tcp[tcp].last[to]);
        self.tcp[tcp].last[to] = at;
        self.sequence += 1;
        self.arrivals.insert((at, self.sequence), (tcp, to, item));
    }

    fn start(&mut self, side: usize) {
        self.sides[side].enabled = true;
        self.input(side, Input::Start);
    }

    fn stop(&mut self, side: usize) {
        self.sides[side].enabled = false;
        let message = "stop".to_owned();
        self.input(
            side,
            Input::Stop {
                subcode: cease::ADMIN_SHUTDOWN,
                message,
            },
        );
    }

    fn input(&mut self, side: usize, input: Input<'_>) {
        let at = &mut self.sides[side];
        at.checker.input(&input);
        at.session.handle(self.now, input);
        let mut wrote = false;
        while let Some(output) = self.sides[side].session.poll_output() {
            self.sides[side].checker.output(&output);
            wrote |= self.run_output(side, output);
        }
        let at = &self.sides[side];
        at.checker.check_settled(&at.session);
        let timeout = at.session.poll_timeout();
        assert!(timeout.is_none_or(|timeout| timeout > self.now), "no busy loop");
        if wrote {
            self.input(side, Input::Wrote);
        }
    }

    /// Returns whether something was written on the established connection.
    fn run_output(&mut self, side: usize, output: Output) -> bool {
        match output {
            Output::Connect(conn) => self.connect(side, conn),
            Output::Send { conn, bytes } => {
                let Some(tcp) = self.find(side, conn) else {
                    return false;
                };
                self.post(tcp, 1 - side, Item::Bytes(bytes));
                return !self.tcp[tcp].black && self.sides[side].checker.up == Some(conn);
            }
            Output::Close(conn) => {
                if let Some(tcp) = self.find(side, conn) {
                    self.tcp[tcp].ids[side] = None;
                    self.post(tcp, 1 - side, Item::End);
                }
            }
            Output::Up { conn, .. } => {
                let now = self.now;
                let at = &mut self.sides[side];
                (at.ups, at.up_since, at.last_received) = (at.ups + 1, Some(now), now);
                if let Some(tcp) = self.find(side, conn) {
                    self.post(tcp, 1 - side, Item::Bytes(end_of_rib())); // as an engine would
                }
                return true;
            }
            _ => {}
        }
        false
    }

    fn find(&self, side: usize, conn: ConnId) -> Option<usize> {
        self.tcp.iter().rposition(|tcp| tcp.ids[side] == Some(conn))
    }

    fn connect(&mut self, side: usize, conn: ConnId) {
        let mut ids = [None; 2];
        ids[side] = Some(conn);
        self.tcp.push(Tcp {
            opener: side,
            ids,
            black: false,
            last: [self.now; 2],
            unread: Default::default(),
        });
        let tcp = self.tcp.len() - 1;
        if self.deaf[1 - side] {
            self.post(tcp, side, Item::Refused);
        } else if self.parted <= self.now {
            self.post(tcp, 1 - side, Item::There);
        }
    }

    /// Processes the next item, up to `end`.
    fn step(&mut self, end: Instant) -> bool {
        self.steps += 1;
        assert!(self.steps < 500_000, "endless loop");
        let timers = self.sides.each_ref().map(|side| side.session.poll_timeout());
        let timer = timers.into_iter().flatten().min();
        let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
        let Some(at) = timer.into_iter().chain(arrival).min().filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.now = at;
        if arrival == Some(at) {
            if let Some((_, (tcp, to, item))) = self.arrivals.pop_first() {
                self.arrive(tcp, to, item);
            }
        } else {
            for side in [0, 1] {
                if timers[side] == Some(at) {
                    self.input(side, Input::Tick);
                }
            }
        }
        self.check_hold();
        true
    }

    /// A session ends if nothing is received for the hold time.
    fn check_hold(&self) {
        for side in &self.sides {
            let Some(agreed) = side.session.negotiated() else {
                continue;
            };
            let hold = Duration::from_secs(agreed.hold_time.seconds().into());
            assert!(
                hold.is_zero() || self.now - side.last_received <= hold,
                "the hold timer did not fire"
            );
        }
    }

    fn arrive(&mut self, tcp: usize, to: usize, item: Item) {
        if self.tcp[tcp].black {
            return;
        }
        match item {
            Item::There if self.tcp[tcp].opener != to => {
                if self.tcp[tcp].ids[1 - to].is_none() || self.deaf[to] {
                    return self.post(tcp, 1 - to, Item::Refused);
                }
                let conn = ConnId(self.sides[to].next_incoming);
                self.sides[to].next_incoming += 1;
                self.tcp[tcp].ids[to] = Some(conn);
                self.post(tcp, 1 - to, Item::There);
                let incoming = true;
                self.input(to, Input::Connected { conn, incoming });
            }
            Item::There => {
                if let Some(conn) = self.tcp[tcp].ids[to] {
                    let incoming = false;
                    self.input(to, Input::Connected { conn, incoming });
                }
            }
            Item::Bytes(bytes) => self.read(tcp, to, &bytes),
            Item::End | Item::Refused => {
                if let Some(conn) = self.tcp[tcp].ids[to].take() {
                    let error = matches!(item, Item::Refused).then(|| "refused".to_owned());
                    self.input(to, Input::Closed { conn, error });
                }
            }
        }
    }

    fn read(&mut self, tcp: usize, to: usize, bytes: &[u8]) {
        let Some(conn) = self.tcp[tcp].ids[to] else { return };
        if self.sides[to].checker.up == Some(conn) {
            self.sides[to].last_received = self.now;
        }
        let mut buf = std::mem::take(&mut self.tcp[tcp].unread[to]);
        // Sometimes in two reads.
        let cut = if self.random(4) == 0 { bytes.len() / 2 } else { 0 };
        for part in [&bytes[..cut], &bytes[cut..]] {
            buf.extend_from_slice(part);
            if self.tcp[tcp].ids[to].is_some() {
                self.input(to, Input::Received { conn, buf: &mut buf });
            }
        }
        assert!(buf.len() < 65_536, "complete messages are removed");
        self.tcp[tcp].unread[to] = buf;
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Runs until both are established; returns how long it took.
    fn until_up(&mut self, at_most: Duration) -> Duration {
        let begin = self.now;
        while !self
            .sides
            .iter()
            .all(|side| side.session.state() == State::Established)
        {
            assert!(self.step(begin + at_most), "not back within {at_most:?}");
        }
        self.now - begin
    }

    /// All connections are reset.
    fn cut(&mut self) {
        for tcp in 0..self.tcp.len() {
            for side in [0, 1] {
                self.post(tcp, side, Item::End);
            }
        }
    }

    fn black_hole(&mut self) {
        self.tcp.iter_mut().for_each(|tcp| tcp.black = true);
    }

    /// The process ends; the kernel closes its connections.
    fn kill(&mut self, side: usize) {
        for tcp in 0..self.tcp.len() {
            if self.tcp[tcp].ids[side].take().is_some() {
                self.post(tcp, 1 - side, Item::End);
            }
        }
        self.deaf[side] = true;
        let seed = self.random(1 << 30);
        let at = &mut self.sides[side];
        at.session = Session::new(at.config.clone(), seed);
        at.checker = Checker::default();
    }

    fn revive(&mut self, side: usize) {
        self.deaf[side] = false;
        if self.sides[side].enabled {
            self.input(side, Input::Start);
        }
    }

    /// Octets that no session sent, inside a connection.
    fn inject(&mut self, to: usize, bytes: &[u8]) {
        if let Some(tcp) = self.tcp.iter().rposition(|tcp| tcp.ids[to].is_some()) {
            self.read(tcp, to, bytes);
        }
    }
}

fn configs(ids: [u32; 2], holds: [u16; 2], passive: Option<usize>, graceful: bool) -> [SessionConfig; 2] {
    [0, 1].map(|side| SessionConfig {
        local_asn: Asn(65000 + side as u32),
        remote_asn: Asn(65001 - side as u32).into(),
        router_id: id(ids[side]),
        hold_time: HoldTime::new(holds[side]).unwrap(),
        passive: passive == Some(side),
        graceful_restart: graceful.then_some(60),
        ..config()
    })
}

#[derive(Clone, Debug)]
enum Act {
    Wait(u32),
    Start(usize),
    Stop(usize),
    Abandon(usize),
    Kill(usize, u32),
    Cut,
    BlackHole,
    Part(u32),
    Garbage(usize, Vec<u8>),
    Message(usize, u8, Vec<u8>),
    Fail(usize),
    Refresh(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let side = || 0..2usize;
    prop_oneof![
        4 => (0..2000u32).prop_map(Act::Wait),
        2 => (0..20_000u32).prop_map(Act::Wait),
        1 => (0..400_000u32).prop_map(Act::Wait),
        2 => side().prop_map(Act::Start),
        1 => side().prop_map(Act::Stop),
        1 => side().prop_map(Act::Abandon),
        2 => (side(), 0..3000u32).prop_map(|(side, time)| Act::Kill(side, time)),
        2 => Just(Act::Cut),
        1 => Just(Act::BlackHole),
        1 => (0..60_000u32).prop_map(Act::Part),
        2 => (side(), proptest::collection::vec(any::<u8>(), 0..80)).prop_map(|(side, bytes)| Act::Garbage(side, bytes)),
        2 => (side(), 1..6u8, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(side, kind, body)| Act::Message(side, kind, body)),
        1 => side().prop_map(Act::Fail),
        1 => side().prop_map(Act::Refresh),
    ]
}

impl World {
    fn act(&mut self, act: &Act, hold_zero: bool) {
        match act {
            Act::Wait(millis) => self.pass(Duration::from_millis(u64::from(*millis))),
            Act::Start(side) => self.start(*side),
            Act::Stop(side) => self.stop(*side),
            Act::Abandon(side) => {
                self.sides[*side].enabled = false;
                self.input(*side, Input::Abandon);
            }
            Act::Kill(side, millis) => {
                self.kill(*side);
                self.pass(Duration::from_millis(u64::from(*millis)));
                self.revive(*side);
            }
            // Without a hold timer a black hole is not noticed.
            Act::BlackHole if !hold_zero => self.black_hole(),
            Act::Cut | Act::BlackHole => self.cut(),
            Act::Part(millis) => self.parted = self.now + Duration::from_millis(u64::from(*millis)),
            Act::Garbage(side, bytes) => self.inject(*side, bytes),
            Act::Message(side, kind, body) => self.inject(*side, &session_util::raw(*kind, body)),
            Act::Fail(side) => self.input(
                *side,
                Input::Fail {
                    notification: Notification::cease(cease::MAX_PREFIXES),
                    idle_for: Duration::ZERO,
                },
            ),
            Act::Refresh(side) => {
                let (family, kind) = (Family::Ipv6, RefreshKind::Request);
                self.input(*side, Input::SendRefresh(Refresh { family, kind }));
            }
        }
    }

    fn check_end(&mut self) {
        let both = self.sides.iter().all(|side| side.enabled);
        let states = self.sides.each_ref().map(|side| side.session.state());
        for (side, state) in self.sides.iter().zip(states) {
            assert_eq!(side.enabled, state != State::Idle, "{states:?}");
            assert_eq!(both, state == State::Established, "{states:?}");
        }
        if both {
            let on = [0, 1].map(|side| self.find(side, self.sides[side].checker.up.unwrap()));
            assert_eq!(on[0], on[1], "both on the same connection");
            let ups = self.sides.each_ref().map(|side| side.ups);
            self.pass(Duration::from_secs(3600));
            assert_eq!(ups, self.sides.each_ref().map(|side| side.ups), "and it stays");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn when_it_calms_down_both_are_established_or_meant_not_to_be(
        seed in any::<u64>(),
        ids in prop_oneof![Just([1, 2]), Just([2, 1]), Just([9, 9])],
        holds in prop_oneof![Just([90, 90]), Just([3, 9]), Just([240, 30]), Just([0, 90]), Just([0, 0])],
        passive in prop_oneof![4 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(1))],
        graceful in any::<bool>(),
        delay in prop_oneof![Just((0, 0)), Just((50, 200)), Just((100, 60_000)), Just((100_000, 400_000))],
        acts in proptest::collection::vec(act(), 0..40),
    ) {
        let mut world = World::new(configs(ids, holds, passive, graceful), seed, delay);
        world.start(0);
        world.start(1);
        for act in &acts {
            world.act(act, holds.contains(&0));
        }
        // 4 minutes for half-open connections, then the longest retry interval, and a margin.
        world.pass(Duration::from_secs(900));
        world.check_end();
    }

    #[test]
    fn any_bytes_in_any_state(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..20),
        steps in 0..4usize,
    ) {
        let mut lab = session_util::Lab::open_sent(config());
        let good = [session_util::peer_open(session_util::LOW).encode(), bgp_proto::wire::keepalive(), end_of_rib()];
        for message in good.iter().take(steps) {
            lab.bytes(0, message);
        }
        let mut buf = BytesMut::new();
        for chunk in chunks {
            buf.extend_from_slice(&chunk);
            lab.input(Input::Received { conn: ConnId(0), buf: &mut buf });
        }
        prop_assert!(buf.len() <= 4096);
    }

    /// Well-formed headers, so that the garbage reaches the decoders.
    #[test]
    fn any_messages_in_any_state(
        messages in proptest::collection::vec((0..7u8, proptest::collection::vec(any::<u8>(), 0..60)), 1..20),
        steps in 0..4usize,
    ) {
        let mut lab = session_util::Lab::open_sent(config());
        let good = [session_util::peer_open(session_util::LOW).encode(), bgp_proto::wire::keepalive(), end_of_rib()];
        for message in good.iter().take(steps) {
            lab.bytes(0, message);
        }
        for (kind, body) in messages {
            lab.bytes(0, &session_util::raw(kind, &body));
        }
    }
}

#[test]
fn a_restarted_peer_is_back_at_once() {
    let mut times = BTreeSet::new();
    for seed in 0..200 {
        for (passive, down) in [
            (None, 0),
            (None, 300),
            (Some(0), 300),
            (Some(1), 300),
            (Some(1), 20),
        ] {
            let mut world = World::new(configs([1, 2], [90, 90], passive, true), seed, (50, 500));
            world.start(0);
            world.start(1);
            world.until_up(Duration::from_millis(20));
            world.pass(Duration::from_secs(60));
            world.kill(1);
            world.pass(Duration::from_millis(down));
            world.revive(1);
            let time = world.until_up(Duration::from_secs(1));
            // A side that connects is fast; a passive side waits for a pause about as long as its absence.
            let limit = if passive == Some(1) { 500 } else { 20 };
            assert!(
                time < Duration::from_millis(limit),
                "{passive:?} {down}: {time:?}"
            );
            times.insert(time);
        }
    }
    println!("{:?} to {:?}", times.first(), times.last());
}

#[test]
fn both_start_at_once() {
    for seed in 0..500 {
        let mut world = World::new(configs([1, 2], [90, 90], None, false), seed, (100, 2000));
        world.start(0);
        world.start(1);
        let time = world.until_up(Duration::from_millis(20));
        assert!(time < Duration::from_millis(20), "{time:?}");
        world.pass(Duration::from_secs(600));
        assert_eq!(
            [world.sides[0].ups, world.sides[1].ups],
            [1, 1],
            "the collision cost nothing"
        );
    }
}

#[test]
fn sessions_return_after_a_cut_without_a_storm() {
    for seed in 0..100 {
        let mut world = World::new(configs([1, 2], [9, 9], None, false), seed, (100, 2000));
        world.start(0);
        world.start(1);
        world.until_up(Duration::from_secs(1));
        world.pass(Duration::from_secs(60));
        world.cut();
        world.pass(Duration::from_millis(5)); // both have noticed
        assert!(world.until_up(Duration::from_secs(1)) < Duration::from_millis(100));
        assert!(world.tcp.len() <= 6, "{}", world.tcp.len());
    }
}
