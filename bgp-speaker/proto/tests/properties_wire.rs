//! Property tests of the codec: round trips of arbitrary values, and arbitrary bytes as input.
#![cfg(test)]

use std::collections::BTreeMap;

use ::bytes::BytesMut;
use bgp_proto::types::{
    Asn, Community, ExtCommunity, Family, FamilySet, HoldTime, LargeCommunity, PathId, Prefix, RouterId,
};
use bgp_proto::wire::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![(1u32..65000).prop_map(Asn), (70_000u32..u32::MAX).prop_map(Asn)]
}

/// Sets and sequences that also pass through a two-octet speaker unchanged.
fn as_path() -> impl Strategy<Value = AsPath> {
    vec((1u8..=2, vec(asn(), 1..6)), 0..4).prop_map(|segments| {
        let mut wire = Vec::new();
        for (kind, asns) in segments {
            wire.extend([kind, asns.len() as u8]);
            asns.iter().for_each(|asn| wire.extend(asn.0.to_be_bytes()));
        }
        AsPath::from_wire4(&wire).unwrap()
    })
}

fn extra() -> impl Strategy<Value = ExtraAttrs> {
    let unknown = (vec(any::<u8>(), 0..300), 200u8..240).prop_map(|(value, code)| UnknownAttr {
        flags: 0xE0,
        code,
        value: value.into(),
    });
    let aggregator = (asn(), any::<u32>()).prop_map(|(asn, id)| Aggregator { asn, id: id.into() });
    let large = any::<(u32, u32, u32)>().prop_map(|(a, b, c)| LargeCommunity(a, b, c));
    (
        option::of(aggregator),
        option::of((1u32..).prop_map(|id| RouterId::new(id).unwrap())),
        vec(any::<u32>(), 0..4),
        vec(any::<u64>().prop_map(ExtCommunity), 0..4),
        vec(large, 0..30),
        option::of(unknown),
        option::of(asn()),
        any::<bool>(),
    )
        .prop_map(
            |(
                aggregator,
                originator_id,
                cluster_list,
                ext_communities,
                large,
                unknown,
                only_to_customer,
                partial,
            )| {
                let mut seen = std::collections::BTreeSet::new();
                let large_communities: Vec<_> = large.into_iter().filter(|one| seen.insert(*one)).collect();
                let mut partial_set = PartialSet::default();
                if partial && aggregator.is_some() {
                    partial_set.insert(7);
                }
                if partial && !large_communities.is_empty() {
                    partial_set.insert(32);
                }
                if partial && only_to_customer.is_some() {
                    partial_set.insert(35);
                }
                ExtraAttrs {
                    aggregator,
                    originator_id,
                    cluster_list,
                    ext_communities,
                    large_communities,
                    only_to_customer,
                    unknown: unknown.into_iter().collect(),
                    partial: partial_set,
                    kernel: KernelRoute::default(),
                }
            },
        )
}

fn attrs() -> impl Strategy<Value = PathAttrs> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    (
        origin,
        any::<bool>(),
        option::of(any::<u32>()),
        any::<u32>(),
        as_path(),
        vec(any::<u32>().prop_map(Community), 0..80),
        extra(),
    )
        .prop_map(
            |(origin, atomic_aggregate, med, local_pref, as_path, communities, extra)| {
                let mut attrs = PathAttrs {
                    origin,
                    atomic_aggregate,
                    next_hop: NextHop::V4([192, 0, 2, 1].into()),
                    med,
                    local_pref: Some(local_pref),
                    as_path,
                    communities: communities.into(),
                    extra: Some(Box::new(extra)),
                };
                attrs.normalize();
                attrs
            },
        )
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn capability() -> impl Strategy<Value = Capability> {
    let direction = (1u8..=3).prop_map(|bits| AddPathDirection {
        receive: bits & 1 != 0,
        send: bits & 2 != 0,
    });
    let restart = (
        any::<(bool, bool)>(),
        0u16..4096,
        vec((family(), any::<bool>()), 0..4),
    );
    let restart = restart.prop_map(
        |((restarting, notification), restart_time, families)| GracefulRestart {
            restarting,
            notification,
            restart_time,
            families,
        },
    );
    let long_lived = (family(), any::<bool>(), 0u32..1 << 24);
    let long_lived = long_lived.prop_map(|(family, forwarding, stale_time)| LongLivedFamily {
        family,
        forwarding,
        stale_time,
    });
    let unknown = (100u8.., vec(any::<u8>(), 0..=255));
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        vec(family(), 0..4).prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        restart.prop_map(Capability::GracefulRestart),
        vec((family(), direction), 0..4).prop_map(Capability::AddPath),
        Just(Capability::EnhancedRefresh),
        vec(long_lived, 0..4).prop_map(Capability::LongLivedGracefulRestart),
        ("[a-zü]{0,40}", "[a-z.]{0,40}").prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        unknown.prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0u16), 3u16..].prop_map(|seconds| HoldTime::new(seconds).unwrap());
    (asn(), hold_time, 1u32.., vec(capability(), 0..12)).prop_map(|(asn, hold_time, id, mut capabilities)| {
        capabilities.push(Capability::FourOctetAs(asn));
        Open {
            asn,
            hold_time,
            router_id: RouterId::new(id).unwrap(),
            capabilities,
        }
    })
}

