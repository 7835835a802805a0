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

/// Names a [`RuleSet`] that occurred in the group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RulesId(u32);

impl RulesId {
    /// What was sent is not known any more.
    pub const UNKNOWN: Self = Self(u32::MAX);
}

/// What members were told of a destination.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sent {
    /// Attributes of the best path, before export.
    pub attrs: AttrId,
    /// Whose path it was: that member was not told.
    pub source: PeerId,
    /// Rules of the export policy that matched.
    pub rules: RulesId,
}

/// Entries by destination.
#[derive(Clone, Debug, Default)]
pub struct AdjOut {
    entries: Vec<Option<Sent>>,
    rules: Vec<RuleSet>,
    rule_ids: HashMap<RuleSet, RulesId, FxBuildHasher>,
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

    /// The id of a rule set. 2^32 different ones do not fit into memory.
    pub fn rules_id(&mut self, rules: RuleSet) -> RulesId {
        if self.rules.first() == Some(&rules) {
            return RulesId(0); // most groups have one
        }
        if let Some(id) = self.rule_ids.get(&rules) {
            return *id;
        }
        let id = RulesId(u32::try_from(self.rules.len()).unwrap_or(u32::MAX));
        self.rules.push(rules);
        self.rule_ids.insert(rules, id);
        id
    }

    /// The rule set of an id.
    #[must_use]
    pub fn rules(&self, id: RulesId) -> RuleSet {
        self.rules.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// All entries, by destination.
    #[must_use]
    pub fn into_entries(self) -> Vec<Option<Sent>> {
        self.entries
    }
}
