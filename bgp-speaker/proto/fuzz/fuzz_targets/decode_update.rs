//! Decodes an UPDATE in a context chosen by the first octet.
#![no_main]

use bgp_proto::types::{Family, FamilySet};
use bgp_proto::wire::{
    DecodeContext, EncodeContext, MAX_LEN_EXTENDED, NextHop, PathAttrs, RouteBatch, RouteOp, cut_frame,
    decode_update, encode_announce,
};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fn context(bits: u8) -> DecodeContext {
    let all = |bit: u8| {
        if bits & bit != 0 {
            FamilySet::ALL
        } else {
            FamilySet::EMPTY
        }
    };
    DecodeContext {
        four_octet_as: bits & 1 != 0,
        external: bits & 2 != 0,
        add_path: all(4),
        extended_next_hop: all(8),
        families: if bits & 16 != 0 {
            FamilySet::from_iter([Family::Ipv4])
        } else {
            FamilySet::ALL
        },
    }
}

/// Intended changes of the encoder: unknown attributes are sent with Partial set.
fn passed_on(attrs: &PathAttrs) -> PathAttrs {
    let mut attrs = attrs.clone();
    if let Some(extra) = &mut attrs.extra {
        extra.unknown.iter_mut().for_each(|unknown| unknown.flags |= 0x20);
    }
    attrs
}

fuzz_target!(|data: &[u8]| {
    let Some((&bits, body)) = data.split_first() else {
        return;
    };
    let context = context(bits);
    let mut batch = RouteBatch::default();
    if let Err(error) = decode_update(body, &context, &mut batch) {
        assert_eq!(batch, RouteBatch::default());
        assert_eq!(error.notification().code, 3);
        assert!(!error.to_string().is_empty());
        return;
    }
    assert!(batch.nlri.len() <= body.len());
    batch
        .issues
        .iter()
        .for_each(|issue| assert!(!issue.to_string().is_empty()));
    // The round trip is exact if AS numbers are not narrowed.
    let decode = DecodeContext {
        four_octet_as: true,
        extended_next_hop: FamilySet::ALL,
        families: FamilySet::ALL,
        ..context
    };
    let encode = EncodeContext {
        four_octet_as: true,
        add_path: context.add_path,
        max_len: MAX_LEN_EXTENDED,
        internal: !context.external,
    };
    for op in &batch.ops {
        let RouteOp::Announce { attrs, nlri } = op else {
            continue;
        };
        let list = batch.slice(nlri);
        let Some(first) = list.first() else {
            panic!("an announcement of nothing")
        };
        let family = first.prefix.family();
        assert!(family == Family::Ipv4 || !matches!(attrs.next_hop, NextHop::V4(_)));
        let mut out = BytesMut::new();
        let Ok(messages) = encode_announce(&mut out, &encode, family, attrs, list) else {
            continue;
        };
        let mut again = RouteBatch::default();
        while let Some(frame) = cut_frame(&mut out, true).unwrap() {
            decode_update(&frame.body, &decode, &mut again).unwrap();
        }
        assert_eq!((again.messages, out.len()), (messages, 0));
        assert!(again.issues.is_empty(), "{:?}", again.issues);
        assert_eq!(again.nlri, list);
        for op in &again.ops {
            assert!(matches!(op, RouteOp::Announce { attrs: got, .. } if *got == passed_on(attrs)));
        }
    }
});
