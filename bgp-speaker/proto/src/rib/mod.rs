//! The routing information base: interned attributes, next hops, the table of prefixes and paths, and the
//! decision process. It knows no thread, no socket, no policy and no peer's session.

pub mod attrs;
pub mod decision;
mod dest;
pub mod generation;
pub mod nexthop;
pub mod path;
pub mod table;
