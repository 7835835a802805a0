//! A preview predicts the effect of inputs without applying them: compared with the effect of the same
//! inputs.
#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bgp_proto::engine::{
    Engine, Input, Originated, PeerKind, PeerPreview, PeerRouting, Preview, SessionFacts,
};
use bgp_proto::policy::{
    Actions, CommunityMatch, Edit, Matcher, NextHopAction, NumberAction, Policy, PrefixRange, Rule, Source,
    Verdict,
};
use bgp_proto::types::{Asn, Community, FamilySet, PathId, PeerId, Prefix};
use bgp_proto::wire::PathAttrs;
use common::*;

/// From the fifth on, peers share groups unless their policies differ.
const PEERS: u32 = 7;
/// Accepts several paths of a prefix.
const SEVERAL: PeerId = PeerId(4);

fn begin_preview(engine: &Engine, inputs: Vec<Input>) -> Preview {
    let mut run = engine.begin_preview(Instant::now(), inputs);
    while !run.add_page(&engine.table_page(run.cursor())) {}
    run.finish()
}

/// Adj-RIB-Out of each peer, by prefix.
type Known = BTreeMap<PeerId, BTreeMap<Prefix, Vec<(PathId, PathAttrs)>>>;

fn known(world: &World) -> Known {
    let of = |received: &ReceivedRoutes| {
        let mut known: BTreeMap<Prefix, Vec<(PathId, PathAttrs)>> = BTreeMap::new();
        for (prefix, attrs) in &received.routes {
            known.entry(*prefix).or_default().push((PathId(0), attrs.clone()));
        }
        for ((prefix, id), attrs) in &received.paths {
            known.entry(*prefix).or_default().push((*id, attrs.clone()));
        }
        known
    };
    world
        .received
        .iter()
        .map(|(peer, received)| (*peer, of(received)))
        .collect()
}

