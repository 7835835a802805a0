//! Messages from a peer's task to the engine's: ordered and bounded, and the task can do other things while
//! it waits.
//!
//! What does not fit into the engine's channel stays here, and meanwhile the task does not read its sockets.
//! The position in the queue for a permit is kept while the task does other things, and a permit is used for
//! the waiting message. If a task returned its permit, then with more waiting tasks than permits every task
//! would repeatedly be last.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bgp_proto::engine::{Engine, Input, SessionFacts, SessionId};
use bgp_proto::wire::RouteBatch;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::outbox::Outbox;
use crate::api::Event;

/// A message to the engine's task.
pub(crate) enum ToEngine {
    /// An input of the engine.
    Input(Input),
    /// Routes of a session; the semaphore permit bounds its batches in flight.
    Routes(SessionId, RouteBatch, Option<OwnedSemaphorePermit>),
    /// A session is established; its chunks go to this outbox.
    Up(Box<SessionFacts>, Arc<Outbox>),
    /// An event for the agent, in order with the engine's own events.
    Report(Event),
    /// A query.
    Query(Box<dyn FnOnce(&mut Engine) + Send>),
    /// Asks for the number of outboxes, for tests that check for leaks.
    #[cfg(test)]
    Outboxes(tokio::sync::oneshot::Sender<usize>),
}

/// Most batches of routes of a peer in flight to the engine; beyond that nothing is read from it.
const MAX_BATCHES_IN_FLIGHT: usize = 4;

pub(crate) type Permit = mpsc::OwnedPermit<ToEngine>;
type Waiting = Pin<Box<dyn Future<Output = Result<Permit, SendError<()>>> + Send>>;

/// Result of [`Mailbox::ready`].
pub(crate) enum Ready {
    /// A permit of the engine's channel, for [`Mailbox::send_with_permit`].
    Permit(Permit),
    /// Another batch may be sent.
    Batch,
    /// The speaker has stopped.
    Stopped,
}

/// The sending side of a peer's task.
pub(crate) struct Mailbox {
    engine: mpsc::Sender<ToEngine>,
    pending: VecDeque<ToEngine>,
    waiting: Option<Waiting>,
    batches: Arc<Semaphore>,
}

impl Mailbox {
    pub(crate) fn new(engine: mpsc::Sender<ToEngine>) -> Self {
        Self {
            engine,
            pending: VecDeque::new(),
            waiting: None,
            batches: Arc::new(Semaphore::new(MAX_BATCHES_IN_FLIGHT)),
        }
    }

    /// Appends a message; [`Mailbox::flush_to_engine`] or [`Mailbox::send_with_permit`] sends it.
    pub(crate) fn push(&mut self, message: ToEngine) {
        self.pending.push_back(message);
    }

    /// Appends routes.
    pub(crate) fn push_routes(&mut self, session: SessionId, batch: RouteBatch) {
        let in_flight = Arc::clone(&self.batches).try_acquire_owned().ok();
        self.push(ToEngine::Routes(session, batch, in_flight));
    }

    /// Whether messages wait for a permit.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the maximum number of batches is in flight.
    pub(crate) fn is_full(&self) -> bool {
        self.batches.available_permits() == 0
    }

    /// Sends as many messages as the channel accepts.
    pub(crate) fn flush_to_engine(&mut self) {
        while let Some(message) = self.pending.pop_front() {
            if let Err(TrySendError::Full(message)) = self.engine.try_send(message) {
                self.pending.push_front(message);
                return;
            }
        }
    }

    /// Sends a message if the channel accepts it and no other waits; otherwise returns it.
    pub(crate) fn try_send(&self, message: ToEngine) -> Result<(), ToEngine> {
        if self.is_waiting() {
            return Err(message);
        }
        self.engine.try_send(message).map_err(TrySendError::into_inner)
    }

    /// Waits for a permit if wanted, otherwise for the number of batches in flight to fall below the maximum.
    pub(crate) async fn ready(&mut self, wants_permit: bool) -> Ready {
        if wants_permit {
            return self.permit().await.map_or(Ready::Stopped, Ready::Permit);
        }
        self.waiting = None; // leaves the queue for a permit
        if !self.is_full() {
            return std::future::pending().await;
        }
        drop(self.batches.acquire().await); // the semaphore is never closed
        Ready::Batch
    }

