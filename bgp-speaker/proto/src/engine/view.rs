//! Views for the operator: routes with all their paths and why each is used or not, and counts per peer.
//! Reading changes nothing, and its cost is bounded by the page size.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, FibNextHop, Reach, SessionId, Trace};
use crate::export::sources::Best;
use crate::rib::decision::{DecisionStep, Loss, losses};
use crate::rib::path::PathIdx;
use crate::rib::table::{DestId, Ineligible, Path};
use crate::types::{Family, FamilySet, PathId, PeerId, Prefix};
use crate::wire::PathAttrs;

/// Prefixes to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Prefixes {
    /// All.
    #[default]
    All,
    /// This prefix, by lookup.
    Exactly(Prefix),
    /// The longest match for this prefix, by lookup.
    Covering(Prefix),
    /// This prefix and more specific ones.
    Within(Prefix),
}

/// Routes to show.
#[derive(Clone, Debug, Default)]
pub struct RouteFilter {
    /// Prefixes.
    pub prefixes: Prefixes,
    /// Only paths from this peer.
    pub received_from: Option<PeerId>,
    /// Only prefixes advertised to this peer.
    pub advertised_to: Option<PeerId>,
    /// With what is sent to this peer, or why it is not: only prefixes with a best path.
    pub export_to: Option<PeerId>,
}

/// Why a path is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnusedReason {
    /// Import rejected it.
    Refused(Ineligible),
    /// The next hop is not reachable.
    Unresolved,
    /// The next hop is one of our own addresses.
    OwnNextHop,
    /// The kernel has not resolved the next hop yet.
    Resolving,
}

impl std::fmt::Display for UnusedReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UnusedReason::Refused(why) => why.fmt(f),
            UnusedReason::Unresolved => f.write_str("no route to the next hop"),
            UnusedReason::OwnNextHop => f.write_str("the next hop is our own address"),
            UnusedReason::Resolving => f.write_str("the next hop is being looked up"),
        }
    }
}

/// A path.
#[derive(Clone, Debug)]
pub struct PathView {
    /// Its source; [`PeerId::LOCAL`] for originated routes.
    pub peer: PeerId,
    /// The peer's name; `None` for originated routes.
    pub peer_name: Option<String>,
    /// Path identifier of the peer (RFC 7911).
    pub path_id: PathId,
    /// It is the best path.
    pub best: bool,
    /// It is one of the equal paths in use.
    pub used: bool,
    /// Stale: not announced again since the session ended or a refresh began (RFC 4724 §4.2, RFC 7313 §4).
    pub stale: bool,
    /// `None` when it is eligible.
    pub unused: Option<UnusedReason>,
    /// Decision of the import policy of its peer; `None` for originated routes.
    pub import: Option<Trace>,
    /// Attributes after import policy; as received when import rejected the path.
    pub attrs: PathAttrs,
    /// Attributes as received, where import changed them.
    pub received: Option<PathAttrs>,
    /// Why the decision process prefers another path.
    pub lost: Option<Lost>,
}

/// Why the decision process prefers another path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The step that eliminated the path.
    pub step: DecisionStep,
    /// The name of the preferred path's peer; `None` for an originated route.
    pub to: Option<String>,
}

/// What is sent of a best path to a peer.
#[derive(Clone, PartialEq, Debug)]
pub enum ExportView {
    /// It was sent with these attributes.
    Sent(Box<PathAttrs>),
    /// The export rules or the policy withhold it.
    Withheld(Trace),
    /// It was received from this peer.
    OwnRoute,
    /// The peer's address is its next hop (RFC 4271 §5.1.3).
    OwnNextHop,
    /// The session does not carry the family.
    OtherFamily,
    /// The session is not established, or the route is not sent yet.
    NotYet,
}

/// A prefix with its paths, the best first.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// The prefix.
    pub prefix: Prefix,
    /// Its paths.
    pub paths: Vec<PathView>,
    /// Where just this prefix was asked for: what the export policies of established peers decide about the best path, by name.
    pub exports: Vec<(String, Trace)>,
    /// What is sent to the peer of [`RouteFilter::export_to`].
    pub export: Option<ExportView>,
}

/// Counts of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerCounts {
    /// Prefixes received, IPv4 and IPv6.
    pub received: [usize; 2],
    /// Prefixes advertised, IPv4 and IPv6.
    pub advertised: [usize; 2],
    /// Bytes not yet written to the peer.
    pub outstanding: usize,
    /// Approximate memory of the peer's routes in octets.
    pub memory: usize,
}

