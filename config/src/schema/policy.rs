//! The section `policies`: named lists of rules, read straight into the speaker's own policy types.

use bgp_proto::policy::{Actions, AsPathMatch, Matcher, NextHopAction, PrefixRange, Rule, Verdict};
use bgp_proto::types::{Asn, FamilySet, Prefix};

use super::Section;
use crate::decode::{At, Cursor, Fields};
use crate::problem::Spot;
use crate::value::{self, Bad, Kind, Scalar, int};

pub(crate) const RULE: Section = Section {
    name: "policies.NAME[]",
    fields: &["match", "set", "action"],
};

pub(crate) const MATCH: Section = Section {
    name: "policies.NAME[].match",
    fields: &[
        "prefixes",
        "communities",
        "largeCommunities",
        "extCommunities",
        "asPath",
        "nextHops",
        "source",
        "families",
    ],
};

pub(crate) const PREFIX_RANGE: Section = Section {
    name: "policies.NAME[].match.prefixes[]",
    fields: &["in", "length"],
};

pub(crate) const AS_PATH: Section = Section {
    name: "policies.NAME[].match.asPath",
    fields: &["contains", "neighbor", "origin", "regex", "length"],
};

pub(crate) const SET: Section = Section {
    name: "policies.NAME[].set",
    fields: &[
        "localPreference",
        "med",
        "communities",
        "largeCommunities",
        "extCommunities",
        "prepend",
        "nextHop",
        "install",
    ],
};

pub(crate) const EDIT_COMMUNITIES: Section = Section {
    name: "policies.NAME[].set.communities",
    fields: &["add", "remove", "clear"],
};

pub(crate) const EDIT_LARGE: Section = Section {
    name: "policies.NAME[].set.largeCommunities",
    fields: &["add", "remove"],
};

pub(crate) const EDIT_EXT: Section = Section {
    name: "policies.NAME[].set.extCommunities",
    fields: &["add", "remove"],
};

pub(crate) const PREPEND: Section = Section {
    name: "policies.NAME[].set.prepend",
    fields: &["asn", "times"],
};

const NUMBER: Kind<u32> = Kind {
    what: "a number",
    example: "200",
    parse: int::<u32, 0, 4_294_967_295>,
};

const TIMES: Kind<u8> = Kind {
    what: "a count",
    example: "2",
    parse: int::<u8, 1, 32>,
};

