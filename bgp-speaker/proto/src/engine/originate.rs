//! Routes of our own: the whole wanted set comes in, the difference is applied.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::slices::Again;
use super::{Engine, Originated};
use crate::policy::Source;
use crate::rib::table::Path;
use crate::types::{Family, PathId, PeerId, Prefix};
use crate::wire::{NextHop, PathAttrs};

impl Engine {
    /// Takes the whole set of routes to originate.
    pub(super) fn originate(&mut self, routes: Vec<Originated>) {
        let wanted: BTreeMap<Prefix, Originated> =
            routes.into_iter().map(|route| (route.prefix, route)).collect();
        let old = std::mem::take(&mut self.originated);
        for prefix in old.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            self.sources.local.remove(prefix);
            if let Some(dest) = self.table.find(prefix) {
                self.withdraw_source(PeerId::LOCAL, dest);
            }
        }
        for (prefix, route) in wanted
            .iter()
            .filter(|(prefix, route)| old.get(prefix) != Some(route))
        {
            self.sources.local.insert(*prefix, route.source);
            self.announce_own(*prefix, route);
        }
        self.originated = wanted;
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
        let id = self.attrs.intern(attrs, &mut self.next_hops);
        self.announce(
            &prefix,
            Path {
                peer: PeerId::LOCAL,
                path_id: PathId(0),
                received: id,
                imported: Ok(id),
            },
        );
        self.attrs.release(id, &mut self.next_hops);
        // A change of source alone leaves the path as it is, but policies see it.
        if let Some(dest) = self.table.find(&prefix) {
            self.mark(dest);
        }
    }

    /// Nobody else's path may lie inside our pod blocks; paths that come under a new block, or out from
    /// under an old one, are evaluated again.
    fn guard_blocks(&mut self) {
        let blocks: Vec<Prefix> = self
            .originated
            .values()
            .filter(|route| route.source == Source::PodBlock)
            .map(|route| route.prefix)
            .collect();
        let old = std::mem::replace(&mut self.own_blocks, blocks);
        let changed: Vec<Prefix> = old
            .iter()
            .filter(|block| !self.own_blocks.contains(block))
            .chain(self.own_blocks.iter().filter(|block| !old.contains(block)))
            .copied()
            .collect();
        if changed.is_empty() {
            return;
        }
        let inside = |prefix: &Prefix| changed.iter().any(|block| block.contains(prefix));
        let affected: Vec<_> = self
            .table
            .dests()
            .filter(|(_, prefix)| inside(prefix))
            .map(|(dest, _)| dest)
            .collect();
        let mut again = Again::default();
        for dest in affected {
            let mut peers: Vec<PeerId> = self.table.paths(dest).map(|(_, path)| path.peer).collect();
            peers.dedup();
            for peer in peers.into_iter().filter(|peer| *peer != PeerId::LOCAL) {
                self.reimport(peer, dest, &mut again);
            }
        }
        again.let_go(self);
    }
}