impl Engine {
    /// Up to `limit` routes from this cursor on, in table order (not sorted), and the cursor of the next
    /// page. A page visits at most one slice of the table, whatever its size. A prefix that appears or
    /// disappears between two pages may be missed or occur twice.
    #[must_use]
    pub fn routes(&self, filter: &RouteFilter, cursor: u32, limit: usize) -> (Vec<RouteView>, Option<u32>) {
        let found = |prefix: Prefix| {
            let dest = self.rib.table.find(&prefix)?;
            self.view_of(filter, dest)
        };
        let looked_up = match filter.prefixes {
            Prefixes::Exactly(prefix) => found(prefix),
            Prefixes::Within(prefix) if prefix.len() == prefix.family().max_len() => found(prefix),
            Prefixes::Covering(prefix) => (0..=prefix.len())
                .rev()
                .find_map(|len| found(Prefix::new(prefix.addr(), len))),
            Prefixes::All | Prefixes::Within(_) => return self.scan_routes(filter, cursor, limit),
        };
        (looked_up.into_iter().collect(), None)
    }

    fn scan_routes(&self, filter: &RouteFilter, cursor: u32, limit: usize) -> (Vec<RouteView>, Option<u32>) {
        let mut routes = Vec::new();
        let mut next = DestId(cursor);
        for dest in self.next_slice(&mut next) {
            if routes.len() == limit {
                next = dest;
                break;
            }
            routes.extend(self.view_of(filter, dest));
        }
        (routes, Some(next.0).filter(|_| !self.is_table_end(next)))
    }

    /// The view of a destination; `None` when it has no path or does not match.
    fn view_of(&self, filter: &RouteFilter, dest: DestId) -> Option<RouteView> {
        let prefix = self.rib.table.prefix(dest)?;
        if let Prefixes::Within(within) = filter.prefixes
            && !within.contains(&prefix)
        {
            return None;
        }
        let mut paths = self.rib.table.paths(dest);
        let from = |peer| move |(_, path): (_, Path)| path.peer == peer;
        match filter.received_from {
            Some(peer) => paths.any(from(peer)),
            None => paths.next().is_some(),
        }
        .then_some(())?;
        let advertised = filter
            .advertised_to
            .is_none_or(|peer| self.is_advertised(peer, dest))
            && (filter.export_to.is_none() || self.best_of(dest).is_some());
        advertised.then(|| self.route_view(prefix, dest, filter))
    }

    fn best_of(&self, dest: DestId) -> Option<Best> {
        let rib = &self.rib;
        rib.sources.best(&rib.table, dest, &rib.attrs, &rib.next_hops)
    }

    /// What is sent to a peer of the best path.
    fn export_view(&self, peer: PeerId, prefix: Prefix, dest: DestId, best: Best) -> ExportView {
        let rib = (&self.rib.attrs, &self.rib.sources);
        let group = self.group_of(peer);
        let sent = group.and_then(|group| group.advertised_attrs(peer, dest, prefix, rib));
        if let Some(sent) = sent {
            return ExportView::Sent(Box::new(sent));
        }
        if best.source == peer {
            return ExportView::OwnRoute;
        }
        let (Some(group), Some(trace)) = (group, self.trace_export(peer, prefix, best)) else {
            return ExportView::NotYet;
        };
        if !group.key.families.contains(prefix.family()) {
            ExportView::OtherFamily
        } else if !trace.is_accepted() {
            ExportView::Withheld(trace)
        } else if group.excluded_from(dest).any(|excluded| excluded == peer) {
            ExportView::OwnNextHop
        } else {
            ExportView::NotYet
        }
    }

    /// Why the paths of a destination that are not the best one lost.
    fn lost_paths(&self, dest: DestId) -> Vec<(PathIdx, Lost)> {
        let rib = &self.rib;
        let mut candidates = Vec::new();
        rib.sources
            .candidates(&rib.table, dest, &rib.attrs, &rib.next_hops, &mut candidates);
        let name = |at| {
            let peer = self.peers.get(&rib.table.at(at)?.peer)?;
            Some(peer.routing.name.clone())
        };
        let lost = |loss: Loss| {
            let (step, to) = (loss.step, name(loss.to));
            (loss.at, Lost { step, to })
        };
        losses(candidates).into_iter().map(lost).collect()
    }

    fn is_advertised(&self, peer: PeerId, dest: DestId) -> bool {
        self.group_of(peer)
            .is_some_and(|group| group.was_advertised(peer, dest))
    }

    fn route_view(&self, prefix: Prefix, dest: DestId, filter: &RouteFilter) -> RouteView {
        let chosen = self.best_of(dest);
        let best = chosen.is_some();
        let export = filter
            .export_to
            .zip(chosen)
            .map(|(peer, best)| self.export_view(peer, prefix, dest, best));
        let is_asked_for = match filter.prefixes {
            Prefixes::Exactly(wanted) | Prefixes::Within(wanted) => wanted == prefix,
            Prefixes::Covering(_) => true,
            Prefixes::All => false,
        };
        let chosen = chosen.filter(|_| is_asked_for);
        let exports = chosen.map(|best| self.trace_exports(prefix, best));
        let (hops, _) = self.fib.sets.get(self.rib.table.fib(dest));
        let mut lost = self.lost_paths(dest);
        let paths = self
            .rib
            .table
            .paths(dest)
            .enumerate()
            .filter(|(_, (_, path))| filter.received_from.is_none_or(|peer| path.peer == peer))
            .map(|(position, (at, path))| {
                let best = best && position == 0;
                let lost_at = lost.iter().position(|(loser, _)| *loser == at);
                PathView {
                    lost: lost_at.map(|position| lost.swap_remove(position).1),
                    ..self.path_view(&path, best, prefix, &hops)
                }
            })
            .collect();
        RouteView {
            prefix,
            paths,
            exports: exports.unwrap_or_default(),
            export,
        }
    }

