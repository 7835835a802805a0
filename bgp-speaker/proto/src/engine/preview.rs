//! What would follow from inputs, found out beside the engine: nothing of it changes, and nothing is sent.
//!
//! What becomes of a prefix follows from its own paths, and from peers, policies and next hops: not from other prefixes. So two small
//! engines without routes are made, one as things are and one that took the inputs. Both get the table an [`Excerpt`] at a time and
//! decide it; their kernel routes and Adj-RIB-Outs are compared, and forgotten. The engine itself is asked for one excerpt after
//! another, each of which costs a slice. Routes that change in the meantime are previewed as they are when their excerpt is taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::excerpt::Excerpt;
use super::peers::{GroupId, Peer};
use super::{Engine, Fib, FibChange, Input, Local, Reach, Scratch, Work};
use crate::export::group::Group;
use crate::export::rib::Rib;
use crate::policy::NextHopAction;
use crate::types::{PeerId, Prefix};
use crate::wire::PathAttrs;

/// What a peer would hear.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// Prefixes that it was not told before.
    pub announced: Vec<Prefix>,
    /// Prefixes that are taken back.
    pub withdrawn: Vec<Prefix>,
    /// Prefixes that are told with other attributes.
    pub changed: Vec<Prefix>,
    /// Attributes before and after of the first thousand of these.
    pub attributes: BTreeMap<Prefix, (PathAttrs, PathAttrs)>,
}

/// More changes than these are counted, without their attributes.
const ATTRIBUTES_KEPT: usize = 1000;

/// What would follow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// For established peers that stay, where there is anything, in the order of the prefixes.
    pub peers: BTreeMap<PeerId, Heard>,
    /// Kernel routes that would come (`false`) or change (`true`), by prefix.
    pub installed: BTreeMap<Prefix, (FibChange, bool)>,
    /// Kernel routes that would go, in order.
    pub removed: Vec<Prefix>,
}

/// A preview that is being worked out.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Without routes of others.
    before: Engine,
    after: Engine,
    /// Of next hops that policies set.
    reach: Vec<(IpAddr, Reach)>,
    /// Peers that are told the same, by their groups in both.
    told: BTreeMap<(GroupId, GroupId), Vec<PeerId>>,
    /// Prefixes of our own that stood in no excerpt yet.
    unseen: BTreeSet<Prefix>,
    place: u32,
    now: Instant,
    preview: Preview,
}

impl Heard {
    fn list(&mut self, fate: Fate) -> &mut Vec<Prefix> {
        match fate {
            Fate::Announced => &mut self.announced,
            Fate::Withdrawn => &mut self.withdrawn,
            Fate::Changed => &mut self.changed,
        }
    }
}

impl Engine {
    /// Begins to find out what would follow from these inputs, in this order: `Configure`, `Remove` and `Originate`. This costs what
    /// there is of peers and of our own routes, however large the table is; then come [`Engine::excerpt`] and
    /// [`Rehearsal::take`] in turn. A next hop that a new policy names and nothing uses yet counts as unreachable.
    #[must_use]
    pub fn rehearse(&self, now: Instant, inputs: Vec<Input>) -> Rehearsal {
        let before = self.without_routes(now);
        let mut after = before.clone();
        for input in inputs {
            match input {
                // Conditions are taken as they are: what would follow from them depends on the whole table.
                Input::Originate(mut routes) => {
                    routes.extend(self.local.conditional.active());
                    after.handle(now, Input::Originate(routes));
                }
                Input::OriginateByRules(_) => {}
                input => after.handle(now, input),
            }
        }
        after.settle(now);
        let peers = before.peers.values().chain(after.peers.values());
        let rules = peers.flat_map(|peer| &peer.routing.import.rules);
        let named: BTreeSet<IpAddr> = rules
            .filter_map(|rule| match rule.actions.next_hop {
                Some(NextHopAction::Address(addr)) => Some(addr),
                _ => None,
            })
            .collect();
        let mut told: BTreeMap<_, Vec<PeerId>> = BTreeMap::new();
        for (id, peer) in &before.peers {
            let stays = after.peers.get(id).and_then(Peer::group);
            if let (Some(before), Some(after)) = (peer.group(), stays) {
                told.entry((before, after)).or_default().push(*id);
            }
        }
        let own = before.local.originated.keys();
        Rehearsal {
            unseen: own.chain(after.local.originated.keys()).copied().collect(),
            reach: self.reach_of(named),
            now,
            told,
            before,
            after,
            place: 0,
            preview: Preview::default(),
        }
    }

