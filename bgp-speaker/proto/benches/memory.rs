//! Memory of the engine per route, path, attribute set and peer, and for a reflector with 10,000 clients.
//!
//! `cargo bench -p bgp-proto --bench memory [-- docs/bench/memory.md]`. Each line is measured in its own
//! process, so that no line reuses memory that another one freed. Resident memory before and after, of the
//! engine only: no sockets, no tasks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench fails by panicking"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write;
use std::process::Command;
use std::time::Instant;

use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::types::{Asn, Community, PeerId, Prefix};
use bgp_proto::wire::AsPath;
use common::bare::{Bare, resident};
use common::{announce, attrs_from, withdraw};

const ROUTES: u32 = 1_000_000;
const PEERS: u32 = 10_000;

fn up(run: &mut Bare, peers: std::ops::RangeInclusive<u32>, kind: PeerKind) {
    for peer in peers {
        run.up(peer, kind);
        run.pump();
    }
}

/// A table from a peer; this many routes share their attributes, which differ between peers.
fn table(run: &mut Bare, peer: u32, routes: u32, per_set: u32) {
    for set in 0..routes / per_set {
        let mut attrs = attrs_from(PeerId(peer), PeerKind::External);
        attrs.as_path = AsPath::sequence(&[Asn(65000 + peer), Asn(3000 + set % 60_000), Asn(set)]);
        attrs.communities = [Community(set)].into();
        let prefixes: Vec<Prefix> = (set * per_set..(set + 1) * per_set)
            .map(|n| Prefix::v4(0x0A00_0000 + (n << 8), 24))
            .collect();
        run.apply(Input::Routes(
            common::bare::session(PeerId(peer)),
            announce(attrs, &prefixes),
        ));
    }
}

/// Octets per item.
fn each(count: u32, run: &mut Bare, work: impl FnOnce(&mut Bare)) -> f64 {
    let before = resident();
    work(run);
    (resident() - before) as f64 / f64::from(count)
}

/// Measures one line in its own process.
fn line(name: &str) -> String {
    let run = &mut Bare::new();
    let octets = |value: f64| format!("{value:.0} octets");
    match name {
        "route" => octets(each(ROUTES, run, |run| {
            up(run, 1..=1, PeerKind::External);
            table(run, 1, ROUTES, 1000);
        })),
        "path" => {
            up(run, 1..=2, PeerKind::External);
            table(run, 1, ROUTES, 1000);
            octets(each(ROUTES, run, |run| table(run, 2, ROUTES, 1000)))
        }
        "advertised" => {
            up(run, 1..=1, PeerKind::External);
            table(run, 1, ROUTES, 1000);
            octets(each(ROUTES, run, |run| up(run, 3..=3, PeerKind::Internal)))
        }
        "set" => {
            let few = each(ROUTES, run, |run| {
                up(run, 1..=1, PeerKind::External);
                table(run, 1, ROUTES, 1000);
            });
            let many = each(ROUTES, &mut Bare::new(), |run| {
                up(run, 1..=1, PeerKind::External);
                table(run, 1, ROUTES, 5);
            });
            octets((many - few) * 5.0)
        }
        "peer" => octets(each(PEERS, run, |run| up(run, 1..=PEERS, PeerKind::Client))),
        "reflector" => reflector(run),
        other => panic!("no line {other}"),
    }
}

fn reflector(run: &mut Bare) -> String {
    let before = resident();
    let client = |n: u32| {
        let attrs = attrs_from(PeerId(n), PeerKind::Client);
        Input::Routes(
            common::bare::session(PeerId(n)),
            announce(attrs, &[Prefix::v4(0x0A00_0000 + (n << 8), 24)]),
        )
    };
    up(run, 1..=PEERS, PeerKind::Client);
    let begun = Instant::now();
    // As they arrive: a hundred at a time.
    for first in (1..=PEERS).step_by(100) {
        for n in first..first + 100 {
            run.handle(client(n));
        }
        run.pump();
    }
    let cold = begun.elapsed();
    let (chunks, octets) = (run.chunks, run.octets);
    let begun = Instant::now();
    let withdrawal = withdraw(&[Prefix::v4(0x0A00_0000 + (77 << 8), 24)]);
    run.apply(Input::Routes(common::bare::session(PeerId(77)), withdrawal));
    let flap = begun.elapsed();
    assert_eq!(
        run.chunks - chunks,
        PEERS as usize - 1,
        "one chunk for each other peer"
    );
    format!(
        "{:.1} MiB; all to all in {:.2} s of one core, {:.0} MB written; one change {:.1} ms",
        (resident() - before) as f64 / f64::from(1 << 20),
        cold.as_secs_f64(),
        octets as f64 / 1e6,
        flap.as_secs_f64() * 1e3
    )
}

const LINES: [(&str, &str); 6] = [
    (
        "route",
        "a route: prefix, path, index, entries of an Adj-RIB-In and of one update group (1,000,000)",
    ),
    ("path", "one more path of it, from another peer"),
    ("advertised", "its entry in one more update group"),
    ("set", "an attribute set (AS path of 3, a community; 200,000)"),
    ("peer", "a peer in Established, without routes (10,000)"),
    ("reflector", "a reflector of 10,000 clients with a /24 each"),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, ..] = args.as_slice()
        && first == "line"
    {
        return println!("{}", line(name));
    }
    let mut table = String::from("| | memory |\n|---|---:|\n");
    for (name, title) in LINES {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["line", name])
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        writeln!(
            table,
            "| {title} | {} |",
            String::from_utf8_lossy(&output.stdout).trim()
        )
        .unwrap();
    }
    println!("{table}");
    if let Some(page) = args.iter().find(|arg| arg.ends_with(".md")) {
        let text = format!(
            "# What the engine keeps\n\nWritten by `cargo bench -p bgp-proto --bench memory`: resident memory of the engine alone, in \
             process, without sockets and tasks; what a whole process takes is in [speaker.md](speaker.md).\n\n{table}"
        );
        std::fs::write(page, text).unwrap();
    }
}
