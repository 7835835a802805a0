//! A cluster as the API server would describe it, and random ones.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podroute_netpol::{
    LabelSelector, Model, NamedPort, Operator, Peer, PodInput, Policy, PortRule, Ports, Requirement, Rule,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

pub type Labels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<NamedPort>,
    /// It runs on the node whose rules are looked at.
    pub local: bool,
}

impl Pod {
    pub fn interface(&self) -> String {
        format!("{}-{}", self.namespace, self.name)
    }

    pub fn input(&self) -> PodInput {
        PodInput {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: self.labels.clone().into_iter().collect(),
            addresses: self.addresses.clone(),
            ports: self.ports.clone(),
            is_local: self.local,
            created: 0,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct World {
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: Vec<Pod>,
    pub policies: Vec<Policy>,
}

pub const EXTERNAL: [&str; 4] = ["192.0.2.7", "198.51.100.9", "2001:db8::7", "2001:db8:1::9"];
pub const PORTS: [(u8, u16); 7] = [(6, 80), (6, 81), (6, 8080), (17, 53), (17, 80), (132, 80), (1, 0)];

fn label() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map(
        select(vec!["app", "tier", "team"]).prop_map(str::to_owned),
        select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        0..3,
    )
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let requirement = (
        select(vec!["app", "tier", "team", "none"]),
        select(vec![
            Operator::In,
            Operator::In,
            Operator::NotIn,
            Operator::Exists,
            Operator::DoesNotExist,
        ]),
        vec(select(vec!["a", "b", "c"]), 1..3),
    );
    vec(
        requirement.prop_map(|(key, operator, values)| {
            let has_values = matches!(operator, Operator::In | Operator::NotIn);
            Requirement {
                key: key.to_owned(),
                operator,
                values: values
                    .into_iter()
                    .filter(|_| has_values)
                    .map(str::to_owned)
                    .collect(),
            }
        }),
        0..3,
    )
    .prop_map(|requirements| LabelSelector { requirements })
}

fn named_port() -> impl Strategy<Value = NamedPort> {
    (
        select(vec!["web", "dns", "admin"]),
        select(vec![6_u8, 17]),
        select(vec![80_u16, 81, 53, 8080]),
    )
        .prop_map(|(name, protocol, port)| NamedPort {
            name: name.to_owned(),
            protocol,
            port,
        })
}

fn port_rule() -> impl Strategy<Value = PortRule> {
    let protocol = select(vec![6_u8, 6, 17, 132]);
    prop_oneof![
        (
            protocol.clone(),
            select(vec![80_u16, 81, 53, 8080]),
            select(vec![0_u16, 0, 1, 2000])
        )
            .prop_map(|(protocol, from, length)| PortRule::Range {
                protocol,
                from,
                to: from + length
            }),
        protocol.clone().prop_map(|protocol| PortRule::Range {
            protocol,
            from: 0,
            to: u16::MAX
        }),
        (protocol, select(vec!["web", "dns", "nobody"])).prop_map(|(protocol, name)| PortRule::Named {
            protocol,
            name: name.to_owned()
        }),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let blocks = vec![
        "192.0.2.0/24",
        "192.0.2.0/29",
        "10.0.0.0/8",
        "10.0.1.0/24",
        "0.0.0.0/0",
        "2001:db8::/32",
        "::/0",
        "fd00::/16",
    ];
    let block = (select(blocks.clone()), vec(select(blocks), 0..2)).prop_map(|(cidr, except)| Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: except.into_iter().map(|net| net.parse().unwrap()).collect(),
    });
    let pods = (proptest::option::of(selector()), proptest::option::of(selector()))
        .prop_filter("a peer says something", |(a, b)| a.is_some() || b.is_some())
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods });
    prop_oneof![1 => block, 3 => pods]
}

fn rule() -> impl Strategy<Value = Rule> {
    let ports = prop_oneof![Just(Ports::All), vec(port_rule(), 1..3).prop_map(Ports::Some)];
    (proptest::option::weighted(0.85, vec(peer(), 1..3)), ports)
        .prop_map(|(peers, ports)| Rule { peers, ports })
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];

pub fn policy() -> impl Strategy<Value = Policy> {
    let rules = || proptest::option::of(vec(rule(), 0..3));
    (select(NAMESPACES.to_vec()), 0..4_u8, selector(), rules(), rules()).prop_map(
        |(namespace, number, selects, ingress, egress)| Policy {
            namespace: namespace.to_owned(),
            name: format!("p{number}"),
            selects,
            ingress,
            egress,
        },
    )
}

