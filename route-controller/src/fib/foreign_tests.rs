use super::*;
use crate::fib::route::WeightedNextHop;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

const V4: &str = "10.1.0.0/24";
const V6: &str = "fd00:1::/64";

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn hop(gateway: Option<&str>, ifindex: u32) -> NextHop {
    NextHop {
        gateway: gateway.map(|text| text.parse().unwrap()),
        ifindex,
    }
}

fn route(protocol: u8, hops: &[NextHop]) -> ForeignRoute {
    ForeignRoute {
        metric: 20,
        table: MAIN,
        protocol,
        hops: hops.to_vec(),
        source: None,
        object: None,
        discards: false,
    }
}

fn via(protocol: u8, gateway: &str) -> ForeignRoute {
    route(protocol, &[hop(Some(gateway), 2)])
}

fn on_link(protocol: u8, ifindex: u32) -> ForeignRoute {
    route(protocol, &[hop(None, ifindex)])
}

fn group() -> RouteSpec {
    RouteSpec {
        target: Target::Group(1),
        source: None,
    }
}

fn next_hops(gateway: &str) -> RouteSpec {
    let next_hop = WeightedNextHop {
        hop: hop(Some(gateway), 2),
        weight: 1,
    };
    RouteSpec {
        target: Target::NextHops(vec![next_hop]),
        source: None,
    }
}

/// What is there after these, and what they did together.
fn after(
    at: &str,
    own: Option<&RouteSpec>,
    arrivals: &[(Arrival, ForeignRoute)],
) -> (Vec<ForeignRoute>, Effect) {
    let mut routes = ForeignRoutes::default();
    let mut effect = Effect::default();
    for (arrival, route) in arrivals {
        let own = own.filter(|_| !effect.took_own);
        let one = routes.add(prefix(at), route.clone(), *arrival, own);
        effect.took_own |= one.took_own;
        effect.unexpected |= one.unexpected;
    }
    (routes.at(prefix(at)).cloned().collect(), effect)
}

const NONE: Effect = Effect {
    took_own: false,
    unexpected: false,
};
const OURS: Effect = Effect {
    took_own: true,
    unexpected: false,
};
use Arrival::{First, Last, Replaced};

#[test]
fn flags_say_how_a_route_came() {
    assert_eq!(Arrival::of(NLM_F_CREATE | NLM_F_EXCL), Last);
    assert_eq!(Arrival::of(NLM_F_CREATE | NLM_F_APPEND), Last);
    assert_eq!(Arrival::of(NLM_F_CREATE), First);
    assert_eq!(Arrival::of(NLM_F_REPLACE), Replaced);
    assert_eq!(Arrival::of(0), Last);
}

/// What `ip monitor route` shows of an address that moves from one interface to another.
#[test]
fn one_of_two_connected_routes_goes() {
    let mut routes = ForeignRoutes::default();
    for (at, metric) in [("192.0.2.0/24", 0), ("2001:db8::/64", 256)] {
        let connected = |ifindex| ForeignRoute {
            metric,
            ..on_link(2, ifindex)
        };
        routes.add(prefix(at), connected(2), Last, None);
        routes.add(prefix(at), connected(3), Last, None);
        assert!(routes.remove(prefix(at), &connected(2)));
        assert_eq!(routes.at(prefix(at)).collect::<Vec<_>>(), [&connected(3)]);
        assert!(
            !routes.remove(prefix(at), &connected(2)),
            "it is not known any more"
        );
        assert!(routes.remove(prefix(at), &connected(3)));
        assert_eq!(routes.lengths(prefix(at).family(), 0).count(), 0);
    }
}

