//! Kernel nexthop objects: one per gateway, one group per set of BGP next hops.
//!
//! Pure. Routes refer to a group by its id, so that what a set of next hops comes to is changed by one message,
//! however many routes use it. A group is used for a single gateway too: the kernel lets a group change its members,
//! but not a gateway become a group. Objects found at the start are taken over by what they contain; those that
//! nothing needs go when no route refers to them any more.
//!
//! A set that loses all its routes to another at once hands its group over ([`Objects::hand_over`]): a router that is
//! lost, with another that has the same routes, is one message too.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::engine::FibNextHop;
use bgp_proto::types::Family;
use rustc_hash::FxHashMap;

use super::route::{NextHop, WeightedNextHop};
use std::net::IpAddr;

/// BGP next hops of a route, and its family.
pub(crate) type SetKey = (Arc<[FibNextHop]>, Family);

/// Own ids begin here (245, podroute's protocol number, in the first octet).
const FIRST: u32 = 0xf500_0000;
/// A refused object is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// A group that keeps flows where they are when its members change (NEXTHOP_GRP_TYPE_RES).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Resilience {
    /// Parts that flows are hashed into.
    pub(crate) buckets: u16,
    /// A part moves to another member only when nothing used it for this long.
    pub(crate) idle_seconds: u32,
}

/// What an object is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Content {
    /// One way out; of the gateway's family, or the route's where there is no gateway.
    Single(Family, NextHop),
    /// Ids of single ones and their weights, sorted.
    Group(Vec<(u32, u8)>, Option<Resilience>),
}

/// A change to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ObjectOp {
    /// Create it, or put this in its place.
    Put(u32, Content),
    /// Take it away.
    Remove(u32),
}

/// A set of next hops in use.
#[derive(Debug)]
struct Group {
    id: u32,
    next_hops: Vec<WeightedNextHop>,
    members: Vec<(u32, u8)>,
}

/// A gateway.
#[derive(Debug)]
struct Single {
    family: Family,
    hop: NextHop,
    /// Groups that have it.
    refs: usize,
}

/// Wanted objects and the kernel's.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    enabled: bool,
    resilience: Option<Resilience>,
    groups: FxHashMap<SetKey, Group>,
    /// The same by id.
    by_id: FxHashMap<u32, SetKey>,
    /// Groups of sets without routes: until theirs are written again, they lead where that set does.
    redirected_groups: FxHashMap<u32, SetKey>,
    singles: FxHashMap<u32, Single>,
    /// The same by what they are.
    single_ids: FxHashMap<(Family, NextHop), u32>,
    kernel: BTreeMap<u32, Content>,
    /// Of the kernel's, what no set or gateway has claimed.
    unclaimed: FxHashMap<Content, u32>,
    /// Of others, in the own range.
    foreign: BTreeSet<u32>,
    next: u32,
    /// These may have to be put.
    dirty: BTreeSet<u32>,
    /// Something may have to be removed.
    leftovers: bool,
    /// The kernel refused these.
    failed: BTreeSet<u32>,
    retry_at: Option<Instant>,
}

impl Objects {
    /// Whether routes refer to objects at all.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    /// Routes refer to objects from now on, or do not; and what groups are like. Every set has to be wanted again.
    pub(crate) fn configure(&mut self, enabled: bool, resilience: Option<Resilience>) {
        if (enabled, resilience) != (self.enabled, self.resilience) {
            (self.enabled, self.resilience) = (enabled, resilience);
            for key in self.groups.keys().cloned().collect::<Vec<_>>() {
                self.unwant(&key);
            }
            self.redirected_groups.clear();
        }
    }

    /// The id of the group of this set, which leads over these (not empty).
    pub(crate) fn want(&mut self, key: &SetKey, next_hops: &[WeightedNextHop]) -> u32 {
        if let Some(group) = self.groups.get(key)
            && group.next_hops == next_hops
        {
            return group.id;
        }
        let members = self.members(next_hops, key.1);
        let before = self.groups.remove(key);
        let id = match &before {
            Some(group) => group.id,
            None => self.group_id(&members),
        };
        let next_hops = next_hops.to_vec();
        self.groups.insert(
            key.clone(),
            Group {
                id,
                next_hops,
                members,
            },
        );
        self.by_id.insert(id, key.clone());
        self.unref_members(before.map(|group| group.members));
        let followers = self.redirected_groups.iter().filter(|(_, to)| *to == key);
        self.dirty.extend(followers.map(|(id, _)| *id));
        self.dirty.insert(id);
        self.leftovers = true;
        id
    }

