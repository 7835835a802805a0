//! Pages of the received table, the input of a preview ([`super::preview`]).

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

/// A page of the table: paths as received, and the reachability of their next hops.
#[derive(Clone, Debug, Default)]
pub struct TablePage {
    pub(super) prefixes: Vec<Prefix>,
    attrs: Vec<PathAttrs>,
    paths: Vec<PagePath>,
    reach: Vec<(IpAddr, Reach)>,
    /// The cursor of the next page; `None` after the last.
    pub(super) next: Option<u32>,
}

/// A path, with the positions of its prefix and attributes in the page.
#[derive(Clone, Copy, Debug)]
struct PagePath {
    prefix: usize,
    attrs: usize,
    peer: PeerId,
    path_id: PathId,
    generation: Generation,
}

impl Engine {
    /// The page at this cursor ([`PreviewRun::cursor`]).
    #[must_use]
    pub fn table_page(&self, cursor: u32) -> TablePage {
        let (mut page, mut positions) = (TablePage::default(), FxHashMap::default());
        let mut next = DestId(cursor);
        for dest in self.next_slice(&mut next) {
            if page.paths.len() >= SLICE {
                next = dest;
                break;
            }
            self.copy_dest(dest, &mut page, &mut positions);
        }
        let mut addrs: Vec<IpAddr> = page.attrs.iter().map(|attrs| attrs.next_hop.addr()).collect();
        addrs.sort_unstable();
        addrs.dedup();
        page.reach = self.reach_of(addrs);
        page.next = Some(next.0).filter(|_| !self.is_table_end(next));
        page
    }

    fn copy_dest(&self, dest: DestId, page: &mut TablePage, positions: &mut FxHashMap<AttrId, usize>) {
        let (table, attrs) = (&self.rib.table, &self.rib.attrs);
        let Some(prefix) = table.prefix(dest).filter(|_| table.first(dest).is_some()) else {
            return;
        };
        for (_, path) in table.paths(dest) {
            // Originated routes are known already. Paths that wait for removal do not count.
            let counts = |peer: &Peer| peer.generations(prefix.family()).is_counted(path.generation);
            if !self.peers.get(&path.peer).is_some_and(counts) {
                continue;
            }
            let position = *positions.entry(path.received).or_insert_with(|| {
                page.attrs.push(attrs.get(path.received).clone());
                page.attrs.len() - 1
            });
            page.paths.push(PagePath {
                prefix: page.prefixes.len(),
                attrs: position,
                peer: path.peer,
                path_id: path.path_id,
                generation: path.generation,
            });
        }
        page.prefixes.push(prefix);
    }

    /// Reachability of next hops in use.
    pub(super) fn reach_of(&self, addrs: impl IntoIterator<Item = IpAddr>) -> Vec<(IpAddr, Reach)> {
        let next_hops = &self.rib.next_hops;
        let reach = |addr| Some((addr, next_hops.reach(next_hops.find(addr)?)?));
        addrs.into_iter().filter_map(reach).collect()
    }

    /// Imports the paths of a page, decides them, and returns the kernel routes of their prefixes.
    pub(super) fn import_page(
        &mut self,
        now: Instant,
        page: &TablePage,
        reach: &[(IpAddr, Reach)],
    ) -> BTreeMap<Prefix, FibChange> {
        let rib = &mut self.rib;
        let attrs = page.attrs.iter().cloned();
        let ids: Vec<AttrId> = attrs
            .map(|attrs| rib.attrs.intern(attrs, &mut rib.next_hops))
            .collect();
        let mut cache = ReimportCache::default();
        for path in &page.paths {
            let prefix = page.prefixes.get(path.prefix);
            if let (Some(prefix), Some(received)) = (prefix, ids.get(path.attrs)) {
                self.import_page_path(*prefix, *received, path, &mut cache);
            }
        }
        cache.release(self);
        for (addr, reach) in reach.iter().chain(&page.reach) {
            self.rib.next_hops.set_reach(*addr, *reach);
        }
        self.run_to_idle(now)
    }

    /// Does all pending work as if every chunk were written at once; returns the kernel routes.
    pub(super) fn run_to_idle(&mut self, now: Instant) -> BTreeMap<Prefix, FibChange> {
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

    fn import_page_path(
        &mut self,
        prefix: Prefix,
        received: AttrId,
        path: &PagePath,
        cache: &mut ReimportCache,
    ) {
        if !self.peers.contains_key(&path.peer) {
            return; // removed from the configuration, or new
        }
        cache.set_key(path.peer, received, self);
        let imported = self.import_path(path.peer, &prefix, received, &mut cache.import);
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
        self.mark_dirty(dest);
    }
}
