//! Generations of a peer's paths: which of them were there before something happened.
//!
//! Each path carries the generation in which its peer last announced it. What makes all of a peer's paths stale at once (a
//! restart, RFC 4724 §4.2; the begin of an enhanced refresh, RFC 7313 §4; the end of a session) starts a new generation and
//! looks at no path. Paths of older generations are removed later, slice by slice; a path that was announced again in the
//! meantime has the new generation and stays, whatever became of its slot in the table in between.
//!
//! Generations are counted modulo 16, so that they fit into a path's record. [`Generations::has_room`] says whether another one
//! can be told from those that paths may still have.

/// A generation, 0–15.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(u8);

const MODULUS: u8 = 16;

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

    /// How many generations `self` is older than `other`.
    fn age_at(self, other: Self) -> u8 {
        (other.0 + MODULUS - self.0) % MODULUS
    }
}

/// Generations that end with this one: a set that stays what it is while newer ones begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Before {
    keep: Generation,
    /// How many generations before `keep`.
    span: u8,
}

impl Before {
    /// Whether the set holds the generation.
    #[must_use]
    pub fn contains(self, generation: Generation) -> bool {
        (1..=self.span).contains(&generation.age_at(self.keep))
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.span == 0
    }
}

/// The generations of a peer's paths in one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Generations {
    current: Generation,
    /// The oldest that a path may have.
    oldest: Generation,
    /// The oldest that belongs to the peer's Adj-RIB-In; older ones are on their way out.
    counted: Generation,
    /// Stale paths wait for an End-of-RIB or the end of a refresh.
    awaiting: bool,
}

impl Generations {
    /// The generation of what is announced now.
    #[must_use]
    pub fn current(&self) -> Generation {
        self.current
    }

    /// Whether a new generation can begin: at most 16 are told apart.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.oldest.age_at(self.current) < MODULUS - 1
    }

    /// All paths so far are stale from now on, until [`Generations::end_stale`].
    pub fn begin_stale(&mut self) {
        self.current = self.current.next();
        self.awaiting = true;
    }

    /// Stale paths are to be removed: which ones; `None` when nothing was stale.
    pub fn end_stale(&mut self) -> Option<Before> {
        std::mem::take(&mut self.awaiting).then(|| self.older())
    }

    /// All paths so far leave the Adj-RIB-In; which ones.
    pub fn end_all(&mut self) -> Before {
        self.current = self.current.next();
        self.counted = self.current;
        self.awaiting = false;
        self.older()
    }

    /// All that are older than the current one.
    #[must_use]
    pub fn older(&self) -> Before {
        Before {
            keep: self.current,
            span: self.oldest.age_at(self.current),
        }
    }

    /// Whether a path of this generation was not announced again since everything became stale.
    #[must_use]
    pub fn is_stale(&self, generation: Generation) -> bool {
        generation != self.current
    }

    /// Whether a path of this generation belongs to the Adj-RIB-In.
    #[must_use]
    pub fn is_counted(&self, generation: Generation) -> bool {
        generation == self.current || generation.age_at(self.current) <= self.counted.age_at(self.current)
    }

    /// No path has one of these generations any more.
    pub fn removed(&mut self, before: Before) {
        if before.keep.age_at(self.current) < self.oldest.age_at(self.current) {
            self.oldest = before.keep;
        }
    }

    /// All paths have the current generation.
    pub fn reset(&mut self) {
        (self.oldest, self.counted) = (self.current, self.current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_again_is_kept() {
        let mut generations = Generations::default();
        assert_eq!(generations.end_stale(), None, "nothing is stale");
        let first = generations.current();
        generations.begin_stale();
        let again = generations.current();
        assert!(generations.is_stale(first) && !generations.is_stale(again));
        let before = generations.end_stale().unwrap();
        assert!(before.contains(first) && !before.contains(again));
        // What begins meanwhile changes nothing.
        generations.begin_stale();
        assert!(before.contains(first) && !before.contains(again) && !before.contains(generations.current()));
        generations.removed(before);
        let before = generations.end_stale().unwrap();
        assert!(before.contains(again) && !before.contains(first));
    }

    #[test]
    fn sixteen_are_told_apart() {
        let mut generations = Generations::default();
        for begun in 0..50 {
            let mut all = vec![generations.current()];
            while generations.has_room() {
                generations.begin_stale();
                all.push(generations.current());
            }
            assert_eq!(all.len(), 16, "{begun}");
            let before = generations.end_stale().unwrap();
            let current = all.pop().unwrap();
            assert!(all.iter().all(|old| before.contains(*old)) && !before.contains(current));
            generations.removed(before);
            assert!(generations.has_room() && generations.older().is_empty());
        }
    }

    #[test]
    fn an_ended_session_counts_no_more() {
        let mut generations = Generations::default();
        let first = generations.current();
        let before = generations.end_all();
        assert!(before.contains(first) && !generations.is_counted(first));
        assert!(generations.is_counted(generations.current()));
        generations.begin_stale();
        generations.begin_stale();
        assert!(!generations.is_counted(first) && generations.is_counted(generations.current()));
    }
}
