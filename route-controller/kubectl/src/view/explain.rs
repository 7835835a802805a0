//! How a packet travels, as the nodes at both ends see it: the report of each node, and the first broken step of all.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table::{new, printable, text};

pub(crate) const SCHEMA: &str = "podroute.cluster-explain/v1";

/// The verdict of a step that stops the packet.
const BROKEN: &str = "broken";
const WARNING: &str = "warning";

/// What a node says of a pair of addresses.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) explanation: Explanation,
}

/// As `podroute explain -o json` has it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Explanation {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) port: Option<String>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) verdict: String,
    /// The node that sees the other half.
    pub(crate) other_node: Option<String>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hop {
    node: String,
    role: String,
    steps: Vec<Step>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Step {
    part: String,
    verdict: String,
    text: String,
    remedy: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// In the order in which the packet passes the nodes: `order` has their names.
pub(crate) fn merge(answers: Vec<(String, Vec<Explanation>)>, order: &[String]) -> Vec<Row> {
    let mut rows: Vec<Row> = answers
        .into_iter()
        .flat_map(|(node, all)| {
            all.into_iter().map(move |explanation| Row {
                node: node.clone(),
                explanation,
            })
        })
        .collect();
    rows.sort_by_key(|row| {
        let place = order.iter().position(|name| *name == row.node);
        // Families apart: the whole way of one, then of the other.
        (row.explanation.source.contains(':'), place.unwrap_or(usize::MAX))
    });
    rows
}

pub(crate) fn is_broken(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.explanation.verdict == BROKEN)
}

pub(crate) fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no node said anything".to_owned();
    }
    let all: Vec<String> = rows.iter().map(one).collect();
    format!("{}\n\n{}", all.join("\n\n"), conclusion(rows))
}

fn one(row: &Row) -> String {
    let Explanation {
        source,
        destination,
        port,
        hops,
        ..
    } = &row.explanation;
    let port = port
        .as_ref()
        .map_or_else(String::new, |port| format!(", port {port}"));
    let mut out = format!(
        "from {} to {}{port}, as {} sees it",
        printable(source),
        printable(destination),
        row.node
    );
    for hop in hops {
        let mut table = new(&["", "", ""]);
        for step in &hop.steps {
            let verdict = if step.verdict == BROKEN {
                "BROKEN"
            } else {
                &step.verdict
            };
            table.add_row([verdict.to_owned(), step.part.clone(), printable(&step.text)]);
        }
        let lines = text(&table, "");
        let lines: Vec<&str> = lines.lines().skip_while(|line| line.trim().is_empty()).collect();
        out.push_str(&format!("\n{} ({}):\n{}", hop.node, hop.role, lines.join("\n")));
    }
    out
}

/// The first broken step on the packet's way; without one the first warning.
fn conclusion(rows: &[Row]) -> String {
    let steps = || {
        let hops = rows
            .iter()
            .flat_map(|row| row.explanation.hops.iter().map(move |hop| (&row.node, hop)));
        hops.flat_map(|(node, hop)| hop.steps.iter().map(move |step| (node, step)))
    };
    let first = |verdict: &str| steps().find(|(_, step)| step.verdict == verdict);
    let (kind, found) = match first(BROKEN) {
        Some(found) => ("first broken step", Some(found)),
        None => ("warning", first(WARNING)),
    };
    let Some((node, step)) = found else {
        return "nothing is wrong on these nodes".to_owned();
    };
    let remedy = step
        .remedy
        .as_ref()
        .map_or_else(String::new, |remedy| format!("\nremedy: {}", printable(remedy)));
    format!(
        "{kind}, on {node}: {}: {}{remedy}",
        step.part,
        printable(&step.text)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn explanation(source: &str, verdict: &str, steps: serde_json::Value) -> Explanation {
        serde_json::from_value(json!({"source": source, "destination": "10.244.2.7", "port": "80", "verdict": verdict, "otherNode": "node-3",
            "hops": [{"node": "n", "role": "source", "steps": steps}]}))
        .unwrap()
    }

    #[test]
    fn the_first_broken_step_of_the_way_is_named() {
        let warning = json!([{"part": "kernel", "verdict": "warning", "text": "small MTU"}]);
        let broken =
            json!([{"part": "policy", "verdict": "broken", "text": "dropped", "remedy": "allow it"}]);
        let answers = vec![
            (
                "node-1".to_owned(),
                vec![explanation("10.244.0.7", "broken", broken)],
            ),
            (
                "node-3".to_owned(),
                vec![explanation("10.244.0.7", "warning", warning)],
            ),
        ];
        let rows = merge(answers, &["node-3".to_owned(), "node-1".to_owned()]);
        assert_eq!(rows[0].node, "node-3", "the packet starts there");
        assert!(is_broken(&rows));
        let table = table(&rows);
        assert!(
            table.ends_with("first broken step, on node-1: policy: dropped\nremedy: allow it"),
            "{table}"
        );
        assert!(table.contains("port 80, as node-3 sees it"), "{table}");
    }

    #[test]
    fn nothing_wrong_is_said() {
        let fine = explanation(
            "10.244.0.7",
            "ok",
            json!([{"part": "route", "verdict": "ok", "text": "via eth0"}]),
        );
        let rows = merge(vec![("a".to_owned(), vec![fine])], &[]);
        assert!(!is_broken(&rows));
        assert!(table(&rows).ends_with("nothing is wrong on these nodes"));
    }
}
