//! What the kernel was told of routes, interned: a destination remembers its next hops and options in 4 bytes.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use rustc_hash::FxBuildHasher;

use super::api::FibHop;
use crate::wire::KernelRoute;

/// Interned sets; 0 is no route.
#[derive(Clone, Debug, Default)]
pub(super) struct FibSets {
    sets: Vec<(Key, u32)>,
    free: Vec<u32>,
    index: HashMap<Key, u32, FxBuildHasher>,
}

/// Next hops (sorted, without repetition), and what policies want of the route.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Key(Arc<[FibHop]>, KernelRoute);

/// The same to look for.
struct Wanted<'a>(&'a [FibHop], KernelRoute);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Wanted(&self.0, self.1).hash(state);
    }
}

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
        if self.1 != KernelRoute::default() {
            self.1.hash(state);
        }
    }
}

impl Equivalent<Key> for Wanted<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.0 == *key.0 && self.1 == key.1
    }
}

impl FibSets {
    /// The id of a set, with one more reference. Without next hops there is a route only when it drops packets.
    pub(super) fn intern(&mut self, set: &[FibHop], route: KernelRoute) -> u32 {
        if set.is_empty() && !route.blackhole {
            return 0;
        }
        if let Some(id) = self.index.get(&Wanted(set, route)).copied() {
            if let Some((_, refs)) = self.slot(id) {
                *refs += 1;
            }
            return id;
        }
        let key = Key(set.into(), route);
        let id = self.free.pop().unwrap_or_else(|| {
            self.sets.push((key.clone(), 0));
            u32::try_from(self.sets.len()).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.slot(id) {
            *slot = (key.clone(), 1);
        }
        self.index.insert(key, id);
        id
    }

    /// One reference less.
    pub(super) fn release(&mut self, id: u32) {
        let Some((key, refs)) = self.slot(id) else { return };
        *refs = refs.saturating_sub(1);
        if *refs == 0 {
            let nothing = Key(Arc::from([].as_slice()), KernelRoute::default());
            let key = std::mem::replace(key, nothing);
            self.index.remove(&key);
            self.free.push(id);
        }
    }

    /// The next hops of an id, and what policies want of the route.
    pub(super) fn get(&self, id: u32) -> (Arc<[FibHop]>, KernelRoute) {
        let slot = (id as usize)
            .checked_sub(1)
            .and_then(|index| self.sets.get(index));
        match slot {
            Some((Key(set, route), _)) => (Arc::clone(set), *route),
            None => (Arc::from([].as_slice()), KernelRoute::default()),
        }
    }

    fn slot(&mut self, id: u32) -> Option<&mut (Key, u32)> {
        (id as usize)
            .checked_sub(1)
            .and_then(|index| self.sets.get_mut(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: KernelRoute = KernelRoute {
        install: false,
        blackhole: false,
        metric: None,
        table: None,
        source: None,
        weight: None,
    };

    fn hop(addr: &str) -> FibHop {
        FibHop {
            addr: addr.parse().unwrap(),
            weight: 1,
        }
    }

    #[test]
    fn sets_are_shared_and_freed() {
        let (one, two) = (hop("192.0.2.1"), hop("192.0.2.2"));
        let mut sets = FibSets::default();
        assert_eq!(sets.intern(&[], PLAIN), 0);
        let a = sets.intern(&[one], PLAIN);
        let b = sets.intern(&[one, two], PLAIN);
        assert_eq!((sets.intern(&[one], PLAIN), sets.get(b).0.len()), (a, 2));
        sets.release(a);
        assert_eq!(sets.get(a).0.len(), 1);
        sets.release(a);
        assert_eq!(sets.intern(&[two], PLAIN), a);
        assert_eq!(&sets.get(a).0[..], [two]);
    }

    #[test]
    fn options_make_another_route() {
        let hop = hop("192.0.2.1");
        let wanted = KernelRoute {
            install: true,
            ..PLAIN
        };
        let dropped = KernelRoute {
            blackhole: true,
            ..PLAIN
        };
        let mut sets = FibSets::default();
        assert_eq!((sets.intern(&[], PLAIN), sets.intern(&[], wanted)), (0, 0));
        let (plain, installed) = (sets.intern(&[hop], PLAIN), sets.intern(&[hop], wanted));
        assert_ne!(plain, installed);
        assert_eq!((sets.get(plain).1, sets.get(installed).1), (PLAIN, wanted));
        sets.release(plain);
        assert_eq!(sets.get(installed).0.len(), 1);
        let blackhole = sets.intern(&[], dropped);
        assert_ne!(blackhole, 0);
        assert_eq!(sets.get(blackhole), (Arc::from([].as_slice()), dropped));
    }
}
