//! One peer's task: it owns the peer's [`Session`], its connections and its timers.
//!
//! | channel | bound | when full |
//! |---|---|---|
//! | commands to this task | 64 | the sender waits (the agent), or gives up (the engine, which logs it) |
//! | chunks from the engine | the engine's credit | cannot be |
//! | to the engine | shared, 1024 | this task stops reading its sockets, but keeps timers and writes |
//!
//! A new session gets a new chunk channel, so that nothing of an old session is ever written on a new
//! connection.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bgp_proto::engine::{Chunk, Engine, Input as EngineInput};
use bgp_proto::session::{ConnId, DownReason, Input, Negotiated, Output, Session, State};
use bgp_proto::types::{Asn, Family, FamilySet};
use bgp_proto::wire::{RouteBatch, cease};
use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::api::{Event, PeerSpec, SessionSnapshot};
use crate::clock::now;
use crate::connection::{Connection, Ready};
use crate::facts::{Host, give_scope, session_facts};
use crate::messages::{CHUNKS, ToEngine, ToPeer};
use crate::registry::Registry;
use crate::socket;

/// Batches of routes that a peer may have under way to the engine; then nothing is read from it.
const UNDER_WAY: usize = 4;
/// Unwritten bytes up to which chunks are taken from the engine's channel.
const WRITE_AHEAD: usize = 256 << 10;
/// Credit is reported when it is so much: little beside what lets the engine go on with a slow peer, and far more than one
/// small chunk, of which a reflector with many clients writes many.
const REPORT: usize = Engine::LOW_WATER / 4;

type Dial = Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>>;

pub(crate) struct PeerTask {
    spec: PeerSpec,
    session: Session,
    seed: u64,
    commands: mpsc::Receiver<ToPeer>,
    engine: mpsc::Sender<ToEngine>,
    host: Arc<Host>,
    dial: Option<(ConnId, Dial)>,
    connections: Vec<Connection>,
    /// Connections that deliver their last words.
    farewells: Vec<JoinHandle<()>>,
    /// The established connection and its chunks.
    up: Option<(ConnId, mpsc::Receiver<Arc<Chunk>>)>,
    /// Messages of the engine's that were queued for the peer, in all sessions.
    routes_sent: u64,
    /// What the engine has no room for yet.
    pending: VecDeque<ToEngine>,
    /// Batches of routes that may still go to the engine.
    room: Arc<Semaphore>,
    /// Credit to report.
    written: usize,
    alarm: Alarm,
    next_incoming: u64,
    /// Routes of the peer's last session are kept until then.
    stale_until: Option<std::time::Instant>,
    /// And after that, of these families, for so long, as long-lived stale routes.
    long_lived: Vec<(Family, Duration)>,
    /// The interface of an unnumbered peer.
    scope: Option<u32>,
    /// A peer of a range ends with its session.
    place: Option<Weak<Registry>>,
    gone: bool,
}

/// What outlives a session: families, until the restart time is over, and for how long after that.
struct Kept(FamilySet, Duration, Vec<(Family, Duration)>);

/// What the task woke up for.
enum Wake {
    Command(Option<ToPeer>),
    Dialed(ConnId, std::io::Result<TcpStream>),
    Ready(usize, Ready),
    Chunk(Option<Arc<Chunk>>),
    EngineHasRoom,
    Timer,
}

impl PeerTask {
    pub(crate) fn new(
        spec: PeerSpec,
        seed: u64,
        commands: mpsc::Receiver<ToPeer>,
        engine: mpsc::Sender<ToEngine>,
        host: Arc<Host>,
    ) -> Self {
        Self {
            session: Session::new(spec.session.clone(), seed),
            spec,
            seed,
            commands,
            engine,
            host,
            dial: None,
            connections: Vec::new(),
            farewells: Vec::new(),
            up: None,
            routes_sent: 0,
            pending: VecDeque::new(),
            room: Arc::new(Semaphore::new(UNDER_WAY)),
            written: 0,
            alarm: Alarm::default(),
            next_incoming: 1 << 32,
            stale_until: None,
            long_lived: Vec::new(),
            scope: None,
            place: None,
            gone: false,
        }
    }

