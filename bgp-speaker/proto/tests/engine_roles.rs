//! Roles and ONLY_TO_CUSTOMER (RFC 9234 §5): which received routes are leaks, where routes go, and with which attribute.
#![cfg(test)]

mod common;

use bgp_proto::engine::{Input, Originated, PathRules, PeerKind, PeerRouting, RouteFilter};
use bgp_proto::policy::Source;
use bgp_proto::rib::table::Ineligible;
use bgp_proto::types::{Asn, PeerId, Role};
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);
/// An AS that is no neighbor.
const FAR: Asn = Asn(65099);

fn with_role(peer: PeerId, role: Option<Role>) -> PeerRouting {
    PeerRouting {
        rules: PathRules {
            role,
            ..PathRules::default()
        },
        ..routing(peer, PeerKind::External)
    }
}

/// A has sent a route with this attribute; B is external and C internal. Why it is not used, and what both have.
fn pass(
    from: Role,
    mark: Option<Asn>,
    to: Option<Role>,
) -> (Option<String>, Option<Option<Asn>>, Option<Option<Asn>>) {
    let mut world = World::new(config());
    world.add_with(A, with_role(A, Some(from)), facts(A, PeerKind::External));
    world.add_with(B, with_role(B, to), facts(B, PeerKind::External));
    world.add(C, PeerKind::Internal);
    let mut attrs = attrs_from(A, PeerKind::External);
    attrs.extra_mut().only_to_customer = mark;
    attrs.normalize();
    world.handle(Input::Routes(
        world.session(A),
        announce(attrs, &[prefix("10.1.0.0/16")]),
    ));
    world.pump();
    let routes = routes_matching(&world.engine, &RouteFilter::default());
    let unused = routes[0].paths[0].unused.as_ref().map(ToString::to_string);
    let has = |peer| {
        let route = world.received[&peer].routes.get(&prefix("10.1.0.0/16"));
        route.map(bgp_proto::wire::PathAttrs::only_to_customer)
    };
    (unused, has(B), has(C))
}

#[test]
fn a_route_for_customers_only_is_a_leak_where_it_must_not_come_from() {
    let theirs = asn_of(A, PeerKind::External);
    for (role, mark, leaks) in [
        (Role::Provider, None, false),
        (Role::Provider, Some(FAR), true),
        (Role::Provider, Some(theirs), true),
        (Role::RouteServer, Some(FAR), true),
        (Role::RouteServer, None, false),
        (Role::Peer, Some(theirs), false),
        (Role::Peer, Some(FAR), true),
        (Role::Customer, Some(FAR), false),
        (Role::RouteServerClient, Some(FAR), false),
    ] {
        let (unused, ..) = pass(role, mark, None);
        let expected = leaks.then(|| Ineligible::RouteLeak.to_string());
        assert_eq!(unused, expected, "{role} {mark:?}");
    }
}

#[test]
fn routes_of_providers_peers_and_route_servers_are_marked_with_the_neighbor() {
    let theirs = asn_of(A, PeerKind::External);
    for (role, mark, inside) in [
        (Role::Customer, None, Some(theirs)),
        (Role::Customer, Some(FAR), Some(FAR)),
        (Role::Peer, None, Some(theirs)),
        (Role::RouteServerClient, None, Some(theirs)),
        (Role::Provider, None, None),
        (Role::RouteServer, None, None),
    ] {
        // Inside our AS, and to a peer without a role, the attribute goes on as it is.
        assert_eq!(
            pass(role, mark, None),
            (None, Some(inside), Some(inside)),
            "{role} {mark:?}"
        );
    }
}

#[test]
fn marked_routes_go_to_customers_only() {
    let theirs = asn_of(A, PeerKind::External);
    for (from, to, sent) in [
        (Role::Customer, Role::Provider, Some(Some(theirs))),
        (Role::Customer, Role::RouteServer, Some(Some(theirs))),
        (Role::Customer, Role::Customer, None),
        (Role::Customer, Role::Peer, None),
        (Role::Customer, Role::RouteServerClient, None),
        (Role::Peer, Role::Customer, None),
        // From a customer everything goes everywhere, marked towards those that must not send it on to their providers.
        (Role::Provider, Role::Customer, Some(None)),
        (Role::Provider, Role::RouteServerClient, Some(None)),
        (Role::Provider, Role::Peer, Some(Some(OUR_AS))),
        (Role::Provider, Role::Provider, Some(Some(OUR_AS))),
        (Role::Provider, Role::RouteServer, Some(Some(OUR_AS))),
    ] {
        let (unused, has, _) = pass(from, None, Some(to));
        assert_eq!((unused, has), (None, sent), "{from} {to}");
    }
}

#[test]
fn own_routes_go_everywhere() {
    for role in Role::ALL {
        let mut world = World::new(config());
        world.add_with(B, with_role(B, Some(role)), facts(B, PeerKind::External));
        world.handle(Input::Originate(vec![Originated {
            prefix: prefix("10.9.0.0/16"),
            source: Source::PodBlock,
            communities: vec![],
        }]));
        world.pump();
        let mark = world.received[&B].routes[&prefix("10.9.0.0/16")].only_to_customer();
        assert_eq!(mark, role.marks_sent().then_some(OUR_AS), "{role}");
    }
}
