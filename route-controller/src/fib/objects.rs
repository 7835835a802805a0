//! Kernel nexthop objects: one per gateway, one group per set of BGP next hops.
//!
//! Pure. Routes refer to a group by its id, so that what a set of next hops comes to is changed by one message,
//! however many routes use it. A group is used for a single gateway too: the kernel lets a group change its members,
//! but not a gateway become a group. Objects found at the start are taken over by what they contain; those that
//! nothing needs go when no route refers to them any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::types::Family;

use super::route::Hop;

/// BGP next hops of a route, and its family.
pub(crate) type SetKey = (Arc<[IpAddr]>, Family);

/// Ids of ours begin here (245, our protocol number, in the first octet).
const FIRST: u32 = 0xf500_0000;
/// A refused object is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// What an object is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Content {
    /// One way out; of the gateway's family, or the route's where there is no gateway.
    Single(Family, Hop),
    /// Ids of single ones, sorted.
    Group(Vec<u32>),
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
    hops: Vec<Hop>,
    members: Vec<u32>,
}

/// Wanted objects and the kernel's.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    enabled: bool,
    groups: HashMap<SetKey, Group>,
    /// The same by id.
    by_id: BTreeMap<u32, SetKey>,
    singles: BTreeMap<(Family, Hop), u32>,
    kernel: BTreeMap<u32, Content>,
    /// Of others, in our range.
    foreign: BTreeSet<u32>,
    next: u32,
    /// Something may have to be put.
    dirty: bool,
    /// Something may have to be removed.
    leftovers: bool,
    retry_at: Option<Instant>,
}

impl Objects {
    /// Whether routes refer to objects at all.
    pub(crate) fn enabled(&self) -> bool {
        self.enabled
    }

