//! Several paths of a prefix (RFC 7911), rules for AS paths, and long-lived stale routes, with peers that
//! decode what the engine sends.
#![cfg(test)]
#![allow(dead_code, reason = "each test binary uses its own part of the world")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::engine::{
    EqualPaths, Input, LocalAs, Originated, PathRules, PeerKind, PeerRouting, PrivateAs, RouteFilter,
    SessionFacts,
};
use bgp_proto::policy::Source;
use bgp_proto::rib::table::Ineligible;
use bgp_proto::types::{Asn, Community, Family, FamilySet, PathId, PeerId, Prefix};
use bgp_proto::wire::{AsPath, PathAttrs, Refresh, RefreshKind};
use common::*;
use proptest::prelude::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);
const D: PeerId = PeerId(4);

fn one(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn with_add_path(peer: PeerId, kind: PeerKind) -> SessionFacts {
    let mut facts = facts(peer, kind);
    let mut agreed = (*facts.negotiated).clone();
    agreed.add_path_send = FamilySet::ALL;
    facts.negotiated = Arc::new(agreed);
    facts
}

fn with_rules(peer: PeerId, kind: PeerKind, rules: PathRules) -> PeerRouting {
    PeerRouting {
        rules,
        ..routing(peer, kind)
    }
}

/// The next hops of a prefix in a peer's table, by path identifier.
fn known(world: &World, peer: PeerId, prefix: Prefix) -> Vec<IpAddr> {
    let paths = world.received[&peer]
        .paths
        .range((prefix, PathId(0))..=(prefix, PathId(u32::MAX)));
    let mut hops: Vec<IpAddr> = paths.map(|(_, attrs)| attrs.next_hop.addr()).collect();
    hops.sort_unstable();
    hops
}

fn hops(peers: &[PeerId]) -> Vec<IpAddr> {
    peers.iter().map(|peer| IpAddr::V4(address(*peer))).collect()
}

#[test]
fn all_paths_go_out_under_identifiers_of_their_own() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::External);
        world.announce(peer, &["10.1.0.0/16"]);
    }
    world.add_with(
        D,
        routing(D, PeerKind::Internal),
        with_add_path(D, PeerKind::Internal),
    );
    world.pump();
    let prefix = one("10.1.0.0/16");
    assert_eq!(known(&world, D, prefix), hops(&[A, B, C]));
    assert_eq!(world.received[&D].end_of_rib, [Family::Ipv4, Family::Ipv6]);
    world.withdraw(B, &["10.1.0.0/16"]);
    world.pump();
    assert_eq!(known(&world, D, prefix), hops(&[A, C]));
    world.down(A);
    world.pump();
    assert_eq!(known(&world, D, prefix), hops(&[C]));
    assert_eq!(world.engine.counts(D).advertised, [1, 0]);
    let received = world.received[&D].paths.keys().all(|(_, id)| id.0 > 0);
    assert!(received, "identifier 0 is for those who send one path");
}

#[test]
fn the_best_two() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::External);
        let mut attrs = attrs_from(peer, PeerKind::External);
        // A has the longest path.
        attrs.as_path = attrs
            .as_path
            .prepend(asn_of(peer, PeerKind::External), 3 - peer.0 as usize);
        world.handle(Input::Routes(
            world.session(peer),
            announce(attrs, &[one("10.1.0.0/16")]),
        ));
    }
    let rules = PathRules {
        add_path_limit: 2,
        ..PathRules::default()
    };
    world.add_with(
        D,
        with_rules(D, PeerKind::Internal, rules),
        with_add_path(D, PeerKind::Internal),
    );
    world.pump();
    assert_eq!(known(&world, D, one("10.1.0.0/16")), hops(&[B, C]));
    world.withdraw(C, &["10.1.0.0/16"]);
    world.pump();
    assert_eq!(known(&world, D, one("10.1.0.0/16")), hops(&[A, B]));
}

