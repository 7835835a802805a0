//! Preview of configuration changes: what would be sent and installed. The engine's state does not change,
//! and nothing is sent.
//!
//! The result for a prefix depends on its own paths and on peers, policies and next hops, but not on other
//! prefixes. A preview therefore uses two engines without learned routes, one with the present configuration
//! and one with the changes. Both import the received table page by page ([`TablePage`]) and decide it; their
//! kernel routes and Adj-RIB-Outs are compared and dropped. The running engine only copies pages, each of
//! which costs one slice. Routes that change meanwhile are previewed in the state of their page.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::peers::{GroupId, Peer};
use super::table_page::TablePage;
use super::{Engine, Fib, FibChange, Input, Local, Reach, Scratch, Work};
use crate::export::group::Group;
use crate::export::rib::Rib;
use crate::policy::NextHopAction;
use crate::types::{PeerId, Prefix};
use crate::wire::PathAttrs;

/// Changes of what a peer is sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerPreview {
    /// Prefixes that would be advertised.
    pub announced: Vec<Prefix>,
    /// Prefixes that would be withdrawn.
    pub withdrawn: Vec<Prefix>,
    /// Prefixes that would be advertised with other attributes.
    pub changed: Vec<Prefix>,
    /// Attributes before and after of the first thousand of these.
    pub attributes: BTreeMap<Prefix, (PathAttrs, PathAttrs)>,
}

/// More changes than these are counted, without their attributes.
const ATTRIBUTES_KEPT: usize = 1000;

/// The result of a preview.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// Changes by established peer that stays configured; lists are ordered by prefix.
    pub peers: BTreeMap<PeerId, PeerPreview>,
    /// Kernel routes that would be added (`false`) or changed (`true`), by prefix.
    pub installed: BTreeMap<Prefix, (FibChange, bool)>,
    /// Kernel routes that would be removed, in order.
    pub removed: Vec<Prefix>,
}

/// A preview in progress.
#[derive(Clone, Debug)]
pub struct PreviewRun {
    /// The present configuration, without learned routes.
    before: Engine,
    after: Engine,
    /// Reachability of next hops that policies set.
    reach: Vec<(IpAddr, Reach)>,
    /// Members that have the same group before and after, by both groups.
    members_by_groups: BTreeMap<(GroupId, GroupId), Vec<PeerId>>,
    /// Originated prefixes that occurred in no page yet.
    own_unseen: BTreeSet<Prefix>,
    cursor: u32,
    now: Instant,
    preview: Preview,
}

impl PeerPreview {
    fn list(&mut self, route_change: RouteChange) -> &mut Vec<Prefix> {
        match route_change {
            RouteChange::Announced => &mut self.announced,
            RouteChange::Withdrawn => &mut self.withdrawn,
            RouteChange::Changed => &mut self.changed,
        }
    }
}

impl Engine {
    /// Begins a preview of these inputs, applied in this order: `Configure`, `Remove` and `Originate`. The
    /// cost depends on the number of peers and originated routes, not on the size of the table.
    /// [`Engine::table_page`] and [`PreviewRun::add_page`] follow in turn. A next hop that only a new policy
    /// names counts as unreachable.
    #[must_use]
    pub fn begin_preview(&self, now: Instant, inputs: Vec<Input>) -> PreviewRun {
        let before = self.without_routes(now);
        let mut after = before.clone();
        for input in inputs {
            match input {
                // Conditions are taken as they are: what would follow from them depends on the whole table.
                Input::Originate(mut routes) => {
                    routes.extend(self.local.conditional.active().map(|own| own.route));
                    after.handle(now, Input::Originate(routes));
                }
                Input::OriginateByRules(_) => {}
                input => after.handle(now, input),
            }
        }
        after.run_to_idle(now);
        let peers = before.peers.values().chain(after.peers.values());
        let rules = peers.flat_map(|peer| &peer.routing.import.rules);
        let named: BTreeSet<IpAddr> = rules
            .filter_map(|rule| match rule.actions.next_hop {
                Some(NextHopAction::Address(addr)) => Some(addr),
                _ => None,
            })
            .collect();
        let mut members_by_groups: BTreeMap<_, Vec<PeerId>> = BTreeMap::new();
        for (id, peer) in &before.peers {
            let stays = after.peers.get(id).and_then(Peer::group);
            if let (Some(before), Some(after)) = (peer.group(), stays) {
                members_by_groups.entry((before, after)).or_default().push(*id);
            }
        }
        let own = before.local.originated.keys();
        PreviewRun {
            own_unseen: own.chain(after.local.originated.keys()).copied().collect(),
            reach: self.reach_of(named),
            now,
            members_by_groups,
            before,
            after,
            cursor: 0,
            preview: Preview::default(),
        }
    }

    /// The same engine without learned routes, with originated routes advertised.
    fn without_routes(&self, now: Instant) -> Self {
        let peers = self.peers.iter().map(|(id, peer)| (*id, peer.without_routes()));
        let groups = self
            .groups
            .iter()
            .map(|group| Some(group.as_ref()?.without_routes()));
        let mut engine = Self {
            config: self.config.clone(),
            peers: peers.collect(),
            rib: Rib {
                sources: self.rib.sources.clone(),
                ..Rib::default()
            },
            groups: groups.collect(),
            fib: Fib::default(),
            local: Local {
                draining: self.local.draining,
                ..Local::default()
            },
            work: Work::default(),
            deferral: None,
            feeds: BTreeMap::new(),
            out: VecDeque::new(),
            scratch: Scratch::default(),
        };
        let own = self.local.originated.values().map(|own| own.route.clone());
        engine.handle(now, Input::Originate(own.collect()));
        engine.run_to_idle(now);
        engine
    }

