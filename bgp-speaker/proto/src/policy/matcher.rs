//! What a policy rule looks at. All given conditions must hold; within a list, any entry will do.

use regex::{Regex, RegexBuilder};

use super::{Route, Source};
use crate::types::{Asn, Community, ExtCommunity, FamilySet, LargeCommunity, Prefix};
use crate::wire::AsPath;

/// Prefixes inside `prefix` with a length from `min_len` to `max_len`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

    /// Whether the prefix is in the range.
    #[must_use]
    pub fn matches(&self, prefix: &Prefix) -> bool {
        (self.min_len..=self.max_len).contains(&prefix.len()) && self.prefix.contains(prefix)
    }
}

/// A regular expression over an AS path as it is shown: numbers with spaces between, sets in braces. `_` stands for
/// the bound of a number, as routers write it.
#[derive(Clone, Debug)]
pub struct AsPathPattern(Regex, String);

impl AsPathPattern {
    /// Takes a pattern as the operator writes it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        let pattern = text.replace('_', "(?:^|$|[ {}()\\[\\],])");
        let built = RegexBuilder::new(&pattern)
            .size_limit(1 << 20)
            .unicode(false)
            .build();
        built
            .map(|regex| Self(regex, text.to_owned()))
            .map_err(|error| error.to_string().lines().last().unwrap_or_default().to_owned())
    }

    fn matches(&self, path: &AsPath) -> bool {
        self.0.is_match(&path.to_string())
    }
}

impl std::fmt::Display for AsPathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl PartialEq for AsPathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}

impl Eq for AsPathPattern {}

/// Conditions on the AS path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AsPathMatch {
    /// Any of these occurs anywhere.
    pub contains: Vec<Asn>,
    /// The AS that sent the path is one of these.
    pub neighbor: Vec<Asn>,
    /// The AS that originated the path is one of these.
    pub origin: Vec<Asn>,
    /// One of these patterns matches.
    pub patterns: Vec<AsPathPattern>,
    /// At least this many hops (RFC 4271 §9.1.2.2 a).
    pub min_hops: Option<u32>,
    /// At most this many hops.
    pub max_hops: Option<u32>,
}

impl AsPathMatch {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self, path: &AsPath) -> bool {
        let listed =
            |list: &[Asn], asn: Option<Asn>| list.is_empty() || asn.is_some_and(|asn| list.contains(&asn));
        let hops = path.hops();
        (self.contains.is_empty() || path.asns().any(|asn| self.contains.contains(&asn)))
            && listed(&self.neighbor, path.neighbor())
            && listed(&self.origin, path.origin())
            && self.min_hops.is_none_or(|min| hops >= min)
            && self.max_hops.is_none_or(|max| hops <= max)
            && (self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.matches(path)))
    }
}

/// What a rule matches. Empty lists and `None` match everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matcher {
    /// The prefix is in one of these ranges.
    pub prefixes: Vec<PrefixRange>,
    /// One of these communities is there.
    pub communities: Vec<Community>,
    /// One of these large communities is there.
    pub large_communities: Vec<LargeCommunity>,
    /// One of these extended communities is there.
    pub ext_communities: Vec<ExtCommunity>,
    /// Conditions on the AS path.
    pub as_path: AsPathMatch,
    /// The next hop lies in one of these.
    pub next_hops: Vec<Prefix>,
    /// The route comes from one of these.
    pub sources: Vec<Source>,
    /// The prefix is of one of these families.
    pub families: Option<FamilySet>,
}

impl Matcher {
    /// Whether all conditions hold for the route.
    #[must_use]
    pub fn matches(&self, route: Route<'_>) -> bool {
        self.matches_route(route) && self.matches_attrs(route)
    }

    fn matches_route(&self, route: Route<'_>) -> bool {
        (self.prefixes.is_empty() || self.prefixes.iter().any(|range| range.matches(&route.prefix)))
            && (self.sources.is_empty() || self.sources.contains(&route.source))
            && self
                .families
                .is_none_or(|families| families.contains(route.prefix.family()))
    }

    fn matches_attrs(&self, route: Route<'_>) -> bool {
        let attrs = route.attrs;
        let extra = attrs.extra.as_deref();
        any(&self.communities, &attrs.communities)
            && any(
                &self.large_communities,
                extra.map_or(&[], |extra| &extra.large_communities),
            )
            && any(
                &self.ext_communities,
                extra.map_or(&[], |extra| &extra.ext_communities),
            )
            && (self.next_hops.is_empty()
                || self
                    .next_hops
                    .iter()
                    .any(|prefix| prefix.contains_addr(attrs.next_hop.addr())))
            && (self.as_path.is_empty() || self.as_path.matches(&attrs.as_path))
    }
}

/// Whether one of the wanted is among those present; true when nothing is wanted.
fn any<T: PartialEq>(wanted: &[T], present: &[T]) -> bool {
    wanted.is_empty() || wanted.iter().any(|item| present.contains(item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NextHop, PathAttrs};

    #[test]
    fn conditions_are_joined_by_and() {
        let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
        attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(65009)]);
        attrs.communities = [Community(7)].into();
        let route = Route {
            prefix: "10.1.0.0/24".parse().unwrap(),
            attrs: &attrs,
            source: Source::Peer,
        };
        let mut matcher = Matcher {
            communities: vec![Community(6), Community(7)],
            as_path: AsPathMatch {
                neighbor: vec![Asn(65001)],
                max_hops: Some(2),
                ..AsPathMatch::default()
            },
            next_hops: vec!["192.0.2.0/24".parse().unwrap()],
            ..Matcher::default()
        };
        assert!(matcher.matches(route));
        matcher.sources = vec![Source::PodBlock];
        assert!(!matcher.matches(route));
        matcher.sources.clear();
        matcher.as_path.origin = vec![Asn(65001)];
        assert!(!matcher.matches(route));
    }

    #[test]
    fn patterns_as_routers_write_them() {
        let path = AsPath::sequence(&[Asn(65001), Asn(7), Asn(65009)]);
        for (pattern, expected) in [
            ("^65001", true),
            ("_7_", true),
            ("_65009$", true),
            ("^65001_65009$", false),
            ("_5001_", false),
            ("^65001 [0-9]+ 65009$", true),
            ("^$", false),
        ] {
            assert_eq!(
                AsPathPattern::new(pattern).unwrap().matches(&path),
                expected,
                "{pattern}"
            );
        }
        assert!(AsPathPattern::new("^$").unwrap().matches(&AsPath::default()));
        assert!(AsPathPattern::new("(").is_err() && AsPathPattern::new("(a{1000}){1000}").is_err());
    }

    #[test]
    fn ranges() {
        let range = PrefixRange {
            prefix: "10.244.0.0/16".parse().unwrap(),
            min_len: 24,
            max_len: 28,
        };
        for (text, expected) in [
            ("10.244.3.0/24", true),
            ("10.244.3.16/28", true),
            ("10.244.0.0/16", false),
            ("10.245.0.0/24", false),
            ("10.244.1.1/32", false),
        ] {
            assert_eq!(range.matches(&text.parse().unwrap()), expected, "{text}");
        }
    }
}
