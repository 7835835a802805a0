//! Host facts of an established connection: our addresses and subnets on its interface, and their changes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bgp_proto::engine::SessionFacts;
use bgp_proto::session::Negotiated;
use bgp_proto::types::{Prefix, with_scope};
use bgp_proto::wire::{NextHop, RouteOp};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::{socket, sockopt};

/// Wait after the addresses could not be read.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An address of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Address {
    interface: String,
    addr: IpAddr,
    subnet: Option<Prefix>,
}

/// The host's addresses. They are read again after each change reported by the kernel. Only sessions on the
/// interface concerned are woken, since a node has an interface per pod.
pub(crate) struct Host {
    known: Mutex<Arc<[Address]>>,
    /// Notifies of address changes, by interface name.
    interfaces: Mutex<BTreeMap<String, watch::Sender<u64>>>,
    /// The kernel reports changes; otherwise addresses are read for each session.
    is_watched: AtomicBool,
    watcher: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Drop for Host {
    fn drop(&mut self) {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watcher) = watcher {
            watcher.abort();
        }
    }
}

impl Host {
    /// Reads the addresses and watches them. Must be called inside a tokio runtime.
    pub(crate) fn start() -> Arc<Self> {
        let socket = netlink_socket();
        let host = Arc::new(Self {
            known: Mutex::new(addresses().unwrap_or_default().into()),
            interfaces: Mutex::default(),
            is_watched: AtomicBool::new(socket.is_ok()),
            watcher: Mutex::default(),
        });
        match socket {
            Ok(socket) => {
                let task = tokio::spawn(watch_addresses(socket, Arc::downgrade(&host)));
                *host.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
            }
            Err(error) => tracing::warn!(
                event = "address_watch_failed",
                %error,
                "cannot watch the host's addresses; a session whose local address is removed ends only with its hold timer"
            ),
        }
        host
    }

    fn addresses(&self) -> Arc<[Address]> {
        if !self.is_watched.load(Ordering::Relaxed)
            && let Ok(addresses) = addresses()
        {
            return addresses.into();
        }
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the address is configured on an interface (not just inside a subnet, as most of 127.0.0.0/8).
    pub(crate) fn has(&self, addr: IpAddr) -> bool {
        self.addresses().iter().any(|known| known.addr == addr)
    }

    /// Subscribes to address changes of an interface.
    pub(crate) fn subscribe(&self, interface: &str) -> watch::Receiver<u64> {
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        interfaces.retain(|_, sender| sender.receiver_count() > 0);
        let sender = interfaces
            .entry(interface.to_owned())
            .or_insert_with(|| watch::channel(0).0);
        sender.subscribe()
    }

    /// Applies a new reading; returns false if it failed.
    fn apply_reading(&self, reading: io::Result<Vec<Address>>) -> bool {
        match reading {
            Ok(new) => {
                self.update(new);
                true
            }
            Err(error) => {
                tracing::warn!(event = "address_read_failed", %error, "cannot read the host's addresses; retrying");
                false
            }
        }
    }

    /// Applies a new reading and notifies interfaces whose addresses changed.
    fn update(&self, new: Vec<Address>) {
        let new: Arc<[Address]> = new.into();
        let old = std::mem::replace(
            &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner),
            Arc::clone(&new),
        );
        let of = |all: &[Address], interface: &str| -> Vec<Address> {
            all.iter()
                .filter(|address| address.interface == interface)
                .cloned()
                .collect()
        };
        let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        for (interface, sender) in &*interfaces {
            if of(&old, interface) != of(&new, interface) {
                sender.send_modify(|changes| *changes += 1);
            }
        }
    }

    /// The interface with this address; if there are several, the one of the scope.
    pub(crate) fn interface_of(&self, local: &SocketAddr) -> Option<String> {
        let scope = socket::scope(local).and_then(socket::interface_name);
        let local = local.ip().to_canonical();
        let all = self.addresses();
        let mut candidates = all
            .iter()
            .filter(|address| scope.as_ref().is_none_or(|scope| *scope == address.interface));
        let found = candidates.find(|address| address.addr == local);
        found.map(|address| address.interface.clone())
    }
}

/// A netlink socket for address changes.
fn netlink_socket() -> io::Result<AsyncFd<socket2::Socket>> {
    use nix::sys::socket as sys;
    let socket = sys::socket(
        sys::AddressFamily::Netlink,
        sys::SockType::Raw,
        sys::SockFlag::SOCK_CLOEXEC | sys::SockFlag::SOCK_NONBLOCK,
        sys::SockProtocol::NetlinkRoute,
    )?;
    let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
    sys::bind(
        socket.as_raw_fd(),
        &sys::NetlinkAddr::new(0, groups.cast_unsigned()),
    )?;
    sockopt::watched(socket.into())
}

