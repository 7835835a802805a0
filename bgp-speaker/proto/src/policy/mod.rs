//! Import and export policy: an ordered list of rules over a route, with a cacheable outcome.
//!
//! Every rule matches the route *as it came*: an earlier rule's actions are not seen by a later rule's
//! matcher. This makes the outcome a set of rules ([`RuleSet`]) that follows from the route alone, so
//! that the engine computes the resulting attributes once per (attributes, rule set) and not once per
//! prefix. A rule without a verdict lets evaluation go on (`continue`); when no rule decides, the
//! policy's default does, and that is *reject* unless said otherwise (RFC 8212).
//!
//! Sets are compiled when a policy is made ([`prefixes`], [`communities`], [`intervals`]): a rule costs the same with ten entries
//! and with a hundred thousand.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::policy::{Matcher, Policy, PrefixRange, Route, Rule, Source, Verdict};
//! use bgp_proto::types::Prefix;
//! use bgp_proto::wire::{NextHop, PathAttrs};
//!
//! let pods: Prefix = "10.244.0.0/16".parse().unwrap();
//! let policy = Policy {
//!     name: "blocks".to_owned(),
//!     rules: vec![Rule {
//!         matcher: Matcher { prefixes: Some([PrefixRange::within(pods)].into_iter().collect()), ..Matcher::default() },
//!         verdict: Some(Verdict::Accept),
//!         ..Rule::default()
//!     }],
//!     default: Verdict::Reject,
//! };
//! let attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
//! let route = |prefix: &str| Route {
//!     prefix: prefix.parse().unwrap(),
//!     attrs: &attrs,
//!     source: Source::Peer,
//!     from: None,
//! };
//! assert!(policy.evaluate(route("10.244.1.0/24")).is_some());
//! assert!(policy.evaluate(route("0.0.0.0/0")).is_none(), "no rule decides: the default");
//! ```

mod action;
pub mod communities;
pub mod intervals;
mod matcher;
mod memo;
pub mod prefixes;
mod trace;

pub use action::*;
pub use communities::{CommunityMatch, CommunityPattern, CommunitySet, ExtPattern, LargePattern};
pub use intervals::AsnSet;
pub use matcher::*;
pub use memo::Memo;
pub use prefixes::{PrefixRange, PrefixSet};
pub use trace::{Decision, Step};

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::types::Prefix;
use crate::wire::{AsPath, PathAttrs};

/// Where a route comes from, as policies see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// A pod block of this node.
    PodBlock,
    /// A Service address or aggregate.
    Service,
    /// Learned from a peer.
    Peer,
    /// Taken over from the kernel's table.
    Kernel,
    /// Originated by the configuration.
    Static,
}

/// Take the route or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// Take it, with the actions of all rules that matched.
    Accept,
    /// Not this route.
    Reject,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
        })
    }
}

/// A rule: when all of the matcher holds, the actions apply, and the verdict ends the policy if there is one.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rule {
    /// Which routes; an empty matcher matches all.
    pub matcher: Matcher,
    /// What changes.
    pub actions: Actions,
    /// Accept, reject, or go on (`None`).
    pub verdict: Option<Verdict>,
    /// Where it was written.
    pub label: RuleLabel,
}

/// Where a rule was written. Says nothing about what the rule does, so that all labels compare as equal: a renamed rule is the same
/// rule.
#[derive(Clone, Debug, Default)]
pub struct RuleLabel {
    /// The policy that it was written in, which another one may apply.
    pub policy: Arc<str>,
    /// Its name, or its number in that policy.
    pub rule: Arc<str>,
    /// The line in the configuration; 0 where there is none.
    pub line: usize,
}

impl PartialEq for RuleLabel {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Display for RuleLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.policy, self.rule)
    }
}

/// A named policy.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// As in the configuration; shown with routes that it rejects.
    pub name: String,
    /// In order, at most [`Policy::MAX_RULES`].
    pub rules: Vec<Rule>,
    /// When no rule decided.
    pub default: Verdict,
}

/// Which rules of a policy matched, by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RuleSet(u128);

impl RuleSet {
    /// Nothing matched, so nothing changes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }
}

/// A route under evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// Its prefix.
    pub prefix: Prefix,
    /// Its attributes before the policy.
    pub attrs: &'a PathAttrs,
    /// Where it comes from.
    pub source: Source,
    /// The peer that it was learned from.
    pub from: Option<Neighbor<'a>>,
}

impl Policy {
    /// The most rules that a policy may have.
    pub const MAX_RULES: usize = 128;

    /// Takes everything unchanged: the default between peers of one AS.
    #[must_use]
    pub fn accept_all() -> Self {
        Self {
            name: "accept-all".to_owned(),
            rules: Vec::new(),
            default: Verdict::Accept,
        }
    }

    /// Takes nothing: the default towards other ASes (RFC 8212 §2).
    #[must_use]
    pub fn reject_all() -> Self {
        Self {
            name: "reject-all (no policy configured, RFC 8212)".to_owned(),
            rules: Vec::new(),
            default: Verdict::Reject,
        }
    }

    /// Evaluates the rules: `Some(rules that matched)` for an accepted route, `None` for a rejected one.
    #[must_use]
    pub fn evaluate(&self, route: Route<'_>) -> Option<RuleSet> {
        self.evaluate_by(|matcher| matcher.matches(route))
    }

