//! What the operator sees: routes with every path and why it is used or not, and counts per peer.
//! Reading changes nothing and is bounded by the page that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::{Engine, FibHop, Reach, SessionId};
use crate::rib::table::{DestId, Ineligible, Path};
use crate::types::{Family, PathId, PeerId, Prefix};
use crate::wire::PathAttrs;

/// Which routes to show.
#[derive(Clone, Debug, Default)]
pub struct RouteFilter {
    /// Only prefixes inside this one (or itself).
    pub within: Option<Prefix>,
    /// Only the most specific prefix that covers this one.
    pub covering: Option<Prefix>,
    /// Only paths from this peer.
    pub received_from: Option<PeerId>,
    /// Only prefixes advertised to this peer.
    pub advertised_to: Option<PeerId>,
    /// Begin after this prefix (paging).
    pub after: Option<Prefix>,
    /// At most so many prefixes; 0 means 1000.
    pub limit: usize,
}

/// Why a path is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unused {
    /// Import refused it.
    Refused(Ineligible),
    /// The next hop is not reachable.
    Unresolved,
    /// The next hop is one of our own addresses.
    OwnNextHop,
    /// The kernel has not answered yet.
    Resolving,
}

impl std::fmt::Display for Unused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unused::Refused(why) => why.fmt(f),
            Unused::Unresolved => f.write_str("no route to the next hop"),
            Unused::OwnNextHop => f.write_str("the next hop is our own address"),
            Unused::Resolving => f.write_str("the next hop is being looked up"),
        }
    }
}

/// A path as shown.
#[derive(Clone, Debug)]
pub struct PathView {
    /// Whose path; [`PeerId::LOCAL`] for our own.
    pub peer: PeerId,
    /// The peer's name, `None` for our own.
    pub peer_name: Option<String>,
    /// Its identifier from the peer (RFC 7911).
    pub path_id: PathId,
    /// It is the best path.
    pub best: bool,
    /// It is one of the equal paths that packets take.
    pub used: bool,
    /// Its peer has not announced it again since its session ended or a refresh began (RFC 4724 §4.2, RFC 7313 §4).
    pub stale: bool,
    /// `None` when it can be used.
    pub unused: Option<Unused>,
    /// Attributes after import policy; as received when import refused the path.
    pub attrs: PathAttrs,
}

/// A prefix with its paths, the best first.
#[derive(Clone, Debug)]
pub struct RouteView {
    /// The prefix.
    pub prefix: Prefix,
    /// Its paths.
    pub paths: Vec<PathView>,
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
}

impl Engine {
    /// The routes of a filter, by prefix. `None` beyond the last page.
    #[must_use]
    pub fn routes(&self, filter: &RouteFilter) -> Vec<RouteView> {
        let limit = if filter.limit == 0 { 1000 } else { filter.limit };
        let after = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: Vec<(Prefix, DestId)> = self
            .rib
            .table
            .dests()
            .map(|(dest, prefix)| (prefix, dest))
            .filter(|(prefix, dest)| self.shows(filter, prefix, *dest) && above(after, prefix))
            .collect();
        if filter.covering.is_some() {
            found.sort_unstable_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
            found.truncate(1);
        }
        found.sort_unstable();
        found
            .into_iter()
            .take(limit)
            .map(|(prefix, dest)| self.route_view(prefix, dest, filter))
            .collect()
    }

    /// Routes in the table's own order, which is no order for people: about `most` from this place on, and the place
    /// where to go on. A page costs what it holds, however large the table is.
    #[must_use]
    pub fn routes_from(&self, place: u32, most: usize) -> (Vec<RouteView>, Option<u32>) {
        let filter = RouteFilter::default();
        let mut routes = Vec::new();
        let mut next = place;
        while routes.len() < most && next < self.rib.table.bound() {
            let dest = DestId(next);
            next += 1;
            if let Some(prefix) = self.rib.table.prefix(dest)
                && self.shows(&filter, &prefix, dest)
            {
                routes.push(self.route_view(prefix, dest, &filter));
            }
        }
        (routes, Some(next).filter(|next| *next < self.rib.table.bound()))
    }

