//! What the engine keeps of each peer: its configuration, its session's facts, and what came from it.

use std::sync::Arc;

use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

use super::{PeerRouting, SessionFacts};
use crate::rib::table::DestId;
use crate::types::{Family, FamilySet, PathId};

/// Names an update group of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct GroupId(pub usize);

/// The destinations a peer has paths to, for taking them all away at the cost of what there is.
///
/// A destination is noted when a path appears and stays noted when it goes, until stale notes outnumber
/// the live ones.
#[derive(Clone, Debug, Default)]
pub(super) struct AdjIn {
    noted: Vec<DestId>,
    live: [usize; 2],
}

pub(super) fn slot(family: Family) -> usize {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 1,
    }
}

impl AdjIn {
    pub(super) fn added(&mut self, dest: DestId, family: Family) {
        self.noted.push(dest);
        if let Some(live) = self.live.get_mut(slot(family)) {
            *live += 1;
        }
    }

    pub(super) fn removed(&mut self, family: Family, count: usize) {
        if let Some(live) = self.live.get_mut(slot(family)) {
            *live = live.saturating_sub(count);
        }
    }

    /// Paths of a family.
    pub(super) fn count(&self, family: Family) -> usize {
        self.live.get(slot(family)).copied().unwrap_or(0)
    }

    fn total(&self) -> usize {
        self.live.iter().sum()
    }

    /// Whether stale notes cost more than going through them.
    pub(super) fn is_bloated(&self) -> bool {
        self.noted.len() > 2 * self.total() + 64
    }

    /// Takes all notes as they are, and forgets the counts.
    pub(super) fn take_notes(&mut self) -> Vec<DestId> {
        std::mem::take(self).noted
    }

    /// Keeps the notes of destinations that are still live, each once.
    pub(super) fn compact(&mut self, is_live: impl Fn(DestId) -> bool) {
        self.noted.sort_unstable(); // most are in order already
        self.noted.dedup();
        self.noted.retain(|dest| is_live(*dest));
        self.noted.shrink_to(2 * self.noted.len());
    }

    /// The notes as they are; a destination may occur twice or be stale.
    pub(super) fn notes(&self) -> &[DestId] {
        &self.noted
    }
}

/// Paths that were there when an enhanced refresh began and did not come again yet (RFC 7313 §4).
#[derive(Clone, Debug)]
pub(super) struct RefreshSweep {
    pub(super) family: Family,
    pub(super) missing: HashSet<(DestId, PathId), FxBuildHasher>,
}

/// A configured peer. Without `facts` it is down, or restarting when it still has sweeps.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) routing: Arc<PeerRouting>,
    /// Present while the session is established.
    pub(super) facts: Option<Box<SessionFacts>>,
    pub(super) group: Option<GroupId>,
    pub(super) adj_in: AdjIn,
    pub(super) sweeps: Vec<RefreshSweep>,
    /// Bytes given to the shell and not yet written.
    pub(super) outstanding: usize,
    /// Prefixes over the limit: the session is being ended, what still comes is dropped.
    pub(super) refused: bool,
    /// Families in which the operator was told of the number of prefixes.
    pub(super) warned: FamilySet,
}

impl Peer {
    pub(super) fn new(routing: Arc<PeerRouting>) -> Self {
        Self {
            routing,
            facts: None,
            group: None,
            adj_in: AdjIn::default(),
            sweeps: Vec::new(),
            outstanding: 0,
            refused: false,
            warned: FamilySet::EMPTY,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.facts.is_some()
    }
}
