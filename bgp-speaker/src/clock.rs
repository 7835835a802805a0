//! The only place that reads the clock.

use std::time::Instant;

/// The present time.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Time since 1970, for operators and other programs.
pub(crate) fn unix_time() -> std::time::Duration {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}
