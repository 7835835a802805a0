//! State of a group member that catches up: a new member, one that requested a refresh, or a slow reader.
//!
//! Such a member does not receive the group's flushes. It has a cursor, below which it knows the Adj-RIB-Out,
//! and the set of destinations below the cursor that changed since. A catch-up step encodes from the
//! Adj-RIB-Out: first dirty destinations, then a range at the cursor. Memory: 4 bytes per changed destination
//! and two bits per destination.
//!
//! A destination that appears and disappears while the member catches up was never sent to it and can be
//! freed. So a member that does not read does not make the table grow.
//!
//! ```
//! use bgp_proto::export::catch_up::CatchUp;
//! use bgp_proto::rib::table::DestId;
//!
//! let mut slow_reader = CatchUp::from_now(); // it knows the whole Adj-RIB-Out
//! slow_reader.mark(DestId(7), true);
//! slow_reader.mark(DestId(7), true);
//! assert_eq!(slow_reader.take_dirty(100), [(DestId(7), true)]); // sent once, with its latest state
//! ```

use ::bytes::{Bytes, BytesMut};

use crate::rib::table::DestId;
use crate::types::FamilySet;
use crate::wire::{Refresh, RefreshKind, encode_end_of_rib};

/// A set of destinations.
#[derive(Clone, Debug, Default)]
struct BitSet(Vec<u64>);

impl BitSet {
    fn contains(&self, dest: DestId) -> bool {
        let word = self.0.get(dest.index() / 64);
        word.is_some_and(|word| word >> (dest.index() % 64) & 1 == 1)
    }

    fn insert(&mut self, dest: DestId) {
        let word = dest.index() / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (dest.index() % 64);
        }
    }

    fn remove(&mut self, dest: DestId) {
        if let Some(word) = self.0.get_mut(dest.index() / 64) {
            *word &= !(1 << (dest.index() % 64));
        }
    }
}

/// Catch-up state of a member.
#[derive(Clone, Debug)]
pub struct CatchUp {
    /// The member knows destinations below, except for dirty ones.
    pub cursor: u32,
    /// Destinations below were sent at some time: a change is recorded even above the cursor.
    sent_below: u32,
    /// Changed destinations that the member knows, each once, in order.
    dirty: Vec<DestId>,
    dirty_set: BitSet,
    /// Dirty destinations of which the member was sent nothing.
    never_sent: BitSet,
    /// Families whose End-of-RIB is still to be sent (RFC 4724 §2).
    pub end_of_rib: FamilySet,
    /// Families whose EoRR is still to be sent (RFC 7313 §4).
    pub end_of_refresh: FamilySet,
    /// The member may know destinations below from another group, even if this group does not send them.
    resync_below: u32,
}

/// The state with which a member joins a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinState {
    /// Families whose End-of-RIB is still to be sent (RFC 4724 §2).
    pub end_of_rib: FamilySet,
    /// Families whose EoRR is still to be sent (RFC 7313 §4).
    pub end_of_refresh: FamilySet,
    /// The member may know routes of destinations below: all that existed when it left its former group.
    pub resync_below: u32,
}

impl JoinState {
    /// A new session.
    #[must_use]
    pub fn new(families: FamilySet) -> Self {
        Self {
            end_of_rib: families,
            end_of_refresh: FamilySet::EMPTY,
            resync_below: 0,
        }
    }
}

impl CatchUp {
    /// A member that is to be sent everything, then the end markers.
    #[must_use]
    pub fn from_start(join_state: JoinState) -> Self {
        Self {
            cursor: 0,
            sent_below: 0,
            dirty: Vec::new(),
            dirty_set: BitSet::default(),
            never_sent: BitSet::default(),
            end_of_rib: join_state.end_of_rib,
            end_of_refresh: join_state.end_of_refresh,
            resync_below: join_state.resync_below,
        }
    }

    /// A member that knows everything so far and stops receiving flushes.
    #[must_use]
    pub fn from_now() -> Self {
        Self {
            cursor: u32::MAX,
            ..Self::from_start(JoinState::new(FamilySet::EMPTY))
        }
    }