/// Reads the addresses again after each burst of notifications. Their content is ignored, so that a lost one
/// does no harm. If the addresses cannot be read (too many open files), the last reading stays in effect.
async fn watch_addresses(socket: AsyncFd<socket2::Socket>, host: Weak<Host>) {
    let mut retry_read = false;
    loop {
        let ready = tokio::select! {
            ready = socket.readable() => Some(ready),
            () = tokio::time::sleep(RETRY_AFTER), if retry_read => None,
        };
        if let Some(Err(_)) = ready {
            return;
        }
        let mut buffer = [0; 8192];
        loop {
            match nix::unistd::read(socket.get_ref(), &mut buffer) {
                Ok(0) => return,
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(_) => break,
            }
        }
        if let Some(Ok(mut ready)) = ready {
            ready.clear_ready();
        }
        let Some(host) = host.upgrade() else { return };
        retry_read = !host.apply_reading(addresses());
    }
}

/// Host facts of a connection between two addresses.
pub(crate) fn session_facts(
    host: &Host,
    negotiated: Arc<Negotiated>,
    local: SocketAddr,
    remote: IpAddr,
) -> SessionFacts {
    let all = host.addresses();
    let interface = host.interface_of(&local);
    let local = local.ip().to_canonical();
    let own_addresses: Vec<&Address> = all
        .iter()
        .filter(|address| Some(&address.interface) == interface.as_ref())
        .collect();
    let direct = own_addresses
        .iter()
        .any(|address| address.subnet.is_some_and(|subnet| subnet.contains_addr(remote)));
    let v4 = own_addresses.iter().find_map(|address| as_v4(address.addr));
    let v6 = own_addresses
        .iter()
        .find_map(|address| as_v6(address.addr).filter(|addr| !addr.is_unicast_link_local()));
    let link_local = own_addresses
        .iter()
        .find_map(|address| as_v6(address.addr).filter(Ipv6Addr::is_unicast_link_local));
    let subnets = own_addresses.iter().filter_map(|address| address.subnet);
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

fn addresses() -> io::Result<Vec<Address>> {
    Ok(getifaddrs()?.filter_map(|entry| address(&entry)).collect())
}

fn address(entry: &InterfaceAddress) -> Option<Address> {
    let addr = ip(entry.address.as_ref()?)?;
    let subnet = entry
        .netmask
        .as_ref()
        .and_then(ip)
        .map(|mask| Prefix::new(addr, prefix_len(mask)));
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

fn prefix_len(mask: IpAddr) -> u8 {
    let bits = match mask {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    };
    u8::try_from(bits).unwrap_or(128)
}

/// A link-local next hop is on the link of the session (RFC 2545 §2).
pub(crate) fn set_link_scope(op: &mut RouteOp, scope: u32) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: &str, last: u8) -> Address {
        Address {
            interface: interface.to_owned(),
            addr: [192, 0, 2, last].into(),
            subnet: Some("192.0.2.0/24".parse().unwrap()),
        }
    }

    fn host(known: Vec<Address>) -> Host {
        Host {
            known: Mutex::new(known.into()),
            interfaces: Mutex::default(),
            is_watched: AtomicBool::new(true),
            watcher: Mutex::default(),
        }
    }

    /// Too many open files for a while: no session may end.
    #[test]
    fn addresses_that_cannot_be_read_stay() {
        let host = host(vec![address("eth0", 1), address("pod1", 2)]);
        let eth0 = host.subscribe("eth0");
        assert!(!host.apply_reading(Err(io::ErrorKind::OutOfMemory.into())));
        assert!(host.has([192, 0, 2, 1].into()));
        assert!(!eth0.has_changed().unwrap());
    }

    #[test]
    fn the_sessions_of_an_interface_wake_for_it_alone() {
        let host = host(vec![address("eth0", 1), address("pod1", 2)]);
        let (mut eth0, pod1) = (host.subscribe("eth0"), host.subscribe("pod1"));
        let again = host.subscribe("eth0");
        assert!(host.apply_reading(Ok(vec![
            address("eth0", 3),
            address("pod1", 2),
            address("pod2", 4)
        ])));
        assert!(eth0.has_changed().unwrap() && again.has_changed().unwrap());
        assert!(!pod1.has_changed().unwrap());
        eth0.mark_unchanged();
        assert!(!host.has([192, 0, 2, 1].into()) && host.has([192, 0, 2, 3].into()));
        assert!(host.apply_reading(Ok(vec![address("eth0", 3)])));
        assert!(!eth0.has_changed().unwrap() && pod1.has_changed().unwrap());
        drop((eth0, again, pod1));
        drop(host.subscribe("eth1"));
        drop(host.subscribe("eth2"));
        let interfaces = host.interfaces.lock().unwrap();
        assert!(interfaces.len() <= 1, "the other subscriptions were dropped");
    }
}
