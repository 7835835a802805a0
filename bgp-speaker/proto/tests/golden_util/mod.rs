//! Octets from hex and UPDATEs from sections, so that each golden test shows only its subject.
#![allow(dead_code, reason = "each test binary uses its part")]

use ::bytes::{Bytes, BytesMut};
use bgp_proto::types::{Family, FamilySet, PathId, Prefix};
use bgp_proto::wire::{
    AttrIssue, DecodeContext, DecodeError, EncodeContext, MAX_LEN, MessageKind, Nlri, Notification,
    PathAttrs, RouteBatch, RouteOp, cut_frame, decode_update,
};

/// The octets of a hex text; all other characters separate.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    assert!(digits.len().is_multiple_of(2), "half an octet in {text}");
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(octet).collect()
}

/// A complete message of this type and body.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xFF; 16];
    message.extend((19 + body.len() as u16).to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// Splits off the single message in the octets.
pub(crate) fn cut(bytes: &[u8], kind: MessageKind) -> Bytes {
    let mut buf = BytesMut::from(bytes);
    let frame = cut_frame(&mut buf, false).unwrap().unwrap();
    assert_eq!((frame.kind, buf.len()), (kind, 0));
    frame.body
}

/// An UPDATE body of withdrawn routes, attributes and NLRI, each in hex.
pub(crate) fn update(withdrawn: &str, attrs: &str, nlri: &str) -> Vec<u8> {
    let (withdrawn, attrs) = (hex(withdrawn), hex(attrs));
    let mut body = (withdrawn.len() as u16).to_be_bytes().to_vec();
    body.extend(withdrawn);
    body.extend((attrs.len() as u16).to_be_bytes());
    body.extend(attrs);
    body.extend(hex(nlri));
    body
}

/// iBGP, 4-octet AS numbers, both families, no path identifiers, RFC 8950.
pub(crate) const IBGP: DecodeContext = DecodeContext {
    four_octet_as: true,
    add_path: FamilySet::EMPTY,
    families: FamilySet::ALL,
    extended_next_hop: FamilySet::ALL,
    external: false,
};

/// As [`IBGP`], for another AS.
pub(crate) const EBGP: DecodeContext = DecodeContext {
    external: true,
    ..IBGP
};

/// The decode context of [`IBGP`].
pub(crate) const TO_IBGP: EncodeContext = EncodeContext {
    four_octet_as: true,
    add_path: FamilySet::EMPTY,
    max_len: MAX_LEN,
    internal: true,
};

/// Decodes one UPDATE into its own batch.
pub(crate) fn decode(body: &[u8], ctx: &DecodeContext) -> Result<RouteBatch, DecodeError> {
    let mut batch = RouteBatch::default();
    let result = decode_update(body, ctx, &mut batch);
    if result.is_err() {
        assert_eq!(batch, RouteBatch::default(), "a reset keeps no batch");
    }
    result.map(|()| batch)
}

/// The content of a batch as text for comparisons.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum DecodedOp {
    Announce(PathAttrs, Vec<Nlri>),
    Withdraw(Vec<Nlri>),
    EndOfRib(Family),
}

pub(crate) fn decoded_ops(batch: &RouteBatch) -> Vec<DecodedOp> {
    let one = |op: &RouteOp| match op {
        RouteOp::Announce { attrs, nlri } => DecodedOp::Announce(attrs.clone(), batch.slice(nlri).to_vec()),
        RouteOp::Withdraw { nlri } => DecodedOp::Withdraw(batch.slice(nlri).to_vec()),
        RouteOp::EndOfRib(family) => DecodedOp::EndOfRib(*family),
    };
    batch.ops.iter().map(one).collect()
}

/// The attributes and prefixes of a batch with one announcement and no issue.
pub(crate) fn announced(batch: &RouteBatch) -> (PathAttrs, Vec<Nlri>) {
    assert_eq!(batch.issues, Vec::<AttrIssue>::new());
    match &decoded_ops(batch)[..] {
        [DecodedOp::Announce(attrs, nlri)] => (attrs.clone(), nlri.clone()),
        other => panic!("not one announcement: {other:?}"),
    }
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn nlri(texts: &[&str]) -> Vec<Nlri> {
    let one = |text: &&str| Nlri {
        path_id: PathId(0),
        prefix: prefix(text),
    };
    texts.iter().map(one).collect()
}

/// The NOTIFICATION of code, subcode and data in hex.
pub(crate) fn notification(code: u8, subcode: u8, data: &str) -> Notification {
    Notification::new(code, subcode, hex(data))
}
