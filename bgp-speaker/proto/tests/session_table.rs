//! Every pair of state and event of RFC 4271 §8: the next state by table. No pair causes a panic, an illegal
//! output or an endless loop.
#![cfg(test)]

mod session_util;

use std::time::Duration;

use ::bytes::{Bytes, BytesMut};
use bgp_proto::session::{ConnId, Input, SessionConfig, State};
use bgp_proto::types::{Asn, Family};
use bgp_proto::wire::{
    Capability, GracefulRestart, Notification, Open, Refresh, RefreshKind, cease, keepalive,
};
use session_util::{
    Effect, HIGH, INCOMING, LOW, Lab, config, end_of_rib, notifications, peer_open, raw, withdrawals,
};

fn wrong_as() -> Open {
    Open {
        asn: Asn(7),
        capabilities: Vec::new(),
        ..peer_open(LOW)
    }
}

fn cease(subcode: u8) -> Bytes {
    Notification::cease(subcode).encode()
}

/// The name of a state, its furthest connection, and how to reach it.
type Begin = (&'static str, u64, fn() -> Lab);

/// Sessions in each state; the six states of the RFC first.
fn labs() -> Vec<Begin> {
    fn active() -> Lab {
        let mut lab = Lab::new(config());
        lab.begin();
        lab.closed(0, None);
        lab
    }
    fn passive() -> Lab {
        let mut lab = Lab::new(SessionConfig {
            passive: true,
            ..config()
        });
        lab.begin();
        lab
    }
    fn connect() -> Lab {
        let mut lab = Lab::new(config());
        lab.begin();
        lab
    }
    fn incoming(router_id: u32, steps: usize) -> Lab {
        let mut lab = passive();
        lab.incoming();
        if steps > 0 {
            lab.open(INCOMING, &peer_open(router_id));
        }
        if steps > 1 {
            lab.keepalive(INCOMING);
        }
        lab
    }
    fn two(first: Option<u64>, second: Option<u64>, alive: bool) -> Lab {
        let mut lab = Lab::open_sent(config());
        lab.incoming();
        for conn in first.into_iter().chain(second) {
            lab.open(conn, &peer_open(HIGH));
        }
        if alive {
            lab.keepalive(0);
        }
        lab
    }
    fn graceful() -> Lab {
        let mut open = peer_open(LOW);
        open.capabilities
            .push(Capability::GracefulRestart(GracefulRestart {
                restart_time: 60,
                ..GracefulRestart::default()
            }));
        let mut lab = Lab::open_sent(SessionConfig {
            graceful_restart: Some(60),
            ..config()
        });
        lab.open(0, &open);
        lab.keepalive(0);
        lab.wait(Duration::from_secs(6));
        lab
    }
    vec![
        ("Idle", 0, || Lab::new(config())),
        ("Connect", 0, connect),
        ("Active", 0, active),
        ("OpenSent", 0, || Lab::open_sent(config())),
        ("OpenConfirm", 0, || Lab::open_confirm(config())),
        ("Established", 0, || Lab::established(config())),
        ("Active, passive", 0, passive),
        ("OpenSent, incoming", INCOMING, || incoming(LOW, 0)),
        ("OpenConfirm, incoming", INCOMING, || incoming(HIGH, 1)),
        ("Established, incoming", INCOMING, || incoming(HIGH, 2)),
        ("OpenSent twice", 0, || two(None, None, false)),
        ("OpenConfirm and OpenSent", 0, || two(Some(0), None, false)),
        ("OpenSent and OpenConfirm", INCOMING, || {
            two(Some(INCOMING), None, false)
        }),
        ("OpenConfirm twice", INCOMING, || {
            two(Some(0), Some(INCOMING), false)
        }),
        ("Confirmed and OpenSent", 0, || two(Some(0), None, true)),
        ("Confirmed and OpenConfirm", 0, || {
            two(Some(0), Some(INCOMING), true)
        }),
        ("Established, graceful restart", 0, graceful),
        ("Established and OpenSent", INCOMING, || {
            let mut lab = graceful();
            lab.incoming();
            lab
        }),
        ("Established and OpenConfirm", INCOMING, || {
            let mut lab = graceful();
            let (conn, _) = lab.incoming();
            lab.open(conn, &peer_open(LOW));
            assert!(lab.checker.open.contains_key(&ConnId(conn)));
            lab
        }),
    ]
}

/// An event for a session with this furthest connection.
type Event = fn(&mut Lab, u64) -> Vec<Effect>;

fn bytes_to(lab: &mut Lab, conn: u64, bytes: &[u8]) -> Vec<Effect> {
    let mut buf = BytesMut::from(bytes);
    lab.input(Input::Received {
        conn: ConnId(conn),
        buf: &mut buf,
    })
}

/// The events of RFC 4271 §8.1 by number, and our additional ones.
fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("1 start", |lab, _| lab.begin()),
        ("2 stop", |lab, _| lab.stop(cease::ADMIN_SHUTDOWN, "bye")),
        ("8 automatic stop", |lab, _| {
            lab.stop(cease::PEER_DECONFIGURED, "")
        }),
        ("abandon", |lab, _| lab.input(Input::Abandon)),
        ("9-13 the next timer", |lab, _| {
            if lab.session.poll_timeout().is_some() {
                lab.wait(lab.timeout());
            }
            lab.tick()
        }),
        ("tick", |lab, _| lab.tick()),
        ("all timers at once", |lab, _| {
            lab.wait(Duration::from_secs(100_000));
            lab.tick()
        }),
        ("16 connected", |lab, conn| {
            if lab.checker.open.contains_key(&ConnId(conn)) {
                lab.connected(conn)
            } else {
                Vec::new()
            }
        }),
        ("16 connected, unknown", |lab, _| lab.connected(999)),
        ("17 accepted", |lab, _| lab.connected(INCOMING + 999)),
        ("18 closed", |lab, conn| lab.closed(conn, Some("reset"))),
        ("18 ours closed", |lab, _| lab.closed(0, None)),
        ("18 theirs closed", |lab, _| lab.closed(INCOMING, None)),
        ("17 accepted, known", |lab, _| {
            if lab.checker.open.contains_key(&ConnId(INCOMING)) {
                lab.connected(INCOMING)
            } else {
                Vec::new()
            }
        }),
        ("18 closed, unknown", |lab, _| lab.closed(12345, None)),
        ("19 OPEN", |lab, conn| {
            bytes_to(lab, conn, &peer_open(LOW).encode())
        }),
        ("19 OPEN on ours", |lab, _| {
            bytes_to(lab, 0, &peer_open(HIGH).encode())
        }),
        ("19 OPEN on theirs", |lab, _| {
            bytes_to(lab, INCOMING, &peer_open(HIGH).encode())
        }),
        ("21 header error", |lab, conn| bytes_to(lab, conn, &[0; 100])),
        ("22 OPEN error", |lab, conn| {
            bytes_to(lab, conn, &wrong_as().encode())
        }),
        ("24 version error", |lab, conn| {
            bytes_to(lab, conn, &Notification::new(2, 1, vec![0, 4]).encode())
        }),
        ("25 NOTIFICATION", |lab, conn| bytes_to(lab, conn, &cease(2))),
        ("23 collision, ours", |lab, _| bytes_to(lab, 0, &cease(7))),
        ("23 collision, theirs", |lab, _| {
            bytes_to(lab, INCOMING, &cease(7))
        }),
        ("26 KEEPALIVE", |lab, conn| bytes_to(lab, conn, &keepalive())),
        ("26 KEEPALIVE on theirs", |lab, _| {
            bytes_to(lab, INCOMING, &keepalive())
        }),
        ("27 UPDATE", |lab, conn| bytes_to(lab, conn, &end_of_rib())),
        ("28 UPDATE error", |lab, conn| {
            bytes_to(lab, conn, &raw(2, &[9, 9, 9, 9]))
        }),
        ("ROUTE-REFRESH", |lab, conn| {
            bytes_to(lab, conn, &raw(5, &[0, 1, 0, 1]))
        }),
        ("half a message", |lab, conn| {
            bytes_to(lab, conn, &withdrawals(9)[..30])
        }),
        ("everything", |lab, conn| {
            let all = [
                peer_open(LOW).encode(),
                keepalive(),
                withdrawals(9),
                cease(4),
                keepalive(),
            ];
            bytes_to(lab, conn, &all.concat())
        }),
        ("bytes for an unknown connection", |lab, _| {
            bytes_to(lab, 777, &keepalive())
        }),
        ("29 wrote", |lab, _| lab.input(Input::Wrote)),
        ("unread", |lab, _| lab.input(Input::Unread)),
        ("send refresh", |lab, _| {
            let (family, kind) = (Family::Ipv4, RefreshKind::Request);
            lab.input(Input::SendRefresh(Refresh { family, kind }))
        }),
        ("fail", |lab, _| {
            lab.input(Input::Fail {
                notification: Notification::cease(8),
                idle_for: Duration::ZERO,
            })
        }),
    ]
}

