//! The finite state machine (RFC 4271 §8), over up to two connections.
//!
//! RFC 4271 has one FSM per connection; here one [`Session`] holds both, so that a collision is resolved
//! where both OPENs are known. The state of the session is that of its most advanced connection:
//!
//! | state | connections |
//! |---|---|
//! | Idle | none: stopped; connections of the peer are refused |
//! | Connect | an outgoing attempt is in progress |
//! | Active | none; the connect-retry timer runs, or the session is passive |
//! | OpenSent | the most advanced one has sent OPEN |
//! | OpenConfirm | the most advanced one has accepted the peer's OPEN |
//! | Established | one is established; beside it at most one of the peer that may replace it (see `restart`) |
//!
//! | RFC 4271 §8.1 event | input |
//! |---|---|
//! | 1, 3–7 start | [`Input::Start`], [`Input::StartAfter`] |
//! | 2, 8 stop | [`Input::Stop`], [`Input::Abandon`] |
//! | 9 connect-retry, 10 hold, 11 keepalive, 13 idle hold; RFC 9687 event 29 send hold | [`Input::Tick`], or any other |
//! | 14, 16, 17 connection established | [`Input::Connected`] |
//! | 15, 18 connection failed | [`Input::Closed`] |
//! | 19, 21, 22, 24–28 messages | [`Input::Received`] (see `receive`) |
//! | 23 collision | see `collision` |
//!
//! Deviations from RFC 4271: after a failure the session waits for its back-off (see `timer`) in Active,
//! where it accepts connections of the peer, instead of Idle. A connection of the peer that makes no progress
//! does not stop our own attempts. DelayOpen (events 12, 20), which is optional, is not implemented.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ::bytes::Bytes;

use super::connection::{Connection, Due, Phase, hard_reset_if_negotiated};
use super::negotiate::OpenOffer;
use super::timer::{CONNECT_RETRY_MAX, CONNECT_RETRY_MIN, Jitter, STABLE_AFTER};
use super::{ConnId, DownReason, Input, Negotiated, Output, SessionConfig, State, Stats};
use crate::wire::{
    DecodeError, MessageKind, Notification, Refresh, RefreshKind, RouteBatch, cease, code, keepalive,
};

/// A session with one peer.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    jitter: Jitter,
    enabled: bool,
    /// At most one in each direction; beside an established one at most one opened by the peer.
    connections: Vec<Connection>,
    /// Time of the next connection attempt.
    retry: Option<Instant>,
    /// Until when the peer may decide a collision.
    pub(super) collision_deadline: Option<Instant>,
    /// No session before this time.
    idle_until: Option<Instant>,
    /// This process had no earlier session with the peer: our first OPEN may say that we restarted (RFC 4724
    /// §3, R).
    pub(super) first_since_start: bool,
    /// Consecutive failures.
    failures: u32,
    offer: OpenOffer,
    next_conn: u64,
    state: State,
    out: VecDeque<Output>,
    batch: RouteBatch,
    stats: Stats,
}

/// A fault that ends a connection.
pub(super) enum Fault {
    /// We send this NOTIFICATION.
    Notify(Notification),
    /// The peer sent this NOTIFICATION.
    Notified(Notification),
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Fault::Notify(error.notification())
    }
}

