//! The part of the engine's state that update groups read and change.

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
