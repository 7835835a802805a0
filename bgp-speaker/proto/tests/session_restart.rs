//! Graceful restart in the session (RFC 4724, RFC 8538): what is retained when a connection ends, and which
//! connection replaces it.
#![cfg(test)]

mod session_util;

use std::time::{Duration, Instant};

use bgp_proto::session::{ConnId, DownReason, Input, Output, RestartBits, Session, SessionConfig, State};
use bgp_proto::types::{Family, FamilySet};
use bgp_proto::wire::{Capability, GracefulRestart, LongLivedFamily, Notification, Open, cease};
use session_util::{Effect, LOW, Lab, config, end_of_rib, is_up, notifications, peer_open, refusal};

fn restarting(notification: bool) -> (SessionConfig, Open) {
    let capability = |restart_time| {
        Capability::GracefulRestart(GracefulRestart {
            restarting: false,
            notification,
            restart_time,
            families: vec![(Family::Ipv6, true)],
        })
    };
    let ours = SessionConfig {
        graceful_restart: Some(120),
        extra_capabilities: vec![capability(120)],
        ..config()
    };
    let mut open = peer_open(LOW);
    open.capabilities.push(capability(77));
    (ours, open)
}

fn graceful(notification: bool) -> Lab {
    let (ours, open) = restarting(notification);
    let mut lab = Lab::open_sent(ours);
    lab.open(0, &open);
    assert!(is_up(&lab.keepalive(0)));
    lab
}

#[test]
fn routes_outlive_a_connection_where_both_agreed() {
    let ipv6 = FamilySet::from_iter([Family::Ipv6]);
    let kept = Some((ipv6, Duration::from_secs(77)));
    let dropped = Some((FamilySet::EMPTY, Duration::ZERO));
    let mut lab = graceful(false);
    lab.closed(0, None);
    assert_eq!(lab.checker.retained, kept);
    let mut lab = Lab::established(config());
    lab.closed(0, None);
    assert_eq!(lab.checker.retained, dropped, "not agreed");

    let shutdown = Notification::cease(cease::ADMIN_SHUTDOWN);
    for survives in [false, true] {
        let expected = if survives { kept } else { dropped };
        let mut lab = graceful(survives);
        lab.bytes(0, &shutdown.encode());
        assert_eq!(lab.checker.retained, expected, "RFC 8538 §4");
        let mut lab = graceful(survives);
        lab.wait(Duration::from_secs(90));
        assert_eq!(refusal(&lab.tick()), (4, 0, vec![]));
        assert_eq!(lab.checker.retained, expected);
        let mut lab = graceful(survives);
        lab.bytes(0, &shutdown.clone().into_hard_reset().encode());
        assert_eq!(lab.checker.retained, dropped, "a Hard Reset ends the routes too");
        let mut lab = graceful(survives);
        let done = lab.stop(cease::ADMIN_SHUTDOWN, "");
        let notified = if survives {
            (6, 9, vec![6, 2])
        } else {
            (6, 2, vec![])
        };
        assert_eq!(refusal(&done), notified);
        assert_eq!(lab.checker.retained, dropped, "an operator command");
    }
}

#[test]
fn nothing_is_retained_without_restart_time_or_when_we_leave() {
    let none = Some((FamilySet::EMPTY, Duration::ZERO));
    let mut lab = graceful(true);
    lab.input(Input::Abandon);
    assert_eq!(lab.checker.retained, none);
    let (ours, mut open) = restarting(true);
    open.capabilities
        .push(Capability::GracefulRestart(GracefulRestart {
            restart_time: 0,
            families: vec![(Family::Ipv6, true)],
            ..GracefulRestart::default()
        }));
    let mut lab = Lab::open_sent(ours);
    lab.open(0, &open);
    lab.keepalive(0);
    lab.closed(0, None);
    assert_eq!(lab.checker.retained, none, "zero seconds");
}

#[test]
fn a_new_connection_replaces_a_dead_one_after_graceful_restart() {
    let mut lab = graceful(false);
    let (_, done) = lab.incoming();
    assert_eq!(refusal(&done), (6, 7, vec![]), "a late collision");
    lab.wait(Duration::from_secs(6));
    let (conn, done) = lab.incoming();
    assert!(
        matches!(done.as_slice(), [Effect::Open(c, _)] if *c == conn),
        "{done:?}"
    );
    assert_eq!(lab.open(conn, &restarting(false).1), [Effect::Keepalive(conn)]);
    let done = lab.keepalive(conn);
    assert_eq!(done[0], Effect::Close(0));
    assert!(matches!(
        &done[1],
        Effect::Down(true, DownReason::Closed(Some(_)))
    ));
    assert_eq!(notifications(&done), [], "a dead connection gets no NOTIFICATION");
    assert_eq!(lab.checker.retained.unwrap().1, Duration::from_secs(77));
    assert!(is_up(&done));
}

