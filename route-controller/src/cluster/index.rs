//! Objects of the cluster by name, reduced to what matters here. Synchronous: no API, no clock.
//!
//! A list replaces what was known when it is complete, never before: a list that breaks off changes nothing. Objects that
//! cannot be understood in part are taken without that part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_proto::types::{Family, FamilySet, Prefix};
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use podroute_config::{
    ASN_ANNOTATION, ClusterFacts, DRAIN_TAINT, FromKubernetes, NodeFact, PEERS_ANNOTATION,
    ROUTER_ID_ANNOTATION, ServiceAddress, ServiceFact,
};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Objects of one kind.
#[derive(Debug)]
struct Kind<T> {
    known: BTreeMap<String, T>,
    /// A list that is under way.
    listing: Option<BTreeMap<String, T>>,
    /// A list was complete once.
    complete: bool,
}

impl<T> Default for Kind<T> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            listing: None,
            complete: false,
        }
    }
}

impl<T> Kind<T> {
    fn apply<K: ResourceExt>(&mut self, event: Event<K>, reduce: impl Fn(&K) -> T) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                self.listing
                    .get_or_insert_default()
                    .insert(full_name(&object), reduce(&object));
            }
            Event::InitDone => {
                self.known = self.listing.take().unwrap_or_default();
                self.complete = true;
            }
            Event::Apply(object) => {
                self.known.insert(full_name(&object), reduce(&object));
            }
            Event::Delete(object) => {
                self.known.remove(&full_name(&object));
            }
        }
    }
}

/// `namespace/name`, or the name of what has no namespace.
fn full_name(object: &impl ResourceExt) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Where endpoints are, and what they do.
#[derive(Clone, Copy, Debug, Default)]
struct Endpoints {
    ready_here: bool,
    ready_elsewhere: bool,
    /// Also those that are going away but still answer.
    serving_here: bool,
    serving_elsewhere: bool,
}

impl Endpoints {
    fn add(&mut self, other: Self) {
        self.ready_here |= other.ready_here;
        self.ready_elsewhere |= other.ready_elsewhere;
        self.serving_here |= other.serving_here;
        self.serving_elsewhere |= other.serving_elsewhere;
    }

    /// The last one that answers counts until another is ready, or it is gone.
    fn should_announce(self) -> bool {
        self.ready_here || (self.serving_here && !self.ready_elsewhere)
    }

    fn answer_anywhere(self) -> bool {
        self.ready_elsewhere || self.should_announce() || self.serving_elsewhere
    }

    fn is_handing_over(self) -> bool {
        self.serving_here && !self.should_announce()
    }
}

/// A Service and one of its address families: endpoints of each family come in slices of their own.
pub(super) type OfFamily = (String, Family);

/// What a slice says; nothing about addresses when it is one of names.
#[derive(Debug, Default)]
struct Slice {
    service: String,
    family: Option<Family>,
    endpoints: Endpoints,
}

/// All that is known of the cluster.
#[derive(Debug)]
pub(super) struct Index {
    node: String,
    wanted: FromKubernetes,
    nodes: Kind<NodeFact>,
    services: Kind<ServiceFact>,
    slices: Kind<Slice>,
}

impl Index {
    /// For the node of this name.
    pub(super) fn new(node: String, wanted: FromKubernetes) -> Self {
        Self {
            node,
            wanted,
            nodes: Kind::default(),
            services: Kind::default(),
            slices: Kind::default(),
        }
    }

    pub(super) fn node(&mut self, event: Event<Node>) {
        let own = self.node.clone();
        self.nodes.apply(event, |node| node_fact(node, &own));
    }

    pub(super) fn service(&mut self, event: Event<Service>) {
        self.services.apply(event, service_fact);
    }

    pub(super) fn slice(&mut self, event: Event<EndpointSlice>) {
        let node = self.node.clone();
        self.slices.apply(event, |slice| slice_fact(slice, &node));
    }

    /// What follows from all that was received; `None` while something that is wanted was never listed.
    pub(super) fn facts(&self) -> Option<ClusterFacts> {
        let nodes = !self.wanted.nodes || self.nodes.complete;
        let services = !self.wanted.services || (self.services.complete && self.slices.complete);
        (nodes && services).then(|| ClusterFacts {
            nodes: self.nodes.known.clone(),
            services: self.services_here(),
        })
    }

    fn services_here(&self) -> BTreeMap<String, ServiceFact> {
        let mut services = self.services.known.clone();
        services.retain(|_, service| !service.addresses.is_empty());
        for ((name, family), endpoints) in self.endpoints() {
            let Some(service) = services.get_mut(name) else {
                continue;
            };
            if endpoints.should_announce() {
                service.endpoint_here.insert(family);
            }
            if endpoints.answer_anywhere() {
                service.endpoint_anywhere.insert(family);
            }
        }
        services
    }

