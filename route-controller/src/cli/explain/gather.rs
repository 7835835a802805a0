//! Facts of both ends, the kernel and the host.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use bgp_proto::types::Prefix;
use linux::sysctl;

use super::super::{CliError, routes};
use super::agent::Agent;
use super::{Question, pod, probe};
use crate::explain::{Arrival, End, Facts, HostFacts, KernelAnswer, Probe, Way};
use crate::kernel_view::{Kernel, Link, Packet};
use crate::network_policy::ExplanationStatus;
use crate::who::{Known, Owner};

/// Pairs of addresses that are explained.
const PAIRS: usize = 4;

/// Facts of each pair of addresses of one family.
pub(super) fn facts(run_dir: &Path, question: &Question) -> Result<Vec<Facts>, CliError> {
    let kernel = Kernel::open()?;
    let node = Node {
        links: kernel.links()?,
        own: kernel.addresses()?,
        kernel,
        agent: Agent::ask(run_dir),
        known: routes::known(run_dir),
        pod_cidrs: routes::pod_cidrs(run_dir),
    };
    let (sources, destinations) = (
        node.addresses(&question.source)?,
        node.addresses(&question.destination)?,
    );
    let same_family = |source: IpAddr| {
        let destinations = destinations.iter().copied();
        destinations.filter(move |address| address.is_ipv4() == source.is_ipv4())
    };
    let pairs = sources
        .iter()
        .flat_map(|source| same_family(*source).map(|destination| (*source, destination)));
    let all: Vec<Facts> = pairs.take(PAIRS).map(|pair| node.facts(pair, question)).collect();
    if all.is_empty() {
        return Err(CliError::NoCommonFamily(
            question.source.clone(),
            question.destination.clone(),
        ));
    }
    Ok(all)
}

/// What this node knows.
struct Node {
    kernel: Kernel,
    links: Vec<Link>,
    own: Vec<(IpAddr, u32)>,
    agent: Agent,
    known: Known,
    pod_cidrs: Vec<Prefix>,
}

