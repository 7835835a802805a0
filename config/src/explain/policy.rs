//! A policy in words, rule by rule, in the terms of the file.

use std::fmt::{self, Display, Write as _};

use bgp_proto::policy::{Actions, AsPathMatch, Matcher, NextHopAction, Policy, PrefixRange, Rule, Verdict};

use crate::value::SOURCES;

pub(super) fn policy(out: &mut String, direction: &str, policy: &Policy, default: &str) -> fmt::Result {
    let otherwise = match policy.default {
        Verdict::Accept => "accept",
        Verdict::Reject => "reject",
    };
    let all = if policy.rules.is_empty() {
        "all"
    } else {
        "all else"
    };
    writeln!(out, "  {direction}         {}{default}", policy.name)?;
    for (index, one) in policy.rules.iter().enumerate() {
        writeln!(out, "    {:2}. {}", index + 1, rule(one))?;
    }
    writeln!(out, "     -  {all}: {otherwise}")
}

fn rule(rule: &Rule) -> String {
    let conditions = conditions(&rule.matcher);
    let conditions = if conditions.is_empty() {
        "all".to_owned()
    } else {
        conditions.join(" and ")
    };
    let mut steps = changes(&rule.actions);
    steps.push(
        match rule.verdict {
            Some(Verdict::Accept) => "accept",
            Some(Verdict::Reject) => "reject",
            None => "continue",
        }
        .to_owned(),
    );
    format!("{conditions}: {}", steps.join(", "))
}

fn conditions(matcher: &Matcher) -> Vec<String> {
    let mut out = Vec::new();
    list(
        &mut out,
        "prefix",
        &matcher.prefixes.iter().map(prefix).collect::<Vec<_>>(),
    );
    list(&mut out, "community", &matcher.communities);
    list(&mut out, "large community", &matcher.large_communities);
    list(&mut out, "extended community", &matcher.ext_communities);
    as_path(&mut out, &matcher.as_path);
    list(&mut out, "next hop", &matcher.next_hops);
    let source = |source| {
        SOURCES
            .iter()
            .find(|(_, known)| known == source)
            .map_or("?", |(name, _)| *name)
    };
    list(
        &mut out,
        "source",
        &matcher.sources.iter().map(source).collect::<Vec<_>>(),
    );
    if let Some(families) = matcher.families {
        list(&mut out, "family", &families.iter().collect::<Vec<_>>());
    }
    out
}

fn list<T: Display>(out: &mut Vec<String>, what: &str, items: &[T]) {
    if !items.is_empty() {
        let items: Vec<String> = items.iter().map(ToString::to_string).collect();
        out.push(format!("{what} {}", items.join(" | ")));
    }
}

fn prefix(range: &PrefixRange) -> String {
    let PrefixRange {
        prefix,
        min_len,
        max_len,
    } = range;
    match (*min_len, *max_len) {
        (min, max) if min == max && min == prefix.len() => prefix.to_string(),
        (min, max) if min == max => format!("in {prefix} of length {min}"),
        (min, max) => format!("in {prefix} of length {min}-{max}"),
    }
}

fn as_path(out: &mut Vec<String>, path: &AsPathMatch) {
    list(out, "AS path contains", &path.contains);
    list(out, "neighbor AS", &path.neighbor);
    list(out, "origin AS", &path.origin);
    list(out, "AS path like", &path.patterns);
    match (path.min_hops, path.max_hops) {
        (None, None) => {}
        (Some(min), Some(max)) if min == max => out.push(format!("AS path of length {min}")),
        (min, max) => {
            let max = max.map_or_else(String::new, |max| max.to_string());
            out.push(format!("AS path of length {}-{max}", min.unwrap_or(0)));
        }
    }
}

fn changes(actions: &Actions) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(value) = actions.local_pref {
        out.push(format!("local preference {value}"));
    }
    if let Some(value) = actions.med {
        out.push(format!("MED {value}"));
    }
    if actions.clear_communities {
        out.push("drop all communities".to_owned());
    }
    list(&mut out, "remove community", &actions.remove_communities);
    list(&mut out, "add community", &actions.add_communities);
    list(&mut out, "remove large community", &actions.remove_large);
    list(&mut out, "add large community", &actions.add_large);
    list(&mut out, "remove extended community", &actions.remove_ext);
    list(&mut out, "add extended community", &actions.add_ext);
    match actions.prepend {
        Some((Some(asn), times)) => out.push(format!("prepend AS {asn} {times} times")),
        Some((None, times)) => out.push(format!("prepend own AS {times} times")),
        None => {}
    }
    match actions.next_hop {
        Some(NextHopAction::OwnAddress) => out.push("next hop self".to_owned()),
        Some(NextHopAction::Unchanged) => out.push("next hop unchanged".to_owned()),
        Some(NextHopAction::Address(addr)) => out.push(format!("next hop {addr}")),
        None => {}
    }
    match actions.install {
        Some(true) => out.push("install wherever it lies".to_owned()),
        Some(false) => out.push("install only inside the pod CIDRs".to_owned()),
        None => {}
    }
    out
}
