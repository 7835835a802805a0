//! Resolves named lists, with the lists that they refer to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

use bgp_proto::policy::communities::CommunityKind;
use bgp_proto::policy::{AsnSet, CommunitySet, PrefixRange, PrefixSet};
use bgp_proto::types::{Asn, Prefix};

use crate::decode::Located;
use crate::facts::NodeFacts;
use crate::list_file;
use crate::problem::{Location, Problems, quoted};
use crate::schema::{self, AsnItem, CommunityItem, Items, List, PrefixItem, with_lengths, with_peer};
use crate::suggest::nearest;

/// The parts that a list can have, as they are called in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    Prefixes,
    Communities,
    Large,
    Ext,
    Asns,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Prefixes => "prefixes",
            Self::Communities => "communities",
            Self::Large => "largeCommunities",
            Self::Ext => "extCommunities",
            Self::Asns => "asns",
        }
    }
}

/// A list with what its files hold.
#[derive(Debug)]
struct Known {
    location: Location,
    prefixes: Option<Vec<PrefixItem>>,
    communities: BTreeMap<Part, Vec<CommunityItem>>,
    asns: Option<Vec<AsnItem>>,
}

impl Known {
    fn has(&self, part: Part) -> bool {
        match part {
            Part::Prefixes => self.prefixes.is_some(),
            Part::Asns => self.asns.is_some(),
            part => self.communities.contains_key(&part),
        }
    }
}

/// All lists by name.
#[derive(Debug)]
pub(super) struct Lists {
    known: BTreeMap<String, Known>,
    /// Sets of whole lists, compiled once.
    prefix_sets: RefCell<BTreeMap<String, PrefixSet>>,
    used: RefCell<BTreeSet<String>>,
}

impl Lists {
    pub(super) fn new(written: &[List], facts: &NodeFacts, problems: &Problems) -> Self {
        let known = written
            .iter()
            .map(|list| (list.name.value.clone(), read(list, facts, problems)));
        let lists = Self {
            known: known.collect(),
            prefix_sets: RefCell::default(),
            used: RefCell::default(),
        };
        for (name, known) in &lists.known {
            lists.check_list(name, known, problems);
        }
        lists
    }

    /// Warns of lists that no policy names.
    pub(super) fn warn_unused(&self, problems: &Problems) {
        let used = self.used.borrow();
        for (_, known) in self.known.iter().filter(|(name, _)| !used.contains(*name)) {
            let remedy = "name it in a policy with $ before its name, or remove it";
            problems.warn(known.location.problem("no policy uses this list", remedy));
        }
    }

    fn check_list(&self, name: &str, known: &Known, problems: &Problems) {
        for other in prefix_names(known.prefixes.as_deref().unwrap_or_default()) {
            self.check_name(other, Part::Prefixes, problems);
        }
        for (part, items) in &known.communities {
            community_names(items).for_each(|other| self.check_name(other, *part, problems));
        }
        for other in asn_names(known.asns.as_deref().unwrap_or_default()) {
            self.check_name(other, Part::Asns, problems);
        }
        if self.leads_to(name, name, &mut BTreeSet::new()) {
            let remedy = "remove the circle: a list holds what the lists in it hold";
            problems.error(known.location.problem("the list contains itself", remedy));
        }
    }

