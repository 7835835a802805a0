//! Interned path attributes: equal sets are stored once and identified by a 4-byte [`AttrId`].
//!
//! References are counted manually: each stored id has a reference from [`AttrTable::intern`] or
//! [`AttrTable::retain`], which [`AttrTable::release`] drops. Sets without references are freed in batches:
//! each needs an index lookup that misses the CPU cache, and the misses of a batch overlap (ADR 13).
//!
//! Panics: [`AttrTable::get`], [`AttrTable::rank`] and [`AttrTable::next_hop`], if the last reference of the
//! id was released. Ids do not leave the crate.
//!
//! ```
//! use bgp_proto::rib::attrs::AttrTable;
//! use bgp_proto::rib::nexthop::NextHops;
//! use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! let (mut attrs, mut next_hops) = (AttrTable::default(), NextHops::default());
//! let set = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
//! let id = attrs.intern(set.clone(), &mut next_hops);
//! assert_eq!(attrs.intern(set, &mut next_hops), id); // stored once, two references
//! attrs.release(id, &mut next_hops);
//! assert_eq!(attrs.len(), 1);
//! ```

use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::num::NonZeroU32;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::nexthop::{NextHopId, NextHops};
use crate::types::{Asn, Community, PeerId};
use crate::wire::{DEFAULT_LOCAL_PREF, Origin, PathAttrs};

/// Identifies an interned attribute set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttrId(NonZeroU32);

impl AttrId {
    /// The highest number: 268 million sets, about 60 GB.
    pub(super) const LARGEST: u32 = (1 << 28) - 1;
    /// The lowest number.
    pub(super) const FIRST: Self = Self(NonZeroU32::MIN);

    pub(super) fn number(self) -> u32 {
        self.0.get()
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

/// The criteria of the decision process. Computed for each comparison: most prefixes have a single path, and
/// storing it for a million sets would waste memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rank {
    /// Without LLGR_STALE: a long-lived stale path loses to any other (RFC 9494 §4.3).
    pub not_llgr_stale: bool,
    /// LOCAL_PREF; 100 if absent (RFC 4271 §9.1.1 leaves it to the implementation), 0 with GRACEFUL_SHUTDOWN
    /// (RFC 8326 §4).
    pub local_pref: u32,
    /// AS path length.
    pub hops: u32,
    /// ORIGIN.
    pub origin: Origin,
    /// MULTI_EXIT_DISC, 0 if absent (RFC 4271 §9.1.2.2 c).
    pub med: u32,
    /// The neighbor AS; `None` for paths of our own AS.
    pub neighbor: Option<Asn>,
}

impl Rank {
    fn of(attrs: &PathAttrs) -> Self {
        let local_pref = if attrs.has_community(Community::GRACEFUL_SHUTDOWN) {
            0 // RFC 8326 §4.2
        } else {
            attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
        };
        Self {
            not_llgr_stale: !attrs.has_community(Community::LLGR_STALE),
            local_pref,
            hops: attrs.as_path.hops(),
            origin: attrs.origin,
            med: attrs.med.unwrap_or(0),
            neighbor: attrs.as_path.neighbor(),
        }
    }
}

#[derive(Clone, Debug)]
struct Slot {
    attrs: PathAttrs,
    next_hop: NextHopId,
    refs: u32,
    hash: u32,
    /// The peer whose memory the set counts towards: the first that sent it since it was last unreferenced.
    owner: PeerId,
}

/// The table of attribute sets.
#[derive(Clone, Debug, Default)]
pub struct AttrTable {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Hash and slot: growing the index reads no set.
    index: HashTable<(u32, u32)>,
    /// Slots whose last reference was released. Some may be referenced again.
    unreferenced: Vec<u32>,
    /// Number of sets with references.
    referenced: usize,
    /// Octets of the sets with references, by owner. Sets of our own routes are not counted.
    memory: FxHashMap<PeerId, usize>,
}

/// Number of sets that are freed together.
const FREE_BATCH: usize = 256;

impl AttrTable {
    /// Returns the id of this set and adds a reference. The set counts towards no peer's memory.
    pub fn intern(&mut self, attrs: PathAttrs, next_hops: &mut NextHops) -> AttrId {
        self.intern_from(PeerId::LOCAL, attrs, next_hops)
    }

    /// Returns the id of this set and adds a reference. A new set also takes a reference on its next hop and
    /// counts towards the memory of `owner`.
    pub fn intern_from(&mut self, owner: PeerId, attrs: PathAttrs, next_hops: &mut NextHops) -> AttrId {
        let hash = hash(&attrs);
        let slots = &mut self.slots;
        let same = |(found, index): &(u32, u32)| {
            *found == hash && slot_at(slots, *index).is_some_and(|slot| slot.attrs == attrs)
        };
        if let Some((_, index)) = self.index.find(spread_hash(hash), same).copied() {
            self.retain_slot(index, owner, next_hops);
            return id(index);
        }
        self.referenced += 1;
        self.charge(owner, size(&attrs));
        let slot = Slot {
            next_hop: next_hops.retain(attrs.next_hop.addr()),
            refs: 1,
            hash,
            owner,
            attrs,
        };
        let index = self.store(slot);
        self.index
            .insert_unique(spread_hash(hash), (hash, index), |(hash, _)| spread_hash(*hash));
        id(index)
    }

