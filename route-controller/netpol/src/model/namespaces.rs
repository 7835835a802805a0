//! Namespaces, known by themselves or by what is in them.

use std::collections::{BTreeMap, BTreeSet};

use super::Model;
use super::policies::StoredPolicy;
use crate::names::Name;
use crate::profile::{Labels, Profile, intern_labels};
use crate::slab::Id;

/// A namespace, known by itself or by what is in it.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    /// None: its object is not known.
    pub(super) labels: Option<Labels>,
    pub(super) profiles: BTreeSet<Id<Profile>>,
    pub(crate) policies: BTreeMap<String, StoredPolicy>,
}

impl Model {
    /// A namespace is there, or has other labels.
    pub fn put_namespace(&mut self, name: &str, labels: &[(String, String)]) {
        let namespace = self.namespace_of(name);
        let labels = intern_labels(&mut self.names, labels);
        self.set_namespace_labels(namespace, Some(labels));
    }

    /// A namespace's object is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        if let Some(namespace) = self
            .names
            .find(name)
            .filter(|id| self.namespaces.contains_key(id))
        {
            self.set_namespace_labels(namespace, None);
            self.drop_unused_namespace(name);
        }
    }

    /// Names of all namespaces whose objects are known.
    pub fn namespace_names(&self) -> impl Iterator<Item = &str> {
        let known = self.namespaces.iter().filter(|(_, entry)| entry.labels.is_some());
        known.map(|(name, _)| self.names.text(*name))
    }

    pub(crate) fn namespace_labels(&self, namespace: Name) -> Option<&[(Name, Name)]> {
        self.namespaces.get(&namespace)?.labels.as_deref()
    }

    pub(super) fn profiles_of(&self, namespace: Name) -> Vec<Id<Profile>> {
        let entry = self.namespaces.get(&namespace);
        entry
            .into_iter()
            .flat_map(|entry| entry.profiles.iter().copied())
            .collect()
    }

    pub(super) fn namespace_of(&mut self, name: &str) -> Name {
        if let Some(id) = self
            .names
            .find(name)
            .filter(|id| self.namespaces.contains_key(id))
        {
            return id;
        }
        let id = self.names.intern(name);
        self.namespaces.insert(id, Namespace::default());
        id
    }

    pub(super) fn drop_unused_namespace(&mut self, name: &str) {
        let Some(id) = self.names.find(name) else { return };
        let is_unused = self.namespaces.get(&id).is_some_and(|entry| {
            entry.labels.is_none() && entry.profiles.is_empty() && entry.policies.is_empty()
        });
        if is_unused {
            self.namespaces.remove(&id);
            self.names.release(id);
        }
    }

    fn set_namespace_labels(&mut self, namespace: Name, labels: Option<Labels>) {
        let Some(entry) = self.namespaces.get_mut(&namespace) else {
            return;
        };
        let is_same = entry.labels == labels;
        let old = std::mem::replace(&mut entry.labels, labels);
        for (key, value) in old.into_iter().flatten() {
            self.names.release(key);
            self.names.release(value);
        }
        if is_same {
            return;
        }
        for profile in self.profiles_of(namespace) {
            self.classify(profile);
        }
    }
}
