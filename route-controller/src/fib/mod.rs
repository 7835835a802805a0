//! Kernel routes: desired, present, and the difference.
//!
//! [`Fib`] is pure: it takes what the speaker wants ([`Fib::routes`]), which next hops are watched, and what
//! the kernel says ([`Mirror`], [`Delta`]); it gives changes for `netlink` and news for the speaker. Only
//! routes with podroute's protocol number, in its table, are its own.

pub(crate) mod cleanup;
#[cfg(test)]
mod cost;
mod delta;
mod dump;
mod foreign;
mod guard;
pub(crate) mod message;
pub(crate) mod netlink;
mod notifications;
mod object_message;
mod objects;
mod options;
mod order;
mod resolve;
mod route;
pub(crate) mod rules;
mod sets;
pub(crate) mod task;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::engine::{FibChange, FibNextHop, KernelRoute, Reach};
use bgp_proto::types::{Family, Prefix};
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) use delta::{Delta, Failure, Op, Progress};
pub(crate) use foreign::ForeignRoute;
use guard::Guard;
pub(crate) use objects::{ObjectOp, Objects, Resilience};
use options::Options;
pub(crate) use resolve::{Address, AddressState, Link, Mirror, Resolved};
use route::MAIN;
pub(crate) use route::{NextHop, PROTOCOL, RouteKey, RouteSpec, Target, WeightedNextHop};
use sets::{SetId, Sets};

/// Metric of the unreachable routes of the node's blocks: the worst there is.
pub(crate) const BLOCK_METRIC: u32 = u32::MAX;

/// What the operator says of kernel routes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FibConfig {
    /// Metric of learned routes.
    pub(crate) metric: u32,
    /// Table that they go into.
    pub(crate) table: u32,
    /// Priority of the policy rule for that table; none: the operator has their own.
    pub(crate) rule_priority: Option<u32>,
    /// Next hops may be reached over a default route.
    pub(crate) via_default: bool,
    /// Learned routes must lie in these.
    pub(crate) pod_cidrs: Vec<Prefix>,
    /// Addresses of Services, which each node answers for itself.
    pub(crate) services: Vec<Prefix>,
    /// Preferred source per family.
    pub(crate) sources: Vec<IpAddr>,
    /// Routes refer to nexthop objects, where the kernel has them.
    pub(crate) objects: bool,
    /// Groups keep flows where they are when their members change.
    pub(crate) resilience: Option<Resilience>,
    /// False: leave the kernel alone.
    pub(crate) install: bool,
}

impl FibConfig {
    /// Whether a learned route may go in at all. `wanted`: an import policy says so.
    pub(crate) fn admits(&self, prefix: &Prefix, wanted: bool) -> bool {
        self.install && (wanted || self.pod_cidrs.iter().any(|cidr| cidr.contains(prefix)))
    }
}

/// Routes on their way from one set of next hops to another, seen together: what a set loses to one other alone is
/// moved by its nexthop group.
#[derive(Debug, Default)]
struct Moves {
    /// Where the routes of a set go; `None` for to more than one other, or away.
    to: FxHashMap<SetId, Option<SetId>>,
    prefixes: Vec<Prefix>,
    /// Sets that had no route left at some moment.
    emptied: Vec<SetId>,
}

/// Desired state, kernel state, and what follows.
#[derive(Debug)]
pub(crate) struct Fib {
    config: FibConfig,
    pub(crate) mirror: Mirror,
    pub(crate) delta: Delta,
    /// Learned: prefix to the number of its set of BGP next hops.
    learned: FxHashMap<Prefix, SetId>,
    /// What import policies want of some of these.
    options: Options,
    /// Own blocks.
    blocks: BTreeSet<Prefix>,
    /// These, and aggregates of Services: free addresses end here.
    unreachable_prefixes: BTreeSet<Prefix>,
    /// Next hops that the speaker wants to know about, and what was reported to it.
    watched: BTreeMap<IpAddr, Option<Reach>>,
    /// What next hops in use resolve to.
    resolved: FxHashMap<IpAddr, Resolved>,
    sets: Sets,
    /// How many sets have a next hop.
    next_hop_refs: FxHashMap<IpAddr, usize>,
    moves: Moves,
    /// Sets that lead nowhere since BFD lost a path, a moment ago: their routes stay as they are until the speaker had its say, because most
    /// are about to lead elsewhere.
    sets_awaiting_reroute: FxHashSet<SetId>,
    pub(crate) objects: Objects,
    /// Learned prefixes that are not installed, by the rule that keeps them out.
    refused: BTreeSet<Prefix>,
    guard: Guard,
}

