//! Each rule of RFC 7606 and its error action; session resets with their exact NOTIFICATION (RFC 4271 §6.3).
#![cfg(test)]

mod golden_util;

use bgp_proto::types::{Asn, Family, FamilySet, LargeCommunity};
use bgp_proto::wire::*;
use golden_util::*;

const ORIGIN: &str = "40 01 01 00";
const AS_PATH: &str = "40 02 06 02 01 0000fde9";
const NEXT_HOP: &str = "40 03 04 c0000201";
const MP: &str = "80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8";
const NLRI: &str = "08 0a";

fn good() -> String {
    format!("{ORIGIN} {AS_PATH} {NEXT_HOP}")
}

/// The NOTIFICATION with which the UPDATE resets the session.
fn reset(body: &[u8], ctx: &DecodeContext) -> Notification {
    let error = decode(body, ctx).unwrap_err();
    assert!(!error.to_string().is_empty());
    error.notification()
}

/// The only issue of the UPDATE: (code, fault, action); its routes are withdrawn or announced accordingly.
fn issue(attrs: &str, ctx: &DecodeContext) -> (u8, AttrFault, ErrorAction) {
    let batch = decode(&update("", attrs, NLRI), ctx).unwrap();
    let [issue] = batch.issues[..] else {
        panic!("{attrs}: {:?}", batch.issues)
    };
    match (issue.action, &decoded_ops(&batch)[..]) {
        (ErrorAction::TreatAsWithdraw, [DecodedOp::Withdraw(list)])
        | (ErrorAction::Discard, [DecodedOp::Announce(_, list)]) => {
            assert_eq!(*list, nlri(&["10.0.0.0/8"]));
        }
        (action, decoded_ops) => panic!("{attrs}: {action:?} with {decoded_ops:?}"),
    }
    assert!(!issue.to_string().is_empty());
    (issue.code, issue.fault, issue.action)
}

