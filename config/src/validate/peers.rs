//! Checks of `peers`: each alone, then all together, then which of them are for this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{LocalAs, MaxPrefixes, OverLimit, PathRules, PeerKind, PeerRouting, PrivateAs};
use bgp_proto::policy::Policy;
use bgp_proto::types::{Asn, Family, FamilySet, HoldTime};

use super::limits::{OF_NODE, OF_PEER};
use super::node::Node;
use super::peer_as;
use super::policies::{Direction, Policies};
use crate::decode::Located;
use crate::model::{Listen, LocalAddress, Peer, Remote, Restart, Skipped, Timers, Transport, Ttl};
use crate::problem::Problems;
use crate::schema;

/// Paths of one prefix that are taken from a peer that sends several (RFC 7911), unless the file says otherwise.
pub(super) const MAX_PATHS_PER_PREFIX: u16 = 64;

/// The port of BGP (RFC 4271 §8.2.1).
pub(super) const PORT: u16 = 179;
/// Lower than the 120 s of RFC 4271 §10: a rebooted neighbor should be back in seconds.
pub(super) const CONNECT_RETRY: Duration = Duration::from_secs(5);
/// How long peers keep our routes while we restart, in seconds.
pub(super) const RESTART_TIME: u16 = 120;
/// Peers of a range at a time.
const LISTEN_LIMIT: u32 = 100;
/// TTL towards peers of our own AS, who may be some routers away.
pub(super) const INTERNAL_TTL: u8 = 64;

/// What peers are checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) asn: Option<Asn>,
    pub(super) node: &'a Node,
    pub(super) listen: &'a Listen,
    pub(super) policies: &'a Policies<'a>,
    pub(super) problems: &'a Problems,
}

/// The peers of this node, and the others.
pub(super) fn peers(written: &[schema::Peer], context: &Context<'_>) -> (Vec<Peer>, Vec<Skipped>) {
    unique_names(written, context.problems);
    unique_addresses(written, context.problems);
    let (mut peers, mut skipped) = (Vec::new(), Vec::new());
    for peer in written {
        check(peer, context);
        let Some(model) = build(peer, context) else {
            continue;
        };
        match reason_to_skip(&model, context.node) {
            Some(reason) => skipped.push(Skipped {
                name: model.name,
                reason,
            }),
            None => peers.push(model),
        }
    }
    (peers, skipped)
}

fn unique_names(peers: &[schema::Peer], problems: &Problems) {
    let mut seen = BTreeMap::new();
    for name in peers.iter().filter_map(|peer| peer.name.as_ref()) {
        if let Some(first) = seen.get(&name.value) {
            let message = format!("'{}' is already the name of {first}", name.value);
            problems.error(name.location.problem(message, "give each peer a name of its own"));
        } else {
            let place = name.location.path.strip_suffix(".name").unwrap_or_default();
            seen.insert(name.value.clone(), place.to_owned());
        }
    }
}

/// One address may stand in two peers only when no node can have both.
fn unique_addresses(peers: &[schema::Peer], problems: &Problems) {
    let mut seen: BTreeMap<IpAddr, Vec<&schema::Peer>> = BTreeMap::new();
    for peer in peers {
        let Some(address) = &peer.address else { continue };
        let others = seen.entry(address.value).or_default();
        if let Some(other) = others.iter().find(|other| can_meet(peer, other)) {
            let name = other
                .name
                .as_ref()
                .map_or(other.location.path.as_str(), |name| name.value.as_str());
            let message = format!("{} is already the address of peer {name}", address.value);
            let remedy = "remove one of the two, or give them nodeSelectors that exclude each other";
            problems.error(address.location.problem(message, remedy));
        }
        others.push(peer);
    }
}

/// Whether a node may match the selectors of both: no label is asked to have two values.
fn can_meet(a: &schema::Peer, b: &schema::Peer) -> bool {
    !a.node_selector.iter().any(|(key, value)| {
        b.node_selector
            .iter()
            .any(|(other, wanted)| other.value == key.value && wanted.value != value.value)
    })
}

