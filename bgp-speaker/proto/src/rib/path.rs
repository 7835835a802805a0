//! Paths, and their record in the table. It is small because there are millions.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::rib::attrs::AttrTable;
//! use bgp_proto::rib::generation::Generation;
//! use bgp_proto::rib::nexthop::NextHops;
//! use bgp_proto::rib::path::{Ineligible, Path};
//! use bgp_proto::types::{PathId, PeerId};
//! use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! let attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
//! let path = Path {
//!     peer: PeerId(1),
//!     path_id: PathId(0),
//!     received: AttrTable::default().intern(attrs, &mut NextHops::default()),
//!     imported: Err(Ineligible::AsLoop),
//!     generation: Generation::default(),
//! };
//! assert_eq!(path.imported.unwrap_err().to_string(), "our own AS is in the AS path");
//! ```

use std::num::NonZeroU32;

use super::attrs::AttrId;
use super::generation::Generation;
use crate::types::{PathId, PeerId};

/// Identifies a path of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathIdx(NonZeroU32);

impl PathIdx {
    /// The path in this slot of the table.
    pub(super) fn of_slot(slot: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(u32::try_from(slot).unwrap_or(u32::MAX - 1)))
    }

    /// Its slot in the table.
    pub(super) fn slot(self) -> usize {
        (self.0.get() - 1) as usize
    }

    /// The identifier under which the path is advertised (RFC 7911 §3): unique among the paths of its prefix,
    /// stable while its source announces it, and never 0.
    #[must_use]
    pub fn export_id(self) -> PathId {
        PathId(self.0.get())
    }
}

/// Why a path is not eligible.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ineligible {
    /// Our AS number is in its AS path (RFC 4271 §9.1.2).
    AsLoop,
    /// Its AS path does not begin with the peer's AS (RFC 4271 §6.3).
    FirstAs,
    /// Its ORIGINATOR_ID is our BGP identifier (RFC 4456 §8).
    OriginatorLoop,
    /// Its CLUSTER_LIST contains our cluster id (RFC 4456 §8).
    ClusterLoop,
    /// Its next hop is zero, multicast or of a family that the prefix cannot use (RFC 4271 §6.3).
    BadNextHop,
    /// The import policy rejects it.
    Policy,
    /// It is inside a pod block of this node.
    OwnBlock,
}

impl std::fmt::Display for Ineligible {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Ineligible::AsLoop => "our own AS is in the AS path",
            Ineligible::FirstAs => "the AS path does not begin with the peer's AS",
            Ineligible::OriginatorLoop => "we originated it (ORIGINATOR_ID)",
            Ineligible::ClusterLoop => "our cluster is in the CLUSTER_LIST",
            Ineligible::BadNextHop => "the next hop is no usable address",
            Ineligible::Policy => "rejected by the import policy",
            Ineligible::OwnBlock => "inside this node's own pod block",
        })
    }
}

/// A path: the route of one source to one prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// The source; [`PeerId::LOCAL`] for originated routes.
    pub peer: PeerId,
    /// ADD-PATH identifier of the peer.
    pub path_id: PathId,
    /// Attributes as received (Adj-RIB-In).
    pub received: AttrId,
    /// Attributes after import policy, or why it is not eligible.
    pub imported: Result<AttrId, Ineligible>,
    /// The generation of its last announcement.
    pub generation: Generation,
}

impl Path {
    /// Whether both are equal except for the generation.
    #[must_use]
    pub fn eq_ignoring_generation(&self, other: &Self) -> bool {
        (self.peer, self.path_id, self.received, self.imported)
            == (other.peer, other.path_id, other.received, other.imported)
    }
}

/// A path in 20 octets.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) peer: PeerId,
    pub(super) path_id: PathId,
    /// An [`AttrId`] in the lower 28 bits, the generation above it.
    received: u32,
    /// An [`AttrId`], or `u32::MAX` minus an index of [`REASONS`].
    imported: u32,
    /// The next path of the destination, or the next free slot.
    pub(super) next: Option<PathIdx>,
}

/// Position of the generation in `Node::received`.
const GENERATION_SHIFT: u32 = AttrId::LARGEST.count_ones();

/// Every [`Ineligible`], by its number.
const REASONS: [Ineligible; 7] = [
    Ineligible::AsLoop,
    Ineligible::FirstAs,
    Ineligible::OriginatorLoop,
    Ineligible::ClusterLoop,
    Ineligible::BadNextHop,
    Ineligible::Policy,
    Ineligible::OwnBlock,
];

impl Node {
    pub(super) fn new(path: Path, next: Option<PathIdx>) -> Self {
        let imported = match path.imported {
            Ok(id) => id.number(),
            Err(reason) => u32::MAX - reason as u32,
        };
        Self {
            peer: path.peer,
            path_id: path.path_id,
            received: path.received.number() | path.generation.bits() << GENERATION_SHIFT,
            imported,
            next,
        }
    }

    pub(super) fn path(&self) -> Path {
        let reason = REASONS.get((u32::MAX - self.imported) as usize);
        let imported = match (reason, AttrId::from_number(self.imported)) {
            (None, Some(id)) => Ok(id),
            (reason, _) => Err(reason.copied().unwrap_or(Ineligible::Policy)),
        };
        Path {
            peer: self.peer,
            path_id: self.path_id,
            received: AttrId::from_number(self.received & AttrId::LARGEST).unwrap_or(AttrId::FIRST),
            imported,
            generation: Generation::from_bits(self.received >> GENERATION_SHIFT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_comes_back_as_it_was_put() {
        let id = AttrId::from_number(7).unwrap();
        let path = Path {
            peer: PeerId(7),
            path_id: PathId(9),
            received: id,
            imported: Ok(id),
            generation: Generation::from_bits(13),
        };
        let outcomes = REASONS.into_iter().map(Err).chain([Ok(id)]);
        for (number, imported) in outcomes.enumerate() {
            assert!(imported.is_ok() || imported == Err(REASONS[number]));
            let path = Path { imported, ..path };
            assert_eq!(Node::new(path, None).path(), path);
        }
    }

    #[test]
    fn a_node_is_small() {
        assert_eq!(size_of::<Node>(), 20);
    }
}
