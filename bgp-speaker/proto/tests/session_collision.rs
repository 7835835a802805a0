//! Connection collisions (RFC 4271 §6.8, RFC 6286 §2.3): scripted with both outcomes, and two sessions in
//! every order of delivery.
#![cfg(test)]

mod session_util;

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use ::bytes::{Bytes, BytesMut};
use bgp_proto::session::{ConnId, Input, Output, Session, SessionConfig, State};
use bgp_proto::types::{Asn, HoldTime};
use bgp_proto::wire::{Notification, Open, cease};
use session_util::{
    Checker, Effect, HIGH, INCOMING, LOW, Lab, config, end_of_rib, id, notifications, peer_open, refusal,
};

const THEIRS: u64 = INCOMING;

/// Two connections, both in OpenSent.
fn two() -> Lab {
    let mut lab = Lab::open_sent(config());
    lab.incoming();
    lab
}

fn collision() -> Bytes {
    Notification::cease(cease::COLLISION).encode()
}

fn is_up_on(done: &[Effect], conn: u64) -> bool {
    done.iter()
        .any(|did| matches!(did, Effect::Up(on, _) if *on == conn))
}

/// Cease/7 on this connection, then it is closed.
#[track_caller]
fn loses(done: &[Effect], conn: u64) {
    assert_eq!(refusal(done), (6, 7, vec![]));
    assert!(done.contains(&Effect::Close(conn)), "{done:?}");
    assert!(
        !done.iter().any(|did| matches!(did, Effect::Down(..))),
        "no failure: {done:?}"
    );
}

// We have priority: our connection stays.

#[test]
fn we_have_priority_and_the_peers_open_is_first() {
    let mut lab = two();
    assert_eq!(
        lab.open(THEIRS, &peer_open(LOW)),
        [Effect::Keepalive(THEIRS), Effect::State(State::OpenConfirm)]
    );
    let done = lab.open(0, &peer_open(LOW));
    loses(&done, THEIRS);
    assert!(done.contains(&Effect::Keepalive(0)));
    assert!(is_up_on(&lab.keepalive(0), 0));
}

#[test]
fn we_have_priority_and_our_open_is_first() {
    let mut lab = two();
    lab.open(0, &peer_open(LOW));
    let done = lab.open(THEIRS, &peer_open(LOW));
    loses(&done, THEIRS);
    assert!(!done.contains(&Effect::Keepalive(THEIRS)), "never confirmed");
    assert!(is_up_on(&lab.keepalive(0), 0));
}

#[test]
fn we_have_priority_but_the_peers_connection_is_established_first() {
    let mut lab = two();
    lab.open(THEIRS, &peer_open(LOW));
    let done = lab.keepalive(THEIRS);
    loses(&done, 0);
    assert!(is_up_on(&done, THEIRS));
    let (_, done) = lab.incoming();
    assert_eq!(refusal(&done), (6, 7, vec![]), "established stays");
}

#[test]
fn we_have_priority_and_our_connection_is_established_first() {
    let mut lab = two();
    lab.open(0, &peer_open(LOW));
    let done = lab.keepalive(0);
    loses(&done, THEIRS);
    assert!(is_up_on(&done, 0));
}

// The peer has priority: its connection stays, unless it had established ours.

#[test]
fn the_peer_has_priority_and_its_open_is_first() {
    let mut lab = two();
    lab.open(THEIRS, &peer_open(HIGH));
    let done = lab.open(0, &peer_open(HIGH));
    loses(&done, 0);
    assert!(!done.contains(&Effect::Keepalive(0)));
    assert!(is_up_on(&lab.keepalive(THEIRS), THEIRS));
}

#[test]
fn the_peer_has_priority_and_closes_our_confirmed_connection() {
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    assert_eq!(
        lab.open(THEIRS, &peer_open(HIGH)),
        [Effect::Keepalive(THEIRS)],
        "both stay"
    );
    assert_eq!(
        lab.bytes(0, &collision()),
        [Effect::Close(0)],
        "without a NOTIFICATION"
    );
    assert!(is_up_on(&lab.keepalive(THEIRS), THEIRS));
    assert_eq!(lab.session.stats().collisions, 1);
    assert_eq!(lab.session.stats().last_received, None);
    assert_eq!(lab.session.stats().last_down, None);
}

#[test]
fn the_peer_has_priority_but_has_established_our_connection() {
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    lab.open(THEIRS, &peer_open(HIGH));
    assert_eq!(lab.keepalive(0), [], "the peer may still prefer its own");
    assert_eq!(lab.state(), State::OpenConfirm);
    let done = lab.bytes(THEIRS, &collision());
    assert_eq!(done[0], Effect::Close(THEIRS));
    assert!(is_up_on(&done, 0));
}

