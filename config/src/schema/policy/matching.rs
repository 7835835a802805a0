//! Conditions of rules, as written.

use std::str::FromStr;

use bgp_proto::policy::{
    AsPathPattern, AttributeMatch, CommunityPattern, ExtPattern, LargePattern, PrefixRange, Source,
};
use bgp_proto::types::{Asn, Family, Prefix};
use bgp_proto::wire::Origin;

use super::super::Section;
use crate::decode::{Cursor, Fields, Located};
use crate::problem::Location;
use crate::value::{self, Bad, Kind, Scalar};

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
        "from",
        "to",
        "localPreference",
        "med",
        "origin",
        "all",
        "any",
        "not",
        "none",
    ],
};

pub(crate) const PREFIX_RANGE: Section = Section {
    name: "policies.NAME[].match.prefixes[]",
    fields: &["in", "length"],
};

pub(crate) const MATCH_COMMUNITIES: Section = Section {
    name: "policies.NAME[].match.communities",
    fields: &["any", "all", "none", "exact"],
};

pub(crate) const AS_PATH: Section = Section {
    name: "policies.NAME[].match.asPath",
    fields: &["contains", "neighbor", "origin", "regex", "length"],
};

pub(crate) const FROM: Section = Section {
    name: "policies.NAME[].match.from",
    fields: &["peers", "type", "asns"],
};

/// What a rule matches.
#[derive(Debug, Default)]
pub(crate) struct Match {
    pub(crate) prefixes: Option<Vec<PrefixItem>>,
    pub(crate) communities: CommunityMatch,
    pub(crate) large_communities: CommunityMatch,
    pub(crate) ext_communities: CommunityMatch,
    pub(crate) as_path: AsPath,
    pub(crate) next_hops: Option<Vec<PrefixItem>>,
    pub(crate) sources: Vec<Source>,
    pub(crate) families: Vec<Family>,
    /// The peer that the route was learned from, and in export the one that it goes to.
    pub(crate) peers: [Option<Located<PeerMatch>>; 2],
    pub(crate) attributes: AttributeMatch,
    pub(crate) nested: Vec<(Group, Vec<Match>)>,
}

/// How conditions are put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    All,
    Any,
    None,
}

/// A prefix list's item.
#[derive(Clone, Debug)]
pub(crate) enum PrefixItem {
    Range(PrefixRange),
    /// A named list, with other lengths than those in it.
    List(Located<String>, Option<(u32, u32)>),
}

/// An item of a list of communities: a text in which `peer` stands for the peer's AS number, or a named list.
#[derive(Clone, Debug)]
pub(crate) enum CommunityItem {
    Text(String),
    List(Located<String>),
}

/// An item of a list of AS numbers.
#[derive(Clone, Debug)]
pub(crate) enum AsnItem {
    Range(Asn, Asn),
    /// The peer's.
    Peer,
    List(Located<String>),
}

/// Conditions on communities of one kind.
#[derive(Debug, Default)]
pub(crate) struct CommunityMatch {
    pub(crate) any: Option<Vec<CommunityItem>>,
    pub(crate) all: Option<Vec<CommunityItem>>,
    pub(crate) none: Option<Vec<CommunityItem>>,
    pub(crate) exact: Option<Vec<CommunityItem>>,
}

/// Conditions on the AS path.
#[derive(Debug, Default)]
pub(crate) struct AsPath {
    pub(crate) contains: Option<Vec<AsnItem>>,
    pub(crate) neighbor: Option<Vec<AsnItem>>,
    pub(crate) origin: Option<Vec<AsnItem>>,
    pub(crate) patterns: Vec<AsPathPattern>,
    pub(crate) length: Option<(u32, u32)>,
}

/// Conditions on a peer.
#[derive(Debug, Default)]
pub(crate) struct PeerMatch {
    pub(crate) names: Vec<Located<String>>,
    pub(crate) external: Option<bool>,
    pub(crate) asns: Option<Vec<AsnItem>>,
}

const KIND: Kind<bool> = Kind {
    what: "a type of peer",
    example: "ebgp",
    parse: |scalar| match scalar.text {
        "ebgp" => Ok(true),
        "ibgp" => Ok(false),
        _ => Err(Bad::Range("ebgp or ibgp".to_owned())),
    },
};

