//! A session in scripted conversations, in virtual time: the way up and down, timers to the instant, errors to the octet.

mod session_util;

use std::time::Duration;

use bgp_proto::session::{DownReason, Input, State};
use bgp_proto::types::{Asn, Family, FamilySet, HoldTime};
use bgp_proto::wire::{
    AddPathDirection, Capability, GracefulRestart, Notification, Open, Refresh, RefreshKind, cease, keepalive,
};
use session_util::{
    Did, HIGH, INCOMING, LOW, Lab, config, connects, end_of_rib, id, notifications, peer_open, raw, refusal,
    withdrawals,
};

const SECOND: Duration = Duration::from_secs(1);

fn is_down(done: &[Did]) -> bool {
    done.iter().any(|did| matches!(did, Did::Down(true, _)))
}

fn is_up(done: &[Did]) -> bool {
    done.iter().any(|did| matches!(did, Did::Up(..)))
}

// The way up

#[test]
fn we_connect() {
    let mut lab = Lab::new(config());
    assert_eq!(lab.state(), State::Idle);
    assert_eq!(lab.session.poll_timeout(), None);
    assert_eq!(lab.begin(), [Did::Connect(0), Did::State(State::Connect)]);
    let done = lab.connected(0);
    let [Did::Open(0, open), Did::State(State::OpenSent)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!((open.asn, open.router_id), (Asn(64512), id(0x0A00_0002)));
    assert_eq!(open.families(), FamilySet::ALL);
    assert!(open.route_refresh() && open.enhanced_refresh() && open.extended_message());
    assert_eq!(open.four_octet_as(), Some(Asn(64512)));
    let done = lab.open(0, &peer_open(LOW));
    assert_eq!(done, [Did::Keepalive(0), Did::State(State::OpenConfirm)]);
    let done = lab.keepalive(0);
    let [Did::State(State::Established), Did::Up(0, agreed)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!(agreed.families, FamilySet::ALL);
    assert!(agreed.four_octet_as && agreed.refresh);
    assert!(!agreed.enhanced_refresh && !agreed.extended_message);
    assert_eq!(agreed.remote_id(), id(LOW));
    assert!(matches!(lab.bytes(0, &end_of_rib()).as_slice(), [Did::Routes(_)]));
}

#[test]
fn the_peer_connects() {
    for passive in [true, false] {
        let mut lab = Lab::new(bgp_proto::session::SessionConfig { passive, ..config() });
        let done = lab.begin();
        if passive {
            assert_eq!(done, [Did::State(State::Active)]);
            assert_eq!(lab.session.poll_timeout(), None, "nothing to do but wait");
        }
        let (conn, done) = lab.incoming();
        assert!(matches!(done.as_slice(), [Did::Open(c, _), Did::State(State::OpenSent)] if *c == conn));
        let done = lab.open(conn, &peer_open(LOW));
        assert_eq!(done, [Did::Keepalive(conn), Did::State(State::OpenConfirm)]);
        let done = lab.keepalive(conn);
        assert!(is_up(&done));
        assert_eq!(done.contains(&Did::Close(0)), !passive, "our attempt is dropped");
        assert!(notifications(&done).is_empty(), "nobody was there to be told");
    }
}

#[test]
fn both_messages_in_one_read_and_octet_by_octet() {
    let whole = [peer_open(LOW).encode(), keepalive(), end_of_rib()].concat();
    let mut lab = Lab::open_sent(config());
    assert!(is_up(&lab.bytes(0, &whole)));
    let mut lab = Lab::open_sent(config());
    let mut buf = bytes::BytesMut::new();
    let mut done = Vec::new();
    for octet in whole {
        buf.extend_from_slice(&[octet]);
        let conn = bgp_proto::session::ConnId(0);
        done.extend(lab.give(Input::Received { conn, buf: &mut buf }));
    }
    assert!(is_up(&done) && matches!(done.last(), Some(Did::Routes(_))) && buf.is_empty());
}

#[test]
fn negotiation() {
    let ours = |extra| bgp_proto::session::SessionConfig {
        extra_capabilities: extra,
        ..config()
    };
    let way = |receive, send| AddPathDirection { receive, send };
    let extra = vec![
        Capability::AddPath(vec![
            (Family::Ipv4, way(true, true)),
            (Family::Ipv6, way(true, false)),
        ]),
        Capability::ExtendedNextHop(vec![Family::Ipv4, Family::Ipv6]),
    ];
    let mut lab = Lab::open_sent(ours(extra));
    let mut open = peer_open(LOW);
    open.hold_time = HoldTime::new(9).unwrap();
    open.capabilities = vec![
        Capability::Multiprotocol(Family::Ipv4),
        Capability::EnhancedRefresh,
        Capability::ExtendedMessage,
        Capability::AddPath(vec![
            (Family::Ipv4, way(false, true)),
            (Family::Ipv6, way(true, true)),
        ]),
        Capability::ExtendedNextHop(vec![Family::Ipv4, Family::Ipv6]),
    ];
    lab.open(0, &open);
    lab.keepalive(0);
    let agreed = lab.session.negotiated().unwrap().clone();
    let ipv4 = FamilySet::from_iter([Family::Ipv4]);
    assert_eq!(agreed.families, ipv4);
    assert_eq!(agreed.hold_time.seconds(), 9);
    assert!(!agreed.four_octet_as && !agreed.refresh);
    assert!(agreed.enhanced_refresh && agreed.extended_message);
    assert_eq!(agreed.add_path_receive, ipv4);
    assert_eq!(agreed.add_path_send, FamilySet::EMPTY);
    assert_eq!(agreed.extended_next_hop, ipv4, "only for families that are up");
    assert_eq!(agreed.remote, open);
}

#[test]
fn a_peer_without_capabilities_has_ipv4() {
    let mut lab = Lab::open_sent(config());
    let open = Open {
        capabilities: Vec::new(),
        ..peer_open(LOW)
    };
    lab.open(0, &open);
    assert!(is_up(&lab.keepalive(0)));
    let agreed = lab.session.negotiated().unwrap();
    assert_eq!(agreed.families, FamilySet::from_iter([Family::Ipv4]));
    assert!(!agreed.four_octet_as);
}

// Errors

#[test]
fn open_errors_have_their_code_subcode_and_data() {
    let good = peer_open(LOW).encode();
    let change = |at: usize, octets: &[u8]| {
        let mut open = good.to_vec();
        open[at..at + octets.len()].copy_from_slice(octets);
        open
    };
    let body = |parameters: &[u8]| {
        let mut body = vec![4, 0xFD, 0xE9, 0, 90, 10, 0, 0, 1];
        body.push(u8::try_from(parameters.len()).unwrap());
        body.extend_from_slice(parameters);
        raw(1, &body).to_vec()
    };
    let wrong_as = Open {
        asn: Asn(65002),
        capabilities: vec![Capability::FourOctetAs(Asn(65002))],
        ..peer_open(LOW)
    };
    let zero_as = change(20, &[0, 0]);
    let no_family = [2, 6, 1, 4, 0, 1, 0, 2]; // IPv4 multicast alone
    let ours = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    let cases: Vec<(&str, Vec<u8>, u8, Vec<u8>)> = vec![
        ("version 3", change(19, &[3]), 1, vec![0, 4]),
        ("version 5", change(19, &[5]), 1, vec![0, 4]),
        ("another AS", wrong_as.encode().to_vec(), 2, vec![]),
        ("AS 0", zero_as, 2, vec![]),
        ("identifier 0.0.0.0", change(24, &[0, 0, 0, 0]), 3, vec![]),
        ("hold time 1", change(22, &[0, 1]), 6, vec![]),
        ("hold time 2", change(22, &[0, 2]), 6, vec![]),
        ("authentication", body(&[1, 1, 0]), 4, vec![]),
        ("capabilities cut", body(&[2, 3, 1, 4, 0]), 0, vec![]),
        ("no family in common", body(&no_family), 7, ours),
    ];
    for (name, bytes, subcode, data) in cases {
        let mut lab = Lab::open_sent(config());
        let done = lab.bytes(0, &bytes);
        assert_eq!(refusal(&done), (2, subcode, data.clone()), "{name}");
        let sent = Notification::new(2, subcode, data);
        assert!(done.contains(&Did::Down(false, DownReason::Sent(sent.clone()))));
        assert_eq!(lab.state(), State::Active);
        assert_eq!(lab.session.stats().last_sent, Some(sent), "{name}");
    }
}

#[test]
fn our_own_identifier_is_refused_inside_the_as_only() {
    let same = |asn| Open {
        asn,
        capabilities: vec![
            Capability::FourOctetAs(asn),
            Capability::Multiprotocol(Family::Ipv4),
        ],
        ..peer_open(0x0A00_0002)
    };
    let internal = bgp_proto::session::SessionConfig {
        remote_asn: Asn(64512),
        ..config()
    };
    let mut lab = Lab::open_sent(internal);
    assert_eq!(refusal(&lab.open(0, &same(Asn(64512)))), (2, 3, vec![]));
    let mut lab = Lab::open_sent(config());
    lab.open(0, &same(Asn(65001)));
    assert_eq!(lab.state(), State::OpenConfirm);
}

#[test]
fn header_errors_in_each_state() {
    let states: [fn() -> Lab; 3] = [
        || Lab::open_sent(config()),
        || Lab::open_confirm(config()),
        || Lab::established(config()),
    ];
    let mut unsynchronized = keepalive().to_vec();
    unsynchronized[7] = 0;
    let length = |kind: u8, length: u16| {
        let mut bytes = raw(kind, &[]).to_vec();
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let cases: Vec<(Vec<u8>, u8, Vec<u8>)> = vec![
        (unsynchronized, 1, vec![]),
        (vec![0], 1, vec![]),
        (length(4, 18), 2, vec![0, 18]),
        (length(4, 20), 2, vec![0, 20]),
        (length(2, 22), 2, vec![0, 22]),
        (length(1, 28), 2, vec![0, 28]),
        (length(3, 20), 2, vec![0, 20]),
        (length(2, 4097), 2, vec![16, 1]),
        (raw(0, &[]).to_vec(), 3, vec![0]),
        (raw(6, &[1, 2, 3]).to_vec(), 3, vec![6]),
        (raw(255, &[]).to_vec(), 3, vec![255]),
    ];
    for begin in states {
        for (bytes, subcode, data) in &cases {
            let mut lab = begin();
            let done = lab.bytes(0, bytes);
            assert_eq!(refusal(&done), (1, *subcode, data.clone()), "{bytes:?}");
            assert_eq!(lab.state(), State::Active);
        }
    }
}

#[test]
fn extended_messages_only_where_both_offered_them() {
    let mut open = peer_open(LOW);
    open.capabilities.push(Capability::ExtendedMessage);
    let long = withdrawals(2000);
    assert!(long.len() > 4096);
    let mut lab = Lab::open_sent(config());
    lab.open(0, &open);
    lab.keepalive(0);
    assert!(matches!(lab.bytes(0, &long).as_slice(), [Did::Routes(batch)] if batch.nlri.len() == 2000));
    let mut lab = Lab::established(config());
    let done = lab.bytes(0, &long);
    assert_eq!(refusal(&done).1, 2);
}

#[test]
fn messages_in_the_wrong_state() {
    let states: [(fn() -> Lab, u8); 3] = [
        (|| Lab::open_sent(config()), 1),
        (|| Lab::open_confirm(config()), 2),
        (|| Lab::established(config()), 3),
    ];
    let messages = [
        peer_open(LOW).encode(),
        end_of_rib(),
        keepalive(),
        raw(5, &[0, 1, 0, 1]),
    ];
    for (begin, subcode) in states {
        for message in &messages {
            let kind = message[18];
            let expected = match subcode {
                1 => kind == 1,
                2 => kind == 4,
                _ => kind != 1,
            };
            let mut lab = begin();
            let done = lab.bytes(0, message);
            if expected {
                assert_eq!(notifications(&done), []);
            } else {
                // RFC 6608 §4
                assert_eq!(refusal(&done), (5, subcode, vec![kind]));
                assert_eq!(is_down(&done), subcode == 3);
                assert_eq!(lab.state(), State::Active);
            }
        }
    }
}

#[test]
fn a_notification_ends_the_connection_and_is_never_answered() {
    let states: [fn() -> Lab; 3] = [
        || Lab::open_sent(config()),
        || Lab::open_confirm(config()),
        || Lab::established(config()),
    ];
    let all = [
        (1, 1),
        (2, 1),
        (2, 4),
        (4, 0),
        (5, 1),
        (6, 2),
        (6, 7),
        (9, 9),
        (0, 0),
    ];
    for begin in states {
        for (code, subcode) in all {
            let mut lab = begin();
            let was_up = lab.state() == State::Established;
            let sent = Notification::new(code, subcode, vec![1, 2]);
            let done = lab.bytes(0, &[sent.encode(), keepalive()].concat());
            let down = Did::Down(was_up, DownReason::Received(sent.clone()));
            assert_eq!(done, [Did::Close(0), down, Did::State(State::Active)]);
            assert_eq!(lab.session.stats().last_received, Some(sent));
            assert_eq!(lab.session.stats().last_received_at, Some(lab.now));
        }
    }
}

#[test]
fn an_update_error_ends_the_session_after_the_routes_before_it() {
    let mut lab = Lab::established(config());
    let bad = raw(2, &[0xFF, 0xFF, 0, 0]);
    let done = lab.bytes(0, &[withdrawals(3), bad, end_of_rib()].concat());
    assert!(
        matches!(&done[0], Did::Routes(batch) if batch.nlri.len() == 3),
        "{done:?}"
    );
    assert_eq!(refusal(&done), (3, 1, vec![]));
    assert!(is_down(&done));
}

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
        done.iter().all(|(_, did)| matches!(did, Did::Keepalive(0))),
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
fn a_refresh_does_not_restart_the_hold_timer() {
    let mut lab = Lab::established(config());
    lab.wait(Duration::from_secs(89));
    lab.bytes(0, &raw(5, &[0, 1, 0, 1]));
    lab.wait(SECOND);
    assert_eq!(refusal(&lab.tick()), (4, 0, vec![]));
}

#[test]
fn four_minutes_for_an_open() {
    let mut lab = Lab::open_sent(config());
    assert_eq!(lab.timeout(), Duration::from_secs(240));
    let done: Vec<_> = lab.pass(Duration::from_secs(240));
    assert_eq!(done[0].0, Duration::from_secs(240));
    let done: Vec<Did> = done.into_iter().map(|(_, did)| did).collect();
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
    let end = done.iter().find(|(_, did)| matches!(did, Did::Notification(..)));
    assert_eq!(end.unwrap().0, Duration::from_secs(30));
    let keepalives = done.iter().filter(|(_, did)| *did == Did::Keepalive(0)).count();
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
            assert_eq!(lab.tick(), [Did::Keepalive(0)]);
            assert_eq!(lab.give(Input::Wrote), []);
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
fn what_we_write_spares_a_keepalive() {
    let mut lab = Lab::established(config());
    for _ in 0..100 {
        lab.wait(Duration::from_secs(20));
        assert_eq!(lab.give(Input::Wrote), []);
        lab.keepalive(0);
    }
}

#[test]
fn hold_time_zero_means_no_timers() {
    for zero in [true, false] {
        let hold = HoldTime::new(if zero { 0 } else { 90 }).unwrap();
        let mut lab = Lab::open_sent(bgp_proto::session::SessionConfig {
            hold_time: hold,
            ..config()
        });
        let mut open = peer_open(LOW);
        open.hold_time = HoldTime::new(if zero { 90 } else { 0 }).unwrap();
        assert_eq!(
            lab.open(0, &open),
            [Did::Keepalive(0), Did::State(State::OpenConfirm)]
        );
        assert_eq!(
            lab.timeout(),
            Duration::from_secs(240),
            "a half-open one does not stay for ever"
        );
        lab.keepalive(0);
        assert_eq!(lab.session.poll_timeout(), None);
        lab.wait(Duration::from_secs(1_000_000));
        assert_eq!(lab.tick(), []);
        lab.give(Input::Wrote);
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
        let mut lab = Lab::open_sent(bgp_proto::session::SessionConfig {
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
        lab.give(Input::Wrote);
        let written = lab.now;
        // The peer lives but reads nothing: nothing of what we queue is written.
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
            Did::Close(0),
            Did::Down(false, DownReason::Closed(Some(_))),
            Did::State(State::Active)
        ]
    ));
    lab.wait(lab.timeout());
    assert_eq!(lab.tick(), [Did::Connect(1), Did::State(State::Connect)]);
}

// Failing and trying again

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
                Did::Down(false, DownReason::Closed(Some("Connection refused".to_owned()))),
                Did::State(State::Active)
            ]
        );
        let begin = lab.now;
        lab.wait(lab.timeout());
        waits.push(lab.now - begin);
        assert_eq!(lab.tick(), [Did::Connect(conn + 1), Did::State(State::Connect)]);
    }
    assert!(waits[0] <= Duration::from_millis(50));
    assert!(waits[..4].iter().sum::<Duration>() < SECOND, "{waits:?}");
    let band = Duration::from_millis(3750)..=Duration::from_secs(5);
    assert!(waits[8..].iter().all(|wait| band.contains(wait)), "{waits:?}");
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
        assert!(lab.tick().contains(&Did::Connect(conn)));
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
    let passive = bgp_proto::session::SessionConfig {
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

// Stop, start, abandon

#[test]
fn stop_says_why_and_lasts_until_start() {
    let states: [fn() -> Lab; 3] = [
        || Lab::open_sent(config()),
        || Lab::open_confirm(config()),
        || Lab::established(config()),
    ];
    for begin in states {
        let mut lab = begin();
        let was_up = lab.state() == State::Established;
        let done = lab.stop(cease::ADMIN_SHUTDOWN, "maintenance");
        let (code, subcode, data) = refusal(&done);
        assert_eq!((code, subcode), (6, 2));
        assert_eq!(data, [&[11][..], b"maintenance"].concat());
        assert_eq!(is_down(&done), was_up);
        assert_eq!((lab.state(), lab.session.poll_timeout()), (State::Idle, None));
        assert_eq!(lab.pass(Duration::from_secs(100_000)), []);
        let (_, done) = lab.incoming();
        assert_eq!(refusal(&done), (6, 5, vec![]));
        assert_eq!(lab.session.stats().refused, 1);
        assert_eq!(lab.stop(cease::ADMIN_SHUTDOWN, ""), []);
        assert_eq!(lab.begin(), [Did::Connect(1), Did::State(State::Connect)]);
        assert_eq!(lab.begin(), [], "started already");
    }
}

#[test]
fn stop_while_connecting_needs_no_words() {
    let mut lab = Lab::new(config());
    lab.begin();
    let done = lab.stop(cease::ADMIN_SHUTDOWN, "x");
    assert_eq!(done, [Did::Close(0), Did::State(State::Idle)]);
    assert_eq!(lab.connected(0), [Did::Close(0)], "too late");
}

#[test]
fn stop_ends_both_connections() {
    let mut lab = Lab::open_sent(config());
    let (theirs, _) = lab.incoming();
    let done = lab.stop(cease::PEER_DECONFIGURED, "");
    assert_eq!(notifications(&done), [(0, 6, 3, vec![]), (theirs, 6, 3, vec![])]);
    assert_eq!(lab.state(), State::Idle);
}

#[test]
fn abandon_says_nothing() {
    let states: [fn() -> Lab; 3] = [
        || Lab::open_sent(config()),
        || Lab::open_confirm(config()),
        || Lab::established(config()),
    ];
    for begin in states {
        let mut lab = begin();
        let was_up = lab.state() == State::Established;
        let done = lab.give(Input::Abandon);
        let down = Did::Down(was_up, DownReason::Abandoned);
        assert_eq!(done, [Did::Close(0), down, Did::State(State::Idle)]);
        assert_eq!(lab.session.poll_timeout(), None);
    }
}

#[test]
fn the_engine_refuses_to_go_on() {
    let mut lab = Lab::established(config());
    let done = lab.give(Input::Fail(Notification::max_prefixes(Family::Ipv4, 10)));
    assert_eq!(refusal(&done), (6, 1, vec![0, 1, 1, 0, 0, 0, 10]));
    assert!(is_down(&done) && lab.state() == State::Active);
    assert_eq!(lab.give(Input::Fail(Notification::fsm_error())), [], "too late");
}

#[test]
fn a_connection_that_breaks() {
    let mut lab = Lab::established(config());
    let reset = Some("Connection reset by peer");
    let done = lab.closed(0, reset);
    let down = Did::Down(true, DownReason::Closed(reset.map(str::to_owned)));
    assert_eq!(done, [down, Did::State(State::Active)]);
    assert_eq!(lab.closed(0, reset), [], "known");
    assert_eq!(lab.bytes(0, &end_of_rib()), [], "nothing is left of it");
}

// A peer that refuses what we offer

#[test]
fn less_is_offered_once_to_a_peer_that_refuses() {
    let offered = |done: &[Did]| {
        let open = done.iter().find_map(|did| match did {
            Did::Open(_, open) => Some(open.capabilities.clone()),
            _ => None,
        });
        open.expect("an OPEN")
    };
    let full = 6;
    for (subcode, less) in [(4, 0), (7, 3)] {
        let mut lab = Lab::new(config());
        lab.begin();
        let mut seen = Vec::new();
        for conn in 0..5 {
            seen.push(offered(&lab.connected(conn)).len());
            lab.bytes(conn, &Notification::new(2, subcode, vec![]).encode());
            lab.wait(lab.timeout());
            lab.tick();
        }
        assert_eq!(seen, [full, less, full, less, full]);
    }
    let mut lab = Lab::open_sent(config());
    lab.bytes(0, &Notification::new(2, 4, vec![]).encode());
    lab.wait(lab.timeout());
    assert_eq!(lab.tick(), [Did::Connect(1), Did::State(State::Connect)]);
    lab.connected(1);
    let bare = Open {
        capabilities: Vec::new(),
        ..peer_open(LOW)
    };
    lab.open(1, &bare);
    assert!(is_up(&lab.keepalive(1)));
    let agreed = lab.session.negotiated().unwrap();
    assert_eq!(agreed.families, FamilySet::from_iter([Family::Ipv4]));
    assert!(!agreed.four_octet_as && !agreed.refresh);
    let ipv6 = FamilySet::from_iter([Family::Ipv6]);
    let mut lab = Lab::open_sent(bgp_proto::session::SessionConfig {
        families: ipv6,
        ..config()
    });
    lab.bytes(0, &Notification::new(2, 4, vec![]).encode());
    lab.wait(lab.timeout());
    lab.tick();
    assert_eq!(offered(&lab.connected(1)).len(), 5, "IPv6 cannot do without");
}

// Refresh

#[test]
fn refresh_only_as_negotiated() {
    let request = |family, kind| Refresh { family, kind };
    let mut lab = Lab::established(config());
    let ask = request(Family::Ipv6, RefreshKind::Request);
    assert_eq!(lab.give(Input::SendRefresh(ask)), [Did::Refresh(0, ask)]);
    let begin = request(Family::Ipv6, RefreshKind::Begin);
    assert_eq!(
        lab.give(Input::SendRefresh(begin)),
        [],
        "the peer does not know BoRR"
    );
    assert_eq!(lab.bytes(0, &begin.encode()), [], "nor do we take it");
    let many: Vec<u8> = (0..1000).flat_map(|_| raw(5, &[0, 1, 0, 1])).collect();
    assert_eq!(
        lab.bytes(0, &many),
        [Did::Asked(request(Family::Ipv4, RefreshKind::Request))]
    );
    assert_eq!(lab.bytes(0, &raw(5, &[0, 1, 0, 128])), [], "another family");
    assert_eq!(refusal(&lab.bytes(0, &raw(5, &[0, 1, 0]))), (1, 2, vec![0, 22]));

    let mut open = peer_open(LOW);
    open.capabilities.push(Capability::EnhancedRefresh);
    let mut lab = Lab::open_sent(config());
    lab.open(0, &open);
    lab.keepalive(0);
    let end = request(Family::Ipv6, RefreshKind::End);
    let done = lab.bytes(0, &[begin.encode(), withdrawals(1), end.encode()].concat());
    assert!(
        matches!(done.as_slice(), [Did::Asked(a), Did::Routes(_), Did::Asked(b)] if *a == begin && *b == end)
    );
    assert_eq!(lab.give(Input::SendRefresh(end)), [Did::Refresh(0, end)]);
    let wrong = raw(5, &[0, 1, 1, 1, 0]);
    assert_eq!(refusal(&lab.bytes(0, &wrong)), (7, 1, wrong.to_vec()));

    let ipv4 = FamilySet::from_iter([Family::Ipv4]);
    let mut lab = Lab::established(bgp_proto::session::SessionConfig {
        families: ipv4,
        ..config()
    });
    assert_eq!(lab.give(Input::SendRefresh(ask)), []);
    assert_eq!(lab.bytes(0, &ask.encode()), []);
}

// Batches

#[test]
fn routes_come_in_bounded_batches() {
    let mut lab = Lab::established(config());
    let many: Vec<u8> = (0..50).flat_map(|_| withdrawals(900)).collect();
    let done = lab.bytes(0, &many);
    let sizes: Vec<usize> = done
        .iter()
        .map(|did| match did {
            Did::Routes(batch) => batch.nlri.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 45_000);
    assert!(sizes.iter().all(|size| *size <= 4096 + 900) && sizes.len() == 10);
    let ends: Vec<u8> = (0..10_000).flat_map(|_| end_of_rib()).collect();
    let done = lab.bytes(0, &ends);
    assert!(
        done.iter()
            .all(|did| matches!(did, Did::Routes(batch) if batch.ops.len() <= 4096))
    );
}

// Graceful restart

fn restarting(notification: bool) -> (bgp_proto::session::SessionConfig, Open) {
    let capability = |restart_time| {
        Capability::GracefulRestart(GracefulRestart {
            restarting: false,
            notification,
            restart_time,
            families: vec![(Family::Ipv6, true)],
        })
    };
    let ours = bgp_proto::session::SessionConfig {
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
    let mut lab = Lab::new(bgp_proto::session::SessionConfig {
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

// Numbers

#[test]
fn stats_count_everything_by_type() {
    let mut lab = Lab::established(config());
    lab.bytes(0, &[end_of_rib(), end_of_rib(), raw(5, &[0, 1, 0, 1])].concat());
    let up_at = lab.now;
    lab.wait(Duration::from_secs(10));
    lab.bytes(0, &Notification::cease(cease::ADMIN_RESET).encode());
    let stats = lab.session.stats();
    let counts = stats.messages_in;
    assert_eq!(
        (
            counts.open,
            counts.update,
            counts.notification,
            counts.keepalive,
            counts.refresh
        ),
        (1, 2, 1, 1, 1)
    );
    assert_eq!((stats.received, counts.total()), (6, 6));
    assert_eq!((stats.messages_out.open, stats.messages_out.keepalive), (1, 1));
    assert_eq!((stats.attempts, stats.accepted, stats.established), (1, 0, 1));
    assert_eq!(stats.since, Some(lab.now));
    assert_eq!(stats.last_down_at, Some(lab.now));
    assert_ne!(stats.since, Some(up_at));
    assert_eq!(
        stats.last_down,
        Some(DownReason::Received(Notification::cease(cease::ADMIN_RESET)))
    );
    assert_eq!(stats.last_sent, None);
    assert!(INCOMING > 0);
}
