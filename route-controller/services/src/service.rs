//! A Service as the allocator sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use bgp_proto::types::Family;

use crate::pool::Labels;
use crate::request::Request;

/// Namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a Service wants of the allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Wants {
    /// It is of type LoadBalancer.
    #[default]
    Addresses,
    /// It is of another type; what its status has is released.
    Nothing,
    /// It is being deleted: it keeps what it has until it is gone.
    Deleted,
}

/// `ipFamilyPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FamilyPolicy {
    /// One family.
    #[default]
    Single,
    /// Two where there are.
    PreferDual,
    /// Two or none.
    RequireDual,
}

/// Families that the Service has, the first one first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Families {
    /// `ipFamilies`.
    pub list: Vec<Family>,
    /// `ipFamilyPolicy`.
    pub policy: FamilyPolicy,
}

/// A port with its protocol, as `TCP`.
pub type Port = (String, u16);

/// What is sent to its addresses, and where that goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Its ports.
    pub ports: BTreeSet<Port>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// `selector`.
    pub backends: Labels,
}

/// A Service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// What it wants.
    pub wants: Wants,
    /// Its labels.
    pub labels: Labels,
    /// When it was created, in seconds; older ones come first.
    pub created: i64,
    /// `loadBalancerClass`.
    pub class: Option<String>,
    /// Its families.
    pub families: Families,
    /// What shares an address, and what not.
    pub traffic: Traffic,
    /// What it asks for.
    pub request: Request,
    /// The addresses in its status.
    pub held: Vec<IpAddr>,
    /// Addresses that are being written there.
    pub reserved: Option<Vec<IpAddr>>,
}

/// Why two Services do not share an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ShareConflict {
    /// One of them has no sharing key.
    NoKey,
    /// They have different ones.
    OtherKey,
    /// Both have this port.
    SamePort(Port),
    /// One has the policy Local, and their pods differ.
    OtherBackends,
}

impl fmt::Display for ShareConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("give both the same annotation podroute/share to share it, or ask for another address"),
            Self::OtherKey => f.write_str("their annotations podroute/share differ; give both the same one"),
            Self::SamePort((protocol, port)) => {
                write!(f, "both have port {port}/{protocol}; use another port, or another address")
            }
            Self::OtherBackends => f.write_str(
                "with externalTrafficPolicy Local both must be in one namespace and select the same pods; use the policy Cluster for both",
            ),
        }
    }
}

impl Service {
    /// Families that it has addresses of.
    #[must_use]
    pub fn wanted_families(&self) -> &[Family] {
        let list = self.families.list.as_slice();
        match self.families.policy {
            FamilyPolicy::Single => list.get(..1).unwrap_or(list),
            FamilyPolicy::PreferDual | FamilyPolicy::RequireDual => list,
        }
    }

    /// Whether both may have one address.
    ///
    /// # Errors
    /// Why not.
    pub fn shares_with(&self, own: &Key, other: &Self, others: &Key) -> Result<(), ShareConflict> {
        match (&self.request.share, &other.request.share) {
            (Some(key), Some(of_other)) if key == of_other => {}
            (Some(_), Some(_)) => return Err(ShareConflict::OtherKey),
            _ => return Err(ShareConflict::NoKey),
        }
        if let Some(port) = self.traffic.ports.intersection(&other.traffic.ports).next() {
            return Err(ShareConflict::SamePort(port.clone()));
        }
        let has_same_pods = own.namespace == others.namespace
            && !self.traffic.backends.is_empty()
            && self.traffic.backends == other.traffic.backends;
        if (self.traffic.local || other.traffic.local) && !has_same_pods {
            return Err(ShareConflict::OtherBackends);
        }
        Ok(())
    }
}
