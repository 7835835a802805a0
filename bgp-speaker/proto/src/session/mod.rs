//! BGP sessions: the state machine of RFC 4271 §8, up to two connections, OPEN negotiation and timers.
//!
//! [`Session`] is sans-IO: the caller passes events as [`Input`] and performs each [`Output`]. It owns the
//! negotiated codec parameters and all timers, so that a busy RIB cannot let a session expire and decoding
//! always follows the OPEN. It does not depend on the RIB: routes leave as [`crate::wire::RouteBatch`].
//!
//! Nothing here panics or fails: a fault of the peer becomes a NOTIFICATION, a close and a [`DownReason`].
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use bgp_proto::session::{Input, Output, Session, SessionConfig, State};
//! use bgp_proto::types::{Asn, FamilySet, HoldTime, RouterId};
//!
//! let config = SessionConfig {
//!     graceful_restart: Some(120), // seconds
//!     ..SessionConfig::new(Asn(64512), Asn(65001), RouterId::new(0x0A00_0002).unwrap())
//! };
//! let mut session = Session::new(config, 1);
//! session.handle(Instant::now(), Input::Start);
//! assert!(matches!(session.poll_output(), Some(Output::Connect(_))));
//! assert!(matches!(session.poll_output(), Some(Output::State(State::Connect))));
//! assert!(session.poll_timeout().is_some()); // the connection attempt has a time limit
//! ```

mod collision;
mod connection;
mod fsm;
mod negotiate;
mod receive;
mod restart;
mod stats;
mod timer;

pub use fsm::Session;
pub use negotiate::*;
pub use stats::{Direction, MessageCounts, Stats};

use std::time::{Duration, Instant};

use ::bytes::{Bytes, BytesMut};

use crate::types::{Asn, Family, FamilySet, HoldTime, PeerAs, Role, RouterId};
use crate::wire::{Capability, Notification, Refresh, RouteBatch};

/// Configuration of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionConfig {
    /// Our AS number towards this peer.
    pub local_asn: Asn,
    /// The AS number the peer must have.
    pub remote_asn: PeerAs,
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// Families that we offer.
    pub families: FamilySet,
    /// Hold time that we offer; the lower of both sides is used (RFC 4271 §4.2).
    pub hold_time: HoldTime,
    /// Time between connection attempts (RFC 4271 §10), jittered by 0.75–1.
    pub connect_retry: Duration,
    /// Do not open connections; wait for the peer.
    pub passive: bool,
    /// Restart time that we offer: how long the peer retains our routes after a connection was lost without a
    /// NOTIFICATION, in seconds, 1–4095 (RFC 4724 §3). `None`: no graceful restart in either direction.
    pub graceful_restart: Option<u16>,
    /// Retain routes after a NOTIFICATION other than a Hard Reset too, if the peer agrees (RFC 8538 §2, the N
    /// bit). Only with `graceful_restart`.
    pub restart_on_notification: bool,
    /// Until this time first OPENs say that this speaker restarts (RFC 4724 §3, the R bit); `None`: first
    /// start, or long ago. It is the same for all sessions of a process and does not change, so that it never
    /// counts as a configuration change.
    pub restarting_until: Option<Instant>,
    /// The kernel routes of the previous process were preserved (RFC 4724 §3, the F bit of first OPENs; RFC
    /// 9494 §3.1). Later OPENs always set F, since the end of a session does not remove kernel routes.
    pub forwarding_preserved: bool,
    /// Our role towards an external peer, which must have the other one (RFC 9234).
    pub role: Option<Role>,
    /// A peer that says no role is refused (RFC 9234 §4.2, strict mode).
    pub strict_role: bool,
    /// Capabilities to offer in addition to families, 4-octet AS and route refresh.
    pub extra_capabilities: Vec<Capability>,
}

impl SessionConfig {
    /// A session for both families with the default hold time, a connect-retry time of 5 s and without
    /// graceful restart.
    #[must_use]
    pub fn new(local_asn: Asn, remote_asn: impl Into<PeerAs>, router_id: RouterId) -> Self {
        Self {
            local_asn,
            remote_asn: remote_asn.into(),
            router_id,
            families: FamilySet::ALL,
            hold_time: HoldTime::DEFAULT,
            connect_retry: Duration::from_secs(5),
            passive: false,
            graceful_restart: None,
            restart_on_notification: false,
            restarting_until: None,
            forwarding_preserved: true,
            role: None,
            strict_role: false,
            extra_capabilities: Vec::new(),
        }
    }

    /// Whether the peer is of our AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.remote_asn.is_internal(self.local_asn)
    }
}

