//! Errors in headers, OPEN and ROUTE-REFRESH, with their exact NOTIFICATION (RFC 4271 §6.1, §6.2; RFC 7313
//! §5).
#![cfg(test)]

mod golden_util;

use ::bytes::BytesMut;
use bgp_proto::wire::*;
use golden_util::*;

/// The header error of these octets; the buffer is not changed.
fn header_error(bytes: &[u8], extended: bool) -> Notification {
    let mut buf = BytesMut::from(bytes);
    let error = cut_frame(&mut buf, extended).unwrap_err();
    assert_eq!(buf, bytes);
    assert!(!error.to_string().is_empty());
    error.notification()
}

fn header(length: u16, kind: u8) -> Vec<u8> {
    let mut header = vec![0xFF; 16];
    header.extend(length.to_be_bytes());
    header.push(kind);
    header
}

#[test]
fn header_errors() {
    // RFC 4271 §6.1: the marker, at the first wrong octet.
    let mut bad = header(19, 4);
    bad[15] = 0;
    for bytes in [&bad[..], &bad[..16], b"GET / HTTP/1.1\r\n", &[0]] {
        assert_eq!(header_error(bytes, false), notification(1, 1, ""));
    }
    // Lengths that no type allows, and lengths that this type does not allow; data: the length field.
    for (length, kind) in [
        (0, 4),
        (18, 4),
        (20, 4),
        (28, 1),
        (22, 2),
        (20, 3),
        (4097, 1),
        (4097, 2),
        (4097, 3),
        (4097, 5),
        (65535, 2),
    ] {
        let data = format!("{length:04x}");
        assert_eq!(
            header_error(&header(length, kind), false),
            notification(1, 2, &data),
            "{length} {kind}"
        );
    }
    // The length is checked first, then the type (RFC 4271 §6.1 follows the order of the fields); data: the
    // type.
    assert_eq!(header_error(&header(18, 9), false), notification(1, 2, "0012"));
    for kind in [0, 6, 255] {
        assert_eq!(
            header_error(&header(19, kind), false),
            notification(1, 3, &format!("{kind:02x}"))
        );
    }
}

/// RFC 8654 §4: extended messages if negotiated, except OPEN and KEEPALIVE.
#[test]
fn extended_messages() {
    for (length, kind) in [(4097, 1), (4097, 4), (20, 4)] {
        assert_eq!(
            header_error(&header(length, kind), true),
            notification(1, 2, &format!("{length:04x}"))
        );
    }
    for kind in [2, 3, 5] {
        let mut buf = BytesMut::from(&header(65535, kind)[..]);
        assert_eq!(cut_frame(&mut buf, true), Ok(None));
        buf.resize(65535, 0);
        assert_eq!(cut_frame(&mut buf, true).unwrap().unwrap().body.len(), 65516);
    }
}

#[test]
fn frames_come_whole() {
    let mut stream = keepalive().to_vec();
    stream.extend(message(2, &update("", "", "")));
    let mut buf = BytesMut::new();
    let mut kinds = Vec::new();
    for octet in stream {
        buf.extend([octet]);
        kinds.extend(cut_frame(&mut buf, false).unwrap().map(|frame| frame.kind));
    }
    assert_eq!(kinds, [MessageKind::Keepalive, MessageKind::Update]);
}

#[test]
fn open_errors() {
    for (body, error, expected) in [
        (
            "03 fde9 005a c0000201 00",
            DecodeError::UnsupportedVersion { version: 3 },
            (1, "0004"),
        ),
        (
            "05 0000 0001 00000000 00",
            DecodeError::UnsupportedVersion { version: 5 },
            (1, "0004"),
        ),
        ("04 0000 005a c0000201 00", DecodeError::ZeroAs, (2, "")),
        (
            "04 fde9 005a c0000201 08 02 06 41 04 00000000",
            DecodeError::ZeroAs,
            (2, ""),
        ),
        ("04 fde9 005a 00000000 00", DecodeError::ZeroIdentifier, (3, "")),
        (
            "04 fde9 005a c0000201 03 01 01 00",
            DecodeError::UnsupportedParameter { code: 1 },
            (4, ""),
        ),
        (
            "04 fde9 0001 c0000201 00",
            DecodeError::UnacceptableHoldTime { seconds: 1 },
            (6, ""),
        ),
        (
            "04 fde9 0002 c0000201 00",
            DecodeError::UnacceptableHoldTime { seconds: 2 },
            (6, ""),
        ),
        // Framing: the length of all parameters, of one parameter, of one capability; in both forms (RFC
        // 9072).
        ("04 fde9 005a c0000201 01", DecodeError::MalformedOpen, (0, "")),
        ("04 fde9 005a c0000201 00 00", DecodeError::MalformedOpen, (0, "")),
        (
            "04 fde9 005a c0000201 00 ff 0000",
            DecodeError::MalformedOpen,
            (0, ""),
        ),
        (
            "04 fde9 005a c0000201 02 02 01",
            DecodeError::MalformedOpen,
            (0, ""),
        ),
        (
            "04 fde9 005a c0000201 04 02 02 02 01",
            DecodeError::MalformedOpen,
            (0, ""),
        ),
        (
            "04 fde9 005a c0000201 03 02 01 02",
            DecodeError::MalformedOpen,
            (0, ""),
        ),
        ("04 fde9 005a c0000201 ff ff", DecodeError::MalformedOpen, (0, "")),
        (
            "04 fde9 005a c0000201 ff ff 0001",
            DecodeError::MalformedOpen,
            (0, ""),
        ),
        (
            "04 fde9 005a c0000201 ff ff 0003 02 0001",
            DecodeError::MalformedOpen,
            (0, ""),
        ),
        (
            "04 fde9 005a c0000201 ff ff 0003 ff 0000",
            DecodeError::UnsupportedParameter { code: 255 },
            (4, ""),
        ),
    ] {
        assert_eq!(Open::decode(&hex(body)), Err(error.clone()), "{body}");
        assert_eq!(
            error.notification(),
            notification(2, expected.0, expected.1),
            "{body}"
        );
    }
}

#[test]
fn refresh_errors() {
    // RFC 7313 §5: BoRR and EoRR with a wrong length; data: the whole message.
    for body in ["0001 01", "0001 02 01 00"] {
        let error = Refresh::decode(&hex(body)).unwrap_err();
        assert_eq!(
            error.notification(),
            Notification::new(7, 1, message(5, &hex(body)))
        );
    }
    // A request with ORF entries that are not negotiated (RFC 5291), or one that is too short: an invalid
    // length.
    for (body, data) in [
        ("0001 00 01 01 80", "0019"),
        ("0001 00", "0016"),
        ("0001", "0015"),
        ("", "0013"),
    ] {
        assert_eq!(
            Refresh::decode(&hex(body)).unwrap_err().notification(),
            notification(1, 2, data)
        );
    }
}
