//! Adj-RIB-Out of an update group (RFC 4271 §3.2), by destination.
//!
//! An entry consists of the attributes before export and the matching policy rules; the advertised attributes
//! follow from both. It holds a reference on the attributes.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::export::adj_out::{AdjOut, Outcome, Sent};
//! # use bgp_proto::rib::attrs::AttrTable;
//! # use bgp_proto::rib::nexthop::NextHops;
//! use bgp_proto::rib::table::DestId;
//! use bgp_proto::types::PeerId;
//! # use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! # let attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
//! # let attrs = AttrTable::default().intern(attrs, &mut NextHops::default());
//! let mut adj_out = AdjOut::default();
//! let outcome = adj_out.outcome_id(Outcome::default());
//! let sent = Sent { attrs, source: PeerId(1), outcome };
//! assert_eq!(adj_out.set(DestId(0), Some(sent)), None);
//! assert!(!adj_out.is_sent_to(&sent, PeerId(1)), "a route is not sent back to its source");
//! assert!(adj_out.is_sent_to(&sent, PeerId(2)));
//! ```

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::policy::RuleSet;
use crate::rib::attrs::AttrId;
use crate::rib::table::DestId;
use crate::types::PeerId;

/// The result of exporting a route.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Outcome {
    /// Matching rules of the export policy.
    pub rules: RuleSet,
    /// The peer whose address is the next hop, if it is not the source: it is not sent the route (RFC 4271
    /// §5.1.3).
    pub next_hop_of: Option<PeerId>,
}

/// Identifies an [`Outcome`] of the group. The lowest bit is set when the next hop is a peer's address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OutcomeId(u32);

impl OutcomeId {
    /// The advertised form is no longer known.
    pub const UNKNOWN: Self = Self(u32::MAX);

    fn new(index: usize, outcome: &Outcome) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX >> 1);
        Self(index << 1 | u32::from(outcome.next_hop_of.is_some()))
    }

    fn next_hop_is_peer(self) -> bool {
        self.0 & 1 == 1
    }
}

/// Members that are not sent a route: its source, and the peer at its next hop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Excluded {
    /// The source.
    pub source: Option<PeerId>,
    /// The peer at the next hop.
    pub next_hop_of: Option<PeerId>,
}

impl Excluded {
    /// Whether the member is excluded.
    #[must_use]
    pub fn contains(self, member: PeerId) -> bool {
        self.source == Some(member) || self.next_hop_of == Some(member)
    }

    /// The excluded members.
    pub fn iter(self) -> impl Iterator<Item = PeerId> {
        self.source.into_iter().chain(self.next_hop_of)
    }

    /// The excluded members that match.
    #[must_use]
    pub fn filter(self, mut wanted: impl FnMut(PeerId) -> bool) -> Self {
        Self {
            source: self.source.filter(|peer| wanted(*peer)),
            next_hop_of: self.next_hop_of.filter(|peer| wanted(*peer)),
        }
    }
}

/// An advertised route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sent {
    /// Attributes of the best path, before export.
    pub attrs: AttrId,
    /// Its source, which is not sent the route.
    pub source: PeerId,
    /// Result of export.
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
    /// The advertised route.
    #[must_use]
    pub fn get(&self, dest: DestId) -> Option<Sent> {
        self.entries.get(dest.index()).copied().flatten()
    }

    /// Sets an entry and returns the previous one.
    pub fn set(&mut self, dest: DestId, sent: Option<Sent>) -> Option<Sent> {
        if dest.index() >= self.entries.len() {
            sent?;
            self.entries.resize(dest.index() + 1, None);
        }
        self.entries
            .get_mut(dest.index())
            .and_then(|entry| std::mem::replace(entry, sent))
    }

    /// The id of an outcome. 2^31 different outcomes do not fit into memory.
    pub fn outcome_id(&mut self, outcome: Outcome) -> OutcomeId {
        if self.outcomes.first() == Some(&outcome) {
            return OutcomeId::new(0, &outcome); // the common case: a single outcome
        }
        if let Some(id) = self.outcome_ids.get(&outcome) {
            return *id;
        }
        let id = OutcomeId::new(self.outcomes.len(), &outcome);
        self.outcomes.push(outcome);
        self.outcome_ids.insert(outcome, id);
        id
    }

    /// The outcome of an id.
    #[must_use]
    pub fn outcome(&self, id: OutcomeId) -> Outcome {
        self.outcomes.get(id.0 as usize >> 1).copied().unwrap_or_default()
    }

    /// The members that are not sent an entry.
    #[must_use]
    #[inline]
    pub fn excluded(&self, sent: &Sent) -> Excluded {
        let (source, mut next_hop_of) = (Some(sent.source), None);
        if sent.outcome.next_hop_is_peer() {
            next_hop_of = self.outcome(sent.outcome).next_hop_of;
        }
        Excluded { source, next_hop_of }
    }

    /// Whether a member is sent an entry.
    #[must_use]
    pub fn is_sent_to(&self, sent: &Sent, member: PeerId) -> bool {
        !self.excluded(sent).contains(member)
    }

    /// All entries, by destination.
    #[must_use]
    pub fn into_entries(self) -> Vec<Option<Sent>> {
        self.entries
    }
}
