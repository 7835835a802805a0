//! Files of lists: one item a line, or JSON as `bgpq4 -j` writes it.
//!
//! A line is a prefix (`192.0.2.0/24`, and `192.0.2.0/24 24-28` for those inside it of these lengths), a community or an AS number;
//! `#` begins a comment. JSON is an array, or an object whose arrays count together; a prefix is a text or an object with `prefix`,
//! `exact`, `greater-equal` and `less-equal`.

use std::fmt;

use bgp_proto::policy::PrefixRange;
use bgp_proto::types::Prefix;
use serde_json::Value;

use crate::schema::{ASN_ITEM, AsnItem, CommunityItem, CommunityText, PrefixItem, with_lengths};
use crate::value::{self, Bad, Kind, Scalar};

/// An item of a file.
#[derive(Debug)]
pub(crate) enum Item {
    Line(usize, String),
    Json(usize, Value),
}

/// The position of an item.
pub(crate) enum ItemPosition {
    Line(usize),
    Element(usize),
}

impl fmt::Display for ItemPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Element(number) => write!(f, "element {number}"),
        }
    }
}

impl Item {
    pub(crate) fn position(&self) -> ItemPosition {
        match self {
            Self::Line(number, _) => ItemPosition::Line(*number),
            Self::Json(number, _) => ItemPosition::Element(*number),
        }
    }

    /// The item as a text, where it is one or a number.
    fn text(&self) -> Result<String, ItemError> {
        match self {
            Self::Line(_, text) | Self::Json(_, Value::String(text)) => Ok(text.clone()),
            Self::Json(_, Value::Number(number)) => Ok(number.to_string()),
            Self::Json(_, other) => Err(ItemError::NoItem(other.clone())),
        }
    }
}

/// Why a file or an item of it cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ItemError {
    #[error("not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} is not an item of a list")]
    NoItem(Value),
    #[error("an object without prefix")]
    NoPrefix,
    #[error("'{0}' follows the lengths")]
    AfterLengths(String),
    #[error("{prefix} cannot have the lengths {low}-{high}")]
    Lengths { prefix: Prefix, low: u32, high: u32 },
    #[error("'{text}' {problem}")]
    Text { text: String, problem: String },
}

/// The items of a file.
pub(crate) fn items(text: &str) -> Result<Vec<Item>, ItemError> {
    if !text.trim_start().starts_with(['[', '{']) {
        let lines = text.lines().enumerate().map(|(index, line)| {
            let line = line.split('#').next().unwrap_or_default().trim();
            Item::Line(index + 1, line.to_owned())
        });
        return Ok(lines
            .filter(|item| !matches!(item, Item::Line(_, text) if text.is_empty()))
            .collect());
    }
    let value: Value = serde_json::from_str(text)?;
    let arrays: Vec<Value> = match value {
        Value::Array(items) => vec![Value::Array(items)],
        Value::Object(fields) => fields.into_iter().map(|(_, value)| value).collect(),
        other => vec![other],
    };
    let values = arrays.into_iter().flat_map(|array| match array {
        Value::Array(items) => items,
        _ => Vec::new(),
    });
    Ok(values
        .enumerate()
        .map(|(index, value)| Item::Json(index + 1, value))
        .collect())
}

/// A prefix or range.
pub(crate) fn prefix(item: &Item) -> Result<PrefixItem, ItemError> {
    let range = match item {
        Item::Json(_, Value::Object(fields)) => {
            let text = fields.get("prefix").and_then(Value::as_str);
            let prefix = parse(&value::PREFIX, text.ok_or(ItemError::NoPrefix)?)?;
            let length = |name: &str| fields.get(name).and_then(Value::as_u64);
            let is_exact = fields.get("exact").and_then(Value::as_bool);
            let bound = |name| length(name).and_then(|length| u32::try_from(length).ok());
            ranged(prefix, bound("greater-equal"), bound("less-equal"), is_exact)
        }
        item => {
            let text = item.text()?;
            let mut words = text.split_whitespace();
            let prefix = parse(&value::PREFIX, words.next().unwrap_or_default())?;
            match (words.next(), words.next()) {
                (None, _) => Ok(PrefixRange::exact(prefix)),
                (Some(lengths), None) => {
                    let (low, high) = parse(&value::RANGE, lengths)?;
                    ranged(prefix, Some(low), Some(high), None)
                }
                (Some(_), Some(more)) => Err(ItemError::AfterLengths(more.to_owned())),
            }
        }
    };
    range.map(PrefixItem::Range)
}

