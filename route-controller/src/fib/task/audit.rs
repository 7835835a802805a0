//! The audit: every few minutes the kernel's routes and objects are read and compared with what is known.
//!
//! Notifications are enough as long as the kernel sends one for everything, which it does not. The reading is made in a
//! thread that may wait, and compared in slices between commands; what changes meanwhile is left out. An audit comes soon
//! when a notification or an outcome does not fit what is known.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::FibTask;
use super::unread::Why;
use crate::clock::now;
use crate::fib::dump::{ObjectReading, Reading};
use crate::fib::netlink::read_all;
use crate::fib::notifications::{Corrected, OwnRoutes};

/// From one audit to the next, half of it more or less.
const INTERVAL: Duration = Duration::from_secs(300);
/// Before an audit that something unexpected leads to; doubled with each that follows at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Routes compared between commands.
const SLICE: usize = 4096;

/// Numbers that differ from node to node, so that not all read at the same moment.
pub(super) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

enum Work {
    Waiting,
    Reading(JoinHandle<io::Result<Reading>>),
    Comparing(std::vec::IntoIter<(crate::fib::RouteKey, crate::fib::RouteSpec)>),
}

/// When the audit is due, and how far it is.
pub(super) struct Audit {
    seed: u64,
    due: Instant,
    pause: Duration,
    /// It is due because of something unexpected.
    early: bool,
    work: Work,
    corrected: Corrected,
    routes: usize,
}

impl Audit {
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        let mut audit = Self {
            seed,
            due: now,
            pause: FIRST_PAUSE,
            early: false,
            work: Work::Waiting,
            corrected: Corrected::default(),
            routes: 0,
        };
        audit.over(now);
        audit
    }

    /// The next is due half to one and a half intervals from now.
    fn over(&mut self, now: Instant) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let permille = u32::try_from(500 + (self.seed >> 33) % 1000).unwrap_or(1000);
        self.due = now + INTERVAL * permille / 1000;
        self.pause = if std::mem::take(&mut self.early) {
            (self.pause * 2).min(INTERVAL)
        } else {
            FIRST_PAUSE
        };
    }

    /// Something does not fit what is known.
    pub(super) fn soon(&mut self, now: Instant) {
        if !self.early {
            self.early = true;
            self.due = self.due.min(now + self.pause);
        }
    }

    /// Notifications were lost.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.early = true;
        self.due = self.due.min(now);
    }

    /// When there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        match self.work {
            Work::Waiting => Some(self.due),
            Work::Reading(_) => None,
            Work::Comparing(_) => Some(now),
        }
    }

    /// The reading that is under way; pending when there is none.
    pub(super) async fn reading(&mut self) -> io::Result<Reading> {
        let Work::Reading(handle) = &mut self.work else {
            return std::future::pending().await;
        };
        let reading = handle.await;
        self.work = Work::Waiting;
        reading.map_err(io::Error::other)?
    }
}

impl FibTask {
    /// What happened fits what is known, or does not.
    pub(super) fn expected(&mut self, expected: bool) {
        if !expected {
            self.audit.soon(now());
        }
    }

    /// Notifications were lost: everything is read.
    pub(super) async fn read_again(&mut self) {
        self.audit.at_once(now());
        if self.fib.objects.enabled() {
            self.unread.note(Why::Changed);
        }
        self.ensure_rules().await;
    }

    /// Begins an audit that is due, or goes on with one.
    pub(super) fn audit_turn(&mut self) {
        match &mut self.audit.work {
            Work::Waiting if self.audit.due <= now() => self.begin_audit(),
            Work::Waiting | Work::Reading(_) => {}
            Work::Comparing(routes) => {
                self.audit.routes += self.fib.delta.audit(routes.by_ref().take(SLICE));
                if routes.as_slice().is_empty() {
                    self.end_audit();
                }
            }
        }
    }

    fn begin_audit(&mut self) {
        self.fib.begin_audit();
        self.audit.over(now());
        self.audit.work = Work::Reading(tokio::spawn(read_all(self.fib.config().table)));
        if self.fib.objects.enabled() {
            self.unread.note(Why::Audit);
        }
    }

    /// The reading is there: others' routes at once, own ones in slices.
    pub(super) async fn compare(&mut self, reading: io::Result<Reading>) {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                tracing::error!(event = "kernel_unreadable", %error, "cannot read the kernel's routes; trying again");
                self.fib.abandon_audit();
                self.audit.soon(now());
                return;
            }
        };
        let own: OwnRoutes;
        (self.audit.corrected, own) = self.fib.correct_mirror(reading);
        self.audit.routes = 0;
        self.audit.work = Work::Comparing(own.into_iter());
        if self.audit.corrected.count > 0 {
            self.resolve_again().await;
        }
    }

    fn end_audit(&mut self) {
        let routes = self.audit.routes + self.fib.delta.end_audit();
        let Corrected { count, left_out } = self.audit.corrected;
        self.audit.work = Work::Waiting;
        if routes + count > 0 {
            let failed = self.fib.failed();
            tracing::warn!(
                event = "audit_difference",
                routes,
                others = count,
                failed,
                "the kernel's routes differ from its notifications; correcting"
            );
        }
        if left_out {
            self.audit.soon(now());
        }
    }

    /// The nexthop objects are read.
    pub(super) fn objects_read(&mut self, reading: ObjectReading) {
        let differ = self.fib.objects_read(reading);
        if self.unread.end(now()) == Some(Why::Audit) && differ > 0 {
            tracing::warn!(
                event = "audit_difference",
                objects = differ,
                "the kernel's nexthop objects differ from its notifications; correcting"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audits_are_spread_and_come_soon_when_something_is_unexpected() {
        let now = Instant::now();
        let due: Vec<Duration> = (0..100)
            .map(|seed| Audit::new(now, seed * 7919).due - now)
            .collect();
        assert!(
            due.iter()
                .all(|due| *due >= INTERVAL / 2 && *due <= INTERVAL * 3 / 2)
        );
        let different: std::collections::BTreeSet<_> = due.iter().collect();
        assert!(different.len() > 50, "{due:?}");
        let mut audit = Audit::new(now, 1);
        for pause in [1, 2, 4, 8] {
            audit.soon(now);
            audit.soon(now + Duration::from_millis(500));
            assert_eq!(audit.due - now, Duration::from_secs(pause));
            audit.over(now);
        }
        audit.over(now);
        audit.soon(now);
        assert_eq!(audit.due - now, FIRST_PAUSE, "after a quiet interval");
        audit.at_once(now);
        assert_eq!(audit.next(now), Some(now));
    }
}
