//! Encodings of OPEN with each capability, NOTIFICATION, KEEPALIVE and ROUTE-REFRESH, in both directions.
#![cfg(test)]

mod golden_util;

use bgp_proto::types::{Asn, Family, FamilySet, HoldTime, RouterId};
use bgp_proto::wire::*;
use golden_util::*;

fn open(asn: u32, capabilities: Vec<Capability>) -> Open {
    Open {
        asn: Asn(asn),
        hold_time: HoldTime::new(90).unwrap(),
        router_id: RouterId::new(0xC000_0201).unwrap(),
        capabilities,
    }
}

/// The value encodes to exactly these octets, and they decode to the value.
fn open_golden(value: &Open, body: &str) {
    let message = message(1, &hex(body));
    assert_eq!(value.encode(), message);
    assert_eq!(&Open::decode(&cut(&message, MessageKind::Open)).unwrap(), value);
}

#[test]
fn keepalive_golden() {
    assert_eq!(keepalive(), hex("ffffffffffffffffffffffffffffffff 0013 04"));
    assert_eq!(cut(&keepalive(), MessageKind::Keepalive).len(), 0);
}

#[test]
fn open_without_capabilities() {
    open_golden(&open(65001, vec![]), "04 fde9 005a c0000201 00");
    let zero_hold = Open {
        hold_time: HoldTime::new(0).unwrap(),
        ..open(65001, vec![])
    };
    open_golden(&zero_hold, "04 fde9 0000 c0000201 00");
}

/// Each capability: value, and octets of code, length and value.
fn capabilities() -> Vec<(Capability, &'static str)> {
    let both = AddPathDirection {
        receive: true,
        send: true,
    };
    let receive = AddPathDirection {
        receive: true,
        send: false,
    };
    let restart = GracefulRestart {
        restarting: true,
        notification: true,
        restart_time: 120,
        families: vec![(Family::Ipv4, true), (Family::Ipv6, false)],
    };
    let long_lived = LongLivedFamily {
        family: Family::Ipv6,
        forwarding: true,
        stale_time: 86400,
    };
    let fqdn = Capability::Fqdn {
        host: "node-1".into(),
        domain: "lab".into(),
    };
    let unknown = Capability::Unknown {
        code: 128,
        value: vec![1, 2],
    };
    vec![
        (Capability::Multiprotocol(Family::Ipv4), "01 04 0001 00 01"),
        (Capability::Multiprotocol(Family::Ipv6), "01 04 0002 00 01"),
        (Capability::RouteRefresh, "02 00"),
        (
            Capability::ExtendedNextHop(vec![Family::Ipv4]),
            "05 06 0001 0001 0002",
        ),
        (Capability::ExtendedMessage, "06 00"),
        (
            Capability::GracefulRestart(restart),
            "40 0a c078 0001 01 80 0002 01 00",
        ),
        (Capability::FourOctetAs(Asn(4_200_000_001)), "41 04 fa56ea01"),
        (
            Capability::AddPath(vec![(Family::Ipv4, both), (Family::Ipv6, receive)]),
            "45 08 0001 01 03 0002 01 01",
        ),
        (Capability::EnhancedRefresh, "46 00"),
        (
            Capability::LongLivedGracefulRestart(vec![long_lived]),
            "47 07 0002 01 80 015180",
        ),
        (fqdn, "49 0b 06 6e6f64652d31 03 6c6162"),
        (unknown, "80 02 01 02"),
    ]
}

#[test]
fn each_capability_both_ways() {
    for (capability, octets) in capabilities() {
        let octets = hex(octets);
        let asn = match &capability {
            Capability::FourOctetAs(asn) => asn.0,
            _ => 65001,
        };
        let my_as = if asn > 65535 { "5ba0" } else { "fde9" };
        let len = octets.len();
        let tail: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        let body = format!("04 {my_as} 005a c0000201 {:02x} 02 {len:02x} {tail}", len + 2);
        open_golden(&open(asn, vec![capability]), &body);
    }
}

