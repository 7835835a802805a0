//! Retained routes: graceful restart (RFC 4724), long-lived stale routes (RFC 9494), enhanced route refresh
//! (RFC 7313).
//!
//! Making all routes of a peer stale only begins a new generation of its paths ([`crate::rib::generation`]).
//! Paths that are not announced again are removed by a work item ([`super::work`]).

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use super::Engine;
use super::adj_in::family_index;
use super::import::ImportCache;
use super::peers::Peer;
use super::work::{Job, LostNextHops, SLICE, WorkItem};
use super::{Reach, SessionFacts, SessionId};
use crate::rib::generation::OlderGenerations;
use crate::rib::nexthop::NextHopId;
use crate::rib::table::{DestId, Path, PathIdx};
use crate::types::{Community, Family, FamilySet, PeerId};

impl Engine {
    /// RFC 4724 §4.2: retained routes of a family are removed at once unless the peer's new OPEN says that it
    /// preserved the forwarding state of the family, and the session carries it.
    pub(super) fn withdraw_unpreserved(&mut self, id: PeerId, facts: &SessionFacts) {
        let negotiated = &facts.negotiated;
        let restart = negotiated.remote.graceful_restart();
        let kept = |family| {
            negotiated.families.contains(family)
                && restart.is_some_and(|restart| restart.families.contains(&(family, true)))
        };
        let not_kept = Family::ALL.into_iter().filter(|family| !kept(*family));
        self.end_restart(id, &not_kept.collect());
    }

    /// Retains the peer's routes of these families as stale; nothing more is sent to it. Routes that were
    /// stale before are removed: they were not announced again since the previous restart (RFC 4724 §4.2).
    pub(super) fn restarting(&mut self, session: SessionId, families: FamilySet) {
        let id = session.peer;
        if !self.peers.get(&id).is_some_and(|peer| peer.has(session)) {
            return;
        }
        self.end_session(id);
        // They belong to the previous restart.
        self.drop_items(id, |job| matches!(job, Job::LongLived | Job::Unreachable(_)));
        self.free_generation(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let removed = Family::ALL.map(|family| {
            let generations = peer.generations_mut(family);
            let before = generations.end_restart();
            generations.begin_restart();
            let removed = if families.contains(family) {
                before
            } else {
                generations.end_restart()
            };
            removed.unwrap_or_default()
        });
        peer.restarting = true;
        self.withdraw_generations(id, removed);
        self.withdraw_lost(id);
    }

    /// Removes stale paths over lost next hops at once ([`LostNextHops`]).
    fn withdraw_lost(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let reach = &self.rib.next_hops;
        let is_lost = |id: &NextHopId| reach.reach(*id) == Some(Reach::Unreachable);
        let next_hops: FxHashSet<NextHopId> = peer.adj_in.next_hops().filter(is_lost).collect();
        let dests: VecDeque<DestId> = peer.adj_in.dests_via(&next_hops).collect();
        if !dests.is_empty() {
            let stale = [(id, peer.stale_generations())].into_iter().collect();
            let job = Job::Unreachable(LostNextHops { next_hops, stale });
            self.work.items.push_back(WorkItem { peer: id, dests, job });
        }
    }

    /// RFC 9494 §4.2: stale routes get LLGR_STALE, or are removed if they carry NO_LLGR; routes of other
    /// families are removed.
    pub(super) fn long_lived(&mut self, session: SessionId, families: FamilySet) {
        let id = session.peer;
        let waits = |peer: &Peer| peer.is_latest(session) && !peer.is_up() && peer.restarting;
        if !self.peers.get(&id).is_some_and(waits) {
            return;
        }
        let not_kept = Family::ALL
            .into_iter()
            .filter(|family| !families.contains(*family));
        self.end_restart(id, &not_kept.collect());
        self.queue(id, Job::LongLived);
    }

    /// The peer is back, but its End-of-RIB did not arrive in time (RFC 4724 §4.2).
    pub(super) fn stale_expired(&mut self, session: SessionId) {
        if self
            .peers
            .get(&session.peer)
            .is_some_and(|peer| peer.has(session))
        {
            self.end_restart(session.peer, &FamilySet::ALL);
        }
    }

    pub(super) fn make_long_lived(&mut self, id: PeerId, dest: DestId) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let is_stale = |path: &Path| {
            let peer = self.peers.get(&id);
            path.peer == id
                && peer.is_some_and(|peer| peer.generations(prefix.family()).is_stale(path.generation))
        };
        let stale: Vec<(PathIdx, Path)> = self
            .rib
            .table
            .paths(dest)
            .filter(|(_, path)| is_stale(path))
            .collect();
        for (at, old) in stale {
            let attrs = self.rib.attrs.get(old.received);
            if attrs.has_community(Community::NO_LLGR) {
                self.rib.table.remove(dest, at);
                self.path_removed(dest, prefix, &old);
                continue;
            }
            if attrs.has_community(Community::LLGR_STALE) {
                continue;
            }
            let mut marked = attrs.clone();
            let communities = marked.communities.iter().copied();
            marked.communities = communities.chain([Community::LLGR_STALE]).collect();
            let received = self.rib.attrs.intern_from(id, marked, &mut self.rib.next_hops);
            let mut cache = ImportCache::default();
            let imported = self.import_path(id, &prefix, received, &mut cache);
            let path = Path {
                received,
                imported,
                ..old
            };
            self.replace_path(dest, prefix, (at, &old), path);
            cache.release(self);
            self.rib.attrs.release(received, &mut self.rib.next_hops);
        }
    }

