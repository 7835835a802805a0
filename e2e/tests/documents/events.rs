//! docs/reference/events.md is whole: the names of log lines, and the reasons of Kubernetes Events.

use std::collections::BTreeSet;

use crate::pages;
use crate::reference::source;

/// Names in the tables of docs/reference/events.md, before its section on Kubernetes Events; and those in the code.
#[test]
fn every_log_event_is_documented() {
    let page = pages::page("docs/reference/events.md").text;
    let (agent, _) = page.split_once("\n## Kubernetes Events").expect("the section");
    let mut documented = BTreeSet::new();
    let rows = agent
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    for (name, _) in rows {
        assert!(documented.insert(name), "{name} is there twice");
    }
    let files = ["route-controller", "bgp-speaker"]
        .map(|dir| pages::files(dir, "rs"))
        .concat();
    let sources: Vec<String> = files.iter().map(|name| pages::page(name).text).collect();
    let (mut logged, mut unnamed) = (BTreeSet::new(), Vec::new());
    for text in &sources {
        for call in ["info", "warn", "error", "debug", "trace"] {
            for (_, after) in text
                .match_indices(&format!("tracing::{call}!("))
                .map(|(at, m)| (at, &text[at + m.len()..]))
            {
                match after
                    .trim_start()
                    .strip_prefix("event = \"")
                    .and_then(|rest| rest.split_once('"'))
                {
                    Some((name, _)) => drop(logged.insert(name)),
                    None => unnamed.push(after.lines().take(3).collect::<String>()),
                }
            }
        }
    }
    assert!(unnamed.is_empty(), "log lines without a name: {unnamed:#?}");
    assert!(logged.len() > 50, "{logged:?}");
    let missing: Vec<_> = logged.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/reference/events.md: {missing:?}");
    let is_in_code = |name: &&&str| {
        let field = format!("event = \"{name}\"");
        sources.iter().any(|text| text.contains(&field))
    };
    let removed: Vec<_> = documented.iter().filter(|name| !is_in_code(name)).collect();
    assert!(
        removed.is_empty(),
        "in docs/reference/events.md only: {removed:?}"
    );
}

/// Reasons of Events: calls of the form `post_event("Reason", true, …)`.
fn event_reasons(source: &str) -> BTreeSet<String> {
    let calls = source.split('(').map(str::trim_start);
    let literals = calls.filter_map(|rest| rest.strip_prefix('"')?.split_once('"'));
    let with_kind =
        literals.filter(|(_, rest)| [", true", ", false"].iter().any(|kind| rest.starts_with(kind)));
    let reasons = with_kind.map(|(reason, _)| reason.to_owned());
    reasons
        .filter(|reason| reason.starts_with(|c: char| c.is_ascii_uppercase()) && !reason.contains(' '))
        .collect()
}

#[test]
fn every_event_is_documented() {
    let reasons = event_reasons(&source("route-controller/src", |_| true));
    assert!(reasons.len() >= 7, "{reasons:?}");
    let page = pages::page("docs/reference/events.md");
    let section = page
        .text
        .split("\n## ")
        .find(|part| part.starts_with("Kubernetes Events"));
    let rows = section
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<String> = rows
        .map(|row| row.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(documented, reasons);
}
