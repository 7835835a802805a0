//! The owner of what the plugin made in the kernel: whatever of a living pod's wire or of our nftables table somebody takes
//! away is put back, from the plugin's records.
//!
//! Routes go with the node's address (their preferred source) or with an interface that is shut, and the kernel sends no
//! notification for IPv4; others delete or replace them; `nft flush ruleset` removes our table. [`keep`] looks at what is
//! there when a notification says that something may be missing, and every few minutes. `diff` compares and is pure,
//! `notices` reads notifications. What is written is written under the lock of the pod's record, after a second look at
//! it; a pod at whose record a plugin works is looked at again a moment later. Never makes or removes an interface, and
//! never enters a pod.

mod diff;
mod notices;

use std::convert::Infallible;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;

use self::diff::{Gap, Host, Missing, Wire, gaps};
use self::notices::{Notices, Suspect};
use crate::attachment::{self, Attachment, Locked, State};
use crate::block::Family;
use crate::error::{Error, Result};
use crate::kernel::link::{self, NewRoute};
use crate::kernel::netlink::{APPEND, Batch, CREATE, REPLACE, Socket};
use crate::kernel::veth;
use crate::names::Owner;
use crate::node::Node;
use crate::plugin::MAIN;
use crate::store::Disk;
use crate::{egress, names};

/// Everything is looked at this often, whatever notifications say.
const AUDIT: Duration = Duration::from_secs(120);
/// After the first notification, others that belong to it may follow.
const SETTLE: Duration = Duration::from_millis(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(2);
/// Records that are locked at once.
const CHUNK: usize = 64;

/// What was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Host interfaces by name, each with what was missing, in words.
    pub pods: Vec<(String, String)>,
    /// Pods whose entries in our nftables table were missing.
    pub egress: usize,
    /// The check of what pods send was missing.
    pub source_check: bool,
}

impl Restored {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.egress == 0 && !self.source_check
    }
}

/// What a look came to.
#[derive(Debug)]
pub enum Report {
    /// Something was missing and was put back.
    Restored(Restored),
    /// The kernel or the records could not be read or written; it is tried again.
    Failed(crate::Error),
}