pub(crate) const ORIGIN: Kind<Origin> = Kind {
    what: "an origin",
    example: "igp",
    parse: |scalar| match scalar.text {
        "igp" => Ok(Origin::Igp),
        "egp" => Ok(Origin::Egp),
        "incomplete" => Ok(Origin::Incomplete),
        _ => Err(Bad::Range("igp, egp or incomplete".to_owned())),
    },
};

/// `100`, or `100-200`.
const NUMBERS: Kind<(u32, u32)> = Kind {
    what: "a number or range",
    example: "100-200",
    parse: |scalar| {
        let (low, high) = scalar.text.split_once('-').unwrap_or((scalar.text, scalar.text));
        match (low.trim().parse::<u32>(), high.trim().parse::<u32>()) {
            (Ok(low), Ok(high)) if low <= high => Ok((low, high)),
            (Ok(low), Ok(high)) => Err(Bad::Said(
                "ends before it begins".to_owned(),
                format!("write {high}-{low}"),
            )),
            _ => Err(Bad::Shape),
        }
    },
};

/// An AS number of any kind, also those that no AS can have: a condition is about what others send.
pub(crate) const ASN_ITEM: Kind<AsnItem> = Kind {
    what: "an AS number",
    example: "64512",
    parse: |scalar| {
        if scalar.text == "peer" {
            return Ok(AsnItem::Peer);
        }
        let single = |text: &str| match text {
            "0" | "23456" => text.parse::<u32>().map(Asn).map_err(|_| Bad::Shape),
            text => (value::ASN.parse)(Scalar { text, ..scalar }),
        };
        match scalar.text.split_once('-') {
            Some((low, high)) => {
                let (low, high) = (single(low)?, single(high)?);
                if low <= high {
                    Ok(AsnItem::Range(low, high))
                } else {
                    Err(Bad::Said(
                        "ends before it begins".to_owned(),
                        format!("write {high}-{low}"),
                    ))
                }
            }
            None => single(scalar.text).map(|asn| AsnItem::Range(asn, asn)),
        }
    },
};

/// A kind of communities: how a text of it is checked.
pub(crate) type CommunityText = Kind<String>;

/// The text with an AS number where it says `peer`.
pub(crate) fn with_peer(text: &str, asn: Asn) -> String {
    let asn = asn.to_string();
    let parts: Vec<&str> = text
        .split(':')
        .map(|part| if part == "peer" { asn.as_str() } else { part })
        .collect();
    parts.join(":")
}

/// Whether it says `peer`.
pub(crate) fn mentions_peer(text: &str) -> bool {
    text.split(':').any(|part| part == "peer")
}

fn checked<P: FromStr>(scalar: Scalar<'_>) -> Option<String> {
    with_peer(scalar.text, Asn(1))
        .parse::<P>()
        .ok()
        .map(|_| scalar.text.to_owned())
}

pub(crate) const COMMUNITIES: CommunityText = Kind {
    what: "a community",
    example: "\"64512:100\"",
    parse: |scalar| {
        checked::<CommunityPattern>(scalar).ok_or_else(|| {
            let forms = ", ranges 100-199 or digits with ? and *";
            value::not_a_community(scalar.text, forms)
        })
    },
};

pub(crate) const LARGE: CommunityText = Kind {
    what: "a large community",
    example: "\"64512:1:2\"",
    parse: |scalar| {
        checked::<LargePattern>(scalar).ok_or_else(|| {
            Bad::Range(
                "three numbers up to 4294967295, as \"64512:1:2\" (RFC 8092), ranges 100-199 or digits with ? and *"
                    .to_owned(),
            )
        })
    },
};

pub(crate) const EXT: CommunityText = Kind {
    what: "an extended community",
    example: "\"rt:64512:100\"",
    parse: |scalar| {
        checked::<ExtPattern>(scalar).ok_or_else(|| {
            Bad::Range(
                "rt:AS:NUMBER or ro:AS:NUMBER (both also as ranges 100-199 or digits with ? and *), also with an IPv4 address, \
                 bandwidth:AS:OCTETS_PER_SECOND, or 0x and 16 hexadecimal digits (RFC 4360)"
                    .to_owned(),
            )
        })
    },
};

