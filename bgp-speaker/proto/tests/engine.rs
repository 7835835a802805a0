//! The engine with peers that decode what it sends: sessions, import, export and refresh.
#![cfg(test)]

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Input, Originated, PeerKind, Prefixes, RouteFilter, UnusedReason};
use bgp_proto::policy::{Actions, Matcher, NumberAction, Policy, PrefixRange, Rule, Source, Verdict};
use bgp_proto::rib::table::Ineligible;
use bgp_proto::types::{Asn, Community, Family, PeerId, Prefix};
use bgp_proto::wire::{
    AsPath, Capability, GracefulRestart, PathAttrs, Refresh, RefreshKind, RouteBatch, RouteOp,
};
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

fn received<'a>(world: &'a World, peer: PeerId, text: &str) -> Option<&'a PathAttrs> {
    world.received[&peer].routes.get(&prefix(text))
}

fn block(text: &str) -> Originated {
    Originated {
        prefix: prefix(text),
        source: Source::PodBlock,
        communities: vec![Community(7)],
    }
}

#[test]
fn originated_blocks_reach_both_kinds_of_peer() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::Internal);
    world.handle(Input::Originate(vec![
        block("10.244.1.0/24"),
        block("fd00:1::/64"),
    ]));
    world.pump();
    let external = received(&world, A, "10.244.1.0/24").unwrap();
    assert_eq!(
        (external.as_path.to_string(), external.next_hop.to_string()),
        ("64512".into(), "192.0.2.1".into())
    );
    assert_eq!(
        (external.local_pref, &external.communities[..]),
        (None, &[Community(7)][..])
    );
    let internal = received(&world, B, "fd00:1::/64").unwrap();
    assert_eq!((internal.as_path.hops(), internal.local_pref), (0, Some(100)));
    assert_eq!(internal.next_hop.to_string(), "2001:db8::1");
    assert_eq!(world.received[&A].end_of_rib, [Family::Ipv4, Family::Ipv6]);
    assert!(world.fib.is_empty(), "our own block is not a received route");

    world.handle(Input::Originate(vec![block("fd00:1::/64")]));
    world.pump();
    assert!(received(&world, A, "10.244.1.0/24").is_none() && received(&world, A, "fd00:1::/64").is_some());
}

#[test]
fn ibgp_routes_go_to_ebgp_but_not_to_ibgp() {
    let mut world = World::new(config());
    world.add(A, PeerKind::Internal);
    world.add(B, PeerKind::Internal);
    world.add(C, PeerKind::External);
    world.announce(A, &["10.244.2.0/24"]);
    world.pump();
    assert!(received(&world, B, "10.244.2.0/24").is_none());
    assert!(received(&world, A, "10.244.2.0/24").is_none());
    let route = received(&world, C, "10.244.2.0/24").unwrap();
    assert_eq!(
        (route.as_path.to_string(), route.next_hop.to_string()),
        ("64512".into(), "192.0.2.1".into())
    );
    assert_eq!(world.fib[&prefix("10.244.2.0/24")], [IpAddr::V4(address(A))]);
}

#[test]
fn a_reflector_sets_originator_and_cluster_and_leaves_the_next_hop() {
    let mut world = World::new(config());
    world.add(A, PeerKind::Client);
    world.add(B, PeerKind::Client);
    world.add(C, PeerKind::Internal);
    world.announce(A, &["10.244.2.0/24"]);
    world.announce(C, &["10.244.3.0/24"]);
    world.pump();
    for peer in [B, C] {
        let route = received(&world, peer, "10.244.2.0/24").unwrap();
        let extra = route.extra.as_deref().unwrap();
        assert_eq!(extra.originator_id.unwrap().get(), 0x0A00_0101);
        assert_eq!(extra.cluster_list, [0x0A00_0001]);
        assert_eq!(route.next_hop.addr(), IpAddr::V4(address(A)));
    }
    assert!(
        received(&world, A, "10.244.2.0/24").is_none(),
        "not sent to its source"
    );
    assert!(received(&world, A, "10.244.3.0/24").is_some() && received(&world, C, "10.244.3.0/24").is_none());
}

