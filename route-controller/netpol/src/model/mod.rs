//! Everything that is known, and what follows from each event.
//!
//! An event changes what it concerns: a pod its profile, a profile its class and group, a policy the groups of the pods that it
//! selects. What changes in the kernel is collected in [`Changes`], by the names of objects; `desired` says how they should be.

mod classes;
mod groups;
mod interfaces;
mod namespaces;
mod pods;
mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hashbrown::HashTable;

use self::interfaces::Interface;
use self::namespaces::Namespace;
pub(crate) use self::pods::Pod;
pub use self::pods::PodInput;
use crate::class::Classes;
use crate::desired::Changes;
use crate::group::Groups;
use crate::names::{Name, Names};
use crate::policy::PerDirection;
use crate::profile::{FxMap, Profiles};
use crate::slab::{Id, Slab};

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
    /// Policies that were added, changed or removed and are not compiled yet, by namespace.
    changed_policies: BTreeMap<String, BTreeSet<String>>,
}

impl Model {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Compiles the policies that changed. Many changes in one namespace cost as much as one: a thousand policies that come at once
    /// are not compiled a thousand times.
    pub fn settle(&mut self) {
        for (namespace, policies) in std::mem::take(&mut self.changed_policies) {
            self.policies_changed(&namespace, &policies);
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        self.settle();
        std::mem::take(&mut self.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{LabelSelector, Policy, PortRule, Ports, Rule};

    fn pod() -> PodInput {
        PodInput {
            namespace: "x".into(),
            name: "a".into(),
            is_local: true,
            ..PodInput::default()
        }
    }

    /// A policy that isolates every pod of x, and lets it reach a port by name.
    fn to_port(policy: &str, port: &str) -> Policy {
        let ports = vec![PortRule::Named {
            protocol: 6,
            name: port.into(),
        }];
        Policy {
            namespace: "x".into(),
            name: policy.into(),
            selects: LabelSelector::default(),
            ingress: None,
            egress: Some(vec![Rule {
                peers: None,
                ports: Ports::Some(ports),
            }]),
        }
    }

    #[test]
    fn names_of_ports_go_with_the_policies_that_use_them() {
        let mut model = Model::new();
        model.put_pod(&pod());
        for number in 0..100 {
            model.put_policy(to_port("p", &format!("port-{number}")));
            model.take_changes();
            assert_eq!(model.names.len(), 2, "the namespace and one port");
        }
        model.remove_policy("x", "p");
        model.take_changes();
        assert_eq!(model.names.len(), 1);
    }

    #[test]
    fn policies_that_come_together_are_compiled_once() {
        let mut model = Model::new();
        model.put_pod(&pod());
        for number in 0..1000 {
            model.put_policy(to_port(&format!("p{number}"), "web"));
        }
        let changes = model.take_changes();
        assert_eq!(changes.groups.egress.len(), 1, "one group of a thousand policies");
        assert_eq!(model.groups.egress.slab.len(), 1);
    }
}
