//! The one place where the speaker asks what time it is.

use std::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Since 1970, for people and other programs.
pub(crate) fn unix_time() -> std::time::Duration {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}
