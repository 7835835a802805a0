//! Dampening: a path that is lost repeatedly is not used until it has been stable for a while.
//!
//! Each loss adds one to a count, which halves every half-life. A path is suppressed when the count exceeds
//! `losses` − 1, until the count has fallen to half of that, but at most for the longest time. This is RFC
//! 2439 with a penalty of 1 per loss.

use std::time::{Duration, Instant};

/// Parameters of dampening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DampeningConfig {
    /// Losses within a short time that suppress a path, 2–100.
    pub losses: u8,
    /// Time in which the count halves, one second or more.
    pub half_life: Duration,
    /// Longest suppression after the last loss.
    pub longest: Duration,
}

/// Dampening state of a path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dampening {
    count: f64,
    at: Option<Instant>,
    held_until: Option<Instant>,
}

impl Dampening {
    /// Records a loss of the path.
    pub fn lost(&mut self, now: Instant, config: &DampeningConfig) {
        self.count = self.count_at(now, config) + 1.0;
        self.at = Some(now);
        let limit = f64::from(config.losses.max(2) - 1);
        if self.count > limit || self.is_held(now) {
            // Time until the count is half the limit.
            let halvings = (self.count / (limit / 2.0)).log2().max(0.0);
            let hold = config.half_life.mul_f64(halvings).min(config.longest);
            self.held_until = Some(now + hold);
        }
    }

    fn count_at(&self, now: Instant, config: &DampeningConfig) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let halvings = now.saturating_duration_since(at).as_secs_f64() / config.half_life.as_secs_f64();
        self.count * 0.5f64.powf(halvings)
    }

    /// Until when the path is suppressed; `None` if it is not.
    #[must_use]
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| *until > now)
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DampeningConfig = DampeningConfig {
        losses: 3,
        half_life: Duration::from_secs(10),
        longest: Duration::from_secs(60),
    };

    fn held_for(path: &Dampening, now: Instant) -> Option<u64> {
        path.held_until(now).map(|until| (until - now).as_secs())
    }

    #[test]
    fn three_losses_within_a_short_time_hold_a_path() {
        let mut now = Instant::now();
        let mut path = Dampening::default();
        for _ in 0..2 {
            path.lost(now, &CONFIG);
            assert_eq!(path.held_until(now), None);
            now += Duration::from_secs(2);
        }
        path.lost(now, &CONFIG);
        assert_eq!(held_for(&path, now), Some(13)); // from 2.63 to 1
        assert_eq!(path.held_until(now + Duration::from_secs(14)), None);
    }

    #[test]
    fn losses_that_are_far_apart_do_not() {
        let mut path = Dampening::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            path.lost(now, &CONFIG);
            assert_eq!(path.held_until(now), None);
            now += Duration::from_secs(20);
        }
    }

    #[test]
    fn a_path_that_never_rests_is_held_the_longest_time_after_its_last_loss() {
        let mut path = Dampening::default();
        let mut now = Instant::now();
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            path.lost(now, &CONFIG);
        }
        assert_eq!(held_for(&path, now), Some(60));
    }
}
