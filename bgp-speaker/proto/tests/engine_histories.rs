//! Arbitrary histories of events: once the engine is idle, the state of peers and kernel follows from the
//! announced routes.
#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_proto::engine::{EngineConfig, Input, Originated, PeerKind, SessionFacts};
use bgp_proto::policy::Source;
use bgp_proto::types::{Family, FamilySet, PeerId, Prefix};
use bgp_proto::wire::{Refresh, RefreshKind};
use common::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A new session of a peer that retained its forwarding state for these families.
    Up(u32, FamilySet),
    Down(u32),
    Restarting(u32, FamilySet),
    LongLived(u32, FamilySet),
    StaleExpired(u32),
    EndOfRib(u32, Family),
    Refresh(u32, Family, RefreshKind),
    Announce(u32, u8, u32),
    Withdraw(u32, u8),
    Own(u8),
    Reach(u32, bool),
    Slow(u32, bool),
    /// Our addresses on the session, IPv4 and IPv6.
    Facts(u32, bool, bool),
    /// An input of an ended session.
    Late(u32, Late, u8),
    Pump,
}

#[derive(Clone, Copy, Debug)]
enum Late {
    Announce,
    Withdraw,
    EndOfRib,
    Refresh(RefreshKind),
    Written,
    StaleExpired,
    Facts,
    /// These end a restart that the session began; they have an effect while the peer is down.
    Down,
    Restarting,
    LongLived,
    Up,
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)]
}

fn families() -> impl Strategy<Value = FamilySet> {
    (any::<bool>(), any::<bool>()).prop_map(|(v4, v6)| {
        let wanted = |family: &Family| if *family == Family::Ipv4 { v4 } else { v6 };
        Family::ALL.into_iter().filter(wanted).collect()
    })
}

fn kind() -> impl Strategy<Value = RefreshKind> {
    prop_oneof![
        1 => Just(RefreshKind::Request),
        2 => Just(RefreshKind::Begin),
        1 => Just(RefreshKind::End)
    ]
}

fn lates() -> impl Strategy<Value = Late> {
    prop_oneof![
        Just(Late::Announce),
        Just(Late::Withdraw),
        Just(Late::EndOfRib),
        kind().prop_map(Late::Refresh),
        Just(Late::Written),
        Just(Late::StaleExpired),
        Just(Late::Facts),
        Just(Late::Down),
        Just(Late::Restarting),
        Just(Late::LongLived),
        Just(Late::Up),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = || 0u32..6;
    let step = prop_oneof![
        3 => (peer(), families()).prop_map(|(peer, kept)| Step::Up(peer, kept)),
        1 => peer().prop_map(Step::Down),
        2 => (peer(), families()).prop_map(|(peer, families)| Step::Restarting(peer, families)),
        1 => (peer(), families()).prop_map(|(peer, families)| Step::LongLived(peer, families)),
        1 => peer().prop_map(Step::StaleExpired),
        2 => (peer(), family()).prop_map(|(peer, family)| Step::EndOfRib(peer, family)),
        3 => (peer(), family(), kind()).prop_map(|(peer, family, kind)| Step::Refresh(peer, family, kind)),
        10 => (peer(), 0u8..12, 0u32..3).prop_map(|(peer, n, pref)| Step::Announce(peer, n, pref)),
        5 => (peer(), 0u8..12).prop_map(|(peer, n)| Step::Withdraw(peer, n)),
        1 => (0u8..16).prop_map(Step::Own),
        1 => (peer(), any::<bool>()).prop_map(|(peer, up)| Step::Reach(peer, up)),
        1 => (peer(), any::<bool>()).prop_map(|(peer, slow)| Step::Slow(peer, slow)),
        1 => (peer(), any::<bool>(), any::<bool>()).prop_map(|(peer, v4, v6)| Step::Facts(peer, v4, v6)),
        3 => (peer(), lates(), 0u8..12).prop_map(|(peer, late, n)| Step::Late(peer, late, n)),
        4 => Just(Step::Pump),
    ];
    proptest::collection::vec(step, 1..160)
}

fn kind_of(peer: u32) -> PeerKind {
    [
        PeerKind::External,
        PeerKind::External,
        PeerKind::Internal,
        PeerKind::Internal,
        PeerKind::Client,
        PeerKind::Client,
    ][peer as usize]
}

fn numbered(n: u8) -> Prefix {
    if n.is_multiple_of(3) {
        prefix(&format!("2001:db8:{n}::/48"))
    } else {
        prefix(&format!("10.{n}.0.0/16"))
    }
}

/// A path in the table.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    pref: u32,
    /// Not announced since the peer's restart.
    before_restart: bool,
    /// Not announced since the BoRR.
    before_refresh: bool,
    long_lived: bool,
}

