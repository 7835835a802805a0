//! Stale routes: enhanced route refresh (RFC 7313), graceful restart (RFC 4724) and long-lived graceful
//! restart (RFC 9494).
#![cfg(test)]

mod common;

use std::net::IpAddr;

use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::types::{Family, FamilySet, PeerId, Prefix};
use bgp_proto::wire::RefreshKind;
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const V4: Family = Family::Ipv4;

fn world(routes: &[&str]) -> World {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, routes);
    world.pump();
    world
}

/// A returns with its forwarding state retained.
fn back(world: &mut World) {
    let facts = graceful(A, PeerKind::External, FamilySet::ALL);
    world.add_with(A, routing(A, PeerKind::External), facts);
}

/// Kernel, B and the counts agree.
fn routes(world: &World) -> Vec<String> {
    let kernel: Vec<String> = world.fib.keys().map(Prefix::to_string).collect();
    let sent: Vec<String> = world.received[&B].routes.keys().map(Prefix::to_string).collect();
    assert_eq!(kernel, sent);
    kernel
}

/// The same, with all routes from A.
fn routes_of_a(world: &World) -> Vec<String> {
    let routes = routes(world);
    assert_eq!(world.engine.counts(A).received, [routes.len(), 0]);
    routes
}

fn begin(world: &mut World) {
    world.refresh(A, V4, RefreshKind::Begin);
}

fn end(world: &mut World) {
    world.refresh(A, V4, RefreshKind::End);
}

/// How the time of stale routes starts and ends.
type Way = (fn(&mut World), fn(&mut World));
const WAYS: [Way; 3] = [
    (begin, end),
    (restart_and_return, |world| world.end_of_rib(A, V4)),
    (restart_and_return, |world| {
        world.handle(Input::StaleExpired(world.session(A)));
    }),
];

fn restart_and_return(world: &mut World) {
    world.restarting(A);
    back(world);
}

#[test]
fn a_route_that_goes_and_comes_again_in_between_stays() {
    for pumps in [false, true] {
        for (begins, ends) in WAYS {
            let mut world = world(&["10.1.0.0/16", "10.2.0.0/16"]);
            begins(&mut world);
            for _ in 0..2 {
                world.announce(A, &["10.1.0.0/16"]);
                world.withdraw(A, &["10.1.0.0/16"]);
                if pumps {
                    world.pump();
                }
            }
            world.announce(A, &["10.1.0.0/16"]);
            ends(&mut world);
            world.pump();
            assert_eq!(routes_of_a(&world), ["10.1.0.0/16"]);
        }
    }
}

/// The table gives the slot of a removed prefix to the next new one.
#[test]
fn an_unrelated_prefix_in_the_place_of_a_stale_one_stays() {
    for (begins, ends) in WAYS {
        let mut world = world(&["10.1.0.0/16", "10.2.0.0/16"]);
        begins(&mut world);
        world.withdraw(A, &["10.1.0.0/16"]);
        world.pump();
        world.announce(A, &["10.3.0.0/16"]);
        world.announce(B, &["10.4.0.0/16"]);
        world.pump();
        ends(&mut world);
        world.pump();
        let kernel: Vec<String> = world.fib.keys().map(Prefix::to_string).collect();
        assert_eq!(kernel, ["10.3.0.0/16", "10.4.0.0/16"]);
        assert_eq!(world.engine.counts(A).received, [1, 0]);
    }
}

