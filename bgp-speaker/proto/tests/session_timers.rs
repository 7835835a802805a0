//! The timers of a session, exact to the instant, and retries after a failure.
#![cfg(test)]

mod session_util;

use std::time::Duration;

use bgp_proto::session::{DownReason, Input, SessionConfig, State};
use bgp_proto::types::HoldTime;
use bgp_proto::wire::{Notification, Open, cease, keepalive};
use session_util::{
    Effect, HIGH, LOW, Lab, config, connects, end_of_rib, is_down, is_up, notifications, peer_open, raw,
    refusal,
};

const SECOND: Duration = Duration::from_secs(1);

// Timers

#[test]
fn the_hold_timer_is_exact() {
    let mut lab = Lab::established(config());
    lab.wait(Duration::from_secs(50));
    lab.keepalive(0);
    lab.wait(Duration::from_secs(30));
    lab.bytes(0, &end_of_rib());
    let done = lab.pass(Duration::from_nanos(89_999_999_999));
    assert!(
        done.iter().all(|(_, did)| matches!(did, Effect::Keepalive(0))),
        "{done:?}"
    );
    lab.wait(Duration::from_nanos(1));
    assert_eq!(lab.session.poll_timeout(), Some(lab.now));
    let done = lab.tick();
    assert_eq!(refusal(&done), (4, 0, vec![]));
    assert!(is_down(&done));
}

#[test]
fn what_is_read_late_still_counts() {
    let mut lab = Lab::established(config());
    lab.wait(Duration::from_secs(100));
    let done = lab.keepalive(0);
    assert!(notifications(&done).is_empty() && lab.state() == State::Established);
}

#[test]
fn what_waits_to_be_read_counts_too() {
    let mut lab = Lab::established(config());
    for _ in 0..10 {
        lab.wait(Duration::from_secs(89));
        let done = lab.input(Input::Unread);
        assert!(notifications(&done).is_empty());
        lab.input(Input::Wrote);
    }
    lab.wait(Duration::from_secs(90));
    assert_eq!(refusal(&lab.tick()), (4, 0, vec![]));
    assert_eq!(lab.input(Input::Unread), [], "too late");
    let mut lab = Lab::open_confirm(config());
    lab.wait(Duration::from_secs(80));
    lab.input(Input::Unread);
    lab.wait(Duration::from_secs(10));
    assert_eq!(
        refusal(&lab.tick()),
        (4, 0, vec![]),
        "before that it has no effect"
    );
}

#[test]
fn a_refresh_does_not_restart_the_hold_timer() {
    let mut lab = Lab::established(config());
    lab.wait(Duration::from_secs(89));
    lab.bytes(0, &raw(5, &[0, 1, 0, 1]));
    lab.wait(SECOND);
    assert_eq!(refusal(&lab.tick()), (4, 0, vec![]));
}

/// An incoming connection must send its OPEN soon, or makes way for others.
#[test]
fn a_silent_incoming_connection_ends_soon() {
    for partial in [&[][..], &[0xFF; 18]] {
        let mut lab = Lab::new(SessionConfig {
            passive: true,
            ..config()
        });
        lab.begin();
        let (conn, _) = lab.incoming();
        assert_eq!(lab.timeout(), Duration::from_secs(15));
        lab.wait(Duration::from_secs(14));
        assert_eq!(lab.bytes(conn, partial), []);
        assert_eq!(
            lab.timeout(),
            SECOND,
            "octets other than an OPEN do not extend the time"
        );
        lab.wait(SECOND);
        assert_eq!(refusal(&lab.tick()), (4, 0, vec![]));
        assert_eq!(lab.state(), State::Active);
    }
}

#[test]
fn four_minutes_for_an_open() {
    let mut lab = Lab::open_sent(config());
    assert_eq!(lab.timeout(), Duration::from_secs(240));
    let done: Vec<_> = lab.pass(Duration::from_secs(240));
    assert_eq!(done[0].0, Duration::from_secs(240));
    let done: Vec<Effect> = done.into_iter().map(|(_, did)| did).collect();
    assert_eq!(refusal(&done), (4, 0, vec![]));
    assert_eq!(lab.state(), State::Active);
}

#[test]
fn the_negotiated_hold_time_from_open_on() {
    let mut lab = Lab::open_sent(config());
    let mut open = peer_open(LOW);
    open.hold_time = HoldTime::new(30).unwrap();
    lab.open(0, &open);
    let done = lab.pass(Duration::from_secs(30));
    let end = done
        .iter()
        .find(|(_, did)| matches!(did, Effect::Notification(..)));
    assert_eq!(end.unwrap().0, Duration::from_secs(30));
    let keepalives = done
        .iter()
        .filter(|(_, did)| *did == Effect::Keepalive(0))
        .count();
    assert!((2..=3).contains(&keepalives));
}