#[test]
fn the_table() {
    use State::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};
    let header = [Idle, Connect, Active, OpenSent, OpenConfirm, Established];
    // The next state of each state, and the NOTIFICATION that is sent.
    type Row = (&'static str, [(State, Option<(u8, u8)>); 6]);
    const NO: Option<(u8, u8)> = None;
    let stays = header.map(|state| (state, NO));
    let from = |at: usize, states: [(State, Option<(u8, u8)>); 3]| {
        let mut row = stays;
        row[at..at + 3].copy_from_slice(&states);
        row
    };
    let dies = from(3, [(Active, NO), (Active, NO), (Active, NO)]);
    let faulty = |code, open_sent, open_confirm, established| {
        from(
            3,
            [
                (Active, Some((code, open_sent))),
                (Active, Some((code, open_confirm))),
                (Active, Some((code, established))),
            ],
        )
    };
    let end = |sent| {
        let mut row = header.map(|_| (Idle, NO));
        for cell in &mut row[3..] {
            cell.1 = sent;
        }
        row
    };
    let with = |mut row: [(State, Option<(u8, u8)>); 6], at: usize, cell| {
        row[at] = cell;
        row
    };
    let table: Vec<Row> = vec![
        ("1 start", with(stays, 0, (Connect, NO))),
        ("2 stop", end(Some((6, 2)))),
        ("8 automatic stop", end(Some((6, 3)))),
        ("abandon", end(None)),
        ("tick", stays),
        (
            "all timers at once",
            // Active: connects. The others end by their hold timer and start again later.
            [
                (Idle, NO),
                (Active, NO),
                (Connect, NO),
                (Active, Some((4, 0))),
                (Active, Some((4, 0))),
                (Active, Some((4, 0))),
            ],
        ),
        ("16 connected", with(stays, 1, (OpenSent, NO))),
        ("16 connected, unknown", stays),
        (
            "17 accepted",
            [
                (Idle, Some((6, 5))),
                (OpenSent, NO),
                (OpenSent, NO),
                (OpenSent, NO),
                (OpenConfirm, NO),
                (Established, Some((6, 7))),
            ],
        ),
        ("17 accepted, known", stays),
        ("18 closed", with(dies, 1, (Active, NO))),
        ("18 closed, unknown", stays),
        (
            "19 OPEN",
            with(with(faulty(5, 0, 2, 3), 3, (OpenConfirm, NO)), 1, (Active, NO)),
        ),
        ("21 header error", with(faulty(1, 1, 1, 1), 1, (Active, NO))),
        (
            "22 OPEN error",
            with(
                with(faulty(5, 0, 2, 3), 3, (Active, Some((2, 2)))),
                1,
                (Active, NO),
            ),
        ),
        ("24 version error", with(dies, 1, (Active, NO))),
        ("25 NOTIFICATION", with(dies, 1, (Active, NO))),
        (
            "26 KEEPALIVE",
            [
                (Idle, NO),
                (Active, NO),
                (Active, NO),
                (Active, Some((5, 1))),
                (Established, NO),
                (Established, NO),
            ],
        ),
        (
            "27 UPDATE",
            with(with(faulty(5, 1, 2, 0), 5, (Established, NO)), 1, (Active, NO)),
        ),
        (
            "28 UPDATE error",
            with(
                with(faulty(5, 1, 2, 0), 5, (Active, Some((3, 1)))),
                1,
                (Active, NO),
            ),
        ),
        (
            "ROUTE-REFRESH",
            with(with(faulty(5, 1, 2, 0), 5, (Established, NO)), 1, (Active, NO)),
        ),
        ("half a message", stays),
        ("bytes for an unknown connection", stays),
        ("29 wrote", stays),
        ("unread", stays),
        ("send refresh", stays),
        ("fail", with(stays, 5, (Active, Some((6, 8))))),
    ];
    let (labs, events) = (labs(), events());
    for (name, row) in table {
        let (_, event) = events.iter().find(|(event, _)| *event == name).unwrap();
        for ((state, conn, begin), (next, sent)) in labs.iter().zip(row) {
            let mut lab = begin();
            let done = event(&mut lab, *conn);
            assert_eq!(lab.state(), next, "{name} in {state}: {done:?}");
            let notified: Vec<(u8, u8)> = notifications(&done).iter().map(|n| (n.1, n.2)).collect();
            assert_eq!(
                notified,
                sent.into_iter().collect::<Vec<_>>(),
                "{name} in {state}: {done:?}"
            );
        }
    }
}

