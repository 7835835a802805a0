//! What Kubernetes says and what this node makes of it: blocks, mesh, Services. Depends on the facts alone.
#![cfg(test)]

use std::collections::BTreeMap;

use bgp_proto::engine::PeerKind;
use bgp_proto::policy::Verdict;
use bgp_proto::types::{Family, FamilySet, RouterId};
use podroute_config::{
    ClusterFacts, Config, NodeFact, NodeFacts, RouterIdChoice, ServiceAddress, ServiceFact, load_for,
};

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
    let config = load(
        "mesh: {mode: full}\nservices: {advertise: [cluster], ranges: [10.96.0.0/12]}\n",
        &unknown,
    );
    assert!(config.peers.is_empty() && config.node.blocks.is_empty() && config.services.hosts.is_empty());
    assert!(config.from_kubernetes.any());
}

const RANGES: &str = "ranges: [198.51.100.0/24, 10.96.0.0/12, 'fd00:96::/112']";

fn service(local: bool, endpoint_here: bool, class: Option<&str>) -> ServiceFact {
    ServiceFact {
        load_balancer: true,
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
        endpoint_here: if endpoint_here {
            FamilySet::ALL
        } else {
            FamilySet::EMPTY
        },
        endpoint_anywhere: FamilySet::ALL,
    }
}

#[test]
fn services_by_kind_policy_and_class() {
    let announced = |more: &str, service: ServiceFact| {
        let mut facts = facts("node-1");
        let services = &mut facts.cluster.as_mut().unwrap().services;
        services.insert("default/web".to_owned(), service);
        let prefixes = load(&format!("services: {{{RANGES}, {more}}}\n"), &facts).services;
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

/// The facts with one Service that has these external addresses.
fn with_addresses(addresses: &[&str]) -> NodeFacts {
    let mut facts = facts("node-1");
    let service = ServiceFact {
        addresses: addresses
            .iter()
            .map(|text| (ServiceAddress::External, text.parse().unwrap()))
            .collect(),
        ..ServiceFact::default()
    };
    let services = &mut facts.cluster.as_mut().unwrap().services;
    services.insert("tenant/evil".to_owned(), service);
    facts
}

/// CVE-2020-8554: whoever writes a Service writes its addresses.
#[test]
fn a_service_has_only_addresses_of_the_ranges() {
    let more = "services: {advertise: [external], ranges: [192.0.2.0/24, 198.51.100.0/24, 'fd00:96::/112']}\n\
        peers: [{name: tor-b, nodeSelector: {rack: b}, address: 192.0.2.1, asn: 65001, import: accept-all, export: accept-all}]\n\
        nextHops: [{address: 192.0.2.77, bfd: {}}]\n";
    for (address, why) in [
        ("8.8.8.8", "outside services.ranges"),
        ("192.0.2.12", "is the address of node node-2"),
        ("2001:db8::12", "is the address of node node-2"),
        ("192.0.2.1", "is the address of peer tor-b"),
        ("192.0.2.77", "is the address of a next hop"),
        ("10.244.12.7", "lies in the pod CIDR 10.244.0.0/16"),
        ("0.0.0.0", "special"),
        ("127.0.0.1", "special"),
        ("224.0.0.1", "special"),
        ("255.255.255.255", "special"),
        ("169.254.1.1", "special"),
        ("fe80::1", "special"),
        ("::ffff:198.51.100.9", "special"),
    ] {
        // The good address of the same Service is announced all the same.
        let config = load(more, &with_addresses(&[address, "198.51.100.7"]));
        let hosts: Vec<String> = config.services.hosts.keys().map(ToString::to_string).collect();
        assert_eq!(hosts, ["198.51.100.7/32"], "{address}");
        let rejected: Vec<String> = config.rejected.iter().map(ToString::to_string).collect();
        assert!(
            rejected.len() == 1
                && rejected[0].starts_with(&format!("Service tenant/evil, address {address}: "))
                && rejected[0].contains(why),
            "{address}: {rejected:?}"
        );
    }
}

#[test]
fn endpoints_count_by_family() {
    let of = |here: FamilySet, anywhere: FamilySet, local: bool, more: &str| {
        let mut facts = facts("node-1");
        let mut one = service(local, false, None);
        one.endpoint_here = here;
        one.endpoint_anywhere = anywhere;
        let services = &mut facts.cluster.as_mut().unwrap().services;
        services.insert("default/web".to_owned(), one);
        let config = load(
            &format!("services: {{advertise: [cluster], {RANGES}{more}}}\n"),
            &facts,
        );
        let hosts: Vec<String> = config.services.hosts.keys().map(ToString::to_string).collect();
        hosts.join(" ")
    };
    let only = |family| FamilySet::from_iter([family]);
    let (none, both) = (FamilySet::EMPTY, FamilySet::ALL);
    assert_eq!(of(only(Family::Ipv6), both, true, ""), "fd00:96::1/128");
    assert_eq!(of(only(Family::Ipv4), both, true, ""), "10.96.0.1/32");
    assert_eq!(of(none, none, false, ""), "10.96.0.1/32 fd00:96::1/128");
    assert_eq!(of(none, none, false, ", withoutEndpoints: withdraw"), "");
    assert_eq!(
        of(none, only(Family::Ipv4), false, ", withoutEndpoints: withdraw"),
        "10.96.0.1/32"
    );
}

#[test]
fn an_excluded_node_announces_no_load_balancer() {
    let mut facts = facts("node-1");
    let known = facts.cluster.as_mut().unwrap();
    known
        .services
        .insert("default/web".to_owned(), service(false, true, None));
    let own = known.nodes.get_mut("node-1").unwrap();
    own.labels
        .insert(podroute_config::EXCLUDE_LABEL.to_owned(), String::new());
    let more = format!("services: {{advertise: [loadBalancer, external, cluster], {RANGES}}}\n");
    let hosts: Vec<String> = load(&more, &facts)
        .services
        .hosts
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(hosts, ["10.96.0.1/32", "fd00:96::1/128"]);
}

/// What a peer's import policy takes, of these prefixes.
fn taken<'a>(config: &Config, peer: &str, prefixes: &[&'a str]) -> Vec<&'a str> {
    let peer = config.peers.iter().find(|one| one.name == peer).unwrap();
    let policy = &peer.routing.import;
    assert_eq!(policy.default, Verdict::Reject);
    let takes = |prefix: &&&str| {
        let prefix = prefix.parse().unwrap();
        let mut rules = policy.rules.iter();
        rules.any(|rule| rule.matcher.prefixes.iter().any(|set| set.contains(&prefix)))
    };
    prefixes.iter().filter(takes).copied().collect()
}

