//! Facts of the host: the uplink, its addresses, MTU, the router id.
//!
//! Pure, over the mirror of the kernel. The uplink is the interface that leads to the first peer, or else that of a default
//! route. Addresses that come and go are not what the node is known by: those of keepalived or kube-vip (/32 or /128 beside a
//! subnet's address), secondary, deprecated, temporary and tentative ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bgp_proto::types::{Family, Prefix, RouterId};
use podroute_config::{Auto, Config, LocalAddress, NodeAddresses, Peer, RouterIdChoice};

use crate::fib::{Address, AddressState, Mirror};

/// The node as it is described to the CNI plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// Octets that fit through the uplink.
    pub(crate) mtu: u32,
    /// The node's own addresses, the preferred one of each family first.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) router_id: RouterId,
    /// Addresses of the interfaces that a peer's `localAddress` names.
    pub(crate) sources: BTreeMap<String, Vec<IpAddr>>,
}

impl Host {
    /// The source address of connections to a peer; `None` is the kernel's choice.
    ///
    /// # Errors
    /// The interface that has no address of the peer's family.
    pub(crate) fn local_address(&self, peer: &Peer) -> Result<Option<IpAddr>, NoSource> {
        let name = match &peer.transport.local_address {
            None => return Ok(None),
            Some(LocalAddress::Address(address)) => return Ok(Some(*address)),
            Some(LocalAddress::Interface(name)) => name,
        };
        let v4 = peer.remote.address().is_none_or(|remote| remote.is_ipv4());
        let found = self.sources.get(name).into_iter().flatten();
        let found = found.copied().find(|address| address.is_ipv4() == v4);
        let family = if v4 { Family::Ipv4 } else { Family::Ipv6 };
        found.map(Some).ok_or_else(|| NoSource(name.clone(), family))
    }
}

/// An interface that has no address of a family.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "localAddress: interface {0} has no {1} address that lasts; add one with `ip address add`, or name another interface"
)]
pub(crate) struct NoSource(String, Family);

/// Why the host gives no router id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the host has no address to make a BGP identifier of; set node.routerId to any IPv4-like number unique in the AS"
)]
pub(crate) struct NoRouterId;

const DEFAULT_MTU: u32 = 1500;

/// What the operator leaves to the host, and how.
#[derive(Clone, Debug)]
pub(crate) struct HostChoice {
    addresses: NodeAddresses,
    router_id: RouterIdChoice,
    mtu: Auto<u16>,
    /// The Node object's InternalIP addresses.
    internal: Vec<IpAddr>,
    /// Peers' addresses, in the file's order.
    peers: Vec<IpAddr>,
    /// Interfaces whose addresses are the source of connections.
    sources: BTreeSet<String>,
    /// The identifier of an earlier start, or the current one.
    kept_router_id: Option<RouterId>,
}

impl HostChoice {
    pub(crate) fn of(config: &Config, kept: Option<RouterId>) -> Self {
        let node = &config.node;
        Self {
            addresses: node.addresses.clone(),
            router_id: node.router_id,
            mtu: node.mtu,
            internal: node.internal.clone(),
            peers: config
                .peers
                .iter()
                .filter_map(|peer| peer.remote.address())
                .collect(),
            sources: config
                .peers
                .iter()
                .filter_map(|peer| match &peer.transport.local_address {
                    Some(LocalAddress::Interface(name)) => Some(name.clone()),
                    _ => None,
                })
                .collect(),
            kept_router_id: kept,
        }
    }

    /// Whether the identifier is derived, and thus kept.
    pub(crate) fn keeps_router_id(&self) -> bool {
        !matches!(self.router_id, RouterIdChoice::Fixed(_))
    }

