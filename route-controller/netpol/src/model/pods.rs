//! Pods, their addresses, and the profiles that they share.

use std::net::IpAddr;

use hashbrown::hash_table::Entry;

use super::Model;
use crate::names::Name;
use crate::policy::{Direction, NamedPort};
use crate::profile::Profile;
use crate::slab::Id;

/// A pod as it comes. Pods that have ended and pods in the host's network are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodInput {
    pub namespace: String,
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<NamedPort>,
    /// It is on this node.
    pub is_local: bool,
    /// When it was made, in seconds: of two pods with one address the later one has it.
    pub created: i64,
}

/// A pod as it is kept.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: Name,
    pub(crate) name: Box<str>,
    pub(crate) profile: Id<Profile>,
    pub(super) addresses: Box<[IpAddr]>,
    created: i64,
    pub(crate) is_local: bool,
}

impl Model {
    /// A pod is there, or is another than before.
    pub fn put_pod(&mut self, input: &PodInput) {
        let namespace = self.namespace_of(&input.namespace);
        let (profile, is_new) = self
            .profiles
            .intern(&mut self.names, namespace, &input.labels, &input.ports);
        if is_new {
            if let Some(entry) = self.namespaces.get_mut(&namespace) {
                entry.profiles.insert(profile);
            }
            self.classify(profile);
        }
        let found = self.find_pod(namespace, &input.name);
        if let Some(pod) = found.and_then(|id| self.pods.get(id))
            && pod.profile == profile
            && *pod.addresses == *input.addresses
            && (pod.created, pod.is_local) == (input.created, input.is_local)
        {
            return;
        }
        let old = found.and_then(|id| self.unlink_pod(id));
        let pod = Pod {
            namespace,
            name: input.name.as_str().into(),
            profile,
            addresses: input.addresses.as_slice().into(),
            created: input.created,
            is_local: input.is_local,
        };
        self.link_pod(pod);
        if let Some(old) = old.filter(|old| *old != profile) {
            self.drop_unused_profile(old);
        }
        self.refresh_interfaces_of(&input.namespace, &input.name);
    }

    /// A pod is gone, has ended, or is in the host's network.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(id) = self
            .names
            .find(namespace)
            .and_then(|namespace| self.find_pod(namespace, name))
        else {
            return;
        };
        if let Some(profile) = self.unlink_pod(id) {
            self.drop_unused_profile(profile);
        }
        self.refresh_interfaces_of(namespace, name);
        self.drop_unused_namespace(namespace);
    }

    /// Names of all pods.
    pub fn pod_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pods
            .iter()
            .map(|(_, pod)| (self.names.text(pod.namespace), &*pod.name))
    }

    /// The addresses of a pod.
    #[must_use]
    pub fn addresses_of(&self, namespace: &str, name: &str) -> Option<&[IpAddr]> {
        self.pod(namespace, name).map(|pod| &*pod.addresses)
    }

    /// The pod that has an address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&Pod> {
        let claims = self.addresses.get(&address)?.iter();
        let pods = claims.filter_map(|id| self.pods.get(*id));
        pods.max_by_key(|pod| (pod.created, self.names.text(pod.namespace), &pod.name))
    }

    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let id = self.find_pod(self.names.find(namespace)?, name)?;
        self.pods.get(id)
    }

    pub(crate) fn addresses_in_use(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    pub(super) fn find_pod(&self, namespace: Name, name: &str) -> Option<Id<Pod>> {
        let is_it = |id: &Id<Pod>| {
            let pod = self.pods.get(*id);
            pod.is_some_and(|pod| pod.namespace == namespace && &*pod.name == name)
        };
        self.pod_index.find(hash_of(namespace, name), is_it).copied()
    }

    fn link_pod(&mut self, pod: Pod) {
        let (profile, is_local) = (pod.profile, pod.is_local);
        let hash = hash_of(pod.namespace, &pod.name);
        let id = self.pods.insert(pod);
        let pods = &self.pods;
        let rehash = |id: &Id<Pod>| pods.get(*id).map_or(0, |pod| hash_of(pod.namespace, &pod.name));
        if let Entry::Vacant(entry) = self.pod_index.entry(hash, |other| *other == id, rehash) {
            entry.insert(id);
        }
        let addresses = self
            .pods
            .get(id)
            .map(|pod| pod.addresses.clone())
            .unwrap_or_default();
        for address in addresses {
            self.addresses.entry(address).or_default().push(id);
            self.changes.addresses.insert(address);
        }
        let Some(entry) = self.profiles.slab.get_mut(profile) else {
            return;
        };
        entry.pods.insert(id);
        if is_local {
            entry.local += 1;
            if entry.local == 1 {
                self.assign_groups(profile);
            }
        }
    }

    /// Takes a pod out; gives its profile, which may have no pod then.
    fn unlink_pod(&mut self, id: Id<Pod>) -> Option<Id<Profile>> {
        let hash = self.pods.get(id).map(|pod| hash_of(pod.namespace, &pod.name))?;
        if let Ok(entry) = self.pod_index.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        let pod = self.pods.remove(id)?;
        for address in &pod.addresses {
            if let Some(claims) = self.addresses.get_mut(address) {
                claims.retain(|other| *other != id);
                if claims.is_empty() {
                    self.addresses.remove(address);
                }
            }
            self.changes.addresses.insert(*address);
        }
        if pod.is_local {
            // Its interfaces leave the groups before those can go.
            let namespace = self.names.text(pod.namespace).to_owned();
            self.refresh_interfaces_of(&namespace, &pod.name);
        }
        let entry = self.profiles.slab.get_mut(pod.profile)?;
        entry.pods.remove(&id);
        if pod.is_local {
            entry.local -= 1;
            if entry.local == 0 {
                self.assign_groups(pod.profile);
            }
        }
        Some(pod.profile)
    }

    pub(super) fn drop_unused_profile(&mut self, id: Id<Profile>) {
        let Some(profile) = self
            .profiles
            .slab
            .get(id)
            .filter(|profile| profile.pods.is_empty())
        else {
            return;
        };
        let namespace = profile.key.namespace;
        for direction in Direction::BOTH {
            self.set_class(direction, id, None);
        }
        self.profiles.remove(&mut self.names, id);
        if let Some(entry) = self.namespaces.get_mut(&namespace) {
            entry.profiles.remove(&id);
        }
    }
}

fn hash_of(namespace: Name, name: &str) -> u64 {
    use std::hash::{BuildHasher, Hash, Hasher};
    let mut hasher = rustc_hash::FxBuildHasher.build_hasher();
    namespace.hash(&mut hasher);
    name.hash(&mut hasher);
    hasher.finish()
}
