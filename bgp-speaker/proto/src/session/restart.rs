//! Which routes are retained after a connection (RFC 4724, RFC 8538), and when a new connection replaces the
//! established one.
//!
//! The result leaves with [`super::Output::Down`]; the routes themselves are in the engine.
//!
//! A new connection of the peer replaces the established one if all of this holds: graceful restart was
//! negotiated, the session has been established for longer than [`LATE_COLLISION`], and the peer sent an
//! acceptable OPEN with the same BGP identifier and then KEEPALIVE on the new connection. Until then the
//! established session continues, and the new connection has the time limit of any incoming one
//! ([`super::timer::INCOMING_OPEN_HOLD`]). At most one such connection is kept, the newest.
//!
//! Deviation from RFC 4724 §5: the TCP connection alone does not show a restart, because anyone who can send
//! from the peer's address (a host behind the same source NAT, another process on the peer) could end the
//! session with it. Neither does the OPEN: it may have waited in the socket, followed by the Cease of a peer
//! that chose the other connection, while we were busy. The KEEPALIVE shows that the peer has received our
//! OPEN and wants the new connection. In the first seconds of a session a new connection is refused, since it
//! is more likely a late collision than a restart.

use std::time::{Duration, Instant};

use super::connection::{Connection, Phase, survives_notification};
use super::fsm::Session;
use super::{DownReason, Negotiated, RestartBits};
use crate::types::{Family, FamilySet};

/// Time after a session comes up in which further connections are collisions, not restarts.
const LATE_COLLISION: Duration = Duration::from_secs(5);

/// What is retained after a connection.
#[derive(Debug, Default)]
pub(super) struct Retained {
    pub(super) families: FamilySet,
    pub(super) time: Duration,
    pub(super) long_lived: Vec<(Family, Duration)>,
}

/// RFC 9494 §4.2: the peer's stale time of each family that both sides offered.
fn long_lived(agreed: &Negotiated) -> Vec<(Family, Duration)> {
    let time = |family| {
        agreed.local.long_lived(family)?;
        let remote = agreed.remote.long_lived(family)?;
        let time = Duration::from_secs(u64::from(remote.stale_time));
        (!time.is_zero()).then_some((family, time))
    };
    agreed.families.iter().filter_map(time).collect()
}

impl Session {
    /// RFC 4724 §4.2: the families whose routes are retained, and for how long. These are the families of the
    /// session for which the peer offered graceful restart, if our OPEN on this connection offered it too and
    /// the connection closed without a NOTIFICATION, or with one after which RFC 8538 §4 retains routes.
    /// After that, the times as long-lived stale routes for families in which both sides offered it (RFC 9494
    /// §4.2).
    pub(super) fn retained(conn: &Connection, reason: &DownReason) -> Retained {
        let none = Retained::default();
        let agreed = conn
            .negotiated
            .as_deref()
            .filter(|agreed| conn.phase == Phase::Established && agreed.local.graceful_restart().is_some());
        let Some((agreed, restart)) =
            agreed.and_then(|agreed| Some((agreed, agreed.remote.graceful_restart()?)))
        else {
            return none;
        };
        let survives = match reason {
            DownReason::Closed(_) => true,
            DownReason::Sent(notification) | DownReason::Received(notification) => {
                survives_notification(agreed) && !notification.is_hard_reset()
            }
            DownReason::Abandoned => false,
        };
        let long_lived = long_lived(agreed);
        if !survives || (restart.restart_time == 0 && long_lived.is_empty()) {
            return none;
        }
        let offered = restart.families.iter().map(|(family, _)| *family).collect();
        Retained {
            families: agreed.families.intersection(offered),
            time: Duration::from_secs(u64::from(restart.restart_time)),
            long_lived,
        }
    }

    /// RFC 4724 §4.1: R is set on the first session after a restart, F if forwarding state was preserved.
    /// Between sessions of one process it always is: the end of a session does not remove kernel routes.
    pub(super) fn restart_bits(&self, now: Instant) -> RestartBits {
        let first = self.first_since_start && self.stats().established == 0;
        let restarting = self.config().restarting_until.is_some_and(|until| now < until);
        RestartBits {
            restarting: first && restarting,
            forwarding_preserved: !first || self.config().forwarding_preserved,
        }
    }

    /// RFC 4724 §5: whether a new connection of the peer may show that it restarted.
    pub(super) fn is_replaceable(&self, now: Instant) -> bool {
        let agreed = self.negotiated();
        let offered = agreed.is_some_and(|agreed| {
            agreed.local.graceful_restart().is_some() && agreed.remote.graceful_restart().is_some()
        });
        let since = self.stats().since;
        offered && since.is_some_and(|since| now.saturating_duration_since(since) >= LATE_COLLISION)
    }

    /// Drops the established connection, if there is one: the peer's new connection replaces it. No
    /// NOTIFICATION is sent on it (RFC 4724 §4.2).
    pub(super) fn drop_superseded(&mut self, now: Instant) {
        let Some(dead) = self.established().map(|conn| conn.id) else {
            return;
        };
        let cause = "the peer opened a new connection: it restarted".to_owned();
        self.drop_conn(now, dead, DownReason::Closed(Some(cause)));
        self.update_state();
    }
}
