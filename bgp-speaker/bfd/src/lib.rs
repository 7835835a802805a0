//! Bidirectional Forwarding Detection: the control packet, the session, and a thread that runs sessions (RFC 5880, 5881,
//! 5883).
//!
//! [`Session`] is told the time, packets and the operator's wishes by [`Session::handle`], and says what to
//! send and what changed by [`Session::poll_output`]. It touches no socket and no clock: [`Bfd`] does.
//!
//! Implemented: asynchronous mode, the three-way handshake, Poll and Final on changed intervals, slow start.
//! Not implemented: demand mode (we never set D and ignore the peer's), echo, authentication (packets with
//! the A bit are dropped, RFC 5880 §6.8.6).
//!
//! Nothing here panics on any input.
#![deny(unsafe_code)]

mod packet;
mod runner;
mod session;
mod sys;

pub use packet::{Diagnostic, Packet, PacketError, State};
pub use runner::{Bfd, Key, Status, Target};
pub use session::{Config, Down, Input, Output, Session};
