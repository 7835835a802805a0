//! What Kubernetes says and what this node makes of it: blocks, mesh, Services. Depends on the facts alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;

use bgp_proto::engine::PeerKind;
use podroute_config::{ClusterFacts, Config, NodeFact, NodeFacts, ServiceAddress, ServiceFact, load_for};

fn labels(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn node(last: u8, reflects: bool) -> NodeFact {
    NodeFact {
        labels: labels(if reflects {
            &[("podroute/reflector", "true"), ("rack", "a")]
        } else {
            &[("rack", "a")]
        }),
        blocks: vec![format!("10.244.{last}.0/24").parse().unwrap()],
        addresses: vec![
            format!("2001:db8::{last}").parse().unwrap(),
            format!("192.0.2.{last}").parse().unwrap(),
        ],
        draining: false,
        ..NodeFact::default()
    }
}

fn facts(me: &str) -> NodeFacts {
    let nodes = [
        ("node-1", node(11, true)),
        ("node-2", node(12, true)),
        ("node-3", node(13, false)),
        ("node-4", node(14, false)),
    ];
    NodeFacts {
        name: Some(me.to_owned()),
        cluster: Some(ClusterFacts {
            nodes: nodes
                .into_iter()
                .map(|(name, node)| (name.to_owned(), node))
                .collect(),
            services: BTreeMap::new(),
        }),
        ..NodeFacts::default()
    }
}

fn file(more: &str) -> String {
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [10.244.0.0/16]}}\nnode: {{blocks: kubernetes}}\n{more}"
    )
}

fn load(more: &str, facts: &NodeFacts) -> Config {
    load_for(&file(more), facts).unwrap_or_else(|errors| panic!("{errors}"))
}

fn peers(config: &Config) -> Vec<(String, String, PeerKind)> {
    let peer = |peer: &podroute_config::Peer| (peer.name.clone(), peer.remote.to_string(), peer.kind);
    config.peers.iter().map(peer).collect()
}

fn peer(name: &str, address: &str, kind: PeerKind) -> (String, String, PeerKind) {
    (name.to_owned(), address.to_owned(), kind)
}

#[test]
fn a_full_mesh_is_everybody_else() {
    let config = load("mesh: {mode: full}\n", &facts("node-2"));
    assert_eq!(config.node.blocks[0].to_string(), "10.244.12.0/24");
    let internal = |name, address| peer(name, address, PeerKind::Internal);
    assert_eq!(
        peers(&config),
        [
            internal("node-1", "192.0.2.11"),
            internal("node-3", "192.0.2.13"),
            internal("node-4", "192.0.2.14")
        ]
    );
    assert!(config.from_kubernetes.nodes && !config.from_kubernetes.services);
}

#[test]
fn reflectors_have_all_and_clients_have_reflectors() {
    let mesh = "mesh: {mode: reflectors, reflectorSelector: {podroute/reflector: \"true\"}}\n";
    let (internal, client) = (PeerKind::Internal, PeerKind::Client);
    assert_eq!(
        peers(&load(mesh, &facts("node-1"))),
        [
            peer("node-2", "192.0.2.12", internal),
            peer("node-3", "192.0.2.13", client),
            peer("node-4", "192.0.2.14", client)
        ]
    );
    assert_eq!(
        peers(&load(mesh, &facts("node-3"))),
        [
            peer("node-1", "192.0.2.11", internal),
            peer("node-2", "192.0.2.12", internal)
        ]
    );
}

#[test]
fn what_is_configured_goes_before_what_is_found() {
    let more = "mesh: {mode: full}\npeers:\n\
        - {name: node-1, address: 192.0.2.99, asn: 64512}\n\
        - {name: another, address: 192.0.2.13, asn: 64512}\n\
        - {name: tor, nodeSelector: {rack: a}, address: 192.0.2.1, asn: 65001, import: accept-all, export: accept-all}\n\
        - {name: tor-b, nodeSelector: {rack: b}, address: 192.0.2.2, asn: 65001, import: accept-all, export: accept-all}\n";
    let config = load(more, &facts("node-2"));
    let names: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(
        names,
        ["node-1", "another", "tor", "node-4"],
        "the labels of the Node object count too"
    );
}