#[test]
fn keepalives_at_a_third_of_the_hold_time_less_jitter() {
    for (hold, least, most) in [(90, 22_500, 30_000), (9, 2_250, 3_000), (3, 1_000, 1_000)] {
        let mut lab = Lab::open_sent(config());
        let mut open = peer_open(LOW);
        open.hold_time = HoldTime::new(hold).unwrap();
        lab.open(0, &open);
        lab.keepalive(0);
        let mut gaps = Vec::new();
        for _ in 0..200 {
            let gap = lab.timeout();
            lab.wait(gap);
            assert_eq!(lab.tick(), [Effect::Keepalive(0)]);
            assert_eq!(lab.input(Input::Wrote), []);
            lab.keepalive(0);
            gaps.push(gap);
        }
        let band = Duration::from_millis(least)..=Duration::from_millis(most);
        assert!(gaps.iter().all(|gap| band.contains(gap)), "{hold}: {gaps:?}");
        gaps.sort();
        gaps.dedup();
        assert!(hold == 3 || gaps.len() > 50, "jittered");
    }
}

#[test]
fn a_written_message_replaces_a_keepalive() {
    let mut lab = Lab::established(config());
    for _ in 0..100 {
        lab.wait(Duration::from_secs(20));
        assert_eq!(lab.input(Input::Wrote), []);
        lab.keepalive(0);
    }
}

#[test]
fn hold_time_zero_means_no_timers() {
    for zero in [true, false] {
        let hold = HoldTime::new(if zero { 0 } else { 90 }).unwrap();
        let mut lab = Lab::open_sent(SessionConfig {
            hold_time: hold,
            ..config()
        });
        let mut open = peer_open(LOW);
        open.hold_time = HoldTime::new(if zero { 90 } else { 0 }).unwrap();
        assert_eq!(
            lab.open(0, &open),
            [Effect::Keepalive(0), Effect::State(State::OpenConfirm)]
        );
        assert_eq!(
            lab.timeout(),
            Duration::from_secs(240),
            "a half-open connection is closed"
        );
        lab.keepalive(0);
        assert_eq!(lab.session.poll_timeout(), None);
        lab.wait(Duration::from_secs(1_000_000));
        assert_eq!(lab.tick(), []);
        lab.input(Input::Wrote);
        lab.keepalive(0);
        lab.bytes(0, &end_of_rib());
        assert_eq!(lab.session.poll_timeout(), None);
        assert_eq!(lab.state(), State::Established);
    }
}

#[test]
fn the_send_hold_timer() {
    for (hold, limit) in [(90, 480), (600, 1200)] {
        let hold_time = HoldTime::new(hold).unwrap();
        let mut lab = Lab::open_sent(SessionConfig {
            hold_time,
            ..config()
        });
        lab.open(
            0,
            &Open {
                hold_time,
                ..peer_open(LOW)
            },
        );
        lab.wait(SECOND);
        lab.keepalive(0);
        lab.wait(Duration::from_secs(5));
        lab.input(Input::Wrote);
        let written = lab.now;
        // The peer sends but reads nothing: none of our messages is written.
        loop {
            let step = lab.timeout().min(Duration::from_secs(20));
            lab.wait(step);
            lab.bytes(0, &keepalive());
            let done = lab.tick();
            if lab.state() != State::Established {
                assert_eq!(notifications(&done), []);
                break;
            }
            assert!(lab.now - written < Duration::from_secs(limit));
        }
        assert_eq!(lab.now - written, Duration::from_secs(limit));
        assert_eq!(
            lab.session.stats().last_sent,
            Some(Notification::send_hold_timer_expired())
        );
    }
}

#[test]
fn an_attempt_that_gets_no_answer() {
    let mut lab = Lab::new(config());
    lab.begin();
    let limit = lab.timeout();
    assert!((Duration::from_millis(3750)..=Duration::from_secs(5)).contains(&limit));
    lab.wait(limit);
    let done = lab.tick();
    assert!(matches!(
        done.as_slice(),
        [
            Effect::Close(0),
            Effect::Down(false, DownReason::Closed(Some(_))),
            Effect::State(State::Active)
        ]
    ));
    lab.wait(lab.timeout());
    assert_eq!(lab.tick(), [Effect::Connect(1), Effect::State(State::Connect)]);
}

// Failures and retries

#[test]
fn any_connect_retry_time_works() {
    for connect_retry in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let mut lab = Lab::new(SessionConfig {
            connect_retry,
            ..config()
        });
        lab.begin(); // and `Lab` checks that time advances
        let done = lab.pass(Duration::from_secs(60));
        assert!(done.len() <= 2500, "{}", done.len());
        assert!(lab.timeout() <= Duration::from_secs(24 * 3600));
    }
}

