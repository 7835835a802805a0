//! Bounds on the memory and the work that a peer can cause.
#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bgp_proto::engine::{Input, PathRules, PeerKind, PeerRouting, SessionFacts};
use bgp_proto::types::{FamilySet, PathId, PeerId, Prefix};
use bgp_proto::wire::{Nlri, RouteBatch, RouteOp};
use common::count::{can_count, instructions};
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

fn numbered(n: u32) -> Prefix {
    Prefix::v4(0x0B00_0000 + n, 32)
}

fn with_add_path(peer: PeerId) -> SessionFacts {
    let mut facts = facts(peer, PeerKind::External);
    let negotiated = Arc::make_mut(&mut facts.negotiated);
    (negotiated.add_path_send, negotiated.add_path_receive) = (FamilySet::ALL, FamilySet::ALL);
    facts
}

/// How a peer falls behind.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Behind {
    /// It reads everything, then stops reading.
    Follower,
    /// It is up and never reads.
    New,
    /// It moves to another update group.
    Moved,
}

/// B reads nothing while A announces and withdraws new prefixes; the table does not grow.
fn rounds_beside_a_slow_reader(behind: Behind, facts_b: SessionFacts, rounds: u32) {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(C, PeerKind::External);
    let stays: Vec<Prefix> = (0..100).map(numbered).collect();
    let attrs = || attrs_from(A, PeerKind::External);
    world.handle(Input::Routes(world.session(A), announce(attrs(), &stays)));
    world.pump();
    world.add_with(B, routing(B, PeerKind::External), facts_b);
    if behind != Behind::New {
        world.pump();
    }
    world.received.get_mut(&B).unwrap().slow = true;
    // Enough to count as a slow peer: each route has its own attributes.
    let large = |n: u32| {
        let mut attrs = attrs();
        attrs.as_path = attrs.as_path.prepend(bgp_proto::types::Asn(n), 250);
        attrs
    };
    let many = 1_000_000..1_004_500;
    for n in many.clone() {
        world.handle(Input::Routes(
            world.session(A),
            announce(large(n), &[numbered(n)]),
        ));
    }
    world.pump();
    if behind == Behind::Moved {
        let moved = PeerRouting {
            rules: PathRules {
                as_override: true,
                ..PathRules::default()
            },
            ..routing(B, PeerKind::External)
        };
        world.handle(Input::Configure(B, moved.into()));
        world.pump();
    }
    let removed: Vec<Prefix> = many.map(numbered).collect();
    world.handle(Input::Routes(world.session(A), withdraw(&removed)));
    world.pump();
    let bound = world.engine.slots();
    for round in 0..rounds {
        let two = [numbered(2_000_000 + 2 * round), numbered(2_000_001 + 2 * round)];
        world.handle(Input::Routes(world.session(A), announce(attrs(), &two)));
        world.pump();
        world.handle(Input::Routes(world.session(A), withdraw(&two)));
        world.pump();
    }
    assert!(
        world.engine.slots() <= bound + 16,
        "{behind:?}: {} places for destinations, {bound} before",
        world.engine.slots()
    );
    assert!(world.engine.counts(B).outstanding < 6 << 20);
    world.received.get_mut(&B).unwrap().slow = false;
    world.drain(B);
    world.pump();
    let known: Vec<Prefix> = world.received[&B].routes.keys().copied().collect();
    assert_eq!(known, stays, "{behind:?}");
    let known: Vec<Prefix> = world.received[&B]
        .paths
        .keys()
        .map(|(prefix, _)| *prefix)
        .collect();
    assert_eq!(known, stays, "{behind:?}");
    assert_eq!(world.engine.sizes().0, stays.len());
}

#[test]
fn the_table_does_not_grow_beside_a_slow_reader() {
    rounds_beside_a_slow_reader(Behind::Follower, facts(B, PeerKind::External), 100_000);
}

#[test]
fn the_table_does_not_grow_beside_a_new_slow_peer() {
    rounds_beside_a_slow_reader(Behind::New, facts(B, PeerKind::External), 20_000);
}

#[test]
fn the_table_does_not_grow_beside_a_moving_slow_peer() {
    rounds_beside_a_slow_reader(Behind::Moved, facts(B, PeerKind::External), 20_000);
}

#[test]
fn the_table_does_not_grow_beside_a_slow_peer_with_add_path() {
    for behind in [Behind::Follower, Behind::Moved] {
        rounds_beside_a_slow_reader(behind, with_add_path(B), 20_000);
    }
}

/// Announces this many paths of one prefix, in messages of 500.
fn paths_of_one_prefix(world: &mut World, count: u32) {
    let ids: Vec<u32> = (1..=count).collect();
    for part in ids.chunks(500) {
        let nlri: Vec<Nlri> = part
            .iter()
            .map(|id| Nlri {
                path_id: PathId(*id),
                prefix: numbered(1),
            })
            .collect();
        let batch = RouteBatch {
            ops: vec![RouteOp::Announce {
                attrs: attrs_from(A, PeerKind::External),
                nlri: 0..nlri.len(),
            }],
            nlri,
            ..RouteBatch::default()
        };
        world.handle(Input::Routes(world.session(A), batch));
    }
    world.pump();
}

fn with_paths(max_paths_per_prefix: u16) -> World {
    let mut world = World::new(config());
    let routing_a = PeerRouting {
        max_paths_per_prefix,
        ..routing(A, PeerKind::External)
    };
    world.add_with(A, routing_a, with_add_path(A));
    world.add_with(B, routing(B, PeerKind::External), with_add_path(B));
    world.pump();
    world
}

#[test]
fn paths_of_one_prefix_are_bounded_with_one_warning() {
    let mut world = with_paths(64);
    for _ in 0..2 {
        paths_of_one_prefix(&mut world, 5000);
        assert_eq!(world.received[&B].paths.len(), 64);
        assert_eq!(world.engine.counts(A).received, [64, 0]);
        assert_eq!(world.path_limits, [(A, numbered(1))]);
    }
    world.down(A);
    world.add_with(A, routing(A, PeerKind::External), with_add_path(A));
    paths_of_one_prefix(&mut world, 100);
    assert_eq!(world.path_limits.len(), 2, "once a session");
    assert_eq!(world.received[&B].paths.len(), 64);
    // 0: no limit.
    let mut all = with_paths(0);
    paths_of_one_prefix(&mut all, 200);
    assert!(all.path_limits.is_empty() && all.received[&B].paths.len() == 200);
}

/// Runs in the child process, under valgrind.
#[test]
fn work() {
    if let Ok(count) = std::env::var("COST_OF") {
        paths_of_one_prefix(&mut with_paths(64), count.parse().unwrap());
    }
}

#[test]
fn many_paths_of_one_prefix_cost_what_they_are() {
    if !can_count() {
        return;
    }
    let counts: BTreeMap<u32, f64> = [1000, 2000, 4000, 8000]
        .into_iter()
        .map(|paths| (paths, instructions("work", &paths.to_string())))
        .collect();
    let per_path = |from: u32, to: u32| (counts[&to] - counts[&from]) / f64::from(to - from);
    let (few, many) = (per_path(1000, 2000), per_path(4000, 8000));
    println!("{few:.0} instructions a path, among many {many:.0}");
    assert!(
        many <= few * 1.15,
        "{few:.0} instructions a path, among many {many:.0}"
    );
}