/// The expected state.
#[derive(Default)]
struct Model {
    paths: BTreeMap<(Prefix, u32), Known>,
    restarting: BTreeSet<u32>,
    own: Vec<Prefix>,
    /// Whether the session has a local address, IPv4 and IPv6.
    addresses: BTreeMap<u32, (bool, bool)>,
}

impl Model {
    fn of(&mut self, peer: u32) -> impl Iterator<Item = (&Prefix, &mut Known)> {
        let of_peer = self
            .paths
            .iter_mut()
            .filter(move |((_, source), _)| *source == peer);
        of_peer.map(|((prefix, _), known)| (prefix, known))
    }

    /// Removes the paths of a peer for which this does not hold.
    fn retain(&mut self, peer: u32, keep: impl Fn(&Prefix, &Known) -> bool) {
        self.paths
            .retain(|(prefix, source), known| *source != peer || keep(prefix, known));
    }

    fn up(&mut self, peer: u32, kept: FamilySet, was_up: bool) {
        let restarted = self.restarting.remove(&peer);
        debug_assert!(!(restarted && was_up));
        self.retain(peer, |prefix, _| restarted && kept.contains(prefix.family()));
        self.addresses.insert(peer, (true, true));
    }

    fn restarting(&mut self, peer: u32, families: FamilySet, lost: impl Fn(&Prefix) -> bool) {
        self.retain(peer, |prefix, known| {
            families.contains(prefix.family()) && !known.before_restart && !lost(prefix)
        });
        self.of(peer).for_each(|(_, known)| {
            (known.before_restart, known.before_refresh) = (true, false);
        });
        self.restarting.insert(peer);
    }

    /// The best path of each prefix, by LOCAL_PREF, then kind, then identifier; and whether it is long-lived
    /// stale.
    fn best(&self, world: &World) -> BTreeMap<Prefix, (u32, bool)> {
        let mut best = BTreeMap::new();
        for ((prefix, peer), known) in &self.paths {
            if world.unreachable.contains(&next_hop_of(prefix, *peer)) {
                continue;
            }
            let external = kind_of(*peer) == PeerKind::External;
            // eBGP paths carry no LOCAL_PREF and one hop; inside the AS, the AS path is empty.
            let pref = if external { 100 } else { 99 + known.pref };
            let rank = (!known.long_lived, pref, !external, std::cmp::Reverse(*peer));
            let entry = best.entry(*prefix).or_insert(rank);
            *entry = (*entry).max(rank);
        }
        let source = |(fresh, _, _, peer): (bool, u32, bool, std::cmp::Reverse<u32>)| (peer.0, !fresh);
        best.into_iter()
            .map(|(prefix, rank)| (prefix, source(rank)))
            .collect()
    }

    /// The expected Adj-RIB-Out of a peer, by source; our own routes have source `u32::MAX`.
    fn known_to(&self, peer: u32, best: &BTreeMap<Prefix, (u32, bool)>) -> BTreeMap<Prefix, u32> {
        let (v4, v6) = self.addresses[&peer];
        let has_address = |prefix: &Prefix| if prefix.family() == Family::Ipv4 { v4 } else { v6 };
        let external = kind_of(peer) == PeerKind::External;
        let mut routes = BTreeMap::new();
        for (prefix, (source, long_lived)) in best {
            let reflects = kind_of(*source) == PeerKind::External
                || kind_of(peer) != PeerKind::Internal
                || kind_of(*source) == PeerKind::Client;
            let goes = *source != peer && reflects && !long_lived && (!external || has_address(prefix));
            if goes && !self.own.contains(prefix) {
                routes.insert(*prefix, *source);
            }
        }
        let own = self.own.iter().filter(|prefix| has_address(prefix));
        routes.extend(own.map(|prefix| (*prefix, u32::MAX)));
        routes
    }
}

