//! Import: from a peer's batch to paths in the table (RFC 4271 §9.1.1). Checks loops and next hops and
//! applies the import policy.
//!
//! A rejected path stays in the table with its reason: `show routes` can display it, and a changed policy
//! needs no route refresh.

use std::borrow::Borrow;
use std::net::IpAddr;
use std::time::Duration;

use super::adj_in::family_index;
use super::peers::Peer;
use super::trial::neighbor;
use super::{Engine, Output, OverLimit, PeerKind, PeerRouting, SessionId};
use crate::policy::{ActionContext, Memo, Route, RuleSet, Source};
use crate::rib::attrs::AttrId;
use crate::rib::generation::Generations;
use crate::rib::table::{DestId, Ineligible, Path};
use crate::types::{Asn, Community, Family, PathId, PeerId, Prefix, Role, scope_of};
use crate::wire::{Nlri, Notification, PathAttrs, RouteBatch, RouteOp, cease};

/// Approximate memory of a path in octets, without its attributes: its entries in the table, in Adj-RIB-Out
/// and in the shadow of the kernel's routes.
const PATH_OCTETS: usize = 256;
/// The operator is warned when a peer's routes take this percentage of the configured memory.
const MEMORY_WARNING: usize = 80;
/// After a session ended for its memory use, the peer stays down for this time.
const MEMORY_PAUSE: Duration = Duration::from_secs(300);

/// Import result of an announcement's attributes, which its prefixes mostly share.
#[derive(Default)]
pub(super) struct ImportCache {
    /// Result of a policy that does not match prefixes.
    imported: Option<(Family, Result<AttrId, Ineligible>)>,
    checked: Option<(Family, Result<(), Ineligible>)>,
    /// Whether the policy matches prefixes.
    looks_at_prefixes: Option<bool>,
    /// Results of conditions that do not depend on the prefix.
    memo: Memo,
    /// The last policy results, the newest first: routes of one message mostly match a few sets of rules. They hold references.
    results: [Option<(RuleSet, AttrId)>; 4],
}

impl ImportCache {
    /// Releases its references.
    pub(super) fn release(self, engine: &mut Engine) {
        for (_, id) in self.results.into_iter().flatten() {
            engine.rib.attrs.release(id, &mut engine.rib.next_hops);
        }
    }
}

impl Engine {
    /// Imports a batch of routes.
    pub(super) fn import_batch(&mut self, session: SessionId, mut batch: RouteBatch) {
        let peer = session.peer;
        for op in std::mem::take(&mut batch.ops) {
            let known = self.peers.get(&peer).filter(|known| known.is_latest(session));
            let established = known.and_then(|known| known.session.as_ref());
            if established.is_none_or(|session| session.over_limit) {
                return;
            }
            match op {
                RouteOp::Announce { attrs, nlri } => self.announce_all(peer, attrs, batch.slice(&nlri)),
                RouteOp::Withdraw { nlri } => self.withdraw_all(peer, batch.slice(&nlri)),
                RouteOp::EndOfRib(family) => {
                    self.end_restart(peer, &[family].into_iter().collect()); // RFC 4724 §4.2
                    self.work.ends.push((session, family));
                }
            }
        }
    }

    fn announce_all(&mut self, peer: PeerId, attrs: PathAttrs, nlri: &[Nlri]) {
        let received = self.rib.attrs.intern_from(peer, attrs, &mut self.rib.next_hops);
        let mut cache = ImportCache::default();
        let generation = |family| self.peers.get(&peer).map(|known| known.generation(family));
        let [v4, v6] = Family::ALL.map(|family| generation(family).unwrap_or_default());
        for (position, nlri) in nlri.iter().enumerate() {
            let imported = self.import_path(peer, &nlri.prefix, received, &mut cache);
            let generation = match nlri.prefix.family() {
                Family::Ipv4 => v4,
                Family::Ipv6 => v6,
            };
            let path = Path {
                peer,
                path_id: nlri.path_id,
                received,
                imported,
                generation,
            };
            self.announce(&nlri.prefix, path);
            if position % 64 == 63 && self.check_limits(peer, nlri.prefix.family()) {
                break;
            }
        }
        cache.release(self);
        self.rib.attrs.release(received, &mut self.rib.next_hops);
        if let Some(last) = nlri.last() {
            self.check_limits(peer, last.prefix.family());
        }
    }

