//! Sessions that end with work pending, that change their facts, or that come up after our restart.
#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use bgp_proto::engine::{Input, Originated, Output, PeerKind, PeerRouting, SessionFacts, SessionId};
use bgp_proto::policy::{Actions, Edit, Matcher, Policy, Rule, Source, Verdict};
use bgp_proto::types::{Community, Family, FamilySet, PeerId, Prefix, RouterId};
use bgp_proto::wire::{Refresh, RefreshKind};
use common::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const C: PeerId = PeerId(3);

fn own(text: &str) -> Originated {
    Originated {
        prefix: prefix(text),
        source: Source::PodBlock,
        communities: vec![],
    }
}

fn prefixes(world: &World, peer: PeerId) -> Vec<String> {
    world.received[&peer]
        .routes
        .keys()
        .map(Prefix::to_string)
        .collect()
}

fn kernel(world: &World) -> Vec<String> {
    world.fib.keys().map(Prefix::to_string).collect()
}

/// Output of an ended session stays in its queue; the next session gets all routes from the start.
#[test]
fn output_of_an_ended_session_carries_its_number() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.9.0.0/16"]);
    world.pump();
    world.announce(A, &["10.1.0.0/16"]);
    while world.engine.pending_decisions() > 0 {
        world.engine.work();
    }
    let old = world.session(B);
    // Not taken yet. Then the session ends, the next one comes up, and the route is withdrawn.
    world.down(B);
    world.add(B, PeerKind::External);
    world.withdraw(A, &["10.1.0.0/16"]);
    let mut of_old = 0;
    while let Some(output) = world.engine.poll_output() {
        match output {
            Output::Advertise(session, _) if session.peer == B => {
                if session == old {
                    of_old += 1;
                } else {
                    assert_eq!(session, world.session(B));
                    world.run_output(output);
                }
            }
            other => world.run_output(other),
        }
    }
    assert!(of_old > 0, "there is output for the ended session");
    assert_eq!(prefixes(&world, B), ["10.9.0.0/16"]);
    assert_eq!(world.received[&B].end_of_rib.len(), 2);
}

#[test]
fn late_inputs_of_an_ended_session_change_nothing() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.pump();
    let old = world.session(A);
    world.restarting(A);
    world.add_with(
        A,
        routing(A, PeerKind::External),
        graceful(A, PeerKind::External, FamilySet::ALL),
    );
    world.announce(A, &["10.1.0.0/16"]);
    world.refresh(A, Family::Ipv4, RefreshKind::Begin);
    world.announce(A, &["10.2.0.0/16"]);
    world.pump();
    let known = ["10.1.0.0/16", "10.2.0.0/16"];
    let attrs = attrs_from(A, PeerKind::External);
    let family = Family::Ipv4;
    let refresh = |kind| Input::Refresh(old, Refresh { family, kind });
    let other = SessionFacts {
        local_v4: None,
        ..facts(A, PeerKind::External)
    };
    for late in [
        Input::Routes(old, announce(attrs, &[prefix("10.3.0.0/16")])),
        Input::Routes(old, withdraw(&[prefix("10.1.0.0/16")])),
        Input::Routes(old, end_of_rib(family)),
        refresh(RefreshKind::Begin),
        refresh(RefreshKind::End),
        refresh(RefreshKind::Request),
        Input::Written(old, 1),
        Input::Facts(old, other.clone().into()),
        Input::StaleExpired(old),
        Input::LongLived(old, FamilySet::EMPTY),
        Input::Restarting(old, FamilySet::EMPTY),
        Input::Down(old),
        Input::Up(old, other.into()),
    ] {
        let decoded_ops = format!("{late:?}");
        let before = (world.ends.len(), world.received[&A].messages);
        world.handle(late);
        world.pump();
        assert_eq!(kernel(&world), known, "{decoded_ops}");
        assert_eq!(prefixes(&world, B), known, "{decoded_ops}");
        assert_eq!(
            (world.ends.len(), world.received[&A].messages),
            before,
            "{decoded_ops}"
        );
        assert!(world.engine.is_established(world.session(A)), "{decoded_ops}");
    }
    world.refresh(A, Family::Ipv4, RefreshKind::End);
    world.pump();
    assert_eq!(
        kernel(&world),
        ["10.2.0.0/16"],
        "the refresh of this session goes on"
    );
}

