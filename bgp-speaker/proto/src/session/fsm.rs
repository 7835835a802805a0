//! The state machine (RFC 4271 §8), over two possible connections.
//!
//! RFC 4271 describes one FSM per connection; here one [`Session`] holds both, so that a collision is
//! decided where both OPENs are known. The session's state is that of its most advanced connection:
//!
//! | state | connections |
//! |---|---|
//! | Idle | none; waiting to be started, or for the idle hold to pass |
//! | Connect | an outgoing attempt is under way |
//! | Active | none; the connect-retry timer runs, or we are passive |
//! | OpenSent | the furthest has sent OPEN |
//! | OpenConfirm | the furthest has received a good OPEN |
//! | Established | one has received KEEPALIVE; the other is gone |
//!
//! Deviations from RFC 4271: after an error the next attempt waits for the idle hold (doubling from 1 s
//! to 60 s while a session fails before it is established) instead of the connect-retry timer; a session
//! that had been established tries again at once. DelayOpen is not implemented. The keepalive timer is
//! a third of the hold time, jittered to 75–100 % (§10).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::connection::{Connection, Phase};
use super::negotiate::our_open;
use super::timer::Jitter;
use super::{ConnId, DownReason, Input, Negotiated, Output, SessionConfig, State};
use crate::types::FamilySet;
use crate::wire::{DecodeError, Notification, Open, Refresh, RouteBatch, cease, keepalive};

/// RFC 4271 §8.2.2: hold time while waiting for OPEN.
const OPEN_HOLD: Duration = Duration::from_secs(240);
/// RFC 9687 §5: the send hold time is twice the hold time, at least 8 minutes.
const SEND_HOLD_MIN: Duration = Duration::from_secs(480);
/// Second connections in this time after a session came up are collisions, not restarts.
const LATE_COLLISION: Duration = Duration::from_secs(5);
const IDLE_HOLD_FIRST: Duration = Duration::from_secs(1);
const IDLE_HOLD_MAX: Duration = Duration::from_secs(60);

/// A session with one peer.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    jitter: Jitter,
    enabled: bool,
    connections: Vec<Connection>,
    /// When to try again.
    retry: Option<Instant>,
    failures: u32,
    next_conn: u64,
    state: State,
    out: VecDeque<Output>,
    batch: RouteBatch,
    stats: Stats,
}

/// Numbers and last words of a session, for people.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Messages received.
    pub received: u64,
    /// UPDATEs received.
    pub updates_received: u64,
    /// How often the session came up.
    pub established: u64,
    /// When the state last changed to or from Established.
    pub since: Option<Instant>,
    /// Last NOTIFICATION we sent.
    pub last_sent: Option<Notification>,
    /// Last NOTIFICATION the peer sent.
    pub last_received: Option<Notification>,
    /// Why the session last went down or failed to come up.
    pub last_down: Option<DownReason>,
}

/// A fault that ends a connection.
pub(super) enum Fault {
    /// We say why.
    Notify(Notification),
    /// The peer said why.
    Notified(Notification),
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Fault::Notify(error.notification())
    }
}

impl Session {
    /// A session that is not started yet.
    #[must_use]
    pub fn new(config: SessionConfig, seed: u64) -> Self {
        Self {
            config,
            jitter: Jitter::new(seed),
            enabled: false,
            connections: Vec::new(),
            retry: None,
            failures: 0,
            next_conn: 0,
            state: State::Idle,
            out: VecDeque::new(),
            batch: RouteBatch::default(),
            stats: Stats::default(),
        }
    }

