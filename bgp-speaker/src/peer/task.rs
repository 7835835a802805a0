//! The task of a peer: it owns the [`Session`], the connections and the timers.
//!
//! | channel | bound | when full |
//! |---|---|---|
//! | commands to this task | 64 | the sender waits |
//! | chunks from the engine ([`Outbox`](crate::engine::outbox::Outbox)) | the engine's credit | does not happen |
//! | to the engine ([`Mailbox`]) | shared, 1024 | this task stops reading its sockets, but keeps running timers and writing |
//!
//! All state of a session is in one value, [`Established`]. A new session gets a new one, so that nothing of
//! an old session is ever written on a new connection.

mod sockets;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bgp_proto::engine::{Input as EngineInput, SessionId};
use bgp_proto::session::{ConnId, DownReason, Input, Negotiated, Output, Session, State};
use bgp_proto::types::{Family, FamilySet};
use bgp_proto::wire::{RouteBatch, cease};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::Connection;
use super::dial::{ConnectionEvent, Connections};
use super::established::{Established, LocalEnd, SessionEvent, StaleRoutes, next_session_event};
use crate::api::{Event, PeerSpec, SessionSnapshot};
use crate::clock::now;
use crate::engine::mailbox::{Mailbox, Ready, ToEngine};
use crate::host::{Host, set_link_scope};
use crate::lazy_timer::LazyTimer;
use crate::registry::Registry;
use crate::registry::messages::ToPeer;
use crate::registry::progress::Progress;
use crate::rotation::KeyInUse;

/// Chunks are taken from the outbox up to this number of unwritten octets.
const WRITE_AHEAD: usize = 256 << 10;
/// Most UPDATE errors logged per session; further ones are only counted.
const LOGGED_ISSUES: u64 = 10;

pub(crate) struct PeerTask {
    spec: PeerSpec,
    /// Seed of the session's jitter.
    seed: u64,
    session: Session,
    commands: mpsc::Receiver<ToPeer>,
    mailbox: Mailbox,
    host: Arc<Host>,
    connections: Connections,
    up: Option<Established>,
    /// Retained routes of the peer's last session.
    stale: Option<StaleRoutes>,
    history: History,
    timer: LazyTimer,
    lifetime: Lifetime,
}

/// State beyond a single session.
#[derive(Default)]
struct History {
    /// Progress of the session, for other tasks.
    progress: Arc<Progress>,
    /// Has the keys of the listeners.
    registry: Weak<Registry>,
    /// Number of sessions.
    sessions: u32,
    /// The engine's messages sent in ended sessions.
    routes_sent: u64,
    /// Why the last attempt failed, and when that was logged.
    failure: Option<(String, std::time::Instant)>,
}

/// How long the task runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    /// Until the peer is removed.
    Configured,
    /// As long as the session, and its retained routes.
    Dynamic,
    /// The task ends.
    Over,
}

/// Why the task woke up.
enum Wake {
    Timer,
    Command(Option<ToPeer>),
    Mailbox(Ready),
    Connection(ConnectionEvent),
    Session(SessionEvent),
}

/// Interval of log messages about a session that does not come up.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

impl PeerTask {
    pub(crate) fn new(
        spec: PeerSpec,
        seed: u64,
        commands: mpsc::Receiver<ToPeer>,
        engine: mpsc::Sender<ToEngine>,
        host: &Arc<Host>,
        (registry, progress): (Weak<Registry>, Arc<Progress>),
    ) -> Self {
        Self {
            session: Session::new(spec.session.clone(), seed),
            spec,
            seed,
            commands,
            mailbox: Mailbox::new(engine),
            host: Arc::clone(host),
            connections: Connections::new(),
            up: None,
            stale: None,
            history: History {
                progress,
                registry,
                ..History::default()
            },
            timer: LazyTimer::default(),
            lifetime: Lifetime::Configured,
        }
    }

    /// Makes this a dynamic peer, which exists as long as its session. Only this task reports it to the
    /// engine.
    pub(crate) fn dynamic(mut self) -> Self {
        self.lifetime = Lifetime::Dynamic;
        self.configure_engine();
        self
    }

    fn configure_engine(&mut self) {
        let routing = Arc::clone(&self.spec.routing);
        let input = EngineInput::Configure(self.spec.id, routing);
        self.mailbox.push(ToEngine::Input(input));
    }

    /// Runs until the peer is removed, or a dynamic peer ends. Returns the mailbox.
    pub(crate) async fn run(mut self) -> Mailbox {
        if self.spec.wanted() {
            self.session_input(Input::StartAfter(self.spec.connect_after));
        }
        self.flush_to_engine();
        while self.lifetime != Lifetime::Over && !self.is_expired() {
            let wake = self.wake().await;
            self.handle_wake(wake);
        }
        self.mailbox
    }

