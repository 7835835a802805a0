//! Originated routes that depend on other routes: conditions, aggregates, suppression.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use bgp_proto::engine::{Aggregate, Input, OriginateRule, Originated, PeerKind, PeerRouting, When};
use bgp_proto::policy::{Matcher, Policy, Rule, Source, Verdict};
use bgp_proto::types::{Community, PeerId};
use bgp_proto::wire::KernelRoute;
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

fn rule(text: &str) -> OriginateRule {
    OriginateRule {
        prefix: prefix(text),
        source: Source::Static,
        aggregate: None,
        kernel: KernelRoute::default(),
        when: None,
        communities: vec![Community(7)],
    }
}

fn when(present: bool, text: &str) -> Option<When> {
    Some(When {
        prefix: prefix(text),
        present,
    })
}

fn world(rules: Vec<OriginateRule>) -> World {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.handle(Input::OriginateByRules(rules));
    world.pump();
    world
}

/// Peer A announces the prefix, or withdraws it.
fn set_announced(world: &mut World, text: &str, announced: bool) {
    let batch = if announced {
        announce(attrs_from(A, PeerKind::External), &[prefix(text)])
    } else {
        withdraw(&[prefix(text)])
    };
    world.handle(Input::Routes(world.session(A), batch));
    world.pump();
}