fn with_addresses(peer: PeerId, (v4, v6): (bool, bool)) -> SessionFacts {
    let facts = facts(peer, kind_of(peer.0));
    SessionFacts {
        local_v4: facts.local_v4.filter(|_| v4),
        local_v6: facts.local_v6.filter(|_| v6),
        ..facts
    }
}

fn announcement(peer: u32, n: u8, pref: u32) -> bgp_proto::wire::RouteBatch {
    let mut attrs = attrs_from(PeerId(peer), kind_of(peer));
    attrs.local_pref = (kind_of(peer) != PeerKind::External).then_some(99 + pref);
    attrs.next_hop = next_hop_of(&numbered(n), peer).into();
    announce(attrs, &[numbered(n)])
}

/// An input of an ended session of the peer, or of its current one if that has ended.
fn late(world: &mut World, peer: u32, late: Late, n: u8) {
    let id = PeerId(peer);
    let mut session = world.ended(id);
    let family = numbered(n).family();
    let ends_restart = matches!(late, Late::Down | Late::Restarting | Late::LongLived);
    if ends_restart && !world.up.contains(&id) {
        session.epoch = session.epoch.saturating_sub(1);
    }
    world.handle(match late {
        Late::Announce => Input::Routes(session, announcement(peer, n, 2)),
        Late::Withdraw => Input::Routes(session, withdraw(&[numbered(n)])),
        Late::EndOfRib => Input::Routes(session, end_of_rib(family)),
        Late::Refresh(kind) => Input::Refresh(session, Refresh { family, kind }),
        Late::Written => Input::Written(session, 1 << 20),
        Late::StaleExpired => Input::StaleExpired(session),
        Late::Facts => Input::Facts(session, with_addresses(id, (false, false)).into()),
        Late::Down => Input::Down(session),
        Late::Restarting => Input::Restarting(session, FamilySet::EMPTY),
        Late::LongLived => Input::LongLived(session, FamilySet::EMPTY),
        Late::Up => Input::Up(session, facts(id, kind_of(peer)).into()),
    });
}

