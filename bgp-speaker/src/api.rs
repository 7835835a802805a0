//! The interface between agent and speaker: configuration, events and snapshots.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::engine::{EngineConfig, FibChange, PeerCounts, PeerRouting};
use bgp_proto::session::{Negotiated, SessionConfig, State, Stats};
use bgp_proto::types::{Asn, Family, PeerId, Prefix};
use bytes::Bytes;

/// Configuration of the speaker.
#[derive(Clone, Debug)]
pub struct SpeakerConfig {
    /// Configuration of the engine.
    pub engine: EngineConfig,
    /// Listening addresses; empty: only outgoing connections.
    pub listen: Vec<SocketAddr>,
    /// Seed of timer jitter.
    pub seed: u64,
}

/// TTL settings of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ttl {
    /// One hop on eBGP, any number on iBGP.
    #[default]
    Default,
    /// The TTL of sent packets, 1–255.
    Multihop(u8),
    /// GTSM (RFC 5082): packets are sent with TTL 255, and received packets may have crossed at most this
    /// number of hops.
    Gtsm(u8),
}

/// TCP settings of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transport {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our address; `None`: chosen by the kernel.
    pub local: Option<IpAddr>,
    /// TTL settings.
    pub ttl: Ttl,
    /// TCP MD5 key (RFC 2385): all segments are signed in both directions. A changed key is used from the
    /// next segment on; the session continues if the peer changes its key before its hold timer expires.
    pub password: Option<Password>,
    /// A second key that the peer may use. The connection continues with the key that the peer uses. Ignored
    /// without `password`.
    pub next_password: Option<Password>,
}

impl Transport {
    /// A connection to this address, with the default TTL and without keys.
    #[must_use]
    pub fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            ttl: Ttl::Default,
            password: None,
            next_password: None,
        }
    }

    /// All settings except the keys.
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

/// A TCP MD5 key (RFC 2385). `Debug` does not print it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<[u8]>);

/// The key has a length that the kernel does not accept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} octets, want 1 to {max}", max = Password::MAX)]
pub struct BadPassword(pub usize);

impl Password {
    /// Longest key, in octets (TCP_MD5SIG_MAXKEYLEN).
    pub const MAX: usize = crate::sockopt::MD5_MAX;

    /// Creates a key.
    ///
    /// # Errors
    /// [`BadPassword`] if it is empty or too long.
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

/// Specification of a peer.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerSpec {
    /// Number chosen by the agent; stable while the peer is configured.
    pub id: PeerId,
    /// Name in the configuration.
    pub name: String,
    /// Configuration of the session.
    pub session: SessionConfig,
    /// Configuration of the engine for this peer.
    pub routing: Arc<PeerRouting>,
    /// TCP settings.
    pub transport: Transport,
    /// False: administratively down.
    pub enabled: bool,
    /// How long the peer may connect first when the session is started.
    pub connect_after: Duration,
    /// What is missing before the session can be started, as text.
    pub waiting_for: Option<String>,
}

impl PeerSpec {
    /// Whether the session should be up.
    pub(crate) fn wanted(&self) -> bool {
        self.enabled && self.waiting_for.is_none()
    }

    /// The same for a dynamic peer of this name, for the engine too.
    pub(crate) fn called(mut self, name: String) -> Self {
        Arc::make_mut(&mut self.routing).name.clone_from(&name);
        self.name = name;
        self
    }
}

/// A range of addresses from which dynamic peers are accepted.
#[derive(Clone, PartialEq, Debug)]
pub struct RangeSpec {
    /// Unique among ranges; a peer is named `NAME-ADDRESS`.
    pub name: String,
    /// The range.
    pub prefix: Prefix,
    /// Most peers at a time.
    pub limit: usize,
    /// Specification of each peer, except number, name and address.
    pub template: PeerSpec,
}

/// An unnumbered peer, found by router advertisements on a link (RFC 4861 §6).
#[derive(Clone, PartialEq, Debug)]
pub struct LinkSpec {
    /// Interface name.
    pub interface: String,
    /// Specification of the peer, except its address.
    pub template: PeerSpec,
}

