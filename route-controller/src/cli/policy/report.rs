//! The text of a policy test.

use std::fmt::Write as _;

use bgp_proto::policy::{Step, Verdict};

use super::{Direction, Tried};
use crate::attributes;

/// Rule by rule what matched and changed, then the outcome.
pub(super) fn text(tried: &Tried<'_>) -> String {
    let mut out = String::new();
    let (preposition, policy) = (preposition(tried.direction), tried.policy());
    let _ = writeln!(
        out,
        "{} {preposition} {}: policy {}",
        tried.route.prefix, tried.peer.name, policy.name
    );
    for step in &tried.trial.decision.steps {
        let _ = writeln!(out, "  {}", line(step));
    }
    let _ = writeln!(out, "  {}", outcome(tried));
    if let Some(after) = &tried.trial.after {
        for change in attributes::changes(tried.attrs, after) {
            let _ = writeln!(out, "    {change}");
        }
    }
    out
}

fn preposition(direction: Direction) -> &'static str {
    match direction {
        Direction::Import => "from",
        Direction::Export => "to",
    }
}

fn line(step: &Step<'_>) -> String {
    let label = &step.rule.label;
    let place = if label.line == 0 {
        String::new()
    } else {
        format!(" (line {})", label.line)
    };
    match (step.unmet, step.rule.verdict) {
        (Some(unmet), _) => format!("{label}{place}: no match: {unmet}"),
        (None, Some(verdict)) => format!("{label}{place}: matches: {verdict}"),
        (None, None) => format!("{label}{place}: matches: continue"),
    }
}

fn outcome(tried: &Tried<'_>) -> String {
    let decision = &tried.trial.decision;
    let by = decision.deciding().map_or_else(
        || format!("no rule decides: policy {}", tried.policy().name),
        |rule| rule.label.to_string(),
    );
    match (decision.verdict, tried.trial.barred) {
        (Verdict::Reject, _) => format!("rejected ({by})"),
        (Verdict::Accept, None) => format!("accepted ({by})"),
        (Verdict::Accept, Some(why)) => format!("accepted ({by}), but not sent: {why}"),
    }
}
