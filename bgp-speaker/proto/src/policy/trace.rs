//! Why a policy decides as it does: every rule that was tried, and the one that decided.

use super::{Policy, Route, Rule, RuleSet, Unmet, Verdict};

/// A rule that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The first condition that does not hold; `None` when the rule matched.
    pub unmet: Option<Unmet>,
}

/// What a policy decides about a route, and why.
#[derive(Clone, Debug)]
pub struct Decision<'a> {
    /// The rules in order, up to the one that decided.
    pub steps: Vec<Step<'a>>,
    /// The outcome.
    pub verdict: Verdict,
    /// Which rule decided; `None`: the policy's default.
    pub by: Option<usize>,
    /// The rules that matched.
    pub matched: RuleSet,
}

impl<'a> Decision<'a> {
    /// The rules that matched, in order.
    pub fn rules(&self) -> impl Iterator<Item = &'a Rule> {
        self.steps
            .iter()
            .filter(|step| step.unmet.is_none())
            .map(|step| step.rule)
    }

    /// The rule that decided.
    #[must_use]
    pub fn deciding(&self) -> Option<&'a Rule> {
        self.steps.get(self.by?).map(|step| step.rule)
    }
}

impl Policy {
    /// As [`Policy::evaluate`], with every step.
    #[must_use]
    pub fn decide(&self, route: Route<'_>) -> Decision<'_> {
        let mut decision = Decision {
            steps: Vec::new(),
            verdict: self.default,
            by: None,
            matched: RuleSet::default(),
        };
        for (index, rule) in self.rules.iter().take(Self::MAX_RULES).enumerate() {
            let unmet = rule.matcher.unmet(route);
            decision.steps.push(Step { rule, unmet });
            if unmet.is_some() {
                continue;
            }
            decision.matched.insert(index);
            if let Some(verdict) = rule.verdict {
                (decision.verdict, decision.by) = (verdict, Some(index));
                break;
            }
        }
        decision
    }
}
