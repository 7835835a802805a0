//! Sets of numbers as sorted ranges: one binary search however many there are.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::policy::intervals::IntervalSet;
//!
//! let set: IntervalSet<u32> = [(64512, 65534), (100, 199), (150, 300)].into_iter().collect();
//! assert_eq!(set.ranges().collect::<Vec<_>>(), [(100, 300), (64512, 65534)]);
//! assert!(set.contains(65000) && !set.contains(301));
//! ```

use crate::types::Asn;

/// Disjoint inclusive ranges, sorted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IntervalSet<T>(Box<[(T, T)]>);

impl<T> Default for IntervalSet<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T: Copy + Ord> IntervalSet<T> {
    /// Whether the number is in one of the ranges.
    #[must_use]
    pub fn contains(&self, number: T) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= number);
        let range = after.checked_sub(1).and_then(|index| self.0.get(index));
        range.is_some_and(|(_, high)| *high >= number)
    }

    /// The ranges, lowest first.
    pub fn ranges(&self) -> impl Iterator<Item = (T, T)> {
        self.0.iter().copied()
    }
}

/// Ranges may overlap and come in any order; one that ends before it begins is empty.
impl<T: Copy + Ord> FromIterator<(T, T)> for IntervalSet<T> {
    fn from_iter<I: IntoIterator<Item = (T, T)>>(ranges: I) -> Self {
        let mut all: Vec<(T, T)> = ranges.into_iter().filter(|(low, high)| low <= high).collect();
        all.sort_unstable();
        let mut merged: Vec<(T, T)> = Vec::with_capacity(all.len());
        for (low, high) in all {
            match merged.last_mut() {
                Some((_, last)) if low <= *last => *last = high.max(*last),
                _ => merged.push((low, high)),
            }
        }
        Self(merged.into())
    }
}

/// A set of AS numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AsnSet(IntervalSet<u32>);

impl AsnSet {
    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, asn: Asn) -> bool {
        self.0.contains(asn.0)
    }

    /// Its ranges, lowest first.
    pub fn ranges(&self) -> impl Iterator<Item = (Asn, Asn)> {
        self.0.ranges().map(|(low, high)| (Asn(low), Asn(high)))
    }
}

impl FromIterator<(Asn, Asn)> for AsnSet {
    fn from_iter<I: IntoIterator<Item = (Asn, Asn)>>(ranges: I) -> Self {
        Self(ranges.into_iter().map(|(low, high)| (low.0, high.0)).collect())
    }
}

impl FromIterator<Asn> for AsnSet {
    fn from_iter<I: IntoIterator<Item = Asn>>(asns: I) -> Self {
        asns.into_iter().map(|asn| (asn, asn)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_found() {
        let set: IntervalSet<u32> = [(5, 9), (1, 2), (8, 12), (20, 20), (4, 3)].into_iter().collect();
        assert_eq!(set.ranges().collect::<Vec<_>>(), [(1, 2), (5, 12), (20, 20)]);
        for number in 0..30 {
            let expected = matches!(number, 1 | 2 | 5..=12 | 20);
            assert_eq!(set.contains(number), expected, "{number}");
        }
        assert!(!IntervalSet::<u32>::default().contains(0));
    }

    #[test]
    fn as_numbers_and_ranges_of_them() {
        let set: AsnSet = [(Asn(0), Asn(0)), (Asn(64512), Asn(65534))].into_iter().collect();
        assert!(set.contains(Asn(0)) && set.contains(Asn(65000)) && !set.contains(Asn(65535)));
    }
}
