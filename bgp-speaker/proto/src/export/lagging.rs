//! A member that is behind its group: a new one, one that asked for a refresh, or a slow reader.
//!
//! Such a member gets nothing of the group's flushes. It has a cursor, up to which it knows the
//! Adj-RIB-Out, and the set of destinations below the cursor that changed since. Serving it means
//! encoding from the Adj-RIB-Out: the dirty ones, then a stretch at the cursor. Its cost is 4 bytes per
//! destination that changed and one bit per destination.

use ::bytes::{Bytes, BytesMut};

use crate::rib::table::DestId;
use crate::types::FamilySet;
use crate::wire::{Refresh, RefreshKind, encode_end_of_rib};

/// How far a member is behind.
#[derive(Clone, Debug)]
pub struct Lagging {
    /// Destinations below are known to the member, but for the dirty ones.
    pub cursor: u32,
    /// Destinations below were told at some time: a change there is news even before the cursor comes by again.
    known: u32,
    /// Changed where the member knows, each once, in order.
    dirty: Vec<DestId>,
    marks: Vec<u64>,
    /// Families whose End-of-RIB is still to be sent (RFC 4724 §2).
    pub end_of_rib: FamilySet,
    /// Families whose EoRR is still to be sent (RFC 7313 §4).
    pub end_of_refresh: FamilySet,
    /// Destinations that the group does not send may still be known to the member from before: withdraw them.
    pub resync: bool,
}

impl Lagging {
    /// A member that is to be told everything, then End-of-RIB. `resync`: it may know routes from before.
    #[must_use]
    pub fn from_start(end_of_rib: FamilySet, resync: bool) -> Self {
        let (dirty, marks) = (Vec::new(), Vec::new());
        Self {
            cursor: 0,
            known: 0,
            dirty,
            marks,
            end_of_rib,
            end_of_refresh: FamilySet::EMPTY,
            resync,
        }
    }

    /// A member that knows everything up to now, and stops following.
    #[must_use]
    pub fn from_now() -> Self {
        Self {
            cursor: u32::MAX,
            ..Self::from_start(FamilySet::EMPTY, false)
        }
    }

    /// Everything is to be told again to a member that may know it.
    pub fn restart(&mut self) {
        self.known = self.known.max(self.cursor);
        self.cursor = 0;
    }

    /// A destination changed.
    pub fn mark(&mut self, dest: DestId) {
        if dest.0 >= self.cursor.max(self.known) {
            return; // the cursor will come by
        }
        let (word, bit) = (dest.index() / 64, 1u64 << (dest.index() % 64));
        if word >= self.marks.len() {
            self.marks.resize(word + 1, 0);
        }
        if let Some(marks) = self.marks.get_mut(word)
            && *marks & bit == 0
        {
            *marks |= bit;
            self.dirty.push(dest);
        }
    }

    /// Takes at most `most` dirty destinations.
    pub fn take_dirty(&mut self, most: usize) -> Vec<DestId> {
        let rest = self.dirty.split_off(most.min(self.dirty.len()));
        let taken = std::mem::replace(&mut self.dirty, rest);
        for dest in &taken {
            if let Some(marks) = self.marks.get_mut(dest.index() / 64) {
                *marks &= !(1 << (dest.index() % 64));
            }
        }
        taken
    }

    /// End-of-RIB and EoRR of a member that has caught up, as messages.
    #[must_use]
    pub fn ends(&self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        self.end_of_rib
            .iter()
            .for_each(|family| encode_end_of_rib(&mut out, family));
        for family in self.end_of_refresh.iter() {
            let kind = RefreshKind::End;
            out.extend_from_slice(&Refresh { family, kind }.encode());
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Nothing is left to tell but the ends.
    #[must_use]
    pub fn is_done(&self, bound: u32) -> bool {
        self.cursor >= bound && self.dirty.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_once_and_only_below_the_cursor() {
        let mut lagging = Lagging::from_start(FamilySet::EMPTY, false);
        lagging.mark(DestId(3));
        assert!(lagging.take_dirty(9).is_empty());
        lagging.cursor = 100;
        for dest in [3, 70, 3, 99, 100] {
            lagging.mark(DestId(dest));
        }
        assert_eq!(lagging.take_dirty(2), [DestId(3), DestId(70)]);
        lagging.mark(DestId(3));
        assert_eq!(lagging.take_dirty(9), [DestId(99), DestId(3)]);
        assert!(lagging.is_done(100) && !lagging.is_done(101));
    }
}