    /// A peer that is there only while its session is.
    pub(crate) fn passing(mut self, place: Weak<Registry>) -> Self {
        self.place = Some(place);
        self
    }

    /// Runs until the peer is removed.
    pub(crate) async fn run(mut self) {
        if self.spec.wanted() {
            self.tell_session(Input::Start);
        }
        while !self.gone {
            let wake = self.wake().await;
            self.act(wake);
            self.gone |= self.has_passed();
        }
        if let Some(registry) = self.place.as_ref().and_then(Weak::upgrade) {
            registry.remove(self.spec.id);
            let remove = ToEngine::Input(EngineInput::Remove(self.spec.id));
            let _ = self.engine.send(remove).await; // the speaker may have stopped
        }
    }

    /// A peer of a range whose connection is gone, and whose routes are not kept.
    fn has_passed(&self) -> bool {
        let idle = self.connections.is_empty() && self.pending.is_empty() && self.stale_until.is_none();
        self.place.is_some() && idle && self.commands.is_empty() && self.session.state() == State::Active
    }

    async fn wake(&mut self) -> Wake {
        let timers = self.session.poll_timeout().into_iter().chain(self.stale_until);
        self.alarm.set(timers.min().map(Instant::from_std));
        let waiting = !self.pending.is_empty();
        let full = self.room.available_permits() == 0;
        let reading = !waiting && !full;
        let ahead = self.connections.iter().map(Connection::queued).max().unwrap_or(0) < WRITE_AHEAD;
        let (dial, connections, up, alarm) =
            (&mut self.dial, &self.connections, &mut self.up, &mut self.alarm);
        tokio::select! {
            biased;
            () = alarm.ring() => Wake::Timer,
            command = self.commands.recv() => Wake::Command(command),
            permit = self.engine.reserve(), if waiting || self.written >= REPORT => { drop(permit); Wake::EngineHasRoom }
            permit = self.room.acquire(), if full => { drop(permit); Wake::EngineHasRoom }
            (id, result) = dialed(dial) => Wake::Dialed(id, result),
            (index, ready) = ready(connections, reading) => Wake::Ready(index, ready),
            chunk = next_chunk(up), if ahead => Wake::Chunk(chunk),
        }
    }

    fn act(&mut self, wake: Wake) {
        match wake {
            Wake::Timer => {
                self.end_stale();
                if self.has_unread() {
                    self.session.handle(now(), Input::Unread);
                }
                self.tell_session(Input::Tick);
            }
            Wake::Command(Some(command)) => self.command(command),
            Wake::Command(None) => self.remove(),
            Wake::EngineHasRoom => self.offer(),
            Wake::Dialed(id, result) => self.dialed(id, result),
            Wake::Ready(index, Ready::Read) => self.read(index),
            Wake::Ready(_, Ready::Write) => {}
            Wake::Chunk(Some(chunk)) => self.queue_chunks(chunk),
            Wake::Chunk(None) => self.up = None,
        }
        self.write_all();
        self.offer();
    }

    /// While the engine has no room nothing is read, but what waits in the socket shows that the peer lives.
    fn has_unread(&self) -> bool {
        let established = self.up.as_ref().map(|(id, _)| *id);
        let not_reading = !self.pending.is_empty() || self.room.available_permits() == 0;
        not_reading
            && self
                .connections
                .iter()
                .any(|connection| Some(connection.id) == established && connection.has_unread())
    }

    /// The peer is configured no more.
    fn remove(&mut self) {
        let message = String::new();
        self.tell_session(Input::Stop {
            subcode: cease::PEER_DECONFIGURED,
            message,
        });
        self.gone = true;
    }

