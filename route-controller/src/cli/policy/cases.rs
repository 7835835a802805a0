//! Cases in a file, with the outcomes that are expected of them.

use std::collections::BTreeMap;
use std::path::Path;

use bgp_proto::policy::Verdict;
use podroute_config::Config;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::report;
use super::route::TestRoute;
use super::{Direction, PolicyTestError, Tried, tried};
use crate::attributes;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

/// A route, and what is to come of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// What the case is about.
    #[serde(default)]
    name: Option<String>,
    peer: String,
    direction: Direction,
    route: Map<String, Value>,
    expect: Expected,
    /// `POLICY[RULE]` that decides.
    #[serde(default)]
    rule: Option<String>,
    /// Attributes afterwards; those that are not named may be anything.
    #[serde(default)]
    after: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Expected {
    Accept,
    Reject,
}

/// Tries all cases; an error names those that fail.
pub(super) fn run(config: &Config, file: &Path) -> Result<(), PolicyTestError> {
    let text = std::fs::read_to_string(file).map_err(|source| PolicyTestError::ReadCases {
        file: file.to_owned(),
        source,
    })?;
    let parsed: File = serde_yaml::from_str(&text).map_err(|source| PolicyTestError::ParseCases {
        file: file.to_owned(),
        source,
    })?;
    let mut failed = Vec::new();
    for (index, case) in parsed.cases.iter().enumerate() {
        let name = case.name.clone().unwrap_or_else(|| format!("case {}", index + 1));
        match check(config, case) {
            Ok(()) => println!("pass  {name}"),
            Err(why) => failed.push(format!("FAIL  {name}: {why}")),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let all = parsed.cases.len();
    Err(PolicyTestError::CasesFail { failed, all })
}

fn check(config: &Config, case: &Case) -> Result<(), PolicyTestError> {
    let route = TestRoute::of_json(&case.route)?;
    tried(config, &case.peer, case.direction, &route, |tried| {
        differences(case, tried)
    })?
}

fn differences(case: &Case, tried: &Tried<'_>) -> Result<(), PolicyTestError> {
    let decision = &tried.trial.decision;
    let accepted = decision.verdict == Verdict::Accept && tried.trial.barred.is_none();
    let mut wrong = Vec::new();
    if accepted != (case.expect == Expected::Accept) {
        wrong.push(format!("expected {:?}", case.expect).to_lowercase());
    }
    let rule = decision.deciding().map(|rule| rule.label.to_string());
    if case.rule.is_some() && case.rule != rule {
        let wanted = case.rule.as_deref().unwrap_or_default();
        wrong.push(format!(
            "expected rule {wanted}, found {}",
            rule.unwrap_or_else(|| "none".to_owned())
        ));
    }
    let found: BTreeMap<&str, String> = tried.trial.after.iter().flat_map(attributes::fields).collect();
    for (name, wanted) in &case.after {
        let wanted = shown(wanted);
        match found.get(name.as_str()) {
            Some(found) if *found == wanted => {}
            Some(found) => wrong.push(format!("{name}: expected '{wanted}', found '{found}'")),
            None if tried.trial.after.is_none() => {}
            None => wrong.push(format!("an attribute '{name}' is not known")),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(PolicyTestError::Differs {
        differences: wrong,
        report: report::text(tried).trim_end().to_owned(),
    })
}

/// As a report shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