#[test]
fn a_new_best_source_clears_what_was_advertised_to_it() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::Client);
    }
    world.announce(A, &["10.244.2.0/24"]);
    world.pump();
    let mut better = attrs_from(B, PeerKind::Client);
    better.local_pref = Some(200);
    world.handle(Input::Routes(
        world.session(B),
        announce(better, &[prefix("10.244.2.0/24")]),
    ));
    world.pump();
    assert!(received(&world, B, "10.244.2.0/24").is_none());
    assert_eq!(
        received(&world, A, "10.244.2.0/24").unwrap().next_hop.addr(),
        IpAddr::V4(address(B))
    );
    assert_eq!(
        received(&world, C, "10.244.2.0/24").unwrap().local_pref,
        Some(200)
    );
    world.down(B);
    world.pump();
    assert!(received(&world, A, "10.244.2.0/24").is_none());
    assert_eq!(
        received(&world, C, "10.244.2.0/24").unwrap().next_hop.addr(),
        IpAddr::V4(address(A))
    );
}

#[test]
fn loops_and_own_blocks_are_kept_but_not_used() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    let mut looped = attrs_from(A, PeerKind::External);
    looped.as_path = AsPath::sequence(&[Asn(65001), OUR_AS]);
    world.handle(Input::Routes(
        world.session(A),
        announce(looped, &[prefix("10.244.9.0/24")]),
    ));
    world.announce(A, &["10.244.1.128/25"]);
    world.pump();
    assert!(received(&world, B, "10.244.1.128/25").is_some());
    world.handle(Input::Originate(vec![block("10.244.1.0/24")]));
    world.pump();
    assert!(
        received(&world, B, "10.244.1.128/25").is_none() && received(&world, B, "10.244.9.0/24").is_none()
    );
    let why = |text: &str| {
        let filter = RouteFilter {
            prefixes: Prefixes::Exactly(prefix(text)),
            ..RouteFilter::default()
        };
        routes_matching(&world.engine, &filter)[0].paths[0].unused
    };
    assert_eq!(
        why("10.244.9.0/24"),
        Some(UnusedReason::Refused(Ineligible::AsLoop))
    );
    assert_eq!(
        why("10.244.1.128/25"),
        Some(UnusedReason::Refused(Ineligible::OwnBlock))
    );
    world.handle(Input::Originate(vec![]));
    world.pump();
    assert!(received(&world, B, "10.244.1.128/25").is_some());
}

#[test]
fn equal_paths_share_the_kernel_route_and_a_lost_next_hop_leaves_it() {
    let mut world = World::new(bgp_proto::engine::EngineConfig {
        multipath_relax: true,
        ..config()
    });
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.244.2.0/24"]);
    world.announce(B, &["10.244.2.0/24"]);
    world.pump();
    let (a, b) = (IpAddr::V4(address(A)), IpAddr::V4(address(B)));
    assert_eq!(world.fib[&prefix("10.244.2.0/24")], [a, b]);
    world.set_reach(a, false);
    world.pump();
    assert_eq!(world.fib[&prefix("10.244.2.0/24")], [b]);
    world.set_reach(b, false);
    world.pump();
    assert!(world.fib.is_empty());
    world.set_reach(a, true);
    world.pump();
    assert_eq!(world.fib[&prefix("10.244.2.0/24")], [a]);
}