    fn leads_to<'a>(&'a self, from: &'a str, to: &str, seen: &mut BTreeSet<&'a str>) -> bool {
        let known = self.known.get(from);
        let Some(known) = known.filter(|_| seen.insert(from)) else {
            return false;
        };
        let prefixes = prefix_names(known.prefixes.as_deref().unwrap_or_default());
        let asns = asn_names(known.asns.as_deref().unwrap_or_default());
        let communities = known
            .communities
            .values()
            .flat_map(|items| community_names(items));
        let mut names = prefixes.chain(asns).chain(communities);
        names.any(|name| name.value == to || self.leads_to(&name.value, to, seen))
    }

    fn check_name(&self, name: &Located<String>, part: Part, problems: &Problems) {
        self.used.borrow_mut().insert(name.value.clone());
        let message = match self.known.get(&name.value) {
            Some(known) if known.has(part) => return,
            Some(_) => format!("list {} has no {}", quoted(&name.value), part.name()),
            None => format!("no list is named {}", quoted(&name.value)),
        };
        let fitting = self.known.iter().filter(|(_, known)| known.has(part));
        let names: Vec<&str> = fitting.map(|(name, _)| name.as_str()).collect();
        let remedy = match nearest(&name.value, names.iter().copied()) {
            Some(meant) if meant != name.value => format!("did you mean '${meant}'?"),
            _ => format!("add it to the section lists, with {}", part.name()),
        };
        problems.error(name.location.problem(message, remedy));
    }

    /// Reports names of lists in a rule that are not there.
    pub(super) fn check_rule(&self, rule: &schema::Rule, problems: &Problems) {
        self.check_match(&rule.matching, problems);
        let set = &rule.setting;
        for (part, edit) in [
            (Part::Communities, &set.communities),
            (Part::Large, &set.large_communities),
            (Part::Ext, &set.ext_communities),
        ] {
            let removed = edit.remove.as_deref().unwrap_or_default();
            let names = community_names(removed).chain(community_names(&edit.add));
            names.for_each(|name| self.check_name(name, part, problems));
        }
    }

    fn check_match(&self, matching: &schema::Match, problems: &Problems) {
        for items in [&matching.prefixes, &matching.next_hops].into_iter().flatten() {
            prefix_names(items).for_each(|name| self.check_name(name, Part::Prefixes, problems));
        }
        for (part, of) in [
            (Part::Communities, &matching.communities),
            (Part::Large, &matching.large_communities),
            (Part::Ext, &matching.ext_communities),
        ] {
            for items in [&of.any, &of.all, &of.none, &of.exact].into_iter().flatten() {
                community_names(items).for_each(|name| self.check_name(name, part, problems));
            }
        }
        let path = &matching.as_path;
        let peers = matching.peers.iter().flatten().map(|peer| &peer.value.asns);
        let asns = [&path.contains, &path.neighbor, &path.origin]
            .into_iter()
            .chain(peers);
        for items in asns.flatten() {
            asn_names(items).for_each(|name| self.check_name(name, Part::Asns, problems));
        }
        for inner in matching.nested.iter().flat_map(|(_, inner)| inner) {
            self.check_match(inner, problems);
        }
    }

    /// The prefixes of these items.
    pub(super) fn prefixes(&self, items: &[PrefixItem]) -> PrefixSet {
        let [PrefixItem::List(name, None)] = items else {
            let mut ranges = Vec::new();
            self.collect_prefixes(items, None, &mut BTreeSet::new(), &mut ranges);
            return ranges.into();
        };
        if let Some(set) = self.prefix_sets.borrow().get(&name.value) {
            return set.clone();
        }
        let mut ranges = Vec::new();
        self.collect_prefixes(items, None, &mut BTreeSet::new(), &mut ranges);
        let set = PrefixSet::from(ranges);
        self.prefix_sets
            .borrow_mut()
            .insert(name.value.clone(), set.clone());
        set
    }

    fn collect_prefixes(
        &self,
        items: &[PrefixItem],
        lengths: Option<(u32, u32)>,
        seen: &mut BTreeSet<(String, Option<(u32, u32)>)>,
        out: &mut Vec<PrefixRange>,
    ) {
        for item in items {
            match (item, lengths) {
                (PrefixItem::Range(range), None) => out.push(*range),
                (PrefixItem::Range(range), Some((low, high))) => {
                    out.extend(other_lengths(range.prefix, low, high))
                }
                (PrefixItem::List(name, own), _) if seen.insert((name.value.clone(), lengths.or(*own))) => {
                    let inside = self
                        .known
                        .get(&name.value)
                        .and_then(|known| known.prefixes.as_ref());
                    if let Some(inside) = inside {
                        self.collect_prefixes(inside, lengths.or(*own), seen, out);
                    }
                }
                (PrefixItem::List(..), _) => {}
            }
        }
    }

    /// The communities of these items, where `peer` is this AS.
    pub(super) fn communities<C>(&self, items: &[CommunityItem], part: Part, peer: Asn) -> Vec<C::Pattern>
    where
        C: CommunityKind,
        C::Pattern: FromStr,
    {
        let mut out = Vec::new();
        self.collect_communities::<C>(items, (part, peer), &mut BTreeSet::new(), &mut out);
        out
    }

    fn collect_communities<C>(
        &self,
        items: &[CommunityItem],
        (part, peer): (Part, Asn),
        seen: &mut BTreeSet<String>,
        out: &mut Vec<C::Pattern>,
    ) where
        C: CommunityKind,
        C::Pattern: FromStr,
    {
        for item in items {
            match item {
                CommunityItem::Text(text) => out.extend(with_peer(text, peer).parse().ok()),
                CommunityItem::List(name) => {
                    let known = self.known.get(&name.value);
                    let known = known.filter(|_| seen.insert(name.value.clone()));
                    if let Some(inside) = known.and_then(|known| known.communities.get(&part)) {
                        self.collect_communities::<C>(inside, (part, peer), seen, out);
                    }
                }
            }
        }
    }

    /// The communities of these items as a set.
    pub(super) fn community_set<C>(&self, items: &[CommunityItem], part: Part, peer: Asn) -> CommunitySet<C>
    where
        C: CommunityKind,
        C::Pattern: FromStr,
    {
        self.communities::<C>(items, part, peer).into_iter().collect()
    }

    /// The AS numbers of these items.
    pub(super) fn asns(&self, items: &[AsnItem], peer: Asn) -> AsnSet {
        let mut out = Vec::new();
        self.collect_asns(items, peer, &mut BTreeSet::new(), &mut out);
        out.into_iter().collect()
    }

    fn collect_asns(
        &self,
        items: &[AsnItem],
        peer: Asn,
        seen: &mut BTreeSet<String>,
        out: &mut Vec<(Asn, Asn)>,
    ) {
        for item in items {
            match item {
                AsnItem::Range(low, high) => out.push((*low, *high)),
                AsnItem::Peer => out.push((peer, peer)),
                AsnItem::List(name) => {
                    let known = self.known.get(&name.value);
                    let known = known.filter(|_| seen.insert(name.value.clone()));
                    if let Some(inside) = known.and_then(|known| known.asns.as_ref()) {
                        self.collect_asns(inside, peer, seen, out);
                    }
                }
            }
        }
    }

    /// Whether one of these items depends on the peer.
    pub(super) fn mention_peer(&self, items: &[CommunityItem], part: Part) -> bool {
        self.mention(items, part, &mut BTreeSet::new())
    }

    fn mention(&self, items: &[CommunityItem], part: Part, seen: &mut BTreeSet<String>) -> bool {
        items.iter().any(|item| match item {
            CommunityItem::Text(text) => schema::mentions_peer(text),
            CommunityItem::List(name) => {
                let known = self.known.get(&name.value);
                let known = known.filter(|_| seen.insert(name.value.clone()));
                let inside = known.and_then(|known| known.communities.get(&part));
                inside.is_some_and(|inside| self.mention(inside, part, seen))
            }
        })
    }

    /// The same of AS numbers.
    pub(super) fn asns_mention_peer(&self, items: &[AsnItem]) -> bool {
        self.asns_mention(items, &mut BTreeSet::new())
    }

    fn asns_mention(&self, items: &[AsnItem], seen: &mut BTreeSet<String>) -> bool {
        items.iter().any(|item| match item {
            AsnItem::Range(..) => false,
            AsnItem::Peer => true,
            AsnItem::List(name) => {
                let known = self.known.get(&name.value);
                let known = known.filter(|_| seen.insert(name.value.clone()));
                let inside = known.and_then(|known| known.asns.as_ref());
                inside.is_some_and(|inside| self.asns_mention(inside, seen))
            }
        })
    }
}

