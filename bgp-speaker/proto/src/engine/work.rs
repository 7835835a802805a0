//! Work over many routes, done in slices: the end of a session, routes that were not announced again, changes
//! of a policy, a next hop or a pod block.
//!
//! Between two slices dirty destinations are decided and sent, and the caller can do other work: a query
//! waits for one slice, not for a million routes. A path keeps its effect until its slice is processed; a
//! source stays known until its last path is removed. An item identifies paths by generation, so that a path
//! announced after the item began is not affected by it.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Engine;
use super::adj_in::family_index;
use super::import::ImportCache;
use crate::rib::attrs::AttrId;
use crate::rib::generation::OlderGenerations;
use crate::rib::nexthop::NextHopId;
use crate::rib::table::{DestId, Path, PathIdx};
use crate::types::{Family, PeerId, Prefix};

/// Destinations per slice, a few milliseconds of work. The routes that a node of a large cluster learns from
/// one neighbor fit into one slice, so that the kernel learns of their loss without delay.
pub(super) const SLICE: usize = 32768;

/// Work on many destinations.
#[derive(Clone, Debug)]
pub(super) struct WorkItem {
    /// The source of the paths; [`PeerId::LOCAL`] for all sources.
    pub(super) peer: PeerId,
    pub(super) dests: VecDeque<DestId>,
    pub(super) job: Job,
}

/// What is done for each destination.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Remove the peer's paths of these generations, by family.
    Withdraw([OlderGenerations; 2]),
    /// Remove all paths of the peer: it is no longer configured.
    WithdrawAll,
    /// Evaluate the peer's paths again: its import policy changed.
    Reimport,
    /// Mark the peer's stale paths long-lived stale (RFC 9494 §4.2).
    LongLived,
    /// Remove the stale paths of a restarting peer over lost next hops.
    Unreachable(LostNextHops),
    /// Merge these generations of the peer's paths, by family.
    Merge([OlderGenerations; 2]),
    /// Decide and send the peer's paths again: its address, kind or identifier changed.
    SourceChanged,
    /// Report the peer's paths to the feeds: its session is up again.
    Feeds,
    /// Decide paths over these next hops again.
    NextHops(FxHashSet<NextHopId>, LostNextHops),
    /// Evaluate destinations inside these prefixes again: pod blocks changed.
    Blocks(Vec<Prefix>, DestId),
    /// Decide and send these destinations again: whether an aggregate replaces them changed.
    Decide,
    /// Decide and send all destinations again, from this one on.
    Everything(DestId),
}

/// Next hops that are unreachable when the item begins, and the stale generations of the peers restarting
/// then.
///
/// RFC 4724 §4.2 retains stale routes while the neighbor still forwards. Over a lost next hop it does not:
/// these routes are removed and do not return with the link.
#[derive(Clone, Debug, Default)]
pub(super) struct LostNextHops {
    pub(super) next_hops: FxHashSet<NextHopId>,
    pub(super) stale: FxHashMap<PeerId, [OlderGenerations; 2]>,
}

impl LostNextHops {
    fn covers(&self, path: &Path, family: Family, next_hop: Option<NextHopId>) -> bool {
        let stale = self
            .stale
            .get(&path.peer)
            .and_then(|all| all.get(family_index(family)));
        next_hop.is_some_and(|id| self.next_hops.contains(&id))
            && stale.is_some_and(|before| before.contains(path.generation))
    }
}

/// Import result of the last attributes: neighboring routes mostly share them.
#[derive(Default)]
pub(super) struct ReimportCache {
    key: Option<(PeerId, AttrId)>,
    pub(super) import: ImportCache,
}

impl ReimportCache {
    pub(super) fn set_key(&mut self, peer: PeerId, received: AttrId, engine: &mut Engine) {
        let key = Some((peer, received));
        if self.key != key {
            self.clear(engine);
            self.key = key;
        }
    }

    /// Releases its references.
    pub(super) fn release(mut self, engine: &mut Engine) {
        self.clear(engine);
    }

    fn clear(&mut self, engine: &mut Engine) {
        self.key = None;
        std::mem::take(&mut self.import).release(engine);
    }
}

impl Engine {
    /// Does one slice of the oldest item; returns false when there is none.
    pub(super) fn work_slice(&mut self) -> bool {
        let Some(mut item) = self.work.items.pop_front() else {
            return false;
        };
        if self.run_slice(&mut item) {
            self.end_item(&item);
        } else {
            self.work.items.push_front(item);
        }
        true
    }

