//! State of one TCP connection of a session: its phase, its timers, what was negotiated. The state machine
//! makes all decisions.

use std::time::{Duration, Instant};

use ::bytes::Bytes;

use super::timer::{INCOMING_OPEN_HOLD, OPEN_HOLD, send_hold_time};
use super::{ConnId, Negotiated};
use crate::types::FamilySet;
use crate::wire::{DecodeContext, Notification, Open};

/// Progress of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// Being opened.
    Connecting,
    /// Connected; our OPEN is sent.
    OpenSent,
    /// The peer's OPEN is accepted; our KEEPALIVE is sent.
    OpenConfirm,
    /// The peer's KEEPALIVE arrived, but the peer may still prefer its own connection (see `collision`).
    Confirmed,
    /// Routes are exchanged.
    Established,
}

/// The timer of a connection that expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    ConnectRetry,
    Hold,
    SendHold,
    Keepalive,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    /// The peer opened it.
    pub(super) incoming: bool,
    pub(super) phase: Phase,
    /// The OPEN that we sent on it.
    pub(super) sent: Option<Open>,
    pub(super) negotiated: Option<Box<Negotiated>>,
    /// Both OPENs as sent on the wire: ours, the peer's.
    pub(super) opens: (Bytes, Bytes),
    pub(super) context: DecodeContext,
    /// Messages up to 65535 octets (RFC 8654).
    pub(super) extended: bool,
    /// While connecting: the connect-retry timer.
    pub(super) hold: Option<Instant>,
    /// Negotiated hold time; zero: no hold, keepalive and send hold timers.
    pub(super) hold_time: Duration,
    pub(super) keepalive: Option<Instant>,
    pub(super) send_hold: Option<Instant>,
}

impl Connection {
    fn new(id: ConnId, incoming: bool, phase: Phase) -> Self {
        Self {
            id,
            incoming,
            phase,
            sent: None,
            negotiated: None,
            opens: (Bytes::new(), Bytes::new()),
            context: DecodeContext {
                four_octet_as: false,
                add_path: FamilySet::EMPTY,
                families: FamilySet::EMPTY,
                extended_next_hop: FamilySet::EMPTY,
                external: true,
            },
            extended: false,
            hold: None,
            hold_time: Duration::ZERO,
            keepalive: None,
            send_hold: None,
        }
    }

    /// An outgoing attempt that is given up after `timeout`.
    pub(super) fn outgoing(id: ConnId, now: Instant, timeout: Duration) -> Self {
        Self {
            hold: Some(now + timeout),
            ..Self::new(id, false, Phase::Connecting)
        }
    }

    /// A connection opened by the peer.
    pub(super) fn incoming(id: ConnId) -> Self {
        Self::new(id, true, Phase::Connecting)
    }

    /// Connected: our OPEN is sent (RFC 4271 §8.2.2: with a large hold timer).
    pub(super) fn opened(&mut self, now: Instant, open: Open) {
        self.phase = Phase::OpenSent;
        let time = if self.incoming {
            INCOMING_OPEN_HOLD
        } else {
            OPEN_HOLD
        };
        self.hold = Some(now + time);
        self.sent = Some(open);
    }

    /// The peer's OPEN is accepted: from now on the negotiated parameters apply.
    pub(super) fn accept(&mut self, now: Instant, negotiated: Negotiated, external: bool) {
        self.phase = Phase::OpenConfirm;
        self.hold_time = Duration::from_secs(u64::from(negotiated.hold_time.seconds()));
        self.extended = negotiated.extended_message;
        self.context = DecodeContext {
            four_octet_as: negotiated.four_octet_as,
            add_path: negotiated.add_path_receive,
            families: negotiated.families,
            extended_next_hop: negotiated.extended_next_hop,
            external,
        };
        self.negotiated = Some(Box::new(negotiated));
        // With hold time zero the large hold timer limits OpenConfirm, so that no half-open connection stays
        // forever.
        let time = if self.timed() { self.hold_time } else { OPEN_HOLD };
        self.hold = Some(now + time);
    }

    /// Routes are exchanged from now on.
    pub(super) fn establish(&mut self, now: Instant) {
        self.phase = Phase::Established;
        self.restart_hold(now);
        self.restart_send_hold(now);
    }

    /// RFC 4271 §8.2.2: restarts the hold timer, unless the hold time is zero.
    pub(super) fn restart_hold(&mut self, now: Instant) {
        self.hold = self.timed().then(|| now + self.hold_time);
    }

    /// RFC 9687 §3.3: restarts the send hold timer in Established, unless the hold time is zero.
    pub(super) fn restart_send_hold(&mut self, now: Instant) {
        let runs = self.timed() && self.phase == Phase::Established;
        self.send_hold = runs.then(|| now + send_hold_time(self.hold_time));
    }

    /// Whether a hold time other than zero was negotiated (RFC 4271 §4.2).
    pub(super) fn timed(&self) -> bool {
        self.hold_time > Duration::ZERO
    }

    /// Time of the next timer.
    pub(super) fn timeout(&self) -> Option<Instant> {
        [self.hold, self.keepalive, self.send_hold]
            .into_iter()
            .flatten()
            .min()
    }

    /// The most severe expired timer.
    pub(super) fn due(&self, now: Instant) -> Option<Due> {
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        match self.phase {
            Phase::Connecting => due(self.hold).then_some(Due::ConnectRetry),
            _ if due(self.hold) => Some(Due::Hold),
            _ if due(self.send_hold) => Some(Due::SendHold),
            _ => due(self.keepalive).then_some(Due::Keepalive),
        }
    }
}

/// Whether both sides negotiated that routes are retained after a NOTIFICATION other than a Hard Reset (RFC
/// 8538 §2).
pub(super) fn survives_notification(agreed: &Negotiated) -> bool {
    let bit = |open: &Open| {
        open.graceful_restart()
            .is_some_and(|restart| restart.notification)
    };
    bit(&agreed.local) && bit(&agreed.remote)
}

/// RFC 8538 §3: turns the NOTIFICATION into a Hard Reset if the peer would otherwise retain our routes.
pub(super) fn hard_reset_if_negotiated(conn: &Connection, notification: Notification) -> Notification {
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
