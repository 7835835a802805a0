//! The situations of Kubernetes' own end-to-end tests of network policies, as rows: three namespaces x, y and z with pods a, b and c
//! each, all on this node, that serve TCP, UDP and SCTP 80 ("serve-80") and 81 ("serve-81"). Each row says who reaches whom.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

mod common;

use common::oracle;
use common::rules::Compiled;
use common::world::{Event, Pod, World};
use podroute_netpol::{LabelSelector, NamedPort, Operator, Peer, Policy, PortRule, Ports, Requirement, Rule};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A packet of the matrix: namespaces and names of both ends.
struct Packet<'a> {
    from: (&'a str, &'a str),
    to: (&'a str, &'a str),
    protocol: u8,
    port: u16,
}

type Allows = fn(&Packet<'_>) -> bool;

struct Row {
    name: &'static str,
    policies: Vec<Policy>,
    allows: Allows,
}

fn world() -> World {
    let mut world = World::default();
    for (place, namespace) in ["x", "y", "z"].into_iter().enumerate() {
        let labels = [("ns".to_owned(), namespace.to_owned())];
        world.apply(&Event::Namespace(
            namespace.to_owned(),
            labels.into_iter().collect(),
        ));
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            let ports = [TCP, UDP, SCTP].into_iter().flat_map(|protocol| {
                [80, 81].map(|port| NamedPort {
                    name: format!("serve-{port}"),
                    protocol,
                    port,
                })
            });
            world.apply(&Event::Pod(Box::new(Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                labels: [("pod".to_owned(), name.to_owned())].into_iter().collect(),
                addresses: vec![
                    format!("10.0.{place}.{}", number + 1).parse().unwrap(),
                    format!("fd00::{place}:{}", number + 1).parse().unwrap(),
                ],
                ports: ports.collect(),
                local: true,
            })));
        }
    }
    world
}

fn all() -> LabelSelector {
    LabelSelector::default()
}

fn is(key: &str, values: &[&str]) -> LabelSelector {
    with(key, Operator::In, values)
}

fn with(key: &str, operator: Operator, values: &[&str]) -> LabelSelector {
    LabelSelector {
        requirements: vec![Requirement {
            key: key.to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }],
    }
}

fn pods(selector: LabelSelector) -> Peer {
    Peer::Pods {
        namespaces: None,
        pods: Some(selector),
    }
}

fn namespaces(selector: LabelSelector) -> Peer {
    Peer::Pods {
        namespaces: Some(selector),
        pods: None,
    }
}

