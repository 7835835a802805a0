//! Routes that outlive their session, or their last announcement, for a while: graceful restart (RFC 4724), long-lived stale
//! routes (RFC 9494), enhanced route refresh (RFC 7313).
//!
//! What makes routes stale begins a new generation of the peer's paths and looks at none of them ([`crate::rib::generation`]); what
//! is not announced again is removed by an item of [`super::work`].

use std::collections::VecDeque;

use super::Engine;
use super::adj_in::slot;
use super::import::Cached;
use super::peers::Peer;
use super::work::{Item, Job};
use super::{Reach, SessionFacts, SessionId};
use crate::rib::generation::Before;
use crate::rib::table::{DestId, Path, PathIdx};
use crate::types::{Community, Family, FamilySet, PeerId};

impl Engine {
    /// RFC 4724 §4.2: routes kept for a restarting peer go at once unless its new OPEN says that it kept its
    /// forwarding state for their family.
    pub(super) fn remove_unkept(&mut self, id: PeerId, facts: &SessionFacts) {
        let restart = facts.negotiated.remote.graceful_restart();
        let kept = |family| restart.is_some_and(|restart| restart.families.contains(&(family, true)));
        for family in Family::ALL.into_iter().filter(|family| !kept(*family)) {
            self.end_stale(id, family);
        }
    }

    /// The peer's routes of these families stay, marked stale; nothing more is sent to it. What was stale already goes: it was not
    /// announced again since the restart before (RFC 4724 §4.2).
    pub(super) fn restarting(&mut self, session: SessionId, families: FamilySet) {
        let id = session.peer;
        if !self.peers.get(&id).is_some_and(|peer| peer.has(session)) {
            return;
        }
        self.end_session(id);
        let gone = Family::ALL.map(|family| {
            let before = if families.contains(family) {
                self.take_stale(id, family)
            } else {
                Before::default()
            };
            self.begin_stale(id, family);
            if families.contains(family) {
                before
            } else {
                self.take_stale(id, family)
            }
        });
        self.withdraw_generations(id, gone);
        let next_hops = &self.rib.next_hops;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.restarting = true;
        let lost = |id| next_hops.reach(id) == Some(Reach::Unreachable);
        let dests: VecDeque<DestId> = peer.adj_in.notes_of(lost).collect();
        if !dests.is_empty() {
            let job = Job::Unreachable;
            self.work.items.push_back(Item { peer: id, dests, job });
        }
    }

    /// RFC 9494 §4.2: what is stale gets LLGR_STALE, or goes where it carries NO_LLGR; families that are not kept go.
    pub(super) fn long_lived(&mut self, session: SessionId, families: FamilySet) {
        let id = session.peer;
        if !self.peers.get(&id).is_some_and(|peer| peer.is_latest(session)) {
            return;
        }
        let not_kept = |family: &Family| !families.contains(*family);
        Family::ALL
            .into_iter()
            .filter(not_kept)
            .for_each(|family| self.end_stale(id, family));
        self.queue(id, Job::LongLived);
    }

    /// The peer is back, but its End-of-RIB did not come in time (RFC 4724 §4.2).
    pub(super) fn swept(&mut self, session: SessionId) {
        if self
            .peers
            .get(&session.peer)
            .is_some_and(|peer| peer.has(session))
        {
            Family::ALL
                .into_iter()
                .for_each(|family| self.end_stale(session.peer, family));
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
            let received = self.rib.attrs.intern(marked, &mut self.rib.next_hops);
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

    /// All of the peer's routes of a family are stale until they are announced again: it restarts, or RFC 7313 §4: after BoRR,
    /// what is not announced until EoRR. A second BoRR begins anew.
    pub(super) fn begin_stale(&mut self, id: PeerId, family: Family) {
        let has_room = |peer: &Peer| peer.generations(family).has_room();
        if !self.peers.get(&id).is_some_and(has_room) {
            self.merge_generations(id, family);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.generations_mut(family).begin_stale();
        }
    }

    /// What is still stale goes.
    pub(super) fn end_stale(&mut self, id: PeerId, family: Family) {
        let mut gone = [Before::default(); 2];
        if let Some(gone) = gone.get_mut(slot(family)) {
            *gone = self.take_stale(id, family);
        }
        self.withdraw_generations(id, gone);
    }

    fn take_stale(&mut self, id: PeerId, family: Family) -> Before {
        let peer = self.peers.get_mut(&id);
        peer.and_then(|peer| peer.generations_mut(family).end_stale())
            .unwrap_or_default()
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

    /// No further generation can be told apart: a peer that begins refresh after refresh and ends none. What is to be removed is removed
    /// now, and what is stale gets one generation.
    fn merge_generations(&mut self, id: PeerId, family: Family) {
        self.finish_items(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let current = peer.generation(family);
        let dests: Vec<DestId> = peer.adj_in.notes().collect();
        peer.generations_mut(family).reset();
        for dest in dests {
            if self
                .rib
                .table
                .prefix(dest)
                .is_none_or(|prefix| prefix.family() != family)
            {
                continue;
            }
            let mut next = self.rib.table.path_of(dest, id);
            while let Some(at) = next {
                next = self.rib.table.next_of(at, id);
                if let Some(path) = self.rib.table.at(at) {
                    let path = Path {
                        generation: current,
                        ..path
                    };
                    self.rib.table.replace(at, path);
                }
            }
        }
    }
}
