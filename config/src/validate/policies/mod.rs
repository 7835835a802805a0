//! Policies and lists by name, and their translation for a peer.

mod lists;
mod lower;
mod rules;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bgp_proto::policy::{Policy, Rule, Verdict};
use bgp_proto::types::Asn;

use crate::decode::Located;
use crate::facts::NodeFacts;
use crate::problem::{Location, Problems, quoted};
use crate::schema;
use crate::suggest::nearest;
use lists::Lists;
use lower::Lowering;

const ACCEPT_ALL: &str = "accept-all";
const REJECT_ALL: &str = "reject-all";

/// What a rule may mention.
type Mention = fn(&schema::Rule, &Lists) -> bool;

/// Policies applied inside one another deeper than this are a circle.
const MAX_DEPTH: usize = 16;

/// A peer as policies see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct PeerFacts<'a> {
    pub(super) name: &'a str,
    pub(super) asn: Asn,
    pub(super) external: bool,
}

/// Which way routes go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Direction {
    Import,
    Export,
}

/// A rule where it was written.
#[derive(Clone, Debug)]
pub(super) struct LocatedRule {
    pub(super) location: Location,
    pub(super) rule: Rule,
}

/// What policies come to, by their names, and by the peer and direction where they mention these.
type Cache = BTreeMap<(Vec<String>, Option<(String, u32, bool, Direction)>), Arc<Policy>>;

