//! What `podroute show pods`, `podroute ipam check [--fix]` and `podroute cleanup` ask of this crate.
//!
//! Reads the state beside running plugins without a lock; mends under the lock of each attachment,
//! after a second look. Must run in the host's network namespace. Never mends what belongs to a living
//! pod: where an attachment is complete and its namespace lives, or cannot be seen from here, a missing part is only
//! reported.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;

use crate::allocator;
use crate::attachment::{self, Attachment, Record, State};
use crate::error::{Error, Result};
use crate::kernel::netlink::Socket;
use crate::kernel::netns::{self, Life};
use crate::kernel::{link, nft};
use crate::names::{ALIAS_MARK, MARK, Owner};
use crate::own;
use crate::plugin::MAIN;
use crate::store::{Disk, Store};
use crate::{egress, gc};

/// An attachment, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentInfo {
    /// The container id.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The host interface; empty where another plugin made the interface.
    pub host_interface: String,
    /// The network's name.
    pub network: String,
    /// `namespace/name` of the Kubernetes pod; empty where the runtime did not say.
    pub pod: String,
    /// Path of the network namespace.
    pub netns: String,
    /// When it was made, in seconds since 1970; 0 where it is not known.
    pub created: u64,
    /// Did its ADD succeed?
    pub complete: bool,
    /// Is its network namespace still there?
    pub life: Life,
}

/// All attachments of this boot, by first address. `state_dir` is normally `/run/podroute/ipam`.
pub fn attachments(state_dir: &Path) -> Result<Vec<AttachmentInfo>> {
    let Some(disk) = Disk::open(state_dir, false)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for owner in attachment::owners(&disk)? {
        // None: removed since it was listed.
        if let Some(state) = attachment::read(&disk, &owner)? {
            found.push(info(owner, &state));
        }
    }
    found.sort_by(|a, b| {
        (&a.addresses, &a.container, &a.ifname).cmp(&(&b.addresses, &b.container, &b.ifname))
    });
    Ok(found)
}

fn info(owner: Owner, state: &State) -> AttachmentInfo {
    let record = state.record().cloned().unwrap_or_default();
    AttachmentInfo {
        life: life(&record),
        container: owner.container,
        ifname: owner.ifname,
        addresses: record.addresses,
        host_interface: record.host_interface,
        network: record.network,
        pod: record.pod,
        netns: record.netns,
        created: record.created,
        complete: matches!(state, State::Done(_)),
    }
}

