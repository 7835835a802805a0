//! Sans-IO BGP: bytes, sessions, routes and policy, without a clock, a socket or a thread.
//!
//! Two pure objects carry the protocol. [`session::Session`] (one per peer) owns a peer's life: its
//! connections, the OPEN exchange, timers and framing. [`engine::Engine`] (exactly one) owns the RIBs,
//! policy and update groups. Both have the same shape: `handle(now, input)` changes state and never
//! fails or waits, `poll_output()` says what the shell has to do, `poll_timeout()` when to call again.
//! Time is an argument, randomness comes from a seed, and output never follows hash-map order.
//!
//! Dependencies between the modules run one way: `engine → export → rib → wire → types`,
//! `engine → policy → wire`, `session → wire`. `session` never sees `rib`; `peer` is what both `engine` and
//! `export` know of a peer.
//!
//! Nothing here panics on any input: bytes from a peer end as a typed [`wire::DecodeError`] or a
//! treat-as-withdraw verdict (RFC 7606).
#![forbid(unsafe_code)]

pub mod engine;
pub mod export;
pub mod peer;
pub mod policy;
pub mod rib;
pub mod session;
pub mod types;
pub mod wire;
