//! What the table holds: as listed, and as changed since.

use std::collections::{BTreeMap, HashMap};

use podroute_netfilter::{Data, Element, Notification, TableListing};
use podroute_netpol::{Changes, ClassName};

use crate::element::{address_of, class_of, interface_of};
use crate::layout::{Object, fixed_chains};
use crate::plan::Step;

/// First and last key.
pub(crate) type Key = (Vec<u8>, Vec<u8>);

/// A set, or of the sets of all classes the part of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) set: String,
    pub(crate) class: Option<ClassName>,
}

impl Part {
    pub(crate) fn whole(set: &str) -> Self {
        Self {
            set: set.to_owned(),
            class: None,
        }
    }

    /// Where the elements of a set belong.
    fn sorter(set: &str) -> impl Fn(&[u8]) -> Self + use<> {
        let is_of_classes = matches!(Object::parse(set), Some(Object::Classes(..)));
        let set = set.to_owned();
        move |key| Self {
            set: set.clone(),
            class: if is_of_classes { class_of(key) } else { None },
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Kernel {
    /// The table is there with its fixed sets and chains.
    pub(crate) has_base: bool,
    /// Chains of groups and classes, with the comment of their rules.
    pub(crate) chains: BTreeMap<String, String>,
    pub(crate) sets: HashMap<Part, HashMap<Key, Data>>,
}

impl Kernel {
    /// From a listing; none where something in the table cannot be used, and all of it has to be made again.
    pub(crate) fn of(listing: TableListing) -> Option<Self> {
        if !listing.other_sets.is_empty() {
            return None;
        }
        let mut kernel = Self::default();
        let fixed = fixed_chains();
        kernel.has_base = fixed.iter().all(|chain| {
            let comments = listing.chains.get(&chain.name);
            comments.is_some_and(|found| *found == vec![chain.comment(); chain.rules.len()])
        });
        let has_sets = crate::layout::fixed_sets()
            .iter()
            .all(|set| listing.sets.contains(&set.name()));
        kernel.has_base &= has_sets;
        for (name, comments) in listing.chains {
            if Object::parse(&name).is_some() {
                // The number of rules is part of what the comment stands for.
                let first = comments.first().cloned().unwrap_or_default();
                let is_whole = comments.iter().all(|comment| *comment == first);
                let text = if is_whole {
                    format!("{first} {}", comments.len())
                } else {
                    String::new()
                };
                kernel.chains.insert(name, text);
            }
        }
        for name in listing.sets {
            kernel.sets.entry(Part::whole(&name)).or_default();
            let sorter = Part::sorter(&name);
            for element in listing.elements.get(&name).into_iter().flatten() {
                let part = kernel.sets.entry(sorter(&element.key)).or_default();
                part.insert(key_of(element), element.data.clone());
            }
        }
        Some(kernel)
    }

    /// Takes in what was brought into force.
    pub(crate) fn apply(&mut self, step: Step) {
        match step {
            Step::Base => self.has_base = true,
            Step::AddSet(spec) => drop(self.sets.insert(Part::whole(&spec.name), HashMap::new())),
            Step::DeleteSet(name) => drop(self.sets.remove(&Part::whole(&name))),
            Step::AddChain(chain) => drop(self.chains.insert(chain.name, String::new())),
            Step::Rules(chain) => drop(self.chains.insert(chain.name.clone(), comment_of(&chain))),
            Step::DeleteChain(name) => drop(self.chains.remove(&name)),
            Step::AddElements(set, elements) => {
                let sorter = Part::sorter(&set);
                for element in elements {
                    let part = self.sets.entry(sorter(&element.key)).or_default();
                    part.insert((element.key, element.key_end), element.data);
                }
            }
            Step::DeleteElements(set, elements) => {
                let sorter = Part::sorter(&set);
                for element in elements {
                    let name = sorter(&element.key);
                    let Some(part) = self.sets.get_mut(&name) else {
                        continue;
                    };
                    part.remove(&(element.key, element.key_end));
                    if part.is_empty() && name.class.is_some() {
                        self.sets.remove(&name);
                    }
                }
            }
        }
    }

    /// Takes in what another program did; what it concerns is to be looked at. False: the table must be listed.
    pub(crate) fn notice(&mut self, notification: Notification, changes: &mut Changes) -> bool {
        let (set, element, is_added) = match notification {
            Notification::ElementAdded { set, element } => (set, element, true),
            Notification::ElementDeleted { set, element } => (set, element, false),
            Notification::Other | Notification::Lost => return false,
        };
        let Some(object) = Object::parse(&set) else {
            return true; // a set of another's in our table
        };
        mark(&object, Some(&element.key), changes);
        if !self.sets.contains_key(&Part::whole(&set)) {
            return false;
        }
        let part = self.sets.entry(Part::sorter(&set)(&element.key)).or_default();
        if is_added {
            part.insert(key_of(&element), element.data);
        } else {
            part.remove(&key_of(&element));
        }
        true
    }

    /// All that is there is to be looked at.
    pub(crate) fn everything(&self) -> Changes {
        let mut changes = Changes::default();
        for name in self.chains.keys() {
            if let Some(object) = Object::parse(name) {
                mark(&object, None, &mut changes);
            }
        }
        for (part, elements) in &self.sets {
            let Some(object) = Object::parse(&part.set) else {
                continue;
            };
            mark(&object, None, &mut changes);
            for (key, _) in elements.keys() {
                mark(&object, Some(key), &mut changes);
            }
        }
        changes
    }
}

/// The object, or the element's part of it, is to be looked at.
fn mark(object: &Object, key: Option<&Vec<u8>>, changes: &mut Changes) {
    match object {
        Object::Interfaces(_) | Object::Itself => {
            changes.interfaces.extend(key.and_then(|key| interface_of(key)))
        }
        Object::Addresses(..) => changes.addresses.extend(key.and_then(|key| address_of(key))),
        Object::Classes(direction, _) => {
            changes.classes[*direction].extend(key.and_then(|key| class_of(key)));
        }
        Object::GroupChain(direction, name)
        | Object::GroupAny(direction, name)
        | Object::GroupBlocks(direction, name, _) => {
            changes.groups[*direction].insert(*name);
        }
    }
}

/// The text that a listing of the chain's rules gives.
pub(crate) fn comment_of(chain: &podroute_netfilter::Chain) -> String {
    format!("{} {}", chain.comment(), chain.rules.len())
}

fn key_of(element: &Element) -> Key {
    (element.key.clone(), element.key_end.clone())
}