/// All policies by name, the built-in ones included, and which of them were used.
#[derive(Debug)]
pub(super) struct Policies<'a> {
    written: BTreeMap<&'a str, &'a schema::Policy>,
    lists: Lists,
    made: RefCell<Cache>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Policies<'a> {
    pub(super) fn new(document: &'a schema::Document, facts: &NodeFacts, problems: &Problems) -> Self {
        let mut written = BTreeMap::new();
        for policy in &document.policies {
            if matches!(policy.name.value.as_str(), ACCEPT_ALL | REJECT_ALL) {
                let message = format!("{} is built in", quoted(&policy.name.value));
                problems.error(policy.name.location.problem(message, "choose another name"));
                continue;
            }
            written.insert(policy.name.value.as_str(), policy);
        }
        let policies = Self {
            written,
            lists: Lists::new(&document.lists, facts, problems),
            made: RefCell::default(),
            used: RefCell::default(),
        };
        for policy in policies.written.values() {
            policies.check(policy, problems);
        }
        policies
    }

    /// What the policies that a peer names, one after the other, come to for it; unknown names are reported.
    pub(super) fn find(
        &self,
        names: &[Located<String>],
        peer: PeerFacts<'_>,
        direction: Direction,
        problems: &Problems,
    ) -> Option<Arc<Policy>> {
        let mut known = true;
        for name in names {
            self.note_use(&name.value);
            known &= self.is_known(name, problems);
        }
        let texts: Vec<String> = names.iter().map(|name| name.value.clone()).collect();
        known.then(|| self.make(&texts, peer, direction))
    }

    /// What these policies come to for a peer.
    pub(super) fn make(&self, names: &[String], peer: PeerFacts<'_>, direction: Direction) -> Arc<Policy> {
        let depends = names
            .iter()
            .any(|name| self.mentions(name, lower::mentions_peer, &mut BTreeSet::new()));
        let about = (peer.name.to_owned(), peer.asn.0, peer.external, direction);
        let key = (names.to_vec(), depends.then_some(about));
        if let Some(made) = self.made.borrow().get(&key) {
            return Arc::clone(made);
        }
        let about = depends.then_some((peer, direction));
        let (rules, default) = self.flat(names, about);
        let policy = Arc::new(Policy {
            name: names.join(" + "),
            rules: rules.into_iter().map(|located| located.rule).collect(),
            default,
        });
        self.made.borrow_mut().insert(key, Arc::clone(&policy));
        policy
    }

    /// The rules of these policies one after the other, those of applied policies in their places.
    pub(super) fn flat(
        &self,
        names: &[String],
        about: Option<(PeerFacts<'_>, Direction)>,
    ) -> (Vec<LocatedRule>, Verdict) {
        let lowering = Lowering {
            policies: self,
            lists: &self.lists,
            about,
            steps: Cell::new(0),
        };
        let (mut rules, mut default) = (Vec::new(), Verdict::Reject);
        for (index, name) in names.iter().enumerate() {
            let is_last = index + 1 == names.len();
            match self.shorthand(name) {
                Some(verdict) if is_last => default = verdict,
                _ => lowering.flatten(name, None, 0, &mut rules),
            }
        }
        (rules, default)
    }

    /// What a policy of one word says.
    fn shorthand(&self, name: &str) -> Option<Verdict> {
        match name {
            ACCEPT_ALL => Some(Verdict::Accept),
            REJECT_ALL => Some(Verdict::Reject),
            name => self.written.get(name)?.shorthand,
        }
    }

    /// The names of what a peer uses.
    pub(super) fn names(chain: &[Located<String>]) -> Vec<String> {
        chain.iter().map(|name| name.value.clone()).collect()
    }

    fn is_known(&self, name: &Located<String>, problems: &Problems) -> bool {
        let text = name.value.as_str();
        if self.written.contains_key(text) || matches!(text, ACCEPT_ALL | REJECT_ALL) {
            return true;
        }
        let known = || self.written.keys().copied().chain([ACCEPT_ALL, REJECT_ALL]);
        let mut all: Vec<&str> = known().collect();
        all.sort_unstable();
        let remedy = match nearest(text, known()) {
            Some(meant) => format!("did you mean '{meant}'?"),
            None => format!("known are {}", all.join(", ")),
        };
        let message = format!("no policy is named {}", quoted(text));
        problems.error(name.location.problem(message, remedy));
        false
    }

    /// A policy is used, and those that it applies.
    fn note_use(&self, name: &str) {
        if !self.used.borrow_mut().insert(name.to_owned()) {
            return;
        }
        let Some(policy) = self.written.get(name) else {
            return;
        };
        for rule in &policy.rules {
            if let schema::Then::Apply(other) = &rule.value.then {
                self.note_use(&other.value);
            }
        }
    }

    /// Warns of policies that no peer names.
    pub(super) fn warn_unused(&self, problems: &Problems) {
        let used = self.used.borrow();
        for policy in self.written.values() {
            if !used.contains(&policy.name.value) {
                problems.warn(policy.name.location.problem(
                    "no peer uses this policy",
                    "name it in a peer's import or export, or remove it",
                ));
            }
        }
        self.lists.warn_unused(problems);
    }

    /// Whether what these policies come to depends on the peer's AS number.
    pub(super) fn depend_on_asn(&self, names: &[String]) -> bool {
        names
            .iter()
            .any(|name| self.mentions(name, lower::mentions_asn, &mut BTreeSet::new()))
    }

    /// Whether a rule of the policy, or of one that it applies, mentions this.
    fn mentions(&self, name: &str, what: Mention, seen: &mut BTreeSet<String>) -> bool {
        if !seen.insert(name.to_owned()) {
            return false;
        }
        let rules = self
            .written
            .get(name)
            .into_iter()
            .flat_map(|policy| &policy.rules);
        let mut values = rules.map(|rule| &rule.value);
        values.any(|rule| what(rule, &self.lists))
            || self.applied(name).any(|other| self.mentions(other, what, seen))
    }

    fn check(&self, policy: &schema::Policy, problems: &Problems) {
        for rule in &policy.rules {
            self.lists.check_rule(&rule.value, problems);
            if let schema::Then::Apply(other) = &rule.value.then
                && self.is_known(other, problems)
                && self.leads_to(&other.value, &policy.name.value, &mut BTreeSet::new())
            {
                let message = format!("policy {} applies itself", quoted(&policy.name.value));
                problems.error(
                    other
                        .location
                        .problem(message, "put the common rules into a third policy"),
                );
                return;
            }
        }
        let (rules, _) = self.flat(std::slice::from_ref(&policy.name.value), None);
        rules::check(policy, &rules, problems);
    }

    /// Whether a policy applies another, however many are between them.
    fn leads_to(&self, from: &str, to: &str, seen: &mut BTreeSet<String>) -> bool {
        if from == to {
            return true;
        }
        if !seen.insert(from.to_owned()) {
            return false;
        }
        self.applied(from).any(|other| self.leads_to(other, to, seen))
    }

    /// The policies that one applies.
    fn applied(&self, name: &str) -> impl Iterator<Item = &str> {
        let rules = self
            .written
            .get(name)
            .into_iter()
            .flat_map(|policy| &policy.rules);
        rules.filter_map(|rule| match &rule.value.then {
            schema::Then::Apply(other) => Some(other.value.as_str()),
            _ => None,
        })
    }
}
