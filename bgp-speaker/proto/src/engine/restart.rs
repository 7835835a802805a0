//! Routes that outlive their session, or their last announcement, for a while: graceful restart (RFC 4724), long-lived stale
//! routes (RFC 9494), enhanced route refresh (RFC 7313).
//!
//! What makes routes stale begins a new generation of the peer's paths and looks at none of them ([`crate::rib::generation`]); what
//! is not announced again is removed by an item of [`super::work`].

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use super::Engine;
use super::adj_in::slot;
use super::import::Cached;
use super::peers::Peer;
use super::work::{Item, Job, Lost, SLICE};
use super::{Reach, SessionFacts, SessionId};
use crate::rib::generation::Before;
use crate::rib::nexthop::NextHopId;
use crate::rib::table::{DestId, Path, PathIdx};
use crate::types::{Community, Family, FamilySet, PeerId};

impl Engine {
    /// RFC 4724 §4.2: routes kept for a restarting peer go at once unless its new OPEN says that it kept its
    /// forwarding state for their family, and the session carries it.
    pub(super) fn remove_unkept(&mut self, id: PeerId, facts: &SessionFacts) {
        let negotiated = &facts.negotiated;
        let restart = negotiated.remote.graceful_restart();
        let kept = |family| {
            negotiated.families.contains(family)
                && restart.is_some_and(|restart| restart.families.contains(&(family, true)))
        };
        let not_kept = Family::ALL.into_iter().filter(|family| !kept(*family));
        self.end_restart(id, &not_kept.collect());
    }

    /// The peer's routes of these families stay, marked stale; nothing more is sent to it. What was stale already goes: it was not
    /// announced again since the restart before (RFC 4724 §4.2).
    pub(super) fn restarting(&mut self, session: SessionId, families: FamilySet) {
        let id = session.peer;
        if !self.peers.get(&id).is_some_and(|peer| peer.has(session)) {
            return;
        }
        self.end_session(id);
        // They concern the restart before.
        self.drop_items(id, |job| matches!(job, Job::LongLived | Job::Unreachable(_)));
        self.make_room(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let gone = Family::ALL.map(|family| {
            let generations = peer.generations_mut(family);
            let before = generations.end_restart();
            generations.begin_restart();
            let gone = if families.contains(family) {
                before
            } else {
                generations.end_restart()
            };
            gone.unwrap_or_default()
        });
        peer.restarting = true;
        self.withdraw_generations(id, gone);
        self.withdraw_lost(id);
    }

    /// What leads over next hops that are lost goes at once ([`Lost`]).
    fn withdraw_lost(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let reach = &self.rib.next_hops;
        let is_lost = |id: &NextHopId| reach.reach(*id) == Some(Reach::Unreachable);
        let next_hops: FxHashSet<NextHopId> = peer.adj_in.next_hops().filter(is_lost).collect();
        let dests: VecDeque<DestId> = peer.adj_in.notes_of(&next_hops).collect();
        if !dests.is_empty() {
            let stale = [(id, peer.stale())].into_iter().collect();
            let job = Job::Unreachable(Lost { next_hops, stale });
            self.work.items.push_back(Item { peer: id, dests, job });
        }
    }

    /// RFC 9494 §4.2: what is stale gets LLGR_STALE, or goes where it carries NO_LLGR; families that are not kept go.
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

    /// The peer is back, but its End-of-RIB did not come in time (RFC 4724 §4.2).
    pub(super) fn swept(&mut self, session: SessionId) {
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
                self.took_out(dest, prefix, &old);
                continue;
            }
            if attrs.has_community(Community::LLGR_STALE) {
                continue;
            }
            let mut marked = attrs.clone();
            let communities = marked.communities.iter().copied();
            marked.communities = communities.chain([Community::LLGR_STALE]).collect();
            let received = self.rib.attrs.intern_from(id, marked, &mut self.rib.next_hops);
            let mut cached = Cached::default();
            let imported = self.imported(id, &prefix, received, &mut cached);
            let path = Path {
                received,
                imported,
                ..old
            };
            self.exchange(dest, prefix, (at, &old), path);
            cached.release(self);
            self.rib.attrs.release(received, &mut self.rib.next_hops);
        }
    }

    /// RFC 7313 §4: after BoRR the peer announces all of its routes of a family; what it does not announce until EoRR goes. A second
    /// BoRR begins anew.
    ///
    /// A peer that sends BoRR after BoRR faster than the generations before can be merged would keep others waiting: with many routes
    /// its BoRR is not heeded then. That leaves routes which it never withdrew until the next refresh, and loses none.
    pub(super) fn begin_refresh(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        if !peer.generations(family).has_room_for_refresh() {
            if peer.adj_in.noted() > SLICE {
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
        let is_merging = |item: &Item| item.peer == id && matches!(item.job, Job::Merge(_));
        if generations.is_crowded() && !self.work.items.iter().any(is_merging) {
            self.queue_merge(id);
        }
    }

    /// EoRR: what is still stale goes (RFC 7313 §4).
    pub(super) fn end_refresh(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = peer.generations_mut(family).end_refresh();
        let gone = Family::ALL.map(|other| before.filter(|_| other == family).unwrap_or_default());
        self.withdraw_generations(id, gone);
    }

    /// What the peer did not announce again since it restarted goes.
    pub(super) fn end_restart(&mut self, id: PeerId, families: &FamilySet) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let gone = Family::ALL.map(|family| {
            let wanted = families.contains(family);
            let before = wanted.then(|| peer.generations_mut(family).end_restart());
            before.flatten().unwrap_or_default()
        });
        self.withdraw_generations(id, gone);
    }

    fn withdraw_generations(&mut self, id: PeerId, gone: [Before; 2]) {
        if gone.iter().any(|before| !before.is_empty()) {
            self.queue(id, Job::Withdraw(gone));
        }
    }

    /// Work on all that the peer has announced so far.
    pub(super) fn queue(&mut self, peer: PeerId, job: Job) {
        if let Some(known) = self.peers.get(&peer) {
            let dests = known.adj_in.notes().collect();
            self.work.items.push_back(Item { peer, dests, job });
        }
    }

    /// The same with what earlier sessions left and is not removed yet.
    pub(super) fn queue_with_leftovers(&mut self, peer: PeerId, job: Job) {
        let mine = self.work.items.iter().filter(|item| item.peer == peer);
        let mut dests: VecDeque<DestId> = mine.flat_map(|item| item.dests.iter().copied()).collect();
        if let Some(known) = self.peers.get(&peer) {
            dests.extend(known.adj_in.notes());
        }
        if !dests.is_empty() {
            self.work.items.push_back(Item { peer, dests, job });
        }
    }

    /// Another generation can begin in each family: a session ended while the removal of what earlier ones left is not through.
    pub(super) fn make_room(&mut self, id: PeerId) {
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

    /// What is stale gets one generation.
    fn queue_merge(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            let stale = peer.stale();
            self.queue(id, Job::Merge(stale));
        }
    }

    /// Gives the peer's paths of these generations the youngest of them.
    pub(super) fn merge(&mut self, id: PeerId, dest: DestId, merged: &[Before; 2]) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let Some(before) = merged.get(slot(prefix.family())) else {
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
