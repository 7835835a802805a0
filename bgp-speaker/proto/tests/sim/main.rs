//! Complete speakers on simulated links in virtual time, with cuts, packet loss, restarts and delays, by
//! seed.
//!
//! Each node is an engine with a session per link, each in its own AS. When the disturbances end, every
//! node's Loc-RIB must match an oracle that uses the graph only: the shortest path, and among equal ones the
//! path over the neighbor with the lowest identifier, at each hop. A second network is one AS with two
//! reflectors. `SIM_SEEDS=1000` runs more seeds; a failure prints its seed.
#![cfg(test)]

mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use world::{Graph, Random, World, address};

/// A connected graph of 10–14 nodes, each an AS.
fn mesh(random: &mut Random) -> Graph {
    let count = 10 + random.below(5) as usize;
    let mut links: Vec<(usize, usize)> = (1..count)
        .map(|node| (random.below(node as u64) as usize, node))
        .collect();
    for _ in 0..count {
        let (a, b) = (
            random.below(count as u64) as usize,
            random.below(count as u64) as usize,
        );
        let pair = (a.min(b), a.max(b));
        if a != b && !links.contains(&pair) {
            links.push(pair);
        }
    }
    Graph {
        asns: (0..count).map(|node| 65001 + node as u32).collect(),
        links,
        reflectors: BTreeSet::new(),
    }
}

/// Two reflectors, eight clients of both, and two routers of other ASes, each with two clients.
fn reflected() -> Graph {
    let mut links = vec![(0, 1)];
    for client in 2..10 {
        links.extend([(0, client), (1, client)]);
    }
    links.extend([(2, 10), (3, 10), (4, 11), (5, 11)]);
    let mut asns = vec![64512; 10];
    asns.extend([65010, 65011]);
    Graph {
        asns,
        links,
        reflectors: BTreeSet::from([0, 1]),
    }
}

/// Shortest paths over the neighbor with the lowest identifier, from the graph only.
fn oracle(graph: &Graph, to: usize) -> Vec<Vec<u32>> {
    let count = graph.asns.len();
    let neighbors = |node: usize| {
        let pairs = graph.links.iter().filter_map(move |(a, b)| match node {
            _ if *a == node => Some(*b),
            _ if *b == node => Some(*a),
            _ => None,
        });
        pairs.collect::<BTreeSet<usize>>()
    };
    let mut distance = vec![usize::MAX; count];
    distance[to] = 0;
    let mut paths = vec![Vec::new(); count];
    for far in 1..count {
        for node in 0..count {
            let near = neighbors(node)
                .into_iter()
                .find(|other| distance[*other] == far - 1);
            if let Some(near) = near.filter(|_| distance[node] == usize::MAX) {
                distance[node] = far;
                paths[node] = std::iter::once(graph.asns[near])
                    .chain(paths[near].clone())
                    .collect();
            }
        }
    }
    paths
}

fn seeds() -> u64 {
    std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(12)
}

/// Prints the seed of a failing network.
fn each_seed(test: fn(u64)) {
    for seed in 0..seeds() {
        let outcome = std::panic::catch_unwind(|| test(seed));
        if let Err(cause) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn speakers_agree_with_the_graph() {
    each_seed(|seed| {
        let mut random = Random(seed + 1);
        let graph = mesh(&mut random);
        let mut world = World::new(graph.clone(), seed);
        world.run(Duration::from_secs(random.below(30)));
        for _ in 0..random.below(20) {
            world.disturb();
        }
        world.end_disturbances();
        for to in 0..graph.asns.len() {
            let expected = oracle(&graph, to);
            for (node, path) in expected.iter().enumerate() {
                let (found, _) = world
                    .best(node, to)
                    .unwrap_or_else(|| panic!("node {node} has no way to {to}"));
                assert_eq!(&found, path, "node {node} to {to}");
            }
        }
    });
}

#[test]
fn one_reflector_is_enough() {
    each_seed(|seed| {
        let graph = reflected();
        let mut world = World::new(graph.clone(), seed);
        for _ in 0..seed % 12 {
            world.disturb();
        }
        world.end_disturbances();
        for node in 0..10 {
            for to in 0..10 {
                let (path, next_hop) = world
                    .best(node, to)
                    .expect("inside the AS next hops are not restricted");
                assert!(path.is_empty());
                assert_eq!(
                    next_hop,
                    (node != to).then(|| IpAddr::V4(address(to))),
                    "unchanged by reflection"
                );
            }
            for (to, asn) in [(10, 65010), (11, 65011)] {
                let (path, _) = world.best(node, to).expect("external routes are reflected");
                assert_eq!(path, [asn]);
            }
        }
        // Outside routers receive paths with our AS only.
        for node in [10, 11] {
            for to in 0..10 {
                assert_eq!(world.best(node, to).expect("announced to other ASes").0, [64512]);
            }
        }
    });
}
