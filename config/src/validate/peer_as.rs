//! Checks of a peer's AS number, and of what depends on whether it is this node's.

use bgp_proto::engine::PrivateAs;
use bgp_proto::types::{Asn, PeerAs};

use super::node;
use super::peers::Context;
use super::policies::{PeerFacts, Policies};
use crate::decode::Located;
use crate::problem::Problems;
use crate::schema::{self, PeerAsn};

/// The number that stands for those that are not known beforehand; no peer has it (RFC 7607).
const UNKNOWN: Asn = Asn(0);

/// The AS numbers that the peer may have.
pub(super) fn of(written: &PeerAsn, own: Asn) -> PeerAs {
    match written {
        PeerAsn::Only(asn) => PeerAs::Only(*asn),
        PeerAsn::Internal => PeerAs::Only(own),
        PeerAsn::External => PeerAs::External,
        PeerAsn::AnyOf(several) => PeerAs::AnyOf(several.iter().map(|asn| asn.value).collect()),
    }
}

/// A peer as policies see it.
pub(super) fn facts(peer: &schema::Peer, own: Option<Asn>) -> PeerFacts<'_> {
    let asn = peer
        .asn
        .as_ref()
        .map(|asn| of(&asn.value, own.unwrap_or(UNKNOWN)));
    PeerFacts {
        name: peer.name.as_ref().map_or("", |name| name.value.as_str()),
        asn: asn.as_ref().and_then(PeerAs::only).unwrap_or(UNKNOWN),
        external: match (asn, own) {
            (Some(asn), Some(own)) => !asn.is_internal(own),
            (asn, own) => asn.is_some() || own.is_some(),
        },
    }
}

/// Everything about the number itself.
pub(super) fn check(peer: &schema::Peer, context: &Context<'_>) {
    let (Some(asn), problems) = (&peer.asn, context.problems) else {
        return;
    };
    match &asn.value {
        PeerAsn::Only(only) => node::warn_last_asn(&Located::new(*only, &asn.location), problems),
        PeerAsn::AnyOf(several) => check_list(several, context.asn, problems),
        PeerAsn::External | PeerAsn::Internal => {}
    }
    let Some(own) = context.asn else { return };
    let remote = of(&asn.value, own);
    if let (Some(strict), None) = (&peer.strict_role, &peer.role) {
        let message = "strictRole has no effect without role";
        problems.error(strict.location.problem(
            message,
            "name this node's role towards the peer, e.g. role: customer",
        ));
    }
    check_kind(peer, &remote, own, problems);
    check_rules(peer, &remote, own, problems);
}

/// A policy that speaks of the peer's number needs one number.
pub(super) fn check_policies(peer: &schema::Peer, names: &[Located<String>], context: &Context<'_>) {
    let (Some(asn), Some(first)) = (&peer.asn, names.first()) else {
        return;
    };
    if matches!(asn.value, PeerAsn::Only(_) | PeerAsn::Internal) {
        return;
    }
    if context.policies.depend_on_asn(&Policies::names(names)) {
        let message = "the policy refers to the peer's AS number, and asn leaves that open";
        let remedy = "give each AS a peer of its own, or write the number in place of peer";
        context.problems.error(first.location.problem(message, remedy));
    }
}

fn check_list(several: &[Located<Asn>], own: Option<Asn>, problems: &Problems) {
    for asn in several {
        node::warn_last_asn(asn, problems);
    }
    for (asn, first) in schema::repeated(several) {
        let message = format!("{} is already in {}", asn.value, first.path);
        problems.error(asn.location.problem(message, "keep one of the two"));
    }
    if let Some(asn) = several.iter().find(|asn| Some(asn.value) == own) {
        let message = format!("{} is this node's own AS; a list is of other ones", asn.value);
        let remedy = "remove it, or make a peer of its own with asn: internal";
        problems.error(asn.location.problem(message, remedy));
    }
}

/// Rules for AS paths that only make sense towards another AS.
fn check_rules(peer: &schema::Peer, remote: &PeerAs, own: Asn, problems: &Problems) {
    if let Some(local) = &peer.local_as
        && (local.asn.value == own || remote.only() == Some(local.asn.value))
    {
        let whose = if local.asn.value == own {
            "this node's own AS"
        } else {
            "the peer's AS"
        };
        let message = format!("{} is {whose}", local.asn.value);
        let remedy = "name the number that the peer still knows this network by, or remove localAs";
        problems.error(local.asn.location.problem(message, remedy));
    }
    if !remote.is_internal(own) {
        return;
    }
    let on = |flag: &Option<Located<bool>>| {
        flag.as_ref()
            .filter(|flag| flag.value)
            .map(|flag| flag.location.clone())
    };
    let private = peer
        .private_as
        .as_ref()
        .filter(|at| at.value != PrivateAs::Keep)
        .map(|at| at.location.clone());
    let external_only = [
        ("asOverride", on(&peer.as_override)),
        ("removePrivateAs", private),
        ("enforceFirstAs", on(&peer.enforce_first_as)),
        ("role", peer.role.as_ref().map(|role| role.location.clone())),
        ("nextHopUnchanged", on(&peer.next_hop_unchanged)),
        ("routeServerClient", on(&peer.route_server_client)),
    ];
    for (name, location) in external_only {
        if let Some(location) = location {
            let message = format!("{name} has no effect inside one's own AS {own}");
            problems.error(location.problem(message, format!("remove {name}, or correct asn")));
        }
    }
}

fn check_kind(peer: &schema::Peer, remote: &PeerAs, own: Asn, problems: &Problems) {
    let external = !remote.is_internal(own);
    let client = peer.reflector_client.as_ref().filter(|client| client.value);
    if let Some(client) = client.filter(|_| external) {
        let message = format!(
            "AS {remote} is not this node's AS {own}: only peers of one's own AS are reflected to (RFC 4456)"
        );
        problems.error(
            client
                .location
                .problem(message, "remove routeReflectorClient, or correct asn"),
        );
    }
    let missing: Vec<&str> = [("import", &peer.import), ("export", &peer.export)]
        .into_iter()
        .filter(|(_, policy)| policy.is_none())
        .map(|(name, _)| name)
        .collect();
    if external && !missing.is_empty() {
        let both = missing.join(" and ");
        let message =
            format!("no {both} policy towards another AS: all its routes are rejected there (RFC 8212)");
        problems.warn(
            peer.location
                .problem(message, format!("name a policy in {both}, or say reject-all")),
        );
    }
}