/// A session with graceful restart that has been established for a long time, and a check that it was not
/// disturbed.
struct Settled {
    lab: Lab,
    before: (Option<DownReason>, u64, Option<std::time::Instant>),
}

impl Settled {
    fn new() -> Self {
        let mut lab = graceful(true);
        lab.wait(Duration::from_secs(6));
        let stats = lab.session.stats();
        let before = (stats.last_down.clone(), stats.established, stats.since);
        Self { lab, before }
    }

    #[track_caller]
    fn is_undisturbed(&mut self, done: &[Effect]) {
        let of_session = |did: &&Effect| {
            matches!(
                did,
                Effect::Down(..) | Effect::Up(..) | Effect::State(_) | Effect::Close(0)
            ) || matches!(did, Effect::Notification(0, _))
        };
        assert_eq!(done.iter().find(of_session), None, "{done:#?}");
        let stats = self.lab.session.stats();
        let after = (stats.last_down.clone(), stats.established, stats.since);
        assert_eq!(after, self.before);
        assert_eq!((&stats.last_sent, &stats.last_received), (&None, &None));
        assert_eq!(self.lab.checker.up, Some(ConnId(0)));
        assert!(matches!(
            self.lab.bytes(0, &end_of_rib()).as_slice(),
            [Effect::Routes(_)]
        ));
    }
}

