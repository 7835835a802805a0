//! The task that follows BFD. A lost path reaches the kernel's routes and ends its session without the agent, which is only notified:
//! what the agent is busy with delays nobody.

mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bgp_proto::types::PeerId;
use bgp_proto::wire::{Notification, cease};
use bgp_speaker::SpeakerHandle;
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use paths::{PathState, Watch, WatchOwner};

use crate::fib::task::ToFib;
use crate::status::BfdStatus;
use paths::Paths;

/// Commands under way.
const CAPACITY: usize = 64;

enum Command {
    Put(Vec<Watch>),
    Established(PeerId),
    Show(oneshot::Sender<Vec<BfdStatus>>),
    AdminDown(oneshot::Sender<()>),
}

/// The agent's handle.
pub(crate) struct BfdWatch {
    commands: mpsc::Sender<Command>,
    states: Arc<Mutex<BTreeMap<PeerId, PathState>>>,
    changed: Arc<Notify>,
}

impl BfdWatch {
    /// Starts the task; BFD itself starts with the first path to watch.
    pub(crate) fn start(speaker: SpeakerHandle, fib: mpsc::Sender<ToFib>) -> Self {
        let (commands, inbox) = mpsc::channel(CAPACITY);
        let (states, changed) = (Arc::default(), Arc::default());
        let task = Task {
            paths: Paths::default(),
            dead: BTreeSet::new(),
            speaker,
            fib,
            states: Arc::clone(&states),
            changed: Arc::clone(&changed),
        };
        tokio::spawn(task.run(inbox));
        Self {
            commands,
            states,
            changed,
        }
    }

    async fn command(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::error!(
                event = "task_stopped",
                task = "bfd",
                "the BFD task has stopped; please report this"
            );
        }
    }

    /// The whole set of paths to watch.
    pub(crate) async fn put(&self, wanted: Vec<Watch>) {
        self.command(Command::Put(wanted)).await;
    }

    /// The session with a peer is established: its path carries packets, also where BFD has not come back.
    pub(crate) async fn established(&self, peer: PeerId) {
        self.command(Command::Established(peer)).await;
    }

    /// For `podroute show bfd`.
    pub(crate) async fn show(&self, answer: oneshot::Sender<Vec<BfdStatus>>) {
        self.command(Command::Show(answer)).await;
    }

    /// Neighbors learn that the silence is intended.
    pub(crate) async fn set_all_admin_down(&self) {
        let (done, answer) = oneshot::channel();
        self.command(Command::AdminDown(done)).await;
        let _ = answer.await; // the task is gone otherwise, and BFD with it
    }

    /// Notified when the state of a path to a peer changed.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// How the paths to peers are.
    pub(crate) fn states(&self) -> BTreeMap<PeerId, PathState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the path to a peer is.
    pub(crate) fn state(&self, peer: PeerId) -> PathState {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(&peer).copied().unwrap_or_default()
    }
}

struct Task {
    paths: Paths,
    /// Next hops that were reported to the fib task as lost.
    dead: BTreeSet<IpAddr>,
    speaker: SpeakerHandle,
    fib: mpsc::Sender<ToFib>,
    states: Arc<Mutex<BTreeMap<PeerId, PathState>>>,
    changed: Arc<Notify>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let notify = self.paths.notify();
        loop {
            tokio::select! {
                biased;
                () = notify.notified() => self.look().await,
                command = inbox.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
            }
            // Of many sessions that come up together each costs its own, and all together one look at BFD's state.
            while let Ok(command) = inbox.try_recv() {
                self.take(command);
            }
            self.report_dead().await;
            self.publish();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Put(wanted) => self.paths.put(wanted),
            Command::Established(peer) => self.paths.established(peer),
            Command::Show(answer) => drop(answer.send(self.paths.show())),
            Command::AdminDown(done) => {
                self.paths.set_all_admin_down();
                let _ = done.send(()); // whoever asked may have stopped waiting
            }
        }
    }

    /// A lost path is no next hop, and ends its session at once.
    async fn look(&mut self) {
        let lost = self.paths.lost();
        self.report_dead().await;
        for lost in lost {
            let why = paths::words(lost.why);
            match lost.owner {
                WatchOwner::Peer(id, name) => {
                    tracing::warn!(event = "bfd_down", peer = %name, %why, "BFD session down");
                    self.speaker.fail(id, Notification::cease(cease::BFD_DOWN)).await;
                }
                WatchOwner::NextHop => {
                    tracing::warn!(event = "bfd_down", next_hop = %lost.address, %why, "BFD session down")
                }
            }
        }
    }

    /// Lost paths are no next hops, and those that are back are.
    async fn report_dead(&mut self) {
        let dead = self.paths.dead();
        if dead != self.dead {
            self.dead.clone_from(&dead);
            let since = crate::clock::now();
            if self.fib.send(ToFib::Dead { dead, since }).await.is_err() {
                tracing::error!(
                    event = "task_stopped",
                    task = "fib",
                    "the kernel route task has stopped; please report this"
                );
            }
        }
    }

    fn publish(&self) {
        let now = self.paths.states();
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if *states != now {
            *states = now;
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
