//! Patterns of communities, and sets of them.
//!
//! A part of a community is a number, a range `100-199`, or digits with `?` for one and `*` for any number of digits: `1??`, `*`.
//! What is one range of the whole community (`64512:*`) goes into a sorted set; only the rest (`*:666`) is tried one by one.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::policy::communities::{CommunityMatch, NumberPattern};
//! use bgp_proto::types::Community;
//!
//! let region = NumberPattern::parse("1??", 65535).unwrap();
//! assert!(region.matches(199) && !region.matches(200));
//!
//! let blackhole = CommunityMatch::<Community>::any_of(["64512:666".parse::<Community>().unwrap()]);
//! assert!(blackhole.matches(&["64512:666".parse().unwrap()]));
//! assert!(!blackhole.matches(&[]));
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::intervals::IntervalSet;
use crate::types::{Community, ExtCommunity, LargeCommunity};

/// One of the three kinds of communities.
pub trait CommunityKind: Copy + PartialEq + fmt::Debug + fmt::Display {
    /// The number that the kind is sorted by.
    type Key: Copy + Ord + fmt::Debug;
    /// Which communities of the kind.
    type Pattern: Clone + PartialEq + fmt::Debug + fmt::Display;

    /// The community as a number.
    fn key(self) -> Self::Key;
    /// The range of numbers that a pattern stands for, where it is one range.
    fn range(pattern: &Self::Pattern) -> Option<(Self::Key, Self::Key)>;
    /// Whether the community is one of the pattern's.
    fn is_of(self, pattern: &Self::Pattern) -> bool;
}

/// Why a text is not a pattern of communities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a number, a range 100-199, or digits with ? and *")]
pub struct PatternError(pub String);

/// A part of a community.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NumberPattern {
    /// From the first to the second.
    Range(u32, u32),
    /// Written in decimal digits it looks like this: `?` is one digit, `*` any number of digits.
    Digits(Box<str>),
}

impl NumberPattern {
    /// Any number.
    pub const ANY: Self = Self::Range(0, u32::MAX);

    /// Reads a part that is no larger than `most`.
    ///
    /// # Errors
    /// Not a number, range or pattern of digits.
    pub fn parse(text: &str, most: u32) -> Result<Self, PatternError> {
        let bad = || PatternError(text.to_owned());
        let number = |text: &str| {
            let plain = text == "0" || !text.starts_with('0');
            let digits = plain && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u32>()
                .ok()
                .filter(|number| digits && *number <= most)
        };
        if text == "*" {
            return Ok(Self::ANY);
        }
        if let Some((low, high)) = text.split_once('-') {
            let range = number(low).zip(number(high)).filter(|(low, high)| low <= high);
            return range.map(|(low, high)| Self::Range(low, high)).ok_or_else(bad);
        }
        if let Some(number) = number(text) {
            return Ok(Self::Range(number, number));
        }
        let wild = text.contains(['?', '*']) && text.len() <= 10 && !text.starts_with('0');
        if !wild || !text.bytes().all(|b| b.is_ascii_digit() || b == b'?' || b == b'*') {
            return Err(bad());
        }
        Ok(Self::of_trailing(text).unwrap_or_else(|| Self::Digits(text.into())))
    }

    /// `1??` is 100–199.
    fn of_trailing(text: &str) -> Option<Self> {
        let head = text.trim_end_matches('?');
        if !head.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let tail = u32::try_from(text.len() - head.len()).ok()?;
        let scale = 10_u64.checked_pow(tail)?;
        let (low, high) = match head.parse::<u64>() {
            Ok(head) => (head * scale, head * scale + scale - 1),
            Err(_) if tail == 1 => (0, 9),
            Err(_) => (scale / 10, scale - 1),
        };
        Some(Self::Range(
            u32::try_from(low).ok()?,
            u32::try_from(high).unwrap_or(u32::MAX),
        ))
    }

    /// Whether it is one number.
    #[must_use]
    pub fn exact(&self) -> Option<u32> {
        match self {
            Self::Range(low, high) if low == high => Some(*low),
            _ => None,
        }
    }

    fn is_any(&self, most: u32) -> bool {
        matches!(self, Self::Range(0, high) if *high >= most)
    }

    fn range(&self, most: u32) -> Option<(u32, u32)> {
        match self {
            Self::Range(low, high) => Some((*low, (*high).min(most))),
            Self::Digits(_) => None,
        }
    }

