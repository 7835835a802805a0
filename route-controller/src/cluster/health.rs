//! How the watches of the API server are doing, and how long to wait after a failure. Pure: time comes in.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// After many.
const MAX_DELAY: Duration = Duration::from_secs(30);
/// After this time without a failure the next one is a first one again.
const RESET_AFTER: Duration = Duration::from_secs(60);

/// How long to wait: doubled from failure to failure, jittered, so that a thousand nodes do not ask in one moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Instant>,
    random: RandomState,
}

impl Backoff {
    /// After one more failure.
    pub(super) fn after_failure(&mut self, now: Instant) -> Duration {
        let is_calm = self
            .last
            .is_some_and(|last| now.duration_since(last) > RESET_AFTER);
        self.failures = if is_calm {
            1
        } else {
            self.failures.saturating_add(1)
        };
        let doubled = FIRST_DELAY * 2u32.saturating_pow(self.failures.saturating_sub(1).min(10));
        let longest = doubled.min(MAX_DELAY);
        // From half of it to all of it.
        let random = self.random.hash_one((self.failures, now)) % 1000;
        let pause = longest / 2 + longest / 2 * u32::try_from(random).unwrap_or_default() / 1000;
        self.last = Some(now + pause);
        pause
    }
}

/// The watch of one kind of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    /// The last request was answered as it should.
    pub(crate) answers: bool,
    /// Since when that is so, or is not.
    pub(crate) since: Option<Instant>,
    /// When the API server last sent something.
    pub(crate) heard: Option<Instant>,
    /// Requests and streams that failed.
    pub(crate) failures: u64,
    pub(crate) last_error: Option<String>,
}

/// What changed, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// It does not answer any more, or has not yet.
    Lost,
    /// It answers again, after this time.
    Recovered(Duration),
}

/// All watches, by the names of their resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watches(Arc<Mutex<BTreeMap<&'static str, Watch>>>);

impl Watches {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Watch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they are.
    pub(crate) fn all(&self) -> BTreeMap<&'static str, Watch> {
        self.lock().clone()
    }

    /// A watch that is wanted, and has not answered yet.
    pub(crate) fn expect(&self, resource: &'static str, now: Instant) {
        let fresh = || Watch {
            since: Some(now),
            ..Watch::default()
        };
        self.lock().entry(resource).or_insert_with(fresh);
    }

    /// None any more.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn succeeded(&self, resource: &'static str, now: Instant) -> Change {
        let mut all = self.lock();
        let watch = all.entry(resource).or_default();
        watch.heard = Some(now);
        if std::mem::replace(&mut watch.answers, true) {
            return Change::None;
        }
        let since = watch.since.replace(now);
        if watch.failures == 0 {
            return Change::None;
        }
        Change::Recovered(since.map_or(Duration::ZERO, |since| now.duration_since(since)))
    }

    pub(super) fn failed(&self, resource: &'static str, now: Instant, error: String) -> Change {
        let mut all = self.lock();
        let watch = all.entry(resource).or_default();
        let is_first = watch.failures == 0;
        watch.failures += 1;
        watch.last_error = Some(error);
        if std::mem::replace(&mut watch.answers, false) {
            watch.since = Some(now);
            return Change::Lost;
        }
        if is_first { Change::Lost } else { Change::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_vary() {
        let mut now = Instant::now();
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let pause = backoff.after_failure(now);
            now += pause;
            pauses.push(pause);
        }
        assert!(
            pauses[0] >= FIRST_DELAY / 2 && pauses[0] <= FIRST_DELAY,
            "{pauses:?}"
        );
        assert!(pauses.iter().all(|pause| *pause <= MAX_DELAY), "{pauses:?}");
        let late = pauses.get(8..).unwrap();
        assert!(late.iter().all(|pause| *pause >= MAX_DELAY / 2), "{pauses:?}");
        assert!(
            late.iter().any(|pause| *pause != late[0]),
            "no jitter: {pauses:?}"
        );
        // After a calm time it starts from the shortest again.
        let pause = backoff.after_failure(now + RESET_AFTER + Duration::from_secs(1));
        assert!(pause <= FIRST_DELAY, "{pause:?}");
    }

    #[test]
    fn an_outage_is_reported_once_and_once_its_end() {
        let (watches, start) = (Watches::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        watches.expect("nodes", start);
        assert_eq!(watches.failed("nodes", at(1), "refused".to_owned()), Change::Lost);
        assert_eq!(
            watches.failed("nodes", at(2), "forbidden".to_owned()),
            Change::None
        );
        assert_eq!(
            watches.succeeded("nodes", at(9)),
            Change::Recovered(Duration::from_secs(9))
        );
        assert_eq!(watches.succeeded("nodes", at(10)), Change::None);
        assert_eq!(watches.failed("nodes", at(11), "reset".to_owned()), Change::Lost);
        let watch = &watches.all()["nodes"];
        assert_eq!(
            (watch.answers, watch.failures, watch.since),
            (false, 3, Some(at(11)))
        );
        // What answers at once is no news.
        assert_eq!(watches.succeeded("services", at(12)), Change::None);
    }
}
