//! Objects of the cluster by name, reduced to what matters here. Synchronous: no API, no clock.
//!
//! A list replaces what was known when it is complete, never before: a list that breaks off changes nothing. Objects that
//! cannot be understood in part are taken without that part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_proto::types::Prefix;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use podroute_config::{
    ASN_ANNOTATION, ClusterFacts, DRAIN_TAINT, FromKubernetes, NodeFact, PEERS_ANNOTATION, ServiceAddress,
    ServiceFact,
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
}

impl Endpoints {
    fn add(&mut self, other: Self) {
        self.ready_here |= other.ready_here;
        self.ready_elsewhere |= other.ready_elsewhere;
        self.serving_here |= other.serving_here;
    }

    /// The last one that answers counts until another is ready, or it is gone.
    fn answer_here(self) -> bool {
        self.ready_here || (self.serving_here && !self.ready_elsewhere)
    }

    fn leave_here(self) -> bool {
        self.serving_here && !self.answer_here()
    }
}

/// What a slice says.
#[derive(Debug, Default)]
struct Slice {
    service: String,
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

    /// What follows from all that was heard; `None` while something that is wanted was never listed.
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
        for (name, endpoints) in self.endpoints() {
            if let Some(service) = services.get_mut(name) {
                service.endpoint_here = endpoints.answer_here();
            }
        }
        services
    }

    /// Services that others take over: an endpoint of this node is going away, still answers, and another node's is ready.
    pub(super) fn leaving(&self) -> BTreeSet<String> {
        let all = self.endpoints().into_iter();
        all.filter(|(_, endpoints)| endpoints.leave_here())
            .map(|(name, _)| name.to_owned())
            .collect()
    }

    fn endpoints(&self) -> BTreeMap<&str, Endpoints> {
        let mut services: BTreeMap<&str, Endpoints> = BTreeMap::new();
        for slice in self.slices.known.values() {
            services.entry(&slice.service).or_default().add(slice.endpoints);
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
    }
}

fn service_fact(service: &Service) -> ServiceFact {
    let Some(spec) = service.spec.as_ref() else {
        return ServiceFact::default();
    };
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten();
    let balanced = ingress.filter_map(|ingress| ingress.ip.clone());
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
        class: spec.load_balancer_class.clone(),
        external_local: is_local(&spec.external_traffic_policy),
        internal_local: is_local(&spec.internal_traffic_policy),
        endpoint_here: false,
    }
}