#[test]
fn ipv4_replaces_the_first() {
    let (a, b, c) = (via(3, "192.0.2.2"), via(3, "192.0.2.3"), via(99, "192.0.2.4"));
    let list = [(Last, a.clone()), (Last, b.clone()), (Replaced, c.clone())];
    assert_eq!(after(V4, None, &list), (vec![c.clone(), b.clone()], NONE));
    let list = [(Last, a.clone()), (First, b.clone()), (Replaced, c.clone())];
    assert_eq!(after(V4, None, &list), (vec![c.clone(), a.clone()], NONE));
    // Nothing known was there: a notification is missing.
    assert!(after(V4, None, &[(Replaced, a.clone())]).1.unexpected);
}

#[test]
fn ipv4_replaces_the_own_route_where_it_is_the_first() {
    let own = group();
    let (a, b, c) = (via(3, "192.0.2.2"), via(99, "192.0.2.3"), via(98, "192.0.2.4"));
    assert_eq!(
        after(V4, Some(&own), &[(Replaced, a.clone())]),
        (vec![a.clone()], OURS)
    );
    let behind = [(Last, a.clone()), (Replaced, b.clone())];
    assert_eq!(after(V4, Some(&own), &behind), (vec![b.clone(), a.clone()], OURS));
    let before = [(First, a.clone()), (Replaced, b.clone())];
    assert_eq!(after(V4, Some(&own), &before), (vec![b.clone()], NONE));
    let other_metric = ForeignRoute {
        metric: 30,
        ..c.clone()
    };
    let other = [(Last, other_metric.clone()), (Replaced, c.clone())];
    assert_eq!(after(V4, Some(&own), &other), (vec![c, other_metric], OURS));
}

#[test]
fn ipv6_replaces_the_first_of_its_kind() {
    let (ecmp, plain) = (via(99, "2001:db8::6"), on_link(99, 2));
    let (new_ecmp, new_plain) = (via(98, "2001:db8::7"), on_link(97, 3));
    let both = [(Last, ecmp.clone()), (Last, plain.clone())];
    let list = [&both[..], &[(Replaced, new_plain.clone())]].concat();
    assert_eq!(
        after(V6, None, &list),
        (vec![ecmp.clone(), new_plain.clone()], NONE)
    );
    let list = [&both[..], &[(Replaced, new_ecmp.clone())]].concat();
    assert_eq!(
        after(V6, None, &list),
        (vec![new_ecmp.clone(), plain.clone()], NONE)
    );
    // Ours, with an object, is of the other kind; without one of the kind there is, it is replaced all the same.
    let own = group();
    let list = [(Last, ecmp.clone()), (Replaced, new_ecmp.clone())];
    assert_eq!(after(V6, Some(&own), &list), (vec![new_ecmp.clone()], NONE));
    let list = [(Last, ecmp.clone()), (Replaced, new_plain.clone())];
    let (there, effect) = after(V6, Some(&own), &list);
    assert_eq!((there.len(), effect), (2, OURS));
    assert_eq!(
        after(V6, Some(&own), &[(Replaced, new_ecmp.clone())]),
        (vec![new_ecmp.clone()], OURS)
    );
    let own = next_hops("2001:db8::9");
    assert_eq!(
        after(V6, Some(&own), &[(Replaced, new_ecmp.clone())]),
        (vec![new_ecmp], OURS)
    );
}

#[test]
fn ipv6_joins_routes_to_one() {
    let at = prefix(V6);
    let hops = ["2001:db8::2", "2001:db8::3", "2001:db8::4"].map(|gateway| hop(Some(gateway), 2));
    let mut routes = ForeignRoutes::default();
    routes.add(at, route(3, &hops[..1]), Last, None);
    routes.add(at, route(3, &hops[..2]), Last, None);
    routes.add(at, route(99, &hops), Last, None);
    assert_eq!(routes.at(at).collect::<Vec<_>>(), [&route(99, &hops)]);
    assert!(routes.remove(at, &route(3, &hops[1..2])));
    assert_eq!(routes.at(at).map(|one| one.hops.len()).collect::<Vec<_>>(), [2]);
    assert!(routes.remove(at, &route(3, &[hops[0], hops[2]])));
    assert_eq!(routes.at(at).count(), 0);
    // Ours is a part of it, and never one of theirs.
    routes.add(at, route(99, &hops[..2]), Last, Some(&next_hops("2001:db8::2")));
    assert_eq!(routes.at(at).collect::<Vec<_>>(), [&route(99, &hops[1..2])]);
}

