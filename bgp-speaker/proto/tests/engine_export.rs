//! Attributes of exported routes: next hops, preferences and the effects of policies.
#![cfg(test)]

mod common;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bgp_proto::engine::{Input, Originated, PathRules, PeerKind, PeerRouting, RouteFilter, SessionFacts};
use bgp_proto::policy::{
    Actions, CommunityMatch, Edit, FromMatch, KernelActions, Matcher, NextHopAction, NumberAction, Policy,
    Prepend, Rule, Source, Verdict,
};
use bgp_proto::types::{Asn, Community, Family, FamilySet, PeerId, Prefix};
use bgp_proto::wire::{NextHop, PathAttrs, RefreshKind};
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);
const V4: &str = "10.244.1.0/24";
const V6: &str = "fd00:1::/64";

fn own(text: &str) -> Originated {
    Originated {
        prefix: prefix(text),
        source: Source::PodBlock,
        communities: vec![],
    }
}

fn next_hop(world: &World, peer: PeerId, text: &str) -> String {
    world.received[&peer].routes[&prefix(text)].next_hop.to_string()
}

/// A peer at this address that accepts IPv6 next hops for IPv4.
fn extended(peer: PeerId, addr: &str) -> SessionFacts {
    let mut facts = facts(peer, PeerKind::External);
    let negotiated = Arc::make_mut(&mut facts.negotiated);
    negotiated.extended_next_hop = [Family::Ipv4].into_iter().collect();
    facts.remote_addr = addr.parse().unwrap();
    facts
}

/// RFC 4760 §3: each family has its own next hop, even if everything else is equal and sent at once.
#[test]
fn both_families_of_one_flush_have_their_own_next_hops() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add_with(B, routing(B, PeerKind::External), extended(B, "192.0.2.12"));
    world.add(C, PeerKind::External);
    world.pump();
    // RFC 8950: prefixes of both families with the same attributes and an IPv6 next hop.
    let mut attrs = attrs_from(C, PeerKind::External);
    attrs.next_hop = NextHop::V6("2001:db8::c".parse().unwrap());
    let batch = announce(attrs, &[prefix("10.1.0.0/16"), prefix("2001:db8:1::/48")]);
    world.handle(Input::Routes(world.session(C), batch));
    world.handle(Input::Originate(vec![own(V4), own(V6)]));
    world.pump();
    for peer in [A, B] {
        for (route, next_hop_of_route) in [
            (V4, "192.0.2.1"),
            ("10.1.0.0/16", "192.0.2.1"),
            (V6, "2001:db8::1"),
            ("2001:db8:1::/48", "2001:db8::1"),
        ] {
            assert_eq!(
                next_hop(&world, peer, route),
                next_hop_of_route,
                "{route} at {}",
                peer.0
            );
        }
    }
}

/// RFC 8950 §4: on an IPv6 session there may be no IPv4 address on the link.
#[test]
fn ipv6_sessions_get_ipv6_next_hops_for_ipv4() {
    let unnumbered = SessionFacts {
        link_local: Some("fe80::1".parse().unwrap()),
        ..extended(A, "fe80::a")
    };
    let without_v6 = SessionFacts {
        local_v6: None,
        ..extended(A, "2001:db8::a")
    };
    let not_agreed = SessionFacts {
        remote_addr: "2001:db8::a".parse().unwrap(),
        ..facts(A, PeerKind::External)
    };
    for (facts, expected) in [
        (extended(A, "2001:db8::a"), "2001:db8::1"),
        (unnumbered, "2001:db8::1"),
        (extended(A, "192.0.2.11"), "192.0.2.1"),
        (without_v6, "192.0.2.1"),
        (not_agreed, "192.0.2.1"),
    ] {
        let mut world = World::new(config());
        let decoded_ops = format!("{facts:?}");
        world.add_with(A, routing(A, PeerKind::External), facts);
        world.handle(Input::Originate(vec![own(V4)]));
        world.pump();
        assert_eq!(next_hop(&world, A, V4), expected, "{decoded_ops}");
    }
}