/// RFC 7606 §7: the valid form of each attribute, and the action if it is malformed.
#[test]
fn malformed_attributes() {
    use AttrFault as F;
    use ErrorAction::{Discard as D, TreatAsWithdraw as W};
    let replaced = |part: &str, by: &str| good().replace(part, by);
    let added = |by: &str| format!("{} {by}", good());
    let old = DecodeContext {
        four_octet_as: false,
        ..IBGP
    };
    let narrow = |by: &str| format!("{ORIGIN} 40 02 04 02 01 fde9 {NEXT_HOP} {by}");
    for (attrs, ctx, expected) in [
        // RFC 9234 §5 ONLY_TO_CUSTOMER
        (added("c0 23 03 00fde9"), IBGP, (35, F::Length, W)),
        (added("c0 23 05 000000fde9"), IBGP, (35, F::Length, W)),
        (added("80 23 04 0000fde9"), IBGP, (35, F::Flags, W)),
        // §7.1 ORIGIN
        (replaced(ORIGIN, "40 01 01 03"), IBGP, (1, F::Origin, W)),
        (replaced(ORIGIN, "40 01 00"), IBGP, (1, F::Length, W)),
        (replaced(ORIGIN, "40 01 02 0000"), IBGP, (1, F::Length, W)),
        // §7.2 AS_PATH
        (
            replaced(AS_PATH, "40 02 06 05 01 0000fde9"),
            IBGP,
            (2, F::Segments, W),
        ),
        (
            replaced(AS_PATH, "40 02 06 02 02 0000fde9"),
            IBGP,
            (2, F::Segments, W),
        ),
        (replaced(AS_PATH, "40 02 02 02 00"), IBGP, (2, F::Segments, W)),
        (
            replaced(AS_PATH, "40 02 07 02 01 0000fde9 02"),
            IBGP,
            (2, F::Segments, W),
        ),
        (
            replaced(AS_PATH, "40 02 04 02 01 fde9"),
            IBGP,
            (2, F::Segments, W),
        ),
        (
            replaced(AS_PATH, "40 02 06 03 01 0000fde9"),
            EBGP,
            (2, F::Confederation, W),
        ), // RFC 5065 §5
        // From inside the AS too: we are in no confederation.
        (
            replaced(AS_PATH, "40 02 06 03 01 0000fde9"),
            IBGP,
            (2, F::Confederation, W),
        ),
        (
            replaced(AS_PATH, "40 02 0c 02 01 0000fde9 04 01 0000fdea"),
            IBGP,
            (2, F::Confederation, W),
        ),
        (
            replaced(AS_PATH, "40 02 06 02 01 00000000"),
            IBGP,
            (2, F::ZeroAs, W),
        ), // RFC 7607 §2
        // §7.3 NEXT_HOP, §7.4 MULTI_EXIT_DISC, §7.5 LOCAL_PREF
        (replaced(NEXT_HOP, "40 03 03 c00002"), IBGP, (3, F::Length, W)),
        (replaced(NEXT_HOP, "40 03 00"), IBGP, (3, F::Length, W)),
        (added("80 04 03 000001"), IBGP, (4, F::Length, W)),
        (added("40 05 05 0000000100"), IBGP, (5, F::Length, W)),
        (added("40 05 04 00000064"), EBGP, (5, F::Misplaced, D)),
        (added("c0 05 05 0000000100"), EBGP, (5, F::Misplaced, D)),
        // §7.6 ATOMIC_AGGREGATE, §7.7 AGGREGATOR
        (added("40 06 01 00"), IBGP, (6, F::Length, D)),
        (added("c0 07 06 fde9 0a000001"), IBGP, (7, F::Length, D)),
        (added("c0 07 00"), IBGP, (7, F::Length, D)),
        (added("c0 07 08 00000000 0a000001"), IBGP, (7, F::ZeroAs, D)),
        (narrow("c0 07 08 0000fde9 0a000001"), old, (7, F::Length, D)),
        // §7.8 COMMUNITIES
        (added("c0 08 03 000001"), IBGP, (8, F::Length, W)),
        (added("c0 08 00"), IBGP, (8, F::Length, W)),
        // §7.9 ORIGINATOR_ID, §7.10 CLUSTER_LIST
        (added("80 09 05 0a00000100"), IBGP, (9, F::Length, W)),
        (added("80 09 04 00000000"), IBGP, (9, F::ZeroIdentifier, W)),
        (added("80 09 04 0a000001"), EBGP, (9, F::Misplaced, D)),
        (added("80 0a 06 0a0000010000"), IBGP, (10, F::Length, W)),
        (added("80 0a 00"), IBGP, (10, F::Length, W)),
        (added("80 0a 04 0a000001"), EBGP, (10, F::Misplaced, D)),
        // §7.14 extended communities; RFC 8092 §5 large communities
        (added("c0 10 07 00000000000001"), IBGP, (16, F::Length, W)),
        (added("c0 10 00"), IBGP, (16, F::Length, W)),
        (added("c0 20 08 0000000000000001"), IBGP, (32, F::Length, W)),
        (added("c0 20 00"), IBGP, (32, F::Length, W)),
        // RFC 6793 §4.1, §6: AS4_PATH and AS4_AGGREGATOR
        (added("c0 11 06 02 01 0000fde9"), IBGP, (17, F::Misplaced, D)),
        (added("c0 12 08 0000fde9 0a000001"), IBGP, (18, F::Misplaced, D)),
        (narrow("c0 11 06 02 02 0000fde9"), old, (17, F::Segments, D)),
        (narrow("c0 11 00"), old, (17, F::Segments, D)),
        (narrow("c0 11 06 02 01 00000000"), old, (17, F::ZeroAs, D)),
        (narrow("c0 12 06 fde9 0a000001"), old, (18, F::Length, D)),
        // §3 c: flags
        (replaced(ORIGIN, "80 01 01 00"), IBGP, (1, F::Flags, W)),
        (
            replaced(AS_PATH, "c0 02 06 02 01 0000fde9"),
            IBGP,
            (2, F::Flags, W),
        ),
        (added("40 04 04 00000001"), IBGP, (4, F::Flags, W)),
        (added("80 08 04 00000001"), IBGP, (8, F::Flags, W)),
        // RFC 4271 §6.3: flagged as well-known, but unknown.
        (added("40 63 01 00"), IBGP, (99, F::Unrecognized, W)),
        (added("00 63 00"), IBGP, (99, F::Unrecognized, W)),
        // §3 d: mandatory attributes
        (replaced(ORIGIN, ""), IBGP, (1, F::Missing, W)),
        (replaced(AS_PATH, ""), IBGP, (2, F::Missing, W)),
        (replaced(NEXT_HOP, ""), IBGP, (3, F::Missing, W)),
        // §3 g: a repeated attribute
        (added("40 01 01 02"), IBGP, (1, F::Duplicate, D)),
        (added("c0 63 00 c0 63 00"), IBGP, (99, F::Duplicate, D)),
        // §4: the list ends inside an attribute or its header
        (added("80 04 04 000000"), IBGP, (4, F::Overrun, W)),
        (added("80 04"), IBGP, (4, F::Overrun, W)),
        (added("80"), IBGP, (0, F::Overrun, W)),
        (added("90 63 00"), IBGP, (99, F::Overrun, W)),
        (added("90 63 0100 00"), IBGP, (99, F::Overrun, W)),
    ] {
        assert_eq!(issue(&attrs, &ctx), expected, "{attrs}");
    }
}

