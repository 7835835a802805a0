//! The session's answer to errors of the peer: NOTIFICATION code, subcode and data, in each state.
#![cfg(test)]

mod session_util;

use bgp_proto::session::{DownReason, SessionConfig, State};
use bgp_proto::types::{Asn, Family, PeerAs, Role};
use bgp_proto::wire::{Capability, Notification, Open, keepalive};
use session_util::{
    Effect, LOW, Lab, config, end_of_rib, is_down, notifications, peer_open, raw, refusal, withdrawals,
};

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
    let no_family = [2, 6, 1, 4, 0, 1, 0, 2]; // IPv4 multicast only
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
        assert!(done.contains(&Effect::Down(false, DownReason::Sent(sent.clone()))));
        assert_eq!(lab.state(), State::Active);
        assert_eq!(lab.session.stats().last_sent, Some(sent), "{name}");
    }
}

/// RFC 9234 §4.2.
#[test]
fn roles_must_fit() {
    let open = |roles: &[u8]| Open {
        capabilities: vec![
            Capability::FourOctetAs(Asn(65001)),
            Capability::Multiprotocol(Family::Ipv4),
        ]
        .into_iter()
        .chain(roles.iter().map(|role| Capability::Role(*role)))
        .collect(),
        ..peer_open(LOW)
    };
    let [provider, server, client, customer, peer] = [0, 1, 2, 3, 4];
    for (role, strict, theirs, accepted) in [
        (None, false, vec![provider], true),
        (Some(Role::Customer), false, vec![provider], true),
        (Some(Role::Customer), false, vec![customer], false),
        (Some(Role::Customer), false, vec![peer], false),
        (Some(Role::Provider), false, vec![customer], true),
        (Some(Role::Provider), false, vec![provider], false),
        (Some(Role::Peer), false, vec![peer], true),
        (Some(Role::RouteServer), false, vec![client], true),
        (Some(Role::RouteServer), false, vec![server], false),
        (Some(Role::RouteServerClient), false, vec![server], true),
        (Some(Role::Peer), false, vec![peer, peer], true),
        (Some(Role::Peer), false, vec![peer, customer], false),
        (Some(Role::Peer), false, vec![9], false),
        (Some(Role::Peer), false, vec![], true),
        (Some(Role::Peer), true, vec![], false),
        (Some(Role::Peer), true, vec![peer], true),
    ] {
        let mut lab = Lab::open_sent(SessionConfig {
            role,
            strict_role: strict,
            ..config()
        });
        let done = lab.open(0, &open(&theirs));
        if accepted {
            assert_eq!(lab.state(), State::OpenConfirm, "{role:?} {theirs:?}");
        } else {
            assert_eq!(refusal(&done), (2, 11, vec![]), "{role:?} {theirs:?}");
        }
    }
}

#[test]
fn a_peer_may_have_one_of_several_as_numbers() {
    let open = |asn| Open {
        asn,
        capabilities: vec![
            Capability::FourOctetAs(asn),
            Capability::Multiprotocol(Family::Ipv4),
        ],
        ..peer_open(LOW)
    };
    let any_of = PeerAs::from([Asn(65001), Asn(4_200_000_001)]);
    for (allowed, asn, accepted) in [
        (PeerAs::External, Asn(65001), true),
        (PeerAs::External, Asn(4_200_000_001), true),
        (PeerAs::External, Asn(64512), false),
        (any_of.clone(), Asn(65001), true),
        (any_of.clone(), Asn(4_200_000_001), true),
        (any_of.clone(), Asn(65002), false),
        (any_of, Asn(64512), false),
    ] {
        let mut lab = Lab::open_sent(SessionConfig {
            remote_asn: allowed.clone(),
            ..config()
        });
        let done = lab.open(0, &open(asn));
        if accepted {
            assert_eq!(lab.state(), State::OpenConfirm, "{allowed} {asn}");
        } else {
            assert_eq!(refusal(&done), (2, 2, vec![]), "{allowed} {asn}");
        }
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
    let internal = SessionConfig {
        remote_asn: Asn(64512).into(),
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
    assert!(matches!(lab.bytes(0, &long).as_slice(), [Effect::Routes(batch)] if batch.nlri.len() == 2000));
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
            let down = Effect::Down(was_up, DownReason::Received(sent.clone()));
            assert_eq!(done, [Effect::Close(0), down, Effect::State(State::Active)]);
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
        matches!(&done[0], Effect::Routes(batch) if batch.nlri.len() == 3),
        "{done:?}"
    );
    assert_eq!(refusal(&done), (3, 1, vec![]));
    assert!(is_down(&done));
}

#[test]
fn input_after_an_error_is_discarded() {
    let mut lab = Lab::established(config());
    let mut buf = bytes::BytesMut::from(&[raw(9, &[]), withdrawals(5), end_of_rib()].concat()[..]);
    let conn = bgp_proto::session::ConnId(0);
    let done = lab.input(bgp_proto::session::Input::Received { conn, buf: &mut buf });
    assert_eq!(refusal(&done), (1, 3, vec![9]));
    assert!(buf.is_empty());
    buf.extend_from_slice(&end_of_rib());
    let done = lab.input(bgp_proto::session::Input::Received { conn, buf: &mut buf });
    assert_eq!(done, []);
    assert!(buf.is_empty());
}