/// A node that was broken into takes neither another's pods nor anybody's addresses.
#[test]
fn from_a_node_only_its_own_blocks_and_services() {
    let all = [
        "10.244.13.0/24",
        "10.244.14.0/24",
        "10.244.0.0/16",
        "0.0.0.0/0",
        "198.51.100.1/32",
        "192.0.2.1/32",
    ];
    let services = "services: {advertise: [external], ranges: [198.51.100.0/24]}\n";
    let full = load(&format!("mesh: {{mode: full}}\n{services}"), &facts("node-1"));
    assert_eq!(
        taken(&full, "node-3", &all),
        ["10.244.13.0/24", "198.51.100.1/32"]
    );
    let full = load("mesh: {mode: full}\n", &facts("node-1"));
    assert_eq!(taken(&full, "node-3", &all), ["10.244.13.0/24"]);
    let mesh = "mesh: {mode: reflectors, reflectorSelector: {podroute/reflector: \"true\"}}\n";
    // Clients' blocks at reflectors, all blocks from reflectors.
    assert_eq!(
        taken(&load(mesh, &facts("node-1")), "node-3", &all),
        ["10.244.13.0/24"]
    );
    let pods = ["10.244.13.0/24", "10.244.14.0/24", "10.244.0.0/16"];
    assert_eq!(taken(&load(mesh, &facts("node-1")), "node-2", &all), pods);
    assert_eq!(taken(&load(mesh, &facts("node-3")), "node-2", &all), pods);
    // A node without a pod CIDR says nothing; and a policy of the file says otherwise.
    let mut without = facts("node-1");
    without
        .cluster
        .as_mut()
        .unwrap()
        .nodes
        .get_mut("node-3")
        .unwrap()
        .blocks
        .clear();
    assert_eq!(
        taken(&load("mesh: {mode: full}\n", &without), "node-3", &all),
        [""; 0]
    );
    let own = load("mesh: {mode: full, import: accept-all}\n", &facts("node-1"));
    assert_eq!(own.peers[0].routing.import.default, Verdict::Accept);
}

