//! Which routes outlive a connection (RFC 4724, RFC 8538), and when a new connection shows that the old one is dead.
//!
//! Owns the decision, not the routes: the families and the time go out with [`super::Output::Down`].
//!
//! A new connection of the peer beside an established one replaces it when all of this holds: graceful restart was
//! negotiated, the established session is older than [`LATE_COLLISION`], and on the new connection the peer sent an
//! OPEN that negotiates, with the same identifier, and then KEEPALIVE. Until then the established session goes on, and
//! the new connection has the short time of any incoming one ([`super::timer::INCOMING_OPEN_HOLD`]). At most one such
//! connection is kept, the newest.
//!
//! Deviation from RFC 4724 §5: the TCP connection alone is no sign of a restart, because anybody who can send from the
//! peer's address (a host behind the same source NAT, another process on the peer) could end the session with it. Nor
//! is the OPEN alone: it may have waited, with the Cease of a peer that chose the other connection right behind it,
//! while we were busy. The KEEPALIVE shows that the peer has received our OPEN and wants the new connection. In the
//! first seconds of a session a new connection does not replace it, since it is rather a late collision than a restart.

use std::time::{Duration, Instant};

use super::connection::{Connection, Phase, survives_notification};
use super::fsm::Session;
use super::{DownReason, Negotiated, RestartBits};
use crate::types::{Family, FamilySet};

/// Second connections in this time after a session came up are collisions, not restarts.
const LATE_COLLISION: Duration = Duration::from_secs(5);

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
        let remote = agreed.remote.long_lived(family)?;
        let time = Duration::from_secs(u64::from(remote.stale_time));
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

    /// RFC 4724 §4.1: R is for the first session after a restart, and F only where forwarding state was preserved. Between
    /// sessions of one process it is: the kernel's routes do not go with them.
    pub(super) fn restart_bits(&self, now: Instant) -> RestartBits {
        let first = self.first_since_start && self.stats().established == 0;
        let restarting = self.config().restarting_until.is_some_and(|until| now < until);
        RestartBits {
            restarting: first && restarting,
            forwarding_preserved: !first || self.config().forwarding_preserved,
        }
    }

    /// RFC 4724 §5: whether a new connection of the peer may show that it restarted, and that the established one
    /// is dead.
    pub(super) fn is_replaceable(&self, now: Instant) -> bool {
        let agreed = self.negotiated();
        let offered = agreed.is_some_and(|agreed| {
            agreed.local.graceful_restart().is_some() && agreed.remote.graceful_restart().is_some()
        });
        let since = self.stats().since;
        offered && since.is_some_and(|since| now.saturating_duration_since(since) >= LATE_COLLISION)
    }

    /// The peer's new connection is confirmed: the established one, if there is one, is dead. No NOTIFICATION is sent
    /// on it (RFC 4724 §4.2).
    pub(super) fn drop_superseded(&mut self, now: Instant) {
        let Some(dead) = self.established().map(|conn| conn.id) else {
            return;
        };
        let cause = "the peer opened a new connection: it restarted".to_owned();
        self.drop_conn(now, dead, DownReason::Closed(Some(cause)));
        self.update_state();
    }
}
