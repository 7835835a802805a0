//! Everything that is known, and what follows from each event.
//!
//! An event changes what it concerns: a pod its profile, a profile its class and group, a policy the groups of the pods that it
//! selects. What the kernel must be told is collected in [`Changes`], by the names of objects; `desired` says how they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::class::{Class, ClassKey, Classes, Selector};
use crate::desired::{Changes, IsolationState};
use crate::group::{Group, GroupKey, Groups, content_of, names_used};
use crate::names::{Name, Names};
use crate::policy::{Direction, NamedPort, PerDirection, Policy};
use crate::profile::{
    FxMap, FxSet, Labels, Matcher, PeerSelector, PortName, Profile, Profiles, intern_labels,
};
use crate::slab::{Id, Slab};

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
    addresses: Box<[IpAddr]>,
    created: i64,
    pub(crate) is_local: bool,
}

/// A namespace, known by itself or by what is in it.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    /// None: its object is not known.
    labels: Option<Labels>,
    profiles: BTreeSet<Id<Profile>>,
    pub(crate) policies: BTreeMap<String, StoredPolicy>,
}

#[derive(Debug)]
pub(crate) struct StoredPolicy {
    pub(crate) policy: Policy,
    pub(crate) selects: Matcher,
}

/// An interface of a pod on this node.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) groups: PerDirection<Option<Id<Group>>>,
    pub(crate) states: PerDirection<IsolationState>,
}

/// Pods, namespaces, policies and interfaces, and the rules that follow.
#[derive(Debug, Default)]
pub struct Model {
    pub(crate) names: Names,
    pub(crate) namespaces: FxMap<Name, Namespace>,
    pub(crate) pods: Slab<Pod>,
    pod_index: HashTable<Id<Pod>>,
    pub(crate) profiles: Profiles,
    /// Who says that an address is its own.
    addresses: FxMap<IpAddr, Vec<Id<Pod>>>,
    pub(crate) interfaces: BTreeMap<String, Interface>,
    pub(crate) classes: PerDirection<Classes>,
    pub(crate) groups: PerDirection<Groups>,
    pub(crate) changes: Changes,
}

impl Model {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

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
            self.classify(profile, Direction::BOTH.to_vec());
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

    /// A policy is there, or says something else.
    pub fn put_policy(&mut self, policy: Policy) {
        let namespace = self.namespace_of(&policy.namespace);
        let selects = Matcher::new(&mut self.names, &policy.selects);
        let name = policy.name.clone();
        let stored = StoredPolicy { policy, selects };
        let Some(entry) = self.namespaces.get_mut(&namespace) else {
            return;
        };
        self.changes.namespaces |= entry.policies.is_empty();
        if let Some(old) = entry.policies.insert(name.clone(), stored) {
            old.selects.release(&mut self.names);
        }
        self.policy_changed(namespace, &name);
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
        self.policy_changed(id, name);
        self.drop_unused_namespace(namespace);
    }

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

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Names of all pods.
    pub fn pod_names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pods
            .iter()
            .map(|(_, pod)| (self.names.text(pod.namespace), &*pod.name))
    }

    /// Names of all namespaces whose objects are known.
    pub fn namespace_names(&self) -> impl Iterator<Item = &str> {
        let known = self.namespaces.iter().filter(|(_, entry)| entry.labels.is_some());
        known.map(|(name, _)| self.names.text(*name))
    }

    /// The addresses of a pod.
    #[must_use]
    pub fn addresses_of(&self, namespace: &str, name: &str) -> Option<&[IpAddr]> {
        self.pod(namespace, name).map(|pod| &*pod.addresses)
    }

    /// A policy.
    #[must_use]
    pub fn policy(&self, namespace: &str, name: &str) -> Option<&Policy> {
        let entry = self.namespaces.get(&self.names.find(namespace)?)?;
        entry.policies.get(name).map(|stored| &stored.policy)
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

    pub(crate) fn namespace_labels(&self, namespace: Name) -> Option<&[(Name, Name)]> {
        self.namespaces.get(&namespace)?.labels.as_deref()
    }
}

