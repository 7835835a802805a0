//! What is measured while the agent runs, for /metrics: how long changes take, and how often something was repaired.
//!
//! A measurement begins with the first event of a burst and ends when the kernel, or the speaker, has done all of it: it is the longest
//! time of the burst.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds, in seconds.
const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

/// Shared by the tasks that measure and by /metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// From a change in Kubernetes to the UPDATE for peers.
    pub(crate) event_to_update: Span,
    /// From an UPDATE of a peer to the kernel's answer.
    pub(crate) update_to_kernel: Span,
    /// From the loss of a path that BFD watches to the kernel's answer.
    pub(crate) loss_to_kernel: Span,
    /// Changes of other programs to kernel routes that were taken back.
    pub(crate) kernel_repairs: Arc<AtomicU64>,
    /// How the file was applied.
    pub(crate) config: Arc<ConfigResults>,
}

/// A histogram of durations.
#[derive(Clone, Debug)]
pub(crate) struct Span(Histogram);

impl Default for Span {
    fn default() -> Self {
        Self(Histogram::new(BOUNDS))
    }
}

impl Span {
    pub(crate) fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    /// For a registry; both count the same.
    pub(crate) fn histogram(&self) -> Histogram {
        self.0.clone()
    }
}

/// Configurations that were applied and refused.
#[derive(Debug, Default)]
pub(crate) struct ConfigResults {
    applied: AtomicU64,
    refused: AtomicU64,
    /// Unix time of the last one that was applied, in seconds.
    applied_at: AtomicU64,
}

impl ConfigResults {
    /// A configuration was applied, or refused.
    pub(crate) fn note(&self, is_applied: bool) {
        if !is_applied {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.applied.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.applied_at
            .store(now.unwrap_or_default().as_secs(), Ordering::Relaxed);
    }

    /// Applied, refused, and when the last one was applied.
    pub(crate) fn get(&self) -> (u64, u64, u64) {
        let [applied, refused, at] =
            [&self.applied, &self.refused, &self.applied_at].map(|value| value.load(Ordering::Relaxed));
        (applied, refused, at)
    }
}

/// Measurements of the kernel's routes that are under way.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    update: Option<Instant>,
    loss: Option<Instant>,
}

impl UnderWay {
    /// An UPDATE was received then.
    pub(crate) fn update(&mut self, at: Instant) {
        self.update.get_or_insert(at);
    }

    /// A path was lost then.
    pub(crate) fn loss(&mut self, at: Instant) {
        self.loss.get_or_insert(at);
    }

    /// The kernel has all changes.
    pub(crate) fn settled(&mut self, now: Instant, measured: &Measured) {
        for (began, span) in [
            (self.update.take(), &measured.update_to_kernel),
            (self.loss.take(), &measured.loss_to_kernel),
        ] {
            if let Some(began) = began {
                span.observe(now.saturating_duration_since(began));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(span: &Span) -> String {
        let mut registry = Registry::default();
        registry.register("span", "Span", span.histogram());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn the_first_event_of_a_burst_begins_and_the_last_answer_ends() {
        let measured = Measured::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut under_way = UnderWay::default();
        under_way.settled(at(0), &measured);
        assert!(text(&measured.update_to_kernel).contains("span_count 0"));
        under_way.update(at(10));
        under_way.update(at(200));
        under_way.settled(at(400), &measured);
        under_way.settled(at(900), &measured);
        let found = text(&measured.update_to_kernel);
        assert!(
            found.contains("span_sum 0.39") && found.contains("span_count 1"),
            "{found}"
        );
        assert!(text(&measured.loss_to_kernel).contains("span_count 0"));
        under_way.loss(at(1000));
        under_way.settled(at(1003), &measured);
        let found = text(&measured.loss_to_kernel);
        assert!(
            found.contains("le=\"0.005\"} 1") && found.contains("le=\"0.002\"} 0"),
            "{found}"
        );
    }

    #[test]
    fn refused_configurations_do_not_count_as_applied() {
        let results = ConfigResults::default();
        results.note(true);
        results.note(false);
        let (applied, refused, at) = results.get();
        assert_eq!((applied, refused), (1, 1));
        assert!(at > 0);
    }
}
