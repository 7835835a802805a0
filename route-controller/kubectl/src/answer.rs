//! What the nodes answered, and who did not.

use serde::Serialize;
use serde_json::Value;

use crate::error::NodeError;

/// A node without an answer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Unanswered {
    pub node: String,
    pub reason: String,
}

impl Unanswered {
    pub(crate) fn new(node: String, error: &NodeError) -> Self {
        Self {
            node,
            reason: error.to_string(),
        }
    }
}

/// The answers of all nodes that were asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Answers<T> {
    /// How many nodes were asked.
    pub asked: usize,
    /// By the node's name.
    pub answered: Vec<(String, T)>,
    pub unanswered: Vec<Unanswered>,
}

impl<T> Answers<T> {
    /// What one node said, or why it said nothing.
    pub fn of_node(node: String, outcome: Result<T, NodeError>) -> Self {
        let mut answers = Self::new(1);
        match outcome {
            Ok(answer) => answers.answered.push((node, answer)),
            Err(error) => answers.unanswered.push(Unanswered::new(node, &error)),
        }
        answers
    }

    pub(crate) fn new(asked: usize) -> Self {
        Self {
            asked,
            answered: Vec::new(),
            unanswered: Vec::new(),
        }
    }

    /// With the answers of further nodes.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.asked += other.asked;
        self.answered.extend(other.answered);
        self.unanswered.extend(other.unanswered);
        self
    }

    /// Each answer read; a node whose answer cannot be read counts as one that did not answer.
    pub(crate) fn read<U>(self, read: impl Fn(T) -> Result<U, NodeError>) -> Answers<U> {
        let mut out = Answers {
            asked: self.asked,
            answered: Vec::new(),
            unanswered: self.unanswered,
        };
        for (node, answer) in self.answered {
            match read(answer) {
                Ok(value) => out.answered.push((node, value)),
                Err(error) => out.unanswered.push(Unanswered::new(node, &error)),
            }
        }
        out.unanswered.sort();
        out
    }
}

/// The list `name` of an answer in JSON.
pub(crate) fn list<T: serde::de::DeserializeOwned>(
    answer: &str,
    name: &'static str,
) -> Result<Vec<T>, NodeError> {
    let mut value = json(answer)?;
    let list = value
        .get_mut(name)
        .map(Value::take)
        .ok_or(NodeError::NoList(name))?;
    serde_json::from_value(list).map_err(|error| unreadable(&error))
}

/// An answer that is one object.
pub(crate) fn object<T: serde::de::DeserializeOwned>(answer: &str) -> Result<T, NodeError> {
    serde_json::from_str(answer).map_err(|error| unreadable(&error))
}

fn json(answer: &str) -> Result<Value, NodeError> {
    object(answer)
}

fn unreadable(error: &serde_json::Error) -> NodeError {
    NodeError::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_cannot_be_read_is_marked() {
        let answers = Answers {
            asked: 3,
            answered: [("a", r#"{"peers": [1]}"#), ("b", "{}"), ("c", "oops")]
                .map(|(node, answer)| (node.to_owned(), answer.to_owned()))
                .into(),
            unanswered: Vec::new(),
        };
        let read = answers.read(|answer| list::<u8>(&answer, "peers"));
        assert_eq!(read.answered, [("a".to_owned(), vec![1])]);
        let nodes: Vec<&str> = read.unanswered.iter().map(|one| one.node.as_str()).collect();
        assert_eq!(nodes, ["b", "c"]);
        assert!(read.unanswered[0].reason.contains("another version"));
    }
}
