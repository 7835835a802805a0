//! Link-local next hops: usable only on the interface of their session.
#![cfg(test)]

mod common;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::policy::{Actions, Matcher, NextHopAction, Policy, Rule, Verdict};
use bgp_proto::types::{PeerId, with_scope};
use bgp_proto::wire::NextHop;
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const ROUTES: [&str; 2] = ["10.244.2.0/24", "fd00:2::/64"];

fn link_local() -> Ipv6Addr {
    "fe80::bad".parse().unwrap()
}

/// Whether routes of both families with this next hop are used and sent on, after this import policy.
fn is_used(next_hop: NextHop, import: Policy) -> bool {
    let mut world = World::new(config());
    let mut routing_a = routing(A, PeerKind::External);
    routing_a.import = Arc::new(import);
    world.add_with(A, routing_a, facts(A, PeerKind::External));
    world.add(B, PeerKind::External);
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.next_hop = next_hop;
    for route in ROUTES {
        world.handle(Input::Routes(
            world.session(A),
            announce(attrs.clone(), &[prefix(route)]),
        ));
    }
    world.pump();
    let used = ROUTES.map(|route| {
        let in_fib = world.fib.contains_key(&prefix(route));
        assert_eq!(world.received[&B].routes.contains_key(&prefix(route)), in_fib);
        in_fib
    });
    assert_eq!(used[0], used[1], "both families");
    used[0]
}

#[test]
fn a_link_local_next_hop_without_an_interface_is_not_used() {
    let all = Policy::accept_all;
    let global: Ipv6Addr = "2001:db8::bad".parse().unwrap();
    assert!(is_used(NextHop::V6(global), all()));
    assert!(is_used(NextHop::V6Pair(global, link_local()), all()));
    assert!(is_used(NextHop::V6(with_scope(link_local(), 3)), all()));
    assert!(!is_used(NextHop::V6(link_local()), all()));
    assert!(!is_used(NextHop::V6Pair(link_local(), link_local()), all()));
}

#[test]
fn a_policy_names_no_interface() {
    let sets = |text: &str| {
        let addr: IpAddr = text.parse().unwrap();
        let actions = Actions {
            next_hop: Some(NextHopAction::Address(addr)),
            ..Actions::default()
        };
        let rule = Rule {
            matcher: Matcher::default(),
            actions,
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        };
        Policy {
            rules: vec![rule],
            ..Policy::accept_all()
        }
    };
    let global = NextHop::V6("2001:db8::1".parse().unwrap());
    assert!(is_used(global, sets("2001:db8::2")));
    assert!(!is_used(global, sets("fe80::bad")));
    assert!(!is_used(global, sets("fe80:0:0:3::bad")));
}
