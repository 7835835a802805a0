//! When the object is written: when it changed, and not more often than every ten seconds.

use std::time::{Duration, Instant};

use super::conditions;
use super::status::Status;

/// Between two writes.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// After failures the interval doubles up to this.
const MAX_INTERVAL: Duration = Duration::from_secs(300);

/// What was written last, and when.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What the API server has; `None`: not known.
    previous: Option<Status>,
    /// `previous` is not what the object says now: it was recreated, or was found at the start.
    must_write: bool,
    last_attempt: Option<Instant>,
    failures: u32,
}

impl Pace {
    /// Whether the object that is there has been looked at.
    pub(super) fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// The status of the object at the start, for the times of its conditions.
    pub(super) fn found(&mut self, status: Option<Status>) {
        self.previous = Some(status.unwrap_or_default());
        self.must_write = true;
    }

    /// The Node object is another one: this one's object was deleted with it.
    pub(super) fn recreated(&mut self) {
        self.must_write = true;
    }

    /// What to write now, if anything.
    pub(super) fn due(&self, now: Instant, mut status: Status, timestamp: &str) -> Option<Status> {
        let previous = self.previous.as_ref();
        let known = previous.map_or(&[][..], |previous| &previous.conditions);
        status.conditions = conditions::with_times(status.conditions, known, timestamp);
        let is_changed = self.must_write || previous != Some(&status);
        let is_time = self
            .last_attempt
            .is_none_or(|last| now.saturating_duration_since(last) >= self.interval());
        (is_changed && is_time).then_some(status)
    }

    /// What became of a write that began at `now`.
    pub(super) fn written(&mut self, now: Instant, status: Status, succeeded: bool) {
        self.last_attempt = Some(now);
        if succeeded {
            self.previous = Some(status);
            self.must_write = false;
            self.failures = 0;
        } else {
            self.must_write = true;
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn interval(&self) -> Duration {
        let factor = 1u32 << self.failures.min(5);
        (MIN_INTERVAL * factor).min(MAX_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(services: usize) -> Status {
        Status {
            services,
            ..Status::default()
        }
    }

    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    #[test]
    fn the_first_is_written_at_once_and_a_change_after_ten_seconds() {
        let clock = Clock(Instant::now());
        let mut pace = Pace::default();
        pace.found(None);
        let first = pace.due(clock.at(0), status(1), "t").unwrap();
        pace.written(clock.at(0), first, true);
        assert_eq!(pace.due(clock.at(60), status(1), "t"), None, "nothing changed");
        assert_eq!(pace.due(clock.at(9), status(2), "t"), None, "too early");
        assert_eq!(pace.due(clock.at(10), status(2), "t"), Some(status(2)));
    }

    #[test]
    fn a_change_that_is_taken_back_is_not_written() {
        let clock = Clock(Instant::now());
        let mut pace = Pace::default();
        pace.found(None);
        pace.written(clock.at(0), status(1), true);
        assert_eq!(pace.due(clock.at(5), status(2), "t"), None);
        assert_eq!(pace.due(clock.at(15), status(1), "t"), None);
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often() {
        let clock = Clock(Instant::now());
        let mut pace = Pace::default();
        pace.found(None);
        let mut attempts = Vec::new();
        for second in 0..2000 {
            if let Some(status) = pace.due(clock.at(second), status(1), "t") {
                attempts.push(second);
                pace.written(clock.at(second), status, false);
            }
        }
        assert_eq!(attempts, [0, 20, 60, 140, 300, 600, 900, 1200, 1500, 1800]);
    }

    #[test]
    fn a_recreated_node_gets_its_object_again() {
        let clock = Clock(Instant::now());
        let mut pace = Pace::default();
        pace.found(None);
        pace.written(clock.at(0), status(1), true);
        pace.recreated();
        assert_eq!(pace.due(clock.at(10), status(1), "t"), Some(status(1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Whatever changes when: no two writes within ten seconds, and the last state is written in the end.
        #[test]
        fn any_history(changes in proptest::collection::vec((0u64..4, 0usize..3, any::<bool>()), 1..60)) {
            let clock = Clock(Instant::now());
            let (mut pace, mut second, mut last) = (Pace::default(), 0, None);
            pace.found(None);
            let mut current = 0;
            let mut server = None;
            for (pause, services, works) in changes {
                second += pause;
                current = services;
                if let Some(status) = pace.due(clock.at(second), status(services), "t") {
                    prop_assert!(last.is_none_or(|last| second - last >= 10));
                    last = Some(second);
                    if works {
                        server = Some(status.services);
                    }
                    pace.written(clock.at(second), status, works);
                }
            }
            second += 1000;
            if let Some(status) = pace.due(clock.at(second), status(current), "t") {
                server = Some(status.services);
            }
            prop_assert_eq!(server, Some(current));
        }
    }
}