/// `Lab` checks the outputs and that time advances; here it gets every event, three events deep.
#[test]
fn every_event_in_every_state_three_deep() {
    let (labs, events) = (labs(), events());
    let mut count = 0;
    for (_, conn, begin) in &labs {
        for (_, first) in &events {
            for (_, second) in &events {
                for (_, third) in &events {
                    let mut lab = begin();
                    for event in [first, second, third] {
                        event(&mut lab, *conn);
                    }
                    count += 1;
                }
            }
        }
    }
    assert!(count > 500_000, "{count}");
}

/// After any three events, a started session with only timers connects again or waits for the peer, and the
/// peer's next connection succeeds.
#[test]
fn from_every_state_a_good_peer_gets_through() {
    let (labs, events) = (labs(), events());
    for (state, conn, begin) in &labs {
        for (name, first) in &events {
            for (_, second) in &events {
                let mut lab = begin();
                first(&mut lab, *conn);
                second(&mut lab, *conn);
                if lab.state() == State::Idle {
                    lab.begin();
                }
                lab.pass(Duration::from_secs(300));
                if lab.state() == State::Established {
                    continue; // a session with hold time zero stays up
                }
                let fresh = INCOMING + 5000;
                lab.connected(fresh);
                lab.open(fresh, &peer_open(HIGH));
                lab.keepalive(fresh);
                assert_eq!(lab.state(), State::Established, "{state}, {name}");
            }
        }
    }
}
