//! The table of prefixes and their paths: one record per prefix, its paths in a slab.
//!
//! A prefix keeps its [`DestId`] while anything refers to it, so that Adj-RIB-Outs are vectors indexed by it.
//! A destination without paths stays until [`Table::reclaim`]: only the caller knows when no group, kernel
//! route or slow peer needs it. The first path of a destination is the best one, if it is eligible; the
//! decision process puts it there.
//!
//! Nothing here panics: an id out of range is treated as absent.
//!
//! ```
//! use bgp_proto::rib::table::Table;
//!
//! let mut table = Table::default();
//! let prefix = "10.244.1.0/24".parse().unwrap();
//! let dest = table.dest(&prefix);
//! assert_eq!((table.find(&prefix), table.prefix(dest)), (Some(dest), Some(prefix)));
//! ```

use std::hash::BuildHasher;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxBuildHasher;

pub use super::path::{Ineligible, Path, PathIdx};

use super::dest::{Dest, Networks, SlotState};
use super::path::Node;
use crate::types::{Family, PathId, PeerId, Prefix};

/// Identifies a prefix of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DestId(pub u32);

impl DestId {
    /// Index into a vector by destination.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of paths of a destination, as far as the decision needs it.
#[derive(Clone, Copy, Debug)]
pub enum PathCount {
    /// It waits for removal.
    None,
    /// A single path.
    One(PathIdx, Path),
    /// Several paths to compare.
    More,
}

/// Prefixes and paths of both families.
#[derive(Clone, Debug, Default)]
pub struct Table {
    index: HashTable<u32>,
    dests: Vec<Dest>,
    networks: Networks,
    free_dests: Vec<u32>,
    /// Destinations that lost their last path since the last reclaim.
    empty: Vec<DestId>,
    /// Destinations without paths that a catching-up member still needs, until [`Table::unblock`].
    blocked: Vec<DestId>,
    /// A new destination found no free slot while `empty` was not empty.
    reclaim_needed: bool,
    /// The slot behind the prefix looked up last. Peers mostly announce and withdraw their tables in the same
    /// order, and then no hash lookup is needed (ADR 13).
    next_slot: u32,
    nodes: Vec<Node>,
    free_nodes: Option<PathIdx>,
}

/// Hash of a prefix. Sixteen consecutive networks have consecutive hash slots, so that runs of neighboring
/// prefixes (pod blocks, a range of service addresses, a sorted table) touch few cache lines. The low bits
/// choose the slot, the high ones are the tag that is compared first.
fn hash(prefix: &Prefix) -> u64 {
    let (cluster, slot) = match prefix.family() {
        Family::Ipv4 => {
            let number = prefix.number_v4();
            let cluster = FxBuildHasher.hash_one(u64::from(prefix.len()) << 40 | u64::from(number >> 4));
            (cluster, u64::from(number))
        }
        Family::Ipv6 => {
            let number = prefix.number_v6();
            let cluster = number >> 4;
            let (high, low) = ((cluster >> 64) as u64, cluster as u64);
            (FxBuildHasher.hash_one((high, low, prefix.len())), number as u64)
        }
    };
    let slot = slot & NEIGHBOR_BITS;
    ((cluster & !NEIGHBOR_BITS) | slot) ^ (slot << TAG)
}

/// Hash bits that differ between neighbors; they are repeated in the tag.
const NEIGHBOR_BITS: u64 = 15;
const TAG: u32 = 57;

impl Table {
    /// The destination of a prefix, if it exists.
    #[must_use]
    pub fn find(&self, prefix: &Prefix) -> Option<DestId> {
        let same = |index: &u32| {
            self.dests
                .get(*index as usize)
                .is_some_and(|dest| self.networks.matches(dest, prefix))
        };
        self.index.find(hash(prefix), same).map(|index| DestId(*index))
    }