#[test]
fn what_kubernetes_lacks_keeps_the_node_from_being_ready() {
    let unready = |more: &str, facts: &NodeFacts| load(more, facts).unready.join("; ");
    let full = "mesh: {mode: full}\n";
    assert_eq!(unready(full, &facts("node-1")), "");
    assert!(unready(full, &facts("node-9")).contains("there is no Node object 'node-9'"));
    let mut changed = facts("node-1");
    let nodes = &mut changed.cluster.as_mut().unwrap().nodes;
    nodes.get_mut("node-1").unwrap().blocks.clear();
    assert!(unready(full, &changed).contains("Node node-1 has no pod CIDR"));
    let nobody = "mesh: {mode: reflectors, reflectorSelector: {no: body}}\n";
    assert!(unready(nobody, &facts("node-1")).contains("kubectl label node NAME no=body"));
    let mut changed = facts("node-1");
    let nodes = &mut changed.cluster.as_mut().unwrap().nodes;
    nodes.get_mut("node-2").unwrap().addresses.clear();
    let config = load(full, &changed);
    assert!(config.unready.is_empty() && config.peers.len() == 2);
    assert!(
        config.rejected[0]
            .to_string()
            .contains("Node node-2: has no InternalIP")
    );
    // A cluster of one node has an empty mesh and lacks nothing.
    changed
        .cluster
        .as_mut()
        .unwrap()
        .nodes
        .retain(|name, _| name == "node-1");
    assert_eq!(unready(full, &changed), "");
}

#[test]
fn what_a_running_agent_cannot_change_stays_alone() {
    let mut facts = facts("node-1");
    let before = load("mesh: {mode: full}\n", &facts);
    facts.running = Some(podroute_config::Running {
        asn: before.node.asn,
        cluster_id: before.cluster.cluster_id,
        fib: before.fib.clone(),
    });
    assert!(load("mesh: {mode: full}\n", &facts).deferred.is_empty());
    let text = file("fib: {table: 100, maxPaths: 2, multipathRelax: true}\nlisten: {port: 1179}\nmesh: {mode: full, hold: 9s}\n")
        .replace("asn: 64512", "asn: 64999, clusterId: 7");
    let after = load_for(&text, &facts).unwrap();
    assert_eq!(
        after.deferred,
        ["cluster.asn, node.asn", "cluster.clusterId", "fib.table"]
    );
    assert_eq!((after.node.asn.0, after.cluster.cluster_id), (64512, None));
    assert_eq!(
        (after.fib.table, after.fib.max_paths, after.fib.multipath_relax),
        (254, 2, true)
    );
    assert_eq!(after.listen.port, 1179);
    // The mesh is of the AS that runs, with its new hold time.
    assert_eq!(
        (
            after.peers[0].remote_asn.only().map(|asn| asn.0),
            after.peers[0].timers.hold.seconds()
        ),
        (Some(64512), 9)
    );
}

#[test]
fn an_annotation_gives_the_router_id() {
    let id = |annotations: &str, text: &str| {
        let mut facts = facts("node-1");
        let nodes = &mut facts.cluster.as_mut().unwrap().nodes;
        nodes.get_mut("node-1").unwrap().router_id = Some(text.to_owned());
        let annotated = format!("node: {{blocks: kubernetes, annotations: [{annotations}]}}");
        let text = file("mesh: {mode: full}\n").replace("node: {blocks: kubernetes}", &annotated);
        let config = load_for(&text, &facts).unwrap();
        (config.node.router_id, config.rejected)
    };
    let fixed = |text: &str| RouterIdChoice::Fixed(RouterId::from_ipv4(text.parse().unwrap()).unwrap());
    assert_eq!(id("routerId", "10.255.0.7"), (fixed("10.255.0.7"), vec![]));
    // What nobody asked for, or cannot be read, is rejected alone.
    let (kept, rejected) = id("asn", "10.255.0.7");
    assert_eq!(kept, RouterIdChoice::Auto);
    assert!(
        rejected[0].to_string().contains("node.annotations: [routerId]"),
        "{rejected:?}"
    );
    let (kept, rejected) = id("routerId", "seven");
    assert_eq!(kept, RouterIdChoice::Auto);
    assert!(
        rejected[0].to_string().contains("is not a BGP identifier"),
        "{rejected:?}"
    );
}

