//! The one place where the agent asks what time it is.

use std::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}