fn check(peer: &schema::Peer, context: &Context<'_>) {
    let problems = context.problems;
    if let (Some(ttl), Some(_)) = (&peer.multihop, &peer.ttl_security) {
        let remedy = "keep ttlSecurity and set its hops to the distance, or keep multihop";
        problems.error(ttl.location.problem(
            "multihop and ttlSecurity exclude each other (RFC 5082 §3)",
            remedy,
        ));
    }
    check_place(peer, context);
    check_addresses(peer, context);
    let passive = peer.passive.as_ref().filter(|passive| passive.value);
    if let Some(passive) = passive.filter(|_| !context.listen.enabled) {
        let remedy = "remove passive, or set listen.enabled: true";
        problems.error(passive.location.problem(
            "neither side would open this session: listen.enabled is false",
            remedy,
        ));
    }
    if let (Some(port), Some(_)) = (&peer.port, passive) {
        let message = "port has no effect on a passive peer, which is never connected to";
        problems.warn(
            port.location
                .problem(message, "set listen.port for the port that it connects to"),
        );
    }
    peer_as::check(peer, context);
    check_families(peer, context);
    check_restart(peer, problems);
    if let (Some(_), Some(range)) = (&peer.bfd, &peer.listen_range) {
        let message = "bfd needs a peer whose address is known beforehand";
        problems.error(
            range
                .location
                .problem(message, "remove bfd, or give the peers addresses of their own"),
        );
    }
}

/// Exactly one of `address`, `interface` and `listenRange`.
fn check_place(peer: &schema::Peer, context: &Context<'_>) {
    let problems = context.problems;
    if !peer.is_somewhere {
        let remedy = "add address: 192.0.2.1 (or interface: eth0, or listenRange: 192.0.2.0/24)";
        problems.error(peer.location.problem("nothing says where this peer is", remedy));
    }
    let places = [
        peer.address.as_ref().map(|at| &at.location),
        peer.interface.as_ref().map(|at| &at.location),
        peer.listen_range.as_ref().map(|at| &at.location),
    ];
    if let [Some(first), Some(second), ..] = places
        .into_iter()
        .flatten()
        .map(Some)
        .collect::<Vec<_>>()
        .as_slice()
    {
        let message = format!("{} says already where this peer is", first.path);
        problems.error(second.problem(message, "keep one of address, interface and listenRange"));
    }
    if let (Some(limit), None) = (&peer.listen_limit, &peer.listen_range) {
        let message = "listenLimit has no effect without listenRange";
        problems.warn(limit.location.problem(message, "remove it"));
    }
    let Some(range) = &peer.listen_range else { return };
    if !context.listen.enabled {
        let message = "neither side would open these sessions: listen.enabled is false";
        problems.error(range.location.problem(message, "set listen.enabled: true"));
    }
    if let Some(port) = &peer.port {
        let message = "port has no effect on peers of a range, which are never connected to";
        problems.warn(
            port.location
                .problem(message, "set listen.port for the port that they connect to"),
        );
    }
}

fn check_restart(peer: &schema::Peer, problems: &Problems) {
    let off = peer.restart_time.as_ref().is_some_and(|time| time.value == 0);
    let long = peer
        .long_lived
        .as_ref()
        .filter(|time| time.value > 0)
        .map(|time| &time.location);
    let notification = peer
        .restart_notification
        .as_ref()
        .filter(|on| on.value)
        .map(|on| &on.location);
    for (name, location) in [("longLived", long), ("notification", notification)] {
        if let Some(location) = location.filter(|_| off) {
            let message = format!("{name} needs graceful restart, and restartTime is 0");
            problems.error(location.problem(
                message,
                format!("set restartTime to 1s or more, or remove {name}"),
            ));
        }
    }
}

fn check_addresses(peer: &schema::Peer, context: &Context<'_>) {
    let Some(local) = &peer.local_address else { return };
    let Some(address) = &peer.address else {
        if let LocalAddress::Interface(_) = local.value {
            let message = "the address of an interface is chosen for a peer with an address";
            let remedy = "remove localAddress, or give the peer its address";
            context.problems.error(local.location.problem(message, remedy));
        }
        return;
    };
    let LocalAddress::Address(chosen) = local.value else {
        return;
    };
    let local = &Located::new(chosen, &local.location);
    let family = |addr: IpAddr| if addr.is_ipv4() { "IPv4" } else { "IPv6" };
    let (ours, theirs) = (family(local.value), family(address.value));
    if ours != theirs {
        let message = format!(
            "{} is {ours}, but the peer's address {} is {theirs}",
            local.value, address.value
        );
        context.problems.error(
            local
                .location
                .problem(message, format!("use an {theirs} address of this node")),
        );
    } else if local.value == address.value {
        let message = "localAddress is the peer's own address";
        context
            .problems
            .error(local.location.problem(message, "use an address of this node"));
    } else if context
        .node
        .addresses
        .fixed()
        .is_some_and(|own| !own.contains(&local.value))
    {
        let message = format!("{} is not in node.addresses", local.value);
        context.problems.warn(
            local
                .location
                .problem(message, "connections fail unless the node has it"),
        );
    }
}