impl Fib {
    pub(crate) fn new(config: FibConfig) -> Self {
        Self {
            config,
            mirror: Mirror::default(),
            delta: Delta::default(),
            learned: FxHashMap::default(),
            options: Options::default(),
            blocks: BTreeSet::new(),
            unreachable_prefixes: BTreeSet::new(),
            watched: BTreeMap::new(),
            resolved: FxHashMap::default(),
            sets: Sets::default(),
            next_hop_refs: FxHashMap::default(),
            moves: Moves::default(),
            sets_awaiting_reroute: FxHashSet::default(),
            objects: Objects::default(),
            refused: BTreeSet::new(),
            guard: Guard::default(),
        }
    }

    /// The policy rule that should lead to `table`.
    pub(crate) fn rule(&self) -> Option<rules::Rule> {
        let (table, install) = (self.config.table, self.config.install);
        let priority = self.config.rule_priority.filter(|_| install)?;
        Some(rules::Rule { priority, table })
    }

    pub(crate) fn config(&self) -> &FibConfig {
        &self.config
    }

    /// Changes the configuration; everything is computed again.
    pub(crate) fn reconfigure(&mut self, config: FibConfig) {
        self.flush_held();
        let prefixes: Vec<Prefix> = self.learned.keys().copied().collect();
        let before: Vec<RouteKey> = prefixes.iter().map(|prefix| self.key(*prefix)).collect();
        self.config = config;
        self.sets.clear_specs();
        for prefix in &prefixes {
            self.want_learned(*prefix);
        }
        // What goes goes last: packets find their way throughout.
        for (prefix, before) in prefixes.iter().zip(before) {
            if before != self.key(*prefix) {
                self.delta.want(before, None);
            }
        }
    }

    /// The key of a learned route.
    pub(crate) fn key(&self, prefix: Prefix) -> RouteKey {
        let options = self.options(prefix);
        // Other tables than these two are not followed.
        let table = options.table.filter(|table| *table == MAIN);
        RouteKey {
            prefix,
            metric: options.metric.unwrap_or(self.config.metric),
            table: table.unwrap_or(self.config.table),
        }
    }

    /// What import policies want of a learned route.
    fn options(&self, prefix: Prefix) -> KernelRoute {
        self.options.get(&prefix)
    }

    /// Routes of own blocks: in the main table what has no route of its own is unreachable; another table, which may be
    /// asked first, leaves them to the main one.
    fn block_routes(&self, block: Prefix) -> Vec<(RouteKey, Target)> {
        let key = |table| RouteKey {
            prefix: block,
            metric: BLOCK_METRIC,
            table,
        };
        let mut routes = vec![(key(MAIN), Target::Unreachable)];
        if self.config.table != MAIN {
            routes.push((key(self.config.table), Target::Throw));
        }
        routes
    }

    fn want_blocks(&mut self, blocks: &[Prefix], wanted: bool) {
        let routes: Vec<_> = blocks
            .iter()
            .flat_map(|block| self.block_routes(*block))
            .collect();
        for (key, target) in routes {
            let source = None;
            let spec = Arc::new(RouteSpec { target, source });
            self.delta.want(key, wanted.then_some(spec));
        }
    }

    fn is_block_ready(&self, block: Prefix) -> bool {
        let routes = self.block_routes(block);
        routes.iter().all(|(key, _)| self.delta.is_installed(key))
    }

