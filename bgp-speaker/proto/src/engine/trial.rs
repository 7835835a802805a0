//! What a policy makes of a route, and why: for operators who look at a route, or try a policy without an agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::import::{changed_by_import_rules, import_route};
use super::{Engine, PeerKind, PeerRouting};
use crate::export::rules::{GroupKey, Learned, path_rules};
use crate::export::sources::Best;
use crate::policy::{Decision, Policy, Route, RuleLabel, Verdict};
use crate::rib::table::DestId;
use crate::types::{Asn, FamilySet, PeerId, Prefix};
use crate::wire::{EncodeContext, MAX_LEN, NextHop, PathAttrs};

/// What a policy decided, in the names of the configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// The policy.
    pub policy: String,
    /// The outcome.
    pub verdict: Verdict,
    /// The rule that decided; `None`: no rule did.
    pub by: Option<RuleLabel>,
    /// The rules that matched and changed something.
    pub changed_by: Vec<RuleLabel>,
    /// Why the route is not sent whatever the policy says.
    pub barred: Option<&'static str>,
}

impl Trace {
    fn of(policy: &Policy, decision: &Decision<'_>) -> Self {
        let accepted = decision.verdict == Verdict::Accept;
        let changing = decision
            .rules()
            .filter(|rule| accepted && !rule.actions.is_empty());
        Self {
            policy: policy.name.clone(),
            verdict: decision.verdict,
            by: decision.deciding().map(|rule| rule.label.clone()),
            changed_by: changing.map(|rule| rule.label.clone()).collect(),
            barred: None,
        }
    }

    /// Whether the route is taken or sent.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.barred.is_none() && self.verdict == Verdict::Accept
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(why) = self.barred {
            return write!(f, "not sent: {why}");
        }
        let verdict = match self.verdict {
            Verdict::Accept => "accepted",
            Verdict::Reject => "rejected",
        };
        match &self.by {
            Some(label) => write!(f, "{verdict} by {label}")?,
            None => write!(f, "{verdict} by {} (no rule decides)", self.policy)?,
        }
        for (index, label) in self.changed_by.iter().enumerate() {
            let lead = if index == 0 { ", changed by" } else { "," };
            write!(f, "{lead} {label}")?;
        }
        Ok(())
    }
}

/// A route that was tried.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    /// The policy's decision.
    pub decision: Decision<'a>,
    /// The attributes afterwards; `None` when the route is not taken or not sent.
    pub after: Option<PathAttrs>,
    /// Why it is not taken or sent whatever the policy says.
    pub barred: Option<&'static str>,
}

/// Our side of a session on which a route is tried.
#[derive(Clone, Copy, Debug)]
pub struct TrialSession {
    /// Our real AS number.
    pub own_asn: Asn,
    /// Our reflector cluster.
    pub cluster_id: u32,
    /// Our IPv4 address on the session.
    pub local_v4: Ipv4Addr,
    /// Our IPv6 address on the session.
    pub local_v6: Ipv6Addr,
}

/// What import makes of a route from this peer.
#[must_use]
pub fn try_import<'a>(
    routing: &'a PeerRouting,
    peer_addr: Option<IpAddr>,
    prefix: Prefix,
    attrs: &'a PathAttrs,
) -> Trial<'a> {
    let decision = routing.import.decide(import_route(routing, prefix, attrs));
    let after = (decision.verdict == Verdict::Accept).then(|| {
        let changed = changed_by_import_rules(routing, peer_addr, attrs, decision.matched);
        changed.unwrap_or_else(|| attrs.clone())
    });
    Trial {
        decision,
        after,
        barred: None,
    }
}

/// What export makes of a route on its way to this peer.
#[must_use]
pub fn try_export<'a>(
    routing: &'a PeerRouting,
    session: TrialSession,
    route: Route<'a>,
    learned: Learned,
) -> Trial<'a> {
    let key = key_of(routing, session);
    let family = route.prefix.family();
    let decision = routing.export.decide(route);
    let may = key.may_export(&route.prefix, route.attrs, learned);
    let sent = may && decision.verdict == Verdict::Accept;
    let after = sent.then(|| key.transform(family, route.attrs, learned, decision.matched));
    Trial {
        after,
        barred: (!may).then(|| bar(routing, learned, route.attrs)),
        decision,
    }
}

/// Why a route may not go to a peer.
fn bar(routing: &PeerRouting, learned: Learned, attrs: &PathAttrs) -> &'static str {
    let role = routing.rules.role;
    match learned {
        Learned::Peer(PeerKind::Internal, _) if routing.kind == PeerKind::Internal => {
            "a route of an iBGP peer goes to no other one (RFC 4456 §6)"
        }
        _ if attrs.only_to_customer().is_some() && role.is_some_and(|role| !role.may_send_marked()) => {
            "it is for customers only, and the peer is none (RFC 9234 §5)"
        }
        _ => "its family or its communities do not allow it (RFC 1997)",
    }
}