#[test]
fn a_member_is_not_sent_its_own_path() {
    let mut world = World::new(config());
    for peer in [A, B] {
        world.add_with(
            peer,
            routing(peer, PeerKind::Client),
            with_add_path(peer, PeerKind::Client),
        );
        world.announce(peer, &["10.1.0.0/16"]);
    }
    world.pump();
    assert_eq!(known(&world, A, one("10.1.0.0/16")), hops(&[B]));
    assert_eq!(known(&world, B, one("10.1.0.0/16")), hops(&[A]));
}

/// A step of a history.
#[derive(Clone, Debug)]
enum Step {
    Up(u32),
    Down(u32),
    Announce(u32, u8, u8),
    Withdraw(u32, u8),
    Reach(u32, bool),
    Slow(u32, bool),
    Refresh(u32),
    /// The export policy of a receiver changes, so that it moves to another group.
    Move(u32, bool),
    Pump,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0u32..6).prop_map(Step::Up),
        1 => (0u32..6).prop_map(Step::Down),
        8 => (0u32..6, 0u8..4, 0u8..3).prop_map(|(peer, n, med)| Step::Announce(peer, n, med)),
        5 => (0u32..6, 0u8..4).prop_map(|(peer, n)| Step::Withdraw(peer, n)),
        1 => (0u32..6, any::<bool>()).prop_map(|(peer, up)| Step::Reach(peer, up)),
        2 => (4u32..6, any::<bool>()).prop_map(|(peer, slow)| Step::Slow(peer, slow)),
        1 => (4u32..6).prop_map(Step::Refresh),
        1 => (4u32..6, any::<bool>()).prop_map(|(peer, selfish)| Step::Move(peer, selfish)),
        4 => Just(Step::Pump),
    ];
    proptest::collection::vec(step, 1..100)
}

/// Peers 0–3 send, of both kinds; 4 and 5 are clients with ADD-PATH.
fn kind_of(peer: u32) -> PeerKind {
    match peer {
        0 | 1 => PeerKind::External,
        2 | 3 => PeerKind::Client,
        _ => PeerKind::Client,
    }
}

