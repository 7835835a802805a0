//! Adj-RIB-Out of groups with ADD-PATH (RFC 7911): several paths per prefix, by path identifier.
//!
//! While a member catches up, the identifiers of changed paths that it may know are kept, so that it can be
//! sent withdrawals for those that are gone. Paths that appear and disappear meanwhile are not known to it.
//! All are dropped once no member catches up.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::export::add_path::AddPathOut;
//! use bgp_proto::export::adj_out::{OutcomeId, Sent};
//! # use bgp_proto::rib::attrs::AttrTable;
//! # use bgp_proto::rib::nexthop::NextHops;
//! use bgp_proto::rib::table::DestId;
//! use bgp_proto::types::{PathId, PeerId};
//! # use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! # let attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
//! # let attrs = AttrTable::default().intern(attrs, &mut NextHops::default());
//! let path = |peer| (PathId(peer), Sent { attrs, source: PeerId(peer), outcome: OutcomeId::UNKNOWN });
//! let mut out = AddPathOut::default();
//! out.set(DestId(0), vec![path(1), path(2)], false);
//! let changes = out.set(DestId(0), vec![path(2), path(3)], false);
//! assert_eq!(changes.len(), 2); // 1 is withdrawn, 3 is new
//! assert_eq!(out.get(DestId(0)), [path(2), path(3)]);
//! ```

use std::collections::BTreeSet;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::adj_out::Sent;
use crate::rib::table::DestId;
use crate::types::PathId;

/// Advertised paths of a destination, by identifier.
pub type Paths = Vec<(PathId, Sent)>;

/// Entries by destination.
#[derive(Clone, Debug, Default)]
pub struct AddPathOut {
    entries: HashMap<DestId, Paths, FxBuildHasher>,
    withdrawn_ids: HashMap<DestId, BTreeSet<PathId>, FxBuildHasher>,
}

/// A changed path: identifier, before and after.
pub type Change = (PathId, Option<Sent>, Option<Sent>);

/// Lists up to this length are searched linearly.
const LINEAR_SEARCH_MAX: usize = 16;

impl AddPathOut {
    /// The advertised paths, to change in place.
    pub fn get_mut(&mut self, dest: DestId) -> &mut [(PathId, Sent)] {
        self.entries.get_mut(&dest).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The advertised paths.
    #[must_use]
    pub fn get(&self, dest: DestId) -> &[(PathId, Sent)] {
        self.entries.get(&dest).map_or(&[], Vec::as_slice)
    }

    /// Sets the paths and returns the changes. `behind`: a member that catches up knows the old paths and is
    /// not sent the changes now.
    pub fn set(&mut self, dest: DestId, new: Paths, behind: bool) -> Vec<Change> {
        let old = if new.is_empty() {
            self.entries.remove(&dest).unwrap_or_default()
        } else {
            self.entries.insert(dest, new.clone()).unwrap_or_default()
        };
        let changes = changes(&old, &new);
        if behind && !changes.is_empty() && !old.is_empty() {
            let known = old.iter().map(|(id, _)| *id);
            self.withdrawn_ids.entry(dest).or_default().extend(known);
        }
        changes
    }

    /// Identifiers that a member that catches up may still know.
    pub fn withdrawn_ids(&self, dest: DestId) -> impl Iterator<Item = PathId> {
        self.withdrawn_ids.get(&dest).into_iter().flatten().copied()
    }

    /// No member catches up any more.
    pub fn clear_withdrawn(&mut self) {
        if !self.withdrawn_ids.is_empty() {
            self.withdrawn_ids = HashMap::default();
        }
    }

    /// Every identifier that a member may know.
    #[must_use]
    pub fn known(&self) -> Vec<(DestId, PathId)> {
        let advertised = self
            .entries
            .iter()
            .map(|(dest, paths)| (dest, paths.iter().map(|(id, _)| *id).collect::<Vec<_>>()));
        let withdrawn_ids = self
            .withdrawn_ids
            .iter()
            .map(|(dest, ids)| (dest, ids.iter().copied().collect::<Vec<_>>()));
        advertised
            .chain(withdrawn_ids)
            .flat_map(|(dest, ids)| ids.into_iter().map(move |id| (*dest, id)))
            .collect()
    }

    /// Adds identifiers known to a member that joins.
    pub fn add_known(&mut self, known: Vec<(DestId, PathId)>) {
        for (dest, id) in known {
            self.withdrawn_ids.entry(dest).or_default().insert(id);
        }
    }

    /// All advertised paths.
    pub fn into_sent(self) -> impl Iterator<Item = Sent> {
        self.entries.into_values().flatten().map(|(_, sent)| sent)
    }
}

/// The paths that differ, removed ones first, in linear time.
fn changes(old: &[(PathId, Sent)], new: &[(PathId, Sent)]) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    if old.len().max(new.len()) <= LINEAR_SEARCH_MAX {
        let find = |list: &[(PathId, Sent)], id: PathId| {
            let found = list.iter().find(|(other, _)| *other == id);
            found.map(|(_, sent)| *sent)
        };
        return differences(old, new, |id| find(old, id), |id| find(new, id));
    }
    let by_id = |paths: &[(PathId, Sent)]| {
        paths
            .iter()
            .copied()
            .collect::<HashMap<PathId, Sent, FxBuildHasher>>()
    };
    let (before, now) = (by_id(old), by_id(new));
    differences(
        old,
        new,
        |id| before.get(&id).copied(),
        |id| now.get(&id).copied(),
    )
}

fn differences(
    old: &[(PathId, Sent)],
    new: &[(PathId, Sent)],
    before: impl Fn(PathId) -> Option<Sent>,
    now: impl Fn(PathId) -> Option<Sent>,
) -> Vec<Change> {
    let withdrawn_ids = old.iter().filter(|(id, _)| now(*id).is_none());
    let withdrawn_ids = withdrawn_ids.map(|(id, sent)| (*id, Some(*sent), None));
    let announced = new.iter().map(|(id, sent)| (*id, before(*id), Some(*sent)));
    withdrawn_ids
        .chain(announced)
        .filter(|(_, old, new)| old != new)
        .collect()
}
