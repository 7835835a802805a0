//! The rules as they should be, object by object, and which objects changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::blocks::AddressRange;
use crate::class::ClassName;
use crate::group::{Group, GroupName, UsedPorts};
use crate::model::Model;
use crate::policy::{Direction, PerDirection};
use crate::ports::{PortRange, PortSet};
use crate::profile::{FxMap, FxSet, PortName};
use crate::slab::Id;

/// How an interface's packets of one direction are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IsolationState {
    /// Nothing isolates it in either direction.
    Open,
    /// Policies isolate it in the other direction only: connections begin here with a SYN, lest replies to connections that are
    /// forbidden begin new ones.
    OtherDirection,
    /// Its pod is not known yet, in a namespace with policies: nothing passes but replies.
    Waiting,
    Group(GroupName),
}

/// What an interface's packets go through, by direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceRules {
    pub ingress: IsolationState,
    pub egress: IsolationState,
}

impl InterfaceRules {
    #[must_use]
    pub fn state(&self, direction: Direction) -> IsolationState {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// What a class may do at an interface (ingress), or the interface's pod at it (egress).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassElement {
    pub interface: String,
    pub ports: PortRange,
}

/// What a group allows besides classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRules {
    pub namespace: String,
    /// To everybody.
    pub any: PortSet,
    /// To addresses of any owner; the ranges do not overlap.
    pub blocks: Vec<(AddressRange, PortSet)>,
    /// Names of the policies.
    pub policies: Vec<String>,
}

/// Objects that are, or may be, other than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses with another class.
    pub addresses: FxSet<IpAddr>,
    pub classes: PerDirection<FxSet<ClassName>>,
    pub groups: PerDirection<FxSet<GroupName>>,
    pub interfaces: BTreeSet<String>,
    /// Which namespaces have policies.
    pub namespaces: bool,
}

impl Changes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Joins two.
    pub fn extend(&mut self, other: Self) {
        self.addresses.extend(other.addresses);
        self.classes.ingress.extend(other.classes.ingress);
        self.classes.egress.extend(other.classes.egress);
        self.groups.ingress.extend(other.groups.ingress);
        self.groups.egress.extend(other.groups.egress);
        self.interfaces.extend(other.interfaces);
        self.namespaces |= other.namespaces;
    }
}

impl Model {
    /// All that should be there.
    #[must_use]
    pub fn everything(&self) -> Changes {
        Changes {
            addresses: self.addresses_in_use().collect(),
            classes: PerDirection::of(|direction| self.classes[direction].names().collect()),
            groups: PerDirection::of(|direction| self.groups[direction].names().collect()),
            interfaces: self.interfaces.keys().cloned().collect(),
            namespaces: true,
        }
    }

    /// The class of an address; none where no rule of a direction here names its pod, or it is no pod's.
    #[must_use]
    pub fn class_of(&self, direction: Direction, address: IpAddr) -> Option<ClassName> {
        let profile = self.profiles.slab.get(self.owner(address)?.profile)?;
        let class = profile.classes[direction]?;
        Some(self.classes[direction].slab.get(class)?.name)
    }

    /// What a class may do, or what may be done at it; none where there is no such class.
    #[must_use]
    pub fn class_elements(&self, direction: Direction, name: ClassName) -> Option<Vec<ClassElement>> {
        let mut allowed: FxMap<Id<Group>, PortSet> = FxMap::default();
        let classes = &self.classes[direction];
        let class = classes.find(name)?;
        for selector in class
            .key
            .selectors
            .iter()
            .filter_map(|id| classes.selectors.get(*id))
        {
            for (group, used) in &selector.users {
                allowed
                    .entry(*group)
                    .or_default()
                    .extend(ranges(used, &class.key.ports));
            }
        }
        let mut elements = Vec::new();
        for (group, ports) in allowed {
            let group = self.groups[direction].slab.get(group);
            for interface in group.into_iter().flat_map(|group| group.interfaces.iter()) {
                elements.extend(ports.ranges().iter().map(|ports| ClassElement {
                    interface: interface.clone(),
                    ports: *ports,
                }));
            }
        }
        Some(elements)
    }

    /// What a group allows; none where there is no such group.
    #[must_use]
    pub fn group_rules(&self, direction: Direction, name: GroupName) -> Option<GroupRules> {
        let group = self.groups[direction].find(name)?;
        Some(GroupRules {
            namespace: self.names.text(group.key.namespace).to_owned(),
            any: group.content.any.clone(),
            blocks: group.content.blocks.clone(),
            policies: group.key.policies.clone(),
        })
    }

