//! Generations of a peer's paths, which separate paths from before and after an event.
//!
//! Each path carries the generation in which its peer last announced it. An event that makes all paths of a
//! peer stale (a restart, RFC 4724 §4.2; the begin of an enhanced refresh, RFC 7313 §4; the end of a session)
//! begins a new generation and visits no path. Paths of older generations are removed later, in slices. A
//! path that is announced again meanwhile has the new generation and stays.
//!
//! Generations are counted modulo 16, so that they fit into a path's record. [`Generations::has_room`]
//! returns whether another one can be distinguished from all that paths may have. Some are reserved for ends
//! of sessions, which cannot be refused.
//!
//! ```
//! use bgp_proto::rib::generation::Generations;
//!
//! let mut generations = Generations::default();
//! let before = generations.current();
//! generations.begin_refresh(); // BoRR
//! assert!(generations.is_stale(before));
//! let removed = generations.end_refresh().expect("a refresh began"); // EoRR
//! assert!(removed.contains(before) && !removed.contains(generations.current()));
//! ```

/// A generation, 0–15.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(u8);

const MODULUS: u8 = 16;
/// Generations that route refreshes leave for ends of sessions.
const RESERVED: u8 = 3;

impl Generation {
    /// From the lowest four bits.
    #[must_use]
    pub(super) fn from_bits(bits: u32) -> Self {
        Self((bits & u32::from(MODULUS - 1)) as u8)
    }

    /// As four bits.
    #[must_use]
    pub(super) fn bits(self) -> u32 {
        u32::from(self.0)
    }

    fn next(self) -> Self {
        Self((self.0 + 1) % MODULUS)
    }

    fn previous(self) -> Self {
        Self((self.0 + MODULUS - 1) % MODULUS)
    }

    /// How many generations `self` is older than `other`.
    fn age_at(self, other: Self) -> u8 {
        (other.0 + MODULUS - self.0) % MODULUS
    }
}

/// The generations older than `keep`: a fixed set, whatever generations begin later.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OlderGenerations {
    keep: Generation,
    /// Number of generations in the set.
    span: u8,
}

impl OlderGenerations {
    /// Whether the set holds the generation.
    #[must_use]
    pub fn contains(self, generation: Generation) -> bool {
        (1..=self.span).contains(&generation.age_at(self.keep))
    }

    /// The youngest generation of the set, into which the others can be merged ([`Generations::merged`]).
    #[must_use]
    pub fn youngest(self) -> Generation {
        self.keep.previous()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.span == 0
    }
}

/// The generations of a peer's paths in one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Generations {
    current: Generation,
    /// The oldest generation that a path may have.
    oldest: Generation,
    /// The oldest generation of the peer's Adj-RIB-In; paths of older ones wait for removal.
    counted: Generation,
    /// The first generation after a restart of the peer: older paths wait for its End-of-RIB.
    restart: Option<Generation>,
    /// The first generation after BoRR: older paths wait for EoRR.
    refresh: Option<Generation>,
}

impl Generations {
    /// The generation of paths announced now.
    #[must_use]
    pub fn current(&self) -> Generation {
        self.current
    }