#[test]
fn open_helpers() {
    let all: Vec<Capability> = capabilities()
        .into_iter()
        .map(|(capability, _)| capability)
        .collect();
    let full = open(4_200_000_001, all);
    assert_eq!(
        Open::decode(&cut(&full.encode(), MessageKind::Open)).unwrap(),
        full
    );
    assert_eq!(full.families(), FamilySet::ALL);
    assert_eq!(full.four_octet_as(), Some(Asn(4_200_000_001)));
    assert!(full.route_refresh() && full.enhanced_refresh() && full.extended_message());
    assert!(full.add_path(Family::Ipv4).send && !full.add_path(Family::Ipv6).send);
    assert_eq!(full.graceful_restart().unwrap().restart_time, 120);
    assert_eq!(full.long_lived(Family::Ipv6).unwrap().stale_time, 86400);
    assert_eq!(full.long_lived(Family::Ipv4), None);
    assert_eq!(full.extended_next_hop(), FamilySet::from_iter([Family::Ipv4]));
    assert_eq!(full.host_name(), Some(("node-1", "lab")));
    // RFC 4760 §8: without the multiprotocol capability, IPv4 unicast; with one for another family, not even
    // that.
    assert_eq!(open(1, vec![]).families(), FamilySet::from_iter([Family::Ipv4]));
    let vpn = Capability::Unknown {
        code: 1,
        value: hex("0001 00 80"),
    };
    assert!(open(1, vec![vpn]).families().is_empty());
    // RFC 4724 §3: the last one counts. RFC 9494 §4.1: long-lived graceful restart needs graceful restart.
    let restart = |restart_time| GracefulRestart {
        restart_time,
        ..GracefulRestart::default()
    };
    let two = [restart(10), restart(20)].map(Capability::GracefulRestart);
    assert_eq!(open(1, two.into()).graceful_restart(), Some(&restart(20)));
    let stale = LongLivedFamily {
        family: Family::Ipv4,
        forwarding: false,
        stale_time: 1,
    };
    let alone = open(1, vec![Capability::LongLivedGracefulRestart(vec![stale])]);
    assert_eq!(alone.long_lived(Family::Ipv4), None);
}

#[test]
fn malformed_capability_values_are_ignored() {
    for octets in [
        "01 03 000101",
        "02 01 00",
        "05 05 0001000100",
        "40 01 00",
        "40 03 000001",
        "41 03 00fde9",
        "45 04 00010104",
        "45 03 000101",
        "47 06 000101000000",
        "49 02 0561",
    ] {
        let octets = hex(octets);
        let mut body = hex("04 fde9 005a c0000201");
        body.extend([octets.len() as u8 + 2, 2, octets.len() as u8]);
        body.extend(&octets);
        let decoded = Open::decode(&body).unwrap();
        let expected = Capability::Unknown {
            code: octets[0],
            value: octets[2..].to_vec(),
        };
        assert_eq!(decoded, open(65001, vec![expected]));
    }
}

/// RFC 9072 §2, Figure 1: 255, 255 and two octets of length; each parameter has a two-octet length too.
#[test]
fn extended_optional_parameters() {
    let big = |fill: u8| Capability::Unknown {
        code: 200,
        value: vec![fill; 125],
    };
    let fits = open(
        65001,
        vec![
            big(1),
            Capability::Unknown {
                code: 200,
                value: vec![2; 124],
            },
        ],
    );
    assert_eq!(fits.encode()[28..31], [255, 2, 253]);
    let over = open(65001, vec![big(1), big(2)]);
    let bytes = over.encode();
    assert_eq!(bytes[28..35], hex("ff ff 0101 02 00fe"));
    assert_eq!(Open::decode(&cut(&bytes, MessageKind::Open)).unwrap(), over);
    assert_eq!(
        Open::decode(&cut(&fits.encode(), MessageKind::Open)).unwrap(),
        fits
    );
    // Also for short parameters, with any first length except 0, and over several parameters.
    let body = hex("04 fde9 005a c0000201 07 ff 0012 02 0002 0200 02 000a 4600 4104 0000fde9 0600");
    let open = Open::decode(&body).unwrap();
    assert!(open.route_refresh() && open.enhanced_refresh() && open.extended_message());
    // At most 4096 octets (RFC 8654 §4).
    let endless = Open {
        capabilities: vec![
            Capability::Unknown {
                code: 9,
                value: vec![0; 255]
            };
            100
        ],
        ..open
    };
    assert!(endless.encode().len() <= 4096);
    assert_eq!(
        Open::decode(&cut(&endless.encode(), MessageKind::Open))
            .unwrap()
            .capabilities
            .len(),
        15
    );
}