/// RFC 8950 §4: IPv4 routes with an IPv6 next hop are sent only to peers with the capability, whoever set the
/// next hop.
#[test]
fn peers_without_rfc_8950_get_no_ipv6_next_hops_for_ipv4() {
    let (four, six) = ("10.1.0.0/16", "2001:db8:1::/48");
    let far: IpAddr = "2001:db8:f::1".parse().unwrap();
    let set = Arc::new(Policy {
        rules: vec![Rule {
            matcher: Matcher::default(),
            actions: Actions {
                next_hop: Some(NextHopAction::Address(far)),
                ..Actions::default()
            },
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        }],
        ..Policy::accept_all()
    });
    for (export, received) in [(Arc::new(Policy::accept_all()), far), (set, address(A).into())] {
        let mut world = World::new(config());
        world.add(A, PeerKind::Client);
        world.add_with(
            B,
            PeerRouting {
                export: Arc::clone(&export),
                ..routing(B, PeerKind::Client)
            },
            facts(B, PeerKind::Client),
        );
        let takes = PeerRouting {
            export,
            ..routing(C, PeerKind::Client)
        };
        world.add_with(C, takes, extended(C, "192.0.2.13"));
        announce_over(&mut world, A, received, &[four]);
        announce_over(&mut world, A, far, &[six]);
        world.pump();
        assert_eq!(known(&world, B), [six]);
        assert_eq!(known(&world, C), [four, six]);
        assert_eq!(next_hop(&world, C, four), far.to_string());
        announce_over(&mut world, A, address(A).into(), &[four]);
        world.pump();
        assert_eq!(known(&world, C), [four, six]);
    }
}

/// RFC 2545 §3: the link-local address is sent only to peers on the same link.
#[test]
fn link_local_next_hops_stay_on_their_link() {
    let global: Ipv6Addr = "2001:db8:a::a".parse().unwrap();
    let pair = NextHop::V6Pair(global, "fe80::a".parse().unwrap());
    let unchanged = PathRules {
        next_hop_unchanged: true,
        ..PathRules::default()
    };
    let at = |kind: PeerKind, rules: PathRules, subnets: &[&str]| {
        let mut world = World::new(config());
        world.add(A, PeerKind::External);
        let routing_b = PeerRouting {
            rules,
            ..routing(B, kind)
        };
        let facts_b = SessionFacts {
            shared_subnets: subnets.iter().map(|text| prefix(text)).collect(),
            ..facts(B, kind)
        };
        world.add_with(B, routing_b, facts_b);
        let mut attrs = attrs_from(A, PeerKind::External);
        attrs.next_hop = pair;
        world.handle(Input::Routes(world.session(A), announce(attrs, &[prefix(V6)])));
        world.pump();
        world.received[&B].routes[&prefix(V6)].next_hop
    };
    let plain = PathRules::default();
    for (kind, rules) in [(PeerKind::Internal, plain), (PeerKind::External, unchanged)] {
        assert_eq!(at(kind, rules, &[]), NextHop::V6(global));
        assert_eq!(at(kind, rules, &["2001:db8:b::/64"]), NextHop::V6(global));
        assert_eq!(at(kind, rules, &["2001:db8:a::/64"]), pair);
    }
    assert_eq!(at(PeerKind::External, plain, &["2001:db8:a::/64"]), pair);
    assert_eq!(
        at(PeerKind::External, plain, &[]).to_string(),
        "2001:db8::1",
        "ourselves"
    );
}

fn announce_over(world: &mut World, from: PeerId, next_hop: IpAddr, texts: &[&str]) {
    let mut attrs = attrs_from(from, world.kinds[&from]);
    attrs.next_hop = next_hop.into();
    let prefixes: Vec<Prefix> = texts.iter().map(|text| prefix(text)).collect();
    world.handle(Input::Routes(world.session(from), announce(attrs, &prefixes)));
}

fn known(world: &World, peer: PeerId) -> Vec<String> {
    let known: Vec<String> = world.received[&peer]
        .routes
        .keys()
        .map(Prefix::to_string)
        .collect();
    let counted: usize = world.engine.counts(peer).advertised.iter().sum();
    assert_eq!(counted, known.len());
    let filter = RouteFilter {
        advertised_to: Some(peer),
        ..RouteFilter::default()
    };
    let routes_matching = routes_matching(&world.engine, &filter);
    let routes_matching: Vec<String> = routes_matching
        .iter()
        .map(|route| route.prefix.to_string())
        .collect();
    assert_eq!(routes_matching, known);
    known
}

