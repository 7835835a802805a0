//! The task that owns the engine.
//!
//! It takes inputs of peers and the agent, works when its channels are empty (or after [`MAX_INPUTS`] inputs,
//! or [`WORK_TIME`]), and dispatches outputs. It never waits for a peer: the engine's credit bounds a peer's
//! outbox. It writes small chunks itself when no input waits (see [`Outbox`]). Nor does it wait for the
//! receivers of its two streams (see [`super::streams`]).
//!
//! Work on many routes is done in slices. Between two slices it takes all control messages and queries of the
//! agent, and inputs of peers: a query waits for two slices, not for a million routes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::engine::{Chunk, Engine, Input, Output, SessionFacts, SessionId};
use bgp_proto::types::PeerId;
use bgp_proto::wire::{Notification, cease};
use tokio::sync::mpsc;

use super::mailbox::ToEngine;
use super::outbox::{Outbox, PutOutcome};
use super::streams::{DatapathStream, LifecycleStream};
use crate::api::{DatapathEvent, Event};
use crate::clock::now;

/// Most inputs of peers taken at a time.
const MAX_INPUTS: usize = 256;
/// Fewer changes than this do not fill messages.
const FEW_CHANGES: usize = 1024;
/// Time for which inputs are taken, and for which the engine works, in turn.
const WORK_TIME: Duration = Duration::from_millis(5);

pub(crate) struct EngineTask {
    engine: Engine,
    control: mpsc::Receiver<ToEngine>,
    inbox: mpsc::Receiver<ToEngine>,
    datapath: DatapathStream,
    lifecycle: LifecycleStream,
    /// By peer, of established sessions.
    outboxes: HashMap<PeerId, Arc<Outbox>>,
    /// Outboxes whose small chunk the engine's task has to write.
    to_write: Vec<Arc<Outbox>>,
    /// Work is left from the last turn.
    busy: bool,
    /// When the first UPDATE was received whose routes are not sent to the kernel yet.
    received: Option<Instant>,
}

