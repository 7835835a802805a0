//! Policies and Services: policies see the pod behind a Service, and the client in front of it, whatever the Service's type. The
//! node's translation is written as kube-proxy and the hostPort plugin write it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    dead_code,
    unreachable_pub
)]

mod lab;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Lab, Probe};
use podroute_enforce::Enforcer;
use podroute_netpol::{LabelSelector, Operator, Peer, PodInput, Policy, PortRule, Ports, Requirement, Rule};

/// The server is x-a; x-b has a hostPort.
const PODS: [(&str, &str, [&str; 2]); 3] = [
    ("x", "a", ["10.0.0.1", "fd00::1"]),
    ("x", "b", ["10.0.0.2", "fd00::2"]),
    ("y", "c", ["10.0.1.1", "fd00::1:1"]),
];
const OUTSIDE: &str = "192.0.2.7";

/// Where the Services are reached.
const CLUSTER_IP: &str = "10.96.0.10:8000";
const CLUSTER_IP_6: &str = "[fd00:96::10]:8000";
const NODE_PORT: &str = "198.51.100.1:30080";
const NODE_PORT_LOCAL: &str = "198.51.100.1:30081";
const LOAD_BALANCER: &str = "203.0.113.80:80";
const LOAD_BALANCER_LOCAL: &str = "203.0.113.81:80";
const HOST_PORT: &str = "198.51.100.1:8081";
const FROM_OUTSIDE: [&str; 4] = [NODE_PORT, NODE_PORT_LOCAL, LOAD_BALANCER, LOAD_BALANCER_LOCAL];

/// `externalTrafficPolicy: Cluster` masquerades, `Local` does not; a pod that reaches itself is masqueraded too.
const TRANSLATION: &str = "
table inet services {
    chain services {
        ip saddr 10.0.0.1 ip daddr 10.96.0.10 tcp dport 8000 meta mark set meta mark or 0x4000
        ip daddr 10.96.0.10 tcp dport 8000 dnat ip to 10.0.0.1:80
        ip6 daddr fd00:96::10 tcp dport 8000 dnat ip6 to [fd00::1]:80
        ip daddr 198.51.100.1 tcp dport 30080 meta mark set meta mark or 0x4000
        ip daddr 198.51.100.1 tcp dport 30080 dnat ip to 10.0.0.1:80
        ip daddr 198.51.100.1 tcp dport 30081 dnat ip to 10.0.0.1:80
        ip daddr 203.0.113.80 tcp dport 80 meta mark set meta mark or 0x4000
        ip daddr 203.0.113.80 tcp dport 80 dnat ip to 10.0.0.1:80
        ip daddr 203.0.113.81 tcp dport 80 dnat ip to 10.0.0.1:80
        ip daddr 198.51.100.1 tcp dport 8081 dnat ip to 10.0.0.2:81
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark and 0x4000 == 0x4000 masquerade
    }
}";

struct Node {
    lab: Lab,
    enforcer: Enforcer,
}

impl Node {
    /// None without the right to it.
    fn start() -> Option<Self> {
        let mut lab = Lab::new()?;
        for (namespace, name, addresses) in PODS {
            lab.add(
                &format!("{namespace}-{name}"),
                &addresses.map(|address| address.parse().unwrap()),
            );
        }
        lab.add("outside", &[OUTSIDE.parse().unwrap()]);
        for arguments in [
            "addr add 198.51.100.1/32 dev lo",
            "route add default dev outside src 198.51.100.1",
        ] {
            let status = Command::new("ip").args(arguments.split(' ')).status();
            assert!(status.unwrap().success(), "{arguments}");
        }
        let mut nft = Command::new("nft");
        let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin
            .take()
            .unwrap()
            .write_all(TRANSLATION.as_bytes())
            .unwrap();
        assert!(nft.wait().unwrap().success());
        let mut enforcer = Enforcer::open().unwrap();
        for (namespace, name, addresses) in PODS {
            let label = |value: &str| vec![("name".to_owned(), value.to_owned())];
            enforcer.model.put_namespace(namespace, &label(namespace));
            enforcer.model.put_pod(&PodInput {
                namespace: namespace.into(),
                name: name.into(),
                labels: label(name),
                addresses: addresses.map(|address| address.parse().unwrap()).into(),
                is_local: true,
                ..PodInput::default()
            });
            enforcer
                .model
                .attach(&format!("{namespace}-{name}"), namespace, name);
        }
        Some(Self { lab, enforcer })
    }

    /// These policies and no others, then new connections.
    fn expect(&mut self, policies: &[Policy], reached: &[(&str, &str)], unreached: &[(&str, &str)]) {
        for policy in policies {
            self.enforcer.model.put_policy(policy.clone());
        }
        self.enforcer.sync().unwrap();
        let probe = |(from, to): &(&str, &str), expected| {
            let target: SocketAddr = to.parse().unwrap();
            let addresses = &self.lab.hosts[*from].addresses;
            let source = addresses.iter().find(|own| own.is_ipv4() == target.is_ipv4());
            Probe {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
                source: *source.unwrap(),
                destination: target.ip(),
                protocol: 6,
                port: target.port(),
                expected,
            }
        };
        let reached = reached.iter().map(|pair| probe(pair, true));
        let unreached = unreached.iter().map(|pair| probe(pair, false));
        self.lab.compare(&reached.chain(unreached).collect::<Vec<_>>());
        // The node reaches its pods, also over a Service.
        let target = CLUSTER_IP.parse().unwrap();
        TcpStream::connect_timeout(&target, Duration::from_secs(60)).unwrap();
        for policy in policies {
            self.enforcer.model.remove_policy(&policy.namespace, &policy.name);
        }
    }
}