/// Partial and the unused flag bits are ignored (RFC 4271 §4.3), and so is an unnecessary extended length.
#[test]
fn lenient_with_flags() {
    let attrs = "6f 01 01 00  50 02 0006 02 01 0000fde9  40 03 04 c0000201  a0 04 04 00000001";
    let batch = decode(&update("", attrs, NLRI), &IBGP).unwrap();
    // 6f: Transitive, Partial and the four unused bits; 50: Extended Length for a short value.
    let (attrs, _) = announced(&batch);
    assert_eq!((attrs.med, attrs.extra), (Some(1), None));
}

/// RFC 7606 §3 g: the first occurrence counts, even if it is malformed.
#[test]
fn first_occurrence_wins() {
    let batch = decode(
        &update(
            "",
            &format!("{} 80 04 04 00000001 80 04 04 00000002", good()),
            NLRI,
        ),
        &IBGP,
    );
    let batch = batch.unwrap();
    assert!(matches!(&decoded_ops(&batch)[..], [DecodedOp::Announce(attrs, _)] if attrs.med == Some(1)));
    let batch = decode(
        &update("", &format!("40 01 01 09 {ORIGIN} {AS_PATH} {NEXT_HOP}"), NLRI),
        &IBGP,
    )
    .unwrap();
    assert!(matches!(&decoded_ops(&batch)[..], [DecodedOp::Withdraw(_)]));
    assert_eq!(batch.issues.len(), 2);
}

/// RFC 7606 §3 h: the strongest action applies.
#[test]
fn the_strongest_action_wins() {
    let body = update(
        "",
        &format!("{} 40 06 01 00 c0 08 03 000000 c0 07 00", good()),
        NLRI,
    );
    let batch = decode(&body, &IBGP).unwrap();
    assert!(matches!(&decoded_ops(&batch)[..], [DecodedOp::Withdraw(_)]));
    let actions: Vec<ErrorAction> = batch.issues.iter().map(|issue| issue.action).collect();
    assert_eq!(
        actions,
        [
            ErrorAction::Discard,
            ErrorAction::TreatAsWithdraw,
            ErrorAction::Discard
        ]
    );
    let body = update("", &format!("{} c0 08 03 000000 {MP} {MP}", good()), NLRI);
    assert_eq!(reset(&body, &IBGP), notification(3, 1, ""));
}

/// RFC 7606 §3 c: wrong flags on MP attributes withdraw; their prefixes are still read.
#[test]
fn wrong_flags_on_mp_attributes() {
    let body = update(
        "",
        &format!("{} {ORIGIN} {AS_PATH}", MP.replacen("80", "c0", 1)),
        "",
    );
    let batch = decode(&body, &IBGP).unwrap();
    assert_eq!(
        decoded_ops(&batch),
        [DecodedOp::Withdraw(nlri(&["2001:db8::/32"]))]
    );
    let body = update("", "40 0f 08 0002 01 20 20010db8", "");
    assert_eq!(
        decoded_ops(&decode(&body, &IBGP).unwrap()),
        [DecodedOp::Withdraw(nlri(&["2001:db8::/32"]))]
    );
    // One malformed attribute withdraws the routes of both NLRI fields.
    let body = update(
        "",
        &format!("{MP} {}", good().replace("40 01 01 00", "40 01 01 07")),
        NLRI,
    );
    assert_eq!(
        decoded_ops(&decode(&body, &IBGP).unwrap()),
        [DecodedOp::Withdraw(nlri(&["10.0.0.0/8", "2001:db8::/32"]))]
    );
}

