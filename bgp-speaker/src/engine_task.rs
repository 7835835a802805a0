//! The task that owns the engine.
//!
//! It takes what peers and the agent send, works when its channels are momentarily empty (or after
//! [`BURST`] inputs, or a [`TURN`]), and hands out what comes of it. It never waits for a peer: the engine's credit keeps
//! a peer's outbox from filling up. Small chunks it writes itself when nothing else waits for it (see [`Outbox`]). It does not
//! wait for the agent either: kernel changes that the agent has no room for are merged by prefix until it has.
//!
//! Work that touches a whole table is done in turns too. Between two of them come the agent's orders and queries, all there
//! are, and inputs of peers: whoever asks waits for two turns, not for a million routes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Chunk, Engine, FibChange, Input, Output};
use bgp_proto::types::{Family, PeerId, Prefix};
use bgp_proto::wire::{Notification, Refresh, RefreshKind};
use tokio::sync::mpsc;

use crate::api::Event;
use crate::clock::now;
use crate::messages::{ToEngine, ToPeer};
use crate::outbox::{Outbox, Put};

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
    events: mpsc::Sender<Event>,
    outboxes: HashMap<PeerId, Arc<Outbox>>,
    /// Those with a small chunk.
    to_write: Vec<Arc<Outbox>>,
    peers: HashMap<PeerId, mpsc::WeakSender<ToPeer>>,
    /// Events the agent had no room for, in order; kernel changes are merged in `fib` instead.
    waiting: VecDeque<Event>,
    fib: HashMap<Prefix, FibChange>,
    /// The last turn did not end the work.
    busy: bool,
}

