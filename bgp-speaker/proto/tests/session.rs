//! The session in scripted conversations, in virtual time: establishment, stop and start, route refresh,
//! batches, statistics.
#![cfg(test)]

mod session_util;

use std::time::Duration;

use bgp_proto::session::{Direction, DownReason, Input, SessionConfig, State};
use bgp_proto::types::{Asn, Family, FamilySet, HoldTime};
use bgp_proto::wire::{
    AddPathDirection, Capability, Notification, Open, Refresh, RefreshKind, cease, keepalive,
};
use session_util::{
    Effect, LOW, Lab, config, end_of_rib, id, is_down, is_up, notifications, peer_open, raw, refusal,
    withdrawals,
};

// Establishment

#[test]
fn we_connect() {
    let mut lab = Lab::new(config());
    assert_eq!(lab.state(), State::Idle);
    assert_eq!(lab.session.poll_timeout(), None);
    assert_eq!(lab.begin(), [Effect::Connect(0), Effect::State(State::Connect)]);
    let done = lab.connected(0);
    let [Effect::Open(0, open), Effect::State(State::OpenSent)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!((open.asn, open.router_id), (Asn(64512), id(0x0A00_0002)));
    assert_eq!(open.families(), FamilySet::ALL);
    assert!(open.route_refresh() && open.enhanced_refresh() && open.extended_message());
    assert_eq!(open.four_octet_as(), Some(Asn(64512)));
    let done = lab.open(0, &peer_open(LOW));
    assert_eq!(done, [Effect::Keepalive(0), Effect::State(State::OpenConfirm)]);
    let done = lab.keepalive(0);
    let [Effect::State(State::Established), Effect::Up(0, agreed)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert_eq!(agreed.families, FamilySet::ALL);
    assert!(agreed.four_octet_as && agreed.refresh);
    assert!(!agreed.enhanced_refresh && !agreed.extended_message);
    assert_eq!(agreed.remote_id(), id(LOW));
    assert!(matches!(
        lab.bytes(0, &end_of_rib()).as_slice(),
        [Effect::Routes(_)]
    ));
}

#[test]
fn the_peer_connects() {
    for passive in [true, false] {
        let mut lab = Lab::new(SessionConfig { passive, ..config() });
        let done = lab.begin();
        if passive {
            assert_eq!(done, [Effect::State(State::Active)]);
            assert_eq!(lab.session.poll_timeout(), None, "only a timer is pending");
        }
        let (conn, done) = lab.incoming();
        assert!(
            matches!(done.as_slice(), [Effect::Open(c, _), Effect::State(State::OpenSent)] if *c == conn)
        );
        let done = lab.open(conn, &peer_open(LOW));
        assert_eq!(done, [Effect::Keepalive(conn), Effect::State(State::OpenConfirm)]);
        let done = lab.keepalive(conn);
        assert!(is_up(&done));
        assert_eq!(
            done.contains(&Effect::Close(0)),
            !passive,
            "our attempt is dropped"
        );
        assert!(
            notifications(&done).is_empty(),
            "there is no connection to send on"
        );
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
        done.extend(lab.input(Input::Received { conn, buf: &mut buf }));
    }
    assert!(is_up(&done) && matches!(done.last(), Some(Effect::Routes(_))) && buf.is_empty());
}

#[test]
fn negotiation() {
    let ours = |extra| SessionConfig {
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
    assert_eq!(agreed.extended_next_hop, ipv4, "only for negotiated families");
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

// Stop, start, abandon

#[test]
fn stop_sends_the_reason_and_lasts_until_start() {
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
        assert_eq!(lab.begin(), [Effect::Connect(1), Effect::State(State::Connect)]);
        assert_eq!(lab.begin(), [], "started already");
    }
}

#[test]
fn stop_while_connecting_sends_nothing() {
    let mut lab = Lab::new(config());
    lab.begin();
    let done = lab.stop(cease::ADMIN_SHUTDOWN, "x");
    assert_eq!(done, [Effect::Close(0), Effect::State(State::Idle)]);
    assert_eq!(lab.connected(0), [Effect::Close(0)], "too late");
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
fn abandon_sends_nothing() {
    let states: [fn() -> Lab; 3] = [
        || Lab::open_sent(config()),
        || Lab::open_confirm(config()),
        || Lab::established(config()),
    ];
    for begin in states {
        let mut lab = begin();
        let was_up = lab.state() == State::Established;
        let done = lab.input(Input::Abandon);
        let down = Effect::Down(was_up, DownReason::Abandoned);
        assert_eq!(done, [Effect::Close(0), down, Effect::State(State::Idle)]);
        assert_eq!(lab.session.poll_timeout(), None);
    }
}

#[test]
fn the_engine_refuses_to_go_on() {
    let mut lab = Lab::established(config());
    let done = lab.input(Input::Fail {
        notification: Notification::max_prefixes(Family::Ipv4, 10),
        idle_for: Duration::ZERO,
    });
    assert_eq!(refusal(&done), (6, 1, vec![0, 1, 1, 0, 0, 0, 10]));
    assert!(is_down(&done) && lab.state() == State::Active);
    assert_eq!(
        lab.input(Input::Fail {
            notification: Notification::fsm_error(),
            idle_for: Duration::ZERO,
        }),
        [],
        "too late"
    );
}

#[test]
fn a_pause_after_too_many_prefixes() {
    let pause = Duration::from_secs(300);
    let fail = |lab: &mut Lab| {
        lab.input(Input::Fail {
            notification: Notification::max_prefixes(Family::Ipv4, 10),
            idle_for: pause,
        })
    };
    let mut lab = Lab::established(config());
    fail(&mut lab);
    assert_eq!(lab.state(), State::Idle);
    let (_, done) = lab.incoming();
    assert_eq!(refusal(&done), (6, 5, vec![]), "connection rejected");
    let happened = lab.pass(pause - Duration::from_secs(1));
    assert!(happened.is_empty(), "nothing before its time: {happened:?}");
    let connects = session_util::connects(&lab.pass(Duration::from_secs(10)));
    assert!(!connects.is_empty(), "and then it tries again");
    // The operator's start takes effect at once.
    let mut lab = Lab::established(config());
    fail(&mut lab);
    assert!(lab.input(Input::Start).contains(&Effect::Connect(1)));
    // A passive session accepts connections again.
    let mut lab = Lab::established(SessionConfig {
        passive: false,
        ..config()
    });
    fail(&mut lab);
    lab.wait(pause);
    lab.tick();
    let (conn, done) = lab.incoming();
    assert!(notifications(&done).is_empty() && conn > 0);
}

#[test]
fn a_connection_that_breaks() {
    let mut lab = Lab::established(config());
    let reset = Some("Connection reset by peer");
    let done = lab.closed(0, reset);
    let down = Effect::Down(true, DownReason::Closed(reset.map(str::to_owned)));
    assert_eq!(done, [down, Effect::State(State::Active)]);
    assert_eq!(lab.closed(0, reset), [], "known");
    assert_eq!(lab.bytes(0, &end_of_rib()), [], "nothing remains of it");
}

// A peer that rejects our capabilities

#[test]
fn fewer_capabilities_are_offered_once_after_a_refusal() {
    let offered = |done: &[Effect]| {
        let open = done.iter().find_map(|did| match did {
            Effect::Open(_, open) => Some(open.capabilities.clone()),
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
    assert_eq!(lab.tick(), [Effect::Connect(1), Effect::State(State::Connect)]);
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
    let mut lab = Lab::open_sent(config());
    lab.bytes(0, &Notification::new(2, 4, vec![]).encode());
    lab.stop(cease::ADMIN_SHUTDOWN, "");
    lab.begin();
    assert_eq!(offered(&lab.connected(1)).len(), full, "the state is reset");
    let ipv6 = FamilySet::from_iter([Family::Ipv6]);
    let mut lab = Lab::open_sent(SessionConfig {
        families: ipv6,
        ..config()
    });
    lab.bytes(0, &Notification::new(2, 4, vec![]).encode());
    lab.wait(lab.timeout());
    lab.tick();
    assert_eq!(offered(&lab.connected(1)).len(), 5, "IPv6 needs a local address");
}

// Route refresh

#[test]
fn refresh_only_as_negotiated() {
    let request = |family, kind| Refresh { family, kind };
    let mut lab = Lab::established(config());
    let ask = request(Family::Ipv6, RefreshKind::Request);
    assert_eq!(lab.input(Input::SendRefresh(ask)), [Effect::Refresh(0, ask)]);
    let begin = request(Family::Ipv6, RefreshKind::Begin);
    assert_eq!(
        lab.input(Input::SendRefresh(begin)),
        [],
        "the peer has no enhanced route refresh"
    );
    assert_eq!(lab.bytes(0, &begin.encode()), [], "nor is it accepted");
    let many: Vec<u8> = (0..1000).flat_map(|_| raw(5, &[0, 1, 0, 1])).collect();
    assert_eq!(
        lab.bytes(0, &many),
        [Effect::RefreshReceived(request(
            Family::Ipv4,
            RefreshKind::Request
        ))]
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
        matches!(done.as_slice(), [Effect::RefreshReceived(a), Effect::Routes(_), Effect::RefreshReceived(b)] if *a == begin && *b == end)
    );
    assert_eq!(lab.input(Input::SendRefresh(end)), [Effect::Refresh(0, end)]);
    let wrong = raw(5, &[0, 1, 1, 1, 0]);
    assert_eq!(refusal(&lab.bytes(0, &wrong)), (7, 1, wrong.to_vec()));

    let ipv4 = FamilySet::from_iter([Family::Ipv4]);
    let mut lab = Lab::established(SessionConfig {
        families: ipv4,
        ..config()
    });
    assert_eq!(lab.input(Input::SendRefresh(ask)), []);
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
            Effect::Routes(batch) => batch.nlri.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 45_000);
    assert!(sizes.iter().all(|size| *size <= 4096 + 900) && sizes.len() == 10);
    let ends: Vec<u8> = (0..10_000).flat_map(|_| end_of_rib()).collect();
    let done = lab.bytes(0, &ends);
    assert!(
        done.iter()
            .all(|did| matches!(did, Effect::Routes(batch) if batch.ops.len() <= 4096))
    );
}

// Statistics

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
}

/// The reason of the last session end stays visible, whatever later attempts end with.
#[test]
fn later_failures_do_not_hide_what_ended_the_session() {
    let shutdown = Notification::cease_with_message(cease::ADMIN_SHUTDOWN, "maintenance");
    let mut lab = Lab::established(config());
    assert_eq!(lab.session.stats().last_end, None);
    assert_eq!(lab.session.stats().last_notification(), None);
    lab.wait(Duration::from_secs(60));
    lab.bytes(0, &shutdown.encode());
    let ended = lab.now;
    // Connection refused, then another speaker answers, then a NOTIFICATION arrives in OpenSent.
    let refused = |lab: &mut Lab, conn: u64| {
        lab.wait(lab.timeout());
        assert!(lab.tick().contains(&Effect::Connect(conn)));
        lab.closed(conn, Some("Connection refused"));
    };
    refused(&mut lab, 1);
    refused(&mut lab, 2);
    let stats = lab.session.stats();
    let refusal = DownReason::Closed(Some("Connection refused".to_owned()));
    assert_eq!(stats.last_down, Some(refusal));
    let received = (Direction::Received, &shutdown, ended);
    assert_eq!(stats.last_notification(), Some(received));
    lab.wait(lab.timeout());
    lab.tick();
    lab.connected(3);
    lab.wait(Duration::from_secs(1));
    lab.bytes(3, &[0; 64]);
    let stats = lab.session.stats();
    let (direction, last, at) = stats.last_notification().unwrap();
    assert_eq!((direction, last.code, at), (Direction::Sent, 1, lab.now));
    let end = Some(DownReason::Received(shutdown.clone()));
    assert_eq!((&stats.last_end, stats.last_end_at), (&end, Some(ended)));
}
