//! Cost of the codec in nanoseconds: `cargo test --release -p bgp-proto --test golden_speed -- --ignored
//! --nocapture`.
//!
//! The minimum of several rounds, which is least affected by other load. One line per message: fixed cost of
//! a message with ORIGIN, AS_PATH (3), NEXT_HOP, MED, LOCAL_PREF and COMMUNITIES (2), and cost per prefix.
#![cfg(test)]
#![allow(clippy::print_stdout, reason = "test code")]

mod golden_util;

use std::hint::black_box;
use std::time::Instant;

use ::bytes::BytesMut;
use bgp_proto::types::{Asn, Community, Family, PathId, Prefix};
use bgp_proto::wire::*;
use golden_util::*;

fn attrs(next_hop: NextHop) -> PathAttrs {
    PathAttrs {
        med: Some(10),
        local_pref: Some(200),
        as_path: AsPath::sequence(&[Asn(65001), Asn(4_200_000_001), Asn(3320)]),
        communities: [Community(0xFDE8_0064), Community(0xFDE8_0065)].into(),
        ..PathAttrs::originated(next_hop)
    }
}

fn prefixes(family: Family, count: u32) -> Vec<Nlri> {
    let prefix = |n: u32| match family {
        Family::Ipv4 => Prefix::v4(0x0A00_0000 | n << 8, 24),
        Family::Ipv6 => Prefix::v6(0x2001_0db8 << 96 | u128::from(n) << 64, 64),
    };
    let one = |n| Nlri {
        path_id: PathId(0),
        prefix: prefix(n),
    };
    (0..count).map(one).collect()
}

/// Nanoseconds per call, the minimum of 20 rounds of 5,000 calls.
fn best(mut call: impl FnMut()) -> f64 {
    let round = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..5_000 {
            call();
        }
        start.elapsed().as_secs_f64() * 1e9 / 5_000.0
    };
    (0..20).map(|_| round(&mut call)).fold(f64::INFINITY, f64::min)
}

fn measure(family: Family, next_hop: NextHop) {
    let attrs = attrs(next_hop);
    let mut costs = Vec::new();
    for count in [1, 101] {
        let list = prefixes(family, count);
        let mut out = BytesMut::new();
        let encode = best(|| {
            out.clear();
            encode_announce(&mut out, &TO_IBGP, family, black_box(&attrs), black_box(&list)).unwrap();
        });
        let body = cut(&out, MessageKind::Update);
        let mut batch = RouteBatch::default();
        let decode = best(|| {
            batch.ops.clear();
            batch.nlri.clear();
            decode_update(black_box(&body), &IBGP, &mut batch).unwrap();
        });
        costs.push((decode, encode));
    }
    let per_prefix = |one: f64, many: f64| (many - one) / 100.0;
    let (one, many) = (costs[0], costs[1]);
    println!(
        "{family}: decode {:.0} ns + {:.1} ns a prefix; encode {:.0} ns + {:.1} ns a prefix",
        one.0,
        per_prefix(one.0, many.0),
        one.1,
        per_prefix(one.1, many.1)
    );
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds() {
    measure(Family::Ipv4, NextHop::V4([192, 0, 2, 1].into()));
    measure(Family::Ipv6, NextHop::V6("2001:db8::1".parse().unwrap()));
}
