//! What would follow from inputs, found out on copies: nothing of the engine changes, and nothing is sent.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Engine, FibChange, Input, Output};
use crate::types::{PeerId, Prefix};
use crate::wire::PathAttrs;

/// What a peer would hear.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// Prefixes that it was not told before.
    pub announced: Vec<Prefix>,
    /// Prefixes that are taken back.
    pub withdrawn: Vec<Prefix>,
    /// Prefixes that are told with other attributes.
    pub changed: Vec<Prefix>,
}

impl Heard {
    /// Whether it would hear nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What would follow.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Preview {
    /// For established peers, where there is anything.
    pub peers: BTreeMap<PeerId, Heard>,
    /// Kernel routes that would come (`false`) or change (`true`), by prefix.
    pub installed: BTreeMap<Prefix, (FibChange, bool)>,
    /// Kernel routes that would go.
    pub removed: Vec<Prefix>,
}

impl Engine {
    /// What would follow from these inputs, in this order.
    #[must_use]
    pub fn preview(&self, now: Instant, inputs: Vec<Input>) -> Preview {
        let mut before = self.clone();
        while before.poll_output().is_some() {}
        let mut after = before.clone();
        inputs.into_iter().for_each(|input| after.handle(now, input));
        let mut fib = BTreeMap::new();
        while let Some(output) = after.poll_output() {
            if let Output::Fib { changes, .. } = output {
                fib.extend(changes.into_iter().map(|change| (change.prefix, change)));
            }
        }
        let mut preview = Preview::default();
        for (prefix, change) in fib {
            let had = before.has_kernel_route(&prefix);
            if !change.next_hops.is_empty() {
                preview.installed.insert(prefix, (change, had));
            } else if had {
                preview.removed.push(prefix);
            }
        }
        for peer in before
            .peers
            .keys()
            .filter(|peer| before.group_of(**peer).is_some())
        {
            let heard = hears(*peer, &before, &after);
            if !heard.is_empty() {
                preview.peers.insert(*peer, heard);
            }
        }
        preview
    }

    fn has_kernel_route(&self, prefix: &Prefix) -> bool {
        self.rib
            .table
            .find(prefix)
            .is_some_and(|dest| self.rib.table.fib(dest) != 0)
    }

    /// What a peer was last told of a prefix.
    fn told(&self, peer: PeerId, prefix: &Prefix) -> Option<PathAttrs> {
        let dest = self.rib.table.find(prefix)?;
        let rib = (&self.rib.attrs, &self.rib.sources);
        self.group_of(peer)?.told(peer, dest, *prefix, rib)
    }

    fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.rib.table.dests().map(|(_, prefix)| prefix)
    }
}

fn hears(peer: PeerId, before: &Engine, after: &Engine) -> Heard {
    let mut heard = Heard::default();
    let new = after
        .prefixes()
        .filter(|prefix| before.rib.table.find(prefix).is_none());
    let mut all: Vec<Prefix> = before.prefixes().chain(new).collect();
    all.sort_unstable();
    all.dedup();
    for prefix in all {
        match (before.told(peer, &prefix), after.told(peer, &prefix)) {
            (None, Some(_)) => heard.announced.push(prefix),
            (Some(_), None) => heard.withdrawn.push(prefix),
            (Some(old), Some(new)) if old != new => heard.changed.push(prefix),
            _ => {}
        }
    }
    heard
}
