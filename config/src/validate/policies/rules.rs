//! Warnings about rules of a policy, and of the policies that it applies, that are valid but probably not intended.

use bgp_proto::policy::communities::CommunityKind;
use bgp_proto::policy::{
    AsPathMatch, AsnSet, CommunityMatch, Edit, Matcher, Policy, PrefixRange, PrefixSet, Rule, Verdict,
};
use bgp_proto::types::Asn;

use super::LocatedRule;
use crate::problem::Problems;
use crate::schema;

/// Larger lists are not compared with each other.
const COMPARED: usize = 200;

pub(super) fn check(policy: &schema::Policy, rules: &[LocatedRule], problems: &Problems) {
    if let Some(rule) = rules.get(Policy::MAX_RULES) {
        let count = rules.len();
        let message = format!("the policy has {count} rules, more than {}", Policy::MAX_RULES);
        problems.error(rule.location.problem(
            message,
            "join rules that differ only in prefixes: a rule takes any number of them",
        ));
        return;
    }
    let own = format!("{}[", policy.name.location.path);
    for (index, located) in rules.iter().enumerate() {
        // What another policy says is checked there.
        if !located.location.path.starts_with(&own) {
            continue;
        }
        let before = rules.get(..index).unwrap_or_default();
        check_reach(located, before, problems);
        check_added(located, before, problems);
        check_rule(located, problems);
    }
    let decides = |located: &LocatedRule| located.rule.verdict.is_some();
    if policy.shorthand.is_none() && !rules.iter().any(decides) {
        let message = "no rule of this policy accepts or rejects a route: all routes are rejected";
        let is_applied = "add {otherwise: accept} at the end, unless other policies apply this one";
        if !rules.is_empty() {
            problems.warn(policy.name.location.problem(message, is_applied));
        }
    }
}

/// Whether an earlier rule decides on all routes of this one.
fn check_reach(located: &LocatedRule, before: &[LocatedRule], problems: &Problems) {
    let decides = |earlier: &&LocatedRule| earlier.rule.verdict.is_some();
    for earlier in before.iter().filter(decides) {
        let (first, second) = (&earlier.rule.matcher, &located.rule.matcher);
        let (message, remedy) = if *first == Matcher::default() {
            // Only the first rule behind it.
            if before
                .iter()
                .rev()
                .find(|_| true)
                .is_some_and(|last| last.location.path != earlier.location.path)
            {
                return;
            }
            (
                "this rule is never reached: the rule before it decides on every route".to_owned(),
                "move that rule to the end".to_owned(),
            )
        } else if first == second {
            (
                format!(
                    "this rule is never reached: rule {} has the same match",
                    earlier.rule.label
                ),
                "remove one of the two".to_owned(),
            )
        } else if covers(first, second) {
            (
                format!(
                    "this rule is never reached: rule {} decides on all its routes",
                    earlier.rule.label
                ),
                "move this rule before that one".to_owned(),
            )
        } else {
            continue;
        };
        problems.warn(located.location.problem(message, remedy));
        return;
    }
}

/// Whether the first matches all that the second does, as far as prefixes, families and sources show.
fn covers(first: &Matcher, second: &Matcher) -> bool {
    let plain = Matcher {
        prefixes: first.prefixes.clone(),
        families: first.families,
        sources: first.sources.clone(),
        ..Matcher::default()
    };
    let families = first.families.is_none_or(|families| {
        let of_second = second.families;
        of_second.is_some_and(|second| second.intersection(families) == second)
    });
    let sources = first.sources.is_empty()
        || (!second.sources.is_empty() && second.sources.iter().all(|source| first.sources.contains(source)));
    let prefixes = match (&first.prefixes, &second.prefixes) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(first), Some(second)) => contains_all(first, second),
    };
    *first == plain && families && sources && prefixes
}

fn contains_all(first: &PrefixSet, second: &PrefixSet) -> bool {
    first == second
        || (first.len() <= COMPARED
            && second.len() <= COMPARED
            && second
                .iter()
                .all(|range| first.iter().any(|outer| outer.covers(range))))
}

/// Each rule matches the route as it came: what an earlier rule adds is not there yet.
fn check_added(located: &LocatedRule, before: &[LocatedRule], problems: &Problems) {
    let matcher = &located.rule.matcher;
    for earlier in before {
        let actions = &earlier.rule.actions;
        let added = asks_for_added(&matcher.communities, &actions.communities)
            .or_else(|| asks_for_added(&matcher.large_communities, &actions.large_communities))
            .or_else(|| asks_for_added(&matcher.ext_communities, &actions.ext_communities));
        if let Some(community) = added {
            let message = format!(
                "{community} is added by rule {}, and matched here only where the route came with it",
                earlier.rule.label
            );
            let remedy = "a rule matches the route as it came: put what follows into the rule that adds it";
            problems.warn(located.location.problem(message, remedy));
            return;
        }
    }
}

