//! Ranges of addresses: a prefix, or `first-last`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use bgp_proto::types::{Family, Prefix, PrefixError};

/// Addresses of one family from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
    /// It was written as this prefix.
    prefix: Option<Prefix>,
}

/// Why a text is no range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// Neither a prefix nor two addresses.
    Syntax,
    /// The addresses are of two families, or the last one is before the first.
    Order,
    /// A prefix that is none.
    Prefix(PrefixError),
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("is neither a prefix nor a range like 192.0.2.10-192.0.2.20"),
            Self::Order => f.write_str("does not go from a lower address to a higher one of the same family"),
            Self::Prefix(error) => error.fmt(f),
        }
    }
}

impl Range {
    /// From the first to the last address, when they are in order.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let in_order = first.is_ipv4() == last.is_ipv4() && first <= last;
        in_order.then_some(Self {
            first,
            last,
            prefix: None,
        })
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        Prefix::host(self.first).family()
    }

    /// The lowest address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The prefix, where it was written as one.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        self.prefix
    }

    /// Whether the address is one of it.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.first.is_ipv4() == addr.is_ipv4() && self.first <= addr && addr <= self.last
    }

    /// Whether both have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The number of its addresses; of all IPv6 addresses one is not counted.
    #[must_use]
    pub fn size(&self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1)
    }

    /// The fewest prefixes that have exactly its addresses.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Prefix> {
        if let Some(prefix) = self.prefix {
            return vec![prefix];
        }
        let width = u32::from(self.family().max_len());
        let (mut next, last) = (bits(self.first), bits(self.last));
        let mut list = Vec::new();
        loop {
            let left = last - next;
            let aligned = next.trailing_zeros().min(width);
            // The largest power of two that is not more than what is left.
            let fits = if left == u128::MAX {
                128
            } else {
                (left + 1).ilog2()
            };
            let host_bits = aligned.min(fits);
            let len = u8::try_from(width - host_bits).unwrap_or(0);
            list.push(Prefix::new(of_bits(next, self.family()), len));
            let step = 1u128.checked_shl(host_bits);
            match step
                .and_then(|step| next.checked_add(step))
                .filter(|at| *at <= last)
            {
                Some(at) => next = at,
                None => return list,
            }
        }
    }
}

/// The address behind this one; none behind the last.
pub(crate) fn after(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn of_bits(bits: u128, family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        Family::Ipv6 => Ipv6Addr::from_bits(bits).into(),
    }
}

impl From<Prefix> for Range {
    fn from(prefix: Prefix) -> Self {
        let host_bits = u32::from(prefix.family().max_len() - prefix.len());
        let mask = 1u128.checked_shl(host_bits).map_or(u128::MAX, |bit| bit - 1);
        Self {
            first: prefix.addr(),
            last: of_bits(bits(prefix.addr()) | mask, prefix.family()),
            prefix: Some(prefix),
        }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        if let Some((first, last)) = text.split_once('-') {
            let address = |text: &str| text.trim().parse().map_err(|_| RangeError::Syntax);
            return Self::new(address(first)?, address(last)?).ok_or(RangeError::Order);
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Prefix::host(addr).into());
        }
        match text.parse::<Prefix>() {
            Ok(prefix) => Ok(prefix.into()),
            Err(PrefixError::Syntax(_)) => Err(RangeError::Syntax),
            Err(error) => Err(RangeError::Prefix(error)),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => prefix.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_and_ranges_are_read() {
        let prefix = range("192.0.2.0/24");
        assert_eq!(prefix.last().to_string(), "192.0.2.255");
        assert_eq!(prefix.size(), 256);
        assert_eq!(range("192.0.2.7").size(), 1);
        assert_eq!(range("192.0.2.250-192.0.3.4").size(), 11);
        assert_eq!(range("::/0").size(), u128::MAX);
        assert!(range("2001:db8::/64").contains("2001:db8::ffff".parse().unwrap()));
        assert!(!range("0.0.0.0/0").contains("::1".parse().unwrap()));
        for (bad, why) in [
            ("192.0.2.9-192.0.2.1", RangeError::Order),
            ("192.0.2.9-2001:db8::1", RangeError::Order),
            ("web", RangeError::Syntax),
        ] {
            assert_eq!(bad.parse::<Range>(), Err(why));
        }
        assert!(matches!(
            "192.0.2.1/24".parse::<Range>(),
            Err(RangeError::Prefix(_))
        ));
    }

    #[test]
    fn a_range_is_the_fewest_prefixes() {
        let texts =
            |text: &str| -> Vec<String> { range(text).prefixes().iter().map(ToString::to_string).collect() };
        assert_eq!(texts("192.0.2.0-192.0.2.255"), ["192.0.2.0/24"]);
        assert_eq!(
            texts("192.0.2.5-192.0.2.8"),
            ["192.0.2.5/32", "192.0.2.6/31", "192.0.2.8/32"]
        );
        assert_eq!(texts("0.0.0.0-255.255.255.255"), ["0.0.0.0/0"]);
        assert_eq!(texts("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), ["::/0"]);
    }
}