#[test]
fn policies_reject_and_modify_and_are_evaluated_again() {
    let mut world = World::new(config());
    let rule = |text: &str, local_pref: Option<u32>| Rule {
        matcher: Matcher {
            prefixes: Some([PrefixRange::exact(prefix(text))].into_iter().collect()),
            ..Matcher::default()
        },
        actions: Actions {
            local_pref: local_pref.map(NumberAction::Set),
            ..Actions::default()
        },
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    let policy = |rules| {
        Arc::new(Policy {
            name: "from-a".into(),
            rules,
            default: Verdict::Reject,
        })
    };
    let with = |rules| bgp_proto::engine::PeerRouting {
        import: policy(rules),
        ..routing(A, PeerKind::External)
    };
    world.add_with(
        A,
        with(vec![rule("10.244.2.0/24", Some(300))]),
        facts(A, PeerKind::External),
    );
    world.add(B, PeerKind::Internal);
    world.announce(A, &["10.244.2.0/24", "10.244.3.0/24"]);
    world.pump();
    assert_eq!(
        received(&world, B, "10.244.2.0/24").unwrap().local_pref,
        Some(300)
    );
    assert!(received(&world, B, "10.244.3.0/24").is_none());
    world.handle(Input::Configure(
        A,
        Arc::new(with(vec![rule("10.244.3.0/24", None)])),
    ));
    world.pump();
    assert!(received(&world, B, "10.244.2.0/24").is_none());
    assert_eq!(
        received(&world, B, "10.244.3.0/24").unwrap().local_pref,
        Some(100)
    );
}

#[test]
fn an_export_policy_changed_at_run_time_withdraws() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.244.2.0/24"]);
    world.pump();
    assert!(received(&world, B, "10.244.2.0/24").is_some());
    let closed = bgp_proto::engine::PeerRouting {
        export: Arc::new(Policy::reject_all()),
        ..routing(B, PeerKind::External)
    };
    world.handle(Input::Configure(B, Arc::new(closed)));
    world.pump();
    assert!(received(&world, B, "10.244.2.0/24").is_none());
}

#[test]
fn well_known_communities() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.add(C, PeerKind::Internal);
    for (community, text) in [
        (Community::NO_EXPORT, "10.1.0.0/24"),
        (Community::NO_ADVERTISE, "10.2.0.0/24"),
    ] {
        let mut attrs = attrs_from(A, PeerKind::External);
        attrs.communities = [community].into();
        world.handle(Input::Routes(world.session(A), announce(attrs, &[prefix(text)])));
    }
    world.pump();
    assert!(world.received[&B].routes.is_empty());
    assert_eq!(
        world.received[&C].routes.keys().copied().collect::<Vec<_>>(),
        [prefix("10.1.0.0/24")]
    );
}

#[test]
fn too_many_prefixes_end_the_session_and_take_no_more() {
    let mut world = World::new(config());
    let limited = bgp_proto::engine::PeerRouting {
        max_prefixes: Some(bgp_proto::engine::MaxPrefixes {
            limit: 100,
            warn_at: None,
            action: bgp_proto::engine::OverLimit::Cease {
                restart_after: Duration::ZERO,
            },
        }),
        ..routing(A, PeerKind::External)
    };
    world.add_with(A, limited, facts(A, PeerKind::External));
    let many: Vec<Prefix> = (0..5000)
        .map(|n| Prefix::v4(0x0B00_0000 + (n << 8), 24))
        .collect();
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs_from(A, PeerKind::External), &many),
    ));
    world.pump();
    assert_eq!(world.failed.len(), 1);
    assert_eq!((world.failed[0].1.code, world.failed[0].1.subcode), (6, 1));
    assert!(world.engine.counts(A).received[0] <= 165);
}

/// A neighbor whose routes all have different attribute sets, which use most memory.
#[test]
fn too_much_memory_ends_the_session_and_is_given_back() {
    const MOST: usize = 4 << 20;
    let mut world = World::new(config());
    let limited = bgp_proto::engine::PeerRouting {
        max_memory: Some(MOST),
        ..routing(A, PeerKind::External)
    };
    world.add_with(A, limited, facts(A, PeerKind::External));
    world.add(B, PeerKind::External);
    let send = |world: &mut World, from: PeerId, n: u32| {
        let mut attrs = attrs_from(from, PeerKind::External);
        let mut path = vec![Asn(65000 + from.0); 200];
        path.push(Asn(n));
        attrs.as_path = AsPath::sequence(&path);
        let prefix = Prefix::v4(0x0B00_0000 + (n << 8), 24);
        world.handle(Input::Routes(world.session(from), announce(attrs, &[prefix])));
    };
    let mut sent = 0;
    while world.failed.is_empty() {
        sent += 1;
        send(&mut world, A, sent);
        world.pump();
        assert!(sent < 10_000, "the memory limit has no effect");
    }
    let used = world.engine.counts(A).memory;
    assert!(
        (MOST..MOST + 4096).contains(&used),
        "{used} octets for {sent} routes"
    );
    assert_eq!((world.failed[0].1.code, world.failed[0].1.subcode), (6, 8));
    let [(peer, warned)] = world.memory_limits[..] else {
        panic!("warned {:?}", world.memory_limits);
    };
    assert!(peer == A && warned < MOST && warned > MOST / 100 * 80, "{warned}");
    // Inputs of a session that is not established change nothing.
    send(&mut world, A, sent + 1);
    world.pump();
    assert_eq!(world.engine.counts(A).memory, used);
    // A peer with a higher limit.
    for n in 1..=sent + 1 {
        send(&mut world, B, n);
    }
    world.handle(Input::Down(world.session(A)));
    world.pump();
    assert_eq!(world.engine.counts(A).memory, 0);
    assert!(world.engine.counts(B).memory > used);
    assert_eq!((world.failed.len(), world.memory_limits.len()), (1, 1));
}

