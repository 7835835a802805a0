//! Encodings of UPDATEs in both directions: each attribute, both families, both widths of AS numbers, path
//! identifiers.
#![cfg(test)]

mod golden_util;

use ::bytes::BytesMut;
use bgp_proto::types::{Asn, Community, ExtCommunity, Family, FamilySet, LargeCommunity, PathId, RouterId};
use bgp_proto::wire::*;
use golden_util::*;

/// ORIGIN IGP, AS_PATH 65001 4200000001, NEXT_HOP 192.0.2.1.
const BASE: &str = "40 01 01 00  40 02 0a 02 02 0000fde9 fa56ea01  40 03 04 c0000201";

fn base() -> PathAttrs {
    let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
    attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(4_200_000_001)]);
    attrs
}

fn with(change: impl FnOnce(&mut PathAttrs)) -> PathAttrs {
    let mut attrs = base();
    change(&mut attrs);
    attrs
}

fn extra(change: impl FnOnce(&mut ExtraAttrs)) -> PathAttrs {
    with(|attrs| change(attrs.extra_mut()))
}

/// In both directions, with one IPv4 prefix, 10.244.1.0/24.
fn attrs_golden(encode: &EncodeContext, context: &DecodeContext, attrs: &PathAttrs, octets: &str) {
    let prefixes = nlri(&["10.244.1.0/24"]);
    let bytes = message(2, &update("", octets, "18 0af401"));
    let mut out = BytesMut::new();
    assert_eq!(
        encode_announce(&mut out, encode, Family::Ipv4, attrs, &prefixes),
        Ok(1)
    );
    assert_eq!(out, bytes, "{attrs:?}");
    let batch = decode(&cut(&bytes, MessageKind::Update), context).unwrap();
    assert_eq!(announced(&batch), (attrs.clone(), prefixes));
}

#[test]
fn each_attribute_both_ways() {
    let internal = "40 05 04 00000064";
    let cases: Vec<(PathAttrs, String)> = vec![
        (base(), format!("{BASE} {internal}")),
        (
            with(|attrs| attrs.origin = Origin::Egp),
            BASE.replacen("01 01 00", "01 01 01", 1) + internal,
        ),
        (
            with(|attrs| attrs.origin = Origin::Incomplete),
            BASE.replacen("01 01 00", "01 01 02", 1) + internal,
        ),
        (
            with(|attrs| attrs.med = Some(7)),
            format!("{BASE} 80 04 04 00000007 {internal}"),
        ),
        (
            with(|attrs| attrs.atomic_aggregate = true),
            format!("{BASE} {internal} 40 06 00"),
        ),
        (
            extra(|extra| {
                extra.aggregator = Some(Aggregator {
                    asn: Asn(4_200_000_001),
                    id: [10, 0, 0, 1].into(),
                });
            }),
            format!("{BASE} {internal} c0 07 08 fa56ea01 0a000001"),
        ),
        (
            with(|attrs| attrs.communities = [Community(0xFDE8_0064), Community::NO_EXPORT].into()),
            format!("{BASE} {internal} c0 08 08 fde80064 ffffff01"),
        ),
        (
            extra(|extra| extra.originator_id = RouterId::new(0x0A00_0002)),
            format!("{BASE} {internal} 80 09 04 0a000002"),
        ),
        (
            extra(|extra| extra.cluster_list = vec![1, 0x0A00_0003]),
            format!("{BASE} {internal} 80 0a 08 00000001 0a000003"),
        ),
        (
            extra(|extra| extra.ext_communities = vec![ExtCommunity(0x0002_FDE8_0000_0064)]),
            format!("{BASE} {internal} c0 10 08 0002fde800000064"),
        ),
        (
            extra(|extra| extra.large_communities = vec![LargeCommunity(64512, 1, 2)]),
            format!("{BASE} {internal} c0 20 0c 0000fc00 00000001 00000002"),
        ),
        (
            extra(|extra| {
                let unknown = |code, value: &[u8]| UnknownAttr {
                    flags: 0xE0,
                    code,
                    value: value.into(),
                };
                extra.unknown = vec![unknown(11, &[]), unknown(25, &[1]), unknown(99, &[2, 3])];
                extra.ext_communities = vec![ExtCommunity(1)];
                extra.large_communities = vec![LargeCommunity(1, 2, 3)];
            }),
            format!(
                "{BASE} {internal} e0 0b 00 c0 10 08 0000000000000001 e0 19 01 01 \
                 c0 20 0c 000000010000000200000003 e0 63 02 0203"
            ),
        ),
        (
            // RFC 9234 §5.
            extra(|extra| {
                extra.large_communities = vec![LargeCommunity(64512, 1, 2)];
                extra.only_to_customer = Some(Asn(4_200_000_001));
            }),
            format!("{BASE} {internal} c0 20 0c 0000fc00 00000001 00000002 c0 23 04 fa56ea01"),
        ),
        (
            extra(|extra| {
                extra.only_to_customer = Some(Asn(65001));
                extra.partial.insert(35);
            }),
            format!("{BASE} {internal} e0 23 04 0000fde9"),
        ),
        (
            // RFC 4271 §5: Partial is kept.
            with(|attrs| {
                attrs.communities = [Community(1)].into();
                attrs.extra_mut().partial.insert(8);
            }),
            format!("{BASE} {internal} e0 08 04 00000001"),
        ),
        (
            with(|attrs| attrs.communities = (0..64).map(Community).collect()),
            format!("{BASE} {internal} d0 08 0100")
                + &(0..64).map(|n| format!("{n:08x}")).collect::<String>(),
        ),
    ];
    for (mut attrs, octets) in cases {
        attrs.local_pref = Some(100);
        attrs_golden(&TO_IBGP, &IBGP, &attrs, &octets);
    }
}

