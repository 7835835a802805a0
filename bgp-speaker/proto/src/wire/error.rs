//! Decoding errors and their consequences.
//!
//! [`DecodeError`] ends the session; [`DecodeError::notification`] is the only place where an error becomes
//! code, subcode and data (RFC 4271 §6; RFC 7606 §3; RFC 7313 §5). [`AttrIssue`] does not end it: the
//! attribute is discarded or the routes are treated as withdrawn (RFC 7606 §2).
//!
//! Deviation: an unknown attribute never ends a session, not even in an UPDATE without routes as in RFC 7606
//! §5.2: there is nothing to withdraw, and it does no harm.

use std::fmt;

use ::bytes::Bytes;

use super::NlriFault;
use super::codes::update_error;

/// An error that ends the session. Each maps to exactly one NOTIFICATION.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The marker is not all ones (RFC 4271 §6.1).
    #[error("the marker of a message header is not all ones: this is not BGP, or octets were lost")]
    NotSynchronized,
    /// A length that the type does not allow (RFC 4271 §6.1, RFC 8654 §4).
    #[error("a message of {length} octets, which its type does not allow")]
    BadLength {
        /// The length field.
        length: u16,
    },
    /// An unknown message type (RFC 4271 §6.1).
    #[error("message type {code} is unknown")]
    BadType {
        /// The type field.
        code: u8,
    },
    /// Malformed framing of optional parameters or capabilities in OPEN (RFC 4271 §6.2, RFC 5492 §5).
    #[error("the optional parameters of OPEN are malformed")]
    MalformedOpen,
    /// A version other than 4 (RFC 4271 §6.2).
    #[error("BGP version {version} is not supported, only 4")]
    UnsupportedVersion {
        /// The peer's version.
        version: u8,
    },
    /// AS 0 in OPEN (RFC 7607 §2).
    #[error("OPEN with AS number 0")]
    ZeroAs,
    /// Identifier 0.0.0.0 (RFC 6286 §2.2).
    #[error("OPEN with BGP identifier 0.0.0.0")]
    ZeroIdentifier,
    /// An optional parameter other than capabilities (RFC 4271 §6.2).
    #[error("optional parameter {code} of OPEN is not supported")]
    UnsupportedParameter {
        /// The parameter type.
        code: u8,
    },
    /// A hold time of 1 or 2 seconds (RFC 4271 §6.2).
    #[error("a hold time of {seconds} s is not acceptable: 0, or 3 and more")]
    UnacceptableHoldTime {
        /// The offered hold time, in seconds.
        seconds: u16,
    },
    /// The section lengths of an UPDATE contradict its length (RFC 4271 §6.3).
    #[error("the section lengths of an UPDATE exceed its length")]
    MalformedSections,
    /// A duplicate MP_REACH_NLRI or MP_UNREACH_NLRI (RFC 7606 §3 g).
    #[error("{} occurs twice in an UPDATE", attr_name(*code))]
    DuplicateMp {
        /// 14 or 15.
        code: u8,
    },
    /// MP_REACH_NLRI or MP_UNREACH_NLRI with prefixes that cannot be decoded (RFC 7606 §3 j, §5.3, §7.11; RFC
    /// 4760 §7).
    #[error("{} cannot be read", attr_name(*code))]
    UnreadableMp {
        /// 14 or 15.
        code: u8,
        /// The attribute: flags, code, length and value.
        attribute: Bytes,
    },
    /// Withdrawn routes or NLRI that cannot be decoded (RFC 4271 §6.3, RFC 7606 §3 i–j).
    #[error("a list of IPv4 prefixes cannot be read: {fault}")]
    InvalidNetwork {
        /// The fault of the list.
        fault: NlriFault,
    },
    /// A malformed attribute in an UPDATE without routes to withdraw (RFC 7606 §5.2).
    #[error("{} of an UPDATE without routes: {fault}", attr_name(*code))]
    AttributeWithoutRoutes {
        /// Type code; 0 if the list ends before it.
        code: u8,
        /// The fault of the attribute.
        fault: AttrFault,
        /// The attribute: flags, code, length and value.
        attribute: Bytes,
    },
    /// BoRR or EoRR with a wrong length (RFC 7313 §5).
    #[error("a ROUTE-REFRESH of a wrong length")]
    RefreshLength {
        /// The whole message.
        message: Bytes,
    },
}

/// How a malformed attribute is handled without ending the session (RFC 7606 §2), mildest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ErrorAction {
    /// Discard the attribute; the routes stay valid.
    Discard,
    /// Treat the routes of the message as withdrawn.
    TreatAsWithdraw,
}

