//! Lists of all nodes one after the other: blocks and pods.

use serde::Serialize;
use serde_json::{Map, Value};

/// An item of a node's list, as it is, with its node.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    node: String,
    #[serde(flatten)]
    item: Map<String, Value>,
}

/// By node.
pub(crate) fn merge(answers: Vec<(String, Vec<Map<String, Value>>)>) -> Vec<Row> {
    answers
        .into_iter()
        .flat_map(|(node, items)| {
            items.into_iter().map(move |item| Row {
                node: node.clone(),
                item,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_has_its_node() {
        let item = |text: &str| serde_json::from_str(text).unwrap();
        let rows = merge(vec![
            (
                "a".to_owned(),
                vec![
                    item(r#"{"prefix": "10.0.0.0/24"}"#),
                    item(r#"{"prefix": "10.0.1.0/24"}"#),
                ],
            ),
            ("b".to_owned(), vec![]),
        ]);
        assert_eq!(serde_json::to_value(&rows).unwrap()[1]["node"], "a");
        assert_eq!(serde_json::to_value(&rows).unwrap()[1]["prefix"], "10.0.1.0/24");
        assert_eq!(rows.len(), 2);
    }
}
