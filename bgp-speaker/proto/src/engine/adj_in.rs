//! Adj-RIB-In index: the destinations that a peer has paths to, by next hop after import (RFC 4271 §3.2).
//!
//! With it the end of a session costs as much as the peer announced, and a change of a next hop costs as much
//! as uses it, whatever the size of the table. A destination is entered when a path appears and stays when
//! the path is removed. Readers therefore check that the path exists. When stale entries outnumber the live
//! ones they are removed, a part at a time.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::rib::nexthop::NextHopId;
use crate::rib::table::DestId;
use crate::types::Family;

#[derive(Clone, Debug)]
struct Bucket {
    /// `None`: import rejected the path.
    next_hop: Option<NextHopId>,
    dests: Vec<DestId>,
}

#[derive(Clone, Debug, Default)]
struct DestIndex {
    /// In the order of first use.
    buckets: Vec<Bucket>,
    index: HashMap<Option<NextHopId>, usize, FxBuildHasher>,
    /// The bucket used last: neighboring routes mostly share their next hop.
    last: usize,
    count: usize,
}

impl DestIndex {
    fn add(&mut self, dest: DestId, next_hop: Option<NextHopId>) {
        let bucket_index = self.bucket_index(next_hop);
        if let Some(bucket) = self.buckets.get_mut(bucket_index) {
            bucket.dests.push(dest);
            self.count += 1;
        }
    }

    fn bucket_index(&mut self, next_hop: Option<NextHopId>) -> usize {
        if self
            .buckets
            .get(self.last)
            .is_some_and(|bucket| bucket.next_hop == next_hop)
        {
            return self.last;
        }
        let buckets = &mut self.buckets;
        self.last = *self.index.entry(next_hop).or_insert_with(|| {
            let dests = Vec::new();
            buckets.push(Bucket { next_hop, dests });
            buckets.len() - 1
        });
        self.last
    }

    fn iter(&self) -> impl Iterator<Item = DestId> {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.dests.iter().copied())
    }

    fn via(&self, next_hops: &FxHashSet<NextHopId>) -> impl Iterator<Item = DestId> {
        // Iterate over the shorter list.
        let by_id = next_hops.len() < self.buckets.len();
        let indices = next_hops
            .iter()
            .filter(move |_| by_id)
            .filter_map(|id| self.index.get(&Some(*id)));
        let found = indices.filter_map(|bucket_index| self.buckets.get(*bucket_index));
        let is_listed = |bucket: &&Bucket| bucket.next_hop.is_some_and(|id| next_hops.contains(&id));
        let all = self.buckets.iter().filter(move |_| !by_id).filter(is_listed);
        found.chain(all).flat_map(|bucket| bucket.dests.iter().copied())
    }

    /// Sorts the entries and removes duplicates, so that [`DestIndex::pop`] begins with the lowest of the
    /// first bucket.
    fn sort_for_pop(&mut self) {
        for bucket in &mut self.buckets {
            bucket.dests.sort(); // most are in order already
            bucket.dests.dedup();
            bucket.dests.reverse();
        }
        self.count = self.buckets.iter().map(|bucket| bucket.dests.len()).sum();
    }

    /// Removes one entry. Buckets keep their position.
    fn pop(&mut self, bucket_index: &mut usize) -> Option<(DestId, Option<NextHopId>)> {
        loop {
            let bucket = self.buckets.get_mut(*bucket_index)?;
            if let Some(dest) = bucket.dests.pop() {
                self.count -= 1;
                return Some((dest, bucket.next_hop));
            }
            bucket.dests = Vec::new();
            *bucket_index += 1;
        }
    }
}

/// Index and path counts of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct AdjIn {
    current: DestIndex,
    /// The index being compacted: its live entries move to `current`, a part at a time.
    compacting: DestIndex,
    /// The bucket of `compacting` that is processed next.
    next_bucket: usize,
    path_counts: [usize; 2],
}