    /// Whether the number is one of these.
    #[must_use]
    pub fn matches(&self, number: u32) -> bool {
        match self {
            Self::Range(low, high) => (*low..=*high).contains(&number),
            Self::Digits(pattern) => looks_like(pattern.as_bytes(), number.to_string().as_bytes()),
        }
    }
}

fn looks_like(pattern: &[u8], digits: &[u8]) -> bool {
    match (pattern.split_first(), digits.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'*', after)), rest) => {
            looks_like(after, digits) || rest.is_some_and(|(_, rest)| looks_like(pattern, rest))
        }
        (Some((wanted, after)), Some((digit, rest))) => {
            (*wanted == b'?' || wanted == digit) && looks_like(after, rest)
        }
        (Some(_), None) => false,
    }
}

impl fmt::Display for NumberPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(0, u32::MAX) => f.write_str("*"),
            Self::Range(low, high) if low == high => low.fmt(f),
            Self::Range(low, high) => write!(f, "{low}-{high}"),
            Self::Digits(text) => f.write_str(text),
        }
    }
}

/// Standard communities: a well-known one, or both halves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommunityPattern(pub [NumberPattern; 2]);

/// Large communities: all three parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LargePattern(pub [NumberPattern; 3]);

/// Extended communities.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExtPattern {
    /// This one.
    Exact(ExtCommunity),
    /// Route targets (sub-type 2) or route origins (3) of an AS, of either form (RFC 4360 §4, RFC 5668).
    Of {
        /// The sub-type.
        subtype: u8,
        /// The AS number.
        asn: NumberPattern,
        /// The number.
        local: NumberPattern,
    },
}

impl From<Community> for CommunityPattern {
    fn from(community: Community) -> Self {
        let part = |number| NumberPattern::Range(number, number);
        Self([part(community.0 >> 16), part(community.0 & 0xFFFF)])
    }
}

impl From<LargeCommunity> for LargePattern {
    fn from(LargeCommunity(global, one, two): LargeCommunity) -> Self {
        Self([global, one, two].map(|number| NumberPattern::Range(number, number)))
    }
}

impl From<ExtCommunity> for ExtPattern {
    fn from(community: ExtCommunity) -> Self {
        Self::Exact(community)
    }
}

impl FromStr for CommunityPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Ok(community) = text.parse::<Community>() {
            return Ok(community.into());
        }
        let (high, low) = text
            .split_once(':')
            .ok_or_else(|| PatternError(text.to_owned()))?;
        let part = |text| NumberPattern::parse(text, 0xFFFF);
        Ok(Self([part(high)?, part(low)?]))
    }
}

impl FromStr for LargePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut parts = text.splitn(3, ':');
        let mut part = || {
            let part = parts.next().ok_or_else(|| PatternError(text.to_owned()))?;
            NumberPattern::parse(part, u32::MAX)
        };
        Ok(Self([part()?, part()?, part()?]))
    }
}

impl FromStr for ExtPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Ok(community) = text.parse::<ExtCommunity>() {
            return Ok(Self::Exact(community));
        }
        let bad = || PatternError(text.to_owned());
        let (name, rest) = text.split_once(':').ok_or_else(bad)?;
        let (asn, local) = rest.split_once(':').ok_or_else(bad)?;
        let subtype = match name {
            "rt" => 2,
            "ro" => 3,
            _ => return Err(bad()),
        };
        let part = |text| NumberPattern::parse(text, u32::MAX);
        Ok(Self::Of {
            subtype,
            asn: part(asn)?,
            local: part(local)?,
        })
    }
}

impl fmt::Display for CommunityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([high, low]) = self;
        match (high.exact(), low.exact()) {
            (Some(high), Some(low)) => Community(high << 16 | low).fmt(f),
            _ => write!(f, "{high}:{low}"),
        }
    }
}

impl fmt::Display for LargePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([global, one, two]) = self;
        write!(f, "{global}:{one}:{two}")
    }
}

impl fmt::Display for ExtPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(community) => community.fmt(f),
            Self::Of {
                subtype, asn, local, ..
            } => {
                let name = if *subtype == 2 { "rt" } else { "ro" };
                write!(f, "{name}:{asn}:{local}")
            }
        }
    }
}

impl CommunityKind for Community {
    type Key = u32;
    type Pattern = CommunityPattern;

    fn key(self) -> u32 {
        self.0
    }

    fn range(CommunityPattern([high, low]): &CommunityPattern) -> Option<(u32, u32)> {
        const MOST: u32 = 0xFFFF;
        let ((high_from, high_to), (from, to)) = (high.range(MOST)?, low.range(MOST)?);
        let is_one = high_from == high_to || low.is_any(MOST);
        is_one.then_some((high_from << 16 | from, high_to << 16 | to))
    }

