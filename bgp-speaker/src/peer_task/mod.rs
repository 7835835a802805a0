//! One peer's task: it owns the peer's [`Session`], its connections and its timers.
//!
//! | channel | bound | when full |
//! |---|---|---|
//! | commands to this task | 64 | the sender waits (the agent), or gives up (the engine, which logs it) |
//! | chunks from the engine ([`Outbox`]) | the engine's credit | cannot be |
//! | to the engine | shared, 1024 | this task stops reading its sockets, but keeps timers and writes |
//!
//! A new session gets a new outbox, so that nothing of an old session is ever written on a new
//! connection.

mod life;

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bgp_proto::engine::{Engine, Input as EngineInput};
use bgp_proto::session::{ConnId, Input, Output, Session, State};
use bgp_proto::types::Family;
use bgp_proto::wire::{RouteBatch, cease};
use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::life::Kept;
use crate::alarm::Alarm;
use crate::api::{PeerSpec, SessionSnapshot};
use crate::clock::now;
use crate::connection::{Connection, Ready};
use crate::facts::{Host, give_scope};
use crate::messages::{ToEngine, ToPeer};
use crate::outbox::Outbox;
use crate::registry::Registry;
use crate::socket;

/// Batches of routes that a peer may have under way to the engine; then nothing is read from it.
const UNDER_WAY: usize = 4;
/// Unwritten octets up to which chunks are taken from the outbox.
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
    /// The established connection and what the engine has for it.
    up: Option<(ConnId, Arc<Outbox>)>,
    /// Messages of the engine's that this task queued for the peer, and those of ended sessions.
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

/// What the task woke up for.
enum Wake {
    Command(Option<ToPeer>),
    Dialed(ConnId, std::io::Result<TcpStream>),
    Ready(usize, Ready),
    Chunks,
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
        let queued = self
            .connections
            .iter()
            .map(|connection| connection.queue.octets());
        let ahead = queued.max().unwrap_or(0) < WRITE_AHEAD;
        let (dial, connections, up, alarm) = (
            &mut self.dial,
            &self.connections,
            self.up.as_ref(),
            &mut self.alarm,
        );
        tokio::select! {
            biased;
            () = alarm.ring() => Wake::Timer,
            command = self.commands.recv() => Wake::Command(command),
            permit = self.engine.reserve(), if waiting || self.written >= REPORT => { drop(permit); Wake::EngineHasRoom }
            permit = self.room.acquire(), if full => { drop(permit); Wake::EngineHasRoom }
            (id, result) = dialed(dial) => Wake::Dialed(id, result),
            (index, ready) = ready(connections, reading) => Wake::Ready(index, ready),
            () = has_chunks(up), if ahead => Wake::Chunks,
        }
    }

    fn act(&mut self, wake: Wake) {
        match wake {
            Wake::Timer => self.tick(),
            Wake::Command(Some(command)) => self.command(command),
            Wake::Command(None) => self.remove(),
            Wake::EngineHasRoom => self.offer(),
            Wake::Dialed(id, result) => self.dialed(id, result),
            Wake::Ready(index, Ready::Read) => self.read(index),
            Wake::Ready(_, Ready::Write) => {}
            Wake::Chunks => self.queue_chunks(),
        }
        self.write_all();
        self.offer();
    }

    /// Time has passed. What the engine's task wrote meanwhile was written then.
    fn tick(&mut self) {
        self.end_stale();
        if self.has_unread() {
            self.session.handle(now(), Input::Unread);
        }
        if let Some(wrote) = self.up.as_ref().and_then(|(_, outbox)| outbox.take_wrote()) {
            self.session.handle(wrote, Input::Wrote);
        }
        self.tell_session(Input::Tick);
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
        let by_engine = self.up.as_ref().map_or(0, |(_, outbox)| outbox.messages());
        SessionSnapshot {
            state: self.session.state(),
            messages_sent: self.session.stats().messages_out.total() + self.routes_sent + by_engine,
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
            Err(error) => self.lost(id, Some(error)),
        }
    }

    /// Most of what is to be written fits into the socket.
    fn write_all(&mut self) {
        for index in (0..self.connections.len()).rev() {
            if self
                .connections
                .get(index)
                .is_some_and(|connection| !connection.queue.is_empty())
            {
                self.write(index);
            }
        }
        if let Some((connection, outbox)) = self.established()
            && connection.queue.is_empty()
        {
            outbox.release();
        }
    }

    /// The established connection, and what the engine has for it.
    fn established(&mut self) -> Option<(&mut Connection, &Outbox)> {
        let (id, outbox) = self.up.as_ref()?;
        let connection = self
            .connections
            .iter_mut()
            .find(|connection| connection.id == *id)?;
        Some((connection, outbox))
    }

    fn write(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let (id, before) = (connection.id, connection.queue.octets());
        match connection.write() {
            // The socket took nothing: nobody knows whether the peer still reads.
            Ok(_) if connection.queue.octets() == before => {}
            Ok(credit) => {
                self.written += credit;
                self.tell_session(Input::Wrote);
            }
            Err(error) => self.lost(id, Some(error)),
        }
    }

    /// Moves what the engine gave to the established connection.
    fn queue_chunks(&mut self) {
        let Some((connection, outbox)) = self.established() else {
            return;
        };
        let id = connection.id;
        match outbox.take(&mut connection.queue, WRITE_AHEAD) {
            Ok(messages) => self.routes_sent += messages,
            Err(error) => self.lost(id, Some(error)),
        }
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
                Output::Send { conn, bytes } => self.say(conn, bytes),
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

    /// A word of the session waits behind what was begun.
    fn say(&mut self, id: ConnId, bytes: Bytes) {
        let up = self.up.as_ref().filter(|(established, _)| *established == id);
        let Some(connection) = self.connections.iter_mut().find(|found| found.id == id) else {
            return;
        };
        if let Some((_, outbox)) = up {
            outbox.claim(&mut connection.queue);
        }
        connection.queue.push_control(bytes);
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

async fn has_chunks(up: Option<&(ConnId, Arc<Outbox>)>) {
    std::future::poll_fn(|context| match up {
        Some((_, outbox)) => outbox.poll(context),
        None => Poll::Pending,
    })
    .await;
}
