//! From pods, namespaces and network policies to the rules of one node (networking.k8s.io/v1 NetworkPolicy). Pure: no clock, no
//! kernel, no Kubernetes client.
//!
//! | module | holds |
//! |---|---|
//! | `policy` | a policy as written: selectors, peers, ports |
//! | `ports` | sets of protocols and ports |
//! | `blocks` | addresses that `ipBlock` peers allow |
//! | `names` | texts as numbers |
//! | `profile` | pods that no policy distinguishes, and which selectors take them |
//! | `model` | everything that is known; takes one event at a time |
//! | `class` | profiles that the same peers select: what a packet's other end is |
//! | `group` | what one set of policies allows to the pods that they select |
//! | `desired` | the rules, by object, and which objects changed |
//! | `explain` | why a packet passes or does not |
//!
//! A packet's pod is found by its interface, its other end by its address. The address gives a *class*; the pair of class
//! and interface gives the ports. So an event of a pod elsewhere changes one element for each direction, whatever the
//! number of policies, and a packet costs the same with one policy and with a thousand.

mod blocks;
mod class;
mod desired;
mod explain;
mod group;
mod model;
mod names;
mod policy;
mod ports;
mod profile;
mod slab;

pub use blocks::AddressRange;
pub use class::ClassName;
pub use desired::{Changes, ClassElement, GroupRules, InterfaceRules, IsolationState};
pub use explain::{DirectionReport, EndReport, Explanation, PolicyReport};
pub use group::GroupName;
pub use model::{Model, PodInput};
pub use policy::{
    Direction, LabelSelector, NamedPort, Operator, Peer, PerDirection, Policy, PortRule, Ports, Requirement,
    Rule,
};
pub use ports::{PortRange, PortSet};