    /// Services that others take over: an endpoint of this node is going away, still answers, and another node's is ready.
    pub(super) fn leaving(&self) -> BTreeSet<OfFamily> {
        let all = self.endpoints().into_iter();
        all.filter(|(_, endpoints)| endpoints.is_handing_over())
            .map(|((name, family), _)| (name.to_owned(), family))
            .collect()
    }

    fn endpoints(&self) -> BTreeMap<(&str, Family), Endpoints> {
        let mut services: BTreeMap<(&str, Family), Endpoints> = BTreeMap::new();
        for slice in self.slices.known.values() {
            if let Some(family) = slice.family {
                let service = services.entry((&slice.service, family)).or_default();
                service.add(slice.endpoints);
            }
        }
        services
    }
}

fn node_fact(node: &Node, own: &str) -> NodeFact {
    // Of others nobody asks for it, and it may be long.
    let annotation = |key: &str| {
        let text = node.annotations().get(key).filter(|_| node.name_any() == own);
        text.cloned()
    };
    let spec = node.spec.as_ref();
    let many = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.clone());
    let cidrs = if many.is_empty() {
        one.into_iter().collect()
    } else {
        many
    };
    let status = node.status.as_ref();
    let addresses = status
        .and_then(|status| status.addresses.as_ref())
        .into_iter()
        .flatten();
    NodeFact {
        uid: node.uid().unwrap_or_default(),
        labels: node.labels().clone(),
        blocks: cidrs
            .iter()
            .filter_map(|cidr| cidr.parse::<Prefix>().ok())
            .collect(),
        addresses: addresses
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        draining: spec
            .and_then(|spec| spec.taints.as_ref())
            .is_some_and(|taints| taints.iter().any(|taint| taint.key == DRAIN_TAINT)),
        asn: annotation(ASN_ANNOTATION),
        peers: annotation(PEERS_ANNOTATION),
        router_id: annotation(ROUTER_ID_ANNOTATION),
    }
}

fn service_fact(service: &Service) -> ServiceFact {
    let Some(spec) = service.spec.as_ref().filter(|spec| has_addresses(spec)) else {
        return ServiceFact::default();
    };
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    // The status of a Service that was a load balancer's may outlive the change of its type.
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref().filter(|_| is_balanced));
    let ingress = balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten();
    // With `Proxy` the load balancer sends to the nodes' own addresses, and keeps this one.
    let balanced = ingress
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.clone());
    let external = spec.external_ips.clone().unwrap_or_default();
    let many = spec.cluster_ips.clone().unwrap_or_default();
    let one = spec.cluster_ip.clone();
    let cluster = if many.is_empty() {
        one.into_iter().collect()
    } else {
        many
    };
    let of = |kind: ServiceAddress| move |text: String| Some((kind, text.parse::<IpAddr>().ok()?));
    // "None" of a headless Service is no address.
    let addresses = balanced
        .filter_map(of(ServiceAddress::LoadBalancer))
        .chain(external.into_iter().filter_map(of(ServiceAddress::External)))
        .chain(cluster.into_iter().filter_map(of(ServiceAddress::Cluster)));
    ServiceFact {
        labels: service.labels().clone(),
        addresses: addresses.collect(),
        load_balancer: is_balanced,
        class: spec.load_balancer_class.clone().filter(|_| is_balanced),
        external_local: is_local(&spec.external_traffic_policy),
        internal_local: is_local(&spec.internal_traffic_policy),
        endpoint_here: FamilySet::EMPTY,
        endpoint_anywhere: FamilySet::EMPTY,
    }
}

/// kube-proxy answers for no address of an ExternalName or headless Service, `externalIPs` included.
fn has_addresses(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName") && spec.cluster_ip.as_deref() != Some("None")
}

fn slice_fact(slice: &EndpointSlice, node: &str) -> Slice {
    let service = slice.labels().get(SERVICE_NAME).cloned().unwrap_or_default();
    let mut endpoints = Endpoints::default();
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // What is not said counts as ready, and what is ready serves (EndpointConditions of discovery/v1).
        let ready = conditions.ready.unwrap_or(true);
        let here = endpoint.node_name.as_deref() == Some(node);
        let serving = conditions.serving.unwrap_or(ready);
        endpoints.add(Endpoints {
            ready_here: here && ready,
            ready_elsewhere: !here && ready,
            serving_here: here && serving,
            serving_elsewhere: !here && serving,
        });
    }
    Slice {
        service: format!("{}/{service}", slice.namespace().unwrap_or_default()),
        family: match slice.address_type.as_str() {
            "IPv4" => Some(Family::Ipv4),
            "IPv6" => Some(Family::Ipv6),
            _ => None,
        },
        endpoints,
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
