//! Routes of our own that follow from other routes: while another route is there or is not, and aggregates while something is inside.
//!
//! What a rule depends on is noted as destinations are decided; when the rules that hold are others, what we originate is put together
//! again. Without rules none of this costs anything.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashSet;

use super::work::Job;
use super::{Engine, Originated};
use crate::export::sources::Best;
use crate::policy::Source;
use crate::rib::table::DestId;
use crate::types::{Community, PeerId, Prefix};

/// A route of our own under a condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginateRule {
    /// What we originate.
    pub prefix: Prefix,
    /// Why: seen by export policies.
    pub source: Source,
    /// Only while a usable route lies inside it.
    pub aggregate: Option<Aggregate>,
    /// Only while another route is there, or is not.
    pub when: Option<When>,
    /// Communities it starts with.
    pub communities: Vec<Community>,
}

/// What becomes of the routes inside an aggregate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregate {
    /// They are sent as well.
    Beside,
    /// They are not sent while the aggregate is originated.
    InPlace,
}

/// Whether the best path to a prefix is a peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct When {
    /// Exactly this prefix.
    pub prefix: Prefix,
    /// True: while it is there; false: while it is not.
    pub present: bool,
}

/// The rules, and what they depend on.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditional {
    rules: Vec<OriginateRule>,
    /// Prefixes of conditions, and whether a peer's path to them is the best one.
    present: BTreeMap<Prefix, bool>,
    /// Aggregates, and the destinations with a route inside them.
    inside: BTreeMap<Prefix, FxHashSet<DestId>>,
    /// A condition may have changed.
    changed: bool,
}

impl Conditional {
    fn new(rules: Vec<OriginateRule>) -> Self {
        let present = rules.iter().filter_map(|rule| Some((rule.when?.prefix, false)));
        let aggregates = rules.iter().filter(|rule| rule.aggregate.is_some());
        let inside = aggregates.map(|rule| (rule.prefix, FxHashSet::default()));
        Self {
            present: present.collect(),
            inside: inside.collect(),
            rules,
            changed: true,
        }
    }

    /// Whether there are rules.
    pub(super) fn is_in_use(&self) -> bool {
        !self.rules.is_empty()
    }

    fn note(&mut self, dest: DestId, prefix: Prefix, best: Option<&Best>) {
        if let Some(present) = self.present.get_mut(&prefix) {
            let now = best.is_some_and(|best| best.source != PeerId::LOCAL);
            self.changed |= std::mem::replace(present, now) != now;
        }
        for (aggregate, inside) in &mut self.inside {
            if *aggregate == prefix || !aggregate.contains(&prefix) {
                continue;
            }
            let before = inside.is_empty();
            if best.is_some() {
                inside.insert(dest);
            } else {
                inside.remove(&dest);
            }
            self.changed |= before != inside.is_empty();
        }
    }

    fn holds(&self, rule: &OriginateRule) -> bool {
        let when = rule.when.is_none_or(|when| {
            let present = self.present.get(&when.prefix).copied().unwrap_or(false);
            present == when.present
        });
        let inside = || {
            self.inside
                .get(&rule.prefix)
                .is_some_and(|inside| !inside.is_empty())
        };
        when && (rule.aggregate.is_none() || inside())
    }

    /// The routes of rules that hold.
    pub(super) fn active(&self) -> impl Iterator<Item = Originated> {
        let active = self.rules.iter().filter(|rule| self.holds(rule));
        active.map(|rule| Originated {
            prefix: rule.prefix,
            source: rule.source,
            communities: rule.communities.clone(),
        })
    }

    /// Aggregates in whose place nothing else is sent.
    fn in_place(&self) -> BTreeSet<Prefix> {
        let active = self.rules.iter().filter(|rule| self.holds(rule));
        let in_place = active.filter(|rule| rule.aggregate == Some(Aggregate::InPlace));
        in_place.map(|rule| rule.prefix).collect()
    }
}

impl Engine {
    /// Takes the whole set of rules.
    pub(super) fn originate_by_rules(&mut self, rules: Vec<OriginateRule>) {
        if self.local.conditional.rules == rules {
            return;
        }
        self.local.conditional = Conditional::new(rules);
        self.queue_table_walk(Job::Everything(DestId(0)));
        self.follow_conditions();
    }

    /// A destination was decided.
    pub(super) fn note_conditions(&mut self, dest: DestId, prefix: Prefix, best: Option<&Best>) {
        self.local.conditional.note(dest, prefix, best);
    }

    /// Puts together again what we originate, where conditions changed.
    pub(super) fn follow_conditions(&mut self) {
        if !std::mem::take(&mut self.local.conditional.changed) {
            return;
        }
        self.update_originated();
        let in_place = self.local.conditional.in_place();
        if in_place != self.rib.sources.replaced {
            self.rib.sources.replaced = in_place;
            self.queue_table_walk(Job::Everything(DestId(0)));
        }
    }
}