    fn is_of(self, CommunityPattern([high, low]): &CommunityPattern) -> bool {
        high.matches(self.0 >> 16) && low.matches(self.0 & 0xFFFF)
    }
}

impl CommunityKind for LargeCommunity {
    type Key = (u32, u32, u32);
    type Pattern = LargePattern;

    fn key(self) -> (u32, u32, u32) {
        (self.0, self.1, self.2)
    }

    fn range(LargePattern([a, b, c]): &LargePattern) -> Option<((u32, u32, u32), (u32, u32, u32))> {
        const MOST: u32 = u32::MAX;
        let (x, y, z) = (a.range(MOST)?, b.range(MOST)?, c.range(MOST)?);
        let is_one = (x.0 == x.1 && (y.0 == y.1 || c.is_any(MOST))) || (b.is_any(MOST) && c.is_any(MOST));
        is_one.then_some(((x.0, y.0, z.0), (x.1, y.1, z.1)))
    }

    fn is_of(self, LargePattern([a, b, c]): &LargePattern) -> bool {
        a.matches(self.0) && b.matches(self.1) && c.matches(self.2)
    }
}

impl CommunityKind for ExtCommunity {
    type Key = u64;
    type Pattern = ExtPattern;

    fn key(self) -> u64 {
        self.0
    }

    fn range(pattern: &ExtPattern) -> Option<(u64, u64)> {
        match pattern {
            ExtPattern::Exact(community) => Some((community.0, community.0)),
            ExtPattern::Of { .. } => None,
        }
    }

    fn is_of(self, pattern: &ExtPattern) -> bool {
        match pattern {
            ExtPattern::Exact(community) => self == *community,
            ExtPattern::Of { subtype, asn, local } => {
                let [kind, found, a, b, c, d, e, g] = self.0.to_be_bytes();
                let (of, number) = match kind {
                    0 => (u32::from_be_bytes([0, 0, a, b]), u32::from_be_bytes([c, d, e, g])),
                    2 => (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([0, 0, e, g])),
                    _ => return false,
                };
                found == *subtype && asn.matches(of) && local.matches(number)
            }
        }
    }
}

/// A set of communities of one kind, given by patterns.
#[derive(Clone)]
pub struct CommunitySet<C: CommunityKind>(Arc<Compiled<C>>);

struct Compiled<C: CommunityKind> {
    patterns: Vec<C::Pattern>,
    ranges: IntervalSet<C::Key>,
    /// Patterns that are no single range.
    rest: Vec<C::Pattern>,
}

impl<C: CommunityKind> CommunitySet<C> {
    /// Whether the community is in the set.
    #[must_use]
    pub fn contains(&self, community: C) -> bool {
        self.0.ranges.contains(community.key()) || self.0.rest.iter().any(|pattern| community.is_of(pattern))
    }

    /// The patterns, as given.
    pub fn iter(&self) -> impl Iterator<Item = &C::Pattern> {
        self.0.patterns.iter()
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.patterns.len()
    }

    /// Whether no community is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.patterns.is_empty()
    }
}

impl<C: CommunityKind, P: Into<C::Pattern>> FromIterator<P> for CommunitySet<C> {
    fn from_iter<I: IntoIterator<Item = P>>(patterns: I) -> Self {
        let patterns: Vec<C::Pattern> = patterns.into_iter().map(Into::into).collect();
        let ranges = patterns.iter().filter_map(C::range).collect();
        let rest = patterns.iter().filter(|pattern| C::range(pattern).is_none());
        let rest = rest.cloned().collect();
        Self(Arc::new(Compiled {
            patterns,
            ranges,
            rest,
        }))
    }
}

impl<C: CommunityKind> PartialEq for CommunitySet<C> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.patterns == other.0.patterns
    }
}

impl<C: CommunityKind> fmt::Debug for CommunitySet<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Conditions on the communities of one kind; all that are given must hold.
#[derive(Clone, PartialEq, Debug)]
pub struct CommunityMatch<C: CommunityKind> {
    /// One of these is there.
    pub any: Option<CommunitySet<C>>,
    /// Of each of these one is there.
    pub all: Vec<CommunitySet<C>>,
    /// None of these is there.
    pub none: Option<CommunitySet<C>>,
    /// Of each of these one is there, and no other; the empty list is a route without communities of this kind.
    pub exact: Option<Vec<CommunitySet<C>>>,
}