#[test]
fn section_lengths() {
    // RFC 4271 §6.3: lengths beyond the message are a Malformed Attribute List without data.
    for body in [
        "0001 0000",
        "0000 0001",
        "0000 0005 40010100",
        "0002 08 0a 00",
        "ffff 0000",
        "00",
        "0000 00",
    ] {
        assert_eq!(reset(&hex(body), &IBGP), notification(3, 1, ""), "{body}");
    }
}

/// RFC 7606 §3 i–j, §5.3: unreadable prefixes.
#[test]
fn unreadable_prefixes() {
    for list in ["21 0a00000000", "ff", "08", "18 0af4", "08 0a 20 0a0000"] {
        assert_eq!(
            reset(&update("", &good(), list), &IBGP),
            notification(3, 10, ""),
            "{list}"
        );
        assert_eq!(
            reset(&update(list, "", ""), &IBGP),
            notification(3, 10, ""),
            "{list}"
        );
    }
    let add_path = DecodeContext {
        add_path: FamilySet::ALL,
        ..IBGP
    };
    for list in ["000000", "00000001", "00000001 08", "00000001 21 0a00000000"] {
        assert_eq!(
            reset(&update("", &good(), list), &add_path),
            notification(3, 10, ""),
            "{list}"
        );
    }
    // Also if the family is not negotiated or another attribute is malformed.
    let v6_only = DecodeContext {
        families: FamilySet::from_iter([Family::Ipv6]),
        ..IBGP
    };
    assert_eq!(
        reset(&update("", &good(), "08"), &v6_only),
        notification(3, 10, "")
    );
    assert_eq!(reset(&update("", ORIGIN, "08"), &IBGP), notification(3, 10, ""));
}

/// RFC 7606 §5.3, §7.11, RFC 4760 §7: unreadable MP attributes; data: the attribute.
#[test]
fn unreadable_mp_attributes() {
    let global = "20010db8000000000000000000000001";
    for attr in [
        "80 0e 00".to_owned(),
        "80 0e 02 0002".into(),
        "80 0e 03 000201".into(),
        "80 0e 04 0002 01 10".into(),
        format!("80 0e 14 0002 01 10 {global}"), // no reserved octet
        format!("80 0e 15 0002 01 0f {global} 00"),
        format!("80 0e 1d 0002 01 18 0000000000000000 {global} 00"), // a route distinguisher is invalid for unicast
        "80 0e 09 0002 01 04 c0000201 00".into(),
        "80 0e 05 0002 01 00 00".into(),
        format!("80 0e 16 0002 01 10 {global} 00 81"),
        format!("80 0e 17 0002 01 10 {global} 00 10 20"),
        "80 0f 00".into(),
        "80 0f 02 0002".into(),
        "80 0f 04 0002 01 81".into(),
        "80 0f 05 0002 01 10 20".into(),
        // Truncated by the end of the list.
        "80 0e 20 0002 01".into(),
        "80 0f 20 0002 01".into(),
    ] {
        let body = update("", &format!("{ORIGIN} {AS_PATH} {attr}"), "");
        assert_eq!(reset(&body, &IBGP), notification(3, 9, &attr), "{attr}");
    }
    // RFC 8950: IPv6 next hops for IPv4 only if negotiated.
    let attr = format!("80 0e 17 0001 01 10 {global} 00 08 0a");
    let body = update("", &format!("{attr} {ORIGIN} {AS_PATH}"), "");
    let without = DecodeContext {
        extended_next_hop: FamilySet::EMPTY,
        ..IBGP
    };
    assert_eq!(reset(&body, &without), notification(3, 9, &attr));
    assert!(decode(&body, &IBGP).unwrap().issues.is_empty());
}

#[test]
fn mp_attributes_twice() {
    let unreach = "80 0f 03 000201";
    for attrs in [
        format!("{MP} {MP}"),
        format!("{unreach} {unreach}"),
        format!("{MP} 80 0e 40"),
    ] {
        assert_eq!(reset(&update("", &attrs, ""), &IBGP), notification(3, 1, ""));
    }
}