    /// Does one slice of an item; returns true when the item is done.
    fn run_slice(&mut self, item: &mut WorkItem) -> bool {
        match &mut item.job {
            Job::Blocks(prefixes, cursor) => return self.blocks_slice(prefixes, cursor),
            Job::Everything(cursor) => {
                self.next_slice(cursor).for_each(|dest| self.decide_again(dest));
                return self.is_table_end(*cursor);
            }
            _ => {}
        }
        let slice: Vec<DestId> = item.dests.drain(..SLICE.min(item.dests.len())).collect();
        match &item.job {
            // In the order of the table, so that neighboring prefixes are sent together.
            Job::Withdraw(before) => {
                let gone = |path: &Path, family| {
                    before
                        .get(family_index(family))
                        .is_some_and(|b| b.contains(path.generation))
                };
                let looked_at = slice.len();
                slice
                    .into_iter()
                    .for_each(|dest| self.withdraw_where(item.peer, dest, &gone));
                self.compact_adj_in(item.peer, looked_at);
            }
            Job::WithdrawAll => slice
                .into_iter()
                .for_each(|dest| self.withdraw_where(item.peer, dest, &|_, _| true)),
            Job::Reimport => {
                let mut cache = ReimportCache::default();
                slice
                    .into_iter()
                    .for_each(|dest| self.reimport(item.peer, dest, &mut cache));
                cache.release(self);
            }
            Job::LongLived => slice
                .into_iter()
                .for_each(|dest| self.make_long_lived(item.peer, dest)),
            Job::Unreachable(lost) => slice
                .into_iter()
                .for_each(|dest| self.withdraw_unreachable(dest, lost)),
            Job::Merge(merged) => slice
                .into_iter()
                .for_each(|dest| self.merge(item.peer, dest, merged)),
            Job::SourceChanged => slice
                .into_iter()
                .for_each(|dest| self.invalidate_sent(item.peer, dest)),
            Job::Feeds => slice
                .into_iter()
                .for_each(|dest| self.requeue_to_feeds(item.peer, dest)),
            Job::Decide => slice.into_iter().for_each(|dest| self.decide_again(dest)),
            Job::NextHops(changed, lost) => slice
                .into_iter()
                .for_each(|dest| self.next_hop_changed(dest, changed, lost)),
            Job::Blocks(..) | Job::Everything(_) => {}
        }
        item.dests.is_empty()
    }

    fn end_item(&mut self, item: &WorkItem) {
        match &item.job {
            Job::Withdraw(before) => {
                if let Some(peer) = self.peers.get_mut(&item.peer) {
                    peer.generations_removed(*before);
                }
                self.forget_ended_source(item.peer);
            }
            Job::Merge(merged) => {
                if let Some(peer) = self.peers.get_mut(&item.peer) {
                    peer.generations_merged(*merged);
                }
            }
            Job::WithdrawAll => self.forget_ended_source(item.peer),
            // Changes that waited for it.
            Job::Decide => self.follow_conditions(),
            Job::Reimport
            | Job::LongLived
            | Job::Unreachable(_)
            | Job::SourceChanged
            | Job::Feeds
            | Job::NextHops(..)
            | Job::Blocks(..)
            | Job::Everything(_) => {}
        }
    }

    /// Finishes all work on a peer's paths at once, to free generations.
    pub(super) fn finish_items(&mut self, peer: PeerId) {
        let (mut mine, others): (VecDeque<WorkItem>, VecDeque<WorkItem>) =
            std::mem::take(&mut self.work.items)
                .into_iter()
                .partition(|item| item.peer == peer);
        self.work.items = others;
        for item in &mut mine {
            while !self.run_slice(item) {}
            self.end_item(item);
        }
    }

    fn decide_again(&mut self, dest: DestId) {
        if self.rib.table.first(dest).is_some() {
            self.mark_dirty(dest);
        }
    }

