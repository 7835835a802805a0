//! Reconciles the kernel with the plugin's records: restores what others remove from the host side of running pods and from
//! the nftables table `podroute-cni`.
//!
//! The kernel removes routes with the node's address (their preferred source) or when an interface goes down, for IPv4
//! without a notification; other programs delete or replace routes; `nft flush ruleset` removes the table. [`reconcile`]
//! compares when a notification indicates that something may be missing, and every two minutes. `diff` is pure,
//! `notifications` reads from the kernel. Repairs are made under the lock of the pod's record, after reading it again; a pod
//! whose record is locked by a plugin is checked again 40 ms later. Interfaces are never created or removed, and pods' namespaces
//! never entered.

mod diff;
mod notifications;

use std::convert::Infallible;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;

use self::diff::{Drift, HostSide, HostState, Missing, find_drift};
use self::notifications::{Dirty, Notifications};
use crate::attachment::{self, Attachment, State, TryLock};
use crate::block::Family;
use crate::error::{Error, Result};
use crate::kernel::link::{self, NewRoute};
use crate::kernel::veth;
use crate::names::Owner;
use crate::node::Node;
use crate::plugin::MAIN_PLUGIN;
use crate::store::Disk;
use crate::{egress, names};
use linux::netlink::{APPEND, Batch, CREATE, REPLACE, Socket};

/// Time between full comparisons without a notification.
const AUDIT: Duration = Duration::from_secs(120);
/// Wait after the first notification, for others of the same cause.
const SETTLE: Duration = Duration::from_millis(5);
/// Shortest time between two comparisons.
const MIN_INTERVAL: Duration = Duration::from_millis(40);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Records that are locked together.
const CHUNK: usize = 64;

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Host interfaces by name, each with a description of what was missing.
    pub pods: Vec<(String, String)>,
    /// Pods whose entries in the nftables table were missing.
    pub egress: usize,
    /// The source address check was missing.
    pub source_check: bool,
}

impl Restored {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.egress == 0 && !self.source_check
    }
}

/// The outcome of a comparison.
#[derive(Debug)]
pub enum Report {
    /// Something was missing and was restored.
    Restored(Restored),
    /// The kernel or the records could not be read or written; it is retried.
    Failed(crate::Error),
}

/// Runs on the calling thread and returns only with an error. `proc_sys`: where settings are written. `wake` becomes readable
/// when node.json has changed; it is read empty. Must run in the host's network namespace.
///
/// # Errors
/// Notifications of the kernel cannot be received.
pub fn reconcile(
    run_dir: &Path,
    proc_sys: &Path,
    wake: BorrowedFd<'_>,
    mut report: impl FnMut(Report),
) -> Result<Infallible> {
    let notifications = Notifications::open()?;
    let mut next = Some(Instant::now());
    let mut dirty = Dirty::ALL;
    loop {
        dirty |= notifications.wait(wake, next)?;
        if !dirty.is_any() {
            dirty = Dirty::ALL; // time for the audit
        } else {
            std::thread::sleep(SETTLE);
            dirty |= notifications.drain(wake)?;
        }
        let outcome = run_pass(run_dir, proc_sys, dirty);
        (dirty, next) = (Dirty::default(), Some(Instant::now() + AUDIT));
        match outcome {
            Ok(Pass { restored, busy }) => {
                if !restored.is_empty() {
                    report(Report::Restored(restored));
                }
                if busy {
                    (dirty, next) = (Dirty::ALL, Some(Instant::now() + MIN_INTERVAL));
                }
            }
            Err(error) => {
                report(Report::Failed(error));
                next = Some(Instant::now() + RETRY);
            }
        }
        std::thread::sleep(MIN_INTERVAL);
    }
}

#[derive(Debug, Default)]
struct Pass {
    restored: Restored,
    /// Something is missing of a pod whose record is locked by a plugin.
    busy: bool,
}

fn run_pass(run_dir: &Path, proc_sys: &Path, dirty: Dirty) -> Result<Pass> {
    let state_dir: PathBuf = run_dir.join("ipam");
    let Some(disk) = Disk::open(&state_dir, false)? else {
        return Ok(Pass::default());
    };
    let mut pass = Pass::default();
    if dirty.host {
        // Without node.json the kernel chooses the source.
        let sources = Node::read(run_dir)
            .map(|node| node.node_addresses)
            .unwrap_or_default();
        restore_host_sides(&disk, (&sources, proc_sys), &mut pass)?;
    }
    if dirty.table {
        restore_table(&disk, &mut pass)?;
    }
    Ok(pass)
}