/// A neighbor that sends more than any sound one takes no more of this node than this.
#[test]
fn each_kind_of_peer_has_limits() {
    let limits = |text: &str| {
        let mut facts = facts("node-1");
        let nodes = &mut facts.cluster.as_mut().unwrap().nodes;
        nodes.values_mut().for_each(|node| {
            node.labels.insert("reflects".to_owned(), "true".to_owned());
        });
        nodes.get_mut("node-1").unwrap().labels.clear();
        let config = load(text, &facts);
        let routing = &config.peers[0].routing;
        let most = routing.max_prefixes.unwrap();
        (most.limit, most.warn_at, routing.max_memory.unwrap() >> 20)
    };
    let peer = |more: &str| limits(&format!("peers: [{{name: r, asn: 64512, {more}}}]\n"));
    assert_eq!(peer("address: 192.0.2.1"), (2_000_000, Some(1_600_000), 512));
    assert_eq!(peer("listenRange: 192.0.2.0/24"), (100_000, Some(80_000), 64));
    assert_eq!(
        peer("address: 192.0.2.1, maxPrefixes: 7, maxMemory: 2Gi"),
        (7, None, 2048)
    );
    assert_eq!(limits("mesh: {mode: full}\n"), (100_000, Some(80_000), 64));
    let reflectors = "mesh: {mode: reflectors, reflectorSelector: {reflects: \"true\"}}\n";
    assert_eq!(limits(reflectors), (1_000_000, Some(800_000), 384));
}

#[test]
fn memory_has_a_unit() {
    for bad in ["512", "0Mi", "512MB", "2000Gi", "01Mi", "-1Mi", "Mi"] {
        let text = file(&format!(
            "peers: [{{name: r, asn: 64512, address: 192.0.2.1, maxMemory: {bad}}}]\n"
        ));
        let error = load_for(&text, &facts("node-1")).unwrap_err().in_file("f");
        assert!(
            error.contains("maxMemory") && error.contains("512Mi"),
            "{bad}: {error}"
        );
    }
}

#[test]
fn addresses_of_pools_are_announced_with_their_communities_and_others_say_why_not() {
    let mut facts = facts("node-1");
    let services = &mut facts.cluster.as_mut().unwrap().services;
    services.insert("default/web".to_owned(), service(false, false, None));
    let pool = "pools: [{name: edge, addresses: [198.51.100.1], communities: [\"64512:80\"]}]";
    let config = load(
        &format!("services: {{advertise: [loadBalancer, external], {pool}}}\n"),
        &facts,
    );
    let hosts = &config.services.hosts;
    let announced: Vec<String> = hosts
        .iter()
        .map(|(prefix, list)| format!("{prefix} {list:?}"))
        .collect();
    assert_eq!(announced.len(), 1, "{announced:?}");
    assert_eq!(
        hosts.values().next().unwrap().iter().next().unwrap().to_string(),
        "64512:80"
    );
    let outcomes = &config.services.outcomes["default/web"];
    let why: Vec<String> = outcomes
        .iter()
        .map(|one| match &one.outcome {
            Ok(prefix) => prefix.to_string(),
            Err(why) => why.to_string(),
        })
        .collect();
    assert_eq!(why[0], "198.51.100.1/32");
    assert!(
        why[1].starts_with("lies outside services.ranges and services.pools"),
        "{why:?}"
    );
    assert!(why[2].starts_with("services.advertise does not list"), "{why:?}");
    assert_eq!(config.rejected.len(), 1, "{:?}", config.rejected);
    assert!(config.from_kubernetes.services && config.from_kubernetes.nodes);
}
