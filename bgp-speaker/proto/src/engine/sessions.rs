//! Configuration of peers, begin and end of sessions, and reachability of next hops.
//!
//! Every input of a session carries its [`SessionId`]; an input of an ended session changes nothing.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::peers::{Established, Peer};
use super::work::{Job, LostNextHops, WorkItem};
use super::{Engine, PeerRouting, Reach, SessionFacts, SessionId};
use crate::export::catch_up::JoinState;
use crate::export::rules::Learned;
use crate::export::sources::PeerName;
use crate::rib::nexthop::NextHopId;
use crate::rib::table::DestId;
use crate::types::{Family, PeerId, Prefix};
use crate::wire::{Refresh, RefreshKind};

impl Engine {
    pub(super) fn configure(&mut self, id: PeerId, routing: Arc<PeerRouting>) {
        let reflected = self.is_reflector();
        self.configure_peer(id, routing);
        self.reflector_role_changed(reflected);
    }

    /// With the first client, paths through our cluster become loops; with the last one they stop being
    /// loops.
    fn reflector_role_changed(&mut self, before: bool) {
        if self.is_reflector() != before {
            let everything = vec![Prefix::v4(0, 0), Prefix::v6(0, 0)];
            self.work.items.push_back(WorkItem {
                peer: PeerId::LOCAL,
                dests: VecDeque::new(),
                job: Job::Blocks(everything, DestId(0)),
            });
        }
    }

