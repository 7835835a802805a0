//! The agent's description of this node: `<runDir>/node.json`, read only.
//!
//! The agent replaces the file atomically. A missing file, an unknown version or a node without a block is not the request's
//! fault: the answer is CNI code 11, "try again later". Limits: 8 MiB (20,000 nodes with two addresses need 1.3 MiB), 64
//! blocks, MTU 68–65535 (from 1280 with an IPv6 block).

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::block::{Block, Family};
use crate::error::{Error, Result};

const FILE_LIMIT: u64 = 8 << 20;
const BLOCKS_LIMIT: usize = 64;
const VERSION: u32 = 1;

/// The content of node.json.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Node {
    version: u32,
    /// The node's name.
    #[serde(default)]
    pub(crate) node: String,
    #[serde(default)]
    blocks: Vec<IpNet>,
    /// The cluster's pod prefixes.
    #[serde(default, rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// MTU of the uplink, in bytes.
    #[serde(default)]
    pub(crate) mtu: Option<u32>,
    /// The node's addresses, the preferred one of each family first.
    #[serde(default)]
    pub(crate) node_addresses: Vec<IpAddr>,
    /// Known addresses of other nodes and of routers.
    #[serde(default)]
    peer_addresses: Vec<IpAddr>,
}

/// Why the content of node.json cannot be used.
#[derive(Debug, thiserror::Error)]
enum ContentError {
    #[error("larger than {FILE_LIMIT} bytes")]
    Size,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("version {0} is not {VERSION}: agent and plugins differ")]
    Version(u32),
    #[error("more than {BLOCKS_LIMIT} blocks")]
    Blocks,
    #[error("mtu {mtu} is not in {least}–65535")]
    Mtu { mtu: u32, least: u32 },
}

impl Node {
    /// Reads `<run_dir>/node.json`.
    pub(crate) fn read(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join("node.json");
        let fail = |cause: String| Error::Node {
            path: path.clone(),
            cause,
        };
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut text));
        if let Err(source) = read {
            return Err(fail(match source.kind() {
                std::io::ErrorKind::NotFound => "there is no such file yet".to_owned(),
                _ => source.to_string(),
            }));
        }
        Self::parse(&text).map_err(|error| fail(error.to_string()))
    }

    fn parse(text: &[u8]) -> std::result::Result<Self, ContentError> {
        if text.len() as u64 > FILE_LIMIT {
            return Err(ContentError::Size);
        }
        let node: Self = serde_json::from_slice(text)?;
        if node.version != VERSION {
            return Err(ContentError::Version(node.version));
        }
        if node.blocks.len() > BLOCKS_LIMIT {
            return Err(ContentError::Blocks);
        }
        let least = if node.blocks.iter().any(|b| matches!(b, IpNet::V6(_))) {
            1280
        } else {
            68
        };
        if let Some(mtu) = node.mtu.filter(|mtu| !(least..=65_535).contains(mtu)) {
            return Err(ContentError::Mtu { mtu, least });
        }
        Ok(node)
    }

    /// This node's addresses and those of its BGP peers.
    pub(crate) fn all_node_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.node_addresses.iter().chain(&self.peer_addresses).copied()
    }

    /// The node's blocks of both families, in order of preference.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        self.blocks.iter().copied().map(Block::new).collect()
    }

    /// The node's blocks of one family.
    pub(crate) fn blocks_of(&self, family: Family) -> Vec<Block> {
        self.blocks()
            .into_iter()
            .filter(|b| b.family() == family)
            .collect()
    }

    /// Fails where the node has no block.
    pub(crate) fn require_blocks(&self, run_dir: &Path) -> Result<()> {
        if self.blocks.is_empty() {
            let path: PathBuf = run_dir.join("node.json");
            return Err(Error::Node {
                path,
                cause: "the node has no block yet".to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract() {
        let text = br#"{"version":1,"node":"node-1","blocks":["10.244.1.0/24","fd00:10:244:1::/64"],
            "podCIDRs":["10.244.0.0/16"],"mtu":1500,"nodeAddresses":["192.0.2.11","2001:db8:a::11"],"later":1}"#;
        let node = Node::parse(text).unwrap();
        assert_eq!(node.blocks().len(), 2);
        assert_eq!(node.node_addresses.len(), 2);
        assert_eq!(node.blocks_of(Family::V4)[0].to_string(), "10.244.1.0/24");
    }

    #[test]
    fn what_is_refused_says_why() {
        let cases: [(&[u8], &str); 5] = [
            (b"", "EOF"),
            (b"{\"version\":2}", "version 2"),
            (b"{\"version\":1,\"blocks\":[\"x\"]}", "invalid IP"),
            (b"{\"version\":1,\"mtu\":9}", "mtu 9"),
            (
                b"{\"version\":1,\"blocks\":[\"fd00::/64\"],\"mtu\":1000}",
                "mtu 1000",
            ),
        ];
        for (text, want) in cases {
            let got = Node::parse(text).unwrap_err().to_string();
            assert!(got.contains(want), "{got} should contain {want}");
        }
    }

    #[test]
    fn absence_is_try_again_later_and_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = Node::read(dir.path()).unwrap_err();
        assert_eq!(error.code(), 11);
        assert!(error.to_string().contains("node.json"), "{error}");
        std::fs::write(dir.path().join("node.json"), b"{\"version\":1}").unwrap();
        let error = Node::read(dir.path())
            .unwrap()
            .require_blocks(dir.path())
            .unwrap_err();
        assert_eq!(error.code(), 11);
    }
}
