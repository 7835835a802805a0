//! Interned sets of BGP next hops of learned routes.

use std::sync::Arc;

use bgp_proto::engine::FibNextHop;
use bgp_proto::types::Family;
use rustc_hash::FxHashMap;

use super::objects::SetKey;
use super::route::RouteSpec;

/// Number of a set.
pub(crate) type SetId = u32;

#[derive(Debug)]
struct Set {
    key: SetKey,
    /// How many routes have it.
    routes: usize,
    /// What it comes to in the kernel, once that is known; `Some(None)`: nothing.
    spec: Option<Option<Arc<RouteSpec>>>,
}

/// The sets in use.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    slots: Vec<Option<Set>>,
    free: Vec<SetId>,
    ids: FxHashMap<SetKey, SetId>,
    /// The set that was asked for last: routes with the same one come one after another.
    last: Option<(SetKey, SetId)>,
}

impl Sets {
    /// One route more has this set; `true` when the set is new.
    pub(crate) fn join(&mut self, next_hops: &Arc<[FibNextHop]>, family: Family) -> (SetId, bool) {
        if let Some(((last, of), id)) = &self.last
            && Arc::ptr_eq(last, next_hops)
            && *of == family
            && let Some(set) = slot(&mut self.slots, *id)
        {
            set.routes += 1;
            return (*id, false);
        }
        let key = (Arc::clone(next_hops), family);
        let (id, is_new) = match self.ids.get(&key) {
            Some(id) => (*id, false),
            None => (self.insert(key.clone()), true),
        };
        if let Some(set) = slot(&mut self.slots, id) {
            set.routes += 1;
        }
        self.last = Some((key, id));
        (id, is_new)
    }

    fn insert(&mut self, key: SetKey) -> SetId {
        let set = Set {
            key: key.clone(),
            routes: 0,
            spec: None,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.slots.get_mut(id as usize) {
            *place = Some(set);
        }
        self.ids.insert(key, id);
        id
    }

    /// One route less has this set; `true` when none is left. The set stays until [`Sets::forget`].
    pub(crate) fn leave(&mut self, id: SetId) -> bool {
        let Some(set) = slot(&mut self.slots, id) else {
            return false;
        };
        set.routes -= 1;
        set.routes == 0
    }

    /// How many routes have it.
    pub(crate) fn routes(&self, id: SetId) -> usize {
        self.get(id).map_or(0, |set| set.routes)
    }

    /// What it is.
    pub(crate) fn key(&self, id: SetId) -> Option<&SetKey> {
        self.get(id).map(|set| &set.key)
    }

    /// What it comes to, if that is known.
    pub(crate) fn spec(&self, id: SetId) -> Option<&Option<Arc<RouteSpec>>> {
        self.get(id)?.spec.as_ref()
    }

    /// What it comes to.
    pub(crate) fn set_spec(&mut self, id: SetId, spec: Option<Arc<RouteSpec>>) {
        if let Some(set) = slot(&mut self.slots, id) {
            set.spec = Some(spec);
        }
    }

    /// What all sets come to has to be computed again.
    pub(crate) fn clear_specs(&mut self) {
        self.slots.iter_mut().flatten().for_each(|set| set.spec = None);
    }

    /// Takes an unused set away; gives what it was.
    pub(crate) fn forget(&mut self, id: SetId) -> Option<SetKey> {
        let set = self.slots.get_mut(id as usize)?.take()?;
        self.ids.remove(&set.key);
        self.free.push(id);
        self.last = None;
        Some(set.key)
    }

    /// Sets whose meaning is known.
    pub(crate) fn known(&self) -> impl Iterator<Item = (SetId, &SetKey)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(id, set)| set.as_ref().map(|set| (id, set)))
            .filter(|(_, set)| set.spec.is_some())
            .map(|(id, set)| (id, &set.key))
    }

    fn get(&self, id: SetId) -> Option<&Set> {
        self.slots.get(id as usize)?.as_ref()
    }
}

fn slot(slots: &mut [Option<Set>], id: SetId) -> Option<&mut Set> {
    slots.get_mut(id as usize)?.as_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(last: u8) -> Arc<[FibNextHop]> {
        let hop = FibNextHop {
            addr: [192, 0, 2, last].into(),
            weight: 1,
        };
        Arc::from([hop].as_slice())
    }

    #[test]
    fn sets_are_shared_and_their_numbers_used_again() {
        let mut sets = Sets::default();
        let one = set(1);
        assert_eq!(sets.join(&one, Family::Ipv4), (0, true));
        assert_eq!(sets.join(&one, Family::Ipv4), (0, false));
        assert_eq!(sets.join(&set(1), Family::Ipv4), (0, false));
        assert_eq!(sets.join(&one, Family::Ipv6), (1, true));
        assert_eq!(
            (sets.routes(0), sets.leave(0), sets.leave(0), sets.leave(0)),
            (3, false, false, true)
        );
        // Until it is forgotten it may be used again.
        assert_eq!(sets.join(&one, Family::Ipv4), (0, false));
        assert!(sets.leave(0));
        assert_eq!(sets.forget(0).map(|key| key.1), Some(Family::Ipv4));
        assert_eq!(sets.join(&set(2), Family::Ipv4), (0, true));
        assert_eq!(sets.join(&one, Family::Ipv4), (2, true));
    }
}
