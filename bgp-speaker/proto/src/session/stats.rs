//! Numbers and last words of a session, for people: what `podroute show` tells of a peer's life.

use std::time::Instant;

use super::DownReason;
use crate::wire::{MessageKind, Notification};

/// Messages by type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageCounts {
    /// OPEN.
    pub open: u64,
    /// UPDATE.
    pub update: u64,
    /// NOTIFICATION.
    pub notification: u64,
    /// KEEPALIVE.
    pub keepalive: u64,
    /// ROUTE-REFRESH.
    pub refresh: u64,
}

impl MessageCounts {
    pub(super) fn count(&mut self, kind: MessageKind) {
        let counter = match kind {
            MessageKind::Open => &mut self.open,
            MessageKind::Update => &mut self.update,
            MessageKind::Notification => &mut self.notification,
            MessageKind::Keepalive => &mut self.keepalive,
            MessageKind::Refresh => &mut self.refresh,
        };
        *counter += 1;
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.refresh
    }
}

/// Numbers and last words of a session, for people.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Messages received.
    pub received: u64,
    /// The same, by type.
    pub messages_in: MessageCounts,
    /// Messages that the session sent, by type. UPDATEs go from the engine to the connection and are not counted
    /// here.
    pub messages_out: MessageCounts,
    /// Faults in UPDATEs that did not end the session (RFC 7606).
    pub update_issues: u64,
    /// Connections that we tried to open.
    pub attempts: u64,
    /// Connections of the peer that we took.
    pub accepted: u64,
    /// Connections of the peer that we refused.
    pub refused: u64,
    /// Connections given up because there was another one (RFC 4271 §6.8).
    pub collisions: u64,
    /// How often the session came up.
    pub established: u64,
    /// When the session last came up or went down.
    pub since: Option<Instant>,
    /// Last NOTIFICATION we sent, other than to settle a collision.
    pub last_sent: Option<Notification>,
    /// When.
    pub last_sent_at: Option<Instant>,
    /// Last NOTIFICATION the peer sent, other than to settle a collision.
    pub last_received: Option<Notification>,
    /// When.
    pub last_received_at: Option<Instant>,
    /// Why the session last went down or failed to come up.
    pub last_down: Option<DownReason>,
    /// When.
    pub last_down_at: Option<Instant>,
    /// Why the last session ended that was established. Attempts that fail after it do not change this.
    pub last_end: Option<DownReason>,
    /// When.
    pub last_end_at: Option<Instant>,
}

/// Which way a NOTIFICATION went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From us.
    Sent,
    /// From the peer.
    Received,
}

impl Stats {
    pub(super) fn message_in(&mut self, kind: MessageKind) {
        self.received += 1;
        self.messages_in.count(kind);
    }

    pub(super) fn record_sent(&mut self, now: Instant, notification: &Notification) {
        self.last_sent = Some(notification.clone());
        self.last_sent_at = Some(now);
    }

    pub(super) fn record_received(&mut self, now: Instant, notification: &Notification) {
        self.last_received = Some(notification.clone());
        self.last_received_at = Some(now);
    }

    pub(super) fn record_down(&mut self, now: Instant, reason: &DownReason, was_up: bool) {
        self.last_down = Some(reason.clone());
        self.last_down_at = Some(now);
        if was_up {
            self.last_end = Some(reason.clone());
            self.last_end_at = Some(now);
        }
    }

    /// The last NOTIFICATION of either side, other than to settle a collision, and when it was. Errors of connections
    /// after it do not hide it.
    #[must_use]
    pub fn last_notification(&self) -> Option<(Direction, &Notification, Instant)> {
        let sent = self.last_sent.as_ref().zip(self.last_sent_at);
        let received = self.last_received.as_ref().zip(self.last_received_at);
        let sent = sent.map(|(notification, at)| (Direction::Sent, notification, at));
        let received = received.map(|(notification, at)| (Direction::Received, notification, at));
        sent.into_iter().chain(received).max_by_key(|(_, _, at)| *at)
    }
}
