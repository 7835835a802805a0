//! Functions for the operator: `podroute show pods`, `podroute ipam check [--fix]` and `podroute cleanup`.
//!
//! The state is read without a lock while plugins run; repairs are made under the lock of each attachment, after reading it
//! again. Must run in the host's network namespace. Nothing is removed from a running pod: where an attachment is complete
//! and its namespace exists, or cannot be seen from here, a missing part is only reported.

mod cleanup;
mod finding;
mod pods;

use std::cell::Cell;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use linux::netlink::Socket;

use crate::attachment::{self, Access, Attachment, Record, State};
use crate::error::{Error, Result};
use crate::ipam;
use crate::kernel::link::{self, Link};
use crate::kernel::netns::{self, Netns, NetnsStatus};
use crate::kernel::veth;
use crate::names::{ALIAS_PREFIX, IFNAME_PREFIX, Owner};
use crate::plugin::{self, MAIN_PLUGIN};
use crate::store::{Disk, Store};
use crate::{egress, gc, wiring};

pub use self::cleanup::{Removed, cleanup};
pub use self::finding::Finding;
pub use self::pods::{AttachmentInfo, attachments};

/// Whether the pod's namespace exists; unknown for a record without an inode. The kernel removes a veth pair with the namespace
/// of either end: while the host interface exists, so does the pod's namespace.
fn netns_status(record: &Record, has_link: bool) -> NetnsStatus {
    match record.netns_inode {
        _ if has_link && record.plugin == MAIN_PLUGIN => NetnsStatus::Alive,
        0 => NetnsStatus::Unknown,
        inode => netns::status(&record.netns, inode),
    }
}

/// The result of [`examine`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// Inconsistencies.
    pub findings: Vec<Finding>,
    /// Running pods whose network namespace could not be entered: only their host side was checked.
    pub not_entered: usize,
}

/// Finds inconsistencies and, with `fix`, repairs those that can be repaired. Returns all that were found. Without `fix`
/// nothing is written, so a read-only file system is sufficient.
pub fn check(state_dir: &Path, fix: bool) -> Result<Vec<Finding>> {
    examine(state_dir, fix).map(|examination| examination.findings)
}

/// The same, with what could not be looked at.
pub fn examine(state_dir: &Path, fix: bool) -> Result<Examination> {
    let host = Socket::route()?;
    let mut findings = Vec::new();
    let mut not_entered = 0;
    let disk = Disk::open(state_dir, false)?;
    if let Some(disk) = &disk {
        let checker = Checker {
            disk,
            host: &host,
            fix,
            deadline: Instant::now() + attachment::LOCK_TIMEOUT,
            not_entered: Cell::new(0),
        };
        for owner in attachment::owners(disk)? {
            let name = owner.clone();
            if let Err(error) = checker.check_attachment(owner, &mut findings) {
                findings.push(Finding::NotChecked {
                    container: name.container,
                    ifname: name.ifname,
                    cause: error.to_string(),
                });
            }
        }
        check_claims(disk, fix, &mut findings)?;
        checker.check_rules(&mut findings)?;
        not_entered = checker.not_entered.get();
    }
    check_interfaces(state_dir, disk.as_ref(), &host, fix, &mut findings)?;
    findings.sort();
    Ok(Examination {
        findings,
        not_entered,
    })
}

struct Checker<'a> {
    disk: &'a Disk,
    host: &'a Socket,
    fix: bool,
    /// Common deadline for waiting on locks.
    deadline: Instant,
    /// Pods that were not looked into.
    not_entered: Cell<usize>,
}

