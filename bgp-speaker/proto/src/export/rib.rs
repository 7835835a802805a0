//! The parts of the engine that update groups work on together.

use super::sources::Sources;
use crate::rib::attrs::AttrTable;
use crate::rib::nexthop::NextHops;
use crate::rib::table::Table;

/// Prefixes, paths, and what they refer to.
#[derive(Clone, Debug, Default)]
pub struct Rib {
    /// Prefixes and paths.
    pub table: Table,
    /// Attributes.
    pub attrs: AttrTable,
    /// Next hops.
    pub next_hops: NextHops,
    /// Where paths come from.
    pub sources: Sources,
}