fn both(namespaces: LabelSelector, pods: LabelSelector) -> Peer {
    Peer::Pods {
        namespaces: Some(namespaces),
        pods: Some(pods),
    }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

fn port(protocol: u8, port: u16) -> PortRule {
    PortRule::Range {
        protocol,
        from: port,
        to: port,
    }
}

fn named(protocol: u8, name: &str) -> PortRule {
    PortRule::Named {
        protocol,
        name: name.to_owned(),
    }
}

fn rule(peers: &[Peer], ports: &[PortRule]) -> Rule {
    Rule {
        peers: (!peers.is_empty()).then(|| peers.to_vec()),
        ports: if ports.is_empty() {
            Ports::All
        } else {
            Ports::Some(ports.to_vec())
        },
    }
}

fn policy(
    name: &str,
    selects: LabelSelector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
) -> Policy {
    Policy {
        namespace: "x".to_owned(),
        name: name.to_owned(),
        selects,
        ingress,
        egress,
    }
}

fn ingress(selects: LabelSelector, rules: Vec<Rule>) -> Policy {
    policy("in", selects, Some(rules), None)
}

fn egress(selects: LabelSelector, rules: Vec<Rule>) -> Policy {
    policy("out", selects, None, Some(rules))
}

fn of(namespace: &str, mut policy: Policy) -> Policy {
    policy.namespace = namespace.to_owned();
    policy
}

fn called(name: &str, mut policy: Policy) -> Policy {
    policy.name = name.to_owned();
    policy
}

fn row(name: &'static str, policies: Vec<Policy>, allows: Allows) -> Row {
    Row {
        name,
        policies,
        allows,
    }
}

/// Deny and allow everything.
fn whole() -> Vec<Row> {
    vec![
        row("no policy", vec![], |_| true),
        row("default deny of ingress", vec![ingress(all(), vec![])], |p| {
            p.to.0 != "x"
        }),
        row("default deny of egress", vec![egress(all(), vec![])], |p| {
            p.from.0 != "x"
        }),
        row(
            "deny of both",
            vec![policy("p", all(), Some(vec![]), Some(vec![]))],
            |p| p.to.0 != "x" && p.from.0 != "x",
        ),
        row(
            "deny of one pod's ingress",
            vec![ingress(is("pod", &["a"]), vec![])],
            |p| p.to != ("x", "a"),
        ),
        row(
            "allow all ingress",
            vec![ingress(all(), vec![rule(&[], &[])])],
            |_| true,
        ),
        row(
            "allow all egress",
            vec![egress(all(), vec![rule(&[], &[])])],
            |_| true,
        ),
        row(
            "allow all beside deny all",
            vec![
                called("deny", ingress(all(), vec![])),
                ingress(all(), vec![rule(&[], &[])]),
            ],
            |_| true,
        ),
        row(
            "a policy that selects nobody",
            vec![ingress(is("pod", &["nobody"]), vec![])],
            |_| true,
        ),
        row(
            "policies of another namespace",
            vec![of("y", ingress(all(), vec![]))],
            |p| p.to.0 != "y",
        ),
        row("neither direction", vec![policy("p", all(), None, None)], |_| {
            true
        }),
    ]
}

/// Peers by labels.
fn peers() -> Vec<Row> {
    let a = || is("pod", &["a"]);
    vec![
        row(
            "pods of the own namespace",
            vec![ingress(a(), vec![rule(&[pods(all())], &[])])],
            |p| p.to != ("x", "a") || p.from.0 == "x",
        ),
        row(
            "a pod of the own namespace",
            vec![ingress(a(), vec![rule(&[pods(is("pod", &["b"]))], &[])])],
            |p| p.to != ("x", "a") || p.from == ("x", "b"),
        ),
        row(
            "a namespace by label",
            vec![ingress(a(), vec![rule(&[namespaces(is("ns", &["y"]))], &[])])],
            |p| p.to != ("x", "a") || p.from.0 == "y",
        ),
        row(
            "all namespaces",
            vec![ingress(a(), vec![rule(&[namespaces(all())], &[])])],
            |_| true,
        ),
        row(
            "namespaces by expression",
            vec![ingress(
                a(),
                vec![rule(&[namespaces(is("ns", &["x", "y"]))], &[])],
            )],
            |p| p.to != ("x", "a") || p.from.0 != "z",
        ),
        row(
            "namespaces but one",
            vec![ingress(
                a(),
                vec![rule(&[namespaces(with("ns", Operator::NotIn, &["x"]))], &[])],
            )],
            |p| p.to != ("x", "a") || p.from.0 != "x",
        ),
        row(
            "namespace and pod together",
            vec![ingress(
                a(),
                vec![rule(&[both(is("ns", &["y"]), is("pod", &["b"]))], &[])],
            )],
            |p| p.to != ("x", "a") || p.from == ("y", "b"),
        ),
        row(
            "namespace or pod",
            vec![ingress(
                a(),
                vec![rule(
                    &[namespaces(is("ns", &["y"])), pods(is("pod", &["b"]))],
                    &[],
                )],
            )],
            |p| p.to != ("x", "a") || p.from.0 == "y" || p.from == ("x", "b"),
        ),
        row(
            "pods of that name anywhere",
            vec![ingress(a(), vec![rule(&[both(all(), is("pod", &["b"]))], &[])])],
            |p| p.to != ("x", "a") || p.from.1 == "b",
        ),
        row(
            "pods with a label",
            vec![ingress(
                a(),
                vec![rule(&[pods(with("pod", Operator::Exists, &[]))], &[])],
            )],
            |p| p.to != ("x", "a") || p.from.0 == "x",
        ),
        row(
            "pods without a label",
            vec![ingress(
                a(),
                vec![rule(&[pods(with("pod", Operator::DoesNotExist, &[]))], &[])],
            )],
            |p| p.to != ("x", "a"),
        ),
        row(
            "subjects by expression",
            vec![ingress(with("pod", Operator::NotIn, &["a"]), vec![])],
            |p| p.to.0 != "x" || p.to.1 == "a",
        ),
        row(
            "both expressions must hold",
            vec![ingress(
                a(),
                vec![rule(
                    &[pods(LabelSelector {
                        requirements: [is("pod", &["b", "c"]), with("pod", Operator::NotIn, &["c"])]
                            .into_iter()
                            .flat_map(|selector| selector.requirements)
                            .collect(),
                    })],
                    &[],
                )],
            )],
            |p| p.to != ("x", "a") || p.from == ("x", "b"),
        ),
        row(
            "an empty list of readable peers",
            vec![ingress(
                a(),
                vec![Rule {
                    peers: Some(vec![]),
                    ports: Ports::All,
                }],
            )],
            |p| p.to != ("x", "a"),
        ),
    ]
}

/// Egress, both directions, several policies.
fn directions() -> Vec<Row> {
    let a = || is("pod", &["a"]);
    vec![
        row(
            "egress to a namespace",
            vec![egress(a(), vec![rule(&[namespaces(is("ns", &["y"]))], &[])])],
            |p| p.from != ("x", "a") || p.to.0 == "y",
        ),
        row(
            "egress to a pod",
            vec![egress(
                a(),
                vec![rule(&[both(is("ns", &["y"]), is("pod", &["a"]))], &[])],
            )],
            |p| p.from != ("x", "a") || p.to == ("y", "a"),
        ),
        row(
            "egress to the own namespace",
            vec![egress(all(), vec![rule(&[pods(all())], &[])])],
            |p| p.from.0 != "x" || p.to.0 == "x",
        ),
        row(
            "the other end must let it too",
            vec![
                egress(a(), vec![rule(&[namespaces(is("ns", &["y"]))], &[])]),
                of("y", ingress(is("pod", &["b"]), vec![])),
            ],
            |p| (p.from != ("x", "a") || p.to.0 == "y") && p.to != ("y", "b"),
        ),
        row(
            "both ends let it",
            vec![
                egress(a(), vec![rule(&[both(is("ns", &["y"]), a())], &[])]),
                of(
                    "y",
                    ingress(a(), vec![rule(&[both(is("ns", &["x"]), is("pod", &["a"]))], &[])]),
                ),
            ],
            |p| (p.from != ("x", "a") || p.to == ("y", "a")) && (p.to != ("y", "a") || p.from == ("x", "a")),
        ),
        row(
            "policies add up",
            vec![
                called("one", ingress(a(), vec![rule(&[pods(is("pod", &["b"]))], &[])])),
                called(
                    "two",
                    ingress(a(), vec![rule(&[namespaces(is("ns", &["z"]))], &[])]),
                ),
            ],
            |p| p.to != ("x", "a") || p.from == ("x", "b") || p.from.0 == "z",
        ),
        row(
            "rules add up",
            vec![ingress(
                a(),
                vec![
                    rule(&[pods(is("pod", &["b"]))], &[]),
                    rule(&[namespaces(is("ns", &["z"]))], &[]),
                ],
            )],
            |p| p.to != ("x", "a") || p.from == ("x", "b") || p.from.0 == "z",
        ),
        row(
            "ingress of one, egress of another",
            vec![ingress(a(), vec![]), egress(is("pod", &["b"]), vec![])],
            |p| p.to != ("x", "a") && p.from != ("x", "b"),
        ),
        row(
            "one policy for both directions",
            vec![policy(
                "p",
                a(),
                Some(vec![rule(&[namespaces(is("ns", &["y"]))], &[])]),
                Some(vec![rule(&[namespaces(is("ns", &["z"]))], &[])]),
            )],
            |p| (p.to != ("x", "a") || p.from.0 == "y") && (p.from != ("x", "a") || p.to.0 == "z"),
        ),
    ]
}

/// Ports by number, range, name and protocol.
fn ports() -> Vec<Row> {
    let a = || is("pod", &["a"]);
    let to_a = |ports: &[PortRule]| vec![ingress(a(), vec![rule(&[], ports)])];
    let range = |protocol, from, to| PortRule::Range { protocol, from, to };
    vec![
        row("a port", to_a(&[port(TCP, 80)]), |p| {
            p.to != ("x", "a") || (p.protocol, p.port) == (TCP, 80)
        }),
        row("a UDP port", to_a(&[port(UDP, 80)]), |p| {
            p.to != ("x", "a") || (p.protocol, p.port) == (UDP, 80)
        }),
        row("an SCTP port", to_a(&[port(SCTP, 81)]), |p| {
            p.to != ("x", "a") || (p.protocol, p.port) == (SCTP, 81)
        }),
        row("two ports", to_a(&[port(TCP, 80), port(TCP, 81)]), |p| {
            p.to != ("x", "a") || p.protocol == TCP
        }),
        row("a range", to_a(&[range(TCP, 81, 90)]), |p| {
            p.to != ("x", "a") || (p.protocol, p.port) == (TCP, 81)
        }),
        row("a protocol", to_a(&[range(UDP, 0, u16::MAX)]), |p| {
            p.to != ("x", "a") || p.protocol == UDP
        }),
        row("another port", to_a(&[port(TCP, 5978)]), |p| p.to != ("x", "a")),
        row("a name", to_a(&[named(TCP, "serve-81")]), |p| {
            p.to != ("x", "a") || (p.protocol, p.port) == (TCP, 81)
        }),
        row(
            "a name of another protocol",
            to_a(&[named(UDP, "serve-80")]),
            |p| p.to != ("x", "a") || (p.protocol, p.port) == (UDP, 80),
        ),
        row("a name that nobody has", to_a(&[named(TCP, "nothing")]), |p| {
            p.to != ("x", "a")
        }),
        row(
            "a port for one, another for others",
            vec![ingress(
                a(),
                vec![
                    rule(&[namespaces(is("ns", &["y"]))], &[port(TCP, 80)]),
                    rule(&[namespaces(is("ns", &["z"]))], &[port(TCP, 81)]),
                ],
            )],
            |p| {
                p.to != ("x", "a")
                    || (p.protocol == TCP && matches!((p.from.0, p.port), ("y", 80) | ("z", 81)))
            },
        ),
        row(
            "a name with peers",
            vec![ingress(
                a(),
                vec![rule(&[namespaces(is("ns", &["y"]))], &[named(TCP, "serve-80")])],
            )],
            |p| p.to != ("x", "a") || (p.from.0 == "y" && (p.protocol, p.port) == (TCP, 80)),
        ),
        row(
            "egress to a name",
            vec![egress(a(), vec![rule(&[], &[named(TCP, "serve-80")])])],
            |p| p.from != ("x", "a") || (p.protocol, p.port) == (TCP, 80),
        ),
        row(
            "egress to a name of pods",
            vec![egress(
                a(),
                vec![rule(&[namespaces(is("ns", &["y"]))], &[named(UDP, "serve-81")])],
            )],
            |p| p.from != ("x", "a") || (p.to.0 == "y" && (p.protocol, p.port) == (UDP, 81)),
        ),
        row(
            "a port in one policy, all in another",
            vec![
                called("one", ingress(a(), vec![rule(&[], &[port(TCP, 80)])])),
                called(
                    "two",
                    ingress(a(), vec![rule(&[namespaces(is("ns", &["y"]))], &[])]),
                ),
            ],
            |p| p.to != ("x", "a") || (p.protocol, p.port) == (TCP, 80) || p.from.0 == "y",
        ),
    ]
}

/// Blocks of addresses: y is 10.0.1.0/24 and fd00::1:0/112.
fn blocks() -> Vec<Row> {
    let a = || is("pod", &["a"]);
    let y = || [block("10.0.1.0/24", &[]), block("fd00::1:0/112", &[])];
    vec![
        row("a block", vec![ingress(a(), vec![rule(&y(), &[])])], |p| {
            p.to != ("x", "a") || p.from.0 == "y"
        }),
        row(
            "a block in egress",
            vec![egress(a(), vec![rule(&y(), &[])])],
            |p| p.from != ("x", "a") || p.to.0 == "y",
        ),
        row(
            "a block with an exception",
            vec![ingress(
                a(),
                vec![rule(
                    &[
                        block("10.0.1.0/24", &["10.0.1.2/32"]),
                        block("fd00::1:0/112", &["fd00::1:2/128"]),
                    ],
                    &[],
                )],
            )],
            |p| p.to != ("x", "a") || (p.from.0 == "y" && p.from.1 != "b"),
        ),
        row(
            "an exception that another rule allows",
            vec![ingress(
                a(),
                vec![
                    rule(
                        &[
                            block("10.0.0.0/16", &["10.0.1.0/24"]),
                            block("fd00::/64", &["fd00::1:0/112"]),
                        ],
                        &[],
                    ),
                    rule(&y(), &[port(TCP, 80)]),
                ],
            )],
            |p| p.to != ("x", "a") || p.from.0 != "y" || (p.protocol, p.port) == (TCP, 80),
        ),
        row(
            "everything but a block",
            vec![egress(
                a(),
                vec![rule(
                    &[
                        block("0.0.0.0/0", &["10.0.1.0/24"]),
                        block("::/0", &["fd00::1:0/112"]),
                    ],
                    &[],
                )],
            )],
            |p| p.from != ("x", "a") || p.to.0 != "y",
        ),
        row(
            "a block elsewhere",
            vec![ingress(a(), vec![rule(&[block("192.0.2.0/24", &[])], &[])])],
            |p| p.to != ("x", "a"),
        ),
        row(
            "a block and a port",
            vec![ingress(a(), vec![rule(&y(), &[port(UDP, 81)])])],
            |p| p.to != ("x", "a") || (p.from.0 == "y" && (p.protocol, p.port) == (UDP, 81)),
        ),
    ]
}

#[test]
fn each_row_reaches_whom_it_says() {
    let rows: Vec<Row> = [whole(), peers(), directions(), ports(), blocks()]
        .into_iter()
        .flatten()
        .collect();
    assert!(rows.len() >= 50, "{} rows", rows.len());
    for row in rows {
        let mut world = world();
        for policy in &row.policies {
            world.apply(&Event::Policy(Box::new(policy.clone())));
        }
        let compiled = Compiled::of(&world, |_| {});
        for from in &world.pods {
            for to in world.pods.iter().filter(|to| !std::ptr::eq(*to, from)) {
                for (source, destination) in from.addresses.iter().zip(&to.addresses) {
                    for (protocol, port) in [TCP, UDP, SCTP].into_iter().flat_map(|p| [(p, 80), (p, 81)]) {
                        let packet = Packet {
                            from: (&from.namespace, &from.name),
                            to: (&to.namespace, &to.name),
                            protocol,
                            port,
                        };
                        let expected = (row.allows)(&packet);
                        let what = format!(
                            "{}: {}/{} → {}/{} {protocol}/{port}",
                            row.name, from.namespace, from.name, to.namespace, to.name
                        );
                        assert_eq!(
                            compiled.verdict(&world, *source, *destination, protocol, port),
                            expected,
                            "{what}"
                        );
                        assert_eq!(
                            oracle::allows(&world, *source, *destination, protocol, port),
                            expected,
                            "oracle: {what}"
                        );
                    }
                }
            }
        }
    }
}

/// A name of an interface that is used again has the rules of the pod that it leads to now.
#[test]
fn an_interface_has_the_rules_of_its_pod() {
    let mut world = world();
    world.apply(&Event::Policy(Box::new(ingress(is("pod", &["a"]), vec![]))));
    let mut compiled = Compiled::of(&world, |_| {});
    let isolated = compiled.model.interface_rules("x-a");
    assert!(isolated.is_some());
    for (pod, expected) in [("b", None), ("a", isolated)] {
        compiled.model.attach("x-a", "x", pod);
        let changes = compiled.model.take_changes();
        compiled.mirror.apply(&compiled.model, &changes);
        assert_eq!(compiled.model.interface_rules("x-a"), expected, "{pod}");
        assert_eq!(compiled.mirror, compiled.whole());
    }
}

/// A pod's address is given to another pod before the first one's end is known.
#[test]
fn an_address_belongs_to_the_later_pod() {
    let mut world = world();
    world.apply(&Event::Policy(Box::new(ingress(
        is("pod", &["a"]),
        vec![rule(&[pods(is("pod", &["b"]))], &[])],
    ))));
    let mut compiled = Compiled::of(&world, |_| {});
    let (address, server) = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
    assert!(compiled.verdict(&world, address, server, TCP, 80));
    let mut later = world
        .pods
        .iter()
        .find(|pod| pod.name == "c" && pod.namespace == "x")
        .unwrap()
        .input();
    later.name = "later".to_owned();
    later.addresses = vec![address];
    later.created = 1;
    compiled.model.put_pod(&later);
    let changes = compiled.model.take_changes();
    compiled.mirror.apply(&compiled.model, &changes);
    assert!(
        !compiled.verdict(&world, address, server, TCP, 80),
        "it has the rights of the pod before it"
    );
    // The end of the first one, which comes late, takes nothing from the second; the end of the second gives it back.
    compiled.apply(&Event::PodGone("x".to_owned(), "b".to_owned()));
    assert_eq!(compiled.model.pod_at(address).as_deref(), Some("x/later"));
    assert_eq!(compiled.mirror, compiled.whole());
}