    /// Ids of the gateways, each with one user more.
    fn members(&mut self, next_hops: &[WeightedNextHop], family: Family) -> Vec<(u32, u8)> {
        let member = |next_hop: &WeightedNextHop| (self.single(next_hop.hop, family), next_hop.weight);
        let mut members: Vec<(u32, u8)> = next_hops.iter().map(member).collect();
        members.sort_unstable();
        members
    }

    fn single(&mut self, hop: NextHop, family: Family) -> u32 {
        let family = match hop.gateway {
            Some(IpAddr::V4(_)) => Family::Ipv4,
            Some(IpAddr::V6(_)) => Family::Ipv6,
            None => family,
        };
        let id = match self.single_ids.get(&(family, hop)) {
            Some(id) => *id,
            None => self.claim(&Content::Single(family, hop)),
        };
        self.single_ids.insert((family, hop), id);
        let refs = 0;
        let single = self.singles.entry(id).or_insert(Single { family, hop, refs });
        single.refs += 1;
        if single.refs == 1 {
            self.dirty.insert(id);
        }
        id
    }

    fn unref_members(&mut self, members: Option<Vec<(u32, u8)>>) {
        for (id, _) in members.unwrap_or_default() {
            if let Some(single) = self.singles.get_mut(&id) {
                single.refs -= 1;
            }
        }
    }

    fn group_id(&mut self, members: &[(u32, u8)]) -> u32 {
        self.claim(&Content::Group(members.to_vec(), self.resilience))
    }

    /// An object of the kernel's that nobody has claimed and that is just this, or a new id.
    fn claim(&mut self, content: &Content) -> u32 {
        match self.unclaimed.remove(content) {
            Some(id) => id,
            None => self.allocate(),
        }
    }

    fn allocate(&mut self) -> u32 {
        loop {
            let id = FIRST + self.next;
            self.next = (self.next + 1) & 0x00ff_ffff;
            let taken = self.kernel.contains_key(&id)
                || self.by_id.contains_key(&id)
                || self.foreign.contains(&id)
                || self.singles.contains_key(&id);
            if !taken {
                return id;
            }
        }
    }

    /// No route wants this set any more.
    pub(crate) fn unwant(&mut self, key: &SetKey) {
        if let Some(group) = self.groups.remove(key) {
            self.by_id.remove(&group.id);
            self.abandon(group.id);
            self.unref_members(Some(group.members));
        }
    }

    fn abandon(&mut self, id: u32) {
        if let Some(content) = self.kernel.get(&id) {
            self.unclaimed.insert(content.clone(), id);
        }
        self.leftovers = true;
    }

    /// Every route of a set is wanted over another: its group becomes the other's, or leads where the other does until
    /// its routes are written again.
    pub(crate) fn hand_over(&mut self, from: &SetKey, to: &SetKey) {
        let Some(group) = self.groups.remove(from) else {
            return;
        };
        self.by_id.remove(&group.id);
        self.dirty.insert(group.id);
        self.leftovers = true;
        // Of groups that nobody has claimed yet one may be the other set's own, with its routes still on it.
        let mut unclaimed = self.unclaimed.keys();
        let may_find = unclaimed.any(|content| matches!(content, Content::Group(..)));
        if self.groups.contains_key(to) || may_find {
            self.redirected_groups.insert(group.id, to.clone());
            self.unref_members(Some(group.members));
        } else {
            // Its next_hops are the previous ones until it is wanted.
            self.by_id.insert(group.id, to.clone());
            self.groups.insert(to.clone(), group);
        }
    }

    fn group(&self, id: u32) -> Option<&Group> {
        let key = self.by_id.get(&id).or_else(|| self.redirected_groups.get(&id))?;
        self.groups.get(key)
    }

    /// Where the group leads.
    pub(crate) fn next_hops(&self, id: u32) -> &[WeightedNextHop] {
        self.group(id).map_or(&[], |group| &group.next_hops)
    }

    /// Whether the group leads over this link; `alone`: over no other.
    pub(crate) fn uses(&self, id: u32, ifindex: u32, alone: bool) -> bool {
        let mut next_hops = self
            .next_hops(id)
            .iter()
            .map(|next_hop| next_hop.hop.ifindex == ifindex);
        if alone {
            next_hops.all(|it| it)
        } else {
            next_hops.any(|it| it)
        }
    }