/// RFC 7313 §4: a second BoRR restarts the refresh.
#[test]
fn a_refresh_that_begins_again() {
    for rounds in [1, 2, 15, 16, 17, 40, 100] {
        for pumps in [false, true] {
            let mut world = world(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"]);
            for _ in 0..rounds {
                begin(&mut world);
                world.announce(A, &["10.1.0.0/16", "10.2.0.0/16"]);
                if pumps {
                    world.pump();
                }
            }
            begin(&mut world);
            world.announce(A, &["10.1.0.0/16"]);
            world.pump();
            assert_eq!(routes_of_a(&world).len(), 3);
            end(&mut world);
            world.pump();
            assert_eq!(routes_of_a(&world), ["10.1.0.0/16"], "{rounds} {pumps}");
            // Without a BoRR it is ignored.
            end(&mut world);
            world.pump();
            assert_eq!(routes_of_a(&world), ["10.1.0.0/16"]);
        }
    }
}

/// Complete refreshes; the removals of one are pending when the next begins.
#[test]
fn many_refreshes_one_after_another() {
    for pumps in [false, true] {
        let mut world = world(&["10.1.0.0/16"]);
        for round in 0..100 {
            let text = format!("10.{}.0.0/16", 2 + round % 7);
            world.announce(A, &[&text]);
            begin(&mut world);
            world.announce(A, &["10.1.0.0/16"]);
            end(&mut world);
            if pumps {
                world.pump();
                assert_eq!(routes_of_a(&world), ["10.1.0.0/16"], "{round}");
            }
        }
        world.pump();
        assert_eq!(routes_of_a(&world), ["10.1.0.0/16"]);
        world.withdraw(A, &["10.1.0.0/16"]);
        world.pump();
        assert_eq!(routes_of_a(&world), [""; 0]);
    }
}

/// A session ends while as many refreshes are open as there are generations, or more.
#[test]
fn a_departure_during_refreshes() {
    for rounds in [1, 11, 12, 14, 15, 16, 40] {
        for pumps in [false, true] {
            let mut world = world(&["10.1.0.0/16", "10.2.0.0/16"]);
            for _ in 0..rounds {
                begin(&mut world);
                world.announce(A, &["10.1.0.0/16"]);
            }
            if pumps {
                world.pump();
            }
            world.down(A);
            world.add(A, PeerKind::External);
            begin(&mut world);
            world.announce(A, &["10.3.0.0/16"]);
            world.pump();
            assert_eq!(routes_of_a(&world), ["10.3.0.0/16"], "{rounds} {pumps}");
            end(&mut world);
            world.down(A);
            world.pump();
            assert_eq!(world.engine.sizes(), (0, 0, 0));
        }
    }
}

#[test]
fn many_sessions_before_the_routes_of_the_first_are_removed() {
    let mut world = world(&["10.1.0.0/16"]);
    for round in 0..50 {
        if round % 3 == 0 {
            world.restarting(A);
        } else {
            world.down(A);
        }
        back(&mut world);
        world.announce(A, &["10.2.0.0/16"]);
        begin(&mut world);
    }
    world.announce(A, &["10.3.0.0/16"]);
    end(&mut world);
    world.end_of_rib(A, V4);
    world.pump();
    assert_eq!(routes_of_a(&world), ["10.3.0.0/16"]);
}

/// End-of-RIB ends a restart, not a refresh: routes that the refresh has not announced yet stay.
#[test]
fn an_end_of_rib_within_a_refresh() {
    let mut world = world(&["10.1.0.0/16"]);
    restart_and_return(&mut world);
    world.announce(A, &["10.2.0.0/16"]);
    begin(&mut world);
    world.end_of_rib(A, V4);
    world.pump();
    assert_eq!(routes_of_a(&world), ["10.2.0.0/16"]);
    world.handle(Input::StaleExpired(world.session(A)));
    world.pump();
    assert_eq!(routes_of_a(&world), ["10.2.0.0/16"]);
    end(&mut world);
    world.pump();
    assert_eq!(routes_of_a(&world), [""; 0]);
}

/// RFC 4724 §4.2: all routes are retained, including those that a refresh in progress has not announced yet.
#[test]
fn a_restart_within_a_refresh() {
    let mut world = world(&["10.1.0.0/16", "10.2.0.0/16"]);
    begin(&mut world);
    world.announce(A, &["10.1.0.0/16"]);
    world.restarting(A);
    world.pump();
    assert_eq!(routes(&world), ["10.1.0.0/16", "10.2.0.0/16"]);
    back(&mut world);
    end(&mut world); // no refresh of this session is open
    world.pump();
    assert_eq!(routes_of_a(&world), ["10.1.0.0/16", "10.2.0.0/16"]);
}

/// RFC 4724 §4.2: routes that are still stale at the next restart are removed.
#[test]
fn stale_routes_do_not_survive_the_next_restart() {
    let mut world = world(&["10.1.0.0/16", "10.2.0.0/16"]);
    restart_and_return(&mut world);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    assert_eq!(routes_of_a(&world).len(), 2);
    world.restarting(A);
    world.pump();
    assert_eq!(routes(&world), ["10.1.0.0/16"]);
    back(&mut world);
    world.pump();
    assert_eq!(routes_of_a(&world), ["10.1.0.0/16"]);
}

/// RFC 4724 §4.2: the neighbor does not forward over a lost next hop, whatever it announces later.
#[test]
fn stale_routes_over_a_lost_next_hop_do_not_come_back() {
    let link = IpAddr::V4(address(A));
    // The link is lost before the session or after it, and returns at once or later.
    for (lost_first, pumps) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut world = world(&["10.1.0.0/16"]);
        if lost_first {
            world.set_reach(link, false);
            if pumps {
                world.pump();
            }
        }
        world.restarting(A);
        world.set_reach(link, false);
        if pumps {
            world.pump();
        }
        world.set_reach(link, true);
        back(&mut world);
        world.announce(A, &["10.2.0.0/16"]);
        world.pump();
        assert_eq!(routes_of_a(&world), ["10.2.0.0/16"], "{lost_first} {pumps}");
    }
}

#[test]
fn a_family_that_the_next_session_does_not_carry_is_not_kept() {
    let mut world = world(&["10.1.0.0/16"]);
    world.restarting(A);
    let mut facts = graceful(A, PeerKind::External, FamilySet::ALL);
    std::sync::Arc::make_mut(&mut facts.negotiated).families = [Family::Ipv6].into_iter().collect();
    world.add_with(A, routing(A, PeerKind::External), facts);
    world.pump();
    assert_eq!(routes_of_a(&world), [""; 0]);
}

/// RFC 9494 §4.2: only stale routes.
#[test]
fn what_is_announced_again_is_not_long_lived_stale() {
    let mut world = world(&["10.1.0.0/16", "10.2.0.0/16"]);
    world.restarting(A);
    world.handle(Input::LongLived(world.session(A), FamilySet::ALL));
    back(&mut world);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    let sent: Vec<String> = world.received[&B].routes.keys().map(Prefix::to_string).collect();
    assert_eq!(sent, ["10.1.0.0/16"], "B has no long-lived graceful restart");
    assert_eq!(world.fib.len(), 2);
    world.end_of_rib(A, V4);
    world.pump();
    assert_eq!(routes_of_a(&world), ["10.1.0.0/16"]);
}

/// A second restart has its own time: its routes are not long-lived stale because those of the first were.
#[test]
fn the_next_restart_begins_its_own_time() {
    let mut world = world(&["10.1.0.0/16"]);
    world.restarting(A);
    world.handle(Input::LongLived(world.session(A), FamilySet::ALL));
    back(&mut world);
    world.announce(A, &["10.1.0.0/16"]);
    world.restarting(A);
    world.pump();
    assert_eq!(routes(&world), ["10.1.0.0/16"]);
}
