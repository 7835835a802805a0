//! The task that owns the engine.
//!
//! It takes what peers and the agent send, works when its channels are momentarily empty (or after
//! [`BURST`] inputs, or a [`TURN`]), and hands out what comes of it. It never waits for a peer: the engine's credit keeps
//! a peer's outbox from filling up. Small chunks it writes itself when nothing else waits for it (see [`Outbox`]). It does not
//! wait for the receivers of its two streams either (see [`super::streams`]).
//!
//! Work on many routes is done in slices. Between two of them come the agent's orders and queries, all there
//! are, and inputs of peers: whoever asks waits for two slices, not for a million routes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Chunk, Engine, Input, Output, SessionFacts, SessionId};
use bgp_proto::types::PeerId;
use bgp_proto::wire::{Notification, cease};
use tokio::sync::mpsc;

use super::mailbox::ToEngine;
use super::outbox::{Outbox, Put};
use super::streams::{DatapathStream, LifecycleStream};
use crate::api::{DatapathEvent, Event};
use crate::clock::now;

/// Inputs of peers taken at a time.
const BURST: usize = 256;
/// So few changes make no full messages.
const FEW: usize = 1024;
/// How long inputs are taken, and how long the engine works, before the other gets its turn.
const TURN: Duration = Duration::from_millis(5);

pub(crate) struct EngineTask {
    engine: Engine,
    orders: mpsc::Receiver<ToEngine>,
    inbox: mpsc::Receiver<ToEngine>,
    datapath: DatapathStream,
    lifecycle: LifecycleStream,
    /// Of established sessions.
    outboxes: HashMap<PeerId, Arc<Outbox>>,
    /// Those with a small chunk.
    to_write: Vec<Arc<Outbox>>,
    /// The last turn did not end the work.
    busy: bool,
}

impl EngineTask {
    /// `orders` come from the agent, the rest from peers.
    pub(crate) fn new(
        engine: Engine,
        orders: mpsc::Receiver<ToEngine>,
        inbox: mpsc::Receiver<ToEngine>,
        datapath: mpsc::Sender<DatapathEvent>,
        lifecycle: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            engine,
            orders,
            inbox,
            datapath: DatapathStream::new(datapath),
            lifecycle: LifecycleStream::new(lifecycle),
            outboxes: HashMap::new(),
            to_write: Vec::new(),
            busy: false,
        }
    }

    /// Runs until every peer's sender is gone.
    pub(crate) async fn run(mut self) {
        loop {
            if self.busy {
                tokio::task::yield_now().await;
            } else {
                let message = tokio::select! {
                    biased;
                    Some(order) = self.orders.recv() => Some(order),
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
                // Others who have something to say at this moment are heard first: in a burst of many peers all are sent
                // few and full messages.
                if self.engine.undecided() < FEW {
                    tokio::task::yield_now().await;
                }
            }
            self.take_some();
            self.work_a_turn();
            // However busy: what is held waits for room alone.
            self.datapath.catch_up();
            self.lifecycle.catch_up();
            if !self.busy && self.inbox.is_empty() {
                self.busy = self.engine.tidy();
            }
        }
    }

    /// What is there: all orders, and a turn of inputs of peers.
    fn take_some(&mut self) {
        self.take_orders();
        let end = now() + TURN;
        for _ in 0..BURST {
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
        while let Ok(order) = self.orders.try_recv() {
            self.take(order);
        }
    }

    /// The peer of a session that came up was configured before: the order for it is taken first.
    fn take_input(&mut self, message: ToEngine) {
        if matches!(message, ToEngine::Up(..)) {
            self.take_orders();
        }
        self.take(message);
    }

    fn take(&mut self, message: ToEngine) {
        match message {
            ToEngine::Input(input) => {
                match &input {
                    Input::Down(session) | Input::Restarting(session, _) => self.ended(*session),
                    Input::Remove(peer) => self.removed(*peer),
                    _ => {}
                }
                self.engine.handle(now(), input);
            }
            ToEngine::Routes(session, batch, _under_way) => {
                self.engine.handle(now(), Input::Routes(session, batch));
            }
            ToEngine::Up(facts, outbox) => self.came_up(facts, outbox),
            ToEngine::Report(event) => self.lifecycle.send(event),
            ToEngine::Query(query) => query(&mut self.engine),
            #[cfg(test)]
            ToEngine::Outboxes(reply) => drop(reply.send(self.outboxes.len())),
        }
    }

    /// The peer may have been removed in the meantime: then there is nobody to keep the outbox for.
    fn came_up(&mut self, facts: Box<SessionFacts>, outbox: Arc<Outbox>) {
        let session = outbox.session();
        self.engine.handle(now(), Input::Up(session, facts));
        if self.engine.is_established(session) {
            self.outboxes.insert(session.peer, outbox);
        }
    }

    fn ended(&mut self, session: SessionId) {
        if self.outbox(session).is_some() {
            self.outboxes.remove(&session.peer);
        }
    }

    fn removed(&mut self, peer: PeerId) {
        self.outboxes.remove(&peer);
        self.lifecycle.forget(peer);
    }

    /// The outbox of a session that is established: what the engine had for an ended one goes nowhere.
    fn outbox(&self, session: SessionId) -> Option<&Arc<Outbox>> {
        self.outboxes
            .get(&session.peer)
            .filter(|outbox| outbox.session() == session)
    }

    /// What the engine has to do, for as long as a turn.
    fn work_a_turn(&mut self) {
        let end = now() + TURN;
        loop {
            while let Some(output) = self.engine.next_output() {
                self.dispatch(output);
            }
            self.write();
            self.busy = self.engine.work();
            if !self.busy || now() >= end {
                return;
            }
        }
    }

    fn dispatch(&mut self, output: Output) {
        match output {
            Output::Advertise(session, chunk) => self.advertise(session, chunk),
            Output::Fib { changes, more } => self.datapath.send(DatapathEvent::Routes { changes, more }),
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
            Put::EngineWrites => self.to_write.push(outbox),
            Put::Queued => {}
            Put::OverCredit => {
                tracing::error!(
                    peer = session.peer.0,
                    "more chunks under way than the credit allows; resetting the session"
                );
                outbox.fail(Notification::cease(cease::OUT_OF_RESOURCES), Duration::ZERO);
            }
        }
    }

    /// Writes small chunks, or leaves them to the peers' tasks if somebody waits for the engine.
    fn write(&mut self) {
        let waiting = !self.inbox.is_empty();
        for outbox in self.to_write.drain(..) {
            if waiting {
                outbox.pass_on();
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
