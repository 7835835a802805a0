//! Random policies and routes, and policies read without compiling them. Used by a property test and a fuzz target.

use bgp_proto::policy::communities::{CommunityKind, NumberPattern};
use bgp_proto::policy::*;
use bgp_proto::types::{Asn, Community, ExtCommunity, Family, FamilySet, LargeCommunity, Prefix};
use bgp_proto::wire::{AsPath, NextHop, Origin, PathAttrs};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Few values, so that routes meet conditions and ranges overlap.
fn prefix() -> impl Strategy<Value = Prefix> {
    let v4 = (0u32..32, 0u8..=32).prop_map(|(bits, len)| Prefix::v4(bits << 27 | bits << 3, len));
    let v6 = (0u128..32, 0u8..=128).prop_map(|(bits, len)| Prefix::v6(bits << 123 | bits << 60 | bits, len));
    prop_oneof![3 => v4, 1 => v6]
}

fn range() -> impl Strategy<Value = PrefixRange> {
    (prefix(), 0u8..=128, 0u8..=128).prop_map(|(prefix, low, high)| PrefixRange {
        prefix,
        min_len: low.min(high),
        max_len: low.max(high),
    })
}

fn prefix_set() -> impl Strategy<Value = PrefixSet> {
    vec(range(), 0..40).prop_map(PrefixSet::from)
}

fn number() -> impl Strategy<Value = NumberPattern> {
    prop_oneof![
        Just(NumberPattern::ANY),
        (0u32..130).prop_map(|number| NumberPattern::Range(number, number)),
        (0u32..130, 0u32..40).prop_map(|(low, more)| NumberPattern::Range(low, low + more)),
        prop_oneof![
            Just("1?"),
            Just("?"),
            Just("1*"),
            Just("*2"),
            Just("?2"),
            Just("1??")
        ]
        .prop_map(|text| NumberPattern::parse(text, 0xFFFF).unwrap()),
    ]
}

fn standard() -> impl Strategy<Value = CommunityPattern> {
    (number(), number()).prop_map(|(high, low)| CommunityPattern([high, low]))
}

fn large() -> impl Strategy<Value = LargePattern> {
    (number(), number(), number()).prop_map(|(a, b, c)| LargePattern([a, b, c]))
}

fn ext() -> impl Strategy<Value = ExtPattern> {
    prop_oneof![
        (0u64..4).prop_map(|low| ExtPattern::Exact(ExtCommunity(0x0002_0000_0000_0000 | low << 32 | low))),
        (2u8..4, number(), number()).prop_map(|(subtype, asn, local)| ExtPattern::Of { subtype, asn, local }),
    ]
}

fn matching<C, S>(pattern: impl Fn() -> S) -> impl Strategy<Value = CommunityMatch<C>>
where
    C: CommunityKind + 'static,
    C::Pattern: 'static,
    S: Strategy<Value = C::Pattern> + 'static,
{
    let set = |size: std::ops::Range<usize>| vec(pattern(), size).prop_map(|all| all.into_iter().collect());
    let sets = |size: std::ops::Range<usize>| {
        vec(
            vec(pattern(), 1..3).prop_map(|all| all.into_iter().collect()),
            size,
        )
    };
    let (any, all, none, exact) = (set(0..6), sets(1..3), set(1..3), sets(0..3));
    (
        option::weighted(0.4, any),
        option::weighted(0.2, all),
        option::weighted(0.2, none),
        option::weighted(0.1, exact),
    )
        .prop_map(|(any, all, none, exact)| CommunityMatch {
            any,
            all: all.unwrap_or_default(),
            none,
            exact,
        })
}

fn asns() -> impl Strategy<Value = AsnSet> {
    vec((0u32..20, 0u32..5), 1..4).prop_map(|all| {
        all.into_iter()
            .map(|(low, more)| (Asn(low), Asn(low + more)))
            .collect()
    })
}

