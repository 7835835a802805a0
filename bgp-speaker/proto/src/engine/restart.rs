//! Routes that outlive their session, or their last announcement, for a while: graceful restart (RFC 4724), long-lived stale
//! routes (RFC 9494), enhanced route refresh (RFC 7313).
//!
//! A sweep holds what was there when it began; what comes again leaves it, what is left at its end goes.

use super::import::Cached;
use super::peers::RefreshSweep;
use super::{Engine, SessionFacts};
use crate::rib::table::{DestId, Path};
use crate::types::{Community, Family, FamilySet, PathId, PeerId};
use crate::wire::Nlri;

impl Engine {
    /// RFC 4724 §4.2: routes kept for a restarting peer go at once unless its new OPEN says that it kept its
    /// forwarding state for their family.
    pub(super) fn forget_unkept(&mut self, id: PeerId, facts: &SessionFacts) {
        let restart = facts.negotiated.remote.graceful_restart();
        let kept = |family| restart.is_some_and(|restart| restart.families.contains(&(family, true)));
        for family in Family::ALL.into_iter().filter(|family| !kept(*family)) {
            self.end_sweep(id, family);
        }
    }

    /// The peer's routes of these families stay, marked stale; it hears nothing more.
    pub(super) fn restarting(&mut self, id: PeerId, families: FamilySet) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_up()) else {
            return;
        };
        peer.sweeps.clear();
        for family in Family::ALL {
            self.begin_sweep(id, family);
            if !families.contains(family) {
                self.end_sweep(id, family);
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.facts = None;
            peer.outstanding = 0;
        }
        self.leave_group(id);
        self.behind.retain(|behind| *behind != id);
    }

    /// RFC 9494 §4.2: what is stale gets LLGR_STALE, or goes where it carries NO_LLGR.
    pub(super) fn long_lived(&mut self, id: PeerId, families: FamilySet) {
        for family in Family::ALL
            .into_iter()
            .filter(|family| !families.contains(*family))
        {
            self.end_sweep(id, family);
        }
        let Some(peer) = self.peers.get(&id) else { return };
        let mut stale: Vec<_> = peer
            .sweeps
            .iter()
            .flat_map(|sweep| sweep.missing.iter().copied())
            .collect();
        stale.sort_unstable();
        for (dest, path_id) in stale {
            self.make_long_lived(id, dest, path_id);
        }
    }

    fn make_long_lived(&mut self, id: PeerId, dest: DestId, path_id: PathId) {
        let (Some(prefix), Some((at, old))) = (self.table.prefix(dest), self.table.path(dest, id, path_id))
        else {
            return;
        };
        let attrs = self.attrs.get(old.received);
        if attrs.has_community(Community::NO_LLGR) {
            return self.withdraw_all(id, [Nlri { path_id, prefix }]);
        }
        if attrs.has_community(Community::LLGR_STALE) {
            return;
        }
        let mut marked = attrs.clone();
        let communities = marked.communities.iter().copied();
        marked.communities = communities.chain([Community::LLGR_STALE]).collect();
        let received = self.attrs.intern(marked, &mut self.next_hops);
        let mut cached = Cached::default();
        let imported = self.imported(id, &prefix, received, &mut cached);
        let path = Path {
            received,
            imported,
            ..old
        };
        self.exchange(dest, prefix, (at, &old), path);
        cached.let_go(self);
        self.attrs.release(received, &mut self.next_hops);
    }

    /// RFC 7313 §4: after BoRR, what does not come again until EoRR is stale.
    pub(super) fn begin_sweep(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let table = &self.table;
        let of_family = |dest: &DestId| {
            table
                .prefix(*dest)
                .is_some_and(|prefix| prefix.family() == family)
        };
        let missing = peer
            .adj_in
            .notes()
            .iter()
            .filter(|dest| of_family(dest))
            .flat_map(|dest| {
                table
                    .paths(*dest)
                    .filter(|(_, path)| path.peer == id)
                    .map(|(_, path)| (*dest, path.path_id))
            });
        let missing = missing.collect();
        peer.sweeps.retain(|sweep| sweep.family != family);
        peer.sweeps.push(RefreshSweep { family, missing });
    }

    pub(super) fn end_sweep(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (done, rest) = std::mem::take(&mut peer.sweeps)
            .into_iter()
            .partition(|sweep| sweep.family == family);
        peer.sweeps = rest;
        let done: Vec<RefreshSweep> = done;
        let mut missing: Vec<_> = done.into_iter().flat_map(|sweep| sweep.missing).collect();
        missing.sort_unstable();
        let table = &self.table;
        let all = missing.into_iter();
        let gone: Vec<Nlri> = all
            .filter_map(|(dest, path_id)| {
                let prefix = table.prefix(dest)?;
                Some(Nlri { path_id, prefix })
            })
            .collect();
        self.withdraw_all(id, gone);
    }
}
