//! The router's side of nodes' sessions.
//!
//! [`sides`] derives from a configuration what each router needs, [`print`] writes it in a router's language. [`read`] reads a router's
//! configuration, [`compare`] finds where it does not agree with what nodes are configured for. What [`print`] writes, [`compare`]
//! accepts: `tests/round_trip.rs`.
//!
//! Nothing here does IO.
#![forbid(unsafe_code)]

mod compare;
mod derive;
mod finding;
mod format;
mod print;
mod read;
mod router;
mod select;
mod side;

pub use compare::compare;
pub use derive::{DeriveError, Options, sides};
pub use finding::{Aspect, Finding, Severity};
pub use format::{Format, UnknownFormat, detect};
pub use print::print;
pub use read::{ReadError, read};
pub use router::Router;
pub use select::{SelectError, names, select};
pub use side::{Bfd, Group, Member, NodeAs, OwnAs, PrefixRange, Session, Side, Ttl};
