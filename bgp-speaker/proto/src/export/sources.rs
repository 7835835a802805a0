//! Sources of paths: how each peer's routes were learned, and the originated prefixes.
//!
//! ```
//! use bgp_proto::export::sources::Sources;
//! use bgp_proto::types::PeerId;
//!
//! let (peer, addr) = (PeerId(1), "192.0.2.1".parse().unwrap());
//! let mut sources = Sources::new(false);
//! sources.set_address(peer, addr);
//! assert_eq!(sources.peer_at(addr), Some(peer));
//! sources.remove(peer);
//! assert_eq!(sources.peer_at(addr), None);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::rules::Learned;
use crate::peer::PeerKind;
use crate::policy::{Neighbor, Source};
use crate::rib::attrs::{AttrId, AttrTable};
use crate::rib::decision::{Candidate, Multipath, select};
use crate::rib::nexthop::{NextHops, Reach};
use crate::rib::table::{DestId, Path, Table};
use crate::types::{Asn, PathId, PeerId, Prefix};
use crate::wire::PathAttrs;

/// The best path of a destination, as groups export it.
#[derive(Clone, Copy, Debug)]
pub struct Best {
    /// Attributes after import.
    pub attrs: AttrId,
    /// Its source.
    pub source: PeerId,
    /// How it was learned.
    pub learned: Learned,
}

/// What policies can say of a peer besides its relation to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerName {
    /// As configured.
    pub name: Arc<str>,
    /// The peer's AS number.
    pub asn: Asn,
}

/// The sources of paths.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// How the routes of each peer were learned.
    pub peers: HashMap<PeerId, Learned, FxBuildHasher>,
    /// Names and AS numbers of peers, for policies.
    pub names: HashMap<PeerId, PeerName, FxBuildHasher>,
    /// Address of each peer in its latest session.
    addresses: HashMap<PeerId, IpAddr, FxBuildHasher>,
    /// Peers by address.
    by_address: HashMap<IpAddr, PeerId, FxBuildHasher>,
    /// Originated prefixes.
    pub local: BTreeMap<Prefix, Source>,
    /// Originated aggregates that replace the routes inside them.
    pub replaced: BTreeSet<Prefix>,
    /// Peers on this host: their routes whose next hop is one of our addresses lead to this host.
    pub on_this_host: BTreeSet<PeerId>,
    /// All next hops count as reachable.
    pub assume_reachable: bool,
}

impl Sources {
    /// No sources yet.
    #[must_use]
    pub fn new(assume_reachable: bool) -> Self {
        Self {
            assume_reachable,
            ..Self::default()
        }
    }

    /// Removes a peer that is no longer configured.
    pub fn remove(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        self.names.remove(&peer);
        self.remove_address(peer);
        self.on_this_host.remove(&peer);
    }

    /// Sets the address of a peer.
    pub fn set_address(&mut self, peer: PeerId, addr: IpAddr) {
        if addr.is_loopback() {
            self.on_this_host.insert(peer);
        } else {
            self.on_this_host.remove(&peer);
        }
        self.remove_address(peer);
        self.addresses.insert(peer, addr);
        self.by_address.insert(addr, peer);
    }

    fn remove_address(&mut self, peer: PeerId) {
        if let Some(addr) = self.addresses.remove(&peer)
            && self.peer_at(addr) == Some(peer)
        {
            self.by_address.remove(&addr);
        }
    }

    /// The address of a peer in its latest session.
    #[must_use]
    pub fn address(&self, peer: PeerId) -> Option<IpAddr> {
        self.addresses.get(&peer).copied()
    }

    /// The peer with this address.
    #[must_use]
    pub fn peer_at(&self, addr: IpAddr) -> Option<PeerId> {
        self.by_address.get(&addr).copied()
    }

    /// How a path of this source to this prefix was learned; `None` if the source was removed.
    #[must_use]
    pub fn learned(&self, source: PeerId, prefix: &Prefix) -> Option<Learned> {
        if source == PeerId::LOCAL {
            return self.local.get(prefix).copied().map(Learned::Local);
        }
        self.peers.get(&source).copied()
    }

    /// Whether an originated aggregate is sent in place of the prefix.
    #[must_use]
    pub fn is_replaced(&self, prefix: &Prefix) -> bool {
        let mut aggregates = self.replaced.iter();
        aggregates.any(|aggregate| aggregate != prefix && aggregate.contains(prefix))
    }

