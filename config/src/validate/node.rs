//! Checks of `cluster`, `node`, `listen` and `fib`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_proto::types::{Asn, Family, Prefix};

use crate::decode::Located;
use crate::model::{
    self, Auto, Cluster, Fib, Listen, NodeAddresses, NodeFacts, ResilientGroups, RouterIdChoice,
};
use crate::problem::Problems;
use crate::schema::{self, Addresses, Document, MAIN_TABLE, repeated};

/// The smallest MTU that IPv6 allows (RFC 8200 §5).
const IPV6_MTU: u16 = 1280;

/// The AS number of this node. `None` when there is none, which is then reported.
pub(super) fn asn(document: &Document, problems: &Problems) -> Option<Asn> {
    let (cluster, node) = (&document.cluster, &document.node);
    for asn in [&cluster.asn, &node.asn].into_iter().flatten() {
        warn_last_asn(asn, problems);
    }
    if !cluster.has_asn && !node.has_asn {
        let remedy = "add cluster.asn: 64512 (one AS for all nodes), or node.asn on each node";
        problems.error(cluster.asn_spot.problem("this node has no AS number", remedy));
    }
    node.asn
        .as_ref()
        .or(cluster.asn.as_ref().filter(|_| !node.has_asn))
        .map(|asn| asn.value)
}

/// RFC 7300 §2: the last numbers are reserved.
pub(super) fn warn_last_asn(asn: &Located<Asn>, problems: &Problems) {
    if matches!(asn.value.0, 65535 | u32::MAX) {
        let remedy = "private numbers are 64512–65534 and 4200000000–4294967294 (RFC 6996)";
        problems.warn(
            asn.location
                .problem(format!("{} is reserved (RFC 7300)", asn.value), remedy),
        );
    }
}

pub(super) fn cluster(cluster: &schema::Cluster, problems: &Problems) -> Cluster {
    let (all, cidrs): (Vec<_>, Vec<_>) = cluster
        .pod_cidrs
        .iter()
        .cloned()
        .partition(|cidr| cidr.value.is_default());
    disjoint(&cidrs, problems);
    for cidr in all {
        problems.error(cidr.location.problem(
            format!("'{}' covers every address", cidr.value),
            "name the range that pods get addresses from, as 10.244.0.0/16",
        ));
    }
    Cluster {
        asn: cluster.asn.as_ref().map(|asn| asn.value),
        pod_cidrs: values(&cidrs),
        cluster_id: cluster.cluster_id.as_ref().map(|id| id.value),
    }
}

fn values<T: Clone>(list: &[Located<T>]) -> Vec<T> {
    list.iter().map(|item| item.value.clone()).collect()
}

/// Reports prefixes that overlap an earlier one.
fn disjoint(list: &[Located<Prefix>], problems: &Problems) {
    for (index, prefix) in list.iter().enumerate() {
        let overlaps = |other: &&Located<Prefix>| {
            other.value.contains(&prefix.value) || prefix.value.contains(&other.value)
        };
        if let Some(other) = list.iter().take(index).find(overlaps) {
            let message = format!(
                "{} overlaps {} in {}",
                prefix.value, other.value, other.location.path
            );
            problems.error(
                prefix
                    .location
                    .problem(message, "keep the larger one, or make them disjoint"),
            );
        }
    }
}

/// The model's node without its AS number, which may be missing.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) addresses: NodeAddresses,
    internal: Vec<IpAddr>,
    router_id: RouterIdChoice,
    blocks: Vec<Prefix>,
    mtu: Auto<u16>,
}

