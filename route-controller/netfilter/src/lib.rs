//! Netfilter's netlink, synchronous: nftables transactions, listings and notifications; connection tracking; packet logs.
//!
//! | module | does |
//! |---|---|
//! | `message` | messages and attributes as bytes, both ways |
//! | `socket` | sends requests, matches answers to them |
//! | `expr` | expressions of rules |
//! | `object` | chains, sets and elements, as they are sent and listed |
//! | `transaction` | changes that are in force together, or not at all |
//! | `list` | what a table holds |
//! | `notify` | what others change |
//! | `conntrack` | flows: list, delete |
//! | `log` | packets that a rule logs |
//!
//! Knows no Kubernetes and no policy. Every function works in the network namespace where its socket was opened.
//! An error names the request that the kernel refused. What the kernel sends is read with bounds checked.

mod conntrack;
mod expr;
mod list;
mod log;
mod message;
mod notify;
mod object;
mod socket;
mod transaction;

pub use conntrack::{Conntrack, Flow};
pub use expr::{Expressions, Field, REGISTERS};
pub use list::{Counter, TableListing};
pub use log::{LogReader, LoggedPacket};
pub use notify::{Notification, Notifications};
pub use object::{Chain, Data, Element, Hook, KeyField, RuleBody, SetSpec, Value, Verdict};
pub use socket::{Error, Nftables, Result, What};
pub use transaction::Transaction;