/// RFC 7606 §5.2: malformed attributes without routes to withdraw; the code is that of RFC 4271 §6.3.
#[test]
fn attribute_errors_without_routes() {
    for (attrs, subcode, data) in [
        ("80 01 01 00", 4, "80 01 01 00"),
        ("40 01 02 0000", 5, "40 01 02 0000"),
        ("40 01 01 03", 6, "40 01 01 03"),
        ("40 02 02 02 00", 11, ""),
        ("80 09 04 00000000", 9, "80 09 04 00000000"),
        ("80 04 04 00", 1, ""),
        ("80 0f 03 000201 40 01 01 03", 6, "40 01 01 03"),
    ] {
        assert_eq!(
            reset(&update("", attrs, ""), &IBGP),
            notification(3, subcode, data),
            "{attrs}"
        );
        assert_eq!(
            reset(&update("08 0a", attrs, ""), &IBGP),
            notification(3, subcode, data),
            "{attrs}"
        );
    }
    // Discarded and unknown attributes are no reason for a reset (our deviation).
    for attrs in [
        "40 06 01 00",
        "40 63 00",
        "c0 63 00",
        "80 63 00",
        "40 01 01 00 40 01 01 00",
    ] {
        let batch = decode(&update("", attrs, ""), &IBGP).unwrap();
        assert!(batch.ops.is_empty(), "{attrs}");
    }
}

/// Families that are not negotiated are ignored without an error.
#[test]
fn families_that_are_not_up() {
    let v4_only = DecodeContext {
        families: FamilySet::from_iter([Family::Ipv4]),
        ..IBGP
    };
    for mp in [
        MP,
        "80 0e 05 0001 80 ff 00", // VPNv4 with a next hop longer than the attribute
        "80 0e 03 4004 47",       // BGP-LS without NLRI
        "80 0f 05 0002 01 10 20", // would be unreadable
        "80 0f 03 0001 85",       // End-of-RIB of flow specifications
        "c0 0e 03 0019 46",       // EVPN with wrong flags
    ] {
        let batch = decode(&update("", &format!("{mp} {}", good()), NLRI), &v4_only).unwrap();
        let [op] = &decoded_ops(&batch)[..] else {
            panic!("{batch:?}")
        };
        let (DecodedOp::Announce(_, list) | DecodedOp::Withdraw(list)) = op else {
            panic!("{op:?}")
        };
        assert_eq!(*list, nlri(&["10.0.0.0/8"]));
        assert!(decode(&update("", mp, ""), &v4_only).unwrap().ops.is_empty());
    }
    let v6_only = DecodeContext {
        families: FamilySet::from_iter([Family::Ipv6]),
        ..IBGP
    };
    assert!(
        decode(&update("08 0a", &good(), NLRI), &v6_only)
            .unwrap()
            .ops
            .is_empty()
    );
    assert!(decode(&update("", "", ""), &v6_only).unwrap().ops.is_empty());
}

