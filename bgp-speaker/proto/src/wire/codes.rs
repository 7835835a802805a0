//! Error codes and subcodes of NOTIFICATION (RFC 4271 §4.5 and others).

/// Error codes (RFC 4271 §4.5). The modules below have their subcodes.
///
/// ```
/// use bgp_proto::wire::{Notification, cease, code};
///
/// let reset = Notification::new(code::CEASE, cease::ADMIN_RESET, vec![]);
/// assert!(reset.to_string().ends_with("(6/4)"), "{reset}");
/// ```
pub mod code {
    /// Message header error.
    pub const HEADER: u8 = 1;
    /// OPEN message error.
    pub const OPEN: u8 = 2;
    /// UPDATE message error.
    pub const UPDATE: u8 = 3;
    /// Hold timer expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite state machine error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH message error (RFC 7313 §5).
    pub const REFRESH: u8 = 7;
    /// Send hold timer expired (RFC 9687 §6).
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of header errors (RFC 4271 §6.1).
pub mod header_error {
    /// The marker is not all ones.
    pub const NOT_SYNCHRONIZED: u8 = 1;
    /// Data: the length field.
    pub const BAD_LENGTH: u8 = 2;
    /// Data: the type field.
    pub const BAD_TYPE: u8 = 3;
}

/// Subcodes of OPEN errors (RFC 4271 §6.2).
pub mod open_error {
    /// Unspecific: recognized but malformed.
    pub const UNSPECIFIC: u8 = 0;
    /// Data: the supported version, two octets.
    pub const UNSUPPORTED_VERSION: u8 = 1;
    /// Not the configured AS.
    pub const BAD_PEER_AS: u8 = 2;
    /// Zero, or our own identifier within the AS (RFC 6286 §2.2).
    pub const BAD_IDENTIFIER: u8 = 3;
    /// An optional parameter other than capabilities.
    pub const UNSUPPORTED_PARAMETER: u8 = 4;
    /// A hold time of one or two seconds.
    pub const UNACCEPTABLE_HOLD_TIME: u8 = 6;
    /// Data: the missing capabilities (RFC 5492 §5).
    pub const UNSUPPORTED_CAPABILITY: u8 = 7;
}

/// Subcodes of UPDATE errors (RFC 4271 §6.3).
pub mod update_error {
    /// Contradictory lengths, or a duplicate attribute.
    pub const MALFORMED_ATTRIBUTE_LIST: u8 = 1;
    /// Data: the attribute.
    pub const UNRECOGNIZED_WELL_KNOWN: u8 = 2;
    /// Data: the missing type code.
    pub const MISSING_WELL_KNOWN: u8 = 3;
    /// Data: the attribute.
    pub const ATTRIBUTE_FLAGS: u8 = 4;
    /// Data: the attribute.
    pub const ATTRIBUTE_LENGTH: u8 = 5;
    /// Data: the attribute.
    pub const INVALID_ORIGIN: u8 = 6;
    /// Data: the attribute.
    pub const INVALID_NEXT_HOP: u8 = 8;
    /// Data: the attribute.
    pub const OPTIONAL_ATTRIBUTE: u8 = 9;
    /// Prefixes that cannot be decoded.
    pub const INVALID_NETWORK: u8 = 10;
    /// Malformed segments.
    pub const MALFORMED_AS_PATH: u8 = 11;
}

/// Subcodes of FSM errors (RFC 6608 §3). Data: the type of the unexpected message, one octet.
pub mod fsm_error {
    /// Not caused by a message.
    pub const UNSPECIFIED: u8 = 0;
    /// Unexpected in OpenSent.
    pub const OPEN_SENT: u8 = 1;
    /// Unexpected in OpenConfirm.
    pub const OPEN_CONFIRM: u8 = 2;
    /// Unexpected in Established.
    pub const ESTABLISHED: u8 = 3;
}

/// Subcodes of Cease (RFC 4486 §3).
pub mod cease {
    /// Data, optional: AFI, SAFI and the limit.
    pub const MAX_PREFIXES: u8 = 1;
    /// Data: the shutdown communication (RFC 9003).
    pub const ADMIN_SHUTDOWN: u8 = 2;
    /// The peer was removed from the configuration.
    pub const PEER_DECONFIGURED: u8 = 3;
    /// Data: the shutdown communication (RFC 9003).
    pub const ADMIN_RESET: u8 = 4;
    /// Connections are not accepted now.
    pub const CONNECTION_REJECTED: u8 = 5;
    /// The configuration changed.
    pub const OTHER_CONFIGURATION_CHANGE: u8 = 6;
    /// Another connection was chosen (RFC 4271 §6.8).
    pub const COLLISION: u8 = 7;
    /// For example, out of memory.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// The session ends without graceful restart; data: the encapsulated NOTIFICATION (RFC 8538 §3).
    pub const HARD_RESET: u8 = 9;
    /// BFD reports the peer unreachable (RFC 9384 §3).
    pub const BFD_DOWN: u8 = 10;
}

/// Subcodes of ROUTE-REFRESH errors (RFC 7313 §5).
pub mod refresh_error {
    /// Data: the message.
    pub const INVALID_LENGTH: u8 = 1;
}
