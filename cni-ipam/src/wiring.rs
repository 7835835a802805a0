//! Compares a pod's wiring with the kernel: expected, observed, and a description of the differences.
//!
//! `observe` reads on the host and inside the pod; `ExpectedWiring::differences` is pure. The pod's MTU and hardware address,
//! which a chained plugin may change, are compared only with a result that contains them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::block::Family;
use crate::error::Result;
use crate::kernel::link::{self, KernelRoute, LINK_GROUP, Link, Neighbor};
use crate::kernel::netns::Netns;
use crate::kernel::veth;
use crate::names::{Owner, mac_text};
use linux::netlink::Socket;

/// The wiring that a pod should have.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedWiring {
    pub(crate) owner: Owner,
    pub(crate) addresses: Vec<IpAddr>,
    /// Destinations of its routes through the gateway.
    pub(crate) routes: Vec<IpNet>,
    pub(crate) host_mtu: Option<u32>,
    pub(crate) pod_mtu: Option<u32>,
    /// In the notation of a result.
    pub(crate) pod_mac: Option<String>,
    pub(crate) checks_sources: bool,
}

/// The state of one interface in the kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct InterfaceState {
    pub(crate) link: Option<Link>,
    pub(crate) addresses: Vec<IpAddr>,
    /// On the host: the routes to the pod's addresses.
    pub(crate) routes: Vec<KernelRoute>,
    pub(crate) neighbors: Vec<Neighbor>,
}

/// Both sides; the pod's is None where it cannot be observed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ObservedWiring {
    pub(crate) host: InterfaceState,
    pub(crate) pod: Option<InterfaceState>,
}

/// Reads both sides.
pub(crate) fn observe(
    host: &Socket,
    netns: Option<&Netns>,
    expected: &ExpectedWiring,
) -> Result<ObservedWiring> {
    Ok(ObservedWiring {
        host: observe_host(host, expected)?,
        pod: match netns {
            Some(netns) => Some(netns.inside(|| observe_pod(&Socket::route()?, expected))?),
            None => None,
        },
    })
}

fn observe_host(host: &Socket, expected: &ExpectedWiring) -> Result<InterfaceState> {
    let Some(link) = link::find(host, &expected.owner.host_ifname())? else {
        return Ok(InterfaceState::default());
    };
    let mut routes = Vec::new();
    for address in &expected.addresses {
        routes.extend(link::route_to(host, *address, 0)?);
    }
    Ok(InterfaceState {
        addresses: link::addresses(host, link.index)?,
        routes,
        neighbors: Vec::new(),
        link: Some(link),
    })
}

fn observe_pod(pod: &Socket, expected: &ExpectedWiring) -> Result<InterfaceState> {
    let Some(link) = link::find(pod, &expected.owner.ifname)? else {
        return Ok(InterfaceState::default());
    };
    let mut routes = Vec::new();
    for family in families(&expected.addresses) {
        routes.extend(link::routes(pod, family)?);
    }
    Ok(InterfaceState {
        addresses: link::addresses(pod, link.index)?,
        routes,
        neighbors: link::neighbors(pod, link.index)?,
        link: Some(link),
    })
}

fn families(addresses: &[IpAddr]) -> Vec<Family> {
    let mut families: Vec<Family> = addresses.iter().copied().map(Family::of).collect();
    families.sort_unstable();
    families.dedup();
    families
}

impl ExpectedWiring {
    /// Descriptions of all differences; empty if there are none.
    pub(crate) fn differences(&self, observed: &ObservedWiring) -> Vec<String> {
        let mut found = self.host_differences(&observed.host);
        if let Some(pod) = &observed.pod {
            found.extend(self.pod_differences(pod));
        }
        found
    }

    fn host_differences(&self, host: &InterfaceState) -> Vec<String> {
        let name = self.owner.host_ifname();
        let Some(link) = &host.link else {
            return vec![format!("its host interface {name} is gone")];
        };
        let mut found = Vec::new();
        if !link.is_up {
            found.push(format!("its host interface {name} is down"));
        }
        let mac = self.owner.host_mac();
        if link.mac != mac.as_slice() {
            found.push(format!(
                "the hardware address of {name} is {}, not {}",
                bytes_text(&link.mac),
                mac_text(mac)
            ));
        }
        if let Some(mtu) = self.host_mtu.filter(|mtu| *mtu != link.mtu) {
            found.push(format!("the MTU of {name} is {}, not {mtu}", link.mtu));
        }
        if self.checks_sources && link.group != LINK_GROUP {
            found.push(format!(
                "{name} is not in link group {LINK_GROUP}: source addresses of the pod are not checked"
            ));
        }
        for gateway in families(&self.addresses).into_iter().map(veth::gateway) {
            if !host.addresses.contains(&gateway) {
                found.push(format!("{name} lacks the gateway address {gateway}"));
            }
        }
        for address in &self.addresses {
            let dst = IpNet::from(*address);
            let leads_there =
                |r: &&KernelRoute| r.index == link.index && (r.dst == dst || r.dst.contains(address));
            if !host.routes.iter().any(|r| leads_there(&r)) {
                found.push(format!("the host's route to {address} does not lead to {name}"));
            }
        }
        found
    }

