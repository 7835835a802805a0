//! Next hops and options of kernel routes, interned: a destination stores them as a number of 4 octets.

use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use rustc_hash::FxBuildHasher;

use super::api::FibNextHop;
use crate::wire::KernelRoute;

/// Interned sets of next hops, those of routes with options for themselves; 0 is no route.
#[derive(Clone, Debug, Default)]
pub(super) struct FibSets {
    plain: Interned<Arc<[FibNextHop]>>,
    special: Interned<Special>,
}

/// Next hops, and what policies want of the route.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Special(Arc<[FibNextHop]>, KernelRoute);

impl FibSets {
    /// The id of a set (sorted, without repetition), with one more reference. `options`: what policies want of the route, where they
    /// do. Without next hops there is a route only when it drops packets.
    pub(super) fn intern(&mut self, set: &[FibNextHop], options: Option<KernelRoute>) -> u32 {
        match options {
            None if set.is_empty() => 0,
            None => self.plain.intern(set, || set.into()) << 1,
            Some(options) if set.is_empty() && !options.blackhole => 0,
            Some(options) => {
                let special = Special(set.into(), options);
                self.special.intern(&special, || special.clone()) << 1 | 1
            }
        }
    }

    /// Releases a reference.
    pub(super) fn release(&mut self, id: u32) {
        match id & 1 {
            0 => self.plain.release(id >> 1),
            _ => self.special.release(id >> 1),
        }
    }

    /// The next hops of an id, and what policies want of the route.
    pub(super) fn get(&self, id: u32) -> (Arc<[FibNextHop]>, KernelRoute) {
        match id & 1 {
            0 => {
                let set = self.plain.get(id >> 1).cloned();
                (set.unwrap_or_default(), KernelRoute::default())
            }
            _ => match self.special.get(id >> 1) {
                Some(Special(set, options)) => (Arc::clone(set), *options),
                None => Default::default(),
            },
        }
    }
}

/// Values with a number each, counted from 1, and how often they are in use.
#[derive(Clone, Debug)]
struct Interned<T> {
    values: Vec<(Option<T>, u32)>,
    free: Vec<u32>,
    index: HashMap<T, u32, FxBuildHasher>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
        }
    }
}

impl<T: Clone + Eq + Hash> Interned<T> {
    fn intern<Q: Hash + Equivalent<T> + ?Sized>(&mut self, wanted: &Q, make: impl FnOnce() -> T) -> u32 {
        if let Some(id) = self.index.get(wanted).copied() {
            if let Some((_, refs)) = self.slot(id) {
                *refs += 1;
            }
            return id;
        }
        let value = make();
        let id = self.free.pop().unwrap_or_else(|| {
            self.values.push((None, 0));
            u32::try_from(self.values.len()).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.slot(id) {
            *slot = (Some(value.clone()), 1);
        }
        self.index.insert(value, id);
        id
    }

    fn release(&mut self, id: u32) {
        let Some((value, refs)) = self.slot(id) else {
            return;
        };
        *refs = refs.saturating_sub(1);
        if *refs == 0
            && let Some(value) = value.take()
        {
            self.index.remove(&value);
            self.free.push(id);
        }
    }

    fn get(&self, id: u32) -> Option<&T> {
        let index = (id as usize).checked_sub(1)?;
        self.values.get(index)?.0.as_ref()
    }

    fn slot(&mut self, id: u32) -> Option<&mut (Option<T>, u32)> {
        (id as usize)
            .checked_sub(1)
            .and_then(|index| self.values.get_mut(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Option<KernelRoute> = None;

    fn hop(addr: &str) -> FibNextHop {
        FibNextHop {
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
            ..KernelRoute::default()
        };
        let dropped = KernelRoute {
            blackhole: true,
            ..KernelRoute::default()
        };
        let mut sets = FibSets::default();
        assert_eq!((sets.intern(&[], PLAIN), sets.intern(&[], Some(wanted))), (0, 0));
        let (plain, installed) = (sets.intern(&[hop], PLAIN), sets.intern(&[hop], Some(wanted)));
        assert_ne!(plain, installed);
        assert_eq!(
            (sets.get(plain).1, sets.get(installed).1),
            (KernelRoute::default(), wanted)
        );
        sets.release(plain);
        assert_eq!(sets.get(installed).0.len(), 1);
        let blackhole = sets.intern(&[], Some(dropped));
        assert_ne!(blackhole, 0);
        assert_eq!(sets.get(blackhole), (Arc::from([].as_slice()), dropped));
    }
}
