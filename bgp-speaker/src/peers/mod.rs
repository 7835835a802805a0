//! The peers: configured, dynamic and unnumbered ones, and the channels to their tasks.

pub(crate) mod accept;
mod dynamic;
pub(crate) mod listeners;
pub(crate) mod unnumbered;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Engine, Input, PeerCounts};
use bgp_proto::types::PeerId;
use tokio::sync::{mpsc, oneshot};

use crate::api::{Event, PeerSnapshot, PeerSpec, Stopped};
use crate::clock::now;
use crate::engine::mailbox::ToEngine;
use crate::host::Host;
use crate::peer::task::PeerTask;
use crate::registry::messages::ToPeer;
use crate::registry::{Entry, Registry};

/// Capacity of the command queue of a peer's task.
const COMMAND_CAPACITY: usize = 64;
/// Longest wait for the reply of a peer's task.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts and reaches the peers' tasks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) registry: Arc<Registry>,
    /// Control messages and queries to the engine's task.
    control: mpsc::Sender<ToEngine>,
    /// Messages of the peers' tasks to the engine's task.
    engine: mpsc::Sender<ToEngine>,
    host: Arc<Host>,
    seed: u64,
    #[cfg(test)]
    pub(crate) call_counts: Arc<CallCounts>,
}

/// Number of queries and snapshots, for tests.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct CallCounts {
    queries: std::sync::atomic::AtomicUsize,
    snapshots: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl CallCounts {
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
        control: mpsc::Sender<ToEngine>,
        engine: mpsc::Sender<ToEngine>,
        seed: u64,
    ) -> Self {
        Self {
            registry,
            control,
            engine,
            host: Host::start(),
            seed,
            #[cfg(test)]
            call_counts: Arc::default(),
        }
    }

    /// Sends a control message to the engine's task.
    pub(crate) async fn control(&self, message: ToEngine) -> Result<(), Stopped> {
        self.control.send(message).await.map_err(|_| Stopped)
    }

    /// Reports an event to the agent.
    pub(crate) async fn report(&self, event: Event) -> Result<(), Stopped> {
        self.control(ToEngine::Report(event)).await
    }

    /// Runs a query on the engine.
    pub(crate) async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        #[cfg(test)]
        self.call_counts
            .queries
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let message = Box::new(move |engine: &mut Engine| {
            let _ = reply.send(query(engine)); // the caller may have stopped waiting
        });
        self.control(ToEngine::Query(message)).await?;
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

    /// Adds or changes a peer.
    pub(crate) async fn put(&self, spec: PeerSpec) -> Result<(), Stopped> {
        if self.registry.get(spec.id).is_some() {
            return self.change(spec).await;
        }
        let remote = spec.transport.remote;
        let routing = Arc::clone(&spec.routing);
        self.control(ToEngine::Input(Input::Configure(spec.id, routing)))
            .await?;
        let (commands, inbox) = mpsc::channel(COMMAND_CAPACITY);
        let entry = self.registry.insert(Entry::new(spec, commands, None));
        self.remove_dynamic_at(remote);
        tokio::spawn(self.task(&entry, inbox).run());
        Ok(())
    }

    /// A configured peer replaces dynamic peers with its address.
    fn remove_dynamic_at(&self, remote: SocketAddr) {
        for dynamic in self.registry.dynamic_at(remote) {
            drop(self.registry.remove(dynamic)); // the task ends with its last sender
        }
    }

    /// Changes a peer, if it still exists.
    pub(crate) async fn change(&self, spec: PeerSpec) -> Result<(), Stopped> {
        let Some(entry) = self.registry.change(spec) else {
            return Ok(());
        };
        let id = entry.spec.id;
        if entry.range.is_none() {
            self.remove_dynamic_at(entry.spec.transport.remote);
            let routing = Arc::clone(&entry.spec.routing);
            self.control(ToEngine::Input(Input::Configure(id, routing)))
                .await?;
            // If the peer was removed meanwhile, the engine received `Remove` before `Configure`.
            if self.registry.get(id).is_none() {
                self.control(ToEngine::Input(Input::Remove(id))).await?;
            }
        }
        let command = ToPeer::Reconfigure(Box::new(entry.spec));
        let _ = entry.commands.send(command).await; // the task may have ended
        Ok(())
    }

    /// All peers, by id. A peer whose task does not reply in time is left out.
    pub(crate) async fn snapshots(&self) -> Result<Vec<PeerSnapshot>, Stopped> {
        #[cfg(test)]
        self.call_counts
            .snapshots
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut pending = Vec::new();
        for entry in self.registry.all() {
            let (reply, answer) = oneshot::channel();
            if entry.commands.send(ToPeer::Snapshot(reply)).await.is_ok() {
                pending.push((entry, answer));
            }
        }
        // One query for all peers: a node can have thousands.
        let ids: Vec<PeerId> = pending.iter().map(|(entry, _)| entry.spec.id).collect();
        let counts: Vec<PeerCounts> = self
            .query(move |engine| ids.into_iter().map(|id| engine.counts(id)).collect())
            .await?;
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        let mut snapshots = Vec::new();
        for ((entry, answer), mut counts) in pending.into_iter().zip(counts) {
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
    /// Whether the engine's channel is full for the peers' tasks.
    pub(crate) fn is_full_of_tests(&self) -> bool {
        self.engine.capacity() == 0
    }
}
