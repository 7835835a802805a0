//! A peer's life: the RFC 4271 §8 state machine, its two possible connections, OPEN negotiation and timers.
//!
//! [`Session`] is sans-IO. The shell tells it what happened ([`Input`]) and does what it says
//! ([`Output`]). It owns the codec context that the OPENs negotiated and the hold and keepalive
//! timers, so that a busy RIB cannot kill a session and an OPEN cannot race decoding. It never sees
//! the RIB: routes leave as [`crate::wire::RouteBatch`].
//!
//! It panics on nothing and fails on nothing: a fault of the peer becomes a NOTIFICATION, a close and
//! a [`DownReason`].

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

use crate::types::{Asn, Family, FamilySet, HoldTime, RouterId};
use crate::wire::{Capability, Notification, Refresh, RouteBatch};

/// What a session is configured with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionConfig {
    /// Our AS number towards this peer.
    pub local_asn: Asn,
    /// The AS number the peer must have.
    pub remote_asn: Asn,
    /// Our identifier.
    pub router_id: RouterId,
    /// Families that we offer.
    pub families: FamilySet,
    /// Hold time that we offer; the lower of both sides holds (RFC 4271 §4.2).
    pub hold_time: HoldTime,
    /// Delay between connection attempts (RFC 4271 §10), jittered by 0.75–1.
    pub connect_retry: Duration,
    /// Wait for the peer to connect.
    pub passive: bool,
    /// How long the peer shall keep our routes after the connection is gone without a NOTIFICATION, in
    /// seconds, 1–4095 (RFC 4724 §3); `None`: not at all, and we keep none of its.
    pub graceful_restart: Option<u16>,
    /// Routes outlive a NOTIFICATION too, other than a Hard Reset, if the peer agrees (RFC 8538 §2, the N bit).
    /// Only with `graceful_restart`.
    pub restart_on_notification: bool,
    /// Until then, first OPENs say that this speaker restarts (RFC 4724 §3, the R bit); `None`: it has started for the
    /// first time, or long ago. The same for all sessions of a process and at all times, so that it is no change of the
    /// configuration.
    pub restarting_until: Option<Instant>,
    /// The kernel's routes of the process before this one were there and were kept (RFC 4724 §3, the F bit of first OPENs;
    /// RFC 9494 §3.1). Later OPENs say that they are kept, since they do not go with a session.
    pub forwarding_preserved: bool,
    /// Capabilities offered beyond families, 4-octet AS and route refresh.
    pub extra_capabilities: Vec<Capability>,
}

/// One TCP connection (or attempt) of the session, numbered by the session for outgoing ones and by the
/// shell for incoming ones, from separate ranges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// RFC 4271 §8.2.2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum State {
    /// Not trying.
    #[default]
    Idle,
    /// Connecting.
    Connect,
    /// Waiting to connect or to be connected to.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN accepted, KEEPALIVE awaited.
    OpenConfirm,
    /// Routes flow.
    Established,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The operator wants the session (RFC 4271 events 1, 3).
    Start,
    /// The same, but the peer has this long to connect before we do. Where both sides know who is to connect, most sessions need one
    /// connection instead of two, of which one loses the collision (RFC 4271 §6.8).
    StartAfter(Duration),
    /// The operator does not want it (events 2, 8): Cease with this subcode (RFC 4486) and text (RFC 9003).
    Stop {
        /// Cease subcode.
        subcode: u8,
        /// Shutdown communication. What is longer than 255 octets is cut between characters; whoever takes it from a
        /// person asks [`crate::wire::check_shutdown_message`] before. What was sent stands in [`Stats::last_sent`].
        message: String,
    },
    /// Close at once without a NOTIFICATION, so that the peer keeps our routes (RFC 4724 §4).
    Abandon,
    /// An outgoing attempt succeeded (event 17) or a connection came in (event 16).
    Connected {
        /// Which.
        conn: ConnId,
        /// True when the peer opened it.
        incoming: bool,
    },
    /// The connection failed or closed (event 18).
    Closed {
        /// Which.
        conn: ConnId,
        /// The system's words, if any.
        error: Option<String>,
    },
    /// Bytes arrived; the session takes whole messages out of the buffer and leaves the rest.
    Received {
        /// Which.
        conn: ConnId,
        /// The connection's read buffer.
        buf: &'a mut BytesMut,
    },
    /// The shell wrote to the established peer (UPDATEs or ours): restarts the keepalive timer (RFC 4271 §4.4)
    /// and the send hold timer (RFC 9687).
    Wrote,
    /// Bytes of the established peer wait unread, because the shell cannot take them now: the peer lives, and the
    /// hold timer restarts. So our own congestion is never taken for the peer's death.
    Unread,
    /// The clock reached `poll_timeout`, or just a poke.
    Tick,
    /// Send this ROUTE-REFRESH if the session is up and the peer knows it.
    SendRefresh(Refresh),
    /// Something outside the session ends it (maximum prefixes: Cease/1; BFD: Cease/10): send and close.
    Fail {
        /// What to send.
        notification: Notification,
        /// Neither connect nor accept for so long; zero: go on as after any failure.
        idle_for: Duration,
    },
}

/// Why a session is down, or never came up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// We sent this.
    Sent(Notification),
    /// The peer sent this.
    Received(Notification),
    /// The connection closed without a NOTIFICATION.
    Closed(Option<String>),
    /// We closed without a NOTIFICATION (restart).
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

/// What to do, in this order. After [`Output::Close`] a connection's number is not used again.
#[derive(Debug)]
pub enum Output {
    /// Open a TCP connection to the peer.
    Connect(ConnId),
    /// Write these bytes.
    Send {
        /// On which connection.
        conn: ConnId,
        /// A whole number of messages.
        bytes: Bytes,
    },
    /// Flush what is queued, then close.
    Close(ConnId),
    /// The FSM moved.
    State(State),
    /// Established on this connection; all others were closed before.
    Up {
        /// The connection that routes use from now on.
        conn: ConnId,
        /// What the OPENs agreed on.
        negotiated: Box<Negotiated>,
    },
    /// The session left Established, or an attempt failed with a reason worth showing.
    Down {
        /// True when it had been Established: its routes go.
        was_up: bool,
        /// Why.
        reason: DownReason,
        /// Families whose routes are to be kept for now, because the peer restarts (RFC 4724 §4.2).
        retain: FamilySet,
        /// For how long at the most: the restart time of the peer.
        retain_for: Duration,
        /// For how long after that, as long-lived stale routes (RFC 9494 §4.2), family by family.
        retain_longer: Vec<(Family, Duration)>,
    },
    /// Routes from the peer.
    Routes(RouteBatch),
    /// The peer sent a ROUTE-REFRESH.
    Refresh(Refresh),
}
