//! The routing information base: interned attributes, next hops, the table of prefixes and paths, and the
//! decision process. It does not depend on threads, sockets, policies or sessions.
//!
//! ```
//! use bgp_proto::rib::attrs::AttrTable;
//! use bgp_proto::rib::generation::Generation;
//! use bgp_proto::rib::nexthop::NextHops;
//! use bgp_proto::rib::table::{Path, Table};
//! use bgp_proto::types::{PathId, PeerId};
//! use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! let (mut table, mut attrs, mut next_hops) = (Table::default(), AttrTable::default(), NextHops::default());
//! let received = attrs.intern(PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into())), &mut next_hops);
//! let prefix = "10.244.1.0/24".parse().unwrap();
//! let dest = table.dest(&prefix);
//! table.insert(dest, Path {
//!     peer: PeerId(1),
//!     path_id: PathId(0),
//!     received,
//!     imported: Ok(attrs.retain(received)), // the import policy changed nothing
//!     generation: Generation::default(),
//! });
//! let learned = table.first(dest).unwrap();
//! assert_eq!(attrs.get(learned.received).next_hop.addr().to_string(), "192.0.2.1");
//! ```

pub mod attrs;
pub mod decision;
mod dest;
pub mod generation;
pub mod nexthop;
pub mod path;
pub mod table;

/// Counts visited paths and references: tests check the cost of a call.
#[cfg(test)]
pub(crate) mod visits {
    use std::cell::Cell;

    std::thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    pub(crate) fn record() {
        COUNT.set(COUNT.get() + 1);
    }

    /// The count since the last call.
    pub(crate) fn take() -> usize {
        COUNT.replace(0)
    }
}
