//! Work of each machine in a design with 100 to 20,000 nodes: the engine only, in process, without sockets.
//!
//! `cargo bench -p bgp-proto --bench scale [-- docs/scale.md]` prints the table, and writes it between the
//! markers of the page. Every node announces one prefix with its own attributes (its next hop; behind
//! reflectors its ORIGINATOR_ID).
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
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bgp_proto::engine::{Input, PeerKind};
use bgp_proto::policy::Source;
use bgp_proto::types::{PeerId, Prefix};
use bgp_proto::wire::{NextHop, PathAttrs};
use common::attrs_from;
use common::bare::Bare;

/// Nodes of a cluster of reflectors.
const CLUSTER: u32 = 500;

/// Neighbors of one kind, and the number of prefixes that each announces; `shared`: all announce the same
/// ones.
#[derive(Clone, Copy)]
struct Neighbors {
    count: u32,
    kind: PeerKind,
    prefixes: u32,
    shared: bool,
}

struct Machine {
    design: &'static str,
    role: &'static str,
    neighbors: Vec<Neighbors>,
    /// It announces its own pod block.
    own: bool,
}

fn machines(nodes: u32) -> Vec<Machine> {
    let one = |kind, count| Neighbors {
        count,
        kind,
        prefixes: 1,
        shared: false,
    };
    let all = |kind, count, prefixes| Neighbors {
        count,
        kind,
        prefixes,
        shared: true,
    };
    let mut machines = vec![
        Machine {
            design: "full mesh",
            role: "node",
            neighbors: vec![one(PeerKind::Internal, nodes - 1)],
            own: true,
        },
        Machine {
            design: "reflectors",
            role: "node",
            neighbors: vec![all(PeerKind::Internal, 2, nodes - 1)],
            own: true,
        },
    ];
    let here = nodes.min(CLUSTER);
    let mut reflector = vec![one(PeerKind::Client, here)];
    if nodes > CLUSTER {
        reflector.push(all(PeerKind::Internal, 2, nodes - CLUSTER));
    }
    machines.push(Machine {
        design: "reflectors",
        role: "reflector of 500 nodes",
        neighbors: reflector,
        own: false,
    });
    if nodes > CLUSTER {
        let clusters = nodes / CLUSTER;
        // Two reflectors of a cluster announce the same routes; each cluster announces its own.
        let pairs = (0..2).map(|_| Neighbors {
            count: clusters,
            kind: PeerKind::Client,
            prefixes: CLUSTER,
            shared: false,
        });
        machines.push(Machine {
            design: "reflectors",
            role: "reflector of reflectors",
            neighbors: pairs.collect(),
            own: false,
        });
    }
    machines.push(Machine {
        design: "AS per rack or per node",
        role: "node",
        neighbors: vec![all(PeerKind::External, 2, nodes - 1)],
        own: true,
    });
    machines
}

fn prefix(n: u32) -> Prefix {
    Prefix::v4(0x0A00_0000 + (n << 8), 24)
}

fn attrs(peer: u32, kind: PeerKind, n: u32) -> PathAttrs {
    let mut attrs = attrs_from(PeerId(peer), kind);
    attrs.next_hop = NextHop::from(std::net::IpAddr::V4(Ipv4Addr::from(0xAC10_0000 + n)));
    attrs
}

struct Cost {
    sessions: u32,
    paths: usize,
    cold: Duration,
    sent: usize,
    flap: Duration,
    flap_sent: usize,
    chunks_sent: usize,
}

fn measure(machine: &Machine) -> Cost {
    let mut run = Bare::new();
    let mut announcing = Vec::new();
    let (mut peer, mut sessions) = (0, 0);
    for neighbors in &machine.neighbors {
        let mut next = 0;
        for _ in 0..neighbors.count {
            peer += 1;
            sessions += 1;
            run.up(peer, neighbors.kind);
            let first = if neighbors.shared { 10_000_000 } else { next };
            next += neighbors.prefixes;
            announcing.push((peer, neighbors.kind, first, neighbors.prefixes));
        }
    }
    run.pump();
    let before = run.octets;
    let start = Instant::now();
    if machine.own {
        let own = bgp_proto::engine::Originated {
            prefix: prefix(60_000),
            source: Source::PodBlock,
            communities: Vec::new(),
        };
        run.handle(Input::Originate(vec![own]));
    }
    let mut paths = 0;
    for (peer, kind, first, count) in &announcing {
        // The shared prefixes come after the others in the address space.
        let base = if *first >= 10_000_000 { 30_000 } else { *first };
        for n in base..base + count {
            let attrs = attrs(*peer, *kind, n);
            run.handle(Input::Routes(
                common::bare::session(PeerId(*peer)),
                common::announce(attrs, &[prefix(n)]),
            ));
            paths += 1;
        }
        run.pump();
    }
    let cold = start.elapsed();
    let (octets, chunks) = (run.octets, run.chunks);
    // One node's route changes.
    let (peer, kind, first, _) = announcing[0];
    let n = if first >= 10_000_000 { 30_000 } else { first };
    let mut changed = attrs(peer, kind, n);
    changed.med = Some(9);
    let start = Instant::now();
    run.apply(Input::Routes(
        common::bare::session(PeerId(peer)),
        common::announce(changed, &[prefix(n)]),
    ));
    Cost {
        sessions,
        paths,
        cold,
        sent: octets - before,
        flap: start.elapsed(),
        flap_sent: run.octets - octets,
        chunks_sent: run.chunks - chunks,
    }
}

fn amount(octets: usize) -> String {
    match octets {
        0..10_000 => format!("{octets} B"),
        10_000..10_000_000 => format!("{} kB", octets / 1000),
        _ => format!("{} MB", octets / 1_000_000),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 1000.0 => format!("{ms:.1} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

fn main() {
    let mut table = String::from(
        "| nodes | design | machine | sessions | paths | cold start | sent | one change | peers | sent |\n\
         |---:|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for nodes in [100, 1000, 5000, 20_000] {
        for machine in machines(nodes) {
            let cost = measure(&machine);
            writeln!(
                table,
                "| {nodes} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                machine.design,
                machine.role,
                cost.sessions,
                cost.paths,
                time(cost.cold),
                amount(cost.sent),
                time(cost.flap),
                cost.chunks_sent,
                amount(cost.flap_sent),
            )
            .unwrap();
        }
    }
    println!("{table}");
    let page = std::env::args().skip(1).find(|arg| arg.ends_with(".md"));
    if let Some(page) = page {
        let text = std::fs::read_to_string(&page).expect("the page");
        let (head, rest) = text.split_once("<!-- figures -->\n").expect("the first mark");
        let (_, tail) = rest.split_once("<!-- end -->").expect("the second mark");
        std::fs::write(
            &page,
            format!("{head}<!-- figures -->\n{table}<!-- end -->{tail}"),
        )
        .expect("the page");
    }
}
