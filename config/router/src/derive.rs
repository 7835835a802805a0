//! From a node's configuration to what its routers need.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use bgp_proto::engine::PeerKind;
use bgp_proto::types::{Family, PeerAs, Prefix};
use podroute_config::{ClusterFacts, Config, LocalAddress, Mesh, NodeAddresses, Peer, Remote};

use crate::side::{self, Bfd, Group, Member, NodeAs, OwnAs, PrefixRange, Session, Side, Ttl, family_of};

/// What the configuration does not say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// These peers are one router. Empty: all routers.
    pub peers: Vec<String>,
    /// Where nodes are. Empty: the addresses that are known.
    pub nodes: Vec<Prefix>,
    /// Each node has an AS of its own.
    pub any_as: bool,
    /// Most prefixes per family that the router accepts of a node.
    pub max_prefixes: u32,
    /// Most sessions with a range of nodes.
    pub limit: u32,
    /// The router's interface of a session without addresses.
    pub interface: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            peers: Vec::new(),
            nodes: Vec::new(),
            any_as: false,
            max_prefixes: 500,
            limit: 200,
            interface: "swp1".to_owned(),
        }
    }
}

/// Why nothing can be derived.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeriveError {
    /// No such peer.
    #[error("this node has no peer '{0}'; its peers are: {1}")]
    NoPeer(String, String),
    /// No router.
    #[error(
        "this node has no peer that is a router: no eBGP peer with an address or interface; name peers with --peer"
    )]
    NoRouter,
    /// Peers of one router differ in AS.
    #[error(
        "peers '{0}' and '{1}' have different AS numbers, and cannot be one router; name one of them with --peer"
    )]
    TwoRouters(String, String),
    /// A range says nothing of the router.
    #[error(
        "peer '{0}' is a listenRange, which does not say where the router is; write a peer with its address"
    )]
    Range(String),
    /// The router's AS is not in the file.
    #[error(
        "peer '{0}' has asn: {1}, which does not say the router's AS; write the router's own AS number there"
    )]
    UnknownAs(String, PeerAs),
}

/// What each router of this node needs.
///
/// # Errors
/// The peers that were asked for are no router.
pub fn sides(
    config: &Config,
    facts: Option<&ClusterFacts>,
    options: &Options,
) -> Result<Vec<Side>, DeriveError> {
    let routers = if options.peers.is_empty() {
        all_routers(config)?
    } else {
        vec![one_router(config, &options.peers)?]
    };
    let side = |peers: Vec<&Peer>| side(config, facts, options, &peers);
    routers.into_iter().map(side).collect()
}

fn one_router<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Peer>, DeriveError> {
    let find = |name: &String| {
        let found = config.peers.iter().find(|peer| peer.name == *name);
        let known = || {
            config
                .peers
                .iter()
                .map(|peer| peer.name.as_str())
                .collect::<Vec<_>>()
        };
        found.ok_or_else(|| DeriveError::NoPeer(name.escape_debug().to_string(), known().join(", ")))
    };
    let peers: Vec<&Peer> = names.iter().map(find).collect::<Result<_, _>>()?;
    for peer in &peers {
        if matches!(peer.remote, Remote::Range { .. }) {
            return Err(DeriveError::Range(peer.name.clone()));
        }
    }
    if let Some((first, other)) = peers.first().and_then(|first| {
        Some((
            first,
            peers.iter().find(|one| one.remote_asn != first.remote_asn)?,
        ))
    }) {
        return Err(DeriveError::TwoRouters(first.name.clone(), other.name.clone()));
    }
    Ok(peers)
}

