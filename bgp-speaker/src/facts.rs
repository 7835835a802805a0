//! What the host says of an established connection: our addresses and subnets on its interface.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bgp_proto::engine::SessionFacts;
use bgp_proto::session::Negotiated;
use bgp_proto::types::{Prefix, with_scope};
use bgp_proto::wire::{NextHop, RouteOp};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;

use crate::clock::now;
use crate::socket;

/// One address of an interface.
struct Address {
    interface: String,
    addr: IpAddr,
    subnet: Option<Prefix>,
}

/// The host's addresses, asked of the kernel once for sessions that come up together: a node has an interface for each pod.
#[derive(Default)]
pub(crate) struct Host {
    known: Mutex<Option<(Instant, Arc<[Address]>)>>,
}

/// For so long addresses are taken as they are known. Facts are those of the moment in which a session comes up, or so.
const FRESH: Duration = Duration::from_millis(100);

impl Host {
    /// All addresses, among them the local one of a connection that is up.
    fn addresses(&self, now: Instant, local: IpAddr) -> Arc<[Address]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |(at, all): &&(Instant, Arc<[Address]>)| {
            now.saturating_duration_since(*at) < FRESH && all.iter().any(|address| address.addr == local)
        };
        if let Some((_, all)) = known.as_ref().filter(fits) {
            return Arc::clone(all);
        }
        let all: Arc<[Address]> = addresses().into();
        *known = Some((now, Arc::clone(&all)));
        all
    }
}

/// Gathers the facts of a connection between two addresses.
pub(crate) fn session_facts(
    host: &Host,
    negotiated: Arc<Negotiated>,
    local: SocketAddr,
    remote: IpAddr,
) -> SessionFacts {
    let all = host.addresses(now(), local.ip().to_canonical());
    let scope = socket::scope(&local).and_then(socket::interface_name);
    let local = local.ip().to_canonical();
    let interface = all
        .iter()
        .filter(|address| scope.as_ref().is_none_or(|scope| *scope == address.interface))
        .find(|address| address.addr == local)
        .map(|address| address.interface.clone());
    let ours: Vec<&Address> = all
        .iter()
        .filter(|address| Some(&address.interface) == interface.as_ref())
        .collect();
    let direct = ours
        .iter()
        .any(|address| address.subnet.is_some_and(|subnet| subnet.contains_addr(remote)));
    let v4 = ours.iter().find_map(|address| as_v4(address.addr));
    let v6 = ours
        .iter()
        .find_map(|address| as_v6(address.addr).filter(|addr| !addr.is_unicast_link_local()));
    let link_local = ours
        .iter()
        .find_map(|address| as_v6(address.addr).filter(Ipv6Addr::is_unicast_link_local));
    let subnets = ours.iter().filter_map(|address| address.subnet);
    SessionFacts {
        negotiated,
        remote_addr: remote,
        local_v4: as_v4(local).or(v4),
        local_v6: as_v6(local).filter(|addr| !addr.is_unicast_link_local()).or(v6),
        link_local: link_local.filter(|_| direct),
        shared_subnets: if direct {
            subnets.filter(|subnet| !is_link_local(subnet)).collect()
        } else {
            Vec::new()
        },
    }
}

fn as_v4(addr: IpAddr) -> Option<std::net::Ipv4Addr> {
    match addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(addr: IpAddr) -> Option<Ipv6Addr> {
    match addr {
        IpAddr::V6(addr) => Some(addr),
        IpAddr::V4(_) => None,
    }
}

fn is_link_local(subnet: &Prefix) -> bool {
    matches!(subnet.addr(), IpAddr::V6(addr) if addr.is_unicast_link_local())
}

fn addresses() -> Vec<Address> {
    let Ok(list) = getifaddrs() else { return Vec::new() };
    list.filter_map(|entry| address(&entry)).collect()
}

fn address(entry: &InterfaceAddress) -> Option<Address> {
    let addr = ip(entry.address.as_ref()?)?;
    let subnet = entry
        .netmask
        .as_ref()
        .and_then(ip)
        .map(|mask| Prefix::new(addr, ones(mask)));
    Some(Address {
        interface: entry.interface_name.clone(),
        addr,
        subnet,
    })
}

fn ip(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
}

fn ones(mask: IpAddr) -> u8 {
    let bits = match mask {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    };
    u8::try_from(bits).unwrap_or(128)
}

/// A link-local next hop is on the link of the session (RFC 2545 §2).
pub(crate) fn give_scope(op: &mut RouteOp, scope: u32) {
    let RouteOp::Announce { attrs, .. } = op else {
        return;
    };
    let link_local = match attrs.next_hop {
        NextHop::V6(addr) if addr.is_unicast_link_local() => addr,
        NextHop::V6Pair(global, local) if global.is_unspecified() || global.is_unicast_link_local() => local,
        _ => return,
    };
    attrs.next_hop = NextHop::V6(with_scope(link_local, scope));
}