impl Node {
    /// Takes in what Kubernetes says of this node. Labels of the file win.
    pub(super) fn learn(&mut self, blocks: Vec<Prefix>, fact: Option<&model::NodeFact>) {
        if !blocks.is_empty() {
            self.blocks = blocks;
        }
        self.internal = fact.map(|fact| fact.addresses.clone()).unwrap_or_default();
        for (key, value) in fact.iter().flat_map(|fact| &fact.labels) {
            self.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    /// The operator chose the MTU of pods.
    pub(super) fn has_mtu(&self) -> bool {
        matches!(self.mtu, Auto::Fixed(_))
    }

    pub(super) fn with_asn(self, asn: Asn) -> model::Node {
        let Self {
            name,
            labels,
            addresses,
            internal,
            router_id,
            blocks,
            mtu,
        } = self;
        model::Node {
            name,
            router_id,
            asn,
            blocks,
            mtu,
            labels,
            addresses,
            internal,
        }
    }
}

/// An MTU of pods must be one that IPv6 allows, where they have IPv6.
pub(super) fn check_mtu(mtu: &Located<u16>, cluster: &Cluster, problems: &Problems) {
    let has_ipv6 = cluster.pod_cidrs.iter().any(|cidr| cidr.family() == Family::Ipv6);
    if has_ipv6 && mtu.value < IPV6_MTU {
        let message = format!(
            "'{}' is too small for the IPv6 pods of cluster.podCIDRs (RFC 8200 §5)",
            mtu.value
        );
        problems.error(
            mtu.location
                .problem(message, format!("use {IPV6_MTU} or more, or auto")),
        );
    }
}

pub(super) fn node(node: &schema::Node, facts: &NodeFacts, cluster: &Cluster, problems: &Problems) -> Node {
    let mtu = node.mtu.as_ref().and_then(|mtu| Some((mtu, mtu.value?)));
    if let Some((at, mtu)) = mtu {
        check_mtu(&Located::new(mtu, &at.location), cluster, problems);
    }
    let mut labels = facts.labels.clone();
    labels.extend(
        node.labels
            .iter()
            .map(|(key, value)| (key.value.clone(), value.value.clone())),
    );
    Node {
        name: node
            .name
            .as_ref()
            .map(|name| name.value.clone())
            .or_else(|| facts.name.clone()),
        labels,
        addresses: addresses(&node.addresses, problems),
        internal: Vec::new(),
        router_id: node.router_id.unwrap_or(RouterIdChoice::Auto),
        blocks: values(&node.blocks),
        mtu: mtu.map_or(Auto::Auto, |(_, mtu)| Auto::Fixed(mtu)),
    }
}

/// Blocks are disjoint and lie in the pod CIDRs.
pub(super) fn blocks(document: &Document, cluster: &Cluster, problems: &Problems) {
    let blocks = &document.node.blocks;
    disjoint(blocks, problems);
    if !document.cluster.pod_cidrs_known {
        return;
    }
    for block in blocks
        .iter()
        .filter(|block| !cluster.pod_cidrs.iter().any(|cidr| cidr.contains(&block.value)))
    {
        let cidrs: Vec<String> = cluster.pod_cidrs.iter().map(ToString::to_string).collect();
        let remedy = match cidrs.as_slice() {
            [] => format!("add cluster.podCIDRs with a range that contains {}", block.value),
            cidrs => format!(
                "choose a block in {}, or extend cluster.podCIDRs",
                cidrs.join(" or ")
            ),
        };
        problems.error(
            block
                .location
                .problem(format!("{} lies outside cluster.podCIDRs", block.value), remedy),
        );
    }
}

fn addresses(addresses: &Addresses, problems: &Problems) -> NodeAddresses {
    match addresses {
        Addresses::Auto => NodeAddresses::Auto,
        Addresses::InternalIp => NodeAddresses::InternalIp,
        Addresses::Cidrs(cidrs) => NodeAddresses::Cidrs(values(cidrs)),
        Addresses::Given(list) => {
            report_repeated(list, problems);
            NodeAddresses::Fixed(values(list))
        }
    }
}

fn report_repeated(list: &[Located<IpAddr>], problems: &Problems) {
    for (item, first) in repeated(list) {
        problems.error(item.location.problem(
            format!("{} is already in {}", item.value, first.path),
            "keep one of the two",
        ));
    }
}

pub(super) fn listen(listen: &schema::Listen, problems: &Problems) -> Listen {
    let everywhere = || {
        vec![
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ]
    };
    listen
        .addresses
        .iter()
        .for_each(|addresses| report_repeated(addresses, problems));
    Listen {
        enabled: listen.enabled.as_ref().is_none_or(|enabled| enabled.value),
        port: listen.port.as_ref().map_or(179, |port| port.value),
        addresses: listen.addresses.as_deref().map_or_else(everywhere, values),
    }
}

pub(super) fn fib(fib: &schema::Fib, problems: &Problems) -> Fib {
    let table = fib.table.as_ref().map_or(MAIN_TABLE, |table| table.value);
    if let Some(priority) = fib.rule_priority.as_ref().filter(|_| table == MAIN_TABLE) {
        problems.error(priority.location.problem(
            "a rule for the main table, which the kernel's own rules use already".to_owned(),
            "set fib.table to a table of its own, or remove rulePriority",
        ));
    }
    let objects = fib.nexthop_objects.as_ref().is_none_or(|objects| objects.value);
    if let Some(groups) = fib.resilient_groups.as_ref().filter(|_| !objects) {
        problems.error(groups.location.problem(
            "resilient groups are nexthop objects, which fib.nexthopObjects turns off".to_owned(),
            "remove one of the two",
        ));
    }
    Fib {
        install: fib.install.as_ref().is_none_or(|install| install.value),
        metric: fib.metric.as_ref().map_or(20, |metric| metric.value),
        table,
        rule_priority: fib.rule_priority.as_ref().map(|priority| priority.value),
        max_paths: fib.max_paths.as_ref().map_or(8, |paths| paths.value),
        multipath_relax: fib.multipath_relax.as_ref().is_some_and(|relax| relax.value),
        link_bandwidth: fib.link_bandwidth.as_ref().is_none_or(|on| on.value),
        resolve_via_default: fib.resolve_via_default.as_ref().is_some_and(|on| on.value),
        nexthop_objects: objects,
        resilient_groups: fib.resilient_groups.as_ref().map(|groups| ResilientGroups {
            buckets: groups.buckets.as_ref().map_or(128, |buckets| buckets.value),
            idle_seconds: groups.idle_timer.as_ref().map_or(120, |time| time.value),
        }),
    }
}
