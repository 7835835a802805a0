//! What a policy rule looks at. All given conditions must hold; within a list, any entry will do.

use std::fmt;

use regex::{Regex, RegexBuilder};

use super::communities::CommunityMatch;
use super::intervals::AsnSet;
use super::prefixes::PrefixSet;
use super::{Route, Source};
use crate::types::{Asn, Community, ExtCommunity, FamilySet, LargeCommunity, Prefix};
use crate::wire::DEFAULT_LOCAL_PREF;
use crate::wire::{AsPath, Origin, PathAttrs};

/// What a rule matches. Empty lists and `None` match everything.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Matcher {
    /// The prefix is in this set.
    pub prefixes: Option<PrefixSet>,
    /// Conditions on communities.
    pub communities: CommunityMatch<Community>,
    /// Conditions on large communities.
    pub large_communities: CommunityMatch<LargeCommunity>,
    /// Conditions on extended communities.
    pub ext_communities: CommunityMatch<ExtCommunity>,
    /// Conditions on the AS path.
    pub as_path: AsPathMatch,
    /// The next hop lies in this set.
    pub next_hops: Option<PrefixSet>,
    /// The route comes from one of these.
    pub sources: Vec<Source>,
    /// The prefix is of one of these families.
    pub families: Option<FamilySet>,
    /// Conditions on the peer that the route was learned from.
    pub from: FromMatch,
    /// Conditions on other attributes.
    pub attributes: AttributeMatch,
    /// Conditions with conditions inside.
    pub nested: Vec<Nested>,
}

/// Conditions put together.
#[derive(Clone, PartialEq, Debug)]
pub enum Nested {
    /// All hold.
    All(Vec<Matcher>),
    /// At least one holds.
    Any(Vec<Matcher>),
    /// None holds.
    None(Vec<Matcher>),
}

/// The first condition of a matcher that does not hold, as the configuration calls it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmet(pub &'static str);

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Matcher {
    /// Whether all conditions hold for the route.
    #[must_use]
    pub fn matches(&self, route: Route<'_>) -> bool {
        self.unmet(route).is_none()
    }

    /// The first condition that does not hold; those that cost least come first.
    #[must_use]
    pub fn unmet(&self, route: Route<'_>) -> Option<Unmet> {
        self.unmet_of_route(route)
            .or_else(|| self.unmet_of_attrs(route))
            .or_else(|| {
                let failed = self.nested.iter().find(|nested| !nested.matches(route));
                failed.map(|nested| Unmet(nested.name()))
            })
    }

    /// Of the conditions on prefix and source.
    pub(super) fn unmet_of_route(&self, route: Route<'_>) -> Option<Unmet> {
        let prefix = &route.prefix;
        let family = prefix.family();
        if self.families.is_some_and(|families| !families.contains(family)) {
            return Some(Unmet("families"));
        }
        if !self.sources.is_empty() && !self.sources.contains(&route.source) {
            return Some(Unmet("source"));
        }
        let excluded = self.prefixes.as_ref().is_some_and(|set| !set.contains(prefix));
        excluded.then_some(Unmet("prefixes"))
    }

    /// Of the conditions that are the same for all prefixes with these attributes from this peer.
    pub(super) fn unmet_of_attrs(&self, route: Route<'_>) -> Option<Unmet> {
        #[cfg(test)]
        crate::rib::visits::record();
        if !self.from.matches(route.from) {
            return Some(Unmet("from"));
        }
        let attrs = route.attrs;
        let extra = attrs.extra.as_deref();
        let large = extra.map_or(&[][..], |extra| &extra.large_communities);
        let ext = extra.map_or(&[][..], |extra| &extra.ext_communities);
        if !self.communities.matches(&attrs.communities) {
            return Some(Unmet("communities"));
        }
        if !self.large_communities.matches(large) {
            return Some(Unmet("largeCommunities"));
        }
        if !self.ext_communities.matches(ext) {
            return Some(Unmet("extCommunities"));
        }
        let next_hop = Prefix::host(attrs.next_hop.addr());
        if self
            .next_hops
            .as_ref()
            .is_some_and(|set| !set.contains(&next_hop))
        {
            return Some(Unmet("nextHops"));
        }
        if let Some(unmet) = self.attributes.unmet(attrs) {
            return Some(unmet);
        }
        (!self.as_path.matches(&attrs.as_path)).then_some(Unmet("asPath"))
    }

    /// Whether the outcome can differ between prefixes with the same attributes, family and source.
    #[must_use]
    pub fn looks_at_prefixes(&self) -> bool {
        self.prefixes.is_some() || self.inner().any(Matcher::looks_at_prefixes)
    }

    /// Whether the outcome depends on the peer that a route was learned from.
    #[must_use]
    pub fn looks_at_peers(&self) -> bool {
        !self.from.is_empty() || self.inner().any(Matcher::looks_at_peers)
    }

    /// The matchers one level inside this one.
    pub fn inner(&self) -> impl Iterator<Item = &Matcher> {
        self.nested.iter().flat_map(Nested::inner)
    }
}

