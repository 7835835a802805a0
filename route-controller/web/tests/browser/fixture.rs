//! Documents of a cluster of any size, as agents give them; some text in it is an attacker's.

use std::sync::Mutex;
use std::time::Duration;

use podroute_web::{Source, View};
use serde_json::{Value, json};

/// What a neighbor controls: markup, and a character that turns the direction of text around.
pub(crate) const HOSTILE: &str =
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u{202e}";

/// A cluster whose nodes have one rack for each 40, with two routers each.
pub(crate) struct Racks {
    nodes: usize,
    /// Nodes that lost the session with their first router.
    down: Mutex<Vec<usize>>,
    /// Why, and every other text of a neighbor.
    text: &'static str,
}

const OF_A_RACK: usize = 40;

impl Racks {
    pub(crate) fn new(nodes: usize, down: &[usize], text: &'static str) -> Self {
        Self {
            nodes,
            text,
            down: Mutex::new(down.to_vec()),
        }
    }

    pub(crate) fn repair(&self) {
        self.down.lock().unwrap().clear();
    }

    fn name(number: usize) -> String {
        format!("node-{}", number + 1)
    }

    fn peers(&self) -> Vec<Value> {
        let down = self.down.lock().unwrap();
        let sessions = |node: usize| {
            let rack = node / OF_A_RACK + 1;
            let down = down.contains(&node);
            ["a", "b"].map(|letter| {
                let is_down = down && letter == "a";
                json!({
                    "node": Self::name(node), "name": format!("tor-{rack}{letter}"), "address": format!("192.0.2.{rack}"),
                    "asn": 65000 + rack, "enabled": true, "state": if is_down { "Active" } else { "Established" },
                    "uptimeSeconds": if is_down { Value::Null } else { json!(4000 + node) },
                    "received": {"ipv4": self.nodes, "ipv6": 0}, "advertised": {"ipv4": 1, "ipv6": 0},
                    "lastEnd": if is_down { json!(format!("received Cease: {}", self.text)) } else { Value::Null },
                })
            })
        };
        (0..self.nodes).flat_map(sessions).collect()
    }

    fn block(node: usize) -> String {
        format!("10.{}.{}.0/24", 244 + node / 256, node % 256)
    }

    fn routes(&self) -> Vec<Value> {
        let path = |from: &str, best: bool| {
            json!({"best": best, "eligible": best, "nextHop": "192.0.2.1", "from": from, "asPath": "65001", "localPref": 100,
                   "communities": [self.text], "reason": if best { Value::Null } else { json!("longer AS path") }})
        };
        let route = |node: usize| {
            json!({"prefix": Self::block(node), "originatedBy": [Self::name(node)], "usedOn": self.nodes, "missingOn": [],
                   "nodes": {Self::name(0): [path("tor-1a", true), path("tor-1b", false)]}})
        };
        (0..self.nodes).map(route).collect()
    }

    fn items(&self, view: View) -> Vec<Value> {
        let nodes = 0..self.nodes;
        match view {
            View::Peers => self.peers(),
            View::Routes => self.routes(),
            View::Blocks => nodes
                .map(|node| json!({"node": Self::name(node), "prefix": Self::block(node), "state": "advertised", "troubles": []}))
                .collect(),
            View::Pods => nodes
                .map(|node| {
                    json!({"node": Self::name(node), "pod": format!("default/web-{node}"), "container": "c",
                           "addresses": [Self::block(node).replace("0/24", "7")], "hostInterface": "veth0", "state": "ready", "ageSeconds": 90})
                })
                .collect(),
            View::Services => vec![
                json!({"service": "default/web", "address": "203.0.113.80", "pool": "public", "announcedBy": [Self::name(0)],
                       "notAnnouncedBy": {Self::name(1): "no endpoint is ready here"}, "problems": []}),
            ],
            View::Policies => vec![
                json!({"policy": "pods", "direction": "import", "rule": "pods[1]", "routes": 12, "nodes": {}, "missingOn": []}),
            ],
            View::Events => vec![
                json!({"node": Self::name(0), "number": 1, "atMs": 1_767_225_600_000_u64, "kind": "session", "severity": "warn",
                       "subject": self.text, "message": "session down", "cause": "hold timer expired", "count": 2}),
            ],
        }
    }
}

impl Source for &'static Racks {
    type Error = std::convert::Infallible;

    async fn document(&self, view: View) -> Result<Value, Self::Error> {
        Ok(
            json!({"nodes": {"asked": self.nodes, "answered": self.nodes}, "unanswered": [], "items": self.items(view)}),
        )
    }

    fn max_age(&self) -> Duration {
        Duration::from_millis(200)
    }
}