    /// Whether a dynamic peer has neither a connection nor retained routes.
    fn is_expired(&self) -> bool {
        let idle = self.connections.is_empty() && !self.mailbox.is_waiting() && self.stale.is_none();
        self.lifetime == Lifetime::Dynamic
            && idle
            && self.commands.is_empty()
            && self.session.state() == State::Active
    }

    async fn wake(&mut self) -> Wake {
        let stale = self.stale.as_ref().map(|stale| stale.until);
        let timers = self.session.poll_timeout().into_iter().chain(stale);
        let look = self.connections.key_check_due(&self.spec.transport, now());
        self.timer.set(timers.chain(look).min().map(Instant::from_std));
        let waiting = self.mailbox.is_waiting();
        let reading = !waiting && !self.mailbox.is_full();
        let taking = self.connections.queued() < WRITE_AHEAD;
        let report_due = self.up.as_ref().is_some_and(Established::report_due);
        // Without `biased`: a peer that connects continuously must not starve an established session.
        let other = async {
            tokio::select! {
                command = self.commands.recv() => Wake::Command(command),
                ready = self.mailbox.ready(waiting || report_due) => Wake::Mailbox(ready),
                event = self.connections.next_event(reading) => Wake::Connection(event),
                woken = next_session_event(self.up.as_mut(), taking) => Wake::Session(woken),
            }
        };
        tokio::select! {
            biased;
            () = self.timer.expired() => Wake::Timer,
            other = other => other,
        }
    }

    fn handle_wake(&mut self, wake: Wake) {
        match wake {
            Wake::Timer => self.tick(),
            Wake::Command(Some(command)) => self.command(command),
            Wake::Command(None) => self.remove(),
            Wake::Mailbox(Ready::Permit(permit)) => {
                let up = &mut self.up;
                self.mailbox
                    .send_with_permit(permit, || up.as_mut().and_then(Established::take_report));
            }
            Wake::Mailbox(Ready::Batch) | Wake::Connection(ConnectionEvent::Writable) => {}
            Wake::Mailbox(Ready::Stopped) => self.lifetime = Lifetime::Over,
            Wake::Connection(ConnectionEvent::Dialed(id, result)) => self.dialed(id, result),
            Wake::Connection(ConnectionEvent::Readable(id)) => self.read(id),
            Wake::Session(SessionEvent::Outbox) => self.read_outbox(),
            Wake::Session(SessionEvent::Host) => self.check_local_address(),
        }
        self.write_all();
        self.flush_to_engine();
    }

    /// Handles timers. Writes of the engine's task count from the time when they were made.
    fn tick(&mut self) {
        self.expire_stale();
        if let Some(key) = self.connections.check_key(now()) {
            if self.up.is_some() {
                let next = key == KeyInUse::Next;
                tracing::info!(
                    event = "md5_key_switched", peer = %self.spec.name, next,
                    "the peer does not acknowledge segments; trying the other TCP MD5 key"
                );
            }
            self.use_key(key);
        }
        if self.has_unread() {
            self.session.handle(now(), Input::Unread);
        }
        if let Some(wrote) = self.up.as_ref().and_then(|up| up.outbox.take_wrote()) {
            self.session.handle(wrote, Input::Wrote);
        }
        self.session_input(Input::Tick);
    }

    /// Data in the socket shows that the peer is alive: nothing is read while the engine's channel is full,
    /// and after a delay of the process timers may be handled before the data is read.
    fn has_unread(&self) -> bool {
        let connection = self.up.as_ref().and_then(|up| self.connections.get(up.conn));
        connection.is_some_and(Connection::has_unread)
    }

    /// The peer was removed from the configuration.
    fn remove(&mut self) {
        let message = String::new();
        self.session_input(Input::Stop {
            subcode: cease::PEER_DECONFIGURED,
            message,
        });
        self.lifetime = Lifetime::Over;
    }

    fn command(&mut self, command: ToPeer) {
        match command {
            ToPeer::Incoming { stream, signed } => self.incoming(stream, signed),
            ToPeer::Start => self.session_input(Input::Start),
            ToPeer::Stop(subcode, message) => self.session_input(Input::Stop { subcode, message }),
            ToPeer::Restart(subcode, message) => {
                self.session_input(Input::Stop { subcode, message });
                self.session_input(Input::Start);
            }
            ToPeer::Abandon(done) => {
                self.session_input(Input::Abandon);
                let _ = done.send(()); // the caller may have stopped waiting
            }
            ToPeer::Shutdown(subcode, message, done) => {
                self.session_input(Input::Stop { subcode, message });
                // The caller ends the process next, so everything must have arrived by then.
                let closing = self.connections.take_closing();
                tokio::spawn(async move {
                    closing.finished().await;
                    let _ = done.send(()); // the caller may have stopped waiting
                });
            }
            ToPeer::Refresh(refresh) => self.session_input(Input::SendRefresh(refresh)),
            ToPeer::Fail(notification, idle_for) => self.session_input(Input::Fail {
                notification,
                idle_for,
            }),
            ToPeer::Snapshot(reply) => {
                let _ = reply.send(self.snapshot());
            }
            ToPeer::Reconfigure(spec) => self.reconfigure(*spec),
        }
    }

