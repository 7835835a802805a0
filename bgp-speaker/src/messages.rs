//! What the tasks tell each other.

use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Engine, Input};
use bgp_proto::types::PeerId;
use bgp_proto::wire::{Notification, Refresh, RouteBatch};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::api::{Event, PeerSpec, SessionSnapshot};
use crate::outbox::Outbox;

/// What the engine's task is sent.
pub(crate) enum ToEngine {
    /// An input as it is.
    Input(Input),
    /// Routes of a peer, with its share of what may be under way.
    Routes(PeerId, RouteBatch, Option<OwnedSemaphorePermit>),
    /// A session came up; its chunks go here.
    Up(Input, Arc<Outbox>),
    /// Where to reach a peer's task.
    Register(PeerId, mpsc::WeakSender<ToPeer>),
    /// Something for the agent, in order with the engine's own events.
    Tell(Event),
    /// Something to look up.
    Query(Box<dyn FnOnce(&mut Engine) + Send>),
}

/// What a peer's task is told.
pub(crate) enum ToPeer {
    /// The peer opened this connection.
    Incoming(TcpStream),
    /// Have the session.
    Start,
    /// Do not have it: Cease with this subcode and text.
    Stop(u8, String),
    /// End it and begin anew.
    Restart(u8, String),
    /// Close without a word, so that the peer keeps our routes if it agreed to; then report.
    Abandon(oneshot::Sender<()>),
    /// Stop as by [`ToPeer::Stop`], then report.
    Shutdown(u8, String, oneshot::Sender<()>),
    /// Ask for the peer's routes again.
    Refresh(Refresh),
    /// The engine refuses to go on.
    Fail(Notification, Duration),
    /// How is it?
    Snapshot(oneshot::Sender<SessionSnapshot>),
    /// The configuration changed; the session restarts if it has to.
    Reconfigure(Box<PeerSpec>),
}
