//! Policies as written.

use std::collections::{BTreeMap, BTreeSet};

use super::Model;
use crate::policy::{Direction, Policy};
use crate::profile::Matcher;

#[derive(Debug)]
pub(crate) struct StoredPolicy {
    pub(crate) policy: Policy,
    pub(crate) selects: Matcher,
}

impl Model {
    /// Adds or replaces a policy.
    pub fn put_policy(&mut self, policy: Policy) {
        let namespace = self.namespace_of(&policy.namespace);
        let selects = Matcher::new(&mut self.names, &policy.selects);
        let (place, name) = (policy.namespace.clone(), policy.name.clone());
        let stored = StoredPolicy { policy, selects };
        let Some(entry) = self.namespaces.get_mut(&namespace) else {
            return;
        };
        self.changes.namespaces |= entry.policies.is_empty();
        if let Some(old) = entry.policies.insert(name.clone(), stored) {
            old.selects.release(&mut self.names);
        }
        self.must_compile(&place, &name);
    }

    /// A policy is gone.
    pub fn remove_policy(&mut self, namespace: &str, name: &str) {
        let Some(id) = self.names.find(namespace) else {
            return;
        };
        let removed = self
            .namespaces
            .get_mut(&id)
            .and_then(|entry| entry.policies.remove(name));
        let Some(removed) = removed else { return };
        removed.selects.release(&mut self.names);
        self.changes.namespaces |= self
            .namespaces
            .get(&id)
            .is_some_and(|entry| entry.policies.is_empty());
        self.must_compile(namespace, name);
        self.drop_unused_namespace(namespace);
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, namespace: &str, name: &str) -> Option<&Policy> {
        let entry = self.namespaces.get(&self.names.find(namespace)?)?;
        entry.policies.get(name).map(|stored| &stored.policy)
    }

    /// All policies.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        let entries = self.namespaces.values().flat_map(|entry| entry.policies.values());
        entries.map(|stored| &stored.policy)
    }

    /// Namespaces that have a policy, sorted.
    #[must_use]
    pub fn namespaces_with_policies(&self) -> BTreeSet<String> {
        let with = self
            .namespaces
            .iter()
            .filter(|(_, entry)| !entry.policies.is_empty());
        with.map(|(name, _)| self.names.text(*name).to_owned()).collect()
    }

    /// How many pods of this node each policy isolates, by namespace and name.
    #[must_use]
    pub fn local_pods_by_policy(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for policy in self.policies() {
            counts.insert((policy.namespace.clone(), policy.name.clone()), 0);
        }
        for (_, profile) in self.profiles.slab.iter().filter(|(_, profile)| profile.local > 0) {
            let Some(entry) = self.namespaces.get(&profile.key.namespace) else {
                continue;
            };
            for stored in entry
                .policies
                .values()
                .filter(|stored| stored.selects.matches(&profile.key.labels))
            {
                let policy = &stored.policy;
                if let Some(count) = counts.get_mut(&(policy.namespace.clone(), policy.name.clone())) {
                    *count += profile.local;
                }
            }
        }
        counts
    }

    /// Policies came, changed or went: the groups of the pods here that they select or selected.
    pub(super) fn policies_changed(&mut self, namespace: &str, policies: &BTreeSet<String>) {
        if let Some(id) = self.names.find(namespace) {
            for profile in self.profiles_of(id) {
                self.assign_groups(profile);
            }
            for direction in Direction::BOTH {
                let groups = self.groups[direction].slab.iter();
                let with = groups.filter(|(_, group)| {
                    group.key.namespace == id && group.key.policies.iter().any(|own| policies.contains(own))
                });
                let with: Vec<_> = with.map(|(id, _)| id).collect();
                for group in with {
                    self.rebuild(direction, group);
                }
            }
        }
        // Pods that are not known wait where there is a policy.
        let waiting = self
            .interfaces
            .iter()
            .filter(|(_, interface)| interface.namespace == namespace);
        let waiting: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        for interface in waiting {
            self.refresh_interface(&interface);
        }
    }

    fn must_compile(&mut self, namespace: &str, policy: &str) {
        let policies = self.changed_policies.entry(namespace.to_owned()).or_default();
        policies.insert(policy.to_owned());
    }
}
