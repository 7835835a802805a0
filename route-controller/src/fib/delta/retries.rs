//! Routes that failed, by key and by when they are tried again: among many that fail, none is looked at before its time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Failure, RouteKey};

const FIRST_RETRY: Duration = Duration::from_secs(1);
pub(super) const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct Retry {
    /// `None`: its time came, and it is on its way again.
    pub(super) at: Option<Instant>,
    failures: u32,
    pub(super) failure: Failure,
}

#[derive(Debug, Default)]
pub(super) struct Retries {
    by_key: BTreeMap<RouteKey, Retry>,
    by_time: BTreeSet<(Instant, RouteKey)>,
}

impl Retries {
    pub(super) fn get(&self, key: &RouteKey) -> Option<&Retry> {
        self.by_key.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&RouteKey, &Retry)> {
        self.by_key.iter()
    }

    /// A route failed, perhaps again: its delay doubles.
    pub(super) fn fail(&mut self, now: Instant, key: RouteKey, failure: Failure) {
        let failures = self.get(&key).map_or(0, |retry| retry.failures);
        let delay = FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY);
        self.remove(&key);
        let retry = Retry {
            at: Some(now + delay),
            failures: failures + 1,
            failure,
        };
        self.by_key.insert(key, retry);
        self.by_time.insert((now + delay, key));
    }

    /// It failed no longer, or is not wanted; whether it had failed.
    pub(super) fn remove(&mut self, key: &RouteKey) -> bool {
        let Some(retry) = self.by_key.remove(key) else {
            return false;
        };
        if let Some(at) = retry.at {
            self.by_time.remove(&(at, *key));
        }
        true
    }

    /// The next one whose time has come; it counts as on its way.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<RouteKey> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        if let Some(retry) = self.by_key.get_mut(&key) {
            retry.at = None;
        }
        Some(key)
    }

    /// When the next one is to be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }
}
