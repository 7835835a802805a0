//! Translates rules into the speaker's types for one peer: lists and applied policies are resolved.

use std::cell::Cell;
use std::str::FromStr;

use bgp_proto::policy::communities::CommunityKind;
use bgp_proto::policy::{
    Actions, AsPathMatch, CommunityMatch, CommunitySet, Edit, FromMatch, Matcher, Nested, Policy, Prepend,
    Rule, RuleLabel, Verdict,
};
use bgp_proto::types::{Asn, Community, ExtCommunity, FamilySet, LargeCommunity};

use super::lists::{Lists, Part};
use super::{Direction, LocatedRule, MAX_DEPTH, PeerFacts, Policies};
use crate::decode::Located;
use crate::schema::{self, AsnItem, CommunityItem, Group, PeerMatch, Then};

/// What rules are lowered for.
pub(super) struct Lowering<'a> {
    pub(super) policies: &'a Policies<'a>,
    pub(super) lists: &'a Lists,
    /// The peer, and which way the routes go; `None` for rules that do not depend on it, and for checks of all of them.
    pub(super) about: Option<(PeerFacts<'a>, Direction)>,
    /// Policies that were put in place so far.
    pub(super) steps: Cell<usize>,
}

/// Policies that apply others again and again come to no more than this.
const MAX_STEPS: usize = 10_000;

/// No AS has it: stands for the peer's number where there is no peer.
const NOBODY: Asn = Asn(0);

/// Conditions that no route can meet.
struct Never;

