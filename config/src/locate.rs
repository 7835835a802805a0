//! Where in the text of a configuration a field stands, for messages about values that were read long ago.

use crate::yaml::{self, Node, Value};

/// The line, from 1, of a field as `cluster.podCIDRs`, or with a peer's name of a field of that peer as `timers.hold`. Where it is not
/// written, the line of the section that it would be in. `None`: not even that is there.
#[must_use]
pub fn locate(text: &str, peer: Option<&str>, field: &str) -> Option<usize> {
    let root = yaml::parse(text).ok()?;
    let start = match peer {
        None => &root,
        Some(name) => peer_of(&root, name)?,
    };
    let (mut node, mut line) = (start, peer.map(|_| start.position.line));
    for name in field.split('.').filter(|name| !name.is_empty()) {
        let Some((found, value)) = entry(node, name) else {
            break;
        };
        line = Some(found);
        node = value;
    }
    line
}

fn peer_of<'a>(root: &'a Node, name: &str) -> Option<&'a Node> {
    let Value::List(peers) = &entry(root, "peers")?.1.value else {
        return None;
    };
    let has_name = |peer: &&Node| {
        let value = entry(peer, "name").map(|(_, value)| &value.value);
        matches!(value, Some(Value::Scalar { text, .. }) if text == name)
    };
    peers.iter().find(has_name)
}

fn entry<'a>(node: &'a Node, name: &str) -> Option<(usize, &'a Node)> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let found = entries.iter().find(|entry| entry.key == name)?;
    Some((found.key_position.line, &found.value))
}

#[cfg(test)]
mod tests {
    use super::locate;

    const TEXT: &str = "apiVersion: podroute/v1\ncluster:\n  asn: 1\n  podCIDRs: [10.0.0.0/8]\npeers:\n- name: a\n  asn: 2\n- name: b\n  timers:\n    hold: 9s\n";

    #[test]
    fn fields_and_what_is_around_them() {
        for (peer, field, line) in [
            (None, "cluster.podCIDRs", Some(4)),
            (None, "cluster.clusterId", Some(2)),
            (None, "node.blocks", None),
            (Some("a"), "asn", Some(7)),
            (Some("a"), "timers.hold", Some(6)),
            (Some("b"), "timers.hold", Some(10)),
            (Some("b"), "", Some(8)),
            (Some("c"), "asn", None),
        ] {
            assert_eq!(locate(TEXT, peer, field), line, "{peer:?} {field}");
        }
        assert_eq!(locate("a: [", None, "a"), None);
    }
}
