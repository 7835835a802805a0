//! The outbox of an established session: chunks of the engine until they are written. Shared by the engine's
//! task and the peer's.
//!
//! | writer | who may write | next writer |
//! |---|---|---|
//! | nobody | the outbox is empty | a small chunk: the engine's task; a larger one, or a message of the session: the peer's task |
//! | engine | the engine's task, after its work, if no input waits | all is written: nobody; the socket is full, more chunks come, or the session has a message: the peer's task |
//! | task | the peer's task | all is written: nobody |
//!
//! A small change to many peers therefore wakes none of their tasks, which would be most of its cost (ADR
//! 13). A large change is written by the peers' tasks while the engine continues. A mutex guards the state;
//! it is held for at most one small write, never across an await. Each session has its own outbox: nothing of
//! an old session is ever written on a new connection.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bgp_proto::engine::{Chunk, Engine, SessionId};
use bgp_proto::wire::Notification;
use tokio::net::TcpStream;

use crate::queue::{Queue, Sink};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// Most octets that the engine's task writes to a peer at once: a message (RFC 4271 §4.1).
const SMALL: usize = 4096;

/// The task that may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writer {
    Nobody,
    Engine,
    Task,
}

/// Result of [`Outbox::put`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PutOutcome {
    /// The engine's task has to call [`Outbox::write`] or [`Outbox::hand_to_task`].
    EngineWrites,
    /// The present writer writes it.
    Queued,
    /// More chunks are outstanding than the engine's credit allows.
    OverCredit,
}

/// The outbox of a session.
pub(crate) struct Outbox<S = TcpStream> {
    session: SessionId,
    state: Mutex<State<S>>,
}

struct State<S> {
    /// `None` when the session has ended.
    socket: Option<Arc<S>>,
    writer: Writer,
    chunks: VecDeque<Arc<Chunk>>,
    /// Octets in `chunks`, while the engine is the writer.
    octets: usize,
    /// What the engine's task could not write.
    remainder: Queue,
    /// The error of the engine's last write.
    error: Option<io::Error>,
    /// Number of messages that the engine's task began to write.
    messages: u64,
    /// When the engine's task last wrote, until the peer's task has read it.
    wrote: Option<Instant>,
    /// The engine ends the session with this NOTIFICATION and keeps it down for this time.
    failure: Option<(Notification, Duration)>,
    /// Wakes the peer's task.
    waker: Option<Waker>,
}

impl<S: Sink> Outbox<S> {
    pub(crate) fn new(session: SessionId, socket: Arc<S>) -> Self {
        Self {
            session,
            state: Mutex::new(State {
                socket: Some(socket),
                writer: Writer::Nobody,
                chunks: VecDeque::new(),
                octets: 0,
                remainder: Queue::default(),
                error: None,
                messages: 0,
                wrote: None,
                failure: None,
                waker: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    /// Engine: appends a chunk.
    pub(crate) fn put(&self, chunk: Arc<Chunk>) -> PutOutcome {
        let mut state = self.lock();
        if state.socket.is_none() {
            return PutOutcome::Queued; // the session is ending, Down follows
        }
        if state.chunks.len() >= Engine::MAX_CHUNKS {
            return PutOutcome::OverCredit;
        }
        let octets = chunk.len_for(self.session.peer);
        state.chunks.push_back(chunk);
        match state.writer {
            Writer::Nobody if octets <= SMALL => {
                state.writer = Writer::Engine;
                state.octets = octets;
                return PutOutcome::EngineWrites;
            }
            Writer::Engine if state.octets + octets <= SMALL => state.octets += octets,
            _ => wake(state.give_to_task(), state),
        }
        PutOutcome::Queued
    }

    /// Engine: writes its chunks; returns the credit of what is written.
    pub(crate) fn write(&self, now: Instant) -> usize {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(socket) = state.socket.as_ref().filter(|_| state.writer == Writer::Engine) else {
            return 0;
        };
        for chunk in state.chunks.drain(..) {
            state.messages += state.remainder.push_chunk(&chunk, self.session.peer);
        }
        let before = state.remainder.octets();
        let written = state.remainder.write(&**socket);
        if state.remainder.octets() < before {
            state.wrote = Some(now);
        }
        if state.remainder.is_empty() {
            state.writer = Writer::Nobody;
            return written.unwrap_or(0);
        }
        let (credit, error) = written.map_or_else(|error| (0, Some(error)), |credit| (credit, None));
        state.error = error;
        wake(state.give_to_task(), guard);
        credit
    }

    /// Engine: leaves its chunks to the peer's task.
    pub(crate) fn hand_to_task(&self) {
        let mut state = self.lock();
        if state.writer == Writer::Engine {
            wake(state.give_to_task(), state);
        }
    }

    /// Engine: ends the session. The first reason counts.
    pub(crate) fn fail(&self, notification: Notification, idle_for: Duration) {
        let mut state = self.lock();
        state.failure.get_or_insert((notification, idle_for));
        wake(state.waker.take(), state);
    }

    /// Task: whether the engine ends the session.
    pub(crate) fn take_failure(&self) -> Option<(Notification, Duration)> {
        self.lock().failure.take()
    }

    /// Task: waits for a failure, or with `taking` also for chunks.
    pub(crate) fn poll(&self, context: &mut Context<'_>, taking: bool) -> Poll<()> {
        let mut state = self.lock();
        let nothing = state.chunks.is_empty() && state.remainder.is_empty();
        if state.failure.is_some() || (taking && state.writer == Writer::Task && !nothing) {
            return Poll::Ready(());
        }
        if !state
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Task: becomes the writer; a partly written message goes to the front of its queue.
    pub(crate) fn claim(&self, queue: &mut Queue) {
        let mut state = self.lock();
        state.writer = Writer::Task;
        queue.append(&mut state.remainder);
    }

    /// Task: takes chunks until `limit` octets are queued. Returns the number of messages.
    pub(crate) fn take(&self, queue: &mut Queue, limit: usize) -> io::Result<u64> {
        self.claim(queue);
        let mut messages = 0;
        while queue.octets() < limit {
            let Some(chunk) = self.next()? else { break };
            messages += queue.push_chunk(&chunk, self.session.peer);
        }
        Ok(messages)
    }

    fn next(&self) -> io::Result<Option<Arc<Chunk>>> {
        let mut state = self.lock();
        match state.error.take() {
            Some(error) => Err(error),
            None => Ok(state.chunks.pop_front()),
        }
    }

    /// Task: has written everything.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        if state.writer == Writer::Task && state.chunks.is_empty() && state.remainder.is_empty() {
            state.writer = Writer::Nobody;
        }
    }

    /// Task: number of messages that the engine's task began to write.
    pub(crate) fn messages(&self) -> u64 {
        self.lock().messages
    }

    /// Task: when the engine's task last wrote, since the last call.
    pub(crate) fn take_wrote(&self) -> Option<Instant> {
        self.lock().wrote.take()
    }

    /// Task: the session has ended. Moves a partly written message to the queue; returns the error of the
    /// engine's last write, if any.
    pub(crate) fn close(&self, queue: &mut Queue) -> Option<io::Error> {
        self.claim(queue);
        let mut state = self.lock();
        state.socket = None;
        state.chunks = VecDeque::new();
        state.error.take()
    }
}

impl<S> State<S> {
    fn give_to_task(&mut self) -> Option<Waker> {
        self.writer = Writer::Task;
        self.waker.take()
    }
}

/// Wakes the task after the lock is released.
fn wake<S>(waker: Option<Waker>, state: MutexGuard<'_, State<S>>) {
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
