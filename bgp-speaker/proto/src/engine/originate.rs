//! Routes of our own: the whole wanted set comes in, the difference is applied.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::work::{Item, Job};
use super::{Engine, Originated};
use crate::policy::Source;
use crate::rib::generation::Generation;
use crate::rib::table::{DestId, Path};
use crate::types::{Family, PathId, PeerId, Prefix};
use crate::wire::{NextHop, PathAttrs};

impl Engine {
    /// Takes the whole set of routes to originate.
    pub(super) fn originate(&mut self, routes: Vec<Originated>) {
        self.local.given = routes.into_iter().map(|route| (route.prefix, route)).collect();
        self.update_originated();
    }

    /// What is given, and what follows from conditions: the difference is applied.
    pub(super) fn update_originated(&mut self) {
        let mut wanted: BTreeMap<Prefix, Originated> = self
            .local
            .conditional
            .active()
            .map(|route| (route.prefix, route))
            .collect();
        wanted.extend(
            self.local
                .given
                .iter()
                .map(|(prefix, route)| (*prefix, route.clone())),
        );
        let old = std::mem::take(&mut self.local.originated);
        for prefix in old.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            self.rib.sources.local.remove(prefix);
            if let Some(dest) = self.rib.table.find(prefix) {
                self.withdraw_where(PeerId::LOCAL, dest, &|_, _| true);
            }
        }
        for (prefix, route) in wanted
            .iter()
            .filter(|(prefix, route)| old.get(prefix) != Some(route))
        {
            self.rib.sources.local.insert(*prefix, route.source);
            self.announce_own(*prefix, route);
        }
        self.local.originated = wanted;
        self.guard_blocks();
    }

    fn announce_own(&mut self, prefix: Prefix, route: &Originated) {
        // The next hop is put in per session (export rules); the unspecified address never leaves us.
        let next_hop = match prefix.family() {
            Family::Ipv4 => NextHop::V4(Ipv4Addr::UNSPECIFIED),
            Family::Ipv6 => NextHop::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut attrs = PathAttrs::originated(next_hop);
        attrs.communities = route.communities.clone().into();
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
        // A change of source alone leaves the path as it is, but policies see it.
        if let Some(dest) = self.rib.table.find(&prefix) {
            self.mark(dest);
        }
    }

    /// Nobody else's path may lie inside our pod blocks; paths that come under a new block, or out from
    /// under an old one, are evaluated again.
    fn guard_blocks(&mut self) {
        let blocks: Vec<Prefix> = self
            .local
            .originated
            .values()
            .filter(|route| route.source == Source::PodBlock)
            .map(|route| route.prefix)
            .collect();
        let old = std::mem::replace(&mut self.local.blocks, blocks);
        let changed: Vec<Prefix> = old
            .iter()
            .filter(|block| !self.local.blocks.contains(block))
            .chain(self.local.blocks.iter().filter(|block| !old.contains(block)))
            .copied()
            .collect();
        if changed.is_empty() {
            return;
        }
        self.work.items.push_back(Item {
            peer: PeerId::LOCAL,
            dests: VecDeque::new(),
            job: Job::Blocks(changed, DestId(0)),
        });
    }
}