fn as_path_match() -> impl Strategy<Value = AsPathMatch> {
    let set = || option::weighted(0.3, asns());
    (
        set(),
        set(),
        set(),
        option::weighted(0.2, 0u32..4),
        option::weighted(0.2, 0u32..4),
    )
        .prop_map(|(contains, neighbor, origin, min_hops, max_hops)| AsPathMatch {
            contains,
            neighbor,
            origin,
            patterns: Vec::new(),
            min_hops,
            max_hops,
        })
}

fn leaf() -> impl Strategy<Value = Matcher> {
    let communities = (
        matching::<Community, _>(standard),
        matching::<LargeCommunity, _>(large),
        matching::<ExtCommunity, _>(ext),
    );
    let prefixes = (
        option::weighted(0.5, prefix_set()),
        option::weighted(0.2, prefix_set()),
        option::weighted(
            0.2,
            select(vec![
                FamilySet::EMPTY,
                FamilySet::ALL,
                [Family::Ipv4].into_iter().collect(),
            ]),
        ),
    );
    let sources = prop_oneof![3 => Just(Vec::new()), 1 => vec(source(), 1..3)];
    (
        prefixes,
        communities,
        as_path_match(),
        sources,
        from_match(),
        attribute_match(),
    )
        .prop_map(|(prefixes, communities, as_path, sources, from, attributes)| {
            let (prefixes, next_hops, families) = prefixes;
            let (communities, large_communities, ext_communities) = communities;
            Matcher {
                prefixes,
                communities,
                large_communities,
                ext_communities,
                as_path,
                next_hops,
                sources,
                families,
                from,
                attributes,
                nested: Vec::new(),
            }
        })
}

fn source() -> impl Strategy<Value = Source> {
    select(vec![
        Source::PodBlock,
        Source::Service,
        Source::Peer,
        Source::Kernel,
        Source::Static,
    ])
}

const PEERS: [&str; 3] = ["a", "b", "c"];

fn from_match() -> impl Strategy<Value = FromMatch> {
    (
        prop_oneof![3 => Just(Vec::new()), 1 => vec(select(PEERS.to_vec()).prop_map(str::to_owned), 1..3)],
        option::weighted(0.2, any::<bool>()),
        option::weighted(0.2, asns()),
    )
        .prop_map(|(peers, external, asns)| FromMatch {
            peers,
            external,
            asns,
        })
}

fn origin() -> impl Strategy<Value = Origin> {
    select(vec![Origin::Igp, Origin::Egp, Origin::Incomplete])
}

fn attribute_match() -> impl Strategy<Value = AttributeMatch> {
    let range = || option::weighted(0.2, (0u32..200, 0u32..200));
    let origins = prop_oneof![3 => Just(Vec::new()), 1 => vec(origin(), 1..3)];
    (range(), range(), origins).prop_map(|(local_pref, med, origins)| AttributeMatch {
        local_pref,
        med,
        origins,
    })
}

fn matcher() -> impl Strategy<Value = Matcher> {
    leaf().prop_recursive(2, 6, 3, |inner| {
        let group = (0u8..3, vec(inner.clone(), 0..3)).prop_map(|(kind, inner)| match kind {
            0 => Nested::All(inner),
            1 => Nested::Any(inner),
            _ => Nested::None(inner),
        });
        (inner, vec(group, 1..3)).prop_map(|(matcher, nested)| Matcher { nested, ..matcher })
    })
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let verdict = prop_oneof![
        Just(None),
        Just(Some(Verdict::Accept)),
        Just(Some(Verdict::Reject))
    ];
    let rule = (matcher(), verdict).prop_map(|(matcher, verdict)| Rule {
        matcher,
        verdict,
        ..Rule::default()
    });
    (vec(rule, 0..5), any::<bool>()).prop_map(|(rules, accept)| Policy {
        rules,
        ..if accept {
            Policy::accept_all()
        } else {
            Policy::reject_all()
        }
    })
}

