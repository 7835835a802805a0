//! A peer: its session and its connections.

mod closing;
mod connection;
mod dial;
mod established;
pub(crate) mod task;
