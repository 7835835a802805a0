//! Originated routes: the input is the complete wanted set; only the difference to the present set is
//! applied.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::conditional::OwnRoute;
use super::work::{Job, WorkItem};
use super::{Engine, Originated};
use crate::policy::Source;
use crate::rib::generation::Generation;
use crate::rib::table::{DestId, Path};
use crate::types::{Family, PathId, PeerId, Prefix};
use crate::wire::{KernelRoute, NextHop, PathAttrs};

impl Engine {
    /// Takes the complete set of routes to originate.
    pub(super) fn originate(&mut self, routes: Vec<Originated>) {
        self.local.given = routes.into_iter().map(|route| (route.prefix, route)).collect();
        self.update_originated();
    }

    /// What is given, and what follows from conditions: the difference is applied.
    pub(super) fn update_originated(&mut self) {
        let active = self.local.conditional.active();
        let mut wanted: BTreeMap<Prefix, OwnRoute> = active.map(|own| (own.route.prefix, own)).collect();
        let given = self.local.given.iter().map(|(prefix, route)| {
            let kernel = KernelRoute::default();
            let route = route.clone();
            (*prefix, OwnRoute { route, kernel })
        });
        wanted.extend(given);
        let old = std::mem::take(&mut self.local.originated);
        for prefix in old.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            self.rib.sources.local.remove(prefix);
            if let Some(dest) = self.rib.table.find(prefix) {
                self.withdraw_where(PeerId::LOCAL, dest, &|_, _| true);
            }
        }
        for (prefix, own) in wanted.iter().filter(|(prefix, own)| old.get(prefix) != Some(own)) {
            self.rib.sources.local.insert(*prefix, own.route.source);
            self.originate_route(*prefix, own);
        }
        self.local.originated = wanted;
        self.update_own_blocks();
    }

    fn originate_route(&mut self, prefix: Prefix, own: &OwnRoute) {
        // Export rules set the next hop per session; the unspecified address is never sent.
        let next_hop = match prefix.family() {
            Family::Ipv4 => NextHop::V4(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6 => NextHop::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut attrs = PathAttrs::originated(next_hop);
        attrs.communities = own.route.communities.clone().into();
        if own.kernel != KernelRoute::default() {
            attrs.extra_mut().kernel = own.kernel;
        }
        let id = self.rib.attrs.intern(attrs, &mut self.rib.next_hops);
        self.announce(
            &prefix,
            Path {
                peer: PeerId::LOCAL,
                path_id: PathId(0),
                received: id,
                imported: Ok(id),
                generation: Generation::default(),
            },
        );
        self.rib.attrs.release(id, &mut self.rib.next_hops);
        // A change of source alone does not change the path, but export policies can match it.
        if let Some(dest) = self.rib.table.find(&prefix) {
            self.mark_dirty(dest);
        }
    }

    /// Paths of peers inside our pod blocks are not eligible: paths inside a new or a former block are
    /// evaluated again.
    fn update_own_blocks(&mut self) {
        let blocks: Vec<Prefix> = self
            .local
            .originated
            .values()
            .map(|own| &own.route)
            .filter(|route| route.source == Source::PodBlock)
            .map(|route| route.prefix)
            .collect();
        let old = std::mem::replace(&mut self.local.pod_blocks, blocks);
        let changed: Vec<Prefix> = old
            .iter()
            .filter(|block| !self.local.pod_blocks.contains(block))
            .chain(self.local.pod_blocks.iter().filter(|block| !old.contains(block)))
            .copied()
            .collect();
        if changed.is_empty() {
            return;
        }
        self.work.items.push_back(WorkItem {
            peer: PeerId::LOCAL,
            dests: VecDeque::new(),
            job: Job::Blocks(changed, DestId(0)),
        });
    }
}