/// Pods.
impl Model {
    fn find_pod(&self, namespace: Name, name: &str) -> Option<Id<Pod>> {
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

    fn drop_unused_profile(&mut self, id: Id<Profile>) {
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

/// Namespaces.
impl Model {
    fn namespace_of(&mut self, name: &str) -> Name {
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

    fn drop_unused_namespace(&mut self, name: &str) {
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
        let profiles: Vec<_> = self
            .namespaces
            .get(&namespace)
            .map(|e| e.profiles.iter().copied().collect())
            .unwrap_or_default();
        for profile in profiles {
            self.classify(profile, Direction::BOTH.to_vec());
        }
    }
}

/// Classes.
impl Model {
    /// Finds the selectors that take a profile, from all of them.
    fn classify(&mut self, id: Id<Profile>, directions: Vec<Direction>) {
        for direction in directions {
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

    fn class_key(
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

    fn set_class(&mut self, direction: Direction, id: Id<Profile>, key: Option<ClassKey>) {
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

    /// Adds and removes selectors of profiles.
    fn reclassify(&mut self, direction: Direction, added: &[Id<Selector>], removed: &[Id<Selector>]) {
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
        if let crate::profile::NamespaceMatch::One(name) = &selector.spec.namespaces {
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

/// Groups.
impl Model {
    /// A policy came, changed or went: the groups of the pods here that it selects or selected.
    fn policy_changed(&mut self, namespace: Name, name: &str) {
        let profiles: Vec<_> = self
            .namespaces
            .get(&namespace)
            .map(|entry| entry.profiles.iter().copied().collect())
            .unwrap_or_default();
        for profile in profiles {
            self.assign_groups(profile);
        }
        for direction in Direction::BOTH {
            let groups = self.groups[direction].slab.iter();
            let with = groups.filter(|(_, group)| {
                group.key.namespace == namespace && group.key.policies.iter().any(|own| own == name)
            });
            let with: Vec<_> = with.map(|(id, _)| id).collect();
            for group in with {
                self.rebuild(direction, group);
            }
        }
        // Pods that are not known wait where there is a policy.
        let text = self.names.text(namespace);
        let waiting = self
            .interfaces
            .iter()
            .filter(|(_, interface)| interface.namespace == text);
        let waiting: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        for interface in waiting {
            self.refresh_interface(&interface);
        }
    }

    /// Finds what isolates the pods of a profile here.
    fn assign_groups(&mut self, id: Id<Profile>) {
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
                    self.replace_content(direction, group, crate::group::Content::default());
                    self.groups[direction].remove(group);
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

    /// Compiles a group's policies again.
    fn rebuild(&mut self, direction: Direction, id: Id<Group>) {
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
        // Names of ports stay known for as long as the process runs; there are few.
        let mut number = |text: &str| names.intern(text);
        let content = content_of(
            policies.map(|stored| &stored.policy),
            direction,
            &group.key.ports,
            &mut number,
        );
        self.replace_content(direction, id, content);
    }

    fn replace_content(&mut self, direction: Direction, id: Id<Group>, content: crate::group::Content) {
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
    fn leave_selector(
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

    /// What groups allow to a selector changed: its classes have other elements.
    fn selector_changed(&mut self, direction: Direction, selector: Id<Selector>) {
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
    fn count_names(&mut self, direction: Direction, changed: &[((Name, u8), bool)]) {
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
}

/// Interfaces.
impl Model {
    fn refresh_interfaces_of(&mut self, namespace: &str, pod: &str) {
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
    fn refresh_interface(&mut self, name: &str) {
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

    fn leave_group(&mut self, direction: Direction, group: Id<Group>, interface: &str) {
        if let Some(entry) = self.groups[direction].slab.get_mut(group) {
            entry.interfaces.remove(interface);
        }
        self.group_interfaces_changed(direction, group);
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

fn hash_of(namespace: Name, name: &str) -> u64 {
    use std::hash::{BuildHasher, Hash, Hasher};
    let mut hasher = rustc_hash::FxBuildHasher.build_hasher();
    namespace.hash(&mut hasher);
    name.hash(&mut hasher);
    hasher.finish()
}
