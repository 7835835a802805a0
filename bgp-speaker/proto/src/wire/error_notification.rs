//! The NOTIFICATION for each decoding error: a total mapping.

use ::bytes::Bytes;

use super::codes::{code, header_error, open_error, refresh_error, update_error};
use super::{DecodeError, Notification};

impl DecodeError {
    /// The NOTIFICATION to send for this error. One arm per error.
    #[must_use]
    pub fn notification(&self) -> Notification {
        let none = Bytes::new();
        let (code, subcode, data) = match self {
            // RFC 4271 §6.1
            DecodeError::NotSynchronized => (code::HEADER, header_error::NOT_SYNCHRONIZED, none),
            DecodeError::BadLength { length } => (
                code::HEADER,
                header_error::BAD_LENGTH,
                Bytes::copy_from_slice(&length.to_be_bytes()),
            ),
            DecodeError::BadType { code: kind } => (
                code::HEADER,
                header_error::BAD_TYPE,
                Bytes::copy_from_slice(&[*kind]),
            ),
            // RFC 4271 §6.2; the data of Unsupported Version is the supported version in two octets.
            DecodeError::MalformedOpen => (code::OPEN, open_error::UNSPECIFIC, none),
            DecodeError::UnsupportedVersion { .. } => (
                code::OPEN,
                open_error::UNSUPPORTED_VERSION,
                Bytes::from_static(&[0, 4]),
            ),
            DecodeError::ZeroAs => (code::OPEN, open_error::BAD_PEER_AS, none),
            DecodeError::ZeroIdentifier => (code::OPEN, open_error::BAD_IDENTIFIER, none),
            DecodeError::UnsupportedParameter { .. } => (code::OPEN, open_error::UNSUPPORTED_PARAMETER, none),
            DecodeError::UnacceptableHoldTime { .. } => {
                (code::OPEN, open_error::UNACCEPTABLE_HOLD_TIME, none)
            }
            // RFC 4271 §6.3
            DecodeError::MalformedSections | DecodeError::DuplicateMp { .. } => {
                (code::UPDATE, update_error::MALFORMED_ATTRIBUTE_LIST, none)
            }
            DecodeError::UnreadableMp { attribute, .. } => {
                (code::UPDATE, update_error::OPTIONAL_ATTRIBUTE, attribute.clone())
            }
            DecodeError::InvalidNetwork { .. } => (code::UPDATE, update_error::INVALID_NETWORK, none),
            DecodeError::AttributeWithoutRoutes { fault, attribute, .. } => {
                let subcode = fault.subcode();
                let bare = matches!(
                    subcode,
                    update_error::MALFORMED_ATTRIBUTE_LIST | update_error::MALFORMED_AS_PATH
                );
                (code::UPDATE, subcode, if bare { none } else { attribute.clone() })
            }
            // RFC 7313 §5
            DecodeError::RefreshLength { message } => {
                (code::REFRESH, refresh_error::INVALID_LENGTH, message.clone())
            }
        };
        Notification::new(code, subcode, data)
    }
}
