//! `{run-dir}/node.json`: what the CNI plugin has to know of the node, replaced atomically.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

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
}

/// Writes the file beside its place and renames it, so that a reader sees the old one or the new one.
pub(crate) fn write(run_dir: &Path, content: &NodeFile) -> io::Result<()> {
    let place = run_dir.join("node.json");
    let beside = run_dir.join(".node.json.new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(content)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, &place)
}