    /// The whole set of own blocks.
    pub(crate) fn set_blocks(
        &mut self,
        blocks: impl IntoIterator<Item = Prefix>,
        aggregates: impl IntoIterator<Item = Prefix>,
    ) {
        let blocks: BTreeSet<Prefix> = blocks.into_iter().collect();
        let unreachable: BTreeSet<Prefix> = blocks.iter().copied().chain(aggregates).collect();
        let gone: Vec<Prefix> = self
            .unreachable_prefixes
            .difference(&unreachable)
            .copied()
            .collect();
        self.want_blocks(&gone, false);
        (self.blocks, self.unreachable_prefixes) = (blocks, unreachable);
        self.want_blocks(
            &self.unreachable_prefixes.iter().copied().collect::<Vec<_>>(),
            self.config.install,
        );
        for prefix in self.learned.keys().copied().collect::<Vec<_>>() {
            self.want_learned(prefix);
        }
    }

    /// Whether every own block has its unreachable route.
    pub(crate) fn blocks_ready(&self) -> bool {
        !self.config.install
            || self
                .unreachable_prefixes
                .iter()
                .all(|block| self.is_block_ready(*block))
    }

    /// Own blocks, and whether their unreachable routes are in.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (Prefix, bool)> {
        self.blocks
            .iter()
            .map(|block| (*block, self.is_block_ready(*block)))
    }

    /// Learned routes changed. `more`: others follow at once, so that what moves is held until [`Fib::flush_held`].
    pub(crate) fn routes(&mut self, changes: Vec<FibChange>, more: bool) {
        for change in changes {
            self.route(change);
        }
        if !more {
            self.flush_held();
        } else if self.moves.prefixes.is_empty() {
            self.settle();
        }
    }

    /// Whether routes are held that [`Fib::flush_held`] writes.
    pub(crate) fn is_holding(&self) -> bool {
        !self.moves.prefixes.is_empty() || !self.sets_awaiting_reroute.is_empty()
    }

    /// Nothing is held any more: what moved is written, and what still leads nowhere goes.
    pub(crate) fn flush_held(&mut self) {
        self.settle();
        let sets_awaiting_reroute = std::mem::take(&mut self.sets_awaiting_reroute);
        if sets_awaiting_reroute.is_empty() {
            return;
        }
        for id in &sets_awaiting_reroute {
            if let Some(key) = self.sets.key(*id).cloned() {
                self.objects.unwant(&key);
            }
        }
        self.want_sets(&sets_awaiting_reroute);
    }

    /// The routes of these sets are wanted as they are now.
    fn want_sets(&mut self, sets: &FxHashSet<SetId>) {
        let prefixes: Vec<Prefix> = self
            .learned
            .iter()
            .filter(|(_, set)| sets.contains(set))
            .map(|(prefix, _)| *prefix)
            .collect();
        prefixes.into_iter().for_each(|prefix| self.want_learned(prefix));
    }

    fn route(&mut self, change: FibChange) {
        let prefix = change.prefix;
        let key = self.key(prefix);
        let options = self.options.set(prefix, change.route);
        // The new set first: a set that stays never counts as unused.
        let is_route = !change.next_hops.is_empty() || change.route.blackhole;
        let new = is_route.then(|| self.join_set(&change.next_hops, prefix.family()));
        let old = match new {
            Some(id) => self.learned.insert(prefix, id),
            None => self.learned.remove(&prefix),
        };
        if let Some(old) = old {
            self.leave_set(old, new);
        }
        if old.is_some() && new.is_some() && options == change.route {
            self.moves.prefixes.push(prefix);
            return;
        }
        self.want_learned(prefix);
        // What goes goes last: packets find their way throughout.
        if key != self.key(prefix) {
            self.delta.want(key, None);
        }
    }

    fn join_set(&mut self, next_hops: &Arc<[FibNextHop]>, family: Family) -> SetId {
        let (id, is_new) = self.sets.join(next_hops, family);
        if is_new {
            for hop in next_hops.iter() {
                *self.next_hop_refs.entry(hop.addr).or_default() += 1;
            }
        }
        id
    }

    /// A route leaves a set, for another or for good.
    fn leave_set(&mut self, id: SetId, to: Option<SetId>) {
        let known = self.moves.to.entry(id).or_insert(to);
        if *known != to {
            *known = None;
        }
        if self.sets.leave(id) {
            self.moves.emptied.push(id);
        }
    }

    /// Next hops that no set has any more: nobody follows them, so what is known of them goes stale.
    fn forget_unused(&mut self, next_hops: &[FibNextHop]) {
        for hop in next_hops {
            if let Some(refs) = self.next_hop_refs.get_mut(&hop.addr) {
                *refs -= 1;
                if *refs == 0 {
                    self.next_hop_refs.remove(&hop.addr);
                    self.resolved.remove(&hop.addr);
                }
            }
        }
    }

    /// Sets without routes give up their groups, to the set that has their routes now where it is one; then routes that
    /// moved are wanted as they are now.
    fn settle(&mut self) {
        let moves = std::mem::take(&mut self.moves);
        for id in &moves.emptied {
            if self.sets.routes(*id) == 0 {
                self.give_up(*id, moves.to.get(id).copied().flatten());
            }
        }
        for prefix in moves.prefixes {
            self.want_learned(prefix);
        }
    }

    fn give_up(&mut self, id: SetId, to: Option<SetId>) {
        let heir = to.filter(|to| self.sets.routes(*to) > 0);
        let heir = heir.and_then(|to| self.sets.key(to).cloned());
        self.sets_awaiting_reroute.remove(&id);
        let Some(key) = self.sets.forget(id) else { return };
        match heir {
            Some(heir) => self.objects.hand_over(&key, &heir),
            None => self.objects.unwant(&key),
        }
        self.forget_unused(&key.0);
    }

    /// Computes what a learned prefix should have in the kernel.
    fn want_learned(&mut self, prefix: Prefix) {
        let key = self.key(prefix);
        let allowed = self.refusal(&prefix).is_none();
        if self.learned.contains_key(&prefix) && !allowed {
            self.refused.insert(prefix);
        } else {
            self.refused.remove(&prefix);
        }
        let spec = if allowed { self.learned_spec(prefix) } else { None };
        self.delta.want(key, spec);
    }

    fn learned_spec(&mut self, prefix: Prefix) -> Option<Arc<RouteSpec>> {
        let id = *self.learned.get(&prefix)?;
        let options = self.options(prefix);
        if options.blackhole {
            let (target, source) = (Target::Blackhole, None);
            return Some(Arc::new(RouteSpec { target, source }));
        }
        let spec = match self.sets.spec(id) {
            Some(known) => known.clone(),
            None => self.spec_of(id),
        };
        // The kernel refuses an address that the host does not have.
        let source = options.source.filter(|addr| self.mirror.is_source(*addr));
        match source {
            None => spec,
            source => spec.map(|spec| {
                let target = spec.target.clone();
                Arc::new(RouteSpec { target, source })
            }),
        }
    }

    /// What a set of next hops comes to now.
    fn spec_of(&mut self, id: SetId) -> Option<Arc<RouteSpec>> {
        let key = self.sets.key(id)?.clone();
        let next_hops = self.weighted(&key.0);
        let source = self.source(key.1);
        let target = match (next_hops.is_empty(), self.objects.enabled()) {
            (true, _) => None,
            (false, true) => Some(Target::Group(self.objects.want(&key, &next_hops))),
            (false, false) => Some(Target::NextHops(next_hops)),
        };
        let spec = target.map(|target| Arc::new(RouteSpec { target, source }));
        self.sets.set_spec(id, spec.clone());
        spec
    }

    /// What next hops resolve to, sorted; a way out that several lead to has the largest of their weights.
    fn weighted(&mut self, next_hops: &[FibNextHop]) -> Vec<WeightedNextHop> {
        let mut weights = BTreeMap::new();
        for next_hop in next_hops {
            for hop in self.resolve_used(next_hop.addr).hops {
                let weight = weights.entry(hop).or_insert(next_hop.weight);
                *weight = next_hop.weight.max(*weight);
            }
        }
        weights
            .into_iter()
            .map(|(hop, weight)| WeightedNextHop { hop, weight })
            .collect()
    }

    /// Links, gateways and weights of a route's target.
    pub(crate) fn next_hops<'a>(&'a self, spec: &'a RouteSpec) -> &'a [WeightedNextHop] {
        match &spec.target {
            Target::NextHops(next_hops) => next_hops,
            Target::Group(id) => self.objects.next_hops(*id),
            Target::Unreachable | Target::Blackhole | Target::Throw => &[],
        }
    }

    /// Objects that no route refers to any more; nothing while routes are under way.
    pub(crate) fn object_removals(&mut self) -> Vec<ObjectOp> {
        if !self.objects.has_leftovers() || self.delta.is_busy() {
            return Vec::new();
        }
        self.objects.removals(&self.delta.groups())
    }

    /// The node's own address, if the host really has it: the kernel refuses others.
    fn source(&self, family: Family) -> Option<IpAddr> {
        let of_family = |addr: &IpAddr| Prefix::host(*addr).family() == family;
        self.config
            .sources
            .iter()
            .copied()
            .find(|addr| of_family(addr) && self.mirror.is_source(*addr))
    }

    fn resolve_used(&mut self, addr: IpAddr) -> Resolved {
        if let Some(known) = self.resolved.get(&addr) {
            return known.clone();
        }
        let resolved = self.mirror.resolve(addr);
        self.resolved.insert(addr, resolved.clone());
        resolved
    }

    /// The speaker wants to know about these; the answer is due at once.
    pub(crate) fn watch(&mut self, list: Vec<IpAddr>) -> Vec<(IpAddr, Reach)> {
        list.into_iter()
            .map(|addr| {
                let reach = self.mirror.resolve(addr).reach;
                if self.watched.insert(addr, Some(reach)).is_none() {
                    self.judge_around(addr);
                }
                (addr, reach)
            })
            .collect()
    }

    /// The speaker does not want to know about these any more.
    pub(crate) fn unwatch(&mut self, list: &[IpAddr]) {
        for addr in list {
            if self.watched.remove(addr).is_some() {
                self.judge_around(*addr);
            }
        }
    }

    /// The mirror changed: routes whose next hops resolve differently are wanted again; changes for the speaker.
    pub(crate) fn resolve_again(&mut self) -> Vec<(IpAddr, Reach)> {
        self.guard_again();
        let mut moved = Vec::new();
        for addr in self.resolved.keys().copied().collect::<Vec<_>>() {
            let now = self.mirror.resolve(addr);
            if self.resolved.get(&addr) != Some(&now) {
                self.resolved.insert(addr, now);
                moved.push(addr);
            }
        }
        let moved = self.changed_specs(&moved);
        if !moved.is_empty() {
            self.want_sets(&moved);
        }
        let mut news = Vec::new();
        for (addr, reported) in &mut self.watched {
            let reach = self.mirror.resolve(*addr).reach;
            if reported.replace(reach) != Some(reach) {
                news.push((*addr, reach));
            }
        }
        news
    }

    /// The sets with one of these next hops whose routes change: not those that a nexthop object stands for, as long as
    /// they lead anywhere.
    fn changed_specs(&mut self, moved: &[IpAddr]) -> FxHashSet<SetId> {
        let touched: Vec<SetId> = self
            .sets
            .known()
            .filter(|(_, (next_hops, _))| next_hops.iter().any(|hop| moved.contains(&hop.addr)))
            .map(|(id, _)| id)
            .collect();
        let mut changed = FxHashSet::default();
        for id in touched {
            let before = self.sets.spec(id).cloned().flatten();
            let now = self.spec_of(id);
            // What went with its link the kernel has dropped already.
            if now.is_none() && before.is_some() && self.is_dead(id) {
                self.sets_awaiting_reroute.insert(id);
                continue;
            }
            self.sets_awaiting_reroute.remove(&id);
            if now.is_none()
                && let Some(key) = self.sets.key(id).cloned()
            {
                self.objects.unwant(&key);
            }
            if now != before {
                changed.insert(id);
            }
        }
        changed
    }

    /// Whether BFD lost a next hop of a set.
    fn is_dead(&self, id: SetId) -> bool {
        let key = self.sets.key(id);
        key.is_some_and(|(next_hops, _)| next_hops.iter().any(|hop| self.mirror.dead.contains(&hop.addr)))
    }

    /// Addresses of the host changed: preferred sources may have come or gone.
    pub(crate) fn sources_again(&mut self) {
        self.sets.clear_specs();
        for prefix in self.learned.keys().copied().collect::<Vec<_>>() {
            self.want_learned(prefix);
        }
    }
}

#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
pub(crate) mod tests;
