//! The lab: nodes, ToR routers and pods in network namespaces, with real BGP daemons.
//!
//! [`sandbox`] gives a box that leaves nothing on the host; [`topology`] draws the rack,
//! [`cabling`] builds it out of [`machine`]s; [`daemon`] runs podroute, BIRD, FRR, GoBGP or OpenBGPD
//! on them; [`cni`] plays the container runtime; [`rack`] joins these. [`probe`], [`capture`] and
//! [`kernel`] observe, [`wait`] waits, [`failure`] says what went wrong and shows the evidence.
//! [`demo`] is the story that `make demo` tells.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken invariant of the lab itself may end it"
)]

pub mod bins;
pub mod cabling;
pub mod capture;
pub mod cni;
pub mod daemon;
pub mod demo;
pub mod failure;
pub mod icmp;
pub mod kernel;
pub mod machine;
pub mod netns;
pub mod probe;
pub mod process;
pub mod rack;
pub mod report;
pub mod sandbox;
pub mod topology;
pub mod wait;