    /// The peer that a path was learned from, as policies see it.
    #[must_use]
    pub fn neighbor(&self, source: PeerId, learned: Learned) -> Option<Neighbor<'_>> {
        let Learned::Peer(kind, _) = learned else {
            return None;
        };
        let PeerName { name, asn } = self.names.get(&source)?;
        Some(Neighbor {
            name,
            asn: *asn,
            external: kind == PeerKind::External,
        })
    }

    /// The cost of a path's next hop; `None` if the path is not usable (RFC 4271 §9.1.2.1).
    #[must_use]
    pub fn metric(
        &self,
        path: &Path,
        imported: AttrId,
        attrs: &AttrTable,
        next_hops: &NextHops,
    ) -> Option<u32> {
        if path.peer == PeerId::LOCAL || self.assume_reachable {
            return Some(0);
        }
        match next_hops.reach(attrs.next_hop(imported)) {
            Some(Reach::Reachable { metric }) => Some(metric),
            Some(Reach::Own) if self.on_this_host.contains(&path.peer) => Some(0),
            // A blackhole route needs no next hop.
            Some(Reach::Unreachable | Reach::Own) | None => {
                let extra = attrs.get(imported).extra.as_deref();
                extra.is_some_and(|extra| extra.kernel.blackhole).then_some(0)
            }
        }
    }

    /// Whether a path takes part in the decision.
    #[must_use]
    pub fn is_usable(&self, path: &Path, attrs: &AttrTable, next_hops: &NextHops) -> bool {
        let imported = path.imported.ok();
        imported.is_some_and(|imported| self.metric(path, imported, attrs, next_hops).is_some())
    }

    /// Appends the usable paths of a destination with all decision criteria.
    pub fn candidates(
        &self,
        table: &Table,
        dest: DestId,
        attrs: &AttrTable,
        next_hops: &NextHops,
        out: &mut Vec<Candidate>,
    ) {
        for (at, path) in table.paths(dest) {
            let Ok(imported) = path.imported else { continue };
            let Some(metric) = self.metric(&path, imported, attrs, next_hops) else {
                continue;
            };
            let mut candidate = Candidate {
                at,
                local: path.peer == PeerId::LOCAL,
                rank: attrs.rank(imported),
                external: false,
                metric,
                router_id: 0,
                clusters: 0,
                peer_addr: None,
                path_id: path.path_id,
            };
            self.fill_tie_breakers(&mut candidate, path.peer, attrs.get(imported));
            out.push(candidate);
        }
    }

    /// Fills in the criteria that matter only among several paths. The paths of a restarting peer count as
    /// before.
    fn fill_tie_breakers(&self, candidate: &mut Candidate, peer: PeerId, attrs: &PathAttrs) {
        candidate.peer_addr = self.address(peer);
        if let Some(Learned::Peer(kind, router_id)) = self.peers.get(&peer) {
            candidate.external = *kind == PeerKind::External;
            candidate.router_id = router_id.get();
        }
        if let Some(extra) = attrs.extra.as_deref() {
            candidate.router_id = extra.originator_id.map_or(candidate.router_id, |id| id.get()); // RFC 4456 §9
            candidate.clusters = extra.cluster_list.len();
        }
    }

    /// The usable paths of a destination by export identifier: all, or the best `limit` of them in order (RFC
    /// 7911 leaves the choice to the implementation).
    #[must_use]
    pub fn add_path_set(
        &self,
        table: &Table,
        dest: DestId,
        attrs: &AttrTable,
        next_hops: &NextHops,
        limit: u16,
    ) -> Vec<(PathId, Best)> {
        let mut candidates = Vec::new();
        self.candidates(table, dest, attrs, next_hops, &mut candidates);
        let ranked = if limit > 0 && candidates.len() > usize::from(limit) {
            rank_best(candidates, usize::from(limit))
        } else {
            candidates
        };
        let prefix = table.prefix(dest);
        ranked
            .into_iter()
            .filter_map(|candidate| {
                let best = self.as_best(&table.at(candidate.at)?, &prefix?)?;
                Some((candidate.at.export_id(), best))
            })
            .collect()
    }

    /// The best path of a decided destination: the first one, if it is usable.
    #[must_use]
    pub fn best(&self, table: &Table, dest: DestId, attrs: &AttrTable, next_hops: &NextHops) -> Option<Best> {
        let path = table.first(dest)?;
        let usable = self.is_usable(&path, attrs, next_hops);
        usable.then(|| self.as_best(&path, &table.prefix(dest)?))?
    }

    /// The exported form of a usable path; `None` if its source was removed.
    #[must_use]
    pub fn as_best(&self, path: &Path, prefix: &Prefix) -> Option<Best> {
        Some(Best {
            attrs: path.imported.ok()?,
            source: path.peer,
            learned: self.learned(path.peer, prefix)?,
        })
    }
}

/// Remembers the last result of [`Sources::learned`]: successive destinations mostly have the same source.
/// Valid as long as the sources do not change.
#[derive(Debug, Default)]
pub struct LastLearned(Option<(PeerId, Learned)>);

impl LastLearned {
    /// As [`Sources::as_best`].
    #[must_use]
    pub fn as_best(&mut self, sources: &Sources, path: &Path, prefix: &Prefix) -> Option<Best> {
        let learned = match self.0 {
            Some((source, learned)) if source == path.peer => learned,
            _ => {
                let learned = sources.learned(path.peer, prefix)?;
                // How a local route was learned depends on its prefix.
                self.0 = (path.peer != PeerId::LOCAL).then_some((path.peer, learned));
                learned
            }
        };
        Some(Best {
            attrs: path.imported.ok()?,
            source: path.peer,
            learned,
        })
    }
}

/// The best path, the best of the remaining ones, and so on.
fn rank_best(mut candidates: Vec<Candidate>, limit: usize) -> Vec<Candidate> {
    let one = Multipath {
        max_paths: 1,
        relax: false,
    };
    let mut ranked = Vec::with_capacity(limit);
    while ranked.len() < limit {
        let mut round = candidates.clone();
        select(&mut round, one);
        let Some(best) = round.first().copied() else { break };
        candidates.retain(|candidate| candidate.at != best.at);
        ranked.push(best);
    }
    ranked
}