    /// Waits for a permit. Dropping the future keeps the position in the queue; `None` when the speaker has
    /// stopped.
    async fn permit(&mut self) -> Option<Permit> {
        let engine = &self.engine;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(engine.clone().reserve_owned()));
        let permit = waiting.await;
        self.waiting = None;
        permit.ok()
    }

    /// Uses the permit for the first waiting message, or for this one.
    pub(crate) fn send_with_permit(&mut self, permit: Permit, otherwise: impl FnOnce() -> Option<ToEngine>) {
        if let Some(message) = self.pending.pop_front().or_else(otherwise) {
            permit.send(message);
        }
        self.flush_to_engine();
    }

    /// Sends a last message, waiting for a permit; does nothing when the speaker has stopped.
    pub(crate) async fn finish(mut self, last: ToEngine) {
        self.pending.push_back(last);
        self.waiting = None; // a permit granted by now must not be kept unused
        for message in self.pending {
            if self.engine.send(message).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bgp_proto::engine::Input;
    use bgp_proto::types::PeerId;

    use super::*;

    fn message(peer: u32) -> ToEngine {
        ToEngine::Input(Input::Remove(PeerId(peer)))
    }

    /// Many more waiting mailboxes than permits, each of which also does other things while it waits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_task_gets_through_a_full_channel() {
        const CAPACITY: usize = 16;
        const MAILBOXES: u32 = 400;
        const MESSAGES: u32 = 3;
        let (engine, mut inbox) = mpsc::channel(CAPACITY);
        for peer in 0..MAILBOXES {
            let mut mailbox = Mailbox::new(engine.clone());
            tokio::spawn(async move {
                (0..MESSAGES).for_each(|_| mailbox.push(message(peer)));
                mailbox.flush_to_engine();
                while mailbox.is_waiting() {
                    tokio::select! {
                        biased;
                        permit = mailbox.permit() => mailbox.send_with_permit(permit.unwrap(), || None),
                        // Something else happens continuously.
                        () = tokio::task::yield_now() => mailbox.flush_to_engine(),
                    }
                }
            });
        }
        drop(engine);
        tokio::time::sleep(Duration::from_millis(1)).await; // the engine is busy
        let mut counts = std::collections::HashMap::new();
        let all = async {
            while let Some(ToEngine::Input(Input::Remove(peer))) = inbox.recv().await {
                *counts.entry(peer).or_insert(0) += 1;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .expect("no message stays behind");
        assert_eq!(counts.len(), MAILBOXES as usize);
        assert!(counts.values().all(|count| *count == MESSAGES));
    }

    /// A permit granted to a mailbox is used for its last messages, or returned.
    #[tokio::test]
    async fn the_last_message_needs_no_second_permit() {
        let (engine, mut inbox) = mpsc::channel(1);
        let mut mailbox = Mailbox::new(engine.clone());
        engine.try_send(message(0)).unwrap();
        mailbox.push(message(1));
        mailbox.flush_to_engine();
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, mailbox.permit()).await.is_err());
        inbox.recv().await.unwrap(); // the permit is granted now
        let finished = tokio::spawn(mailbox.finish(message(2)));
        for expected in 1..=2 {
            let got = tokio::time::timeout(Duration::from_secs(30), inbox.recv()).await;
            assert!(matches!(
                got.expect("no permit is kept without need"),
                Some(ToEngine::Input(Input::Remove(PeerId(peer)))) if peer == expected
            ));
        }
        finished.await.unwrap();
    }

    /// The position in the queue survives other events; it is given up when no permit is wanted any more.
    #[tokio::test]
    async fn a_permit_is_kept_while_it_is_wanted_and_no_longer() {
        let (engine, mut inbox) = mpsc::channel(1);
        let (mut first, mut second) = (Mailbox::new(engine.clone()), Mailbox::new(engine.clone()));
        engine.try_send(message(0)).unwrap();
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, first.ready(true)).await.is_err());
        first.flush_to_engine(); // another event
        second.push(message(2));
        assert!(tokio::time::timeout(soon, second.ready(true)).await.is_err());
        inbox.recv().await.unwrap();
        assert!(
            tokio::time::timeout(soon, second.ready(true)).await.is_err(),
            "the first one waited longer"
        );
        assert!(tokio::time::timeout(soon, first.ready(false)).await.is_err());
        assert!(
            matches!(second.ready(true).await, Ready::Permit(_)),
            "the first one no longer waits"
        );
    }

    #[tokio::test]
    async fn a_permit_is_kept_and_used() {
        let (engine, mut inbox) = mpsc::channel(1);
        let mut first = Mailbox::new(engine.clone());
        let mut second = Mailbox::new(engine.clone());
        engine.try_send(message(0)).unwrap();
        first.push(message(1));
        second.push(message(2));
        first.flush_to_engine();
        second.flush_to_engine();
        let soon = Duration::from_millis(1);
        // Both wait; the first one is interrupted repeatedly.
        assert!(tokio::time::timeout(soon, first.permit()).await.is_err());
        assert!(tokio::time::timeout(soon, second.permit()).await.is_err());
        assert!(tokio::time::timeout(soon, first.permit()).await.is_err());
        inbox.recv().await.unwrap();
        assert!(
            tokio::time::timeout(soon, second.permit()).await.is_err(),
            "it belongs to the first session"
        );
        let permit = first.permit().await.unwrap();
        first.send_with_permit(permit, || None);
        assert!(!first.is_waiting());
        assert!(matches!(
            inbox.recv().await,
            Some(ToEngine::Input(Input::Remove(PeerId(1))))
        ));
        let permit = second.permit().await.unwrap();
        second.send_with_permit(permit, || None);
        assert!(matches!(
            inbox.recv().await,
            Some(ToEngine::Input(Input::Remove(PeerId(2))))
        ));
    }
}
