//! Sessions of all nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table::{duration, new, or_dash, printable, text};

pub(crate) const SCHEMA: &str = "podroute.cluster-peers/v1";

/// A session of a node.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) peer: Peer,
}

/// As `podroute show peers -o json` has it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) interface: Option<String>,
    /// Absent while it is not known.
    pub(crate) asn: Option<u32>,
    pub(crate) allowed_asns: String,
    pub(crate) state: String,
    pub(crate) enabled: bool,
    pub(crate) uptime_seconds: Option<u64>,
    pub(crate) received: BTreeMap<String, u64>,
    pub(crate) advertised: BTreeMap<String, u64>,
    pub(crate) last_end: Option<String>,
    pub(crate) last_error: Option<String>,
    pub(crate) hint: Option<String>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Row {
    pub(crate) fn is_up(&self) -> bool {
        self.peer.state == "Established"
    }
}

/// Which sessions are of interest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only those that are not established.
    pub(crate) down: bool,
    /// Only those with this peer.
    pub(crate) peer: Option<String>,
}

/// By node and peer.
pub(crate) fn merge(answers: Vec<(String, Vec<Peer>)>, filter: &Filter) -> Vec<Row> {
    let mut rows: Vec<Row> = answers
        .into_iter()
        .flat_map(|(node, peers)| {
            peers.into_iter().map(move |peer| Row {
                node: node.clone(),
                peer,
            })
        })
        .filter(|row| !(filter.down && row.is_up()))
        .filter(|row| filter.peer.as_ref().is_none_or(|name| row.peer.name == *name))
        .collect();
    rows.sort_by(|one, other| (&one.node, &one.peer.name).cmp(&(&other.node, &other.peer.name)));
    rows
}

pub(crate) fn table(rows: &[Row], wide: bool) -> String {
    let mut header = vec![
        "NODE",
        "PEER",
        "ADDRESS",
        "AS",
        "STATE",
        "UP",
        "IN",
        "OUT",
        "LAST ERROR",
    ];
    if wide {
        header.push("HINT");
    }
    let mut table = new(&header);
    for row in rows {
        let peer = &row.peer;
        let address = match &peer.interface {
            Some(interface) => format!("{}%{interface}", peer.address),
            None => peer.address.clone(),
        };
        let state = if peer.enabled {
            peer.state.clone()
        } else {
            format!("{} (disabled)", peer.state)
        };
        let error = if row.is_up() {
            None
        } else {
            peer.last_end.as_ref().or(peer.last_error.as_ref())
        };
        let mut cells = vec![
            row.node.clone(),
            peer.name.clone(),
            address,
            peer.asn
                .map_or_else(|| peer.allowed_asns.clone(), |asn| asn.to_string()),
            state,
            or_dash(peer.uptime_seconds.map(duration).unwrap_or_default()),
            counts(&peer.received),
            counts(&peer.advertised),
            or_dash(printable(error.map_or("", String::as_str))),
        ];
        if wide {
            cells.push(or_dash(printable(peer.hint.as_deref().unwrap_or_default())));
        }
        table.add_row(cells);
    }
    let up = rows.iter().filter(|row| row.is_up()).count();
    let summary = format!("\n{up} of {} sessions are established", rows.len());
    text(&table, "no sessions") + &summary
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let all: Vec<String> = counts.values().map(ToString::to_string).collect();
    or_dash(all.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;

    const ANSWER: &str = r#"{"peers": [
        {"name": "tor-b", "address": "192.0.2.2", "asn": 65001, "state": "Idle", "enabled": true, "lastEnd": "hold timer\u001b[2J",
         "received": {"ipv4": 0, "ipv6": 0}, "advertised": {"ipv4": 0, "ipv6": 0}, "tomorrow": {"x": 1}},
        {"name": "tor-a", "address": "192.0.2.1", "asn": 65001, "state": "Established", "enabled": true, "uptimeSeconds": 65,
         "received": {"ipv4": 3, "ipv6": 1}, "advertised": {"ipv4": 1, "ipv6": 1}}]}"#;

    fn answers() -> Vec<(String, Vec<Peer>)> {
        let read = || answer::list(ANSWER, "peers").unwrap();
        vec![("node-2".to_owned(), read()), ("node-1".to_owned(), read())]
    }

    #[test]
    fn sessions_by_node_and_peer() {
        let rows = merge(answers(), &Filter::default());
        let names: Vec<_> = rows
            .iter()
            .map(|row| (row.node.as_str(), row.peer.name.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("node-1", "tor-a"),
                ("node-1", "tor-b"),
                ("node-2", "tor-a"),
                ("node-2", "tor-b")
            ]
        );
        let table = table(&rows, false);
        assert!(table.contains("1m05s"), "{table}");
        assert!(table.ends_with("2 of 4 sessions are established"), "{table}");
        assert!(!table.contains('\u{1b}'), "{table}");
    }

    #[test]
    fn only_what_is_down_or_of_one_peer() {
        let down = Filter {
            down: true,
            peer: None,
        };
        assert!(merge(answers(), &down).iter().all(|row| row.peer.name == "tor-b"));
        let of = Filter {
            down: false,
            peer: Some("tor-a".to_owned()),
        };
        assert_eq!(merge(answers(), &of).len(), 2);
    }

    #[test]
    fn what_a_newer_agent_says_is_kept() {
        let rows = merge(answers(), &Filter::default());
        assert_eq!(serde_json::to_value(&rows[1]).unwrap()["tomorrow"]["x"], 1);
    }
}