/// RFC 4271 §5.1.3: a route is not sent to the peer that is its next hop, but to all others.
#[test]
fn a_peer_is_not_sent_a_route_that_leads_to_itself() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        world.add(peer, PeerKind::Client);
    }
    let (one, two) = ("10.1.0.0/16", "10.2.0.0/16");
    let (at_a, at_b, at_c) = (address(A).into(), address(B).into(), address(C).into());
    announce_over(&mut world, A, at_a, &[one, two]);
    world.pump();
    assert_eq!(
        (known(&world, B), known(&world, C)),
        (vec![one.into(), two.into()], vec![one.into(), two.into()])
    );
    // The next hop becomes B, then C, then A again.
    announce_over(&mut world, A, at_b, &[one]);
    world.pump();
    assert_eq!(known(&world, B), [two]);
    assert_eq!(next_hop(&world, C, one), address(B).to_string());
    announce_over(&mut world, A, at_c, &[one]);
    world.pump();
    assert_eq!(
        (known(&world, B), known(&world, C)),
        (vec![one.into(), two.into()], vec![two.into()])
    );
    announce_over(&mut world, A, at_a, &[one]);
    world.pump();
    assert_eq!(known(&world, C), [one, two]);
    // A new source at the same time.
    announce_over(&mut world, A, at_b, &[one]);
    world.pump();
    world.withdraw(A, &[one]);
    announce_over(&mut world, C, at_a, &[one]);
    world.pump();
    assert_eq!(
        (known(&world, A), known(&world, B), known(&world, C)),
        (vec![], vec![one.into(), two.into()], vec![two.into()])
    );
    // Sent again, and to a peer that comes up later.
    world.refresh(A, Family::Ipv4, RefreshKind::Request);
    world.down(B);
    world.pump();
    announce_over(&mut world, C, at_b, &[one]);
    world.pump();
    world.add(B, PeerKind::Client);
    world.pump();
    assert_eq!(
        (known(&world, A), known(&world, B)),
        (vec![one.into()], vec![two.into()])
    );
    world.withdraw(C, &[one]);
    world.withdraw(A, &[two]);
    world.pump();
    for peer in [A, B, C] {
        assert_eq!(known(&world, peer), [""; 0]);
        world.down(peer);
    }
    world.pump();
    assert_eq!(world.engine.sizes(), (0, 0, 0));
}

#[test]
fn a_peer_that_comes_up_at_the_address_of_a_next_hop_is_not_sent_it() {
    let mut world = World::new(config());
    world.add(A, PeerKind::Client);
    announce_over(&mut world, A, address(B).into(), &["10.1.0.0/16"]);
    world.add(C, PeerKind::Client);
    world.pump();
    world.add(B, PeerKind::Client);
    world.pump();
    assert_eq!(
        (known(&world, B), known(&world, C)),
        (vec![], vec!["10.1.0.0/16".into()])
    );
    // The peer returns with another address.
    world.down(B);
    let elsewhere = SessionFacts {
        remote_addr: "192.0.2.99".parse().unwrap(),
        ..facts(B, PeerKind::Client)
    };
    world.add_with(B, routing(B, PeerKind::Client), elsewhere);
    world.pump();
    assert_eq!(known(&world, B), ["10.1.0.0/16"]);
}

#[test]
fn an_address_belongs_to_the_peer_that_has_it_now() {
    let one = "10.1.0.0/16";
    let at_b = || SessionFacts {
        remote_addr: address(B).into(),
        ..facts(C, PeerKind::Client)
    };
    let mut world = World::new(config());
    world.add(A, PeerKind::Client);
    announce_over(&mut world, A, address(B).into(), &[one]);
    world.add(B, PeerKind::Client);
    world.pump();
    assert_eq!(known(&world, B), [""; 0]);
    // Another peer has the address, then B again.
    world.down(B);
    world.add_with(C, routing(C, PeerKind::Client), at_b());
    world.pump();
    assert_eq!(known(&world, C), [""; 0]);
    world.down(C);
    world.handle(Input::Remove(C));
    world.add(B, PeerKind::Client);
    world.pump();
    assert_eq!(known(&world, B), [""; 0]);
    // B is removed, and another peer at another address gets its id.
    world.down(B);
    world.handle(Input::Remove(B));
    world.pump();
    world.epochs.remove(&B);
    let elsewhere = SessionFacts {
        remote_addr: "192.0.2.99".parse().unwrap(),
        ..facts(B, PeerKind::Client)
    };
    world.add_with(B, routing(B, PeerKind::Client), elsewhere);
    world.pump();
    assert_eq!(known(&world, B), [one]);
}

