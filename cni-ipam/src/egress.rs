//! A pod's entries in the nftables table `podroute-cni`, and the record by which DEL, GC and checks find them.
//!
//! The record `egress/<container>@<interface>` (one line of JSON) is written before the table is changed and removed
//! afterwards: a killed process leaves at most an unused record. It contains everything that the table needs, so that flushed
//! entries can be restored. Pods without mark, masquerade and second interface have no record.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use ipnet::IpNet;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::attachment::read_file;
use crate::error::{Error, Result};
use crate::gc::Failures;
use crate::kernel::netns::{self, Netns, NetnsStatus};
use crate::kernel::nft::{self, Chain, Element};
use crate::kernel::table;
use crate::names::Owner;
use crate::netconf::Netconf;
use crate::node::Node;
use crate::store::{Disk, names};
use linux::netlink::Socket;

const RECORDS: &str = "egress";

/// Never masqueraded: link-local and multicast destinations.
const LINK_PREFIXES: [&str; 4] = ["169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8"];

/// A pod's entries in the table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EgressRecord {
    network: String,
    pods: Vec<IpAddr>,
    netns: String,
    netns_inode: u64,
    /// Records of version 0.1 contain this but not `mark`.
    marked: bool,
    masqueraded: bool,
    mark: Option<u32>,
    /// Destinations that are not masqueraded.
    exempt: Option<Vec<IpNet>>,
    /// Other host interfaces of the same pod, each with an address that it may also use as source.
    #[serde(rename = "also")]
    other_interfaces: Vec<(String, IpAddr)>,
}

impl EgressRecord {
    /// The record that a configuration requires for a pod.
    pub(crate) fn new(conf: &Netconf, node: Option<&Node>, netns: &Netns, pods: &[IpAddr]) -> Self {
        let exempt = conf.masquerade.as_ref().map(|exempt| {
            let mut all = exempt.clone();
            if let Some(node) = node {
                all.extend(node.pod_cidrs.iter().copied());
                all.extend(node.all_node_addresses().map(IpNet::from));
            }
            all.extend(LINK_PREFIXES.iter().filter_map(|p| p.parse::<IpNet>().ok()));
            all
        });
        Self {
            network: conf.name.clone(),
            pods: pods.to_vec(),
            netns: netns.path().to_owned(),
            netns_inode: netns.inode(),
            marked: conf.mark.is_some(),
            masqueraded: exempt.is_some(),
            mark: conf.mark,
            exempt,
            other_interfaces: Vec::new(),
        }
    }

    /// Whether the pod has any entry.
    pub(crate) fn is_needed(&self) -> bool {
        self.marked || self.masqueraded || !self.other_interfaces.is_empty()
    }

    fn is_gone(&self) -> bool {
        netns::status(&self.netns, self.netns_inode) == NetnsStatus::Gone
    }

    /// The chains that it needs, each with the pod's set elements.
    fn chains(&self) -> Vec<(Chain, Vec<(String, Element)>)> {
        let mut parts = Vec::new();
        if let Some(mark) = self.mark {
            parts.push((table::marks(), table::mark_elements(&self.pods, mark)));
        }
        if let Some(exempt) = &self.exempt {
            let elements = table::masquerade_elements(&self.network, &self.pods);
            parts.push((table::masquerade(&self.network, exempt), elements));
        }
        if !self.other_interfaces.is_empty() {
            parts.push((table::sources(), table::source_elements(&self.other_interfaces)));
        }
        parts
    }

    /// All set elements that the pod may have, for removal.
    fn elements(&self) -> Vec<(String, Element)> {
        let mut all = table::source_elements(&self.other_interfaces);
        if self.marked {
            all.extend(table::mark_elements(&self.pods, self.mark.unwrap_or_default()));
        }
        if self.masqueraded {
            all.extend(table::masquerade_elements(&self.network, &self.pods));
        }
        all
    }

    fn apply(&self, socket: &Socket) -> Result<()> {
        for (chain, elements) in self.chains() {
            if chain.ensure(socket, &elements).is_err() {
                // After a killed DEL an address may exist with another mark: remove it and try again.
                nft::remove_elements(socket, &elements)?;
                chain.ensure(socket, &elements)?;
            }
        }
        Ok(())
    }

