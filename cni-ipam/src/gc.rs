//! GC: removes attachments that are not in the runtime's list of valid ones (CNI spec 1.1.0, section 2).
//!
//! Only attachments of the request's network are considered. Interfaces are removed first, many with one RCU grace period,
//! then claims, then records. A claim without a record is unused whatever its network, since records are created before and
//! removed after claims. A failure (a record that a stopped process holds) does not end GC; it is reported at the end.

use std::collections::HashMap;
use std::time::Instant;

use crate::allocator;
use crate::attachment::{self, Access, Attachment};
use crate::error::{Error, Result};
use crate::kernel::link::{self, Link};
use crate::kernel::veth;
use crate::names::{ALIAS_PREFIX, IFNAME_PREFIX, Owner};
use crate::netconf::{BUILTIN_IPAM, Netconf};
use crate::store::{Disk, Store};
use crate::{egress, ipam};
use linux::netlink::Socket;

/// Attachments that are locked, and whose interfaces are removed, together.
const CHUNK: usize = 256;

/// Counts failures of many operations.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    count: usize,
    of: usize,
    first: Option<Error>,
}

impl Failures {
    /// The value of an operation; None: it failed.
    pub(crate) fn record<T>(&mut self, done: Result<T>) -> Option<T> {
        self.of += 1;
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.count += 1;
                self.first.get_or_insert(error);
                None
            }
        }
    }

    /// An error if any operation failed.
    pub(crate) fn into_result(self) -> Result<()> {
        match self.first {
            None => Ok(()),
            Some(first) => Err(Error::Incomplete {
                failed: self.count,
                of: self.of,
                first: Box::new(first),
            }),
        }
    }
}

/// GC of the main plugin.
pub(crate) fn collect(conf: &Netconf, valid: &[Owner]) -> Result<()> {
    let host = Socket::route()?;
    let mut failures = Failures::default();
    if let Some(disk) = Disk::open(&conf.state_dir, false)? {
        collect_attachments(&disk, Some(&host), &conf.name, valid, &mut failures)?;
        failures.record(egress::collect(&disk, &conf.name, valid));
        failures.record(release_ownerless(&disk));
    }
    // Interfaces without a record: the state was lost or removed by hand.
    let keep: Vec<String> = valid.iter().map(|owner| owner.alias(&conf.name)).collect();
    let prefix = format!("{ALIAS_PREFIX}{}:", conf.name);
    let held = failures.count > 0;
    let is_stray = |l: &Link| {
        l.name.starts_with(IFNAME_PREFIX) && l.alias.starts_with(&prefix) && !keep.contains(&l.alias) && !held
    };
    let strays: Vec<String> = link::links(&host)?
        .into_iter()
        .filter(is_stray)
        .map(|l| l.name)
        .collect();
    failures.record(link::delete_many(&host, &strays));
    failures.into_result()
}

/// GC of the IPAM plugin: claims and records only.
pub(crate) fn collect_claims(disk: &Disk, network: &str, valid: &[Owner]) -> Result<()> {
    let mut failures = Failures::default();
    collect_attachments(disk, None, network, valid, &mut failures)?;
    failures.record(release_ownerless(disk));
    failures.into_result()
}

/// Removes attachments of the network, and of killed ADDs, that are not valid.
fn collect_attachments(
    disk: &Disk,
    host: Option<&Socket>,
    network: &str,
    valid: &[Owner],
    failures: &mut Failures,
) -> Result<()> {
    let deadline = Instant::now() + attachment::LOCK_TIMEOUT;
    let owners: Vec<Owner> = attachment::owners(disk)?
        .into_iter()
        .filter(|owner| !valid.contains(owner))
        .collect();
    for chunk in owners.chunks(CHUNK) {
        let links: HashMap<String, Link> = match host {
            Some(host) => link::links(host)?
                .into_iter()
                .map(|l| (l.name.clone(), l))
                .collect(),
            None => HashMap::new(),
        };
        let link_of = |owner: &Owner| {
            links
                .get(&owner.host_ifname())
                .filter(|l| veth::is_host_side(l, owner))
        };
        let mut stale = Vec::new();
        for owner in chunk {
            // The record of a killed ADD may be empty; then the interface's alias names the network.
            let of_network = |a: &Attachment| match a.state.record() {
                Some(record) => record.network == network,
                None => link_of(&a.owner).is_none_or(|l| l.alias == a.owner.alias(network)),
            };
            // The IPAM plugin does not look at interfaces: it ends only attachments without one of podroute-cni.
            let may_end = |a: &Attachment| host.is_some() || a.belongs_to(BUILTIN_IPAM);
            let locked = Attachment::lock_until(disk, owner, Access::Write, deadline);
            let locked = failures.record(locked).flatten();
            stale.extend(locked.filter(|a| of_network(a) && may_end(a)));
        }
        if let Some(host) = host {
            let names: Vec<String> = stale
                .iter()
                .filter_map(|a| link_of(&a.owner))
                .map(|l| l.name.clone())
                .collect();
            // An address may be released only when no route leads to its old pod.
            if failures.record(link::delete_many(host, &names)).is_none() {
                continue;
            }
        }
        for attachment in stale {
            failures.record(ipam::end_attachment(disk, attachment));
        }
    }
    Ok(())
}

/// Releases claims of owners without a record.
pub(crate) fn release_ownerless(disk: &Disk) -> Result<()> {
    let mut failures = Failures::default();
    for address in disk.claims()? {
        failures.record(release_if_ownerless(disk, address));
    }
    failures.into_result()
}

fn release_if_ownerless(disk: &Disk, address: std::net::IpAddr) -> Result<()> {
    let Some(owner) = disk.claim_owner(address)? else {
        return Ok(());
    };
    if attachment::exists(disk, &owner)? {
        return Ok(());
    }
    // Under the owner's lock the record cannot change; one that was created meanwhile is kept.
    if let Some(attachment) = Attachment::lock(disk, &owner, true)?
        && attachment.is_new
    {
        allocator::release_all(disk, &owner)?;
        attachment.remove()?;
    }
    Ok(())
}