    /// The destination of a prefix, for lookups in table order.
    pub fn find_next(&mut self, prefix: &Prefix) -> Option<DestId> {
        let found = self.probe_next_slot(prefix).or_else(|| self.find(prefix));
        if let Some(DestId(index)) = found {
            self.next_slot = index.saturating_add(1);
        }
        found
    }

    /// The slot behind the last one, if it holds the prefix.
    fn probe_next_slot(&self, prefix: &Prefix) -> Option<DestId> {
        let dest = self.dests.get(self.next_slot as usize)?;
        let is = self.networks.matches(dest, prefix) && dest.state != SlotState::Free;
        is.then_some(DestId(self.next_slot))
    }

    /// The destination of a prefix, created if absent.
    pub fn dest(&mut self, prefix: &Prefix) -> DestId {
        let dest = self
            .probe_next_slot(prefix)
            .unwrap_or_else(|| self.dest_by_index(prefix));
        self.next_slot = dest.0.saturating_add(1);
        dest
    }

    fn dest_by_index(&mut self, prefix: &Prefix) -> DestId {
        let (dests, networks) = (&mut self.dests, &mut self.networks);
        let same = |index: &u32| {
            dests
                .get(*index as usize)
                .is_some_and(|dest| networks.matches(dest, prefix))
        };
        let rehash = |index: &u32| {
            dests
                .get(*index as usize)
                .map_or(0, |dest| hash(&networks.prefix(dest)))
        };
        let slot = match self.index.entry(hash(prefix), same, rehash) {
            Entry::Occupied(found) => return DestId(*found.get()),
            Entry::Vacant(slot) => slot,
        };
        let dest = Dest {
            network: networks.insert(prefix),
            head: None,
            fib: 0,
            len: prefix.len(),
            family: prefix.family(),
            dirty: false,
            state: SlotState::Taken,
        };
        self.reclaim_needed |= self.free_dests.is_empty() && !self.empty.is_empty();
        let index = self
            .free_dests
            .pop()
            .unwrap_or(u32::try_from(dests.len()).unwrap_or(u32::MAX));
        match dests.get_mut(index as usize) {
            Some(slot) => *slot = dest,
            None => dests.push(dest),
        }
        slot.insert(index);
        DestId(index)
    }

    /// The prefix of a destination.
    #[must_use]
    pub fn prefix(&self, dest: DestId) -> Option<Prefix> {
        #[cfg(test)]
        super::visits::record();
        self.dests
            .get(dest.index())
            .map(|dest| self.networks.prefix(dest))
    }

    /// One more than the highest id in use.
    #[must_use]
    pub fn bound(&self) -> u32 {
        u32::try_from(self.dests.len()).unwrap_or(u32::MAX)
    }

    /// All destinations, by id.
    pub fn dests(&self) -> impl Iterator<Item = (DestId, Prefix)> {
        (0..self.bound())
            .map(DestId)
            .zip(self.dests.iter().map(|dest| self.networks.prefix(dest)))
    }

    /// Number of prefixes, including those that wait to be reclaimed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Marks a destination for the next flush; returns true when it was not marked.
    pub fn mark(&mut self, dest: DestId) -> bool {
        self.dests
            .get_mut(dest.index())
            .is_some_and(|dest| !std::mem::replace(&mut dest.dirty, true))
    }

    /// Removes the mark.
    pub fn unmark(&mut self, dest: DestId) {
        if let Some(dest) = self.dests.get_mut(dest.index()) {
            dest.dirty = false;
        }
    }

    /// Sets the wanted kernel route and returns the previous one.
    pub fn swap_fib(&mut self, dest: DestId, fib: u32) -> u32 {
        self.dests
            .get_mut(dest.index())
            .map_or(0, |dest| std::mem::replace(&mut dest.fib, fib))
    }

    /// The wanted kernel route of a destination.
    #[must_use]
    pub fn fib(&self, dest: DestId) -> u32 {
        self.dests.get(dest.index()).map_or(0, |dest| dest.fib)
    }