#[test]
fn nothing_internal_leaves_the_as() {
    let mut attrs = extra(|extra| {
        extra.originator_id = RouterId::new(1);
        extra.cluster_list = vec![1];
    });
    attrs.local_pref = Some(100);
    let mut out = BytesMut::new();
    let external = EncodeContext {
        internal: false,
        ..TO_IBGP
    };
    encode_announce(&mut out, &external, Family::Ipv4, &attrs, &nlri(&["10.0.0.0/8"])).unwrap();
    assert_eq!(out, message(2, &update("", BASE, "08 0a")));
}

#[test]
fn unknown_non_transitive_vanishes() {
    let batch = decode(&update("", &format!("{BASE} 80 1a 02 0102"), "08 0a"), &IBGP).unwrap();
    assert_eq!(announced(&batch).0, base());
    let attrs = extra(|extra| {
        extra.unknown = vec![UnknownAttr {
            flags: 0x80,
            code: 26,
            value: [1].into(),
        }]
    });
    let mut out = BytesMut::new();
    encode_announce(&mut out, &TO_IBGP, Family::Ipv4, &attrs, &nlri(&["10.0.0.0/8"])).unwrap();
    assert_eq!(out, message(2, &update("", BASE, "08 0a")));
}

/// RFC 6793 §4.2.2: AS_TRANS in AS_PATH and AGGREGATOR, the real numbers in AS4_PATH and AS4_AGGREGATOR.
#[test]
fn two_octet_peers() {
    let old = EncodeContext {
        four_octet_as: false,
        ..TO_IBGP
    };
    let from_old = DecodeContext {
        four_octet_as: false,
        ..IBGP
    };
    let narrow = "40 01 01 00 40 02 06 02 02 fde9 5ba0 40 03 04 c0000201";
    let as4_path = "c0 11 0a 02 02 0000fde9 fa56ea01";
    attrs_golden(&old, &from_old, &base(), &format!("{narrow} {as4_path}"));
    let aggregated = extra(|extra| {
        extra.aggregator = Some(Aggregator {
            asn: Asn(70000),
            id: [10, 0, 0, 1].into(),
        });
    });
    let octets = format!("{narrow} c0 07 06 5ba0 0a000001 {as4_path} c0 12 08 00011170 0a000001");
    attrs_golden(&old, &from_old, &aggregated, &octets);
    let plain = with(|attrs| {
        attrs.as_path = AsPath::sequence(&[Asn(65001)]);
        attrs.extra_mut().aggregator = Some(Aggregator {
            asn: Asn(65001),
            id: [10, 0, 0, 1].into(),
        });
    });
    let octets = "40 01 01 00 40 02 04 02 01 fde9 40 03 04 c0000201 c0 07 06 fde9 0a000001";
    attrs_golden(&old, &from_old, &plain, octets);
}