/// The next hop that is sent decides: our own, one set by policy, or one of either family.
#[test]
fn the_next_hop_that_is_sent_decides_which_peer_is_skipped() {
    let (four, six) = ("10.1.0.0/16", "2001:db8:1::/48");
    let at_b6: IpAddr = "2001:db8:f::b".parse().unwrap();
    let policy = |next_hop| {
        let rule = Rule {
            matcher: Matcher::default(),
            actions: Actions {
                next_hop: Some(next_hop),
                ..Actions::default()
            },
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        };
        Arc::new(Policy {
            rules: vec![rule],
            ..Policy::accept_all()
        })
    };
    let at = |kind, change: &dyn Fn(&mut PeerRouting), remote_addr: IpAddr, subnets: &[&str]| {
        let mut world = World::new(config());
        world.add(A, PeerKind::Client);
        announce_over(&mut world, A, address(B).into(), &[four]);
        announce_over(&mut world, A, at_b6, &[six]);
        for (peer, remote_addr) in [(C, address(C).into()), (B, remote_addr)] {
            let mut routing = routing(peer, kind);
            change(&mut routing);
            let facts = SessionFacts {
                remote_addr,
                shared_subnets: subnets.iter().map(|text| prefix(text)).collect(),
                ..facts(peer, kind)
            };
            world.add_with(peer, routing, facts);
            world.pump();
        }
        assert_eq!(known(&world, C), [four, six], "C is sent all");
        known(&world, B)
    };
    let plain = |_: &mut PeerRouting| {};
    let b4: IpAddr = address(B).into();
    assert_eq!(at(PeerKind::Client, &plain, b4, &[]), [six]);
    assert_eq!(at(PeerKind::Client, &plain, at_b6, &[]), [four]);
    let next_hop_self = |routing: &mut PeerRouting| routing.next_hop_self = true;
    assert_eq!(at(PeerKind::Client, &next_hop_self, b4, &[]), [four, six]);
    // To another AS: our own address, or a third party's if all share its subnet.
    let (ours, shared) = (["198.51.100.0/24"], ["192.0.2.0/24", "2001:db8:f::/64"]);
    assert_eq!(at(PeerKind::External, &plain, b4, &ours), [four, six]);
    assert_eq!(at(PeerKind::External, &plain, b4, &shared), [six]);
    assert_eq!(at(PeerKind::External, &plain, at_b6, &shared), [four]);
    let unchanged = |routing: &mut PeerRouting| routing.export = policy(NextHopAction::Unchanged);
    assert_eq!(at(PeerKind::External, &unchanged, at_b6, &[]), [four]);
    let own = |routing: &mut PeerRouting| routing.export = policy(NextHopAction::OwnAddress);
    assert_eq!(at(PeerKind::Client, &own, b4, &[]), [four, six]);
    // An address that no peer has announced, found to be B's after the routes were evaluated for C.
    let named: IpAddr = "192.0.2.99".parse().unwrap();
    let set = |routing: &mut PeerRouting| routing.export = policy(NextHopAction::Address(named));
    assert_eq!(at(PeerKind::Client, &set, named, &[]), [""; 0]);
    assert_eq!(at(PeerKind::Client, &set, b4, &[]), [four, six]);
}

fn shutting_down(from: PeerId, kind: PeerKind) -> PathAttrs {
    let mut attrs = attrs_from(from, kind);
    attrs.communities = [Community::GRACEFUL_SHUTDOWN].into();
    attrs
}