    fn path_view(&self, path: &Path, best: bool, prefix: Prefix, hops: &[FibNextHop]) -> PathView {
        let unused = self.unused(path);
        let attrs = self.rib.attrs.get(path.imported.unwrap_or(path.received));
        let next_hop = attrs.next_hop.addr();
        let peer = self.peers.get(&path.peer);
        PathView {
            used: unused.is_none() && (best || hops.iter().any(|hop| hop.addr == next_hop)),
            stale: peer.is_some_and(|peer| peer.generations(prefix.family()).is_stale(path.generation)),
            peer: path.peer,
            peer_name: peer.map(|peer| peer.routing.name.clone()),
            path_id: path.path_id,
            best,
            unused,
            import: self.trace_import(path.peer, prefix, self.rib.attrs.get(path.received)),
            attrs: attrs.clone(),
            received: path
                .imported
                .is_ok_and(|imported| imported != path.received)
                .then(|| self.rib.attrs.get(path.received).clone()),
            lost: None,
        }
    }

    fn unused(&self, path: &Path) -> Option<UnusedReason> {
        let imported = match path.imported {
            Ok(imported) => imported,
            Err(why) => return Some(UnusedReason::Refused(why)),
        };
        if self
            .rib
            .sources
            .metric(path, imported, &self.rib.attrs, &self.rib.next_hops)
            .is_some()
        {
            return None;
        }
        Some(
            match self.rib.next_hops.reach(self.rib.attrs.next_hop(imported)) {
                Some(Reach::Own) => UnusedReason::OwnNextHop,
                Some(_) => UnusedReason::Unresolved,
                None => UnusedReason::Resolving,
            },
        )
    }

    /// Whether this session is established and the peer's latest.
    #[must_use]
    pub fn is_established(&self, session: SessionId) -> bool {
        self.peers
            .get(&session.peer)
            .is_some_and(|peer| peer.has(session))
    }

    /// Counts of a peer.
    #[must_use]
    pub fn counts(&self, id: PeerId) -> PeerCounts {
        let Some(peer) = self.peers.get(&id) else {
            return PeerCounts::default();
        };
        let group = self.group_of(id);
        let advertised = |family| group.map_or(0, |group| group.count_for(id, family));
        PeerCounts {
            received: Family::ALL.map(|family| peer.adj_in.count(family)),
            advertised: Family::ALL.map(advertised),
            outstanding: peer.session.as_ref().map_or(0, |session| session.outstanding),
            memory: self.memory_of(id),
        }
    }

    /// Families of which an established peer was sent a route; `None` while no session is established.
    #[must_use]
    pub fn advertised_families(&self) -> Option<FamilySet> {
        let mut up = self.peers.iter().filter(|(_, peer)| peer.is_up()).peekable();
        up.peek()?;
        let groups = up.filter_map(|(id, _)| Some((*id, self.group_of(*id)?)));
        let mut sent = FamilySet::EMPTY;
        for (id, group) in groups {
            let families = Family::ALL.into_iter();
            families
                .filter(|family| group.count_for(id, *family) > 0)
                .for_each(|family| sent.insert(family));
        }
        Some(sent)
    }

    /// For each of these peers, the number of prefixes with a usable path from it and from no peer outside
    /// the set: in one slice of the table from this cursor on, and the cursor of the next slice.
    #[must_use]
    pub fn count_exclusive_prefixes(
        &self,
        leaving: &BTreeSet<PeerId>,
        cursor: u32,
    ) -> (BTreeMap<PeerId, usize>, Option<u32>) {
        let (mut counts, mut next) = (BTreeMap::new(), DestId(cursor));
        let rib = &self.rib;
        for dest in self.next_slice(&mut next) {
            let paths = rib.table.paths(dest);
            let usable = paths.filter(|(_, path)| rib.sources.is_usable(path, &rib.attrs, &rib.next_hops));
            let mut sources: Vec<PeerId> = usable.map(|(_, path)| path.peer).collect();
            if sources.iter().all(|peer| leaving.contains(peer)) {
                sources.sort_unstable();
                sources.dedup();
                sources
                    .into_iter()
                    .for_each(|peer| *counts.entry(peer).or_default() += 1);
            }
        }
        (counts, Some(next.0).filter(|_| !self.is_table_end(next)))
    }

    /// Number of slots for destinations, including free ones.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.rib.table.bound() as usize
    }

    /// Numbers of prefixes, attribute sets and next hops.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (
            self.rib.table.len(),
            self.rib.attrs.len(),
            self.rib.next_hops.len(),
        )
    }
}