/// A list's prefix with other lengths, as far as it can have them: `{in: $customers, length: 32}` is the hosts inside.
fn other_lengths(prefix: Prefix, low: u32, high: u32) -> Option<PrefixRange> {
    with_lengths(
        prefix,
        low.max(u32::from(prefix.len())),
        high.min(u32::from(prefix.family().max_len())),
    )
}

fn prefix_names(items: &[PrefixItem]) -> impl Iterator<Item = &Located<String>> {
    items.iter().filter_map(|item| match item {
        PrefixItem::List(name, _) => Some(name),
        PrefixItem::Range(_) => None,
    })
}

fn community_names(items: &[CommunityItem]) -> impl Iterator<Item = &Located<String>> {
    items.iter().filter_map(|item| match item {
        CommunityItem::List(name) => Some(name),
        CommunityItem::Text(_) => None,
    })
}

fn asn_names(items: &[AsnItem]) -> impl Iterator<Item = &Located<String>> {
    items.iter().filter_map(|item| match item {
        AsnItem::List(name) => Some(name),
        AsnItem::Range(..) | AsnItem::Peer => None,
    })
}

fn read(list: &List, facts: &NodeFacts, problems: &Problems) -> Known {
    let reader = Reader {
        list,
        facts,
        problems,
    };
    let mut communities = BTreeMap::new();
    for (part, written, kind) in [
        (Part::Communities, &list.communities, &schema::COMMUNITIES),
        (Part::Large, &list.large_communities, &schema::LARGE),
        (Part::Ext, &list.ext_communities, &schema::EXT),
    ] {
        let items = reader.items(written.as_ref(), |item| list_file::community(item, kind));
        communities.extend(items.map(|items| (part, items)));
    }
    Known {
        location: list.name.location.clone(),
        prefixes: reader.items(list.prefixes.as_ref(), list_file::prefix),
        communities,
        asns: reader.items(list.asns.as_ref(), list_file::asn),
    }
}