/// MP_REACH_NLRI first (RFC 7606 §5.1), then the other attributes without NEXT_HOP.
#[test]
fn multiprotocol_both_ways() {
    let rest = "40 01 01 00 40 02 0a 02 02 0000fde9 fa56ea01";
    let (global, local) = ("2001:db8::1".parse().unwrap(), "fe80::1".parse().unwrap());
    let g = "20010db8 00000000 00000000 00000001";
    let l = "fe800000 00000000 00000000 00000001";
    let v6 = ("0002 01", "30 fd0000100244", "fd00:10:244::/48", Family::Ipv6);
    let v4 = ("0001 01", "18 0af401", "10.244.1.0/24", Family::Ipv4);
    for ((family_octets, octets, prefix, family), next_hop, hop_octets) in [
        (v6, NextHop::V6(global), format!("10 {g}")),
        (v6, NextHop::V6Pair(global, local), format!("20 {g} {l}")),
        (v4, NextHop::V6(global), format!("10 {g}")), // RFC 8950 §3
        (v4, NextHop::V6Pair(global, local), format!("20 {g} {l}")),
    ] {
        let attrs = with(|attrs| attrs.next_hop = next_hop);
        let value = hex(&format!("{family_octets} {hop_octets} 00 {octets}"));
        let value_hex: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
        let mp = format!("90 0e {:04x} {value_hex}", value.len());
        let bytes = message(2, &update("", &format!("{mp} {rest}"), ""));
        let mut out = BytesMut::new();
        encode_announce(&mut out, &TO_IBGP, family, &attrs, &nlri(&[prefix])).unwrap();
        assert_eq!(out, bytes);
        let batch = decode(&cut(&bytes, MessageKind::Update), &IBGP).unwrap();
        assert_eq!(announced(&batch), (attrs, nlri(&[prefix])));
    }
}

#[test]
fn mp_reach_of_ipv4_with_an_ipv4_next_hop() {
    let body = update(
        "",
        "80 0e 0d 0001 01 04 c0000201 00 18 0af401 40 01 01 00 40 02 00",
        "",
    );
    let (attrs, prefixes) = announced(&decode(&body, &IBGP).unwrap());
    assert_eq!(
        (attrs.next_hop, prefixes),
        (NextHop::V4([192, 0, 2, 1].into()), nlri(&["10.244.1.0/24"]))
    );
}

#[test]
fn an_ipv6_prefix_never_gets_four_octets_of_next_hop() {
    let mut out = BytesMut::new();
    encode_announce(
        &mut out,
        &TO_IBGP,
        Family::Ipv6,
        &base(),
        &nlri(&["2001:db8::/32"]),
    )
    .unwrap();
    let batch = decode(&cut(&out, MessageKind::Update), &IBGP).unwrap();
    assert_eq!(
        announced(&batch).0.next_hop,
        NextHop::V6("::ffff:192.0.2.1".parse().unwrap())
    );
}

#[test]
fn withdrawals_and_end_of_rib_both_ways() {
    let mut out = BytesMut::new();
    encode_withdraw(
        &mut out,
        &TO_IBGP,
        Family::Ipv4,
        &nlri(&["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32"]),
    );
    assert_eq!(out, message(2, &update("08 0a 00 20 c0000201", "", "")));
    out.clear();
    encode_withdraw(
        &mut out,
        &TO_IBGP,
        Family::Ipv6,
        &nlri(&["2001:db8::/32", "::/0"]),
    );
    assert_eq!(
        out,
        message(2, &update("", "90 0f 0009 0002 01 20 20010db8 00", ""))
    );
    let batch = decode(&cut(&out, MessageKind::Update), &IBGP).unwrap();
    assert_eq!(
        decoded_ops(&batch),
        [DecodedOp::Withdraw(nlri(&["2001:db8::/32", "::/0"]))]
    );
    for (family, body) in [
        (Family::Ipv4, update("", "", "")),
        (Family::Ipv6, update("", "90 0f 0003 000201", "")),
    ] {
        let mut out = BytesMut::new();
        encode_end_of_rib(&mut out, family);
        assert_eq!(out, message(2, &body));
        assert_eq!(
            decoded_ops(&decode(&body, &IBGP).unwrap()),
            [DecodedOp::EndOfRib(family)]
        );
    }
    // A one-octet length, and IPv4 in MP_UNREACH_NLRI, as some speakers send it.
    for (octets, family) in [
        ("80 0f 03 000201", Family::Ipv6),
        ("80 0f 03 000101", Family::Ipv4),
    ] {
        assert_eq!(
            decoded_ops(&decode(&update("", octets, ""), &IBGP).unwrap()),
            [DecodedOp::EndOfRib(family)]
        );
    }
}