    /// Restarts the session only if the change concerns OPEN or the connection.
    fn reconfigure(&mut self, spec: PeerSpec) {
        let restart = spec.session != self.spec.session
            || spec.transport.without_keys() != self.spec.transport.without_keys()
            || spec.transport.password.is_some() != self.spec.transport.password.is_some();
        let toggled = spec.wanted() != self.spec.wanted();
        let rerouted = spec.routing != self.spec.routing;
        let key = self
            .connections
            .key()
            .after(&self.spec.transport, &spec.transport);
        self.spec = spec;
        if restart {
            self.connections.set_key_for_new(key);
        } else {
            self.use_key(key);
        }
        if rerouted && self.lifetime == Lifetime::Dynamic {
            self.configure_engine();
        }
        if restart {
            let subcode = cease::OTHER_CONFIGURATION_CHANGE;
            self.session_input(Input::Stop {
                subcode,
                message: String::new(),
            });
            self.session = Session::new(self.spec.session.clone(), self.seed).as_replacement();
        }
        match (self.spec.wanted(), restart || toggled) {
            (true, true) => self.session_input(Input::StartAfter(self.spec.connect_after)),
            (false, true) => {
                let message = "disabled in the configuration".to_owned();
                self.session_input(Input::Stop {
                    subcode: cease::ADMIN_SHUTDOWN,
                    message,
                });
            }
            _ => {}
        }
    }

    fn snapshot(&self) -> SessionSnapshot {
        let up = self.up.as_ref();
        let of_engine = self.history.routes_sent + up.map_or(0, Established::messages_sent);
        SessionSnapshot {
            state: self.session.state(),
            messages_sent: self.session.stats().messages_out.total() + of_engine,
            unreported: up.map_or(0, Established::unreported),
            stats: self.session.stats().clone(),
            negotiated: self.session.negotiated().cloned(),
            opens: self.session.opens().cloned(),
            ends: up.map(|up| up.ends),
            signed: up.is_some() && self.spec.transport.password.is_some(),
            next_key: self.connections.key() == KeyInUse::Next,
            enabled: self.spec.enabled,
            waiting_for: self.spec.waiting_for.clone(),
        }
    }

    fn is_external(&self) -> bool {
        !self.spec.session.is_internal()
    }

    /// Sends waiting messages to the engine, and due credit when no message waits.
    fn flush_to_engine(&mut self) {
        self.mailbox.flush_to_engine();
        if let Some(up) = &mut self.up
            && let Some(report) = up.take_report()
            && let Err(report) = self.mailbox.try_send(report)
        {
            up.restore_credit(&report);
        }
    }
}

/// Inputs and outputs of the session.
impl PeerTask {
    fn session_input(&mut self, input: Input<'_>) {
        self.session.handle(now(), input);
        self.run_outputs();
    }