    /// Policies of which a part is larger than the limits and allows nothing, by namespace and name, with the reason.
    #[must_use]
    pub fn excesses(&self) -> BTreeMap<(String, String), Vec<String>> {
        let mut found: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for direction in Direction::BOTH {
            for (_, group) in self.groups[direction].slab.iter() {
                let namespace = self.names.text(group.key.namespace);
                let reasons = group.content.excess.reasons(direction);
                for policy in group.key.policies.iter().filter(|_| !reasons.is_empty()) {
                    let known = found.entry((namespace.to_owned(), policy.clone())).or_default();
                    known.extend(reasons.iter().cloned());
                    known.sort();
                    known.dedup();
                }
            }
        }
        found
    }

    /// What an interface's packets go through; none where nothing isolates it.
    #[must_use]
    pub fn interface_rules(&self, name: &str) -> Option<InterfaceRules> {
        let PerDirection { ingress, egress } = self.interfaces.get(name)?.states;
        let is_open = [ingress, egress] == [IsolationState::Open; 2];
        (!is_open).then_some(InterfaceRules { ingress, egress })
    }

    /// All interfaces.
    pub fn interface_names(&self) -> impl Iterator<Item = &str> {
        self.interfaces.keys().map(String::as_str)
    }

    /// Whether the set of namespaces with policies may have changed since [`Self::take_changes`].
    #[must_use]
    pub fn namespaces_changed(&self) -> bool {
        self.changes.namespaces
    }

    /// Counts the set of namespaces with policies as changed.
    pub fn touch_namespaces(&mut self) {
        self.changes.namespaces = true;
    }

    /// The pod that has an address, as `namespace/name`.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<String> {
        let pod = self.owner(address)?;
        Some(format!("{}/{}", self.names.text(pod.namespace), pod.name))
    }

    /// The pod of an interface, as `namespace/name`.
    #[must_use]
    pub fn interface_pod(&self, name: &str) -> Option<String> {
        let interface = self.interfaces.get(name)?;
        Some(format!("{}/{}", interface.namespace, interface.pod))
    }

    /// Whether a pod of this node lets a packet through; true for addresses of no pod here.
    #[must_use]
    pub fn allows(&self, direction: Direction, own: IpAddr, other: IpAddr, protocol: u8, port: u16) -> bool {
        if own == other {
            return true;
        }
        let Some(pod) = self.owner(own).filter(|pod| pod.is_local) else {
            return true;
        };
        let profile = self.profiles.slab.get(pod.profile);
        let Some(group) = profile.and_then(|profile| profile.groups[direction]) else {
            return true;
        };
        let Some(group_entry) = self.groups[direction].slab.get(group) else {
            return true;
        };
        let content = &group_entry.content;
        if content.any.contains(protocol, port) {
            return true;
        }
        // Blocks are sorted and do not overlap.
        let place = content.blocks.partition_point(|(range, _)| range.last < other);
        let block = content
            .blocks
            .get(place)
            .filter(|(range, _)| range.contains(other));
        if block.is_some_and(|(_, ports)| ports.contains(protocol, port)) {
            return true;
        }
        let classes = &self.classes[direction];
        let class = self
            .class_of(direction, other)
            .and_then(|name| classes.find(name));
        class.is_some_and(|class| {
            let selectors = class
                .key
                .selectors
                .iter()
                .filter_map(|id| classes.selectors.get(*id));
            let mut used = selectors.filter_map(|selector| selector.users.get(&group));
            used.any(|used| ranges(used, &class.key.ports).any(|range| range.contains(protocol, port)))
        })
    }

    /// Pods, namespaces, policies, classes and groups, for metrics and for people.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, usize); 6] {
        let classes = self.classes.values().map(|classes| classes.slab.len()).sum();
        let groups = self.groups.values().map(|groups| groups.slab.len()).sum();
        [
            ("pods", self.pods.len()),
            ("profiles", self.profiles.slab.len()),
            ("policies", self.policies().count()),
            ("classes", classes),
            ("groups", groups),
            ("interfaces", self.interfaces.len()),
        ]
    }
}

/// The ports of a use, with those of names as a class has them.
fn ranges(used: &UsedPorts, own: &[PortName]) -> impl Iterator<Item = PortRange> {
    let named = own
        .iter()
        .filter(|(name, protocol, _)| used.names.contains(&(*name, *protocol)));
    let named = named.map(|(_, protocol, port)| PortRange {
        protocol: Some(*protocol),
        from: *port,
        to: *port,
    });
    used.ports.ranges().iter().copied().chain(named)
}
