//! Addresses of Services: which ones this node announces, and which ones nobody may have.
//!
//! The outcome follows from the file and the facts alone, whatever came before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::types::{Community, Prefix};

use super::cluster::{selector, selects};
use super::node::Node;
use crate::decode::At;
use crate::model::{Cluster, EXCLUDE_LABEL, NodeFacts, ServiceAddress, ServiceFact, Services};
use crate::problem::Sink;
use crate::schema::{self, Document};

/// What this node announces for Services: addresses as single hosts, and the aggregates that stand for some. An address
/// whose Service keeps traffic on nodes with an endpoint is never hidden in an aggregate: other nodes announce that too.
pub(super) fn services(
    written: &schema::Services,
    facts: &NodeFacts,
    guard: &Guard<'_>,
    sink: &Sink,
) -> Services {
    let mut services = Services {
        ranges: guard.ranges.clone(),
        ..Services::default()
    };
    let Some(cluster) = &facts.cluster else {
        return services;
    };
    let selector = selector(&written.selector);
    let kinds: Vec<ServiceAddress> = written.advertise.iter().map(|at| at.value).collect();
    let policy = Announcing {
        class: written.class.as_ref().map(|class| class.value.as_str()),
        needs_endpoints: written.needs_endpoints,
        excluded: guard.excluded,
    };
    let selected = cluster.services.iter();
    for (name, service) in selected.filter(|(_, service)| selects(&selector, &service.labels)) {
        for &(kind, addr) in &service.addresses {
            if !kinds.contains(&kind) || !policy.announces(service, kind, addr) {
                continue;
            }
            if let Some(why) = guard.refusal(addr) {
                sink.reject(format!("Service {name}, address {addr}"), why);
                continue;
            }
            let host = Prefix::host(addr);
            let covers = |aggregate: &&At<Prefix>| aggregate.value.contains(&host);
            let communities = match written.aggregates.iter().find(covers) {
                Some(aggregate) if !is_local(service, kind) => services.aggregates.entry(aggregate.value),
                _ => services.hosts.entry(host),
            };
            communities.or_default().extend(communities_of(written, service));
        }
    }
    services
}

/// Communities of the classes that a Service belongs to.
fn communities_of<'a>(
    written: &'a schema::Services,
    service: &'a ServiceFact,
) -> impl Iterator<Item = Community> + 'a {
    let belongs = |class: &&schema::ServiceCommunities| {
        let named = class.class.as_ref().map(|class| &class.value);
        selects(&selector(&class.selector), &service.labels)
            && (named.is_none() || named == service.class.as_ref())
    };
    let classes = written.communities.iter().filter(belongs);
    classes.flat_map(|class| class.add.iter().map(|at| at.value))
}

/// Aggregates must not hide each other, nor pods.
pub(super) fn aggregates(written: &schema::Services, cluster: &Cluster, sink: &Sink) {
    for (index, aggregate) in written.aggregates.iter().enumerate() {
        let overlaps = |other: &Prefix| other.contains(&aggregate.value) || aggregate.value.contains(other);
        let earlier = written.aggregates.iter().take(index);
        if let Some(first) = earlier.map(|at| at.value).find(overlaps) {
            let message = format!("{} overlaps {first}", aggregate.value);
            sink.error(aggregate.spot.problem(message, "keep one of the two"));
        }
        if let Some(cidr) = cluster.pod_cidrs.iter().find(|cidr| overlaps(cidr)) {
            let message = format!("{} overlaps the pod CIDR {cidr}", aggregate.value);
            let remedy = "name a range that only Services have addresses from";
            sink.error(aggregate.spot.problem(message, remedy));
        }
    }
}

/// Whether traffic to this address stays on the node that it arrives at.
fn is_local(service: &ServiceFact, kind: ServiceAddress) -> bool {
    match kind {
        ServiceAddress::LoadBalancer | ServiceAddress::External => service.external_local,
        ServiceAddress::Cluster => service.internal_local,
    }
}

/// When this node announces an address.
struct Announcing<'a> {
    /// The class of load balancers that is ours beside those without one.
    class: Option<&'a str>,
    needs_endpoints: bool,
    /// Load balancers send no traffic to this node.
    excluded: bool,
}

impl Announcing<'_> {
    /// With a policy `Local` only nodes with a ready endpoint of the address's family take traffic.
    fn announces(&self, service: &ServiceFact, kind: ServiceAddress, addr: IpAddr) -> bool {
        let family = Prefix::host(addr).family();
        let is_cluster = kind == ServiceAddress::Cluster;
        let ours = kind != ServiceAddress::LoadBalancer
            || service.class.as_deref() == self.class
            || service.class.is_none();
        let answers = if is_local(service, kind) {
            service.endpoint_here.contains(family)
        } else {
            !self.needs_endpoints || service.endpoint_anywhere.contains(family)
        };
        ours && answers && (is_cluster || !self.excluded)
    }
}