/// The fault of an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttrFault {
    /// The Optional or Transitive flag contradicts the type (RFC 7606 §3 c).
    Flags,
    /// A length that the type does not allow (RFC 7606 §7).
    Length,
    /// The list ends inside the attribute (RFC 7606 §4).
    Overrun,
    /// ORIGIN other than 0–2 (RFC 7606 §7.1).
    Origin,
    /// Malformed segments in a path (RFC 7606 §7.2, RFC 6793 §6).
    Segments,
    /// Confederation segments (RFC 5065 §5).
    Confederation,
    /// A link-local next hop with bits set that must be zero (RFC 4291 §2.5.6).
    LinkLocal,
    /// Multicast prefixes, which are not valid for unicast (RFC 4271 §6.3).
    Multicast,
    /// AS number 0 (RFC 7607 §2).
    ZeroAs,
    /// BGP identifier 0.0.0.0.
    ZeroIdentifier,
    /// A duplicate (RFC 7606 §3 g).
    Duplicate,
    /// A missing mandatory attribute (RFC 7606 §3 d).
    Missing,
    /// Flagged as well-known, but unknown (RFC 4271 §6.3).
    Unrecognized,
    /// Not allowed from this kind of peer (RFC 7606 §7.5, §7.9, §7.10; RFC 6793 §4.1).
    Misplaced,
}

impl AttrFault {
    /// The UPDATE error subcode of RFC 4271 §6.3, for a message without routes to withdraw.
    pub(super) fn subcode(self) -> u8 {
        match self {
            AttrFault::Flags => update_error::ATTRIBUTE_FLAGS,
            AttrFault::Length => update_error::ATTRIBUTE_LENGTH,
            AttrFault::Overrun | AttrFault::Duplicate | AttrFault::Misplaced => {
                update_error::MALFORMED_ATTRIBUTE_LIST
            }
            AttrFault::Origin => update_error::INVALID_ORIGIN,
            AttrFault::Segments | AttrFault::Confederation | AttrFault::ZeroAs => {
                update_error::MALFORMED_AS_PATH
            }
            AttrFault::ZeroIdentifier => update_error::OPTIONAL_ATTRIBUTE,
            AttrFault::LinkLocal => update_error::INVALID_NEXT_HOP,
            AttrFault::Multicast => update_error::INVALID_NETWORK,
            AttrFault::Missing => update_error::MISSING_WELL_KNOWN,
            AttrFault::Unrecognized => update_error::UNRECOGNIZED_WELL_KNOWN,
        }
    }
}

impl fmt::Display for AttrFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttrFault::Flags => "wrong flags",
            AttrFault::Length => "wrong length",
            AttrFault::Overrun => "longer than the attribute list",
            AttrFault::Origin => "undefined value",
            AttrFault::Segments => "malformed segments",
            AttrFault::Confederation => "confederation segments, but the peer is in no confederation with us",
            AttrFault::LinkLocal => "a link-local next hop with bits set that must be zero",
            AttrFault::Multicast => "multicast prefixes",
            AttrFault::ZeroAs => "AS number 0",
            AttrFault::ZeroIdentifier => "identifier 0.0.0.0",
            AttrFault::Duplicate => "occurs again",
            AttrFault::Missing => "missing",
            AttrFault::Unrecognized => "marked as well-known, but unknown",
            AttrFault::Misplaced => "not allowed from this kind of peer",
        })
    }
}

/// An attribute error that did not end the session (RFC 7606).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AttrIssue {
    /// Type code of the attribute; 0 if the list ends before it, and for the NLRI field.
    pub code: u8,
    /// The fault.
    pub fault: AttrFault,
    /// How it was handled.
    pub action: ErrorAction,
}

impl fmt::Display for AttrIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match self.action {
            ErrorAction::Discard => "discarded",
            ErrorAction::TreatAsWithdraw => "routes treated as withdrawn",
        };
        if (self.code, self.fault) == (0, AttrFault::Multicast) {
            return write!(f, "NLRI: {}; {done}", self.fault);
        }
        write!(f, "{}: {}; {done}", attr_name(self.code), self.fault)
    }
}

/// The name of an attribute as in the RFCs; `attribute N` if unknown.
pub(super) fn attr_name(code: u8) -> AttrName {
    AttrName(code)
}

/// Displays a type code as the attribute's name.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttrName(u8);

impl fmt::Display for AttrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "attribute list",
            1 => "ORIGIN",
            2 => "AS_PATH",
            3 => "NEXT_HOP",
            4 => "MULTI_EXIT_DISC",
            5 => "LOCAL_PREF",
            6 => "ATOMIC_AGGREGATE",
            7 => "AGGREGATOR",
            8 => "COMMUNITIES",
            9 => "ORIGINATOR_ID",
            10 => "CLUSTER_LIST",
            14 => "MP_REACH_NLRI",
            15 => "MP_UNREACH_NLRI",
            16 => "EXTENDED_COMMUNITIES",
            17 => "AS4_PATH",
            18 => "AS4_AGGREGATOR",
            32 => "LARGE_COMMUNITIES",
            other => return write!(f, "attribute {other}"),
        })
    }
}