#[test]
fn an_update_tells_what_the_peer_has_established() {
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    lab.keepalive(0);
    lab.keepalive(0);
    assert_eq!(lab.state(), State::OpenConfirm);
    let done = lab.bytes(0, &end_of_rib());
    loses(&done, THEIRS);
    assert!(is_up_on(&done, 0));
    assert!(matches!(done.last(), Some(Effect::Routes(_))));
}

#[test]
fn a_silent_peer_with_priority_is_not_waited_for_long() {
    // Its OPEN arrived on both: its connection stays.
    for confirmed in [false, true] {
        let mut lab = two();
        lab.open(0, &peer_open(HIGH));
        lab.open(THEIRS, &peer_open(HIGH));
        if confirmed {
            lab.keepalive(0);
        }
        let done = lab.pass(Duration::from_secs(1));
        assert_eq!(done[0].0, Duration::from_secs(1));
        let done: Vec<Effect> = done.into_iter().map(|(_, did)| did).collect();
        loses(&done, 0);
        assert!(is_up_on(&lab.keepalive(THEIRS), THEIRS));
    }
    // Its connection never received an OPEN: ours stays.
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    lab.keepalive(0);
    let done: Vec<Effect> = lab
        .pass(Duration::from_secs(1))
        .into_iter()
        .map(|(_, did)| did)
        .collect();
    loses(&done, THEIRS);
    assert!(is_up_on(&done, 0));
}

#[test]
fn new_connections_do_not_put_the_decision_off() {
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    lab.open(THEIRS, &peer_open(HIGH)); // from now on a second connection
    lab.wait(Duration::from_millis(900));
    let (conn, _) = lab.incoming();
    lab.open(conn, &peer_open(HIGH));
    assert_eq!(lab.timeout(), Duration::from_millis(100));
    lab.wait(Duration::from_millis(100));
    loses(&lab.tick(), 0);
    assert!(is_up_on(&lab.keepalive(conn), conn));
}

#[test]
fn the_hold_timer_runs_from_the_last_keepalive_while_the_peer_decides() {
    let mut open = peer_open(HIGH);
    open.hold_time = HoldTime::new(3).unwrap();
    let mut lab = two();
    lab.open(0, &open);
    lab.pass(Duration::from_millis(2900));
    assert!(!is_up_on(&lab.keepalive(0), 0));
    let done = lab.pass(Duration::from_secs(1));
    let (at, _) = done
        .iter()
        .find(|(_, did)| matches!(did, Effect::Up(0, _)))
        .unwrap();
    assert_eq!(*at, Duration::from_secs(1));
}

#[test]
fn equal_identifiers_are_decided_by_as() {
    for (our_asn, keep_ours) in [(64512, false), (65002, true)] {
        let ours = SessionConfig {
            local_asn: Asn(our_asn),
            router_id: id(LOW),
            ..config()
        };
        let mut lab = Lab::open_sent(ours);
        lab.incoming();
        lab.open(THEIRS, &peer_open(LOW));
        let done = lab.open(0, &peer_open(LOW));
        loses(&done, if keep_ours { THEIRS } else { 0 });
    }
}

#[test]
fn identifiers_are_compared_as_unsigned_numbers() {
    let mut lab = two();
    lab.open(THEIRS, &peer_open(0xC000_0201));
    loses(&lab.open(0, &peer_open(0xC000_0201)), 0);
}

#[test]
fn a_connection_that_breaks_leaves_the_other() {
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    lab.open(THEIRS, &peer_open(HIGH));
    lab.keepalive(0);
    assert!(is_up_on(&lab.closed(THEIRS, None), 0));
    let mut lab = two();
    lab.open(0, &peer_open(HIGH));
    lab.open(THEIRS, &peer_open(HIGH));
    lab.keepalive(0);
    lab.closed(0, None);
    assert!(is_up_on(&lab.keepalive(THEIRS), THEIRS));
}

#[test]
fn a_bad_open_on_one_connection_leaves_the_other() {
    let mut lab = two();
    lab.open(0, &peer_open(LOW));
    let wrong = Open {
        asn: Asn(7),
        capabilities: vec![],
        ..peer_open(LOW)
    };
    let done = lab.open(THEIRS, &wrong);
    assert_eq!(notifications(&done), [(THEIRS, 2, 2, vec![])]);
    assert!(is_up_on(&lab.keepalive(0), 0));
}

// Two sessions, in every order.

/// An item in flight in one direction of a connection.
#[derive(Debug)]
enum Item {
    /// The connection is established: at its opener by the handshake, at the other side by accept.
    There,
    Bytes(Bytes),
    End,
}

struct Side {
    session: Session,
    checker: Checker,
    ups: usize,
}

