//! Progress of sessions, as reported by their tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::now;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, PoisonError};

/// Progress of a peer's session, set by the peer's task and read by others.
#[derive(Default)]
pub(crate) struct Progress {
    is_up: AtomicBool,
    /// A valid OPEN arrived on some connection.
    has_opened: AtomicBool,
    /// When the last session ended.
    ended: Mutex<Option<Instant>>,
    /// Counts the changes of all peers.
    changes: Arc<AtomicU64>,
}

impl Progress {
    /// Changes are added to this counter.
    pub(crate) fn counted_in(changes: &Arc<AtomicU64>) -> Self {
        Self {
            changes: Arc::clone(changes),
            ..Self::default()
        }
    }

    pub(crate) fn set_up(&self, is_up: bool) {
        if !is_up {
            *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(now());
        }
        self.is_up.store(is_up, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_opened(&self) {
        self.has_opened.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    pub(crate) fn has_opened(&self) -> bool {
        self.has_opened.load(Ordering::Relaxed)
    }

    /// Whether the session is established, or was within this time.
    pub(crate) fn was_up_within(&self, now: Instant, time: Duration) -> bool {
        let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_up() || ended.is_some_and(|ended| now.saturating_duration_since(ended) < time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A neighbor keeps its link from the end of its session on, however long ago it was found.
    #[test]
    fn a_session_that_just_ended_counts() {
        let progress = Progress::default();
        let minute = Duration::from_secs(60);
        assert!(!progress.was_up_within(now(), minute), "there was no session");
        progress.set_up(true);
        assert!(progress.was_up_within(now() + 60 * minute, minute));
        progress.set_up(false);
        assert!(progress.was_up_within(now(), minute));
        assert!(!progress.was_up_within(now() + 2 * minute, minute));
        assert_eq!(progress.changes.load(Ordering::Relaxed), 2);
    }
}
