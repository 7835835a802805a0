//! The sessions that are wanted, and how they are.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::{Auth, AuthError};
use crate::packet::State;
use crate::session::Down;

/// Names a neighbor: its address, and the interface's index where that is link-local.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// The neighbor's address.
    pub remote: IpAddr,
    /// Index of the interface; 0 unless the address is link-local.
    pub scope: u32,
}

/// A session to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// With whom.
    pub key: Key,
    /// Our address; the kernel's choice when `None`.
    pub local: Option<IpAddr>,
    /// The neighbor is some hops away (RFC 5883).
    pub multihop: bool,
    /// Packets of a neighbor some hops away with a lower TTL are dropped; 0 for none. On the link it is always 255.
    pub min_ttl: u8,
    /// How often we send and can receive, 10 ms or more.
    pub interval: Duration,
    /// Packets that may be missed, 1–255.
    pub multiplier: u8,
    /// Packets are signed with this key, and believed only when they are.
    pub auth: Option<Auth>,
}

/// A session as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// RFC 5880 §6.8.1.
    pub state: State,
    /// Since when it has been in or out of Up.
    pub since: Instant,
    /// How often it left Up.
    pub downs: u64,
    /// Why it last left Up.
    pub last_down: Option<Down>,
    /// Silence of this length takes it down; `None` before anything was heard.
    pub detection_time: Option<Duration>,
    /// Packets of the neighbor that were dropped, and why the last one was.
    pub refused: (u64, Option<Refusal>),
}

/// Why a packet from a neighbor's address was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It came from further away than it may.
    #[error("a packet with TTL {0}, want {1} or more: it comes from further away than this neighbor")]
    Ttl(u8, u8),
    /// The neighbor is not on the link of that interface.
    #[error(
        "a packet came in by the interface with index {0}, where the kernel has no route to this neighbor"
    )]
    Interface(u32),
    /// It is not signed as agreed.
    #[error(transparent)]
    Auth(#[from] AuthError),
}