impl Checker<'_> {
    fn check_attachment(&self, owner: Owner, findings: &mut Vec<Finding>) -> Result<()> {
        // With the lock the record is stable: a running plugin has completed or removed it.
        let access = if self.fix { Access::Write } else { Access::Read };
        let Some(attachment) = Attachment::lock_until(self.disk, &owner, access, self.deadline)? else {
            return Ok(());
        };
        let Owner { container, ifname } = owner.clone();
        let link = link::find(self.host, &owner.host_ifname())?;
        let has_link = link.as_ref().is_some_and(|l| veth::is_host_side(l, &owner));
        let record = match &attachment.state {
            State::Complete(record) => record.clone(),
            State::Begun | State::Partial(_) => {
                findings.push(Finding::Unfinished { container, ifname });
                return self.end_if_fixing(attachment);
            }
        };
        let status = netns_status(&record, has_link);
        if status == NetnsStatus::Gone {
            findings.push(Finding::DeadPod {
                container,
                ifname,
                addresses: record.addresses,
            });
            return self.end_if_fixing(attachment);
        }
        if status == NetnsStatus::Unknown && record.netns_inode != 0 {
            findings.push(Finding::UnseenPod {
                container: container.clone(),
                ifname: ifname.clone(),
                netns: record.netns.clone(),
            });
        }
        if record.plugin == MAIN_PLUGIN {
            if has_link {
                self.check_wiring(&owner, &record, findings)?;
            } else {
                findings.push(Finding::LostInterface {
                    container,
                    ifname,
                    name: record.host_interface.clone(),
                });
            }
        }
        let known = self.disk.blocks()?;
        for address in record
            .addresses
            .into_iter()
            .filter(|a| known.iter().any(|b| b.contains(*a)))
        {
            check_claim(self.disk, &attachment.owner, address, self.fix, findings)?;
        }
        Ok(())
    }

    /// Checks the host side, and the pod side where its namespace can be entered.
    fn check_wiring(&self, owner: &Owner, record: &Record, findings: &mut Vec<Finding>) -> Result<()> {
        let expected = plugin::expected_wiring(owner, record, None);
        let netns = Netns::open(&record.netns)
            .ok()
            .filter(|netns| netns.inode() == record.netns_inode)
            // Without CAP_SYS_ADMIN, as in the shipped container, it cannot be entered: only the host side is checked.
            .filter(|netns| netns.inside(|| Ok(())).is_ok());
        if netns.is_none() {
            self.not_entered.set(self.not_entered.get() + 1);
        }
        let observed = wiring::observe(self.host, netns.as_ref(), &expected)?;
        findings.extend(
            expected
                .differences(&observed)
                .into_iter()
                .map(|what| Finding::Different {
                    container: owner.container.clone(),
                    ifname: owner.ifname.clone(),
                    what,
                }),
        );
        Ok(())
    }

    /// Removes the attachment as a DEL does; only with `fix`.
    fn end_if_fixing(&self, attachment: Attachment) -> Result<()> {
        if !self.fix {
            return Ok(());
        }
        veth::remove(self.host, &attachment.owner)?;
        egress::remove(self.disk, &attachment.owner)?;
        ipam::end_attachment(self.disk, attachment)
    }

    /// Checks the nftables table: unused entries and missing ones.
    fn check_rules(&self, findings: &mut Vec<Finding>) -> Result<()> {
        check_egress(self.disk, self.fix, findings)?;
        let owners = egress::owners(self.disk)?;
        let is_checked = |owner: &Owner| {
            let state = attachment::read(self.disk, owner).ok().flatten();
            state.is_some_and(|state| state.record().is_some_and(|r| r.checks_sources))
        };
        let wants_check = attachment::owners(self.disk)?.iter().any(is_checked);
        if owners.is_empty() && !wants_check {
            return Ok(());
        }
        let socket = Socket::netfilter()?;
        if wants_check && !egress::has_source_check(&socket)? {
            findings.push(Finding::NoSourceCheck);
            if self.fix {
                egress::ensure_source_check(&socket)?;
            }
        }
        for owner in owners {
            for what in egress::differences(self.disk, &socket, &owner)? {
                findings.push(Finding::LostRules {
                    container: owner.container.clone(),
                    ifname: owner.ifname.clone(),
                    what,
                });
                if self.fix {
                    egress::restore(self.disk, &socket, &owner)?;
                }
            }
        }
        Ok(())
    }
}

fn check_claim(
    disk: &Disk,
    owner: &Owner,
    address: IpAddr,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let Owner { container, ifname } = owner.clone();
    match disk.claim_owner(address)? {
        Some(holder) if holder == *owner => {}
        Some(holder) => {
            findings.push(Finding::SharedAddress {
                address,
                container,
                other: holder.container,
            });
        }
        None => {
            findings.push(Finding::UnclaimedAddress {
                address,
                container,
                ifname,
            });
            if fix {
                disk.claim(address, owner)?;
            }
        }
    }
    Ok(())
}

fn check_claims(disk: &Disk, fix: bool, findings: &mut Vec<Finding>) -> Result<()> {
    for address in disk.claims()? {
        let Some(owner) = disk.claim_owner(address)? else {
            continue;
        };
        if !attachment::exists(disk, &owner)? && disk.claim_owner(address)?.as_ref() == Some(&owner) {
            let Owner { container, ifname } = owner;
            findings.push(Finding::OwnerlessClaim {
                address,
                container,
                ifname,
            });
        }
    }
    if fix { gc::release_ownerless(disk) } else { Ok(()) }
}

fn check_egress(disk: &Disk, fix: bool, findings: &mut Vec<Finding>) -> Result<()> {
    for owner in egress::stale(disk)? {
        if fix {
            egress::remove(disk, &owner)?;
        }
        findings.push(Finding::StaleEgress {
            container: owner.container,
            ifname: owner.ifname,
        });
    }
    Ok(())
}

fn check_interfaces(
    state_dir: &Path,
    disk: Option<&Disk>,
    host: &Socket,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    // Links first, records second: a record is created before its link, so a new pod is never a stray.
    let links = link::links(host)?;
    let owners = disk.map_or_else(|| Ok(Vec::new()), attachment::owners)?;
    let known: Vec<String> = owners.iter().map(Owner::host_ifname).collect();
    let strays: Vec<Link> = links
        .into_iter()
        .filter(|l| is_podroute_link(l) && !known.contains(&l.name))
        .collect();
    for stray in &strays {
        // A DEL may have removed the record between the two lists.
        if link::find(host, &stray.name)?.is_some() {
            findings.push(Finding::StrayInterface {
                name: stray.name.clone(),
                alias: stray.alias.clone(),
            });
        }
    }
    if fix && disk.is_none() && !strays.is_empty() {
        return Err(Error::NoState {
            path: state_dir.to_owned(),
            interfaces: strays.len(),
        });
    }
    if fix {
        let names: Vec<String> = strays.into_iter().map(|l| l.name).collect();
        link::delete_many(host, &names)?;
    }
    Ok(())
}

/// Whether name and alias are those of a host interface of podroute-cni.
fn is_podroute_link(link: &Link) -> bool {
    link.name.starts_with(IFNAME_PREFIX) && link.alias.starts_with(ALIAS_PREFIX)
}
