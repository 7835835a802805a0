//! Classes: profiles that the same peers of this node's policies select. A packet's other end is known by its class.

use std::collections::BTreeSet;
use std::fmt;

use crate::group::{Group, UsedPorts};
use crate::names::{Name, Names, stable_hash};
use crate::policy::LabelSelector;
use crate::profile::{FxMap, FxSet, Matcher, NamespaceMatch, PeerSelector, PortName, Profile};
use crate::slab::{Id, Slab};

/// A class by what it is: the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassName(u32);

impl ClassName {
    /// A number other than 0.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// From its number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }
}

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What distinguishes classes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClassKey {
    /// Sorted.
    pub(crate) selectors: Vec<Id<Selector>>,
    /// Ports that egress rules call by name, as these pods have them.
    pub(crate) ports: Vec<PortName>,
}

#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) key: ClassKey,
    pub(crate) name: ClassName,
    pub(crate) profiles: FxSet<Id<Profile>>,
}

/// A peer that rules of this node use.
#[derive(Debug)]
pub(crate) struct Selector {
    pub(crate) spec: PeerSelector,
    namespaces: Option<Matcher>,
    pods: Matcher,
    /// Which groups allow it what.
    pub(crate) users: FxMap<Id<Group>, UsedPorts>,
    pub(crate) classes: BTreeSet<Id<Class>>,
}

impl Selector {
    pub(crate) fn takes_namespace(&self, name: &str, labels: Option<&[(Name, Name)]>) -> bool {
        match (&self.spec.namespaces, &self.namespaces) {
            (NamespaceMatch::Any, _) => true,
            (NamespaceMatch::One(own), _) => own == name,
            (NamespaceMatch::Labels(_), Some(matcher)) => {
                labels.is_some_and(|labels| matcher.matches(labels))
            }
            (NamespaceMatch::Labels(_), None) => false,
        }
    }

    pub(crate) fn takes_labels(&self, labels: &[(Name, Name)]) -> bool {
        self.pods.matches(labels)
    }
}

/// The selectors and classes of one direction.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    pub(crate) selectors: Slab<Selector>,
    by_spec: FxMap<PeerSelector, Id<Selector>>,
    pub(crate) slab: Slab<Class>,
    by_key: FxMap<ClassKey, Id<Class>>,
    by_name: FxMap<ClassName, Id<Class>>,
    /// Names of ports that rules use, with the number of uses.
    pub(crate) port_names: FxMap<(Name, u8), usize>,
}

impl Classes {
    /// The selector, and whether it is new.
    pub(crate) fn selector(&mut self, names: &mut Names, spec: &PeerSelector) -> (Id<Selector>, bool) {
        if let Some(id) = self.by_spec.get(spec) {
            return (*id, false);
        }
        let namespaces = match &spec.namespaces {
            NamespaceMatch::Labels(selector) => Some(Matcher::new(names, selector)),
            NamespaceMatch::Any | NamespaceMatch::One(_) => None,
        };
        let id = self.selectors.insert(Selector {
            spec: spec.clone(),
            namespaces,
            pods: Matcher::new(names, &spec.pods),
            users: FxMap::default(),
            classes: BTreeSet::new(),
        });
        self.by_spec.insert(spec.clone(), id);
        (id, true)
    }

    pub(crate) fn find_selector(&self, spec: &PeerSelector) -> Option<&Selector> {
        self.selectors.get(*self.by_spec.get(spec)?)
    }

    /// Forgets a selector that no group uses and that is in no class.
    pub(crate) fn remove_selector(&mut self, names: &mut Names, id: Id<Selector>) {
        if let Some(selector) = self.selectors.remove(id) {
            selector.pods.release(names);
            selector
                .namespaces
                .iter()
                .for_each(|matcher| matcher.release(names));
            self.by_spec.remove(&selector.spec);
        }
    }

    /// The class of a key, and whether it is new.
    pub(crate) fn intern(&mut self, names: &Names, key: ClassKey) -> (Id<Class>, bool) {
        if let Some(id) = self.by_key.get(&key) {
            return (*id, false);
        }
        let mut name = self.name(names, &key);
        while self.by_name.contains_key(&name) {
            name = ClassName(name.0.wrapping_add(1).max(1));
        }
        let id = self.slab.insert(Class {
            key: key.clone(),
            name,
            profiles: FxSet::default(),
        });
        for selector in &key.selectors {
            if let Some(selector) = self.selectors.get_mut(*selector) {
                selector.classes.insert(id);
            }
        }
        self.by_name.insert(name, id);
        self.by_key.insert(key, id);
        (id, true)
    }

    pub(crate) fn remove(&mut self, id: Id<Class>) {
        let Some(class) = self.slab.remove(id) else { return };
        for selector in &class.key.selectors {
            if let Some(selector) = self.selectors.get_mut(*selector) {
                selector.classes.remove(&id);
            }
        }
        self.by_name.remove(&class.name);
        self.by_key.remove(&class.key);
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = ClassName> {
        self.slab.iter().map(|(_, class)| class.name)
    }

    pub(crate) fn find(&self, name: ClassName) -> Option<&Class> {
        self.slab.get(*self.by_name.get(&name)?)
    }

    fn name(&self, names: &Names, key: &ClassKey) -> ClassName {
        let selectors = key.selectors.iter().filter_map(|id| self.selectors.get(*id));
        let mut parts: Vec<String> = selectors.map(|selector| text(&selector.spec)).collect();
        parts.sort_unstable();
        let ports = key.ports.iter();
        let mut ports: Vec<String> = ports
            .map(|(name, protocol, port)| format!("{}/{protocol}={port}", names.text(*name)))
            .collect();
        ports.sort_unstable();
        let hash = stable_hash(&format!("{}|{}", parts.join("\n"), ports.join(",")));
        let folded = u32::try_from((hash ^ hash >> 32) & u64::from(u32::MAX)).unwrap_or_default();
        ClassName(folded.max(1))
    }
}

/// A selector for people, and for names.
pub(crate) fn text(spec: &PeerSelector) -> String {
    let pods = selector_text(&spec.pods);
    match &spec.namespaces {
        NamespaceMatch::Any => format!("all namespaces, pods {pods}"),
        NamespaceMatch::One(name) => format!("namespace {name}, pods {pods}"),
        NamespaceMatch::Labels(selector) => format!("namespaces {}, pods {pods}", selector_text(selector)),
    }
}

fn selector_text(selector: &LabelSelector) -> String {
    use crate::policy::Operator;
    let parts = selector.requirements.iter().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.join("|"));
        match requirement.operator {
            Operator::In => format!("{key}={values}"),
            Operator::NotIn => format!("{key}!={values}"),
            Operator::Exists => key.clone(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    });
    let all: Vec<String> = parts.collect();
    if all.is_empty() {
        "all".to_owned()
    } else {
        all.join(",")
    }
}