/// eBGP peers, where the session over IPv6 belongs to the router whose name its own name begins with.
fn all_routers(config: &Config) -> Result<Vec<Vec<&Peer>>, DeriveError> {
    let mut routers: Vec<Vec<&Peer>> = Vec::new();
    let is_router = |peer: &&Peer| {
        peer.kind == PeerKind::External && !peer.of_mesh && !matches!(peer.remote, Remote::Range { .. })
    };
    for peer in config.peers.iter().filter(is_router) {
        let belongs = |router: &&mut Vec<&Peer>| {
            router.first().is_some_and(|first| {
                peer.name.starts_with(&first.name)
                    && peer.remote_asn == first.remote_asn
                    && peer.remote.address().map(family_of) != first.remote.address().map(family_of)
            })
        };
        match routers.iter_mut().find(belongs) {
            Some(router) => router.push(peer),
            None => routers.push(vec![peer]),
        }
    }
    if routers.is_empty() {
        return Err(DeriveError::NoRouter);
    }
    Ok(routers)
}

fn side(
    config: &Config,
    facts: Option<&ClusterFacts>,
    options: &Options,
    peers: &[&Peer],
) -> Result<Side, DeriveError> {
    let first = peers.first().ok_or(DeriveError::NoRouter)?;
    let asn = first
        .remote_asn
        .only()
        .ok_or_else(|| DeriveError::UnknownAs(first.name.clone(), first.remote_asn.clone()))?;
    let router_id = peers.iter().find_map(|peer| match peer.remote.address() {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    });
    let groups = peers
        .iter()
        .map(|peer| group(config, facts, options, peer))
        .collect();
    Ok(Side {
        asn,
        router_id: router_id.filter(|id| *id != Ipv4Addr::UNSPECIFIED),
        groups,
        permits: permits(config, facts),
    })
}

fn group(config: &Config, facts: Option<&ClusterFacts>, options: &Options, peer: &Peer) -> Group {
    let members = members(config, facts, options, peer);
    let node_as = if options.any_as {
        NodeAs::Any
    } else {
        NodeAs::One(peer.routing.local_asn)
    };
    let is_shared = node_as != NodeAs::Any
        && (config.cluster.asn == Some(config.node.asn)
            || members.len() > 1
            || members.iter().any(|member| matches!(member, Member::Range(_))));
    Group {
        peer: peer.name.clone(),
        router: peer.remote.address(),
        node_as,
        limit: options.limit,
        originated: config.originated().into_iter().map(|one| one.prefix).collect(),
        session: session(config, options, peer, is_shared),
        members,
    }
}

fn session(config: &Config, options: &Options, peer: &Peer, shared_as: bool) -> Session {
    let is_external = peer.kind == PeerKind::External;
    let ttl = match peer.transport.ttl {
        podroute_config::Ttl::Security { hops } => Ttl::Security(hops),
        podroute_config::Ttl::Send(hops) if is_external && hops > 1 => Ttl::Multihop(hops),
        podroute_config::Ttl::Send(_) => Ttl::Direct,
    };
    let bfd = peer.bfd.as_ref().map(|bfd| Bfd {
        interval: u32::try_from(bfd.interval.as_millis()).unwrap_or(u32::MAX),
        multiplier: bfd.multiplier,
        multihop: bfd.multihop,
    });
    // Nodes that know each other directly do not need the router's paths to each other.
    let is_apart =
        config.mesh == Mesh::Off && !config.peers.iter().any(|peer| peer.kind != PeerKind::External);
    let own_as = match (is_external && shared_as, peer.routing.allow_own_as) {
        (true, 1..) => OwnAs::Send,
        (true, 0) if is_apart => OwnAs::Override,
        _ => OwnAs::NotNeeded,
    };
    let over_v6 = match peer.remote {
        Remote::Address(address) => address.is_ipv6(),
        Remote::Interface(_) => true,
        Remote::Range { prefix, .. } => prefix.family() == Family::Ipv6,
    };
    Session {
        families: peer.families,
        password: peer.transport.password_file.is_some(),
        ttl,
        bfd,
        hold: peer.timers.hold.seconds(),
        graceful_restart: peer.restart.time.is_some(),
        node_waits: peer.transport.passive,
        extended_next_hop: over_v6 && peer.extended_next_hop && peer.families.contains(Family::Ipv4),
        max_prefixes: options.max_prefixes,
        own_as,
    }
}

