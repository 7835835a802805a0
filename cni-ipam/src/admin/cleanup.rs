//! `podroute cleanup`: everything of podroute-cni is removed from a node.

use std::path::Path;
use std::time::Instant;

use linux::netlink::Socket;
use serde::Serialize;

use super::is_podroute_link;
use crate::attachment::{self, Access, Attachment};
use crate::error::Result;
use crate::kernel::{link, nft};
use crate::store::{Disk, Store};
use crate::{allocator, egress, gc};

/// The objects that `cleanup` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Host interfaces of pods; their routes go with them.
    pub interfaces: usize,
    /// Addresses that were claimed.
    pub addresses: usize,
    /// Records of attachments.
    pub attachments: usize,
    /// Whether the nftables table existed.
    pub table: bool,
}

/// Removes every interface, claim and nftables rule of podroute-cni, to uninstall podroute from a node. Running pods lose
/// their network.
pub fn cleanup(state_dir: &Path) -> Result<Removed> {
    let host = Socket::route()?;
    let links = link::links(&host)?;
    let names: Vec<String> = links
        .into_iter()
        .filter(is_podroute_link)
        .map(|l| l.name)
        .collect();
    link::delete_many(&host, &names)?;
    let mut removed = Removed {
        interfaces: names.len(),
        table: nft::remove_table(&Socket::netfilter()?)?,
        ..Removed::default()
    };
    if let Some(disk) = Disk::open(state_dir, false)? {
        removed.addresses = disk.claims()?.len();
        let deadline = Instant::now() + attachment::LOCK_TIMEOUT;
        let mut failures = gc::Failures::default();
        for owner in attachment::owners(&disk)? {
            let locked = Attachment::lock_until(&disk, &owner, Access::Write, deadline);
            if let Some(attachment) = failures.record(locked).flatten() {
                failures.record(allocator::release_all(&disk, &owner).and_then(|_| attachment.remove()));
                removed.attachments += 1;
            }
        }
        failures.record(gc::release_ownerless(&disk));
        for owner in egress::owners(&disk)? {
            failures.record(egress::remove(&disk, &owner));
        }
        failures.into_result()?;
    }
    Ok(removed)
}
