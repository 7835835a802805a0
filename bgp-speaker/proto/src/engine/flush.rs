//! Flush of dirty destinations: decision, kernel route, export to the update groups.

use std::net::IpAddr;
use std::sync::Arc;

use super::weights::{assign_weights, bandwidth};
use super::{Engine, FibChange, Output};
use crate::export::sources::{Best, LastLearned};
use crate::rib::attrs::AttrTable;
use crate::rib::decision::{Multipath, select};
use crate::rib::table::{DestId, Path, PathCount};
use crate::types::{PeerId, Prefix};
use crate::wire::KernelRoute;

/// Destinations decided and exported together: enough to pack full messages, few enough to take about a
/// millisecond.
pub(super) const SLICE: usize = 4096;

impl Engine {
    /// Decides and exports one slice of dirty destinations.
    pub(super) fn flush_slice(&mut self) {
        let (mut fib, mut learned) = (Vec::new(), LastLearned::default());
        for _ in 0..SLICE {
            let Some(dest) = self.work.dirty.pop_front() else {
                break;
            };
            self.rib.table.unmark(dest);
            let Some(prefix) = self.rib.table.prefix(dest) else {
                continue;
            };
            let best = self.decide(dest, prefix, &mut fib, &mut learned);
            if self.local.conditional.is_in_use() {
                // Before the export: a route inside an aggregate that begins with it is not sent.
                self.note_conditions(dest, prefix, best.is_some());
            }
            self.export(dest, prefix, best);
        }
        let more = self.has_pending_work();
        if !fib.is_empty() {
            self.fib.more_announced = more;
            self.out.push_back(Output::Fib { changes: fib, more });
        }
        self.close_fib_burst();
        self.flush_groups();
    }

    /// Whether further kernel changes may follow from pending work.
    fn has_pending_work(&self) -> bool {
        !self.work.dirty.is_empty() || !self.work.items.is_empty()
    }

    /// Announces the end of a burst of kernel changes with an empty list; returns whether it was pending.
    pub(super) fn close_fib_burst(&mut self) -> bool {
        let ends = self.fib.more_announced && !self.has_pending_work();
        if ends {
            self.fib.more_announced = false;
            let (changes, more) = (Vec::new(), false);
            self.out.push_back(Output::Fib { changes, more });
        }
        ends
    }

    /// Selects the paths, updates the kernel route, and returns the best path for the groups.
    fn decide(
        &mut self,
        dest: DestId,
        prefix: Prefix,
        fib: &mut Vec<FibChange>,
        learned: &mut LastLearned,
    ) -> Option<Best> {
        self.select_paths(dest);
        let best = self
            .scratch
            .selected
            .first()
            .and_then(|at| self.rib.table.at(*at));
        if !self.config.assume_reachable {
            self.update_fib(dest, prefix, best.as_ref(), fib);
        }
        learned.as_best(&self.rib.sources, &best?, &prefix)
    }

    /// Fills `selected` with the paths to use and puts the best one first in the table.
    fn select_paths(&mut self, dest: DestId) {
        self.scratch.selected.clear();
        match self.rib.table.path_count(dest) {
            PathCount::None => return,
            PathCount::One(at, path) => {
                // A single path is the best one if it is usable.
                let usable = self
                    .rib
                    .sources
                    .is_usable(&path, &self.rib.attrs, &self.rib.next_hops);
                self.scratch.selected.extend(usable.then_some(at));
                return;
            }
            PathCount::More => {}
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
            .selected
            .extend(self.scratch.candidates.iter().map(|candidate| candidate.at));
        // Without a candidate the order does not change.
        if let Some(best) = self.scratch.selected.first() {
            self.rib.table.promote(dest, *best);
        }
    }

    fn update_fib(&mut self, dest: DestId, prefix: Prefix, best: Option<&Path>, fib: &mut Vec<FibChange>) {
        let (mut next_hop_list, mut set) = (
            std::mem::take(&mut self.scratch.next_hops),
            std::mem::take(&mut self.scratch.hop_set),
        );
        let options = best.and_then(|path| options(&self.rib.attrs, path));
        let drops = options.is_some_and(|options| options.blackhole);
        if best.is_some_and(|best| best.peer != PeerId::LOCAL) && !drops {
            let paths = self
                .scratch
                .selected
                .iter()
                .filter_map(|at| self.rib.table.at(*at));
            let weighted = self.config.link_bandwidth;
            next_hop_list.extend(paths.filter_map(|path| path_next_hop(&self.rib.attrs, &path, weighted)));
            assign_weights(&mut next_hop_list, &mut set);
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
        next_hop_list.clear();
        (self.scratch.next_hops, self.scratch.hop_set) = (next_hop_list, set);
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
            let fast_path_members: Vec<PeerId> = group.fast_path_members().collect();
            fast_path_members
                .into_iter()
                .for_each(|peer| self.advertise(peer, &chunk));
        }
    }
}

/// What import policies want of the kernel's route, where they do; the weight is in its next hops.
fn options(attrs: &AttrTable, path: &Path) -> Option<KernelRoute> {
    let extra = attrs.get(path.imported.ok()?).extra.as_deref()?;
    let options = KernelRoute {
        weight: None,
        ..extra.kernel
    };
    (options != KernelRoute::default()).then_some(options)
}

/// The next hop of a path and its bandwidth.
fn path_next_hop(attrs: &AttrTable, path: &Path, weighted: bool) -> Option<(IpAddr, Option<f32>)> {
    let attrs = path.imported.ok().map(|id| attrs.get(id))?;
    let extra = attrs.extra.as_deref();
    let weight = extra.and_then(|extra| extra.kernel.weight).map(f32::from);
    let rate = weight.or_else(|| weighted.then(|| bandwidth(attrs)).flatten());
    Some((attrs.next_hop.addr(), rate))
}