/// RFC 8326 §4: LOCAL_PREF 0 in the whole AS, and in the views.
#[test]
fn a_route_that_is_about_to_go_has_preference_0_inside_the_as() {
    let mut world = World::new(config());
    for (peer, kind) in [
        (A, PeerKind::External),
        (B, PeerKind::Internal),
        (C, PeerKind::Client),
    ] {
        world.add(peer, kind);
    }
    let batch = announce(shutting_down(A, PeerKind::External), &[prefix("10.1.0.0/16")]);
    world.handle(Input::Routes(world.session(A), batch));
    // Inside the AS, LOCAL_PREF is not changed (RFC 4456 §10: not by a reflector).
    let batch = announce(shutting_down(C, PeerKind::Client), &[prefix("10.3.0.0/16")]);
    world.handle(Input::Routes(world.session(C), batch));
    world.handle(Input::Originate(vec![Originated {
        communities: vec![Community::GRACEFUL_SHUTDOWN],
        ..own(V4)
    }]));
    world.pump();
    let preference = |peer: PeerId, text: &str| world.received[&peer].routes[&prefix(text)].local_pref;
    for peer in [B, C] {
        assert_eq!(preference(peer, "10.1.0.0/16"), Some(0));
        assert_eq!(preference(peer, V4), Some(0));
    }
    assert_eq!(preference(B, "10.3.0.0/16"), Some(100));
    assert_eq!(preference(A, V4), None);
    let preference_shown = |world: &World| {
        let filter = RouteFilter {
            received_from: Some(A),
            ..RouteFilter::default()
        };
        routes_matching(&world.engine, &filter)[0].paths[0]
            .attrs
            .local_pref
    };
    assert_eq!(preference_shown(&world), Some(0));
    // A policy that removes the community removes its effect; a policy that adds it adds the effect.
    let policy = |actions| {
        let rule = Rule {
            matcher: Matcher::default(),
            actions,
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        };
        let import = Arc::new(Policy {
            rules: vec![rule],
            ..Policy::accept_all()
        });
        PeerRouting {
            import,
            ..routing(A, PeerKind::External)
        }
    };
    let cleared = policy(Actions {
        communities: Edit {
            clear: true,
            ..Edit::default()
        },
        ..Actions::default()
    });
    world.handle(Input::Configure(A, cleared.into()));
    world.pump();
    assert_eq!(
        world.received[&B].routes[&prefix("10.1.0.0/16")].local_pref,
        Some(100)
    );
    let added = policy(Actions {
        local_pref: Some(NumberAction::Set(300)),
        communities: Edit::add([Community::GRACEFUL_SHUTDOWN]),
        ..Actions::default()
    });
    world.handle(Input::Configure(A, added.into()));
    world.pump();
    assert_eq!(
        world.received[&B].routes[&prefix("10.1.0.0/16")].local_pref,
        Some(0)
    );
}

/// More rule sets than fit into 16 bits.
#[test]
fn each_of_many_sets_of_export_rules_gives_its_own_attributes() {
    const RULES: u32 = 17;
    const ROUTES: u32 = 66_000;
    let rule = |bit: u32| Rule {
        matcher: Matcher {
            communities: CommunityMatch::any_of([Community(bit)]),
            ..Matcher::default()
        },
        actions: Actions {
            communities: Edit::add([Community(1000 + bit)]),
            ..Actions::default()
        },
        verdict: None,
        ..Rule::default()
    };
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    let export = Arc::new(Policy {
        rules: (0..RULES).map(rule).collect(),
        ..Policy::accept_all()
    });
    let routing_b = PeerRouting {
        export,
        ..routing(B, PeerKind::External)
    };
    world.add_with(B, routing_b, facts(B, PeerKind::External));
    world.pump();
    let bits = |set: u32, from: u32| {
        (0..RULES)
            .filter(move |bit| set >> bit & 1 == 1)
            .map(move |bit| Community(from + bit))
    };
    for set in 0..ROUTES {
        let mut attrs = attrs_from(A, PeerKind::External);
        attrs.communities = bits(set, 0).collect();
        let prefix = Prefix::v4(0x0B00_0000 + (set << 8), 24);
        world.handle(Input::Routes(world.session(A), announce(attrs, &[prefix])));
    }
    world.pump();
    let routes = &world.received[&B].routes;
    assert_eq!(routes.len(), ROUTES as usize);
    for set in 0..ROUTES {
        let received = &routes[&Prefix::v4(0x0B00_0000 + (set << 8), 24)].communities;
        let expected: Vec<Community> = bits(set, 0).chain(bits(set, 1000)).collect();
        assert_eq!(received[..], expected[..], "{set}");
    }
}

