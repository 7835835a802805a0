//! Groups: what one set of policies allows in one direction to the pods that they select.

use std::collections::BTreeSet;
use std::fmt;

use crate::blocks::{AddressRange, BlockBuilder};
use crate::names::{Name, Names, stable_hash};
use crate::policy::{Direction, LabelSelector, Peer, Policy, PortRule, Ports};
use crate::ports::{PortRange, PortSet};
use crate::profile::{FxMap, FxSet, NamespaceMatch, PeerSelector, PortName, Profile};
use crate::slab::{Id, Slab};

/// A group by what it is: the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(u64);

impl GroupName {
    /// From the text that `Display` gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_whole = text.len() == 16;
        u64::from_str_radix(text, 16).ok().filter(|_| is_whole).map(Self)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What tells groups apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GroupKey {
    pub(crate) namespace: Name,
    /// Names of the policies, sorted.
    pub(crate) policies: Vec<String>,
    /// Ports that ingress rules call by name, as these pods have them.
    pub(crate) ports: Vec<PortName>,
}

/// Ports that a selector may use, those of names apart: they follow from the class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UsedPorts {
    pub(crate) ports: PortSet,
    pub(crate) names: BTreeSet<(Name, u8)>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: GroupKey,
    pub(crate) name: GroupName,
    pub(crate) profiles: FxSet<Id<Profile>>,
    pub(crate) interfaces: BTreeSet<String>,
    pub(crate) content: Content,
}

/// What a group allows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// To everybody.
    pub(crate) any: PortSet,
    pub(crate) blocks: Vec<(AddressRange, PortSet)>,
    pub(crate) selectors: FxMap<PeerSelector, UsedPorts>,
}

/// The groups of one direction.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) slab: Slab<Group>,
    by_key: FxMap<GroupKey, Id<Group>>,
    by_name: FxMap<GroupName, Id<Group>>,
}

impl Groups {
    /// The group of a key, and whether it is new and without content.
    pub(crate) fn intern(&mut self, names: &Names, key: &GroupKey) -> (Id<Group>, bool) {
        if let Some(id) = self.by_key.get(key) {
            return (*id, false);
        }
        let mut name = name(names, key);
        while self.by_name.contains_key(&name) {
            name = GroupName(name.0.wrapping_add(1));
        }
        let id = self.slab.insert(Group {
            key: key.clone(),
            name,
            profiles: FxSet::default(),
            interfaces: BTreeSet::new(),
            content: Content::default(),
        });
        self.by_key.insert(key.clone(), id);
        self.by_name.insert(name, id);
        (id, true)
    }

    pub(crate) fn remove(&mut self, id: Id<Group>) {
        if let Some(group) = self.slab.remove(id) {
            self.by_key.remove(&group.key);
            self.by_name.remove(&group.name);
        }
    }

    pub(crate) fn find(&self, name: GroupName) -> Option<&Group> {
        self.slab.get(*self.by_name.get(&name)?)
    }
}

fn name(names: &Names, key: &GroupKey) -> GroupName {
    let mut ports: Vec<String> = key
        .ports
        .iter()
        .map(|(name, protocol, port)| format!("{}/{protocol}={port}", names.text(*name)))
        .collect();
    ports.sort_unstable();
    let (namespace, policies) = (names.text(key.namespace), key.policies.join(","));
    GroupName(stable_hash(&format!(
        "{namespace}/{policies}/{}",
        ports.join(",")
    )))
}

/// What policies allow together. `names` resolves names of ports at pods of this node (ingress) or makes them numbers (egress).
pub(crate) fn content_of<'a>(
    policies: impl Iterator<Item = &'a Policy>,
    direction: Direction,
    own_ports: &[PortName],
    names: &mut impl FnMut(&str) -> Name,
) -> Content {
    let mut blocks = BlockBuilder::default();
    let mut content = Content::default();
    for policy in policies {
        for rule in policy.rules(direction).unwrap_or_default() {
            let used = used_ports(&rule.ports, direction, own_ports, names);
            let ranges: Vec<PortRange> = used.ports.ranges().to_vec();
            let Some(peers) = &rule.peers else {
                content.any.extend(ranges);
                if !used.names.is_empty() {
                    let everybody = PeerSelector {
                        namespaces: NamespaceMatch::Any,
                        pods: LabelSelector::default(),
                    };
                    let only_names = UsedPorts {
                        names: used.names,
                        ..UsedPorts::default()
                    };
                    add(&mut content, everybody, &only_names);
                }
                continue;
            };
            for peer in peers {
                match peer {
                    Peer::Block { cidr, except } if !ranges.is_empty() => blocks.add(*cidr, except, &ranges),
                    Peer::Block { .. } => {}
                    Peer::Pods { namespaces, pods } => {
                        let selector = PeerSelector {
                            namespaces: match namespaces {
                                None => NamespaceMatch::One(policy.namespace.clone()),
                                Some(selector) => NamespaceMatch::Labels(selector.clone().normalized()),
                            },
                            pods: pods.clone().unwrap_or_default().normalized(),
                        };
                        add(&mut content, selector, &used);
                    }
                }
            }
        }
    }
    content.blocks = blocks.build();
    content
}

fn add(content: &mut Content, selector: PeerSelector, used: &UsedPorts) {
    if used.ports.is_empty() && used.names.is_empty() {
        return;
    }
    let entry = content.selectors.entry(selector).or_default();
    entry.ports.extend(used.ports.ranges().iter().copied());
    entry.names.extend(used.names.iter().copied());
}

/// Names of ports that the rules of a direction use.
pub(crate) fn names_used(policy: &Policy, direction: Direction) -> impl Iterator<Item = (&str, u8)> {
    let rules = policy.rules(direction).unwrap_or_default().iter();
    let ports = rules.flat_map(|rule| match &rule.ports {
        Ports::All => &[],
        Ports::Some(ports) => ports.as_slice(),
    });
    ports.filter_map(|port| match port {
        PortRule::Named { protocol, name } => Some((name.as_str(), *protocol)),
        PortRule::Range { .. } => None,
    })
}

fn used_ports(
    ports: &Ports,
    direction: Direction,
    own_ports: &[PortName],
    names: &mut impl FnMut(&str) -> Name,
) -> UsedPorts {
    let mut used = UsedPorts::default();
    let Ports::Some(rules) = ports else {
        used.ports.extend([PortRange::ALL]);
        return used;
    };
    for rule in rules {
        match rule {
            PortRule::Range { protocol, from, to } => used.ports.extend([PortRange {
                protocol: Some(*protocol),
                from: *from,
                to: *to,
            }]),
            PortRule::Named { protocol, name } => {
                let name = names(name);
                match direction {
                    Direction::Egress => drop(used.names.insert((name, *protocol))),
                    Direction::Ingress => {
                        let own = own_ports
                            .iter()
                            .find(|port| port.0 == name && port.1 == *protocol);
                        used.ports.extend(own.map(|(_, protocol, port)| PortRange {
                            protocol: Some(*protocol),
                            from: *port,
                            to: *port,
                        }));
                    }
                }
            }
        }
    }
    used
}
