//! The difference between model and kernel for some objects, in an order that the kernel takes: what is referred to is
//! added before and deleted after.

use std::collections::{HashMap, HashSet};

use podroute_netfilter::{Chain, Data, Element, SetSpec, Transaction};
use podroute_netpol::{Changes, ClassName, Direction, GroupName, Model};

use crate::element;
use crate::kernel::{Kernel, Key, Part, comment_of};
use crate::layout::{ClassPorts, Family, GroupSets, Object, TABLE, fixed_chains, fixed_sets, group_chain};

/// A step of a transaction.
#[derive(Debug)]
pub(crate) enum Step {
    /// The table, its fixed sets and chains.
    Base,
    AddSet(SetSpec),
    DeleteSet(String),
    AddChain(Chain),
    Rules(Chain),
    DeleteChain(String),
    AddElements(String, Vec<Element>),
    DeleteElements(String, Vec<Element>),
}

/// The steps to what is wanted.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    create: Vec<Step>,
    delete_elements: Vec<Step>,
    add_elements: Vec<Step>,
    rules: Vec<Step>,
    delete_chains: Vec<Step>,
    delete_sets: Vec<Step>,
    /// Something that was allowed may be forbidden now.
    pub(crate) restricts: bool,
}

impl Plan {
    pub(crate) fn new(model: &Model, kernel: &Kernel, changes: &Changes) -> Self {
        let mut plan = Self::default();
        if !kernel.has_base {
            plan.create.push(Step::Base);
        }
        for direction in Direction::BOTH {
            for name in &changes.classes[direction] {
                plan.class(model, kernel, direction, *name);
            }
            for name in &changes.groups[direction] {
                plan.group(model, kernel, direction, *name);
            }
            plan.addresses(model, kernel, direction, changes);
        }
        plan.interfaces(model, kernel, changes);
        plan
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps().next().is_none()
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        let all = [
            &self.create,
            &self.delete_elements,
            &self.add_elements,
            &self.rules,
            &self.delete_chains,
            &self.delete_sets,
        ];
        all.into_iter().flatten()
    }

    /// As a transaction; `replaces_table`: the table is deleted first.
    pub(crate) fn transaction(&self, replaces_table: bool) -> Transaction {
        let mut t = Transaction::new(TABLE);
        if replaces_table {
            t.add_table();
            t.delete_table();
        }
        for step in self.steps() {
            match step {
                Step::Base => add_base(&mut t),
                Step::AddSet(spec) => t.add_set(spec),
                Step::DeleteSet(name) => t.delete_set(name),
                Step::AddChain(chain) => t.add_chain(chain),
                Step::Rules(chain) => {
                    t.flush_chain(&chain.name);
                    t.add_rules(chain);
                }
                Step::DeleteChain(name) => {
                    t.flush_chain(name);
                    t.delete_chain(name);
                }
                Step::AddElements(set, elements) => t.add_elements(set, elements),
                Step::DeleteElements(set, elements) => t.delete_elements(set, elements),
            }
        }
        t
    }

    /// The kernel's state after it is in force.
    pub(crate) fn apply(self, kernel: &mut Kernel) {
        let parts = [
            self.create,
            self.delete_elements,
            self.add_elements,
            self.rules,
            self.delete_chains,
            self.delete_sets,
        ];
        parts.into_iter().flatten().for_each(|step| kernel.apply(step));
        if kernel.has_base {
            for set in fixed_sets() {
                kernel.sets.entry(Part::whole(&set.name())).or_default();
            }
        }
    }

    fn class(&mut self, model: &Model, kernel: &Kernel, direction: Direction, name: ClassName) {
        let elements = model.class_elements(direction, name).unwrap_or_default();
        for ports in ClassPorts::ALL {
            let part = Part {
                set: Object::Classes(direction, ports).name(),
                class: Some(name),
            };
            let of_kind = elements
                .iter()
                .filter(|element| ClassPorts::of(&element.ports) == ports);
            let wanted = of_kind.map(|element| element::of_class(name, element));
            self.elements(kernel, &part, wanted.collect());
        }
    }

    fn group(&mut self, model: &Model, kernel: &Kernel, direction: Direction, name: GroupName) {
        let chain = Object::GroupChain(direction, name);
        let any = Object::GroupAny(direction, name);
        let blocks = Family::BOTH.map(|family| Object::GroupBlocks(direction, name, family));
        let Some(rules) = model.group_rules(direction, name) else {
            self.delete(kernel, &chain, true);
            self.delete(kernel, &any, false);
            blocks.iter().for_each(|set| self.delete(kernel, set, false));
            return;
        };
        let everybody: Vec<Element> = rules
            .any
            .ranges()
            .iter()
            .map(|ports| element::of_ports(*ports))
            .collect();
        let of_family = |is_v4: bool| -> Vec<Element> {
            let of = rules
                .blocks
                .iter()
                .filter(|(range, _)| range.first.is_ipv4() == is_v4);
            of.flat_map(|(range, ports)| {
                ports
                    .ranges()
                    .iter()
                    .map(|ports| element::of_block(*range, *ports))
            })
            .collect()
        };
        let (v4, v6) = (of_family(true), of_family(false));
        let has = GroupSets {
            any: !everybody.is_empty(),
            v4: !v4.is_empty(),
            v6: !v6.is_empty(),
        };
        self.chain(kernel, group_chain(direction, name, &has, &rules.namespace));
        for (object, elements) in [(any, everybody)]
            .into_iter()
            .chain(blocks.into_iter().zip([v4, v6]))
        {
            if elements.is_empty() {
                self.delete(kernel, &object, false);
            } else {
                let part = Part::whole(&object.name());
                if !kernel.sets.contains_key(&part)
                    && let Some(spec) = object.set()
                {
                    self.create.push(Step::AddSet(spec));
                }
                self.elements(kernel, &part, elements);
            }
        }
    }

