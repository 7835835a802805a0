//! Where paths come from: how each peer's routes were learned, and which prefixes are our own.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::group::Best;
use super::rules::Learned;
use crate::policy::Source;
use crate::rib::attrs::{AttrId, AttrTable};
use crate::rib::nexthop::{NextHops, Reach};
use crate::rib::table::{DestId, Path, Table};
use crate::types::{PeerId, Prefix};

/// The sources of paths.
#[derive(Debug, Default)]
pub struct Sources {
    /// Established peers.
    pub peers: HashMap<PeerId, Learned, FxBuildHasher>,
    /// Our own prefixes.
    pub local: BTreeMap<Prefix, Source>,
    /// Next hops count as reachable without being resolved.
    pub assume_reachable: bool,
}

impl Sources {
    /// How a path of this source to this prefix was learned; `None` when the source is gone.
    #[must_use]
    pub fn learned(&self, source: PeerId, prefix: &Prefix) -> Option<Learned> {
        if source == PeerId::LOCAL {
            return self.local.get(prefix).copied().map(Learned::Local);
        }
        self.peers.get(&source).copied()
    }

    /// The cost of a path's next hop, `None` when it cannot be used (RFC 4271 §9.1.2.1).
    #[must_use]
    pub fn metric(
        &self,
        path: &Path,
        imported: AttrId,
        attrs: &AttrTable,
        next_hops: &NextHops,
    ) -> Option<u32> {
        if path.peer == PeerId::LOCAL || self.assume_reachable {
            return Some(0);
        }
        match next_hops.reach(attrs.next_hop(imported)) {
            Some(Reach::Reachable { metric }) => Some(metric),
            Some(Reach::Unreachable | Reach::Own) | None => None,
        }
    }

    /// The best path of a decided destination: the first one, if it can be used.
    #[must_use]
    pub fn best(&self, table: &Table, dest: DestId, attrs: &AttrTable, next_hops: &NextHops) -> Option<Best> {
        let path = table.first(dest)?;
        let imported = path.imported.ok()?;
        self.metric(path, imported, attrs, next_hops)?;
        let learned = self.learned(path.peer, &table.prefix(dest)?)?;
        Some(Best {
            attrs: imported,
            source: path.peer,
            learned,
        })
    }
}
