//! The text of a policy, rule by rule, in the terms of the file.

use std::fmt::{self, Display, Write as _};

use bgp_proto::policy::communities::CommunityKind;
use bgp_proto::policy::{
    Actions, AsPathMatch, AsnSet, AttributeMatch, CommunityMatch, CommunitySet, Edit, FromMatch,
    KernelActions, Matcher, Nested, NextHopAction, NumberAction, Policy, PrefixRange, Prepend, Rule, Verdict,
};
use bgp_proto::types::Asn;
use bgp_proto::wire::Origin;

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
        writeln!(out, "    {:2}. {}{}", index + 1, rule(one), place(one, policy))?;
    }
    writeln!(out, "     -  {all}: {otherwise}")
}

/// Where a rule stands, unless it has no place in the file.
fn place(rule: &Rule, policy: &Policy) -> String {
    let label = &rule.label;
    if label.line == 0 {
        return String::new();
    }
    if *label.policy == policy.name && label.rule.bytes().all(|b| b.is_ascii_digit()) {
        return format!("  (line {})", label.line);
    }
    format!("  ({label}, line {})", label.line)
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
    if let Some(prefixes) = &matcher.prefixes {
        some(&mut out, "prefix", prefixes.iter().map(prefix), prefixes.len());
    }
    communities(&mut out, "community", &matcher.communities);
    communities(&mut out, "large community", &matcher.large_communities);
    communities(&mut out, "extended community", &matcher.ext_communities);
    as_path(&mut out, &matcher.as_path);
    if let Some(next_hops) = &matcher.next_hops {
        let hops = next_hops.iter().map(|range| range.prefix.to_string());
        some(&mut out, "next hop", hops, next_hops.len());
    }
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
    from(&mut out, &matcher.from);
    attributes(&mut out, &matcher.attributes);
    out.extend(matcher.nested.iter().map(nested));
    out
}

fn nested(nested: &Nested) -> String {
    let (lead, joint) = match nested {
        Nested::All(_) => ("", " and "),
        Nested::Any(_) => ("", " or "),
        Nested::None(_) => ("not ", " or "),
    };
    let inner = nested
        .inner()
        .iter()
        .map(|matcher| conditions(matcher).join(" and "));
    format!("{lead}({})", inner.collect::<Vec<_>>().join(joint))
}

fn from(out: &mut Vec<String>, from: &FromMatch) {
    list(out, "from peer", &from.peers);
    if let Some(external) = from.external {
        out.push(format!("from {}", if external { "eBGP" } else { "iBGP" }));
    }
    asns(out, "from AS", &from.asns);
}

fn attributes(out: &mut Vec<String>, attributes: &AttributeMatch) {
    for (name, range) in [
        ("local preference", attributes.local_pref),
        ("MED", attributes.med),
    ] {
        match range {
            Some((low, high)) if low == high => out.push(format!("{name} {low}")),
            Some((low, high)) => out.push(format!("{name} {low}-{high}")),
            None => {}
        }
    }
    list(
        out,
        "origin",
        &attributes
            .origins
            .iter()
            .map(|one| origin(*one))
            .collect::<Vec<_>>(),
    );
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Igp => "igp",
        Origin::Egp => "egp",
        Origin::Incomplete => "incomplete",
    }
}

fn communities<C: CommunityKind>(out: &mut Vec<String>, what: &str, matching: &CommunityMatch<C>) {
    let set = |out: &mut Vec<String>, what: &str, set: &CommunitySet<C>| {
        some(out, what, set.iter().map(ToString::to_string), set.len());
    };
    if let Some(any) = &matching.any {
        set(out, what, any);
    }
    matching.all.iter().for_each(|all| set(out, what, all));
    if let Some(none) = &matching.none {
        set(out, &format!("no {what}"), none);
    }
    match matching.exact.as_deref() {
        Some([]) => out.push(format!("no {what} at all")),
        Some(exact) => {
            let patterns = exact.iter().flat_map(CommunitySet::iter).map(ToString::to_string);
            out.push(format!(
                "exactly {what} {}",
                patterns.collect::<Vec<_>>().join(" & ")
            ));
        }
        None => {}
    }
}

