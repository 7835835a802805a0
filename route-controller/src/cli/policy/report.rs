//! What came of a route that was tried, in lines.

use std::fmt::Write as _;

use bgp_proto::policy::{Step, Verdict};
use bgp_proto::wire::{Origin, PathAttrs};

use super::{Direction, Tried};

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
        for (name, before, after) in changes(tried.attrs, after) {
            let _ = writeln!(out, "    {name}: {before} -> {after}");
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

/// Attributes that differ, by name, before and after.
pub(super) fn changes(before: &PathAttrs, after: &PathAttrs) -> Vec<(&'static str, String, String)> {
    let (old, new) = (fields(before), fields(after));
    let pairs = old.into_iter().zip(new);
    pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((name, old), (_, new))| (name, or_none(old), or_none(new)))
        .collect()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

/// The attributes under the names of a route that is written.
pub(super) fn fields(attrs: &PathAttrs) -> Vec<(&'static str, String)> {
    let number = |number: Option<u32>| number.map_or_else(String::new, |number| number.to_string());
    let rare = attrs.rare.as_deref().cloned().unwrap_or_default();
    let kernel = rare.kernel;
    vec![
        ("asPath", attrs.as_path.to_string()),
        ("communities", join(&attrs.communities)),
        ("largeCommunities", join(&rare.large_communities)),
        ("extCommunities", join(&rare.ext_communities)),
        ("localPreference", number(attrs.local_pref)),
        ("med", number(attrs.med)),
        ("origin", origin(attrs.origin).to_owned()),
        ("nextHop", attrs.next_hop.to_string()),
        (
            "install",
            if kernel.install {
                "true".to_owned()
            } else {
                String::new()
            },
        ),
        (
            "kernel.type",
            if kernel.blackhole {
                "blackhole".to_owned()
            } else {
                String::new()
            },
        ),
        ("kernel.metric", number(kernel.metric)),
        ("kernel.table", number(kernel.table)),
        (
            "kernel.source",
            kernel.source.map_or_else(String::new, |addr| addr.to_string()),
        ),
        ("kernel.weight", number(kernel.weight.map(u32::from))),
    ]
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "igp",
        Origin::Egp => "egp",
        Origin::Incomplete => "incomplete",
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}
