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

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a network namespace of a thread; left out without the right to make one.
    fn in_namespace(test: fn()) {
        let thread = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => test(),
            Err(error) => println!("LEFT OUT: no network namespace: {error}"),
        });
        thread.join().unwrap();
    }

    fn set(name: &str, value: &str) {
        std::fs::write(path(name), value).unwrap();
    }

    fn changes(changes: &[Change]) -> Vec<&str> {
        let name = |change: &'_ Change| match change {
            Change::Set { name, .. } => name.clone().leak(),
            Change::Refused(trouble) => trouble.clone().leak(),
        };
        changes.iter().map(|change| &*name(change)).collect()
    }

    #[test]
    fn forwarding_is_set_once() {
        in_namespace(|| {
            set("net.ipv4.ip_forward", "0");
            set("net.ipv6.conf.all.forwarding", "0");
            let tree = Path::new(PROC_SYS);
            assert_eq!(changes(&forwarding(tree, false)), ["net.ipv4.ip_forward"]);
            assert_eq!(
                read("net.ipv6.conf.all.forwarding").unwrap(),
                "0",
                "no block of it"
            );
            assert_eq!(changes(&forwarding(tree, true)), ["net.ipv6.conf.all.forwarding"]);
            assert_eq!(forwarding(tree, true), []);
            assert_eq!(read("net.ipv4.ip_forward").unwrap(), "1");
        });
    }

    /// The default route of a host that takes router advertisements stays.
    #[test]
    fn accept_ra_is_2_before_the_host_forwards() {
        in_namespace(|| {
            let ip = |args: &str| {
                let status = std::process::Command::new("ip").args(args.split(' ')).status();
                assert!(status.unwrap().success(), "ip {args}");
            };
            ip("link add up0 type veth peer name up1");
            ip("link add podx type veth peer name pody");
            set("net.ipv6.conf.up0.accept_ra", "1");
            set("net.ipv6.conf.up1.accept_ra", "0");
            let mut found = forwarding(Path::new(PROC_SYS), true);
            found.retain(|change| !changes(std::slice::from_ref(change))[0].starts_with("net.ipv4"));
            let names = changes(&found);
            assert_eq!(
                names.last(),
                Some(&"net.ipv6.conf.all.forwarding"),
                "last: {names:?}"
            );
            assert!(names.contains(&"net.ipv6.conf.up0.accept_ra"), "{names:?}");
            let of = |name: &str| read(&format!("net.ipv6.conf.{name}.accept_ra")).unwrap();
            assert_eq!((of("up0").as_str(), of("up1").as_str()), ("2", "0"));
        });
    }

    /// In a container without the node's tree the operator learns the command.
    #[test]
    fn what_cannot_be_set_names_the_remedy() {
        in_namespace(|| {
            set("net.ipv4.ip_forward", "0");
            let found = forwarding(Path::new("/nowhere"), false);
            let [Change::Refused(trouble)] = &found[..] else {
                panic!("{found:?}");
            };
            assert!(
                trouble.ends_with("run sysctl -w net.ipv4.ip_forward=1"),
                "{trouble}"
            );
        });
    }

    /// The kernel takes the higher of the two values.
    #[test]
    fn a_strict_reverse_path_filter_is_found_wherever_it_is() {
        in_namespace(|| {
            let status = std::process::Command::new("ip")
                .args(["link", "add", "up0", "type", "veth"])
                .status();
            assert!(status.unwrap().success());
            let is_named = |of: &str| strict_rp_filter().iter().any(|trouble| trouble.contains(of));
            for (all, own, strict) in [
                ("0", "0", false),
                ("1", "0", true),
                ("0", "1", true),
                ("2", "1", false),
            ] {
                set("net.ipv4.conf.all.rp_filter", all);
                set("net.ipv4.conf.up0.rp_filter", own);
                assert_eq!(is_named("conf.up0.rp_filter"), strict, "all {all}, own {own}");
            }
        });
    }
}
