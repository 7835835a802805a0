//! What a pod has in our nftables table, and the note that lets any later DEL or GC take it out again.
//!
//! The note `egress/<container>@<interface>` (one line of JSON) is written before the table is changed and removed after: a killed process leaves at most a note too many. Used as
//! main plugin and behind another one alike; only where the configuration asks for it.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernel::netlink::Socket;
use crate::kernel::netns::{self, Life, Netns};
use crate::kernel::nft;
use crate::names::Owner;
use crate::netconf::Netconf;
use crate::node::Node;
use crate::store::{Disk, names};

const NOTES: &str = "egress";

/// Never masqueraded: what stays on the link or goes to many.
const LINK_PREFIXES: [&str; 4] = ["169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8"];

/// Where to find what a pod has in the table.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    network: String,
    pods: Vec<IpAddr>,
    netns: String,
    netns_inode: u64,
    marked: bool,
    masqueraded: bool,
}

impl Note {
    fn is_gone(&self) -> bool {
        netns::life(&self.netns, self.netns_inode) == Life::Gone
    }
}

/// Is there anything to do for this configuration?
pub(crate) fn is_wanted(conf: &Netconf) -> bool {
    conf.mark.is_some() || conf.masquerade.is_some()
}

/// Puts a pod's addresses into the table. This thread is in the host's namespace.
pub(crate) fn add(
    disk: &Disk,
    conf: &Netconf,
    node: Option<&Node>,
    netns: &Netns,
    owner: &Owner,
    pods: &[IpAddr],
) -> Result<()> {
    let note = Note {
        network: conf.name.clone(),
        pods: pods.to_vec(),
        netns: netns.path().to_owned(),
        netns_inode: netns.inode(),
        marked: conf.mark.is_some(),
        masqueraded: conf.masquerade.is_some(),
    };
    write_note(disk, owner, &note)?;
    let socket = Socket::netfilter()?;
    if let Some(mark) = conf.mark {
        nft::mark(&socket, pods, mark)?;
    }
    if let Some(exempt) = &conf.masquerade {
        let mut all: Vec<IpNet> = exempt.clone();
        all.extend(node.into_iter().flat_map(|n| n.pod_cidrs.iter().copied()));
        all.extend(LINK_PREFIXES.iter().filter_map(|p| p.parse::<IpNet>().ok()));
        nft::masquerade(&socket, &conf.name, pods, &all)?;
    }
    Ok(())
}

/// Takes out what an owner has in the table.
pub(crate) fn remove(disk: &Disk, owner: &Owner) -> Result<()> {
    let Some(note) = read_note(disk, owner)? else {
        return Ok(());
    };
    let socket = Socket::netfilter()?;
    if note.marked {
        nft::unmark(&socket, &note.pods)?;
    }
    if note.masqueraded {
        nft::unmasquerade(&socket, &note.network, &note.pods)?;
    }
    let path = path(disk, owner);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
        _ => Ok(()),
    }
}

/// Takes out what is a network's and not valid.
pub(crate) fn collect(disk: &Disk, network: &str, valid: &[Owner]) -> Result<()> {
    for owner in owners(disk)? {
        let of_network =
            read_note(disk, &owner)?.is_some_and(|n| n.network == network || n.network.is_empty());
        if of_network && !valid.contains(&owner) {
            remove(disk, &owner)?;
        }
    }
    Ok(())
}

/// Who has a note though the namespace that it was written for is gone.
pub(crate) fn stale(disk: &Disk) -> Result<Vec<Owner>> {
    let mut stale = Vec::new();
    for owner in owners(disk)? {
        if read_note(disk, &owner)?.is_some_and(|note| note.is_gone()) {
            stale.push(owner);
        }
    }
    Ok(stale)
}

/// Who has a note.
pub(crate) fn owners(disk: &Disk) -> Result<Vec<Owner>> {
    names(&disk.dir(NOTES), Owner::from_key)
}

fn path(disk: &Disk, owner: &Owner) -> PathBuf {
    disk.dir(NOTES).join(owner.key())
}

fn write_note(disk: &Disk, owner: &Owner, note: &Note) -> Result<()> {
    let path = path(disk, owner);
    let dir = disk.dir(NOTES);
    fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    let text = serde_json::to_vec(note).map_err(|e| Error::Decode {
        what: "the note on egress",
        cause: e.to_string(),
    })?;
    fs::write(&path, text).map_err(|e| Error::io("write", &path, e))
}

/// A note that is cut short was never followed by a change of the table.
fn read_note(disk: &Disk, owner: &Owner) -> Result<Option<Note>> {
    let path = path(disk, owner);
    match fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).unwrap_or_default())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}
