//! A stream of messages, complete and in pieces; every body is decoded by its type.
#![no_main]

use bgp_proto::types::FamilySet;
use bgp_proto::wire::{
    DecodeContext, DecodeError, Frame, MessageKind, Notification, Open, Refresh, RouteBatch, cut_frame,
    decode_update,
};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const CONTEXT: DecodeContext = DecodeContext {
    four_octet_as: true,
    add_path: FamilySet::EMPTY,
    families: FamilySet::ALL,
    extended_next_hop: FamilySet::ALL,
    external: true,
};

/// Frames up to the first error or the end; the stream arrives in pieces.
fn frames(data: &[u8], piece: usize, extended: bool) -> (Vec<Frame>, Option<DecodeError>) {
    let (mut buf, mut list) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match cut_frame(&mut buf, extended) {
                Ok(Some(frame)) => list.push(frame),
                Ok(None) => break,
                Err(error) => return (list, Some(error)),
            }
        }
    }
    (list, None)
}

/// Writes a valid length field into each message, so that the fuzzer passes the header checks.
fn with_headers(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in data.chunks(64) {
        let Some((kind, body)) = part.split_first() else {
            continue;
        };
        out.extend([0xFF; 16]);
        out.extend(((19 + body.len()) as u16).to_be_bytes());
        out.push(kind % 7);
        out.extend(body);
    }
    out
}

fn decode(frame: &Frame) {
    let words = match frame.kind {
        MessageKind::Open => Open::decode(&frame.body).map(|_| String::new()),
        MessageKind::Update => {
            decode_update(&frame.body, &CONTEXT, &mut RouteBatch::default()).map(|()| String::new())
        }
        MessageKind::Notification => Notification::decode(&frame.body).map(|found| found.to_string()),
        MessageKind::Keepalive => Ok(String::new()),
        MessageKind::Refresh => Refresh::decode(&frame.body).map(|_| String::new()),
    };
    if let Err(error) = words {
        let notification = error.notification();
        let encoded = notification.encode();
        assert!((21..=4096).contains(&encoded.len()));
        assert!(!notification.to_string().is_empty() && !error.to_string().is_empty());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let headed = if choice & 1 != 0 {
        with_headers(rest)
    } else {
        rest.to_vec()
    };
    let extended = choice & 2 != 0;
    let whole = frames(&headed, headed.len().max(1), extended);
    let pieces = frames(&headed, 1 + usize::from(choice >> 2), extended);
    assert_eq!(whole, pieces);
    whole.0.iter().for_each(decode);
    if let Some(error) = whole.1 {
        assert_eq!(error.notification().code, 1);
    }
});