    fn command(&mut self, command: ToPeer) {
        match command {
            ToPeer::Incoming(stream) => self.incoming(stream),
            ToPeer::Start => self.tell_session(Input::Start),
            ToPeer::Stop(subcode, message) => self.tell_session(Input::Stop { subcode, message }),
            ToPeer::Restart(subcode, message) => {
                self.tell_session(Input::Stop { subcode, message });
                self.tell_session(Input::Start);
            }
            ToPeer::Abandon(done) => {
                self.tell_session(Input::Abandon);
                let _ = done.send(()); // whoever asked may have stopped waiting
            }
            ToPeer::Shutdown(subcode, message, done) => {
                self.tell_session(Input::Stop { subcode, message });
                // Whoever asked ends the process next, and a word that is not with the peer by then is never heard.
                let farewells = std::mem::take(&mut self.farewells);
                tokio::spawn(async move {
                    for farewell in farewells {
                        let _ = farewell.await; // it does not panic
                    }
                    let _ = done.send(()); // whoever asked may have stopped waiting
                });
            }
            ToPeer::Refresh(refresh) => self.tell_session(Input::SendRefresh(refresh)),
            ToPeer::Fail(notification, idle_for) => self.tell_session(Input::Fail {
                notification,
                idle_for,
            }),
            ToPeer::Snapshot(reply) => {
                let _ = reply.send(self.snapshot());
            }
            ToPeer::Reconfigure(spec) => self.reconfigure(*spec),
        }
    }

    /// Restarts the session only if what changed was said in OPEN or belongs to the connection.
    fn reconfigure(&mut self, spec: PeerSpec) {
        let restart = spec.session != self.spec.session || spec.transport != self.spec.transport;
        let toggled = spec.wanted() != self.spec.wanted();
        self.spec = spec;
        if restart {
            let subcode = cease::OTHER_CONFIGURATION_CHANGE;
            self.tell_session(Input::Stop {
                subcode,
                message: String::new(),
            });
            self.session = Session::new(self.spec.session.clone(), self.seed).in_place_of_another();
        }
        match (self.spec.wanted(), restart || toggled) {
            (true, true) => self.tell_session(Input::Start),
            (false, true) => {
                let message = "disabled in the configuration".to_owned();
                self.tell_session(Input::Stop {
                    subcode: cease::ADMIN_SHUTDOWN,
                    message,
                });
            }
            _ => {}
        }
    }

    fn snapshot(&self) -> SessionSnapshot {
        SessionSnapshot {
            state: self.session.state(),
            messages_sent: self.session.stats().messages_out.total() + self.routes_sent,
            unreported: self.written,
            stats: self.session.stats().clone(),
            negotiated: self.session.negotiated().cloned(),
            opens: self.session.opens().cloned(),
            ends: self.ends(),
            enabled: self.spec.enabled,
            waiting_for: self.spec.waiting_for.clone(),
        }
    }

    fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let (id, _) = self.up.as_ref()?;
        let connection = self.connections.iter().find(|connection| connection.id == *id)?;
        let stream = connection.stream();
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    fn is_external(&self) -> bool {
        self.spec.session.local_asn != self.spec.session.remote_asn
    }

    fn incoming(&mut self, stream: TcpStream) {
        if let Err(error) = socket::tune(
            std::os::fd::AsFd::as_fd(&stream),
            &self.spec.transport,
            self.is_external(),
        ) {
            tracing::warn!(peer = %self.spec.name, %error, "cannot set the options of an accepted connection");
            return;
        }
        let id = ConnId(self.next_incoming);
        self.next_incoming += 1;
        self.connections.push(Connection::new(id, stream));
        self.tell_session(Input::Connected {
            conn: id,
            incoming: true,
        });
    }

    fn dialed(&mut self, id: ConnId, result: std::io::Result<TcpStream>) {
        self.dial = None;
        match result {
            Ok(stream) => {
                self.connections.push(Connection::new(id, stream));
                self.tell_session(Input::Connected {
                    conn: id,
                    incoming: false,
                });
            }
            Err(error) => self.tell_session(Input::Closed {
                conn: id,
                error: Some(error.to_string()),
            }),
        }
    }

    fn read(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let id = connection.id;
        let outcome = connection.read();
        let mut buf = std::mem::take(&mut connection.read);
        if !buf.is_empty() {
            self.session.handle(
                now(),
                Input::Received {
                    conn: id,
                    buf: &mut buf,
                },
            );
            if let Some(connection) = self.connections.iter_mut().find(|connection| connection.id == id) {
                // An empty buffer goes back: most peers are silent most of the time.
                connection.read = if buf.is_empty() { BytesMut::new() } else { buf };
            }
            self.obey();
        }
        match outcome {
            Ok(false) => {}
            Ok(true) => self.lost(id, None),
            Err(error) => self.lost(id, Some(error.to_string())),
        }
    }