/// Without bounds only the prefix itself; a single bound leaves the other end open.
fn ranged(
    prefix: Prefix,
    low: Option<u32>,
    high: Option<u32>,
    is_exact: Option<bool>,
) -> Result<PrefixRange, ItemError> {
    if is_exact == Some(true) || (low, high) == (None, None) {
        return Ok(PrefixRange::exact(prefix));
    }
    let low = low.unwrap_or(u32::from(prefix.len()));
    let high = high.unwrap_or(u32::from(prefix.family().max_len()));
    with_lengths(prefix, low, high).ok_or(ItemError::Lengths { prefix, low, high })
}

/// A community of this kind.
pub(crate) fn community(item: &Item, kind: &CommunityText) -> Result<CommunityItem, ItemError> {
    parse(kind, &item.text()?).map(CommunityItem::Text)
}

/// An AS number, also as `AS64512`.
pub(crate) fn asn(item: &Item) -> Result<AsnItem, ItemError> {
    let text = item.text()?;
    parse(&ASN_ITEM, text.strip_prefix("AS").unwrap_or(&text))
}

fn parse<T>(kind: &Kind<T>, text: &str) -> Result<T, ItemError> {
    let scalar = Scalar { text, quoted: false };
    (kind.parse)(scalar).map_err(|bad| ItemError::Text {
        text: text.to_owned(),
        problem: match bad {
            Bad::Said(problem, remedy) => format!("{problem}; {remedy}"),
            Bad::Range(range) => format!("is not {}; use {range}", kind.what),
            Bad::Shape | Bad::Quoted => format!("is not {}", kind.what),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Vec<String> {
        let show = |item: &Item| match prefix(item) {
            Ok(PrefixItem::Range(range)) => format!("{} {}-{}", range.prefix, range.min_len, range.max_len),
            Ok(PrefixItem::List(..)) => "a list".to_owned(),
            Err(error) => format!("{}: {error}", item.position()),
        };
        items(text).unwrap().iter().map(show).collect()
    }

    #[test]
    fn lines_and_comments() {
        let text = "# customers\n192.0.2.0/24\n\n198.51.100.0/22 22-24 # with lengths\n10.0.0.1/8\n2001:db8::/32 48\n";
        assert_eq!(
            ranges(text),
            [
                "192.0.2.0/24 24-24",
                "198.51.100.0/22 22-24",
                "line 5: '10.0.0.1/8' has bits set behind its length; did you mean 10.0.0.0/8?",
                "2001:db8::/32 48-48",
            ]
        );
    }

    #[test]
    fn what_bgpq4_writes() {
        let text = r#"{ "NN": [
            { "prefix": "192.0.2.0/24", "exact": true },
            { "prefix": "198.51.100.0/22", "exact": false, "less-equal": 24 },
            { "prefix": "203.0.113.0/24", "exact": false, "greater-equal": 25, "less-equal": 26 },
            { "prefix": "203.0.113.0/24", "greater-equal": 23, "less-equal": 26 },
            { "exact": true } ] }"#;
        assert_eq!(
            ranges(text),
            [
                "192.0.2.0/24 24-24",
                "198.51.100.0/22 22-24",
                "203.0.113.0/24 25-26",
                "element 4: 203.0.113.0/24 cannot have the lengths 23-26",
                "element 5: an object without prefix",
            ]
        );
        let asns = items(r#"{"NN": [64496, "AS64500"]}"#).unwrap();
        assert!(asns.iter().all(|item| asn(item).is_ok()));
        assert!(items("{").is_err() && items("[\"x\"]").unwrap().iter().all(|item| asn(item).is_err()));
    }
}