/// A TCP connection, or an attempt to open one. The session numbers outgoing ones, the caller numbers
/// incoming ones from a separate range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// State of the session (RFC 4271 §8.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    /// Stopped.
    #[default]
    Idle,
    /// Connecting.
    Connect,
    /// Waiting to connect, or for the peer to connect.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN accepted, waiting for KEEPALIVE.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

/// An input of the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Start the session (RFC 4271 events 1, 3).
    Start,
    /// Start the session, but let the peer connect first for this time. If both sides agree on who connects,
    /// most sessions need one connection instead of two, one of which loses the collision (RFC 4271 §6.8).
    StartAfter(Duration),
    /// Stop the session (events 2, 8): Cease with this subcode (RFC 4486) and text (RFC 9003).
    Stop {
        /// Cease subcode.
        subcode: u8,
        /// Shutdown communication. Text beyond 255 octets is cut between characters;
        /// [`crate::wire::check_shutdown_message`] checks the length. [`Stats::last_sent`] holds what was sent.
        message: String,
    },
    /// Close without a NOTIFICATION, so that the peer retains our routes (RFC 4724 §4).
    Abandon,
    /// An outgoing attempt succeeded (event 17), or the peer opened a connection (event 16).
    Connected {
        /// The connection.
        conn: ConnId,
        /// True when the peer opened it.
        incoming: bool,
    },
    /// The connection failed or closed (event 18).
    Closed {
        /// The connection.
        conn: ConnId,
        /// The system's error, if any.
        error: Option<String>,
    },
    /// Data arrived. The session removes whole messages from the buffer and leaves the rest.
    Received {
        /// The connection.
        conn: ConnId,
        /// The connection's read buffer.
        buf: &'a mut BytesMut,
    },
    /// Data was written to the established peer (UPDATEs or messages of the session): restarts the keepalive
    /// timer (RFC 4271 §4.4) and the send hold timer (RFC 9687).
    Wrote,
    /// Data of the established peer waits unread, because the caller is congested: restarts the hold timer,
    /// so that local congestion is not mistaken for a dead peer.
    Unread,
    /// The time of `poll_timeout` is reached.
    Tick,
    /// Send this ROUTE-REFRESH if the session is established and the peer supports it.
    SendRefresh(Refresh),
    /// End the session for an external reason (maximum prefixes: Cease/1; BFD: Cease/10).
    Fail {
        /// The NOTIFICATION to send.
        notification: Notification,
        /// Neither connect nor accept for this time; zero: retry as after any failure.
        idle_for: Duration,
    },
}

/// Why a session went down, or did not come up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// We sent this NOTIFICATION.
    Sent(Notification),
    /// The peer sent this NOTIFICATION.
    Received(Notification),
    /// The connection closed without a NOTIFICATION.
    Closed(Option<String>),
    /// We closed without a NOTIFICATION, for a restart.
    Abandoned,
}

impl std::fmt::Display for DownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DownReason::Sent(notification) => write!(f, "we sent {notification}"),
            DownReason::Received(notification) => write!(f, "the peer sent {notification}"),
            DownReason::Closed(Some(error)) => f.write_str(error),
            DownReason::Closed(None) => f.write_str("the peer closed the connection without a NOTIFICATION"),
            DownReason::Abandoned => f.write_str("closed for a restart"),
        }
    }
}

/// An output of the session; outputs are performed in order. After [`Output::Close`] the connection's number
/// is not used again.
#[derive(Debug)]
pub enum Output {
    /// Open a TCP connection to the peer.
    Connect(ConnId),
    /// Write these bytes.
    Send {
        /// The connection.
        conn: ConnId,
        /// One or more whole messages.
        bytes: Bytes,
    },
    /// Write queued messages, then close.
    Close(ConnId),
    /// The state changed.
    State(State),
    /// Established on this connection; all others are closed.
    Up {
        /// The connection that carries routes from now on.
        conn: ConnId,
        /// What was negotiated.
        negotiated: Box<Negotiated>,
    },
    /// The session left Established, or a connection attempt failed.
    Down {
        /// True when it was Established: its routes are removed or retained.
        was_up: bool,
        /// Why.
        reason: DownReason,
        /// Families whose routes are retained because the peer restarts (RFC 4724 §4.2).
        retain: FamilySet,
        /// For how long at most: the peer's restart time.
        retain_for: Duration,
        /// For how long after that as long-lived stale routes (RFC 9494 §4.2), by family.
        retain_longer: Vec<(Family, Duration)>,
    },
    /// Routes from the peer.
    Routes(RouteBatch),
    /// The peer sent a ROUTE-REFRESH.
    Refresh(Refresh),
}
