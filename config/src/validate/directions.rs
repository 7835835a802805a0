//! Warnings about rules without effect in the direction (import, export) in which a peer uses them, and about route leaks.

use std::cell::RefCell;
use std::collections::BTreeSet;

use bgp_proto::policy::{KernelActions, Matcher, NextHopAction, NumberAction, Policy, Source, Verdict};
use bgp_proto::types::Asn;

use super::advice::Advice;
use super::peer_as;
use super::policies::{Direction, LocatedRule, Policies};
use crate::decode::Located;
use crate::problem::{Location, quoted};
use crate::schema;

pub(super) struct Directions<'a> {
    advice: &'a Advice<'a>,
    /// AS numbers of all peers of the file.
    asns: BTreeSet<Asn>,
    /// A rule that several peers use is warned of once.
    given: RefCell<BTreeSet<(String, &'static str)>>,
}

impl<'a> Directions<'a> {
    pub(super) fn new(advice: &'a Advice<'a>) -> Self {
        let peers = advice.document.peers.iter();
        Self {
            advice,
            asns: peers
                .filter_map(|peer| peer.asn.as_ref())
                .flat_map(|asn| asn.value.numbers())
                .collect(),
            given: RefCell::default(),
        }
    }

    /// Gives all of it.
    pub(super) fn give(&self) {
        for peer in &self.advice.document.peers {
            let about = peer_as::facts(peer, self.advice.asn);
            let chains = [
                (&peer.import, Direction::Import),
                (&peer.export, Direction::Export),
            ];
            for (chain, direction) in chains {
                let Some(chain) = chain else { continue };
                let names = Policies::names(chain);
                let (rules, _) = self.advice.policies.flat(&names, Some((about, direction)));
                for located in &rules {
                    match direction {
                        Direction::Import => self.on_import(located, about.external),
                        Direction::Export => self.on_export(located, about.external),
                    }
                }
            }
        }
        self.on_transit();
    }

    fn warn(&self, location: &Location, message: &'static str, remedy: &str) {
        if self.given.borrow_mut().insert((location.path.clone(), message)) {
            self.advice.problems.warn(location.problem(message, remedy));
        }
    }

    fn on_import(&self, LocatedRule { location, rule }: &LocatedRule, external: bool) {
        if !rule.matcher.sources.is_empty() {
            let message = "source has no effect in an import policy: its routes all come from the peer";
            self.warn(location, message, "use from, or remove the condition");
        }
        if let Some(NextHopAction::OwnAddress | NextHopAction::Unchanged) = rule.actions.next_hop {
            self.warn(
                location,
                "nextHop: self and unchanged have no effect in an import policy",
                "name an address, or peer for the peer's own address",
            );
        }
        let neighbors = rule.matcher.as_path.neighbor.as_ref();
        let single = |(low, high): (Asn, Asn)| (low == high).then_some(low);
        let unknown = |asn: &Asn| !self.asns.contains(asn);
        let nobody = neighbors.is_some_and(|set| {
            set.ranges()
                .all(|range| single(range).is_some_and(|asn| unknown(&asn)))
        });
        if external && nobody {
            let message = "no peer has an AS number that asPath.neighbor names";
            self.warn(
                location,
                message,
                "the neighbor of a path from a peer of another AS is that AS: correct the number",
            );
        }
    }

    fn on_export(&self, LocatedRule { location, rule }: &LocatedRule, external: bool) {
        let actions = &rule.actions;
        if actions.kernel != KernelActions::default() {
            let message = "install and kernel have no effect in an export policy";
            self.warn(location, message, "put them into the import policy");
        }
        if actions.next_hop == Some(NextHopAction::PeerAddress) {
            let message = "nextHop: peer has no effect in an export policy";
            self.warn(location, message, "write self, unchanged or an address");
        }
        if external
            && matches!(
                actions.local_pref,
                Some(NumberAction::Set(_) | NumberAction::Add(_))
            )
        {
            let message = "localPreference has no effect towards another AS (RFC 4271 §5.1.5)";
            self.warn(location, message, "set med, or prepend");
        }
        let sources = &rule.matcher.sources;
        let originates = &self.advice.document.originate;
        let made = |source: &Source| match source {
            Source::Kernel => originates.iter().any(|one| one.value.is_from_kernel()),
            Source::Static => originates.iter().any(|one| !one.value.is_from_kernel()),
            Source::PodBlock | Source::Service | Source::Peer => true,
        };
        if !sources.is_empty() && !sources.iter().any(made) {
            let message = "this rule never matches: nothing originates routes of its source";
            self.warn(location, message, "add them to the section originate");
        }
    }

    /// All that one neighbor sends goes to another: this node would offer to carry their traffic.
    fn on_transit(&self) {
        let written: &'a [schema::Peer] = &self.advice.document.peers;
        let external = |peer: &&schema::Peer| {
            let server = peer.route_server_client.as_ref().is_some_and(|on| on.value);
            peer_as::facts(peer, self.advice.asn).external && !server
        };
        let takes_all = |peer: &'a schema::Peer, direction: Direction| -> Option<&'a Located<String>> {
            let chain = match direction {
                Direction::Import => peer.import.as_ref()?,
                Direction::Export => peer.export.as_ref()?,
            };
            let about = peer_as::facts(peer, self.advice.asn);
            let policy = self
                .advice
                .policies
                .make(&Policies::names(chain), about, direction);
            takes_all(&policy).then_some(chain.first())?
        };
        let asns = |peer: &schema::Peer| {
            peer.asn
                .as_ref()
                .map(|asn| asn.value.numbers())
                .unwrap_or_default()
        };
        let differ = |a: &schema::Peer, b: &schema::Peer| {
            asns(a) != asns(b) || (asns(a).is_empty() && a.location.path != b.location.path)
        };
        for to in written.iter().filter(external) {
            let Some(export) = takes_all(to, Direction::Export) else {
                continue;
            };
            let mut others = written.iter().filter(external);
            let from = others.find(|from| differ(from, to) && takes_all(from, Direction::Import).is_some());
            let Some(name) = from.and_then(|from| from.name.as_ref()) else {
                continue;
            };
            let message = format!(
                "all routes of peer {} go to this one: this node offers to carry traffic between the two",
                quoted(&name.value)
            );
            let remedy =
                "accept only source: [podBlock, service] in the export policy, or what this peer is to have";
            self.advice
                .problems
                .warn(export.location.problem(message, remedy));
            return;
        }
    }
}

/// Whether a policy accepts every route without a look at it.
fn takes_all(policy: &Policy) -> bool {
    let rejects = policy
        .rules
        .iter()
        .any(|rule| rule.verdict == Some(Verdict::Reject));
    let accepts = |rule: &bgp_proto::policy::Rule| {
        rule.verdict == Some(Verdict::Accept) && rule.matcher == Matcher::default()
    };
    !rejects && (policy.default == Verdict::Accept || policy.rules.iter().any(accepts))
}