fn numbered(n: u8) -> Prefix {
    one(&format!("10.{n}.0.0/16"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_history_leaves_the_paths_that_are_there(steps in steps()) {
        let mut world = World::new(config());
        let mut paths: BTreeMap<(Prefix, u32), u8> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Up(peer) => {
                    paths.retain(|(_, source), _| *source != peer);
                    let (id, kind) = (PeerId(peer), kind_of(peer));
                    let facts = if peer >= 4 { with_add_path(id, kind) } else { facts(id, kind) };
                    world.add_with(id, routing(id, kind), facts);
                }
                Step::Down(peer) => {
                    paths.retain(|(_, source), _| *source != peer);
                    world.down(PeerId(peer));
                }
                Step::Announce(peer, n, med) if world.up.contains(&PeerId(peer)) => {
                    let mut attrs = attrs_from(PeerId(peer), kind_of(peer));
                    attrs.local_pref = (kind_of(peer) != PeerKind::External).then_some(100 + u32::from(med));
                    paths.insert((numbered(n), peer), med);
                    world.handle(Input::Routes(world.session(PeerId(peer)), announce(attrs, &[numbered(n)])));
                }
                Step::Withdraw(peer, n) if world.up.contains(&PeerId(peer)) => {
                    paths.remove(&(numbered(n), peer));
                    world.handle(Input::Routes(world.session(PeerId(peer)), withdraw(&[numbered(n)])));
                }
                Step::Reach(peer, up) => world.set_reach(IpAddr::V4(address(PeerId(peer))), up),
                Step::Slow(peer, slow) if world.up.contains(&PeerId(peer)) => {
                    world.received.get_mut(&PeerId(peer)).unwrap().slow = slow;
                    if !slow {
                        world.drain(PeerId(peer));
                    }
                }
                Step::Refresh(peer) if world.up.contains(&PeerId(peer)) => {
                    let refresh = Refresh { family: Family::Ipv4, kind: RefreshKind::Request };
                    world.handle(Input::Refresh(world.session(PeerId(peer)), refresh));
                }
                Step::Move(peer, selfish) if world.up.contains(&PeerId(peer)) => {
                    let moved = PeerRouting { next_hop_self: selfish, ..routing(PeerId(peer), kind_of(peer)) };
                    world.handle(Input::Configure(PeerId(peer), Arc::new(moved)));
                }
                Step::Pump => world.pump(),
                _ => {}
            }
        }
        world.pump();
        for peer in world.up.clone() {
            world.received.get_mut(&peer).unwrap().slow = false;
            world.drain(peer);
        }
        world.pump();
        for receiver in [4, 5].into_iter().filter(|peer| world.up.contains(&PeerId(*peer))) {
            let reachable = |peer: u32| !world.unreachable.contains(&IpAddr::V4(address(PeerId(peer))));
            let wanted: BTreeMap<Prefix, BTreeSet<(Option<u32>, u32)>> = paths
                .iter()
                .filter(|((_, source), _)| *source != receiver && reachable(*source))
                .fold(BTreeMap::new(), |mut map, ((prefix, source), med)| {
                    let pref = if kind_of(*source) == PeerKind::External { 100 } else { 100 + u32::from(*med) };
                    map.entry(*prefix).or_default().insert((Some(pref), *source));
                    map
                });
            let mut received: BTreeMap<Prefix, BTreeSet<(Option<u32>, u32)>> = BTreeMap::new();
            for ((prefix, _), attrs) in &world.received[&PeerId(receiver)].paths {
                // The source of a path: its ORIGINATOR_ID, or its first AS.
                let extra = attrs.extra.as_deref().and_then(|extra| extra.originator_id);
                let source = match (extra, attrs.as_path.neighbor()) {
                    (_, Some(asn)) => asn.0 - 65000,
                    (Some(id), None) => id.get() - 0x0A00_0100,
                    (None, None) => panic!("no source in {attrs:?}"),
                };
                let new = received.entry(*prefix).or_default().insert((attrs.local_pref, source));
                prop_assert!(new, "{} twice from {}", prefix, source);
            }
            let count = world.engine.counts(PeerId(receiver)).advertised[0];
            prop_assert_eq!(count, wanted.len());
            prop_assert_eq!(received, wanted, "peer {}", receiver);
        }
        for peer in 0..6 {
            world.down(PeerId(peer));
        }
        world.pump();
        prop_assert_eq!(world.engine.sizes(), (0, 0, 0), "nothing is leaked");
    }
}

/// What peer B receives of a path of peer A with these AS numbers, under these rules.
fn as_path_at(rules: PathRules, sent: &[u32]) -> Option<String> {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add_with(
        B,
        with_rules(B, PeerKind::External, rules),
        facts(B, PeerKind::External),
    );
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.as_path = AsPath::sequence(&sent.iter().map(|asn| Asn(*asn)).collect::<Vec<_>>());
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs, &[one("10.1.0.0/16")]),
    ));
    world.pump();
    let received = world.received[&B].routes.get(&one("10.1.0.0/16"));
    received.map(|attrs| attrs.as_path.to_string())
}

#[test]
fn as_numbers_on_their_way_out() {
    let plain = PathRules::default();
    let ours = OUR_AS.0;
    assert_eq!(as_path_at(plain, &[7, 65002]).unwrap(), format!("{ours} 7 65002"));
    let overridden = PathRules {
        as_override: true,
        ..plain
    };
    assert_eq!(
        as_path_at(overridden, &[7, 65002]).unwrap(),
        format!("{ours} 7 {ours}")
    );
    let removed = PathRules {
        private_as: PrivateAs::Remove,
        ..plain
    };
    assert_eq!(
        as_path_at(removed, &[7, 64999, 65002, 4_200_000_001]).unwrap(),
        format!("{ours} 7 65002"),
        "the peer's own stays"
    );
    let replaced = PathRules {
        private_as: PrivateAs::Replace,
        ..plain
    };
    assert_eq!(
        as_path_at(replaced, &[7, 64999, 8]).unwrap(),
        format!("{ours} 7 {ours} 8")
    );
    let transparent = PathRules {
        route_server: true,
        ..plain
    };
    assert_eq!(as_path_at(transparent, &[7, 8]).unwrap(), "7 8");
}

