//! Adj-RIB-Out of an update group (RFC 4271 §3.2): what its members were last told, by destination.
//!
//! An entry names the attributes before export and the policy rules that matched; what was sent follows
//! from both. It holds a reference on the attributes.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::policy::RuleSet;
use crate::rib::attrs::AttrId;
use crate::rib::table::DestId;
use crate::types::PeerId;

/// What came of the export of a route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Outcome {
    /// Rules of the export policy that matched.
    pub rules: RuleSet,
    /// The peer whose own address is the next hop: it is not sent the route (RFC 4271 §5.1.3).
    pub next_hop_of: Option<PeerId>,
}

/// Names an [`Outcome`] that occurred in the group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutcomeId(u32);

impl OutcomeId {
    /// What was sent is not known any more.
    pub const UNKNOWN: Self = Self(u32::MAX);
}

/// Members that are not sent something.
pub type Excluded = [Option<PeerId>; 2];

/// What members were told of a destination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sent {
    /// Attributes of the best path, before export.
    pub attrs: AttrId,
    /// Whose path it was: that member is not sent it.
    pub source: PeerId,
    /// What export said.
    pub outcome: OutcomeId,
}

/// Entries by destination.
#[derive(Clone, Debug, Default)]
pub struct AdjOut {
    entries: Vec<Option<Sent>>,
    outcomes: Vec<Outcome>,
    outcome_ids: HashMap<Outcome, OutcomeId, FxBuildHasher>,
}

impl AdjOut {
    /// What the members were told.
    #[must_use]
    pub fn get(&self, dest: DestId) -> Option<Sent> {
        self.entries.get(dest.index()).copied().flatten()
    }

    /// Sets it and gives what was there.
    pub fn set(&mut self, dest: DestId, sent: Option<Sent>) -> Option<Sent> {
        if dest.index() >= self.entries.len() {
            sent?;
            self.entries.resize(dest.index() + 1, None);
        }
        self.entries
            .get_mut(dest.index())
            .and_then(|entry| std::mem::replace(entry, sent))
    }

    /// The id of an outcome. 2^32 different ones do not fit into memory.
    pub fn outcome_id(&mut self, outcome: Outcome) -> OutcomeId {
        if self.outcomes.first() == Some(&outcome) {
            return OutcomeId(0); // most groups have one
        }
        if let Some(id) = self.outcome_ids.get(&outcome) {
            return *id;
        }
        let id = OutcomeId(u32::try_from(self.outcomes.len()).unwrap_or(u32::MAX));
        self.outcomes.push(outcome);
        self.outcome_ids.insert(outcome, id);
        id
    }

    /// The outcome of an id.
    #[must_use]
    pub fn outcome(&self, id: OutcomeId) -> Outcome {
        self.outcomes.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// The members that are not sent an entry: its source, and the one that is the next hop.
    #[must_use]
    #[inline]
    pub fn excluded(&self, sent: &Sent) -> Excluded {
        let next_hop_of = self.outcome(sent.outcome).next_hop_of;
        [Some(sent.source), next_hop_of.filter(|peer| *peer != sent.source)]
    }

    /// Whether a member is sent an entry.
    #[must_use]
    pub fn is_for(&self, sent: &Sent, member: PeerId) -> bool {
        !self.excluded(sent).contains(&Some(member))
    }

    /// All entries, by destination.
    #[must_use]
    pub fn into_entries(self) -> Vec<Option<Sent>> {
        self.entries
    }
}
