//! Classes of profiles: which selectors take each.

use std::collections::BTreeMap;

use super::Model;
use super::namespaces::Namespace;
use crate::class::{Class, ClassKey, Selector};
use crate::names::Name;
use crate::policy::Direction;
use crate::profile::{FxSet, NamespaceMatch, Profile};
use crate::slab::Id;

impl Model {
    /// Finds the selectors that take a profile, from all of them.
    pub(super) fn classify(&mut self, id: Id<Profile>) {
        for direction in Direction::BOTH {
            let Some(profile) = self.profiles.slab.get(id) else {
                return;
            };
            let namespace = profile.key.namespace;
            let (name, labels) = (self.names.text(namespace), self.namespace_labels(namespace));
            let classes = &self.classes[direction];
            let taken = classes.selectors.iter().filter(|(_, selector)| {
                !selector.users.is_empty()
                    && selector.takes_namespace(name, labels)
                    && selector.takes_labels(&profile.key.labels)
            });
            let selectors: Vec<_> = taken.map(|(id, _)| id).collect();
            let key = self.class_key(direction, id, selectors);
            self.set_class(direction, id, key);
        }
    }

    pub(super) fn class_key(
        &self,
        direction: Direction,
        id: Id<Profile>,
        mut selectors: Vec<Id<Selector>>,
    ) -> Option<ClassKey> {
        if selectors.is_empty() {
            return None;
        }
        selectors.sort_unstable();
        let profile = self.profiles.slab.get(id)?;
        let used = &self.classes[direction].port_names;
        let mut names: Vec<&(Name, u8)> = used.keys().collect();
        names.sort_unstable();
        let ports = names.into_iter().filter_map(|(name, protocol)| {
            let port = profile.key.port(*name, *protocol)?;
            Some((*name, *protocol, port))
        });
        Some(ClassKey {
            selectors,
            ports: ports.collect(),
        })
    }

    pub(super) fn set_class(&mut self, direction: Direction, id: Id<Profile>, key: Option<ClassKey>) {
        let classes = &mut self.classes[direction];
        let Some(profile) = self.profiles.slab.get_mut(id) else {
            return;
        };
        let old = profile.classes[direction];
        if old.and_then(|old| classes.slab.get(old)).map(|class| &class.key) == key.as_ref() {
            return;
        }
        let new = key.map(|key| classes.intern(&self.names, key).0);
        profile.classes[direction] = new;
        if let Some(class) = new.and_then(|new| classes.slab.get_mut(new)) {
            class.profiles.insert(id);
            if class.profiles.len() == 1 {
                self.changes.classes[direction].insert(class.name);
            }
        }
        for pod in profile.pods.iter().filter_map(|pod| self.pods.get(*pod)) {
            self.changes.addresses.extend(pod.addresses.iter().copied());
        }
        if let Some(old) = old {
            self.leave_class(direction, old, id);
        }
    }

    /// Adds and removes selectors of profiles.
    pub(super) fn reclassify(
        &mut self,
        direction: Direction,
        added: &[Id<Selector>],
        removed: &[Id<Selector>],
    ) {
        let mut pending: BTreeMap<Id<Profile>, (Vec<Id<Selector>>, bool)> = BTreeMap::new();
        for id in added {
            for profile in self.profiles_taken(direction, *id) {
                pending.entry(profile).or_default().0.push(*id);
            }
        }
        let classes = &self.classes[direction];
        for id in removed {
            let taken = classes
                .selectors
                .get(*id)
                .into_iter()
                .flat_map(|selector| selector.classes.iter());
            let profiles = taken
                .filter_map(|class| classes.slab.get(*class))
                .flat_map(|class| class.profiles.iter());
            profiles.for_each(|profile| pending.entry(*profile).or_default().1 = true);
        }
        for (profile, (added, _)) in pending {
            let Some(entry) = self.profiles.slab.get(profile) else {
                continue;
            };
            let old = entry.classes[direction];
            let old = old.and_then(|old| self.classes[direction].slab.get(old));
            let mut selectors = old.map(|class| class.key.selectors.clone()).unwrap_or_default();
            selectors.retain(|id| !removed.contains(id));
            selectors.extend(added);
            let key = self.class_key(direction, profile, selectors);
            self.set_class(direction, profile, key);
        }
    }

    /// What groups allow to a selector changed: its classes have other elements.
    pub(super) fn selector_changed(&mut self, direction: Direction, selector: Id<Selector>) {
        let classes = &self.classes[direction];
        let of_selector = classes
            .selectors
            .get(selector)
            .into_iter()
            .flat_map(|selector| selector.classes.iter());
        let names = of_selector
            .filter_map(|class| classes.slab.get(*class))
            .map(|class| class.name);
        self.changes.classes[direction].extend(names);
    }

    /// Names of ports that come into use or go out of it split or join classes.
    pub(super) fn count_names(&mut self, direction: Direction, changed: &[((Name, u8), bool)]) {
        let used = &mut self.classes[direction].port_names;
        let mut affected = FxSet::default();
        for (name, _) in changed.iter().filter(|(_, is_added)| *is_added) {
            let count = used.entry(*name).or_default();
            *count += 1;
            if *count == 1 {
                affected.insert(name.0);
            }
        }
        for (name, _) in changed.iter().filter(|(_, is_added)| !*is_added) {
            if let Some(count) = used.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    used.remove(name);
                    affected.insert(name.0);
                }
            }
        }
        if affected.is_empty() {
            return;
        }
        let profiles = self.profiles.slab.iter();
        let with =
            profiles.filter(|(_, profile)| profile.key.ports.iter().any(|port| affected.contains(&port.0)));
        let with: Vec<_> = with.map(|(id, _)| id).collect();
        for id in with {
            let class = self
                .profiles
                .slab
                .get(id)
                .and_then(|profile| profile.classes[direction]);
            let class = class.and_then(|class| self.classes[direction].slab.get(class));
            let selectors = class.map(|class| class.key.selectors.clone()).unwrap_or_default();
            let key = self.class_key(direction, id, selectors);
            self.set_class(direction, id, key);
        }
    }

    fn leave_class(&mut self, direction: Direction, class: Id<Class>, profile: Id<Profile>) {
        let classes = &mut self.classes[direction];
        let Some(entry) = classes.slab.get_mut(class) else {
            return;
        };
        entry.profiles.remove(&profile);
        if entry.profiles.is_empty() {
            self.changes.classes[direction].insert(entry.name);
            classes.remove(class);
        }
    }

    /// Profiles that a selector takes.
    fn profiles_taken(&self, direction: Direction, id: Id<Selector>) -> Vec<Id<Profile>> {
        let Some(selector) = self.classes[direction].selectors.get(id) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        let mut look = |name: &str, entry: &Namespace| {
            if selector.takes_namespace(name, entry.labels.as_deref()) {
                let profiles = entry.profiles.iter().filter(|id| {
                    let profile = self.profiles.slab.get(**id);
                    profile.is_some_and(|profile| selector.takes_labels(&profile.key.labels))
                });
                taken.extend(profiles.copied());
            }
        };
        if let NamespaceMatch::One(name) = &selector.spec.namespaces {
            let entry = self.names.find(name).and_then(|id| self.namespaces.get(&id));
            entry.into_iter().for_each(|entry| look(name, entry));
        } else {
            for (name, entry) in &self.namespaces {
                look(self.names.text(*name), entry);
            }
        }
        taken
    }
}
