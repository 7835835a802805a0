//! Services of all nodes: which nodes announce an address, and why others do not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::table::{grouped, names, new, or_dash, printable, text};

pub(crate) const SCHEMA: &str = "podroute.cluster-services/v1";

/// An address of a Service, or a Service without one.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// `namespace/name`.
    pub(crate) service: String,
    /// Absent where it waits for an address.
    pub(crate) address: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) announced_by: Vec<String>,
    /// Reasons of the others, by node.
    pub(crate) not_announced_by: BTreeMap<String, String>,
    /// Why it has no address.
    pub(crate) problems: Vec<String>,
}

/// As `podroute show services -o json` has it.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    services: Vec<Service>,
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Service {
    name: String,
    addresses: Vec<Address>,
    pending: bool,
    problems: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Address {
    address: String,
    kind: Option<String>,
    pool: Option<String>,
    announced: Option<String>,
    not_announced: Option<String>,
}

/// By Service and address. With `only`, the Services of this name, with or without their namespace.
pub(crate) fn merge(answers: Vec<(String, Answer)>, only: Option<&str>) -> Vec<Row> {
    let is_asked = |name: &str| {
        only.is_none_or(|only| name == only || name.split_once('/').is_some_and(|(_, short)| short == only))
    };
    let mut rows: BTreeMap<(String, Option<String>), Row> = BTreeMap::new();
    for (node, answer) in answers {
        for service in answer
            .services
            .into_iter()
            .filter(|service| is_asked(&service.name))
        {
            for address in &service.addresses {
                let row = row(&mut rows, &service.name, Some(&address.address));
                row.kind = row.kind.take().or_else(|| address.kind.clone());
                row.pool = row.pool.take().or_else(|| address.pool.clone());
                match (&address.announced, &address.not_announced) {
                    (Some(_), _) => row.announced_by.push(node.clone()),
                    (None, why) => {
                        let why = why.clone().unwrap_or_else(|| "not announced".to_owned());
                        row.not_announced_by.insert(node.clone(), why);
                    }
                }
            }
            if service.pending || !service.problems.is_empty() {
                let row = row(&mut rows, &service.name, None);
                for problem in service.problems {
                    if !row.problems.contains(&problem) {
                        row.problems.push(problem);
                    }
                }
            }
        }
    }
    rows.into_values().collect()
}

fn row<'a>(
    rows: &'a mut BTreeMap<(String, Option<String>), Row>,
    name: &str,
    address: Option<&String>,
) -> &'a mut Row {
    rows.entry((name.to_owned(), address.cloned()))
        .or_insert_with(|| Row {
            service: name.to_owned(),
            address: address.cloned(),
            kind: None,
            pool: None,
            announced_by: Vec::new(),
            not_announced_by: BTreeMap::new(),
            problems: Vec::new(),
        })
}

pub(crate) fn table(rows: &[Row], wide: bool) -> String {
    let mut table = new(&[
        "SERVICE",
        "ADDRESS",
        "POOL",
        "ANNOUNCED BY",
        "NOT ANNOUNCED, BECAUSE",
    ]);
    for row in rows {
        let asked = row.announced_by.len() + row.not_announced_by.len();
        let announced = match (&row.address, row.announced_by.len()) {
            (None, _) => String::new(),
            (_, count) if wide => format!("{count} of {asked}: {}", row.announced_by.join(", ")),
            (_, count) => format!("{count} of {asked}: {}", names(&row.announced_by)),
        };
        let reasons = grouped(row.not_announced_by.iter().map(|(node, why)| (why, node)));
        let reasons = reasons.iter().map(|(why, nodes)| {
            let nodes = if wide {
                nodes
                    .iter()
                    .map(|node| node.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            } else {
                names(nodes)
            };
            format!("{nodes}: {}", printable(why))
        });
        let reasons: Vec<String> = reasons
            .chain(row.problems.iter().map(|why| printable(why)))
            .collect();
        table.add_row([
            row.service.clone(),
            row.address.clone().unwrap_or_else(|| "<pending>".to_owned()),
            or_dash(row.pool.clone().unwrap_or_default()),
            or_dash(announced.trim_end_matches(": ")),
            or_dash(reasons.join("; ")),
        ]);
    }
    text(&table, "no Service has addresses for clients outside")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(announced: Option<&str>, why: Option<&str>, problems: &[&str]) -> Answer {
        serde_json::from_value(json!({"services": [
            {"name": "default/web", "pending": false, "problems": [], "addresses": [
                {"address": "203.0.113.80", "kind": "loadBalancer", "pool": "public", "announced": announced, "notAnnounced": why}]},
            {"name": "default/new", "pending": true, "problems": problems, "addresses": []},
        ]}))
        .unwrap()
    }

    fn cluster() -> Vec<(String, Answer)> {
        vec![
            ("node-1".to_owned(), answer(Some("203.0.113.80/32"), None, &[])),
            (
                "node-2".to_owned(),
                answer(None, Some("no endpoint here"), &["pool public is full"]),
            ),
            ("node-3".to_owned(), answer(None, Some("no endpoint here"), &[])),
        ]
    }

    #[test]
    fn an_address_says_who_announces_it_and_why_others_do_not() {
        let rows = merge(cluster(), None);
        assert_eq!(rows.len(), 2);
        let web = &rows[1];
        assert_eq!(web.announced_by, ["node-1"]);
        assert_eq!(web.not_announced_by.len(), 2);
        let table = table(&rows, false);
        assert!(table.contains("1 of 3: node-1"), "{table}");
        assert!(table.contains("node-2, node-3: no endpoint here"), "{table}");
        assert!(table.contains("<pending>"), "{table}");
        assert!(table.contains("pool public is full"), "{table}");
    }

    #[test]
    fn one_service_by_its_name() {
        for only in ["web", "default/web"] {
            let rows = merge(cluster(), Some(only));
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].service, "default/web");
        }
        assert!(merge(cluster(), Some("other/web")).is_empty());
    }
}
