//! A pod of this node: its interface from both ends, and its sockets.

use std::fs::File;
use std::net::IpAddr;

use cni_ipam::{AttachmentInfo, NetnsStatus};

use crate::explain::PodFacts;
use crate::kernel_view::{Kernel, Link};

pub(super) fn facts(
    info: &AttachmentInfo,
    address: IpAddr,
    port: Option<&str>,
    kernel: &Kernel,
    links: &[Link],
    is_own_address: bool,
) -> PodFacts {
    let link = links
        .iter()
        .find(|link| link.name == info.host_interface)
        .cloned();
    let inside = inside(&info.netns, |_| Some(look_inside(&info.ifname, address, port)));
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("#{index}"), |link| link.name.clone())
    };
    let routes = kernel.host_routes(address).unwrap_or_default();
    PodFacts {
        interface: info.host_interface.clone(),
        is_complete: info.complete,
        is_gone: info.netns_status == NetnsStatus::Gone,
        link,
        is_up_inside: inside.as_ref().and_then(|inside| inside.is_up),
        route_interfaces: routes.into_iter().map(name).collect(),
        is_own_address,
        listens: inside.and_then(|inside| inside.listens),
    }
}

struct Inside {
    is_up: Option<bool>,
    listens: Option<bool>,
}

fn look_inside(ifname: &str, address: IpAddr, port: Option<&str>) -> Inside {
    let links = Kernel::open().and_then(|kernel| kernel.links()).ok();
    let link = links.and_then(|links| links.into_iter().find(|link| link.name == ifname));
    Inside {
        is_up: link.map(|link| link.is_up),
        listens: port.and_then(|port| listens(address, port)),
    }
}

/// Does something in a network namespace, in a thread that stays there to its end; none where it cannot be entered.
pub(super) fn inside<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce(&str) -> Option<T> + Send,
) -> Option<T> {
    let file = File::open(netns).ok()?;
    std::thread::scope(|scope| {
        let entered = scope.spawn(move || {
            linux::netns::enter(&file).ok()?;
            work(netns)
        });
        entered.join().ok()?
    })
}

/// Whether a socket of the thread's network namespace takes packets for a port; none for protocols without a list of sockets.
fn listens(address: IpAddr, port: &str) -> Option<bool> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number: u16 = number.parse().ok()?;
    let files: &[&str] = match (protocol, address) {
        ("tcp", IpAddr::V4(_)) => &["tcp", "tcp6"],
        ("tcp", IpAddr::V6(_)) => &["tcp6"],
        ("udp", IpAddr::V4(_)) => &["udp", "udp6"],
        ("udp", IpAddr::V6(_)) => &["udp6"],
        _ => return None,
    };
    let state = if protocol == "tcp" { "0A" } else { "07" };
    let tables = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok());
    Some(
        tables
            .into_iter()
            .any(|table| has_socket(&table, address, number, state)),
    )
}

/// A line of `/proc/net/tcp`: number, local address and port in hexadecimal, remote ones, state.
fn has_socket(table: &str, address: IpAddr, port: u16, state: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|local| local.split_once(':'));
        let Some((bound, local_port)) = local else {
            return false;
        };
        let is_state = words.nth(1) == Some(state);
        is_state && u16::from_str_radix(local_port, 16) == Ok(port) && takes(bound, address)
    })
}

/// Whether a socket that is bound to this takes packets to an address.
fn takes(bound: &str, address: IpAddr) -> bool {
    let is_any = bound.chars().all(|digit| digit == '0');
    is_any
        || bound == hexadecimal(address)
        || address.is_ipv4() && bound.ends_with(&hexadecimal(address)) && bound.len() == 32
}

/// As the kernel prints it: words of four octets in the order of the host.
fn hexadecimal(address: IpAddr) -> String {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| {
        let word: [u8; 4] = word.try_into().unwrap_or_default();
        format!("{:08X}", u32::from_ne_bytes(word))
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_address_and_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(listens(own, &port), Some(true));
        assert_eq!(
            listens("127.0.0.2".parse().unwrap(), &port),
            Some(false),
            "bound to another address"
        );
        let any = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let udp = format!("{}/udp", any.local_addr().unwrap().port());
        assert_eq!(listens(own, &udp), Some(true));
        let six = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = six.local_addr().unwrap().port().to_string();
        assert_eq!(listens("::1".parse().unwrap(), &port), Some(true));
        assert_eq!(listens(own, &port), Some(true), "an IPv6 socket takes IPv4 too");
        drop(listener);
        for none in ["x", "80/sctp"] {
            assert_eq!(listens(own, none), None, "{none}");
        }
    }
}
