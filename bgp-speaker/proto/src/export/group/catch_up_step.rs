//! Catch-up steps: a member is sent private chunks until it has the present state.

use super::{ExportCache, Group, release, without_path_id};
use crate::export::add_path::Paths;
use crate::export::chunk::Chunk;
use crate::export::rib::Rib;
use crate::rib::table::DestId;
use crate::types::{PathId, PeerId, Prefix};
use crate::wire::Nlri;

/// Most prefixes that a step sends, and most destinations that it visits.
const STEP_PREFIXES: usize = 4096;
const STEP_DESTS: u32 = 65536;

impl Group {
    /// Does one step for a member: returns its chunk, and whether it has caught up.
    pub fn catch_up(&mut self, peer: PeerId, rib: &mut Rib) -> (Chunk, bool) {
        let bound = rib.table.bound();
        let Some(mut catch_up) = self.catching_up.remove(&peer) else {
            return (Chunk::default(), true);
        };
        let dirty = catch_up.take_dirty(STEP_PREFIXES);
        for (dest, is_known) in &dirty {
            self.queue_current(peer, *dest, *is_known, rib);
        }
        let mut queued = dirty.len();
        let stop = catch_up.cursor.saturating_add(STEP_DESTS).min(bound);
        while catch_up.cursor < stop && queued < STEP_PREFIXES {
            let dest = DestId(catch_up.cursor);
            self.fill_to(dest, rib);
            queued += usize::from(self.queue_current(peer, dest, catch_up.needs_resync(dest), rib));
            catch_up.cursor += 1;
        }
        self.export_cache = ExportCache::default();
        let mut chunk = self.encode(rib);
        let done = catch_up.is_done(bound);
        if done {
            self.complete = true;
            if let Some(ends) = catch_up.end_markers() {
                chunk.private.push((peer, ends));
            }
        } else {
            self.catching_up.insert(peer, catch_up);
        }
        (chunk, done)
    }

    /// Fills the Adj-RIB-Out up to and including this destination; no member has received the rest yet.
    fn fill_to(&mut self, dest: DestId, rib: &mut Rib) {
        while self.filled <= dest.0 {
            let next = DestId(self.filled);
            if let Some(prefix) = rib.table.prefix(next) {
                if self.uses_add_path(prefix.family()) {
                    let changes = self.replace_add_path(next, prefix, rib);
                    changes.into_iter().for_each(|(_, old, _)| release(old, rib));
                    self.filled += 1;
                    continue;
                }
                let best = rib.sources.best(&rib.table, next, &rib.attrs, &rib.next_hops);
                let (old, _) = self.replace(next, prefix, best, rib);
                release(old, rib);
            }
            self.filled += 1;
        }
    }

    /// Queues the present state of a destination for one member; returns whether there was something to send.
    fn queue_current(&mut self, peer: PeerId, dest: DestId, withdraw: bool, rib: &Rib) -> bool {
        let Some(prefix) = rib.table.prefix(dest) else {
            return false;
        };
        if !self.key.families.contains(prefix.family()) {
            return false;
        }
        if self.uses_add_path(prefix.family()) {
            return self.queue_current_add_path(peer, dest, prefix, withdraw, rib);
        }
        let sent = self
            .adj_out
            .get(dest)
            .filter(|sent| self.adj_out.is_sent_to(sent, peer));
        let needed = sent.is_some() || withdraw;
        if needed {
            self.packer.queue_for_member(without_path_id(prefix), sent, peer);
        }
        needed
    }

    fn queue_current_add_path(
        &mut self,
        peer: PeerId,
        dest: DestId,
        prefix: Prefix,
        withdraw: bool,
        rib: &Rib,
    ) -> bool {
        let paths = self
            .add_path_out
            .get(dest)
            .iter()
            .filter(|(_, sent)| self.adj_out.is_sent_to(sent, peer));
        let paths: Paths = paths.copied().collect();
        let mut queued = false;
        for (path_id, sent) in &paths {
            let nlri = Nlri {
                path_id: *path_id,
                prefix,
            };
            self.packer.queue_for_member(nlri, Some(*sent), peer);
            queued = true;
        }
        if !withdraw {
            return queued;
        }
        let present = rib.table.paths(dest).map(|(at, _)| at.export_id());
        let mut forget: Vec<PathId> = present.chain(self.add_path_out.withdrawn_ids(dest)).collect();
        forget.sort_unstable();
        forget.dedup();
        forget.retain(|id| !paths.iter().any(|(queued, _)| queued == id));
        for path_id in forget {
            self.packer.queue_for_member(Nlri { path_id, prefix }, None, peer);
            queued = true;
        }
        queued
    }
}
