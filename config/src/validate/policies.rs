//! Checks of `policies`, and the names by which peers refer to them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bgp_proto::policy::{Policy, Rule, Verdict};

use crate::decode::At;
use crate::problem::{Sink, Spot, quoted};
use crate::schema;
use crate::suggest::nearest;

const ACCEPT_ALL: &str = "accept-all";
const REJECT_ALL: &str = "reject-all";

/// All policies by name, the built-in ones included, and which of them were used.
#[derive(Debug)]
pub(super) struct Policies {
    named: BTreeMap<String, Arc<Policy>>,
    spots: BTreeMap<String, Spot>,
    used: RefCell<BTreeSet<String>>,
}

impl Policies {
    pub(super) fn new(policies: &[schema::Policy], sink: &Sink) -> Self {
        let mut named = BTreeMap::new();
        let mut spots = BTreeMap::new();
        for policy in policies {
            if matches!(policy.name.value.as_str(), ACCEPT_ALL | REJECT_ALL) {
                let message = format!("{} is built in", quoted(&policy.name.value));
                sink.error(policy.name.spot.problem(message, "choose another name"));
                continue;
            }
            check_rules(policy, sink);
            let rules = policy.rules.iter().map(|rule| rule.value.clone()).collect();
            let model = Policy {
                name: policy.name.value.clone(),
                rules,
                default: policy.default,
            };
            named.insert(policy.name.value.clone(), Arc::new(model));
            spots.insert(policy.name.value.clone(), policy.name.spot.clone());
        }
        named.insert(ACCEPT_ALL.to_owned(), Arc::new(Policy::accept_all()));
        let reject_all = Policy {
            name: REJECT_ALL.to_owned(),
            ..Policy::reject_all()
        };
        named.insert(REJECT_ALL.to_owned(), Arc::new(reject_all));
        Self {
            named,
            spots,
            used: RefCell::default(),
        }
    }

    /// The policy that a peer names; an unknown name is reported.
    pub(super) fn find(&self, name: &At<String>, sink: &Sink) -> Option<Arc<Policy>> {
        self.used.borrow_mut().insert(name.value.clone());
        let found = self.named.get(&name.value).cloned();
        if found.is_none() {
            let known = || self.named.keys().map(String::as_str);
            let remedy = match nearest(&name.value, known()) {
                Some(meant) => format!("did you mean '{meant}'?"),
                None => format!("known are {}", known().collect::<Vec<_>>().join(", ")),
            };
            sink.error(
                name.spot
                    .problem(format!("no policy is named {}", quoted(&name.value)), remedy),
            );
        }
        found
    }

    /// The policy of a name, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<&Policy> {
        self.named.get(name).map(Arc::as_ref)
    }

    /// Warns of policies that no peer names.
    pub(super) fn warn_unused(&self, sink: &Sink) {
        let used = self.used.borrow();
        for (_, spot) in self.spots.iter().filter(|(name, _)| !used.contains(*name)) {
            sink.warn(spot.problem(
                "no peer uses this policy",
                "name it in a peer's import or export, or remove it",
            ));
        }
    }
}

fn check_rules(policy: &schema::Policy, sink: &Sink) {
    if let Some(rule) = policy.rules.get(Policy::MAX_RULES) {
        let count = policy.rules.len();
        let message = format!("the policy has {count} rules, more than {}", Policy::MAX_RULES);
        sink.error(rule.spot.problem(
            message,
            "join rules that differ only in prefixes: a rule takes any number of them",
        ));
    }
    let ends = |rule: &&At<Rule>| {
        rule.value.matcher == bgp_proto::policy::Matcher::default() && rule.value.verdict.is_some()
    };
    let last = policy
        .rules
        .iter()
        .position(|rule| ends(&rule))
        .map(|index| index + 1);
    if let Some(rule) = last.and_then(|index| policy.rules.get(index)) {
        let message = "this rule is never reached: the rule before it decides on every route";
        sink.warn(rule.spot.problem(message, "move that rule to the end"));
    }
    policy.rules.iter().for_each(|rule| check_rule(rule, sink));
}

fn check_rule(rule: &At<Rule>, sink: &Sink) {
    let Rule {
        matcher,
        actions,
        verdict,
    } = &rule.value;
    match verdict {
        Some(Verdict::Reject) if !actions.is_empty() => {
            sink.warn(rule.spot.problem(
                "'set' has no effect on a route that is rejected",
                "remove it, or accept the route",
            ));
        }
        None if actions.is_empty() => {
            sink.warn(
                rule.spot
                    .problem("this rule has no effect", "add a 'set', or remove the rule"),
            );
        }
        _ => {}
    }
    let Some(families) = matcher.families else { return };
    let possible = |range: &bgp_proto::policy::PrefixRange| families.contains(range.prefix.family());
    if !matcher.prefixes.is_empty() && !matcher.prefixes.iter().any(possible) {
        sink.warn(rule.spot.problem(
            "this rule never matches: none of its prefixes is of its families",
            "correct one of the two",
        ));
    }
}
