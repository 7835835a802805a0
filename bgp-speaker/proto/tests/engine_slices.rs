//! Work on all routes of a source is done in slices; inputs between two slices do not change the result.
#![cfg(test)]

mod common;

use std::sync::Arc;

use bgp_proto::engine::{Input, Originated, Output, PeerKind, PeerRouting, RouteFilter};
use bgp_proto::policy::{Actions, Matcher, NumberAction, Policy, PrefixRange, Rule, Source, Verdict};
use bgp_proto::types::{Community, PeerId, Prefix};
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);
/// Several slices.
const ROUTES: u32 = 80_000;

fn numbered(n: u32) -> Prefix {
    Prefix::v4(0x0B00_0000 + (n << 8), 24)
}

fn announce_range(world: &mut World, from: PeerId, numbers: std::ops::Range<u32>, mark: u32) {
    let mut attrs = attrs_from(from, PeerKind::External);
    attrs.communities = [Community(mark)].into();
    let prefixes: Vec<Prefix> = numbers.map(numbered).collect();
    world.handle(Input::Routes(world.session(from), announce(attrs, &prefixes)));
}

/// A announces a table; B and C receive it.
fn world() -> World {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::External);
    }
    announce_range(&mut world, A, 0..ROUTES, 1);
    world.pump();
    assert_eq!(world.received[&B].routes.len(), ROUTES as usize);
    world
}

/// Some slices, not all. Each is decided and sent before the next.
fn a_few_slices(world: &mut World) {
    for _ in 0..3 {
        assert!(world.engine.work(), "the work has more than a few slices");
    }
}

fn marks(world: &World, peer: PeerId) -> Vec<u32> {
    let mut marks: Vec<u32> = world.received[&peer]
        .routes
        .values()
        .map(|attrs| attrs.communities[0].0)
        .collect();
    marks.dedup();
    marks
}

#[test]
fn a_peer_that_is_back_before_its_routes_are_gone() {
    let mut world = world();
    world.down(A);
    a_few_slices(&mut world);
    world.add(A, PeerKind::External);
    announce_range(&mut world, A, 0..100, 2);
    world.pump();
    assert_eq!(
        world.received[&B].routes.len(),
        100,
        "routes that are not announced again are removed"
    );
    assert_eq!(marks(&world, B), [2]);
    assert_eq!(world.fib.len(), 100);
    assert_eq!(world.engine.sizes().0, 100);
}

#[test]
fn routes_of_a_leaving_peer_are_replaced_by_those_of_others() {
    let mut world = world();
    world.down(A);
    a_few_slices(&mut world);
    announce_range(&mut world, C, 0..ROUTES, 3);
    world.pump();
    assert_eq!(marks(&world, B), [3]);
    assert_eq!(world.received[&B].routes.len(), ROUTES as usize);
}

/// For each list of kernel changes: whether more follow, and its length.
fn kernel_lists(world: &mut World) -> Vec<(bool, usize)> {
    let mut lists = Vec::new();
    while let Some(output) = world.engine.poll_output() {
        if let Output::Fib { changes, more } = output {
            lists.push((more, changes.len()));
        }
    }
    lists
}

/// A next hop set that loses all its routes to another can be changed in one operation only if all changes
/// are in one output.
#[test]
fn a_lost_peer_is_one_change_for_the_kernel() {
    let mut world = world();
    announce_range(&mut world, C, 0..ROUTES, 1);
    world.pump();
    world.down(A);
    let lists = kernel_lists(&mut world);
    assert_eq!(
        lists.iter().map(|(_, count)| count).sum::<usize>(),
        ROUTES as usize
    );
    let (last, before) = lists.split_last().unwrap();
    assert!(
        !last.0 && before.len() > 3 && before.iter().all(|(more, _)| *more),
        "{lists:?}"
    );
}

#[test]
fn the_last_slice_may_change_nothing() {
    let mut world = world();
    // Removed already, but still in the peer's Adj-RIB-In index: the last slice consists of such entries.
    let removed: Vec<Prefix> = (ROUTES / 2 + 1000..ROUTES).map(numbered).collect();
    world.handle(Input::Routes(world.session(A), withdraw(&removed)));
    world.pump();
    world.down(A);
    let lists = kernel_lists(&mut world);
    assert!(lists.last().is_some_and(|(more, _)| !more), "{lists:?}");
}

#[test]
fn a_peer_that_is_removed_while_its_routes_go() {
    let mut world = world();
    world.down(A);
    a_few_slices(&mut world);
    world.handle(Input::Remove(A));
    world.pump();
    assert!(world.received[&B].routes.is_empty() && world.fib.is_empty());
    assert_eq!(world.engine.sizes().0, 0);
}

fn only(range: &str, mark: u32) -> PeerRouting {
    let rule = Rule {
        matcher: Matcher {
            prefixes: Some([PrefixRange::within(prefix(range))].into_iter().collect()),
            ..Matcher::default()
        },
        actions: Actions {
            med: Some(NumberAction::Set(mark)),
            ..Actions::default()
        },
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    PeerRouting {
        import: Arc::new(Policy {
            name: "from-a".into(),
            rules: vec![rule],
            default: Verdict::Reject,
        }),
        ..routing(A, PeerKind::External)
    }
}

#[test]
fn a_policy_that_changes_again_before_the_first_change_is_through() {
    let mut world = world();
    world.handle(Input::Configure(A, only("11.0.0.0/8", 7).into()));
    a_few_slices(&mut world);
    world.handle(Input::Configure(A, only("11.1.0.0/16", 8).into()));
    world.pump();
    assert_eq!(world.received[&B].routes.len(), 256);
    assert_eq!(world.fib.len(), 256);
}

#[test]
fn a_peer_that_goes_while_its_policy_changes() {
    let mut world = world();
    world.handle(Input::Configure(A, only("11.0.0.0/8", 7).into()));
    a_few_slices(&mut world);
    world.down(A);
    world.pump();
    assert!(world.received[&B].routes.is_empty() && world.fib.is_empty());
    assert_eq!(world.engine.sizes(), (0, 0, 0), "nothing remains");
}

/// Two peers announce the same attributes with different import policies: the import cache is not shared
/// between them.
#[test]
fn sources_with_the_same_attributes_keep_their_own_policies() {
    let mut world = World::new(config());
    for (peer, mark) in [(A, 7), (B, 8)] {
        world.add_with(peer, only("11.0.0.0/8", mark), facts(peer, PeerKind::Internal));
        let attrs = attrs_from(A, PeerKind::Internal);
        world.handle(Input::Routes(
            world.session(peer),
            announce(attrs, &[numbered(1)]),
        ));
    }
    world.pump();
    let meds = |world: &World| {
        let routes = routes_matching(&world.engine, &RouteFilter::default());
        let route = routes.iter().find(|route| route.prefix == numbered(1)).unwrap();
        let mut meds: Vec<(PeerId, Option<u32>)> = route
            .paths
            .iter()
            .map(|path| (path.peer, path.attrs.med))
            .collect();
        meds.sort();
        meds
    };
    let expected = vec![(A, Some(7)), (B, Some(8))];
    assert_eq!(meds(&world), expected);
    // An own pod block covers the route, then is removed: the route is evaluated both times.
    let block = Originated {
        prefix: prefix("11.0.0.0/16"),
        source: Source::PodBlock,
        communities: Vec::new(),
    };
    for blocks in [vec![block], Vec::new()] {
        world.handle(Input::Originate(blocks));
        world.pump();
    }
    assert_eq!(meds(&world), expected);
}
