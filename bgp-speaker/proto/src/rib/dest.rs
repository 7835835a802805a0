//! The record of a destination. It is small because there are millions.

use super::path::PathIdx;
use crate::types::{Family, Prefix};

/// 16 octets, so that four neighbors share a cache line.
#[derive(Clone, Debug)]
pub(super) struct Dest {
    /// The network address for IPv4; its index in [`Networks`] for IPv6.
    pub(super) network: u32,
    pub(super) head: Option<PathIdx>,
    /// The wanted kernel route: an id of the engine's next hop sets, 0 for none.
    pub(super) fib: u32,
    pub(super) len: u8,
    pub(super) family: Family,
    pub(super) dirty: bool,
    pub(super) state: SlotState,
}

/// State of a destination slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SlotState {
    /// Holds a prefix.
    Taken,
    /// Holds a prefix without paths, which is listed in `Table::empty`.
    Empty,
    /// Holds stale data.
    Free,
}

/// Network addresses that do not fit into a destination: those of IPv6.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    pub(super) words: Vec<[u32; 4]>,
    free: Vec<u32>,
}

impl Networks {
    /// Returns the value for [`Dest::network`].
    pub(super) fn insert(&mut self, prefix: &Prefix) -> u32 {
        let words = prefix.words();
        if prefix.family() == Family::Ipv4 {
            let [word, ..] = words;
            return word;
        }
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.words.get_mut(index as usize)
        {
            *slot = words;
            return index;
        }
        self.words.push(words);
        u32::try_from(self.words.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, dest: &Dest) {
        if dest.family == Family::Ipv6 {
            self.free.push(dest.network);
        }
    }

    pub(super) fn matches(&self, dest: &Dest, prefix: &Prefix) -> bool {
        let same_network = match dest.family {
            Family::Ipv4 => prefix.words().first() == Some(&dest.network),
            Family::Ipv6 => self.words.get(dest.network as usize) == Some(&prefix.words()),
        };
        same_network && dest.len == prefix.len() && dest.family == prefix.family()
    }

    pub(super) fn prefix(&self, dest: &Dest) -> Prefix {
        let words = match dest.family {
            Family::Ipv4 => [dest.network, 0, 0, 0],
            Family::Ipv6 => self.words.get(dest.network as usize).copied().unwrap_or_default(),
        };
        Prefix::from_words(dest.family, words, dest.len)
    }
}