fn restore_host_sides(disk: &Disk, (sources, proc_sys): (&[IpAddr], &Path), pass: &mut Pass) -> Result<()> {
    let host_sides = host_sides(disk)?;
    if host_sides.is_empty() {
        return Ok(());
    }
    let socket = Socket::strict_route()?;
    let found = find_drift(&host_sides, &read_host(&socket)?, sources);
    for chunk in found.chunks(CHUNK) {
        let mut locked = Vec::new();
        for drift in chunk {
            match Attachment::try_lock(disk, &drift.host_side.owner)? {
                TryLock::Acquired(attachment)
                    if host_side(&drift.host_side.owner, &attachment.state).as_ref()
                        == Some(&drift.host_side) =>
                {
                    locked.push((attachment, drift));
                }
                TryLock::Busy => pass.busy = true,
                TryLock::Acquired(_) | TryLock::Gone => {}
            }
        }
        let locked = || locked.iter().map(|(_, drift)| *drift);
        repair(&socket, locked(), pass)?;
        locked().try_for_each(|drift| write_settings(proc_sys, drift))?;
    }
    Ok(())
}

/// Restores missing entries of the nftables table.
fn restore_table(disk: &Disk, pass: &mut Pass) -> Result<()> {
    let owners = egress::owners(disk)?;
    let checks_sources = any_checks_sources(disk)?;
    if owners.is_empty() && !checks_sources {
        return Ok(());
    }
    let socket = Socket::netfilter()?;
    if checks_sources && !egress::has_source_check(&socket)? && egress::ensure_source_check(&socket)? {
        pass.restored.source_check = true;
    }
    for owner in owners {
        if egress::differences(disk, &socket, &owner)?.is_empty() {
            continue;
        }
        // A chained plugin has no attachment record, only an egress record.
        let _held = match Attachment::try_lock(disk, &owner)? {
            TryLock::Busy => {
                pass.busy = true;
                continue;
            }
            TryLock::Acquired(attachment) => Some(attachment),
            TryLock::Gone => None,
        };
        egress::restore(disk, &socket, &owner)?;
        pass.restored.egress += 1;
    }
    Ok(())
}

fn any_checks_sources(disk: &Disk) -> Result<bool> {
    let checks = |owner: &Owner| {
        let state = attachment::read(disk, owner).ok().flatten();
        matches!(state, Some(State::Complete(record)) if record.checks_sources)
    };
    Ok(attachment::owners(disk)?.iter().any(checks))
}

/// Restores what these pods lack.
fn repair<'a>(
    socket: &Socket,
    find_drift: impl Iterator<Item = &'a Drift> + Clone,
    pass: &mut Pass,
) -> Result<()> {
    let mut batch = Batch::default();
    for drift in find_drift.clone() {
        push_repair(&mut batch, drift);
    }
    let outcome = socket.try_run(&mut batch)?;
    // ENODEV: the interface was removed meanwhile, by a DEL. EINVAL: the source address was removed meanwhile.
    let is_late = |errno| matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENETDOWN);
    if let Some(failure) = outcome.failures.iter().find(|f| !is_late(f.errno)) {
        return Err(batch.error(failure).into());
    }
    pass.busy |= !outcome.failures.is_empty();
    let names = find_drift.map(|drift| (drift.host_side.host_ifname.clone(), describe(&drift.missing)));
    pass.restored.pods.extend(names);
    Ok(())
}