    fn group_at(&self, GroupId(index): GroupId) -> Option<&Group> {
        self.groups.get(index)?.as_ref()
    }

    /// The attributes last advertised to a member of a group.
    fn advertised_attrs(&self, group: GroupId, peer: PeerId, prefix: &Prefix) -> Option<PathAttrs> {
        let dest = self.rib.table.find(prefix)?;
        let rib = (&self.rib.attrs, &self.rib.sources);
        self.group_at(group)?.advertised_attrs(peer, dest, *prefix, rib)
    }

    /// Members that are not sent every path of a prefix that others are sent.
    fn excluded_from(&self, group: GroupId, prefix: &Prefix) -> Vec<PeerId> {
        let dest = self.rib.table.find(prefix);
        let group = self.group_at(group);
        let excluded_from = group.zip(dest).map(|(group, dest)| group.excluded_from(dest));
        excluded_from.into_iter().flatten().collect()
    }
}

/// How the advertisement of a prefix to a peer changes.
#[derive(Clone, Copy)]
enum RouteChange {
    Announced,
    Withdrawn,
    Changed,
}

impl PreviewRun {
    /// The cursor of the next page.
    #[must_use]
    pub fn cursor(&self) -> u32 {
        self.cursor
    }

    /// Adds the page at [`PreviewRun::cursor`]. Returns true when it was the last.
    pub fn add_page(&mut self, page: &TablePage) -> bool {
        let (mut before, mut after) = (self.before.clone(), self.after.clone());
        let fib_before = before.import_page(self.now, page, &self.reach);
        let fib_after = after.import_page(self.now, page, &self.reach);
        let removed = fib_before
            .keys()
            .filter(|prefix| !fib_after.contains_key(*prefix));
        self.preview.removed.extend(removed);
        for (prefix, change) in fib_after {
            let old = fib_before.get(&prefix);
            if old != Some(&change) {
                self.preview.installed.insert(prefix, (change, old.is_some()));
            }
        }
        self.compare(&before, &after, &page.prefixes);
        for prefix in &page.prefixes {
            self.own_unseen.remove(prefix);
        }
        self.cursor = page.next.unwrap_or(self.cursor);
        page.next.is_none()
    }
    fn compare(&mut self, before: &Engine, after: &Engine, prefixes: &[Prefix]) {
        for ((old, new), members) in &self.members_by_groups {
            for prefix in prefixes {
                let route_change = |peer| {
                    route_change(
                        before.advertised_attrs(*old, peer, prefix),
                        after.advertised_attrs(*new, peer, prefix),
                    )
                };
                let mut exceptions = before.excluded_from(*old, prefix);
                exceptions.extend(after.excluded_from(*new, prefix));
                exceptions.retain(|peer| members.binary_search(peer).is_ok());
                exceptions.sort_unstable();
                exceptions.dedup();
                let others = || members.iter().filter(|peer| !exceptions.contains(peer)).copied();
                let common = others().next().and_then(route_change);
                let changes = exceptions.iter().map(|peer| (*peer, route_change(*peer)));
                let changes = changes.chain(
                    others()
                        .take_while(|_| common.is_some())
                        .map(|peer| (peer, common)),
                );
                for (peer, route_change) in changes {
                    if let Some(route_change) = route_change {
                        let peer_preview = self.preview.peers.entry(peer).or_default();
                        peer_preview.list(route_change).push(*prefix);
                        let attributes = &mut peer_preview.attributes;
                        if matches!(route_change, RouteChange::Changed) && attributes.len() < ATTRIBUTES_KEPT
                        {
                            let both = before
                                .advertised_attrs(*old, peer, prefix)
                                .zip(after.advertised_attrs(*new, peer, prefix));
                            attributes.extend(both.map(|both| (*prefix, both)));
                        }
                    }
                }
            }
        }
    }

    /// The result, after the last page.
    #[must_use]
    pub fn finish(mut self) -> Preview {
        let own_unseen: Vec<Prefix> = std::mem::take(&mut self.own_unseen).into_iter().collect();
        let (before, after) = (self.before.clone(), self.after.clone());
        self.compare(&before, &after, &own_unseen);
        for peer_preview in self.preview.peers.values_mut() {
            for list in [
                &mut peer_preview.announced,
                &mut peer_preview.withdrawn,
                &mut peer_preview.changed,
            ] {
                list.sort_unstable();
            }
        }
        self.preview.removed.sort_unstable();
        self.preview
    }
}

fn route_change(before: Option<PathAttrs>, after: Option<PathAttrs>) -> Option<RouteChange> {
    match (before, after) {
        (None, Some(_)) => Some(RouteChange::Announced),
        (Some(_), None) => Some(RouteChange::Withdrawn),
        (Some(before), Some(after)) if before != after => Some(RouteChange::Changed),
        _ => None,
    }
}