    /// RFC 7313 §4: after BoRR the peer announces all of its routes of a family; those that it does not
    /// announce until EoRR are removed. A second BoRR begins again.
    ///
    /// A peer with many routes that sends BoRR faster than generations can be merged would delay all other
    /// work; then its BoRR is ignored. Routes that it never withdrew then stay until the next refresh; none
    /// are lost.
    pub(super) fn begin_refresh(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        if !peer.generations(family).has_room_for_refresh() {
            if peer.adj_in.indexed() > SLICE {
                return;
            }
            self.finish_items(id);
        }
        let has_room = |peer: &Peer| peer.generations(family).has_room_for_refresh();
        if !self.peers.get(&id).is_some_and(has_room) {
            self.merge_generations(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let generations = peer.generations_mut(family);
        generations.begin_refresh();
        let is_merging = |item: &WorkItem| item.peer == id && matches!(item.job, Job::Merge(_));
        if generations.is_half_full() && !self.work.items.iter().any(is_merging) {
            self.queue_merge(id);
        }
    }

    /// EoRR: routes that are still stale are removed (RFC 7313 §4).
    pub(super) fn end_refresh(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = peer.generations_mut(family).end_refresh();
        let removed = Family::ALL.map(|other| before.filter(|_| other == family).unwrap_or_default());
        self.withdraw_generations(id, removed);
    }

    /// Removes routes of these families that were not announced again since the peer's restart.
    pub(super) fn end_restart(&mut self, id: PeerId, families: &FamilySet) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let removed = Family::ALL.map(|family| {
            let wanted = families.contains(family);
            let before = wanted.then(|| peer.generations_mut(family).end_restart());
            before.flatten().unwrap_or_default()
        });
        self.withdraw_generations(id, removed);
    }

    fn withdraw_generations(&mut self, id: PeerId, removed: [OlderGenerations; 2]) {
        if removed.iter().any(|before| !before.is_empty()) {
            self.queue(id, Job::Withdraw(removed));
        }
    }

    /// Queues work on all paths of the peer.
    pub(super) fn queue(&mut self, peer: PeerId, job: Job) {
        if let Some(known) = self.peers.get(&peer) {
            let dests = known.adj_in.dests().collect();
            self.work.items.push_back(WorkItem { peer, dests, job });
        }
    }

    /// Queues work on all paths of the peer, including those of earlier sessions that wait for removal.
    pub(super) fn queue_with_pending(&mut self, peer: PeerId, job: Job) {
        let mine = self.work.items.iter().filter(|item| item.peer == peer);
        let mut dests: VecDeque<DestId> = mine.flat_map(|item| item.dests.iter().copied()).collect();
        if let Some(known) = self.peers.get(&peer) {
            dests.extend(known.adj_in.dests());
        }
        if !dests.is_empty() {
            self.work.items.push_back(WorkItem { peer, dests, job });
        }
    }

    /// Makes a generation available in each family, for a session that ends while routes of earlier ones
    /// still wait for removal.
    pub(super) fn free_generation(&mut self, id: PeerId) {
        let has_room = |peer: &Peer| {
            Family::ALL
                .iter()
                .all(|family| peer.generations(*family).has_room())
        };
        if !self.peers.get(&id).is_some_and(has_room) {
            self.finish_items(id);
        }
        if !self.peers.get(&id).is_some_and(has_room) {
            self.merge_generations(id);
        }
    }

    fn merge_generations(&mut self, id: PeerId) {
        self.queue_merge(id);
        self.finish_items(id);
    }

    /// Merges all stale generations into one.
    fn queue_merge(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            let stale = peer.stale_generations();
            self.queue(id, Job::Merge(stale));
        }
    }

    /// Sets the generation of the peer's paths of these generations to the youngest of them.
    pub(super) fn merge(&mut self, id: PeerId, dest: DestId, merged: &[OlderGenerations; 2]) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let Some(before) = merged.get(family_index(prefix.family())) else {
            return;
        };
        let mut next = self.rib.table.path_of(dest, id);
        while let Some(at) = next {
            next = self.rib.table.next_of(at, id);
            if let Some(path) = self.rib.table.at(at)
                && before.contains(path.generation)
            {
                let generation = before.youngest();
                self.rib.table.replace(at, Path { generation, ..path });
            }
        }
    }
}
