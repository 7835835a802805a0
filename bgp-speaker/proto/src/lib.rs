//! Sans-IO BGP: wire format, sessions, RIBs and policy, without a clock, a socket or a thread.
//!
//! Two pure objects carry the protocol. [`session::Session`] (one per peer) owns the peer's connections, the
//! OPEN exchange, timers and framing. [`engine::Engine`] (exactly one) owns the RIBs, policy and update
//! groups. Both have the same shape: `handle(now, input)` changes state and never fails or waits,
//! `poll_output()` returns what the caller has to do. A session also has `poll_timeout()`, the time of its
//! next timer. Time is an argument, randomness comes from a seed, and the order of outputs never depends on a
//! hash map.
//!
//! Dependencies between the modules run one way: `engine → export → rib → wire → types`, `engine → policy →
//! wire`, `session → wire`. `session` does not use `rib`. `peer` holds the facts about a peer that both
//! `engine` and `export` need.
//!
//! Panics: none on input from peers, whatever the bytes: a malformed message becomes a typed
//! [`wire::DecodeError`] or an error action of RFC 7606. [`rib::attrs::AttrTable`] panics when an id is used
//! after its last reference was released; that is a bug in this crate.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as bgp_proto;

pub mod engine;
pub mod export;
pub mod peer;
pub mod policy;
pub mod rib;
pub mod session;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod test_support;
pub mod types;
pub mod wire;