    fn pod_differences(&self, pod: &InterfaceState) -> Vec<String> {
        let name = &self.owner.ifname;
        let Some(link) = &pod.link else {
            return vec![format!("{name} is gone from the pod")];
        };
        let mut found = Vec::new();
        if !link.is_up {
            found.push(format!("{name} is down in the pod"));
        }
        if let Some(mtu) = self.pod_mtu.filter(|mtu| *mtu != link.mtu) {
            found.push(format!("the MTU of {name} is {}, not {mtu}", link.mtu));
        }
        let mac = bytes_text(&link.mac);
        if let Some(expected) = self
            .pod_mac
            .as_ref()
            .filter(|expected| !expected.eq_ignore_ascii_case(&mac))
        {
            found.push(format!("the hardware address of {name} is {mac}, not {expected}"));
        }
        for address in self.addresses.iter().filter(|a| !pod.addresses.contains(a)) {
            found.push(format!("address {address} is gone from the pod's {name}"));
        }
        for gateway in families(&self.addresses).into_iter().map(veth::gateway) {
            let reaches = |r: &&KernelRoute| r.index == link.index && r.dst == IpNet::from(gateway);
            // The kernel adds a route to fe80::/10 on every link.
            if gateway.is_ipv4() && !pod.routes.iter().any(|r| reaches(&r)) {
                found.push(format!("the pod's route to its gateway {gateway} is gone"));
            }
            let mac = self.owner.host_mac();
            let knows = |n: &Neighbor| n.address == gateway && n.is_permanent && n.mac == mac.as_slice();
            // The kernel removes all neighbor entries when another plugin changes the pod's hardware address.
            let may_lack = link.mac != self.owner.pod_mac().as_slice()
                && !pod
                    .neighbors
                    .iter()
                    .any(|n| n.address == gateway && n.is_permanent);
            if !may_lack && !pod.neighbors.iter().any(knows) {
                found.push(format!(
                    "the pod has no permanent neighbor entry {gateway} at {}",
                    mac_text(mac)
                ));
            }
        }
        for dst in &self.routes {
            let gateway = veth::gateway(Family::of(dst.addr()));
            // A default route through another interface is permitted.
            let is_it = |r: &&KernelRoute| {
                r.dst == dst.trunc()
                    && (dst.prefix_len() == 0 && r.index != link.index
                        || r.index == link.index && r.gateway == Some(gateway))
            };
            if !pod.routes.iter().any(|r| is_it(&r)) {
                found.push(format!("the pod's route to {dst} through {gateway} is gone"));
            }
        }
        found
    }
}