impl Nested {
    fn matches(&self, route: Route<'_>) -> bool {
        match self {
            Self::All(inner) => inner.iter().all(|matcher| matcher.matches(route)),
            Self::Any(inner) => inner.iter().any(|matcher| matcher.matches(route)),
            Self::None(inner) => !inner.iter().any(|matcher| matcher.matches(route)),
        }
    }

    /// The matchers inside.
    #[must_use]
    pub fn inner(&self) -> &[Matcher] {
        match self {
            Self::All(inner) | Self::Any(inner) | Self::None(inner) => inner,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::All(_) => "all",
            Self::Any(_) => "any",
            Self::None(inner) if inner.len() == 1 => "not",
            Self::None(_) => "none",
        }
    }
}

/// The peer that a route was learned from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its AS number.
    pub asn: Asn,
    /// It is of another AS.
    pub external: bool,
}

/// Conditions on the peer that a route was learned from. An originated route matches none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FromMatch {
    /// It has one of these names.
    pub peers: Vec<String>,
    /// It is of another AS (`true`), or of the own AS.
    pub external: Option<bool>,
    /// Its AS number is one of these.
    pub asns: Option<AsnSet>,
}

impl FromMatch {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self, from: Option<Neighbor<'_>>) -> bool {
        if self.peers.is_empty() && self.external.is_none() && self.asns.is_none() {
            return true;
        }
        from.is_some_and(|from| {
            (self.peers.is_empty() || self.peers.iter().any(|name| name == from.name))
                && self.external.is_none_or(|external| external == from.external)
                && self.asns.as_ref().is_none_or(|asns| asns.contains(from.asn))
        })
    }
}

/// Conditions on LOCAL_PREF, MULTI_EXIT_DISC and ORIGIN.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AttributeMatch {
    /// LOCAL_PREF is in this range; 100 where it is absent.
    pub local_pref: Option<(u32, u32)>,
    /// MULTI_EXIT_DISC is in this range; 0 where it is absent (RFC 4271 §9.1.2.2 c).
    pub med: Option<(u32, u32)>,
    /// ORIGIN is one of these.
    pub origins: Vec<Origin>,
}

impl AttributeMatch {
    fn unmet(&self, attrs: &PathAttrs) -> Option<Unmet> {
        let outside = |range: Option<(u32, u32)>, number: u32| {
            range.is_some_and(|(low, high)| !(low..=high).contains(&number))
        };
        if outside(self.local_pref, attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)) {
            return Some(Unmet("localPreference"));
        }
        if outside(self.med, attrs.med.unwrap_or(0)) {
            return Some(Unmet("med"));
        }
        let met = self.origins.is_empty() || self.origins.contains(&attrs.origin);
        (!met).then_some(Unmet("origin"))
    }
}

/// Why a text is not a pattern of AS paths.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AsPathPatternError(String);

