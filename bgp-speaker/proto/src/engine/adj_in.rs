//! Which destinations a peer has paths to, by the next hop that import left (RFC 4271 §3.2, Adj-RIB-In).
//!
//! So that a session's end costs what came from the peer, and a change of a next hop costs what uses it, however large the
//! table is. A destination is noted when a path appears and stays noted when it goes, until stale notes outnumber the live
//! ones; whoever goes through the notes looks whether the path is there.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::{FxBuildHasher, FxHashSet};

use crate::rib::nexthop::NextHopId;
use crate::rib::table::DestId;
use crate::types::Family;

#[derive(Clone, Debug)]
struct Bucket {
    /// `None`: import refused the path.
    next_hop: Option<NextHopId>,
    noted: Vec<DestId>,
}

#[derive(Clone, Debug, Default)]
struct Notes {
    /// In the order of their first use.
    buckets: Vec<Bucket>,
    index: HashMap<Option<NextHopId>, usize, FxBuildHasher>,
    /// The bucket that was used last: neighbouring routes share their next hop.
    last: usize,
    noted: usize,
}

impl Notes {
    fn add(&mut self, dest: DestId, next_hop: Option<NextHopId>) {
        let place = self.place(next_hop);
        if let Some(bucket) = self.buckets.get_mut(place) {
            bucket.noted.push(dest);
            self.noted += 1;
        }
    }

    fn place(&mut self, next_hop: Option<NextHopId>) -> usize {
        if self
            .buckets
            .get(self.last)
            .is_some_and(|bucket| bucket.next_hop == next_hop)
        {
            return self.last;
        }
        let buckets = &mut self.buckets;
        self.last = *self.index.entry(next_hop).or_insert_with(|| {
            let noted = Vec::new();
            buckets.push(Bucket { next_hop, noted });
            buckets.len() - 1
        });
        self.last
    }

    fn iter(&self) -> impl Iterator<Item = DestId> {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.noted.iter().copied())
    }

    fn of(&self, wanted: &FxHashSet<NextHopId>) -> impl Iterator<Item = DestId> {
        // Whichever list is the shorter.
        let few = wanted.len() < self.buckets.len();
        let places = wanted
            .iter()
            .filter(move |_| few)
            .filter_map(|id| self.index.get(&Some(*id)));
        let found = places.filter_map(|place| self.buckets.get(*place));
        let is_wanted = |bucket: &&Bucket| bucket.next_hop.is_some_and(|id| wanted.contains(&id));
        let all = self.buckets.iter().filter(move |_| !few).filter(is_wanted);
        found.chain(all).flat_map(|bucket| bucket.noted.iter().copied())
    }

    /// Sorts them, each once, so that [`Notes::pop`] begins with the lowest of the last bucket.
    fn prepare(&mut self) {
        for bucket in &mut self.buckets {
            bucket.noted.sort(); // most are in order already
            bucket.noted.dedup();
            bucket.noted.reverse();
        }
        self.noted = self.buckets.iter().map(|bucket| bucket.noted.len()).sum();
    }

    /// Takes one away. Buckets keep their places.
    fn pop(&mut self, place: &mut usize) -> Option<(DestId, Option<NextHopId>)> {
        loop {
            let bucket = self.buckets.get_mut(*place)?;
            if let Some(dest) = bucket.noted.pop() {
                self.noted -= 1;
                return Some((dest, bucket.next_hop));
            }
            bucket.noted = Vec::new();
            *place += 1;
        }
    }
}

/// Notes and counts of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct AdjIn {
    notes: Notes,
    /// Notes from before, of which the live ones are moved to the others, some at a time.
    old: Notes,
    /// The bucket of `old` whose turn it is.
    turn: usize,
    live: [usize; 2],
}

