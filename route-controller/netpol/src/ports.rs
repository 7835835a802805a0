//! Sets of protocols and ports, in one form: ranges that do not overlap or touch, sorted.

/// A range of ports of one protocol, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// None: every protocol, whatever its ports.
    pub protocol: Option<u8>,
    pub from: u16,
    pub to: u16,
}

impl PortRange {
    /// Everything.
    pub const ALL: Self = Self {
        protocol: None,
        from: 0,
        to: u16::MAX,
    };

    /// Every port of a protocol.
    #[must_use]
    pub fn of(protocol: u8) -> Self {
        Self {
            protocol: Some(protocol),
            ..Self::ALL
        }
    }

    /// Whether it has this one.
    #[must_use]
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        self.protocol
            .is_none_or(|own| own == protocol && (self.from..=self.to).contains(&port))
    }
}

/// A set of protocols and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    #[must_use]
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(protocol, port))
    }

    /// Adds ranges.
    pub fn extend(&mut self, ranges: impl IntoIterator<Item = PortRange>) {
        self.0
            .extend(ranges.into_iter().filter(|range| range.from <= range.to));
        if self.0.len() > 1 {
            self.normalize();
        }
    }

    fn normalize(&mut self) {
        if self.0.iter().any(|range| range.protocol.is_none()) {
            self.0 = vec![PortRange::ALL];
            return;
        }
        self.0.sort_unstable();
        self.0.dedup_by(|next, kept| {
            let touches = next.protocol == kept.protocol && u32::from(next.from) <= u32::from(kept.to) + 1;
            if touches {
                kept.to = kept.to.max(next.to);
            }
            touches
        });
    }
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortRange>>(ranges: I) -> Self {
        let mut set = Self::default();
        set.extend(ranges);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = PortRange> {
        (
            prop_oneof![Just(Some(6)), Just(Some(17)), Just(None)],
            0..20_u16,
            0..20_u16,
        )
            .prop_map(|(protocol, from, length)| match protocol {
                None if from > 0 => PortRange {
                    protocol: Some(6),
                    from,
                    to: from + length,
                },
                None => PortRange::ALL,
                protocol => PortRange {
                    protocol,
                    from,
                    to: from + length,
                },
            })
    }

    proptest! {
        #[test]
        fn a_set_has_what_its_ranges_have(ranges in proptest::collection::vec(range(), 0..6)) {
            let set: PortSet = ranges.iter().copied().collect();
            let mut backwards = PortSet::default();
            ranges.iter().rev().for_each(|range| backwards.extend([*range]));
            prop_assert_eq!(&set, &backwards);
            for protocol in [1, 6, 17] {
                for port in 0..60 {
                    let expected = ranges.iter().any(|range| range.contains(protocol, port));
                    prop_assert_eq!(set.contains(protocol, port), expected);
                }
            }
            let is_apart = |pair: &[PortRange]| pair[0].protocol != pair[1].protocol || pair[0].to + 1 < pair[1].from;
            prop_assert!(set.ranges().windows(2).all(is_apart), "{:?}", set);
        }
    }
}
