//! Which peers there are, how they come and go, and who reaches their tasks.

pub(crate) mod accept;
mod dynamic;
mod index;
pub(crate) mod keys;
pub(crate) mod listeners;
pub(crate) mod progress;
pub(crate) mod registry;
pub(crate) mod unnumbered;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Engine, Input, PeerCounts};
use bgp_proto::types::PeerId;
use tokio::sync::{mpsc, oneshot};

use self::registry::{Entry, Registry};
use crate::api::{Event, PeerSnapshot, PeerSpec, Stopped};
use crate::clock::now;
use crate::engine::mailbox::ToEngine;
use crate::host::Host;
use crate::peer::messages::ToPeer;
use crate::peer::task::PeerTask;

/// Commands to a peer's task under way.
const COMMAND_ROOM: usize = 64;
/// How long a peer's task may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What it takes to start a peer's task.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) registry: Arc<Registry>,
    /// Orders and queries.
    orders: mpsc::Sender<ToEngine>,
    /// What peers' tasks send.
    engine: mpsc::Sender<ToEngine>,
    host: Arc<Host>,
    seed: u64,
    #[cfg(test)]
    pub(crate) counted: Arc<Counted>,
}

/// How often others are asked.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Counted {
    queries: std::sync::atomic::AtomicUsize,
    snapshots: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl Counted {
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn snapshots(&self) -> usize {
        self.snapshots.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Peers {
    pub(crate) fn new(
        registry: Arc<Registry>,
        orders: mpsc::Sender<ToEngine>,
        engine: mpsc::Sender<ToEngine>,
        seed: u64,
    ) -> Self {
        Self {
            registry,
            orders,
            engine,
            host: Host::start(),
            seed,
            #[cfg(test)]
            counted: Arc::default(),
        }
    }

    /// Gives the engine's task an order.
    pub(crate) async fn order(&self, message: ToEngine) -> Result<(), Stopped> {
        self.orders.send(message).await.map_err(|_| Stopped)
    }

    /// Reports to the agent.
    pub(crate) async fn report(&self, event: Event) -> Result<(), Stopped> {
        self.order(ToEngine::Report(event)).await
    }

    /// Asks the engine.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        #[cfg(test)]
        self.counted
            .queries
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |engine: &mut Engine| {
            let _ = reply.send(question(engine)); // whoever asked may have stopped waiting
        });
        self.order(ToEngine::Query(query)).await?;
        answer.await.map_err(|_| Stopped)
    }

    fn task(&self, entry: &Entry, inbox: mpsc::Receiver<ToPeer>) -> PeerTask {
        let id = entry.spec.id;
        let seed = self.seed ^ (u64::from(id.0) << 32 | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let registry = (Arc::downgrade(&self.registry), Arc::clone(&entry.progress));
        PeerTask::new(
            entry.spec.clone(),
            seed,
            inbox,
            self.engine.clone(),
            &self.host,
            registry,
        )
    }

    /// Adds a peer, or changes it.
    pub(crate) async fn put(&self, spec: PeerSpec) -> Result<(), Stopped> {
        if self.registry.get(spec.id).is_some() {
            return self.change(spec).await;
        }
        let remote = spec.transport.remote;
        let routing = Arc::clone(&spec.routing);
        self.order(ToEngine::Input(Input::Configure(spec.id, routing)))
            .await?;
        let (commands, inbox) = mpsc::channel(COMMAND_ROOM);
        let entry = self.registry.insert(Entry::new(spec, commands, None));
        self.remove_dynamic_at(remote);
        tokio::spawn(self.task(&entry, inbox).run());
        Ok(())
    }

    /// A dynamic peer makes room for the configured one with its address.
    fn remove_dynamic_at(&self, remote: SocketAddr) {
        for dynamic in self.registry.dynamic_at(remote) {
            drop(self.registry.remove(dynamic)); // its task ends with its last sender
        }
    }

    /// Changes a peer, if it is still there.
    pub(crate) async fn change(&self, spec: PeerSpec) -> Result<(), Stopped> {
        let Some(entry) = self.registry.change(spec) else {
            return Ok(());
        };
        let id = entry.spec.id;
        if entry.range.is_none() {
            self.remove_dynamic_at(entry.spec.transport.remote);
            let routing = Arc::clone(&entry.spec.routing);
            self.order(ToEngine::Input(Input::Configure(id, routing))).await?;
            // Whoever removed it meanwhile told the engine before.
            if self.registry.get(id).is_none() {
                self.order(ToEngine::Input(Input::Remove(id))).await?;
            }
        }
        let command = ToPeer::Reconfigure(Box::new(entry.spec));
        let _ = entry.commands.send(command).await; // it may be gone by now
        Ok(())
    }

    /// All peers as they are now, by number. One whose task does not answer is left out.
    pub(crate) async fn snapshots(&self) -> Result<Vec<PeerSnapshot>, Stopped> {
        #[cfg(test)]
        self.counted
            .snapshots
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut asked = Vec::new();
        for entry in self.registry.all() {
            let (reply, answer) = oneshot::channel();
            if entry.commands.send(ToPeer::Snapshot(reply)).await.is_ok() {
                asked.push((entry, answer));
            }
        }
        // One question for all: a node has thousands of peers.
        let ids: Vec<PeerId> = asked.iter().map(|(entry, _)| entry.spec.id).collect();
        let counts: Vec<PeerCounts> = self
            .ask(move |engine| ids.into_iter().map(|id| engine.counts(id)).collect())
            .await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut snapshots = Vec::new();
        for ((entry, answer), mut counts) in asked.into_iter().zip(counts) {
            let Ok(Ok(session)) = tokio::time::timeout_at(deadline, answer).await else {
                continue;
            };
            counts.outstanding = counts.outstanding.saturating_sub(session.unreported);
            let since = session.stats.since.map(|since| now().duration_since(since));
            snapshots.push(PeerSnapshot {
                id: entry.spec.id,
                name: entry.spec.name.clone(),
                range: entry.range,
                spec: entry.spec,
                session,
                counts,
                since,
            });
        }
        Ok(snapshots)
    }
}

#[cfg(test)]
impl Peers {
    /// Whether peers' tasks find no room at the engine's.
    pub(crate) fn is_full_of_tests(&self) -> bool {
        self.engine.capacity() == 0
    }
}