#[test]
fn the_first_retry_is_fast_and_repeated_failures_wait() {
    let mut lab = Lab::new(config());
    lab.begin();
    let mut waits = Vec::new();
    for conn in 0..12 {
        let done = lab.closed(conn, Some("Connection refused"));
        assert_eq!(
            done,
            [
                Effect::Down(false, DownReason::Closed(Some("Connection refused".to_owned()))),
                Effect::State(State::Active)
            ]
        );
        let begin = lab.now;
        lab.wait(lab.timeout());
        waits.push(lab.now - begin);
        assert_eq!(
            lab.tick(),
            [Effect::Connect(conn + 1), Effect::State(State::Connect)]
        );
    }
    assert!(waits[0] <= Duration::from_millis(50));
    assert!(waits[..4].iter().sum::<Duration>() < SECOND, "{waits:?}");
    let band = Duration::from_millis(3750)..=Duration::from_secs(5);
    assert!(waits[8..].iter().all(|wait| band.contains(wait)), "{waits:?}");
}

#[test]
fn start_resets_the_back_off() {
    let mut lab = Lab::new(config());
    lab.begin();
    for conn in 0..10 {
        lab.closed(conn, None);
        lab.wait(lab.timeout());
        lab.tick();
    }
    lab.stop(cease::ADMIN_RESET, "");
    assert!(
        matches!(lab.begin().as_slice(), [Effect::Connect(11), _]),
        "at once"
    );
    lab.closed(11, None);
    assert!(lab.timeout() <= Duration::from_millis(50));
}

#[test]
fn a_session_that_flaps_waits_and_one_that_was_stable_does_not() {
    let mut lab = Lab::new(config());
    lab.begin();
    let mut conn = 0;
    let mut flap = |lab: &mut Lab, up_for: Duration| {
        lab.connected(conn);
        lab.open(conn, &peer_open(LOW));
        assert!(is_up(&lab.keepalive(conn)));
        lab.wait(up_for);
        assert!(is_down(&lab.closed(conn, None)));
        let wait = lab.timeout();
        lab.wait(wait);
        conn += 1;
        assert!(lab.tick().contains(&Effect::Connect(conn)));
        wait
    };
    let waits: Vec<Duration> = (0..10).map(|_| flap(&mut lab, SECOND)).collect();
    assert!(waits[0] <= Duration::from_millis(50));
    assert!(waits[9] >= Duration::from_millis(3750), "{waits:?}");
    assert!(flap(&mut lab, Duration::from_secs(30)) <= Duration::from_millis(50));
}

#[test]
fn a_half_open_connection_of_the_peer_does_not_stop_us() {
    let mut lab = Lab::new(config());
    lab.begin();
    lab.incoming();
    let done = lab.closed(0, Some("no route to host"));
    assert_eq!(done, [], "the peer's connection may still get there");
    let done = lab.pass(Duration::from_secs(2));
    assert!(matches!(connects(&done).as_slice(), [(_, 1)]), "{done:?}");
    assert_eq!(lab.state(), State::OpenSent);
    lab.connected(1);
    lab.open(1, &peer_open(LOW));
    let done = lab.keepalive(1);
    assert!(is_up(&done));
    assert_eq!(refusal(&done), (6, 7, vec![]));
}

#[test]
fn a_new_connection_of_the_peer_takes_the_place_of_an_unfinished_one() {
    let passive = SessionConfig {
        passive: true,
        ..config()
    };
    for opened in [false, true] {
        let mut lab = Lab::new(passive.clone());
        lab.begin();
        let (first, _) = lab.incoming();
        if opened {
            lab.open(first, &peer_open(HIGH));
        }
        for _ in 0..1000 {
            let (_, done) = lab.incoming();
            assert_eq!(refusal(&done), (6, 7, vec![]));
        }
        let (last, _) = lab.incoming();
        lab.open(last, &peer_open(HIGH));
        assert!(is_up(&lab.keepalive(last)));
        assert_eq!(lab.session.stats().collisions, 1001);
    }
}

/// The peer has time to connect; whichever side is first, there is one connection.
#[test]
fn the_peer_may_connect_first() {
    let wait = Duration::from_millis(300);
    let mut lab = Lab::new(config());
    assert_eq!(lab.input(Input::StartAfter(wait)), [Effect::State(State::Active)]);
    assert_eq!((lab.state(), lab.timeout()), (State::Active, wait));
    let (conn, _) = lab.incoming();
    lab.bytes(conn, &peer_open(HIGH).encode());
    assert!(
        connects(&lab.pass(SECOND)).is_empty(),
        "the peer's connection is enough"
    );
    let mut lab = Lab::new(config());
    lab.input(Input::StartAfter(wait));
    let done = lab.pass(wait);
    assert_eq!(connects(&done).len(), 1, "no output of this kind: {done:?}");
}