impl EngineTask {
    /// `orders` come from the agent, the rest from peers.
    pub(crate) fn new(
        engine: Engine,
        orders: mpsc::Receiver<ToEngine>,
        inbox: mpsc::Receiver<ToEngine>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            engine,
            orders,
            inbox,
            events,
            outboxes: HashMap::new(),
            to_write: Vec::new(),
            peers: HashMap::new(),
            waiting: VecDeque::new(),
            fib: HashMap::new(),
            busy: false,
        }
    }

    /// Runs until every peer's sender is gone.
    pub(crate) async fn run(mut self) {
        loop {
            if self.busy {
                tokio::task::yield_now().await;
                self.take_some();
                if self.is_behind() && self.events.capacity() > 0 {
                    self.catch_up();
                }
            } else {
                let message = tokio::select! {
                    biased;
                    Some(order) = self.orders.recv() => order,
                    message = self.inbox.recv() => match message {
                        Some(message) => message,
                        None => return,
                    },
                    room = has_room(&self.events), if self.is_behind() => {
                        if !room {
                            return;
                        }
                        self.catch_up();
                        continue;
                    }
                };
                self.take_input(message);
                // Others who have something to say at this moment are heard first: in a burst of many peers all are told
                // in few and full messages.
                if self.engine.undecided() < FEW {
                    tokio::task::yield_now().await;
                }
                self.take_some();
            }
            self.work_a_turn();
            if !self.busy && self.inbox.is_empty() {
                self.busy = self.engine.tidy();
            }
        }
    }

    /// Whether the agent could not be told everything.
    fn is_behind(&self) -> bool {
        !self.fib.is_empty() || !self.waiting.is_empty()
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

    /// A session that came up was ordered before: whose peer the engine does not know, it would not hear.
    fn take_input(&mut self, message: ToEngine) {
        if matches!(message, ToEngine::Up(..)) {
            self.take_orders();
        }
        self.take(message);
    }

    fn take(&mut self, message: ToEngine) {
        match message {
            ToEngine::Input(input) => {
                if let Input::Down(peer) | Input::Remove(peer) = &input {
                    self.outboxes.remove(peer);
                }
                self.engine.handle(now(), input);
            }
            ToEngine::Routes(peer, batch, _under_way) => {
                self.engine.handle(now(), Input::Routes(peer, batch));
            }
            ToEngine::Up(input, outbox) => {
                self.outboxes.insert(outbox.peer(), outbox);
                self.engine.handle(now(), input);
            }
            ToEngine::Register(peer, sender) => {
                self.peers.insert(peer, sender);
            }
            ToEngine::Tell(event) => self.tell(event),
            ToEngine::Query(query) => query(&mut self.engine),
        }
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
            Output::Advertise(peer, chunk) => self.advertise(peer, chunk),
            Output::Fib { changes, more } => self.tell_fib(changes, more),
            Output::Watch(list) => self.tell(Event::Watch(list)),
            Output::Unwatch(list) => self.tell(Event::Unwatch(list)),
            Output::EndOfRib(peer, family) => self.tell(Event::EndOfRib(peer, family)),
            Output::RequestRefresh(peer, family) => self.ask_refresh(peer, family),
            Output::Fail(peer, notification, idle_for) => self.fail(peer, notification, idle_for),
            Output::ManyPrefixes(peer, family, count) => self.tell(Event::ManyPrefixes(peer, family, count)),
        }
    }

    fn advertise(&mut self, peer: PeerId, chunk: Arc<Chunk>) {
        let Some(outbox) = self.outboxes.get(&peer) else {
            return;
        };
        match outbox.put(chunk) {
            Put::Here => self.to_write.push(Arc::clone(outbox)),
            Put::There => {}
            Put::TooMany => {
                tracing::error!(
                    peer = peer.0,
                    "more chunks under way than the credit allows; resetting the session"
                );
                let notification = Notification::cease(bgp_proto::wire::cease::OUT_OF_RESOURCES);
                self.fail(peer, notification, Duration::ZERO);
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
                self.engine.handle(now, Input::Written(outbox.peer(), written));
            }
        }
    }

    fn fail(&self, peer: PeerId, notification: Notification, idle_for: Duration) {
        if let Some(sender) = self.peers.get(&peer).and_then(mpsc::WeakSender::upgrade)
            && sender.try_send(ToPeer::Fail(notification, idle_for)).is_err()
        {
            tracing::warn!(peer = peer.0, "the peer's task takes no commands");
        }
    }

    fn ask_refresh(&self, peer: PeerId, family: Family) {
        if let Some(sender) = self.peers.get(&peer).and_then(mpsc::WeakSender::upgrade) {
            // Lost only when the peer's task is flooded with commands; the operator can ask again.
            let _ = sender.try_send(ToPeer::Refresh(Refresh {
                family,
                kind: RefreshKind::Request,
            }));
        }
    }

    fn tell_fib(&mut self, changes: Vec<FibChange>, more: bool) {
        if self.fib.is_empty() && self.waiting.is_empty() {
            let sent = self.events.try_send(Event::Fib { changes, more });
            if let Err(mpsc::error::TrySendError::Full(Event::Fib { changes, .. })) = sent {
                self.hold_back(changes);
            }
        } else {
            self.hold_back(changes);
        }
    }

    fn hold_back(&mut self, changes: Vec<FibChange>) {
        self.fib
            .extend(changes.into_iter().map(|change| (change.prefix, change)));
    }

    fn tell(&mut self, event: Event) {
        if !self.waiting.is_empty() || !self.fib.is_empty() {
            self.waiting.push_back(event);
        } else if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            self.waiting.push_back(event);
        }
    }

    /// The agent has room again: the merged kernel changes by prefix, then what waited behind them. An
    /// End-of-RIB is thus never told before the routes that it ends.
    fn catch_up(&mut self) {
        let mut changes: Vec<FibChange> = std::mem::take(&mut self.fib).into_values().collect();
        if !changes.is_empty() {
            changes.sort_unstable_by_key(|change| change.prefix);
            let event = Event::Fib { changes, more: false };
            if let Err(mpsc::error::TrySendError::Full(Event::Fib { changes, .. })) =
                self.events.try_send(event)
            {
                self.hold_back(changes);
                return;
            }
        }
        while let Some(event) = self.waiting.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
                self.waiting.push_front(event);
                return;
            }
        }
    }
}

/// Waits until the agent can be told something; false when it is gone.
async fn has_room(events: &mpsc::Sender<Event>) -> bool {
    events.reserve().await.is_ok()
}
