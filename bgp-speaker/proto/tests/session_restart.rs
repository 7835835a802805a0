//! Graceful restart as the session sees it (RFC 4724, RFC 8538): what outlives a connection, and what replaces it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod session_util;

use std::time::Duration;

use bgp_proto::session::{ConnId, DownReason, Input, Output, Session, SessionConfig, State};
use bgp_proto::types::{Family, FamilySet};
use bgp_proto::wire::{Capability, GracefulRestart, LongLivedFamily, Notification, Open, cease};
use session_util::{Did, LOW, Lab, config, end_of_rib, is_up, notifications, peer_open, refusal};

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
        assert_eq!(lab.checker.retained, dropped, "a Hard Reset means it");
        let mut lab = graceful(survives);
        let done = lab.stop(cease::ADMIN_SHUTDOWN, "");
        let told = if survives {
            (6, 9, vec![6, 2])
        } else {
            (6, 2, vec![])
        };
        assert_eq!(refusal(&done), told);
        assert_eq!(lab.checker.retained, dropped, "our own will");
    }
}

#[test]
fn nothing_is_kept_without_time_or_by_our_own_leave() {
    let none = Some((FamilySet::EMPTY, Duration::ZERO));
    let mut lab = graceful(true);
    lab.give(Input::Abandon);
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
    assert_eq!(done[0], Did::Close(0));
    assert!(matches!(&done[1], Did::Down(true, DownReason::Closed(Some(_)))));
    assert!(matches!(&done[2], Did::Open(c, _) if *c == conn));
    assert_eq!(notifications(&done), [], "the dead need no NOTIFICATION");
    assert_eq!(lab.checker.retained.unwrap().1, Duration::from_secs(77));
    lab.open(conn, &restarting(false).1);
    assert!(is_up(&lab.keepalive(conn)));
}

#[test]
fn an_established_session_is_kept() {
    let mut lab = Lab::established(config());
    lab.wait(Duration::from_secs(60));
    let (_, done) = lab.incoming();
    assert_eq!(refusal(&done), (6, 7, vec![]));
    assert_eq!(lab.state(), State::Established);
    assert!(matches!(lab.bytes(0, &end_of_rib()).as_slice(), [Did::Routes(_)]));
}

#[test]
fn only_the_first_open_says_that_we_restarted() {
    let said = |done: &[Did]| match &done[0] {
        Did::Open(_, open) => open.graceful_restart().unwrap().restarting,
        other => panic!("{other:?}"),
    };
    let mut lab = Lab::new(SessionConfig {
        graceful_restart: Some(120),
        ..config()
    });
    lab.begin();
    assert!(said(&lab.connected(0)));
    lab.open(0, &peer_open(LOW));
    lab.keepalive(0);
    lab.closed(0, None);
    lab.wait(lab.timeout());
    lab.tick();
    assert!(!said(&lab.connected(1)));
}

// What both must have said

/// What is retained when the connection breaks, where each side has this graceful restart.
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
    let open = bgp_proto::session::our_open(&ours, true);
    let offered = open.graceful_restart().unwrap();
    assert!(offered.restarting && offered.notification);
    assert_eq!(offered.restart_time, 30);
}

#[test]
fn only_the_first_session_of_a_process_says_that_it_restarted() {
    let ours = SessionConfig {
        graceful_restart: Some(30),
        ..config()
    };
    let said = |session: Session| {
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
    assert!(said(Session::new(ours.clone(), 1)));
    assert!(!said(Session::new(ours, 1).in_place_of_another()));
}

/// What is kept: families, until when, and then how long.
type Kept = (FamilySet, Duration, Vec<(Family, Duration)>);

/// A lab with long-lived graceful restart on both sides, the peer for IPv6 alone.
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
    // RFC 9494 §4.2: a restart time of zero only means that they are long-lived at once.
    assert_eq!(long_lived(0), [(both, Duration::ZERO, longer)]);
}
