//! Whose an address is: a pod of this node, a Service, a node. Pure.

use std::fmt;
use std::net::IpAddr;

use bgp_proto::types::Prefix;
use cni_ipam::AttachmentInfo;
use podroute_config::{ClusterFacts, ServiceAddress};
use serde::{Deserialize, Serialize};

/// What is known of addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Pods of this node.
    pub(crate) pods: Vec<AttachmentInfo>,
    /// What Kubernetes says.
    pub(crate) cluster: ClusterFacts,
    /// The host's own addresses.
    pub(crate) own: Vec<IpAddr>,
    /// This node's pod blocks.
    pub(crate) blocks: Vec<Prefix>,
}

/// Whose an address is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(crate) enum Owner {
    /// A pod of this node.
    #[serde(rename_all = "camelCase")]
    Pod { name: String, interface: String },
    /// This host.
    Host,
    /// In a block of this node, and no pod has it.
    #[serde(rename_all = "camelCase")]
    FreeInBlock { block: String },
    /// A Service.
    #[serde(rename_all = "camelCase")]
    Service { name: String, address_kind: String },
    /// Another node's own address.
    Node { name: String },
    /// In a pod block of another node.
    #[serde(rename_all = "camelCase")]
    NodeBlock { node: String, block: String },
    /// Nobody that is known here.
    Unknown,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { name, interface } => write!(f, "pod {name} of this node, interface {interface}"),
            Self::Host => f.write_str("this node"),
            Self::FreeInBlock { block } => {
                write!(f, "in this node's block {block}, and no pod of this node has it")
            }
            Self::Service { name, address_kind } => write!(f, "Service {name} ({address_kind})"),
            Self::Node { name } => write!(f, "node {name}"),
            Self::NodeBlock { node, block } => write!(f, "a pod address of node {node} (block {block})"),
            Self::Unknown => f.write_str("neither a pod of this node nor known of a Service or node"),
        }
    }
}

impl Known {
    /// Whose an address is.
    pub(crate) fn owner(&self, address: IpAddr) -> Owner {
        if let Some(pod) = self.pods.iter().find(|pod| pod.addresses.contains(&address)) {
            return Owner::Pod {
                name: pod_name(pod).to_owned(),
                interface: pod.host_interface.clone(),
            };
        }
        if self.own.contains(&address) {
            return Owner::Host;
        }
        if let Some(block) = self.blocks.iter().find(|block| block.contains_addr(address)) {
            return Owner::FreeInBlock {
                block: block.to_string(),
            };
        }
        let service = self.cluster.services.iter().find_map(|(name, service)| {
            let found = service.addresses.iter().find(|(_, known)| *known == address);
            found.map(|(kind, _)| Owner::Service {
                name: name.clone(),
                address_kind: kind_name(*kind).to_owned(),
            })
        });
        service
            .or_else(|| self.node_of(address))
            .unwrap_or(Owner::Unknown)
    }

    /// The addresses of a pod of this node, a node or a Service, by name.
    pub(crate) fn addresses_of(&self, name: &str) -> Vec<IpAddr> {
        let is_it = |pod: &&AttachmentInfo| pod.pod == name || pod.container == name;
        if let Some(pod) = self.pods.iter().find(is_it) {
            return pod.addresses.clone();
        }
        if let Some(node) = self.cluster.nodes.get(name) {
            return node.addresses.clone();
        }
        let service = self.cluster.services.get(name);
        let addresses = service.map(|service| &service.addresses);
        addresses
            .into_iter()
            .flatten()
            .map(|(_, address)| *address)
            .collect()
    }

    fn node_of(&self, address: IpAddr) -> Option<Owner> {
        self.cluster.nodes.iter().find_map(|(name, node)| {
            if node.addresses.contains(&address) {
                return Some(Owner::Node { name: name.clone() });
            }
            let block = node.blocks.iter().find(|block| block.contains_addr(address))?;
            Some(Owner::NodeBlock {
                node: name.clone(),
                block: block.to_string(),
            })
        })
    }
}

/// `namespace/name`, or the container of another runtime.
pub(crate) fn pod_name(pod: &AttachmentInfo) -> &str {
    if pod.pod.is_empty() {
        &pod.container
    } else {
        &pod.pod
    }
}

fn kind_name(kind: ServiceAddress) -> &'static str {
    match kind {
        ServiceAddress::LoadBalancer => "loadBalancer",
        ServiceAddress::External => "external",
        ServiceAddress::Cluster => "cluster",
    }
}

#[cfg(test)]
mod tests {
    use podroute_config::{NodeFact, ServiceFact};

    use super::*;

    fn known() -> Known {
        let node = NodeFact {
            addresses: vec!["192.0.2.12".parse().unwrap()],
            blocks: vec!["10.244.2.0/24".parse().unwrap()],
            ..NodeFact::default()
        };
        let service = ServiceFact {
            addresses: vec![(ServiceAddress::LoadBalancer, "203.0.113.5".parse().unwrap())],
            ..ServiceFact::default()
        };
        Known {
            pods: Vec::new(),
            cluster: ClusterFacts {
                nodes: [("node-2".to_owned(), node)].into(),
                services: [("default/web".to_owned(), service)].into(),
            },
            own: vec!["192.0.2.11".parse().unwrap()],
            blocks: vec!["10.244.1.0/24".parse().unwrap()],
        }
    }

    #[test]
    fn an_address_has_one_owner() {
        let known = known();
        let owner = |address: &str| known.owner(address.parse().unwrap()).to_string();
        assert_eq!(owner("192.0.2.11"), "this node");
        assert!(owner("10.244.1.9").contains("block 10.244.1.0/24, and no pod"));
        assert_eq!(
            owner("10.244.2.9"),
            "a pod address of node node-2 (block 10.244.2.0/24)"
        );
        assert_eq!(owner("192.0.2.12"), "node node-2");
        assert_eq!(owner("203.0.113.5"), "Service default/web (loadBalancer)");
        assert!(owner("8.8.8.8").starts_with("neither"));
        assert_eq!(
            known.addresses_of("node-2"),
            ["192.0.2.12".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            known.addresses_of("default/web"),
            ["203.0.113.5".parse::<IpAddr>().unwrap()]
        );
        assert!(known.addresses_of("nobody").is_empty());
    }
}
