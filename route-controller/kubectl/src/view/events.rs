//! Journals of all nodes, in the order of time.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::table::{new, or_dash, printable, text};

pub(crate) const SCHEMA: &str = "podroute.cluster-events/v1";

/// An entry of a node's journal.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// As `podroute events -o json` has it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Event {
    /// Milliseconds since 1970, UTC.
    pub(crate) at_ms: i64,
    pub(crate) kind: String,
    pub(crate) severity: String,
    pub(crate) subject: Option<String>,
    pub(crate) message: String,
    pub(crate) cause: Option<String>,
    pub(crate) count: u64,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// By time, then node.
pub(crate) fn merge(answers: Vec<(String, Vec<Event>)>) -> Vec<Row> {
    let mut rows: Vec<Row> = answers
        .into_iter()
        .flat_map(|(node, events)| {
            events.into_iter().map(move |event| Row {
                node: node.clone(),
                event,
            })
        })
        .collect();
    // Stable: entries of a node with one time stay in its order.
    rows.sort_by(|one, other| (one.event.at_ms, &one.node).cmp(&(other.event.at_ms, &other.node)));
    rows
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = new(&["TIME (UTC)", "NODE", "KIND", "SUBJECT", "WHAT"]);
    for row in rows {
        let event = &row.event;
        table.add_row([
            time(event.at_ms),
            row.node.clone(),
            event.kind.clone(),
            or_dash(printable(event.subject.as_deref().unwrap_or_default())),
            printable(&what(event)),
        ]);
    }
    text(&table, "nothing has changed in this time")
}

fn time(at_ms: i64) -> String {
    let time = k8s_openapi::jiff::Timestamp::from_millisecond(at_ms);
    time.map_or_else(
        |_| at_ms.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
    )
}

fn what(event: &Event) -> String {
    let mark = match event.severity.as_str() {
        "" | "info" => String::new(),
        severity => format!("{severity}: "),
    };
    let cause = event.cause.iter().map(|cause| format!(": {cause}"));
    let count = (event.count > 1).then(|| format!(" ({} times)", event.count));
    format!("{mark}{}", event.message) + &cause.chain(count).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_time() {
        let event = |at_ms: i64, message: &str| Event {
            at_ms,
            message: message.to_owned(),
            ..Event::default()
        };
        let rows = merge(vec![
            ("b".to_owned(), vec![event(1_000, "1"), event(3_000, "4")]),
            ("a".to_owned(), vec![event(2_000, "2"), event(2_000, "3")]),
        ]);
        let messages: Vec<&str> = rows.iter().map(|row| row.event.message.as_str()).collect();
        assert_eq!(messages, ["1", "2", "3", "4"]);
    }

    #[test]
    fn an_entry_says_what_and_why() {
        let entry = r#"{"number": 7, "atMs": 1767225600123, "kind": "session", "severity": "warn", "event": "session_down",
            "subject": "tor-a", "message": "session down", "cause": "hold timer expired\u001b[2J", "count": 2}"#;
        let rows = merge(vec![("a".to_owned(), vec![serde_json::from_str(entry).unwrap()])]);
        let table = table(&rows);
        assert!(table.contains("2026-01-01 00:00:00.123"), "{table}");
        assert!(
            table.contains("warn: session down: hold timer expired\u{fffd}[2J (2 times)"),
            "{table}"
        );
        assert_eq!(serde_json::to_value(&rows[0]).unwrap()["event"], "session_down");
    }
}
