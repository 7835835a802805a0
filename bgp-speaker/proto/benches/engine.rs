//! Cost of the engine without sockets: decode, decide, export and encode in one thread.
//!
//! `cargo bench -p bgp-proto --bench engine [-- PREFIXES]` prints wall time per prefix for a full table
//! received and sent to one peer, for its withdrawal, and for a reflector where every client receives the
//! routes of all others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use ::bytes::BytesMut;
use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::types::{Asn, Community, Family, FamilySet, PathId, PeerId, Prefix};
use bgp_proto::wire::{
    AsPath, DecodeContext, EncodeContext, MAX_LEN, Nlri, RouteBatch, cut_frame, decode_update,
    encode_announce, encode_withdraw,
};
use common::attrs_from;
use common::bare::{Bare, resident};

fn prefixes(count: u32) -> Vec<Nlri> {
    (0..count)
        .map(|n| Nlri {
            path_id: PathId(0),
            prefix: Prefix::v4(0x0100_0000 + (n << 8), 24),
        })
        .collect()
}

fn encode_context() -> EncodeContext {
    EncodeContext {
        four_octet_as: true,
        add_path: FamilySet::EMPTY,
        max_len: MAX_LEN,
        internal: false,
    }
}

/// A table with `per_set` prefixes per attribute set, as UPDATEs.
fn table(count: u32, per_set: usize) -> BytesMut {
    let mut out = BytesMut::new();
    for (set, nlri) in prefixes(count).chunks(per_set).enumerate() {
        let mut attrs = attrs_from(PeerId(1), PeerKind::External);
        let set = set as u32;
        attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(3000 + set % 997), Asn(4000 + set / 997), Asn(7)]);
        attrs.communities = [Community(set), Community(7)].into();
        encode_announce(&mut out, &encode_context(), Family::Ipv4, &attrs, nlri).unwrap();
    }
    out
}

/// Reads a stream as a peer's task does: 64 KiB at a time.
fn feed(run: &mut Bare, peer: PeerId, stream: &[u8]) -> Duration {
    let context = DecodeContext {
        four_octet_as: true,
        add_path: FamilySet::EMPTY,
        families: FamilySet::ALL,
        extended_next_hop: FamilySet::EMPTY,
        external: true,
    };
    let mut buf = BytesMut::new();
    let start = Instant::now();
    for piece in stream.chunks(1 << 16) {
        buf.extend_from_slice(piece);
        let mut batch = RouteBatch::default();
        while let Some(frame) = cut_frame(&mut buf, false).unwrap() {
            decode_update(&frame.body, &context, &mut batch).unwrap();
        }
        run.apply(Input::Routes(common::bare::session(peer), batch));
    }
    start.elapsed()
}

fn full_table(count: u32, per_set: usize) {
    let stream = table(count, per_set);
    let mut run = Bare::new();
    run.up(1, PeerKind::External);
    run.up(2, PeerKind::External);
    run.pump();
    let before = resident();
    let time = feed(&mut run, PeerId(1), &stream);
    let memory = resident() - before;
    println!(
        "full table {count} ({per_set} per set): {:.3} s, {} ns per prefix, {} MB out, {} bytes per prefix resident",
        time.as_secs_f64(),
        time.as_nanos() / u128::from(count),
        run.octets >> 20,
        memory / count as usize,
    );
    let mut withdrawal = BytesMut::new();
    encode_withdraw(&mut withdrawal, &encode_context(), Family::Ipv4, &prefixes(count));
    let time = feed(&mut run, PeerId(1), &withdrawal);
    println!(
        "  withdrawn: {:.3} s, {} ns per prefix",
        time.as_secs_f64(),
        time.as_nanos() / u128::from(count)
    );
    assert_eq!(run.engine.sizes().0, 0);
}

fn reflector(clients: u32) {
    let mut run = Bare::new();
    for client in 1..=clients {
        run.up(client, PeerKind::Client);
    }
    run.pump();
    let start = Instant::now();
    for (client, nlri) in (1..=clients).zip(prefixes(clients).iter()) {
        let attrs = attrs_from(PeerId(client), PeerKind::Client);
        run.handle(Input::Routes(
            common::bare::session(PeerId(client)),
            common::announce(attrs, &[nlri.prefix]),
        ));
    }
    run.pump();
    let time = start.elapsed();
    println!(
        "reflector {clients} clients, one prefix each: {:.1} ms, {} chunks, {} MB out",
        time.as_secs_f64() * 1e3,
        run.chunks,
        run.octets >> 20
    );
    let start = Instant::now();
    let mut attrs = attrs_from(PeerId(1), PeerKind::Client);
    attrs.med = Some(9);
    run.apply(Input::Routes(
        common::bare::session(PeerId(1)),
        common::announce(attrs, &[prefixes(1)[0].prefix]),
    ));
    println!("  one flap: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
}

fn main() {
    let count = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(1_000_000);
    full_table(count, 5);
    full_table(count, 50);
    reflector(500);
    reflector(1000);
    reflector(10_000);
}
