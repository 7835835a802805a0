//! `{run-dir}/node.json`: facts of the node for the CNI plugins, replaced atomically.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use crate::whole_file;

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeFile {
    pub(crate) version: u32,
    pub(crate) node: String,
    pub(crate) blocks: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<String>,
    pub(crate) mtu: u32,
    pub(crate) node_addresses: Vec<IpAddr>,
    /// Of peers and of the cluster's nodes: pods are never masqueraded towards them.
    pub(crate) peer_addresses: Vec<IpAddr>,
}

/// Replaces the file.
pub(crate) fn write(run_dir: &Path, content: &NodeFile) -> io::Result<()> {
    whole_file::replace(&run_dir.join("node.json"), &serde_json::to_vec_pretty(content)?)
}
