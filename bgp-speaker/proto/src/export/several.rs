//! Adj-RIB-Out of a group whose members take several paths of a prefix (RFC 7911): by destination and identifier.
//!
//! A path that goes while a member is behind leaves its identifier behind too, so that the member can be told
//! to forget it when its turn comes. Those are dropped once no member is behind.

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
    gone: HashMap<DestId, Vec<PathId>, FxBuildHasher>,
}

/// A path that changed: before and now.
pub type Change = (PathId, Option<Sent>, Option<Sent>);

impl SeveralOut {
    /// What the members were told.
    #[must_use]
    pub fn get(&self, dest: DestId) -> &[(PathId, Sent)] {
        self.entries.get(&dest).map_or(&[], Vec::as_slice)
    }

    /// Puts the new paths in place; gives what changed. `behind`: some member has not heard all yet.
    pub fn set(&mut self, dest: DestId, new: Paths, behind: bool) -> Vec<Change> {
        let old = if new.is_empty() {
            self.entries.remove(&dest).unwrap_or_default()
        } else {
            self.entries.insert(dest, new.clone()).unwrap_or_default()
        };
        let find =
            |list: &Paths, id: PathId| list.iter().find(|(found, _)| *found == id).map(|(_, sent)| *sent);
        let removed = old
            .iter()
            .filter(|(id, _)| find(&new, *id).is_none())
            .map(|(id, sent)| (*id, Some(*sent), None));
        let put = new.iter().map(|(id, sent)| (*id, find(&old, *id), Some(*sent)));
        let changes: Vec<Change> = removed.chain(put).filter(|(_, old, new)| old != new).collect();
        if behind {
            let gone = changes
                .iter()
                .filter(|(_, _, new)| new.is_none())
                .map(|(id, ..)| *id);
            let gone: Vec<PathId> = gone.collect();
            if !gone.is_empty() {
                self.gone.entry(dest).or_default().extend(gone);
            }
        }
        changes
    }

    /// Identifiers that a member who was behind may still know.
    #[must_use]
    pub fn gone(&self, dest: DestId) -> &[PathId] {
        self.gone.get(&dest).map_or(&[], Vec::as_slice)
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
        let gone = self.gone.iter().map(|(dest, ids)| (dest, ids.clone()));
        told.chain(gone)
            .flat_map(|(dest, ids)| ids.into_iter().map(move |id| (*dest, id)))
            .collect()
    }

    /// A member joins that may know these.
    pub fn expect(&mut self, known: Vec<(DestId, PathId)>) {
        for (dest, id) in known {
            self.gone.entry(dest).or_default().push(id);
        }
    }

    /// All that was told.
    pub fn iter(&self) -> impl Iterator<Item = Sent> {
        self.entries.values().flatten().map(|(_, sent)| *sent)
    }
}
