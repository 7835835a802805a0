//! Service addresses: which ones this node announces, and which ones are never announced.
//!
//! The outcome follows from the file and the facts alone, whatever came before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::types::{Community, Prefix};
use podroute_services::{Guard, Unannounced};

use super::cluster::{selector, selects};
use super::node::Node;
use super::pools;
use crate::decode::Located;
use crate::model::{
    AddressOutcome, Cluster, EXCLUDE_LABEL, NodeFacts, ServiceAddress, ServiceFact, Services,
};
use crate::problem::Problems;
use crate::schema::{self, Document};

/// What this node announces for Services: addresses as single hosts, and the aggregates that stand for some. An address
/// whose Service keeps traffic on nodes with an endpoint is never hidden in an aggregate: other nodes announce that too.
pub(super) fn services(
    written: &schema::Services,
    facts: &NodeFacts,
    guard: &Guard,
    node: &Node,
    problems: &Problems,
) -> Services {
    let pools = written.pools.iter().flat_map(|pool| &pool.addresses);
    let of_pools = pools.flat_map(|range| range.value.prefixes());
    let mut services = Services {
        ranges: written.ranges.iter().map(|at| at.value).chain(of_pools).collect(),
        allocation: pools::allocation(written, guard),
        ..Services::default()
    };
    let Some(cluster) = &facts.cluster else {
        return services;
    };
    let announcing = Announcing {
        written,
        selector: selector(&written.selector),
        guard,
        // Load balancers send no traffic to this node.
        excluded: node.labels.contains_key(EXCLUDE_LABEL),
    };
    for (name, service) in &cluster.services {
        for &(kind, address) in &service.addresses {
            let outcome = announcing.outcome(service, kind, address);
            if let Err(Unannounced::Refused(why)) = &outcome {
                problems.reject(format!("Service {name}, address {address}"), why.to_string());
            }
            if let Ok(prefix) = outcome {
                let list = if prefix == Prefix::host(address) {
                    &mut services.hosts
                } else {
                    &mut services.aggregates
                };
                list.entry(prefix)
                    .or_default()
                    .extend(communities_of(written, service, address));
            }
            let outcome = AddressOutcome {
                address,
                kind,
                outcome,
            };
            services.outcomes.entry(name.clone()).or_default().push(outcome);
        }
    }
    services
}

/// Communities of the classes that a Service belongs to, and of the address's pool.
fn communities_of(written: &schema::Services, service: &ServiceFact, address: IpAddr) -> Vec<Community> {
    let belongs = |class: &&schema::ServiceCommunities| {
        let named = class.class.as_ref().map(|class| &class.value);
        selects(&selector(&class.selector), &service.labels)
            && (named.is_none() || named == service.class.as_ref())
    };
    let classes = written
        .communities
        .iter()
        .filter(belongs)
        .flat_map(|class| &class.add);
    let has = |pool: &&schema::Pool| pool.addresses.iter().any(|range| range.value.contains(address));
    let pools = written
        .pools
        .iter()
        .filter(has)
        .flat_map(|pool| &pool.communities);
    classes.chain(pools).map(|at| at.value).collect()
}

