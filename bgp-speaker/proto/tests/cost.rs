//! Cost of work in instructions, counted by valgrind: independent of the load and speed of the machine.
//!
//! The main guard is on growth, which does not depend on the compiler: the cost per route must not grow with
//! the number of routes or of group members, and a flap among many clients costs as much as among few, apart
//! from sending the chunk. Absolute counts are recorded in cost.txt for one compiler, and may change by a
//! tenth.
#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use ::bytes::BytesMut;
use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::policy::{Matcher, Policy, PrefixRange, Route, Rule, Source, Verdict};
use bgp_proto::types::{Asn, Community, Family, FamilySet, PathId, PeerId, Prefix};
use bgp_proto::wire::{
    AsPath, DecodeContext, EncodeContext, MAX_LEN, Nlri, RouteBatch, cut_frame, decode_update,
    encode_announce,
};
use common::bare::Bare;
use common::count::{can_count, compare, instructions};
use common::{announce, attrs_from, withdraw};

/// Allowed growth of a cost that should be constant.
const TOLERANCE: f64 = 1.15;

/// An engine with one sender and this many receivers, with established sessions.
fn bench(kind: PeerKind, peers: u32) -> Bare {
    let mut bench = Bare::new();
    for peer in 1..=peers {
        bench.up(peer, kind);
        bench.pump();
    }
    bench
}

/// A table in UPDATEs of 50 routes, which share their attributes.
fn table(bench: &mut Bare, kind: PeerKind, routes: u32, gone: bool) {
    for set in 0..routes / 50 {
        let mut attrs = attrs_from(PeerId(1), kind);
        attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(3000 + set)]);
        attrs.communities = [Community(set)].into();
        let prefixes: Vec<Prefix> = (set * 50..set * 50 + 50)
            .map(|n| Prefix::v4(0x1400_0000 + (n << 8), 24))
            .collect();
        let batch = if gone {
            withdraw(&prefixes)
        } else {
            announce(attrs, &prefixes)
        };
        bench.apply(Input::Routes(common::bare::session(PeerId(1)), batch));
    }
}

/// The same UPDATE of 50 routes, repeated.
fn decode(routes: u32) {
    let mut attrs = attrs_from(PeerId(1), PeerKind::External);
    attrs.communities = [Community(1), Community(2)].into();
    let routes_of_one = 0..50;
    let nlri: Vec<Nlri> = routes_of_one
        .map(|n| Nlri {
            path_id: PathId(0),
            prefix: Prefix::v4(0x1400_0000 + (n << 8), 24),
        })
        .collect();
    let (encode, decode) = contexts();
    let mut message = BytesMut::new();
    encode_announce(&mut message, &encode, Family::Ipv4, &attrs, &nlri).unwrap();
    for _ in 0..routes / 50 {
        let mut batch = RouteBatch::default();
        let frame = cut_frame(&mut message.clone(), false).unwrap().unwrap();
        decode_update(&frame.body, &decode, &mut batch).unwrap();
        assert_eq!(batch.nlri.len(), 50);
    }
}

/// Routes through a policy with a list of this number of prefixes.
fn through_list(routes: u32, entries: u32) {
    let ranges = (0..entries).map(|n| PrefixRange {
        prefix: Prefix::v4(0x1400_0000 + (n << 9), 23),
        min_len: 23,
        max_len: 24,
    });
    let rule = Rule {
        matcher: Matcher {
            prefixes: Some(ranges.collect()),
            ..Matcher::default()
        },
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    let policy = Policy {
        rules: vec![rule],
        ..Policy::reject_all()
    };
    let attrs = attrs_from(PeerId(1), PeerKind::External);
    let mut accepted = 0;
    for n in 0..routes {
        // Every other one is in the list, the last ones are behind its end.
        let prefix = Prefix::v4(
            0x1400_0000 + (((n * 7919) % (entries + 9)) << 9),
            23 + (n % 3) as u8,
        );
        let route = Route {
            prefix,
            attrs: &attrs,
            source: Source::Peer,
            from: None,
        };
        accepted += u32::from(policy.evaluate(route).is_some());
    }
    assert!(routes / 2 < accepted && accepted < routes);
}

fn contexts() -> (EncodeContext, DecodeContext) {
    let encode = EncodeContext {
        four_octet_as: true,
        add_path: FamilySet::EMPTY,
        max_len: MAX_LEN,
        internal: false,
    };
    let decode = DecodeContext {
        four_octet_as: true,
        add_path: FamilySet::EMPTY,
        families: FamilySet::ALL,
        extended_next_hop: FamilySet::EMPTY,
        external: true,
    };
    (encode, decode)
}

/// Runs in the child process, under valgrind.
#[test]
fn work() {
    let Ok(text) = std::env::var("COST_OF") else {
        return;
    };
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words[at].parse::<u32>().unwrap();
    match words[0] {
        "table" => table(
            &mut bench(PeerKind::External, number(2) + 1),
            PeerKind::External,
            number(1),
            false,
        ),
        "withdraw" => {
            let mut bench = bench(PeerKind::External, number(2) + 1);
            table(&mut bench, PeerKind::External, number(1), false);
            table(&mut bench, PeerKind::External, number(1), true);
            assert_eq!(bench.engine.sizes().0, 0);
        }
        "decode" => decode(number(1)),
        "policy" => through_list(number(1), number(2)),
        other => panic!("no work {other}"),
    }
}

/// Instructions per route, from two sizes of the same work.
fn per_route(work: &str, from: u32, to: u32, peers: u32) -> f64 {
    let count = |routes: u32| instructions("work", &format!("{work} {routes} {peers}"));
    (count(to) - count(from)) / f64::from(to - from)
}

#[test]
fn cost_depends_on_the_size_of_the_change() {
    if !can_count() {
        return;
    }
    let decode = per_route("decode", 8000, 14000, 1);
    let mut counts = BTreeMap::from([("decoded, 50 a message", decode)]);
    // Binary search: a hundred times the entries cost some steps more.
    let (short, long) = (
        per_route("policy", 8000, 14000, 100),
        per_route("policy", 8000, 14000, 10_000),
    );
    println!("policy: {short:.0} instructions a route with a list of 100 prefixes, {long:.0} with 10,000");
    assert!(
        long <= short * 2.0,
        "a policy: {short:.0} instructions a route with a list of 100 prefixes, but {long:.0} with 10,000"
    );
    counts.insert("through a list of 10,000 prefixes", long);
    for (work, name) in [
        ("table", "announced, decided, sent"),
        ("withdraw", "and withdrawn"),
    ] {
        // Between two doublings of the hash tables (at 7/8 of a power of two): the cost of a doubling is
        // shared by all routes.
        let few = per_route(work, 1000, 1700, 1);
        let many = per_route(work, 8000, 14000, 1);
        let crowd = per_route(work, 1000, 1700, 64);
        println!("{work}: {few:.0} instructions a route, among many {many:.0}, to 64 peers {crowd:.0}");
        assert!(
            many <= few * TOLERANCE,
            "{work}: {few:.0} instructions a route, but {many:.0} where there are more routes"
        );
        // Sending a chunk to another member has a fixed cost per chunk: here per 50 routes.
        assert!(
            crowd <= few * 2.0,
            "{work}: {few:.0} instructions a route, but {crowd:.0} with 64 receivers"
        );
        counts.insert(name, many);
    }
    compare(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cost.txt")),
        &counts,
    );
}
