//! The text of what a reload changed.

use std::collections::BTreeMap;

use podroute_config::{Config, Peer};

/// Names of one kind in a message; more are counted.
const NAMED: usize = 5;

/// What a change to the same comes to.
pub(super) const NOTHING: &str = "nothing changed";

/// The difference of two configurations in words; [`NOTHING`] where there is none.
pub(super) fn in_words(old: &Config, new: &Config) -> String {
    let mut parts = of_peers(old, new);
    let blocks = |config: &Config| {
        let all = config.node.blocks.iter().map(ToString::to_string);
        all.collect::<Vec<_>>().join(", ")
    };
    if old.node.blocks != new.node.blocks {
        let now = blocks(new);
        parts.push(format!(
            "blocks now {}",
            if now.is_empty() { "none" } else { &now }
        ));
    }
    let without_blocks = |config: &Config| {
        let mut node = config.node.clone();
        node.blocks.clear();
        node
    };
    let sections = [
        ("cluster", old.cluster != new.cluster),
        ("node", without_blocks(old) != without_blocks(new)),
        ("listen", old.listen != new.listen),
        ("fib", old.fib != new.fib),
        ("services", !old.services.announces_like(&new.services)),
        ("policy", old.network_policy != new.network_policy),
        ("cni", old.cni != new.cni),
        ("bmp", old.bmp != new.bmp),
        ("nextHops", old.next_hops != new.next_hops),
        ("metrics", old.metrics != new.metrics),
        ("shutdown", old.shutdown != new.shutdown),
    ];
    let changed: Vec<&str> = sections
        .into_iter()
        .filter_map(|(name, changed)| changed.then_some(name))
        .collect();
    if !changed.is_empty() {
        parts.push(format!("changed {}", changed.join(", ")));
    }
    if parts.is_empty() {
        return NOTHING.to_owned();
    }
    parts.join("; ")
}

fn of_peers(old: &Config, new: &Config) -> Vec<String> {
    let by_name = |config: &'_ Config| -> BTreeMap<String, Peer> {
        let peers = config.peers.iter();
        peers.map(|peer| (peer.name.clone(), peer.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let added = after.keys().filter(|name| !before.contains_key(*name));
    let removed = before.keys().filter(|name| !after.contains_key(*name));
    let changed = after.iter().filter_map(|(name, peer)| {
        let was = before.get(name)?;
        (was != peer).then_some(name)
    });
    [
        ("peers added", added.collect::<Vec<_>>()),
        ("peers removed", removed.collect()),
        ("peers changed", changed.collect()),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| format!("{what}: {}", some_of(&names)))
    .collect()
}

fn some_of(names: &[&String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    match names.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> Config {
        let head = "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}\n";
        podroute_config::load(&format!("{head}{rest}")).unwrap()
    }

    #[test]
    fn each_change_has_its_words() {
        let old = config(
            "node: {name: n, blocks: [10.244.1.0/24]}\npeers:\n- {name: a, address: 192.0.2.1, asn: 64512}\n- {name: b, address: 192.0.2.2, asn: 64512}\n",
        );
        assert_eq!(in_words(&old, &old), "nothing changed");
        let new = config(
            "node: {name: n, blocks: [10.244.2.0/24]}\nfib: {metric: 5}\npeers:\n- {name: b, address: 192.0.2.2, asn: 64512, nextHopSelf: true}\n- {name: c, address: 192.0.2.3, asn: 64512}\n",
        );
        assert_eq!(
            in_words(&old, &new),
            "peers added: c; peers removed: a; peers changed: b; blocks now 10.244.2.0/24; changed fib"
        );
    }
}