    /// Most of what is to be written fits into the socket.
    fn write_all(&mut self) {
        for index in (0..self.connections.len()).rev() {
            if self
                .connections
                .get(index)
                .is_some_and(|connection| connection.queued() > 0)
            {
                self.write(index);
            }
        }
    }

    fn write(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let (id, before) = (connection.id, connection.queued());
        match connection.write() {
            // The socket took nothing: nobody knows whether the peer still reads.
            Ok(_) if connection.queued() == before => {}
            Ok(credit) => {
                self.written += credit;
                self.tell_session(Input::Wrote);
            }
            Err(error) => self.lost(id, Some(error.to_string())),
        }
    }

    /// The connection is gone by itself.
    fn lost(&mut self, id: ConnId, error: Option<String>) {
        if self.connections.iter().any(|connection| connection.id == id) {
            self.connections.retain(|connection| connection.id != id);
            self.tell_session(Input::Closed { conn: id, error });
        }
    }

    /// Moves what the engine gave to the established connection.
    fn queue_chunks(&mut self, first: Arc<Chunk>) {
        let Some((id, chunks)) = &mut self.up else { return };
        let Some(connection) = self
            .connections
            .iter_mut()
            .find(|connection| connection.id == *id)
        else {
            return;
        };
        let mut messages = connection.push_chunk(&first, self.spec.id);
        while connection.queued() < WRITE_AHEAD {
            match chunks.try_recv() {
                Ok(chunk) => messages += connection.push_chunk(&chunk, self.spec.id),
                Err(_) => break,
            }
        }
        self.routes_sent += messages;
    }

    fn tell_session(&mut self, input: Input<'_>) {
        self.session.handle(now(), input);
        self.obey();
    }