/// Aggregates must not hide each other, nor pods.
pub(super) fn aggregates(written: &schema::Services, cluster: &Cluster, problems: &Problems) {
    for (index, aggregate) in written.aggregates.iter().enumerate() {
        let overlaps = |other: &Prefix| other.contains(&aggregate.value) || aggregate.value.contains(other);
        let earlier = written.aggregates.iter().take(index);
        if let Some(first) = earlier.map(|at| at.value).find(overlaps) {
            let message = format!("{} overlaps {first}", aggregate.value);
            problems.error(aggregate.location.problem(message, "keep one of the two"));
        }
        if let Some(cidr) = cluster.pod_cidrs.iter().find(|cidr| overlaps(cidr)) {
            let message = format!("{} overlaps the pod CIDR {cidr}", aggregate.value);
            let remedy = "name a range that only Services have addresses from";
            problems.error(aggregate.location.problem(message, remedy));
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
    written: &'a schema::Services,
    selector: BTreeMap<String, String>,
    guard: &'a Guard,
    excluded: bool,
}

impl Announcing<'_> {
    /// As what this node announces the address, or why not.
    fn outcome(
        &self,
        service: &ServiceFact,
        kind: ServiceAddress,
        addr: IpAddr,
    ) -> Result<Prefix, Unannounced> {
        if !self.written.advertise.iter().any(|at| at.value == kind) {
            return Err(Unannounced::KindOff);
        }
        if !selects(&self.selector, &service.labels) {
            return Err(Unannounced::NotSelected);
        }
        if kind == ServiceAddress::LoadBalancer && !self.has_own_class(service) {
            return Err(Unannounced::OtherClass);
        }
        if kind != ServiceAddress::Cluster && self.excluded {
            return Err(Unannounced::NodeExcluded);
        }
        self.look_for_endpoints(service, kind, addr)?;
        self.guard.check(addr).map_err(Unannounced::Refused)?;
        let host = Prefix::host(addr);
        let mut aggregates = self.written.aggregates.iter().map(|at| at.value);
        let aggregate = aggregates.find(|aggregate| aggregate.contains(&host));
        Ok(aggregate.filter(|_| !is_local(service, kind)).unwrap_or(host))
    }

    /// Services without a class, and those of the configured one or of a pool.
    fn has_own_class(&self, service: &ServiceFact) -> bool {
        let is_named =
            |class: &Option<Located<String>>| class.as_ref().map(|at| &at.value) == service.class.as_ref();
        let of_pool = || self.written.pools.iter().any(|pool| is_named(&pool.class));
        service.class.is_none() || is_named(&self.written.class) || of_pool()
    }

    /// With a policy `Local` only nodes with a ready endpoint of the address's family take traffic.
    fn look_for_endpoints(
        &self,
        service: &ServiceFact,
        kind: ServiceAddress,
        addr: IpAddr,
    ) -> Result<(), Unannounced> {
        let family = Prefix::host(addr).family();
        if is_local(service, kind) {
            let is_here = service.endpoint_here.contains(family);
            return is_here.then_some(()).ok_or(Unannounced::NoEndpointHere);
        }
        let answers = !self.written.needs_endpoints || service.endpoint_anywhere.contains(family);
        answers.then_some(()).ok_or(Unannounced::NoEndpoint)
    }
}

/// Which addresses a Service may have. Whoever may write a Service writes them, so that without a guard any tenant draws any
/// traffic (CVE-2020-8554).
pub(super) fn guard(document: &Document, facts: &NodeFacts, node: &Node, cluster: &Cluster) -> Guard {
    let nodes = facts.cluster.iter().flat_map(|known| &known.nodes);
    let of_nodes = nodes.flat_map(|(name, fact)| {
        let addresses = fact.addresses.iter();
        addresses.map(move |address| (*address, format!("of node {name}")))
    });
    let of_file = pools::taken(document, &node.addresses).into_iter();
    let ranges = document.services.ranges.iter().map(|at| at.value.into());
    let of_pools = document.services.pools.iter().flat_map(|pool| &pool.addresses);
    Guard {
        ranges: ranges.chain(of_pools.map(|range| range.value)).collect(),
        pod_cidrs: cluster.pod_cidrs.clone(),
        taken: of_file.chain(of_nodes).collect(),
    }
}

/// The ranges are there, and none of them is everything or has pods in it.
pub(super) fn ranges(document: &Document, cluster: &Cluster, problems: &Problems) {
    let written = &document.services;
    let missing = !written.has_ranges && written.pools.is_empty() && !written.advertise.is_empty();
    if let Some(location) = written.ranges_spot.as_ref().filter(|_| missing) {
        problems.error(location.problem(
            "nothing says which addresses Services may have (CVE-2020-8554)",
            "add services.ranges with your ranges for load balancers, externalIPs and, with advertise: cluster, \
             clusterIPs (--service-cluster-ip-range), as ranges: [198.51.100.0/24]",
        ));
    }
    for range in &written.ranges {
        if range.value.is_default() {
            problems.error(range.location.problem(
                format!("'{}' covers every address", range.value),
                "name the ranges that Services have addresses from, as 198.51.100.0/24",
            ));
            continue;
        }
        let overlaps = |cidr: &&Prefix| cidr.contains(&range.value) || range.value.contains(cidr);
        if let Some(cidr) = cluster.pod_cidrs.iter().find(overlaps) {
            let message = format!("{} overlaps the pod CIDR {cidr}", range.value);
            let remedy = "name a range that only Services have addresses from";
            problems.error(range.location.problem(message, remedy));
        }
    }
    for aggregate in &written.aggregates {
        let inside = |range: &Located<Prefix>| range.value.contains(&aggregate.value);
        let is_pool = |range: &Located<podroute_services::Range>| {
            range
                .value
                .prefix()
                .is_some_and(|prefix| prefix.contains(&aggregate.value))
        };
        let in_pool = written.pools.iter().flat_map(|pool| &pool.addresses).any(is_pool);
        let has_any = written.has_ranges || !written.pools.is_empty();
        if has_any && !in_pool && !written.ranges.iter().any(inside) {
            let message = format!(
                "{} lies outside services.ranges and services.pools",
                aggregate.value
            );
            problems.error(aggregate.location.problem(message, "add it there, or correct it"));
        }
    }
}
