//! Addresses of Kubernetes Services of type LoadBalancer: which one a Service gets, which ones nobody may have, and who allocates.
//!
//! [`plan`] is a pure function of the pools and of all Services with the addresses in their status. It has no memory: a restart or
//! another allocator comes to the same plan. An address in a status stays as long as a pool allows it, and no address is in
//! two plans unless both Services share it.
//!
//! No Kubernetes types, no clock, no IO.
#![forbid(unsafe_code)]

mod allocator;
mod announce;
mod election;
mod guard;
mod ledger;
mod pool;
mod problem;
mod range;
mod request;
mod service;

pub use allocator::{Decision, Plan, PoolUse, Settings, plan};
pub use announce::Unannounced;
pub use election::{Election, LEASE, Record, Step, WRITES_UNTIL};
pub use guard::{Guard, Refusal, special_in};
pub use ledger::{Change, Ledger, Write};
pub use pool::{Labels, Mismatch, Pool};
pub use problem::Problem;
pub use range::{Range, RangeError};
pub use request::{Annotations, Compatibility, Request};
pub use service::{Families, FamilyPolicy, Key, Port, Service, ShareConflict, Traffic, Wants};