    /// Puts a path into the table. The caller keeps its own references.
    pub(super) fn announce(&mut self, prefix: &Prefix, path: Path) {
        let dest = self.rib.table.dest(prefix);
        match self.rib.table.path(dest, path.peer, path.path_id) {
            Some((at, old)) => {
                self.retain(&path);
                self.rib.table.replace(at, path);
                self.reindex_replaced(dest, prefix.family(), &old, &path);
                self.release(&old);
                if old.eq_ignoring_generation(&path) {
                    return;
                }
            }
            None => {
                // Without path identifiers there is one path.
                if path.path_id != PathId(0) && !self.within_path_limit(dest, prefix, &path) {
                    return;
                }
                self.retain(&path);
                self.rib.table.insert(dest, path);
                let next_hop = self.next_hop_of(&path);
                if let Some(peer) = self.peers.get_mut(&path.peer) {
                    peer.adj_in.insert_path(dest, prefix.family(), next_hop);
                }
            }
        }
        self.queue_to_feeds(path.peer, path.path_id, prefix);
        self.mark_dirty(dest);
    }

    /// Updates the Adj-RIB-In index after a path replaced another path of its source.
    fn reindex_replaced(&mut self, dest: DestId, family: Family, old: &Path, new: &Path) {
        if (old.imported, old.generation) == (new.imported, new.generation) {
            return;
        }
        let (before, now) = (self.next_hop_of(old), self.next_hop_of(new));
        let Some(peer) = self.peers.get_mut(&new.peer) else {
            return;
        };
        if !peer.generations(family).is_counted(old.generation) {
            peer.adj_in.insert_path(dest, family, now);
        } else if before != now {
            peer.adj_in.index(dest, now);
        }
    }

    /// Whether another path of this source is accepted. An unbounded number of paths of a prefix would delay
    /// all other work.
    fn within_path_limit(&mut self, dest: DestId, prefix: &Prefix, path: &Path) -> bool {
        let Some(peer) = self.peers.get_mut(&path.peer) else {
            return true;
        };
        let limit = usize::from(peer.routing.max_paths_per_prefix);
        let paths = self.rib.table.paths(dest);
        if limit == 0
            || paths
                .filter(|(_, other)| other.peer == path.peer)
                .take(limit)
                .count()
                < limit
        {
            return true;
        }
        let id = peer.id(path.peer);
        if let Some(session) = peer.session.as_mut().filter(|session| !session.path_limit_warned) {
            session.path_limit_warned = true;
            self.out.push_back(Output::PathLimitWarning(id, *prefix));
        }
        false
    }

    /// Removes paths of a peer.
    pub(super) fn withdraw_all(&mut self, peer: PeerId, all: impl IntoIterator<Item = impl Borrow<Nlri>>) {
        let mut removed = [0; Family::ALL.len()];
        let Some(generations) = self.peers.get(&peer).map(Peer::all_generations) else {
            return;
        };
        for nlri in all {
            let nlri = nlri.borrow();
            if self.withdraw(peer, nlri, &generations)
                && let Some(count) = removed.get_mut(family_index(nlri.prefix.family()))
            {
                *count += 1;
            }
        }
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        for (family, count) in Family::ALL.into_iter().zip(removed) {
            known.adj_in.remove_paths(family, count);
        }
        self.compact_adj_in(peer, removed.iter().sum());
    }

