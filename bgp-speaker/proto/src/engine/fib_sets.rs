//! Interned next-hop sets of kernel routes: a destination stores its set in 4 bytes.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::api::FibNextHop;

/// Interned sets. Routes that an import policy asks for have ids of their own. Id 0 is the empty set.
#[derive(Clone, Debug, Default)]
pub(super) struct FibSets {
    plain: Sets,
    by_policy: Sets,
}

impl FibSets {
    /// Returns the id of a set (sorted, without duplicates) and takes a reference. `install`: a policy asks
    /// for the route.
    pub(super) fn intern(&mut self, set: &[FibNextHop], install: bool) -> u32 {
        let sets = if install {
            &mut self.by_policy
        } else {
            &mut self.plain
        };
        let bit = u32::from(install && !set.is_empty());
        sets.intern(set) << 1 | bit
    }

    /// Releases a reference.
    pub(super) fn release(&mut self, id: u32) {
        match id & 1 {
            0 => self.plain.release(id >> 1),
            _ => self.by_policy.release(id >> 1),
        }
    }

    /// The set of an id, and whether a policy asks for the route.
    pub(super) fn get(&self, id: u32) -> (Arc<[FibNextHop]>, bool) {
        match id & 1 {
            0 => (self.plain.get(id >> 1), false),
            _ => (self.by_policy.get(id >> 1), true),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Sets {
    sets: Vec<(Arc<[FibNextHop]>, u32)>,
    free: Vec<u32>,
    index: HashMap<Arc<[FibNextHop]>, u32, FxBuildHasher>,
}

impl Sets {
    fn intern(&mut self, set: &[FibNextHop]) -> u32 {
        if set.is_empty() {
            return 0;
        }
        if let Some(id) = self.index.get(set).copied() {
            if let Some((_, refs)) = self.slot(id) {
                *refs += 1;
            }
            return id;
        }
        let set: Arc<[FibNextHop]> = set.into();
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

    fn get(&self, id: u32) -> Arc<[FibNextHop]> {
        let slot = (id as usize)
            .checked_sub(1)
            .and_then(|index| self.sets.get(index));
        slot.map_or_else(|| Arc::from([].as_slice()), |(set, _)| Arc::clone(set))
    }

    fn slot(&mut self, id: u32) -> Option<&mut (Arc<[FibNextHop]>, u32)> {
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
        let hop = |addr: &str| FibNextHop {
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
        let hop = FibNextHop {
            addr: [192, 0, 2, 1].into(),
            weight: 1,
        };
        let mut sets = FibSets::default();
        assert_eq!((sets.intern(&[], false), sets.intern(&[], true)), (0, 0));
        let (plain, by_policy) = (sets.intern(&[hop], false), sets.intern(&[hop], true));
        assert_ne!(plain, by_policy);
        assert_eq!((sets.get(plain).1, sets.get(by_policy).1), (false, true));
        sets.release(plain);
        assert_eq!(sets.get(by_policy).0.len(), 1);
    }
}