fn take(world: &mut World, model: &mut Model, step: Step) {
    let is_up = |world: &World, peer: u32| world.up.contains(&PeerId(peer));
    match step {
        Step::Up(peer, kept) => {
            model.up(peer, kept, is_up(world, peer));
            let id = PeerId(peer);
            world.add_with(id, routing(id, kind_of(peer)), graceful(id, kind_of(peer), kept));
        }
        Step::Down(peer) => {
            model.retain(peer, |_, _| false);
            model.restarting.remove(&peer);
            world.down(PeerId(peer));
        }
        Step::Restarting(peer, families) if is_up(world, peer) => {
            // Stale routes with an unreachable next hop are not retained (RFC 4724 §4.2).
            world.pump();
            let unreachable = &world.unreachable;
            model.restarting(peer, families, |prefix| {
                unreachable.contains(&next_hop_of(prefix, peer))
            });
            world.restarting_in(PeerId(peer), families);
        }
        Step::LongLived(peer, families) if model.restarting.contains(&peer) => {
            model.retain(peer, |prefix, _| families.contains(prefix.family()));
            model.of(peer).for_each(|(_, known)| known.long_lived = true);
            world.handle(Input::LongLived(world.session(PeerId(peer)), families));
        }
        Step::StaleExpired(peer) if is_up(world, peer) => {
            model.retain(peer, |_, known| !known.before_restart);
            world.handle(Input::StaleExpired(world.session(PeerId(peer))));
        }
        Step::EndOfRib(peer, family) if is_up(world, peer) => {
            model.retain(peer, |prefix, known| {
                prefix.family() != family || !known.before_restart
            });
            world.end_of_rib(PeerId(peer), family);
        }
        Step::Refresh(peer, family, kind) if is_up(world, peer) => {
            match kind {
                RefreshKind::Request => {}
                RefreshKind::Begin => {
                    let of_family = model.of(peer).filter(|(prefix, _)| prefix.family() == family);
                    of_family.for_each(|(_, known)| known.before_refresh = true);
                }
                RefreshKind::End => {
                    model.retain(peer, |prefix, known| {
                        prefix.family() != family || !known.before_refresh
                    });
                }
            }
            world.refresh(PeerId(peer), family, kind);
        }
        Step::Announce(peer, n, pref) if is_up(world, peer) => {
            let known = Known {
                pref,
                ..Known::default()
            };
            model.paths.insert((numbered(n), peer), known);
            world.handle(Input::Routes(
                world.session(PeerId(peer)),
                announcement(peer, n, pref),
            ));
        }
        Step::Withdraw(peer, n) if is_up(world, peer) => {
            model.paths.remove(&(numbered(n), peer));
            world.handle(Input::Routes(
                world.session(PeerId(peer)),
                withdraw(&[numbered(n)]),
            ));
        }
        Step::Own(bits) => {
            model.own = (0..4).filter(|n| bits >> n & 1 == 1).map(numbered).collect();
            let routes = model.own.iter().map(|prefix| Originated {
                prefix: *prefix,
                source: Source::Service,
                communities: vec![],
            });
            world.handle(Input::Originate(routes.collect()));
        }
        Step::Reach(peer, up) => {
            world.pump();
            let next_hop = IpAddr::V4(address(PeerId(peer)));
            let restarting = model.restarting.clone();
            model.paths.retain(|(prefix, source), _| {
                up || !restarting.contains(source) || next_hop_of(prefix, *source) != next_hop
            });
            world.set_reach(next_hop, up);
        }
        Step::Slow(peer, slow) if is_up(world, peer) => {
            world.received.get_mut(&PeerId(peer)).unwrap().slow = slow;
            if !slow {
                world.drain(PeerId(peer));
            }
        }
        Step::Facts(peer, v4, v6) if is_up(world, peer) => {
            model.addresses.insert(peer, (v4, v6));
            let id = PeerId(peer);
            world.handle(Input::Facts(
                world.session(id),
                with_addresses(id, (v4, v6)).into(),
            ));
        }
        Step::Late(peer, what, n) if world.session(PeerId(peer)).epoch > 0 => late(world, peer, what, n),
        Step::Pump => world.pump(),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn any_history_ends_where_its_final_state_says(steps in steps()) {
        let mut world = World::new(EngineConfig { max_paths: 1, ..config() });
        let mut model = Model::default();
        for step in steps {
            take(&mut world, &mut model, step);
        }
        world.pump();
        for peer in world.up.clone() {
            world.received.get_mut(&peer).unwrap().slow = false;
            world.drain(peer);
        }
        world.pump();
        let best = model.best(&world);
        for peer in world.up.clone() {
            let routes = model.known_to(peer.0, &best);
            let known: Vec<Prefix> = world.received[&peer].routes.keys().copied().collect();
            let wanted: Vec<Prefix> = routes.keys().copied().collect();
            prop_assert_eq!(&known, &wanted, "peer {}", peer.0);
            let counts = world.engine.counts(peer);
            prop_assert_eq!(counts.advertised.iter().sum::<usize>(), wanted.len());
            let received = model.of(peer.0).count();
            prop_assert_eq!(counts.received.iter().sum::<usize>(), received);
            for (prefix, source) in routes {
                let attrs = &world.received[&peer].routes[&prefix];
                let inside = kind_of(peer.0) != PeerKind::External;
                if source != u32::MAX && inside {
                    prop_assert_eq!(attrs.next_hop.addr(), next_hop_of(&prefix, source), "{} at {}", prefix, peer.0);
                }
            }
            let mut ends = world.received[&peer].end_of_rib.clone();
            ends.sort();
            prop_assert_eq!(ends, Family::ALL, "peer {}", peer.0);
        }
        let fib: BTreeMap<Prefix, Vec<IpAddr>> = best
            .iter()
            .filter(|(prefix, _)| !model.own.contains(prefix))
            .map(|(prefix, (source, _))| (*prefix, vec![next_hop_of(prefix, *source)]))
            .collect();
        prop_assert_eq!(&world.fib, &fib);
        let (_, sets, next_hops) = world.engine.sizes();
        prop_assert!(next_hops <= sets + 1);
        for peer in 0..6 {
            world.down(PeerId(peer));
        }
        world.handle(Input::Originate(vec![]));
        world.pump();
        prop_assert_eq!(world.engine.sizes(), (0, 0, 0), "nothing is leaked");
        prop_assert!(world.fib.is_empty() && world.watched.is_empty());
    }
}