impl Lowering<'_> {
    /// The rules of a policy, each with this condition beside its own.
    pub(super) fn flatten(
        &self,
        name: &str,
        outer: Option<&Matcher>,
        depth: usize,
        out: &mut Vec<LocatedRule>,
    ) {
        // Beyond what a policy may have it is an error, however much more would follow.
        let is_too_much =
            out.len() > Policy::MAX_RULES || self.steps.replace(self.steps.get() + 1) > MAX_STEPS;
        let Some(policy) = self.policies.written.get(name).filter(|_| !is_too_much) else {
            return;
        };
        let label = |rule: String, line| RuleLabel {
            policy: policy.name.value.as_str().into(),
            rule: rule.into(),
            line,
        };
        if let Some(verdict) = policy.shorthand {
            let rule = Rule {
                matcher: outer.cloned().unwrap_or_default(),
                verdict: Some(verdict),
                label: label("all".to_owned(), policy.name.location.position.line),
                ..Rule::default()
            };
            let location = policy.name.location.clone();
            return out.push(LocatedRule { location, rule });
        }
        for (index, written) in policy.rules.iter().enumerate() {
            let Located { value, location } = written;
            let Ok(matcher) = self.matcher(&value.matching) else {
                continue;
            };
            let matcher = joined(outer, matcher);
            let verdict = match &value.then {
                Then::Apply(other) if depth < MAX_DEPTH => {
                    self.flatten(&other.value, Some(&matcher), depth + 1, out);
                    continue;
                }
                Then::Apply(_) => continue,
                Then::Decide(verdict) => Some(*verdict),
                Then::Continue => None,
            };
            let rule = value
                .name
                .as_ref()
                .map_or_else(|| (index + 1).to_string(), |name| name.value.clone());
            out.push(LocatedRule {
                location: location.clone(),
                rule: self.rule(value, matcher, verdict, label(rule, location.position.line)),
            });
        }
    }

    fn rule(
        &self,
        written: &schema::Rule,
        matcher: Matcher,
        verdict: Option<Verdict>,
        label: RuleLabel,
    ) -> Rule {
        Rule {
            matcher,
            actions: self.actions(&written.setting),
            verdict,
            label,
        }
    }

    fn peer_asn(&self) -> Asn {
        self.about.map_or(NOBODY, |(peer, _)| peer.asn)
    }

    fn matcher(&self, written: &schema::Match) -> Result<Matcher, Never> {
        let [from, to] = &written.peers;
        self.check_to(to.as_ref())?;
        let mut nested = Vec::new();
        for (group, inner) in &written.nested {
            nested.extend(self.nested(*group, inner)?);
        }
        let families = &written.families;
        Ok(Matcher {
            prefixes: written.prefixes.as_ref().map(|items| self.lists.prefixes(items)),
            communities: self.community_match::<Community>(&written.communities, Part::Communities),
            large_communities: self
                .community_match::<LargeCommunity>(&written.large_communities, Part::Large),
            ext_communities: self.community_match::<ExtCommunity>(&written.ext_communities, Part::Ext),
            as_path: self.as_path(&written.as_path),
            next_hops: written.next_hops.as_ref().map(|items| self.lists.prefixes(items)),
            sources: written.sources.clone(),
            families: (!families.is_empty()).then(|| families.iter().copied().collect::<FamilySet>()),
            from: from
                .as_ref()
                .map(|from| self.peer_match(&from.value))
                .unwrap_or_default(),
            attributes: written.attributes.clone(),
            nested,
        })
    }

    /// `to` is known here: a rule for other peers is no rule.
    fn check_to(&self, to: Option<&Located<PeerMatch>>) -> Result<(), Never> {
        let (Some(to), Some((peer, direction))) = (to, self.about) else {
            return Ok(());
        };
        let wanted = self.peer_match(&to.value);
        let fits = (wanted.peers.is_empty() || wanted.peers.iter().any(|name| name == peer.name))
            && wanted.external.is_none_or(|external| external == peer.external)
            && wanted.asns.is_none_or(|asns| asns.contains(peer.asn));
        if fits && direction == Direction::Export {
            Ok(())
        } else {
            Err(Never)
        }
    }

    fn nested(&self, group: Group, inner: &[schema::Match]) -> Result<Option<Nested>, Never> {
        let all: Vec<Result<Matcher, Never>> = inner.iter().map(|inner| self.matcher(inner)).collect();
        let possible = |all: Vec<Result<Matcher, Never>>| all.into_iter().flatten().collect::<Vec<_>>();
        match group {
            Group::All => {
                let all: Result<Vec<Matcher>, Never> = all.into_iter().collect();
                all.map(|all| Some(Nested::All(all)))
            }
            Group::Any => {
                let some = possible(all);
                if some.is_empty() {
                    Err(Never)
                } else {
                    Ok(Some(Nested::Any(some)))
                }
            }
            Group::None => {
                let some = possible(all);
                Ok((!some.is_empty()).then_some(Nested::None(some)))
            }
        }
    }

    fn peer_match(&self, written: &PeerMatch) -> FromMatch {
        FromMatch {
            peers: written.names.iter().map(|name| name.value.clone()).collect(),
            external: written.external,
            asns: written
                .asns
                .as_ref()
                .map(|asns| self.lists.asns(asns, self.peer_asn())),
        }
    }

    fn community_match<C>(&self, written: &schema::CommunityMatch, part: Part) -> CommunityMatch<C>
    where
        C: CommunityKind,
        C::Pattern: FromStr,
    {
        let set = |items: &Vec<CommunityItem>| self.lists.community_set::<C>(items, part, self.peer_asn());
        let each = |items: &Vec<CommunityItem>| -> Vec<CommunitySet<C>> {
            let one = |item: &CommunityItem| set(&vec![item.clone()]);
            items.iter().map(one).collect()
        };
        CommunityMatch {
            any: written.any.as_ref().map(set),
            all: written.all.as_ref().map(each).unwrap_or_default(),
            none: written.none.as_ref().map(set),
            exact: written.exact.as_ref().map(each),
        }
    }

    fn as_path(&self, written: &schema::AsPath) -> AsPathMatch {
        let asns = |items: &Option<Vec<AsnItem>>| {
            let items = items.as_ref()?;
            Some(self.lists.asns(items, self.peer_asn()))
        };
        AsPathMatch {
            contains: asns(&written.contains),
            neighbor: asns(&written.neighbor),
            origin: asns(&written.origin),
            patterns: written.patterns.clone(),
            min_hops: written.length.map(|(low, _)| low),
            max_hops: written.length.map(|(_, high)| high),
        }
    }

    fn actions(&self, written: &schema::Set) -> Actions {
        let prepend = written.prepend.map(|(asn, times)| {
            let asn = match asn {
                schema::Prepend::Own => Prepend::Own,
                schema::Prepend::Neighbor => Prepend::Neighbor,
                schema::Prepend::Asn(asn) => Prepend::Asn(asn),
                schema::Prepend::Peer => Prepend::Asn(self.peer_asn()),
            };
            (asn, times)
        });
        Actions {
            local_pref: written.local_pref,
            med: written.med,
            origin: written.origin,
            communities: self.edit(&written.communities, Part::Communities, |text| text.community()),
            large_communities: self.edit(&written.large_communities, Part::Large, |text| text.large()),
            ext_communities: self.edit(&written.ext_communities, Part::Ext, |text| text.ext()),
            prepend,
            next_hop: written.next_hop,
            kernel: written.kernel,
        }
    }

    fn edit<C>(
        &self,
        written: &schema::Edit,
        part: Part,
        exact: impl Fn(schema::Exact) -> Option<C>,
    ) -> Edit<C>
    where
        C: CommunityKind,
        C::Pattern: FromStr,
    {
        let peer = self.peer_asn();
        let added = self.lists.communities::<C>(&written.add, part, peer);
        let remove = written.remove.as_ref();
        Edit {
            clear: written.clear,
            remove: remove.map(|items| self.lists.community_set::<C>(items, part, peer)),
            add: added
                .iter()
                .filter_map(|pattern| exact(schema::Exact(pattern.to_string())))
                .collect(),
        }
    }
}

