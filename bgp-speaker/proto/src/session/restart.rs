//! Which routes outlive a connection (RFC 4724, RFC 8538), and when a new connection shows that the old one is dead.
//!
//! Owns the decision, not the routes: the families and the time go out with [`super::Output::Down`].
//!
//! Deviation from RFC 4724 §5: in the first seconds of a session a new connection does not replace it, since
//! it is rather a late collision than a restart.

use std::time::{Duration, Instant};

use super::connection::{Connection, Phase};
use super::fsm::Session;
use super::{ConnId, DownReason, Negotiated};
use crate::types::{Family, FamilySet};
use crate::wire::{Notification, Open};

/// Second connections in this time after a session came up are collisions, not restarts.
const LATE_COLLISION: Duration = Duration::from_secs(5);

/// Both sides said that a NOTIFICATION, other than a Hard Reset, is no reason to drop routes (RFC 8538 §2).
fn survives_notification(agreed: &Negotiated) -> bool {
    let bit = |open: &Open| {
        open.graceful_restart()
            .is_some_and(|restart| restart.notification)
    };
    bit(&agreed.local) && bit(&agreed.remote)
}

/// RFC 8538 §3: what ends a session for good says so, if the peer would otherwise keep our routes.
pub(super) fn for_good(conn: &Connection, notification: Notification) -> Notification {
    let agreed = conn
        .negotiated
        .as_deref()
        .filter(|_| conn.phase == Phase::Established);
    match agreed {
        Some(agreed) if survives_notification(agreed) && !notification.is_hard_reset() => {
            notification.into_hard_reset()
        }
        _ => notification,
    }
}

/// What outlives a connection.
#[derive(Debug, Default)]
pub(super) struct Retained {
    pub(super) families: FamilySet,
    pub(super) time: Duration,
    pub(super) long_lived: Vec<(Family, Duration)>,
}

/// RFC 9494 §4.2: the peer's stale time of each family in which we, too, offer it.
fn long_lived(agreed: &Negotiated) -> Vec<(Family, Duration)> {
    let time = |family| {
        agreed.local.long_lived(family)?;
        let theirs = agreed.remote.long_lived(family)?;
        let time = Duration::from_secs(u64::from(theirs.stale_time));
        (!time.is_zero()).then_some((family, time))
    };
    agreed.families.iter().filter_map(time).collect()
}

impl Session {
    /// RFC 4724 §4.2: families whose routes outlive the connection, and for how long: those of the session for
    /// which the peer offered graceful restart, where our OPEN on this connection offered it too, when the
    /// connection closed without a NOTIFICATION, or with one that RFC 8538 §4 lets them survive. Then, for families
    /// in which both sides offered it, the time as long-lived stale routes (RFC 9494 §4.2).
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

    /// RFC 4724 §5: a new connection of a peer that offered graceful restart means that it restarted, and that
    /// the established connection is dead. Gives the dead one.
    pub(super) fn replaces_dead(&self, now: Instant) -> Option<ConnId> {
        let up = self.all().find(|conn| conn.phase == Phase::Established)?;
        let since = self.stats().since?;
        let old = now.saturating_duration_since(since) >= LATE_COLLISION;
        let agreed = up.negotiated.as_deref()?;
        let offered = agreed.local.graceful_restart().is_some() && agreed.remote.graceful_restart().is_some();
        (old && offered).then_some(up.id)
    }
}