/// Both at once, on paths that are announced, withdrawn and sent again (RFC 7911).
#[test]
fn with_add_path_each_path_skips_its_next_hop() {
    let mut world = World::new(config());
    for peer in [A, B, C] {
        let mut facts = facts(peer, PeerKind::Client);
        Arc::make_mut(&mut facts.negotiated).add_path_send = FamilySet::ALL;
        world.add_with(peer, routing(peer, PeerKind::Client), facts);
    }
    let one = "10.1.0.0/16";
    announce_over(&mut world, A, address(C).into(), &[one]);
    announce_over(&mut world, B, address(B).into(), &[one]);
    world.pump();
    let paths = |world: &World, peer: PeerId| {
        let known = world.received[&peer].paths.values();
        let mut hops: Vec<IpAddr> = known.map(|attrs| attrs.next_hop.addr()).collect();
        hops.sort_unstable();
        let counted = world.engine.counts(peer).advertised[0];
        assert_eq!(counted, usize::from(!hops.is_empty()));
        hops
    };
    let at = |peer: PeerId| IpAddr::V4(address(peer));
    assert_eq!(paths(&world, A), [at(B)]);
    assert_eq!(paths(&world, B), [at(C)]);
    assert_eq!(paths(&world, C), [at(B)]);
    announce_over(&mut world, A, address(B).into(), &[one]);
    world.pump();
    assert_eq!(paths(&world, A), [at(B)]);
    assert_eq!(paths(&world, B), [] as [IpAddr; 0]);
    assert_eq!(paths(&world, C), [at(B), at(B)]);
    announce_over(&mut world, B, address(A).into(), &[one]);
    world.pump();
    assert_eq!(paths(&world, A), [] as [IpAddr; 0]);
    assert_eq!(paths(&world, C), [at(A), at(B)]);
    world.withdraw(A, &[one]);
    world.withdraw(B, &[one]);
    world.pump();
    for peer in [A, B, C] {
        assert!(paths(&world, peer).is_empty());
    }
}

fn rule(actions: Actions) -> Arc<Policy> {
    Arc::new(Policy {
        rules: vec![Rule {
            actions,
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        }],
        ..Policy::accept_all()
    })
}

/// RFC 4271 §6.3: a receiver may refuse a path that does not begin with its neighbor's number, which is ours.
#[test]
fn our_number_stays_in_front_of_what_a_policy_prepends() {
    let path = |kind, prepend, times| {
        let mut world = World::new(config());
        world.add(A, PeerKind::External);
        let export = rule(Actions {
            prepend: Some((prepend, times)),
            ..Actions::default()
        });
        let routing_b = PeerRouting {
            export,
            ..routing(B, kind)
        };
        world.add_with(B, routing_b, facts(B, kind));
        let attrs = attrs_from(A, PeerKind::External);
        world.handle(Input::Routes(
            world.session(A),
            announce(attrs, &[prefix("10.1.0.0/16")]),
        ));
        world.pump();
        world.received[&B].routes[&prefix("10.1.0.0/16")]
            .as_path
            .to_string()
    };
    let (own, theirs) = (
        routing(B, PeerKind::External).local_asn,
        asn_of(A, PeerKind::External),
    );
    let other = Prepend::Asn(Asn(64999));
    let external = |prepend, times| path(PeerKind::External, prepend, times);
    assert_eq!(external(other, 2), format!("{own} 64999 64999 {theirs}"));
    assert_eq!(external(Prepend::Neighbor, 1), format!("{own} {theirs} {theirs}"));
    assert_eq!(external(Prepend::Own, 1), format!("{own} {own} {theirs}"));
    assert_eq!(path(PeerKind::Internal, other, 1), format!("64999 {theirs}"));
}