fn asns(out: &mut Vec<String>, what: &str, set: &Option<AsnSet>) {
    let Some(set) = set else { return };
    let show = |(low, high): (Asn, Asn)| {
        if low == high {
            low.to_string()
        } else {
            format!("{low}-{high}")
        }
    };
    some(out, what, set.ranges().map(show), set.ranges().count());
}

/// The first of them, and how many more there are.
fn some(out: &mut Vec<String>, what: &str, items: impl Iterator<Item = String>, count: usize) {
    const SHOWN: usize = 8;
    let shown: Vec<String> = items.take(SHOWN).collect();
    let more = match count.saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" | {more} more"),
    };
    let shown = if shown.is_empty() {
        "none".to_owned()
    } else {
        shown.join(" | ")
    };
    out.push(format!("{what} {shown}{more}"));
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
    asns(out, "AS path contains", &path.contains);
    asns(out, "neighbor AS", &path.neighbor);
    asns(out, "origin AS", &path.origin);
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
    for (name, action) in [("local preference", actions.local_pref), ("MED", actions.med)] {
        match action {
            Some(NumberAction::Set(value)) => out.push(format!("{name} {value}")),
            Some(NumberAction::Add(change)) => out.push(format!("{name} {change:+}")),
            None => {}
        }
    }
    if let Some(value) = actions.origin {
        out.push(format!("origin {}", origin(value)));
    }
    edit(&mut out, "community", "communities", &actions.communities);
    edit(
        &mut out,
        "large community",
        "large communities",
        &actions.large_communities,
    );
    edit(
        &mut out,
        "extended community",
        "extended communities",
        &actions.ext_communities,
    );
    match actions.prepend {
        Some((Prepend::Asn(asn), times)) => out.push(format!("prepend AS {asn} {times} times")),
        Some((Prepend::Own, times)) => out.push(format!("prepend own AS {times} times")),
        Some((Prepend::Neighbor, times)) => {
            out.push(format!("prepend the first AS of the path {times} times"))
        }
        None => {}
    }
    match actions.next_hop {
        Some(NextHopAction::OwnAddress) => out.push("next hop self".to_owned()),
        Some(NextHopAction::PeerAddress) => out.push("next hop peer".to_owned()),
        Some(NextHopAction::Unchanged) => out.push("next hop unchanged".to_owned()),
        Some(NextHopAction::Address(addr)) => out.push(format!("next hop {addr}")),
        None => {}
    }
    kernel(&mut out, &actions.kernel);
    out
}

fn kernel(out: &mut Vec<String>, kernel: &KernelActions) {
    match kernel.install {
        Some(true) => out.push("install wherever it lies".to_owned()),
        Some(false) => out.push("install only inside the pod CIDRs".to_owned()),
        None => {}
    }
    match kernel.blackhole {
        Some(true) => out.push("kernel route blackhole".to_owned()),
        Some(false) => out.push("kernel route unicast".to_owned()),
        None => {}
    }
    let numbers = [
        ("metric", kernel.metric),
        ("table", kernel.table),
        ("weight", kernel.weight.map(u32::from)),
    ];
    for (name, number) in numbers {
        out.extend(number.map(|number| format!("kernel {name} {number}")));
    }
    out.extend(kernel.source.map(|source| format!("kernel source {source}")));
}

fn edit<C: CommunityKind>(out: &mut Vec<String>, one: &str, many: &str, edit: &Edit<C>) {
    if edit.clear {
        out.push(format!("drop all {many}"));
    }
    if let Some(remove) = &edit.remove {
        some(
            out,
            &format!("remove {one}"),
            remove.iter().map(ToString::to_string),
            remove.len(),
        );
    }
    list(out, &format!("add {one}"), &edit.add);
}