    /// A complete reading: own objects, and ids of others. Gives the groups that routes may have lost with them, and
    /// how many objects were not as known.
    pub(crate) fn observe(
        &mut self,
        own: Vec<(u32, Content)>,
        foreign: BTreeSet<u32>,
    ) -> (BTreeSet<u32>, usize) {
        let now: BTreeMap<u32, Content> = own.into_iter().collect();
        let differs = now
            .iter()
            .filter(|(id, content)| self.kernel.get(id) != Some(content))
            .count();
        let gone = self.kernel.keys().filter(|id| !now.contains_key(id)).count();
        let lost = self
            .kernel
            .iter()
            .filter(|(id, content)| matches!(content, Content::Group(..)) && !now.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        self.kernel = now;
        self.foreign = foreign;
        self.dirty.extend(self.singles.keys());
        self.dirty
            .extend(self.by_id.keys().chain(self.redirected_groups.keys()));
        self.find_unclaimed();
        self.leftovers = true;
        (lost, differs + gone)
    }

    fn find_unclaimed(&mut self) {
        let claimed = |id: &u32| self.by_id.contains_key(id) || self.singles.contains_key(id);
        let free = self.kernel.iter().rev().filter(|(id, _)| !claimed(id));
        self.unclaimed = free.map(|(id, content)| (content.clone(), *id)).collect();
    }

    /// What this object should be; `None` where it does not matter.
    fn wanted(&self, id: u32) -> Option<Content> {
        match self.singles.get(&id) {
            Some(single) if single.refs > 0 => Some(Content::Single(single.family, single.hop)),
            Some(_) => None,
            None => self
                .group(id)
                .map(|group| Content::Group(group.members.clone(), self.resilience)),
        }
    }

    /// Objects to put in place now: gateways first, then groups.
    pub(crate) fn changes(&mut self, now: Instant) -> Vec<ObjectOp> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.dirty.append(&mut self.failed);
        }
        let dirty = std::mem::take(&mut self.dirty);
        let (mut singles, mut groups) = (Vec::new(), Vec::new());
        for id in dirty {
            match self.wanted(id) {
                Some(content) if self.kernel.get(&id) == Some(&content) => {}
                Some(content @ Content::Single(..)) => singles.push(ObjectOp::Put(id, content)),
                Some(content @ Content::Group(..)) => groups.push(ObjectOp::Put(id, content)),
                None => {}
            }
        }
        singles.append(&mut groups);
        singles
    }

    /// Whether [`Objects::changes`] may have something now.
    pub(crate) fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When [`Objects::changes`] has to be asked again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether [`Objects::removals`] may have something.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.leftovers
    }

    /// Objects that nothing needs: groups first. `in_use`: routes refer to them.
    pub(crate) fn removals(&mut self, in_use: &BTreeSet<u32>) -> Vec<ObjectOp> {
        self.leftovers = false;
        let kept = |id: &u32| self.by_id.contains_key(id) || in_use.contains(id);
        let (mut groups, mut members) = (Vec::new(), BTreeSet::new());
        for (id, content) in &self.kernel {
            match content {
                Content::Group(..) if !kept(id) => groups.push(*id),
                Content::Group(of, _) => members.extend(of.iter().map(|(id, _)| *id)),
                Content::Single(..) => {}
            }
        }
        self.redirected_groups.retain(|id, _| in_use.contains(id));
        let singles = &mut self.singles;
        singles.retain(|id, single| single.refs > 0 || members.contains(id));
        self.single_ids.retain(|_, id| singles.contains_key(id));
        let idle = |(id, content): &(&u32, &Content)| {
            matches!(content, Content::Single(..)) && !members.contains(id) && !singles.contains_key(id)
        };
        let singles: Vec<u32> = self.kernel.iter().filter(idle).map(|(id, _)| *id).collect();
        groups.into_iter().chain(singles).map(ObjectOp::Remove).collect()
    }

    /// How a change went.
    pub(crate) fn done(&mut self, now: Instant, op: &ObjectOp, worked: bool) {
        match (op, worked) {
            (ObjectOp::Put(id, content), true) => drop(self.kernel.insert(*id, content.clone())),
            (ObjectOp::Put(id, _), false) => {
                self.failed.insert(*id);
                self.retry_at = Some(now + RETRY);
            }
            // What cannot be removed is gone, or is read again with the next reading.
            (ObjectOp::Remove(id), _) => self.removed(*id),
        }
    }

    fn removed(&mut self, id: u32) {
        if let Some(content) = self.kernel.remove(&id)
            && self.unclaimed.get(&content) == Some(&id)
        {
            self.unclaimed.remove(&content);
        }
    }
}

#[cfg(test)]
mod tests;