#[test]
fn writes_of_an_ended_session_give_no_credit_to_the_next() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    let old = world.session(A);
    world.pump();
    world.down(A);
    world.add(A, PeerKind::External);
    world.received.get_mut(&A).unwrap().slow = true;
    world.pump();
    let owed = world.engine.counts(A).outstanding;
    assert!(owed > 0);
    world.handle(Input::Written(old, owed));
    assert_eq!(world.engine.counts(A).outstanding, owed);
}

/// A local address that is missing when the session comes up, and is added later.
#[test]
fn a_family_is_announced_once_there_is_an_address_for_it() {
    let mut world = World::new(config());
    let away = SessionFacts {
        local_v6: None,
        ..facts(A, PeerKind::External)
    };
    world.add_with(A, routing(A, PeerKind::External), away);
    let routes = ["10.244.1.0/24", "fd00:1::/64"];
    world.handle(Input::Originate(routes.map(own).into()));
    world.pump();
    assert_eq!(prefixes(&world, A), ["10.244.1.0/24"]);
    let there = facts(A, PeerKind::External);
    world.handle(Input::Facts(world.session(A), there.into()));
    world.pump();
    assert_eq!(prefixes(&world, A), routes);
    let v4_gone = SessionFacts {
        local_v4: None,
        ..facts(A, PeerKind::External)
    };
    world.handle(Input::Facts(world.session(A), v4_gone.into()));
    world.pump();
    assert_eq!(prefixes(&world, A), ["fd00:1::/64"]);
}

fn tagging(tag: u32) -> Arc<Policy> {
    let actions = Actions {
        communities: Edit::add([Community(tag)]),
        ..Actions::default()
    };
    let rule = Rule {
        matcher: Matcher::default(),
        actions,
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    Arc::new(Policy {
        rules: vec![rule],
        ..Policy::accept_all()
    })
}

/// RFC 4724 §2, RFC 7313 §4: a peer that moves to another group still gets its End-of-RIB and EoRR.
#[test]
fn a_peer_that_moves_to_another_group_gets_the_ends_that_it_waits_for() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    let moved = |tag| PeerRouting {
        export: tagging(tag),
        ..routing(A, PeerKind::External)
    };
    world.handle(Input::Configure(A, moved(1).into()));
    world.pump();
    assert_eq!(world.received[&A].end_of_rib, [Family::Ipv4, Family::Ipv6]);
    let ends = |world: &World| world.received[&A].ends_of_refresh.clone();
    world.refresh(A, Family::Ipv6, RefreshKind::Request);
    world.handle(Input::Configure(A, moved(2).into()));
    world.pump();
    assert_eq!(ends(&world), [Family::Ipv6]);
    world.handle(Input::Configure(A, moved(3).into()));
    world.pump();
    assert_eq!(ends(&world), [Family::Ipv6], "once");
    assert_eq!(world.received[&A].end_of_rib.len(), 2, "once");
}

fn with_identifier(peer: PeerId, kind: PeerKind, id: u32) -> SessionFacts {
    let mut facts = graceful(peer, kind, FamilySet::ALL);
    Arc::make_mut(&mut facts.negotiated).remote.router_id = RouterId::new(id).unwrap();
    facts
}

/// RFC 4456 §8: ORIGINATOR_ID is the identifier of the current session, even if the peer announces the same
/// routes as before.
#[test]
fn a_client_that_is_back_with_another_identifier() {
    for restarts in [true, false] {
        let mut world = World::new(config());
        world.add(A, PeerKind::Client);
        world.add(B, PeerKind::Client);
        world.announce(A, &["10.1.0.0/16", "10.2.0.0/16"]);
        world.pump();
        let originator = |world: &World, text: &str| {
            let extra = world.received[&B].routes[&prefix(text)].extra.clone();
            extra.unwrap().originator_id.unwrap().get()
        };
        assert_eq!(originator(&world, "10.1.0.0/16"), 0x0A00_0101);
        if restarts {
            world.restarting(A);
        } else {
            world.down(A); // the removal of its paths is only queued
        }
        let back = with_identifier(A, PeerKind::Client, 0x0A00_0777);
        world.add_with(A, routing(A, PeerKind::Client), back);
        world.announce(A, &["10.1.0.0/16"]);
        world.pump();
        assert_eq!(originator(&world, "10.1.0.0/16"), 0x0A00_0777, "{restarts}");
        if restarts {
            assert_eq!(originator(&world, "10.2.0.0/16"), 0x0A00_0777);
        } else {
            assert_eq!(prefixes(&world, B), ["10.1.0.0/16"]);
        }
        assert_eq!(
            world.engine.counts(B).advertised,
            [if restarts { 2 } else { 1 }, 0]
        );
    }
}

