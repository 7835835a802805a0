//! A timer for deadlines that are mostly postponed before they expire, such as hold timers. Postponing does
//! not touch the tokio timer: it then expires early once, and the caller sets it again.

use std::pin::Pin;

use tokio::time::{Instant, Sleep};

/// Wakes a task at or before its deadline.
#[derive(Default)]
pub(crate) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    at: Option<Instant>,
}

impl LazyTimer {
    /// Sets the deadline; an earlier one already set stays.
    pub(crate) fn set(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline.filter(|deadline| self.at.is_none_or(|at| *deadline < at)) else {
            return;
        };
        self.at = Some(deadline);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }

    pub(crate) async fn expired(&mut self) {
        match &mut self.sleep {
            Some(sleep) if self.at.is_some() => sleep.await,
            _ => std::future::pending().await,
        }
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn fires_by_the_deadline_and_once() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut timer = LazyTimer::default();
        timer.set(Some(after(60_000)));
        timer.set(Some(after(20)));
        // Postponed: it still expires at the earlier deadline.
        timer.set(Some(after(60_000)));
        timer.set(None);
        timer.expired().await;
        assert!(start.elapsed() >= Duration::from_millis(20));
        let again = tokio::time::timeout(Duration::from_millis(30), timer.expired());
        assert!(again.await.is_err(), "nothing is set");
        timer.set(Some(after(1)));
        timer.expired().await;
    }
}