/// A namespace that was not known when the record was made cannot be told to be gone.
fn life(record: &Record) -> Life {
    match record.netns_inode {
        0 => Life::Unknown,
        inode => netns::life(&record.netns, inode),
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Finding {
    /// An ADD was killed and no DEL came. Mended by undoing it.
    Unfinished { container: String, ifname: String },
    /// The pod's network namespace is gone and no DEL came. Mended by releasing its addresses.
    DeadPod {
        container: String,
        ifname: String,
        addresses: Vec<IpAddr>,
    },
    /// The pod's network namespace cannot be seen from here, so nobody can tell whether the pod lives. Not mended.
    UnseenPod {
        container: String,
        ifname: String,
        netns: String,
    },
    /// An address is claimed for an attachment that has no record. Mended by releasing it.
    OwnerlessClaim {
        address: IpAddr,
        container: String,
        ifname: String,
    },
    /// An interface of ours has no record. Mended by removing it.
    StrayInterface { name: String, alias: String },
    /// A pod's address has no claim. Mended by claiming it.
    UnclaimedAddress {
        address: IpAddr,
        container: String,
        ifname: String,
    },
    /// Two pods were recorded with one address. Not mended: delete one of the pods.
    SharedAddress {
        address: IpAddr,
        container: String,
        other: String,
    },
    /// A living pod's host interface is gone. Not mended: delete the pod.
    LostInterface {
        container: String,
        ifname: String,
        name: String,
    },
    /// Our nftables table still has a pod that is gone. Mended by taking it out.
    StaleEgress { container: String, ifname: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished { container, ifname } => {
                write!(
                    f,
                    "{container} {ifname}: its ADD was never finished and no DEL came"
                )
            }
            Self::DeadPod {
                container,
                ifname,
                addresses,
            } => {
                write!(
                    f,
                    "{container} {ifname}: its network namespace is gone but it holds {addresses:?}"
                )
            }
            Self::UnseenPod {
                container,
                ifname,
                netns,
            } => {
                write!(
                    f,
                    "{container} {ifname}: its network namespace {netns} cannot be seen from here; run this on the node, or \
                     mount its directory with HostToContainer propagation"
                )
            }
            Self::OwnerlessClaim {
                address,
                container,
                ifname,
            } => {
                write!(
                    f,
                    "{address}: claimed for {container} {ifname}, which has no record"
                )
            }
            Self::StrayInterface { name, alias } => write!(f, "interface {name} ({alias}): has no record"),
            Self::UnclaimedAddress {
                address,
                container,
                ifname,
            } => {
                write!(
                    f,
                    "{address}: used by {container} {ifname} but not claimed for it"
                )
            }
            Self::SharedAddress {
                address,
                container,
                other,
            } => {
                write!(
                    f,
                    "{address}: used by {container} but claimed for {other}; delete one of the pods"
                )
            }
            Self::LostInterface {
                container,
                ifname,
                name,
            } => {
                write!(
                    f,
                    "{container} {ifname}: its host interface {name} is gone; delete the pod"
                )
            }
            Self::StaleEgress { container, ifname } => {
                write!(f, "{container} {ifname}: is gone but still in the nftables table")
            }
        }
    }
}

/// Finds inconsistencies and, with `fix`, mends those that can be mended. Returns what was found.
pub fn check(state_dir: &Path, fix: bool) -> Result<Vec<Finding>> {
    let host = Socket::route()?;
    let mut findings = Vec::new();
    let disk = Disk::open(state_dir, false)?;
    if let Some(disk) = &disk {
        for owner in attachment::owners(disk)? {
            check_attachment(disk, &host, owner, fix, &mut findings)?;
        }
        check_claims(disk, fix, &mut findings)?;
        check_egress(disk, fix, &mut findings)?;
    }
    check_interfaces(state_dir, disk.as_ref(), &host, fix, &mut findings)?;
    findings.sort();
    Ok(findings)
}

fn check_attachment(
    disk: &Disk,
    host: &Socket,
    owner: Owner,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    // The lock is waited for: who holds it is at work, and then the record is complete or gone.
    let Some(attachment) = Attachment::lock(disk, &owner, false)? else {
        return Ok(());
    };
    let Owner { container, ifname } = owner;
    let record = match &attachment.state {
        State::Done(record) => record.clone(),
        State::Begun | State::Partial(_) => {
            findings.push(Finding::Unfinished { container, ifname });
            return if fix { end(disk, host, attachment) } else { Ok(()) };
        }
    };
    let life = life(&record);
    if life == Life::Gone {
        findings.push(Finding::DeadPod {
            container,
            ifname,
            addresses: record.addresses,
        });
        return if fix { end(disk, host, attachment) } else { Ok(()) };
    }
    if life == Life::Unknown && record.netns_inode != 0 {
        findings.push(Finding::UnseenPod {
            container: container.clone(),
            ifname: ifname.clone(),
            netns: record.netns.clone(),
        });
    }
    if record.plugin == MAIN && link::find(host, &record.host_interface)?.is_none() {
        let (container, ifname) = (container.clone(), ifname.clone());
        findings.push(Finding::LostInterface {
            container,
            ifname,
            name: record.host_interface,
        });
    }
    let known = disk.blocks()?;
    for address in record
        .addresses
        .into_iter()
        .filter(|a| known.iter().any(|b| b.contains(*a)))
    {
        check_claim(disk, &attachment.owner, address, fix, findings)?;
    }
    Ok(())
}

fn check_claim(
    disk: &Disk,
    owner: &Owner,
    address: IpAddr,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let Owner { container, ifname } = owner.clone();
    match disk.claimant(address)? {
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

/// What a DEL does, without its request.
fn end(disk: &Disk, host: &Socket, attachment: Attachment) -> Result<()> {
    link::delete(host, &attachment.owner.host_ifname())?;
    egress::remove(disk, &attachment.owner)?;
    own::end(disk, attachment)
}

fn check_claims(disk: &Disk, fix: bool, findings: &mut Vec<Finding>) -> Result<()> {
    for address in disk.claims()? {
        let Some(owner) = disk.claimant(address)? else {
            continue;
        };
        if attachment::read(disk, &owner)?.is_none() && disk.claimant(address)?.as_ref() == Some(&owner) {
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
    // Links first, records second: a record is older than its link, so a new pod is never a stray.
    let links = link::links(host)?;
    let owners = disk.map_or_else(|| Ok(Vec::new()), attachment::owners)?;
    let known: Vec<String> = owners.iter().map(Owner::host_ifname).collect();
    let strays: Vec<link::Link> = links
        .into_iter()
        .filter(|l| is_ours(l) && !known.contains(&l.name))
        .collect();
    for stray in &strays {
        // A DEL may have been at work between the two lists.
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

/// What `cleanup` removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Host interfaces of pods; their routes go with them.
    pub interfaces: usize,
    /// Addresses that were claimed.
    pub addresses: usize,
    /// Records of attachments.
    pub attachments: usize,
    /// Was our nftables table there?
    pub table: bool,
}

/// Removes every interface, claim and nftables rule of ours: for taking podroute off a node. Pods on
/// the network lose it.
pub fn cleanup(state_dir: &Path) -> Result<Removed> {
    let host = Socket::route()?;
    let links = link::links(&host)?;
    let names: Vec<String> = links.into_iter().filter(is_ours).map(|l| l.name).collect();
    link::delete_many(&host, &names)?;
    let mut removed = Removed {
        interfaces: names.len(),
        table: nft::remove_table(&Socket::netfilter()?)?,
        ..Removed::default()
    };
    if let Some(disk) = Disk::open(state_dir, false)? {
        removed.addresses = disk.claims()?.len();
        for owner in attachment::owners(&disk)? {
            if let Some(attachment) = Attachment::lock(&disk, &owner, false)? {
                allocator::release_all(&disk, &owner)?;
                attachment.remove()?;
                removed.attachments += 1;
            }
        }
        gc::release_ownerless(&disk)?;
        for owner in egress::owners(&disk)? {
            egress::remove(&disk, &owner)?;
        }
    }
    Ok(removed)
}

/// By name and alias, both.
fn is_ours(link: &link::Link) -> bool {
    link.name.starts_with(MARK) && link.alias.starts_with(ALIAS_MARK)
}