    /// Whether the member may know a destination from another group.
    #[must_use]
    pub fn needs_resync(&self, dest: DestId) -> bool {
        dest.0 < self.resync_below
    }

    /// Whether the member knows the present state of a destination.
    #[must_use]
    pub fn is_current(&self, dest: DestId) -> bool {
        dest.0 < self.cursor.max(self.sent_below) && !self.dirty_set.contains(dest)
    }

    /// Sends everything again to a member that may know it.
    pub fn restart(&mut self) {
        self.sent_below = self.sent_below.max(self.cursor);
        self.cursor = 0;
    }

    /// Records a changed destination. `was_sent`: members on the fast path had been sent a route of it.
    pub fn mark(&mut self, dest: DestId, was_sent: bool) {
        if dest.0 >= self.cursor.max(self.sent_below) {
            return; // the cursor has yet to reach it
        }
        if self.dirty_set.contains(dest) {
            return;
        }
        self.dirty_set.insert(dest);
        self.dirty.push(dest);
        if !was_sent && !self.needs_resync(dest) {
            self.never_sent.insert(dest);
        }
    }

    /// Whether the member may know a destination that is no longer advertised.
    #[must_use]
    pub fn needs_withdrawal(&self, dest: DestId) -> bool {
        let changed = self.dirty_set.contains(dest) && !self.never_sent.contains(dest);
        changed || (self.needs_resync(dest) && dest.0 >= self.cursor)
    }

    /// Takes up to `limit` dirty destinations, each with whether the member may know it.
    pub fn take_dirty(&mut self, limit: usize) -> Vec<(DestId, bool)> {
        let rest = self.dirty.split_off(limit.min(self.dirty.len()));
        let taken = std::mem::replace(&mut self.dirty, rest);
        let take = |dest: DestId| {
            let is_known = !self.never_sent.contains(dest);
            self.dirty_set.remove(dest);
            self.never_sent.remove(dest);
            (dest, is_known)
        };
        taken.into_iter().map(take).collect()
    }

    /// The member's End-of-RIBs and EoRRs as messages.
    #[must_use]
    pub fn end_markers(&self) -> Option<Bytes> {
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

    /// Only the end markers are left to send.
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
        let mut catch_up = CatchUp::from_start(JoinState::new(FamilySet::EMPTY));
        catch_up.mark(DestId(3), true);
        assert!(catch_up.take_dirty(9).is_empty());
        catch_up.cursor = 100;
        for dest in [3, 70, 3, 99, 100] {
            catch_up.mark(DestId(dest), true);
        }
        assert_eq!(catch_up.take_dirty(2), [(DestId(3), true), (DestId(70), true)]);
        catch_up.mark(DestId(3), true);
        assert_eq!(catch_up.take_dirty(9), [(DestId(99), true), (DestId(3), true)]);
        assert!(catch_up.is_done(100) && !catch_up.is_done(101));
    }

    #[test]
    fn intermediate_states_are_skipped() {
        let mut catch_up = CatchUp::from_now();
        catch_up.mark(DestId(1), true);
        catch_up.mark(DestId(2), false);
        catch_up.mark(DestId(2), true); // and it is removed: the member has received neither
        assert!(
            catch_up.needs_withdrawal(DestId(1))
                && !catch_up.needs_withdrawal(DestId(2))
                && !catch_up.needs_withdrawal(DestId(3))
        );
        assert_eq!(catch_up.take_dirty(9), [(DestId(1), true), (DestId(2), false)]);
        catch_up.mark(DestId(2), true);
        assert!(catch_up.needs_withdrawal(DestId(2)));
        // A member from another group needs withdrawals for all that the cursor has not reached.
        let mut moved = CatchUp::from_start(JoinState {
            resync_below: 20,
            ..JoinState::new(FamilySet::EMPTY)
        });
        moved.cursor = 10;
        assert!(moved.needs_withdrawal(DestId(10)) && !moved.needs_withdrawal(DestId(9)));
        assert!(!moved.needs_withdrawal(DestId(20)), "it did not exist before");
        moved.mark(DestId(5), false);
        assert!(
            moved.needs_withdrawal(DestId(5)),
            "it may have received it in its other group"
        );
    }
}
