//! A peer as the RIBs see it: kind, policies, limits, and the facts of its established session.
//!
//! ```
//! use bgp_proto::peer::SessionId;
//! use bgp_proto::types::PeerId;
//!
//! let peer = PeerId(7);
//! let (first, second) = (SessionId { peer, epoch: 1 }, SessionId { peer, epoch: 2 });
//! assert!(first < second); // inputs of the first session are ignored once the second is up
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::policy::Policy;
use crate::session::Negotiated;
use crate::types::{Asn, PeerId, Prefix, Role};

/// Identifies one session of a peer. The epoch grows with each session, so that an input of an ended session
/// is recognised and ignored however late it arrives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    /// The peer.
    pub peer: PeerId,
    /// 1 for the peer's first session, then one more for each session.
    pub epoch: u32,
}

/// The relation to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerKind {
    /// Another AS.
    External,
    /// Our AS.
    Internal,
    /// Our AS, and we reflect its routes (RFC 4456).
    Client,
}

/// A different local AS number on a session, for a network that changes its number (RFC 7705).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalAs {
    /// Do not prepend it to received paths (RFC 7705 §3.3, "No Prepend Inbound").
    pub no_prepend: bool,
    /// Send it in place of our real AS number, not in front of it (RFC 7705 §3.3, "Replace Old AS").
    pub replace_as: bool,
}

/// How private AS numbers (RFC 6996) are treated in paths sent to another AS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrivateAs {
    /// Sent as they are.
    #[default]
    Keep,
    /// Removed.
    Remove,
    /// Replaced by our own AS number, so that the path keeps its length.
    Replace,
}

/// Path attribute rules of a session beyond those of its kind. The default changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathRules {
    /// `PeerRouting::local_asn` is not our real AS number.
    pub local_as: Option<LocalAs>,
    /// Replace the peer's AS number by ours in paths sent to it, so that it does not see a loop.
    pub as_override: bool,
    /// Private AS numbers in paths sent to the peer.
    pub private_as: PrivateAs,
    /// eBGP: do not change NEXT_HOP.
    pub next_hop_unchanged: bool,
    /// eBGP: do not change AS_PATH, NEXT_HOP and MULTI_EXIT_DISC (RFC 7947 §2.2).
    pub route_server: bool,
    /// Reject paths of an eBGP peer that do not begin with its AS number (RFC 4271 §6.3).
    pub enforce_first_as: bool,
    /// Most paths of a prefix sent to a peer with ADD-PATH (RFC 7911); 0 is all of them.
    pub add_path_limit: u16,
    /// eBGP: our role, which says where routes may go (RFC 9234 §5).
    pub role: Option<Role>,
}

/// A limit of received prefixes, per family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaxPrefixes {
    /// Prefixes that are accepted.
    pub limit: u32,
    /// Warn once when the peer exceeds this number.
    pub warn_at: Option<u32>,
    /// What happens when the limit is exceeded.
    pub action: OverLimit,
}

/// What happens when a peer exceeds its prefix limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OverLimit {
    /// The session ends with Cease/1 (RFC 4486 §4) and stays down for this time.
    Cease {
        /// Zero: it is retried after the usual back-off.
        restart_after: std::time::Duration,
    },
    /// Warn, and accept the prefixes.
    Warn,
}

/// How routes from and to a peer are treated.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerRouting {
    /// Name in the configuration.
    pub name: String,
    /// Relation to the peer.
    pub kind: PeerKind,
    /// Our AS number on this session; with [`PathRules::local_as`] it differs from the engine's.
    pub local_asn: Asn,
    /// The peer's AS number; `None` until its first OPEN, where several are possible.
    pub remote_asn: Option<Asn>,
    /// Import policy.
    pub import: Arc<Policy>,
    /// Export policy.
    pub export: Arc<Policy>,
    /// Set ourselves as next hop of routes sent to the peer (iBGP; on eBGP this is the rule).
    pub next_hop_self: bool,
    /// How often our own AS number may occur in received paths, 0–10.
    pub allow_own_as: u8,
    /// Most prefixes per family accepted from the peer; `None` for no limit.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Most paths of a prefix accepted from a peer that sends path identifiers (RFC 7911); more are dropped.
    /// 0 for no limit.
    pub max_paths_per_prefix: u16,
    /// Approximate memory in octets that the peer's routes may take; a peer that exceeds it loses its
    /// session. `None` for no limit.
    pub max_memory: Option<usize>,
    /// Rules for path attributes.
    pub rules: PathRules,
}

impl PeerRouting {
    /// A peer whose policies accept all routes, with at most 64 paths per prefix and no other limit.
    #[must_use]
    pub fn new(name: String, kind: PeerKind, local_asn: Asn, remote_asn: Asn) -> Self {
        Self {
            name,
            kind,
            local_asn,
            remote_asn: Some(remote_asn),
            import: Arc::new(Policy::accept_all()),
            export: Arc::new(Policy::accept_all()),
            next_hop_self: false,
            allow_own_as: 0,
            max_prefixes: None,
            max_paths_per_prefix: 64,
            max_memory: None,
            rules: PathRules::default(),
        }
    }
}

/// Facts of an established session that export needs.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionFacts {
    /// What the OPENs agreed on.
    pub negotiated: Arc<Negotiated>,
    /// The peer's address.
    pub remote_addr: IpAddr,
    /// Our IPv4 address on the session's interface: the next hop of the IPv4 routes we send.
    pub local_v4: Option<Ipv4Addr>,
    /// Our global IPv6 address on the session's interface: the next hop of the IPv6 routes we send.
    pub local_v6: Option<Ipv6Addr>,
    /// Our link-local address on that interface, sent beside the global one to directly connected peers (RFC
    /// 2545 §2).
    pub link_local: Option<Ipv6Addr>,
    /// Subnets that both ends share: on eBGP a next hop inside one of them may be sent unchanged (RFC 4271
    /// §5.1.3).
    pub shared_subnets: Vec<Prefix>,
}
