//! What the agent hands to the speaker and hears from it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{EngineConfig, FibChange, PeerCounts, PeerRouting};
use bgp_proto::session::{DownReason, Negotiated, SessionConfig, State, Stats};
use bgp_proto::types::{Family, PeerId, Prefix};
use bytes::Bytes;

/// What the speaker is started with.
#[derive(Clone, Debug)]
pub struct SpeakerConfig {
    /// The engine's own facts.
    pub engine: EngineConfig,
    /// Where peers connect to; empty means that we open every session.
    pub listen: Vec<SocketAddr>,
    /// Seed of the timers' jitter.
    pub seed: u64,
}

/// How far a peer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ttl {
    /// One hop on eBGP, any on iBGP.
    #[default]
    Default,
    /// TTL of our packets: 1–255.
    Multihop(u8),
    /// RFC 5082: we send 255 and take nothing that came more than so many hops.
    Gtsm(u8),
}

/// The TCP connection of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transport {
    /// The peer.
    pub remote: SocketAddr,
    /// Our address; the kernel's choice when `None`.
    pub local: Option<IpAddr>,
    /// Distance.
    pub ttl: Ttl,
    /// RFC 2385 secret, read when a connection is opened.
    pub password_file: Option<PathBuf>,
    /// Another number when the file's content is another: the session then begins anew with it.
    pub password_version: u64,
}

/// A peer to have.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerSpec {
    /// Number chosen by the agent; stable while the peer is configured.
    pub id: PeerId,
    /// As in the configuration.
    pub name: String,
    /// The session's part.
    pub session: SessionConfig,
    /// The engine's part.
    pub routing: Arc<PeerRouting>,
    /// The socket's part.
    pub transport: Transport,
    /// False: administratively down.
    pub enabled: bool,
    /// What is missing before the session can be tried, in words.
    pub waiting_for: Option<String>,
}

impl PeerSpec {
    /// Whether the session is to be had now.
    pub(crate) fn wanted(&self) -> bool {
        self.enabled && self.waiting_for.is_none()
    }
}

/// Peers that come by themselves from a range of addresses.
#[derive(Clone, PartialEq, Debug)]
pub struct RangeSpec {
    /// Unique among ranges; a peer is called `NAME-ADDRESS`.
    pub name: String,
    /// Where they come from.
    pub prefix: Prefix,
    /// So many at a time.
    pub limit: usize,
    /// What each is like; number, name and address are filled in.
    pub template: PeerSpec,
}

/// A peer at the other end of a link, found by router advertisements (RFC 4861 §6).
#[derive(Clone, PartialEq, Debug)]
pub struct LinkSpec {
    /// Name of the interface.
    pub interface: String,
    /// What the peer is like; its address is filled in.
    pub template: PeerSpec,
}

/// A BMP station to tell (RFC 7854).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BmpSpec {
    /// Where it listens.
    pub station: SocketAddr,
    /// Tell routes as peers sent them.
    pub pre_policy: bool,
    /// Tell routes as import policies left them.
    pub post_policy: bool,
    /// Between statistics reports; none when zero.
    pub statistics: Duration,
    /// Our name there (sysName).
    pub name: String,
}

/// What the speaker tells the agent, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Routes for the kernel; each prefix at most once per event.
    Fib {
        /// The changes.
        changes: Vec<FibChange>,
        /// Others are about to follow, for the same reason; a hint, to wait no longer than a moment for.
        more: bool,
    },
    /// Begin to resolve these next hops, and report each by [`crate::SpeakerHandle::next_hops`].
    Watch(Vec<IpAddr>),
    /// These are not needed any more.
    Unwatch(Vec<IpAddr>),
    /// A session is established.
    PeerUp(PeerId),
    /// A session ended, with the reason in words.
    PeerDown(PeerId, String),
    /// A peer has so many prefixes of a family: more than its configuration calls usual, or more than its limit.
    ManyPrefixes(PeerId, Family, usize),
    /// A peer's initial routes of a family are all in, and their kernel changes were told before.
    EndOfRib(PeerId, Family),
}

/// A session as it is now.
#[derive(Clone, Debug)]
pub struct SessionSnapshot {
    /// RFC 4271 §8.2.2.
    pub state: State,
    /// Numbers and last words.
    pub stats: Stats,
    /// Messages sent, with those of the engine.
    pub messages_sent: u64,
    /// Octets written, of those that the engine counts as outstanding.
    pub unreported: usize,
    /// What the OPENs agreed on, while established.
    pub negotiated: Option<Negotiated>,
    /// Both OPENs as they were on the wire, ours and the peer's, while established.
    pub opens: Option<(Bytes, Bytes)>,
    /// Both ends of the established connection, ours and the peer's.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// False: administratively down.
    pub enabled: bool,
    /// What is missing before the session can be tried.
    pub waiting_for: Option<String>,
}

/// A peer as it is now.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// Its number.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub spec: PeerSpec,
    /// Its session.
    pub session: SessionSnapshot,
    /// Its routes.
    pub counts: PeerCounts,
    /// How long the session has been up, or down since it was up.
    pub since: Option<Duration>,
}

/// How to stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Cease/Administrative Shutdown with this text (RFC 9003): the peers drop our routes.
    Withdraw(String),
    /// Close without a NOTIFICATION: peers that agreed to graceful restart keep our routes.
    Preserve,
}

/// Why the speaker does not start.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The listening socket.
    #[error(
        "cannot listen on {addr}: {source}; is another BGP speaker running (ss -ltnp), or are privileges missing? Set listen.port, or listen.enabled: false"
    )]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The speaker's tasks are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the BGP speaker has stopped")]
pub struct Stopped;

/// A reason for people.
#[must_use]
pub fn words(reason: &DownReason) -> String {
    match reason {
        DownReason::Sent(notification) => format!("we sent {notification}"),
        DownReason::Received(notification) => format!("the peer sent {notification}"),
        DownReason::Closed(Some(error)) => error.clone(),
        DownReason::Closed(None) => "the peer closed the connection without a NOTIFICATION".to_owned(),
        DownReason::Abandoned => "closed for a restart".to_owned(),
    }
}
