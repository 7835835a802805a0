//! Next hops in use and their reachability (RFC 4271 §5.1.3, §9.1.2.1).
//!
//! A next hop is watched as long as an attribute set refers to it. Its paths are not eligible until the
//! kernel has resolved it.
//!
//! ```
//! use bgp_proto::rib::nexthop::{NextHops, Reach};
//!
//! let addr = [192, 0, 2, 1].into();
//! let mut next_hops = NextHops::default();
//! let id = next_hops.retain(addr);
//! assert_eq!(next_hops.take_changes(), (vec![addr], vec![])); // begin to resolve it
//! next_hops.set_reach(addr, Reach::Reachable { metric: 0 });
//! assert_eq!(next_hops.reach(id), Some(Reach::Reachable { metric: 0 }));
//! ```

use std::net::IpAddr;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Reachability of a next hop.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// No route, or only through an interface that is down.
    Unreachable,
    /// Reachable; `metric` is the cost for the decision (RFC 4271 §9.1.2.2 e), 0 when directly connected.
    Reachable {
        /// Cost; the lowest wins.
        metric: u32,
    },
    /// One of our own addresses: a path through it is rejected.
    Own,
}

/// Identifies a next hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHopId(u32);

#[derive(Clone, Debug)]
struct Entry {
    addr: IpAddr,
    refs: u32,
    reach: Option<Reach>,
    /// `Output::Watch` was output.
    watched: bool,
    /// Listed in `touched`.
    touched: bool,
}

/// All next hops of attribute sets. The entry of a next hop without references, and its reachability, stay
/// until [`NextHops::take_changes`]: a next hop that is used again soon is not resolved again.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    entries: Vec<Entry>,
    free: Vec<u32>,
    by_addr: HashMap<IpAddr, u32, FxBuildHasher>,
    /// Entries whose use began or ended since the last [`NextHops::take_changes`], in order.
    touched: Vec<u32>,
}

impl NextHops {
    /// Returns the id of the address and takes a reference.
    pub fn retain(&mut self, addr: IpAddr) -> NextHopId {
        let index = match self.by_addr.get(&addr) {
            Some(index) => *index,
            None => self.insert(addr),
        };
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.refs += 1;
        }
        NextHopId(index)
    }

    fn insert(&mut self, addr: IpAddr) -> u32 {
        let entry = Entry {
            addr,
            refs: 0,
            reach: None,
            watched: false,
            touched: true,
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None => u32::try_from(self.entries.len()).unwrap_or(u32::MAX),
        };
        match self.entries.get_mut(index as usize) {
            Some(slot) => *slot = entry,
            None => self.entries.push(entry),
        }
        self.by_addr.insert(addr, index);
        self.touched.push(index);
        index
    }

    /// Releases a reference.
    pub fn release(&mut self, id: NextHopId) {
        let Some(entry) = self.entries.get_mut(id.0 as usize) else {
            return;
        };
        entry.refs -= 1;
        if entry.refs == 0 && !entry.touched {
            entry.touched = true;
            self.touched.push(id.0);
        }
    }

    /// The reachability reported last.
    #[must_use]
    pub fn reach(&self, id: NextHopId) -> Option<Reach> {
        self.entries.get(id.0 as usize).and_then(|entry| entry.reach)
    }

    /// The address of an id.
    #[must_use]
    pub fn addr(&self, id: NextHopId) -> Option<IpAddr> {
        self.entries.get(id.0 as usize).map(|entry| entry.addr)
    }

    /// The id of an address in use.
    #[must_use]
    pub fn find(&self, addr: IpAddr) -> Option<NextHopId> {
        self.by_addr.get(&addr).map(|index| NextHopId(*index))
    }

    /// Sets the reachability; returns the id if it changed and the next hop is in use.
    pub fn set_reach(&mut self, addr: IpAddr, reach: Reach) -> Option<NextHopId> {
        let index = *self.by_addr.get(&addr)?;
        let entry = self.entries.get_mut(index as usize)?;
        let is_changed = entry.reach.replace(reach) != Some(reach);
        is_changed.then_some(NextHopId(index))
    }

    /// Next hops whose use began and ended since the last call.
    pub fn take_changes(&mut self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut started, mut stopped) = (Vec::new(), Vec::new());
        for index in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(index as usize) else {
                continue;
            };
            entry.touched = false;
            let was_watched = std::mem::replace(&mut entry.watched, entry.refs > 0);
            if entry.refs > 0 {
                if !was_watched {
                    started.push(entry.addr);
                }
                continue;
            }
            if was_watched {
                stopped.push(entry.addr);
            }
            self.by_addr.remove(&entry.addr);
            self.free.push(index);
        }
        (started, stopped)
    }

    /// Whether the reachability of a next hop in use is unknown.
    #[must_use]
    pub fn has_unresolved(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.refs > 0 && entry.reach.is_none())
    }

    /// Number of next hops in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_addr.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_absence_costs_nothing() {
        let addr: IpAddr = "192.0.2.1".parse().unwrap();
        let reach = Reach::Reachable { metric: 3 };
        let mut next_hops = NextHops::default();
        let id = next_hops.retain(addr);
        assert_eq!(next_hops.take_changes(), (vec![addr], vec![]));
        assert_eq!(
            (next_hops.set_reach(addr, reach), next_hops.set_reach(addr, reach)),
            (Some(id), None)
        );
        next_hops.release(id);
        let again = next_hops.retain(addr);
        assert_eq!((again, next_hops.reach(again)), (id, Some(reach)));
        assert_eq!(next_hops.take_changes(), (vec![], vec![]));
    }

    #[test]
    fn the_last_release_ends_the_watch() {
        let addr: IpAddr = "2001:db8::1".parse().unwrap();
        let mut next_hops = NextHops::default();
        let id = next_hops.retain(addr);
        next_hops.release(id);
        assert_eq!((next_hops.take_changes(), next_hops.len()), ((vec![], vec![]), 0));
        let id = next_hops.retain(addr);
        next_hops.take_changes();
        next_hops.release(id);
        assert_eq!(next_hops.take_changes(), (vec![], vec![addr]));
        assert_eq!(next_hops.set_reach(addr, Reach::Unreachable), None);
    }
}