/// Addresses follow from place and number, so that no two pods have the same one.
pub fn pod() -> impl Strategy<Value = Pod> {
    (
        0..NAMESPACES.len(),
        0..4_u8,
        label(),
        vec(named_port(), 0..3),
        any::<bool>(),
        prop_oneof![4 => Just(3_u8), 1 => 0..3_u8],
    )
        .prop_map(|(place, number, labels, ports, local, families)| {
            let v4 = format!("10.0.{place}.{}", number + 1);
            let v6 = format!("fd00::{place}:{}", number + 1);
            let addresses = [(1, v4), (2, v6)];
            let has = |(bit, address): (u8, String)| (families & bit != 0).then(|| address.parse().unwrap());
            Pod {
                namespace: NAMESPACES[place].to_owned(),
                name: format!("pod{number}"),
                labels,
                addresses: addresses.into_iter().filter_map(has).collect(),
                ports,
                local,
            }
        })
}

pub fn namespace() -> impl Strategy<Value = (String, Labels)> {
    (select(NAMESPACES.to_vec()).prop_map(str::to_owned), label())
}

/// Something happens.
#[derive(Debug, Clone)]
pub enum Event {
    Namespace(String, Labels),
    NamespaceGone(String),
    Pod(Box<Pod>),
    PodGone(String, String),
    Policy(Box<Policy>),
    PolicyGone(String, String),
}

pub fn event() -> impl Strategy<Value = Event> {
    let place = || select(NAMESPACES.to_vec()).prop_map(str::to_owned);
    prop_oneof![
        2 => namespace().prop_map(|(name, labels)| Event::Namespace(name, labels)),
        1 => place().prop_map(Event::NamespaceGone),
        8 => pod().prop_map(|pod| Event::Pod(Box::new(pod))),
        2 => (place(), 0..4_u8).prop_map(|(namespace, n)| Event::PodGone(namespace, format!("pod{n}"))),
        6 => policy().prop_map(|policy| Event::Policy(Box::new(policy))),
        2 => (place(), 0..4_u8).prop_map(|(namespace, n)| Event::PolicyGone(namespace, format!("p{n}"))),
    ]
}

impl Event {
    /// As the agent takes it in; a pod of this node has an interface.
    pub fn apply_to(&self, model: &mut Model) {
        match self {
            Self::Namespace(name, labels) => {
                model.put_namespace(name, &labels.clone().into_iter().collect::<Vec<_>>());
            }
            Self::NamespaceGone(name) => model.remove_namespace(name),
            Self::Pod(pod) => {
                model.put_pod(&pod.input());
                if pod.local {
                    model.attach(&pod.interface(), &pod.namespace, &pod.name);
                } else {
                    model.detach(&pod.interface());
                }
            }
            Self::PodGone(namespace, name) => {
                model.remove_pod(namespace, name);
                model.detach(&format!("{namespace}-{name}"));
            }
            Self::Policy(policy) => model.put_policy((**policy).clone()),
            Self::PolicyGone(namespace, name) => model.remove_policy(namespace, name),
        }
    }
}

impl World {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Namespace(name, labels) => {
                self.namespaces.insert(name.clone(), labels.clone());
            }
            Event::NamespaceGone(name) => {
                self.namespaces.remove(name);
            }
            Event::Pod(pod) => {
                self.remove_pod(&pod.namespace, &pod.name);
                self.pods.push((**pod).clone());
            }
            Event::PodGone(namespace, name) => self.remove_pod(namespace, name),
            Event::Policy(policy) => {
                self.remove_policy(&policy.namespace, &policy.name);
                self.policies.push((**policy).clone());
            }
            Event::PolicyGone(namespace, name) => self.remove_policy(namespace, name),
        }
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) {
        self.pods
            .retain(|pod| (pod.namespace.as_str(), pod.name.as_str()) != (namespace, name));
    }

    fn remove_policy(&mut self, namespace: &str, name: &str) {
        self.policies
            .retain(|policy| (policy.namespace.as_str(), policy.name.as_str()) != (namespace, name));
    }

    pub fn of(events: &[Event]) -> Self {
        let mut world = Self::default();
        events.iter().for_each(|event| world.apply(event));
        world
    }
}
