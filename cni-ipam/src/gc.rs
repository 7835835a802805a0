//! GC: releases what is not in the runtime's list of valid attachments (CNI spec 1.1.0, section 2).
//!
//! Only attachments of the request's own network are judged; those of other networks are left alone.
//! Interfaces go first, all with one wait of the kernel, then claims, then records. A claim without a
//! record is nobody's whatever its network, for records are made before and removed after claims.

use crate::allocator;
use crate::attachment::{self, Attachment};
use crate::error::Result;
use crate::kernel::link;
use crate::kernel::netlink::Socket;
use crate::names::{ALIAS_MARK, MARK, Owner};
use crate::netconf::Netconf;
use crate::store::{Disk, Store};
use crate::{egress, own};

/// GC of the main plugin.
pub(crate) fn collect(conf: &Netconf, valid: &[Owner]) -> Result<()> {
    let host = Socket::route()?;
    let disk = Disk::open(&conf.state_dir, false)?;
    let stale = match &disk {
        Some(disk) => stale(disk, &conf.name, valid)?,
        None => Vec::new(),
    };
    // What has an interface but no record: the state was lost or removed by hand.
    let keep: Vec<String> = valid.iter().map(|owner| owner.alias(&conf.name)).collect();
    let prefix = format!("{ALIAS_MARK}{}:", conf.name);
    let known: Vec<String> = stale.iter().map(|a| a.owner.host_ifname()).collect();
    let names: Vec<String> = link::links(&host)?
        .into_iter()
        .filter(|l| l.name.starts_with(MARK))
        .filter(|l| known.contains(&l.name) || (l.alias.starts_with(&prefix) && !keep.contains(&l.alias)))
        .map(|l| l.name)
        .collect();
    link::delete_many(&host, &names)?;
    let Some(disk) = disk else { return Ok(()) };
    egress::collect(&disk, &conf.name, valid)?;
    for attachment in stale {
        own::end(&disk, attachment)?;
    }
    release_ownerless(&disk)
}

/// GC of the IPAM plugin: claims and records only.
pub(crate) fn collect_claims(disk: &Disk, network: &str, valid: &[Owner]) -> Result<()> {
    for attachment in stale(disk, network, valid)? {
        own::end(disk, attachment)?;
    }
    release_ownerless(disk)
}

/// Locks what belongs to the network, or to a killed ADD, and is not valid.
fn stale(disk: &Disk, network: &str, valid: &[Owner]) -> Result<Vec<Attachment>> {
    let mut stale = Vec::new();
    for owner in attachment::owners(disk)? {
        if valid.contains(&owner) {
            continue;
        }
        let of_network = |a: &Attachment| a.state.record().is_none_or(|r| r.network == network);
        stale.extend(Attachment::lock(disk, &owner, false)?.filter(of_network));
    }
    Ok(stale)
}

/// Claims of owners that have no record.
pub(crate) fn release_ownerless(disk: &Disk) -> Result<()> {
    for address in disk.claims()? {
        let Some(owner) = disk.claimant(address)? else {
            continue;
        };
        if attachment::read(disk, &owner)?.is_some() {
            continue;
        }
        // Under the owner's lock nothing can change; a record that came meanwhile is left alone.
        if let Some(attachment) = Attachment::lock(disk, &owner, true)?
            && attachment.is_new
        {
            allocator::release_all(disk, &owner)?;
            attachment.remove()?;
        }
    }
    Ok(())
}
