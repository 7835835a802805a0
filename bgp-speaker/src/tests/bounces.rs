//! Sessions that go down and up while the engine is busy, in an order chosen by a seed: afterwards every peer
//! has exactly the expected routes.

use std::collections::BTreeMap;

use bgp_proto::engine::{Originated, RouteFilter};
use bgp_proto::policy::Source;
use bgp_proto::session::State;
use bgp_proto::types::{Community, Prefix};

use super::*;

const SPOKES: usize = 3;
const SEEDS: std::ops::Range<u64> = 0..100;
const STEPS: usize = 40;

/// Pseudo-random numbers (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }
}

/// A hub and its spokes, each with its own routes.
struct World {
    /// The hub is the first.
    nodes: Vec<Node>,
    routes: Vec<BTreeMap<Prefix, u32>>,
    dice: Dice,
    version: u32,
}

/// The routes of a node: prefixes with their communities.
type Table = BTreeMap<Prefix, Vec<Community>>;

impl World {
    async fn new(seed: u64) -> Self {
        let third = u8::try_from(seed).unwrap();
        let node = |n: u8| start_at([127, 95, third, n + 1].into(), 64512 + u32::from(n));
        let nodes: Vec<Node> = (0..=SPOKES).map(|n| node(u8::try_from(n).unwrap())).collect();
        for (n, spoke) in nodes.iter().enumerate().skip(1) {
            let hub = &nodes[0];
            let id = u32::try_from(n).unwrap();
            hub.handle
                .put_peer(spec(hub, id, spoke.addr, spoke.asn))
                .await
                .unwrap();
            spoke
                .handle
                .put_peer(spec(spoke, 1, hub.addr, hub.asn))
                .await
                .unwrap();
        }
        Self {
            nodes,
            routes: vec![BTreeMap::new(); SPOKES + 1],
            dice: Dice(seed),
            version: 0,
        }
    }

    /// Some routes of a node are added, removed and changed.
    async fn originate(&mut self, node: usize) {
        self.version += 1;
        for _ in 0..=self.dice.roll(8) {
            let number = u32::try_from(node << 8 | self.dice.roll(12)).unwrap();
            let prefix = Prefix::v4(0x0A00_0000 + (number << 8), 24);
            match self.dice.roll(3) {
                0 => drop(self.routes[node].remove(&prefix)),
                _ => drop(self.routes[node].insert(prefix, self.version)),
            }
        }
        let routes = self.routes[node].iter().map(|(prefix, version)| Originated {
            prefix: *prefix,
            source: Source::Service,
            communities: vec![Community(*version)],
        });
        self.nodes[node].handle.originate(routes.collect()).await.unwrap();
    }

    /// One end of a session ends it, in one of several ways.
    async fn bounce(&mut self) {
        let spoke = 1 + self.dice.roll(SPOKES);
        let (node, peer) = match self.dice.roll(2) {
            0 => (0, PeerId(u32::try_from(spoke).unwrap())),
            _ => (spoke, PeerId(1)),
        };
        let handle = &self.nodes[node].handle;
        match self.dice.roll(3) {
            0 => drop(handle.clear(peer, "").await),
            1 => {
                handle.disable(peer, "").await;
                handle.enable(peer).await;
            }
            // The connection is closed without a NOTIFICATION: the other end retains the routes for a while.
            _ => {
                let (done, answer) = oneshot::channel();
                let entry = handle.peers_of_tests().registry.get(peer).unwrap();
                drop(
                    entry
                        .commands
                        .send(crate::registry::messages::ToPeer::Abandon(done))
                        .await,
                );
                answer.await.unwrap();
                handle.enable(peer).await;
            }
        }
    }

    async fn step(&mut self, pauses: &mut Vec<Pause>) {
        match self.dice.roll(8) {
            0..=2 => {
                let node = self.dice.roll(SPOKES + 1);
                self.originate(node).await;
            }
            3..=4 => self.bounce().await,
            5 if pauses.len() < 2 => {
                let node = if pauses.is_empty() {
                    0
                } else {
                    1 + self.dice.roll(SPOKES)
                };
                pauses.push(pause(&self.nodes[node].handle).await);
            }
            6 => pauses.clear(),
            // Messages in flight make some progress.
            _ => {
                for _ in 0..self.dice.roll(200) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn settle(&self) {
        let hub = &self.nodes[0].handle;
        for spoke in 1..=SPOKES {
            let peer = u32::try_from(spoke).unwrap();
            in_state(hub, peer, State::Established).await;
        }
        let of = |node: usize| self.routes[node].iter();
        let expected: Table = (0..=SPOKES)
            .flat_map(of)
            .map(|(prefix, version)| (*prefix, vec![Community(*version)]))
            .collect();
        for (n, node) in self.nodes.iter().enumerate() {
            let mut last = Table::new();
            let reached = async {
                loop {
                    last = table(&node.handle).await;
                    if last == expected {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            let in_time = tokio::time::timeout(DEADLINE, reached).await.is_ok();
            assert!(in_time, "node {n} has {last:?}, should have {expected:?}");
        }
        for (spoke, node) in self.nodes.iter().enumerate().skip(1) {
            let ours = peer(hub, u32::try_from(spoke).unwrap()).await.counts;
            let theirs = peer(&node.handle, 1).await.counts;
            assert_eq!(
                (ours.advertised, ours.received),
                (theirs.received, theirs.advertised),
                "both sides count the same"
            );
        }
    }
}

/// Every path of each prefix is one that is announced now.
async fn table(handle: &SpeakerHandle) -> Table {
    let (routes, _) = handle
        .routes(RouteFilter::default(), 0, usize::MAX)
        .await
        .unwrap();
    let communities = |paths: &[bgp_proto::engine::PathView]| {
        let all = paths
            .iter()
            .flat_map(|path| path.attrs.communities.iter().copied());
        let mut all: Vec<Community> = all.collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    routes
        .into_iter()
        .map(|route| (route.prefix, communities(&route.paths)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_quiet_every_peer_has_exactly_the_expected_routes() {
    for seed in SEEDS {
        println!("seed {seed}");
        let mut world = World::new(seed).await;
        let mut pauses = Vec::new();
        for _ in 0..STEPS {
            world.step(&mut pauses).await;
        }
        drop(pauses);
        world.settle().await;
    }
}