/// A name, the input on the new connection, and code and subcode of the answer.
type Case = (&'static str, Vec<u8>, Option<(u8, u8)>);

#[test]
fn only_a_good_open_of_the_same_peer_disturbs_an_established_session() {
    let good = restarting(true).1;
    let other_as = Open {
        asn: bgp_proto::types::Asn(65002),
        capabilities: Vec::new(),
        ..good.clone()
    };
    let other_id = Open {
        router_id: session_util::id(session_util::HIGH),
        ..good.clone()
    };
    let cases: Vec<Case> = vec![
        ("random bytes", vec![0x5A; 64], Some((1, 1))),
        ("part of a header", vec![0xFF; 10], Some((4, 0))),
        ("silence", Vec::new(), Some((4, 0))),
        ("another AS", other_as.encode().to_vec(), Some((2, 2))),
        ("another identifier", other_id.encode().to_vec(), Some((6, 7))),
        (
            "KEEPALIVE first",
            bgp_proto::wire::keepalive().to_vec(),
            Some((5, 1)),
        ),
        ("UPDATE first", end_of_rib().to_vec(), Some((5, 1))),
        (
            "NOTIFICATION",
            Notification::cease(cease::ADMIN_SHUTDOWN).encode().to_vec(),
            None,
        ),
        (
            "an OPEN, but the connection was closed",
            [good.encode(), Notification::cease(cease::COLLISION).encode()].concat(),
            None,
        ),
        ("an OPEN and then silence", good.encode().to_vec(), Some((4, 0))),
    ];
    for (name, bytes, answer) in cases {
        println!("{name}");
        let mut settled = Settled::new();
        let (conn, done) = settled.lab.incoming();
        settled.is_undisturbed(&done);
        let mut all = settled.lab.bytes(conn, &bytes);
        settled.is_undisturbed(&all);
        // The established session is kept alive meanwhile.
        for _ in 0..10 {
            let passed = settled.lab.pass(Duration::from_secs(10));
            let passed: Vec<Effect> = passed.into_iter().map(|(_, did)| did).collect();
            settled.is_undisturbed(&passed);
            all.extend(passed);
        }
        let decoded_ops: Vec<(u64, u8, u8)> = notifications(&all).iter().map(|n| (n.0, n.1, n.2)).collect();
        let expected: Vec<(u64, u8, u8)> = answer.iter().map(|(code, sub)| (conn, *code, *sub)).collect();
        assert_eq!(decoded_ops, expected, "{name}");
        assert!(all.contains(&Effect::Close(conn)), "{name}: {all:?}");
        // Nor if the peer just closes the connection.
        let (conn, _) = settled.lab.incoming();
        let done = settled.lab.closed(conn, Some("reset"));
        settled.is_undisturbed(&done);
    }
}

#[test]
fn the_newest_connection_beside_an_established_one_is_kept() {
    let mut settled = Settled::new();
    let (mut last, _) = settled.lab.incoming();
    for _ in 0..1000 {
        let (conn, done) = settled.lab.incoming();
        assert_eq!(notifications(&done), [(last, 6, 7, vec![])]);
        assert!(done.contains(&Effect::Close(last)));
        last = conn;
    }
    settled.is_undisturbed(&[]);
    settled.lab.open(last, &restarting(true).1);
    assert!(is_up(&settled.lab.keepalive(last)));
}

#[test]
fn a_connection_beside_the_established_one_takes_over_when_that_breaks() {
    let mut lab = Settled::new().lab;
    let (conn, _) = lab.incoming();
    let done = lab.closed(0, Some("reset"));
    assert!(matches!(done[0], Effect::Down(true, _)));
    assert_eq!(lab.state(), State::OpenSent);
    lab.open(conn, &restarting(true).1);
    assert!(is_up(&lab.keepalive(conn)));
    // A Cease that resolves a collision ends the established session if it arrives on that connection.
    let mut lab = Settled::new().lab;
    let (conn, _) = lab.incoming();
    let done = lab.bytes(0, &Notification::cease(cease::COLLISION).encode());
    assert!(matches!(
        done.as_slice(),
        [
            Effect::Close(0),
            Effect::Down(true, _),
            Effect::State(State::OpenSent)
        ]
    ));
    lab.open(conn, &restarting(true).1);
    assert!(is_up(&lab.keepalive(conn)));
}

#[test]
fn what_ends_the_session_ends_the_connection_beside_it() {
    let shutdown = |lab: &mut Lab| lab.stop(cease::ADMIN_SHUTDOWN, "");
    let too_many = |lab: &mut Lab| {
        lab.input(Input::Fail {
            notification: Notification::cease(cease::MAX_PREFIXES),
            idle_for: Duration::from_secs(60),
        })
    };
    let abandon = |lab: &mut Lab| lab.input(Input::Abandon);
    for end in [&shutdown as &dyn Fn(&mut Lab) -> Vec<Effect>, &too_many, &abandon] {
        let mut lab = Settled::new().lab;
        let (conn, _) = lab.incoming();
        let done = end(&mut lab);
        assert!(
            done.contains(&Effect::Close(0)) && done.contains(&Effect::Close(conn)),
            "{done:?}"
        );
        let downs: Vec<&Effect> = done
            .iter()
            .filter(|did| matches!(did, Effect::Down(..)))
            .collect();
        assert!(matches!(downs.as_slice(), [Effect::Down(true, _)]), "{done:?}");
        assert_eq!(lab.state(), State::Idle);
    }
}

#[test]
fn an_established_session_is_kept() {
    let mut lab = Lab::established(config());
    lab.wait(Duration::from_secs(60));
    let (_, done) = lab.incoming();
    assert_eq!(refusal(&done), (6, 7, vec![]));
    assert_eq!(lab.state(), State::Established);
    assert!(matches!(
        lab.bytes(0, &end_of_rib()).as_slice(),
        [Effect::Routes(_)]
    ));
}

/// The end of a restart in progress.
fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(3600))
}

/// The R bit, and the F bit of each family in graceful restart and in long-lived graceful restart (RFC 4724
/// §3, RFC 9494 §3.1).
fn bits(done: &[Effect]) -> (bool, Vec<bool>) {
    let open = done.iter().find_map(|did| match did {
        Effect::Open(_, open) => Some(open),
        _ => None,
    });
    let open = open.expect("an OPEN");
    let restart = open.graceful_restart().unwrap();
    let short = restart.families.iter().map(|(_, forwarding)| *forwarding);
    let long = Family::ALL.map(|family| open.long_lived(family).unwrap().forwarding);
    (restart.restarting, short.chain(long).collect())
}

