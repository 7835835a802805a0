//! Jitter for timers, from a seed (RFC 4271 §10: 0.75 to 1.0 of the configured value).

use std::time::Duration;

/// A small generator (xorshift64*): enough to keep peers out of step, reproducible from its seed.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 75–100 % of the duration.
    pub(super) fn apply(&mut self, duration: Duration) -> Duration {
        let percent = 75 + u32::try_from(self.next() >> 32).unwrap_or(0) % 26;
        duration * percent / 100
    }
}
