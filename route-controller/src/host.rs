//! What the agent finds out about its host: the uplink, its addresses, MTU, the router id.
//!
//! Pure, over the mirror of the kernel. The uplink is the interface that leads to the first peer, or else
//! that of a default route.

use std::net::{IpAddr, Ipv4Addr};

use bgp_proto::types::RouterId;
use podroute_config::{Auto, Config};

use crate::fib::Mirror;

/// The node as it is described to the CNI plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// Octets that fit through the uplink.
    pub(crate) mtu: u32,
    /// The node's own addresses, the preferred one of each family first.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) router_id: RouterId,
}

/// Why the host gives no router id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the host has no address to make a BGP identifier of; set node.routerId to any IPv4-like number unique in the AS"
)]
pub(crate) struct NoRouterId;

const DEFAULT_MTU: u32 = 1500;

/// Resolves what the configuration leaves to the agent.
pub(crate) fn find_out(config: &Config, mirror: &Mirror) -> Result<Host, NoRouterId> {
    let uplink = uplink(config, mirror);
    let addresses = match &config.node.addresses {
        Auto::Fixed(addresses) => addresses.clone(),
        Auto::Auto => preferred(mirror, uplink),
    };
    let router_id = match config.node.router_id {
        Auto::Fixed(id) => id,
        Auto::Auto => derived_id(&addresses).ok_or(NoRouterId)?,
    };
    let mtu = match config.node.mtu {
        Auto::Fixed(mtu) => u32::from(mtu),
        Auto::Auto => uplink
            .and_then(|index| mirror.links.get(&index))
            .map_or(DEFAULT_MTU, |link| link.mtu),
    };
    Ok(Host {
        mtu,
        addresses,
        router_id,
    })
}

fn uplink(config: &Config, mirror: &Mirror) -> Option<u32> {
    let to_peers = config
        .peers
        .iter()
        .filter_map(|peer| peer.remote.address())
        .flat_map(|address| mirror.links_towards(address));
    to_peers
        .chain(mirror.default_links())
        .find(|index| mirror.links.get(index).is_some_and(|link| !link.loopback))
}

/// The uplink's addresses, IPv4 first, one per family; without an uplink, the host's.
fn preferred(mirror: &Mirror, uplink: Option<u32>) -> Vec<IpAddr> {
    let global = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
    };
    let wanted = mirror
        .addresses
        .iter()
        .filter(|address| uplink.is_none_or(|index| address.ifindex == index));
    let all: Vec<IpAddr> = wanted.map(|address| address.addr).filter(global).collect();
    let first = |v4: bool| all.iter().copied().find(|addr| addr.is_ipv4() == v4);
    [first(true), first(false)].into_iter().flatten().collect()
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