fn asks_for_added<C: CommunityKind>(matching: &CommunityMatch<C>, edit: &Edit<C>) -> Option<String> {
    let sets = matching.any.iter().chain(&matching.all);
    let mut sets = sets.chain(matching.exact.iter().flatten());
    sets.find_map(|set| {
        let added = edit.add.iter().find(|community| set.contains(**community));
        added.map(ToString::to_string)
    })
}

fn check_rule(located: &LocatedRule, problems: &Problems) {
    let LocatedRule { location, rule } = located;
    let Rule {
        matcher,
        actions,
        verdict,
        ..
    } = rule;
    let warn = |message: String, remedy: &str| problems.warn(location.problem(message, remedy));
    match verdict {
        Some(Verdict::Reject) if !actions.is_empty() => warn(
            "'set' has no effect on a route that is rejected".to_owned(),
            "remove it, or accept the route",
        ),
        None if actions.is_empty() => warn(
            "this rule has no effect".to_owned(),
            "add a 'set', or remove the rule",
        ),
        _ => {}
    }
    let both = removed_and_added(&actions.communities)
        .or_else(|| removed_and_added(&actions.large_communities))
        .or_else(|| removed_and_added(&actions.ext_communities));
    if let Some(community) = both {
        warn(
            format!("{community} is removed and added: the route has it in the end"),
            "keep one of the two",
        );
    }
    if let Some(why) = impossible_path(&matcher.as_path) {
        warn(format!("this rule never matches: {why}"), "correct asPath");
    }
    if let Some(prefixes) = &matcher.prefixes
        && let Some(families) = matcher.families
        && !prefixes.is_empty()
        && !prefixes
            .iter()
            .take(COMPARED)
            .any(|range| families.contains(range.prefix.family()))
    {
        warn(
            "this rule never matches: none of its prefixes is of its families".to_owned(),
            "correct one of the two",
        );
    }
    if *verdict == Some(Verdict::Reject)
        && let Some(range) = matcher.prefixes.as_ref().and_then(exact_network)
    {
        warn(
            format!("{} matches this prefix alone, not those inside it", range.prefix),
            &format!("write {{in: {}}} to reject all inside it too", range.prefix),
        );
    }
}

/// A network that stands for itself alone where its parts are meant: a default route is written so, and a host.
fn exact_network(prefixes: &PrefixSet) -> Option<&PrefixRange> {
    let mut few = prefixes.iter().take(COMPARED);
    few.find(|range| {
        let length = range.prefix.len();
        let is_short = 0 < length && length <= range.prefix.family().max_len() / 2;
        let is_exact = range.min_len == length && range.max_len == length;
        is_short
            && is_exact
            && !prefixes
                .iter()
                .take(COMPARED)
                .any(|other| other != *range && other.covers(range))
    })
}

fn removed_and_added<C: CommunityKind>(edit: &Edit<C>) -> Option<String> {
    let remove = edit.remove.as_ref()?;
    // A pattern that is cleared before one of it is added is how one writes 'this one alone'.
    let named = |community: &&C| {
        remove
            .iter()
            .any(|pattern| pattern.to_string() == community.to_string())
    };
    edit.add.iter().find(named).map(ToString::to_string)
}

/// Why no path can be so.
fn impossible_path(path: &AsPathMatch) -> Option<&'static str> {
    let single = |set: &Option<AsnSet>| {
        let mut ranges = set.as_ref()?.ranges();
        let (first, more) = (ranges.next()?, ranges.next());
        (more.is_none() && first.0 == first.1).then_some(first.0)
    };
    let asks = path.contains.is_some() || path.neighbor.is_some() || path.origin.is_some();
    if asks && path.max_hops == Some(0) {
        return Some("a path of length 0 has no AS number");
    }
    let (neighbor, origin): (Option<Asn>, Option<Asn>) = (single(&path.neighbor), single(&path.origin));
    if path.max_hops == Some(1)
        && neighbor
            .zip(origin)
            .is_some_and(|(neighbor, origin)| neighbor != origin)
    {
        return Some("in a path of length 1 the first AS is the last one");
    }
    None
}
