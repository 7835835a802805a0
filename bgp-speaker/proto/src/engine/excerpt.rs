//! Parts of the table as it was received, for an engine beside this one to decide ([`super::preview`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::peers::Peer;
use super::work::{ReimportCache, SLICE};
use super::{Engine, FibChange, Input, Output, Reach};
use crate::rib::attrs::AttrId;
use crate::rib::generation::Generation;
use crate::rib::table::{DestId, Path};
use crate::types::{PathId, PeerId, Prefix};
use crate::wire::PathAttrs;

/// Part of the table: paths as they were received, and what the kernel says of their next hops.
#[derive(Clone, Debug, Default)]
pub struct Excerpt {
    pub(super) prefixes: Vec<Prefix>,
    attrs: Vec<PathAttrs>,
    paths: Vec<Received>,
    reach: Vec<(IpAddr, Reach)>,
    /// Where to go on.
    pub(super) next: Option<u32>,
}

/// A path, with the places of its prefix and its attributes in the excerpt.
#[derive(Clone, Copy, Debug)]
struct Received {
    prefix: usize,
    attrs: usize,
    peer: PeerId,
    path_id: PathId,
    generation: Generation,
}

impl Engine {
    /// A part of the table from this place on ([`Rehearsal::place`]).
    #[must_use]
    pub fn excerpt(&self, place: u32) -> Excerpt {
        let (mut excerpt, mut places) = (Excerpt::default(), FxHashMap::default());
        let mut next = DestId(place);
        for dest in self.stretch(&mut next) {
            if excerpt.paths.len() >= SLICE {
                next = dest;
                break;
            }
            self.copy_dest(dest, &mut excerpt, &mut places);
        }
        let mut addrs: Vec<IpAddr> = excerpt.attrs.iter().map(|attrs| attrs.next_hop.addr()).collect();
        addrs.sort_unstable();
        addrs.dedup();
        excerpt.reach = self.reach_of(addrs);
        excerpt.next = Some(next.0).filter(|_| !self.is_last(next));
        excerpt
    }

    fn copy_dest(&self, dest: DestId, excerpt: &mut Excerpt, places: &mut FxHashMap<AttrId, usize>) {
        let (table, attrs) = (&self.rib.table, &self.rib.attrs);
        let Some(prefix) = table.prefix(dest).filter(|_| table.first(dest).is_some()) else {
            return;
        };
        for (_, path) in table.paths(dest) {
            // What is our own is there already; what is only still to be removed counts no more.
            let counts = |peer: &Peer| peer.generations(prefix.family()).is_counted(path.generation);
            if !self.peers.get(&path.peer).is_some_and(counts) {
                continue;
            }
            let place = *places.entry(path.received).or_insert_with(|| {
                excerpt.attrs.push(attrs.get(path.received).clone());
                excerpt.attrs.len() - 1
            });
            excerpt.paths.push(Received {
                prefix: excerpt.prefixes.len(),
                attrs: place,
                peer: path.peer,
                path_id: path.path_id,
                generation: path.generation,
            });
        }
        excerpt.prefixes.push(prefix);
    }

    /// What the kernel says of next hops in use.
    pub(super) fn reach_of(&self, addrs: impl IntoIterator<Item = IpAddr>) -> Vec<(IpAddr, Reach)> {
        let next_hops = &self.rib.next_hops;
        let reach = |addr| Some((addr, next_hops.reach(next_hops.find(addr)?)?));
        addrs.into_iter().filter_map(reach).collect()
    }

    /// Takes paths in, decides them, and gives the kernel's routes of their prefixes.
    pub(super) fn rehearse_excerpt(
        &mut self,
        now: Instant,
        excerpt: &Excerpt,
        reach: &[(IpAddr, Reach)],
    ) -> BTreeMap<Prefix, FibChange> {
        let rib = &mut self.rib;
        let attrs = excerpt.attrs.iter().cloned();
        let ids: Vec<AttrId> = attrs
            .map(|attrs| rib.attrs.intern(attrs, &mut rib.next_hops))
            .collect();
        let mut cache = ReimportCache::default();
        for path in &excerpt.paths {
            let prefix = excerpt.prefixes.get(path.prefix);
            if let (Some(prefix), Some(received)) = (prefix, ids.get(path.attrs)) {
                self.rehearse_path(*prefix, *received, path, &mut cache);
            }
        }
        cache.release(self);
        for (addr, reach) in reach.iter().chain(&excerpt.reach) {
            self.rib.next_hops.learn(*addr, *reach);
        }
        self.settle(now)
    }

    /// Does all that there is to do, as if whoever is told something had written it at once; gives the kernel's routes.
    pub(super) fn settle(&mut self, now: Instant) -> BTreeMap<Prefix, FibChange> {
        let mut kernel = BTreeMap::new();
        while let Some(output) = self.poll_output() {
            match output {
                Output::Fib { changes, .. } => {
                    kernel.extend(changes.into_iter().map(|change| (change.prefix, change)));
                }
                Output::Advertise(session, chunk) => {
                    self.handle(now, Input::Written(session, chunk.cost_for(session.peer)));
                }
                _ => {}
            }
        }
        kernel.retain(|_, change| !change.next_hops.is_empty());
        kernel
    }

    fn rehearse_path(
        &mut self,
        prefix: Prefix,
        received: AttrId,
        path: &Received,
        cache: &mut ReimportCache,
    ) {
        if !self.peers.contains_key(&path.peer) {
            return; // it came, or would go
        }
        cache.turn_to(path.peer, received, self);
        let imported = self.imported(path.peer, &prefix, received, &mut cache.cached);
        let dest = self.rib.table.dest(&prefix);
        let path = Path {
            peer: path.peer,
            path_id: path.path_id,
            received,
            imported,
            generation: path.generation,
        };
        self.retain(&path);
        self.rib.table.insert(dest, path);
        self.mark(dest);
    }
}