    fn charge(&mut self, owner: PeerId, octets: usize) {
        if owner != PeerId::LOCAL {
            *self.memory.entry(owner).or_default() += octets;
        }
    }

    fn discharge(&mut self, owner: PeerId, octets: usize) {
        if let Entry::Occupied(mut charged) = self.memory.entry(owner) {
            *charged.get_mut() = charged.get().saturating_sub(octets);
            if *charged.get() == 0 {
                charged.remove();
            }
        }
    }

    /// Octets of the sets that count towards this peer's memory.
    #[must_use]
    pub fn memory(&self, owner: PeerId) -> usize {
        self.memory.get(&owner).copied().unwrap_or(0)
    }

    /// Adds a reference to a set that may have none.
    fn retain_slot(&mut self, index: u32, owner: PeerId, next_hops: &mut NextHops) {
        let Some(slot) = self.slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return;
        };
        if slot.refs == 0 {
            slot.next_hop = next_hops.retain(slot.attrs.next_hop.addr());
            slot.owner = owner;
            slot.refs = 1;
            let octets = size(&slot.attrs);
            self.referenced += 1;
            return self.charge(owner, octets);
        }
        slot.refs += 1;
    }

    fn store(&mut self, slot: Slot) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // 2^28 distinct sets do not fit into memory.
            u32::try_from(self.slots.len() - 1).unwrap_or(AttrId::LARGEST - 1)
        });
        debug_assert!(index < AttrId::LARGEST);
        if let Some(entry) = self.slots.get_mut(index as usize) {
            *entry = Some(slot);
        }
        index
    }

    fn slot(&self, id: AttrId) -> &Slot {
        #[expect(
            clippy::expect_used,
            reason = "an id is held by a counted reference, so its slot is taken"
        )]
        slot_at(&self.slots, id.0.get() - 1).expect("attribute id without a reference")
    }

    /// The attributes of an id.
    #[must_use]
    pub fn get(&self, id: AttrId) -> &PathAttrs {
        &self.slot(id).attrs
    }

    /// The criteria of the decision process.
    #[must_use]
    pub fn rank(&self, id: AttrId) -> Rank {
        Rank::of(self.get(id))
    }

    /// The next hop of a set.
    #[must_use]
    pub fn next_hop(&self, id: AttrId) -> NextHopId {
        self.slot(id).next_hop
    }

    /// Takes a reference.
    pub fn retain(&mut self, id: AttrId) -> AttrId {
        if let Some(slot) = self
            .slots
            .get_mut((id.0.get() - 1) as usize)
            .and_then(Option::as_mut)
        {
            slot.refs += 1;
        }
        id
    }

    /// Releases a reference. The last one also releases the next hop; the set is freed later.
    pub fn release(&mut self, id: AttrId, next_hops: &mut NextHops) {
        #[cfg(test)]
        super::visits::record();
        let index = id.0.get() - 1;
        let Some(Some(slot)) = self.slots.get_mut(index as usize) else {
            return;
        };
        slot.refs -= 1;
        if slot.refs > 0 {
            return;
        }
        next_hops.release(slot.next_hop);
        let (owner, octets) = (slot.owner, size(&slot.attrs));
        self.discharge(owner, octets);
        self.referenced -= 1;
        self.unreferenced.push(index);
        if self.unreferenced.len() >= FREE_BATCH {
            self.free_unreferenced();
        }
    }

    /// Frees the sets without references.
    pub fn free_unreferenced(&mut self) {
        for index in self.unreferenced.drain(..) {
            let Some(entry) = self.slots.get_mut(index as usize) else {
                continue;
            };
            // A set that was released twice is listed twice.
            let Some(slot) = entry.as_ref().filter(|slot| slot.refs == 0) else {
                continue;
            };
            if let Ok(entry) = self
                .index
                .find_entry(spread_hash(slot.hash), |(_, found)| *found == index)
            {
                entry.remove();
            }
            *entry = None;
            self.free.push(index);
        }
    }

    /// Number of sets with references.
    #[must_use]
    pub fn len(&self) -> usize {
        self.referenced
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.referenced == 0
    }
}

fn hash(attrs: &PathAttrs) -> u32 {
    (FxBuildHasher.hash_one(attrs) >> 32) as u32
}