fn attrs() -> impl Strategy<Value = PathAttrs> {
    let standard = vec((0u32..130, 0u32..130), 0..5);
    let large = vec((0u32..130, 0u32..130, 0u32..130), 0..4);
    let ext = vec((0u64..3, 2u64..4, 0u64..130, 0u64..130), 0..4);
    let path = vec(0u32..20, 0..5);
    let numbers = (option::of(0u32..200), option::of(0u32..200), origin());
    (standard, large, ext, path, any::<u32>(), numbers).prop_map(
        |(standard, large, ext, path, next_hop, numbers)| {
            let mut attrs = PathAttrs::originated(NextHop::V4(next_hop.into()));
            (attrs.local_pref, attrs.med, attrs.origin) = numbers;
            attrs.communities = standard
                .into_iter()
                .map(|(high, low)| Community(high << 16 | low))
                .collect();
            attrs.as_path = AsPath::sequence(&path.into_iter().map(Asn).collect::<Vec<_>>());
            let extra = attrs.extra_mut();
            extra.large_communities = large
                .into_iter()
                .map(|(a, b, c)| LargeCommunity(a, b, c))
                .collect();
            let ext = ext.into_iter().map(|(kind, subtype, asn, local)| {
                let shift = if kind == 2 { 16 } else { 32 };
                ExtCommunity(kind << 56 | subtype << 48 | asn << shift | local)
            });
            extra.ext_communities = ext.collect();
            attrs.normalize();
            attrs
        },
    )
}

/// Routes with the same attributes from one source.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    prefixes: Vec<Prefix>,
    attrs: PathAttrs,
    source: Source,
    from: Option<(&'static str, Asn, bool)>,
}

/// A few of them.
pub(crate) fn routes() -> impl Strategy<Value = Vec<Routes>> {
    let from = option::of((select(PEERS.to_vec()), (0u32..20).prop_map(Asn), any::<bool>()));
    let one = (vec(prefix(), 1..6), attrs(), source(), from);
    vec(
        one.prop_map(|(prefixes, attrs, source, from)| Routes {
            prefixes,
            attrs,
            source,
            from,
        }),
        1..6,
    )
}

/// The compiled form gives the same as a plain reading: rule by rule, as a whole, and with remembered results.
pub(crate) fn compare(policy: &Policy, routes: &[Routes]) {
    let mut memo = Memo::default();
    for Routes {
        prefixes,
        attrs,
        source,
        from,
    } in routes
    {
        memo.clear();
        for prefix in prefixes {
            let route = Route {
                prefix: *prefix,
                attrs,
                source: *source,
                from: from.map(|(name, asn, external)| Neighbor { name, asn, external }),
            };
            let (verdict, matched) = plain::evaluate(policy, route);
            let decision = policy.decide(route);
            let steps = decision.steps.iter().enumerate();
            let found: Vec<usize> = steps
                .filter(|(_, step)| step.unmet.is_none())
                .map(|(at, _)| at)
                .collect();
            assert_eq!(
                (decision.verdict, found),
                (verdict, matched),
                "{policy:?}, {route:?}"
            );
            let expected = (verdict == Verdict::Accept).then_some(decision.matched);
            assert_eq!(policy.evaluate(route), expected, "{policy:?}, {route:?}");
            assert_eq!(
                policy.evaluate_with(route, &mut memo),
                expected,
                "{policy:?}, {route:?}"
            );
        }
    }
}

/// The policy read word by word: every entry of every list, nothing remembered.
mod plain {
    use super::*;

    pub(super) fn evaluate(policy: &Policy, route: Route<'_>) -> (Verdict, Vec<usize>) {
        let mut matched = Vec::new();
        for (index, rule) in policy.rules.iter().enumerate() {
            if !matches(&rule.matcher, route) {
                continue;
            }
            matched.push(index);
            if let Some(verdict) = rule.verdict {
                return (verdict, matched);
            }
        }
        (policy.default, matched)
    }

