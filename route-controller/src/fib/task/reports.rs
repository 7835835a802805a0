//! What the task has logged of others' changes and the kernel's refusals.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::measured::{Measured, UnderWay};

/// Lines of one kind are this far apart.
const QUIET: Duration = Duration::from_secs(10);

/// What was logged, so that it is not logged again and again.
#[derive(Default)]
pub(super) struct Reports {
    /// Changes that others made to own routes.
    pub(super) repairs: u64,
    last_repair: Option<Instant>,
    /// Nexthop objects that the kernel refused since the last report.
    refused: usize,
    last_refused: Option<Instant>,
    /// For /metrics.
    pub(super) measured: Measured,
    pub(super) under_way: UnderWay,
}

impl Reports {
    /// Counts a change that others made; whether it may be logged.
    pub(super) fn may_report(&mut self, now: Instant) -> bool {
        self.repairs += 1;
        self.measured.kernel_repairs.fetch_add(1, Ordering::Relaxed);
        is_due(&mut self.last_repair, now)
    }

    /// Nexthop objects that the kernel refused: one line for all of a while.
    pub(super) fn refused(&mut self, now: Instant, count: usize, error: &io::Error) {
        self.refused += count;
        if is_due(&mut self.last_refused, now) {
            let count = std::mem::take(&mut self.refused);
            tracing::warn!(event = "nexthop_object_refused", count, %error, "the kernel refuses nexthop objects; trying again");
        }
    }
}

fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = last.is_none_or(|last| now.duration_since(last) >= QUIET);
    if is_due {
        *last = Some(now);
    }
    is_due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_all_of_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut reports = Reports::default();
        let reported: Vec<bool> = [0, 1, 9, 10, 11, 25]
            .map(|seconds| reports.may_report(at(seconds)))
            .into();
        assert_eq!(reported, [true, false, false, true, false, true]);
        assert_eq!(reports.repairs, 6);
        let error = io::Error::from_raw_os_error(libc::EINVAL);
        let mut left = Vec::new();
        for (seconds, count) in [(0, 1), (0, 3), (1, 3), (10, 2)] {
            reports.refused(at(seconds), count, &error);
            left.push(reports.refused);
        }
        assert_eq!(
            left,
            [0, 3, 6, 0],
            "what is not logged is counted in the next line"
        );
    }
}