/// A regular expression over an AS path as it is shown: numbers with spaces between, sets in braces. `_` stands for
/// the bound of a number, as routers write it.
#[derive(Clone, Debug)]
pub struct AsPathPattern(Regex, String);

impl AsPathPattern {
    /// Takes a pattern as the operator writes it.
    ///
    /// # Errors
    /// It is not a regular expression, or too large when compiled.
    pub fn new(text: &str) -> Result<Self, AsPathPatternError> {
        let pattern = text.replace('_', "(?:^|$|[ {}()\\[\\],])");
        let built = RegexBuilder::new(&pattern)
            .size_limit(1 << 20)
            .unicode(false)
            .build();
        // The last line has the cause; those before it repeat the pattern.
        let cause = |error: &regex::Error| error.to_string().lines().last().unwrap_or_default().to_owned();
        built
            .map(|regex| Self(regex, text.to_owned()))
            .map_err(|error| AsPathPatternError(cause(&error)))
    }
}

impl fmt::Display for AsPathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    pub contains: Option<AsnSet>,
    /// The AS that sent the path is one of these.
    pub neighbor: Option<AsnSet>,
    /// The AS that originated the path is one of these.
    pub origin: Option<AsnSet>,
    /// One of these patterns matches.
    pub patterns: Vec<AsPathPattern>,
    /// At least this many hops (RFC 4271 §9.1.2.2 a).
    pub min_hops: Option<u32>,
    /// At most this many hops.
    pub max_hops: Option<u32>,
}