impl Session {
    /// A session that is not started.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        Self {
            config,
            jitter: Jitter::new(seed),
            enabled: false,
            connections: Vec::new(),
            retry: None,
            collision_deadline: None,
            idle_until: None,
            first_since_start: true,
            failures: 0,
            offer: OpenOffer::Full,
            next_conn: 0,
            state: State::Idle,
            out: VecDeque::new(),
            batch: RouteBatch::default(),
            stats: Stats::default(),
        }
    }

    /// Marks a session as the replacement of an earlier one of this process after a configuration change: its
    /// OPEN does not say that the speaker restarted (RFC 4724 §3).
    #[must_use]
    pub fn as_replacement(mut self) -> Self {
        self.first_since_start = false;
        self
    }

    /// The state of RFC 4271 §8.2.2.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Counters and the last errors.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What was negotiated on the established connection.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.established()?.negotiated.as_deref()
    }

    /// Both OPENs of the established connection as sent on the wire: ours, the peer's.
    #[must_use]
    pub fn opens(&self) -> Option<&(Bytes, Bytes)> {
        self.established().map(|conn| &conn.opens)
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call [`Session::handle`] with [`Input::Tick`] at the latest; `None` without a timer. Each call
    /// of `handle` moves it into the future.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connections
            .iter()
            .filter_map(Connection::timeout)
            .chain(self.retry)
            .chain(self.collision_deadline)
            .chain(self.idle_until)
            .min()
    }

    /// Takes an input. Received data is processed before expired timers, so that a KEEPALIVE that is read
    /// late keeps the session up.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Start => self.start(now, Duration::ZERO),
            Input::StartAfter(wait) => self.start(now, wait),
            Input::Stop { subcode, message } => self.stop(now, subcode, &message),
            Input::Abandon => self.abandon(now),
            Input::Connected { conn, incoming: true } => self.accept(now, conn),
            Input::Connected {
                conn,
                incoming: false,
            } => self.connected(now, conn),
            Input::Closed { conn, error } => self.closed(now, conn, error),
            Input::Received { conn, buf } => self.received(now, conn, buf),
            Input::Wrote => self.wrote(now),
            Input::Unread => self.unread(now),
            Input::Tick => {}
            Input::SendRefresh(refresh) => self.send_refresh(now, refresh),
            Input::Fail {
                notification,
                idle_for,
            } => self.fail(now, &notification, idle_for),
        }
        self.run_timers(now);
        self.establish_remaining(now);
        self.arm_retry(now);
        self.update_state();
    }

    fn start(&mut self, now: Instant, wait: Duration) {
        let was_idle = self.idle_until.take().is_some();
        if !self.enabled || was_idle {
            self.enabled = true;
            self.failures = 0;
            self.offer = OpenOffer::Full;
            if wait.is_zero() {
                self.try_connect(now);
            } else {
                self.retry = Some(now + wait.min(CONNECT_RETRY_MAX));
            }
        }
    }

    /// RFC 4271 §8.2.2, events 2 and 8: sends Cease on all connections that have sent OPEN.
    fn stop(&mut self, now: Instant, subcode: u8, message: &str) {
        self.enabled = false;
        self.idle_until = None;
        let notification = Notification::cease_with_message(subcode, message);
        for id in self.ids() {
            self.end_with_hard_reset(now, id, &notification);
        }
    }

    fn abandon(&mut self, now: Instant) {
        self.enabled = false;
        for id in self.ids() {
            self.drop_conn(now, id, DownReason::Abandoned);
        }
    }

    fn fail(&mut self, now: Instant, notification: &Notification, idle_for: Duration) {
        let Some(id) = self.established().map(|conn| conn.id) else {
            return;
        };
        self.end_with_hard_reset(now, id, notification);
        if idle_for.is_zero() {
            return;
        }
        self.idle_until = Some(now + idle_for);
        for id in self.ids() {
            self.refuse(id, cease::CONNECTION_REJECTED); // RFC 4486 §4
        }
    }

    /// RFC 4486 §4: no session for a while; connections of the peer are refused.
    fn in_idle_hold(&self) -> bool {
        self.idle_until.is_some()
    }

    fn try_connect(&mut self, now: Instant) {
        if !self.wants_connection() {
            return;
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.stats.attempts += 1;
        let timeout = self.jitter.apply(self.connect_retry());
        self.connections.push(Connection::outgoing(id, now, timeout));
        self.push(Output::Connect(id));
    }

    /// Whether we should open a connection. A connection of the peer replaces ours only once its OPEN is
    /// accepted.
    fn wants_connection(&self) -> bool {
        let busy = |conn: &Connection| !conn.incoming || conn.phase >= Phase::OpenConfirm;
        self.enabled && !self.in_idle_hold() && !self.config.passive && !self.connections.iter().any(busy)
    }

    fn arm_retry(&mut self, now: Instant) {
        if !self.wants_connection() {
            self.retry = None;
        } else if self.retry.is_none() {
            let longest = self.connect_retry();
            self.retry = Some(now + self.jitter.retry(self.failures, longest));
        }
    }

    fn connect_retry(&self) -> Duration {
        self.config
            .connect_retry
            .clamp(CONNECT_RETRY_MIN, CONNECT_RETRY_MAX)
    }

    /// Our attempt succeeded (event 16).
    fn connected(&mut self, now: Instant, id: ConnId) {
        match self.conn(id) {
            Some(conn) if conn.incoming || conn.phase != Phase::Connecting => {}
            Some(_) => self.begin(now, id),
            None => self.push(Output::Close(id)),
        }
    }

    /// The peer opened a connection (event 17).
    fn accept(&mut self, now: Instant, id: ConnId) {
        if self.conn(id).is_some() {
            return;
        }
        if !self.enabled || self.in_idle_hold() {
            return self.refuse(id, cease::CONNECTION_REJECTED); // RFC 4486 §4
        }
        if self.established().is_some() && !self.is_replaceable(now) {
            return self.refuse(id, cease::COLLISION); // RFC 4271 §6.8
        }
        let unfinished = |conn: &&Connection| conn.incoming && conn.phase < Phase::Established;
        let before = self.connections.iter().find(unfinished);
        if let Some(before) = before.map(|conn| conn.id) {
            self.close_redundant(before);
        }
        self.stats.accepted += 1;
        self.connections.push(Connection::incoming(id));
        self.begin(now, id);
    }

    /// Sends our OPEN.
    fn begin(&mut self, now: Instant, id: ConnId) {
        let open = self.offer.open(&self.config, self.restart_bits(now));
        let bytes = open.encode();
        if let Some(conn) = self.conn_mut(id) {
            conn.opened(now, open);
            conn.opens.0 = bytes.clone();
            self.send(id, MessageKind::Open, bytes);
        }
    }

    pub(super) fn refuse(&mut self, id: ConnId, subcode: u8) {
        self.stats.refused += 1;
        self.send_notification(id, &Notification::cease(subcode));
        self.close_quietly(id);
    }

    fn closed(&mut self, now: Instant, id: ConnId, error: Option<String>) {
        if let Some(position) = self.connections.iter().position(|conn| conn.id == id) {
            let conn = self.connections.remove(position);
            self.connection_lost(now, &conn, DownReason::Closed(error));
        }
    }

    /// Data was written: the peer reads (RFC 9687 §3.3), and it knows that we are alive (RFC 4271 §4.4).
    fn wrote(&mut self, now: Instant) {
        let Some(id) = self.established().map(|conn| conn.id) else {
            return;
        };
        if let Some(conn) = self.conn_mut(id) {
            conn.restart_send_hold(now);
        }
        self.restart_keepalive(now, id);
    }

    /// Data waits unread: it restarts the hold timer as if it had been read.
    fn unread(&mut self, now: Instant) {
        if let Some(id) = self.established().map(|conn| conn.id) {
            self.restart_hold(now, id);
        }
    }

    /// RFC 2918 §3, RFC 7313 §4: only if the peer supports it, and for families of the session.
    fn send_refresh(&mut self, now: Instant, refresh: Refresh) {
        let Some(conn) = self.established() else { return };
        let id = conn.id;
        let known = conn.negotiated.as_deref().is_some_and(|agreed| {
            let plain = refresh.kind == RefreshKind::Request && agreed.refresh;
            agreed.carries(refresh.family) && (plain || agreed.enhanced_refresh)
        });
        if known {
            self.send(id, MessageKind::Refresh, refresh.encode());
            self.restart_keepalive(now, id);
        }
    }

    /// Handles expired timers. Each one is then restarted or stopped.
    fn run_timers(&mut self, now: Instant) {
        while let Some((id, due)) = self.first_due(now) {
            match due {
                Due::ConnectRetry => {
                    let cause = "the connection attempt timed out".to_owned();
                    self.drop_conn(now, id, DownReason::Closed(Some(cause)));
                }
                // RFC 4271 §6.5
                Due::Hold => self.end(now, id, Fault::Notify(Notification::hold_timer_expired())),
                // RFC 9687 §3.3
                Due::SendHold => self.end(now, id, Fault::Notify(Notification::send_hold_timer_expired())),
                Due::Keepalive => {
                    self.send(id, MessageKind::Keepalive, keepalive());
                    self.restart_keepalive(now, id);
                }
            }
        }
        if self.idle_until.is_some_and(|at| at <= now) {
            self.idle_until = None;
            self.failures = 0;
        }
        if self.collision_deadline.is_some_and(|at| at <= now) {
            self.collision_timeout(now);
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.try_connect(now);
        }
    }

    fn first_due(&self, now: Instant) -> Option<(ConnId, Due)> {
        self.connections
            .iter()
            .find_map(|conn| Some((conn.id, conn.due(now)?)))
    }

    /// Derives the state from the connections.
    pub(super) fn update_state(&mut self) {
        let furthest = self.connections.iter().map(|conn| conn.phase).max();
        let state = match furthest {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm | Phase::Confirmed) => State::OpenConfirm,
            Some(Phase::OpenSent) => State::OpenSent,
            Some(Phase::Connecting) => State::Connect,
            None if self.enabled && !self.in_idle_hold() => State::Active,
            None => State::Idle, // stopped, or held down after exceeding the prefix limit
        };
        self.set_state(state);
    }

    fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.push(Output::State(state));
        }
    }
}