    /// The state of RFC 4271 §8.2.2.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Numbers and last words.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the established connection negotiated.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.connections
            .iter()
            .find(|conn| conn.phase == Phase::Established)?
            .negotiated
            .as_deref()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call [`Session::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connections
            .iter()
            .filter_map(Connection::timeout)
            .chain(self.retry)
            .min()
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Start => self.start(now),
            Input::Stop { subcode, message } => self.stop(now, subcode, &message),
            Input::Abandon => self.abandon(now),
            Input::Connected { conn, incoming } => self.connected(now, conn, incoming),
            Input::Closed { conn, error } => self.closed(now, conn, error),
            Input::Received { conn, buf } => self.received(now, conn, buf),
            Input::Wrote => self.wrote(now),
            Input::Tick => {}
            Input::SendRefresh(refresh) => self.send_refresh(now, refresh),
            Input::Fail(notification) => self.fail_established(now, notification),
        }
        self.fire(now);
        self.settle();
    }

    fn start(&mut self, now: Instant) {
        if !self.enabled {
            self.enabled = true;
            self.failures = 0;
            self.retry = None;
            self.try_connect(now);
        }
    }

    fn try_connect(&mut self, now: Instant) {
        self.retry = None;
        if self.config.passive || self.connections.iter().any(|conn| !conn.incoming) {
            return;
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        self.connections
            .push(Connection::new(id, false, Phase::Connecting));
        let retry = self.jitter.apply(self.config.connect_retry);
        if let Some(conn) = self.connections.last_mut() {
            conn.hold = Some(now + retry); // ConnectRetryTimer (event 9) ends an attempt
        }
        self.out.push_back(Output::Connect(id));
    }

    fn stop(&mut self, now: Instant, subcode: u8, message: &str) {
        self.enabled = false;
        self.retry = None;
        let notification = Notification::cease_with_message(subcode, message);
        for id in self.ids() {
            self.end(now, id, Fault::Notify(notification.clone()));
        }
        self.retry = None;
    }

    fn abandon(&mut self, now: Instant) {
        self.enabled = false;
        for id in self.ids() {
            self.drop_conn(now, id, DownReason::Abandoned);
        }
        self.retry = None;
    }

    fn ids(&self) -> Vec<ConnId> {
        self.connections.iter().map(|conn| conn.id).collect()
    }

    fn connected(&mut self, now: Instant, id: ConnId, incoming: bool) {
        if incoming {
            if let Some(dead) = self.replaces_dead(now) {
                let words = "the peer opened a new connection: it restarted".to_owned();
                self.drop_conn(now, dead, DownReason::Closed(Some(words)));
                self.retry = None;
            }
            let refused = !self.enabled
                || self
                    .connections
                    .iter()
                    .any(|conn| conn.incoming || conn.phase == Phase::Established);
            if refused {
                self.refuse(id);
                return;
            }
            self.connections
                .push(Connection::new(id, true, Phase::Connecting));
        }
        let open = self.our_open();
        let send_hold = self.send_hold(now);
        let Some(conn) = self.connections.iter_mut().find(|conn| conn.id == id) else {
            self.out.push_back(Output::Close(id));
            return;
        };
        conn.phase = Phase::OpenSent;
        conn.hold = Some(now + OPEN_HOLD);
        conn.send_hold = Some(send_hold);
        self.out.push_back(Output::Send {
            conn: id,
            bytes: open.encode(),
        });
    }

    /// RFC 4271 §6.8: a connection that collides with an established one loses.
    fn refuse(&mut self, id: ConnId) {
        let subcode = if self.enabled {
            cease::COLLISION
        } else {
            cease::CONNECTION_REJECTED
        };
        self.out.push_back(Output::Send {
            conn: id,
            bytes: Notification::cease(subcode).encode(),
        });
        self.out.push_back(Output::Close(id));
    }

    fn send_hold(&self, now: Instant) -> Instant {
        let hold = Duration::from_secs(u64::from(self.config.hold_time.seconds()));
        now + (2 * hold).max(SEND_HOLD_MIN) // RFC 9687 §5
    }

    pub(super) fn config(&self) -> &SessionConfig {
        &self.config
    }

    pub(super) fn our_open(&self) -> Open {
        our_open(&self.config, self.stats.established == 0)
    }

    pub(super) fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    pub(super) fn batch_mut(&mut self) -> &mut RouteBatch {
        &mut self.batch
    }

    pub(super) fn push(&mut self, output: Output) {
        self.out.push_back(output);
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

    pub(super) fn came_up(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conn_mut(id) else { return };
        conn.phase = Phase::Established;
        let Some(negotiated) = conn.negotiated.clone() else {
            return;
        };
        self.failures = 0;
        self.retry = None;
        self.stats.established += 1;
        self.stats.since = Some(now);
        self.set_state(State::Established);
        self.push(Output::Up { conn: id, negotiated });
    }

    fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.push(Output::State(state));
        }
    }

    /// Ends a connection for a fault; the session goes down with it if it was the established one.
    pub(super) fn end(&mut self, now: Instant, id: ConnId, fault: Fault) {
        let reason = match fault {
            Fault::Notify(notification) => {
                if self.conn(id).is_some_and(|conn| conn.phase > Phase::Connecting) {
                    self.push(Output::Send {
                        conn: id,
                        bytes: notification.encode(),
                    });
                    self.stats.last_sent = Some(notification.clone());
                }
                DownReason::Sent(notification)
            }
            // RFC 4271 §6.4: a NOTIFICATION is never answered.
            Fault::Notified(notification) => {
                self.stats.last_received = Some(notification.clone());
                DownReason::Received(notification)
            }
        };
        self.drop_conn(now, id, reason);
    }

    /// Ends the loser of a collision: no failure of the session.
    pub(super) fn end_quietly(&mut self, _now: Instant, id: ConnId, notification: Notification) {
        if self.conn(id).is_some_and(|conn| conn.phase > Phase::Connecting) {
            self.push(Output::Send {
                conn: id,
                bytes: notification.encode(),
            });
        }
        self.connections.retain(|conn| conn.id != id);
        self.push(Output::Close(id));
    }

    fn drop_conn(&mut self, now: Instant, id: ConnId, reason: DownReason) {
        let Some(position) = self.connections.iter().position(|conn| conn.id == id) else {
            return;
        };
        let conn = self.connections.remove(position);
        self.push(Output::Close(id));
        self.lost(now, &conn, reason);
    }

    fn lost(&mut self, now: Instant, conn: &Connection, reason: DownReason) {
        let was_up = conn.phase == Phase::Established;
        let (retain, retain_for) = self.retained(conn, &reason);
        self.stats.last_down = Some(reason.clone());
        if was_up {
            self.stats.since = Some(now);
        }
        self.push(Output::Down {
            was_up,
            reason,
            retain,
            retain_for,
        });
        if self.enabled && self.connections.is_empty() {
            self.retry = Some(now + self.idle_hold(was_up));
        }
    }

    /// RFC 4724 §4.2: families whose routes outlive the connection: it closed without a NOTIFICATION, and both
    /// sides offered graceful restart for them.
    fn retained(&self, conn: &Connection, reason: &DownReason) -> (FamilySet, Duration) {
        let none = (FamilySet::EMPTY, Duration::ZERO);
        let DownReason::Closed(_) = reason else {
            return none;
        };
        let agreed = conn
            .negotiated
            .as_deref()
            .filter(|_| self.config.graceful_restart.is_some());
        let Some((agreed, restart)) =
            agreed.and_then(|agreed| Some((agreed, agreed.remote.graceful_restart()?)))
        else {
            return none;
        };
        let offered = restart.families.iter().map(|(family, _)| *family).collect();
        let time = Duration::from_secs(u64::from(restart.restart_time));
        (agreed.families.intersection(offered), time)
    }

    /// RFC 4724 §5: a new connection of a peer that offered graceful restart means that it restarted and the old
    /// one is dead. Deviation: not in the first seconds of a session, when it is rather a late collision.
    fn replaces_dead(&self, now: Instant) -> Option<ConnId> {
        let up = self
            .connections
            .iter()
            .find(|conn| conn.phase == Phase::Established)?;
        let old = self
            .stats
            .since
            .is_some_and(|since| now.duration_since(since) >= LATE_COLLISION);
        let offered = up
            .negotiated
            .as_deref()
            .is_some_and(|agreed| agreed.remote.graceful_restart().is_some());
        (old && offered && self.config.graceful_restart.is_some()).then_some(up.id)
    }

    /// How long to wait before the next attempt.
    fn idle_hold(&mut self, was_up: bool) -> Duration {
        if was_up {
            return Duration::from_millis(10);
        }
        let hold = IDLE_HOLD_FIRST
            .saturating_mul(1 << self.failures.min(6))
            .min(IDLE_HOLD_MAX);
        self.failures += 1;
        self.jitter
            .apply(hold.min(self.config.connect_retry.max(IDLE_HOLD_FIRST / 4)))
    }

    fn closed(&mut self, now: Instant, id: ConnId, error: Option<String>) {
        let Some(position) = self.connections.iter().position(|conn| conn.id == id) else {
            return;
        };
        let conn = self.connections.remove(position);
        if conn.phase == Phase::Connecting && !self.connections.is_empty() {
            return; // the peer's own connection is on its way
        }
        self.lost(now, &conn, DownReason::Closed(error));
    }

    fn wrote(&mut self, now: Instant) {
        let send_hold = self.send_hold(now);
        let ids = self.ids();
        for id in ids {
            if let Some(conn) = self.conn_mut(id).filter(|conn| conn.send_hold.is_some()) {
                conn.send_hold = Some(send_hold);
            }
            if self.conn(id).is_some_and(|conn| conn.phase == Phase::Established) {
                self.restart_keepalive(now, id);
            }
        }
    }

    pub(super) fn restart_keepalive(&mut self, now: Instant, id: ConnId) {
        let Some(hold) = self
            .conn(id)
            .map(|conn| conn.hold_time)
            .filter(|hold| *hold > Duration::ZERO)
        else {
            return;
        };
        let next = now + self.jitter.apply(hold / 3); // RFC 4271 §4.4, §10
        if let Some(conn) = self.conn_mut(id) {
            conn.keepalive = Some(next);
        }
    }

    fn send_refresh(&mut self, now: Instant, refresh: Refresh) {
        let up = self
            .connections
            .iter()
            .find(|conn| conn.phase == Phase::Established);
        let Some(conn) = up.filter(|conn| conn.negotiated.as_ref().is_some_and(|agreed| agreed.refresh))
        else {
            return;
        };
        let id = conn.id;
        self.push(Output::Send {
            conn: id,
            bytes: refresh.encode(),
        });
        self.restart_keepalive(now, id);
    }

    fn fail_established(&mut self, now: Instant, notification: Notification) {
        let up = self
            .connections
            .iter()
            .find(|conn| conn.phase == Phase::Established)
            .map(|conn| conn.id);
        if let Some(id) = up {
            self.end(now, id, Fault::Notify(notification));
        }
    }

    /// Timers that are due.
    fn fire(&mut self, now: Instant) {
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        for id in self.ids() {
            let Some(conn) = self.conn(id) else { continue };
            let (hold, keep, send) = (due(conn.hold), due(conn.keepalive), due(conn.send_hold));
            let connecting = conn.phase == Phase::Connecting;
            if hold && connecting {
                self.drop_conn(
                    now,
                    id,
                    DownReason::Closed(Some("the connection attempt timed out".to_owned())),
                );
            } else if hold {
                self.end(now, id, Fault::Notify(Notification::hold_timer_expired())); // RFC 4271 §6.5
            } else if send && !connecting {
                self.end(now, id, Fault::Notify(Notification::send_hold_timer_expired())); // RFC 9687 §4
            } else if keep {
                self.push(Output::Send {
                    conn: id,
                    bytes: keepalive(),
                });
                self.restart_keepalive(now, id);
            }
        }
        if due(self.retry) {
            self.retry = None;
            if self.enabled && self.connections.is_empty() {
                self.try_connect(now);
            }
        }
    }

    /// The state follows from the connections.
    fn settle(&mut self) {
        let furthest = self.connections.iter().map(|conn| conn.phase).max();
        let state = match furthest {
            Some(Phase::Established) => State::Established,
            Some(Phase::OpenConfirm) => State::OpenConfirm,
            Some(Phase::OpenSent) => State::OpenSent,
            Some(Phase::Connecting) => State::Connect,
            None if self.enabled => State::Active,
            None => State::Idle,
        };
        self.set_state(state);
    }
}
