//! Routes of all nodes, by prefix: who originates a prefix, who uses which next hop, and who lacks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table::{names, new, or_dash, printable, text};

pub(crate) const SCHEMA: &str = "podroute.cluster-routes/v1";

/// The source of a path that the node itself originates.
const LOCAL: &str = "local";

/// A prefix in the cluster.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) prefix: String,
    /// Nodes that originate it.
    pub(crate) originated_by: Vec<String>,
    /// How many nodes use a path of it, their own included.
    pub(crate) used_on: usize,
    /// Nodes that answered and have no path that can be used.
    pub(crate) missing_on: Vec<String>,
    /// All paths of each node.
    pub(crate) nodes: BTreeMap<String, Vec<Path>>,
}

/// As `podroute show routes -o json` has it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Path {
    pub(crate) best: bool,
    pub(crate) next_hop: String,
    pub(crate) from: String,
    pub(crate) as_path: String,
    pub(crate) communities: Vec<String>,
    pub(crate) used: bool,
    pub(crate) eligible: bool,
    pub(crate) reason: Option<String>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A prefix of a node's answer.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Route {
    prefix: String,
    paths: Vec<Path>,
}

/// By prefix.
pub(crate) fn merge(answers: Vec<(String, Vec<Route>)>) -> Vec<Row> {
    let all: BTreeSet<String> = answers.iter().map(|(node, _)| node.clone()).collect();
    let mut prefixes: BTreeMap<String, BTreeMap<String, Vec<Path>>> = BTreeMap::new();
    for (node, routes) in answers {
        for route in routes {
            prefixes
                .entry(route.prefix)
                .or_default()
                .insert(node.clone(), route.paths);
        }
    }
    let mut rows: Vec<Row> = prefixes
        .into_iter()
        .map(|(prefix, nodes)| row(prefix, nodes, &all))
        .collect();
    rows.sort_by_cached_key(|row| order(&row.prefix));
    rows
}

fn row(prefix: String, nodes: BTreeMap<String, Vec<Path>>, all: &BTreeSet<String>) -> Row {
    let having = |is: fn(&Path) -> bool| -> Vec<String> {
        let found = nodes.iter().filter(|(_, paths)| paths.iter().any(is));
        found.map(|(node, _)| node.clone()).collect()
    };
    let originated_by = having(|path| path.from == LOCAL);
    let used = having(|path| path.best);
    Row {
        prefix,
        originated_by,
        used_on: used.len(),
        missing_on: all.iter().filter(|node| !used.contains(node)).cloned().collect(),
        nodes,
    }
}

/// As numbers: 10.2.0.0/16 is before 10.10.0.0/16, IPv4 before IPv6.
fn order(prefix: &str) -> (bool, Option<IpAddr>, u8, String) {
    let (address, length) = prefix.split_once('/').unwrap_or((prefix, ""));
    let address: Option<IpAddr> = address.parse().ok();
    let is_ipv6 = address.is_some_and(|address| address.is_ipv6());
    (
        is_ipv6,
        address,
        length.parse().unwrap_or(u8::MAX),
        prefix.to_owned(),
    )
}

/// One line for each prefix.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = new(&[
        "PREFIX",
        "ORIGINATED BY",
        "USED ON",
        "NEXT HOPS",
        "MISSING ON",
        "REASON",
    ]);
    for row in rows {
        let best = |paths: &Vec<Path>| -> Vec<String> {
            let used = paths
                .iter()
                .filter(|path| (path.best || path.used) && path.from != LOCAL);
            used.map(|path| path.next_hop.clone()).collect()
        };
        let next_hops: BTreeSet<String> = row.nodes.values().flat_map(best).collect();
        let next_hops: Vec<String> = next_hops.into_iter().collect();
        let asked = row.used_on + row.missing_on.len();
        let reasons: BTreeSet<&str> = row.missing_on.iter().map(|node| why_missing(row, node)).collect();
        let reasons: Vec<String> = reasons.into_iter().map(printable).collect();
        table.add_row([
            row.prefix.clone(),
            or_dash(names(&row.originated_by)),
            format!("{} of {asked}", row.used_on),
            or_dash(names(&next_hops)),
            or_dash(names(&row.missing_on)),
            or_dash(names(&reasons)),
        ]);
    }
    text(&table, "no routes")
}

