//! Junos's policy statements as filters of prefixes.

use std::collections::BTreeMap;

use bgp_proto::types::{Family, Prefix};

use crate::router::{Filter, Term};
use crate::side::PrefixRange;

/// Policies while they are read.
#[derive(Debug, Default)]
pub(super) struct Policies {
    policies: BTreeMap<String, Policy>,
    lists: BTreeMap<String, Vec<Prefix>>,
}

#[derive(Debug, Default)]
struct Policy {
    line: usize,
    terms: Vec<(String, Clause)>,
}

/// A term: what it matches, and what it does.
#[derive(Debug, Default)]
struct Clause {
    ranges: Vec<PrefixRange>,
    lists: Vec<(String, bool)>,
    family: Option<Family>,
    /// It matches on something else.
    is_partial: bool,
    permits: Option<bool>,
}

impl Policies {
    /// A statement below `policy-options`.
    pub(super) fn statement(&mut self, line: usize, words: &[&str]) {
        match words {
            ["prefix-list", name, prefix] => {
                let list = self.lists.entry((*name).to_owned()).or_default();
                list.extend(prefix.parse::<Prefix>());
            }
            ["policy-statement", name, "term", term, rest @ ..] => self.term(line, name, term, rest),
            ["policy-statement", name, rest @ ..] => self.term(line, name, "", rest),
            _ => {}
        }
    }

    fn term(&mut self, line: usize, policy: &str, term: &str, words: &[&str]) {
        let policy = self.policies.entry(policy.to_owned()).or_insert_with(|| Policy {
            line,
            terms: Vec::new(),
        });
        if !policy.terms.iter().any(|(name, _)| name == term) {
            policy.terms.push((term.to_owned(), Clause::default()));
        }
        let Some((_, clause)) = policy.terms.iter_mut().find(|(name, _)| name == term) else {
            return;
        };
        match words {
            ["from", "route-filter", prefix, rest @ ..] => match range(prefix, rest) {
                Some(range) => clause.ranges.push(range),
                None => clause.is_partial = true,
            },
            ["from", "prefix-list", name] => clause.lists.push(((*name).to_owned(), false)),
            ["from", "prefix-list-filter", name, "orlonger"] => clause.lists.push(((*name).to_owned(), true)),
            ["from", "family", "inet"] => clause.family = Some(Family::Ipv4),
            ["from", "family", "inet6"] => clause.family = Some(Family::Ipv6),
            // Routes that the router has of BGP are those of nodes.
            ["from", "protocol", protocols @ ..] if protocols.contains(&"bgp") => {}
            ["from" | "to", ..] => clause.is_partial = true,
            ["then", "accept"] => clause.permits = Some(true),
            ["then", "reject"] => clause.permits = Some(false),
            _ => {}
        }
    }

    pub(super) fn finish(self) -> BTreeMap<String, Filter> {
        let filter = |policy: &Policy| self.filter(policy);
        let named = self
            .policies
            .iter()
            .map(|(name, policy)| (name.clone(), filter(policy)));
        named.collect()
    }

    fn filter(&self, policy: &Policy) -> Filter {
        let mut filter = Filter {
            line: policy.line,
            ..Filter::default()
        };
        // The unnamed term is the last one.
        let (named, last): (Vec<_>, Vec<_>) = policy.terms.iter().partition(|(name, _)| !name.is_empty());
        for (_, clause) in named.into_iter().chain(last) {
            let Some(permits) = clause.permits else { continue };
            if clause.is_partial {
                filter.is_partial = true;
                continue;
            }
            let ranges = self.ranges(clause);
            if ranges.is_empty() && clause.family.is_none() {
                filter.otherwise = Some(permits);
                break;
            }
            filter
                .terms
                .extend(ranges.into_iter().map(|range| Term { range, permits }));
        }
        filter
    }

    fn ranges(&self, clause: &Clause) -> Vec<PrefixRange> {
        let of_lists = clause.lists.iter().flat_map(|(name, longer)| {
            let prefixes = self.lists.get(name).into_iter().flatten();
            prefixes.map(|prefix| PrefixRange {
                prefix: *prefix,
                min: prefix.len(),
                max: if *longer {
                    prefix.family().max_len()
                } else {
                    prefix.len()
                },
            })
        });
        let mut ranges: Vec<PrefixRange> = clause.ranges.iter().copied().chain(of_lists).collect();
        match clause.family {
            // A family alone is all prefixes of it.
            Some(family) if ranges.is_empty() => ranges.extend(all(family)),
            Some(family) => ranges.retain(|range| range.prefix.family() == family),
            None => {}
        }
        ranges
    }
}

fn all(family: Family) -> Option<PrefixRange> {
    let prefix: Prefix = if family == Family::Ipv4 {
        "0.0.0.0/0"
    } else {
        "::/0"
    }
    .parse()
    .ok()?;
    Some(PrefixRange {
        prefix,
        min: 0,
        max: family.max_len(),
    })
}

/// `10.244.0.0/16 prefix-length-range /24-/28`, `exact`, `orlonger`, `longer`, `upto /28`.
fn range(prefix: &str, words: &[&str]) -> Option<PrefixRange> {
    let prefix: Prefix = prefix.parse().ok()?;
    let longest = prefix.family().max_len();
    let length = |text: &str| text.trim_start_matches('/').parse::<u8>().ok();
    let (min, max) = match words {
        ["exact", ..] => (prefix.len(), prefix.len()),
        ["orlonger", ..] => (prefix.len(), longest),
        ["longer", ..] => (prefix.len().saturating_add(1), longest),
        ["upto", max, ..] => (prefix.len(), length(max)?),
        ["prefix-length-range", range, ..] => {
            let (min, max) = range.split_once('-')?;
            (length(min)?, length(max)?)
        }
        _ => return None,
    };
    Some(PrefixRange { prefix, min, max })
}