    /// Routes refer to objects from now on, or do not.
    pub(crate) fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
        if !enabled {
            self.groups.clear();
            self.by_id.clear();
            self.leftovers = true;
        }
    }

    /// The id of the group of this set, which leads over these (not empty).
    pub(crate) fn want(&mut self, key: &SetKey, hops: &[Hop]) -> u32 {
        if let Some(group) = self.groups.get(key)
            && group.hops == hops
        {
            return group.id;
        }
        let members = self.members(hops, key.1);
        let id = match self.groups.get(key) {
            Some(group) => group.id,
            None => self.group_id(&members),
        };
        let group = Group {
            id,
            hops: hops.to_vec(),
            members,
        };
        self.groups.insert(key.clone(), group);
        self.by_id.insert(id, key.clone());
        self.dirty = true;
        self.leftovers = true;
        id
    }

    fn members(&mut self, hops: &[Hop], family: Family) -> Vec<u32> {
        let mut members: Vec<u32> = hops.iter().map(|hop| self.single(*hop, family)).collect();
        members.sort_unstable();
        members
    }

    fn single(&mut self, hop: Hop, family: Family) -> u32 {
        let family = match hop.gateway {
            Some(IpAddr::V4(_)) => Family::Ipv4,
            Some(IpAddr::V6(_)) => Family::Ipv6,
            None => family,
        };
        if let Some(id) = self.singles.get(&(family, hop)) {
            return *id;
        }
        let content = Content::Single(family, hop);
        let found = self.kernel.iter().find(|(_, known)| **known == content);
        let id = match found.map(|(id, _)| *id) {
            Some(id) => id,
            None => self.allocate(),
        };
        self.singles.insert((family, hop), id);
        id
    }

    /// A group of the kernel's that nobody has claimed and that is just this, or a new id.
    fn group_id(&mut self, members: &[u32]) -> u32 {
        let fits = |(id, content): &(&u32, &Content)| {
            !self.by_id.contains_key(id) && matches!(content, Content::Group(known) if known == members)
        };
        let found = self.kernel.iter().find(fits).map(|(id, _)| *id);
        found.unwrap_or_else(|| self.allocate())
    }

    fn allocate(&mut self) -> u32 {
        loop {
            let id = FIRST + self.next;
            self.next = (self.next + 1) & 0x00ff_ffff;
            let taken = self.kernel.contains_key(&id)
                || self.by_id.contains_key(&id)
                || self.foreign.contains(&id)
                || self.singles.values().any(|single| *single == id);
            if !taken {
                return id;
            }
        }
    }

    /// No route wants this set any more.
    pub(crate) fn unwant(&mut self, key: &SetKey) {
        if let Some(group) = self.groups.remove(key) {
            self.by_id.remove(&group.id);
            self.leftovers = true;
        }
    }

    /// Where the group leads.
    pub(crate) fn hops(&self, id: u32) -> &[Hop] {
        let group = self.by_id.get(&id).and_then(|key| self.groups.get(key));
        group.map_or(&[], |group| &group.hops)
    }

    /// Whether the group leads over this link; `alone`: over no other.
    pub(crate) fn uses(&self, id: u32, ifindex: u32, alone: bool) -> bool {
        let mut hops = self.hops(id).iter().map(|hop| hop.ifindex == ifindex);
        if alone {
            hops.all(|it| it)
        } else {
            hops.any(|it| it)
        }
    }

    /// A complete reading: objects of ours, and ids of others. Gives the groups that routes may have lost with them.
    pub(crate) fn observe(&mut self, ours: Vec<(u32, Content)>, foreign: BTreeSet<u32>) -> BTreeSet<u32> {
        let now: BTreeMap<u32, Content> = ours.into_iter().collect();
        let lost = self
            .kernel
            .iter()
            .filter(|(id, content)| matches!(content, Content::Group(_)) && !now.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        self.kernel = now;
        self.foreign = foreign;
        self.dirty = true;
        self.leftovers = true;
        lost
    }

    /// Objects to put in place now: gateways first, then groups.
    pub(crate) fn changes(&mut self, now: Instant) -> Vec<ObjectOp> {
        let waiting = self.retry_at.is_some_and(|at| at > now);
        if !self.dirty && (waiting || self.retry_at.is_none()) {
            return Vec::new();
        }
        (self.dirty, self.retry_at) = (false, None);
        let needed: BTreeSet<u32> = self
            .groups
            .values()
            .flat_map(|group| group.members.iter().copied())
            .collect();
        let singles = self
            .singles
            .iter()
            .filter(|(_, id)| needed.contains(id))
            .map(|((family, hop), id)| (*id, Content::Single(*family, *hop)));
        let groups = self
            .groups
            .values()
            .map(|group| (group.id, Content::Group(group.members.clone())));
        singles
            .chain(groups)
            .filter(|(id, content)| self.kernel.get(id) != Some(content))
            .map(|(id, content)| ObjectOp::Put(id, content))
            .collect()
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
                Content::Group(_) if !kept(id) => groups.push(*id),
                Content::Group(of) => members.extend(of.iter().copied()),
                Content::Single(..) => {}
            }
        }
        for group in self.groups.values() {
            members.extend(group.members.iter().copied());
        }
        let idle = |(id, content): &(&u32, &Content)| {
            matches!(content, Content::Single(..)) && !members.contains(id)
        };
        let singles: Vec<u32> = self.kernel.iter().filter(idle).map(|(id, _)| *id).collect();
        self.singles.retain(|_, id| members.contains(id));
        groups.into_iter().chain(singles).map(ObjectOp::Remove).collect()
    }

    /// How a change went.
    pub(crate) fn done(&mut self, now: Instant, op: &ObjectOp, worked: bool) {
        match (op, worked) {
            (ObjectOp::Put(id, content), true) => drop(self.kernel.insert(*id, content.clone())),
            (ObjectOp::Put(..), false) => self.retry_at = Some(now + RETRY),
            // What cannot be removed is gone, or is read anew with the next reading.
            (ObjectOp::Remove(id), _) => drop(self.kernel.remove(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(next_hops: &[u8]) -> SetKey {
        let next_hops = next_hops
            .iter()
            .map(|last| IpAddr::from([192, 0, 2, *last]))
            .collect();
        (next_hops, Family::Ipv4)
    }

    fn hops(of: &[u8]) -> Vec<Hop> {
        let hop = |last: &u8| Hop {
            gateway: Some([192, 0, 2, *last].into()),
            ifindex: 2,
        };
        of.iter().map(hop).collect()
    }

    /// A kernel that takes everything.
    fn settle(objects: &mut Objects) -> Vec<ObjectOp> {
        let now = Instant::now();
        let ops = objects.changes(now);
        ops.iter().for_each(|op| objects.done(now, op, true));
        ops
    }

    #[test]
    fn a_lost_gateway_is_one_change() {
        let mut objects = Objects::default();
        let id = objects.want(&key(&[1, 2]), &hops(&[1, 2]));
        assert_eq!(settle(&mut objects).len(), 3);
        assert_eq!(objects.want(&key(&[1, 2]), &hops(&[2])), id);
        let ops = settle(&mut objects);
        assert!(
            matches!(&ops[..], [ObjectOp::Put(put, Content::Group(members))] if *put == id && members.len() == 1)
        );
        // The gateway that is not needed goes afterwards, the group stays.
        let gone = objects.removals(&BTreeSet::from([id]));
        assert!(
            matches!(gone[..], [ObjectOp::Remove(gone)] if gone != id),
            "{gone:?}"
        );
        assert!(settle(&mut objects).is_empty());
    }

    #[test]
    fn what_was_found_is_taken_over() {
        let mut before = Objects::default();
        let id = before.want(&key(&[1, 2]), &hops(&[1, 2]));
        settle(&mut before);
        let mut after = Objects::default();
        assert!(
            after
                .observe(before.kernel.into_iter().collect(), BTreeSet::new())
                .is_empty()
        );
        assert_eq!(after.want(&key(&[1, 2]), &hops(&[1, 2])), id);
        assert!(settle(&mut after).is_empty());
        let other = after.want(&key(&[3]), &hops(&[3]));
        assert_ne!(other, id);
        after.unwant(&key(&[1, 2]));
        settle(&mut after);
        // Routes still refer to it.
        assert!(after.removals(&BTreeSet::from([id])).is_empty());
        assert_eq!(after.removals(&BTreeSet::new()).len(), 3);
    }

    #[test]
    fn what_others_took_away_comes_back() {
        let mut objects = Objects::default();
        let id = objects.want(&key(&[1]), &hops(&[1]));
        let first = settle(&mut objects);
        assert_eq!(objects.observe(Vec::new(), BTreeSet::new()), BTreeSet::from([id]));
        assert_eq!(settle(&mut objects), first);
    }

    #[test]
    fn a_refused_object_is_tried_again_later() {
        let mut objects = Objects::default();
        objects.want(&key(&[1]), &hops(&[1]));
        let now = Instant::now();
        for op in objects.changes(now) {
            objects.done(now, &op, false);
        }
        assert!(objects.changes(now).is_empty());
        assert_eq!(objects.changes(now + RETRY).len(), 2);
    }

    #[test]
    fn ids_of_others_are_left_alone() {
        let mut objects = Objects::default();
        objects.observe(Vec::new(), BTreeSet::from([FIRST, FIRST + 1]));
        assert_eq!(objects.want(&key(&[1]), &hops(&[1])), FIRST + 3);
    }
}
