//! Results of conditions for routes that differ only in their prefix.
//!
//! A neighbor may send thousands of prefixes with thousands of communities in one message. With a memo a rule compares the communities
//! once for all of these prefixes.

use super::{Matcher, Nested, Policy, Route, RuleSet};

/// Results of a policy's conditions for one set of attributes from one source. To be cleared for another.
#[derive(Clone, Debug, Default)]
pub struct Memo(Vec<MatcherMemo>);

/// Results of a matcher, or of conditions put together.
#[derive(Clone, Debug, Default)]
struct MatcherMemo {
    /// Whether the conditions on attributes and source hold.
    attrs_match: Option<bool>,
    inner: Vec<MatcherMemo>,
}

impl Memo {
    /// Forgets the results, but keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Policy {
    /// As [`Policy::evaluate`], with the results of earlier routes that had the same attributes and source.
    #[must_use]
    pub fn evaluate_with(&self, route: Route<'_>, memo: &mut Memo) -> Option<RuleSet> {
        let memos = slots(&mut memo.0, self.rules.len());
        let mut memos = memos.iter_mut();
        self.evaluate_by(|matcher| {
            let memo = memos.next();
            memo.is_some_and(|memo| matcher.matches_with(route, memo))
        })
    }
}

impl Matcher {
    fn matches_with(&self, route: Route<'_>, memo: &mut MatcherMemo) -> bool {
        self.unmet_of_route(route).is_none()
            && *memo
                .attrs_match
                .get_or_insert_with(|| self.unmet_of_attrs(route).is_none())
            && self
                .nested
                .iter()
                .zip(slots(&mut memo.inner, self.nested.len()))
                .all(|(nested, memo)| nested.matches_with(route, memo))
    }
}

impl Nested {
    fn matches_with(&self, route: Route<'_>, memo: &mut MatcherMemo) -> bool {
        let inner = self.inner();
        let mut inner = inner.iter().zip(slots(&mut memo.inner, inner.len()));
        let matches = |(matcher, memo): (&Matcher, &mut MatcherMemo)| matcher.matches_with(route, memo);
        match self {
            Self::All(_) => inner.all(matches),
            Self::Any(_) => inner.any(matches),
            Self::None(_) => !inner.any(matches),
        }
    }
}

fn slots(memos: &mut Vec<MatcherMemo>, count: usize) -> &mut [MatcherMemo] {
    memos.resize_with(count, MatcherMemo::default);
    memos
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{CommunityMatch, PrefixRange, Rule, Source, Verdict};
    use crate::rib::visits;
    use crate::types::{Community, Prefix};
    use crate::wire::{NextHop, PathAttrs};

    fn with_community(number: u32) -> Matcher {
        Matcher {
            communities: CommunityMatch::any_of([Community(number)]),
            ..Matcher::default()
        }
    }

    fn within(text: &str) -> Matcher {
        Matcher {
            prefixes: Some(vec![PrefixRange::within(text.parse().unwrap())].into()),
            ..Matcher::default()
        }
    }

    fn rule(matcher: Matcher, verdict: Option<Verdict>) -> Rule {
        Rule {
            matcher,
            verdict,
            ..Rule::default()
        }
    }

    #[test]
    fn attributes_are_compared_once_for_all_prefixes() {
        let nested = |nested| Matcher {
            nested,
            ..Matcher::default()
        };
        let policy = Policy {
            rules: vec![
                rule(with_community(8), None),
                rule(within("10.0.0.0/9"), None),
                rule(
                    nested(vec![
                        Nested::Any(vec![within("10.128.0.0/10"), with_community(7)]),
                        Nested::None(vec![with_community(8), within("10.0.0.0/16")]),
                        Nested::All(vec![
                            within("10.0.0.0/8"),
                            nested(vec![Nested::Any(vec![with_community(7)])]),
                        ]),
                    ]),
                    Some(Verdict::Accept),
                ),
                rule(with_community(7), Some(Verdict::Reject)),
            ],
            ..Policy::accept_all()
        };
        let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
        let mut memo = Memo::default();
        for communities in [vec![Community(7)], vec![Community(8)], vec![]] {
            attrs.communities = communities.into();
            memo.clear();
            let mut visited = 0;
            for number in 0..1000 {
                let route = Route {
                    prefix: Prefix::v4((9 << 24) + (number << 15), 24),
                    attrs: &attrs,
                    source: Source::Peer,
                    from: None,
                };
                let expected = policy.evaluate(route);
                visits::take();
                assert_eq!(policy.evaluate_with(route, &mut memo), expected, "{route:?}");
                visited += visits::take();
            }
            // At most each of the matchers, outer and inner.
            assert!(visited <= 11, "{visited} comparisons");
        }
    }
}
