//! A peer as the RIB side sees it: relation, policies, limits, and the facts of its established session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::policy::Policy;
use crate::session::Negotiated;
use crate::types::{Asn, PeerId, Prefix};

/// Names one session of a peer: the number grows with each session, so that what belongs to an ended session is
/// recognised by its type wherever it arrives late.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    /// Whose session.
    pub peer: PeerId,
    /// 1 for the peer's first session, then one more for each.
    pub epoch: u32,
}

/// How a peer relates to us.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerKind {
    /// Another AS.
    External,
    /// Our AS.
    Internal,
    /// Our AS, and we reflect its routes (RFC 4456).
    Client,
}

/// Another AS number of ours on a session, for a network that changes its number (RFC 7705).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LocalAs {
    /// Leave it out of received paths (RFC 7705 §3.3, "No Prepend Inbound").
    pub no_prepend: bool,
    /// Send it in place of our real number, not in front of it (RFC 7705 §3.3, "Replace Old AS").
    pub replace_as: bool,
}

/// What becomes of private AS numbers (RFC 6996) in paths sent to another AS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrivateAs {
    /// Sent as they are.
    #[default]
    Keep,
    /// Left out.
    Remove,
    /// Our own number stands in their place, so that the path keeps its length.
    Replace,
}

/// What a session does with paths beside the rules of its kind; the default is nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PathRules {
    /// `PeerRouting::local_asn` is not our real number.
    pub local_as: Option<LocalAs>,
    /// Put our AS number in place of the peer's in paths sent to it, where it would see a loop.
    pub as_override: bool,
    /// Private AS numbers in paths sent to the peer.
    pub private_as: PrivateAs,
    /// eBGP: leave NEXT_HOP as it is.
    pub next_hop_unchanged: bool,
    /// eBGP: leave AS_PATH, NEXT_HOP and MULTI_EXIT_DISC as they are (RFC 7947 §2.2).
    pub route_server: bool,
    /// Refuse paths of an eBGP peer that do not begin with its AS number (RFC 4271 §6.3).
    pub enforce_first_as: bool,
    /// Of each prefix so many paths at most go to a peer that takes several (RFC 7911); 0 is all of them.
    pub add_path_most: u16,
}

/// A limit of received prefixes, per family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MaxPrefixes {
    /// So many are taken.
    pub limit: u32,
    /// Tell once when the peer passes this number.
    pub warn_at: Option<u32>,
    /// What more than the limit does.
    pub action: OverLimit,
}

/// What more prefixes than the limit do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OverLimit {
    /// The session ends with Cease/1 (RFC 4486 §4), and may begin again after this time.
    Cease {
        /// Zero: after the usual back-off.
        restart_after: std::time::Duration,
    },
    /// Tell, and take them all the same.
    Warn,
}

/// How routes of a peer are treated.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerRouting {
    /// As in the configuration.
    pub name: String,
    /// Relation.
    pub kind: PeerKind,
    /// Our AS number towards the peer; another than the engine's with [`PathRules::local_as`].
    pub local_asn: Asn,
    /// The peer's AS number.
    pub remote_asn: Asn,
    /// Import policy.
    pub import: Arc<Policy>,
    /// Export policy.
    pub export: Arc<Policy>,
    /// Put ourselves as next hop of routes sent to the peer (iBGP; on eBGP it is the rule anyway).
    pub next_hop_self: bool,
    /// How often our own AS number may stand in received paths, 0–10.
    pub allow_own_as: u8,
    /// Most prefixes per family taken from the peer, `None` for no limit.
    pub max_prefixes: Option<MaxPrefixes>,
    /// Paths of one prefix that are taken from the peer where it sends path identifiers (RFC 7911); what exceeds this is
    /// dropped. 0 takes all of them.
    pub max_paths_per_prefix: u16,
    /// Octets that the peer's routes may take, about; more end the session. `None` for no limit.
    pub max_memory: Option<usize>,
    /// What else happens to its paths.
    pub rules: PathRules,
}

/// Facts of an established session that export needs.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionFacts {
    /// What the OPENs agreed on.
    pub negotiated: Arc<Negotiated>,
    /// The peer's address.
    pub remote_addr: IpAddr,
    /// Our IPv4 address on the session's interface: the next hop of IPv4 routes we send.
    pub local_v4: Option<Ipv4Addr>,
    /// Our global IPv6 address on the session's interface: the next hop of IPv6 routes we send.
    pub local_v6: Option<Ipv6Addr>,
    /// Our link-local address there, sent beside the global one to directly connected peers (RFC 2545 §2).
    pub link_local: Option<Ipv6Addr>,
    /// The subnets that the peer and we share: a next hop inside them may be left as it is on eBGP
    /// (RFC 4271 §5.1.3).
    pub shared_subnets: Vec<Prefix>,
}