#[test]
fn a_route_server_leaves_next_hop_and_med() {
    let mut world = World::new(config());
    let rules = PathRules {
        route_server: true,
        ..PathRules::default()
    };
    world.add(A, PeerKind::External);
    world.add_with(
        B,
        with_rules(B, PeerKind::External, rules),
        facts(B, PeerKind::External),
    );
    world.add(C, PeerKind::External);
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.med = Some(7);
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs, &[one("10.1.0.0/16")]),
    ));
    world.pump();
    let at = |peer: PeerId| world.received[&peer].routes[&one("10.1.0.0/16")].clone();
    assert_eq!(
        (at(B).next_hop.addr(), at(B).med),
        (IpAddr::V4(address(A)), Some(7))
    );
    assert_ne!(
        (at(C).next_hop.addr(), at(C).med),
        (IpAddr::V4(address(A)), Some(7))
    );
}

#[test]
fn another_own_number() {
    let old = Asn(65500);
    for (rules, sent, taken) in [
        (
            LocalAs::default(),
            format!("65500 {} 65003", OUR_AS.0),
            "65500 65001",
        ),
        (
            LocalAs {
                no_prepend: true,
                replace_as: false,
            },
            format!("65500 {} 65003", OUR_AS.0),
            "65001",
        ),
        (
            LocalAs {
                no_prepend: true,
                replace_as: true,
            },
            "65500 65003".to_owned(),
            "65001",
        ),
    ] {
        let mut world = World::new(config());
        let routing = PeerRouting {
            local_asn: old,
            ..with_rules(
                A,
                PeerKind::External,
                PathRules {
                    local_as: Some(rules),
                    ..PathRules::default()
                },
            )
        };
        world.add_with(A, routing, facts(A, PeerKind::External));
        world.add(B, PeerKind::Internal);
        world.add(C, PeerKind::External);
        world.announce(A, &["10.1.0.0/16"]);
        world.announce(C, &["10.3.0.0/16"]);
        world.pump();
        let at = |peer: PeerId, prefix| world.received[&peer].routes[&one(prefix)].as_path.to_string();
        assert_eq!(at(A, "10.3.0.0/16"), sent, "{rules:?}");
        assert_eq!(at(B, "10.1.0.0/16"), taken, "{rules:?}");
    }
}

#[test]
fn the_first_as_must_be_the_peers() {
    let rules = PathRules {
        enforce_first_as: true,
        ..PathRules::default()
    };
    let mut world = World::new(config());
    world.add_with(
        A,
        with_rules(A, PeerKind::External, rules),
        facts(A, PeerKind::External),
    );
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.as_path = AsPath::sequence(&[Asn(7), Asn(65001)]);
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs, &[one("10.1.0.0/16")]),
    ));
    world.announce(A, &["10.2.0.0/16"]);
    world.pump();
    let routes = routes_matching(&world.engine, &RouteFilter::default());
    assert_eq!(
        routes[0].paths[0].unused.unwrap().to_string(),
        Ineligible::FirstAs.to_string()
    );
    assert!(routes[1].paths[0].best);
}

