//! The built-in IPAM, used by both plugins: an attachment's addresses from ADD to DEL.
//!
//! Combines `attachment` (record and lock), `allocator` and `node`. Its order makes killed processes harmless. ADD: create
//! the record, claim addresses, write the record, (create the interface), mark it complete. DEL: remove the interface, the
//! claims, the record. Creates no interface itself.

use std::net::IpAddr;

use crate::allocator::{self, AllocRequest};
use crate::attachment::{self, Attachment, Record, State};
use crate::block::{Block, Family};
use crate::error::{Error, Result};
use crate::kernel::link;
use crate::kernel::netns::{self, NetnsStatus};
use crate::names::Owner;
use crate::netconf::Netconf;
use crate::node::Node;
use crate::store::{Disk, Store};
use linux::netlink::Socket;

/// Opens the state for writing.
pub(crate) fn open(conf: &Netconf) -> Result<Disk> {
    let disk = Disk::open(&conf.state_dir, true)?;
    disk.ok_or_else(|| Error::io("create", &conf.state_dir, std::io::ErrorKind::NotFound))
}

/// Locks an attachment for an ADD. Leftovers of a killed ADD are removed first: `undo` removes interfaces.
pub(crate) fn begin_add(disk: &Disk, owner: &Owner, undo: impl FnOnce() -> Result<()>) -> Result<Attachment> {
    let locked = Attachment::lock(disk, owner, true)?;
    let mut attachment = locked.ok_or_else(|| Error::Busy {
        attachment: owner.key(),
        seconds: 0,
    })?;
    if let State::Complete(record) = &attachment.state {
        let addresses = record
            .addresses
            .iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(Error::AlreadyAttached {
            container: owner.container.clone(),
            ifname: owner.ifname.clone(),
            addresses,
        });
    }
    if !attachment.is_new {
        undo()?;
        release(disk, &attachment)?;
        attachment.reset()?;
    }
    Ok(attachment)
}

/// Claims the attachment's addresses. With `host`, addresses that already have a route on the host are skipped: the main
/// plugin needs that route itself.
pub(crate) fn allocate(
    disk: &Disk,
    owner: &Owner,
    conf: &Netconf,
    node: &Node,
    host: Option<&Socket>,
) -> Result<Vec<IpAddr>> {
    node.require_blocks(&conf.run_dir)?;
    let blocks = node.blocks();
    let families = families(conf, node)?;
    let request = AllocRequest {
        blocks: &blocks,
        families: &families,
        requested: &conf.requested_ips,
    };
    let is_routed = |address| host.is_some_and(|host| link::has_host_route(host, address).unwrap_or(false));
    let is_excluded = |address| conf.is_reserved(address) || is_routed(address);
    allocator::allocate(disk, owner, request, is_excluded, |address| {
        is_dead(disk, address)
    })
}

/// Whether an address belongs to a pod whose network namespace no longer exists. Unknown: false.
fn is_dead(disk: &Disk, address: IpAddr) -> bool {
    let Ok(Some(owner)) = disk.claim_owner(address) else {
        return false;
    };
    match attachment::read(disk, &owner) {
        Ok(Some(State::Complete(record))) => {
            record.netns_inode != 0 && netns::status(&record.netns, record.netns_inode) == NetnsStatus::Gone
        }
        _ => false,
    }
}

/// The families of which an ADD allocates addresses.
fn families(conf: &Netconf, node: &Node) -> Result<Vec<Family>> {
    let has = |family: &Family| !node.blocks_of(*family).is_empty();
    let Some(asked) = &conf.families else {
        return Ok([Family::V4, Family::V6].into_iter().filter(has).collect());
    };
    if let Some(family) = asked.iter().find(|f| !has(f)) {
        let cause = format!("the node has no {family} block, but the network's families ask for one");
        return Err(Error::Node {
            path: conf.run_dir.join("node.json"),
            cause,
        });
    }
    Ok(asked.clone())
}

/// The block of an address.
pub(crate) fn block_of(node: &Node, address: IpAddr) -> Option<Block> {
    node.blocks().into_iter().find(|b| b.contains(address))
}

/// Releases the claims of a locked attachment.
pub(crate) fn release(disk: &Disk, attachment: &Attachment) -> Result<()> {
    match attachment.state.record() {
        Some(record) => {
            for address in &record.addresses {
                allocator::release(disk, &attachment.owner, *address)?;
            }
        }
        None => drop(allocator::release_all(disk, &attachment.owner)?),
    }
    Ok(())
}

/// Removes an attachment: its claims, then its record.
pub(crate) fn end_attachment(disk: &Disk, attachment: Attachment) -> Result<()> {
    release(disk, &attachment)?;
    attachment.remove()
}

/// Undoes a failed ADD and returns its error.
pub(crate) fn abort_add(disk: &Disk, attachment: Attachment, error: Error) -> Error {
    match end_attachment(disk, attachment) {
        // If this fails the record remains, and the next DEL, ADD or GC finishes it.
        Ok(()) | Err(_) => error,
    }
}

/// STATUS: fails where an ADD would fail.
pub(crate) fn status(conf: &Netconf) -> Result<()> {
    let not_ready = |error: Error| Error::NotReady {
        cause: error.to_string(),
    };
    let node = Node::read(&conf.run_dir).map_err(not_ready)?;
    node.require_blocks(&conf.run_dir).map_err(not_ready)?;
    let families = families(conf, &node).map_err(not_ready)?;
    check_state_is_writable(conf)?;
    let Some(disk) = Disk::open(&conf.state_dir, false).map_err(not_ready)? else {
        return Ok(());
    };
    if let Err(changed) = allocator::check_block_change(&disk, &node.blocks(), |a| is_dead(&disk, a)) {
        return Err(Error::Limited {
            cause: changed.to_string(),
        });
    }
    for family in families {
        let blocks = node.blocks_of(family);
        if !allocator::has_free_address(&disk, &blocks, |a| conf.is_reserved(a)).map_err(not_ready)? {
            let cause = Error::Exhausted {
                blocks: crate::block::list(&blocks),
            }
            .to_string();
            return Err(Error::NotReady { cause });
        }
    }
    Ok(())
}

/// STATUS: fails where the state cannot be written.
pub(crate) fn check_state_is_writable(conf: &Netconf) -> Result<()> {
    open(conf)
        .and_then(|disk| disk.probe())
        .map_err(|error| Error::NotReady {
            cause: error.to_string(),
        })
}

/// CHECK: the attachment's claims exist. Returns its record.
pub(crate) fn check(conf: &Netconf, owner: &Owner) -> Result<Record> {
    let fail = |cause: String| Error::Check {
        ifname: owner.ifname.clone(),
        cause,
    };
    let disk = Disk::open(&conf.state_dir, false)?;
    let disk = disk.ok_or_else(|| fail("no address was ever allocated on this node".into()))?;
    let Some(State::Complete(record)) = crate::attachment::read(&disk, owner)? else {
        return Err(fail(format!(
            "container {} has no attachment of this name",
            owner.container
        )));
    };
    for address in record.addresses.iter().filter(|_| conf.uses_builtin_ipam()) {
        if disk.claim_owner(*address)?.as_ref() != Some(owner) {
            return Err(fail(format!("its address {address} is no longer claimed for it")));
        }
    }
    Ok(record)
}