    fn matches(matcher: &Matcher, route: Route<'_>) -> bool {
        let attrs = route.attrs;
        let extra = attrs.extra.as_deref().cloned().unwrap_or_default();
        let prefixes = |set: &PrefixSet, prefix: &Prefix| set.iter().any(|range| range.matches(prefix));
        let next_hop = Prefix::host(attrs.next_hop.addr());
        let path: Vec<Asn> = attrs.as_path.asns().collect();
        let of = &matcher.as_path;
        let hops = u32::try_from(path.len()).unwrap();
        matcher
            .prefixes
            .as_ref()
            .is_none_or(|set| prefixes(set, &route.prefix))
            && matcher
                .next_hops
                .as_ref()
                .is_none_or(|set| prefixes(set, &next_hop))
            && matcher
                .families
                .is_none_or(|families| families.contains(route.prefix.family()))
            && (matcher.sources.is_empty() || matcher.sources.contains(&route.source))
            && from(&matcher.from, route.from)
            && attributes(&matcher.attributes, attrs)
            && communities(&matcher.communities, &attrs.communities)
            && communities(&matcher.large_communities, &extra.large_communities)
            && communities(&matcher.ext_communities, &extra.ext_communities)
            && of
                .contains
                .as_ref()
                .is_none_or(|set| path.iter().any(|asn| asn_in(set, *asn)))
            && of
                .neighbor
                .as_ref()
                .is_none_or(|set| path.first().is_some_and(|asn| asn_in(set, *asn)))
            && of
                .origin
                .as_ref()
                .is_none_or(|set| path.last().is_some_and(|asn| asn_in(set, *asn)))
            && of.min_hops.is_none_or(|min| hops >= min)
            && of.max_hops.is_none_or(|max| hops <= max)
            && matcher.nested.iter().all(|nested| match nested {
                Nested::All(inner) => inner.iter().all(|inner| matches(inner, route)),
                Nested::Any(inner) => inner.iter().any(|inner| matches(inner, route)),
                Nested::None(inner) => inner.iter().all(|inner| !matches(inner, route)),
            })
    }

    fn asn_in(set: &AsnSet, asn: Asn) -> bool {
        set.ranges().any(|(low, high)| (low..=high).contains(&asn))
    }

    fn from(wanted: &FromMatch, from: Option<Neighbor<'_>>) -> bool {
        let names = wanted.peers.is_empty()
            || from.is_some_and(|from| wanted.peers.iter().any(|name| name == from.name));
        let kinds = wanted
            .external
            .is_none_or(|external| from.is_some_and(|from| from.external == external));
        let numbers = wanted
            .asns
            .as_ref()
            .is_none_or(|set| from.is_some_and(|from| asn_in(set, from.asn)));
        names && kinds && numbers
    }

    fn attributes(wanted: &AttributeMatch, attrs: &PathAttrs) -> bool {
        let within = |range: Option<(u32, u32)>, number: u32| {
            range.is_none_or(|(low, high)| low <= number && number <= high)
        };
        within(wanted.local_pref, attrs.local_pref.unwrap_or(100))
            && within(wanted.med, attrs.med.unwrap_or(0))
            && (wanted.origins.is_empty() || wanted.origins.contains(&attrs.origin))
    }

    fn communities<C: CommunityKind>(matching: &CommunityMatch<C>, present: &[C]) -> bool {
        let is_of = |community: &C, set: &CommunitySet<C>| set.iter().any(|pattern| community.is_of(pattern));
        let has = |set: &CommunitySet<C>| present.iter().any(|community| is_of(community, set));
        matching.any.as_ref().is_none_or(has)
            && matching.all.iter().all(has)
            && matching.none.as_ref().is_none_or(|set| !has(set))
            && matching.exact.as_ref().is_none_or(|exact| {
                let known = |community: &C| exact.iter().any(|set| is_of(community, set));
                exact.iter().all(has) && present.iter().all(known)
            })
    }
}