/// RFC 6793 §4.2.3: merging AS4_PATH and AS4_AGGREGATOR with AS_PATH and AGGREGATOR.
#[test]
fn four_octet_numbers_through_old_speakers() {
    let old = DecodeContext {
        four_octet_as: false,
        ..IBGP
    };
    let path = |as_path: &str, more: &str| {
        let as_path = hex(as_path);
        let text: String = as_path.iter().map(|octet| format!("{octet:02x}")).collect();
        let attrs = format!("{ORIGIN} 40 02 {:02x} {text} {NEXT_HOP} {more}", as_path.len());
        let batch = decode(&update("", &attrs, NLRI), &old).unwrap();
        announced(&batch).0
    };
    let as4 = "c0 11 0a 02 02 00011170 00011171"; // 70000 70001
    for (as_path, more, expected) in [
        // Equal length: AS4_PATH replaces AS_PATH. AS_PATH longer: its leading part is kept. Shorter:
        // AS4_PATH is ignored.
        ("02 02 5ba0 5ba0", as4, "70000 70001"),
        ("02 04 0001 0002 5ba0 5ba0", as4, "1 2 70000 70001"),
        ("02 01 5ba0", as4, "23456"),
        // A set counts as one (RFC 4271 §9.1.2.2).
        ("01 02 0001 0002 02 02 5ba0 5ba0", as4, "{1 2} 70000 70001"),
        (
            "02 01 0001 01 03 0002 0003 0004",
            "c0 11 06 01 01 00011170",
            "1 {70000}",
        ),
        // Confederation segments in AS4_PATH are removed (RFC 6793 §6).
        (
            "02 02 0001 5ba0",
            "c0 11 0c 03 01 0000fde8 02 01 00011170",
            "1 70000",
        ),
    ] {
        assert_eq!(path(as_path, more).as_path.to_string(), expected, "{as_path}");
    }
    // A two-octet speaker aggregated later: both are outdated.
    let aggregator = |asn: &str| format!("c0 07 06 {asn} 0a000001 {as4} c0 12 08 00011170 0a000002");
    let stale = path("02 02 5ba0 5ba0", &aggregator("fde9"));
    assert_eq!(stale.as_path.to_string(), "23456 23456");
    assert_eq!(stale.extra.unwrap().aggregator.unwrap().asn, Asn(65001));
    let fresh = path("02 02 5ba0 5ba0", &aggregator("5ba0"));
    assert_eq!(fresh.as_path.to_string(), "70000 70001");
    let aggregator = fresh.extra.unwrap().aggregator.unwrap();
    assert_eq!(
        (aggregator.asn, aggregator.id),
        (Asn(70000), [10, 0, 0, 2].into())
    );
    // AS4_AGGREGATOR alone is ignored.
    assert_eq!(path("02 01 0001", "c0 12 08 00011170 0a000002").extra, None);
}

/// Two sequences that together exceed 255 numbers stay separate.
#[test]
fn merged_paths_keep_segments_valid() {
    let old = DecodeContext {
        four_octet_as: false,
        ..IBGP
    };
    let front = "0001".repeat(10);
    let behind = "5ba0".repeat(250);
    let true_ones = "00011170".repeat(250);
    let attrs =
        format!("{ORIGIN} 50 02 020c 02 0a {front} 02 fa {behind} {NEXT_HOP} d0 11 03ea 02 fa {true_ones}");
    let (attrs, _) = announced(&decode(&update("", &attrs, NLRI), &old).unwrap());
    assert_eq!((attrs.as_path.hops(), attrs.as_path.segments().count()), (260, 2));
    assert_eq!(attrs.as_path.count(Asn(70000)), 250);
}

/// RFC 8092 §3: duplicate large communities are removed silently.
#[test]
fn large_communities_once() {
    let one = "000000010000000200000003";
    let attrs = format!("{} c0 20 24 {one} 000000090000000200000003 {one}", good());
    let (attrs, _) = announced(&decode(&update("", &attrs, NLRI), &IBGP).unwrap());
    assert_eq!(
        attrs.extra.unwrap().large_communities,
        [LargeCommunity(1, 2, 3), LargeCommunity(9, 2, 3)]
    );
}

/// A hostile message cannot fill memory with issues, and 10,000 of them do not change the decoder's state.
#[test]
fn many_malformed_messages() {
    let body = update("", &format!("{} {}", good(), "40 01 00 ".repeat(1300)), NLRI);
    let mut batch = RouteBatch::default();
    for _ in 0..10_000 {
        decode_update(&body, &IBGP, &mut batch).unwrap();
        assert_eq!((batch.issues.len(), batch.nlri.len()), (1, 1));
        batch = RouteBatch::default();
        let mut cut = body.clone();
        cut.push(32);
        decode_update(&cut, &IBGP, &mut batch).unwrap_err();
        assert_eq!(batch, RouteBatch::default());
    }
}

/// Each message appends; a reset removes only its own part.
#[test]
fn batches_grow_and_rewind() {
    let mut batch = RouteBatch::default();
    decode_update(&update("", &good(), NLRI), &IBGP, &mut batch).unwrap();
    decode_update(&update("08 0b", "", ""), &IBGP, &mut batch).unwrap();
    let before = batch.clone();
    decode_update(
        &update("08 0c", &format!("{} 40 06 01 00", good()), "08 0a 21"),
        &IBGP,
        &mut batch,
    )
    .unwrap_err();
    assert_eq!(batch, before);
    assert_eq!((batch.messages, batch.ops.len(), batch.nlri.len()), (2, 2, 2));
}