/// Establishing and ending connections.
impl Session {
    pub(super) fn came_up(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conn_mut(id) else { return };
        let Some(negotiated) = conn.negotiated.clone() else {
            return;
        };
        conn.establish(now);
        self.stats.established += 1;
        self.stats.since = Some(now);
        self.set_state(State::Established);
        self.push(Output::Up { conn: id, negotiated });
    }

    /// Ends a connection because of a fault; if it is the established one, the session goes down. A fault of
    /// a connection beside the established one does not count for the session.
    pub(super) fn end(&mut self, now: Instant, id: ConnId, fault: Fault) {
        let Some(phase) = self.conn(id).map(|conn| conn.phase) else {
            return;
        };
        let beside = self.is_beside_established(id);
        match fault {
            Fault::Notify(notification) => {
                if phase > Phase::Connecting {
                    self.send_notification(id, &notification);
                }
                if beside {
                    self.stats.refused += 1;
                } else if phase > Phase::Connecting {
                    self.stats.record_sent(now, &notification);
                }
                self.drop_conn(now, id, DownReason::Sent(notification));
            }
            // The peer resolved a collision; another connection remains.
            Fault::Notified(notification)
                if notification.code == code::CEASE
                    && notification.subcode == cease::COLLISION
                    && phase < Phase::Established
                    && self.has_other_connection(id) =>
            {
                self.stats.collisions += 1;
                self.close_quietly(id);
            }
            // RFC 4271 §6.4: a NOTIFICATION is never answered.
            Fault::Notified(notification) => {
                if !beside {
                    self.stats.record_received(now, &notification);
                }
                self.drop_conn(now, id, DownReason::Received(notification));
            }
        }
    }