const NEXT_HOP: Kind<NextHopAction> = Kind {
    what: "a next hop",
    example: "self",
    parse: |scalar| match scalar.text {
        "self" => Ok(NextHopAction::OwnAddress),
        "unchanged" => Ok(NextHopAction::Unchanged),
        _ => match (value::HOST.parse)(scalar) {
            Ok(addr) => Ok(NextHopAction::Address(addr)),
            Err(Bad::Shape) => Err(Bad::Range("self, unchanged or an IP address".to_owned())),
            Err(bad) => Err(bad),
        },
    },
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
    pub(crate) name: At<String>,
    pub(crate) rules: Vec<At<Rule>>,
    /// When no rule decides.
    pub(crate) default: Verdict,
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

fn read_policy(name: At<String>, body: &Cursor<'_>) -> Policy {
    if let Err(bad) = (value::NAME.parse)(Scalar {
        text: &name.value,
        quoted: true,
    }) {
        let remedy = if let Bad::Range(range) = bad {
            format!("use {range}")
        } else {
            String::new()
        };
        body.sink.error(name.spot.problem(
            format!("{} is not a name", crate::problem::quoted(&name.value)),
            remedy,
        ));
    }
    if body.text().is_some() {
        let default = body
            .scalar(&SHORTHAND)
            .map_or(Verdict::Reject, |verdict| verdict.value);
        return Policy {
            name,
            rules: Vec::new(),
            default,
        };
    }
    let rules = body.items("a list of rules", "{action: accept}");
    let rules = rules
        .iter()
        .filter_map(|rule| Some(At::new(read_rule(rule)?, &rule.spot)))
        .collect();
    Policy {
        name,
        rules,
        default: Verdict::Reject,
    }
}

fn read_rule(cursor: &Cursor<'_>) -> Option<Rule> {
    let fields = cursor.fields(&RULE)?;
    Some(Rule {
        matcher: fields
            .fields("match", &MATCH)
            .map(|fields| read_match(&fields))
            .unwrap_or_default(),
        actions: fields
            .fields("set", &SET)
            .map(|fields| read_set(&fields))
            .unwrap_or_default(),
        verdict: fields.required("action", &ACTION).and_then(|action| action.value),
    })
}

fn read_match(fields: &Fields<'_>) -> Matcher {
    let prefixes = fields.get("prefixes");
    let prefixes =
        prefixes.map(|cursor| cursor.items("a list of prefixes", "{in: 10.244.0.0/16, length: 24-28}"));
    let as_path = fields.fields("asPath", &AS_PATH);
    let families = some(fields, "families", &value::FAMILY);
    no_empty_list(
        fields,
        &[
            "prefixes",
            "communities",
            "largeCommunities",
            "extCommunities",
            "nextHops",
            "source",
            "families",
        ],
    );
    Matcher {
        prefixes: prefixes
            .unwrap_or_default()
            .iter()
            .filter_map(read_prefix)
            .collect(),
        communities: some(fields, "communities", &value::COMMUNITY),
        large_communities: some(fields, "largeCommunities", &value::LARGE_COMMUNITY),
        ext_communities: some(fields, "extCommunities", &value::EXT_COMMUNITY),
        as_path: as_path.map(|fields| read_as_path(&fields)).unwrap_or_default(),
        next_hops: some(fields, "nextHops", &value::PREFIX_OR_ADDRESS),
        sources: some(fields, "source", &value::SOURCE),
        families: Some(families)
            .filter(|list| !list.is_empty())
            .map(FamilySet::from_iter),
    }
}

/// An empty list would match everything, which is hardly what it says.
fn no_empty_list(fields: &Fields<'_>, names: &[&str]) {
    let written = names.iter().filter_map(|name| fields.get(name));
    written.filter(Cursor::is_empty_list).for_each(|cursor| {
        cursor.error(
            "an empty list matches nothing",
            "remove the condition, or name a value",
        )
    });
}

fn some<T>(fields: &Fields<'_>, name: &str, kind: &Kind<T>) -> Vec<T> {
    fields
        .scalars(name, kind)
        .into_iter()
        .map(|item| item.value)
        .collect()
}

fn read_prefix(cursor: &Cursor<'_>) -> Option<PrefixRange> {
    if !cursor.is_map() {
        return Some(PrefixRange::exact(cursor.scalar(&value::PREFIX)?.value));
    }
    let fields = cursor.fields(&PREFIX_RANGE)?;
    let prefix = fields.required("in", &value::PREFIX);
    let given = fields
        .get("length")
        .map(|cursor| (cursor.spot.clone(), cursor.scalar(&value::RANGE)));
    let prefix = prefix?.value;
    let most = prefix.family().max_len();
    let Some((spot, range)) = given else {
        return Some(PrefixRange {
            prefix,
            min_len: prefix.len(),
            max_len: most,
        });
    };
    let (low, high) = range?.value;
    let lengths = u8::try_from(low).ok().zip(u8::try_from(high).ok());
    let inside = lengths.filter(|(low, high)| prefix.len() <= *low && *high <= most);
    if inside.is_none() {
        cursor.sink.error(length_problem(&spot, prefix, low, high));
    }
    inside.map(|(min_len, max_len)| PrefixRange {
        prefix,
        min_len,
        max_len,
    })
}

fn length_problem(spot: &Spot, prefix: Prefix, low: u32, high: u32) -> crate::Problem {
    let text = if low == high {
        low.to_string()
    } else {
        format!("{low}-{high}")
    };
    let most = prefix.family().max_len();
    let message = format!("'{text}' leaves the lengths that a prefix in {prefix} can have");
    spot.problem(message, format!("use lengths from {} to {most}", prefix.len()))
}

fn read_as_path(fields: &Fields<'_>) -> AsPathMatch {
    no_empty_list(fields, &["contains", "neighbor", "origin", "regex"]);
    let length = fields.scalar("length", &value::RANGE).map(|range| range.value);
    AsPathMatch {
        contains: some(fields, "contains", &value::ASN),
        neighbor: some(fields, "neighbor", &value::ASN),
        origin: some(fields, "origin", &value::ASN),
        patterns: some(fields, "regex", &value::AS_PATTERN),
        min_hops: length.map(|(low, _)| low),
        max_hops: length.map(|(_, high)| high),
    }
}

fn read_set(fields: &Fields<'_>) -> Actions {
    let communities = fields.fields("communities", &EDIT_COMMUNITIES);
    let communities = communities.as_ref();
    let large = fields.fields("largeCommunities", &EDIT_LARGE);
    let large = large.as_ref();
    let ext = fields.fields("extCommunities", &EDIT_EXT);
    let ext = ext.as_ref();
    let clear = communities.and_then(|fields| fields.scalar("clear", &value::BOOL));
    Actions {
        local_pref: fields.scalar("localPreference", &NUMBER).map(|at| at.value),
        med: fields.scalar("med", &NUMBER).map(|at| at.value),
        clear_communities: clear.is_some_and(|clear| clear.value),
        remove_communities: communities
            .map(|f| some(f, "remove", &value::COMMUNITY))
            .unwrap_or_default(),
        add_communities: communities
            .map(|f| some(f, "add", &value::COMMUNITY))
            .unwrap_or_default(),
        remove_large: large
            .map(|f| some(f, "remove", &value::LARGE_COMMUNITY))
            .unwrap_or_default(),
        add_large: large
            .map(|f| some(f, "add", &value::LARGE_COMMUNITY))
            .unwrap_or_default(),
        remove_ext: ext
            .map(|f| some(f, "remove", &value::EXT_COMMUNITY))
            .unwrap_or_default(),
        add_ext: ext
            .map(|f| some(f, "add", &value::EXT_COMMUNITY))
            .unwrap_or_default(),
        prepend: fields.get("prepend").and_then(|cursor| read_prepend(&cursor)),
        next_hop: fields.scalar("nextHop", &NEXT_HOP).map(|at| at.value),
        install: fields.scalar("install", &value::BOOL).map(|at| at.value),
    }
}

fn read_prepend(cursor: &Cursor<'_>) -> Option<(Option<Asn>, u8)> {
    if !cursor.is_map() {
        return Some((None, cursor.scalar(&TIMES)?.value));
    }
    let fields = cursor.fields(&PREPEND)?;
    let asn = fields.required("asn", &value::ASN);
    let times = fields.scalar("times", &TIMES).map_or(1, |times| times.value);
    Some((Some(asn?.value), times))
}
