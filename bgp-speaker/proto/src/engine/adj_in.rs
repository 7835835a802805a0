//! Which destinations a peer has paths to, by the next hop that import left (RFC 4271 §3.2, Adj-RIB-In).
//!
//! So that a session's end costs what came from the peer, and a change of a next hop costs what uses it, however large the
//! table is. A destination is noted when a path appears and stays noted when it goes, until stale notes outnumber the live
//! ones; whoever goes through the notes looks whether the path is there.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::rib::nexthop::NextHopId;
use crate::rib::table::DestId;
use crate::types::Family;

#[derive(Clone, Debug)]
struct Bucket {
    /// `None`: import refused the path.
    next_hop: Option<NextHopId>,
    noted: Vec<DestId>,
}

/// Notes and counts of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct AdjIn {
    /// In the order of their first use.
    buckets: Vec<Bucket>,
    index: HashMap<Option<NextHopId>, usize, FxBuildHasher>,
    /// The bucket that was used last: neighbouring routes share their next hop.
    last: usize,
    noted: usize,
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

    /// Whether stale notes cost more than going through them.
    pub(super) fn is_bloated(&self) -> bool {
        self.noted > 2 * self.live.iter().sum::<usize>() + 64
    }

    /// Takes all notes, and forgets the counts.
    pub(super) fn take_notes(&mut self) -> VecDeque<DestId> {
        let mut buckets = std::mem::take(self).buckets.into_iter();
        let mut all = buckets.next().map(|bucket| bucket.noted).unwrap_or_default();
        buckets.for_each(|mut bucket| all.append(&mut bucket.noted));
        all.into()
    }

    /// Keeps the notes of paths that are there, each once.
    pub(super) fn compact(&mut self, is_live: impl Fn(DestId, Option<NextHopId>) -> bool) {
        for bucket in &mut self.buckets {
            bucket.noted.sort_unstable(); // most are in order already
            bucket.noted.dedup();
            bucket.noted.retain(|dest| is_live(*dest, bucket.next_hop));
            bucket.noted.shrink_to(2 * bucket.noted.len());
        }
        self.buckets.retain(|bucket| !bucket.noted.is_empty());
        self.index = (0..)
            .zip(&self.buckets)
            .map(|(place, bucket)| (bucket.next_hop, place))
            .collect();
        self.last = 0;
        self.noted = self.buckets.iter().map(|bucket| bucket.noted.len()).sum();
    }

    /// All notes; a destination may occur twice or be stale.
    pub(super) fn notes(&self) -> impl Iterator<Item = DestId> {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.noted.iter().copied())
    }

    /// The notes of these next hops.
    pub(super) fn notes_of(&self, wanted: impl Fn(NextHopId) -> bool) -> impl Iterator<Item = DestId> {
        let buckets = self
            .buckets
            .iter()
            .filter(move |bucket| bucket.next_hop.is_some_and(&wanted));
        buckets.flat_map(|bucket| bucket.noted.iter().copied())
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
        let of = |adj_in: &AdjIn, wanted| adj_in.notes_of(|found| found == wanted).count();
        assert_eq!((of(&adj_in, one), of(&adj_in, two)), (34, 33));
        assert_eq!((adj_in.notes().count(), adj_in.count(Family::Ipv4)), (100, 100));
        adj_in.removed(Family::Ipv4, 90);
        assert!(adj_in.is_bloated());
        // Those left moved to the other next hop.
        (0..10).for_each(|dest| adj_in.note(DestId(dest), Some(two)));
        adj_in.compact(|dest, next_hop| dest.0 < 10 && next_hop == Some(two));
        assert!(!adj_in.is_bloated());
        assert_eq!((of(&adj_in, one), of(&adj_in, two)), (0, 10));
        adj_in.added(DestId(50), Family::Ipv6, Some(one));
        assert_eq!((of(&adj_in, one), adj_in.count(Family::Ipv6)), (1, 1));
        assert_eq!(adj_in.take_notes().len(), 11);
        assert_eq!((adj_in.count(Family::Ipv4), adj_in.notes().count()), (0, 0));
    }
}