    /// Performs the session's outputs.
    fn run_outputs(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect(id) => {
                    let (transport, external) = (self.spec.transport.clone(), self.is_external());
                    self.connections.dial(id, transport, external);
                }
                Output::Send { conn, bytes } => self.queue_control_message(conn, bytes),
                Output::Close(conn) => self.close(conn),
                Output::State(state) => self.on_state(state),
                Output::Up { conn, negotiated } => self.on_up(conn, *negotiated),
                Output::Down {
                    was_up,
                    reason,
                    retain,
                    retain_for,
                    retain_longer,
                } => self.on_down(was_up, &reason, retain, (retain_for, retain_longer)),
                Output::Routes(batch) => self.routes(batch),
                Output::Refresh(refresh) => {
                    let session = self.latest();
                    self.mailbox
                        .push(ToEngine::Input(EngineInput::Refresh(session, refresh)));
                }
            }
        }
    }

    fn on_state(&self, state: State) {
        tracing::debug!(event = "session_state", peer = %self.spec.name, ?state, "session state changed");
        if matches!(state, State::OpenConfirm | State::Established) {
            self.history.progress.set_opened();
        }
    }

    /// The present or last established session.
    fn latest(&self) -> SessionId {
        SessionId {
            peer: self.spec.id,
            epoch: self.history.sessions,
        }
    }

    fn on_up(&mut self, conn: ConnId, negotiated: Negotiated) {
        let (asn, latest) = (negotiated.remote.asn, self.latest());
        let id = SessionId {
            epoch: latest.epoch + 1,
            ..latest
        };
        let connection = self.connections.get(conn);
        let up = connection.and_then(|connection| Established::new(id, connection, negotiated, &self.host));
        let Some(up) = up else {
            return; // the connection's end is reported soon
        };
        self.history.progress.set_up(true);
        self.history.sessions = id.epoch;
        self.history.failure = None;
        let remote = up.ends.1;
        tracing::info!(event = "session_up", peer = %self.spec.name, address = %remote.ip(), %asn, "session established");
        self.mailbox.push(up.up());
        self.mailbox.push(ToEngine::Report(Event::PeerUp {
            peer: self.spec.id,
            name: self.spec.name.clone(),
            remote,
        }));
        self.up = Some(up);
    }

    fn on_down(
        &mut self,
        was_up: bool,
        reason: &DownReason,
        retain: FamilySet,
        (retain_for, long_lived): (Duration, Vec<(Family, Duration)>),
    ) {
        let reason = reason.to_string();
        if !was_up {
            return self.attempt_failed(reason);
        }
        let session = self.latest();
        let input = if retain.is_empty() {
            self.stale = None;
            EngineInput::Down(session)
        } else {
            self.stale = Some(StaleRoutes {
                session,
                until: now() + retain_for,
                long_lived,
            });
            EngineInput::Restarting(session, retain)
        };
        self.mailbox.push(ToEngine::Input(input));
        let retained: Vec<String> = retain.iter().map(|family| family.to_string()).collect();
        tracing::warn!(
            event = "session_down", peer = %self.spec.name, %reason, retained = %retained.join(", "),
            "session down"
        );
        let (peer, name) = (self.spec.id, self.spec.name.clone());
        self.mailbox.push(ToEngine::Report(Event::PeerDown {
            peer,
            name,
            why: reason,
        }));
    }

    /// Logs that a session does not come up: when the reason changes, and once a minute.
    fn attempt_failed(&mut self, reason: String) {
        let now = now();
        let same = |(last, at): &(String, std::time::Instant)| {
            *last == reason && now.saturating_duration_since(*at) < LOG_INTERVAL
        };
        if self.history.failure.as_ref().is_some_and(same) {
            return;
        }
        tracing::info!(event = "session_failed", peer = %self.spec.name, %reason, "the session does not come up; retrying");
        self.history.failure = Some((reason, now));
    }

    fn expire_stale(&mut self) {
        let now = now();
        if let Some(stale) = self.stale.take_if(|stale| stale.until <= now) {
            let up = self.up.as_ref().map(|up| up.id);
            let (input, rest) = stale.expire(up);
            self.stale = rest;
            self.mailbox.push(ToEngine::Input(input));
        }
    }

    fn routes(&mut self, mut batch: RouteBatch) {
        let scope = self.up.as_ref().and_then(Established::scope);
        if let Some(scope) = scope {
            batch.ops.iter_mut().for_each(|op| set_link_scope(op, scope));
        }
        let logged = self
            .session
            .stats()
            .update_issues
            .saturating_sub(batch.issues.len() as u64);
        let room = usize::try_from(LOGGED_ISSUES.saturating_sub(logged)).unwrap_or(0);
        for issue in batch.issues.iter().take(room) {
            tracing::warn!(
                event = "update_error", peer = %self.spec.name, error = %issue,
                "received a malformed UPDATE; the session continues"
            );
        }
        self.mailbox.push_routes(self.latest(), batch);
    }

    /// Handles a failure reported by the engine, or takes chunks.
    fn read_outbox(&mut self) {
        let Some(up) = &mut self.up else { return };
        if let Some((notification, idle_for)) = up.outbox.take_failure() {
            return self.session_input(Input::Fail {
                notification,
                idle_for,
            });
        }
        let Some(connection) = self.connections.get_mut(up.conn) else {
            return;
        };
        match up.outbox.take(&mut connection.queue, WRITE_AHEAD) {
            Ok(messages) => up.routes_sent += messages,
            Err(error) => {
                let conn = up.conn;
                self.connection_lost(conn, Some(error.to_string()));
            }
        }
    }

    /// Handles an address change of the interface. A connection whose local address is gone is closed.
    fn check_local_address(&mut self) {
        let Some(up) = &mut self.up else { return };
        let (conn, id, local) = (up.conn, up.id, up.ends.0.ip());
        match up.refresh_facts(&self.host) {
            LocalEnd::Same => {}
            LocalEnd::Changed(facts) => self.mailbox.push(ToEngine::Input(EngineInput::Facts(id, facts))),
            LocalEnd::Gone => self.connection_lost(
                conn,
                Some(format!("the local address {local} was removed from this host")),
            ),
        }
    }
}
