//! Follows the objects of Kubernetes that this node needs, and writes its condition, Events and Service addresses.
//!
//! | module | does |
//! |---|---|
//! | `index` | keeps nodes, Services and EndpointSlices; pure, any order of events gives the same facts |
//! | `handover` | announces a Service for a moment longer while another node takes it over |
//! | `watch` | the task that asks the API server, and gives the facts when they change |
//! | `throttle` | when work may run again that took long |
//! | `health` | how the watches are doing, and how long to wait after a failure |
//! | `condition` | writes whether pods of this node can be reached, for the scheduler |
//! | `events` | posts Events of sessions and refused configurations |
//! | `allocation` | gives Services their addresses, on one agent of the cluster |
//! | `cache` | the last facts in the run directory, for a start while the API server is away |
//!
//! What to make of the facts is `podroute-config`'s to say: the configuration follows from file and facts.

mod allocation;
pub(crate) mod cache;
mod client;
mod condition;
mod error;
mod events;
mod handover;
mod health;
mod index;
mod throttle;
mod watch;

pub(crate) use allocation::{Allocator, Candidacy, Report, Reports};
pub(crate) use client::LazyClient;
pub(crate) use condition::{Condition, Network};
pub(crate) use error::in_words;
pub(crate) use events::{About, Events, NewEvent};
pub(crate) use health::{Watch, Watches};
pub(crate) use throttle::Throttle;
pub(crate) use watch::{Facts, WATCH_SECONDS, follow, observed, patient_client, patiently};
