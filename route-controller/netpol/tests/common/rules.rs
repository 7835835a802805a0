//! A mirror that changes only where the model says that something changed, as the kernel does; and what its rules make of packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podroute_netpol::{
    Changes, ClassElement, ClassName, Direction, GroupName, GroupRules, InterfaceRules, IsolationState, Model,
};

use super::world::{Event, Pod, World};

#[derive(Debug, Default, PartialEq)]
pub struct Mirror {
    addresses: BTreeMap<(Direction, IpAddr), ClassName>,
    classes: BTreeMap<(Direction, ClassName), BTreeSet<ClassElement>>,
    groups: BTreeMap<(Direction, GroupName), GroupRules>,
    interfaces: BTreeMap<String, InterfaceRules>,
}

impl Mirror {
    pub fn apply(&mut self, model: &Model, changes: &Changes) {
        for direction in Direction::BOTH {
            for address in &changes.addresses {
                put(
                    &mut self.addresses,
                    (direction, *address),
                    model.class_of(direction, *address),
                );
            }
            for name in &changes.classes[direction] {
                let elements = model.class_elements(direction, *name);
                put(
                    &mut self.classes,
                    (direction, *name),
                    elements.map(|e| e.into_iter().collect()),
                );
            }
            for name in &changes.groups[direction] {
                put(
                    &mut self.groups,
                    (direction, *name),
                    model.group_rules(direction, *name),
                );
            }
        }
        for name in &changes.interfaces {
            put(&mut self.interfaces, name.clone(), model.interface_rules(name));
        }
    }

    /// What the rules make of a new connection: the interpreter of the base chains.
    pub fn verdict(
        &self,
        from: (Option<&str>, IpAddr),
        to: (Option<&str>, IpAddr),
        protocol: u8,
        port: u16,
    ) -> bool {
        if from.0.is_some() && from.0 == to.0 {
            return true;
        }
        let one = |direction, interface: Option<&str>, other| {
            let rules = interface.and_then(|name| self.interfaces.get(name));
            rules.is_none_or(|rules| match rules.state(direction) {
                IsolationState::Open | IsolationState::OtherDirection => true,
                IsolationState::Waiting => false,
                IsolationState::Group(name) => {
                    self.passes(direction, name, interface.unwrap(), other, protocol, port)
                }
            })
        };
        one(Direction::Egress, from.0, to.1) && one(Direction::Ingress, to.0, from.1)
    }

    fn passes(
        &self,
        direction: Direction,
        group: GroupName,
        interface: &str,
        other: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        let rules = &self.groups[&(direction, group)];
        let in_block = rules
            .blocks
            .iter()
            .any(|(range, ports)| range.contains(other) && ports.contains(protocol, port));
        let by_class = self.addresses.get(&(direction, other)).is_some_and(|class| {
            self.classes[&(direction, *class)]
                .iter()
                .any(|element| element.interface == interface && element.ports.contains(protocol, port))
        });
        rules.any.contains(protocol, port) || in_block || by_class
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

/// A model and its mirror.
#[derive(Default)]
pub struct Compiled {
    pub model: Model,
    pub mirror: Mirror,
}

impl Compiled {
    pub fn apply(&mut self, event: &Event) {
        event.apply_to(&mut self.model);
        let changes = self.model.take_changes();
        self.mirror.apply(&self.model, &changes);
    }

    pub fn of(world: &World, order: impl Fn(&mut Vec<Event>)) -> Self {
        let namespaces = world
            .namespaces
            .iter()
            .map(|(name, labels)| Event::Namespace(name.clone(), labels.clone()));
        let pods = world.pods.iter().map(|pod| Event::Pod(Box::new(pod.clone())));
        let policies = world
            .policies
            .iter()
            .map(|policy| Event::Policy(Box::new(policy.clone())));
        let mut events: Vec<Event> = namespaces.chain(pods).chain(policies).collect();
        order(&mut events);
        let mut compiled = Self::default();
        events.iter().for_each(|event| compiled.apply(event));
        compiled
    }

    /// All of the rules at once.
    pub fn whole(&self) -> Mirror {
        let mut mirror = Mirror::default();
        mirror.apply(&self.model, &self.model.everything());
        mirror
    }

    pub fn verdict(
        &self,
        world: &World,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        let interface = |address: IpAddr| {
            let pod: Option<&Pod> = world
                .pods
                .iter()
                .find(|pod| pod.local && pod.addresses.contains(&address));
            pod.map(Pod::interface)
        };
        let (from, to) = (interface(source), interface(destination));
        self.mirror.verdict(
            (from.as_deref(), source),
            (to.as_deref(), destination),
            protocol,
            port,
        )
    }
}