/// Where nodes are, as far as something says so.
fn members(config: &Config, facts: Option<&ClusterFacts>, options: &Options, peer: &Peer) -> Vec<Member> {
    let Some(router) = peer.remote.address() else {
        return vec![Member::Interface(options.interface.clone())];
    };
    let family = family_of(router);
    let member = |prefix: &Prefix| {
        if prefix.len() == family.max_len() {
            Member::Address(prefix.addr())
        } else {
            Member::Range(*prefix)
        }
    };
    let of_prefixes = |prefixes: &[Prefix]| -> Vec<Member> {
        let same = prefixes.iter().filter(|prefix| prefix.family() == family);
        same.map(member).collect()
    };
    let of_addresses = |addresses: &[IpAddr]| -> Vec<Member> {
        let first = addresses.iter().find(|address| family_of(**address) == family);
        first
            .map(|address| Member::Address(*address))
            .into_iter()
            .collect()
    };
    let found = of_prefixes(&options.nodes);
    if !found.is_empty() {
        return found;
    }
    // The address on an interface is the node's own affair: its addresses in the file are taken.
    if let Some(LocalAddress::Address(local)) = peer.transport.local_address {
        return vec![Member::Address(local)];
    }
    let found = match &config.node.addresses {
        NodeAddresses::Fixed(addresses) => of_addresses(addresses),
        NodeAddresses::Cidrs(cidrs) => of_prefixes(cidrs),
        NodeAddresses::Auto | NodeAddresses::InternalIp => of_addresses(&config.node.internal),
    };
    // All nodes that have this peer.
    let has_peer = |node: &&podroute_config::NodeFact| {
        peer.selector
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value))
    };
    let nodes = facts
        .iter()
        .flat_map(|facts| facts.nodes.values())
        .filter(has_peer);
    let all: Vec<Member> = nodes.flat_map(|node| of_addresses(&node.addresses)).collect();
    if all.is_empty() { found } else { all }
}

/// Lengths that blocks of a family usually have.
fn usual_lengths(family: Family) -> (u8, u8) {
    match family {
        Family::Ipv4 => (24, 28),
        Family::Ipv6 => (64, 64),
    }
}

fn permits(config: &Config, facts: Option<&ClusterFacts>) -> Vec<PrefixRange> {
    let of_others = facts
        .iter()
        .flat_map(|facts| facts.nodes.values())
        .flat_map(|node| &node.blocks);
    let blocks: Vec<&Prefix> = config.node.blocks.iter().chain(of_others).collect();
    let of_pods = |cidr: &Prefix| {
        let (min, max) = usual_lengths(cidr.family());
        let lengths: Vec<u8> = blocks
            .iter()
            .filter(|block| cidr.contains(block))
            .map(|block| block.len())
            .collect();
        PrefixRange {
            prefix: *cidr,
            min: lengths.iter().copied().fold(min, u8::min).max(cidr.len()),
            max: lengths.iter().copied().fold(max, u8::max).max(cidr.len()),
        }
    };
    let pods = config.cluster.pod_cidrs.iter().map(of_pods);
    let services = config.services.ranges.iter().map(|range| PrefixRange {
        prefix: *range,
        min: range.family().max_len(),
        max: range.family().max_len(),
    });
    let single = config.originated().into_iter().map(|one| one.prefix);
    let single = single.chain(config.originate.iter().map(|rule| rule.prefix));
    let mut all: Vec<PrefixRange> = pods.chain(services).collect();
    let single: BTreeSet<Prefix> = single.collect();
    for prefix in single {
        if !all.iter().any(|range| range.contains(&prefix)) {
            all.push(side::PrefixRange::exact(prefix));
        }
    }
    all.sort_by_key(|range| range.prefix.family());
    all
}