    fn shows(&self, filter: &RouteFilter, prefix: &Prefix, dest: DestId) -> bool {
        self.rib.table.find(prefix) == Some(dest)
            && self.rib.table.first(dest).is_some()
            && filter.within.is_none_or(|within| within.contains(prefix))
            && filter.covering.is_none_or(|covered| prefix.contains(&covered))
            && filter
                .received_from
                .is_none_or(|peer| self.rib.table.paths(dest).any(|(_, path)| path.peer == peer))
            && filter
                .advertised_to
                .is_none_or(|peer| self.is_advertised(peer, dest))
    }

    fn is_advertised(&self, peer: PeerId, dest: DestId) -> bool {
        self.group_of(peer)
            .is_some_and(|group| group.was_told(peer, dest))
    }

    fn route_view(&self, prefix: Prefix, dest: DestId, filter: &RouteFilter) -> RouteView {
        let best = self
            .rib
            .sources
            .best(&self.rib.table, dest, &self.rib.attrs, &self.rib.next_hops)
            .is_some();
        let (hops, _) = self.fib.sets.get(self.rib.table.fib(dest));
        let paths = self
            .rib
            .table
            .paths(dest)
            .enumerate()
            .filter(|(_, (_, path))| filter.received_from.is_none_or(|peer| path.peer == peer))
            .map(|(position, (_, path))| {
                let best = best && position == 0;
                self.path_view(&path, best, prefix.family(), &hops)
            })
            .collect();
        RouteView { prefix, paths }
    }

    fn path_view(&self, path: &Path, best: bool, family: Family, hops: &[FibHop]) -> PathView {
        let unused = self.unused(path);
        let attrs = self.rib.attrs.get(path.imported.unwrap_or(path.received));
        let next_hop = attrs.next_hop.addr();
        let peer = self.peers.get(&path.peer);
        PathView {
            used: unused.is_none() && (best || hops.iter().any(|hop| hop.addr == next_hop)),
            stale: peer.is_some_and(|peer| peer.generations(family).is_stale(path.generation)),
            peer: path.peer,
            peer_name: peer.map(|peer| peer.routing.name.clone()),
            path_id: path.path_id,
            best,
            unused,
            attrs: attrs.clone(),
        }
    }

    fn unused(&self, path: &Path) -> Option<Unused> {
        let imported = match path.imported {
            Ok(imported) => imported,
            Err(why) => return Some(Unused::Refused(why)),
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
                Some(Reach::Own) => Unused::OwnNextHop,
                Some(_) => Unused::Unresolved,
                None => Unused::Resolving,
            },
        )
    }

    /// Whether this session is established, and the peer's latest.
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
        }
    }

    /// For each of these peers, how many prefixes have a usable path from it and from nobody outside the set.
    #[must_use]
    pub fn only_from(&self, leaving: &BTreeSet<PeerId>) -> BTreeMap<PeerId, usize> {
        let usable = |path: &Path| {
            let imported = path.imported.ok();
            imported.is_some_and(|imported| {
                self.rib
                    .sources
                    .metric(path, imported, &self.rib.attrs, &self.rib.next_hops)
                    .is_some()
            })
        };
        let count = |peer: &PeerId| {
            let mut dests: Vec<DestId> = self
                .peers
                .get(peer)
                .map(|peer| peer.adj_in.notes().collect())
                .unwrap_or_default();
            dests.sort_unstable();
            dests.dedup();
            let alone = |dest: &&DestId| {
                let mut from_it = self
                    .rib
                    .table
                    .paths(**dest)
                    .filter(|(_, path)| path.peer == *peer);
                let mut others = self
                    .rib
                    .table
                    .paths(**dest)
                    .filter(|(_, path)| !leaving.contains(&path.peer));
                from_it.any(|(_, path)| usable(&path)) && !others.any(|(_, path)| usable(&path))
            };
            dests.iter().filter(alone).count()
        };
        leaving.iter().map(|peer| (*peer, count(peer))).collect()
    }

    /// How many prefixes, paths' attribute sets and next hops there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (
            self.rib.table.len(),
            self.rib.attrs.len(),
            self.rib.next_hops.len(),
        )
    }
}

fn above(after: Bound<Prefix>, prefix: &Prefix) -> bool {
    match after {
        Bound::Excluded(after) => *prefix > after,
        Bound::Included(after) => *prefix >= after,
        Bound::Unbounded => true,
    }
}