    /// Does what the session says.
    fn obey(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect(id) => {
                    let (transport, external) = (self.spec.transport.clone(), self.is_external());
                    self.dial = Some((id, Box::pin(socket::dial(transport, external))));
                }
                Output::Send { conn, bytes } => {
                    if let Some(connection) = self.connections.iter_mut().find(|found| found.id == conn) {
                        connection.push_control(bytes);
                    }
                }
                Output::Close(conn) => self.close(conn),
                Output::State(state) => tracing::debug!(peer = %self.spec.name, ?state, "session"),
                Output::Up { conn, negotiated } => self.came_up(conn, *negotiated),
                Output::Down {
                    was_up,
                    reason,
                    retain,
                    retain_for,
                    retain_longer,
                } => self.went_down(was_up, &reason, Kept(retain, retain_for, retain_longer)),
                Output::Routes(batch) => self.routes(batch),
                Output::Refresh(refresh) => {
                    self.pending
                        .push_back(ToEngine::Input(EngineInput::Refresh(self.spec.id, refresh)));
                }
            }
        }
    }

    fn routes(&mut self, mut batch: RouteBatch) {
        if let Some(scope) = self.scope {
            batch.ops.iter_mut().for_each(|op| give_scope(op, scope));
        }
        for issue in &batch.issues {
            tracing::warn!(peer = %self.spec.name, "UPDATE with an error that does not end the session: {issue}");
        }
        let under_way = Arc::clone(&self.room).try_acquire_owned().ok();
        self.pending
            .push_back(ToEngine::Routes(self.spec.id, batch, under_way));
    }

    fn close(&mut self, id: ConnId) {
        if self.dial.as_ref().is_some_and(|(dialing, _)| *dialing == id) {
            self.dial = None;
        }
        if let Some(position) = self.connections.iter().position(|connection| connection.id == id) {
            self.farewells.retain(|task| !task.is_finished());
            self.farewells.push(self.connections.remove(position).close());
        }
    }

    fn came_up(&mut self, id: ConnId, negotiated: Negotiated) {
        let Some(connection) = self.connections.iter().find(|connection| connection.id == id) else {
            return;
        };
        let (local, remote) = (connection.stream().local_addr(), connection.stream().peer_addr());
        let (Ok(local), Ok(remote)) = (local, remote) else {
            return;
        };
        let asn: Asn = negotiated.remote.asn;
        let facts = session_facts(
            &self.host,
            Arc::new(negotiated),
            local,
            remote.ip().to_canonical(),
        );
        self.scope = socket::scope(&remote);
        let (sender, receiver) = mpsc::channel(CHUNKS);
        self.up = Some((id, receiver));
        self.written = 0;
        self.pending.push_back(ToEngine::Up(
            EngineInput::Up(self.spec.id, Box::new(facts)),
            self.spec.id,
            sender,
        ));
        tracing::info!(peer = %self.spec.name, address = %remote.ip(), %asn, "session established");
        self.pending
            .push_back(ToEngine::Tell(Event::PeerUp(self.spec.id)));
    }

    fn went_down(&mut self, was_up: bool, reason: &DownReason, Kept(retain, time, longer): Kept) {
        let words = crate::api::words(reason);
        if !was_up {
            tracing::debug!(peer = %self.spec.name, reason = %words, "attempt failed");
            return;
        }
        self.up = None;
        let id = self.spec.id;
        let input = if retain.is_empty() {
            self.stale_until = None;
            self.long_lived.clear();
            EngineInput::Down(id)
        } else {
            self.stale_until = Some(now() + time);
            self.long_lived = longer;
            EngineInput::Restarting(id, retain)
        };
        self.pending.push_back(ToEngine::Input(input));
        tracing::warn!(peer = %self.spec.name, reason = %words, keeping = ?retain, "session down");
        self.pending.push_back(ToEngine::Tell(Event::PeerDown(id, words)));
    }

    /// The peer did not come back, or not with its End-of-RIB, in its restart time (RFC 4724 §4.2), or in the
    /// stale time after that of one family or another (RFC 9494 §4.2).
    fn end_stale(&mut self) {
        let now = now();
        let Some(until) = self.stale_until.filter(|until| *until <= now) else {
            return;
        };
        let id = self.spec.id;
        if self.up.is_some() {
            self.long_lived.clear();
        }
        let families: FamilySet = self.long_lived.iter().map(|(family, _)| *family).collect();
        let next = self.long_lived.iter().map(|(_, time)| *time).min();
        self.stale_until = next.map(|time| until + time);
        let input = match (next, self.up.is_some()) {
            (Some(_), _) => EngineInput::LongLived(id, families),
            (None, true) => EngineInput::Swept(id),
            (None, false) => EngineInput::Down(id),
        };
        // The next time is that of the family whose stale time ends first; the others go on from there.
        let passed = next.unwrap_or_default();
        self.long_lived.retain_mut(|(_, time)| {
            *time -= passed;
            !time.is_zero()
        });
        self.pending.push_back(ToEngine::Input(input));
    }

    /// Hands the engine what it has room for. Credit is reported when nothing else waits.
    fn offer(&mut self) {
        while let Some(message) = self.pending.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(message)) = self.engine.try_send(message) {
                self.pending.push_front(message);
                return;
            }
        }
        if self.written >= REPORT && self.up.is_some() {
            let message = ToEngine::Input(EngineInput::Written(self.spec.id, self.written));
            if self.engine.try_send(message).is_ok() {
                self.written = 0;
            }
        }
    }
}

async fn dialed(dial: &mut Option<(ConnId, Dial)>) -> (ConnId, std::io::Result<TcpStream>) {
    match dial {
        Some((id, future)) => (*id, future.await),
        None => std::future::pending().await,
    }
}

async fn ready(connections: &[Connection], reading: bool) -> (usize, Ready) {
    std::future::poll_fn(|context| {
        for (index, connection) in connections.iter().enumerate() {
            if let Poll::Ready(ready) = connection.poll_ready(context, reading) {
                return Poll::Ready((index, ready));
            }
        }
        Poll::Pending
    })
    .await
}

async fn next_chunk(up: &mut Option<(ConnId, mpsc::Receiver<Arc<Chunk>>)>) -> Option<Arc<Chunk>> {
    match up {
        Some((_, chunks)) => chunks.recv().await,
        None => std::future::pending().await,
    }
}