/// RFC 4291 §2.5.6, RFC 2545 §2: bits of a link-local next hop that must be zero hold the interface inside
/// the program.
#[test]
fn a_link_local_next_hop_has_only_an_interface_identifier() {
    let global = "20010db8 00000000 00000000 00000001";
    let plain = "fe800000 00000000 00000000 00000bad";
    let rest = format!("{ORIGIN} {AS_PATH}");
    let reach = |family: &str, hops: &[&str], prefix: &str| {
        let hops = hops.concat();
        let value = hex(&format!("{family} {:02x} {hops} 00 {prefix}", hex(&hops).len()));
        let text: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
        update("", &format!("80 0e {:02x} {text} {rest}", value.len()), "")
    };
    let v6 = ("0002 01", "20 20010db8", nlri(&["2001:db8::/32"]));
    let v4 = ("0001 01", "08 0a", nlri(&["10.0.0.0/8"])); // RFC 8950
    for (family, prefix, prefixes) in [&v6, &v4] {
        for scoped in [
            "fe800000 00000003 00000000 00000bad", // interface 3
            "fe800001 00000000 00000000 00000bad",
            "febf0000 00000000 00000000 00000bad",
        ] {
            for hops in [
                &[scoped][..],
                &[scoped, plain],
                &[global, scoped],
                &[scoped, scoped],
            ] {
                for ctx in [&IBGP, &EBGP] {
                    let batch = decode(&reach(family, hops, prefix), ctx).unwrap();
                    assert_eq!(
                        decoded_ops(&batch),
                        [DecodedOp::Withdraw(prefixes.clone())],
                        "{hops:?}"
                    );
                    let [issue] = batch.issues[..] else {
                        panic!("{hops:?}: {:?}", batch.issues)
                    };
                    assert_eq!((issue.code, issue.fault), (14, AttrFault::LinkLocal));
                }
            }
        }
        for hops in [&[plain][..], &[global, plain], &[plain, plain], &[global]] {
            let batch = decode(&reach(family, hops, prefix), &EBGP).unwrap();
            assert_eq!(announced(&batch).1, *prefixes, "{hops:?}");
        }
    }
}

/// RFC 4271 §6.3: a multicast prefix is ignored; the rest of the message is processed.
#[test]
fn multicast_prefixes_are_left_out() {
    let attrs = format!("{ORIGIN} {AS_PATH} {NEXT_HOP}");
    // 224.0.0.0/4, 239.255.0.0/16, 224.0.0.5/32; adjacent: 223.255.255.0/24, 240.0.0.0/4, 192.0.0.0/2,
    // 0.0.0.0/0.
    let body = update("", &attrs, "04 e0 18 dfffff 10 efff 04 f0 20 e0000005 02 c0 00");
    let batch = decode(&body, &EBGP).unwrap();
    let [DecodedOp::Announce(_, prefixes)] = &decoded_ops(&batch)[..] else {
        panic!("{batch:?}")
    };
    let kept = nlri(&["223.255.255.0/24", "240.0.0.0/4", "192.0.0.0/2", "0.0.0.0/0"]);
    assert_eq!(*prefixes, kept);
    let [issue] = batch.issues[..] else {
        panic!("{:?}", batch.issues)
    };
    assert_eq!((issue.code, issue.fault), (0, AttrFault::Multicast));
    assert_eq!(issue.to_string(), "NLRI: multicast prefixes; discarded");
    // With no other prefix, no route changes and the session stays.
    let alone = decode(&update("", &attrs, "04 e0"), &EBGP).unwrap();
    assert_eq!((decoded_ops(&alone), alone.issues.len()), (vec![], 1));
    // ff00::/8 and ff02::1:0/112; adjacent: fe00::/8 and fc00::/6.
    let mp = "80 0e 2a 0002 01 10 20010db8000000000000000000000001 00 08 ff 70 ff020000 00000000 00000000 0001 08 fe 06 fc";
    let batch = decode(&update("", &format!("{mp} {ORIGIN} {AS_PATH}"), ""), &EBGP).unwrap();
    let [DecodedOp::Announce(_, prefixes)] = &decoded_ops(&batch)[..] else {
        panic!("{batch:?}")
    };
    assert_eq!(*prefixes, nlri(&["fe00::/8", "fc00::/6"]));
    assert_eq!((batch.issues[0].code, batch.issues.len()), (14, 1));
}
