//! Wanted sessions and their status.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::auth::{Auth, AuthError};
use crate::packet::State;
use crate::session::Down;

/// Identifies a neighbor: its address, and the interface index if it is link-local.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// The neighbor's address.
    pub remote: IpAddr,
    /// Index of the interface; 0 unless the address is link-local.
    pub scope: u32,
}

/// A wanted session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The neighbor.
    pub key: Key,
    /// Our address; `None`: chosen by the kernel.
    pub local: Option<IpAddr>,
    /// Multihop session (RFC 5883).
    pub multihop: bool,
    /// Lowest TTL of packets in a multihop session; 0: any. In a single-hop session it is 255.
    pub min_ttl: u8,
    /// Transmit and receive interval, 10 ms or more.
    pub interval: Duration,
    /// Detection multiplier, 1–255.
    pub multiplier: u8,
    /// Authentication key; packets without it are dropped.
    pub auth: Option<Auth>,
}

/// Status of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// RFC 5880 §6.8.1.
    pub state: State,
    /// When it last entered or left Up.
    pub since: Instant,
    /// How often it left Up.
    pub downs: u64,
    /// Why it last left Up.
    pub last_down: Option<Down>,
    /// Detection time; `None` before a packet was received.
    pub detection_time: Option<Duration>,
    /// Number of dropped packets of the neighbor, and the last reason.
    pub dropped: (u64, Option<DropReason>),
}

/// Why a packet from a neighbor's address was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DropReason {
    /// The TTL is too low: received value and minimum.
    #[error("a packet has TTL {0}, required is {1} or more: its sender is farther away than this neighbor")]
    Ttl(u8, u8),
    /// The interface with this index has no route to the neighbor.
    #[error(
        "a packet came in by the interface with index {0}, where the kernel has no route to this neighbor"
    )]
    Interface(u32),
    /// The authentication is not valid.
    #[error(transparent)]
    Auth(#[from] AuthError),
}
