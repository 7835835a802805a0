//! Adj-RIB-Out of a group whose members take several paths of a prefix (RFC 7911): by destination and identifier.
//!
//! When paths change of which a member that is behind knows, their identifiers are kept, so that the member can be told to forget those
//! that are gone when its turn comes. What comes and goes until then it never knew. All are dropped once no member is behind.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::adj_out::Sent;
use crate::rib::table::DestId;
use crate::types::PathId;

/// What members were told of a destination, by identifier.
pub type Paths = Vec<(PathId, Sent)>;

/// Entries by destination.
#[derive(Clone, Debug, Default)]
pub struct SeveralOut {
    entries: HashMap<DestId, Paths, FxBuildHasher>,
    gone: HashMap<DestId, BTreeSet<PathId>, FxBuildHasher>,
}

/// A path that changed: before and now.
pub type Change = (PathId, Option<Sent>, Option<Sent>);

/// Lists up to this length are searched from end to end.
const FEW: usize = 16;

/// The paths that differ, those that are gone first: one pass over both, however many there are.
fn changes(old: &[(PathId, Sent)], new: &[(PathId, Sent)]) -> Vec<Change> {
    if old == new {
        return Vec::new();
    }
    if old.len().max(new.len()) <= FEW {
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
    let gone = old.iter().filter(|(id, _)| now(*id).is_none());
    let gone = gone.map(|(id, sent)| (*id, Some(*sent), None));
    let put = new.iter().map(|(id, sent)| (*id, before(*id), Some(*sent)));
    gone.chain(put).filter(|(_, old, new)| old != new).collect()
}

impl SeveralOut {
    /// The same, to be changed in place.
    pub fn get_mut(&mut self, dest: DestId) -> &mut [(PathId, Sent)] {
        self.entries.get_mut(&dest).map_or(&mut [], Vec::as_mut_slice)
    }

    /// What the members were told.
    #[must_use]
    pub fn get(&self, dest: DestId) -> &[(PathId, Sent)] {
        self.entries.get(&dest).map_or(&[], Vec::as_slice)
    }

    /// Puts the new paths in place; gives what changed. `behind`: some member knows the old ones, and is not
    /// told of this now.
    pub fn set(&mut self, dest: DestId, new: Paths, behind: bool) -> Vec<Change> {
        let old = if new.is_empty() {
            self.entries.remove(&dest).unwrap_or_default()
        } else {
            self.entries.insert(dest, new.clone()).unwrap_or_default()
        };
        let changes = changes(&old, &new);
        if behind && !changes.is_empty() && !old.is_empty() {
            let known = old.iter().map(|(id, _)| *id);
            self.gone.entry(dest).or_default().extend(known);
        }
        changes
    }

    /// Identifiers that a member who was behind may still know.
    pub fn gone(&self, dest: DestId) -> impl Iterator<Item = PathId> {
        self.gone.get(&dest).into_iter().flatten().copied()
    }

    /// No member is behind.
    pub fn forget_gone(&mut self) {
        if !self.gone.is_empty() {
            self.gone = HashMap::default();
        }
    }

    /// Every identifier that a member may know.
    #[must_use]
    pub fn known(&self) -> Vec<(DestId, PathId)> {
        let told = self
            .entries
            .iter()
            .map(|(dest, paths)| (dest, paths.iter().map(|(id, _)| *id).collect::<Vec<_>>()));
        let gone = self
            .gone
            .iter()
            .map(|(dest, ids)| (dest, ids.iter().copied().collect::<Vec<_>>()));
        told.chain(gone)
            .flat_map(|(dest, ids)| ids.into_iter().map(move |id| (*dest, id)))
            .collect()
    }

    /// A member joins that may know these.
    pub fn expect(&mut self, known: Vec<(DestId, PathId)>) {
        for (dest, id) in known {
            self.gone.entry(dest).or_default().insert(id);
        }
    }

    /// All that was told.
    pub fn into_sent(self) -> impl Iterator<Item = Sent> {
        self.entries.into_values().flatten().map(|(_, sent)| sent)
    }
}
