//! Dirty destinations: decide, tell the kernel, tell the groups.

use std::net::IpAddr;
use std::sync::Arc;

use super::weights::{bandwidth, weigh};
use super::{Engine, FibChange, Output};
use crate::export::sources::Best;
use crate::rib::attrs::AttrTable;
use crate::rib::decision::{Multipath, select};
use crate::rib::table::{DestId, Few, Path};
use crate::types::{PeerId, Prefix};
use crate::wire::KernelRoute;

/// Destinations decided and exported together. Large enough to pack well, small enough to take about a
/// millisecond.
pub(super) const SLICE: usize = 4096;

impl Engine {
    /// Decides one slice of dirty destinations and tells everyone what came of it.
    pub(super) fn flush_slice(&mut self) {
        let mut fib = Vec::new();
        for _ in 0..SLICE {
            let Some(dest) = self.work.dirty.pop_front() else {
                break;
            };
            self.rib.table.unmark(dest);
            let Some(prefix) = self.rib.table.prefix(dest) else {
                continue;
            };
            let best = self.decide(dest, prefix, &mut fib);
            if self.local.conditional.is_in_use() {
                self.note_conditions(dest, prefix, best.as_ref());
            }
            self.export(dest, prefix, best);
        }
        self.follow_conditions();
        let more = self.goes_on();
        if !fib.is_empty() {
            self.fib.goes_on = more;
            self.out.push_back(Output::Fib { changes: fib, more });
        }
        self.end_fib();
        self.flush_groups();
    }

    /// Whether work that was begun has more to tell.
    fn goes_on(&self) -> bool {
        !self.work.dirty.is_empty() || !self.work.items.is_empty()
    }

    /// An empty list ends what was announced to go on; true when that was still to be said.
    pub(super) fn end_fib(&mut self) -> bool {
        let ends = self.fib.goes_on && !self.goes_on();
        if ends {
            self.fib.goes_on = false;
            let (changes, more) = (Vec::new(), false);
            self.out.push_back(Output::Fib { changes, more });
        }
        ends
    }

    /// Puts the best path first, notes what the kernel should have, and gives the best for the groups.
    fn decide(&mut self, dest: DestId, prefix: Prefix, fib: &mut Vec<FibChange>) -> Option<Best> {
        self.choose(dest);
        let best = self.scratch.chosen.first().and_then(|at| self.rib.table.at(*at));
        if !self.config.assume_reachable {
            self.note_fib(dest, prefix, best.as_ref(), fib);
        }
        self.rib.sources.as_best(&best?, &prefix)
    }

    /// Fills `chosen` with the paths to use, the best first, and puts that first in the table.
    fn choose(&mut self, dest: DestId) {
        self.scratch.chosen.clear();
        match self.rib.table.few(dest) {
            Few::None => return,
            Few::One(at, path) => {
                // With nothing to compare it with it is the best, if it can be used at all.
                let usable = self
                    .rib
                    .sources
                    .is_usable(&path, &self.rib.attrs, &self.rib.next_hops);
                self.scratch.chosen.extend(usable.then_some(at));
                return;
            }
            Few::More => {}
        }
        let multipath = Multipath {
            max_paths: self.config.max_paths,
            relax: self.config.multipath_relax,
        };
        self.scratch.candidates.clear();
        self.rib.sources.candidates(
            &self.rib.table,
            dest,
            &self.rib.attrs,
            &self.rib.next_hops,
            &mut self.scratch.candidates,
        );
        select(&mut self.scratch.candidates, multipath);
        self.scratch
            .chosen
            .extend(self.scratch.candidates.iter().map(|candidate| candidate.at));
        // With no candidate the first path stays where it is.
        if let Some(best) = self.scratch.chosen.first() {
            self.rib.table.promote(dest, *best);
        }
    }

    fn note_fib(&mut self, dest: DestId, prefix: Prefix, best: Option<&Path>, fib: &mut Vec<FibChange>) {
        let (mut ways, mut set) = (
            std::mem::take(&mut self.scratch.next_hops),
            std::mem::take(&mut self.scratch.hop_set),
        );
        let options = best.and_then(|path| options(&self.rib.attrs, path));
        let drops = options.is_some_and(|options| options.blackhole);
        if best.is_some_and(|best| best.peer != PeerId::LOCAL) && !drops {
            let paths = self.scratch.chosen.iter().filter_map(|at| self.rib.table.at(*at));
            let weighted = self.config.link_bandwidth;
            ways.extend(paths.filter_map(|path| way(&self.rib.attrs, &path, weighted)));
            weigh(&mut ways, &mut set);
        }
        let id = self.fib.sets.intern(&set, options);
        let old = self.rib.table.swap_fib(dest, id);
        if id != old {
            let (next_hops, route) = self.fib.sets.get(id);
            fib.push(FibChange {
                prefix,
                next_hops,
                route,
            });
        }
        self.fib.sets.release(old);
        set.clear();
        ways.clear();
        (self.scratch.next_hops, self.scratch.hop_set) = (ways, set);
    }

    fn export(&mut self, dest: DestId, prefix: Prefix, best: Option<Best>) {
        for group in self.groups.iter_mut().flatten() {
            group.update(dest, prefix, best, &mut self.rib);
        }
    }

    fn flush_groups(&mut self) {
        for index in 0..self.groups.len() {
            let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            let Some(chunk) = group.flush(&self.rib) else {
                continue;
            };
            let chunk = Arc::new(chunk);
            let followers: Vec<PeerId> = group.followers().collect();
            followers
                .into_iter()
                .for_each(|peer| self.advertise(peer, &chunk));
        }
    }
}

/// What import policies want of the kernel's route, where they do; the weight is in its next hops.
fn options(attrs: &AttrTable, path: &Path) -> Option<KernelRoute> {
    let rare = attrs.get(path.imported.ok()?).rare.as_deref()?;
    let options = KernelRoute {
        weight: None,
        ..rare.kernel
    };
    (options != KernelRoute::default()).then_some(options)
}

/// Where a path leads, and with what bandwidth.
fn way(attrs: &AttrTable, path: &Path, weighted: bool) -> Option<(IpAddr, Option<f32>)> {
    let attrs = path.imported.ok().map(|id| attrs.get(id))?;
    let rare = attrs.rare.as_deref();
    let weight = rare.and_then(|rare| rare.kernel.weight).map(f32::from);
    let rate = weight.or_else(|| weighted.then(|| bandwidth(attrs)).flatten());
    Some((attrs.next_hop.addr(), rate))
}