struct Reader<'a> {
    list: &'a List,
    facts: &'a NodeFacts,
    problems: &'a Problems,
}

impl Reader<'_> {
    fn items<T: Clone>(
        &self,
        written: Option<&Items<T>>,
        parse: impl Fn(&list_file::Item) -> Result<T, list_file::ItemError>,
    ) -> Option<Vec<T>> {
        match written? {
            Items::Here(items) => Some(items.clone()),
            Items::File(file) => Some(self.file(&file.value, parse)),
        }
    }

    /// What a file holds. Nothing where it was never readable: the list matches nothing then, and `show` says so.
    fn file<T>(
        &self,
        file: &Path,
        parse: impl Fn(&list_file::Item) -> Result<T, list_file::ItemError>,
    ) -> Vec<T> {
        const SHOWN: usize = 3;
        let subject = || format!("list {}", self.list.name.value);
        let text = match self.facts.list_files.get(file) {
            None => return Vec::new(),
            Some(Ok(text)) => text,
            Some(Err(error)) => {
                let reason = format!(
                    "{}: {error}; the list is empty until the file is there",
                    file.display()
                );
                self.problems.reject(subject(), reason);
                return Vec::new();
            }
        };
        let (items, mut wrong) = match list_file::items(text) {
            Ok(items) => (items, Vec::new()),
            Err(error) => (Vec::new(), vec![error.to_string()]),
        };
        let mut out = Vec::with_capacity(items.len());
        for item in &items {
            match parse(item) {
                Ok(value) => out.push(value),
                Err(error) => wrong.push(format!("{}: {error}", item.position())),
            }
        }
        for error in wrong.iter().take(SHOWN) {
            self.problems
                .reject(subject(), format!("{}: {error}", file.display()));
        }
        if wrong.len() > SHOWN {
            let more = wrong.len() - SHOWN;
            self.problems
                .reject(subject(), format!("{}: {more} more items", file.display()));
        }
        out
    }
}