impl AsPathMatch {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self, path: &AsPath) -> bool {
        let is_in = |set: &Option<AsnSet>, asn: Option<Asn>| {
            set.as_ref()
                .is_none_or(|set| asn.is_some_and(|asn| set.contains(asn)))
        };
        let contains = |set: &AsnSet| path.asns().any(|asn| set.contains(asn));
        (self.neighbor.is_none() || is_in(&self.neighbor, path.neighbor()))
            && (self.origin.is_none() || is_in(&self.origin, path.origin()))
            && self.contains.as_ref().is_none_or(contains)
            && self.min_hops.is_none_or(|min| path.hops() >= min)
            && self.max_hops.is_none_or(|max| path.hops() <= max)
            && self.matches_patterns(path)
    }

    fn matches_patterns(&self, path: &AsPath) -> bool {
        if self.patterns.is_empty() {
            return true;
        }
        let text = path.to_string();
        self.patterns.iter().any(|pattern| pattern.0.is_match(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::CommunityPattern;
    use crate::policy::prefixes::PrefixRange;
    use crate::wire::NextHop;

    fn attrs() -> PathAttrs {
        let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
        attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(65009)]);
        attrs.communities = [Community(7)].into();
        attrs
    }

    fn route(attrs: &PathAttrs) -> Route<'_> {
        Route {
            prefix: "10.1.0.0/24".parse().unwrap(),
            attrs,
            source: Source::Peer,
            from: Some(Neighbor {
                name: "tor-a",
                asn: Asn(65001),
                external: true,
            }),
        }
    }

    #[test]
    fn conditions_are_joined_by_and() {
        let attrs = attrs();
        let within = |text: &str| [PrefixRange::within(text.parse().unwrap())].into_iter().collect();
        let mut matcher = Matcher {
            communities: CommunityMatch::any_of([Community(6), Community(7)]),
            as_path: AsPathMatch {
                neighbor: Some([Asn(65001)].into_iter().collect()),
                max_hops: Some(2),
                ..AsPathMatch::default()
            },
            next_hops: Some(within("192.0.2.0/24")),
            ..Matcher::default()
        };
        assert!(matcher.matches(route(&attrs)));
        matcher.sources = vec![Source::PodBlock];
        assert_eq!(matcher.unmet(route(&attrs)), Some(Unmet("source")));
        matcher.sources.clear();
        matcher.as_path.origin = Some([Asn(65001)].into_iter().collect());
        assert_eq!(matcher.unmet(route(&attrs)), Some(Unmet("asPath")));
    }

    #[test]
    fn the_peer_and_the_other_attributes() {
        let mut attrs = attrs();
        let from = |from: FromMatch| Matcher {
            from,
            ..Matcher::default()
        };
        for (condition, expected) in [
            (
                FromMatch {
                    external: Some(true),
                    ..FromMatch::default()
                },
                true,
            ),
            (
                FromMatch {
                    external: Some(false),
                    ..FromMatch::default()
                },
                false,
            ),
            (
                FromMatch {
                    peers: vec!["tor-b".into(), "tor-a".into()],
                    ..FromMatch::default()
                },
                true,
            ),
            (
                FromMatch {
                    peers: vec!["tor-b".into()],
                    ..FromMatch::default()
                },
                false,
            ),
            (
                FromMatch {
                    asns: Some([Asn(65001)].into_iter().collect()),
                    ..FromMatch::default()
                },
                true,
            ),
        ] {
            let matcher = from(condition);
            assert_eq!(matcher.matches(route(&attrs)), expected, "{matcher:?}");
            let own = Route {
                from: None,
                ..route(&attrs)
            };
            assert!(!matcher.matches(own), "a route of our own has no peer");
        }
        let with = |attributes: AttributeMatch| Matcher {
            attributes,
            ..Matcher::default()
        };
        let preferred = with(AttributeMatch {
            local_pref: Some((100, 200)),
            ..AttributeMatch::default()
        });
        let med = with(AttributeMatch {
            med: Some((0, 0)),
            ..AttributeMatch::default()
        });
        let origin = with(AttributeMatch {
            origins: vec![Origin::Incomplete],
            ..AttributeMatch::default()
        });
        assert!(
            preferred.matches(route(&attrs)) && med.matches(route(&attrs)) && !origin.matches(route(&attrs))
        );
        (attrs.local_pref, attrs.med, attrs.origin) = (Some(99), Some(1), Origin::Incomplete);
        assert!(
            !preferred.matches(route(&attrs)) && !med.matches(route(&attrs)) && origin.matches(route(&attrs))
        );
    }

    #[test]
    fn all_any_none() {
        let attrs = attrs();
        let community = |text: &str| Matcher {
            communities: CommunityMatch::any_of([text.parse::<CommunityPattern>().unwrap()]),
            ..Matcher::default()
        };
        let (yes, no) = (|| community("0:7"), || community("0:8"));
        for (nested, expected) in [
            (Nested::All(vec![yes(), yes()]), true),
            (Nested::All(vec![yes(), no()]), false),
            (Nested::Any(vec![yes(), no()]), true),
            (Nested::Any(vec![no()]), false),
            (Nested::None(vec![no(), no()]), true),
            (Nested::None(vec![no(), yes()]), false),
        ] {
            let matcher = Matcher {
                nested: vec![nested],
                ..Matcher::default()
            };
            assert_eq!(matcher.matches(route(&attrs)), expected, "{matcher:?}");
        }
    }

    #[test]
    fn patterns_as_routers_write_them() {
        let path = AsPath::sequence(&[Asn(65001), Asn(7), Asn(65009)]);
        let matches = |pattern: &str, path: &AsPath| {
            let patterns = vec![AsPathPattern::new(pattern).unwrap()];
            AsPathMatch {
                patterns,
                ..AsPathMatch::default()
            }
            .matches(path)
        };
        for (pattern, expected) in [
            ("^65001", true),
            ("_7_", true),
            ("_65009$", true),
            ("^65001_65009$", false),
            ("_5001_", false),
            ("^65001 [0-9]+ 65009$", true),
            ("^$", false),
        ] {
            assert_eq!(matches(pattern, &path), expected, "{pattern}");
        }
        assert!(matches("^$", &AsPath::default()));
        assert!(AsPathPattern::new("(").is_err() && AsPathPattern::new("(a{1000}){1000}").is_err());
    }
}