fn key_of(routing: &PeerRouting, session: TrialSession) -> GroupKey {
    let (member_asn, rules) = path_rules(routing);
    GroupKey {
        kind: routing.kind,
        local_asn: routing.local_asn,
        own_asn: session.own_asn,
        member_asn,
        rules,
        families: FamilySet::ALL,
        extended_next_hop: FamilySet::EMPTY,
        encode: EncodeContext {
            four_octet_as: true,
            add_path: FamilySet::EMPTY,
            max_len: MAX_LEN,
            internal: routing.kind != PeerKind::External,
        },
        policy: Arc::clone(&routing.export),
        next_hop_self: routing.next_hop_self,
        local_v4: Some(session.local_v4),
        local_v6: Some(NextHop::V6(session.local_v6)),
        shared_subnets: Vec::new(),
        cluster_id: session.cluster_id,
        long_lived: FamilySet::EMPTY,
        draining: false,
    }
}

impl Engine {
    /// What the import policy of a path's peer decided about it.
    pub(super) fn trace_import(&self, peer: PeerId, prefix: Prefix, received: &PathAttrs) -> Option<Trace> {
        let routing = &self.peers.get(&peer)?.routing;
        let decision = routing.import.decide(import_route(routing, prefix, received));
        Some(Trace::of(&routing.import, &decision))
    }

    /// What the export policy of each established peer decides about the best path, by name.
    pub(super) fn trace_exports(&self, prefix: Prefix, best: Best) -> Vec<(String, Trace)> {
        let others = self.peers.iter().filter(|(id, _)| **id != best.source);
        others
            .filter_map(|(id, peer)| {
                let trace = self.trace_export(*id, prefix, best)?;
                Some((peer.routing.name.clone(), trace))
            })
            .collect()
    }

    /// What the export policy of an established peer decides about the best path.
    pub(super) fn trace_export(&self, id: PeerId, prefix: Prefix, best: Best) -> Option<Trace> {
        let peer = self.peers.get(&id).filter(|peer| peer.is_up())?;
        let attrs = self.rib.attrs.get(best.attrs);
        let route = Route {
            prefix,
            attrs,
            source: best.learned.source(),
            from: self.rib.sources.neighbor(best.source, best.learned),
        };
        let (routing, learned) = (&peer.routing, best.learned);
        let decision = routing.export.decide(route);
        let group = self.group_of(id);
        let may = group.is_none_or(|group| group.key.may_export(&prefix, attrs, learned));
        Some(Trace {
            barred: (!may).then(|| bar(routing, learned, attrs)),
            ..Trace::of(&routing.export, &decision)
        })
    }
}

/// How many routes each rule of a policy matches, by policy, direction (`true` is export) and rule; the rule without a name is the
/// policy's default.
pub type RuleCounts = BTreeMap<(String, bool, String), usize>;

/// Destinations that are counted at a time: some milliseconds.
const COUNTED: u32 = 2048;

impl Engine {
    /// Counts the routes that rules match now, in a part of the table from this place on, and gives the place where to go on. Imports are
    /// counted by path, exports by best path and update group.
    #[must_use]
    pub fn count_rules(&self, place: u32) -> (RuleCounts, Option<u32>) {
        let end = place.saturating_add(COUNTED).min(self.rib.table.bound());
        let mut counts = RuleCounts::new();
        for dest in (place..end).map(DestId) {
            let Some(prefix) = self.rib.table.prefix(dest) else {
                continue;
            };
            for (_, path) in self.rib.table.paths(dest) {
                let Some(peer) = self.peers.get(&path.peer) else {
                    continue;
                };
                let route = import_route(&peer.routing, prefix, self.rib.attrs.get(path.received));
                count(&mut counts, &peer.routing.import, false, route);
            }
            let rib = &self.rib;
            if let Some(best) = rib.sources.best(&rib.table, dest, &rib.attrs, &rib.next_hops) {
                let route = Route {
                    prefix,
                    attrs: rib.attrs.get(best.attrs),
                    source: best.learned.source(),
                    from: rib.sources.neighbor(best.source, best.learned),
                };
                for group in self.groups.iter().flatten() {
                    count(&mut counts, &group.key.policy, true, route);
                }
            }
        }
        (counts, Some(end).filter(|end| *end < self.rib.table.bound()))
    }
}

fn count(counts: &mut RuleCounts, policy: &Policy, export: bool, route: Route<'_>) {
    let decision = policy.decide(route);
    let mut add = |rule: String| *counts.entry((policy.name.clone(), export, rule)).or_default() += 1;
    decision.rules().for_each(|rule| add(rule.label.to_string()));
    if decision.by.is_none() {
        add(String::new());
    }
}
