//! Waiting on conditions with deadlines.
//!
//! The lab never sleeps in place of a condition: every wait names what it waits for, asks again at
//! a short interval and, when the deadline passes, fails with the last reason that the condition
//! gave for not holding yet. A fatal reason (a daemon has ended) fails at once.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

const INTERVAL: Duration = Duration::from_millis(15);

/// Asks `condition` until it answers `Ok`, at most for `limit`. `Err` says why not yet.
pub fn until<T>(
    limit: Duration,
    what: impl std::fmt::Display,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if reason.is_fatal() => return Err(reason.during(what)),
            Err(reason) if start.elapsed() >= limit => {
                return Err(reason.during(format_args!("{what}: not within {} s", limit.as_secs_f32())));
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// Asserts that `condition` keeps holding for the whole of `span`; a failure comes at once.
pub fn throughout(
    span: Duration,
    what: impl std::fmt::Display,
    mut condition: impl FnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        condition().map_err(|f| f.during(format_args!("{what}: broke after {:?}", start.elapsed())))?;
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Shorthand for a condition that is not met yet.
pub fn not_yet<T>(why: impl Into<String>) -> Result<T> {
    Err(Failure::new(why))
}
