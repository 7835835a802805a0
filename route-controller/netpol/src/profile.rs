//! Profiles: pods of one namespace with equal labels and named ports, which no policy distinguishes; and selectors of peers, in numbers.

use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;

use crate::class::Class;
use crate::group::Group;
use crate::model::Pod;
use crate::names::{Name, Names};
use crate::policy::{LabelSelector, NamedPort, Operator, PerDirection};
use crate::slab::{Id, Slab};

pub(crate) type FxMap<K, V> = HashMap<K, V, FxBuildHasher>;
pub(crate) type FxSet<T> = HashSet<T, FxBuildHasher>;

/// A port's name, its protocol and its number.
pub(crate) type PortName = (Name, u8, u16);
pub(crate) type Labels = Box<[(Name, Name)]>;

/// What distinguishes profiles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ProfileKey {
    pub(crate) namespace: Name,
    /// Sorted by key.
    pub(crate) labels: Labels,
    pub(crate) ports: Box<[PortName]>,
}

impl ProfileKey {
    /// The number of a port of this pod that has a name; the first of several.
    pub(crate) fn port(&self, name: Name, protocol: u8) -> Option<u16> {
        let mut ports = self.ports.iter();
        ports
            .find(|port| port.0 == name && port.1 == protocol)
            .map(|port| port.2)
    }
}

/// A profile with its pods.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) key: ProfileKey,
    pub(crate) pods: FxSet<Id<Pod>>,
    /// How many of them are on this node.
    pub(crate) local: usize,
    /// By direction: what it is as the other end.
    pub(crate) classes: PerDirection<Option<Id<Class>>>,
    /// By direction: what isolates it; none where nothing does, or where none of its pods is here.
    pub(crate) groups: PerDirection<Option<Id<Group>>>,
}

/// All profiles.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    pub(crate) slab: Slab<Profile>,
    by_key: FxMap<ProfileKey, Id<Profile>>,
}

impl Profiles {
    /// The profile of these properties, and whether it is new. Texts of a new one are kept in use.
    pub(crate) fn intern(
        &mut self,
        names: &mut Names,
        namespace: Name,
        labels: &[(String, String)],
        ports: &[NamedPort],
    ) -> (Id<Profile>, bool) {
        let key = key_of(names, namespace, labels, ports);
        if let Some(id) = self.by_key.get(&key) {
            release(names, &key);
            return (*id, false);
        }
        let id = self.slab.insert(Profile {
            key: key.clone(),
            pods: FxSet::default(),
            local: 0,
            classes: PerDirection::default(),
            groups: PerDirection::default(),
        });
        self.by_key.insert(key, id);
        (id, true)
    }

    pub(crate) fn remove(&mut self, names: &mut Names, id: Id<Profile>) {
        if let Some(profile) = self.slab.remove(id) {
            self.by_key.remove(&profile.key);
            release(names, &profile.key);
        }
    }
}

fn key_of(
    names: &mut Names,
    namespace: Name,
    labels: &[(String, String)],
    ports: &[NamedPort],
) -> ProfileKey {
    let mut labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| (names.intern(key), names.intern(value)))
        .collect();
    labels.sort_unstable();
    let ports = ports
        .iter()
        .map(|port| (names.intern(&port.name), port.protocol, port.port));
    ProfileKey {
        namespace,
        labels: labels.into(),
        ports: ports.collect(),
    }
}

fn release(names: &mut Names, key: &ProfileKey) {
    for (label, value) in &key.labels {
        names.release(*label);
        names.release(*value);
    }
    key.ports.iter().for_each(|port| names.release(port.0));
}

/// Which namespaces' pods a peer selects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum NamespaceMatch {
    Any,
    One(String),
    Labels(LabelSelector),
}

/// A peer that selects pods, in one form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PeerSelector {
    pub(crate) namespaces: NamespaceMatch,
    pub(crate) pods: LabelSelector,
}

/// A label selector in numbers.
#[derive(Debug)]
pub(crate) struct Matcher(Vec<(Name, Operator, Vec<Name>)>);

impl Matcher {
    pub(crate) fn new(names: &mut Names, selector: &LabelSelector) -> Self {
        let requirements = selector.requirements.iter().map(|requirement| {
            let key = names.intern(&requirement.key);
            let values = requirement.values.iter().map(|value| names.intern(value));
            (key, requirement.operator, values.collect())
        });
        Self(requirements.collect())
    }

    pub(crate) fn matches(&self, labels: &[(Name, Name)]) -> bool {
        self.0.iter().all(|(key, operator, values)| {
            let found = labels.iter().find(|(label, _)| label == key);
            let is_listed = || found.is_some_and(|(_, value)| values.contains(value));
            match operator {
                Operator::In => is_listed(),
                Operator::NotIn => !is_listed(),
                Operator::Exists => found.is_some(),
                Operator::DoesNotExist => found.is_none(),
            }
        })
    }

    pub(crate) fn release(&self, names: &mut Names) {
        for (key, _, values) in &self.0 {
            names.release(*key);
            values.iter().for_each(|value| names.release(*value));
        }
    }
}

/// Labels of a pod or namespace that came from outside.
pub(crate) fn intern_labels(names: &mut Names, labels: &[(String, String)]) -> Labels {
    let mut labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| (names.intern(key), names.intern(value)))
        .collect();
    labels.sort_unstable();
    labels.into()
}