fn slice_fact(slice: &EndpointSlice, node: &str) -> Slice {
    let service = slice.labels().get(SERVICE_NAME).cloned().unwrap_or_default();
    let mut endpoints = Endpoints::default();
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        // What is not said counts as ready, and what is ready serves (EndpointConditions of discovery/v1).
        let ready = conditions.ready.unwrap_or(true);
        let here = endpoint.node_name.as_deref() == Some(node);
        endpoints.add(Endpoints {
            ready_here: here && ready,
            ready_elsewhere: !here && ready,
            serving_here: here && conditions.serving.unwrap_or(ready),
        });
    }
    Slice {
        service: format!("{}/{service}", slice.namespace().unwrap_or_default()),
        endpoints,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const BOTH: FromKubernetes = FromKubernetes {
        nodes: true,
        services: true,
    };

    fn node(name: &str, cidr: &str, address: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"rack": "a"}},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr, "not a prefix"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": address},
                {"type": "ExternalIP", "address": "203.0.113.1"},
            ]},
        }))
        .unwrap()
    }

    fn service(name: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": "10.96.0.1", "externalIPs": ["198.51.100.2"], "externalTrafficPolicy": "Local"},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "x"}]}},
        }))
        .unwrap()
    }

    fn slice(name: &str, service: &str, node: &str, ready: Option<bool>) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name, "labels": {SERVICE_NAME: service}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.1.2"], "nodeName": node, "conditions": {"ready": ready}}],
        }))
        .unwrap()
    }

    fn listed<K>(objects: Vec<K>) -> Vec<Event<K>> {
        let all = objects.into_iter().map(Event::InitApply);
        std::iter::once(Event::Init)
            .chain(all)
            .chain([Event::InitDone])
            .collect()
    }

    fn index() -> Index {
        let mut index = Index::new("node-1".to_owned(), BOTH);
        let nodes = vec![node("node-1", "10.244.1.0/24", "192.0.2.11")];
        listed(nodes).into_iter().for_each(|event| index.node(event));
        listed(vec![service("web")])
            .into_iter()
            .for_each(|event| index.service(event));
        listed(Vec::new())
            .into_iter()
            .for_each(|event| index.slice(event));
        index
    }

    #[test]
    fn objects_are_reduced_to_what_matters() {
        let facts = index().facts().unwrap();
        let node = &facts.nodes["node-1"];
        assert_eq!(node.blocks, ["10.244.1.0/24".parse::<Prefix>().unwrap()]);
        assert_eq!(node.addresses, ["192.0.2.11".parse::<IpAddr>().unwrap()]);
        let service = &facts.services["default/web"];
        assert_eq!(service.addresses.len(), 3);
        assert!(service.external_local && !service.internal_local && !service.endpoint_here);
    }

    #[test]
    fn a_ready_endpoint_here_and_nowhere_else() {
        for (node, ready, expected) in [
            ("node-1", Some(true), true),
            ("node-1", None, true),
            ("node-1", Some(false), false),
            ("node-2", Some(true), false),
        ] {
            let mut index = index();
            index.slice(Event::Apply(slice("web-a", "web", node, ready)));
            let facts = index.facts().unwrap();
            assert_eq!(
                facts.services["default/web"].endpoint_here, expected,
                "{node} {ready:?}"
            );
        }
    }

    #[test]
    fn the_last_one_that_answers_is_announced_until_another_is_ready() {
        let leaving = |serving: bool| -> EndpointSlice {
            serde_json::from_value(json!({
                "metadata": {"namespace": "default", "name": "web-a", "labels": {SERVICE_NAME: "web"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.244.1.2"], "nodeName": "node-1",
                    "conditions": {"ready": false, "serving": serving, "terminating": true}}],
            }))
            .unwrap()
        };
        for (serving, ready_elsewhere, expected) in [
            (true, Some(false), true),
            (true, Some(true), false),
            (false, Some(false), false),
        ] {
            let mut index = index();
            index.slice(Event::Apply(leaving(serving)));
            index.slice(Event::Apply(slice("web-b", "web", "node-2", ready_elsewhere)));
            let facts = index.facts().unwrap();
            assert_eq!(
                facts.services["default/web"].endpoint_here, expected,
                "{serving} {ready_elsewhere:?}"
            );
            let leaves = serving && ready_elsewhere == Some(true);
            assert_eq!(index.leaving().contains("default/web"), leaves);
        }
    }

    #[test]
    fn nothing_before_the_first_whole_list_and_nothing_lost_by_a_broken_one() {
        let mut fresh = Index::new("node-1".to_owned(), BOTH);
        assert_eq!(fresh.facts(), None);
        fresh.node(Event::Init);
        fresh.node(Event::InitApply(node("node-1", "10.244.1.0/24", "192.0.2.11")));
        assert_eq!(fresh.facts(), None);
        let mut index = index();
        let before = index.facts();
        // The API server breaks off in the middle of a new list, then gives a whole one.
        index.node(Event::Init);
        index.node(Event::Init);
        assert_eq!(index.facts(), before);
        index.node(Event::InitDone);
        assert!(index.facts().unwrap().nodes.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Remove(u8),
        List(Vec<(u8, u8)>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u8..5, 0u8..4).prop_map(|(name, cidr)| Step::Put(name, cidr)),
            2 => (0u8..5).prop_map(Step::Remove),
            1 => proptest::collection::vec((0u8..5, 0u8..4), 0..5).prop_map(Step::List),
        ];
        proptest::collection::vec(step, 0..30)
    }

    fn numbered(name: u8, cidr: u8) -> Node {
        node(
            &format!("node-{name}"),
            &format!("10.244.{cidr}.0/24"),
            &format!("192.0.2.{name}"),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// The facts are those of a fresh list of the objects that are there in the end.
        #[test]
        fn any_order_of_events_gives_the_same_facts(steps in steps()) {
            let mut index = index();
            let mut there = BTreeMap::from([("node-1".to_owned(), node("node-1", "10.244.1.0/24", "192.0.2.11"))]);
            for step in steps {
                match step {
                    Step::Put(name, cidr) => {
                        let node = numbered(name, cidr);
                        there.insert(node.name_any(), node.clone());
                        index.node(Event::Apply(node));
                    }
                    Step::Remove(name) => {
                        let node = numbered(name, 0);
                        there.remove(&node.name_any());
                        index.node(Event::Delete(node));
                    }
                    Step::List(list) => {
                        let nodes: Vec<Node> = list.into_iter().map(|(name, cidr)| numbered(name, cidr)).collect();
                        there = nodes.iter().map(|node| (node.name_any(), node.clone())).collect();
                        listed(nodes).into_iter().for_each(|event| index.node(event));
                    }
                }
            }
            let mut fresh = self::index();
            listed(there.into_values().collect()).into_iter().for_each(|event| fresh.node(event));
            prop_assert_eq!(index.facts(), fresh.facts());
        }
    }
}