    /// Whether a new generation can begin: at most 16 can be distinguished.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.span() < MODULUS - 1
    }

    /// Whether a new generation can begin for a refresh.
    #[must_use]
    pub fn has_room_for_refresh(&self) -> bool {
        self.span() < MODULUS - 1 - RESERVED
    }

    /// Whether half of the generations are in use.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.span() >= MODULUS / 2
    }

    fn span(&self) -> u8 {
        self.oldest.age_at(self.current)
    }

    /// The peer restarts: all paths are stale until [`Generations::end_restart`]. A refresh in progress ends;
    /// paths that it did not announce yet stay as they are.
    pub fn begin_restart(&mut self) {
        self.current = self.current.next();
        (self.restart, self.refresh) = (Some(self.current), None);
    }

    /// BoRR: all paths are stale until [`Generations::end_refresh`].
    pub fn begin_refresh(&mut self) {
        self.current = self.current.next();
        self.refresh = Some(self.current);
    }

    /// Returns the generations that were not announced again since the restart; `None` without a restart.
    pub fn end_restart(&mut self) -> Option<OlderGenerations> {
        self.restart.take().map(|keep| self.before(keep))
    }

    /// Returns the generations that were not announced again since BoRR; `None` without BoRR.
    pub fn end_refresh(&mut self) -> Option<OlderGenerations> {
        self.refresh.take().map(|keep| self.before(keep))
    }

    /// Removes all paths from the Adj-RIB-In and returns their generations.
    pub fn end_all(&mut self) -> OlderGenerations {
        self.current = self.current.next();
        self.counted = self.current;
        (self.restart, self.refresh) = (None, None);
        self.older()
    }

    /// All generations older than the current one.
    #[must_use]
    pub fn older(&self) -> OlderGenerations {
        self.before(self.current)
    }

    fn before(&self, keep: Generation) -> OlderGenerations {
        let span = self.oldest.age_at(keep);
        OlderGenerations { keep, span }
    }

    /// Whether a path of this generation is stale: not announced again since the last event.
    #[must_use]
    pub fn is_stale(&self, generation: Generation) -> bool {
        generation != self.current
    }

    /// Whether a path of this generation belongs to the Adj-RIB-In.
    #[must_use]
    pub fn is_counted(&self, generation: Generation) -> bool {
        generation.age_at(self.current) <= self.counted.age_at(self.current)
    }

    /// No path has one of these generations any more.
    pub fn removed(&mut self, before: OlderGenerations) {
        self.forget_older_than(before.keep);
    }

    /// All paths of these generations now have the youngest of them.
    pub fn merged(&mut self, before: OlderGenerations) {
        if !before.is_empty() {
            self.forget_older_than(before.youngest());
        }
    }

    /// No path is older than this generation.
    fn forget_older_than(&mut self, oldest: Generation) {
        let age = oldest.age_at(self.current);
        if age >= self.span() {
            return;
        }
        self.oldest = oldest;
        // Marks older than the oldest generation would look newer after a wrap of the counter.
        if self.counted.age_at(self.current) > age {
            self.counted = oldest;
        }
        let current = self.current;
        for mark in [&mut self.restart, &mut self.refresh] {
            *mark = mark.filter(|keep| keep.age_at(current) < age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_again_is_kept() {
        let mut generations = Generations::default();
        assert_eq!(generations.end_refresh(), None, "nothing is stale");
        let first = generations.current();
        generations.begin_refresh();
        let again = generations.current();
        assert!(generations.is_stale(first) && !generations.is_stale(again));
        let before = generations.end_refresh().unwrap();
        assert!(before.contains(first) && !before.contains(again));
        // Generations that begin later change nothing.
        generations.begin_refresh();
        assert!(before.contains(first) && !before.contains(again) && !before.contains(generations.current()));
        generations.removed(before);
        let before = generations.end_refresh().unwrap();
        assert!(before.contains(again) && !before.contains(first));
    }

    #[test]
    fn a_restart_and_a_refresh_end_on_their_own() {
        let mut generations = Generations::default();
        let stale = generations.current();
        generations.begin_restart();
        let back = generations.current();
        generations.begin_refresh();
        let refreshed = generations.current();
        let before = generations.end_restart().unwrap();
        assert!(before.contains(stale) && !before.contains(back) && !before.contains(refreshed));
        generations.removed(before);
        let before = generations.end_refresh().unwrap();
        assert!(before.contains(back) && !before.contains(refreshed));
        generations.removed(before);
        // A restart during a refresh: paths that the refresh did not announce yet are as stale as the others.
        generations.begin_refresh();
        assert_eq!(generations.end_restart(), None);
        generations.begin_restart();
        assert_eq!(generations.end_refresh(), None);
        assert!(generations.end_restart().unwrap().contains(refreshed));
    }

    /// The counter wraps: an old mark must not be mistaken for a new one.
    #[test]
    fn sixteen_generations_are_distinguished() {
        let mut generations = Generations::default();
        for begun in 0..50 {
            let mut all = vec![generations.current()];
            generations.begin_restart();
            all.push(generations.current());
            while generations.has_room() {
                generations.begin_refresh();
                all.push(generations.current());
            }
            assert_eq!(all.len(), 16, "{begun}");
            assert!(all.iter().all(|old| generations.is_counted(*old)));
            let before = generations.end_refresh().unwrap();
            let current = all.pop().unwrap();
            assert!(all.iter().all(|old| before.contains(*old)) && !before.contains(current));
            generations.removed(before);
            assert!(generations.has_room() && generations.older().is_empty());
            assert_eq!(generations.end_restart(), None, "nothing is older");
        }
    }

    #[test]
    fn refreshes_leave_room_for_ends_of_sessions() {
        let mut generations = Generations::default();
        while generations.has_room_for_refresh() {
            generations.begin_refresh();
        }
        assert!(generations.is_half_full());
        for _ in 0..RESERVED {
            assert!(generations.has_room());
            generations.begin_restart();
        }
        assert!(!generations.has_room());
    }

    #[test]
    fn merged_generations_leave_room() {
        let mut generations = Generations::default();
        let mut all = Vec::new();
        while generations.has_room() {
            all.push(generations.current());
            generations.begin_refresh();
        }
        let before = generations.older();
        assert!(all.iter().all(|old| before.contains(*old)));
        assert_eq!(all.pop(), Some(before.youngest()));
        generations.merged(before);
        let before = generations.end_refresh().unwrap();
        assert!(before.contains(before.youngest()) && !before.contains(generations.current()));
        assert!(all.iter().all(|old| !before.contains(*old)));
        assert!(generations.has_room() && generations.is_counted(before.youngest()));
    }

    #[test]
    fn an_ended_session_counts_no_more() {
        let mut generations = Generations::default();
        let first = generations.current();
        let before = generations.end_all();
        assert!(before.contains(first) && !generations.is_counted(first));
        assert!(generations.is_counted(generations.current()));
        generations.begin_refresh();
        generations.begin_restart();
        assert!(!generations.is_counted(first) && generations.is_counted(generations.current()));
    }

    /// Paths stay counted after many completed refreshes.
    #[test]
    fn what_is_there_counts_after_many_refreshes() {
        let mut generations = Generations::default();
        for _ in 0..50 {
            let there = generations.current();
            generations.begin_refresh();
            assert!(generations.is_counted(there));
            let before = generations.end_refresh().unwrap();
            generations.removed(before);
        }
    }
}