fn check_families(peer: &schema::Peer, context: &Context<'_>) {
    let Some(families) = &peer.families else { return };

    for (family, first) in schema::repeated(families) {
        let message = format!("{} is already in {}", family.value, first.path);
        context
            .problems
            .error(family.location.problem(message, "keep one of the two"));
    }
    let (Some(address), Some(own)) = (&peer.address, context.node.addresses.fixed()) else {
        return;
    };
    for family in families {
        let is_of = |addr: &IpAddr| addr.is_ipv4() == (family.value == Family::Ipv4);
        if !is_of(&address.value) && !own.iter().any(is_of) {
            let message = format!(
                "{} routes need an {0} next hop, and node.addresses has none",
                family.value
            );
            context.problems.error(family.location.problem(
                message,
                "add the node's address of that family, or remove the family",
            ));
        }
    }
}

/// The model of a peer; `None` when something essential could not be read.
fn build(peer: &schema::Peer, context: &Context<'_>) -> Option<Peer> {
    let routing = routing(peer, context)?;
    let families = peer
        .families
        .as_ref()
        .map(|list| list.iter().map(|family| family.value).collect());
    let label = |(key, value): &(Located<String>, Located<String>)| (key.value.clone(), value.value.clone());
    let remote = remote(peer)?;
    let over_v6 = match &remote {
        Remote::Address(address) => address.is_ipv6(),
        Remote::Interface(_) => true,
        Remote::Range { prefix, .. } => prefix.family() == Family::Ipv6,
    };
    Some(Peer {
        name: routing.name.clone(),
        description: peer.description.as_ref().map(|text| text.value.clone()),
        of_mesh: false,
        selector: peer.node_selector.iter().map(label).collect(),
        remote,
        port: peer.port.as_ref().map_or(PORT, |port| port.value),
        remote_asn: peer_as::of(&peer.asn.as_ref()?.value, context.asn?),
        kind: routing.kind,
        transport: transport(peer, routing.kind),
        timers: Timers {
            hold: peer.hold.as_ref().map_or(HoldTime::DEFAULT, |hold| hold.value),
            connect_retry: peer
                .connect_retry
                .as_ref()
                .map_or(CONNECT_RETRY, |retry| retry.value),
        },
        bfd: peer
            .bfd
            .as_ref()
            .map(|written| super::bfd::towards(written, peer)),
        restart: Restart {
            time: Some(peer.restart_time.as_ref().map_or(RESTART_TIME, |time| time.value))
                .filter(|time| *time > 0),
            notification: is(&peer.restart_notification),
            long_lived: peer.long_lived.as_ref().map_or(0, |time| time.value),
        },
        extended_next_hop: peer.extended_next_hop.as_ref().map_or(over_v6, |on| on.value),
        add_path_receive: is(&peer.add_path_receive),
        add_path_send: peer
            .add_path_send
            .as_ref()
            .is_some_and(|most| most.value.is_some()),
        families: families.unwrap_or(FamilySet::ALL),
        strict_role: is(&peer.strict_role),
        shutdown: is(&peer.shutdown),
        routing,
        defaulted: defaulted(peer),
    })
}

fn routing(peer: &schema::Peer, context: &Context<'_>) -> Option<PeerRouting> {
    // Looked up first, so that an unknown name is reported whatever else is wrong.
    let policy = |names: &Option<Vec<Located<String>>>, direction| {
        let (names, about) = (names.as_ref()?, peer_as::facts(peer, context.asn));
        peer_as::check_policies(peer, names, context);
        context.policies.find(names, about, direction, context.problems)
    };
    let import = policy(&peer.import, Direction::Import);
    let export = policy(&peer.export, Direction::Export);
    let own_asn = context.asn?;
    let remote_asn = peer_as::of(&peer.asn.as_ref()?.value, own_asn);
    let kind = match (remote_asn.is_internal(own_asn), is(&peer.reflector_client)) {
        (false, _) => PeerKind::External,
        (true, false) => PeerKind::Internal,
        (true, true) => PeerKind::Client,
    };
    // RFC 8212 §2: towards another AS, nothing without a policy.
    let limits = if peer.listen_range.is_some() {
        &OF_NODE
    } else {
        &OF_PEER
    };
    let external = kind == PeerKind::External;
    let fallback = || {
        Arc::new(if external {
            Policy::reject_all()
        } else {
            Policy::accept_all()
        })
    };
    Some(PeerRouting {
        name: peer.name.as_ref()?.value.clone(),
        kind,
        local_asn: peer.local_as.as_ref().map_or(own_asn, |local| local.asn.value),
        remote_asn: remote_asn.only(),
        import: import.unwrap_or_else(fallback),
        export: export.unwrap_or_else(fallback),
        next_hop_self: is(&peer.next_hop_self),
        allow_own_as: peer.allow_own_as.as_ref().map_or(0, |count| count.value),
        max_prefixes: Some(peer.max_prefixes.as_ref().map_or(limits.prefixes(), max_prefixes)),
        max_memory: Some(peer.max_memory.as_ref().map_or(limits.memory, |most| most.value)),
        max_paths_per_prefix: peer
            .add_path_max
            .as_ref()
            .map_or(MAX_PATHS_PER_PREFIX, |most| most.value),
        rules: PathRules {
            local_as: peer.local_as.as_ref().map(|local| LocalAs {
                no_prepend: is(&local.no_prepend),
                replace_as: is(&local.replace_as),
            }),
            as_override: is(&peer.as_override),
            private_as: peer.private_as.as_ref().map_or(PrivateAs::Keep, |at| at.value),
            next_hop_unchanged: is(&peer.next_hop_unchanged),
            route_server: is(&peer.route_server_client),
            enforce_first_as: is(&peer.enforce_first_as),
            role: peer.role.as_ref().map(|role| role.value),
            add_path_limit: peer
                .add_path_send
                .as_ref()
                .and_then(|most| most.value)
                .unwrap_or(0),
        },
    })
}