    /// The paths of a destination, the best first once decided.
    pub fn paths(&self, dest: DestId) -> impl Iterator<Item = (PathIdx, Path)> {
        let mut next = self.dests.get(dest.index()).and_then(|dest| dest.head);
        std::iter::from_fn(move || {
            let at = next?;
            #[cfg(test)]
            super::visits::record();
            let node = self.nodes.get(slot(at))?;
            next = node.next;
            Some((at, node.path()))
        })
    }

    /// Whether a destination has no path, one, or several.
    #[must_use]
    pub fn path_count(&self, dest: DestId) -> PathCount {
        let head = self.dests.get(dest.index()).and_then(|dest| dest.head);
        let first = head.and_then(|at| Some((at, self.nodes.get(slot(at))?)));
        match first {
            None => PathCount::None,
            Some((at, node)) if node.next.is_none() => PathCount::One(at, node.path()),
            Some(_) => PathCount::More,
        }
    }

    /// A path by its index.
    #[must_use]
    pub fn at(&self, at: PathIdx) -> Option<Path> {
        self.nodes.get(slot(at)).map(Node::path)
    }

    /// The path of a source with this identifier.
    #[must_use]
    pub fn path(&self, dest: DestId, peer: PeerId, path_id: PathId) -> Option<(PathIdx, Path)> {
        self.find_node(dest, |node| node.peer == peer && node.path_id == path_id)
            .map(|(at, node)| (at, node.path()))
    }

    fn find_node(&self, dest: DestId, wanted: impl Fn(&Node) -> bool) -> Option<(PathIdx, &Node)> {
        let mut next = self.dests.get(dest.index()).and_then(|dest| dest.head);
        while let Some(at) = next {
            #[cfg(test)]
            super::visits::record();
            let node = self.nodes.get(slot(at))?;
            if wanted(node) {
                return Some((at, node));
            }
            next = node.next;
        }
        None
    }

    /// Some path of a source.
    #[must_use]
    pub fn path_of(&self, dest: DestId, peer: PeerId) -> Option<PathIdx> {
        self.find_node(dest, |node| node.peer == peer).map(|(at, _)| at)
    }

    /// The next path of the same source and destination.
    #[must_use]
    pub fn next_of(&self, at: PathIdx, peer: PeerId) -> Option<PathIdx> {
        let mut next = self.nodes.get(slot(at))?.next;
        while let Some(at) = next {
            let node = self.nodes.get(slot(at))?;
            if node.peer == peer {
                return Some(at);
            }
            next = node.next;
        }
        None
    }

    /// The first path: the best one, once decided.
    #[must_use]
    pub fn first(&self, dest: DestId) -> Option<Path> {
        self.paths(dest).next().map(|(_, path)| path)
    }

    /// Replaces a path in place.
    pub fn replace(&mut self, at: PathIdx, path: Path) {
        if let Some(node) = self.nodes.get_mut(slot(at)) {
            *node = Node::new(path, node.next);
        }
    }

    /// Adds a path behind the best one.
    pub fn insert(&mut self, dest: DestId, path: Path) {
        let at = self.allocate(path);
        match self.dests.get_mut(dest.index()) {
            None => {}
            Some(dest) => match dest.head {
                None => dest.head = Some(at),
                Some(head) => self.link_after(head, at),
            },
        }
    }

    fn link_after(&mut self, head: PathIdx, at: PathIdx) {
        let after = self
            .nodes
            .get_mut(slot(head))
            .and_then(|node| node.next.replace(at));
        if let Some(node) = self.nodes.get_mut(slot(at)) {
            node.next = after;
        }
    }

    fn allocate(&mut self, path: Path) -> PathIdx {
        let node = Node::new(path, None);
        if let Some(at) = self.free_nodes
            && let Some(slot) = self.nodes.get_mut(slot(at))
        {
            self.free_nodes = slot.next;
            *slot = node;
            return at;
        }
        self.nodes.push(node);
        PathIdx::of_slot(self.nodes.len() - 1)
    }