/// What a peer received between two points in time.
fn received(before: &Known, after: &Known, peer: PeerId) -> PeerPreview {
    let (before, after) = (&before[&peer], &after[&peer]);
    let only = |one: &BTreeMap<_, _>, other: &BTreeMap<_, _>| {
        let only = one.keys().filter(|prefix| !other.contains_key(*prefix));
        only.copied().collect()
    };
    let changed = after.iter().filter(|(prefix, paths)| {
        let before = before.get(*prefix);
        before.is_some_and(|before| before != *paths)
    });
    PeerPreview {
        announced: only(after, before),
        withdrawn: only(before, after),
        changed: changed.map(|(prefix, _)| *prefix).collect(),
        attributes: BTreeMap::new(),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn prefix(&mut self) -> Prefix {
        let n = self.below(24) as u32;
        if n % 4 == 3 {
            return Prefix::v6(0xFD00 << 112 | u128::from(n) << 64, 64);
        }
        Prefix::v4(0x0AF4_0000 + (n << 8), if n.is_multiple_of(3) { 25 } else { 24 })
    }

    fn peer(&mut self) -> PeerId {
        PeerId(1 + self.below(u64::from(PEERS)) as u32)
    }

    fn policy(&mut self) -> Policy {
        let rule = |random: &mut Self| {
            let prefix = random.prefix();
            let range = PrefixRange::within(prefix);
            let mut matcher = Matcher::default();
            if random.chance(50) {
                matcher.prefixes = Some([range].into_iter().collect());
            }
            if random.chance(30) {
                matcher.communities = CommunityMatch::any_of([Community(random.below(3) as u32)]);
            }
            let mut actions = Actions::default();
            match random.below(6) {
                0 => actions.med = Some(NumberAction::Set(random.below(2) as u32)),
                1 => actions.local_pref = Some(NumberAction::Set(100 + random.below(2) as u32)),
                2 => actions.communities = Edit::add([Community(random.below(3) as u32)]),
                3 => actions.next_hop = Some(NextHopAction::Unchanged),
                4 => actions.next_hop = Some(NextHopAction::Address(address(random.peer()).into())),
                _ => {}
            }
            let verdicts = [None, Some(Verdict::Accept), Some(Verdict::Reject)];
            let verdict = verdicts[random.below(3) as usize];
            Rule {
                matcher,
                actions,
                verdict,
                ..Rule::default()
            }
        };
        let rules = self.below(3);
        Policy {
            rules: (0..rules).map(|_| rule(self)).collect(),
            ..if self.chance(80) {
                Policy::accept_all()
            } else {
                Policy::reject_all()
            }
        }
    }

    fn routing(&mut self, peer: PeerId) -> PeerRouting {
        let mut routing = routing(peer, kind(peer));
        if self.chance(60) {
            routing.import = self.policy().into();
        }
        if self.chance(60) {
            routing.export = self.policy().into();
        }
        routing.next_hop_self = self.chance(20);
        routing
    }

    fn originated(&mut self) -> Vec<Originated> {
        let count = self.below(4);
        let one = |random: &mut Self| Originated {
            prefix: random.prefix(),
            source: [Source::PodBlock, Source::Service][random.below(2) as usize],
            communities: vec![Community(random.below(3) as u32)],
        };
        (0..count).map(|_| one(self)).collect()
    }

    fn announce(&mut self, world: &mut World) {
        let peer = self.peer();
        let mut attrs = attrs_from(peer, kind(peer));
        let over = if self.chance(30) { self.peer() } else { peer };
        attrs.next_hop = IpAddr::V4(address(over)).into();
        let prefix = self.prefix();
        if prefix.family() == bgp_proto::types::Family::Ipv6 {
            attrs.next_hop = next_hop_of(&prefix, peer.0).into();
        }
        attrs.as_path = attrs
            .as_path
            .prepend(asn_of(peer, kind(peer)), self.below(2) as usize);
        if self.chance(5) {
            attrs.as_path = attrs.as_path.prepend(OUR_AS, 1);
        }
        attrs.communities = [Community(self.below(3) as u32)].into();
        let batch = if self.chance(25) {
            withdraw(&[prefix])
        } else {
            announce(attrs, &[prefix])
        };
        world.handle(Input::Routes(world.session(peer), batch));
    }
}

fn kind(peer: PeerId) -> PeerKind {
    match peer.0 {
        1 | 2 => PeerKind::External,
        3 => PeerKind::Internal,
        _ => PeerKind::Client,
    }
}

fn session_facts(peer: PeerId) -> SessionFacts {
    let mut facts = facts(peer, kind(peer));
    if peer == SEVERAL {
        Arc::make_mut(&mut facts.negotiated).add_path_send = FamilySet::ALL;
    }
    if peer.0 == 2 {
        facts.shared_subnets = vec![prefix("192.0.2.0/24")];
    }
    facts
}

fn history(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(config());
    for peer in (1..=PEERS).map(PeerId) {
        let routing = random.routing(peer);
        world.add_with(peer, routing, session_facts(peer));
    }
    world.handle(Input::Originate(random.originated()));
    for _ in 0..60 {
        random.announce(&mut world);
        if random.chance(5) {
            let addr: IpAddr = address(random.peer()).into();
            world.set_reach(addr, random.chance(50));
        }
        world.pump();
    }
    for round in 0..6 {
        let (mut inputs, mut removed) = (Vec::new(), None);
        for _ in 0..=random.below(2) {
            let peer = random.peer();
            inputs.push(match random.below(10) {
                0..6 => Input::Configure(peer, random.routing(peer).into()),
                _ => Input::Originate(random.originated()),
            });
        }
        if random.chance(20) {
            removed = Some(random.peer());
            inputs = vec![Input::Remove(removed.unwrap())];
        }
        let preview = begin_preview(&world.engine, inputs.clone());
        let (was_known, was_installed) = (known(&world), world.fib.clone());
        inputs.into_iter().for_each(|input| world.handle(input));
        world.pump();
        let is_known = known(&world);
        for peer in (1..=PEERS).map(PeerId).filter(|peer| Some(*peer) != removed) {
            let expected = received(&was_known, &is_known, peer);
            let mut previewed = preview.peers.get(&peer).cloned().unwrap_or_default();
            let attributes = std::mem::take(&mut previewed.attributes);
            assert!(
                attributes.keys().eq(&previewed.changed),
                "seed {seed}, round {round}"
            );
            assert!(attributes.values().all(|(before, after)| before != after));
            if peer == SEVERAL {
                // The best of several paths is compared.
                previewed.changed.clone_from(&expected.changed);
            }
            assert_eq!(previewed, expected, "seed {seed}, round {round}: {}", peer.0);
        }
        assert!(removed.is_none_or(|removed| !preview.peers.contains_key(&removed)));
        let mut installed = was_installed.clone();
        for prefix in &preview.removed {
            assert!(installed.remove(prefix).is_some(), "seed {seed}: {prefix}");
        }
        for (prefix, (change, had)) in &preview.installed {
            let hops = change.next_hops.iter().map(|hop| hop.addr).collect();
            assert_eq!(
                installed.insert(*prefix, hops).is_some(),
                *had,
                "seed {seed}: {prefix}"
            );
        }
        assert_eq!(installed, world.fib, "seed {seed}, round {round}");
        let again = begin_preview(&world.engine, vec![]);
        assert_eq!(again, Preview::default(), "seed {seed}: no change is previewed");
        if let Some(removed) = removed {
            world.down(removed);
            let routing = random.routing(removed);
            world.add_with(removed, routing, session_facts(removed));
            world.pump();
        }
        for _ in 0..10 {
            random.announce(&mut world);
        }
        world.pump();
    }
}

#[test]
fn what_is_previewed_happens() {
    (0..300).for_each(history);
}

/// Pending work counts as done: a session that ended, routes that are not decided yet.
#[test]
fn pending_work_counts_as_done() {
    let (a, b) = (PeerId(1), PeerId(2));
    let mut world = World::new(config());
    world.add(a, PeerKind::External);
    world.add(b, PeerKind::External);
    world.announce(a, &["10.1.0.0/16"]);
    world.pump();
    world.announce(a, &["10.2.0.0/16"]);
    let reject = PeerRouting {
        import: Arc::new(Policy::reject_all()),
        ..routing(a, PeerKind::External)
    };
    let inputs = || vec![Input::Configure(a, reject.clone().into())];
    let (one, two) = (prefix("10.1.0.0/16"), prefix("10.2.0.0/16"));
    let preview = begin_preview(&world.engine, inputs());
    assert_eq!(preview.peers[&b].withdrawn, [one, two]);
    world.handle(Input::Down(world.session(a)));
    assert_eq!(begin_preview(&world.engine, inputs()), Preview::default());
}

/// With a large table: the longest single call, compared with a copy of the engine.
#[test]
#[ignore = "a measurement, in release"]
fn the_longest_time_that_a_preview_blocks_the_engine() {
    let routes: u32 = 1_000_000;
    let mut world = World::new(config());
    let (a, b) = (PeerId(1), PeerId(2));
    world.add(a, PeerKind::External);
    world.add(b, PeerKind::External);
    for set in 0..routes / 500 {
        let mut attrs = attrs_from(a, PeerKind::External);
        attrs.as_path = attrs.as_path.prepend(Asn(3000 + set % 50_000), 1);
        let prefixes: Vec<Prefix> = (set * 500..set * 500 + 500)
            .map(|n| Prefix::v4(0x0B00_0000 + (n << 4), 28))
            .collect();
        world.handle(Input::Routes(world.session(a), announce(attrs, &prefixes)));
        world.pump();
    }
    let begin = Instant::now();
    let copy = world.engine.clone();
    println!("a copy of the engine: {:?}", begin.elapsed());
    drop(copy);
    let reject = PeerRouting {
        import: Arc::new(Policy::reject_all()),
        ..routing(a, PeerKind::External)
    };
    let begin = Instant::now();
    let mut run = world
        .engine
        .begin_preview(begin, vec![Input::Configure(a, reject.into())]);
    let first = begin.elapsed();
    let (mut longest, mut held, mut beside) = (first, first, std::time::Duration::ZERO);
    loop {
        let begin = Instant::now();
        let page = world.engine.table_page(run.cursor());
        let took = begin.elapsed();
        longest = longest.max(took);
        held += took;
        let begin = Instant::now();
        let last = run.add_page(&page);
        beside += begin.elapsed();
        if last {
            break;
        }
    }
    assert_eq!(run.finish().removed.len(), routes as usize);
    println!(
        "a preview: begun in {first:?}, at most {longest:?} at a time, {held:?} in all; {beside:?} beside the engine"
    );
    for (what, filter) in [
        ("a page of 1000", bgp_proto::engine::RouteFilter::default()),
        (
            "a page where nothing fits",
            bgp_proto::engine::RouteFilter {
                received_from: Some(b),
                ..Default::default()
            },
        ),
    ] {
        let (mut cursor, mut longest, mut all) =
            (Some(0), std::time::Duration::ZERO, std::time::Duration::ZERO);
        while let Some(from) = cursor {
            let begin = Instant::now();
            cursor = world.engine.routes(&filter, from, 1000).1;
            longest = longest.max(begin.elapsed());
            all += begin.elapsed();
        }
        println!("{what}: at most {longest:?}, all pages {all:?}");
    }
    let begin = Instant::now();
    let filter = bgp_proto::engine::RouteFilter {
        prefixes: bgp_proto::engine::Prefixes::Covering(prefix("11.0.18.52/32")),
        ..Default::default()
    };
    assert_eq!(world.engine.routes(&filter, 0, 1000).0.len(), 1);
    println!("the longest match: {:?}", begin.elapsed());
}
