//! Members that are behind: each gets chunks of its own until it has what the group was sent.

use super::{Asked, Group, release, single};
use crate::export::chunk::Chunk;
use crate::export::rib::Rib;
use crate::export::several::Paths;
use crate::rib::table::DestId;
use crate::types::{PathId, PeerId, Prefix};
use crate::wire::Nlri;

/// How many prefixes one catch-up step tells, and how many destinations it looks at.
const STEP_PREFIXES: usize = 4096;
const STEP_DESTS: u32 = 65536;

impl Group {
    /// One step for a member that is behind: a chunk for it alone, and whether it has caught up.
    pub fn catch_up(&mut self, peer: PeerId, rib: &mut Rib) -> (Chunk, bool) {
        let bound = rib.table.bound();
        let Some(mut lagging) = self.lagging.remove(&peer) else {
            return (Chunk::default(), true);
        };
        let dirty = lagging.take_dirty(STEP_PREFIXES);
        for (dest, is_known) in &dirty {
            self.tell_member(peer, *dest, *is_known, rib);
        }
        let mut told = dirty.len();
        let stop = lagging.cursor.saturating_add(STEP_DESTS).min(bound);
        while lagging.cursor < stop && told < STEP_PREFIXES {
            let dest = DestId(lagging.cursor);
            self.fill_to(dest, rib);
            told += usize::from(self.tell_member(peer, dest, lagging.is_resynced(dest), rib));
            lagging.cursor += 1;
        }
        self.asked = Asked::default();
        let mut chunk = self.encode(rib);
        let done = lagging.is_done(bound);
        if done {
            self.complete = true;
            if let Some(ends) = lagging.ends() {
                chunk.private.push((peer, ends));
            }
        } else {
            self.lagging.insert(peer, lagging);
        }
        (chunk, done)
    }

    /// Takes destinations up to and with this one into the Adj-RIB-Out; members past them are none yet.
    fn fill_to(&mut self, dest: DestId, rib: &mut Rib) {
        while self.filled <= dest.0 {
            let next = DestId(self.filled);
            if let Some(prefix) = rib.table.prefix(next) {
                if self.takes_several(prefix.family()) {
                    let changes = self.replace_several(next, prefix, rib);
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

    /// Tells one member the present state; says whether there was something to tell.
    fn tell_member(&mut self, peer: PeerId, dest: DestId, withdraw: bool, rib: &Rib) -> bool {
        let Some(prefix) = rib.table.prefix(dest) else {
            return false;
        };
        if !self.key.families.contains(prefix.family()) {
            return false;
        }
        if self.takes_several(prefix.family()) {
            return self.tell_member_several(peer, dest, prefix, withdraw, rib);
        }
        let sent = self
            .adj_out
            .get(dest)
            .filter(|sent| self.adj_out.is_for(sent, peer));
        let tell = sent.is_some() || withdraw;
        if tell {
            self.packer.tell_one(single(prefix), sent, peer);
        }
        tell
    }

    fn tell_member_several(
        &mut self,
        peer: PeerId,
        dest: DestId,
        prefix: Prefix,
        withdraw: bool,
        rib: &Rib,
    ) -> bool {
        let paths = self
            .several
            .get(dest)
            .iter()
            .filter(|(_, sent)| self.adj_out.is_for(sent, peer));
        let paths: Paths = paths.copied().collect();
        let mut told = false;
        for (path_id, sent) in &paths {
            let nlri = Nlri {
                path_id: *path_id,
                prefix,
            };
            self.packer.tell_one(nlri, Some(*sent), peer);
            told = true;
        }
        if !withdraw {
            return told;
        }
        let there = rib.table.paths(dest).map(|(at, _)| at.export_id());
        let mut forget: Vec<PathId> = there.chain(self.several.gone(dest)).collect();
        forget.sort_unstable();
        forget.dedup();
        forget.retain(|id| !paths.iter().any(|(told, _)| told == id));
        for path_id in forget {
            self.packer.tell_one(Nlri { path_id, prefix }, None, peer);
            told = true;
        }
        told
    }
}
