//! Netlink (RFC 3549, netlink(7)): framing, requests with acknowledgements, dumps and notifications.
//!
//! [`frame`] is pure: messages and attributes to and from bytes. [`Batch`] collects messages that are sent with one
//! system call, each with a description for its error. [`Socket`] sends a batch and reads the answers, or receives
//! notifications. No message type is interpreted here.
//!
//! ```
//! use linux::netlink::{Attributes, Batch};
//!
//! // The attributes of a link of kind veth.
//! const IFLA_LINKINFO: u16 = 18;
//! const IFLA_INFO_KIND: u16 = 1;
//! let bytes = Batch::attributes(|batch| batch.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "veth")));
//! let info = Attributes(&bytes).get(IFLA_LINKINFO).unwrap();
//! assert_eq!(Attributes(info).text(IFLA_INFO_KIND), Some("veth"));
//! ```

mod batch;
pub mod frame;
mod socket;

pub use batch::{Batch, Failure, Outcome, Reply};
pub use frame::{Attributes, Message, messages, u16_at, u32_at};
pub use socket::{Protocol, Socket};

/// Flags of a request (linux/netlink.h).
pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCL: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

/// Flag of an answer to a dump: what is dumped changed meanwhile.
pub const DUMP_INTERRUPTED: u16 = 0x10;

/// Message types of every netlink protocol.
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;

/// Flag of an attribute's type: it holds attributes.
pub const NESTED: u16 = 0x8000;
