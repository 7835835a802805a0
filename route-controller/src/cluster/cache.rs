//! The last facts in the run directory: a start while the API server is away begins with them.
//!
//! A file that cannot be read counts as none: the agent then waits for the API server.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bgp_proto::types::{Family, FamilySet};
use podroute_config::{ClusterFacts, NodeFact, ServiceAddress, ServiceFact};
use serde::{Deserialize, Serialize};

use crate::whole_file;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    nodes: BTreeMap<String, NodeEntry>,
    services: BTreeMap<String, ServiceEntry>,
}

#[derive(Serialize, Deserialize)]
struct NodeEntry {
    #[serde(default)]
    uid: String,
    labels: BTreeMap<String, String>,
    blocks: Vec<String>,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    draining: bool,
    #[serde(default)]
    asn: Option<String>,
    #[serde(default)]
    peers: Option<String>,
    #[serde(default)]
    router_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ServiceEntry {
    labels: BTreeMap<String, String>,
    balanced: Vec<IpAddr>,
    external: Vec<IpAddr>,
    cluster: Vec<IpAddr>,
    #[serde(default)]
    load_balancer: bool,
    class: Option<String>,
    external_local: bool,
    internal_local: bool,
    /// By family: IPv4, IPv6.
    here: [bool; 2],
    anywhere: [bool; 2],
}

const VERSION: u32 = 2;

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("cluster.json")
}

/// The facts of the previous run.
pub(crate) fn read(run_dir: &Path) -> Option<ClusterFacts> {
    let text = std::fs::read(path(run_dir)).ok()?;
    let file: File = serde_json::from_slice(&text)
        .ok()
        .filter(|file: &File| file.version == VERSION)?;
    Some(ClusterFacts {
        nodes: file
            .nodes
            .into_iter()
            .map(|(name, entry)| (name, entry.into()))
            .collect(),
        services: file
            .services
            .into_iter()
            .map(|(name, entry)| (name, entry.into()))
            .collect(),
    })
}

/// Keeps the facts, whole or not at all.
pub(crate) fn write(run_dir: &Path, facts: &ClusterFacts) -> io::Result<()> {
    let file = File {
        version: VERSION,
        nodes: facts
            .nodes
            .iter()
            .map(|(name, fact)| (name.clone(), fact.into()))
            .collect(),
        services: facts
            .services
            .iter()
            .map(|(name, fact)| (name.clone(), fact.into()))
            .collect(),
    };
    whole_file::replace(&path(run_dir), &serde_json::to_vec(&file)?)
}

fn families(flags: [bool; 2]) -> FamilySet {
    let all = Family::ALL.into_iter().zip(flags);
    all.filter_map(|(family, there)| there.then_some(family))
        .collect()
}

fn flags(families: FamilySet) -> [bool; 2] {
    Family::ALL.map(|family| families.contains(family))
}

impl From<NodeEntry> for NodeFact {
    fn from(entry: NodeEntry) -> Self {
        Self {
            uid: entry.uid,
            labels: entry.labels,
            blocks: entry
                .blocks
                .iter()
                .filter_map(|block| block.parse().ok())
                .collect(),
            addresses: entry.addresses,
            draining: entry.draining,
            asn: entry.asn,
            peers: entry.peers,
            router_id: entry.router_id,
        }
    }
}

impl From<&NodeFact> for NodeEntry {
    fn from(fact: &NodeFact) -> Self {
        Self {
            uid: fact.uid.clone(),
            labels: fact.labels.clone(),
            blocks: fact.blocks.iter().map(ToString::to_string).collect(),
            addresses: fact.addresses.clone(),
            draining: fact.draining,
            asn: fact.asn.clone(),
            peers: fact.peers.clone(),
            router_id: fact.router_id.clone(),
        }
    }
}

impl From<ServiceEntry> for ServiceFact {
    fn from(entry: ServiceEntry) -> Self {
        let of = |kind: ServiceAddress| move |addr: IpAddr| (kind, addr);
        let addresses = entry.balanced.into_iter().map(of(ServiceAddress::LoadBalancer));
        let addresses = addresses.chain(entry.external.into_iter().map(of(ServiceAddress::External)));
        let addresses = addresses.chain(entry.cluster.into_iter().map(of(ServiceAddress::Cluster)));
        Self {
            labels: entry.labels,
            addresses: addresses.collect(),
            load_balancer: entry.load_balancer,
            class: entry.class,
            external_local: entry.external_local,
            internal_local: entry.internal_local,
            endpoint_here: families(entry.here),
            endpoint_anywhere: families(entry.anywhere),
        }
    }
}

impl From<&ServiceFact> for ServiceEntry {
    fn from(fact: &ServiceFact) -> Self {
        let of = |wanted: ServiceAddress| {
            let found = fact.addresses.iter().filter(move |(kind, _)| *kind == wanted);
            found.map(|(_, addr)| *addr).collect()
        };
        Self {
            labels: fact.labels.clone(),
            balanced: of(ServiceAddress::LoadBalancer),
            external: of(ServiceAddress::External),
            cluster: of(ServiceAddress::Cluster),
            load_balancer: fact.load_balancer,
            class: fact.class.clone(),
            external_local: fact.external_local,
            internal_local: fact.internal_local,
            here: flags(fact.endpoint_here),
            anywhere: flags(fact.endpoint_anywhere),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = std::env::temp_dir().join(format!("podroute-cluster-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(read(&dir), None);
        let node = NodeFact {
            uid: "5b1c".to_owned(),
            labels: BTreeMap::from([("rack".to_owned(), "a".to_owned())]),
            blocks: vec!["10.244.1.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            addresses: vec!["192.0.2.11".parse().unwrap()],
            draining: true,
            asn: Some("64607".to_owned()),
            peers: Some("[]".to_owned()),
            router_id: Some("10.0.0.7".to_owned()),
        };
        let service = ServiceFact {
            addresses: vec![
                (ServiceAddress::LoadBalancer, "198.51.100.1".parse().unwrap()),
                (ServiceAddress::Cluster, "10.96.0.1".parse().unwrap()),
            ],
            external_local: true,
            endpoint_here: [Family::Ipv6].into_iter().collect(),
            endpoint_anywhere: FamilySet::ALL,
            load_balancer: true,
            class: Some("x".to_owned()),
            ..ServiceFact::default()
        };
        let facts = ClusterFacts {
            nodes: BTreeMap::from([("node-1".to_owned(), node)]),
            services: BTreeMap::from([("default/web".to_owned(), service)]),
        };
        write(&dir, &facts).unwrap();
        assert_eq!(read(&dir), Some(facts));
        std::fs::write(path(&dir), "{").unwrap();
        assert_eq!(read(&dir), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