fn why_missing<'a>(row: &'a Row, node: &str) -> &'a str {
    let paths = row.nodes.get(node).into_iter().flatten();
    let reason = paths.filter_map(|path| path.reason.as_deref()).next();
    reason.unwrap_or("no path was received")
}

/// One line for each path.
pub(crate) fn wide(rows: &[Row]) -> String {
    let mut table = new(&[
        "PREFIX",
        "NODE",
        "",
        "NEXT HOP",
        "FROM",
        "AS PATH",
        "COMMUNITIES",
        "NOT USED BECAUSE",
    ]);
    for row in rows {
        for (node, paths) in &row.nodes {
            for path in paths {
                table.add_row([
                    row.prefix.clone(),
                    node.clone(),
                    mark(path).to_owned(),
                    path.next_hop.clone(),
                    path.from.clone(),
                    or_dash(path.as_path.clone()),
                    or_dash(path.communities.join(" ")),
                    or_dash(printable(path.reason.as_deref().unwrap_or_default())),
                ]);
            }
        }
    }
    text(&table, "no routes")
}

/// As `podroute show routes` marks them.
fn mark(path: &Path) -> &'static str {
    match path {
        path if path.best => ">",
        path if !path.eligible => "x",
        path if path.used => "=",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(from: &str, best: bool, reason: Option<&str>) -> serde_json::Value {
        json!({"best": best, "eligible": reason.is_none(), "nextHop": if from == LOCAL { "self" } else { "192.0.2.12" },
               "from": from, "asPath": "", "communities": [], "reason": reason, "med": 5})
    }

    fn answer(routes: serde_json::Value) -> Vec<Route> {
        serde_json::from_value(routes).unwrap()
    }

    fn cluster() -> Vec<Row> {
        let prefix = "10.244.2.0/24";
        merge(vec![
            (
                "node-1".to_owned(),
                answer(json!([{"prefix": prefix, "paths": [path("node-2", true, None)]}])),
            ),
            (
                "node-2".to_owned(),
                answer(json!([{"prefix": prefix, "paths": [path(LOCAL, true, None)]}])),
            ),
            (
                "node-3".to_owned(),
                answer(
                    json!([{"prefix": prefix, "paths": [path("node-2", false, Some("rejected by policy: in[2]"))]}]),
                ),
            ),
            (
                "node-4".to_owned(),
                answer(
                    json!([{"prefix": "10.10.0.0/16", "paths": []}, {"prefix": "fd00::/64", "paths": []}, {"prefix": "10.9.0.0/16", "paths": []}]),
                ),
            ),
        ])
    }

    #[test]
    fn a_prefix_says_who_originates_it_and_who_lacks_it() {
        let rows = cluster();
        let row = rows.iter().find(|row| row.prefix == "10.244.2.0/24").unwrap();
        assert_eq!(row.originated_by, ["node-2"]);
        assert_eq!(row.used_on, 2);
        assert_eq!(row.missing_on, ["node-3", "node-4"]);
        let table = table(&rows);
        let line = table.lines().find(|line| line.contains("10.244.2.0/24")).unwrap();
        for part in [
            "2 of 4",
            "192.0.2.12",
            "node-3, node-4",
            "no path was received, rejected by policy: in[2]",
        ] {
            assert!(line.contains(part), "{part}: {table}");
        }
    }

    #[test]
    fn prefixes_are_in_the_order_of_their_numbers() {
        let prefixes: Vec<String> = cluster().into_iter().map(|row| row.prefix).collect();
        assert_eq!(
            prefixes,
            ["10.9.0.0/16", "10.10.0.0/16", "10.244.2.0/24", "fd00::/64"]
        );
    }

    #[test]
    fn wide_has_every_path() {
        let wide = wide(&cluster());
        assert_eq!(wide.lines().count(), 4, "{wide}");
        assert!(wide.contains("rejected by policy: in[2]"));
    }
}
