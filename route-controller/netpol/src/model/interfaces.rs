//! Interfaces of this node's pods, and the groups that they are in.

use super::Model;
use crate::desired::IsolationState;
use crate::group::Group;
use crate::policy::{Direction, PerDirection};
use crate::slab::Id;

/// An interface of a pod on this node.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) groups: PerDirection<Option<Id<Group>>>,
    pub(crate) states: PerDirection<IsolationState>,
}

impl Model {
    /// An interface of this node leads to a pod.
    pub fn attach(&mut self, interface: &str, namespace: &str, pod: &str) {
        if self
            .interfaces
            .get(interface)
            .is_some_and(|known| known.namespace == namespace && known.pod == pod)
        {
            return;
        }
        self.detach(interface);
        let new = Interface {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            groups: PerDirection::default(),
            states: PerDirection::of(|_| IsolationState::Open),
        };
        self.interfaces.insert(interface.to_owned(), new);
        self.refresh_interface(interface);
    }

    /// The interface is gone.
    pub fn detach(&mut self, interface: &str) {
        let Some(old) = self.interfaces.remove(interface) else {
            return;
        };
        for direction in Direction::BOTH {
            if let Some(group) = old.groups[direction] {
                self.leave_group(direction, group, interface);
            }
        }
        self.changes.interfaces.insert(interface.to_owned());
    }

    pub(super) fn refresh_interfaces_of(&mut self, namespace: &str, pod: &str) {
        let of_pod = self
            .interfaces
            .iter()
            .filter(|(_, interface)| interface.pod == pod && interface.namespace == namespace);
        let names: Vec<String> = of_pod.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.refresh_interface(&name);
        }
    }

    /// Puts an interface into the groups of its pod.
    pub(super) fn refresh_interface(&mut self, name: &str) {
        let Some(interface) = self.interfaces.get(name) else {
            return;
        };
        let (groups, states) = self.isolation(&interface.namespace, &interface.pod);
        let old = interface.groups;
        let is_same = interface.states == states;
        for direction in Direction::BOTH {
            let (old, new) = (old[direction], groups[direction]);
            if old == new {
                continue;
            }
            if let Some(group) = new.and_then(|new| self.groups[direction].slab.get_mut(new)) {
                group.interfaces.insert(name.to_owned());
            }
            if let Some(new) = new {
                self.group_interfaces_changed(direction, new);
            }
            if let Some(old) = old {
                self.leave_group(direction, old, name);
            }
        }
        if let Some(interface) = self.interfaces.get_mut(name) {
            interface.groups = groups;
            interface.states = states;
        }
        if !is_same {
            self.changes.interfaces.insert(name.to_owned());
        }
    }

    pub(super) fn leave_group(&mut self, direction: Direction, group: Id<Group>, interface: &str) {
        if let Some(entry) = self.groups[direction].slab.get_mut(group) {
            entry.interfaces.remove(interface);
        }
        self.group_interfaces_changed(direction, group);
    }

    fn isolation(
        &self,
        namespace: &str,
        pod: &str,
    ) -> (PerDirection<Option<Id<Group>>>, PerDirection<IsolationState>) {
        let Some(profile) = self
            .pod(namespace, pod)
            .filter(|pod| pod.is_local)
            .map(|pod| pod.profile)
        else {
            let entry = self.names.find(namespace).and_then(|id| self.namespaces.get(&id));
            let has_policies = entry.is_some_and(|entry| !entry.policies.is_empty());
            let state = if has_policies {
                IsolationState::Waiting
            } else {
                IsolationState::Open
            };
            return (PerDirection::default(), PerDirection::of(|_| state));
        };
        let groups = self
            .profiles
            .slab
            .get(profile)
            .map(|profile| profile.groups)
            .unwrap_or_default();
        let is_isolated = groups.values().any(Option::is_some);
        let state = |direction: Direction| {
            let group = groups[direction];
            match group.and_then(|group| self.groups[direction].slab.get(group)) {
                Some(group) => IsolationState::Group(group.name),
                None if is_isolated => IsolationState::OtherDirection,
                None => IsolationState::Open,
            }
        };
        (groups, PerDirection::of(state))
    }

    fn group_interfaces_changed(&mut self, direction: Direction, group: Id<Group>) {
        let Some(entry) = self.groups[direction].slab.get(group) else {
            return;
        };
        let classes = &self.classes[direction];
        let used = entry
            .content
            .selectors
            .keys()
            .filter_map(|spec| classes.find_selector(spec));
        let affected = used
            .flat_map(|selector| selector.classes.iter())
            .filter_map(|class| classes.slab.get(*class));
        self.changes.classes[direction].extend(affected.map(|class| class.name));
    }
}
