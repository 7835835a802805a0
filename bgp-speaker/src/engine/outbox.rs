//! What the engine has for an established peer, until it is written: shared by the engine's task and the peer's.
//!
//! | whose turn | who may write | when it passes on |
//! |---|---|---|
//! | nobody's | nobody has anything to write | a small chunk: to the engine's task; a larger one, or a word of the session: to the peer's |
//! | the engine's | the engine's task, at the end of its turn, if it has nothing else to do | all is written: to nobody; the socket is full, more comes, or the session has something to say: to the peer's task |
//! | the task's | the peer's task | all is written: to nobody |
//!
//! So a small change to many peers wakes none of their tasks, which is most of what it costs otherwise (ADR 13), and a large one is
//! written by the peers' tasks while the engine goes on. One mutex guards it; it is held for one small write at the
//! longest, never across a wait. Each session has its own: nothing of an old one is ever written on a new connection.

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

/// Octets that the engine's task writes to a peer at the most: a message (RFC 4271 §4.1).
const SMALL: usize = 4096;

/// Who may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Writer {
    Nobody,
    Engine,
    Task,
}

/// What became of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PutOutcome {
    /// The engine's task is to write it: [`Outbox::write`] or [`Outbox::hand_to_task`].
    EngineWrites,
    /// The peer's task writes it, or the engine's with what it writes anyway.
    Queued,
    /// More is under way than the engine's credit allows.
    OverCredit,
}

/// What the engine has for a session.
pub(crate) struct Outbox<S = TcpStream> {
    session: SessionId,
    state: Mutex<State<S>>,
}

struct State<S> {
    /// `None` when the session is over.
    socket: Option<Arc<S>>,
    writer: Writer,
    chunks: VecDeque<Arc<Chunk>>,
    /// Octets in `chunks`, while it is the engine's turn.
    octets: usize,
    /// What the engine's task could not write.
    remainder: Queue,
    /// The system's words to the engine's task.
    error: Option<io::Error>,
    /// Messages that the engine's task began to write.
    messages: u64,
    /// When it last wrote, until the peer's task has asked.
    wrote: Option<Instant>,
    /// The engine ends the session, with this NOTIFICATION, and none begins for this time.
    failure: Option<(Notification, Duration)>,
    /// The peer's task.
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

    /// The engine's: appends a chunk.
    pub(crate) fn put(&self, chunk: Arc<Chunk>) -> PutOutcome {
        let mut state = self.lock();
        if state.socket.is_none() {
            return PutOutcome::Queued; // the session is ending, and Down is on its way
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

    /// The engine's: writes what it put here; the credit of what is written.
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

    /// The engine's: has no time to write what it put here.
    pub(crate) fn hand_to_task(&self) {
        let mut state = self.lock();
        if state.writer == Writer::Engine {
            wake(state.give_to_task(), state);
        }
    }

    /// The engine's: the session is to end. The first reason stands.
    pub(crate) fn fail(&self, notification: Notification, idle_for: Duration) {
        let mut state = self.lock();
        state.failure.get_or_insert((notification, idle_for));
        wake(state.waker.take(), state);
    }

    /// The task's: whether the engine ends the session.
    pub(crate) fn take_failure(&self) -> Option<(Notification, Duration)> {
        self.lock().failure.take()
    }

    /// The task's: waits until there is something for it; `taking`: chunks count.
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

    /// The task's: it has something to write, and what was begun goes first.
    pub(crate) fn claim(&self, queue: &mut Queue) {
        let mut state = self.lock();
        state.writer = Writer::Task;
        queue.append(&mut state.remainder);
    }

    /// The task's: takes what is here until so many octets are queued. Answers the number of messages.
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

    /// The task's: it has written all that it had.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        if state.writer == Writer::Task && state.chunks.is_empty() && state.remainder.is_empty() {
            state.writer = Writer::Nobody;
        }
    }

    /// The task's: how many messages the engine's task began to write.
    pub(crate) fn messages(&self) -> u64 {
        self.lock().messages
    }

    /// The task's: when the engine's task last wrote, if that was not asked since.
    pub(crate) fn take_wrote(&self) -> Option<Instant> {
        self.lock().wrote.take()
    }

    /// The task's: the session is over. What was begun goes to the queue; the system's words to the engine's task, if any.
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

/// Wakes the task when it can have the state.
fn wake<S>(waker: Option<Waker>, state: MutexGuard<'_, State<S>>) {
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
