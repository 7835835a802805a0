//! What the agent hands to the speaker and hears from it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{EngineConfig, FibChange, PeerCounts, PeerRouting};
use bgp_proto::session::{Negotiated, SessionConfig, State, Stats};
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
    /// RFC 2385: all segments are signed, in both directions. A changed key is used from the next segment on; the session goes on
    /// if the peer has it too before its hold time is over.
    pub password: Option<Password>,
    /// A second key that the peer may have. The connection goes on with whichever the peer uses. Without `password` it is not used.
    pub next_password: Option<Password>,
}

impl Transport {
    /// Everything but the keys.
    pub(crate) fn without_keys(&self) -> (SocketAddr, Option<IpAddr>, Ttl) {
        let Self {
            remote,
            local,
            ttl,
            password: _,
            next_password: _,
        } = self;
        (*remote, *local, *ttl)
    }
}

/// Key of TCP MD5 signatures (RFC 2385). Its content is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<[u8]>);

/// A key that the kernel does not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} octets, want 1 to {max}", max = Password::MAX)]
pub struct BadPassword(pub usize);

impl Password {
    /// Longest key that the kernel takes, in octets (TCP_MD5SIG_MAXKEYLEN).
    pub const MAX: usize = crate::sockopt::MD5_MAX;

    /// # Errors
    /// When the key is empty or too long.
    pub fn new(key: &[u8]) -> Result<Self, BadPassword> {
        match key.len() {
            1..=Self::MAX => Ok(Self(key.into())),
            length => Err(BadPassword(length)),
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
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
    /// How long the peer has to connect before we do, when the session is started.
    pub connect_after: Duration,
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

/// What the kernel's routes follow from, in order. It does not wait for the agent.
#[derive(Clone, PartialEq, Debug)]
pub enum DatapathEvent {
    /// Routes for the kernel; each prefix at most once per event.
    Routes {
        /// The changes.
        changes: Vec<FibChange>,
        /// Others follow at once, for the same reason; a hint.
        more: bool,
    },
    /// Begin to resolve these next hops, and report each by [`crate::SpeakerHandle::next_hops`].
    Watch(Vec<IpAddr>),
    /// These are not needed any more.
    Unwatch(Vec<IpAddr>),
    /// A peer's initial routes of a family are complete, and their kernel changes went before; or its session does not carry
    /// the family.
    EndOfRib(PeerId, Family),
}

/// What happens to sessions, for the agent. When it is behind, a peer's later events take the place of its earlier ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session is established.
    PeerUp {
        /// Whose.
        peer: PeerId,
        /// Its name; of a dynamic peer made of its range's.
        name: String,
        /// The peer's end of the connection.
        remote: SocketAddr,
    },
    /// A session ended.
    PeerDown {
        /// Whose.
        peer: PeerId,
        /// Its name.
        name: String,
        /// The reason, in words.
        why: String,
    },
    /// An unnumbered peer was found at this address.
    NeighborFound(PeerId, SocketAddr),
    /// A peer has this number of prefixes of a family: more than its configuration calls usual, or more than its limit.
    PrefixLimitWarning(PeerId, Family, usize),
    /// A peer sent more paths of this prefix than are taken from it.
    PathLimitWarning(PeerId, Prefix),
    /// A peer's routes take this number of octets: most of what they may, or more.
    MemoryLimitWarning(PeerId, usize),
}

impl Event {
    /// Events with the same key may be merged into the last one.
    pub(crate) fn merge_key(&self) -> (PeerId, u8) {
        match self {
            Event::PeerUp { peer, .. } | Event::PeerDown { peer, .. } => (*peer, 0),
            Event::NeighborFound(peer, _) => (*peer, 1),
            Event::PrefixLimitWarning(peer, Family::Ipv4, _) => (*peer, 2),
            Event::PrefixLimitWarning(peer, Family::Ipv6, _) => (*peer, 3),
            Event::PathLimitWarning(peer, _) => (*peer, 4),
            Event::MemoryLimitWarning(peer, _) => (*peer, 5),
        }
    }
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
    /// Its segments are signed (RFC 2385), while established.
    pub signed: bool,
    /// The key in use is [`Transport::next_password`].
    pub next_key: bool,
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
    /// The range that it came from.
    pub range: Option<String>,
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
