//! Prefix lists, compiled: one binary search for a prefix, however many entries there are.
//!
//! The entries of a family cut the address space into intervals. Each interval has the set of prefix lengths that the entries
//! covering it allow. A prefix matches when the interval of its first address allows its length: an entry allows no length below its
//! own, so that one which allows the prefix's length covers the whole prefix.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::policy::prefixes::{PrefixRange, PrefixSet};
//!
//! let range = PrefixRange { prefix: "10.244.0.0/16".parse().unwrap(), min_len: 24, max_len: 26 };
//! let set: PrefixSet = [range].into_iter().collect();
//! assert!(set.contains(&"10.244.1.0/24".parse().unwrap()));
//! assert!(!set.contains(&"10.244.0.0/16".parse().unwrap()), "too short");
//! assert!(!set.contains(&"10.245.1.0/24".parse().unwrap()), "another prefix");
//! ```

use std::fmt;
use std::sync::Arc;

use crate::types::{Family, Prefix};

/// Prefixes inside `prefix` with a length from `min_len` to `max_len`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PrefixRange {
    /// The covering prefix.
    pub prefix: Prefix,
    /// Shortest length that matches, in bits.
    pub min_len: u8,
    /// Longest length that matches, in bits.
    pub max_len: u8,
}

impl PrefixRange {
    /// Only this prefix.
    #[must_use]
    pub fn exact(prefix: Prefix) -> Self {
        Self {
            prefix,
            min_len: prefix.len(),
            max_len: prefix.len(),
        }
    }

    /// This prefix and all inside it.
    #[must_use]
    pub fn within(prefix: Prefix) -> Self {
        Self {
            prefix,
            min_len: prefix.len(),
            max_len: prefix.family().max_len(),
        }
    }

    /// Whether the prefix is in the range.
    #[must_use]
    pub fn matches(&self, prefix: &Prefix) -> bool {
        (self.min_len..=self.max_len).contains(&prefix.len()) && self.prefix.contains(prefix)
    }

    /// Whether every prefix of the other range is in this one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let shortest = other.min_len.max(other.prefix.len());
        self.prefix.contains(&other.prefix) && self.min_len <= shortest && other.max_len <= self.max_len
    }
}

/// A set of prefixes, given by ranges.
#[derive(Clone)]
pub struct PrefixSet(Arc<Compiled>);

struct Compiled {
    /// As given.
    ranges: Vec<PrefixRange>,
    v4: Index<u32>,
    v6: Index<u128>,
}

impl PrefixSet {
    /// Whether the prefix is in one of the ranges.
    #[must_use]
    pub fn contains(&self, prefix: &Prefix) -> bool {
        match prefix.family() {
            Family::Ipv4 => self.0.v4.allows(prefix.words()[0], prefix.len()),
            Family::Ipv6 => self.0.v6.allows(prefix.aligned_bits(), prefix.len()),
        }
    }

    /// The ranges, as given.
    pub fn iter(&self) -> impl Iterator<Item = &PrefixRange> {
        self.0.ranges.iter()
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.ranges.len()
    }

    /// Whether no prefix is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.ranges.is_empty()
    }
}

impl FromIterator<PrefixRange> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = PrefixRange>>(ranges: I) -> Self {
        let ranges: Vec<PrefixRange> = ranges.into_iter().collect();
        let of = |family| ranges.iter().filter(move |range| range.prefix.family() == family);
        let v4 = of(Family::Ipv4).map(|range| {
            let first = range.prefix.words()[0];
            let host_bits = u32::MAX.checked_shr(u32::from(range.prefix.len())).unwrap_or(0);
            (first, first | host_bits, lengths(range))
        });
        let v6 = of(Family::Ipv6).map(|range| {
            let first = range.prefix.aligned_bits();
            let host_bits = u128::MAX.checked_shr(u32::from(range.prefix.len())).unwrap_or(0);
            (first, first | host_bits, lengths(range))
        });
        let (v4, v6) = (
            Index::new(v4.collect(), |last| last.checked_add(1)),
            Index::new(v6.collect(), |last| last.checked_add(1)),
        );
        Self(Arc::new(Compiled { ranges, v4, v6 }))
    }
}

impl From<Vec<PrefixRange>> for PrefixSet {
    fn from(ranges: Vec<PrefixRange>) -> Self {
        ranges.into_iter().collect()
    }
}

impl PartialEq for PrefixSet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.ranges == other.0.ranges
    }
}

impl Eq for PrefixSet {}

impl fmt::Debug for PrefixSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Prefix lengths 0–128.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Lengths([u64; 3]);

impl Lengths {
    fn insert(&mut self, len: u8) {
        if let Some(word) = self.0.get_mut(usize::from(len / 64)) {
            *word |= 1 << (len % 64);
        }
    }

    fn contains(self, len: u8) -> bool {
        let word = self.0.get(usize::from(len / 64));
        word.is_some_and(|word| word >> (len % 64) & 1 == 1)
    }

    fn union(self, other: Self) -> Self {
        let ([a, b, c], [x, y, z]) = (self.0, other.0);
        Self([a | x, b | y, c | z])
    }
}