/// RFC 7911 §3: four octets of path identifier before each prefix.
#[test]
fn path_identifiers_both_ways() {
    let encode = EncodeContext {
        add_path: FamilySet::ALL,
        ..TO_IBGP
    };
    let context = DecodeContext {
        add_path: FamilySet::ALL,
        ..IBGP
    };
    let with_id = |id, text| Nlri {
        path_id: PathId(id),
        prefix: prefix(text),
    };
    let list = [with_id(1, "10.0.0.0/8"), with_id(0xFFFF_FFFF, "10.0.0.0/8")];
    let mut out = BytesMut::new();
    encode_announce(&mut out, &encode, Family::Ipv4, &base(), &list).unwrap();
    assert_eq!(
        out,
        message(2, &update("", BASE, "00000001 08 0a ffffffff 08 0a"))
    );
    assert_eq!(announced(&decode(&out[19..], &context).unwrap()).1, list);
    out.clear();
    let list = [with_id(7, "2001:db8::/32")];
    encode_withdraw(&mut out, &encode, Family::Ipv6, &list);
    assert_eq!(
        out,
        message(2, &update("", "90 0f 000c 0002 01 00000007 20 20010db8", ""))
    );
    assert_eq!(
        decoded_ops(&decode(&out[19..], &context).unwrap()),
        [DecodedOp::Withdraw(list.to_vec())]
    );
}

#[test]
fn prefixes_of_every_length() {
    let ones_v4: Vec<String> = (0..=32).map(|len| format!("255.255.255.255/{len}")).collect();
    let ones_v6: Vec<String> = (0..=128)
        .map(|len| format!("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/{len}"))
        .collect();
    for (family, texts) in [(Family::Ipv4, ones_v4), (Family::Ipv6, ones_v6)] {
        for text in texts {
            // Host bits are cleared (RFC 4271 §4.3).
            let (addr, len) = text.split_once('/').unwrap();
            let expected = bgp_proto::types::Prefix::new(addr.parse().unwrap(), len.parse().unwrap());
            let mut octets = vec![expected.len()];
            octets.extend(vec![0xFF; usize::from(expected.len().div_ceil(8))]);
            let mut list = Vec::new();
            decode_nlri(family, false, &octets, &mut list).unwrap();
            assert_eq!(
                list,
                [Nlri {
                    path_id: PathId(0),
                    prefix: expected
                }]
            );
            let mut out = Vec::new();
            encode_nlri(&mut out, &list[0], false);
            assert_eq!(out.len(), nlri_len(&list[0], false));
            list.clear();
            decode_nlri(family, false, &out, &mut list).unwrap();
            assert_eq!(list[0].prefix, expected);
        }
    }
}

/// A message with all three kinds of NLRI: withdrawals, then MP_UNREACH_NLRI, then announcements.
#[test]
fn order_within_a_message() {
    let mp = "80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8";
    let unreach = "80 0f 08 0002 01 20 20010db9";
    let body = update("08 0a 08 0b", &format!("{mp} {BASE} {unreach}"), "08 0a");
    let batch = decode(&body, &IBGP).unwrap();
    let v6 = with(|attrs| attrs.next_hop = NextHop::V6("2001:db8::1".parse().unwrap()));
    assert_eq!(
        decoded_ops(&batch),
        [
            DecodedOp::Withdraw(nlri(&["10.0.0.0/8", "11.0.0.0/8"])),
            DecodedOp::Withdraw(nlri(&["2001:db9::/32"])),
            DecodedOp::Announce(base(), nlri(&["10.0.0.0/8"])),
            DecodedOp::Announce(v6, nlri(&["2001:db8::/32"])),
        ]
    );
    assert_eq!((batch.messages, batch.issues.len()), (1, 0));
}

/// Packing: full messages within the size limit, each prefix once, and the same attributes in each message.
#[test]
fn packs_full_messages() {
    let list: Vec<Nlri> = (0..2000u32)
        .map(|n| Nlri {
            path_id: PathId(0),
            prefix: bgp_proto::types::Prefix::v4(n << 8, 24),
        })
        .collect();
    let mut out = BytesMut::new();
    let messages = encode_announce(&mut out, &TO_IBGP, Family::Ipv4, &base(), &list).unwrap();
    // 23 octets of framing and 24 of attributes leave space for (4096 − 47) / 4 = 1012 prefixes.
    assert_eq!((messages, out.len()), (2, 2 * 47 + 2000 * 4));
    assert_eq!(u16::from_be_bytes([out[16], out[17]]), 47 + 1012 * 4);
    let mut back = Vec::new();
    while let Some(frame) = cut_frame(&mut out, false).unwrap() {
        let (attrs, prefixes) = announced(&decode(&frame.body, &IBGP).unwrap());
        assert_eq!(attrs, base());
        back.extend(prefixes);
    }
    assert_eq!(back, list);
}
