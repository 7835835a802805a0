//! The documents of the looking glass: the same as those that the commands print with `-o json`.

use podroute_web::View;
use serde_json::Value;

use crate::answer::{Answers, list, object};
use crate::view::{Document, events, peers, policies, routes, rows, services};

/// The command that asks a node for a view.
pub(crate) fn command(view: View) -> &'static [&'static str] {
    match view {
        View::Peers => &["show", "peers", "-o", "json"],
        View::Blocks => &["show", "blocks", "-o", "json"],
        View::Routes => &["show", "routes", "-o", "json"],
        View::Pods => &["show", "pods", "-o", "json"],
        View::Services => &["show", "services", "-o", "json"],
        View::Policies => &["show", "policies", "-o", "json"],
        View::Events => &["events", "--since", "1h", "-o", "json"],
    }
}

/// What nodes answered, each as its command prints it, as the document of a view.
///
/// # Errors
/// It cannot be written as JSON.
pub fn document(view: View, answers: Answers<String>) -> Result<Value, serde_json::Error> {
    let lists = |name| move |answer: String| list(&answer, name);
    match view {
        View::Peers => {
            let merge = |answers| peers::merge(answers, &peers::Filter::default());
            serde_json::to_value(Document::new(peers::SCHEMA, answers.read(lists("peers")), merge))
        }
        View::Blocks => serde_json::to_value(Document::new(
            "podroute.cluster-blocks/v1",
            answers.read(|answer| list(&answer, "blocks")),
            rows::merge,
        )),
        View::Pods => serde_json::to_value(Document::new(
            "podroute.cluster-pods/v1",
            answers.read(|answer| list(&answer, "pods")),
            rows::merge,
        )),
        View::Routes => serde_json::to_value(Document::new(
            routes::SCHEMA,
            answers.read(|answer| list(&answer, "routes")),
            routes::merge,
        )),
        View::Services => {
            let answers = answers.read(|answer| object::<services::Answer>(&answer));
            let merge = |answers| services::merge(answers, None);
            serde_json::to_value(Document::new(services::SCHEMA, answers, merge))
        }
        View::Policies => serde_json::to_value(Document::new(
            policies::SCHEMA,
            answers.read(|answer| list(&answer, "policies")),
            policies::merge,
        )),
        View::Events => serde_json::to_value(Document::new(
            events::SCHEMA,
            answers.read(|answer| list(&answer, "events")),
            events::merge,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_has_its_document() {
        for view in View::ALL {
            let answer = format!("{{\"{}\": []}}", view.name());
            let answers = Answers::of_node("node-1".to_owned(), Ok(answer));
            let document = document(view, answers).unwrap();
            assert_eq!(document["nodes"]["answered"], 1, "{view:?}: {document}");
            assert_eq!(document["items"], serde_json::json!([]), "{view:?}");
            assert!(command(view).contains(&"json"));
        }
    }
}
