//! Counters and last errors of a session, as shown by `podroute show`.

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

    /// All messages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.open + self.update + self.notification + self.keepalive + self.refresh
    }
}

/// Counters and last errors of a session.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Messages received.
    pub received: u64,
    /// Messages received, by type.
    pub messages_in: MessageCounts,
    /// Messages sent by the session, by type. The engine's UPDATEs are not counted here.
    pub messages_out: MessageCounts,
    /// Errors in UPDATEs that did not end the session (RFC 7606).
    pub update_issues: u64,
    /// Outgoing connection attempts.
    pub attempts: u64,
    /// Connections accepted from the peer.
    pub accepted: u64,
    /// Connections of the peer that were refused.
    pub refused: u64,
    /// Connections closed because of a collision (RFC 4271 §6.8).
    pub collisions: u64,
    /// Number of established sessions.
    pub established: u64,
    /// When the session last came up or went down.
    pub since: Option<Instant>,
    /// Last NOTIFICATION sent, other than for a collision.
    pub last_sent: Option<Notification>,
    /// When.
    pub last_sent_at: Option<Instant>,
    /// Last NOTIFICATION received, other than for a collision.
    pub last_received: Option<Notification>,
    /// When.
    pub last_received_at: Option<Instant>,
    /// Why the session last went down or failed to come up.
    pub last_down: Option<DownReason>,
    /// When.
    pub last_down_at: Option<Instant>,
    /// Why the last established session ended. Failed attempts do not change it.
    pub last_end: Option<DownReason>,
    /// When.
    pub last_end_at: Option<Instant>,
}

/// Direction of a NOTIFICATION.
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

    /// The last NOTIFICATION in either direction, other than for a collision, and its time. Later connection
    /// errors do not hide it.
    #[must_use]
    pub fn last_notification(&self) -> Option<(Direction, &Notification, Instant)> {
        let sent = self.last_sent.as_ref().zip(self.last_sent_at);
        let received = self.last_received.as_ref().zip(self.last_received_at);
        let sent = sent.map(|(notification, at)| (Direction::Sent, notification, at));
        let received = received.map(|(notification, at)| (Direction::Received, notification, at));
        sent.into_iter().chain(received).max_by_key(|(_, _, at)| *at)
    }
}