impl EngineTask {
    /// `control` come from the agent, `inbox` from peers.
    pub(crate) fn new(
        engine: Engine,
        control: mpsc::Receiver<ToEngine>,
        inbox: mpsc::Receiver<ToEngine>,
        datapath: mpsc::Sender<DatapathEvent>,
        lifecycle: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            engine,
            control,
            inbox,
            datapath: DatapathStream::new(datapath),
            lifecycle: LifecycleStream::new(lifecycle),
            outboxes: HashMap::new(),
            to_write: Vec::new(),
            busy: false,
            received: None,
        }
    }

    /// Runs until all senders of peers are gone.
    pub(crate) async fn run(mut self) {
        loop {
            if self.busy {
                tokio::task::yield_now().await;
            } else {
                let message = tokio::select! {
                    biased;
                    Some(message) = self.control.recv() => Some(message),
                    message = self.inbox.recv() => match message {
                        Some(message) => Some(message),
                        None => return,
                    },
                    () = self.datapath.has_room(), if self.datapath.is_behind() => None,
                    () = self.lifecycle.has_room(), if self.lifecycle.is_behind() => None,
                };
                if let Some(message) = message {
                    self.take_input(message);
                }
                // Lets other tasks send first: in a burst of many peers all are then sent few and full
                // messages.
                if self.engine.pending_decisions() < FEW_CHANGES {
                    tokio::task::yield_now().await;
                }
            }
            self.take_inputs();
            self.work_for_slice_time();
            // Also when busy: the backlog waits only for the channels.
            self.datapath.flush_backlog();
            self.lifecycle.flush_backlog();
            if !self.busy && self.inbox.is_empty() {
                self.busy = self.engine.free_unused();
            }
        }
    }

    /// Takes all control messages, and inputs of peers for a limited time.
    fn take_inputs(&mut self) {
        self.take_orders();
        let end = now() + WORK_TIME;
        for _ in 0..MAX_INPUTS {
            match self.inbox.try_recv() {
                Ok(message) => self.take_input(message),
                Err(_) => return,
            }
            if now() >= end {
                return;
            }
        }
    }

    fn take_orders(&mut self) {
        while let Ok(message) = self.control.try_recv() {
            self.handle(message);
        }
    }

    /// The control message that configures a peer precedes its first session.
    fn take_input(&mut self, message: ToEngine) {
        if matches!(message, ToEngine::Up(..)) {
            self.take_orders();
        }
        self.handle(message);
    }

    fn handle(&mut self, message: ToEngine) {
        match message {
            ToEngine::Input(input) => {
                match &input {
                    Input::Down(session) | Input::Restarting(session, _) => self.session_ended(*session),
                    Input::Remove(peer) => self.peer_removed(*peer),
                    _ => {}
                }
                self.engine.handle(now(), input);
            }
            ToEngine::Routes(session, batch, _in_flight) => {
                self.received.get_or_insert_with(now);
                self.engine.handle(now(), Input::Routes(session, batch));
            }
            ToEngine::Up(facts, outbox) => self.session_up(facts, outbox),
            ToEngine::Report(event) => self.lifecycle.send(event),
            ToEngine::Query(query) => query(&mut self.engine),
            #[cfg(test)]
            ToEngine::Outboxes(reply) => drop(reply.send(self.outboxes.len())),
        }
    }

    /// If the peer was removed meanwhile, its outbox is not kept.
    fn session_up(&mut self, facts: Box<SessionFacts>, outbox: Arc<Outbox>) {
        let session = outbox.session();
        self.engine.handle(now(), Input::Up(session, facts));
        if self.engine.is_established(session) {
            self.outboxes.insert(session.peer, outbox);
        }
    }

    fn session_ended(&mut self, session: SessionId) {
        if self.outbox(session).is_some() {
            self.outboxes.remove(&session.peer);
        }
    }

    fn peer_removed(&mut self, peer: PeerId) {
        self.outboxes.remove(&peer);
        self.lifecycle.forget(peer);
    }

    /// The outbox of an established session: output for an ended session is dropped.
    fn outbox(&self, session: SessionId) -> Option<&Arc<Outbox>> {
        self.outboxes
            .get(&session.peer)
            .filter(|outbox| outbox.session() == session)
    }

    /// Lets the engine work for [`WORK_TIME`] and dispatches its outputs.
    fn work_for_slice_time(&mut self) {
        let end = now() + WORK_TIME;
        loop {
            while let Some(output) = self.engine.next_output() {
                self.dispatch(output);
            }
            self.write();
            self.busy = self.engine.work();
            if !self.busy {
                // UPDATEs that changed no kernel route measure nothing.
                self.received = None;
            }
            if !self.busy || now() >= end {
                return;
            }
        }
    }

    fn dispatch(&mut self, output: Output) {
        match output {
            Output::Advertise(session, chunk) => self.advertise(session, chunk),
            Output::Fib { changes, more } => {
                if let Some(at) = self.received.take() {
                    self.datapath.send(DatapathEvent::Received(at));
                }
                self.datapath.send(DatapathEvent::Routes { changes, more });
            }
            Output::Watch(list) => self.datapath.send(DatapathEvent::Watch(list)),
            Output::Unwatch(list) => self.datapath.send(DatapathEvent::Unwatch(list)),
            Output::EndOfRib(session, family) => {
                self.datapath.send(DatapathEvent::EndOfRib(session.peer, family))
            }
            Output::Fail(session, notification, idle_for) => {
                if let Some(outbox) = self.outbox(session) {
                    outbox.fail(notification, idle_for);
                }
            }
            Output::PrefixLimitWarning(session, family, count) => self
                .lifecycle
                .send(Event::PrefixLimitWarning(session.peer, family, count)),
            Output::PathLimitWarning(session, prefix) => {
                self.lifecycle.send(Event::PathLimitWarning(session.peer, prefix));
            }
            Output::MemoryLimitWarning(session, octets) => {
                self.lifecycle
                    .send(Event::MemoryLimitWarning(session.peer, octets));
            }
        }
    }

    fn advertise(&mut self, session: SessionId, chunk: Arc<Chunk>) {
        let Some(outbox) = self.outbox(session).map(Arc::clone) else {
            return;
        };
        match outbox.put(chunk) {
            PutOutcome::EngineWrites => self.to_write.push(outbox),
            PutOutcome::Queued => {}
            PutOutcome::OverCredit => {
                tracing::error!(
                    event = "credit_exceeded",
                    peer = session.peer.0,
                    "more unwritten chunks than the credit allows; resetting the session: this is a bug, please report it"
                );
                outbox.fail(Notification::cease(cease::OUT_OF_RESOURCES), Duration::ZERO);
            }
        }
    }

    /// Writes small chunks, or leaves them to the peers' tasks if inputs wait.
    fn write(&mut self) {
        let waiting = !self.inbox.is_empty();
        for outbox in self.to_write.drain(..) {
            if waiting {
                outbox.hand_to_task();
            } else {
                let now = now();
                let written = outbox.write(now);
                self.engine.handle(now, Input::Written(outbox.session(), written));
            }
        }
    }
}

#[cfg(test)]
mod tests;
