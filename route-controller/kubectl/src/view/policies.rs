//! Rules of policies on all nodes: how many routes each matches, and where a rule is missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::table::{names, new, or_dash, text};

pub(crate) const SCHEMA: &str = "podroute.cluster-policies/v1";

/// A rule in the cluster.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) policy: String,
    pub(crate) direction: String,
    /// Empty: no rule decides.
    pub(crate) rule: String,
    /// Of all nodes.
    pub(crate) routes: u64,
    /// Matching routes by node.
    pub(crate) nodes: BTreeMap<String, u64>,
    /// Nodes that answered without this rule: their configuration differs, or no route came to it.
    pub(crate) missing_on: Vec<String>,
}

/// As `podroute show policies -o json` has it.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rule {
    policy: String,
    direction: String,
    rule: String,
    routes: u64,
}

/// By policy, direction and rule.
pub(crate) fn merge(answers: Vec<(String, Vec<Rule>)>) -> Vec<Row> {
    let all: Vec<String> = answers.iter().map(|(node, _)| node.clone()).collect();
    let mut rules: BTreeMap<(String, String, String), BTreeMap<String, u64>> = BTreeMap::new();
    for (node, answer) in answers {
        for rule in answer {
            let key = (rule.policy, rule.direction, rule.rule);
            *rules.entry(key).or_default().entry(node.clone()).or_default() += rule.routes;
        }
    }
    let row = |((policy, direction, rule), nodes): ((String, String, String), BTreeMap<String, u64>)| Row {
        policy,
        direction,
        rule,
        routes: nodes.values().sum(),
        missing_on: all
            .iter()
            .filter(|node| !nodes.contains_key(*node))
            .cloned()
            .collect(),
        nodes,
    };
    rules.into_iter().map(row).collect()
}

pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = new(&["POLICY", "DIRECTION", "RULE", "ROUTES", "NODES", "NOT ON"]);
    for row in rows {
        let rule = if row.rule.is_empty() {
            "(no rule decides)"
        } else {
            &row.rule
        };
        table.add_row([
            row.policy.clone(),
            row.direction.clone(),
            rule.to_owned(),
            row.routes.to_string(),
            row.nodes.len().to_string(),
            or_dash(names(&row.missing_on)),
        ]);
    }
    text(&table, "no routes that a policy was asked about")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_are_added_up_and_a_missing_rule_is_seen() {
        let rule = |rule: &str, routes: u64| json!({"policy": "pods", "direction": "import", "rule": rule, "routes": routes});
        let read = |rules: serde_json::Value| serde_json::from_value(rules).unwrap();
        let rows = merge(vec![
            ("a".to_owned(), read(json!([rule("pods[1]", 3), rule("", 1)]))),
            ("b".to_owned(), read(json!([rule("pods[1]", 4)]))),
        ]);
        assert_eq!(
            (rows[0].rule.as_str(), rows[0].routes, rows[0].missing_on.clone()),
            ("", 1, vec!["b".to_owned()])
        );
        assert_eq!((rows[1].routes, rows[1].missing_on.len()), (7, 0));
        assert!(table(&rows).contains("(no rule decides)"));
    }
}
