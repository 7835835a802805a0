//! The part of the engine's state that update groups read and change.
//!
//! Panics: none of its own; each part says when it does.
//!
//! ```
//! use bgp_proto::export::rib::Rib;
//!
//! let mut rib = Rib::default();
//! let dest = rib.table.dest(&"10.244.1.0/24".parse().unwrap());
//! assert!(rib.table.first(dest).is_none(), "a destination without a path");
//! ```

use super::sources::Sources;
use crate::rib::attrs::AttrTable;
use crate::rib::nexthop::NextHops;
use crate::rib::table::Table;

/// Routes and what they refer to.
#[derive(Clone, Debug, Default)]
pub struct Rib {
    /// Prefixes and paths.
    pub table: Table,
    /// Attributes.
    pub attrs: AttrTable,
    /// Next hops.
    pub next_hops: NextHops,
    /// Sources of paths.
    pub sources: Sources,
}