    fn configure_peer(&mut self, id: PeerId, routing: Arc<PeerRouting>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            // A peer that was removed and is added again: its old paths are not its own any more.
            self.finish_items(id);
            self.peers.insert(id, Peer::new(routing));
            return;
        };
        let old = std::mem::replace(&mut peer.routing, routing);
        if let (Some(asn), None) = (old.remote_asn, peer.routing.remote_asn) {
            peer.learn_asn(asn);
        }
        let facts = peer.session.as_ref().map(|session| session.facts.clone());
        let import_changed = old.import != peer.routing.import
            || (old.allow_own_as, old.local_asn, old.kind, old.rules)
                != (
                    peer.routing.allow_own_as,
                    peer.routing.local_asn,
                    peer.routing.kind,
                    peer.routing.rules,
                );
        // The policy applies to retained routes too.
        if import_changed && (facts.is_some() || peer.restarting) {
            self.drop_items(id, |job| matches!(job, Job::Reimport));
            self.queue(id, Job::Reimport);
        }
        let Some(facts) = facts else { return };
        self.set_source(id, &facts);
        self.update_group(id);
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        let reflected = self.is_reflector();
        self.remove_peer(id);
        self.reflector_role_changed(reflected);
    }

    fn remove_peer(&mut self, id: PeerId) {
        self.deferral_remove(id, true);
        self.end_session_and_withdraw(id);
        self.peers.remove(&id);
        // Without the peer its generations have no meaning: all remaining paths are removed.
        let items = self.work.items.iter_mut().filter(|item| item.peer == id);
        items.for_each(|item| item.job = Job::WithdrawAll);
        if !self.work.items.iter().any(|item| item.peer == id) {
            self.remove_source(id);
        }
    }

    pub(super) fn up(&mut self, session: SessionId, facts: Box<SessionFacts>) {
        let id = session.peer;
        let newer = |peer: &Peer| session.epoch > peer.epoch;
        if !self.peers.get(&id).is_some_and(newer) {
            return;
        }
        if self.peers.get(&id).is_some_and(Peer::is_up) {
            self.end_session_and_withdraw(id);
        }
        self.withdraw_unpreserved(id, &facts);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.learn_asn(facts.negotiated.remote.asn);
        }
        self.set_source(id, &facts);
        let families = facts.negotiated.families;
        let key = self.group_key(id, &facts);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.epoch = session.epoch;
        peer.session = Some(Established::new(facts));
        peer.restarting = false;
        if !self.feeds.is_empty() {
            self.queue(id, Job::Feeds);
        }
        self.deferral_up(session);
        // No End-of-RIB arrives for these families.
        let absent = Family::ALL
            .into_iter()
            .filter(|family| !families.contains(*family));
        self.work.ends.extend(absent.map(|family| (session, family)));
        if let Some(key) = key {
            let everything = JoinState::new(key.families);
            self.join_group(id, key, everything);
        }
    }

    /// Host facts of a session changed: the peer moves to the group of its new key.
    pub(super) fn new_facts(&mut self, session: SessionId, facts: Box<SessionFacts>) {
        let Some(peer) = self.peers.get_mut(&session.peer).filter(|peer| peer.has(session)) else {
            return;
        };
        if let Some(established) = &mut peer.session {
            established.facts = facts;
        }
        self.update_group(session.peer);
    }

    /// Records identity and address of a source. If they changed, its retained paths are decided and exported
    /// again: equal attributes may still be sent and compared differently, since the BGP identifier is part
    /// of both (RFC 4456 §8, RFC 4271 §9.1.2.2).
    fn set_source(&mut self, id: PeerId, facts: &SessionFacts) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let learned = Learned::Peer(peer.routing.kind, facts.negotiated.remote_id());
        let addr = facts.remote_addr;
        let sources = &mut self.rib.sources;
        let before = sources.peers.insert(id, learned);
        let name = PeerName {
            name: peer.routing.name.as_str().into(),
            asn: peer.routing.remote_asn.unwrap_or_default(),
        };
        let renamed = sources.names.insert(id, name.clone());
        let changed =
            before.is_some_and(|before| before != learned) || renamed.is_some_and(|before| before != name);
        let old_addr = sources.address(id);
        let moved = old_addr != Some(addr);
        if moved || sources.peer_at(addr) != Some(id) {
            sources.set_address(id, addr);
            self.peer_addresses_changed([old_addr, Some(addr)]);
        }
        if changed || (moved && before.is_some()) {
            self.queue_with_pending(id, Job::SourceChanged);
        }
    }

    pub(super) fn remove_source(&mut self, id: PeerId) {
        let addr = self.rib.sources.address(id);
        self.rib.sources.remove(id);
        self.peer_addresses_changed([addr, None]);
    }

    /// The peer at these addresses changed: a peer is not sent routes whose next hop is its own address (RFC
    /// 4271 §5.1.3).
    fn peer_addresses_changed(&mut self, addrs: [Option<IpAddr>; 2]) {
        let addrs = addrs.into_iter().flatten();
        let mut policies = self.groups.iter().flatten().map(|group| &group.key.policy);
        if policies.any(|policy| addrs.clone().any(|addr| policy.names_next_hop(addr))) {
            return self.queue_table_walk(Job::Everything(DestId(0)));
        }
        let next_hops = addrs.filter_map(|addr| self.rib.next_hops.find(addr));
        let next_hops: FxHashSet<NextHopId> = next_hops.collect();
        if !next_hops.is_empty() {
            let item = self.next_hops_item(next_hops, LostNextHops::default());
            self.work.items.push_back(item);
        }
    }

    pub(super) fn down(&mut self, session: SessionId) {
        if self
            .peers
            .get(&session.peer)
            .is_some_and(|peer| peer.is_latest(session))
        {
            self.end_session_and_withdraw(session.peer);
        }
    }

    /// Ends the session, if there is one, and removes all routes of the peer, including retained ones.
    fn end_session_and_withdraw(&mut self, id: PeerId) {
        self.end_session(id);
        self.drop_items(id, |job| {
            matches!(
                job,
                Job::Reimport | Job::LongLived | Job::Unreachable(_) | Job::Merge(_)
            )
        });
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.restarting = false;
        self.free_generation(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let removed = Family::ALL.map(|family| peer.generations_mut(family).end_all());
        let dests = peer.adj_in.take_dests();
        self.work.items.push_back(WorkItem {
            peer: id,
            dests,
            job: Job::Withdraw(removed),
        });
    }

    /// Ends the session. The caller decides about the peer's routes.
    pub(super) fn end_session(&mut self, id: PeerId) {
        self.leave_group(id);
        self.work.catch_up_queue.retain(|behind| *behind != id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.session = None;
        }
        self.deferral_remove(id, false);
    }

    pub(super) fn drop_items(&mut self, id: PeerId, unwanted: impl Fn(&Job) -> bool) {
        self.work
            .items
            .retain(|item| item.peer != id || !unwanted(&item.job));
    }

    pub(super) fn refresh(&mut self, session: SessionId, refresh: Refresh) {
        let id = session.peer;
        if !self.peers.get(&id).is_some_and(|peer| peer.has(session)) {
            return;
        }
        match refresh.kind {
            RefreshKind::Request => self.resend(id, refresh.family),
            RefreshKind::Begin => self.begin_refresh(id, refresh.family),
            RefreshKind::End => self.end_refresh(id, refresh.family),
        }
    }

    pub(super) fn update_next_hops(&mut self, updates: &[(IpAddr, Reach)]) {
        let (mut changed, mut lost) = (FxHashSet::default(), LostNextHops::default());
        for (addr, reach) in updates {
            if let Some(id) = self.rib.next_hops.set_reach(*addr, *reach) {
                changed.insert(id);
                if *reach == Reach::Unreachable {
                    lost.next_hops.insert(id);
                }
            }
        }
        if changed.is_empty() {
            return;
        }
        if !lost.next_hops.is_empty() {
            let restarting = self.peers.iter().filter(|(_, peer)| peer.restarting);
            lost.stale = restarting
                .map(|(id, peer)| (*id, peer.stale_generations()))
                .collect();
        }
        let item = self.next_hops_item(changed, lost);
        // Before pending work, because packets may be lost.
        self.work.items.push_front(item);
    }

    /// Decides and exports all paths over these next hops again.
    fn next_hops_item(&self, next_hops: FxHashSet<NextHopId>, lost: LostNextHops) -> WorkItem {
        let peers = self.peers.values();
        WorkItem {
            peer: PeerId::LOCAL,
            dests: peers.flat_map(|peer| peer.adj_in.dests_via(&next_hops)).collect(),
            job: Job::NextHops(next_hops, lost),
        }
    }
}
