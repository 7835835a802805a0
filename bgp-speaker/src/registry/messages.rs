//! Commands to a peer's task.

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
    /// Start the session.
    Start,
    /// Stop it: Cease with this subcode and text.
    Stop(u8, String),
    /// Stop it and start it again.
    Restart(u8, String),
    /// Close without a NOTIFICATION, so that a peer with graceful restart retains our routes; then report.
    Abandon(oneshot::Sender<()>),
    /// As [`ToPeer::Stop`], then report.
    Shutdown(u8, String, oneshot::Sender<()>),
    /// Send this ROUTE-REFRESH.
    Refresh(Refresh),
    /// End the session with this NOTIFICATION and keep it down for this time.
    Fail(Notification, Duration),
    /// Report the session's state.
    Snapshot(oneshot::Sender<SessionSnapshot>),
    /// The configuration changed; the session restarts if necessary.
    Reconfigure(Box<PeerSpec>),
}