    /// Descriptions of entries that are missing in the table.
    fn differences(&self, socket: &Socket) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (chain, elements) in self.chains() {
            if !chain.is_installed(socket)? {
                found.push(format!(
                    "chain {} of the nftables table {} is gone or changed",
                    chain.name,
                    nft::TABLE
                ));
            } else if !nft::missing_elements(socket, &elements)?.is_empty() {
                found.push(format!("the pod is missing in the sets of chain {}", chain.name));
            }
        }
        Ok(found)
    }
}

/// Writes the record, then adds the entries to the table.
pub(crate) fn add(disk: &Disk, socket: &Socket, owner: &Owner, record: &EgressRecord) -> Result<()> {
    write_record(disk, owner, record)?;
    record.apply(socket)
}

/// Permits the host interfaces of one pod to use each other's addresses as source.
pub(crate) fn add_with_interfaces(
    disk: &Disk,
    socket: &Socket,
    owner: &Owner,
    mut record: EgressRecord,
    other_interfaces: Vec<(String, IpAddr)>,
) -> Result<()> {
    record.other_interfaces = other_interfaces;
    add(disk, socket, owner, &record)
}

/// Removes an owner's entries from the table, then the record.
pub(crate) fn remove(disk: &Disk, owner: &Owner) -> Result<()> {
    let Some(record) = read_record(disk, owner)? else {
        return Ok(());
    };
    nft::remove_elements(&Socket::netfilter()?, &record.elements())?;
    let path = path(disk, owner);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// Descriptions of an owner's entries that are missing in the table.
pub(crate) fn differences(disk: &Disk, socket: &Socket, owner: &Owner) -> Result<Vec<String>> {
    match read_record(disk, owner)? {
        Some(record) => record.differences(socket),
        None => Ok(Vec::new()),
    }
}

/// Restores an owner's missing entries.
pub(crate) fn restore(disk: &Disk, socket: &Socket, owner: &Owner) -> Result<()> {
    match read_record(disk, owner)? {
        Some(record) => record.apply(socket),
        None => Ok(()),
    }
}

/// Installs the source address check. False: the kernel lacks the nftables expression `fib`.
pub(crate) fn ensure_source_check(socket: &Socket) -> Result<bool> {
    match table::sources().ensure(socket, &[]) {
        Ok(()) => Ok(true),
        Err(Error::Kernel(refusal)) if is_unsupported(refusal.errno) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the source address check is installed.
pub(crate) fn has_source_check(socket: &Socket) -> Result<bool> {
    table::sources().is_installed(socket)
}

fn is_unsupported(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT
    )
}

/// GC: removes entries of a network whose owner is not valid.
pub(crate) fn collect(disk: &Disk, network: &str, valid: &[Owner]) -> Result<()> {
    let mut failures = Failures::default();
    for owner in owners(disk)?.into_iter().filter(|owner| !valid.contains(owner)) {
        let record = failures.record(read_record(disk, &owner)).flatten();
        // A truncated record has no network, and no entry in the table.
        if record.is_some_and(|n| n.network == network || n.network.is_empty()) {
            failures.record(remove(disk, &owner));
        }
    }
    failures.into_result()
}

/// Owners whose network namespace no longer exists.
pub(crate) fn stale(disk: &Disk) -> Result<Vec<Owner>> {
    let mut stale = Vec::new();
    for owner in owners(disk)? {
        if read_record(disk, &owner)?.is_some_and(|record| record.is_gone()) {
            stale.push(owner);
        }
    }
    Ok(stale)
}

/// Owners of all records.
pub(crate) fn owners(disk: &Disk) -> Result<Vec<Owner>> {
    names(&disk.dir(RECORDS), Owner::from_key)
}

fn path(disk: &Disk, owner: &Owner) -> PathBuf {
    disk.dir(RECORDS).join(owner.key())
}

fn write_record(disk: &Disk, owner: &Owner, record: &EgressRecord) -> Result<()> {
    let path = path(disk, owner);
    let dir = disk.dir(RECORDS);
    fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    let text = serde_json::to_vec(record).map_err(|e| Error::Decode {
        what: "the egress record",
        cause: e.to_string(),
    })?;
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    opened
        .and_then(|mut file| file.write_all(&text))
        .map_err(|e| Error::io("write", &path, e))
}

/// A truncated record was never followed by a change of the table.
fn read_record(disk: &Disk, owner: &Owner) -> Result<Option<EgressRecord>> {
    let text = read_file(&path(disk, owner))?;
    Ok(text.map(|text| serde_json::from_slice(&text).unwrap_or_default()))
}