/// Routes with the same attributes use little memory.
#[test]
fn shared_attributes_count_once() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    let many: Vec<Prefix> = (0..1000)
        .map(|n| Prefix::v4(0x0B00_0000 + (n << 8), 24))
        .collect();
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.as_path = AsPath::sequence(&[Asn(65001); 250]);
    world.handle(Input::Routes(world.session(A), announce(attrs, &many)));
    world.pump();
    let memory = world.engine.counts(A).memory;
    assert!((100_000..400_000).contains(&memory), "{memory}");
}

#[test]
fn enhanced_refresh_sweeps_what_did_not_come_again() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/24", "10.2.0.0/24"]);
    let mut v6 = attrs_from(A, PeerKind::External);
    v6.next_hop = next_hop_of(&prefix("2001:db8:5::/48"), 1).into();
    world.handle(Input::Routes(
        world.session(A),
        announce(v6, &[prefix("2001:db8:5::/48")]),
    ));
    world.handle(Input::Refresh(
        world.session(A),
        Refresh {
            family: Family::Ipv4,
            kind: RefreshKind::Begin,
        },
    ));
    world.announce(A, &["10.1.0.0/24"]);
    world.handle(Input::Refresh(
        world.session(A),
        Refresh {
            family: Family::Ipv4,
            kind: RefreshKind::End,
        },
    ));
    world.pump();
    assert!(
        world.fib.contains_key(&prefix("10.1.0.0/24")) && !world.fib.contains_key(&prefix("10.2.0.0/24"))
    );
    assert_eq!(world.engine.counts(A).received, [1, 1]);
}

/// RFC 4724 §4.2: the routes of a restarting peer are retained; those not announced again before its
/// End-of-RIB are removed.
#[test]
fn a_restarting_peer_keeps_its_routes_until_its_end_of_rib() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.1.0.0/24", "10.2.0.0/24"]);
    world.pump();
    let (messages, batches) = (world.received[&B].messages, world.fib_batches);
    world.restarting(A);
    world.pump();
    assert_eq!((world.fib.len(), world.received[&B].routes.len()), (2, 2));

    let mut back = facts(A, PeerKind::External);
    let mut negotiated = (*back.negotiated).clone();
    negotiated
        .remote
        .capabilities
        .push(Capability::GracefulRestart(GracefulRestart {
            restarting: true,
            notification: false,
            restart_time: 120,
            families: vec![(Family::Ipv4, true)],
        }));
    back.negotiated = Arc::new(negotiated);
    world.add_with(A, routing(A, PeerKind::External), back);
    world.announce(A, &["10.1.0.0/24"]);
    world.pump();
    assert_eq!(world.received[&A].routes.len(), 0, "not its own routes");
    assert_eq!(
        (world.received[&B].messages, world.fib_batches),
        (messages, batches),
        "the outputs changed"
    );
    let end = RouteBatch {
        ops: vec![RouteOp::EndOfRib(Family::Ipv4)],
        ..RouteBatch::default()
    };
    world.handle(Input::Routes(world.session(A), end));
    world.pump();
    assert_eq!(
        world.fib.keys().copied().collect::<Vec<_>>(),
        [prefix("10.1.0.0/24")]
    );
    assert_eq!(world.received[&B].routes.len(), 1);
}

#[test]
fn a_peer_that_never_comes_back_loses_its_routes() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/24"]);
    world.pump();
    world.restarting(A);
    world.pump();
    assert_eq!(world.fib.len(), 1);
    world.down(A);
    world.pump();
    assert_eq!((world.fib.len(), world.engine.sizes()), (0, (0, 0, 0)));
}