#[test]
fn a_block_outside_the_pod_cidrs_is_not_used() {
    let mut facts = facts("node-1");
    let own = facts.cluster.as_mut().unwrap().nodes.get_mut("node-1").unwrap();
    own.blocks.push("10.99.0.0/24".parse().unwrap());
    let config = load("", &facts);
    assert_eq!(config.node.blocks.len(), 1);
    assert!(
        config
            .warnings
            .iter()
            .any(|warning| warning.to_string().contains("10.99.0.0/24"))
    );
}

#[test]
fn before_the_first_answer_nothing_is_known() {
    let unknown = NodeFacts {
        name: Some("node-1".to_owned()),
        ..NodeFacts::default()
    };
    let config = load("mesh: {mode: full}\nservices: {advertise: [cluster]}\n", &unknown);
    assert!(config.peers.is_empty() && config.node.blocks.is_empty() && config.services.hosts.is_empty());
    assert!(config.from_kubernetes.any());
}

fn service(local: bool, endpoint_here: bool, class: Option<&str>) -> ServiceFact {
    ServiceFact {
        labels: labels(&[("announce", "yes")]),
        addresses: vec![
            (ServiceAddress::LoadBalancer, "198.51.100.1".parse().unwrap()),
            (ServiceAddress::External, "198.51.100.2".parse().unwrap()),
            (ServiceAddress::Cluster, "10.96.0.1".parse().unwrap()),
            (ServiceAddress::Cluster, "fd00:96::1".parse().unwrap()),
        ],
        class: class.map(str::to_owned),
        external_local: local,
        internal_local: local,
        endpoint_here,
    }
}

#[test]
fn services_by_kind_policy_and_class() {
    let announced = |more: &str, service: ServiceFact| {
        let mut facts = facts("node-1");
        let services = &mut facts.cluster.as_mut().unwrap().services;
        services.insert("default/web".to_owned(), service);
        let prefixes = load(&format!("services: {{{more}}}\n"), &facts).services;
        prefixes
            .hosts
            .iter()
            .chain(&prefixes.aggregates)
            .map(|(prefix, communities)| {
                let communities: String = communities.iter().map(|one| format!("@{one}")).collect();
                format!("{prefix}{communities}")
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let all = "advertise: [loadBalancer, external, cluster]";
    let every = "10.96.0.1/32 198.51.100.1/32 198.51.100.2/32 fd00:96::1/128";
    assert_eq!(announced(all, service(false, false, None)), every);
    assert_eq!(announced(all, service(true, true, None)), every);
    assert_eq!(
        announced(all, service(true, false, None)),
        "",
        "no ready endpoint here"
    );
    assert_eq!(
        announced("advertise: [external]", service(false, false, None)),
        "198.51.100.2/32"
    );
    let other = "advertise: [loadBalancer]";
    assert_eq!(announced(other, service(false, false, Some("metallb"))), "");
    let ours = "advertise: [loadBalancer], loadBalancerClass: podroute.io/bgp";
    assert_eq!(
        announced(ours, service(false, false, Some("podroute.io/bgp"))),
        "198.51.100.1/32"
    );
    let selected = "advertise: [external], selector: {announce: \"no\"}";
    assert_eq!(announced(selected, service(false, false, None)), "");
    // Aggregates stand for what every node takes.
    let with = format!("{all}, aggregates: [198.51.100.0/24, 10.96.0.0/12]");
    assert_eq!(
        announced(&with, service(false, false, None)),
        "fd00:96::1/128 10.96.0.0/12 198.51.100.0/24"
    );
    // Communities by label and class; an aggregate has those of all that it stands for.
    let classes = "communities: [{add: [\"64512:1\"]}, {loadBalancerClass: other, add: [\"64512:2\"]}, \
                   {selector: {tier: none}, add: [\"64512:3\"]}]";
    let with = format!("advertise: [external], {classes}");
    assert_eq!(
        announced(&with, service(false, false, Some("other"))),
        "198.51.100.2/32@64512:1@64512:2"
    );
    assert_eq!(
        announced(&with, service(false, false, None)),
        "198.51.100.2/32@64512:1"
    );
    let with = format!("advertise: [external], aggregates: [198.51.100.0/24], {classes}");
    assert_eq!(
        announced(&with, service(false, false, None)),
        "198.51.100.0/24@64512:1"
    );
}
