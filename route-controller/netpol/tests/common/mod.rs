//! Clusters, a random one at a time; an oracle; an interpreter of the compiled rules.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    dead_code,
    unreachable_pub
)]

pub mod oracle;
pub mod rules;
pub mod world;
