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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(third: u8) -> RouteKey {
        RouteKey {
            prefix: bgp_proto::types::Prefix::v4(0x0AF4_0000 + (u32::from(third) << 8), 24),
            metric: 20,
            table: 254,
        }
    }

    #[test]
    fn delays_double_to_a_minute() {
        let start = Instant::now();
        let mut retries = Retries::default();
        let delays: Vec<u64> = (0..9)
            .map(|_| {
                retries.fail(start, key(1), Failure::Exists);
                let at = retries.next().unwrap();
                assert_eq!(retries.next_due(at - Duration::from_nanos(1)), None);
                assert_eq!(retries.next_due(at), Some(key(1)));
                assert!(retries.next().is_none() && retries.get(&key(1)).unwrap().at.is_none());
                at.duration_since(start).as_secs()
            })
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(retries.remove(&key(1)) && !retries.remove(&key(1)));
        retries.fail(start, key(1), Failure::Missing);
        assert_eq!(
            retries.next(),
            Some(start + FIRST_RETRY),
            "what worked once begins from the start"
        );
    }

    #[test]
    fn each_is_due_at_its_own_time() {
        let start = Instant::now();
        let mut retries = Retries::default();
        for third in [3, 1, 2] {
            retries.fail(
                start + Duration::from_millis(u64::from(third)),
                key(third),
                Failure::Exists,
            );
        }
        retries.remove(&key(2));
        let end = start + Duration::from_secs(2);
        let due: Vec<_> = std::iter::from_fn(|| retries.next_due(end)).collect();
        assert_eq!(due, [key(1), key(3)]);
        assert_eq!(
            retries.iter().count(),
            2,
            "they are on their way, and known to have failed"
        );
    }
}