fn push_repair(batch: &mut Batch, drift: &Drift) {
    let index = drift.index;
    for missing in &drift.missing {
        match *missing {
            Missing::Mac(mac) => {
                let action = format!("set the hardware address of {}", drift.host_side.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
                batch.attr(link::IFLA_ADDRESS, &mac);
            }
            Missing::Mtu(mtu) => {
                let action = format!("set the MTU of {}", drift.host_side.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
                batch.attr(link::IFLA_MTU, &mtu.to_ne_bytes());
            }
            Missing::Group => {
                let action = format!("group interface {}", drift.host_side.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
                batch.attr(link::IFLA_GROUP, &link::LINK_GROUP.to_ne_bytes());
            }
            Missing::RpFilter(value) => {
                set_inet(batch, drift, |spec| link::put_rp_filter(spec, value));
            }
            Missing::Forwarding(Family::V4) => set_inet(batch, drift, link::put_forwarding),
            // Netlink does not set these: `write_settings`.
            Missing::Forwarding(Family::V6) | Missing::RefusedAdvertisements => {}
            Missing::Up => {
                let action = format!("set up {}", drift.host_side.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, true), action);
            }
            Missing::Gateway(family) => {
                let net = IpNet::from(veth::gateway(family));
                link::add_address(batch, CREATE | REPLACE, index, net, link::SCOPE_LINK);
            }
            Missing::LinkRoute => link::add_route(batch, CREATE | APPEND, veth::link_local_route(index)),
            Missing::PodRoute(address, source) => {
                let route = NewRoute {
                    dst: IpNet::from(address),
                    gateway: None,
                    source,
                    index,
                    protocol: link::ROUTE_PROTOCOL,
                };
                link::add_route(batch, CREATE | REPLACE, route);
            }
        }
    }
}

fn set_inet(batch: &mut Batch, drift: &Drift, put: impl FnOnce(&mut Batch)) {
    let action = format!("set the IPv4 settings of {}", drift.host_side.host_ifname);
    batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(drift.index, false), action);
    batch.nest(link::IFLA_AF_SPEC | link::NESTED, put);
}

/// Settings that netlink does not set.
fn write_settings(proc_sys: &Path, drift: &Drift) -> Result<()> {
    for missing in &drift.missing {
        let (name, value) = match missing {
            Missing::Forwarding(Family::V6) => ("forwarding", "1"),
            Missing::RefusedAdvertisements => ("accept_ra", "0"),
            _ => continue,
        };
        let file = proc_sys
            .join("net/ipv6/conf")
            .join(&drift.host_side.host_ifname)
            .join(name);
        match std::fs::write(&file, value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("write", &file, error));
            }
            _ => {} // the interface went meanwhile
        }
    }
    Ok(())
}

/// Whether the host forwards, by family.
fn forwards() -> [bool; 2] {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|name| {
        let file = Path::new("/proc/sys/net").join(name);
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
    })
}

fn describe(missing: &[Missing]) -> String {
    let words = missing.iter().map(|missing| match missing {
        Missing::Up => "was down".to_owned(),
        Missing::Mac(mac) => format!("hardware address {}", names::mac_text(*mac)),
        Missing::Mtu(mtu) => format!("MTU {mtu}"),
        Missing::Group => format!("link group {}", link::LINK_GROUP),
        Missing::RpFilter(value) => format!("rp_filter {value}"),
        Missing::Forwarding(Family::V4) => "IPv4 forwarding".to_owned(),
        Missing::Forwarding(Family::V6) => "IPv6 forwarding".to_owned(),
        Missing::RefusedAdvertisements => "accept_ra 0".to_owned(),
        Missing::Gateway(family) => format!("gateway address {}", veth::gateway(*family)),
        Missing::LinkRoute => format!("route to {}", veth::link_local_net()),
        Missing::PodRoute(address, None) => format!("route to {address}"),
        Missing::PodRoute(address, Some(source)) => format!("route to {address} with source {source}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The host sides of all complete attachments with an interface of podroute-cni.
fn host_sides(disk: &Disk) -> Result<Vec<HostSide>> {
    let mut host_sides = Vec::new();
    for owner in attachment::owners(disk)? {
        // An unreadable record is skipped.
        if let Ok(Some(state)) = attachment::read(disk, &owner) {
            host_sides.extend(host_side(&owner, &state));
        }
    }
    Ok(host_sides)
}

fn host_side(owner: &Owner, state: &State) -> Option<HostSide> {
    let State::Complete(record) = state else {
        return None;
    };
    (record.plugin == MAIN_PLUGIN).then(|| HostSide {
        owner: owner.clone(),
        host_ifname: record.host_interface.clone(),
        addresses: record.addresses.clone(),
        mtu: record.mtu,
        checks_sources: record.checks_sources,
    })
}

fn read_host(socket: &Socket) -> Result<HostState> {
    let mut routes = Vec::new();
    for family in [Family::V4, Family::V6] {
        routes.extend(link::routes_of(socket, family, link::ROUTE_PROTOCOL)?);
    }
    let links = link::links(socket)?;
    Ok(HostState::new(
        links,
        link::all_addresses(socket)?,
        routes,
        forwards(),
    ))
}