    /// Resolves what the configuration leaves to the agent.
    pub(crate) fn find_out(&self, mirror: &Mirror) -> Result<Host, NoRouterId> {
        let routes = self.ways(mirror);
        let addresses = self.addresses(mirror, &routes);
        let mtu = match self.mtu {
            Auto::Fixed(mtu) => u32::from(mtu),
            Auto::Auto => {
                let uplink = routes.first().and_then(|way| mirror.links.get(&way.ifindex));
                uplink.map_or(DEFAULT_MTU, |link| link.mtu)
            }
        };
        Ok(Host {
            mtu,
            router_id: self.router_id(mirror, &addresses).ok_or(NoRouterId)?,
            addresses,
            sources: self
                .sources
                .iter()
                .map(|name| (name.clone(), of_name(mirror, name)))
                .collect(),
        })
    }

    /// Ways out of the host, the first peer's first.
    fn ways(&self, mirror: &Mirror) -> Vec<Uplink> {
        let to_peers = self.peers.iter().flat_map(|peer| mirror.uplinks_towards(*peer));
        let all = to_peers.chain(mirror.default_uplinks());
        all.filter(|way| mirror.links.get(&way.ifindex).is_some_and(|link| !link.loopback))
            .collect()
    }

    fn addresses(&self, mirror: &Mirror, ways: &[Uplink]) -> Vec<IpAddr> {
        let internal = || -> Vec<IpAddr> {
            let own = self.internal.iter().copied().filter(|addr| mirror.is_own(*addr));
            own.collect()
        };
        match &self.addresses {
            NodeAddresses::Fixed(addresses) => addresses.clone(),
            NodeAddresses::InternalIp => internal(),
            NodeAddresses::Cidrs(cidrs) => {
                let within = |cidr: &Prefix| in_prefix(mirror, *cidr);
                let mut found: Vec<IpAddr> = Vec::new();
                for addr in cidrs.iter().flat_map(within) {
                    if !found.contains(&addr) {
                        found.push(addr);
                    }
                }
                found
            }
            NodeAddresses::Auto => {
                let internal = internal();
                let of = |family: Family| {
                    let given = internal.iter().copied().find(|addr| family_of(*addr) == family);
                    given.or_else(|| preferred(mirror, ways, family))
                };
                [of(Family::Ipv4), of(Family::Ipv6)]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        }
    }

    fn router_id(&self, mirror: &Mirror, addresses: &[IpAddr]) -> Option<RouterId> {
        let in_cidr = |cidr: Prefix| {
            let v4 = in_prefix(mirror, cidr).into_iter().find_map(|addr| match addr {
                IpAddr::V4(addr) => RouterId::from_ipv4(addr),
                IpAddr::V6(_) => None,
            });
            v4.or(self.kept_router_id)
        };
        match self.router_id {
            RouterIdChoice::Fixed(id) => return Some(id),
            RouterIdChoice::Cidr(cidr) => in_cidr(cidr),
            RouterIdChoice::Auto => self.kept_router_id,
        }
        .or_else(|| derived_id(addresses))
    }
}

/// An interface over which packets leave the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Uplink {
    pub(crate) ifindex: u32,
    /// The preferred source of the route.
    pub(crate) source: Option<IpAddr>,
    /// The gateway, or the destination itself.
    pub(crate) next: Option<IpAddr>,
}

fn family_of(addr: IpAddr) -> Family {
    Prefix::host(addr).family()
}

fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local() && !addr.is_unspecified(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local() && !addr.is_unspecified(),
    }
}

/// Addresses of a family that the node may be known by, on the links that `wanted` takes.
fn lasting(mirror: &Mirror, family: Family, wanted: impl Fn(u32) -> bool) -> Vec<Address> {
    let all = mirror.addresses.iter();
    let of = |(address, state): (&Address, &AddressState)| {
        let fits = *state == AddressState::Preferred
            && is_global(address.addr)
            && family_of(address.addr) == family
            && wanted(address.ifindex);
        fits.then_some(*address)
    };
    all.filter_map(of).collect()
}

