//! Groups of the profiles on this node: which policies isolate them, and what these allow.

use super::Model;
use super::policies::StoredPolicy;
use crate::class::Selector;
use crate::group::{Content, Group, GroupKey, content_of, names_used};
use crate::policy::Direction;
use crate::profile::{PeerSelector, PortName, Profile};
use crate::slab::Id;

impl Model {
    /// Finds what isolates the pods of a profile here.
    pub(super) fn assign_groups(&mut self, id: Id<Profile>) {
        let mut changed = false;
        for direction in Direction::BOTH {
            let key = self.group_key(direction, id);
            let groups = &mut self.groups[direction];
            let new = key.map(|key| groups.intern(&self.names, &key));
            let Some(profile) = self.profiles.slab.get_mut(id) else {
                return;
            };
            let old = std::mem::replace(&mut profile.groups[direction], new.map(|(id, _)| id));
            if old == new.map(|(id, _)| id) {
                continue;
            }
            changed = true;
            if let Some((group, is_new)) = new {
                if let Some(entry) = groups.slab.get_mut(group) {
                    entry.profiles.insert(id);
                    self.changes.groups[direction].insert(entry.name);
                }
                if is_new {
                    self.rebuild(direction, group);
                }
            }
        }
        if !changed {
            return;
        }
        let pods = self
            .profiles
            .slab
            .get(id)
            .map(|profile| profile.pods.clone())
            .unwrap_or_default();
        for pod in pods {
            if let Some(pod) = self.pods.get(pod).filter(|pod| pod.is_local) {
                let (namespace, name) = (self.names.text(pod.namespace).to_owned(), pod.name.to_string());
                self.refresh_interfaces_of(&namespace, &name);
            }
        }
        self.drop_groups(id);
    }

    /// Compiles a group's policies again.
    pub(super) fn rebuild(&mut self, direction: Direction, id: Id<Group>) {
        let Some(group) = self.groups[direction].slab.get(id) else {
            return;
        };
        let Some(namespace) = self.namespaces.get(&group.key.namespace) else {
            return;
        };
        let policies = group
            .key
            .policies
            .iter()
            .filter_map(|name| namespace.policies.get(name));
        let names = &mut self.names;
        let mut port_names = Vec::new();
        let mut number = |text: &str| {
            let name = names.intern(text);
            port_names.push(name);
            name
        };
        let content = content_of(
            policies.map(|stored| &stored.policy),
            direction,
            &group.key.ports,
            &mut number,
        );
        self.replace_content(direction, id, content);
        if let Some(group) = self.groups[direction].slab.get_mut(id) {
            let old = std::mem::replace(&mut group.port_names, port_names);
            old.iter().for_each(|name| self.names.release(*name));
        }
    }

    /// Groups that this profile was the last to have.
    fn drop_groups(&mut self, id: Id<Profile>) {
        for direction in Direction::BOTH {
            let current = self
                .profiles
                .slab
                .get(id)
                .and_then(|profile| profile.groups[direction]);
            let groups = &mut self.groups[direction].slab;
            let left: Vec<_> = groups
                .iter()
                .filter(|(group, entry)| entry.profiles.contains(&id) && Some(*group) != current)
                .map(|(group, _)| group)
                .collect();
            for group in left {
                let Some(entry) = self.groups[direction].slab.get_mut(group) else {
                    continue;
                };
                entry.profiles.remove(&id);
                if entry.profiles.is_empty() {
                    let name = entry.name;
                    self.replace_content(direction, group, Content::default());
                    self.groups[direction].remove(&mut self.names, group);
                    self.changes.groups[direction].insert(name);
                }
            }
        }
    }

    fn group_key(&self, direction: Direction, id: Id<Profile>) -> Option<GroupKey> {
        let profile = self.profiles.slab.get(id).filter(|profile| profile.local > 0)?;
        let namespace = self.namespaces.get(&profile.key.namespace)?;
        let selecting = namespace.policies.values().filter(|stored| {
            stored.policy.rules(direction).is_some() && stored.selects.matches(&profile.key.labels)
        });
        let selecting: Vec<&StoredPolicy> = selecting.collect();
        if selecting.is_empty() {
            return None;
        }
        let mut ports: Vec<PortName> = Vec::new();
        if direction == Direction::Ingress {
            let used = selecting
                .iter()
                .flat_map(|stored| names_used(&stored.policy, direction));
            ports.extend(used.filter_map(|(name, protocol)| {
                let name = self.names.find(name)?;
                Some((name, protocol, profile.key.port(name, protocol)?))
            }));
            ports.sort_unstable();
            ports.dedup();
        }
        Some(GroupKey {
            namespace: profile.key.namespace,
            policies: selecting
                .iter()
                .map(|stored| stored.policy.name.clone())
                .collect(),
            ports,
        })
    }

    fn replace_content(&mut self, direction: Direction, id: Id<Group>, content: Content) {
        let Some(group) = self.groups[direction].slab.get_mut(id) else {
            return;
        };
        if group.content == content {
            return;
        }
        self.changes.groups[direction].insert(group.name);
        let old = std::mem::replace(&mut group.content, content);
        let new = group.content.selectors.clone();
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let mut names_changed = Vec::new();
        for (spec, used) in &new {
            if old.selectors.get(spec) == Some(used) {
                continue;
            }
            let classes = &mut self.classes[direction];
            let (selector, is_new) = classes.selector(&mut self.names, spec);
            if is_new {
                added.push(selector);
            }
            if let Some(entry) = classes.selectors.get_mut(selector) {
                entry.users.insert(id, used.clone());
            }
            names_changed.extend(used.names.iter().map(|name| (*name, true)));
            self.selector_changed(direction, selector);
        }
        for (spec, used) in &old.selectors {
            let is_kept = new.get(spec);
            if is_kept == Some(used) {
                continue;
            }
            names_changed.extend(used.names.iter().map(|name| (*name, false)));
            if is_kept.is_none() {
                removed.extend(self.leave_selector(direction, spec, id));
            }
        }
        self.count_names(direction, &names_changed);
        self.reclassify(direction, &added, &removed);
        for selector in removed {
            self.classes[direction].remove_selector(&mut self.names, selector);
        }
    }

    /// Gives the selector where no group uses it any more.
    pub(super) fn leave_selector(
        &mut self,
        direction: Direction,
        spec: &PeerSelector,
        group: Id<Group>,
    ) -> Option<Id<Selector>> {
        let (selector, _) = self.classes[direction].selector(&mut self.names, spec);
        self.selector_changed(direction, selector);
        let entry = self.classes[direction].selectors.get_mut(selector)?;
        entry.users.remove(&group);
        entry.users.is_empty().then_some(selector)
    }
}