/// Of a peer that may be any AS, the engine learns the number with the session.
#[test]
fn an_open_as_number_is_that_of_the_session() {
    let rules = PathRules {
        enforce_first_as: true,
        as_override: true,
        ..PathRules::default()
    };
    let open = |peer| PeerRouting {
        remote_asn: None,
        ..with_rules(peer, PeerKind::External, rules)
    };
    let mut world = World::new(config());
    world.add_with(A, open(A), facts(A, PeerKind::External));
    world.add(B, PeerKind::External);
    world.announce(A, &["10.1.0.0/16"]);
    let mut attrs = attrs_from(B, PeerKind::External);
    attrs.as_path = AsPath::sequence(&[asn_of(B, PeerKind::External), asn_of(A, PeerKind::External)]);
    world.handle(Input::Routes(
        world.session(B),
        announce(attrs, &[one("10.2.0.0/16")]),
    ));
    world.pump();
    let accepted = |world: &World| {
        let routes = routes_matching(&world.engine, &RouteFilter::default());
        routes.iter().filter(|route| route.paths[0].best).count()
    };
    assert_eq!(accepted(&world), 2);
    let overridden = format!("{OUR_AS} {} {OUR_AS}", asn_of(B, PeerKind::External));
    let path = |world: &World| world.received[&A].routes[&one("10.2.0.0/16")].as_path.to_string();
    assert_eq!(path(&world), overridden);

    // A changed configuration does not forget it.
    world.handle(Input::Configure(
        A,
        Arc::new(PeerRouting {
            next_hop_self: true,
            ..open(A)
        }),
    ));
    world.pump();
    assert_eq!(accepted(&world), 2);
    assert_eq!(path(&world), overridden);
}

fn llgr_facts(peer: PeerId, kind: PeerKind) -> SessionFacts {
    let mut facts = facts(peer, kind);
    let mut agreed = (*facts.negotiated).clone();
    agreed.long_lived = FamilySet::ALL;
    facts.negotiated = Arc::new(agreed);
    facts
}

#[test]
fn long_lived_stale_routes_are_the_last_resort() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.add(C, PeerKind::Internal);
    world.add_with(
        D,
        routing(D, PeerKind::Internal),
        llgr_facts(D, PeerKind::Internal),
    );
    world.announce(A, &["10.1.0.0/16", "10.2.0.0/16"]);
    let mut never: PathAttrs = attrs_from(A, PeerKind::External);
    never.communities = [Community::NO_LLGR].into();
    world.handle(Input::Routes(
        world.session(A),
        announce(never, &[one("10.3.0.0/16")]),
    ));
    // B's path is longer: it loses until A's path is stale.
    let mut longer = attrs_from(B, PeerKind::External);
    longer.as_path = longer.as_path.prepend(Asn(65002), 3);
    world.handle(Input::Routes(
        world.session(B),
        announce(longer, &[one("10.2.0.0/16")]),
    ));
    world.pump();
    world.restarting(A);
    world.pump();
    assert_eq!(world.fib[&one("10.2.0.0/16")], hops(&[A]), "only restarting");
    world.handle(Input::LongLived(world.session(A), FamilySet::ALL));
    world.pump();
    assert_eq!(world.fib[&one("10.1.0.0/16")], hops(&[A]));
    assert_eq!(world.fib[&one("10.2.0.0/16")], hops(&[B]));
    assert!(!world.fib.contains_key(&one("10.3.0.0/16")), "NO_LLGR");
    // RFC 9494 §4.3: sent only to peers with the capability.
    assert!(!world.received[&C].routes.contains_key(&one("10.1.0.0/16")));
    let advertised = &world.received[&D].routes[&one("10.1.0.0/16")];
    assert!(advertised.has_community(Community::LLGR_STALE));
    world.handle(Input::Down(world.session(A)));
    world.pump();
    assert!(!world.fib.contains_key(&one("10.1.0.0/16")));
    assert!(!world.received[&D].routes.contains_key(&one("10.1.0.0/16")));
}

#[test]
fn long_lived_only_in_the_families_named() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    world.restarting(A);
    let v6 = [Family::Ipv6].into_iter().collect();
    world.handle(Input::LongLived(world.session(A), v6));
    world.pump();
    assert!(world.fib.is_empty());
}

