//! Limits work that every change causes: the pause after it grows with its duration, and changes in the pause are handled together.
//! Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after work, in multiples of the time that it took.
const PAUSE: u32 = 4;
/// No pause is longer.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// When the work may run again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Throttle(Option<Instant>);

impl Throttle {
    /// The work ran from the one time to the other.
    pub(crate) fn ran(&mut self, from: Instant, to: Instant) {
        self.0 = Some(to + (to.duration_since(from) * PAUSE).min(MAX_PAUSE));
    }

    /// When the work may run that a change at this time makes necessary.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        self.0.map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_with_the_work_to_a_limit() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.due(start), start, "the first change at once");
        throttle.ran(start, after(5));
        assert_eq!(throttle.due(after(5)), after(25));
        assert_eq!(throttle.due(after(24)), after(25));
        assert_eq!(throttle.due(after(26)), after(26), "the pause is over");
        throttle.ran(start, after(2000));
        assert_eq!(throttle.due(after(2000)), after(2250));
    }
}
