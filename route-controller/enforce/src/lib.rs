//! Network policies in the kernel: one table of nftables, kept as the model says it should be.
//!
//! | module | does |
//! |---|---|
//! | `layout` | names and types of the table's sets, its fixed chains and those of groups and classes |
//! | `element` | the model's values as keys of sets |
//! | `kernel` | what the table holds, as listed and as changed since |
//! | `plan` | the difference between model and kernel, in an order that the kernel takes |
//! | `enforcer` | owns model and kernel's state; brings changes into force, repairs what others change |
//! | `flows` | ends established connections that are forbidden now |
//!
//! desired is the model, kernel is `kernel`, pending are the model's changes and what others changed. The table is
//! `inet podroute-policy`; no other table is touched.

mod element;
mod enforcer;
mod flows;
mod kernel;
mod layout;
mod plan;

pub use enforcer::{Enforcer, Error, Outcome, Totals};
pub use layout::{FROM_POD, LOG_GROUP, TABLE, TO_POD, WAITING};
