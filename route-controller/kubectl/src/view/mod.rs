//! The nodes' answers as one: pure.
//!
//! A node's answer is read tolerantly, because nodes may run other versions: what is not known here is kept for `-o json` as it is.

pub(crate) mod check;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod peers;
pub(crate) mod policies;
pub(crate) mod routes;
pub(crate) mod rows;
pub(crate) mod services;
pub(crate) mod table;

use serde::Serialize;

use crate::answer::{Answers, Unanswered};

/// What `-o json` prints: the same form for all commands.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document<T> {
    /// Name and version of the form.
    schema: &'static str,
    /// How many nodes were asked, and how many answered.
    nodes: Count,
    unanswered: Vec<Unanswered>,
    pub(crate) items: Vec<T>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Count {
    asked: usize,
    answered: usize,
}

impl<T> Document<T> {
    /// The rows that `merge` makes of the answers.
    pub(crate) fn new<A>(
        schema: &'static str,
        answers: Answers<A>,
        merge: impl FnOnce(Vec<(String, A)>) -> Vec<T>,
    ) -> Self {
        Self {
            schema,
            nodes: Count {
                asked: answers.asked,
                answered: answers.answered.len(),
            },
            unanswered: answers.unanswered,
            items: merge(answers.answered),
        }
    }

    /// Not all nodes answered.
    pub(crate) fn is_partial(&self) -> bool {
        self.nodes.answered < self.nodes.asked
    }

    /// The nodes that did not answer, for people; nothing when all did.
    pub(crate) fn unanswered(&self) -> String {
        if !self.is_partial() {
            return String::new();
        }
        let mut out = format!(
            "partial: {} of {} nodes answered\n",
            self.nodes.answered, self.nodes.asked
        );
        for (reason, nodes) in table::grouped(self.unanswered.iter().map(|one| (&one.reason, &one.node))) {
            out.push_str(&format!("  {}: {reason}\n", table::names(&nodes)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_document_says_so_in_both_forms() {
        let unanswered = ["b", "c"].map(|node| Unanswered {
            node: node.to_owned(),
            reason: "no pod".to_owned(),
        });
        let answers = Answers {
            asked: 3,
            answered: vec![("a".to_owned(), 7)],
            unanswered: unanswered.into(),
        };
        let document = Document::new("numbers/v1", answers, |answers| answers);
        assert!(document.is_partial());
        assert_eq!(
            document.unanswered(),
            "partial: 1 of 3 nodes answered\n  b, c: no pod\n"
        );
        let value = serde_json::to_value(&document).unwrap();
        assert_eq!(value["schema"], "numbers/v1");
        assert_eq!(value["nodes"]["answered"], 1);
        assert_eq!(value["unanswered"][1]["node"], "c");
        assert_eq!(value["items"][0][1], 7);
    }
}
