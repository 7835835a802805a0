//! Warnings about combinations of peers, policies and Services that are valid but probably not intended.

use std::net::IpAddr;

use bgp_proto::policy::{Matcher, NextHopAction, Policy, PrefixRange, Rule, Source, Verdict};
use bgp_proto::types::{Asn, Family, Prefix};

use super::policies::{Direction, LocatedRule, Policies};
use super::{directions, peer_as};
use crate::decode::Located;
use crate::model::{Cluster, Peer};
use crate::problem::{Problems, quoted};
use crate::schema::{self, Document};

/// Longer lists are not gone through.
const LOOKED_AT: usize = 1000;

/// What is looked at.
pub(super) struct Advice<'a> {
    pub(super) document: &'a Document,
    pub(super) asn: Option<Asn>,
    pub(super) cluster: &'a Cluster,
    pub(super) policies: &'a Policies<'a>,
    /// Those of this node that the file names.
    pub(super) peers: &'a [Peer],
    pub(super) problems: &'a Problems,
}

impl Advice<'_> {
    /// Gives all of it.
    pub(super) fn give(&self) {
        for peer in &self.document.peers {
            let about = peer_as::facts(peer, self.asn);
            for (chain, direction) in [
                (&peer.import, Direction::Import),
                (&peer.export, Direction::Export),
            ] {
                let Some(chain) = chain else { continue };
                let policy = self.policies.make(&Policies::names(chain), about, direction);
                if let Some(name) = chain.first() {
                    self.on_policy(peer, name, &policy);
                }
            }
        }
        for policy in &self.document.policies {
            let (rules, _) = self.policies.flat(std::slice::from_ref(&policy.name.value), None);
            rules.iter().for_each(|rule| self.on_prefixes(rule));
        }
        directions::Directions::new(self).give();
        self.on_selectors();
        self.on_services();
        self.on_families();
    }

    /// Pods of a family that no session carries are reached by nobody outside.
    fn on_families(&self) {
        let Some(first) = self.document.peers.first().filter(|_| !self.peers.is_empty()) else {
            return;
        };
        if self.document.mesh.mode.is_some() {
            return; // its sessions carry both
        }
        for family in Family::ALL {
            let has_pods = self.cluster.pod_cidrs.iter().any(|cidr| cidr.family() == family);
            let is_carried = self.peers.iter().any(|peer| peer.families.contains(family));
            if has_pods && !is_carried {
                self.problems.warn(first.location.problem(
                    format!("cluster.podCIDRs has {family}, and no session of this node carries {family}"),
                    format!("add {family} to families of a peer, or a second session for it"),
                ));
            }
        }
    }

    fn on_policy(&self, peer: &schema::Peer, name: &Located<String>, policy: &Policy) {
        let is_v6 =
            |rule: &Rule| matches!(rule.actions.next_hop, Some(NextHopAction::Address(IpAddr::V6(_))));
        let speaks_v4 = peer.address.as_ref().is_some_and(|at| at.value.is_ipv4());
        let extended = peer.extended_next_hop.as_ref().is_some_and(|at| at.value);
        let only = |family: Family| {
            peer.families
                .as_ref()
                .is_some_and(|all| !all.is_empty() && all.iter().all(|at| at.value == family))
        };
        if speaks_v4 && !extended && !only(Family::Ipv6) && policy.rules.iter().any(is_v6) {
            let message = format!(
                "policy {} sets an IPv6 next hop, and IPv4 routes cannot have one on this session",
                quoted(&policy.name)
            );
            self.problems.warn(name.location.problem(
                message,
                "set extendedNextHop: true (RFC 8950) on both sides, or limit the rule to families: [ipv6]",
            ));
        }
        for (family, other) in [(Family::Ipv4, Family::Ipv6), (Family::Ipv6, Family::Ipv4)] {
            if only(other) && is_of_family_alone(policy, family) {
                let message = format!(
                    "policy {} accepts {family} prefixes only, and this session carries {other} only",
                    quoted(&policy.name)
                );
                self.problems.warn(name.location.problem(
                    message,
                    format!("add {other} prefixes to the policy, or {family} to families"),
                ));
            }
        }
    }

    /// `prefixes: [10.244.0.0/16]` is that prefix alone, and nodes announce parts of it.
    fn on_prefixes(&self, located: &LocatedRule) {
        // 0.0.0.0/0 alone is how one writes the default route.
        let is_exact = |range: &&PrefixRange| {
            let length = range.prefix.len();
            length > 0 && range.min_len == length && range.max_len == length
        };
        let LocatedRule { location, rule } = located;
        let prefixes = rule
            .matcher
            .prefixes
            .as_ref()
            .filter(|prefixes| prefixes.len() <= LOOKED_AT);
        let Some(prefixes) = prefixes else { return };
        for range in prefixes.iter().filter(is_exact) {
            let covers = |pods: &Prefix| range.prefix.contains(pods);
            let aggregates = &self.document.services.aggregates;
            if !self.cluster.pod_cidrs.iter().any(covers)
                || aggregates.iter().any(|at| at.value == range.prefix)
            {
                continue;
            }
            // Not where another range of the rule takes the parts.
            let takes_parts = |other: &PrefixRange| {
                other.max_len > range.prefix.len() && other.prefix.contains(&range.prefix)
            };
            if prefixes.iter().any(takes_parts) {
                continue;
            }
            let longest = if range.prefix.family() == Family::Ipv4 {
                32
            } else {
                128
            };
            let message = format!(
                "{} matches this prefix alone, not the nodes' blocks inside it",
                range.prefix
            );
            let remedy = format!(
                "write {{in: {}, length: {}-{longest}}}",
                range.prefix,
                range.prefix.len()
            );
            self.problems.warn(location.problem(message, remedy));
        }
    }

    fn on_selectors(&self) {
        let written = &self.document.peers;
        let Some(first) = written.first() else { return };
        let all_select = written.iter().all(|peer| !peer.node_selector.is_empty());
        if self.peers.is_empty() && all_select {
            self.problems.warn(first.location.problem(
                "no peer is for this node: each nodeSelector wants other labels",
                "correct nodeSelector or node.labels; 'podroute check --labels KEY=VALUE' checks for a node with these",
            ));
        }
    }

    fn on_services(&self) {
        let services = &self.document.services;
        let Some(first) = services.advertise.first() else {
            return;
        };
        let ranges: Vec<Prefix> = services
            .ranges
            .iter()
            .chain(&services.aggregates)
            .map(|at| at.value)
            .chain(
                services
                    .pools
                    .iter()
                    .flat_map(|pool| &pool.addresses)
                    .flat_map(|range| range.value.prefixes()),
            )
            .collect();
        let sends = |peer: &Peer| may_send_services(&peer.routing.export, &ranges);
        if !self.peers.is_empty() && !self.peers.iter().any(sends) {
            self.problems.warn(first.location.problem(
                "no peer's export policy sends Services",
                "accept {match: {source: [service]}} in a policy and name it in a peer's export",
            ));
        }
    }
}