impl Node {
    /// The addresses that a name stands for.
    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, CliError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let known = self.known.addresses_of(name);
        if !known.is_empty() {
            return Ok(known);
        }
        // Network policies know all pods of the cluster.
        let explained = self.agent.policies(name, name, "1").unwrap_or_default();
        let ends = explained.iter().flat_map(|one| &one.ends);
        let found: BTreeSet<IpAddr> = ends.map(|end| end.address).collect();
        if found.is_empty() {
            return Err(CliError::UnknownEnd(name.to_owned()));
        }
        Ok(found.into_iter().collect())
    }

    fn facts(&self, (source, destination): (IpAddr, IpAddr), question: &Question) -> Facts {
        let port = question.port.as_deref();
        let ends = (self.end(source, None), self.end(destination, port));
        let forward = self.way(&ends.0, destination, source);
        let back = self.way(&ends.1, source, destination);
        let arrivals = if ends.0.is_here() {
            Vec::new()
        } else {
            self.arrivals(source, &back)
        };
        let service = match &ends.1.owner {
            Owner::Service { name, .. } => self.agent.service(name, destination),
            _ => None,
        };
        let probe = question.measure.then(|| {
            probe::measure(
                self.namespace_of(source).as_deref(),
                (source, destination),
                port,
                self.first_mtu(&ends.0, &forward),
            )
        });
        Facts {
            node: self.agent.node().map_or_else(host_name, str::to_owned),
            port: question.port.clone(),
            agent: self.agent.facts.clone(),
            host: HostFacts {
                forwards: forwards(source),
                conntrack: conntrack(),
                arrivals,
            },
            policy: port.and_then(|port| self.policy(source, destination, port)),
            service,
            probe: probe
                .map(|outcome| outcome.map_or_else(|error| Probe::NotSent(error.to_string()), Probe::Found)),
            source: ends.0,
            destination: ends.1,
            forward,
            back,
        }
    }

    fn end(&self, address: IpAddr, port: Option<&str>) -> End {
        let owner = self.known.owner(address);
        let pods = &self.known.pods;
        let info = pods.iter().find(|pod| pod.addresses.contains(&address));
        let is_own_address = self.own.iter().any(|(own, _)| *own == address);
        End {
            address,
            pod: info.map(|info| pod::facts(info, address, port, &self.kernel, &self.links, is_own_address)),
            block: self.agent.block(address),
            is_pod_address: self.pod_cidrs.iter().any(|cidr| cidr.contains_addr(address)),
            owner,
        }
    }

    fn namespace_of(&self, address: IpAddr) -> Option<String> {
        let pods = &self.known.pods;
        let pod = pods.iter().find(|pod| pod.addresses.contains(&address))?;
        Some(pod.netns.clone())
    }

    /// The MTU of the interface that a packet takes first.
    fn first_mtu(&self, source: &End, forward: &Way) -> u32 {
        let pod = source.pod.as_ref().and_then(|pod| pod.link.as_ref());
        pod.or(forward.link.as_ref()).map_or(1500, |link| link.mtu)
    }

    fn way(&self, from: &End, destination: IpAddr, source: IpAddr) -> Way {
        let arrives_on = from
            .pod
            .as_ref()
            .and_then(|pod| pod.link.as_ref())
            .map(|link| link.index);
        let is_own = self.own.iter().any(|(own, _)| *own == source);
        let packet = Packet {
            destination,
            // The kernel takes no other address as the source of its own packets.
            source: Some(source).filter(|_| arrives_on.is_some() || is_own),
            arrives_on,
        };
        let kernel = self.ask(packet);
        // Whether it forwards is a step of its own: the route is asked for regardless.
        let kernel = match kernel {
            KernelAnswer::Route(_) => kernel,
            _ => self.ask(Packet {
                destination,
                source: None,
                arrives_on: None,
            }),
        };
        let route = self.agent.route(destination);
        let decision = kernel.decision();
        let link = decision.and_then(|decision| decision.interface.as_deref());
        let link = link
            .and_then(|name| self.links.iter().find(|link| link.name == name))
            .cloned();
        let next_hop = decision.map(|decision| decision.gateway.unwrap_or(destination));
        let neighbor = next_hop
            .zip(link.as_ref())
            .and_then(|(address, link)| self.kernel.neighbor(address, link.index).ok().flatten());
        Way {
            fib: route.as_ref().and_then(|route| self.agent.fib(&route.prefix)),
            route,
            kernel,
            link,
            neighbor,
        }
    }

    /// Interfaces that a packet from elsewhere may arrive on: those of the sessions; without any the one back to the source.
    fn arrivals(&self, source: IpAddr, back: &Way) -> Vec<Arrival> {
        let peers = self.agent.peers.iter().map(|peer| peer.address);
        let mut interfaces: BTreeSet<String> = peers
            .filter_map(|address| self.ask(to(address)).decision()?.interface.clone())
            .filter(|name| name != "lo")
            .collect();
        if interfaces.is_empty() {
            interfaces.extend(back.link.as_ref().map(|link| link.name.clone()));
        }
        let arrival = |interface: String| Arrival {
            // IPv6 has no such setting.
            rp_filter: if source.is_ipv4() {
                rp_filter(&interface)
            } else {
                0
            },
            interface,
        };
        interfaces.into_iter().map(arrival).collect()
    }

    fn ask(&self, packet: Packet) -> KernelAnswer {
        match self.kernel.decide(packet, &self.links) {
            Ok(answer) => KernelAnswer::of(answer),
            Err(error) => KernelAnswer::Unknown(error.to_string()),
        }
    }

    fn policy(&self, source: IpAddr, destination: IpAddr, port: &str) -> Option<ExplanationStatus> {
        let all = self
            .agent
            .policies(&source.to_string(), &destination.to_string(), port);
        all.ok()?.into_iter().next()
    }
}

fn to(destination: IpAddr) -> Packet {
    Packet {
        destination,
        source: None,
        arrives_on: None,
    }
}

fn host_name() -> String {
    crate::agent::host_name().unwrap_or_default()
}

/// The higher of an interface's value and that of all counts (IPv4 only).
fn rp_filter(interface: &str) -> u8 {
    let value = |name: &str| {
        let text = sysctl::read(&format!("net/ipv4/conf/{name}/rp_filter"));
        text.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    value("all").max(value(interface))
}

fn forwards(address: IpAddr) -> bool {
    let key = if address.is_ipv4() {
        "net/ipv4/ip_forward"
    } else {
        "net/ipv6/conf/all/forwarding"
    };
    sysctl::read(key).is_ok_and(|value| value == "1")
}

/// Tracked connections and how many there may be; none where nothing is tracked.
fn conntrack() -> Option<(u64, u64)> {
    let value = |key: &str| sysctl::read(key).ok()?.parse().ok();
    let count = value("net/netfilter/nf_conntrack_count")?;
    Some((count, value("net/netfilter/nf_conntrack_max")?))
}