fn is_single(address: &Address) -> bool {
    address.len == Prefix::host(address.addr).len()
}

/// The lasting addresses of the interface with this name, those of subnets first.
fn of_name(mirror: &Mirror, name: &str) -> Vec<IpAddr> {
    let links = mirror.links.iter().filter(|(_, link)| link.name == name);
    let mut found: Vec<Address> = links
        .flat_map(|(index, _)| Family::ALL.map(|family| lasting(mirror, family, |other| other == *index)))
        .flatten()
        .collect();
    found.sort_by_key(|address| (is_single(address), address.addr));
    found.into_iter().map(|address| address.addr).collect()
}

/// The lasting addresses of a link, without a /32 or /128 beside a subnet's address.
fn of_link(mirror: &Mirror, family: Family, ifindex: u32) -> Vec<Address> {
    let all = lasting(mirror, family, |index| index == ifindex);
    let has_subnet = all.iter().any(|address| !is_single(address));
    all.into_iter()
        .filter(|address| !has_subnet || !is_single(address))
        .collect()
}

/// The host's addresses in a prefix, those of subnets first.
fn in_prefix(mirror: &Mirror, prefix: Prefix) -> Vec<IpAddr> {
    let mut found = lasting(mirror, prefix.family(), |_| true);
    found.retain(|address| prefix.contains(&Prefix::host(address.addr)));
    found.sort_by_key(|address| (is_single(address), address.addr));
    found.into_iter().map(|address| address.addr).collect()
}

/// The address of a family that the kernel sends from.
fn preferred(mirror: &Mirror, ways: &[Uplink], family: Family) -> Option<IpAddr> {
    for way in ways {
        let candidates = of_link(mirror, family, way.ifindex);
        let given = way.source.filter(|source| family_of(*source) == family);
        let all = lasting(mirror, family, |_| true);
        if let Some(source) = given.filter(|source| all.iter().any(|address| address.addr == *source))
            && (candidates.is_empty() || candidates.iter().any(|address| address.addr == source))
        {
            return Some(source);
        }
        // An address of the subnet that the next hop is in, else the longest match (RFC 6724 §5, rule 8).
        let subnet = |address: &Address| {
            let net = Prefix::new(address.addr, address.len);
            way.next.is_some_and(|next| net.contains(&Prefix::host(next)))
        };
        let best = candidates
            .iter()
            .find(|address| subnet(address))
            .or(candidates.first());
        if let Some(best) = best {
            return Some(best.addr);
        }
    }
    let of_kind = |loopback: bool| {
        let is_kind = |index: u32| {
            mirror
                .links
                .get(&index)
                .is_some_and(|link| link.loopback == loopback)
        };
        let mut found = lasting(mirror, family, is_kind);
        found.sort_by_key(is_single);
        found.first().map(|address| address.addr)
    };
    match ways {
        // An address of the loopback interface, which a router knows the way to. Without a way out, any.
        [] => of_kind(false).or_else(|| of_kind(true)),
        _ => of_kind(true),
    }
}

/// The first IPv4 address, or a number folded out of an IPv6 address.
fn derived_id(addresses: &[IpAddr]) -> Option<RouterId> {
    let v4 = addresses.iter().find_map(|addr| match addr {
        IpAddr::V4(addr) => RouterId::from_ipv4(*addr),
        IpAddr::V6(_) => None,
    });
    v4.or_else(|| {
        addresses.iter().find_map(|addr| match addr {
            IpAddr::V6(addr) => {
                let [a, b, c, d]: [u32; 4] =
                    std::array::from_fn(|word| (addr.to_bits() >> (96 - 32 * word)) as u32);
                RouterId::from_ipv4(Ipv4Addr::from_bits(
                    a.rotate_left(7) ^ b.rotate_left(13) ^ c.rotate_left(19) ^ d,
                ))
            }
            IpAddr::V4(_) => None,
        })
    })
}

#[cfg(test)]
mod tests;
