//! The tokio shell around [`bgp_proto`]: sockets, tasks and the clock. It decides nothing.
//!
//! | task | owns | count |
//! |---|---|---|
//! | acceptor | a listening socket | one per address |
//! | peer | a `Session`, its connections, its timers | one per peer |
//! | discovery | the advertisement socket of a link | one per unnumbered peer |
//! | host | the notifications of addresses | one |
//! | station | a BMP connection | one per station |
//! | engine | the `Engine` | one |
//!
//! A busy engine cannot kill a session, because the peer's task and not the engine answers the peer.
//! A slow peer cannot hold up the engine, which never waits for one. Every channel is bounded; each
//! module says what happens when one is full.

#[cfg(test)]
extern crate self as bgp_speaker;

mod api;
mod bmp;
mod clock;
mod engine;
mod host;
mod lazy_timer;
mod peer;
mod peers;
mod queue;
mod socket;
mod sockopt;
mod speaker;
mod sync;
#[cfg(test)]
mod tests;

pub use api::*;
pub use speaker::{Speaker, SpeakerHandle, Started};
