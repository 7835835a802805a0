//! Groups: what one set of policies allows in one direction to the pods that they select.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use crate::blocks::{AddressRange, BlockBuilder, MAX_PIECES};
use crate::names::{Name, Names, stable_hash};
use crate::policy::{Direction, LabelSelector, Peer, Policy, PortRule, Ports, Rule};
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

/// What distinguishes groups.
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
    /// Names of ports that the content uses, referenced once for each use.
    pub(crate) port_names: Vec<Name>,
}

/// What a group allows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// To everybody.
    pub(crate) any: PortSet,
    pub(crate) blocks: Vec<(AddressRange, PortSet)>,
    pub(crate) selectors: FxMap<PeerSelector, UsedPorts>,
    /// What was left out.
    pub(crate) excess: Excess,
}

/// Ranges of ports of one peer: each is an element for each pair of a class and an interface.
pub(crate) const MAX_PORTS: usize = 1024;

/// What of a group is larger than the limits, and allows nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Its blocks of addresses: more than [`MAX_PIECES`](crate::blocks::MAX_PIECES).
    pub(crate) blocks: bool,
    /// Peers with more than [`MAX_PORTS`].
    pub(crate) ports: bool,
}

impl Excess {
    pub(crate) fn reasons(self, direction: Direction) -> Vec<String> {
        if self == Self::default() {
            return Vec::new();
        }
        let blocks = format!(
            "{direction} ipBlocks allow nothing: together with those of policies that select the same pods they are more than {MAX_PIECES} \
             ranges of addresses and ports; use fewer or larger blocks"
        );
        let ports = format!(
            "{direction} ports of a peer allow nothing: they are more than {MAX_PORTS} ranges; use endPort, or no ports"
        );
        let all = [(self.blocks, blocks), (self.ports, ports)];
        all.into_iter()
            .filter_map(|(is_so, text)| is_so.then_some(text))
            .collect()
    }
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
            port_names: Vec::new(),
        });
        self.by_key.insert(key.clone(), id);
        self.by_name.insert(name, id);
        (id, true)
    }

    pub(crate) fn remove(&mut self, names: &mut Names, id: Id<Group>) {
        if let Some(group) = self.slab.remove(id) {
            group.port_names.iter().for_each(|name| names.release(*name));
            self.by_key.remove(&group.key);
            self.by_name.remove(&group.name);
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = GroupName> {
        self.slab.iter().map(|(_, group)| group.name)
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
    let mut all = Gathered::default();
    for policy in policies {
        for rule in policy.rules(direction).unwrap_or_default() {
            all.add(
                rule,
                &policy.namespace,
                used_ports(&rule.ports, direction, own_ports, names),
            );
        }
    }
    all.content()
}

/// What rules allow, ports not joined yet: they are sorted once.
#[derive(Default)]
struct Gathered {
    any: Vec<PortRange>,
    blocks: BlockBuilder,
    selectors: FxMap<PeerSelector, GatheredPorts>,
}

#[derive(Default)]
struct GatheredPorts {
    ranges: Vec<PortRange>,
    names: BTreeSet<(Name, u8)>,
}

impl Gathered {
    fn add(&mut self, rule: &Rule, namespace: &str, used: UsedPorts) {
        let ranges: Rc<[PortRange]> = used.ports.ranges().into();
        let Some(peers) = &rule.peers else {
            self.any.extend(ranges.iter());
            let everybody = PeerSelector {
                namespaces: NamespaceMatch::Any,
                pods: LabelSelector::default(),
            };
            // Everybody's other ports are not looked up by class.
            self.add_selector(everybody, &[], &used.names);
            return;
        };
        for peer in peers {
            match peer {
                Peer::Block { cidr, except } if !ranges.is_empty() => self.blocks.add(*cidr, except, &ranges),
                Peer::Block { .. } => {}
                Peer::Pods { namespaces, pods } => {
                    let selector = PeerSelector {
                        namespaces: match namespaces {
                            None => NamespaceMatch::One(namespace.to_owned()),
                            Some(selector) => NamespaceMatch::Labels(selector.clone().normalized()),
                        },
                        pods: pods.clone().unwrap_or_default().normalized(),
                    };
                    self.add_selector(selector, &ranges, &used.names);
                }
            }
        }
    }

    fn add_selector(&mut self, selector: PeerSelector, ports: &[PortRange], names: &BTreeSet<(Name, u8)>) {
        if ports.is_empty() && names.is_empty() {
            return;
        }
        let entry = self.selectors.entry(selector).or_default();
        entry.ranges.extend(ports);
        entry.names.extend(names.iter().copied());
    }

    /// What is larger than the limits is left out: it allows nothing.
    fn content(self) -> Content {
        let mut excess = Excess::default();
        let mut ports_of = |ports: Vec<PortRange>| {
            let ports: PortSet = ports.into_iter().collect();
            let fits = ports.ranges().len() <= MAX_PORTS;
            excess.ports |= !fits;
            if fits { ports } else { PortSet::default() }
        };
        let any = ports_of(self.any);
        let selectors = self.selectors.into_iter().map(|(selector, gathered)| {
            let ports = ports_of(gathered.ranges);
            let names = gathered.names;
            (selector, UsedPorts { ports, names })
        });
        let selectors = selectors
            .filter(|(_, used)| !(used.ports.is_empty() && used.names.is_empty()))
            .collect();
        let blocks = self.blocks.build();
        excess.blocks = blocks.is_err();
        Content {
            any,
            blocks: blocks.unwrap_or_default(),
            selectors,
            excess,
        }
    }
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
    let mut ranges = Vec::new();
    for rule in rules {
        match rule {
            PortRule::Range { protocol, from, to } => ranges.push(PortRange {
                protocol: Some(*protocol),
                from: *from,
                to: *to,
            }),
            PortRule::Named { protocol, name } => {
                let name = names(name);
                match direction {
                    Direction::Egress => drop(used.names.insert((name, *protocol))),
                    Direction::Ingress => {
                        let own = own_ports
                            .iter()
                            .find(|port| port.0 == name && port.1 == *protocol);
                        ranges.extend(own.map(|(_, protocol, port)| PortRange {
                            protocol: Some(*protocol),
                            from: *port,
                            to: *port,
                        }));
                    }
                }
            }
        }
    }
    used.ports.extend(ranges);
    used
}