    fn evaluate_by(&self, mut matches: impl FnMut(&Matcher) -> bool) -> Option<RuleSet> {
        let mut matched = RuleSet::default();
        for (index, rule) in self.rules.iter().take(Self::MAX_RULES).enumerate() {
            if !matches(&rule.matcher) {
                continue;
            }
            matched.insert(index);
            if let Some(verdict) = rule.verdict {
                return (verdict == Verdict::Accept).then_some(matched);
            }
        }
        (self.default == Verdict::Accept).then_some(matched)
    }

    /// Whether prefixes of one family with the same attributes and source can fare differently.
    #[must_use]
    pub fn looks_at_prefixes(&self) -> bool {
        self.rules.iter().any(|rule| rule.matcher.looks_at_prefixes())
    }

    /// Whether it looks at the peer that a route was learned from.
    #[must_use]
    pub fn looks_at_peers(&self) -> bool {
        self.rules.iter().any(|rule| rule.matcher.looks_at_peers())
    }

    /// The actions of the matched rules, in order. Whether any rule changes anything.
    #[must_use]
    pub fn changes(&self, matched: RuleSet) -> bool {
        self.matched(matched).any(|rule| !rule.actions.is_empty())
    }

    /// Applies the actions of the matched rules, in order.
    pub fn apply(&self, matched: RuleSet, attrs: &mut PathAttrs, context: ActionContext) {
        self.matched(matched)
            .for_each(|rule| rule.actions.apply(attrs, context));
        attrs.normalize();
    }

    /// The path with the AS numbers in front that matched rules prepend and are not our own.
    #[must_use]
    pub fn prepend_others(&self, matched: RuleSet, path: AsPath) -> AsPath {
        self.matched(matched)
            .fold(path, |path, rule| rule.actions.prepend_others(&path))
    }

    /// Whether any rule sets this next hop.
    #[must_use]
    pub fn names_next_hop(&self, addr: IpAddr) -> bool {
        let action = Some(NextHopAction::Address(addr));
        self.rules.iter().any(|rule| rule.actions.next_hop == action)
    }

    /// What the last of the matched rules that sets a next hop sets.
    #[must_use]
    pub fn next_hop(&self, matched: RuleSet) -> Option<NextHopAction> {
        let actions = self.matched(matched).filter_map(|rule| rule.actions.next_hop);
        actions.last()
    }

    fn matched(&self, matched: RuleSet) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .take(Self::MAX_RULES)
            .enumerate()
            .filter(move |(index, _)| matched.contains(*index))
            .map(|(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Asn, Community};
    use crate::wire::NextHop;

    fn attrs() -> PathAttrs {
        PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()))
    }

    fn route<'a>(prefix: &str, attrs: &'a PathAttrs) -> Route<'a> {
        Route {
            prefix: prefix.parse().unwrap(),
            attrs,
            source: Source::Peer,
            from: None,
        }
    }

    #[test]
    fn the_first_decision_ends_and_continue_accumulates() {
        let community = Community(100);
        let range = PrefixRange {
            prefix: "10.0.0.0/8".parse().unwrap(),
            min_len: 24,
            max_len: 24,
        };
        let policy = Policy {
            name: "test".into(),
            rules: vec![
                Rule {
                    actions: Actions {
                        communities: Edit::add([community]),
                        ..Actions::default()
                    },
                    ..Rule::default()
                },
                Rule {
                    matcher: Matcher {
                        prefixes: Some([range].into_iter().collect()),
                        ..Matcher::default()
                    },
                    actions: Actions {
                        local_pref: Some(NumberAction::Set(300)),
                        ..Actions::default()
                    },
                    verdict: Some(Verdict::Accept),
                    ..Rule::default()
                },
                Rule {
                    verdict: Some(Verdict::Reject),
                    ..Rule::default()
                },
            ],
            default: Verdict::Accept,
        };
        let before = attrs();
        let matched = policy.evaluate(route("10.1.2.0/24", &before)).unwrap();
        let mut after = before.clone();
        let context = ActionContext {
            local_asn: Asn(1),
            peer_addr: None,
            others_prepended: false,
        };
        policy.apply(matched, &mut after, context);
        assert_eq!(
            (after.local_pref, &after.communities[..]),
            (Some(300), &[community][..])
        );
        assert_eq!(policy.evaluate(route("10.1.0.0/16", &before)), None);
        // The same, step by step.
        let decision = policy.decide(route("10.1.0.0/16", &before));
        assert_eq!((decision.verdict, decision.by), (Verdict::Reject, Some(2)));
        let unmet: Vec<_> = decision.steps.iter().map(|step| step.unmet).collect();
        assert_eq!(unmet, [None, Some(Unmet("prefixes")), None]);
    }

    #[test]
    fn defaults_follow_rfc_8212() {
        let attrs = attrs();
        assert!(
            Policy::reject_all()
                .evaluate(route("10.0.0.0/24", &attrs))
                .is_none()
        );
        assert!(
            Policy::accept_all()
                .evaluate(route("10.0.0.0/24", &attrs))
                .unwrap()
                .is_empty()
        );
    }
}