fn bytes_text(mac: &[u8]) -> String {
    let digits: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    digits.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            container: "c1".into(),
            ifname: "eth0".into(),
        }
    }

    fn expected() -> ExpectedWiring {
        ExpectedWiring {
            owner: owner(),
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            routes: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            host_mtu: Some(1500),
            pod_mtu: Some(1500),
            pod_mac: Some(mac_text(owner().pod_mac()).to_uppercase()),
            checks_sources: true,
        }
    }

    fn link(name: &str, index: u32, mac: &[u8]) -> Link {
        Link {
            settings: crate::kernel::settings::Settings::default(),
            index,
            name: name.into(),
            alias: String::new(),
            mtu: 1500,
            mac: mac.to_vec(),
            peer_index: 1,
            group: LINK_GROUP,
            is_up: true,
        }
    }

    fn route(dst: &str, gateway: Option<&str>, index: u32) -> KernelRoute {
        KernelRoute {
            dst: dst.parse().unwrap(),
            index,
            protocol: 3,
            gateway: gateway.map(|g| g.parse().unwrap()),
            source: None,
            is_local: false,
        }
    }

    fn good() -> ObservedWiring {
        let gateways: Vec<IpAddr> = vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        let neighbor = |address: &IpAddr| Neighbor {
            address: *address,
            mac: owner().host_mac().to_vec(),
            is_permanent: true,
        };
        ObservedWiring {
            host: InterfaceState {
                link: Some(link(&owner().host_ifname(), 7, &owner().host_mac())),
                addresses: gateways.clone(),
                routes: vec![route("10.0.0.2/32", None, 7), route("fd00::2/128", None, 7)],
                neighbors: Vec::new(),
            },
            pod: Some(InterfaceState {
                link: Some(link("eth0", 2, &owner().pod_mac())),
                addresses: expected().addresses,
                routes: vec![
                    route("169.254.1.1/32", None, 2),
                    route("0.0.0.0/0", Some("169.254.1.1"), 2),
                    route("::/0", Some("fe80::1"), 2),
                ],
                neighbors: gateways.iter().map(neighbor).collect(),
            }),
        }
    }

    #[test]
    fn what_is_as_made_has_no_difference() {
        assert_eq!(expected().differences(&good()), Vec::<String>::new());
        let mut unobserved = good();
        unobserved.pod = None;
        assert_eq!(expected().differences(&unobserved), Vec::<String>::new());
    }

    #[test]
    fn each_harm_is_one_difference() {
        type Fault = fn(&mut ObservedWiring);
        fn host(observed: &mut ObservedWiring) -> &mut Link {
            observed.host.link.as_mut().unwrap()
        }
        fn pod(observed: &mut ObservedWiring) -> &mut InterfaceState {
            observed.pod.as_mut().unwrap()
        }
        let faults: [(&str, Fault); 16] = [
            ("is gone", |s| s.host.link = None),
            ("is down", |s| host(s).is_up = false),
            ("hardware address of pod", |s| host(s).mac = vec![2; 6]),
            ("MTU of pod", |s| host(s).mtu = 1400),
            ("link group", |s| host(s).group = 0),
            ("gateway address 169.254.1.1", |s| {
                s.host.addresses.retain(IpAddr::is_ipv6)
            }),
            ("route to 10.0.0.2", |s| {
                s.host.routes.retain(|r| r.dst.addr().is_ipv6())
            }),
            ("eth0 is gone", |s| pod(s).link = None),
            ("eth0 is down", |s| pod(s).link.as_mut().unwrap().is_up = false),
            ("MTU of eth0", |s| pod(s).link.as_mut().unwrap().mtu = 1400),
            ("hardware address of eth0", |s| {
                pod(s).link.as_mut().unwrap().mac = vec![2; 6];
            }),
            ("address fd00::2", |s| pod(s).addresses.retain(IpAddr::is_ipv4)),
            ("to its gateway", |s| {
                pod(s).routes.retain(|r| r.gateway.is_some())
            }),
            ("route to 0.0.0.0/0", |s| {
                pod(s).routes.retain(|r| r.gateway.is_none_or(|g| g.is_ipv6()));
            }),
            ("neighbor entry fe80::1", |s| {
                pod(s).neighbors[1].is_permanent = false
            }),
            ("neighbor entry 169.254.1.1", |s| {
                pod(s).neighbors[0].mac = vec![2; 6];
            }),
        ];
        for (words, fault) in faults {
            let mut observed = good();
            fault(&mut observed);
            let found = expected().differences(&observed);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
    }

    #[test]
    fn another_hardware_address_by_right_has_no_neighbors() {
        let mut expected = expected();
        expected.pod_mac = Some("0a:00:00:00:00:09".into());
        let mut observed = good();
        let pod = observed.pod.as_mut().unwrap();
        pod.link.as_mut().unwrap().mac = vec![0x0a, 0, 0, 0, 0, 9];
        pod.neighbors.clear();
        assert_eq!(expected.differences(&observed), Vec::<String>::new());
    }

    #[test]
    fn a_default_route_of_another_interface_is_enough() {
        let mut observed = good();
        let pod = observed.pod.as_mut().unwrap();
        pod.routes[1] = route("0.0.0.0/0", Some("192.168.0.1"), 5);
        assert_eq!(expected().differences(&observed), Vec::<String>::new());
        pod_route(&mut observed, "192.168.0.1", 2);
        assert_eq!(
            expected().differences(&observed).len(),
            1,
            "its own through another gateway is not"
        );
    }

    fn pod_route(observed: &mut ObservedWiring, gateway: &str, index: u32) {
        observed.pod.as_mut().unwrap().routes[1] = route("0.0.0.0/0", Some(gateway), index);
    }
}
