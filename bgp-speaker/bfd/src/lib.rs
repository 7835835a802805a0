//! Bidirectional Forwarding Detection: control packets, sessions, and a thread that runs sessions (RFC 5880,
//! 5881, 5883).
//!
//! [`Session`] is sans-IO: [`Session::handle`] takes the time and an input, [`Session::poll_output`] returns
//! packets to send and state changes. [`Bfd`] has the sockets and the clock.
//!
//! Implemented: asynchronous mode, the three-way handshake, Poll and Final on changed intervals, slow start,
//! all five authentication types of RFC 5880 §6.7 ([`Authenticator`]), and dampening ([`Dampening`]). Not
//! implemented: demand mode (D is never set, and the peer's is ignored) and echo (Required Min Echo RX
//! Interval is zero). The C bit is zero: BFD ends with the process that contains it (RFC 5880 §4.1).
//!
//! Panics: none, whatever packets arrive.
//!
//! ```
//! use std::num::NonZeroU32;
//! use std::time::{Duration, Instant};
//!
//! use bfd::{Config, Input, Output, Session, State};
//!
//! let config = |discriminator| Config {
//!     discriminator: NonZeroU32::new(discriminator).unwrap(),
//!     desired_tx: Duration::from_millis(50),
//!     required_rx: Duration::from_millis(50),
//!     multiplier: 3,
//! };
//! let now = Instant::now();
//! let (mut a, mut b) = (Session::new(config(1), now, 1), Session::new(config(2), now, 2));
//! a.handle(now, Input::Tick);
//! let Some(Output::Send(packet)) = a.poll_output() else { panic!("a sends at once") };
//! b.handle(now, Input::Received(packet));
//! assert_eq!((a.state(), b.state()), (State::Down, State::Init));
//! ```
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

pub use auth::{Auth, AuthError, AuthKind, Authenticator};
pub use dampening::{Dampening, DampeningConfig};
pub use packet::{Diagnostic, Packet, PacketError, State};
pub use runner::Bfd;
pub use session::{Config, Down, Input, Output, Session};
pub use sys::RealtimeGuard;
pub use target::{DropReason, Key, Status, Target};