/// The routes before an End-of-RIB are processed before it.
#[test]
fn an_end_of_rib_is_sent_after_the_routes_before_it() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/24"]);
    let end = bgp_proto::wire::RouteOp::EndOfRib(Family::Ipv4);
    world.handle(Input::Routes(
        world.session(A),
        bgp_proto::wire::RouteBatch {
            ops: vec![end],
            ..Default::default()
        },
    ));
    let mut outputs = Vec::new();
    let mut watched = Vec::new();
    while let Some(output) = world.engine.poll_output() {
        if let bgp_proto::engine::Output::Watch(list) = output {
            watched.extend(list);
        } else {
            outputs.push(output);
        }
    }
    assert!(
        !outputs
            .iter()
            .any(|output| matches!(output, bgp_proto::engine::Output::EndOfRib(..))),
        "{outputs:?}"
    );
    let reach = bgp_proto::engine::Reach::Reachable { metric: 0 };
    world.handle(Input::NextHops(
        watched.into_iter().map(|addr| (addr, reach)).collect(),
    ));
    let outputs: Vec<_> = std::iter::from_fn(|| world.engine.poll_output()).collect();
    let position = |wanted: fn(&bgp_proto::engine::Output) -> bool| outputs.iter().position(wanted).unwrap();
    let routes = position(|output| matches!(output, bgp_proto::engine::Output::Fib { .. }));
    let end = position(|output| matches!(output, bgp_proto::engine::Output::EndOfRib(..)));
    assert!(routes < end);
}

#[test]
fn a_refresh_request_sends_everything_again() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.1.0.0/24", "10.2.0.0/24"]);
    world.pump();
    world.received.get_mut(&B).unwrap().routes.clear();
    world.handle(Input::Refresh(
        world.session(B),
        Refresh {
            family: Family::Ipv4,
            kind: RefreshKind::Request,
        },
    ));
    world.pump();
    assert_eq!(world.received[&B].routes.len(), 2);
}

#[test]
fn a_change_that_changes_no_bytes_is_not_sent() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.1.0.0/24"]);
    world.pump();
    let messages = world.received[&B].messages;
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.med = Some(77); // not sent to another AS
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs, &[prefix("10.1.0.0/24")]),
    ));
    world.pump();
    assert_eq!(world.received[&B].messages, messages);
}

/// Packing: prefixes with the same attributes share messages and one encoding.
#[test]
fn packs_prefixes_into_full_messages() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.pump();
    let before = world.received[&B].messages;
    let many: Vec<Prefix> = (0..4000)
        .map(|n| Prefix::v4(0x0B00_0000 + (n << 8), 24))
        .collect();
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs_from(A, PeerKind::External), &many),
    ));
    world.pump();
    assert_eq!(world.received[&B].routes.len(), 4000);
    assert!(
        world.received[&B].messages - before <= 5,
        "4000 prefixes of 4 octets fit into four messages of 4096"
    );
}

#[test]
fn a_slow_peer_misses_nothing_and_holds_up_nobody() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::External);
    }
    world.pump();
    world.received.get_mut(&B).unwrap().slow = true;
    for round in 0..200u32 {
        let many: Vec<Prefix> = (0..8000)
            .map(|n| Prefix::v4(0x0B00_0000 + (n << 8), 24))
            .collect();
        let mut attrs = attrs_from(A, PeerKind::External);
        attrs.communities = [Community(round)].into();
        world.handle(Input::Routes(world.session(A), announce(attrs, &many)));
        world.pump();
        assert_eq!(
            world.received[&C].routes[&many[0]].communities[0],
            Community(round)
        );
    }
    assert!(
        world.received[&B].queued_bytes < 6 << 20,
        "a slow peer's backlog is bounded: {}",
        world.received[&B].queued_bytes
    );
    world.received.get_mut(&B).unwrap().slow = false;
    world.drain(B);
    world.pump();
    assert_eq!(world.received[&B].routes.len(), 8000);
    assert!(
        world.received[&B]
            .routes
            .values()
            .all(|attrs| attrs.communities[0] == Community(199))
    );
}