#[test]
fn the_first_open_has_the_forwarding_state_of_the_start() {
    let long = |family| LongLivedFamily {
        family,
        forwarding: true,
        stale_time: 60,
    };
    for (restarting, preserved) in [(false, false), (true, false), (true, true), (false, true)] {
        let mut lab = Lab::new(SessionConfig {
            graceful_restart: Some(120),
            restarting_until: if restarting { soon() } else { None },
            forwarding_preserved: preserved,
            extra_capabilities: vec![Capability::LongLivedGracefulRestart(
                Family::ALL.map(long).to_vec(),
            )],
            ..config()
        });
        lab.begin();
        let mut conn = 0;
        let again = |lab: &mut Lab, conn: &mut u64| {
            lab.closed(*conn, None);
            lab.wait(lab.timeout());
            lab.tick();
            *conn += 1;
            bits(&lab.connected(*conn))
        };
        assert_eq!(bits(&lab.connected(0)), (restarting, vec![preserved; 4]));
        // Still the first session.
        assert_eq!(again(&mut lab, &mut conn), (restarting, vec![preserved; 4]));
        lab.open(conn, &peer_open(LOW));
        assert!(is_up(&lab.keepalive(conn)));
        // The routes were in the kernel all the time.
        assert_eq!(again(&mut lab, &mut conn), (false, vec![true; 4]));
    }
}

#[test]
fn a_session_long_after_the_start_has_no_restart_bit() {
    let mut lab = Lab::new(SessionConfig {
        graceful_restart: Some(120),
        restarting_until: soon(),
        extra_capabilities: vec![Capability::LongLivedGracefulRestart(
            Family::ALL
                .map(|family| LongLivedFamily {
                    family,
                    forwarding: true,
                    stale_time: 60,
                })
                .to_vec(),
        )],
        ..config()
    });
    lab.wait(Duration::from_secs(7200));
    lab.begin();
    assert!(!bits(&lab.connected(0)).0);
}

#[test]
fn only_the_first_open_has_the_restart_bit() {
    let decoded_ops = |done: &[Effect]| match &done[0] {
        Effect::Open(_, open) => open.graceful_restart().unwrap().restarting,
        other => panic!("{other:?}"),
    };
    let mut lab = Lab::new(SessionConfig {
        graceful_restart: Some(120),
        restarting_until: soon(),
        ..config()
    });
    lab.begin();
    assert!(decoded_ops(&lab.connected(0)));
    lab.open(0, &peer_open(LOW));
    lab.keepalive(0);
    lab.closed(0, None);
    lab.wait(lab.timeout());
    lab.tick();
    assert!(!decoded_ops(&lab.connected(1)));
}

// What both ends must have announced

/// What is retained when the connection breaks, with these graceful restart capabilities on each side.
fn kept_after_break(ours: Option<GracefulRestart>, theirs: GracefulRestart) -> FamilySet {
    let mut open = peer_open(LOW);
    open.capabilities.push(Capability::GracefulRestart(theirs));
    let mut lab = Lab::open_sent(SessionConfig {
        graceful_restart: ours.as_ref().map(|ours| ours.restart_time),
        extra_capabilities: ours.into_iter().map(Capability::GracefulRestart).collect(),
        families: FamilySet::from_iter([Family::Ipv6]),
        ..config()
    });
    lab.open(0, &open);
    assert!(is_up(&lab.keepalive(0)));
    lab.closed(0, None);
    lab.checker.retained.unwrap().0
}

fn restart(notification: bool, families: &[Family]) -> GracefulRestart {
    GracefulRestart {
        notification,
        restart_time: 77,
        families: families.iter().map(|family| (*family, true)).collect(),
        ..GracefulRestart::default()
    }
}

#[test]
fn only_families_of_the_session_are_kept_and_only_if_we_offered_it() {
    let both = restart(false, &[Family::Ipv4, Family::Ipv6]);
    let ipv6 = FamilySet::from_iter([Family::Ipv6]);
    assert_eq!(kept_after_break(Some(both.clone()), both.clone()), ipv6);
    assert_eq!(kept_after_break(None, both), FamilySet::EMPTY);
}

#[test]
fn one_side_alone_does_not_make_notifications_survivable() {
    for ours in [false, true] {
        let (config, _) = restarting(ours);
        let (_, open) = restarting(!ours);
        let mut lab = Lab::open_sent(config.clone());
        lab.open(0, &open);
        lab.keepalive(0);
        let done = lab.stop(cease::ADMIN_SHUTDOWN, "");
        assert_eq!(refusal(&done), (6, 2, vec![]), "RFC 8538 §2");
        let mut lab = Lab::open_sent(config);
        lab.open(0, &open);
        lab.keepalive(0);
        lab.bytes(0, &Notification::cease(cease::ADMIN_SHUTDOWN).encode());
        assert_eq!(lab.checker.retained, Some((FamilySet::EMPTY, Duration::ZERO)));
    }
}