/// Two sessions, a connection opened by each, and four directions that preserve order.
struct Duel {
    now: Instant,
    sides: [Side; 2],
    /// `[opener][towards]`
    wires: [[VecDeque<Item>; 2]; 2],
}

impl Duel {
    fn new(ids: [u32; 2], now: Instant) -> Self {
        let side = |local: usize| {
            let asn = |which| Asn(65000 + u32::try_from(which).unwrap());
            Side {
                session: Session::new(
                    SessionConfig {
                        local_asn: asn(local),
                        remote_asn: asn(1 - local).into(),
                        router_id: id(ids[local]),
                        hold_time: HoldTime::new(0).unwrap(), // fewer timers, fewer states
                        ..config()
                    },
                    1,
                ),
                checker: Checker::default(),
                ups: 0,
            }
        };
        let mut duel = Self {
            now,
            sides: [side(0), side(1)],
            wires: Default::default(),
        };
        for side in [0, 1] {
            duel.input(side, Input::Start);
        }
        duel
    }

    fn input(&mut self, side: usize, input: Input<'_>) {
        let at = &mut self.sides[side];
        at.checker.input(&input);
        at.session.handle(self.now, input);
        while let Some(output) = at.session.poll_output() {
            at.checker.output(&output);
            match output {
                Output::Connect(_) => {
                    self.wires[side][side].push_back(Item::There);
                    self.wires[side][1 - side].push_back(Item::There);
                }
                Output::Send { conn, bytes } => {
                    let opener = if conn.0 < INCOMING { side } else { 1 - side };
                    self.wires[opener][1 - side].push_back(Item::Bytes(bytes));
                }
                Output::Close(conn) => {
                    let opener = if conn.0 < INCOMING { side } else { 1 - side };
                    self.wires[opener][1 - side].push_back(Item::End);
                }
                Output::Up { .. } => at.ups += 1,
                Output::Down { .. } => panic!("a collision is no failure"),
                _ => {}
            }
        }
        at.checker.check_settled(&at.session);
    }

    /// The directions with items in flight.
    fn choices(&self) -> Vec<(usize, usize)> {
        let all = [(0, 0), (0, 1), (1, 0), (1, 1)];
        all.into_iter()
            .filter(|(opener, towards)| !self.wires[*opener][*towards].is_empty())
            .collect()
    }

    fn deliver(&mut self, (opener, towards): (usize, usize)) {
        let Some(item) = self.wires[opener][towards].pop_front() else {
            return;
        };
        let conn = ConnId(if opener == towards { 0 } else { INCOMING });
        let known = self.sides[towards].checker.open.contains_key(&conn);
        match item {
            Item::There if opener == towards && !known => {} // closed before it was established
            Item::There => self.input(
                towards,
                Input::Connected {
                    conn,
                    incoming: opener != towards,
                },
            ),
            Item::Bytes(bytes) if known => {
                let mut buf = BytesMut::from(&bytes[..]);
                self.input(towards, Input::Received { conn, buf: &mut buf });
            }
            Item::End if known => self.input(towards, Input::Closed { conn, error: None }),
            Item::Bytes(_) | Item::End => {}
        }
    }
}

/// The complete state that decides what can happen next.
fn fingerprint(duel: &Duel) -> u64 {
    let mut hasher = DefaultHasher::new();
    for side in &duel.sides {
        format!("{:?}", side.session).hash(&mut hasher);
    }
    format!("{:?}", duel.wires).hash(&mut hasher);
    hasher.finish()
}

/// Nothing is in flight any more: both are established on the same connection, and never were on another one.
fn check_end(duel: &Duel, path: &[(usize, usize)]) {
    let on = duel.sides.each_ref().map(|side| {
        assert_eq!(side.session.state(), State::Established, "{path:?}");
        assert_eq!(side.ups, 1, "no flap: {path:?}");
        side.checker.up.unwrap().0 < INCOMING
    });
    assert_ne!(on[0], on[1], "both on the same connection: {path:?}");
}

#[test]
fn in_every_order_of_delivery_one_connection_survives() {
    let now = Instant::now();
    for ids in [[1, 2], [2, 1], [5, 5]] {
        let mut seen = HashSet::new();
        let mut ends = 0;
        let mut paths: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
        while let Some(path) = paths.pop() {
            let mut duel = Duel::new(ids, now);
            for step in &path {
                duel.deliver(*step);
            }
            if !seen.insert(fingerprint(&duel)) {
                continue; // reached in another order and continued from there
            }
            let choices = duel.choices();
            if choices.is_empty() {
                check_end(&duel, &path);
                ends += 1;
            }
            for choice in choices {
                paths.push([&path[..], &[choice]].concat());
            }
        }
        assert!(ends > 3 && seen.len() > 100, "{ends} ends, {} states", seen.len());
        println!("{ids:?}: {} states, {ends} ends", seen.len());
    }
}
