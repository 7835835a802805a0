//! Kernel settings that routing needs: forwarding is set, a strict reverse path filter is reported.
//!
//! They are read under `/proc/sys` and written under a directory of the caller's choice: in a container `/proc/sys`
//! is read-only and no runtime mounts anything over it, so the node's tree has to be somewhere else.

use std::path::{Path, PathBuf};

/// A setting that keeps pod traffic from flowing, in words with the remedy.
pub(crate) type Trouble = String;

/// What became of a setting that was not as it has to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It was this, and is right now.
    Set { name: String, from: String },
    /// It cannot be set.
    Refused(Trouble),
}

/// Where the kernel shows its settings.
pub(crate) const PROC_SYS: &str = "/proc/sys";

fn path(name: &str) -> PathBuf {
    below(Path::new(PROC_SYS), name)
}

fn below(tree: &Path, name: &str) -> PathBuf {
    tree.join(name.replace('.', "/"))
}

fn read(name: &str) -> Option<String> {
    std::fs::read_to_string(path(name))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Sets what is not as wanted.
fn ensure(tree: &Path, name: &str, wanted: &str) -> Option<Change> {
    let now = read(name)?; // the family is not there
    if now == wanted {
        return None;
    }
    let name = name.to_owned();
    Some(match std::fs::write(below(tree, &name), wanted) {
        Ok(()) => Change::Set { name, from: now },
        Err(error) => Change::Refused(format!(
            "cannot set {name}={wanted}: {error}; pods are not reached: run sysctl -w {name}={wanted}"
        )),
    })
}

/// Forwarding, for the families that there are blocks of. An IPv6 host that takes its default route from
/// router advertisements would lose it with forwarding on, unless accept_ra is 2 there. Those of pods are never taken.
pub(crate) fn forwarding(tree: &Path, ipv6: bool) -> Vec<Change> {
    const ALL_IPV6: &str = "net.ipv6.conf.all.forwarding";
    let mut changes: Vec<Change> = ensure(tree, "net.ipv4.ip_forward", "1").into_iter().collect();
    if ipv6 && read(ALL_IPV6).is_some_and(|value| value != "1") {
        for name in interfaces("net.ipv6.conf") {
            let accept = format!("net.ipv6.conf.{name}.accept_ra");
            let forwards =
                read(&format!("net.ipv6.conf.{name}.forwarding")).is_some_and(|value| value == "1");
            if !forwards
                && name != "all"
                && name != "default"
                && name != "lo"
                && !name.starts_with(cni_ipam::IFNAME_PREFIX)
                && read(&accept).is_some_and(|value| value == "1")
            {
                changes.extend(ensure(tree, &accept, "2"));
            }
        }
        changes.extend(ensure(tree, ALL_IPV6, "1"));
    }
    changes
}

fn interfaces(tree: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path(tree)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// Interfaces on which a strict reverse path filter (RFC 3704 §2.2) is in force: the kernel takes the higher of
/// the interface's value and that of `all`. It drops pod packets that come back by another way than they went.
pub(crate) fn strict_rp_filter() -> Vec<Trouble> {
    let value = |name: &str| {
        read(&format!("net.ipv4.conf.{name}.rp_filter")).and_then(|text| text.parse::<u8>().ok())
    };
    let all = value("all").unwrap_or(0);
    interfaces("net.ipv4.conf")
        .into_iter()
        .filter(|name| name != "all" && name != "default" && name != "lo" && !name.starts_with(cni_ipam::IFNAME_PREFIX))
        .filter(|name| value(name).unwrap_or(0).max(all) == 1)
        .map(|name| {
            format!(
                "net.ipv4.conf.{name}.rp_filter is strict (1): packets of pods that return by another interface are \
                 dropped; set it to 2 (loose), for all too"
            )
        })
        .collect()
}
