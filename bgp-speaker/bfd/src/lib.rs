//! Bidirectional Forwarding Detection: the control packet, the session, and a thread that runs sessions (RFC 5880, 5881,
//! 5883).
//!
//! [`Session`] is told the time, packets and the operator's wishes by [`Session::handle`], and says what to
//! send and what changed by [`Session::poll_output`]. It touches no socket and no clock: [`Bfd`] does.
//!
//! Implemented: asynchronous mode, the three-way handshake, Poll and Final on changed intervals, slow start.
//! [`Guard`] authenticates (all five types of RFC 5880 §6.7), [`Dampening`] remembers how often a path was lost.
//! Not implemented: demand mode (we never set D and ignore the peer's) and echo (we ask for none: Required Min Echo RX
//! Interval is zero). The C bit is zero: this BFD ends with the process that it is part of (RFC 5880 §4.1).
//!
//! Nothing here panics on any input.
#![deny(unsafe_code)]

mod auth;
mod dampening;
mod packet;
mod receive;
mod route;
mod runner;
mod session;
mod sys;
mod target;

pub use auth::{Auth, AuthError, AuthKind, Guard};
pub use dampening::{Dampening, DampeningConfig};
pub use packet::{Diagnostic, Packet, PacketError, State};
pub use runner::Bfd;
pub use session::{Config, Down, Input, Output, Session};
pub use sys::BesideBfd;
pub use target::{Key, Refusal, Status, Target};
