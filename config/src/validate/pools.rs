//! Checks of `services.pools`: ranges are disjoint, and no special or used addresses.

use std::net::IpAddr;

use podroute_services::{Guard, Pool, Range, Settings, special_in};

use super::cluster::selector;
use crate::decode::Located;
use crate::model::{Allocation, Cluster, NodeAddresses};
use crate::problem::Problems;
use crate::schema::{self, Document, repeated};

/// What addresses are allocated from, if anything.
pub(super) fn allocation(written: &schema::Services, guard: &Guard) -> Option<Allocation> {
    let pools: Vec<Pool> = written.pools.iter().filter_map(pool).collect();
    let settings = Settings {
        pools,
        guard: guard.clone(),
        class: written.class.as_ref().map(|class| class.value.clone()),
    };
    (!settings.pools.is_empty()).then(|| Allocation {
        settings,
        compatibility: written.compatibility.iter().map(|at| at.value).collect(),
    })
}

fn pool(written: &schema::Pool) -> Option<Pool> {
    Some(Pool {
        name: written.name.as_ref()?.value.clone(),
        ranges: written.addresses.iter().map(|at| at.value).collect(),
        service_selector: selector(&written.service_selector),
        namespace_selector: selector(&written.namespace_selector),
        class: written.class.as_ref().map(|class| class.value.clone()),
        priority: written.priority,
        automatic: written.automatic,
        avoid_first_and_last: written.avoid_first_and_last,
    })
}

/// Reports pools that cannot be used together, or with the rest of the file.
pub(super) fn check(document: &Document, cluster: &Cluster, own: &NodeAddresses, problems: &Problems) {
    let pools = &document.services.pools;
    let names: Vec<Located<String>> = pools.iter().filter_map(|pool| pool.name.clone()).collect();
    for (name, first) in repeated(&names) {
        let message = format!("'{}' is the name of {} too", name.value, parent(&first.path));
        problems.error(name.location.problem(message, "give each pool a name of its own"));
    }
    let all: Vec<&Located<Range>> = pools.iter().flat_map(|pool| &pool.addresses).collect();
    let taken = taken(document, own);
    for (index, range) in all.iter().enumerate() {
        let overlaps = |other: &&&Located<Range>| other.value.overlaps(&range.value);
        if let Some(other) = all.iter().take(index).find(overlaps) {
            let message = format!(
                "{} overlaps {} in {}",
                range.value, other.value, other.location.path
            );
            problems.error(range.location.problem(message, "give each address to one pool"));
        }
        if let Some(why) = misplaced(&range.value, cluster, &taken) {
            let remedy = "name a range that only Services have addresses from";
            problems.error(range.location.problem(format!("{} {why}", range.value), remedy));
        }
    }
    warn_unannounced(&document.services, problems);
}

/// Why no address of a Service may be in the range.
fn misplaced(range: &Range, cluster: &Cluster, taken: &[(IpAddr, String)]) -> Option<String> {
    if let Some(special) = special_in(range) {
        return Some(format!("has the special address {special} in it"));
    }
    let mut cidrs = cluster.pod_cidrs.iter();
    if let Some(cidr) = cidrs.find(|cidr| range.overlaps(&Range::from(**cidr))) {
        return Some(format!("overlaps the pod CIDR {cidr}"));
    }
    let (addr, whose) = taken.iter().find(|(addr, _)| range.contains(*addr))?;
    Some(format!("has the address {addr} {whose} in it"))
}

/// Addresses that the file gives to others.
pub(super) fn taken(document: &Document, own: &NodeAddresses) -> Vec<(IpAddr, String)> {
    let peers = document.peers.iter().filter_map(|peer| {
        let name = peer.name.as_ref().map_or("", |name| &name.value);
        Some((peer.address.as_ref()?.value, format!("of peer {name}")))
    });
    let hops = document.next_hops.iter();
    let hops =
        hops.filter_map(|hop| Some((hop.address.as_ref()?.value, "of a next hop (nextHops)".to_owned())));
    let own = own.fixed().unwrap_or_default().iter();
    let own = own.map(|address| (*address, "of this node".to_owned()));
    peers.chain(hops).chain(own).collect()
}

fn warn_unannounced(services: &schema::Services, problems: &Problems) {
    let announces = services
        .advertise
        .iter()
        .any(|at| at.value == crate::model::ServiceAddress::LoadBalancer);
    if let Some(first) = services.pools.first().filter(|_| !announces) {
        problems.warn(first.location.problem(
            "addresses are allocated and not announced",
            "add loadBalancer to services.advertise",
        ));
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(parent, _)| parent)
}
