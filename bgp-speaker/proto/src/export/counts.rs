//! How many prefixes a group was sent, and how many of them a member was not, because they came from it: kept while routes change,
//! so that nobody has to look at the routes to count them.

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::adj_out::Sent;
use crate::types::{Family, PeerId};

/// Counts by family.
type ByFamily = [usize; 2];

fn slot(counts: &mut ByFamily, family: Family) -> &mut usize {
    let [v4, v6] = counts;
    match family {
        Family::Ipv4 => v4,
        Family::Ipv6 => v6,
    }
}

/// Where all that is sent of a prefix comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nothing is sent.
    Nothing,
    /// From this source alone.
    One(PeerId),
    /// From several.
    Several,
}

impl Origin {
    /// Of what is sent of a prefix with one path.
    #[must_use]
    #[inline]
    pub fn of_one(sent: Option<&Sent>) -> Self {
        match sent {
            Some(sent) => Origin::One(sent.source),
            None => Origin::Nothing,
        }
    }

    /// Of what is sent of a prefix.
    #[must_use]
    pub fn of(mut sent: impl Iterator<Item = PeerId>) -> Self {
        match sent.next() {
            None => Origin::Nothing,
            Some(first) if sent.all(|other| other == first) => Origin::One(first),
            Some(_) => Origin::Several,
        }
    }
}

/// Prefixes of an Adj-RIB-Out.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    all: ByFamily,
    /// Prefixes of which every path came from this source; those of `last` stand there.
    of_source: HashMap<PeerId, ByFamily, FxBuildHasher>,
    /// The source that was counted last: neighbours in a table have the same.
    last: Option<(PeerId, ByFamily)>,
}

impl Counts {
    /// What is sent of a prefix changed.
    #[inline]
    pub fn changed(&mut self, family: Family, before: Origin, now: Origin) {
        if before == now {
            return;
        }
        let all = slot(&mut self.all, family);
        if before != Origin::Nothing {
            *all -= 1;
        }
        if now != Origin::Nothing {
            *all += 1;
        }
        if let Origin::One(source) = before {
            let count = slot(self.of(source), family);
            *count = count.saturating_sub(1);
        }
        if let Origin::One(source) = now {
            *slot(self.of(source), family) += 1;
        }
    }

    #[inline]
    fn of(&mut self, source: PeerId) -> &mut ByFamily {
        if self.last.is_none_or(|(last, _)| last != source) {
            self.turn_to(source);
        }
        &mut self.last.get_or_insert((source, [0; 2])).1
    }

    fn turn_to(&mut self, source: PeerId) {
        let counts = self.of_source.remove(&source).unwrap_or_default();
        if let Some((last, counts)) = self.last.replace((source, counts))
            && counts != [0; 2]
        {
            self.of_source.insert(last, counts);
        }
    }

    /// Prefixes of a family that a member was sent.
    #[must_use]
    pub fn sent_to(&self, member: PeerId, family: Family) -> usize {
        let mut all = self.all;
        let last = self.last.filter(|(last, _)| *last == member);
        let own = last.map(|(_, counts)| counts);
        let mut own = own
            .or_else(|| self.of_source.get(&member).copied())
            .unwrap_or_default();
        slot(&mut all, family).saturating_sub(*slot(&mut own, family))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_not_sent_what_comes_from_it_alone() {
        let (a, b) = (PeerId(1), PeerId(2));
        let mut counts = Counts::default();
        let v4 = Family::Ipv4;
        for (before, now) in [
            (Origin::Nothing, Origin::One(a)),
            (Origin::Nothing, Origin::One(b)),
            (Origin::Nothing, Origin::One(a)),
            (Origin::Nothing, Origin::Several),
        ] {
            counts.changed(v4, before, now);
        }
        assert_eq!((counts.sent_to(a, v4), counts.sent_to(b, v4)), (2, 3));
        counts.changed(v4, Origin::One(a), Origin::One(b));
        assert_eq!((counts.sent_to(a, v4), counts.sent_to(b, v4)), (3, 2));
        counts.changed(v4, Origin::One(a), Origin::Nothing);
        counts.changed(v4, Origin::Several, Origin::One(a));
        assert_eq!((counts.sent_to(a, v4), counts.sent_to(b, v4)), (2, 1));
        assert_eq!(counts.sent_to(PeerId(3), v4), 3);
        assert_eq!(counts.sent_to(a, Family::Ipv6), 0);
    }
}
