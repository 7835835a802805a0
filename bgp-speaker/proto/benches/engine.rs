//! What the engine itself costs, without sockets: decode, decide, export and encode in one thread.
//!
//! `cargo bench -p bgp-proto --bench engine [-- PREFIXES]` prints wall time per prefix for a full table in
//! and out to one peer, the same withdrawn, and a reflector where every client gets every other's routes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::bytes::BytesMut;
use bgp_proto::engine::{Engine, EngineConfig, Input, Output, PeerKind};
use bgp_proto::types::{Asn, Community, Family, FamilySet, PathId, PeerId, Prefix};
use bgp_proto::wire::{
    AsPath, DecodeContext, EncodeContext, MAX_LEN, Nlri, RouteBatch, cut_frame, decode_update,
    encode_announce, encode_withdraw,
};
use common::{attrs_from, config, facts, routing};

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

struct Run {
    engine: Engine,
    sent: usize,
    chunks: usize,
}

impl Run {
    fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config),
            sent: 0,
            chunks: 0,
        }
    }

    fn pump(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            if let Output::Advertise(peer, chunk) = output {
                let bytes = chunk.len_for(peer);
                self.sent += bytes;
                self.chunks += 1;
                self.engine
                    .handle(Instant::now(), Input::Written(peer, chunk.cost_for(peer)));
            }
        }
    }

    /// Feeds a stream as a peer's task would: 64 KiB at a time.
    fn feed(&mut self, peer: PeerId, stream: &[u8]) -> Duration {
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
            self.engine.handle(start, Input::Routes(peer, batch));
            self.pump();
        }
        start.elapsed()
    }
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .unwrap_or(0)
        * 4096
}

fn up(run: &mut Run, peer: u32, kind: PeerKind) {
    let peer = PeerId(peer);
    run.engine.handle(
        Instant::now(),
        Input::Configure(peer, Arc::new(routing(peer, kind))),
    );
    run.engine
        .handle(Instant::now(), Input::Up(peer, Box::new(facts(peer, kind))));
}

fn full_table(count: u32, per_set: usize) {
    let stream = table(count, per_set);
    let mut run = Run::new(EngineConfig {
        assume_reachable: true,
        ..config()
    });
    up(&mut run, 1, PeerKind::External);
    up(&mut run, 2, PeerKind::External);
    run.pump();
    let before = resident();
    let time = run.feed(PeerId(1), &stream);
    let memory = resident() - before;
    println!(
        "full table {count} ({per_set} per set): {:.3} s, {} ns per prefix, {} MB out, {} bytes per prefix resident",
        time.as_secs_f64(),
        time.as_nanos() / u128::from(count),
        run.sent >> 20,
        memory / count as usize,
    );
    let mut gone = BytesMut::new();
    encode_withdraw(&mut gone, &encode_context(), Family::Ipv4, &prefixes(count));
    let time = run.feed(PeerId(1), &gone);
    println!(
        "  withdrawn: {:.3} s, {} ns per prefix",
        time.as_secs_f64(),
        time.as_nanos() / u128::from(count)
    );
    assert_eq!(run.engine.sizes().0, 0);
}

fn reflector(clients: u32) {
    let mut run = Run::new(EngineConfig {
        assume_reachable: true,
        ..config()
    });
    for client in 1..=clients {
        up(&mut run, client, PeerKind::Client);
    }
    run.pump();
    let start = Instant::now();
    for (client, nlri) in (1..=clients).zip(prefixes(clients).iter()) {
        let attrs = attrs_from(PeerId(client), PeerKind::Client);
        run.engine.handle(
            start,
            Input::Routes(PeerId(client), common::announce(attrs, &[nlri.prefix])),
        );
    }
    run.pump();
    let time = start.elapsed();
    println!(
        "reflector {clients} clients, one prefix each: {:.1} ms, {} chunks, {} MB out",
        time.as_secs_f64() * 1e3,
        run.chunks,
        run.sent >> 20
    );
    let start = Instant::now();
    let mut attrs = attrs_from(PeerId(1), PeerKind::Client);
    attrs.med = Some(9);
    run.engine.handle(
        start,
        Input::Routes(PeerId(1), common::announce(attrs, &[prefixes(1)[0].prefix])),
    );
    run.pump();
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