#[test]
fn a_hard_reset_is_for_established_sessions() {
    let (ours, open) = restarting(true);
    let mut lab = Lab::open_sent(ours);
    lab.open(0, &open);
    let done = lab.stop(cease::ADMIN_SHUTDOWN, "");
    assert_eq!(refusal(&done), (6, 2, vec![]), "there are no routes yet");
}

#[test]
fn what_our_reduced_open_did_not_offer_does_not_hold() {
    let (ours, open) = restarting(false);
    let mut lab = Lab::open_sent(ours);
    lab.bytes(0, &Notification::new(2, 7, vec![]).encode());
    lab.wait(lab.timeout());
    lab.tick();
    lab.connected(1);
    lab.open(1, &open);
    assert!(is_up(&lab.keepalive(1)));
    lab.closed(1, None);
    let none = (FamilySet::EMPTY, Duration::ZERO);
    assert_eq!(lab.checker.retained, Some(none), "RFC 4724 §4.2");
}

#[test]
fn the_configuration_offers_what_it_says() {
    let ours = SessionConfig {
        graceful_restart: Some(30),
        restart_on_notification: true,
        ..config()
    };
    let restart_bits = RestartBits {
        restarting: true,
        forwarding_preserved: true,
    };
    let open = bgp_proto::session::local_open(&ours, restart_bits);
    let offered = open.graceful_restart().unwrap();
    assert!(offered.restarting && offered.notification);
    assert_eq!(offered.restart_time, 30);
}

#[test]
fn only_the_first_session_of_a_process_has_the_restart_bit() {
    let ours = SessionConfig {
        graceful_restart: Some(30),
        restarting_until: soon(),
        ..config()
    };
    let decoded_ops = |session: Session| {
        let mut session = session;
        let now = std::time::Instant::now();
        session.handle(now, Input::Start);
        let conn = ConnId(0);
        session.handle(
            now,
            Input::Connected {
                conn,
                incoming: false,
            },
        );
        let sent = std::iter::from_fn(|| session.poll_output()).find_map(|output| match output {
            Output::Send { bytes, .. } => Some(bytes),
            _ => None,
        });
        let open = Open::decode(&sent.unwrap().slice(19..)).unwrap();
        open.graceful_restart().unwrap().restarting
    };
    assert!(decoded_ops(Session::new(ours.clone(), 1)));
    assert!(!decoded_ops(Session::new(ours, 1).as_replacement()));
}

/// What is retained: the families, the restart time, then the long-lived stale time.
type Kept = (FamilySet, Duration, Vec<(Family, Duration)>);

/// A lab with long-lived graceful restart on both sides; the peer for IPv6 only.
fn long_lived(restart_time: u16) -> Vec<Kept> {
    let item = |family, stale_time| LongLivedFamily {
        family,
        forwarding: true,
        stale_time,
    };
    let ours = SessionConfig {
        graceful_restart: Some(120),
        extra_capabilities: vec![Capability::LongLivedGracefulRestart(vec![
            item(Family::Ipv4, 500),
            item(Family::Ipv6, 500),
        ])],
        ..config()
    };
    let mut open = peer_open(LOW);
    open.capabilities
        .push(Capability::GracefulRestart(GracefulRestart {
            restarting: false,
            notification: false,
            restart_time,
            families: vec![(Family::Ipv4, true), (Family::Ipv6, true)],
        }));
    open.capabilities
        .push(Capability::LongLivedGracefulRestart(vec![item(
            Family::Ipv6,
            900,
        )]));
    let mut lab = Lab::open_sent(ours);
    lab.open(0, &open);
    assert!(is_up(&lab.keepalive(0)));
    let mut kept = Vec::new();
    lab.session.handle(
        lab.now,
        Input::Closed {
            conn: ConnId(0),
            error: None,
        },
    );
    while let Some(output) = lab.session.poll_output() {
        if let Output::Down {
            retain,
            retain_for,
            retain_longer,
            ..
        } = output
        {
            kept.push((retain, retain_for, retain_longer));
        }
    }
    kept
}

#[test]
fn long_lived_routes_stay_for_the_peers_time() {
    let longer = vec![(Family::Ipv6, Duration::from_secs(900))];
    let both = FamilySet::ALL;
    assert_eq!(long_lived(60), [(both, Duration::from_secs(60), longer.clone())]);
    // RFC 9494 §4.2: with a restart time of zero the routes are long-lived stale at once.
    assert_eq!(long_lived(0), [(both, Duration::ZERO, longer)]);
}