    /// The advertised form of this source's path may have changed.
    fn invalidate_sent(&mut self, peer: PeerId, dest: DestId) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        if self.rib.table.path_of(dest, peer).is_some() {
            let groups = self.groups.iter_mut().flatten();
            groups.for_each(|group| group.invalidate_sent(dest, prefix.family(), peer));
            self.mark_dirty(dest);
        }
    }

    /// Removes a source whose session ended and whose paths are removed.
    fn forget_ended_source(&mut self, id: PeerId) {
        let waits = self.work.items.iter().any(|item| item.peer == id);
        let peer = self.peers.get(&id);
        if waits || peer.is_some_and(|peer| peer.is_up() || peer.restarting) {
            return;
        }
        if peer.is_none() {
            self.remove_source(id);
        } else {
            self.rib.sources.peers.remove(&id);
        }
    }

    /// Removes the paths of a source to a destination that match.
    pub(super) fn withdraw_where(
        &mut self,
        peer: PeerId,
        dest: DestId,
        gone: &dyn Fn(&Path, Family) -> bool,
    ) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let mut next = self.rib.table.path_of(dest, peer);
        while let Some(at) = next {
            next = self.rib.table.next_of(at, peer);
            let Some(path) = self.rib.table.at(at).filter(|path| gone(path, prefix.family())) else {
                continue;
            };
            self.rib.table.remove(dest, at);
            self.path_removed(dest, prefix, &path);
        }
    }

    /// Bookkeeping for a path that was removed from the table.
    pub(super) fn path_removed(&mut self, dest: DestId, prefix: Prefix, path: &Path) {
        self.release(path);
        if let Some(peer) = self.peers.get_mut(&path.peer)
            && peer.generations(prefix.family()).is_counted(path.generation)
        {
            peer.adj_in.remove_paths(prefix.family(), 1);
        }
        self.queue_to_feeds(path.peer, path.path_id, &prefix);
        self.mark_dirty(dest);
    }

    /// Evaluates a source's paths to a destination again.
    pub(super) fn reimport(&mut self, peer: PeerId, dest: DestId, cache: &mut ReimportCache) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let mut next = self.rib.table.path_of(dest, peer);
        while let Some(at) = next {
            next = self.rib.table.next_of(at, peer);
            let Some(old) = self.rib.table.at(at) else {
                return;
            };
            cache.set_key(peer, old.received, self);
            let imported = self.import_path(peer, &prefix, old.received, &mut cache.import);
            if imported != old.imported {
                self.replace_path(dest, prefix, (at, &old), Path { imported, ..old });
            }
        }
    }

    /// Replaces a path by another of the same source.
    pub(super) fn replace_path(
        &mut self,
        dest: DestId,
        prefix: Prefix,
        (at, old): (PathIdx, &Path),
        new: Path,
    ) {
        self.retain(&new);
        self.rib.table.replace(at, new);
        let (before, now) = (self.next_hop_of(old), self.next_hop_of(&new));
        self.release(old);
        if before != now
            && let Some(peer) = self.peers.get_mut(&new.peer)
        {
            peer.adj_in.index(dest, now);
        }
        self.queue_to_feeds(new.peer, new.path_id, &prefix);
        self.mark_dirty(dest);
    }

    /// The next hop of a path after import.
    pub(super) fn next_hop_of(&self, path: &Path) -> Option<NextHopId> {
        path.imported.ok().map(|id| self.rib.attrs.next_hop(id))
    }

    /// Compacts the Adj-RIB-In index where stale entries outnumber the paths, in proportion to the
    /// withdrawals.
    pub(super) fn compact_adj_in(&mut self, id: PeerId, withdrawn: usize) {
        let (table, attrs) = (&self.rib.table, &self.rib.attrs);
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.adj_in.needs_compacting()
        {
            let limit = (8 * withdrawn + 64).min(2 * SLICE);
            let one_next_hop = peer.adj_in.has_one_next_hop();
            peer.adj_in.compact(limit, |dest, next_hop| {
                let mut found = table.path_of(dest, id);
                if one_next_hop {
                    return found.is_some();
                }
                while let Some(at) = found {
                    let imported = table.at(at).and_then(|path| path.imported.ok());
                    if imported.map(|id| attrs.next_hop(id)) == next_hop {
                        return true;
                    }
                    found = table.next_of(at, id);
                }
                false
            });
        }
    }

    fn withdraw_unreachable(&mut self, dest: DestId, lost: &LostNextHops) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let paths: Vec<(PathIdx, Path)> = self.rib.table.paths(dest).collect();
        for (at, path) in paths {
            if lost.covers(&path, prefix.family(), self.next_hop_of(&path)) {
                self.rib.table.remove(dest, at);
                self.path_removed(dest, prefix, &path);
            }
        }
    }

    /// Decides a destination again if one of its paths has a next hop that changed.
    fn next_hop_changed(&mut self, dest: DestId, changed: &FxHashSet<NextHopId>, lost: &LostNextHops) {
        if !lost.stale.is_empty() {
            self.withdraw_unreachable(dest, lost);
        }
        let is_affected = |path: &Path| self.next_hop_of(path).is_some_and(|id| changed.contains(&id));
        let affected = self.rib.table.paths(dest).any(|(_, path)| is_affected(&path));
        if affected {
            self.mark_dirty(dest);
        }
    }

    fn blocks_slice(&mut self, prefixes: &[Prefix], cursor: &mut DestId) -> bool {
        let mut cache = ReimportCache::default();
        for dest in self.next_slice(cursor) {
            let inside = |prefix: &Prefix| prefixes.iter().any(|block| block.contains(prefix));
            if !self.rib.table.prefix(dest).as_ref().is_some_and(inside) {
                continue;
            }
            let mut peers: Vec<PeerId> = self.rib.table.paths(dest).map(|(_, path)| path.peer).collect();
            peers.dedup();
            for peer in peers.into_iter().filter(|peer| *peer != PeerId::LOCAL) {
                self.reimport(peer, dest, &mut cache);
            }
        }
        cache.release(self);
        self.is_table_end(*cursor)
    }

    /// The next slice of the table.
    pub(super) fn next_slice(&self, cursor: &mut DestId) -> impl Iterator<Item = DestId> + use<> {
        let end = cursor.0.saturating_add(SLICE as u32);
        let begin = std::mem::replace(cursor, DestId(end.min(self.rib.table.bound())));
        (begin.0..cursor.0).map(DestId)
    }

    pub(super) fn is_table_end(&self, cursor: DestId) -> bool {
        cursor.0 >= self.rib.table.bound()
    }
}