    /// Ends a connection by local decision; an attempt that is not connected is closed without a
    /// NOTIFICATION.
    fn end_with_hard_reset(&mut self, now: Instant, id: ConnId, notification: &Notification) {
        match self.conn(id) {
            Some(conn) if conn.phase > Phase::Connecting => {
                let notification = hard_reset_if_negotiated(conn, notification.clone());
                self.end(now, id, Fault::Notify(notification));
            }
            _ => self.close_quietly(id),
        }
    }

    pub(super) fn drop_conn(&mut self, now: Instant, id: ConnId, reason: DownReason) {
        if let Some(position) = self.connections.iter().position(|conn| conn.id == id) {
            let conn = self.connections.remove(position);
            self.push(Output::Close(id));
            self.connection_lost(now, &conn, reason);
        }
    }

    pub(super) fn close_quietly(&mut self, id: ConnId) {
        self.connections.retain(|conn| conn.id != id);
        self.push(Output::Close(id));
    }

    /// A connection ended other than by collision: a failure, unless it was established for long.
    fn connection_lost(&mut self, now: Instant, conn: &Connection, reason: DownReason) {
        let was_up = conn.phase == Phase::Established;
        if self.is_beside_established(conn.id) {
            return;
        }
        if was_up {
            let since = self.stats.since.replace(now).unwrap_or(now);
            if now.saturating_duration_since(since) >= STABLE_AFTER {
                self.failures = 0;
            }
        }
        self.failures = self.failures.saturating_add(1);
        if conn.sent.is_some() {
            self.offer = self.offer.after(&self.config, &reason);
        }
        if !was_up && matches!(reason, DownReason::Closed(_)) && self.has_other_connection(conn.id) {
            return; // the other connection continues
        }
        let kept = Self::retained(conn, &reason);
        self.stats.record_down(now, &reason, was_up);
        self.push(Output::Down {
            was_up,
            reason,
            retain: kept.families,
            retain_for: kept.time,
            retain_longer: kept.long_lived,
        });
    }

    /// Whether another connection is the established one.
    fn is_beside_established(&self, id: ConnId) -> bool {
        self.established().is_some_and(|conn| conn.id != id)
    }

    /// Whether another connection exists.
    fn has_other_connection(&self, id: ConnId) -> bool {
        self.others(id).any(|conn| conn.phase > Phase::Connecting)
    }

    pub(super) fn send_notification(&mut self, id: ConnId, notification: &Notification) {
        self.send(id, MessageKind::Notification, notification.encode());
    }

    pub(super) fn send(&mut self, conn: ConnId, kind: MessageKind, bytes: Bytes) {
        self.stats.messages_out.count(kind);
        self.push(Output::Send { conn, bytes });
    }
}

/// Accessors for the other files of this module.
impl Session {
    pub(super) fn config(&self) -> &SessionConfig {
        &self.config
    }

    pub(super) fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    pub(super) fn batch_mut(&mut self) -> &mut RouteBatch {
        &mut self.batch
    }

    pub(super) fn jitter_mut(&mut self) -> &mut Jitter {
        &mut self.jitter
    }

    pub(super) fn push(&mut self, output: Output) {
        self.out.push_back(output);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter()
    }

    pub(super) fn conn(&self, id: ConnId) -> Option<&Connection> {
        self.connections.iter().find(|conn| conn.id == id)
    }

    pub(super) fn conn_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|conn| conn.id == id)
    }

    pub(super) fn others(&self, id: ConnId) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |conn| conn.id != id)
    }

    pub(super) fn established(&self) -> Option<&Connection> {
        self.connections
            .iter()
            .find(|conn| conn.phase == Phase::Established)
    }

    /// All connections, the established one last.
    fn ids(&self) -> Vec<ConnId> {
        let mut all: Vec<&Connection> = self.connections.iter().collect();
        all.sort_by_key(|conn| conn.phase);
        all.into_iter().map(|conn| conn.id).collect()
    }
}