/// A BMP station (RFC 7854).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BmpSpec {
    /// Address of the station.
    pub station: SocketAddr,
    /// Send routes before import policy.
    pub pre_policy: bool,
    /// Send routes after import policy.
    pub post_policy: bool,
    /// Interval of statistics reports; zero: none.
    pub statistics: Duration,
    /// Our sysName.
    pub name: String,
}

/// Input of the kernel's routes, in order. This stream does not wait for the agent.
#[derive(Clone, PartialEq, Debug)]
pub enum DatapathEvent {
    /// The UPDATE that caused the next [`DatapathEvent::Routes`] was received then; of several the first one.
    Received(Instant),
    /// Kernel routes; each prefix occurs at most once per event.
    Routes {
        /// The changes.
        changes: Vec<FibChange>,
        /// A hint: further changes of the same cause follow.
        more: bool,
    },
    /// Resolve these next hops, and report each by [`crate::SpeakerHandle::next_hops`].
    Watch(Vec<IpAddr>),
    /// These next hops are no longer needed.
    Unwatch(Vec<IpAddr>),
    /// The initial routes of a peer and family are complete, and their kernel changes precede this event; or
    /// the session does not carry the family.
    EndOfRib(PeerId, Family),
}

/// Events of peers, for the agent. When it falls behind, later events of a peer replace earlier ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A session is established.
    PeerUp {
        /// The peer.
        peer: PeerId,
        /// The peer's name; for a dynamic peer derived from its range's.
        name: String,
        /// The peer's address and port.
        remote: SocketAddr,
    },
    /// A session ended.
    PeerDown {
        /// The peer.
        peer: PeerId,
        /// The peer's name.
        name: String,
        /// The reason, as text.
        why: String,
    },
    /// An unnumbered peer was found at this address.
    NeighborFound(PeerId, SocketAddr),
    /// The number of prefixes of a family exceeds the warning threshold or the limit of the peer.
    PrefixLimitWarning(PeerId, Family, usize),
    /// A peer exceeds the limit of paths for this prefix; further paths are dropped.
    PathLimitWarning(PeerId, Prefix),
    /// A peer's routes take this number of octets: most of what they may, or more.
    MemoryLimitWarning(PeerId, usize),
}

impl Event {
    /// Events with the same key replace each other.
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

/// State of a session.
#[derive(Clone, Debug)]
pub struct SessionSnapshot {
    /// State (RFC 4271 §8.2.2).
    pub state: State,
    /// Counters and the last errors.
    pub stats: Stats,
    /// Messages sent, UPDATEs included.
    pub messages_sent: u64,
    /// Octets written that the engine still counts as outstanding.
    pub unreported: usize,
    /// What was negotiated, while established.
    pub negotiated: Option<Negotiated>,
    /// Both OPENs as sent on the wire, ours and the peer's, while established.
    pub opens: Option<(Bytes, Bytes)>,
    /// Our and the peer's address of the established connection.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The connection uses TCP MD5 (RFC 2385), while established.
    pub signed: bool,
    /// [`Transport::next_password`] is the key in use.
    pub next_key: bool,
    /// False: administratively down.
    pub enabled: bool,
    /// What is missing before the session can be started.
    pub waiting_for: Option<String>,
}

/// State of a peer.
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
    /// How long the session has been up, or down since it was last up.
    pub since: Option<Duration>,
}

impl PeerSnapshot {
    /// The peer's AS number: from its OPEN, or configured. `None` while several are possible.
    #[must_use]
    pub fn asn(&self) -> Option<Asn> {
        let negotiated = self.session.negotiated.as_ref();
        negotiated
            .map(|agreed| agreed.remote.asn)
            .or_else(|| self.spec.session.remote_asn.only())
    }
}

/// How to stop the speaker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Cease/Administrative Shutdown with this text (RFC 9003): peers remove our routes.
    Withdraw(String),
    /// Close without a NOTIFICATION: peers that negotiated graceful restart retain our routes.
    Preserve,
}

/// Why the speaker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// A listening socket cannot be opened.
    #[error(
        "cannot listen on {addr}: {source}; is another BGP speaker running (ss -ltnp), or are privileges missing? Set listen.port, or listen.enabled: false"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The speaker's tasks have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the BGP speaker has stopped")]
pub struct Stopped;