fn remote(peer: &schema::Peer) -> Option<Remote> {
    if let Some(address) = &peer.address {
        return Some(Remote::Address(address.value));
    }
    if let Some(interface) = &peer.interface {
        return Some(Remote::Interface(interface.value.clone()));
    }
    let range = peer.listen_range.as_ref()?;
    Some(Remote::Range {
        prefix: range.value,
        limit: peer
            .listen_limit
            .as_ref()
            .map_or(LISTEN_LIMIT, |limit| limit.value),
    })
}

fn max_prefixes(written: &schema::MaxPrefixes) -> MaxPrefixes {
    let limit = written.limit.value;
    let share = |percent: u8| u64::from(limit) * u64::from(percent) / 100;
    MaxPrefixes {
        limit,
        // What is more than the limit is not, so that this always fits.
        warn_at: written
            .warn_at
            .as_ref()
            .and_then(|percent| u32::try_from(share(percent.value).max(1)).ok()),
        action: if is(&written.warn_only) {
            OverLimit::Warn
        } else {
            OverLimit::Cease {
                restart_after: written
                    .restart_after
                    .as_ref()
                    .map_or(Duration::ZERO, |after| after.value),
            }
        },
    }
}

fn is(flag: &Option<Located<bool>>) -> bool {
    flag.as_ref().is_some_and(|flag| flag.value)
}

fn transport(peer: &schema::Peer, kind: PeerKind) -> Transport {
    let ttl = match (&peer.ttl_security, &peer.multihop, kind) {
        (Some(hops), _, _) => Ttl::Security { hops: hops.value },
        (None, Some(ttl), _) => Ttl::Send(ttl.value),
        (None, None, PeerKind::External) => Ttl::Send(1),
        (None, None, _) => Ttl::Send(INTERNAL_TTL),
    };
    Transport {
        local_address: peer.local_address.as_ref().map(|local| local.value.clone()),
        ttl,
        password_file: peer.password.as_ref().map(|password| password.file.value.clone()),
        next_password_file: peer.password.as_ref().and_then(schema::Password::next),
        passive: is(&peer.passive) || peer.listen_range.is_some(),
    }
}

fn defaulted(peer: &schema::Peer) -> Vec<&'static str> {
    let fields = [
        ("port", peer.port.is_none()),
        ("timers.hold", peer.hold.is_none()),
        ("timers.connectRetry", peer.connect_retry.is_none()),
        ("gracefulRestart.restartTime", peer.restart_time.is_none()),
        ("families", peer.families.is_none()),
        ("ttl", peer.multihop.is_none() && peer.ttl_security.is_none()),
        ("maxPrefixes", peer.max_prefixes.is_none()),
        ("maxMemory", peer.max_memory.is_none()),
        ("import", peer.import.is_none()),
        ("export", peer.export.is_none()),
    ];
    fields
        .into_iter()
        .filter(|(_, absent)| *absent)
        .map(|(name, _)| name)
        .collect()
}

fn reason_to_skip(peer: &Peer, node: &Node) -> Option<String> {
    if node.name.as_ref() == Some(&peer.name) {
        return Some("it is this node itself, by name".to_owned());
    }
    if let (Some(own), Some(address)) = (node.addresses.fixed(), peer.remote.address())
        && own.contains(&address)
    {
        return Some(format!("it is this node itself, by address {address}"));
    }
    let (key, wanted) = peer
        .selector
        .iter()
        .find(|(key, wanted)| node.labels.get(*key) != Some(wanted))?;
    Some(match node.labels.get(key) {
        Some(value) => format!("nodeSelector wants {key}={wanted}, the node has {key}={value}"),
        None => format!("nodeSelector wants {key}={wanted}, the node has no label {key}"),
    })
}