#[test]
fn refresh_both_ways() {
    for (family, kind, body) in [
        (Family::Ipv4, RefreshKind::Request, "0001 00 01"),
        (Family::Ipv6, RefreshKind::Begin, "0002 01 01"),
        (Family::Ipv6, RefreshKind::End, "0002 02 01"),
    ] {
        let (refresh, bytes) = (Refresh { family, kind }, message(5, &hex(body)));
        assert_eq!(refresh.encode(), bytes);
        assert_eq!(
            Refresh::decode(&cut(&bytes, MessageKind::Refresh)).unwrap(),
            Some(refresh)
        );
    }
    for ignored in ["0001 00 80", "0003 01 01", "0001 03 01", "0001 ff 01 00"] {
        assert_eq!(Refresh::decode(&hex(ignored)), Ok(None));
    }
}

#[test]
fn notifications_both_ways_and_as_text() {
    let text = "Neustart um 3 Uhr – Grüße";
    let cases = [
        (
            Notification::hold_timer_expired(),
            "04 00",
            "Hold Timer Expired (4/0)",
        ),
        (
            Notification::send_hold_timer_expired(),
            "08 00",
            "Send Hold Timer Expired (8/0)",
        ),
        (
            Notification::fsm_error(),
            "05 00",
            "Finite State Machine Error (5/0)",
        ),
        (
            Notification::unexpected_message(fsm_error::OPEN_CONFIRM, MessageKind::Update),
            "05 02 02",
            "Finite State Machine Error: Unexpected Message in OpenConfirm (5/2), UPDATE",
        ),
        (
            Notification::bad_peer_as(),
            "02 02",
            "OPEN Message Error: Bad Peer AS (2/2)",
        ),
        (
            Notification::bad_identifier(),
            "02 03",
            "OPEN Message Error: Bad BGP Identifier (2/3)",
        ),
        (
            Notification::unsupported_capability(&[
                Capability::Multiprotocol(Family::Ipv6),
                Capability::ExtendedMessage,
            ]),
            "02 07 0104 0002 00 01 0600",
            "OPEN Message Error: Unsupported Capability (2/7), ipv6 unicast and extended message",
        ),
        (
            Notification::cease(cease::BFD_DOWN),
            "06 0a",
            "Cease: BFD Down (6/10)",
        ),
        (
            Notification::max_prefixes(Family::Ipv4, 1000),
            "06 01 0001 01 000003e8",
            "Cease: Maximum Number of Prefixes Reached (6/1), ipv4, limit 1000",
        ),
        (
            Notification::cease_with_message(cease::ADMIN_SHUTDOWN, text),
            "06 02 1d 4e65757374617274 20 756d 20 33 20 556872 20 e28093 20 4772c3bcc39f65",
            "Cease: Administrative Shutdown (6/2), \"Neustart um 3 Uhr – Grüße\"",
        ),
        (
            Notification::cease_with_message(cease::COLLISION, text),
            "06 07",
            "Cease: Connection Collision Resolution (6/7)",
        ),
        (
            Notification::hold_timer_expired().into_hard_reset(),
            "06 09 04 00",
            "Cease: Hard Reset (6/9) because of Hold Timer Expired (4/0)",
        ),
    ];
    for (value, body, text) in cases {
        let bytes = message(3, &hex(body));
        assert_eq!(value.encode(), bytes, "{text}");
        assert_eq!(
            Notification::decode(&cut(&bytes, MessageKind::Notification)).unwrap(),
            value
        );
        assert_eq!(value.to_string(), text);
    }
}

