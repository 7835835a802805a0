//! NOTIFICATION (RFC 4271 §4.5, §6; RFC 4486; RFC 9003; RFC 8538): code, subcode, data, and words for people.

use std::fmt;

use ::bytes::Bytes;

/// A NOTIFICATION as sent or received.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code, 1–8.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data; its meaning follows from code and subcode.
    pub data: Bytes,
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NOTIFICATION {}/{} data {:02x?}", self.code, self.subcode, &self.data[..])
    }
}