/// Keeps what the plugins of this node made, on this thread, for ever. `proc_sys`: where settings are written. `wake`: becomes
/// readable when node.json changed; it is read empty. Must run in the host's network namespace.
///
/// # Errors
/// The kernel's notifications cannot be listened to.
pub fn keep(
    run_dir: &Path,
    proc_sys: &Path,
    wake: BorrowedFd<'_>,
    mut report: impl FnMut(Report),
) -> Result<Infallible> {
    let notices = Notices::open()?;
    let mut next = Some(Instant::now());
    let mut suspect = Suspect::ALL;
    loop {
        suspect |= notices.wait(wake, next)?;
        if !suspect.is_any() {
            suspect = Suspect::ALL; // the audit's time
        } else {
            std::thread::sleep(SETTLE);
            suspect |= notices.drain(wake)?;
        }
        let outcome = look(run_dir, proc_sys, suspect);
        (suspect, next) = (Suspect::default(), Some(Instant::now() + AUDIT));
        match outcome {
            Ok(Look { restored, busy }) => {
                if !restored.is_empty() {
                    report(Report::Restored(restored));
                }
                if busy {
                    (suspect, next) = (Suspect::ALL, Some(Instant::now() + PAUSE));
                }
            }
            Err(error) => {
                report(Report::Failed(error));
                next = Some(Instant::now() + RETRY);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

#[derive(Debug, Default)]
struct Look {
    restored: Restored,
    /// Something is missing of a pod at whose record a plugin works.
    busy: bool,
}

fn look(run_dir: &Path, proc_sys: &Path, suspect: Suspect) -> Result<Look> {
    let state_dir: PathBuf = run_dir.join("ipam");
    let Some(disk) = Disk::open(&state_dir, false)? else {
        return Ok(Look::default());
    };
    let mut look = Look::default();
    if suspect.host {
        // Without node.json the kernel chooses the source.
        let sources = Node::read(run_dir)
            .map(|node| node.node_addresses)
            .unwrap_or_default();
        restore_wires(&disk, (&sources, proc_sys), &mut look)?;
    }
    if suspect.table {
        restore_table(&disk, &mut look)?;
    }
    Ok(look)
}

fn restore_wires(disk: &Disk, (sources, proc_sys): (&[IpAddr], &Path), look: &mut Look) -> Result<()> {
    let wires = wires(disk)?;
    if wires.is_empty() {
        return Ok(());
    }
    let socket = Socket::strict_route()?;
    let found = gaps(&wires, &read_host(&socket)?, sources);
    for chunk in found.chunks(CHUNK) {
        let mut held = Vec::new();
        for gap in chunk {
            match Attachment::try_lock(disk, &gap.wire.owner)? {
                Locked::Taken(attachment)
                    if wire(&gap.wire.owner, &attachment.state).as_ref() == Some(&gap.wire) =>
                {
                    held.push((attachment, gap));
                }
                Locked::Busy => look.busy = true,
                Locked::Taken(_) | Locked::Gone => {}
            }
        }
        let held = || held.iter().map(|(_, gap)| *gap);
        restore(&socket, held(), look)?;
        held().try_for_each(|gap| write_settings(proc_sys, gap))?;
    }
    Ok(())
}

/// Puts back what our nftables table lacks.
fn restore_table(disk: &Disk, look: &mut Look) -> Result<()> {
    let owners = egress::owners(disk)?;
    let checks_sources = any_checks_sources(disk)?;
    if owners.is_empty() && !checks_sources {
        return Ok(());
    }
    let socket = Socket::netfilter()?;
    if checks_sources && !egress::has_source_check(&socket)? && egress::ensure_source_check(&socket)? {
        look.restored.source_check = true;
    }
    for owner in owners {
        if egress::differences(disk, &socket, &owner)?.is_empty() {
            continue;
        }
        // Behind another plugin's IPAM there is no record, only the note.
        let _held = match Attachment::try_lock(disk, &owner)? {
            Locked::Busy => {
                look.busy = true;
                continue;
            }
            Locked::Taken(attachment) => Some(attachment),
            Locked::Gone => None,
        };
        egress::restore(disk, &socket, &owner)?;
        look.restored.egress += 1;
    }
    Ok(())
}

fn any_checks_sources(disk: &Disk) -> Result<bool> {
    let checks = |owner: &Owner| {
        let state = attachment::read(disk, owner).ok().flatten();
        matches!(state, Some(State::Done(record)) if record.checks_sources)
    };
    Ok(attachment::owners(disk)?.iter().any(checks))
}

/// Puts back what is missing of these pods.
fn restore<'a>(socket: &Socket, gaps: impl Iterator<Item = &'a Gap> + Clone, look: &mut Look) -> Result<()> {
    let mut batch = Batch::default();
    for gap in gaps.clone() {
        put_back(&mut batch, gap);
    }
    let outcome = socket.try_run(&batch)?;
    // ENODEV: the interface went meanwhile, so a DEL is at work. EINVAL: the source went meanwhile.
    let is_late = |errno| matches!(errno, Errno::ENODEV | Errno::EINVAL | Errno::ENETDOWN);
    if let Some(failure) = outcome.failures.iter().find(|f| !is_late(f.errno)) {
        return Err(batch.error(failure));
    }
    look.busy |= !outcome.failures.is_empty();
    let names = gaps.map(|gap| (gap.wire.host_ifname.clone(), in_words(&gap.missing)));
    look.restored.pods.extend(names);
    Ok(())
}

fn put_back(batch: &mut Batch, gap: &Gap) {
    let index = gap.index;
    for missing in &gap.missing {
        match *missing {
            Missing::Mac(mac) => {
                let action = format!("set the hardware address of {}", gap.wire.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
                batch.attr(link::IFLA_ADDRESS, &mac);
            }
            Missing::Mtu(mtu) => {
                let action = format!("set the MTU of {}", gap.wire.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
                batch.attr(link::IFLA_MTU, &mtu.to_ne_bytes());
            }
            Missing::Group => {
                let action = format!("group interface {}", gap.wire.host_ifname);
                batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
                batch.attr(link::IFLA_GROUP, &link::LINK_GROUP.to_ne_bytes());
            }
            Missing::RpFilter(value) => {
                set_inet(batch, gap, |spec| link::put_rp_filter(spec, value));
            }
            Missing::Forwarding(Family::V4) => set_inet(batch, gap, link::put_forwarding),
            // Netlink does not set these: `write_settings`.
            Missing::Forwarding(Family::V6) | Missing::RefusedAdvertisements => {}
            Missing::Up => {
                let action = format!("set up {}", gap.wire.host_ifname);
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

fn set_inet(batch: &mut Batch, gap: &Gap, put: impl FnOnce(&mut Batch)) {
    let action = format!("set the IPv4 settings of {}", gap.wire.host_ifname);
    batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(gap.index, false), action);
    batch.nest(link::IFLA_AF_SPEC | link::NESTED, put);
}

/// Settings that netlink does not set.
fn write_settings(proc_sys: &Path, gap: &Gap) -> Result<()> {
    for missing in &gap.missing {
        let (name, value) = match missing {
            Missing::Forwarding(Family::V6) => ("forwarding", "1"),
            Missing::RefusedAdvertisements => ("accept_ra", "0"),
            _ => continue,
        };
        let file = proc_sys
            .join("net/ipv6/conf")
            .join(&gap.wire.host_ifname)
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

fn in_words(missing: &[Missing]) -> String {
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

/// The wires of all pods whose ADD succeeded and that has an interface of ours.
fn wires(disk: &Disk) -> Result<Vec<Wire>> {
    let mut wires = Vec::new();
    for owner in attachment::owners(disk)? {
        // One record that cannot be read keeps nobody else from being looked at.
        if let Ok(Some(state)) = attachment::read(disk, &owner) {
            wires.extend(wire(&owner, &state));
        }
    }
    Ok(wires)
}

fn wire(owner: &Owner, state: &State) -> Option<Wire> {
    let State::Done(record) = state else { return None };
    (record.plugin == MAIN).then(|| Wire {
        owner: owner.clone(),
        host_ifname: record.host_interface.clone(),
        addresses: record.addresses.clone(),
        mtu: record.mtu,
        checks_sources: record.checks_sources,
    })
}

fn read_host(socket: &Socket) -> Result<Host> {
    let mut routes = Vec::new();
    for family in [Family::V4, Family::V6] {
        routes.extend(link::routes_of(socket, family, link::ROUTE_PROTOCOL)?);
    }
    let links = link::links(socket)?;
    Ok(Host::new(links, link::all_addresses(socket)?, routes, forwards()))
}
