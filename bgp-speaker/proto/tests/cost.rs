//! What work costs, in instructions: counted by valgrind, so that a busy machine changes nothing.
//!
//! The guard is on growth, which no compiler changes: cost per route must not depend on how many routes there are, nor
//! on how many members a group has; one flap among many clients costs what it costs among few, but for handing out
//! the chunk. Without valgrind the test says so and passes (`make test` installs it where it can).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::process::Command;

use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::types::{Asn, Community, PeerId, Prefix};
use bgp_proto::wire::AsPath;
use common::bare::Bare;
use common::{announce, attrs_from, withdraw};

/// What may be added to a cost that should not grow.
const TOLERANCE: f64 = 1.15;

/// One sender, and so many receivers, with their sessions up.
fn bench(kind: PeerKind, peers: u32) -> Bare {
    let mut bench = Bare::new();
    for peer in 1..=peers {
        bench.up(peer, kind);
        bench.pump();
    }
    bench
}

/// A table, 50 routes at a time with the same attributes.
fn table(bench: &mut Bare, kind: PeerKind, routes: u32, gone: bool) {
    for set in 0..routes / 50 {
        let mut attrs = attrs_from(PeerId(1), kind);
        attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(3000 + set)]);
        attrs.communities = [Community(set)].into();
        let prefixes: Vec<Prefix> = (set * 50..set * 50 + 50)
            .map(|n| Prefix::v4(0x1400_0000 + (n << 8), 24))
            .collect();
        let batch = if gone {
            withdraw(&prefixes)
        } else {
            announce(attrs, &prefixes)
        };
        bench.tell(Input::Routes(PeerId(1), batch));
    }
}

/// Runs in the child, under valgrind.
#[test]
fn work() {
    let Ok(text) = std::env::var("COST_OF") else {
        return;
    };
    let words: Vec<&str> = text.split(' ').collect();
    let number = |at: usize| words[at].parse::<u32>().unwrap();
    match words[0] {
        "table" => table(
            &mut bench(PeerKind::External, number(2) + 1),
            PeerKind::External,
            number(1),
            false,
        ),
        "withdraw" => {
            let mut bench = bench(PeerKind::External, number(2) + 1);
            table(&mut bench, PeerKind::External, number(1), false);
            table(&mut bench, PeerKind::External, number(1), true);
            assert_eq!(bench.engine.sizes().0, 0);
        }
        other => panic!("no work {other}"),
    }
}

/// Instructions of some work, the process around it included.
fn instructions(work: &str) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "work", "--test-threads=1"])
        .env("COST_OF", work)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = line.unwrap_or_else(|| panic!("valgrind says {text}"));
    count.trim().parse().unwrap()
}

/// Instructions per route between two sizes of the same work.
fn per_route(work: &str, from: u32, to: u32, peers: u32) -> f64 {
    let count = |routes: u32| instructions(&format!("{work} {routes} {peers}"));
    (count(to) - count(from)) / f64::from(to - from)
}

#[test]
fn cost_grows_with_what_changes() {
    let found = Command::new("valgrind").arg("--version").output().is_ok();
    if !found {
        println!("LEFT OUT: valgrind is not installed");
        return;
    }
    for work in ["table", "withdraw"] {
        // Between two doublings of hash tables (at seven eighths of a power of two): those are paid for by all.
        let few = per_route(work, 1000, 1700, 1);
        let many = per_route(work, 8000, 14000, 1);
        let crowd = per_route(work, 1000, 1700, 64);
        println!("{work}: {few:.0} instructions a route, among many {many:.0}, to 64 peers {crowd:.0}");
        assert!(
            many <= few * TOLERANCE,
            "{work}: {few:.0} instructions a route, but {many:.0} where there are more routes"
        );
        // Handing a chunk to one more member is a fixed cost per chunk, here one per 50 routes.
        assert!(
            crowd <= few * 2.0,
            "{work}: {few:.0} instructions a route, but {crowd:.0} with 64 receivers"
        );
    }
}