/// RFC 7999 §3.2: a blackhole from another AS stays in ours, unless the import policy says otherwise.
#[test]
fn a_blackhole_route_stays_in_the_as() {
    let at = |import: Arc<Policy>, communities: &[Community]| {
        let mut world = World::new(config());
        let routing_a = PeerRouting {
            import,
            ..routing(A, PeerKind::External)
        };
        world.add_with(A, routing_a, facts(A, PeerKind::External));
        world.add(B, PeerKind::External);
        world.add(C, PeerKind::Internal);
        let mut attrs = attrs_from(A, PeerKind::External);
        attrs.communities = communities.iter().copied().collect();
        world.handle(Input::Routes(
            world.session(A),
            announce(attrs, &[prefix("10.1.2.3/32")]),
        ));
        world.pump();
        let sent = |peer| {
            let route = world.received[&peer].routes.get(&prefix("10.1.2.3/32"))?;
            Some(route.communities.to_vec())
        };
        (sent(B), sent(C))
    };
    let both = vec![Community::BLACKHOLE, Community::NO_EXPORT];
    let accept = || Arc::new(Policy::accept_all());
    assert_eq!(at(accept(), &[Community::BLACKHOLE]), (None, Some(both.clone())));
    assert_eq!(at(accept(), &both), (None, Some(both.clone())));
    let goes_on = rule(Actions {
        communities: Edit {
            remove: Some([Community::NO_EXPORT].into_iter().collect()),
            ..Edit::default()
        },
        ..Actions::default()
    });
    let alone = Some(vec![Community::BLACKHOLE]);
    assert_eq!(at(goes_on, &[Community::BLACKHOLE]), (alone.clone(), alone));
}

/// A route that is dropped here needs no next hop, and is what it is to other peers.
#[test]
fn a_blackhole_of_a_policy_is_used_without_a_next_hop() {
    let mut world = World::new(config());
    let import = rule(Actions {
        kernel: KernelActions {
            blackhole: Some(true),
            ..KernelActions::default()
        },
        ..Actions::default()
    });
    let routing_a = PeerRouting {
        import,
        ..routing(A, PeerKind::External)
    };
    world.add_with(A, routing_a, facts(A, PeerKind::External));
    world.add(B, PeerKind::Internal);
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.next_hop = NextHop::V4([203, 0, 113, 9].into());
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs, &[prefix("10.1.2.3/32")]),
    ));
    world.set_reach([203, 0, 113, 9].into(), false);
    world.pump();
    assert!(world.blackholes.contains(&prefix("10.1.2.3/32")) && world.fib.is_empty());
    assert_eq!(known(&world, B), ["10.1.2.3/32"]);
}

/// Which peer a route came from is seen by the export policy, and followed when it changes.
#[test]
fn export_policies_see_where_a_route_came_from() {
    let mut world = World::new(config());
    let named = |name: &str| PeerRouting {
        name: name.to_owned(),
        ..routing(A, PeerKind::External)
    };
    world.add_with(A, named("customer"), facts(A, PeerKind::External));
    world.add(C, PeerKind::External);
    let from = |peers: &[&str]| Rule {
        matcher: Matcher {
            from: FromMatch {
                peers: peers.iter().map(|name| (*name).to_owned()).collect(),
                external: Some(true),
                asns: None,
            },
            ..Matcher::default()
        },
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    let export = Arc::new(Policy {
        rules: vec![from(&["customer"])],
        ..Policy::reject_all()
    });
    let routing_b = PeerRouting {
        export,
        ..routing(B, PeerKind::External)
    };
    world.add_with(B, routing_b, facts(B, PeerKind::External));
    world.handle(Input::Originate(vec![own(V4)]));
    for (peer, text) in [(A, "10.1.0.0/16"), (C, "10.3.0.0/16")] {
        let attrs = attrs_from(peer, PeerKind::External);
        world.handle(Input::Routes(
            world.session(peer),
            announce(attrs, &[prefix(text)]),
        ));
    }
    world.pump();
    assert_eq!(known(&world, B), ["10.1.0.0/16"]);
    world.handle(Input::Configure(A, named("other").into()));
    world.pump();
    assert_eq!(known(&world, B), [""; 0]);
    world.handle(Input::Configure(A, named("customer").into()));
    world.pump();
    assert_eq!(known(&world, B), ["10.1.0.0/16"]);
}