    /// Removes a path; returns whether it existed and was counted.
    fn withdraw(&mut self, peer: PeerId, nlri: &Nlri, generations: &[Generations; 2]) -> bool {
        let Some(dest) = self.rib.table.find_next(&nlri.prefix) else {
            return false;
        };
        let Some(path) = self.rib.table.take(dest, peer, nlri.path_id) else {
            return false;
        };
        self.release(&path);
        self.queue_to_feeds(peer, nlri.path_id, &nlri.prefix);
        self.mark_dirty(dest);
        let generations = generations.get(family_index(nlri.prefix.family()));
        generations.is_some_and(|generations| generations.is_counted(path.generation))
    }

    fn check_limits(&mut self, peer: PeerId, family: Family) -> bool {
        self.check_prefix_limit(peer, family) || self.check_memory_limit(peer)
    }

    /// A peer whose routes take more memory than configured ends its session with Cease/8, Out of Resources
    /// (RFC 4486 §4). Returns whether the limit is exceeded.
    fn check_memory_limit(&mut self, peer: PeerId) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else {
            return false;
        };
        let Some(limit) = known.routing.max_memory else {
            return false;
        };
        let used = path_octets(known) + self.rib.attrs.memory(peer);
        let (over, many) = (used > limit, used > limit / 100 * MEMORY_WARNING);
        let id = known.id(peer);
        let Some(session) = known.session.as_mut().filter(|_| many) else {
            return false;
        };
        if !std::mem::replace(&mut session.memory_limit_warned, true) {
            self.out.push_back(Output::MemoryLimitWarning(id, used));
        }
        if over && !std::mem::replace(&mut session.over_limit, true) {
            let notification = Notification::cease(cease::OUT_OF_RESOURCES);
            self.out.push_back(Output::Fail(id, notification, MEMORY_PAUSE));
        }
        over
    }

    /// Approximate memory of a peer's routes in octets.
    pub(super) fn memory_of(&self, peer: PeerId) -> usize {
        let known = self.peers.get(&peer);
        known.map_or(0, |known| path_octets(known) + self.rib.attrs.memory(peer))
    }

    /// More prefixes than configured end the session with Cease/1 (RFC 4486 §4). Returns whether the limit is
    /// exceeded.
    fn check_prefix_limit(&mut self, peer: PeerId, family: Family) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else {
            return false;
        };
        let Some(limit) = known.routing.max_prefixes else {
            return false;
        };
        let count = known.adj_in.count(family);
        let over = count > limit.limit as usize;
        let many = over || limit.warn_at.is_some_and(|at| count >= at as usize);
        let id = known.id(peer);
        let Some(session) = &mut known.session else {
            return false;
        };
        if many && !session.prefix_limit_warned.contains(family) {
            session.prefix_limit_warned.insert(family);
            self.out.push_back(Output::PrefixLimitWarning(id, family, count));
        }
        let OverLimit::Cease { restart_after } = limit.action else {
            return false;
        };
        if over && !session.over_limit {
            session.over_limit = true;
            let notification = Notification::max_prefixes(family, limit.limit);
            self.out.push_back(Output::Fail(id, notification, restart_after));
        }
        over
    }

    /// The result of import for a path: its attributes after policy (`cache` or `received` holds the
    /// reference), or why it is not eligible.
    pub(super) fn import_path(
        &mut self,
        peer: PeerId,
        prefix: &Prefix,
        received: AttrId,
        cache: &mut ImportCache,
    ) -> Result<AttrId, Ineligible> {
        if self.local.pod_blocks.iter().any(|block| block.contains(prefix)) {
            return Err(Ineligible::OwnBlock);
        }
        if let Some((family, imported)) = cache.imported
            && family == prefix.family()
        {
            return imported;
        }
        let imported = self.evaluate_import(peer, prefix, received, cache);
        if cache.looks_at_prefixes == Some(false) {
            cache.imported = Some((prefix.family(), imported));
        }
        imported
    }

    fn evaluate_import(
        &mut self,
        peer: PeerId,
        prefix: &Prefix,
        received: AttrId,
        cache: &mut ImportCache,
    ) -> Result<AttrId, Ineligible> {
        let Some(known) = self.peers.get(&peer) else {
            return Err(Ineligible::Policy);
        };
        let policy = &known.routing.import;
        let looks_at_prefixes = *cache
            .looks_at_prefixes
            .get_or_insert_with(|| policy.looks_at_prefixes());
        let attrs = self.rib.attrs.get(received);
        match cache.checked {
            Some((family, outcome)) if family == prefix.family() => outcome?,
            _ => {
                let outcome = self.check_attrs(&known.routing, prefix.family(), attrs);
                cache.checked = Some((prefix.family(), outcome));
                outcome?;
            }
        }
        let route = import_route(&known.routing, *prefix, attrs);
        let rules = if looks_at_prefixes {
            policy.evaluate_with(route, &mut cache.memo)
        } else {
            policy.evaluate(route)
        };
        let rules = rules.ok_or(Ineligible::Policy)?;
        let mut results = cache.results.iter().flatten();
        if let Some((_, id)) = results.find(|(of, _)| *of == rules) {
            return Ok(*id);
        }
        let peer_addr = self.rib.sources.address(peer);
        let id = match changed_by_import_rules(&known.routing, peer_addr, attrs, rules) {
            None => self.rib.attrs.retain(received),
            Some(changed) => {
                let replaced = changed.next_hop != attrs.next_hop;
                if replaced && !is_usable(changed.next_hop.addr(), prefix.family()) {
                    return Err(Ineligible::BadNextHop);
                }
                self.rib.attrs.intern_from(peer, changed, &mut self.rib.next_hops)
            }
        };
        cache.results.rotate_right(1);
        let [newest, ..] = &mut cache.results;
        if let Some((_, oldest)) = newest.replace((rules, id)) {
            // Paths that use the oldest set have their own references.
            self.rib.attrs.release(oldest, &mut self.rib.next_hops);
        }
        Ok(id)
    }

    /// Checks loops and next hops (RFC 4271 §9.1.2, §6.3; RFC 4456 §8).
    fn check_attrs(
        &self,
        routing: &PeerRouting,
        family: Family,
        attrs: &PathAttrs,
    ) -> Result<(), Ineligible> {
        let own = |asn| attrs.as_path.count(asn) > usize::from(routing.allow_own_as);
        if own(routing.local_asn) || (self.config.asn != routing.local_asn && own(self.config.asn)) {
            return Err(Ineligible::AsLoop);
        }
        let external = routing.kind == PeerKind::External;
        if external && routing.rules.enforce_first_as && attrs.as_path.neighbor() != routing.remote_asn {
            return Err(Ineligible::FirstAs);
        }
        let remote_asn = routing.remote_asn.unwrap_or_default();
        let leaks = |role: Role| role.is_leak(attrs.only_to_customer(), remote_asn);
        if external && routing.rules.role.is_some_and(leaks) {
            return Err(Ineligible::RouteLeak);
        }
        if !external && let Some(extra) = attrs.extra.as_deref() {
            if extra.originator_id == Some(self.config.router_id) {
                return Err(Ineligible::OriginatorLoop);
            }
            if extra.cluster_list.contains(&self.cluster_id()) && self.is_reflector() {
                return Err(Ineligible::ClusterLoop);
            }
        }
        if is_usable(attrs.next_hop.addr(), family) {
            Ok(())
        } else {
            Err(Ineligible::BadNextHop)
        }
    }

    /// Takes the references that a path in the table holds.
    pub(super) fn retain(&mut self, path: &Path) {
        self.rib.attrs.retain(path.received);
        if let Some(imported) = changed_by_import(path) {
            self.rib.attrs.retain(imported);
        }
    }

    pub(super) fn release(&mut self, path: &Path) {
        self.rib.attrs.release(path.received, &mut self.rib.next_hops);
        if let Some(imported) = changed_by_import(path) {
            self.rib.attrs.release(imported, &mut self.rib.next_hops);
        }
    }
}

