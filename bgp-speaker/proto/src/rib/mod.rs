//! The routing information base: interned attributes, next hops, the table of prefixes and paths, and the
//! decision process. It knows no thread, no socket, no policy and no peer's session.

pub mod attrs;
pub mod decision;
mod dest;
pub mod generation;
pub mod nexthop;
pub mod path;
pub mod table;

/// How many paths and references were looked at: tests count what a call costs.
#[cfg(test)]
pub(crate) mod visits {
    use std::cell::Cell;

    std::thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    pub(crate) fn record() {
        COUNT.set(COUNT.get() + 1);
    }

    /// So many since the last call.
    pub(crate) fn take() -> usize {
        COUNT.replace(0)
    }
}
