//! Sets of next hops that the kernel was told, interned: a destination remembers its set in 4 bytes.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::api::FibHop;

/// Interned sets, those that a policy wants installed for themselves; 0 is the empty one.
#[derive(Clone, Debug, Default)]
pub(super) struct FibSets {
    plain: Sets,
    wanted: Sets,
}

impl FibSets {
    /// The id of a set (sorted, without repetition), with one more reference. `install`: a policy wants it.
    pub(super) fn intern(&mut self, set: &[FibHop], install: bool) -> u32 {
        let sets = if install {
            &mut self.wanted
        } else {
            &mut self.plain
        };
        let bit = u32::from(install && !set.is_empty());
        sets.intern(set) << 1 | bit
    }

    /// One reference less.
    pub(super) fn release(&mut self, id: u32) {
        match id & 1 {
            0 => self.plain.release(id >> 1),
            _ => self.wanted.release(id >> 1),
        }
    }

    /// The set of an id, and whether a policy wants it.
    pub(super) fn get(&self, id: u32) -> (Arc<[FibHop]>, bool) {
        match id & 1 {
            0 => (self.plain.get(id >> 1), false),
            _ => (self.wanted.get(id >> 1), true),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Sets {
    sets: Vec<(Arc<[FibHop]>, u32)>,
    free: Vec<u32>,
    index: HashMap<Arc<[FibHop]>, u32, FxBuildHasher>,
}

impl Sets {
    fn intern(&mut self, set: &[FibHop]) -> u32 {
        if set.is_empty() {
            return 0;
        }
        if let Some(id) = self.index.get(set).copied() {
            if let Some((_, refs)) = self.slot(id) {
                *refs += 1;
            }
            return id;
        }
        let set: Arc<[FibHop]> = set.into();
        let id = self.free.pop().unwrap_or_else(|| {
            self.sets.push((Arc::clone(&set), 0));
            u32::try_from(self.sets.len()).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.slot(id) {
            *slot = (Arc::clone(&set), 1);
        }
        self.index.insert(set, id);
        id
    }

    fn release(&mut self, id: u32) {
        let Some((set, refs)) = self.slot(id) else { return };
        *refs = refs.saturating_sub(1);
        if *refs == 0 {
            let set = std::mem::replace(set, Arc::from([].as_slice()));
            self.index.remove(&set);
            self.free.push(id);
        }
    }

    fn get(&self, id: u32) -> Arc<[FibHop]> {
        let slot = (id as usize)
            .checked_sub(1)
            .and_then(|index| self.sets.get(index));
        slot.map_or_else(|| Arc::from([].as_slice()), |(set, _)| Arc::clone(set))
    }

    fn slot(&mut self, id: u32) -> Option<&mut (Arc<[FibHop]>, u32)> {
        (id as usize)
            .checked_sub(1)
            .and_then(|index| self.sets.get_mut(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_shared_and_freed() {
        let hop = |addr: &str| FibHop {
            addr: addr.parse().unwrap(),
            weight: 1,
        };
        let (one, two) = (hop("192.0.2.1"), hop("192.0.2.2"));
        let mut sets = Sets::default();
        assert_eq!(sets.intern(&[]), 0);
        let a = sets.intern(&[one]);
        let b = sets.intern(&[one, two]);
        assert_eq!((sets.intern(&[one]), sets.get(b).len()), (a, 2));
        sets.release(a);
        assert_eq!(sets.get(a).len(), 1);
        sets.release(a);
        assert_eq!(sets.intern(&[two]), a);
        assert_eq!(&sets.get(a)[..], [two]);
    }

    #[test]
    fn wanted_ones_are_others() {
        let hop = FibHop {
            addr: [192, 0, 2, 1].into(),
            weight: 1,
        };
        let mut sets = FibSets::default();
        assert_eq!((sets.intern(&[], false), sets.intern(&[], true)), (0, 0));
        let (plain, wanted) = (sets.intern(&[hop], false), sets.intern(&[hop], true));
        assert_ne!(plain, wanted);
        assert_eq!((sets.get(plain).1, sets.get(wanted).1), (false, true));
        sets.release(plain);
        assert_eq!(sets.get(wanted).0.len(), 1);
    }
}