/// The prefixes that peer B received.
fn known(world: &World) -> Vec<String> {
    world.received[&B]
        .routes
        .keys()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_static_route_with_its_communities_and_source() {
    let mut world = world(vec![rule("203.0.113.50/32")]);
    assert_eq!(known(&world), ["203.0.113.50/32"]);
    let route = &world.received[&B].routes[&prefix("203.0.113.50/32")];
    assert_eq!(&route.communities[..], [Community(7)]);
    let only = |source| {
        let export = Policy {
            rules: vec![Rule {
                matcher: Matcher {
                    sources: vec![source],
                    ..Matcher::default()
                },
                verdict: Some(Verdict::Accept),
                ..Rule::default()
            }],
            ..Policy::reject_all()
        };
        PeerRouting {
            export: export.into(),
            ..routing(B, PeerKind::External)
        }
    };
    world.handle(Input::Configure(B, only(Source::PodBlock).into()));
    world.pump();
    assert_eq!(known(&world), [""; 0]);
    world.handle(Input::Configure(B, only(Source::Static).into()));
    world.pump();
    assert_eq!(known(&world), ["203.0.113.50/32"]);
    // What is originated without conditions goes before.
    world.handle(Input::Originate(vec![Originated {
        prefix: prefix("203.0.113.50/32"),
        source: Source::PodBlock,
        communities: vec![],
    }]));
    world.pump();
    assert_eq!(known(&world), [""; 0]);
    world.handle(Input::Originate(vec![]));
    world.handle(Input::OriginateByRules(vec![rule("203.0.113.51/32")]));
    world.pump();
    assert_eq!(known(&world), ["203.0.113.51/32"]);
}

#[test]
fn conditions_follow_the_table() {
    let mut world = world(vec![
        OriginateRule {
            when: when(true, "198.51.100.0/24"),
            ..rule("0.0.0.0/0")
        },
        OriginateRule {
            when: when(false, "198.51.100.0/24"),
            ..rule("203.0.113.0/24")
        },
    ]);
    assert_eq!(known(&world), ["203.0.113.0/24"]);
    for _ in 0..2 {
        set_announced(&mut world, "198.51.100.0/24", true);
        assert_eq!(known(&world), ["0.0.0.0/0", "198.51.100.0/24"]);
        // A part of it is another prefix.
        set_announced(&mut world, "198.51.100.0/25", true);
        set_announced(&mut world, "198.51.100.0/24", false);
        set_announced(&mut world, "198.51.100.0/25", false);
        assert_eq!(known(&world), ["203.0.113.0/24"]);
    }
    // One that cannot be used is not there; one that was there before the rules counts.
    set_announced(&mut world, "198.51.100.0/24", true);
    world.set_reach(address(A).into(), false);
    world.pump();
    assert_eq!(known(&world), ["203.0.113.0/24"]);
    world.set_reach(address(A).into(), true);
    world.handle(Input::OriginateByRules(vec![OriginateRule {
        when: when(true, "198.51.100.0/24"),
        ..rule("192.0.2.128/25")
    }]));
    world.pump();
    assert_eq!(known(&world), ["192.0.2.128/25", "198.51.100.0/24"]);
    world.down(A);
    world.pump();
    assert_eq!(known(&world), [""; 0]);
}

#[test]
fn an_aggregate_stands_for_what_is_inside() {
    let aggregate = |aggregate| OriginateRule {
        aggregate: Some(aggregate),
        ..rule("10.8.0.0/16")
    };
    let mut world = world(vec![aggregate(Aggregate::InPlace)]);
    assert_eq!(known(&world), [""; 0], "nothing is inside");
    set_announced(&mut world, "10.9.0.0/24", true);
    set_announced(&mut world, "10.8.1.0/24", true);
    set_announced(&mut world, "10.8.2.0/24", true);
    assert_eq!(known(&world), ["10.8.0.0/16", "10.9.0.0/24"]);
    set_announced(&mut world, "10.8.1.0/24", false);
    assert_eq!(known(&world), ["10.8.0.0/16", "10.9.0.0/24"]);
    world.handle(Input::OriginateByRules(vec![aggregate(Aggregate::Beside)]));
    world.pump();
    assert_eq!(known(&world), ["10.8.0.0/16", "10.8.2.0/24", "10.9.0.0/24"]);
    world.handle(Input::OriginateByRules(vec![aggregate(Aggregate::InPlace)]));
    world.pump();
    set_announced(&mut world, "10.8.2.0/24", false);
    assert_eq!(known(&world), ["10.9.0.0/24"]);
    // The same prefix from a peer is not inside itself.
    set_announced(&mut world, "10.8.0.0/16", true);
    assert_eq!(known(&world), ["10.8.0.0/16", "10.9.0.0/24"]);
    assert_eq!(
        &world.received[&B].routes[&prefix("10.8.0.0/16")].communities[..],
        []
    );
}

#[test]
fn conditions_do_not_depend_on_what_rules_originate() {
    // Both prefixes are originated and conditions of each other.
    let rules = vec![
        OriginateRule {
            when: when(true, "198.51.100.0/24"),
            ..rule("203.0.113.0/24")
        },
        OriginateRule {
            when: when(false, "203.0.113.0/24"),
            ..rule("198.51.100.0/24")
        },
        // As a route of the kernel can be.
        OriginateRule {
            when: when(true, "192.0.2.128/25"),
            source: Source::Kernel,
            ..rule("192.0.2.128/25")
        },
    ];
    let mut world = world(vec![]);
    for text in ["198.51.100.0/24", "203.0.113.0/24", "192.0.2.128/25"] {
        set_announced(&mut world, text, true);
    }
    let mut engine = world.engine.clone();
    engine.handle(world.now, Input::OriginateByRules(rules.clone()));
    let outputs = (0..1000).take_while(|_| engine.poll_output().is_some()).count();
    assert!(outputs < 1000, "the rules change each other without end");
    world.handle(Input::OriginateByRules(rules));
    world.pump();
    let own = |world: &World, text: &str| {
        let route = world.received[&B].routes.get(&prefix(text));
        route.map(|route| route.communities[..] == [Community(7)])
    };
    assert_eq!(own(&world, "203.0.113.0/24"), Some(true));
    assert_eq!(own(&world, "198.51.100.0/24"), Some(false));
    assert_eq!(own(&world, "192.0.2.128/25"), Some(true));
    set_announced(&mut world, "203.0.113.0/24", false);
    set_announced(&mut world, "192.0.2.128/25", false);
    assert_eq!(own(&world, "198.51.100.0/24"), Some(true));
    assert_eq!(
        own(&world, "203.0.113.0/24"),
        Some(true),
        "a peer still announces 198.51.100.0/24"
    );
    assert_eq!(own(&world, "192.0.2.128/25"), None);
}

#[test]
fn other_rules_leave_routes_in_place() {
    let kept = vec![
        OriginateRule {
            when: when(true, "198.51.100.0/24"),
            ..rule("203.0.113.0/24")
        },
        OriginateRule {
            when: when(false, "198.51.100.0/24"),
            ..rule("203.0.113.128/25")
        },
        OriginateRule {
            aggregate: Some(Aggregate::InPlace),
            ..rule("10.8.0.0/16")
        },
    ];
    let mut world = world(kept.clone());
    set_announced(&mut world, "198.51.100.0/24", true);
    set_announced(&mut world, "10.8.1.0/24", true);
    let routes = ["10.8.0.0/16", "198.51.100.0/24", "203.0.113.0/24"];
    assert_eq!(known(&world), routes);
    let messages = world.received[&B].messages;
    let added = [kept, vec![rule("192.0.2.128/25")]].concat();
    world.handle(Input::OriginateByRules(added));
    world.pump();
    assert_eq!(
        known(&world),
        [
            "10.8.0.0/16",
            "192.0.2.128/25",
            "198.51.100.0/24",
            "203.0.113.0/24"
        ]
    );
    assert_eq!(
        world.received[&B].messages,
        messages + 1,
        "routes of rules that stay were withdrawn"
    );
}

#[test]
fn the_first_route_inside_an_aggregate_is_not_sent() {
    let mut world = world(vec![OriginateRule {
        aggregate: Some(Aggregate::InPlace),
        ..rule("10.8.0.0/16")
    }]);
    for _ in 0..2 {
        let messages = world.received[&B].messages;
        set_announced(&mut world, "10.8.1.0/24", true);
        assert_eq!(known(&world), ["10.8.0.0/16"]);
        assert_eq!(world.received[&B].messages, messages + 1, "only the aggregate");
        set_announced(&mut world, "10.8.1.0/24", false);
        assert_eq!(known(&world), [""; 0]);
    }
}

#[test]
fn an_aggregate_is_discarded_while_it_is_originated() {
    let discard = KernelRoute {
        blackhole: true,
        metric: Some(4_294_967_294),
        ..KernelRoute::default()
    };
    let aggregate = |kernel| OriginateRule {
        aggregate: Some(Aggregate::Beside),
        kernel,
        ..rule("10.8.0.0/16")
    };
    let mut world = world(vec![aggregate(discard)]);
    let is_discarded = |world: &World| world.blackholes.contains(&prefix("10.8.0.0/16"));
    assert!(!is_discarded(&world), "nothing is inside");
    set_announced(&mut world, "10.8.1.0/24", true);
    assert!(is_discarded(&world));
    world.handle(Input::OriginateByRules(vec![aggregate(KernelRoute::default())]));
    world.pump();
    assert!(!is_discarded(&world), "the configuration changed");
    world.handle(Input::OriginateByRules(vec![aggregate(discard)]));
    world.pump();
    assert!(is_discarded(&world));
    set_announced(&mut world, "10.8.1.0/24", false);
    assert!(!is_discarded(&world), "nothing is inside any more");
}
