//! Texts of all nodes: nodes with the same text are one group. For `check`, `diff` and `explain`.

use serde::Serialize;
use serde_json::Value;

use super::table::{grouped, names, printable};

/// Nodes that say the same.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) nodes: Vec<String>,
    /// Exit status of the command on the nodes.
    #[serde(rename = "exitStatus")]
    pub(crate) exit_status: i32,
    /// What they say: JSON where it is that.
    pub(crate) answer: Value,
}

/// What a node said.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Said {
    pub(crate) exit_status: i32,
    pub(crate) text: String,
}

/// The most frequent answer first.
pub(crate) fn merge(answers: Vec<(String, Said)>) -> Vec<Group> {
    let pairs = answers.into_iter().map(|(node, said)| (said, node));
    let mut groups: Vec<Group> = grouped(pairs)
        .into_iter()
        .map(|(said, nodes)| Group {
            nodes,
            exit_status: said.exit_status,
            answer: serde_json::from_str(&said.text).unwrap_or(Value::String(said.text)),
        })
        .collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.nodes.len()));
    groups
}

/// Each group below its nodes.
pub(crate) fn text(groups: &[Group], wide: bool) -> String {
    let all: Vec<String> = groups.iter().map(|group| one(group, wide)).collect();
    all.join("\n\n")
}

fn one(group: &Group, wide: bool) -> String {
    let nodes = if wide {
        group.nodes.join(", ")
    } else {
        names(&group.nodes)
    };
    let count = match group.nodes.len() {
        1 => String::new(),
        many => format!("{many} nodes: "),
    };
    let answer = match &group.answer {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let lines: Vec<String> = answer
        .trim_end()
        .lines()
        .map(|line| format!("  {}", printable(line)))
        .collect();
    format!("{count}{nodes}\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_say_the_same_are_one_group() {
        let said = |exit_status, text: &str| Said {
            exit_status,
            text: text.to_owned(),
        };
        let groups = merge(vec![
            ("a".to_owned(), said(0, "good\n")),
            ("b".to_owned(), said(1, "error: x\n")),
            ("c".to_owned(), said(0, "good\n")),
        ]);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].nodes, ["a", "c"]);
        assert_eq!(groups[1].exit_status, 1);
        assert_eq!(text(&groups, false), "2 nodes: a, c\n  good\n\nb\n  error: x");
    }

    #[test]
    fn json_stays_json() {
        let said = Said {
            exit_status: 0,
            text: "{\"added\": []}\n".to_owned(),
        };
        let groups = merge(vec![("a".to_owned(), said)]);
        assert!(groups[0].answer["added"].is_array());
    }
}
