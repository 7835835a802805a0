//! Objects in, facts out.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const BOTH: FromKubernetes = FromKubernetes {
    nodes: true,
    services: true,
    network: true,
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
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "externalIPs": ["198.51.100.2"], "externalTrafficPolicy": "Local"},
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
    assert!(service.external_local && !service.internal_local && service.endpoint_here.is_empty());
}

/// A Service as the API server has it after this change of its spec and status; its addresses by kind.
fn addresses(change: &serde_json::Value) -> (Vec<(ServiceAddress, String)>, Option<String>) {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
            "externalIPs": ["198.51.100.2"], "loadBalancerClass": "example.com/bgp",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
    });
    for (section, fields) in change.as_object().unwrap() {
        for (field, value) in fields.as_object().unwrap() {
            object[section][field] = value.clone();
        }
    }
    let mut index = index();
    index.service(Event::Apply(serde_json::from_value(object).unwrap()));
    let facts = index.facts().unwrap();
    let Some(service) = facts.services.get("default/web") else {
        return (Vec::new(), None);
    };
    let text = |(kind, addr): &(ServiceAddress, IpAddr)| (*kind, addr.to_string());
    (
        service.addresses.iter().map(text).collect(),
        service.class.clone(),
    )
}

/// What is in an object and does not hold: kube-proxy answers for none of it, so that packets to it would loop or be lost.
#[test]
fn addresses_that_a_service_of_this_type_does_not_have() {
    use ServiceAddress::{Cluster, External, LoadBalancer};
    let of = |list: &[(ServiceAddress, &str)]| -> Vec<_> {
        list.iter()
            .map(|(kind, text)| (*kind, (*text).to_owned()))
            .collect()
    };
    let balanced = (LoadBalancer, "198.51.100.1");
    let others = [
        (External, "198.51.100.2"),
        (Cluster, "10.96.0.1"),
        (Cluster, "fd00:96::1"),
    ];
    let whole: Vec<_> = [balanced].into_iter().chain(others).collect();
    let ingress = |ingress: serde_json::Value| json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let cases = [
        ("as it should be", json!({}), whole.clone()),
        (
            "VIP",
            ingress(json!([{"ip": "198.51.100.1", "ipMode": "VIP"}])),
            whole.clone(),
        ),
        (
            "the load balancer is a proxy",
            ingress(json!([{"ip": "198.51.100.1", "ipMode": "Proxy"}])),
            others.to_vec(),
        ),
        (
            "a host name, and no address",
            ingress(json!([{"hostname": "web.example"}, {"ip": "not an address"}])),
            others.to_vec(),
        ),
        (
            "the status of the load balancer that it was",
            json!({"spec": {"type": "ClusterIP"}}),
            others.to_vec(),
        ),
        ("NodePort", json!({"spec": {"type": "NodePort"}}), others.to_vec()),
        (
            "no type is ClusterIP",
            json!({"spec": {"type": null}}),
            others.to_vec(),
        ),
        (
            "ExternalName, with what it had before",
            json!({"spec": {"type": "ExternalName", "externalName": "web.example"}}),
            Vec::new(),
        ),
        (
            "headless",
            json!({"spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}}),
            Vec::new(),
        ),
        (
            "no cluster address yet",
            json!({"spec": {"clusterIP": "", "clusterIPs": null}}),
            vec![balanced, others[0]],
        ),
        (
            "only the older field",
            json!({"spec": {"clusterIPs": null}}),
            vec![balanced, others[0], others[1]],
        ),
    ];
    for (what, change, expected) in cases {
        let (found, class) = addresses(&change);
        assert_eq!(found, of(&expected), "{what}");
        let is_balancer = change["spec"]["type"].is_null() && change["spec"].get("type").is_none();
        assert_eq!(
            class.is_some(),
            is_balancer,
            "{what}: a class is of load balancers alone"
        );
    }
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
            facts.services["default/web"].endpoint_here.contains(Family::Ipv4),
            expected,
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
            facts.services["default/web"].endpoint_here.contains(Family::Ipv4),
            expected,
            "{serving} {ready_elsewhere:?}"
        );
        let leaves = serving && ready_elsewhere == Some(true);
        assert_eq!(
            index
                .leaving()
                .contains(&("default/web".to_owned(), Family::Ipv4)),
            leaves
        );
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
