//! Notifications to the service manager (sd_notify(3)): started, stopping, watchdog (WatchdogSec).
//! Without a service manager that asks for it (NOTIFY_SOCKET, WATCHDOG_USEC) nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Interval;

/// The agent serves sessions, plugins and operators. Readiness with sessions and routes is `/readyz`: a router that is down must not
/// let a start fail.
pub(crate) fn started() {
    send(&NotifyState::Ready);
}

/// The agent ends; the kernel keeps its routes.
pub(crate) fn stopping() {
    send(&NotifyState::Stopping);
}

/// Ticks when the service manager's watchdog wants a sign of life; never without one.
#[derive(Debug)]
pub(crate) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As the environment says: a sign at half of the time after which the service manager restarts the agent.
    pub(crate) fn from_environment() -> Self {
        Self::new(sd_notify::watchdog_enabled())
    }

    fn new(limit: Option<Duration>) -> Self {
        let half = limit.map(|limit| limit / 2).filter(|half| !half.is_zero());
        Self(half.map(tokio::time::interval))
    }

    /// Waits for the next sign of life and sends it. Cancel safe.
    pub(crate) async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
        send(&NotifyState::Watchdog);
    }
}

fn send(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(event = "service_manager_failed", %error, "cannot send {state} to the service manager (NOTIFY_SOCKET)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_is_due_at_half_of_the_limit() {
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(30)));
        watchdog.tick().await;
        let begin = tokio::time::Instant::now();
        watchdog.tick().await;
        assert_eq!(begin.elapsed(), Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watchdog_nothing_is_due() {
        let mut none = Watchdog::new(None);
        let waited = tokio::time::timeout(Duration::from_secs(3600), none.tick()).await;
        assert!(waited.is_err());
        let mut zero = Watchdog::new(Some(Duration::ZERO));
        let waited = tokio::time::timeout(Duration::from_secs(3600), zero.tick()).await;
        assert!(waited.is_err());
    }
}