/// Which addresses a Service may have. Whoever may write a Service writes them, so that without a guard any tenant draws any
/// traffic (CVE-2020-8554).
pub(super) struct Guard<'a> {
    ranges: Vec<Prefix>,
    pod_cidrs: &'a [Prefix],
    /// Addresses of nodes and peers, and whose each is.
    taken: BTreeMap<IpAddr, String>,
    /// This node is excluded from load balancers.
    excluded: bool,
}

impl<'a> Guard<'a> {
    pub(super) fn new(document: &Document, facts: &NodeFacts, node: &Node, cluster: &'a Cluster) -> Self {
        let nodes = facts.cluster.iter().flat_map(|known| &known.nodes);
        let of_nodes = nodes.flat_map(|(name, fact)| {
            let addresses = fact.addresses.iter();
            addresses.map(move |address| (*address, format!("of node {name}")))
        });
        let own = node.addresses.fixed().unwrap_or_default();
        let of_peers = document.peers.iter().filter_map(|peer| {
            let name = peer.name.as_ref().map_or("", |name| &name.value);
            Some((peer.address.as_ref()?.value, format!("of peer {name}")))
        });
        let of_hops = document.next_hops.iter().filter_map(|hop| {
            let address = hop.address.as_ref()?;
            Some((address.value, "of a next hop (nextHops)".to_owned()))
        });
        let own = own.iter().map(|address| (*address, "of this node".to_owned()));
        Self {
            ranges: document.services.ranges.iter().map(|at| at.value).collect(),
            pod_cidrs: &cluster.pod_cidrs,
            taken: of_hops.chain(of_peers).chain(own).chain(of_nodes).collect(),
            excluded: node.labels.contains_key(EXCLUDE_LABEL),
        }
    }

    /// Why this address is never announced for a Service.
    fn refusal(&self, addr: IpAddr) -> Option<String> {
        let host = Prefix::host(addr);
        if is_special(addr) {
            return Some("is a special address (loopback, link-local, multicast, reserved)".to_owned());
        }
        if let Some(cidr) = self.pod_cidrs.iter().find(|cidr| cidr.contains(&host)) {
            return Some(format!("lies in the pod CIDR {cidr}"));
        }
        if let Some(whose) = self.taken.get(&addr) {
            return Some(format!("is the address {whose}"));
        }
        if !self.ranges.iter().any(|range| range.contains(&host)) {
            return Some(
                "lies outside services.ranges; add its range there if it is yours to announce".to_owned(),
            );
        }
        None
    }
}

/// Addresses that are never a single host of ours (RFC 6890).
fn is_special(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            let is_mapped = v6.to_ipv4_mapped().is_some();
            let is_nobodys = v6.is_unspecified() || v6.is_loopback();
            is_mapped || is_nobodys || v6.is_multicast() || v6.is_unicast_link_local()
        }
    }
}

/// The ranges are there, and none of them is everything or has pods in it.
pub(super) fn ranges(document: &Document, cluster: &Cluster, sink: &Sink) {
    let written = &document.services;
    let missing = !written.has_ranges && !written.advertise.is_empty();
    if let Some(spot) = written.ranges_spot.as_ref().filter(|_| missing) {
        sink.error(spot.problem(
            "nothing says which addresses Services may have (CVE-2020-8554)",
            "add services.ranges with your ranges for load balancers, externalIPs and, with advertise: cluster, \
             clusterIPs (--service-cluster-ip-range), as ranges: [198.51.100.0/24]",
        ));
    }
    for range in &written.ranges {
        if range.value.is_default() {
            sink.error(range.spot.problem(
                format!("'{}' covers every address", range.value),
                "name the ranges that Services have addresses from, as 198.51.100.0/24",
            ));
            continue;
        }
        let overlaps = |cidr: &&Prefix| cidr.contains(&range.value) || range.value.contains(cidr);
        if let Some(cidr) = cluster.pod_cidrs.iter().find(overlaps) {
            let message = format!("{} overlaps the pod CIDR {cidr}", range.value);
            let remedy = "name a range that only Services have addresses from";
            sink.error(range.spot.problem(message, remedy));
        }
    }
    for aggregate in &written.aggregates {
        let inside = |range: &At<Prefix>| range.value.contains(&aggregate.value);
        if written.has_ranges && !written.ranges.iter().any(inside) {
            let message = format!("{} lies outside services.ranges", aggregate.value);
            sink.error(aggregate.spot.problem(message, "add it there, or correct it"));
        }
    }
}