/// RFC 4271 §9.1.2.2 f: the lowest identifier decides, that of the current session.
#[test]
fn a_decision_follows_the_identifier_of_now() {
    let mut world = World::new(bgp_proto::engine::EngineConfig {
        max_paths: 1,
        ..config()
    });
    world.add(A, PeerKind::Internal);
    world.add(B, PeerKind::Internal);
    for peer in [A, B] {
        world.announce(peer, &["10.1.0.0/16"]);
    }
    world.pump();
    assert_eq!(world.fib[&prefix("10.1.0.0/16")], [address(A)]);
    world.restarting(A);
    let back = with_identifier(A, PeerKind::Internal, 0x0B00_0000);
    world.add_with(A, routing(A, PeerKind::Internal), back);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    assert_eq!(world.fib[&prefix("10.1.0.0/16")], [address(B)]);
}

#[test]
fn routes_of_a_restarting_peer_follow_a_changed_policy() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.add(B, PeerKind::External);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    world.restarting(A);
    let closed = PeerRouting {
        import: Arc::new(Policy::reject_all()),
        ..routing(A, PeerKind::External)
    };
    world.handle(Input::Configure(A, closed.into()));
    world.pump();
    assert!(kernel(&world).is_empty() && prefixes(&world, B).is_empty());
    // A change that is pending when the session ends is not lost either.
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    assert_eq!(kernel(&world), ["10.1.0.0/16"]);
    let closed = PeerRouting {
        import: Arc::new(Policy::reject_all()),
        ..routing(A, PeerKind::External)
    };
    world.handle(Input::Configure(A, closed.into()));
    world.restarting(A);
    world.pump();
    assert!(kernel(&world).is_empty() && prefixes(&world, B).is_empty());
}

#[test]
fn a_peer_that_is_removed_and_configured_at_once() {
    let mut world = World::new(config());
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/16", "10.2.0.0/16"]);
    world.pump();
    world.up.remove(&A);
    world.handle(Input::Remove(A));
    world.add(A, PeerKind::External);
    world.announce(A, &["10.1.0.0/16"]);
    world.pump();
    assert_eq!(kernel(&world), ["10.1.0.0/16"]);
    assert_eq!(world.engine.counts(A).received, [1, 0]);
}

// RFC 4724 §4.1.

fn defer(world: &mut World, peers: &[PeerId]) {
    let names: BTreeSet<String> = peers.iter().map(|peer| format!("peer-{}", peer.0)).collect();
    world.handle(Input::Defer(names));
}

fn add_helping(world: &mut World, peer: PeerId) {
    world.add_with(
        peer,
        routing(peer, PeerKind::Client),
        helping(peer, PeerKind::Client),
    );
    world.pump();
}

fn is_served(world: &World, peer: PeerId) -> bool {
    let ends = world.received[&peer].end_of_rib.len();
    assert!(ends == 0 || ends == 2);
    if ends == 0 {
        assert!(world.received[&peer].routes.is_empty());
    }
    ends == 2
}

fn ends_of(world: &mut World, peer: PeerId) {
    for family in Family::ALL {
        world.end_of_rib(peer, family);
    }
    world.pump();
}

#[test]
fn a_client_waits_for_the_end_of_rib_of_those_that_were_up_before() {
    let mut world = World::new(config());
    defer(&mut world, &[A, B]);
    add_helping(&mut world, A);
    world.announce(A, &["10.1.0.0/16"]);
    ends_of(&mut world, A);
    assert!(!is_served(&world, A), "B is not up yet");
    assert_eq!(kernel(&world), ["10.1.0.0/16"], "kernel routes do not wait");
    add_helping(&mut world, B);
    world.announce(B, &["10.2.0.0/16"]);
    world.end_of_rib(B, Family::Ipv4);
    world.pump();
    assert!(
        !is_served(&world, A) && !is_served(&world, B),
        "one family is to come"
    );
    world.end_of_rib(B, Family::Ipv6);
    world.pump();
    assert!(is_served(&world, A) && is_served(&world, B));
    assert_eq!(prefixes(&world, A), ["10.2.0.0/16"]);
    // Peers that come up later are not waited for.
    add_helping(&mut world, C);
    assert!(is_served(&world, C));
    assert_eq!(prefixes(&world, C), ["10.1.0.0/16", "10.2.0.0/16"]);
}