/// All that it accepts are prefixes of this family.
fn is_of_family_alone(policy: &Policy, family: Family) -> bool {
    let accepting: Vec<&Matcher> = policy
        .rules
        .iter()
        .filter(|rule| rule.verdict == Some(Verdict::Accept))
        .map(|rule| &rule.matcher)
        .collect();
    let alone = |matcher: &&Matcher| {
        let prefixes = matcher
            .prefixes
            .as_ref()
            .filter(|prefixes| prefixes.len() <= LOOKED_AT);
        prefixes.is_some_and(|prefixes| prefixes.iter().all(|range| range.prefix.family() == family))
    };
    policy.default == Verdict::Reject && !accepting.is_empty() && accepting.iter().all(alone)
}

/// Whether some address of a Service can pass, as far as source and prefix show.
fn may_send_services(policy: &Policy, ranges: &[Prefix]) -> bool {
    for rule in &policy.rules {
        let matcher = &rule.matcher;
        let of_services = matcher.sources.is_empty() || matcher.sources.contains(&Source::Service);
        let meets = |range: &PrefixRange| {
            ranges.is_empty()
                || ranges
                    .iter()
                    .any(|ours| ours.contains(&range.prefix) || range.prefix.contains(ours))
        };
        let in_ranges = matcher
            .prefixes
            .as_ref()
            .is_none_or(|prefixes| prefixes.iter().any(meets));
        match rule.verdict {
            Some(Verdict::Accept) if of_services && in_ranges => return true,
            // Only what takes every Service away ends the search.
            Some(Verdict::Reject) if of_services && is_about_source_alone(matcher) => return false,
            _ => {}
        }
    }
    policy.default == Verdict::Accept
}

fn is_about_source_alone(matcher: &Matcher) -> bool {
    let rest = Matcher {
        sources: Vec::new(),
        ..matcher.clone()
    };
    rest == Matcher::default()
}