    /// The same engine as if nobody had announced anything, with everybody told of our own routes.
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
        let own = self.local.originated.values().cloned();
        engine.handle(now, Input::Originate(own.collect()));
        engine.settle(now);
        engine
    }

    fn group_at(&self, GroupId(index): GroupId) -> Option<&Group> {
        self.groups.get(index)?.as_ref()
    }

    /// What a member of a group was last told of a prefix.
    fn told(&self, group: GroupId, peer: PeerId, prefix: &Prefix) -> Option<PathAttrs> {
        let dest = self.rib.table.find(prefix)?;
        let rib = (&self.rib.attrs, &self.rib.sources);
        self.group_at(group)?.told(peer, dest, *prefix, rib)
    }

    /// The members that are not told all that others are of a prefix.
    fn excepted(&self, group: GroupId, prefix: &Prefix) -> Vec<PeerId> {
        let dest = self.rib.table.find(prefix);
        let group = self.group_at(group);
        let excepted = group.zip(dest).map(|(group, dest)| group.excepted(dest));
        excepted.into_iter().flatten().collect()
    }
}

/// What becomes of what a peer was told of a prefix.
#[derive(Clone, Copy)]
enum Fate {
    Announced,
    Withdrawn,
    Changed,
}

impl Rehearsal {
    /// Where the next excerpt is to begin.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.place
    }

    /// Takes an excerpt of the table from [`Rehearsal::place`] on. True when it was the last.
    pub fn take(&mut self, excerpt: &Excerpt) -> bool {
        let (mut before, mut after) = (self.before.clone(), self.after.clone());
        let had = before.rehearse_excerpt(self.now, excerpt, &self.reach);
        let has = after.rehearse_excerpt(self.now, excerpt, &self.reach);
        let gone = had.keys().filter(|prefix| !has.contains_key(*prefix));
        self.preview.removed.extend(gone);
        for (prefix, change) in has {
            let old = had.get(&prefix);
            if old != Some(&change) {
                self.preview.installed.insert(prefix, (change, old.is_some()));
            }
        }
        self.compare(&before, &after, &excerpt.prefixes);
        for prefix in &excerpt.prefixes {
            self.unseen.remove(prefix);
        }
        self.place = excerpt.next.unwrap_or(self.place);
        excerpt.next.is_none()
    }
    fn compare(&mut self, before: &Engine, after: &Engine, prefixes: &[Prefix]) {
        for ((old, new), members) in &self.told {
            for prefix in prefixes {
                let fate = |peer| fate(before.told(*old, peer, prefix), after.told(*new, peer, prefix));
                let mut apart = before.excepted(*old, prefix);
                apart.extend(after.excepted(*new, prefix));
                apart.retain(|peer| members.binary_search(peer).is_ok());
                apart.sort_unstable();
                apart.dedup();
                let others = || members.iter().filter(|peer| !apart.contains(peer)).copied();
                let common = others().next().and_then(fate);
                let told = apart.iter().map(|peer| (*peer, fate(*peer)));
                let told = told.chain(
                    others()
                        .take_while(|_| common.is_some())
                        .map(|peer| (peer, common)),
                );
                for (peer, fate) in told {
                    if let Some(fate) = fate {
                        let heard = self.preview.peers.entry(peer).or_default();
                        heard.list(fate).push(*prefix);
                        if matches!(fate, Fate::Changed) && heard.attributes.len() < ATTRIBUTES_KEPT {
                            let both = before
                                .told(*old, peer, prefix)
                                .zip(after.told(*new, peer, prefix));
                            heard.attributes.extend(both.map(|both| (*prefix, both)));
                        }
                    }
                }
            }
        }
    }

    /// What would follow, once the last excerpt was taken.
    #[must_use]
    pub fn finish(mut self) -> Preview {
        let unseen: Vec<Prefix> = std::mem::take(&mut self.unseen).into_iter().collect();
        let (before, after) = (self.before.clone(), self.after.clone());
        self.compare(&before, &after, &unseen);
        for heard in self.preview.peers.values_mut() {
            for list in [&mut heard.announced, &mut heard.withdrawn, &mut heard.changed] {
                list.sort_unstable();
            }
        }
        self.preview.removed.sort_unstable();
        self.preview
    }
}

fn fate(before: Option<PathAttrs>, after: Option<PathAttrs>) -> Option<Fate> {
    match (before, after) {
        (None, Some(_)) => Some(Fate::Announced),
        (Some(_), None) => Some(Fate::Withdrawn),
        (Some(before), Some(after)) if before != after => Some(Fate::Changed),
        _ => None,
    }
}
