//! The tokio shell around [`bgp_proto`]: sockets, tasks and the clock. All decisions are made in `bgp_proto`.
//!
//! | task | owns | count |
//! |---|---|---|
//! | acceptor | a listening socket | one per address |
//! | peer | a `Session`, its connections, its timers | one per peer |
//! | discovery | the router advertisement socket of a link | one per unnumbered peer |
//! | host | the netlink socket for address changes | one |
//! | station | a BMP connection | one per station |
//! | engine | the `Engine` | one |
//!
//! A busy engine cannot let a session expire, because the peer's task answers the peer. A slow peer cannot
//! delay the engine, which never waits for a peer. Every channel is bounded; each module says what happens
//! when one is full.
//!
//! Panics: none, except on a bug in [`bgp_proto`] (see there). A panic ends its task only; the agent then
//! finds the channels closed ([`Stopped`]).

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
mod registry;
mod rotation;
mod socket;
mod sockopt;
mod speaker;
mod sync;
#[cfg(test)]
mod tests;

pub use api::*;
pub use speaker::{Speaker, SpeakerHandle, Started};