impl<C: CommunityKind> Default for CommunityMatch<C> {
    fn default() -> Self {
        Self {
            any: None,
            all: Vec::new(),
            none: None,
            exact: None,
        }
    }
}

impl<C: CommunityKind> CommunityMatch<C> {
    /// One of these is there.
    pub fn any_of<P: Into<C::Pattern>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self {
            any: Some(patterns.into_iter().collect()),
            ..Self::default()
        }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether these communities are as asked for.
    #[must_use]
    pub fn matches(&self, present: &[C]) -> bool {
        let has = |set: &CommunitySet<C>| present.iter().any(|community| set.contains(*community));
        self.any.as_ref().is_none_or(has)
            && self.all.iter().all(has)
            && !self.none.as_ref().is_some_and(has)
            && self.exact.as_ref().is_none_or(|exact| {
                exact.iter().all(has)
                    && present
                        .iter()
                        .all(|one| exact.iter().any(|set| set.contains(*one)))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_as_ranges_and_as_digits() {
        for (text, matching, other) in [
            ("7", 7, 70),
            ("1??", 150, 1500),
            ("100-199", 199, 200),
            ("1*", 1, 21),
            ("1*", 1999, 2),
            ("*9", 59, 95),
            ("?", 9, 10),
            ("??", 10, 9),
            ("6?5??", 64512, 64612),
        ] {
            let pattern = NumberPattern::parse(text, 0xFFFF).unwrap();
            assert!(pattern.matches(matching), "{text} {matching}");
            assert!(!pattern.matches(other), "{text} {other}");
        }
        for text in [
            "",
            "70000",
            "9-3",
            "1-70000",
            "x",
            "0?",
            "007",
            "-",
            "1-",
            "+1",
            "???????????",
        ] {
            assert!(NumberPattern::parse(text, 0xFFFF).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_of_all_kinds() {
        let standard = |text: &str| text.parse::<CommunityPattern>().unwrap();
        let set: CommunitySet<Community> = ["64512:*", "65001:1??", "*:666", "no-export"]
            .map(standard)
            .into_iter()
            .collect();
        assert_eq!(set.0.rest, [standard("*:666")], "the others are ranges");
        for (text, expected) in [
            ("64512:0", true),
            ("64513:0", false),
            ("65001:199", true),
            ("65001:200", false),
            ("7:666", true),
            ("no-export", true),
            ("no-advertise", false),
        ] {
            assert_eq!(set.contains(text.parse().unwrap()), expected, "{text}");
        }
        let large = |text: &str| text.parse::<LargePattern>().unwrap();
        let set: CommunitySet<LargeCommunity> = ["64512:*:*", "1:2:30-39", "*:0:1"]
            .map(large)
            .into_iter()
            .collect();
        assert!(set.contains(LargeCommunity(64512, 9, 9)) && set.contains(LargeCommunity(1, 2, 39)));
        assert!(set.contains(LargeCommunity(8, 0, 1)) && !set.contains(LargeCommunity(1, 3, 30)));
        let ext = |text: &str| text.parse::<ExtPattern>().unwrap();
        let set: CommunitySet<ExtCommunity> =
            ["rt:64512:*", "ro:4200000000:7"].map(ext).into_iter().collect();
        for (text, expected) in [
            ("rt:64512:9", true),
            ("ro:64512:9", false),
            ("ro:4200000000:7", true),
            ("rt:192.0.2.1:9", false),
        ] {
            assert_eq!(set.contains(text.parse().unwrap()), expected, "{text}");
        }
        for text in ["64512", "1:2:3", "x:1", "70000:*"] {
            assert!(text.parse::<CommunityPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn all_none_exact() {
        let set = |text: &str| [text.parse::<CommunityPattern>().unwrap()].into_iter().collect();
        let of = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<Community>>()
        };
        let all = CommunityMatch {
            all: vec![set("1:*"), set("2:*")],
            none: Some(set("*:666")),
            ..CommunityMatch::default()
        };
        assert!(all.matches(&of(&["1:1", "2:2"])) && !all.matches(&of(&["1:1"])));
        assert!(!all.matches(&of(&["1:1", "2:666"])));
        let exact = CommunityMatch {
            exact: Some(vec![set("1:*")]),
            ..CommunityMatch::default()
        };
        assert!(exact.matches(&of(&["1:1", "1:2"])) && !exact.matches(&of(&["1:1", "2:2"])));
        assert!(!exact.matches(&[]));
        let without = CommunityMatch {
            exact: Some(Vec::new()),
            ..CommunityMatch::default()
        };
        assert!(without.matches(&[]) && !without.matches(&of(&["1:1"])));
    }
}
