//! Bidirectional Forwarding Detection, sans-IO: the control packet and the session (RFC 5880, 5881).
//!
//! [`Session`] is told the time, packets and the operator's wishes by [`Session::handle`], and says what to
//! send and what changed by [`Session::poll_output`]. It touches no socket and no clock: whoever runs it
//! sends control packets to UDP port 3784 with TTL 255 and drops those that come with less (RFC 5881 §5).
//!
//! Implemented: asynchronous mode, the three-way handshake, Poll and Final on changed intervals, slow start.
//! Not implemented: demand mode (we never set D and ignore the peer's), echo, authentication (packets with
//! the A bit are dropped, RFC 5880 §6.8.6).
//!
//! Nothing here panics on any input.
#![forbid(unsafe_code)]

mod packet;
mod session;

pub use packet::{Diagnostic, Packet, PacketError, State};
pub use session::{Config, Down, Input, Output, Session};