#[test]
fn own_routes_go_to_peers_of_several_paths_once() {
    let mut world = World::new(config());
    world.add_with(
        A,
        routing(A, PeerKind::External),
        with_add_path(A, PeerKind::External),
    );
    let own = Originated {
        prefix: one("10.9.0.0/24"),
        source: Source::PodBlock,
        communities: vec![],
    };
    world.handle(Input::Originate(vec![own]));
    world.pump();
    assert_eq!(world.received[&A].paths.len(), 1);
    world.handle(Input::Originate(vec![]));
    world.pump();
    assert!(world.received[&A].paths.is_empty());
}

#[test]
fn a_drained_node_sends_graceful_shutdown_until_it_returns() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::Internal);
    world.add(C, PeerKind::External);
    world.announce(C, &["10.1.0.0/16"]);
    let own = Originated {
        prefix: one("10.9.0.0/24"),
        source: Source::PodBlock,
        communities: vec![],
    };
    world.handle(Input::Originate(vec![own]));
    for draining in [false, true, false] {
        world.handle(Input::Drain(draining));
        world.pump();
        for (peer, preference) in [(A, None), (B, Some(if draining { 0 } else { 100 }))] {
            for prefix in ["10.1.0.0/16", "10.9.0.0/24"] {
                let received = &world.received[&peer].routes[&one(prefix)];
                assert_eq!(
                    received.has_community(Community::GRACEFUL_SHUTDOWN),
                    draining,
                    "{prefix}"
                );
                assert_eq!(received.local_pref, preference, "{prefix}");
            }
        }
    }
}

#[test]
fn rules_for_equal_paths_change_while_routes_are_there() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::External);
        world.announce(peer, &["10.1.0.0/16", "fd00:1::/64"]);
    }
    world.pump();
    let (prefix, all) = (one("10.1.0.0/16"), hops(&[A, B, C]));
    let rules = |max_paths, multipath_relax| {
        Input::Multipath(EqualPaths {
            max_paths,
            multipath_relax,
            link_bandwidth: true,
        })
    };
    assert_eq!(world.fib[&prefix].len(), 1, "their neighbor ASes differ");
    for (max_paths, relax, ways) in [
        (8, true, 3),
        (2, true, 2),
        (1, true, 1),
        (8, true, 3),
        (8, false, 1),
    ] {
        world.handle(rules(max_paths, relax));
        world.pump();
        assert_eq!(world.fib[&prefix], all[..ways], "{max_paths} {relax}");
    }
    let batches = world.fib_batches;
    world.handle(rules(8, false));
    world.pump();
    assert_eq!(
        world.fib_batches, batches,
        "nothing is decided where nothing changed"
    );
}

/// One file for all nodes: clients have their reflectors' CLUSTER_ID configured.
#[test]
fn only_who_reflects_refuses_paths_that_passed_its_cluster() {
    let mut config = config();
    config.cluster_id = Some(0xC000_02FA);
    let mut world = World::new(config);
    world.add(A, PeerKind::Internal);
    let mut reflected = attrs_from(A, PeerKind::Internal);
    reflected.extra_mut().cluster_list = vec![0xC000_02FA];
    let (prefix, session) = (one("10.1.0.0/16"), world.session(A));
    world.handle(Input::Routes(session, announce(reflected, &[prefix])));
    world.pump();
    let unused = |world: &World| {
        let routes = world.engine.routes(&RouteFilter::default(), 0, usize::MAX).0;
        routes[0].paths[0].unused.map(|why| why.to_string())
    };
    assert_eq!(unused(&world), None, "a client");
    world.add(B, PeerKind::Client);
    world.pump();
    let loops = Some(Ineligible::ClusterLoop.to_string());
    assert_eq!(unused(&world), loops, "a reflector now");
    world.handle(Input::Remove(B));
    world.pump();
    assert_eq!(unused(&world), None, "its last client was removed");
    assert!(world.fib.contains_key(&prefix));
}
