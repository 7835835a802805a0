//! The BGP wire format: framing, OPEN, UPDATE, NOTIFICATION, ROUTE-REFRESH; decoding and encoding.
//!
//! Decoding takes bytes and a [`DecodeContext`] with negotiated parameters and returns values or a
//! [`DecodeError`], a closed enum with a total mapping to [`Notification`] (RFC 4271 §6). Errors in UPDATEs
//! have an error action of RFC 7606: only NLRI that cannot be decoded ends a session. Nothing here panics,
//! whatever the bytes.
//!
//! ```
//! use bgp_proto::wire::{MessageKind, cut_frame, keepalive};
//! use bytes::BytesMut;
//!
//! let mut buf = BytesMut::from(&keepalive()[..]);
//! let frame = cut_frame(&mut buf, false)?.expect("a whole message");
//! assert_eq!((frame.kind, frame.body.len()), (MessageKind::Keepalive, 0));
//! # Ok::<(), bgp_proto::wire::DecodeError>(())
//! ```

mod as4;
mod as_path;
mod attr_decode;
mod attribute;
mod batch;
pub mod bmp;
mod capability;
mod codes;
mod communities;
mod encode;
mod error;
mod error_notification;
mod frame;
mod inline_bytes;
pub mod mrt;
mod nlri;
mod notification;
mod open;
mod reader;
mod refresh;
mod update;

pub use as_path::*;
pub use attribute::*;
pub use batch::*;
pub use capability::*;
pub use codes::*;
pub use communities::Communities;
pub use encode::*;
pub use error::*;
pub(crate) use frame::message as whole_message;
pub use frame::*;
pub use nlri::*;
pub use notification::*;
pub use open::*;
pub use refresh::*;
pub use update::*;
