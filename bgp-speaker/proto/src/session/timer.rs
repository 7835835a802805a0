//! Fixed times, jitter and back-off, all derived from a seed.
//!
//! Only the keepalive and connect-retry timers are jittered (RFC 4271 §10); hold times are exact. The
//! back-off between attempts replaces the ConnectRetryTimer and IdleHoldTimer of RFC 4271: the first retry
//! comes within 50 ms, so that a restarted peer is back at once, and only repeated failures wait longer, up
//! to the configured connect-retry time.
//!
//! Deviation: RFC 4271 §8.2.2 suggests 4 minutes for OPEN. A silent connection of the peer uses a resource
//! that others need (a slot in a listen range, or the one connection beside an established session), so it
//! has [`INCOMING_OPEN_HOLD`]. Outgoing connections keep the 4 minutes.

use std::time::Duration;

/// Time in which an incoming connection must bring an OPEN. A peer that connects sends OPEN at once, or at
/// the latest after ours (DelayOpen); the time covers three retransmissions of a lost segment (1 + 2 + 4 s)
/// and a busy peer.
pub(super) const INCOMING_OPEN_HOLD: Duration = Duration::from_secs(15);
/// RFC 4271 §8.2.2: hold time while waiting for OPEN on an outgoing connection, and in OpenConfirm with hold
/// time zero.
pub(super) const OPEN_HOLD: Duration = Duration::from_secs(240);
/// RFC 9687 §4: the send hold time is twice the hold time, but at least 8 minutes.
pub(super) const SEND_HOLD_MIN: Duration = Duration::from_secs(480);
/// RFC 4271 §4.4: KEEPALIVEs must not be sent more often than once a second.
pub(super) const KEEPALIVE_MIN: Duration = Duration::from_secs(1);
/// Time that the peer has to close one of two connections.
pub(super) const COLLISION_WAIT: Duration = Duration::from_secs(1);
/// A session that was established for this time resets the back-off.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Shortest connect-retry time; a shorter one would be a busy loop.
pub(super) const CONNECT_RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest connect-retry time; it keeps sums of times in range.
pub(super) const CONNECT_RETRY_MAX: Duration = Duration::from_secs(24 * 3600);

/// The first retry comes after 10–50 ms, at random because the peer retries too.
const FIRST_RETRY_MS: (u64, u64) = (10, 50);
/// Wait before the second retry; each further one waits twice as long.
const SECOND_RETRY: Duration = CONNECT_RETRY_MIN;

/// A small generator (SplitMix64): keeps peers out of step, reproducible from its seed.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 75–100 % of the duration (RFC 4271 §10).
    pub(super) fn apply(&mut self, duration: Duration) -> Duration {
        let thousandths = 750 + self.next() % 251;
        duration.mul_f64(f64::from(u16::try_from(thousandths).unwrap_or(1000)) / 1000.0)
    }

    /// The wait before the next attempt, after this number of consecutive failures.
    pub(super) fn retry(&mut self, failures: u32, longest: Duration) -> Duration {
        match failures.checked_sub(2) {
            None => Duration::from_millis(
                FIRST_RETRY_MS.0 + self.next() % (FIRST_RETRY_MS.1 - FIRST_RETRY_MS.0 + 1),
            ),
            Some(doublings) => {
                let wait = SECOND_RETRY.saturating_mul(1 << doublings.min(20));
                self.apply(wait.min(longest))
            }
        }
    }
}

/// RFC 4271 §4.4, §10: a third of the hold time, jittered, but at least one second.
pub(super) fn keepalive_interval(jitter: &mut Jitter, hold_time: Duration) -> Duration {
    jitter.apply(hold_time / 3).max(KEEPALIVE_MIN)
}

/// RFC 9687 §4: the larger of 8 minutes and twice the negotiated hold time.
pub(super) fn send_hold_time(hold_time: Duration) -> Duration {
    (2 * hold_time).max(SEND_HOLD_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_band_and_follows_the_seed() {
        let (mut a, mut b, mut c) = (Jitter::new(7), Jitter::new(7), Jitter::new(8));
        let full = Duration::from_secs(100);
        let mut differ = false;
        for _ in 0..1000 {
            let x = a.apply(full);
            assert_eq!(x, b.apply(full));
            assert!((Duration::from_secs(75)..=full).contains(&x), "{x:?}");
            differ |= x != c.apply(full);
        }
        assert!(differ);
    }

    #[test]
    fn back_off_is_quick_at_first_then_doubles_to_its_bound() {
        let mut jitter = Jitter::new(1);
        let longest = Duration::from_secs(5);
        for failures in [0, 1] {
            let first = jitter.retry(failures, longest);
            assert!((Duration::from_millis(10)..=Duration::from_millis(50)).contains(&first));
        }
        for (failures, millis) in [
            (2, 100),
            (3, 200),
            (4, 400),
            (7, 3200),
            (8, 5000),
            (u32::MAX, 5000),
        ] {
            let full = Duration::from_millis(millis);
            let wait = jitter.retry(failures, longest);
            assert!((full * 3 / 4..=full).contains(&wait), "{failures}: {wait:?}");
        }
    }

    #[test]
    fn keepalives_are_never_more_often_than_once_a_second() {
        let mut jitter = Jitter::new(3);
        for _ in 0..100 {
            assert_eq!(
                keepalive_interval(&mut jitter, Duration::from_secs(3)),
                KEEPALIVE_MIN
            );
            let usual = keepalive_interval(&mut jitter, Duration::from_secs(90));
            assert!((Duration::from_millis(22_500)..=Duration::from_secs(30)).contains(&usual));
        }
    }
}