/// An object that changes is reported for each of its routes as a replacement.
#[test]
fn a_route_of_an_object_stays_the_same_route() {
    let with = |protocol, gateway| ForeignRoute {
        object: Some(7),
        ..via(protocol, gateway)
    };
    let (a, b) = (with(99, "192.0.2.2"), with(99, "192.0.2.3"));
    let first = via(3, "192.0.2.9");
    let list = [(Last, first.clone()), (Last, a), (Replaced, b.clone())];
    assert_eq!(after(V4, None, &list), (vec![first, b.clone()], NONE));
    let mut routes = ForeignRoutes::default();
    routes.add(prefix(V4), b, Last, None);
    assert!(routes.remove(prefix(V4), &with(99, "192.0.2.4")));
}

#[test]
fn what_goes_without_a_notification() {
    let at = [V4, "10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/24"].map(prefix);
    let both = route(3, &[hop(Some("192.0.2.2"), 2), hop(Some("198.51.100.2"), 3)]);
    let sourced = ForeignRoute {
        source: Some("203.0.113.1".parse().unwrap()),
        ..via(3, "192.0.2.2")
    };
    let of_object = ForeignRoute {
        object: Some(7),
        ..via(3, "192.0.2.2")
    };
    let fill = || {
        let mut routes = ForeignRoutes::default();
        for (at, route) in at
            .iter()
            .zip([on_link(2, 2), both.clone(), sourced.clone(), of_object.clone()])
        {
            routes.add(*at, route, Last, None);
        }
        routes
    };
    let prefixes = |keys: Vec<RouteKey>| {
        let mut prefixes: Vec<Prefix> = keys.into_iter().map(|key| key.prefix).collect();
        prefixes.sort_unstable();
        prefixes
    };
    assert_eq!(
        prefixes(fill().drop_link(2, false, |_| false)),
        [at[0], at[2], at[3]]
    );
    assert_eq!(prefixes(fill().drop_link(2, false, |other| other == 3)), at);
    assert_eq!(prefixes(fill().drop_link(2, true, |_| false)), at);
    assert_eq!(prefixes(fill().drop_objects(2)), [at[3]]);
    assert_eq!(
        prefixes(fill().drop_source("203.0.113.1".parse().unwrap())),
        [at[2]]
    );
    assert_eq!(prefixes(fill().drop_addressless(2)), [at[0], at[2]]);
    assert_eq!(fill().drop_link(4, true, |_| true), []);
    let mut all = fill();
    all.drop_link(2, true, |_| true);
    assert!(all.by_mark.is_empty() && all.routes.is_empty(), "{all:?}");
}

#[test]
fn a_reading_corrects_all_but_what_is_newer() {
    let at = [V4, "10.2.0.0/24", "10.3.0.0/24"].map(prefix);
    let mut known = ForeignRoutes::default();
    known.add(at[0], via(3, "192.0.2.2"), Last, None);
    known.add(at[1], via(3, "192.0.2.2"), Last, None);
    let read = || {
        let mut read = ForeignRoutes::default();
        read.read(at[1], via(99, "192.0.2.2"), false);
        read.read(at[2], via(3, "192.0.2.2"), false);
        read
    };
    let (keys, left_out) = known.correct(read(), &[at[0]]);
    let prefixes: Vec<Prefix> = keys.iter().map(|key| key.prefix).collect();
    assert_eq!((prefixes, left_out), (vec![at[1], at[2]], true));
    assert_eq!(at.map(|at| known.at(at).count()), [1, 1, 1]);
    assert_eq!(known.correct(read(), &[]).0.len(), 1);
    assert_eq!(at.map(|at| known.at(at).count()), [0, 1, 1]);
    assert_eq!(known.correct(read(), &[]), (vec![], false));
}