/// The name in `$name`.
fn list_name(cursor: &Cursor<'_>) -> Option<Located<String>> {
    let name = cursor.text()?.strip_prefix('$')?;
    Some(Located::new(name.to_owned(), &cursor.location))
}

/// The items of a list, or of a named list that stands in its place.
fn items_of<'a>(cursor: &Cursor<'a>, what: &str, example: &str) -> Vec<Cursor<'a>> {
    if list_name(cursor).is_some() {
        return vec![cursor.clone()];
    }
    cursor.all_items(what, example)
}

pub(crate) fn read_prefixes(cursor: &Cursor<'_>) -> Vec<PrefixItem> {
    let items = items_of(cursor, "a list of prefixes", "{in: 10.244.0.0/16, length: 24-28}");
    items.iter().filter_map(read_prefix).collect()
}

pub(crate) fn read_communities(cursor: &Cursor<'_>, kind: &CommunityText) -> Vec<CommunityItem> {
    let what = format!("a list, each item {}", kind.what);
    let items = items_of(cursor, &what, kind.example);
    let read = |item: &Cursor<'_>| match list_name(item) {
        Some(name) => Some(CommunityItem::List(name)),
        None => Some(CommunityItem::Text(item.scalar(kind)?.value)),
    };
    items.iter().filter_map(read).collect()
}

pub(crate) fn read_asns(cursor: &Cursor<'_>) -> Vec<AsnItem> {
    let items = items_of(cursor, "a list, each item an AS number", "64512");
    let read = |item: &Cursor<'_>| match list_name(item) {
        Some(name) => Some(AsnItem::List(name)),
        None => Some(item.scalar(&ASN_ITEM)?.value),
    };
    items.iter().filter_map(read).collect()
}

pub(super) fn read_match(fields: &Fields<'_>) -> Match {
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
            "origin",
            "all",
            "any",
            "none",
        ],
    );
    let communities = |name, kind| {
        let cursor = fields.get(name);
        cursor
            .map(|cursor| read_community_match(&cursor, kind))
            .unwrap_or_default()
    };
    Match {
        prefixes: fields.get("prefixes").map(|cursor| read_prefixes(&cursor)),
        communities: communities("communities", &COMMUNITIES),
        large_communities: communities("largeCommunities", &LARGE),
        ext_communities: communities("extCommunities", &EXT),
        as_path: fields
            .fields("asPath", &AS_PATH)
            .map(|fields| read_as_path(&fields))
            .unwrap_or_default(),
        next_hops: fields.get("nextHops").map(|cursor| read_next_hops(&cursor)),
        sources: some(fields, "source", &value::SOURCE),
        families: some(fields, "families", &value::FAMILY),
        peers: ["from", "to"].map(|name| {
            let cursor = fields.get(name)?;
            let inside = cursor.fields(&FROM)?;
            Some(Located::new(read_peer_match(&inside), &cursor.location))
        }),
        attributes: AttributeMatch {
            local_pref: fields.scalar("localPreference", &NUMBERS).map(|at| at.value),
            med: fields.scalar("med", &NUMBERS).map(|at| at.value),
            origins: some(fields, "origin", &ORIGIN),
        },
        nested: read_nested(fields),
    }
}

fn read_nested(fields: &Fields<'_>) -> Vec<(Group, Vec<Match>)> {
    let inside = |cursor: &Cursor<'_>| cursor.fields(&MATCH).map(|fields| read_match(&fields));
    let mut nested = Vec::new();
    for (name, group) in [("all", Group::All), ("any", Group::Any), ("none", Group::None)] {
        if let Some(cursor) = fields.get(name) {
            let items = cursor.items("a list of conditions", "{communities: [no-export]}");
            nested.push((group, items.iter().filter_map(inside).collect()));
        }
    }
    if let Some(cursor) = fields.get("not") {
        nested.push((Group::None, inside(&cursor).into_iter().collect()));
    }
    nested
}