/// Unicast prefixes: multicast prefixes are ignored.
fn nlri(family: Family) -> impl Strategy<Value = Vec<Nlri>> {
    let one = (any::<u128>(), 0u8..=family.max_len(), any::<u32>());
    vec(one, 1..900).prop_map(move |list| {
        let prefix = |bits: u128, len| match family {
            Family::Ipv4 if bits >> 124 == 0xE => Prefix::v4((bits >> 96) as u32 >> 1, len),
            Family::Ipv6 if bits >> 120 == 0xFF => Prefix::v6(bits >> 1, len),
            Family::Ipv4 => Prefix::v4((bits >> 96) as u32, len),
            Family::Ipv6 => Prefix::v6(bits, len),
        };
        list.into_iter()
            .map(|(bits, len, id)| Nlri {
                path_id: PathId(id),
                prefix: prefix(bits, len),
            })
            .collect()
    })
}

fn contexts(four: bool, add_path: bool, max_len: usize) -> (EncodeContext, DecodeContext) {
    let add_path = if add_path {
        FamilySet::ALL
    } else {
        FamilySet::EMPTY
    };
    (
        EncodeContext {
            four_octet_as: four,
            add_path,
            max_len,
            internal: true,
        },
        DecodeContext {
            four_octet_as: four,
            add_path,
            families: FamilySet::ALL,
            extended_next_hop: FamilySet::ALL,
            external: false,
        },
    )
}

/// The content of a stream of UPDATEs by prefix and path identifier, and its number of messages.
fn read(
    mut stream: BytesMut,
    context: &DecodeContext,
    max_len: usize,
) -> (BTreeMap<(Prefix, PathId), Option<PathAttrs>>, u32) {
    let mut decoded_ops = BTreeMap::new();
    let mut messages = 0;
    while let Some(frame) = cut_frame(&mut stream, max_len > 4096).unwrap() {
        assert!(frame.body.len() + 19 <= max_len);
        messages += 1;
        let mut batch = RouteBatch::default();
        decode_update(&frame.body, context, &mut batch).unwrap();
        assert!(batch.issues.is_empty(), "{:?}", batch.issues);
        for op in &batch.ops {
            let (attrs, range) = match op {
                RouteOp::Announce { attrs, nlri } => (Some(attrs.clone()), nlri),
                RouteOp::Withdraw { nlri } => (None, nlri),
                RouteOp::EndOfRib(_) => continue,
            };
            for nlri in batch.slice(range) {
                decoded_ops.insert((nlri.prefix, nlri.path_id), attrs.clone());
            }
        }
    }
    assert!(stream.is_empty());
    (decoded_ops, messages)
}

/// The attributes of a well-formed list, each with its header.
fn split_attributes(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let size = match bytes[0] & 0x10 {
            0 => 3 + usize::from(bytes[2]),
            _ => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        };
        parts.push(bytes[..size].to_vec());
        bytes = &bytes[size..];
    }
    parts
}

fn next_hops(family: Family) -> Vec<NextHop> {
    let (global, local) = ("2001:db8::1".parse().unwrap(), "fe80::1".parse().unwrap());
    let mut all = vec![NextHop::V6(global), NextHop::V6Pair(global, local)];
    if family == Family::Ipv4 {
        all.push(NextHop::V4([192, 0, 2, 1].into()));
    }
    all
}

