//! Prefix lists and route-maps, as FRR, EOS, IOS XE and NX-OS have them.

use std::collections::BTreeMap;

use bgp_proto::types::{Family, Prefix};

use super::lines::Line;
use crate::router::{Filter, Term};
use crate::side::PrefixRange;

/// Prefix lists and route-maps while they are read.
#[derive(Debug, Default)]
pub(super) struct Filters {
    lists: BTreeMap<(Family, String), Vec<(u32, Term)>>,
    maps: BTreeMap<String, Vec<Clause>>,
    /// The list or clause that nested statements belong to.
    open: Open,
}

#[derive(Debug, Default)]
enum Open {
    #[default]
    Nothing,
    List(Family, String),
    Clause(String),
}

/// One numbered part of a route-map.
#[derive(Debug, Default)]
struct Clause {
    line: usize,
    permits: bool,
    lists: Vec<(Family, String)>,
    /// It matches on something else.
    is_partial: bool,
    /// `continue`, or a call of another map.
    goes_on: bool,
}

impl Filters {
    /// Reads a statement at the top level; whether it is one of these.
    pub(super) fn top(&mut self, line: &Line<'_>) -> bool {
        match line.words.as_slice() {
            ["ip", "prefix-list", name, rest @ ..] => self.list(Family::Ipv4, name, rest),
            ["ipv6", "prefix-list", name, rest @ ..] => self.list(Family::Ipv6, name, rest),
            ["route-map", name, rest @ ..] => {
                let clause = Clause {
                    line: line.number,
                    permits: rest.first() != Some(&"deny"),
                    ..Clause::default()
                };
                self.maps.entry((*name).to_owned()).or_default().push(clause);
                self.open = Open::Clause((*name).to_owned());
            }
            _ => return false,
        }
        true
    }

    /// Reads a statement below one of these; whether it is one.
    pub(super) fn nested(&mut self, line: &Line<'_>) -> bool {
        match &self.open {
            Open::Nothing => false,
            Open::List(family, name) => {
                let (family, name) = (*family, name.clone());
                let is_entry = matches!(line.words.first(), Some(&("seq" | "permit" | "deny")));
                if is_entry {
                    self.entry(family, &name, &line.words);
                }
                is_entry
            }
            Open::Clause(name) => {
                let name = name.clone();
                let Some(clause) = self.maps.get_mut(&name).and_then(|clauses| clauses.last_mut()) else {
                    return false;
                };
                clause_statement(clause, &line.words)
            }
        }
    }

    /// What follows belongs to something else.
    pub(super) fn close(&mut self) {
        self.open = Open::Nothing;
    }

    fn list(&mut self, family: Family, name: &str, rest: &[&str]) {
        self.lists.entry((family, name.to_owned())).or_default();
        if rest.is_empty() {
            self.open = Open::List(family, name.to_owned());
        } else {
            self.open = Open::Nothing;
            self.entry(family, name, rest);
        }
    }

    /// `[seq N] permit|deny PREFIX [eq N] [ge N] [le N]`.
    fn entry(&mut self, family: Family, name: &str, words: &[&str]) {
        let Some(list) = self.lists.get_mut(&(family, name.to_owned())) else {
            return;
        };
        let (number, words) = match words {
            ["seq", number, rest @ ..] => (number.parse().unwrap_or(u32::MAX), rest),
            rest => (list.last().map_or(5, |(last, _)| last.saturating_add(5)), rest),
        };
        let [action @ ("permit" | "deny"), prefix, lengths @ ..] = words else {
            return;
        };
        let Some(range) = range(family, prefix, lengths) else {
            return;
        };
        let permits = *action == "permit";
        list.push((number, Term { range, permits }));
        list.sort_by_key(|(number, _)| *number);
    }

    /// Every route-map, and every prefix list under `list NAME`, as filters.
    pub(super) fn finish(self) -> BTreeMap<String, Filter> {
        let mut filters: BTreeMap<String, Filter> = BTreeMap::new();
        for (name, clauses) in &self.maps {
            filters.insert(name.clone(), self.filter(clauses));
        }
        for ((family, name), terms) in &self.lists {
            let filter = Filter {
                terms: terms.iter().map(|(_, term)| term.clone()).collect(),
                otherwise: Some(terms.is_empty()),
                ..Filter::default()
            };
            filters.insert(list_name(*family, name), filter);
        }
        filters
    }

    /// Clauses in order; a prefix that no clause matches is denied.
    fn filter(&self, clauses: &[Clause]) -> Filter {
        let mut filter = Filter {
            line: clauses.first().map_or(0, |clause| clause.line),
            otherwise: Some(false),
            ..Filter::default()
        };
        for clause in clauses {
            let exits = clause.is_partial || clause.goes_on;
            filter.is_partial |= exits;
            if exits {
                continue;
            }
            if clause.lists.is_empty() {
                filter.otherwise = Some(clause.permits);
                break;
            }
            for list in &clause.lists {
                match self.lists.get(list) {
                    // What a list denies is not matched by the clause.
                    Some(terms) => {
                        let mut denied = false;
                        for (_, term) in terms {
                            denied |= !term.permits;
                            if term.permits {
                                filter.terms.push(Term {
                                    range: term.range,
                                    permits: clause.permits,
                                });
                            }
                        }
                        filter.is_partial |= denied && terms.iter().any(|(_, term)| term.permits);
                    }
                    None => filter.is_partial = true,
                }
            }
        }
        filter
    }
}

/// The name under which a prefix list is a filter of its own.
pub(super) fn list_name(family: Family, name: &str) -> String {
    format!("{family} prefix-list {name}")
}

/// Reads a statement of a clause; whether it is one.
fn clause_statement(clause: &mut Clause, words: &[&str]) -> bool {
    match words {
        ["match", "ip", "address", "prefix-list", names @ ..] => {
            let names = names.iter().map(|name| (Family::Ipv4, (*name).to_owned()));
            clause.lists.extend(names);
        }
        ["match", "ipv6", "address", "prefix-list", names @ ..] => {
            let names = names.iter().map(|name| (Family::Ipv6, (*name).to_owned()));
            clause.lists.extend(names);
        }
        ["match", ..] => clause.is_partial = true,
        ["continue" | "call" | "on-match", ..] => clause.goes_on = true,
        ["set" | "description" | "exit", ..] => {}
        _ => return false,
    }
    true
}

/// A prefix with lengths; `any` stands for all.
fn range(family: Family, prefix: &str, lengths: &[&str]) -> Option<PrefixRange> {
    let longest = family.max_len();
    if prefix == "any" {
        let prefix: Prefix = if family == Family::Ipv4 {
            "0.0.0.0/0"
        } else {
            "::/0"
        }
        .parse()
        .ok()?;
        return Some(PrefixRange {
            prefix,
            min: 0,
            max: longest,
        });
    }
    let prefix: Prefix = prefix.parse().ok()?;
    let mut range = PrefixRange::exact(prefix);
    let mut rest = lengths;
    while let [word, number, more @ ..] = rest {
        let number: u8 = number.parse().ok()?;
        match *word {
            "eq" => (range.min, range.max) = (number, number),
            "ge" => {
                range.min = number;
                range.max = longest;
            }
            "le" => range.max = number,
            _ => return None,
        }
        rest = more;
    }
    Some(range)
}
