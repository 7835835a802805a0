//! Originated routes that depend on other routes: on the presence or absence of a peer's route, and aggregates on routes inside them.
//!
//! The conditions are updated as destinations are decided. A condition looks only at paths of peers, so that no rule depends on what
//! rules originate. When the rules that hold change, the originated routes follow, and the destinations whose suppression changed are
//! decided again. Until these are done further changes wait: a route that flaps costs one pass at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rustc_hash::FxHashSet;

use super::work::{Job, WorkItem};
use super::{Engine, Originated};
use crate::policy::Source;
use crate::rib::table::DestId;
use crate::types::{Community, PeerId, Prefix};
use crate::wire::KernelRoute;

/// An originated route, and what the kernel has for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OwnRoute {
    pub(super) route: Originated,
    pub(super) kernel: KernelRoute,
}

/// An originated route with its conditions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginateRule {
    /// The prefix to originate.
    pub prefix: Prefix,
    /// As export policies match it.
    pub source: Source,
    /// Only while a usable route lies inside it.
    pub aggregate: Option<Aggregate>,
    /// What the kernel gets for it meanwhile: nothing, or a blackhole.
    pub kernel: KernelRoute,
    /// Only while another route is there, or is not.
    pub when: Option<When>,
    /// Communities it starts with.
    pub communities: Vec<Community>,
}

/// Whether the routes inside an aggregate are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregate {
    /// They are sent as well.
    Beside,
    /// They are not sent while the aggregate is originated.
    InPlace,
}

/// Whether a peer has a usable path to a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct When {
    /// Exactly this prefix.
    pub prefix: Prefix,
    /// True: while it is there; false: while it is not.
    pub present: bool,
}

/// The rules and the state of their conditions.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditional {
    rules: Vec<OriginateRule>,
    /// Prefixes of conditions, and whether a peer has a usable path to them.
    present: BTreeMap<Prefix, bool>,
    /// Aggregates, and the destinations with a route inside them.
    inside: BTreeMap<Prefix, FxHashSet<DestId>>,
    /// A condition may have changed.
    changed: bool,
}

impl Conditional {
    /// Takes the whole set of rules. Returns whether aggregates were added or removed: then the table is to be walked.
    fn replace_rules(&mut self, rules: Vec<OriginateRule>, is_present: impl Fn(&Prefix) -> bool) -> bool {
        let conditions = rules.iter().filter_map(|rule| rule.when);
        self.present = conditions
            .map(|when| (when.prefix, is_present(&when.prefix)))
            .collect();
        let aggregates = rules.iter().filter(|rule| rule.aggregate.is_some());
        let aggregates: BTreeSet<Prefix> = aggregates.map(|rule| rule.prefix).collect();
        let walk = !aggregates.iter().eq(self.inside.keys());
        self.inside.retain(|prefix, _| aggregates.contains(prefix));
        for prefix in aggregates {
            self.inside.entry(prefix).or_default();
        }
        self.rules = rules;
        self.changed = true;
        walk
    }

    /// Whether there are rules.
    pub(super) fn is_in_use(&self) -> bool {
        !self.rules.is_empty()
    }

    fn note_presence(&mut self, prefix: Prefix, now: bool) {
        let before = self.present.insert(prefix, now);
        self.changed |= before != Some(now);
    }

    fn note_inside(&mut self, dest: DestId, prefix: Prefix, has_route: bool) {
        for (aggregate, inside) in &mut self.inside {
            if *aggregate == prefix || !aggregate.contains(&prefix) {
                continue;
            }
            let before = inside.is_empty();
            if has_route {
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
    pub(super) fn active(&self) -> impl Iterator<Item = OwnRoute> {
        let active = self.rules.iter().filter(|rule| self.holds(rule));
        active.map(|rule| OwnRoute {
            route: Originated {
                prefix: rule.prefix,
                source: rule.source,
                communities: rule.communities.clone(),
            },
            kernel: rule.kernel,
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
        let mut conditional = std::mem::take(&mut self.local.conditional);
        let is_present = |prefix: &Prefix| {
            let dest = self.rib.table.find(prefix);
            dest.is_some_and(|dest| self.has_peer_path(dest))
        };
        if conditional.replace_rules(rules, is_present) {
            self.queue_table_walk(Job::Everything(DestId(0)));
        }
        self.local.conditional = conditional;
        self.follow_conditions();
    }

    /// Updates the conditions after a destination was decided.
    pub(super) fn note_conditions(&mut self, dest: DestId, prefix: Prefix, has_route: bool) {
        if self.local.conditional.present.contains_key(&prefix) {
            let present = self.has_peer_path(dest);
            self.local.conditional.note_presence(prefix, present);
        }
        self.local.conditional.note_inside(dest, prefix, has_route);
        self.follow_conditions();
    }

    /// Whether a peer has a usable path to the destination.
    fn has_peer_path(&self, dest: DestId) -> bool {
        let rib = &self.rib;
        let mut peers = rib
            .table
            .paths(dest)
            .filter(|(_, path)| path.peer != PeerId::LOCAL);
        peers.any(|(_, path)| rib.sources.is_usable(&path, &rib.attrs, &rib.next_hops))
    }

    /// Applies changed conditions.
    pub(super) fn follow_conditions(&mut self) {
        let conditional = &mut self.local.conditional;
        if !conditional.changed || self.work.items.iter().any(|item| matches!(item.job, Job::Decide)) {
            return;
        }
        conditional.changed = false;
        let in_place = conditional.in_place();
        let toggled = in_place.symmetric_difference(&self.rib.sources.replaced);
        let inside = toggled.filter_map(|prefix| conditional.inside.get(prefix));
        let dests: VecDeque<DestId> = inside.flatten().copied().collect();
        self.rib.sources.replaced = in_place;
        if !dests.is_empty() {
            self.work.items.push_back(WorkItem {
                peer: PeerId::LOCAL,
                dests,
                job: Job::Decide,
            });
        }
        self.update_originated();
    }
}
