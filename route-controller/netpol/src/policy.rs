//! A network policy as written, in this crate's types (networking.k8s.io/v1).

use ipnet::IpNet;

/// Which packets of a pod: those that it sends, or those that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub namespace: String,
    pub name: String,
    /// Which pods of its namespace it isolates.
    pub selects: LabelSelector,
    /// None: it says nothing of the direction. Empty: nothing is allowed.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// Its rules of a direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One of the rules of a direction: any of its peers at any of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// None: everybody.
    pub peers: Option<Vec<Peer>>,
    pub ports: Ports,
}

/// The ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All ports of all protocols.
    All,
    Some(Vec<PortRule>),
}

/// Ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRule {
    Range {
        protocol: u8,
        from: u16,
        to: u16,
    },
    /// The port that the pod at the receiving end calls so.
    Named {
        protocol: u8,
        name: String,
    },
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Pods {
        /// None: the policy's own namespace.
        namespaces: Option<LabelSelector>,
        /// None: all pods.
        pods: Option<LabelSelector>,
    },
    Block {
        cidr: IpNet,
        except: Vec<IpNet>,
    },
}

/// A selector of labels; empty: everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

/// One of a selector's conditions, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Of `In` and `NotIn`.
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    In,
    /// Holds also where the label is missing.
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Labels as a sorted list.
    pub(crate) fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = label(&requirement.key);
            let is_listed = |value: &str| requirement.values.iter().any(|own| own == value);
            match requirement.operator {
                Operator::In => value.is_some_and(is_listed),
                Operator::NotIn => !value.is_some_and(is_listed),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }

    /// The same in one form: equal selectors are equal values.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        for requirement in &mut self.requirements {
            requirement.values.sort_unstable();
            requirement.values.dedup();
        }
        self.requirements.sort_unstable();
        self.requirements.dedup();
        self
    }
}

/// A container's port that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    pub name: String,
    pub protocol: u8,
    pub port: u16,
}

/// A value for each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PerDirection<T> {
    pub ingress: T,
    pub egress: T,
}

impl<T> PerDirection<T> {
    #[must_use]
    pub fn of(make: impl Fn(Direction) -> T) -> Self {
        Self {
            ingress: make(Direction::Ingress),
            egress: make(Direction::Egress),
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        [&self.ingress, &self.egress].into_iter()
    }
}

impl<T> std::ops::Index<Direction> for PerDirection<T> {
    type Output = T;

    fn index(&self, direction: Direction) -> &T {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl<T> std::ops::IndexMut<Direction> for PerDirection<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}