    /// Removes a path.
    pub fn remove(&mut self, dest: DestId, at: PathIdx) -> Option<Path> {
        self.take_where(dest, |found, _| found == at)
    }

    /// Removes the path of a source.
    pub fn take(&mut self, dest: DestId, peer: PeerId, path_id: PathId) -> Option<Path> {
        self.take_where(dest, |_, node| node.peer == peer && node.path_id == path_id)
    }

    fn take_where(&mut self, dest: DestId, wanted: impl Fn(PathIdx, &Node) -> bool) -> Option<Path> {
        let mut before = None;
        let mut at = self.dests.get(dest.index())?.head?;
        loop {
            let node = self.nodes.get_mut(slot(at))?;
            let next = node.next;
            if wanted(at, node) {
                let path = node.path();
                node.next = self.free_nodes.replace(at);
                match before {
                    Some(before) => self.nodes.get_mut(slot(before))?.next = next,
                    None => self.set_head(dest, next)?,
                }
                return Some(path);
            }
            before = Some(at);
            at = next?;
        }
    }

    fn set_head(&mut self, id: DestId, head: Option<PathIdx>) -> Option<()> {
        let dest = self.dests.get_mut(id.index())?;
        dest.head = head;
        if head.is_none() && dest.state == SlotState::Taken {
            dest.state = SlotState::Empty;
            self.empty.push(id);
        }
        Some(())
    }

    /// Moves a path to the front: it is the best one.
    pub fn promote(&mut self, dest: DestId, at: PathIdx) {
        let Some(head) = self.dests.get(dest.index()).and_then(|dest| dest.head) else {
            return;
        };
        if head == at {
            return;
        }
        let before = self
            .paths(dest)
            .map(|(found, _)| found)
            .take_while(|found| *found != at)
            .last();
        let next = self.nodes.get(slot(at)).and_then(|node| node.next);
        if let Some(node) = before.and_then(|before| self.nodes.get_mut(slot(before))) {
            node.next = next;
        }
        if let Some(node) = self.nodes.get_mut(slot(at)) {
            node.next = Some(head);
        }
        if let Some(dest) = self.dests.get_mut(dest.index()) {
            dest.head = Some(at);
        }
    }

    /// A catching-up member was sent something: destinations that it needed may be free now.
    pub fn unblock(&mut self) {
        self.empty.append(&mut self.blocked);
    }

    /// Whether new prefixes would use slots that [`Table::reclaim`] frees.
    #[must_use]
    pub fn needs_reclaim(&self) -> bool {
        self.reclaim_needed
    }

    /// Checks up to `limit` destinations without paths and frees those that are not needed; returns true when
    /// there are more. A decided destination without paths has no Adj-RIB-Out entry. `needed`: a catching-up
    /// member may still have to be sent its withdrawal.
    pub fn reclaim(&mut self, limit: usize, needed: Option<&dyn Fn(DestId) -> bool>) -> bool {
        let mut still_dirty = Vec::new();
        for _ in 0..limit {
            let Some(id) = self.empty.pop() else { break };
            let Some(dest) = self.dests.get_mut(id.index()) else {
                continue;
            };
            if dest.dirty {
                still_dirty.push(id);
                continue;
            }
            if let Some(needed) = needed
                && dest.head.is_none()
                && needed(id)
            {
                self.blocked.push(id);
                continue;
            }
            if dest.head.is_some() {
                dest.state = SlotState::Taken;
                continue;
            }
            dest.state = SlotState::Free;
            let hash = hash(&self.networks.prefix(dest));
            self.networks.remove(dest);
            if let Ok(entry) = self.index.find_entry(hash, |found| *found == id.0) {
                entry.remove();
            }
            self.free_dests.push(id.0);
        }
        self.reclaim_needed = false;
        if self.empty.is_empty() {
            self.empty = still_dirty;
            return false;
        }
        self.empty.extend(still_dirty);
        true
    }
}

fn slot(at: PathIdx) -> usize {
    at.slot()
}

#[cfg(test)]
mod tests;
