//! What a peer's task is told.

use std::time::Duration;

use bgp_proto::wire::{Notification, Refresh};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::api::{PeerSpec, SessionSnapshot};

/// A command to a peer's task.
pub(crate) enum ToPeer {
    /// The peer opened this connection.
    Incoming {
        stream: TcpStream,
        /// The listener had the peer's TCP MD5 key when the connection was made.
        signed: bool,
    },
    /// Have the session.
    Start,
    /// Do not have it: Cease with this subcode and text.
    Stop(u8, String),
    /// End it and begin another one.
    Restart(u8, String),
    /// Close without a NOTIFICATION, so that the peer keeps our routes if it agreed to; then report.
    Abandon(oneshot::Sender<()>),
    /// Stop as by [`ToPeer::Stop`], then report.
    Shutdown(u8, String, oneshot::Sender<()>),
    /// Ask for the peer's routes again.
    Refresh(Refresh),
    /// The agent ends the session; none begins for this time.
    Fail(Notification, Duration),
    /// How is it?
    Snapshot(oneshot::Sender<SessionSnapshot>),
    /// The configuration changed; the session restarts if it has to.
    Reconfigure(Box<PeerSpec>),
}