/// Both conditions.
fn joined(outer: Option<&Matcher>, inner: Matcher) -> Matcher {
    match outer {
        Some(outer) if *outer != Matcher::default() => {
            if inner == Matcher::default() {
                return outer.clone();
            }
            Matcher {
                nested: vec![Nested::All(vec![outer.clone(), inner])],
                ..Matcher::default()
            }
        }
        _ => inner,
    }
}

/// Whether what a rule comes to depends on the peer.
pub(super) fn mentions_peer(rule: &schema::Rule, lists: &Lists) -> bool {
    mentions_asn(rule, lists) || has_to(&rule.matching)
}

fn has_to(matching: &schema::Match) -> bool {
    let [_, to] = &matching.peers;
    let mut nested = matching.nested.iter().flat_map(|(_, inner)| inner);
    to.is_some() || nested.any(has_to)
}

/// Whether what a rule comes to depends on the peer's AS number.
pub(super) fn mentions_asn(rule: &schema::Rule, lists: &Lists) -> bool {
    let set = &rule.setting;
    let edits = [
        (Part::Communities, &set.communities),
        (Part::Large, &set.large_communities),
        (Part::Ext, &set.ext_communities),
    ];
    let edit = |(part, edit): (Part, &schema::Edit)| {
        let removed = edit.remove.as_deref().unwrap_or_default();
        lists.mention_peer(removed, part) || lists.mention_peer(&edit.add, part)
    };
    let prepends = set.prepend.is_some_and(|(asn, _)| asn == schema::Prepend::Peer);
    prepends || edits.into_iter().any(edit) || match_mentions_asn(&rule.matching, lists)
}

fn match_mentions_asn(matching: &schema::Match, lists: &Lists) -> bool {
    let [from, to] = &matching.peers;
    let path = &matching.as_path;
    let from = from.as_ref().map(|from| &from.value.asns);
    let mut asns = [&path.contains, &path.neighbor, &path.origin]
        .into_iter()
        .chain(from)
        .flatten();
    let communities = [
        (Part::Communities, &matching.communities),
        (Part::Large, &matching.large_communities),
        (Part::Ext, &matching.ext_communities),
    ];
    let of = |(part, of): (Part, &schema::CommunityMatch)| {
        let mut lists_of = [&of.any, &of.all, &of.none, &of.exact].into_iter().flatten();
        lists_of.any(|items| lists.mention_peer(items, part))
    };
    to.as_ref().is_some_and(|to| to.value.asns.is_some())
        || asns.any(|items| lists.asns_mention_peer(items))
        || communities.into_iter().any(of)
        || matching
            .nested
            .iter()
            .flat_map(|(_, inner)| inner)
            .any(|inner| match_mentions_asn(inner, lists))
}