    fn addresses(&mut self, model: &Model, kernel: &Kernel, direction: Direction, changes: &Changes) {
        for family in Family::BOTH {
            let set = Object::Addresses(direction, family).name();
            let of_family = changes
                .addresses
                .iter()
                .filter(|address| address.is_ipv4() == (family == Family::V4));
            let (mut added, mut deleted) = (Vec::new(), Vec::new());
            let known = kernel.sets.get(&Part::whole(&set));
            for address in of_family {
                let wanted = model.class_of(direction, *address);
                let wanted = wanted.map(|class| element::of_address(*address, class));
                let key = (octets(*address), Vec::new());
                compare(known, key, wanted, &mut added, &mut deleted);
            }
            self.change(set, added, deleted);
        }
    }

    fn interfaces(&mut self, model: &Model, kernel: &Kernel, changes: &Changes) {
        for direction in Direction::BOTH {
            let set = Object::Interfaces(direction).name();
            let (mut added, mut deleted) = (Vec::new(), Vec::new());
            let known = kernel.sets.get(&Part::whole(&set));
            for name in &changes.interfaces {
                let rules = model.interface_rules(name);
                let wanted =
                    rules.and_then(|rules| element::of_interface(direction, name, rules.state(direction)));
                let key = (element::of_itself(name).key.split_at(16).0.to_vec(), Vec::new());
                compare(known, key, wanted, &mut added, &mut deleted);
            }
            self.restricts |= !added.is_empty();
            self.change(set, added, deleted);
        }
        let (mut added, mut deleted) = (Vec::new(), Vec::new());
        let known = kernel.sets.get(&Part::whole(&Object::Itself.name()));
        for name in &changes.interfaces {
            let itself = element::of_itself(name);
            let key = (itself.key.clone(), Vec::new());
            let wanted = model.interface_rules(name).map(|_| itself);
            compare(known, key, wanted, &mut added, &mut deleted);
        }
        self.change(Object::Itself.name(), added, deleted);
    }

    /// A set, or a part of one, that should have these elements.
    fn elements(&mut self, kernel: &Kernel, part: &Part, wanted: Vec<Element>) {
        let known = kernel.sets.get(part);
        let has = |element: &Element| {
            let found = known.and_then(|known| known.get(&(element.key.clone(), element.key_end.clone())));
            found == Some(&element.data)
        };
        let added: Vec<Element> = wanted.iter().filter(|element| !has(element)).cloned().collect();
        let wanted: HashSet<(&[u8], &[u8])> = wanted
            .iter()
            .map(|e| (e.key.as_slice(), e.key_end.as_slice()))
            .collect();
        let superfluous = known
            .into_iter()
            .flatten()
            .filter(|((key, end), _)| !wanted.contains(&(key.as_slice(), end.as_slice())));
        let deleted: Vec<Element> = superfluous
            .map(|(key, data)| with_key(key.clone(), data.clone()))
            .collect();
        self.change(part.set.clone(), added, deleted);
    }

    fn change(&mut self, set: String, added: Vec<Element>, deleted: Vec<Element>) {
        if !deleted.is_empty() {
            self.restricts = true;
            self.delete_elements
                .push(Step::DeleteElements(set.clone(), deleted));
        }
        if !added.is_empty() {
            self.add_elements.push(Step::AddElements(set, added));
        }
    }

    fn chain(&mut self, kernel: &Kernel, chain: Chain) {
        let known = kernel.chains.get(&chain.name);
        if known.is_none() {
            self.create.push(Step::AddChain(chain.clone()));
        }
        if known != Some(&comment_of(&chain)) {
            self.rules.push(Step::Rules(chain));
        }
    }

    fn delete(&mut self, kernel: &Kernel, object: &Object, has_chain: bool) {
        let name = object.name();
        if has_chain && kernel.chains.contains_key(&name) {
            self.delete_chains.push(Step::DeleteChain(name.clone()));
        }
        if kernel.sets.contains_key(&Part::whole(&name)) {
            self.restricts = true;
            self.delete_sets.push(Step::DeleteSet(name));
        }
    }
}

/// One element of a map or set that should be this.
fn compare(
    known: Option<&HashMap<Key, Data>>,
    key: Key,
    wanted: Option<Element>,
    added: &mut Vec<Element>,
    deleted: &mut Vec<Element>,
) {
    let known = known.and_then(|known| known.get(&key));
    if known == wanted.as_ref().map(|element| &element.data) {
        return;
    }
    deleted.extend(known.map(|data| with_key(key, data.clone())));
    added.extend(wanted);
}

fn with_key((key, key_end): Key, data: Data) -> Element {
    Element { key, key_end, data }
}

fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn add_base(t: &mut Transaction) {
    t.add_table();
    for spec in fixed_sets().iter().filter_map(Object::set) {
        t.add_set(&spec);
    }
    for chain in fixed_chains() {
        t.add_chain(&chain);
        t.flush_chain(&chain.name);
        t.add_rules(&chain);
    }
}
