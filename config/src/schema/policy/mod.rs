//! The section `policies`: named lists of rules, as written. Names in them are looked up, and what is about the peer is filled in, where
//! a peer uses a policy (`validate::policies`).

mod matching;
mod setting;

use bgp_proto::policy::Verdict;

pub(crate) use matching::*;
pub(crate) use setting::*;

use super::Section;
use crate::decode::{Cursor, Fields, Located};
use crate::value::{self, Bad, Kind, Scalar};

pub(crate) const RULE: Section = Section {
    name: "policies.NAME[]",
    fields: &["match", "set", "action", "name", "apply", "otherwise"],
};

const ACTION: Kind<Option<Verdict>> = Kind {
    what: "an action",
    example: "accept",
    parse: |scalar| match verdict(scalar) {
        Some(verdict) => Ok(Some(verdict)),
        None if scalar.text == "continue" => Ok(None),
        None => Err(Bad::Range("accept, reject or continue".to_owned())),
    },
};

const OTHERWISE: Kind<Verdict> = Kind {
    what: "what becomes of all other routes",
    example: "reject",
    parse: |scalar| verdict(scalar).ok_or(Bad::Range("accept or reject".to_owned())),
};

const SHORTHAND: Kind<Verdict> = Kind {
    what: "a policy",
    example: "accept",
    parse: |scalar| {
        verdict(scalar).ok_or(Bad::Range(
            "a list of rules, or the one word accept or reject".to_owned(),
        ))
    },
};

fn verdict(scalar: Scalar<'_>) -> Option<Verdict> {
    match scalar.text {
        "accept" => Some(Verdict::Accept),
        "reject" => Some(Verdict::Reject),
        _ => None,
    }
}

/// One policy as written.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: Located<String>,
    pub(crate) rules: Vec<Located<Rule>>,
    /// The one word that stands for a policy.
    pub(crate) shorthand: Option<Verdict>,
}

/// One rule as written.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Option<Located<String>>,
    pub(crate) matching: Match,
    pub(crate) setting: Set,
    pub(crate) then: Then,
}

/// What follows when a rule matches.
#[derive(Debug)]
pub(crate) enum Then {
    /// The route is accepted or rejected.
    Decide(Verdict),
    /// The next rule is tried.
    Continue,
    /// The rules of this policy stand here.
    Apply(Located<String>),
}

/// Reads the mapping of policies.
pub(crate) fn read_policies(document: &Fields<'_>) -> Vec<Policy> {
    let Some(cursor) = document.get("policies") else {
        return Vec::new();
    };
    let entries = cursor.entries("a mapping of names to policies", "{to-tor: accept}");
    entries
        .into_iter()
        .map(|(name, body)| read_policy(name, &body))
        .collect()
}

/// Reports a key that cannot be an operator's name for something.
pub(crate) fn check_name(name: &Located<String>, body: &Cursor<'_>) {
    if let Err(bad) = (value::NAME.parse)(Scalar {
        text: &name.value,
        quoted: true,
    }) {
        let remedy = if let Bad::Range(range) = bad {
            format!("use {range}")
        } else {
            String::new()
        };
        body.problems.error(name.location.problem(
            format!("{} is not a name", crate::problem::quoted(&name.value)),
            remedy,
        ));
    }
}

fn read_policy(name: Located<String>, body: &Cursor<'_>) -> Policy {
    check_name(&name, body);
    if body.text().is_some() {
        let verdict = body
            .scalar(&SHORTHAND)
            .map_or(Verdict::Reject, |verdict| verdict.value);
        return Policy {
            name,
            rules: Vec::new(),
            shorthand: Some(verdict),
        };
    }
    let rules = body.items("a list of rules", "{action: accept}");
    let rules = rules
        .iter()
        .filter_map(|rule| Some(Located::new(read_rule(rule)?, &rule.location)))
        .collect();
    Policy {
        name,
        rules,
        shorthand: None,
    }
}

fn read_rule(cursor: &Cursor<'_>) -> Option<Rule> {
    let fields = cursor.fields(&RULE)?;
    let matching = fields
        .fields("match", &MATCH)
        .map(|fields| read_match(&fields))
        .unwrap_or_default();
    let setting = fields
        .fields("set", &SET)
        .map(|fields| read_set(&fields))
        .unwrap_or_default();
    Some(Rule {
        name: fields.scalar("name", &value::NAME),
        matching,
        setting,
        then: read_then(cursor, &fields),
    })
}

/// Exactly one of `action`, `apply` and `otherwise`.
fn read_then(cursor: &Cursor<'_>, fields: &Fields<'_>) -> Then {
    let apply = fields.scalar("apply", &value::NAME);
    let otherwise = fields.scalar("otherwise", &OTHERWISE);
    if fields.get("otherwise").is_some() && fields.get("match").is_some() {
        let problem = fields.key_spot("match").problem(
            "otherwise is for all routes on which no rule before it decides, and takes no match",
            "write action in place of otherwise",
        );
        cursor.problems.error(problem);
    }
    if fields.get("apply").is_some() && fields.get("set").is_some() {
        let problem = fields.key_spot("set").problem(
            "a rule that applies a policy changes nothing itself",
            "put set into a rule with action: continue before it",
        );
        cursor.problems.error(problem);
    }
    let given = ["action", "apply", "otherwise"];
    let given: Vec<&str> = given
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    if let [first, second, ..] = given.as_slice() {
        let message = format!("{first} says already what follows");
        let remedy = "keep one of action, apply and otherwise";
        cursor
            .problems
            .error(fields.key_spot(second).problem(message, remedy));
    }
    if let Some(policy) = apply {
        return Then::Apply(policy);
    }
    if let Some(verdict) = otherwise {
        return Then::Decide(verdict.value);
    }
    let action = if given.is_empty() || given.contains(&"action") {
        fields.required("action", &ACTION)
    } else {
        None
    };
    match action.and_then(|action| action.value) {
        Some(verdict) => Then::Decide(verdict),
        None => Then::Continue,
    }
}

/// The name of a policy, or of several that follow each other.
pub(crate) fn read_chain(fields: &Fields<'_>, name: &str) -> Option<Vec<Located<String>>> {
    let cursor = fields.get(name)?;
    if cursor.len() > 0 {
        let names = cursor.scalars(&value::NAME);
        return Some(names).filter(|names| !names.is_empty());
    }
    cursor.scalar(&value::NAME).map(|name| vec![name])
}