/// The place of a family in arrays by family.
pub(super) fn slot(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl AdjIn {
    /// A path appeared.
    pub(super) fn added(&mut self, dest: DestId, family: Family, next_hop: Option<NextHopId>) {
        self.note(dest, next_hop);
        if let Some(live) = self.live.get_mut(slot(family)) {
            *live += 1;
        }
    }

    /// A path that is counted has this next hop from now on.
    pub(super) fn note(&mut self, dest: DestId, next_hop: Option<NextHopId>) {
        self.notes.add(dest, next_hop);
    }

    /// Paths went.
    pub(super) fn removed(&mut self, family: Family, count: usize) {
        if let Some(live) = self.live.get_mut(slot(family)) {
            *live = live.saturating_sub(count);
        }
    }

    /// Paths of a family.
    pub(super) fn count(&self, family: Family) -> usize {
        self.live.get(slot(family)).copied().unwrap_or(0)
    }

    /// How many notes there are.
    pub(super) fn noted(&self) -> usize {
        self.old.noted + self.notes.noted
    }

    /// Whether stale notes cost more than going through them.
    fn is_bloated(&self) -> bool {
        self.noted() > 2 * self.live.iter().sum::<usize>() + 64
    }

    /// Takes all notes, and forgets the counts.
    pub(super) fn take_notes(&mut self) -> VecDeque<DestId> {
        let taken = std::mem::take(self);
        let mut buckets = taken.old.buckets.into_iter().chain(taken.notes.buckets);
        let mut all = buckets.next().map(|bucket| bucket.noted).unwrap_or_default();
        buckets.for_each(|mut bucket| all.append(&mut bucket.noted));
        all.into()
    }

    /// Whether all paths noted have the same next hop.
    pub(super) fn has_one_next_hop(&self) -> bool {
        let mut buckets = self.old.buckets.iter().chain(&self.notes.buckets);
        let first = buckets.next().map(|bucket| bucket.next_hop);
        buckets.all(|bucket| Some(bucket.next_hop) == first)
    }

    /// Whether [`AdjIn::compact`] has something to do.
    pub(super) fn wants_compacting(&self) -> bool {
        self.old.noted > 0 || self.is_bloated()
    }

    /// Looks at `most` notes, and keeps those of paths that are there, each once.
    pub(super) fn compact(&mut self, most: usize, is_live: impl Fn(DestId, Option<NextHopId>) -> bool) {
        if self.old.noted == 0 {
            if !self.is_bloated() {
                return;
            }
            self.old = std::mem::take(&mut self.notes);
            self.old.prepare();
            self.turn = 0;
        }
        for _ in 0..most {
            let Some((dest, next_hop)) = self.old.pop(&mut self.turn) else {
                break;
            };
            if is_live(dest, next_hop) {
                self.notes.add(dest, next_hop);
            }
        }
        if self.old.noted == 0 {
            self.old = Notes::default();
        }
    }

    /// All notes; a destination may occur twice or be stale.
    pub(super) fn notes(&self) -> impl Iterator<Item = DestId> {
        self.old.iter().chain(self.notes.iter())
    }

    /// The next hops of the paths; some may be in use no more.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = NextHopId> {
        let buckets = self.old.buckets.iter().chain(&self.notes.buckets);
        buckets.filter_map(|bucket| bucket.next_hop)
    }

    /// The notes of these next hops.
    pub(super) fn notes_of(&self, wanted: &FxHashSet<NextHopId>) -> impl Iterator<Item = DestId> {
        self.old.of(wanted).chain(self.notes.of(wanted))
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
            adj_in.added(
                DestId(dest),
                Family::Ipv4,
                [Some(one), Some(two), None][dest as usize % 3],
            );
        }
        let of = |adj_in: &AdjIn, wanted| adj_in.notes_of(&[wanted].into_iter().collect()).count();
        assert_eq!((of(&adj_in, one), of(&adj_in, two)), (34, 33));
        assert_eq!((adj_in.notes().count(), adj_in.count(Family::Ipv4)), (100, 100));
        adj_in.removed(Family::Ipv4, 90);
        assert!(adj_in.is_bloated());
        // Those left moved to the other next hop.
        (0..10).for_each(|dest| adj_in.note(DestId(dest), Some(two)));
        let is_live = |dest: DestId, next_hop| dest.0 < 10 && next_hop == Some(two);
        adj_in.compact(50, is_live);
        // Halfway through nothing is missing.
        let mut live: Vec<DestId> = adj_in.notes().filter(|dest| dest.0 < 10).collect();
        live.dedup();
        live.sort_unstable();
        live.dedup();
        assert_eq!(live.len(), 10);
        assert!(adj_in.wants_compacting() && adj_in.noted() < 110);
        adj_in.compact(1000, is_live);
        assert!(!adj_in.wants_compacting());
        assert_eq!((of(&adj_in, one), of(&adj_in, two)), (0, 10));
        adj_in.added(DestId(50), Family::Ipv6, Some(one));
        assert_eq!((of(&adj_in, one), adj_in.count(Family::Ipv6)), (1, 1));
        assert_eq!(adj_in.take_notes().len(), 11);
        assert_eq!((adj_in.count(Family::Ipv4), adj_in.notes().count()), (0, 0));
    }
}
