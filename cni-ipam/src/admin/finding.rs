//! What `podroute ipam check` finds.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

/// An inconsistency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Finding {
    /// An ADD was killed and no DEL followed. Repaired by undoing it.
    Unfinished { container: String, ifname: String },
    /// The pod's network namespace is gone and no DEL followed. Repaired by releasing its addresses.
    DeadPod {
        container: String,
        ifname: String,
        addresses: Vec<IpAddr>,
    },
    /// The pod's network namespace cannot be seen from here, so whether the pod runs is unknown. Not repaired.
    UnseenPod {
        container: String,
        ifname: String,
        netns: String,
    },
    /// An address is claimed for an attachment that has no record. Repaired by releasing it.
    OwnerlessClaim {
        address: IpAddr,
        container: String,
        ifname: String,
    },
    /// An interface of podroute-cni has no record. Repaired by removing it.
    StrayInterface { name: String, alias: String },
    /// A pod's address has no claim. Repaired by claiming it.
    UnclaimedAddress {
        address: IpAddr,
        container: String,
        ifname: String,
    },
    /// Two pods were recorded with one address. Not repaired: delete one of the pods.
    SharedAddress {
        address: IpAddr,
        container: String,
        other: String,
    },
    /// A running pod's host interface is gone. Not repaired: delete the pod.
    LostInterface {
        container: String,
        ifname: String,
        name: String,
    },
    /// Another difference between a running pod's wiring and its record. Not repaired: delete the pod.
    Different {
        container: String,
        ifname: String,
        what: String,
    },
    /// A pod's entries in the nftables table are missing. Repaired by restoring them.
    LostRules {
        container: String,
        ifname: String,
        what: String,
    },
    /// The chain of the source address check is missing. Repaired by adding it.
    NoSourceCheck,
    /// An attachment cannot be checked. Not repaired.
    NotChecked {
        container: String,
        ifname: String,
        cause: String,
    },
    /// The nftables table contains a pod that is gone. Repaired by removing its entries.
    StaleEgress { container: String, ifname: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished { container, ifname } => {
                write!(
                    f,
                    "{container} {ifname}: its ADD did not finish and no DEL followed"
                )
            }
            Self::DeadPod {
                container,
                ifname,
                addresses,
            } => {
                let held: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                write!(
                    f,
                    "{container} {ifname}: its network namespace is gone but it holds {}",
                    held.join(", ")
                )
            }
            Self::UnseenPod {
                container,
                ifname,
                netns,
            } => {
                write!(
                    f,
                    "{container} {ifname}: its network namespace {netns} cannot be seen from here; run this on the node, or \
                     mount its directory with HostToContainer propagation"
                )
            }
            Self::OwnerlessClaim {
                address,
                container,
                ifname,
            } => {
                write!(
                    f,
                    "{address}: claimed for {container} {ifname}, which has no record"
                )
            }
            Self::StrayInterface { name, alias } => write!(f, "interface {name} ({alias}): has no record"),
            Self::UnclaimedAddress {
                address,
                container,
                ifname,
            } => {
                write!(
                    f,
                    "{address}: used by {container} {ifname} but not claimed for it"
                )
            }
            Self::SharedAddress {
                address,
                container,
                other,
            } => {
                write!(
                    f,
                    "{address}: used by {container} but claimed for {other}; delete one of the pods"
                )
            }
            Self::LostInterface {
                container,
                ifname,
                name,
            } => {
                write!(
                    f,
                    "{container} {ifname}: its host interface {name} is gone; delete the pod"
                )
            }
            Self::Different {
                container,
                ifname,
                what,
            }
            | Self::LostRules {
                container,
                ifname,
                what,
            } => write!(f, "{container} {ifname}: {what}"),
            Self::NoSourceCheck => {
                write!(
                    f,
                    "the chain sources of the nftables table podroute-cni is gone or changed: source addresses of pods are not checked"
                )
            }
            Self::NotChecked {
                container,
                ifname,
                cause,
            } => write!(f, "{container} {ifname}: cannot be checked: {cause}"),
            Self::StaleEgress { container, ifname } => {
                write!(
                    f,
                    "{container} {ifname}: the pod is gone but still in the nftables table"
                )
            }
        }
    }
}
