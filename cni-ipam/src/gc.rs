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
use crate::netconf::{Netconf, OWN_IPAM};
use crate::store::{Disk, Store};
use crate::{egress, own};

/// How many attachments are locked, and their interfaces removed, at once.
const CHUNK: usize = 256;

/// GC of the main plugin.
pub(crate) fn collect(conf: &Netconf, valid: &[Owner]) -> Result<()> {
    let host = Socket::route()?;
    if let Some(disk) = Disk::open(&conf.state_dir, false)? {
        collect_attachments(&disk, Some(&host), &conf.name, valid)?;
        egress::collect(&disk, &conf.name, valid)?;
        release_ownerless(&disk)?;
    }
    // What has an interface but no record: the state was lost or removed by hand.
    let keep: Vec<String> = valid.iter().map(|owner| owner.alias(&conf.name)).collect();
    let prefix = format!("{ALIAS_MARK}{}:", conf.name);
    let is_stray =
        |l: &link::Link| l.name.starts_with(MARK) && l.alias.starts_with(&prefix) && !keep.contains(&l.alias);
    let strays: Vec<String> = link::links(&host)?
        .into_iter()
        .filter(is_stray)
        .map(|l| l.name)
        .collect();
    link::delete_many(&host, &strays)
}

/// GC of the IPAM plugin: claims and records only.
pub(crate) fn collect_claims(disk: &Disk, network: &str, valid: &[Owner]) -> Result<()> {
    collect_attachments(disk, None, network, valid)?;
    release_ownerless(disk)
}

/// Ends what belongs to the network, or to a killed ADD, and is not valid.
fn collect_attachments(disk: &Disk, host: Option<&Socket>, network: &str, valid: &[Owner]) -> Result<()> {
    let owners: Vec<Owner> = attachment::owners(disk)?
        .into_iter()
        .filter(|owner| !valid.contains(owner))
        .collect();
    for chunk in owners.chunks(CHUNK) {
        let mut stale = Vec::new();
        for owner in chunk {
            let of_network = |a: &Attachment| a.state.record().is_none_or(|r| r.network == network);
            // Without a look at interfaces, only what never had one of ours.
            let may_end = |a: &Attachment| host.is_some() || a.is_of(OWN_IPAM);
            stale.extend(Attachment::lock(disk, owner, false)?.filter(|a| of_network(a) && may_end(a)));
        }
        if let Some(host) = host {
            let names: Vec<String> = stale.iter().map(|a| a.owner.host_ifname()).collect();
            link::delete_many(host, &names)?;
        }
        for attachment in stale {
            own::end(disk, attachment)?;
        }
    }
    Ok(())
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