fn lengths(range: &PrefixRange) -> Lengths {
    let mut lengths = Lengths::default();
    let shortest = range.min_len.max(range.prefix.len());
    let longest = range.max_len.min(range.prefix.family().max_len());
    (shortest..=longest).for_each(|len| lengths.insert(len));
    lengths
}

/// Intervals of addresses, by their first one.
struct Index<A> {
    starts: Vec<A>,
    /// Of the interval at the same place: a number in `kinds`.
    kind_of: Vec<u32>,
    kinds: Vec<Lengths>,
}

impl<A: Copy + Ord> Index<A> {
    fn new(mut ranges: Vec<(A, A, Lengths)>, next: impl Fn(A) -> Option<A>) -> Self {
        let mut index = Self {
            starts: Vec::with_capacity(2 * ranges.len()),
            kind_of: Vec::with_capacity(2 * ranges.len()),
            kinds: Vec::new(),
        };
        // A prefix comes before those inside it.
        ranges.sort_unstable_by(|(a, a_last, _), (b, b_last, _)| a.cmp(b).then(b_last.cmp(a_last)));
        let mut open: Vec<(A, Lengths)> = Vec::new();
        let close = |open: &mut Vec<(A, Lengths)>, index: &mut Self| {
            let Some((last, _)) = open.pop() else { return };
            let outer = open.last().map_or(Lengths::default(), |(_, lengths)| *lengths);
            if let Some(start) = next(last) {
                index.begin(start, outer);
            }
        };
        for (first, last, lengths) in ranges {
            while open.last().is_some_and(|(ends, _)| *ends < first) {
                close(&mut open, &mut index);
            }
            let outer = open.last().map_or(Lengths::default(), |(_, lengths)| *lengths);
            let lengths = lengths.union(outer);
            index.begin(first, lengths);
            open.push((last, lengths));
        }
        while !open.is_empty() {
            close(&mut open, &mut index);
        }
        index
    }

    fn begin(&mut self, start: A, lengths: Lengths) {
        // The last few kinds repeat; a list has few altogether.
        let known = self.kinds.iter().rposition(|kind| *kind == lengths);
        let kind = known.unwrap_or_else(|| {
            self.kinds.push(lengths);
            self.kinds.len() - 1
        });
        let kind = u32::try_from(kind).unwrap_or(u32::MAX);
        match (self.starts.last(), self.kind_of.last_mut()) {
            (Some(last), Some(of)) if *last == start => *of = kind,
            _ => {
                self.starts.push(start);
                self.kind_of.push(kind);
            }
        }
    }

    fn allows(&self, addr: A, len: u8) -> bool {
        let after = self.starts.partition_point(|start| *start <= addr);
        let kind = after.checked_sub(1).and_then(|at| self.kind_of.get(at));
        let lengths = kind.and_then(|kind| self.kinds.get(*kind as usize));
        lengths.is_some_and(|lengths| lengths.contains(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str, min_len: u8, max_len: u8) -> PrefixRange {
        PrefixRange {
            prefix: text.parse().unwrap(),
            min_len,
            max_len,
        }
    }

    #[test]
    fn ranges() {
        let range = range("10.244.0.0/16", 24, 28);
        for (text, expected) in [
            ("10.244.3.0/24", true),
            ("10.244.3.16/28", true),
            ("10.244.0.0/16", false),
            ("10.245.0.0/24", false),
            ("10.244.1.1/32", false),
        ] {
            assert_eq!(range.matches(&text.parse().unwrap()), expected, "{text}");
            let set: PrefixSet = [range].into_iter().collect();
            assert_eq!(set.contains(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn nested_ranges_and_the_ends_of_the_address_space() {
        let ranges = [
            range("0.0.0.0/0", 0, 0),
            range("10.0.0.0/8", 8, 16),
            range("10.0.0.0/8", 24, 24),
            range("10.1.0.0/16", 32, 32),
            range("255.255.255.255/32", 32, 32),
            range("::/0", 48, 48),
            range("ffff::/16", 128, 128),
        ];
        let set: PrefixSet = ranges.into_iter().collect();
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "10.0.0.0/8",
            "10.0.0.0/7",
            "10.1.0.0/16",
            "10.1.2.0/24",
            "10.1.2.3/32",
            "10.2.2.3/32",
            "11.0.0.0/8",
            "255.255.255.255/32",
            "255.255.255.254/32",
            "::/0",
            "2001:db8:1::/48",
            "ffff:ffff:ffff::/48",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
            "fffe::/128",
        ] {
            let prefix: Prefix = text.parse().unwrap();
            let expected = ranges.iter().any(|range| range.matches(&prefix));
            assert_eq!(set.contains(&prefix), expected, "{text}");
        }
    }

    #[test]
    fn a_range_covers_another() {
        let outer = range("10.0.0.0/8", 8, 24);
        assert!(outer.covers(&range("10.1.0.0/16", 16, 24)) && outer.covers(&outer));
        assert!(!outer.covers(&range("10.1.0.0/16", 16, 32)) && !outer.covers(&range("11.0.0.0/16", 16, 24)));
    }
}