fn wanted(nlri: &[Nlri], add_path: bool) -> Vec<(Prefix, PathId)> {
    let id = |nlri: &Nlri| if add_path { nlri.path_id } else { PathId(0) };
    let mut keys: Vec<_> = nlri.iter().map(|nlri| (nlri.prefix, id(nlri))).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn announcements_round_trip(
        attrs in attrs(),
        v4 in nlri(Family::Ipv4),
        v6 in nlri(Family::Ipv6),
        four in any::<bool>(),
        add_path in any::<bool>(),
        extended in any::<bool>(),
    ) {
        let max_len = if extended { 65535 } else { 4096 };
        let (encode, decode) = contexts(four, add_path, max_len);
        for (family, list) in [(Family::Ipv4, &v4), (Family::Ipv6, &v6)] {
            for next_hop in next_hops(family) {
                let attrs = PathAttrs { next_hop, ..attrs.clone() };
                let mut out = BytesMut::new();
                let messages = encode_announce(&mut out, &encode, family, &attrs, list).unwrap();
                let (decoded_ops, read) = read(out, &decode, max_len);
                prop_assert_eq!(messages, read);
                prop_assert_eq!(decoded_ops.keys().copied().collect::<Vec<_>>(), wanted(list, add_path));
                for got in decoded_ops.values() {
                    prop_assert_eq!(got.as_ref(), Some(&attrs));
                }
            }
        }
    }

    #[test]
    fn withdrawals_round_trip(v4 in nlri(Family::Ipv4), v6 in nlri(Family::Ipv6), add_path in any::<bool>()) {
        let (encode, decode) = contexts(true, add_path, 4096);
        for (family, list) in [(Family::Ipv4, &v4), (Family::Ipv6, &v6)] {
            let mut out = BytesMut::new();
            let messages = encode_withdraw(&mut out, &encode, family, list);
            let (decoded_ops, read) = read(out, &decode, 4096);
            prop_assert_eq!(messages, read);
            prop_assert_eq!(decoded_ops.keys().copied().collect::<Vec<_>>(), wanted(list, add_path));
            prop_assert!(decoded_ops.values().all(Option::is_none));
        }
    }

    /// No input causes a panic, and no prefix is announced that is not in the input.
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..600), four in any::<bool>(), add_path in any::<bool>(), external in any::<bool>()) {
        let (_, decode) = contexts(four, add_path, 4096);
        let decode = DecodeContext { external, ..decode };
        let mut batch = RouteBatch::default();
        let _ = decode_update(&bytes, &decode, &mut batch);
        prop_assert!(batch.nlri.len() <= bytes.len());
        let _ = Open::decode(&bytes);
        let _ = Refresh::decode(&bytes);
        if let Ok(notification) = Notification::decode(&bytes.clone().into()) {
            prop_assert!(!notification.to_string().is_empty());
        }
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = cut_frame(&mut buf, external) {}
    }

    #[test]
    fn opens_round_trip(open in open()) {
        let mut buf = BytesMut::from(&open.encode()[..]);
        let frame = cut_frame(&mut buf, false).unwrap().unwrap();
        prop_assert_eq!(frame.kind, MessageKind::Open);
        prop_assert_eq!(Open::decode(&frame.body).unwrap(), open);
    }

    #[test]
    fn notifications_round_trip(code in any::<u8>(), subcode in any::<u8>(), data in vec(any::<u8>(), 0..300)) {
        let notification = Notification::new(code, subcode, data);
        let mut buf = BytesMut::from(&notification.encode()[..]);
        let frame = cut_frame(&mut buf, false).unwrap().unwrap();
        prop_assert_eq!(Notification::decode(&frame.body).unwrap(), notification.clone());
        prop_assert!(!notification.to_string().contains(|c: char| c.is_control()));
    }

    /// The order of attributes has no effect.
    #[test]
    fn attributes_in_any_order(attrs in attrs(), four in any::<bool>(), seed in any::<u64>()) {
        let (encode, decode) = contexts(four, false, 65535);
        let list = [Nlri { path_id: PathId(0), prefix: Prefix::v4(0x0A00_0000, 8) }];
        let mut out = BytesMut::new();
        encode_announce(&mut out, &encode, Family::Ipv4, &attrs, &list).unwrap();
        let mut parts = split_attributes(&out[23..out.len() - 2]);
        parts.sort_by_key(|part| seed.wrapping_mul(u64::from(part[1]) | 1).rotate_left(17));
        let shuffled: Vec<u8> = parts.concat();
        let mut body = out[19..23].to_vec();
        body.extend(shuffled);
        body.extend([8, 10]);
        let mut batch = RouteBatch::default();
        decode_update(&body, &decode, &mut batch).unwrap();
        let [RouteOp::Announce { attrs: got, .. }] = &batch.ops[..] else { panic!("{batch:?}") };
        prop_assert_eq!(got, &attrs);
    }

    /// RFC 7606: an error in an attribute's value or flags never loses a prefix.
    #[test]
    fn a_bad_attribute_forgets_no_prefix(
        attrs in attrs(),
        list in nlri(Family::Ipv4),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
        external in any::<bool>(),
    ) {
        let (encode, decode) = contexts(true, false, 65535);
        let decode = DecodeContext { external, ..decode };
        let mut out = BytesMut::new();
        encode_announce(&mut out, &encode, Family::Ipv4, &attrs, &list).unwrap();
        let len = usize::from(u16::from_be_bytes([out[21], out[22]]));
        let mut parts = split_attributes(&out[23..23 + len]);
        let index = which.index(parts.len());
        let part = &mut parts[index];
        let place = at.index(part.len() + 1);
        match part.get_mut(place) {
            Some(changed) => *changed = octet,
            None => part.push(octet),
        }
        let changed = parts.concat();
        let mut body = vec![0, 0];
        body.extend((changed.len() as u16).to_be_bytes());
        body.extend(changed);
        body.extend(&out[23 + len..]);
        let mut batch = RouteBatch::default();
        if let Err(error) = decode_update(&body, &decode, &mut batch) {
            // An octet that turns it into an unreadable MP attribute.
            prop_assert_eq!((error.notification().code, error.notification().subcode == 10), (3, false));
        } else {
            let decoded_ops = batch.ops.iter().map(|op| match op {
                RouteOp::Announce { nlri, .. } | RouteOp::Withdraw { nlri } => batch.slice(nlri).len(),
                RouteOp::EndOfRib(_) => 0,
            });
            prop_assert!(decoded_ops.sum::<usize>() >= list.len());
        }
    }

    /// A valid message with some octets changed: no panic; every prefix is processed, or the message is an
    /// error.
    #[test]
    fn mutated_updates(attrs in attrs(), list in nlri(Family::Ipv4), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (encode, decode) = contexts(true, false, 65535);
        let mut out = BytesMut::new();
        encode_announce(&mut out, &encode, Family::Ipv4, &attrs, &list).unwrap();
        let mut body = out[19..].to_vec();
        for (index, octet) in changes {
            let index = index.index(body.len());
            body[index] = octet;
        }
        let mut batch = RouteBatch::default();
        if let Err(error) = decode_update(&body, &decode, &mut batch) {
            let notification = error.notification();
            prop_assert_eq!(notification.code, 3);
        }
    }
}

#[test]
fn end_of_rib_both_families() {
    let (_, decode) = contexts(true, false, 4096);
    for family in Family::ALL {
        let mut out = BytesMut::new();
        encode_end_of_rib(&mut out, family);
        let frame = cut_frame(&mut out, false).unwrap().unwrap();
        let mut batch = RouteBatch::default();
        decode_update(&frame.body, &decode, &mut batch).unwrap();
        assert_eq!(batch.ops, [RouteOp::EndOfRib(family)]);
    }
}

#[test]
fn attributes_too_large_for_a_message_write_nothing() {
    let (encode, _) = contexts(true, false, 4096);
    let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
    attrs.communities = (0..1100).map(Community).collect();
    let mut out = BytesMut::new();
    let nlri = [Nlri {
        path_id: PathId(0),
        prefix: Prefix::v4(0x0A00_0000, 8),
    }];
    assert!(encode_announce(&mut out, &encode, Family::Ipv4, &attrs, &nlri).is_err());
    assert!(out.is_empty());
}
