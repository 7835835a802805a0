//! Default limits of a peer: more than a correct network sends, and less than the memory of a node.

use std::time::Duration;

use bgp_proto::engine::{MaxPrefixes, OverLimit};

/// Limits of one kind of peers.
pub(super) struct Limits {
    /// Prefixes per family.
    most: u32,
    /// Octets.
    pub(super) memory: usize,
}

const MIB: usize = 1 << 20;

/// Routers, which may send the whole Internet.
pub(super) const OF_PEER: Limits = Limits {
    most: 2_000_000,
    memory: 512 * MIB,
};

/// A node: of the mesh, or one that connects from a range. It sends its blocks and Services.
pub(super) const OF_NODE: Limits = Limits {
    most: 100_000,
    memory: 64 * MIB,
};

/// A route reflector of the mesh, which sends what all nodes send.
pub(super) const OF_REFLECTOR: Limits = Limits {
    most: 1_000_000,
    memory: 384 * MIB,
};

impl Limits {
    /// As `maxPrefixes: {limit, warnAt: 80}`.
    pub(super) fn prefixes(&self) -> MaxPrefixes {
        MaxPrefixes {
            limit: self.most,
            warn_at: Some(self.most / 5 * 4),
            action: OverLimit::Cease {
                restart_after: Duration::ZERO,
            },
        }
    }
}
