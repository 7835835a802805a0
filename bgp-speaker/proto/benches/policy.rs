//! What policies cost: a route through long lists, through a typical edge policy, and the making of lists.
//!
//! `cargo bench -p bgp-proto --bench policy` prints a table in Markdown. `make bench-policy-peer` keeps it in docs/bench.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use bgp_proto::engine::{Input, PeerKind, PeerRouting};
use bgp_proto::policy::*;
use bgp_proto::types::{Asn, Community, PeerId, Prefix};
use bgp_proto::wire::{AsPath, NextHop, PathAttrs};
use common::bare::{Bare, session};
use common::{announce, routing};

/// Numbers without a pattern that a branch predictor or a cache could learn.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}

/// Lengths as in a table of the Internet.
fn list(entries: u32, seed: u64) -> Vec<PrefixRange> {
    let mut random = Random(seed);
    (0..entries)
        .map(|_| {
            let len = 16 + (random.next() % 9) as u8;
            PrefixRange {
                prefix: Prefix::v4(random.next() | 0x0100_0000, len),
                min_len: len,
                max_len: len.max(24),
            }
        })
        .collect()
}

fn prefixes(count: u32) -> Vec<Prefix> {
    let mut random = Random(7);
    (0..count)
        .map(|_| Prefix::v4(random.next() | 0x0100_0000, 16 + (random.next() % 9) as u8))
        .collect()
}

fn attrs(set: u32) -> PathAttrs {
    let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 11].into()));
    attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(3000 + set % 997), Asn(4000 + set / 997), Asn(7)]);
    attrs.communities = [
        Community(set),
        Community(65001 << 16 | 7),
        Community((65002 << 16) | (set % 300)),
    ]
    .into();
    attrs
}

fn rule(matcher: Matcher, verdict: Option<Verdict>) -> Rule {
    Rule {
        matcher,
        verdict,
        ..Rule::default()
    }
}

fn of_list(list: Vec<PrefixRange>) -> Matcher {
    Matcher {
        prefixes: Some(list.into()),
        ..Matcher::default()
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        name: "bench".to_owned(),
        rules,
        default: Verdict::Reject,
    }
}

/// The shortest of several runs, for a route: others on the machine only add to it.
fn per_route(policy: &Policy, sets: &[PathAttrs]) -> Duration {
    const ROUTES: u32 = 200_000;
    let all = prefixes(ROUTES);
    let run = || {
        let begin = Instant::now();
        for (index, prefix) in all.iter().enumerate() {
            let route = Route {
                prefix: *prefix,
                attrs: &sets[index % sets.len()],
                source: Source::Peer,
                from: None,
            };
            black_box(policy.evaluate(route));
        }
        begin.elapsed() / ROUTES
    };
    (0..7).map(|_| run()).min().unwrap()
}

/// Bogons, AS paths, communities and a list of 10,000 prefixes.
fn edge() -> Policy {
    let bogons = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "192.0.2.0/24",
        "224.0.0.0/3",
    ];
    let bogons = bogons
        .map(|text| PrefixRange::within(text.parse().unwrap()))
        .to_vec();
    let path = Matcher {
        as_path: AsPathMatch {
            contains: Some(
                [
                    (Asn(0), Asn(0)),
                    (Asn(64496), Asn(64511)),
                    (Asn(4_200_000_000), Asn(u32::MAX)),
                ]
                .into_iter()
                .collect(),
            ),
            ..AsPathMatch::default()
        },
        ..Matcher::default()
    };
    let scrub = Rule {
        actions: Actions {
            communities: Edit {
                remove: Some(
                    ["64512:*".parse::<CommunityPattern>().unwrap()]
                        .into_iter()
                        .collect(),
                ),
                ..Edit::default()
            },
            ..Actions::default()
        },
        ..Rule::default()
    };
    let mut accept = rule(of_list(list(10_000, 1)), Some(Verdict::Accept));
    accept.actions.local_pref = Some(NumberAction::Set(200));
    Policy {
        default: Verdict::Accept,
        ..policy(vec![
            rule(of_list(bogons), Some(Verdict::Reject)),
            rule(path, Some(Verdict::Reject)),
            scrub,
            accept,
        ])
    }
}

/// A table through the engine, without and with the edge policy.
fn engine(import: Policy, count: u32) -> Duration {
    let mut bench = Bare::new();
    for peer in 1..=2 {
        bench.up(peer, PeerKind::External);
        bench.pump();
    }
    let routing = PeerRouting {
        import: import.into(),
        ..routing(PeerId(1), PeerKind::External)
    };
    bench.apply(Input::Configure(PeerId(1), routing.into()));
    bench.pump();
    let batches: Vec<_> = (0..count / 50)
        .map(|set| {
            let prefixes: Vec<Prefix> = (set * 50..set * 50 + 50)
                .map(|n| Prefix::v4(0x0100_0000 + (n << 8), 24))
                .collect();
            announce(attrs(set), &prefixes)
        })
        .collect();
    let begin = Instant::now();
    for batch in batches {
        bench.apply(Input::Routes(session(PeerId(1)), batch));
    }
    begin.elapsed()
}

fn main() {
    let sets: Vec<PathAttrs> = (0..4096).map(attrs).collect();
    let one = policy(vec![rule(of_list(list(10_000, 1)), Some(Verdict::Accept))]);
    let eight = policy(
        (0..8)
            .map(|n| rule(of_list(list(5_000, n)), Some(Verdict::Accept)))
            .collect(),
    );
    let huge = policy(vec![rule(of_list(list(100_000, 1)), Some(Verdict::Accept))]);
    let communities = Matcher {
        communities: CommunityMatch::any_of((0..10_000).map(|n| Community(64512 << 16 | n))),
        ..Matcher::default()
    };
    let communities = policy(vec![rule(communities, Some(Verdict::Accept))]);
    println!("| A route through … | ns |\n|---|---|");
    for (name, policy) in [
        ("a list of 10,000 prefixes", &one),
        ("8 lists of 5,000 prefixes", &eight),
        ("a list of 100,000 prefixes", &huge),
        ("a list of 10,000 communities, 3 on the route", &communities),
        ("bogons, AS path, communities, a list of 10,000 prefixes", &edge()),
    ] {
        println!("| {name} | {} |", per_route(policy, &sets).as_nanos());
    }
    let hundred_thousand = list(100_000, 1);
    let make = || {
        let entries = hundred_thousand.clone();
        let begin = Instant::now();
        black_box(PrefixSet::from(entries));
        begin.elapsed()
    };
    let made = (0..5).map(|_| make()).min().unwrap();
    println!(
        "\nA list of 100,000 prefixes is made in {:.1} ms.",
        made.as_secs_f64() * 1e3
    );
    let count: u32 = std::env::args()
        .filter_map(|text| text.parse().ok())
        .next()
        .unwrap_or(1_000_000);
    let best = |policy: fn() -> Policy| (0..3).map(|_| engine(policy(), count)).min().unwrap();
    let (plain, with) = (best(Policy::accept_all), best(edge));
    println!(
        "\n{count} routes from one peer to another, 50 an UPDATE, decided and sent on: {:.2} s without a policy, {:.2} s with the last one \
         of the table ({:.2} times).",
        plain.as_secs_f64(),
        with.as_secs_f64(),
        with.as_secs_f64() / plain.as_secs_f64()
    );
}
