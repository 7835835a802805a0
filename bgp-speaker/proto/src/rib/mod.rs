//! The routing information base: interned attributes, next hops, the table of prefixes and paths, and the
//! decision process. It does not depend on threads, sockets, policies or sessions.

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
