//! A destination, and how the table keeps it: in few octets, because there are millions.

use super::path::PathIdx;
use crate::types::{Family, Prefix};

/// 16 octets, so that four neighbours share a cache line.
#[derive(Clone, Debug)]
pub(super) struct Dest {
    /// The network's bits in IPv4, their place in [`Networks`] in IPv6.
    pub(super) network: u32,
    pub(super) head: Option<PathIdx>,
    /// What the kernel was told: an id of the engine's next hop sets, 0 for nothing.
    pub(super) fib: u32,
    pub(super) len: u8,
    pub(super) family: Family,
    pub(super) dirty: bool,
    pub(super) state: SlotState,
}

/// What a place for a destination holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SlotState {
    /// A prefix.
    Taken,
    /// A prefix that stands in `empty`.
    Empty,
    /// What was there last.
    Free,
}

/// Networks that do not fit into a destination: those of IPv6.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    pub(super) words: Vec<[u32; 4]>,
    free: Vec<u32>,
}

impl Networks {
    /// What stands for a prefix in its destination.
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
