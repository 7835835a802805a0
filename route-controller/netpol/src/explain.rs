//! Why a packet passes or does not, from the policies as written: for any two addresses, wherever their pods run.

use std::net::IpAddr;

use crate::model::{Model, Pod};
use crate::names::Name;
use crate::policy::{Direction, LabelSelector, Peer, Policy, PortRule, Ports, Rule};

/// What becomes of a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub source: EndReport,
    pub destination: EndReport,
    /// What of it policies do not concern.
    pub is_own: bool,
}

impl Explanation {
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.is_own || (self.source.direction.is_allowed() && self.destination.direction.is_allowed())
    }
}

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndReport {
    pub address: IpAddr,
    /// `namespace/name`; none for an address of no pod.
    pub pod: Option<String>,
    pub is_local: bool,
    pub direction: DirectionReport,
}

/// What policies say at one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectionReport {
    pub direction: Direction,
    /// Those that select the pod; none: nothing isolates it.
    pub policies: Vec<PolicyReport>,
}

impl DirectionReport {
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.policies.is_empty() || self.policies.iter().any(|policy| policy.rule.is_some())
    }
}

/// A policy that selects the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyReport {
    pub name: String,
    /// The first of its rules that allows the packet, counted from 0.
    pub rule: Option<usize>,
}

impl Model {
    /// Why a connection from one address to another passes or does not.
    #[must_use]
    pub fn explain(&self, source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Explanation {
        let (from, to) = (self.owner(source), self.owner(destination));
        let end = |address, own: Option<&Pod>, other: IpAddr, direction| EndReport {
            address,
            pod: own.map(|pod| format!("{}/{}", self.names.text(pod.namespace), pod.name)),
            is_local: own.is_some_and(|pod| pod.is_local),
            direction: DirectionReport {
                direction,
                policies: own
                    .map(|pod| self.reports(pod, other, direction, to, (protocol, port)))
                    .unwrap_or_default(),
            },
        };
        Explanation {
            source: end(source, from, destination, Direction::Egress),
            destination: end(destination, to, source, Direction::Ingress),
            is_own: source == destination,
        }
    }

    fn reports(
        &self,
        pod: &Pod,
        other: IpAddr,
        direction: Direction,
        receiver: Option<&Pod>,
        port: (u8, u16),
    ) -> Vec<PolicyReport> {
        let policies = self
            .namespaces
            .get(&pod.namespace)
            .into_iter()
            .flat_map(|entry| entry.policies.values());
        let selecting = policies.filter(|stored| {
            stored.policy.rules(direction).is_some() && self.takes(&stored.policy.selects, pod)
        });
        selecting
            .map(|stored| {
                let rules = stored.policy.rules(direction).unwrap_or_default();
                let allows = |rule: &Rule| {
                    let has_port = |takes_names| self.has_port(rule, receiver.filter(|_| takes_names), port);
                    // At a block of addresses a port of egress has no name: names are those of pods that a selector takes.
                    let is_ingress = direction == Direction::Ingress;
                    match &rule.peers {
                        None => has_port(true),
                        Some(peers) => peers.iter().any(|peer| {
                            let is_block = matches!(peer, Peer::Block { .. });
                            has_port(is_ingress || !is_block) && self.is_peer(peer, &stored.policy, other)
                        }),
                    }
                };
                PolicyReport {
                    name: stored.policy.name.clone(),
                    rule: rules.iter().position(allows),
                }
            })
            .collect()
    }

    fn has_port(&self, rule: &Rule, receiver: Option<&Pod>, (protocol, port): (u8, u16)) -> bool {
        let Ports::Some(ports) = &rule.ports else {
            return true;
        };
        ports.iter().any(|rule| match rule {
            PortRule::Range {
                protocol: own,
                from,
                to,
            } => *own == protocol && (*from..=*to).contains(&port),
            PortRule::Named { protocol: own, name } => {
                let profile = receiver.and_then(|pod| self.profiles.slab.get(pod.profile));
                let number = profile.and_then(|profile| profile.key.port(self.names.find(name)?, *own));
                *own == protocol && number == Some(port)
            }
        })
    }

    fn is_peer(&self, peer: &Peer, policy: &Policy, other: IpAddr) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&other) && !except.iter().any(|net| net.contains(&other))
            }
            Peer::Pods { namespaces, pods } => self.owner(other).is_some_and(|pod| {
                let in_namespace = match namespaces {
                    None => self.names.text(pod.namespace) == policy.namespace,
                    Some(selector) => self
                        .namespace_labels(pod.namespace)
                        .is_some_and(|labels| selector.matches(|key| self.value(labels, key))),
                };
                in_namespace && pods.as_ref().is_none_or(|selector| self.takes(selector, pod))
            }),
        }
    }

    fn takes(&self, selector: &LabelSelector, pod: &Pod) -> bool {
        let profile = self.profiles.slab.get(pod.profile);
        profile.is_some_and(|profile| selector.matches(|key| self.value(&profile.key.labels, key)))
    }

    fn value<'a>(&'a self, labels: &[(Name, Name)], key: &str) -> Option<&'a str> {
        let key = self.names.find(key)?;
        let found = labels.iter().find(|(label, _)| *label == key)?;
        Some(self.names.text(found.1))
    }
}