/// The position of a family in arrays by family.
pub(super) fn family_index(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl AdjIn {
    /// Counts and indexes a new path.
    pub(super) fn insert_path(&mut self, dest: DestId, family: Family, next_hop: Option<NextHopId>) {
        self.index(dest, next_hop);
        if let Some(count) = self.path_counts.get_mut(family_index(family)) {
            *count += 1;
        }
    }

    /// Indexes a path that is already counted under its new next hop.
    pub(super) fn index(&mut self, dest: DestId, next_hop: Option<NextHopId>) {
        self.current.add(dest, next_hop);
    }

    /// Uncounts removed paths.
    pub(super) fn remove_paths(&mut self, family: Family, count: usize) {
        if let Some(paths) = self.path_counts.get_mut(family_index(family)) {
            *paths = paths.saturating_sub(count);
        }
    }

    /// Number of paths of a family.
    pub(super) fn count(&self, family: Family) -> usize {
        self.path_counts.get(family_index(family)).copied().unwrap_or(0)
    }

    /// Number of entries, stale ones included.
    pub(super) fn indexed(&self) -> usize {
        self.compacting.count + self.current.count
    }

    /// Whether stale entries cost more than removing them.
    fn has_excess(&self) -> bool {
        self.indexed() > 2 * self.path_counts.iter().sum::<usize>() + 64
    }

    /// Takes all entries and resets the counts.
    pub(super) fn take_dests(&mut self) -> VecDeque<DestId> {
        let taken = std::mem::take(self);
        let mut buckets = taken.compacting.buckets.into_iter().chain(taken.current.buckets);
        let mut all = buckets.next().map(|bucket| bucket.dests).unwrap_or_default();
        buckets.for_each(|mut bucket| all.append(&mut bucket.dests));
        all.into()
    }

    /// Whether all indexed paths have the same next hop.
    pub(super) fn has_one_next_hop(&self) -> bool {
        let mut buckets = self.compacting.buckets.iter().chain(&self.current.buckets);
        let first = buckets.next().map(|bucket| bucket.next_hop);
        buckets.all(|bucket| Some(bucket.next_hop) == first)
    }

    /// Whether [`AdjIn::compact`] has work to do.
    pub(super) fn needs_compacting(&self) -> bool {
        self.compacting.count > 0 || self.has_excess()
    }

    /// Checks up to `limit` entries and keeps those whose path exists, each once.
    pub(super) fn compact(&mut self, limit: usize, is_live: impl Fn(DestId, Option<NextHopId>) -> bool) {
        if self.compacting.count == 0 {
            if !self.has_excess() {
                return;
            }
            self.compacting = std::mem::take(&mut self.current);
            self.compacting.sort_for_pop();
            self.next_bucket = 0;
        }
        for _ in 0..limit {
            let Some((dest, next_hop)) = self.compacting.pop(&mut self.next_bucket) else {
                break;
            };
            if is_live(dest, next_hop) {
                self.current.add(dest, next_hop);
            }
        }
        if self.compacting.count == 0 {
            self.compacting = DestIndex::default();
        }
    }

    /// All entries; a destination may occur twice or be stale.
    pub(super) fn dests(&self) -> impl Iterator<Item = DestId> {
        self.compacting.iter().chain(self.current.iter())
    }

    /// Next hops of the paths; some may be stale.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = NextHopId> {
        let buckets = self.compacting.buckets.iter().chain(&self.current.buckets);
        buckets.filter_map(|bucket| bucket.next_hop)
    }

    /// Entries of these next hops.
    pub(super) fn dests_via(&self, next_hops: &FxHashSet<NextHopId>) -> impl Iterator<Item = DestId> {
        self.compacting.via(next_hops).chain(self.current.via(next_hops))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::nexthop::NextHops;

    #[test]
    fn notes_are_found_by_next_hop_and_compacted() {
        let mut next_hops = NextHops::default();
        let (one, two) = (
            next_hops.retain([192, 0, 2, 1].into()),
            next_hops.retain([192, 0, 2, 2].into()),
        );
        let mut adj_in = AdjIn::default();
        for dest in 0..100 {
            adj_in.insert_path(
                DestId(dest),
                Family::Ipv4,
                [Some(one), Some(two), None][dest as usize % 3],
            );
        }
        let via = |adj_in: &AdjIn, next_hops| adj_in.dests_via(&[next_hops].into_iter().collect()).count();
        assert_eq!((via(&adj_in, one), via(&adj_in, two)), (34, 33));
        assert_eq!((adj_in.dests().count(), adj_in.count(Family::Ipv4)), (100, 100));
        adj_in.remove_paths(Family::Ipv4, 90);
        assert!(adj_in.has_excess());
        // The remaining paths moved to the other next hop.
        (0..10).for_each(|dest| adj_in.index(DestId(dest), Some(two)));
        let is_live = |dest: DestId, next_hop| dest.0 < 10 && next_hop == Some(two);
        adj_in.compact(50, is_live);
        // During compaction no entry is missing.
        let mut live: Vec<DestId> = adj_in.dests().filter(|dest| dest.0 < 10).collect();
        live.dedup();
        live.sort_unstable();
        live.dedup();
        assert_eq!(live.len(), 10);
        assert!(adj_in.needs_compacting() && adj_in.indexed() < 110);
        adj_in.compact(1000, is_live);
        assert!(!adj_in.needs_compacting());
        assert_eq!((via(&adj_in, one), via(&adj_in, two)), (0, 10));
        adj_in.insert_path(DestId(50), Family::Ipv6, Some(one));
        assert_eq!((via(&adj_in, one), adj_in.count(Family::Ipv6)), (1, 1));
        assert_eq!(adj_in.take_dests().len(), 11);
        assert_eq!((adj_in.count(Family::Ipv4), adj_in.dests().count()), (0, 0));
    }
}
