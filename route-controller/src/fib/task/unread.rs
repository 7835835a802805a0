//! When the kernel's nexthop objects have to be read.

use std::time::{Duration, Instant};

/// Between two readings that notifications lead to, so that somebody who changes objects all the time does not keep routes
/// from being written.
const PAUSE: Duration = Duration::from_millis(100);

/// Why they have to be read; the later ones are more urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Why {
    /// To compare.
    Audit,
    /// Somebody changed objects.
    Changed,
    /// Own objects may be lost: before anything else is written.
    Lost,
}

/// A reading that is due or under way.
#[derive(Debug)]
pub(super) struct Unread {
    why: Option<Why>,
    under_way: Option<Why>,
    earliest: Instant,
}

impl Unread {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            why: None,
            under_way: None,
            earliest: now,
        }
    }

    /// They have to be read.
    pub(super) fn note(&mut self, why: Why) {
        self.why = self.why.max(Some(why));
    }

    /// When they are to be read.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.why
            .map(|why| if why == Why::Lost { now } else { self.earliest })
    }

    /// Whether nothing else is written before they are read.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next(now).is_some_and(|at| at <= now)
    }

    /// The reading begins.
    pub(super) fn begin(&mut self) {
        self.under_way = self.why.take();
    }

    /// They are read; gives why they were.
    pub(super) fn end(&mut self, now: Instant) -> Option<Why> {
        self.earliest = now + PAUSE;
        self.under_way.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_do_all_the_time_leaves_room_for_routes() {
        let now = Instant::now();
        let mut unread = Unread::new(now);
        assert!(!unread.is_due(now));
        unread.note(Why::Changed);
        unread.note(Why::Audit);
        assert!(unread.is_due(now));
        unread.begin();
        // More of it meanwhile.
        unread.note(Why::Changed);
        assert_eq!(unread.end(now), Some(Why::Changed));
        assert!(!unread.is_due(now));
        assert_eq!(unread.next(now), Some(now + PAUSE));
        assert!(unread.is_due(now + PAUSE));
        // What may be lost does not wait.
        unread.note(Why::Lost);
        assert!(unread.is_due(now));
        unread.begin();
        assert_eq!((unread.end(now), unread.next(now)), (Some(Why::Lost), None));
    }
}