/// The routes before the last End-of-RIB are sent to the waiting peers, even if their next hop is still being
/// resolved.
#[test]
fn routes_over_a_next_hop_that_is_looked_up_are_waited_for() {
    let mut world = World::new(config());
    defer(&mut world, &[A, B]);
    add_helping(&mut world, A);
    ends_of(&mut world, A);
    add_helping(&mut world, B);
    world.announce(B, &["10.2.0.0/16"]);
    for family in Family::ALL {
        world.end_of_rib(B, family);
    }
    // The kernel replies late.
    let mut watched = Vec::new();
    while let Some(output) = world.engine.poll_output() {
        match output {
            Output::Watch(_) => watched.push(output),
            other => world.run_output(other),
        }
    }
    assert!(!watched.is_empty() && !is_served(&world, A));
    watched.into_iter().for_each(|output| world.run_output(output));
    world.pump();
    assert!(is_served(&world, A));
    assert_eq!(prefixes(&world, A), ["10.2.0.0/16"]);
}

#[test]
fn the_timer_ends_the_deferral() {
    let mut world = World::new(config());
    defer(&mut world, &[A, B]);
    add_helping(&mut world, A);
    ends_of(&mut world, A);
    assert!(!is_served(&world, A));
    world.handle(Input::EndDeferral);
    world.pump();
    assert!(is_served(&world, A));
}

/// Why a peer of the previous run is not waited for.
#[test]
fn who_is_not_waited_for() {
    let restarting = graceful(B, PeerKind::Client, FamilySet::ALL);
    let with_local = |mut facts: SessionFacts| {
        let negotiated = Arc::make_mut(&mut facts.negotiated);
        negotiated.local.capabilities = helping(B, PeerKind::Client).negotiated.local.capabilities.clone();
        facts
    };
    let restarting = with_local(restarting);
    let plain = facts(B, PeerKind::Client);
    let add = |facts: SessionFacts| {
        move |world: &mut World| world.add_with(B, routing(B, PeerKind::Client), facts.clone())
    };
    let configure =
        |world: &mut World| world.handle(Input::Configure(B, routing(B, PeerKind::Client).into()));
    type Way = Box<dyn Fn(&mut World)>;
    let ways: [(&str, Way); 5] = [
        ("it restarts too", Box::new(add(restarting))),
        ("it has no graceful restart", Box::new(add(plain))),
        (
            "it is removed",
            Box::new(move |world| {
                configure(world);
                world.handle(Input::Remove(B));
            }),
        ),
        (
            "it is withdrawn again",
            Box::new(move |world| {
                add(helping(B, PeerKind::Client))(world);
                world.down(B);
            }),
        ),
        (
            "it restarts again",
            Box::new(move |world| {
                add(helping(B, PeerKind::Client))(world);
                world.restarting(B);
            }),
        ),
    ];
    for (why, way) in ways {
        let mut world = World::new(config());
        defer(&mut world, &[A, B]);
        add_helping(&mut world, A);
        ends_of(&mut world, A);
        assert!(!is_served(&world, A), "{why}");
        way(&mut world);
        world.pump();
        assert!(is_served(&world, A), "{why}");
    }
}

#[test]
fn a_peer_without_graceful_restart_is_served_at_once() {
    let mut world = World::new(config());
    defer(&mut world, &[A, B]);
    add_helping(&mut world, A);
    world.announce(A, &["10.1.0.0/16"]);
    world.add(C, PeerKind::External);
    world.pump();
    assert!(is_served(&world, C) && !is_served(&world, A));
    assert_eq!(prefixes(&world, C), ["10.1.0.0/16"]);
    // A deferred peer gets no changes in the meantime either.
    world.handle(Input::Originate(vec![own("10.244.1.0/24")]));
    world.pump();
    assert_eq!(prefixes(&world, C), ["10.1.0.0/16", "10.244.1.0/24"]);
    assert!(!is_served(&world, A));
}

#[test]
fn a_late_end_of_rib_of_an_ended_session_ends_no_deferral() {
    let mut world = World::new(config());
    defer(&mut world, &[A, B, C]);
    add_helping(&mut world, A);
    add_helping(&mut world, B);
    ends_of(&mut world, A);
    let late = SessionId {
        epoch: 0,
        ..world.session(B)
    };
    for family in Family::ALL {
        world.handle(Input::Routes(late, end_of_rib(family)));
    }
    world.pump();
    world.add(C, PeerKind::Client);
    world.pump();
    assert!(!is_served(&world, A), "B has not sent its End-of-RIB");
    ends_of(&mut world, B);
    assert!(is_served(&world, A));
}