fn named(name: &str) -> LabelSelector {
    LabelSelector {
        requirements: vec![Requirement {
            key: "name".into(),
            operator: Operator::In,
            values: vec![name.into()],
        }],
    }
}

fn tcp(ports: &[u16]) -> Ports {
    let port = |port: &u16| PortRule::Range {
        protocol: 6,
        from: *port,
        to: *port,
    };
    Ports::Some(ports.iter().map(port).collect())
}

fn block(cidr: &str) -> Peer {
    Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: Vec::new(),
    }
}

fn ingress(name: &str, selects: LabelSelector, peers: Option<Vec<Peer>>, ports: Ports) -> Policy {
    Policy {
        namespace: "x".into(),
        name: name.into(),
        selects,
        ingress: Some(vec![Rule { peers, ports }]),
        egress: None,
    }
}

fn egress(peer: Peer, ports: Ports) -> Policy {
    let rule = Rule {
        peers: Some(vec![peer]),
        ports,
    };
    Policy {
        namespace: "y".into(),
        name: "egress".into(),
        selects: LabelSelector::default(),
        ingress: None,
        egress: Some(vec![rule]),
    }
}

/// Pods of x take connections from pods of x, at the pods' ports.
fn own_pods() -> Policy {
    let own = Peer::Pods {
        namespaces: None,
        pods: Some(LabelSelector::default()),
    };
    ingress("own", LabelSelector::default(), Some(vec![own]), tcp(&[80, 81]))
}

#[test]
fn without_policies_every_service_is_reached() {
    let Some(mut node) = Node::start() else { return };
    let mut all = FROM_OUTSIDE.map(|service| ("outside", service)).to_vec();
    all.push(("outside", HOST_PORT));
    for pod in ["x-a", "x-b", "y-c"] {
        all.extend([(pod, CLUSTER_IP), (pod, NODE_PORT)]);
    }
    all.extend([("x-b", CLUSTER_IP_6), ("y-c", CLUSTER_IP_6)]);
    node.expect(&[], &all, &[]);
}

#[test]
fn ingress_rules_see_the_client_and_the_pods_port() {
    let Some(mut node) = Node::start() else { return };
    let outside = FROM_OUTSIDE.map(|service| ("outside", service));
    let own = [
        ("x-a", CLUSTER_IP),
        ("x-b", CLUSTER_IP),
        ("x-b", CLUSTER_IP_6),
        ("x-b", NODE_PORT),
        ("x-b", LOAD_BALANCER_LOCAL),
        ("x-a", HOST_PORT),
    ];
    let others = [
        ("y-c", CLUSTER_IP),
        ("y-c", CLUSTER_IP_6),
        ("y-c", NODE_PORT),
        ("y-c", LOAD_BALANCER),
        ("y-c", HOST_PORT),
        ("outside", HOST_PORT),
    ];
    node.expect(&[own_pods()], &own, &[&others[..], &outside].concat());
    // A client outside is seen as itself, with and without masquerade, at the server alone.
    let clients = ingress(
        "clients",
        named("a"),
        Some(vec![block("192.0.2.0/24")]),
        tcp(&[80]),
    );
    node.expect(&[own_pods(), clients], &[&own[..], &outside].concat(), &others);
    // A Service's port and its address mean nothing to a policy.
    let service = ingress("service", named("a"), None, tcp(&[8000, 30080, 30081]));
    let unreached = [
        ("x-b", CLUSTER_IP),
        ("outside", NODE_PORT),
        ("outside", NODE_PORT_LOCAL),
    ];
    node.expect(&[service], &[("x-a", CLUSTER_IP)], &unreached);
}

#[test]
fn egress_rules_see_the_pod_behind_a_service() {
    let Some(mut node) = Node::start() else { return };
    let server = Peer::Pods {
        namespaces: Some(named("x")),
        pods: Some(named("a")),
    };
    node.expect(
        &[egress(server, tcp(&[80]))],
        &[
            ("y-c", CLUSTER_IP),
            ("y-c", CLUSTER_IP_6),
            ("y-c", NODE_PORT),
            ("x-b", CLUSTER_IP),
        ],
        &[("y-c", HOST_PORT)],
    );
    let services = egress(block("10.96.0.0/16"), Ports::All);
    node.expect(
        &[services],
        &[("x-b", CLUSTER_IP)],
        &[("y-c", CLUSTER_IP), ("y-c", NODE_PORT)],
    );
    let pods = egress(block("10.0.0.0/24"), tcp(&[81]));
    node.expect(
        &[pods],
        &[("y-c", HOST_PORT)],
        &[("y-c", CLUSTER_IP), ("y-c", CLUSTER_IP_6)],
    );
}
