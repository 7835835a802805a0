//! Advertised prefixes per group, and how many of them each member is not sent because it is their source or
//! next hop. Kept up to date with each change, so that a count needs no walk over the routes.
//!
//! ```
//! use bgp_proto::export::adj_out::Excluded;
//! use bgp_proto::export::counts::{Counts, Coverage};
//! use bgp_proto::types::{Family, PeerId};
//!
//! let (source, other) = (PeerId(1), PeerId(2));
//! let mut counts = Counts::default();
//! let excluded = Excluded { source: Some(source), next_hop_of: None };
//! counts.changed(Family::Ipv4, Coverage::Nothing, Coverage::AllBut(excluded));
//! assert_eq!(counts.sent_to(source, Family::Ipv4), 0);
//! assert_eq!(counts.sent_to(other, Family::Ipv4), 1);
//! ```

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::adj_out::Excluded;
use crate::types::{Family, PeerId};

/// Counts by family.
type ByFamily = [usize; 2];

/// The members that are sent a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coverage {
    /// No member.
    Nothing,
    /// All members but these.
    AllBut(Excluded),
}

impl Coverage {
    /// The coverage of several paths: a member that is sent one of them is sent the prefix.
    #[must_use]
    pub fn of(mut paths: impl Iterator<Item = Excluded>) -> Self {
        let Some(mut excluded) = paths.next() else {
            return Coverage::Nothing;
        };
        for other in paths {
            excluded = excluded.filter(|peer| other.contains(peer));
        }
        Coverage::AllBut(excluded)
    }
}

/// Counts of an Adj-RIB-Out.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    all: ByFamily,
    /// Prefixes that this member is not sent; the counts of `last` are kept there.
    excluded: HashMap<PeerId, ByFamily, FxBuildHasher>,
    /// The member counted last: neighboring routes mostly have the same source.
    last: Option<(PeerId, ByFamily)>,
}

impl Counts {
    /// Counts a change of a prefix.
    #[inline]
    pub fn changed(&mut self, family: Family, before: Coverage, now: Coverage) {
        if before == now {
            return;
        }
        if let Coverage::AllBut(excluded) = before {
            *slot(&mut self.all, family) -= 1;
            if let Some(member) = excluded.source {
                let count = slot(self.of(member), family);
                *count = count.saturating_sub(1);
            }
            if let Some(member) = excluded.next_hop_of {
                let count = slot(self.of(member), family);
                *count = count.saturating_sub(1);
            }
        }
        if let Coverage::AllBut(excluded) = now {
            *slot(&mut self.all, family) += 1;
            if let Some(member) = excluded.source {
                *slot(self.of(member), family) += 1;
            }
            if let Some(member) = excluded.next_hop_of {
                *slot(self.of(member), family) += 1;
            }
        }
    }

    #[inline]
    fn of(&mut self, member: PeerId) -> &mut ByFamily {
        if self.last.is_none_or(|(last, _)| last != member) {
            self.select_member(member);
        }
        &mut self.last.get_or_insert((member, [0; 2])).1
    }

    fn select_member(&mut self, member: PeerId) {
        let counts = self.excluded.remove(&member).unwrap_or_default();
        if let Some((last, counts)) = self.last.replace((member, counts))
            && counts != [0; 2]
        {
            self.excluded.insert(last, counts);
        }
    }

    /// Number of prefixes of a family that a member is sent.
    #[must_use]
    pub fn sent_to(&self, member: PeerId, family: Family) -> usize {
        let mut all = self.all;
        let last = self.last.filter(|(last, _)| *last == member);
        let own = last.map(|(_, counts)| counts);
        let mut own = own
            .or_else(|| self.excluded.get(&member).copied())
            .unwrap_or_default();
        slot(&mut all, family).saturating_sub(*slot(&mut own, family))
    }
}

fn slot(counts: &mut ByFamily, family: Family) -> &mut usize {
    let [v4, v6] = counts;
    match family {
        Family::Ipv4 => v4,
        Family::Ipv6 => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_not_sent_what_comes_from_it_alone() {
        let (a, b) = (PeerId(1), PeerId(2));
        let of = |sources: &[PeerId]| {
            Coverage::of(sources.iter().map(|source| Excluded {
                source: Some(*source),
                next_hop_of: None,
            }))
        };
        let mut counts = Counts::default();
        let v4 = Family::Ipv4;
        for now in [of(&[a]), of(&[b]), of(&[a]), of(&[a, b])] {
            counts.changed(v4, Coverage::Nothing, now);
        }
        assert_eq!((counts.sent_to(a, v4), counts.sent_to(b, v4)), (2, 3));
        counts.changed(v4, of(&[a]), of(&[b]));
        assert_eq!((counts.sent_to(a, v4), counts.sent_to(b, v4)), (3, 2));
        counts.changed(v4, of(&[a]), Coverage::Nothing);
        counts.changed(v4, of(&[b, a]), of(&[a, a]));
        assert_eq!((counts.sent_to(a, v4), counts.sent_to(b, v4)), (2, 1));
        assert_eq!(counts.sent_to(PeerId(3), v4), 3);
        assert_eq!(counts.sent_to(a, Family::Ipv6), 0);
    }

    #[test]
    fn a_member_is_not_sent_paths_over_itself() {
        let [a, b, c] = [1, 2, 3].map(|id| Some(PeerId(id)));
        let excluded = |[source, next_hop_of]: [Option<PeerId>; 2]| Excluded { source, next_hop_of };
        let sent = |paths: &[[Option<PeerId>; 2]]| Coverage::of(paths.iter().copied().map(excluded));
        let all_but = |members| Coverage::AllBut(excluded(members));
        assert_eq!(sent(&[[a, c], [b, c]]), all_but([None, c]));
        assert_eq!(sent(&[[a, b], [b, a]]), all_but([a, b]));
        assert_eq!(sent(&[[a, b], [c, None]]), all_but([None, None]));
        let mut counts = Counts::default();
        counts.changed(Family::Ipv4, Coverage::Nothing, sent(&[[a, c]]));
        let sent_to = |counts: &Counts| [1, 2, 3].map(|id| counts.sent_to(PeerId(id), Family::Ipv4));
        assert_eq!(sent_to(&counts), [0, 1, 0]);
        counts.changed(Family::Ipv4, sent(&[[a, c]]), sent(&[[c, a]]));
        assert_eq!(sent_to(&counts), [0, 1, 0]);
        counts.changed(Family::Ipv4, sent(&[[c, a]]), sent(&[[b, None]]));
        assert_eq!(sent_to(&counts), [1, 0, 1]);
    }
}