#[test]
fn notifications_of_others_as_text() {
    for (code, subcode, data, text) in [
        (
            1,
            2,
            "0012",
            "Message Header Error: Bad Message Length (1/2), length 18",
        ),
        (1, 3, "09", "Message Header Error: Bad Message Type (1/3), type 9"),
        (
            2,
            1,
            "0004",
            "OPEN Message Error: Unsupported Version Number (2/1), version 4 is supported",
        ),
        (2, 2, "fde9", "OPEN Message Error: Bad Peer AS (2/2), AS 65001"),
        (
            2,
            2,
            "fa56ea01",
            "OPEN Message Error: Bad Peer AS (2/2), AS 4200000001",
        ),
        (
            2,
            7,
            "0104",
            "OPEN Message Error: Unsupported Capability (2/7), data 01 04",
        ),
        (
            3,
            3,
            "03",
            "UPDATE Message Error: Missing Well-known Attribute (3/3), NEXT_HOP",
        ),
        (
            3,
            9,
            "80 0e 00",
            "UPDATE Message Error: Optional Attribute Error (3/9), MP_REACH_NLRI, data 80 0e 00",
        ),
        (
            5,
            1,
            "63",
            "Finite State Machine Error: Unexpected Message in OpenSent (5/1), type 99",
        ),
        (
            6,
            1,
            "0019 41 00000005",
            "Cease: Maximum Number of Prefixes Reached (6/1), AFI 25 SAFI 65, limit 5",
        ),
        (6, 2, "05 61", "Cease: Administrative Shutdown (6/2), data 05 61"),
        (6, 4, "02 0a41", "Cease: Administrative Reset (6/4), \"\\nA\""),
        (
            6,
            9,
            "06 04 02 6f6b",
            "Cease: Hard Reset (6/9) because of Cease: Administrative Reset (6/4), \"ok\"",
        ),
        (6, 9, "06 09 06 09", "Cease: Hard Reset (6/9), data 06 09 06 09"),
        (9, 0, "", "unknown error (9/0)"),
        (6, 77, "01", "Cease, subcode 77 (6/77), data 01"),
    ] {
        assert_eq!(notification(code, subcode, data).to_string(), text);
    }
    let inside = notification(6, 9, "06 02 02 6f6b");
    assert!(inside.is_hard_reset());
    assert_eq!(inside.shutdown_message().as_deref(), Some("ok"));
}

/// RFC 9003 §2: at most 255 octets, cut between characters.
#[test]
fn shutdown_communication_is_cut_between_characters() {
    let long = Notification::cease_with_message(cease::ADMIN_RESET, &"ü".repeat(200));
    assert_eq!((long.data[0], long.data.len()), (254, 255));
    assert_eq!(long.shutdown_message().unwrap(), "ü".repeat(127));
    // The caller can check whether a text is cut.
    for (text, expected) in [
        ("ü".repeat(127), Ok(())),
        ("x".repeat(255), Ok(())),
        (String::new(), Ok(())),
        ("x".repeat(256), Err((256, 255))),
        ("ü".repeat(128), Err((256, 254))),
        (format!("{}€", "x".repeat(253)), Err((256, 253))),
    ] {
        let answer = check_shutdown_message(&text);
        assert_eq!(
            answer.map_err(|long| (long.octets, long.fits)),
            expected,
            "{text}"
        );
        let sent = Notification::cease_with_message(cease::ADMIN_SHUTDOWN, &text);
        let sent = sent.shutdown_message().unwrap_or_default();
        assert_eq!(
            sent.len(),
            expected.map_or_else(|(_, fits)| fits, |()| text.len())
        );
    }
    let text = check_shutdown_message(&"x".repeat(300)).unwrap_err().to_string();
    assert!(text.contains("300") && text.contains("255") && text.contains("shorten it by 45"));
    let exact = Notification::cease_with_message(cease::ADMIN_RESET, &"x".repeat(255));
    assert_eq!((exact.data[0], exact.data.len()), (255, 256));
    assert!(
        Notification::cease_with_message(cease::ADMIN_RESET, "")
            .data
            .is_empty()
    );
    assert_eq!(Notification::new(3, 9, vec![0; 9000]).encode().len(), 4096);
}