/// Approximate memory of a peer's paths, without their attributes.
fn path_octets(peer: &Peer) -> usize {
    let paths = Family::ALL.map(|family| peer.adj_in.count(family));
    paths.iter().sum::<usize>() * PATH_OCTETS
}

/// A received route as the import policy sees it.
pub(super) fn import_route<'a>(routing: &'a PeerRouting, prefix: Prefix, attrs: &'a PathAttrs) -> Route<'a> {
    Route {
        prefix,
        attrs,
        source: Source::Peer,
        from: Some(neighbor(routing)),
    }
}

/// The attributes of an accepted route after import; `None` when nothing changes.
pub(super) fn changed_by_import_rules(
    routing: &PeerRouting,
    peer_addr: Option<IpAddr>,
    attrs: &PathAttrs,
    rules: RuleSet,
) -> Option<PathAttrs> {
    // RFC 7705 §3.1: the number that the peer knows us by stands in the path too.
    let prepend = routing
        .rules
        .local_as
        .is_some_and(|local_as| !local_as.no_prepend);
    // RFC 8326 §4: the route is to be the last choice in all of the AS. Inside it LOCAL_PREF says so, and stays as it is.
    let external = routing.kind == PeerKind::External;
    let shuts_down = external && attrs.has_community(Community::GRACEFUL_SHUTDOWN);
    let stays_here = external && is_unbounded_blackhole(attrs);
    let customer_mark = customer_mark(routing, attrs);
    if rules.is_empty() && !prepend && !shuts_down && !stays_here && customer_mark.is_none() {
        return None;
    }
    let mut changed = attrs.clone();
    if prepend {
        changed.as_path = changed.as_path.prepend(routing.local_asn, 1);
    }
    if stays_here {
        let communities = changed.communities.iter().copied();
        changed.communities = communities.chain([Community::NO_EXPORT]).collect();
    }
    if customer_mark.is_some() {
        changed.extra_mut().only_to_customer = customer_mark;
    }
    let context = ActionContext {
        local_asn: routing.local_asn,
        peer_addr,
        others_prepended: false,
    };
    routing.import.apply(rules, &mut changed, context);
    if external && changed.has_community(Community::GRACEFUL_SHUTDOWN) {
        changed.local_pref = Some(0);
    }
    Some(changed)
}

