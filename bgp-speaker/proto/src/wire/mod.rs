//! BGP on the wire: framing, OPEN, UPDATE, NOTIFICATION, ROUTE-REFRESH; decode and encode.
//!
//! Decoding takes bytes and a [`DecodeContext`] (what the OPENs negotiated) and gives values or a
//! [`DecodeError`], a closed enum with one total mapping to a [`Notification`] (RFC 4271 §6). UPDATE
//! errors carry RFC 7606 verdicts: only what makes the NLRI unreadable resets a session.
//! nom stays inside this module. Nothing here panics on any bytes.

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