/// Spreads 32 bits over 64, so that high and low bits are equally random.
fn spread_hash(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Octets of a set and of its index entry.
fn size(attrs: &PathAttrs) -> usize {
    size_of::<Option<Slot>>() + 2 * size_of::<(u32, u32)>() + attrs.heap_octets()
}

fn slot_at(slots: &[Option<Slot>], index: u32) -> Option<&Slot> {
    slots.get(index as usize).and_then(Option::as_ref)
}

fn id(index: u32) -> AttrId {
    AttrId(NonZeroU32::MIN.saturating_add(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LargeCommunity;
    use crate::wire::{AsPath, NextHop};

    fn attrs(last: u8, med: u32) -> PathAttrs {
        let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, last].into()));
        attrs.med = Some(med);
        attrs
    }

    #[test]
    fn equal_sets_share_an_id_until_the_last_release() {
        let (mut table, mut next_hops) = (AttrTable::default(), NextHops::default());
        let a = table.intern(attrs(1, 5), &mut next_hops);
        let b = table.intern(attrs(1, 5), &mut next_hops);
        let c = table.intern(attrs(1, 6), &mut next_hops);
        assert_eq!((a, table.len(), next_hops.len()), (b, 2, 1));
        assert_ne!(a, c);
        table.release(a, &mut next_hops);
        assert_eq!(table.get(b).med, Some(5));
        table.release(b, &mut next_hops);
        table.release(c, &mut next_hops);
        next_hops.take_changes();
        assert_eq!((table.len(), next_hops.len()), (0, 0));
        table.free_unreferenced();
        assert_eq!(table.intern(attrs(2, 7), &mut next_hops), c);
    }

    #[test]
    fn a_set_that_is_interned_before_it_is_freed_is_reused() {
        let (mut table, mut next_hops) = (AttrTable::default(), NextHops::default());
        let a = table.intern(attrs(1, 5), &mut next_hops);
        for _ in 0..2 {
            table.release(a, &mut next_hops);
            assert!(table.is_empty());
            assert_eq!(table.intern(attrs(1, 5), &mut next_hops), a);
        }
        assert_eq!((table.len(), next_hops.len()), (1, 1));
        table.free_unreferenced();
        assert_eq!(table.get(a).med, Some(5), "it stays");
        table.release(a, &mut next_hops);
        next_hops.take_changes();
        assert_eq!((table.len(), next_hops.len()), (0, 0));
        table.free_unreferenced();
        assert!(table.index.is_empty() && table.slots.iter().all(Option::is_none));
        assert_eq!(table.free, [0]);
    }

    #[test]
    fn sets_are_freed_in_batches() {
        let (mut table, mut next_hops) = (AttrTable::default(), NextHops::default());
        let numbers = 0..u32::try_from(FREE_BATCH).unwrap();
        let all: Vec<AttrId> = numbers
            .map(|med| table.intern(attrs(1, med), &mut next_hops))
            .collect();
        for id in all {
            assert_eq!(table.index.len(), FREE_BATCH);
            table.release(id, &mut next_hops);
        }
        assert!(table.index.is_empty() && table.free.len() == FREE_BATCH);
    }

    #[test]
    fn a_set_counts_towards_its_first_sender() {
        let (mut table, mut next_hops) = (AttrTable::default(), NextHops::default());
        let [a, b] = [PeerId(1), PeerId(2)];
        let mut long = attrs(1, 5);
        long.as_path = AsPath::sequence(&[Asn(65001); 200]);
        long.communities = (0..100).map(Community).collect();
        long.extra_mut().large_communities = vec![LargeCommunity(1, 2, 3); 50];
        let first = table.intern_from(a, long.clone(), &mut next_hops);
        let again = table.intern_from(b, long, &mut next_hops);
        let short = table.intern_from(b, attrs(1, 6), &mut next_hops);
        table.intern(attrs(1, 7), &mut next_hops);
        assert_eq!((first, table.memory(PeerId::LOCAL)), (again, 0));
        let (of_a, of_b) = (table.memory(a), table.memory(b));
        assert!((800 + 400 + 600..2500).contains(&of_a), "{of_a}");
        assert!((80..200).contains(&of_b), "{of_b}");
        table.release(first, &mut next_hops);
        assert_eq!(table.memory(a), of_a, "the other peer still has it");
        table.release(again, &mut next_hops);
        table.release(short, &mut next_hops);
        assert!(table.memory.is_empty(), "nothing stays of peers without sets");
        // A set that is referenced again before it is freed counts towards its new sender.
        table.intern_from(a, attrs(1, 6), &mut next_hops);
        assert_eq!((table.memory(a), table.memory(b)), (of_b, 0));
    }

    #[test]
    fn rank_defaults() {
        let (mut table, mut next_hops) = (AttrTable::default(), NextHops::default());
        let mut set = attrs(1, 0);
        set.communities = [Community::GRACEFUL_SHUTDOWN].into();
        set.local_pref = Some(500);
        let shut = table.intern(set, &mut next_hops);
        let plain = table.intern(attrs(1, 0), &mut next_hops);
        assert_eq!(
            (table.rank(shut).local_pref, table.rank(plain).local_pref),
            (0, 100)
        );
    }
}