fn read_community_match(cursor: &Cursor<'_>, kind: &CommunityText) -> CommunityMatch {
    if !cursor.is_map() {
        return CommunityMatch {
            any: Some(read_communities(cursor, kind)),
            ..CommunityMatch::default()
        };
    }
    let Some(fields) = cursor.fields(&MATCH_COMMUNITIES) else {
        return CommunityMatch::default();
    };
    no_empty_list(&fields, &["any", "all", "none"]);
    let list = |name| {
        let cursor = fields.get(name)?;
        Some(read_communities(&cursor, kind))
    };
    CommunityMatch {
        any: list("any"),
        all: list("all"),
        none: list("none"),
        exact: list("exact"),
    }
}

fn read_next_hops(cursor: &Cursor<'_>) -> Vec<PrefixItem> {
    let what = format!("a list, each item {}", value::PREFIX_OR_ADDRESS.what);
    let items = items_of(cursor, &what, value::PREFIX_OR_ADDRESS.example);
    let read = |item: &Cursor<'_>| match list_name(item) {
        Some(name) => Some(PrefixItem::List(name, None)),
        None => {
            let prefix = item.scalar(&value::PREFIX_OR_ADDRESS)?.value;
            Some(PrefixItem::Range(PrefixRange::within(prefix)))
        }
    };
    items.iter().filter_map(read).collect()
}

fn read_peer_match(fields: &Fields<'_>) -> PeerMatch {
    no_empty_list(fields, &["peers", "asns"]);
    PeerMatch {
        names: fields.scalars("peers", &value::NAME),
        external: fields.scalar("type", &KIND).map(|at| at.value),
        asns: fields.get("asns").map(|cursor| read_asns(&cursor)),
    }
}

/// An empty list would match everything, which is hardly what it says.
pub(super) fn no_empty_list(fields: &Fields<'_>, names: &[&str]) {
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

fn read_prefix(cursor: &Cursor<'_>) -> Option<PrefixItem> {
    if let Some(name) = list_name(cursor) {
        return Some(PrefixItem::List(name, None));
    }
    if !cursor.is_map() {
        return Some(PrefixItem::Range(PrefixRange::exact(
            cursor.scalar(&value::PREFIX)?.value,
        )));
    }
    let fields = cursor.fields(&PREFIX_RANGE)?;
    let name = fields.get("in").as_ref().and_then(list_name);
    let prefix = match name {
        Some(_) => None,
        None => fields.required("in", &value::PREFIX),
    };
    let given = fields
        .get("length")
        .map(|cursor| (cursor.location.clone(), cursor.scalar(&value::RANGE)));
    if let Some(name) = name {
        let length = given.and_then(|(_, range)| Some(range?.value));
        return Some(PrefixItem::List(name, length));
    }
    let prefix = prefix?.value;
    let Some((location, range)) = given else {
        return Some(PrefixItem::Range(PrefixRange::within(prefix)));
    };
    let (low, high) = range?.value;
    let range = with_lengths(prefix, low, high);
    if range.is_none() {
        cursor
            .problems
            .error(length_problem(&location, prefix, low, high));
    }
    range.map(PrefixItem::Range)
}

/// The prefixes in this one of these lengths, where it can have them.
pub(crate) fn with_lengths(prefix: Prefix, low: u32, high: u32) -> Option<PrefixRange> {
    let lengths = u8::try_from(low).ok().zip(u8::try_from(high).ok());
    let (min_len, max_len) = lengths?;
    let fits = prefix.len() <= min_len && max_len <= prefix.family().max_len();
    fits.then_some(PrefixRange {
        prefix,
        min_len,
        max_len,
    })
}

fn length_problem(location: &Location, prefix: Prefix, low: u32, high: u32) -> crate::Problem {
    let text = if low == high {
        low.to_string()
    } else {
        format!("{low}-{high}")
    };
    let most = prefix.family().max_len();
    let message = format!("'{text}' leaves the lengths that a prefix in {prefix} can have");
    location.problem(message, format!("use lengths from {} to {most}", prefix.len()))
}

fn read_as_path(fields: &Fields<'_>) -> AsPath {
    no_empty_list(fields, &["contains", "neighbor", "origin", "regex"]);
    let asns = |name| {
        let cursor = fields.get(name)?;
        Some(read_asns(&cursor))
    };
    AsPath {
        contains: asns("contains"),
        neighbor: asns("neighbor"),
        origin: asns("origin"),
        patterns: some(fields, "regex", &value::AS_PATTERN),
        length: fields.scalar("length", &value::RANGE).map(|range| range.value),
    }
}