/// The ONLY_TO_CUSTOMER that a received route gets (RFC 9234 §5, ingress 3).
fn customer_mark(routing: &PeerRouting, attrs: &PathAttrs) -> Option<Asn> {
    let marks = routing.kind == PeerKind::External && routing.rules.role.is_some_and(Role::marks_received);
    routing
        .remote_asn
        .filter(|_| marks && attrs.only_to_customer().is_none())
}

/// RFC 7999 §3.2: a route with BLACKHOLE from another AS gets NO_EXPORT, so that it does not go beyond ours. The import policy sees it
/// without, and may remove it from routes that are to go on.
fn is_unbounded_blackhole(attrs: &PathAttrs) -> bool {
    attrs.has_community(Community::BLACKHOLE)
        && !attrs.has_community(Community::NO_EXPORT)
        && !attrs.has_community(Community::NO_ADVERTISE)
}

fn changed_by_import(path: &Path) -> Option<AttrId> {
    path.imported.ok().filter(|imported| *imported != path.received)
}

/// Whether the address can be a next hop of this family. A link-local address needs an interface (RFC 4291
/// §2.5.6, RFC 2545 §2).
fn is_usable(addr: IpAddr, family: Family) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            family == Family::Ipv4 && !(addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast())
        }
        IpAddr::V6(addr) if addr.is_unicast_link_local() => scope_of(addr.into()).is_some(),
        IpAddr::V6(addr) => !(addr.is_unspecified() || addr.is_multicast()),
    }
}
