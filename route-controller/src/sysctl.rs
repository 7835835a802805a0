//! Kernel settings that routing needs: forwarding is set, a strict reverse path filter is reported.
//!
//! Settings are read under `/proc/sys` and written under a directory of the caller's choice: in a container `/proc/sys` is
//! read-only and no runtime mounts over it, so the node's directory is mounted elsewhere.

use std::path::Path;

use linux::sysctl::{children, dotted, read, write_below};

/// A setting that prevents pod traffic, described with the remedy.
pub(crate) type Trouble = String;

/// The outcome for a setting with another value than required.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It had this value and is set now.
    Set { name: String, from: String },
    /// It cannot be set.
    Refused(Trouble),
}

pub(crate) use linux::sysctl::PROC_SYS;

/// Sets forwarding, for the families that there are blocks of. An IPv6 host that takes its default route from router
/// advertisements would lose it with forwarding on, unless accept_ra is 2 there. Advertisements of pods are never accepted.
pub(crate) fn forwarding(tree: &Path, ipv6: bool) -> Vec<Change> {
    const ALL_IPV6: &str = "net/ipv6/conf/all/forwarding";
    let mut changes: Vec<Change> = ensure(tree, "net/ipv4/ip_forward", "1").into_iter().collect();
    if ipv6 && is(ALL_IPV6, |value| value != "1") {
        for name in interfaces("net/ipv6/conf") {
            let accept_ra = format!("net/ipv6/conf/{name}/accept_ra");
            let forwards = is(&format!("net/ipv6/conf/{name}/forwarding"), |value| value == "1");
            if !forwards && is(&accept_ra, |value| value == "1") {
                changes.extend(ensure(tree, &accept_ra, "2"));
            }
        }
        changes.extend(ensure(tree, ALL_IPV6, "1"));
    }
    changes
}

/// Interfaces with a strict reverse path filter (RFC 3704 §2.2): the kernel uses the higher of the interface's value and that
/// of `all`. It drops packets of pods that return through another interface than they left by.
pub(crate) fn strict_rp_filter() -> Vec<Trouble> {
    let value = |name: &str| {
        let text = read(&format!("net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
        text.parse::<u8>().unwrap_or(0)
    };
    let all = value("all");
    interfaces("net/ipv4/conf")
        .filter(|name| value(name).max(all) == 1)
        .map(|name| {
            format!(
                "{} is strict (1): packets of pods that return by another interface are dropped; set it to 2 (loose), for \
                 all too",
                dotted(&format!("net/ipv4/conf/{name}/rp_filter"))
            )
        })
        .collect()
}

/// Interfaces of the host, without those of pods.
fn interfaces(key: &str) -> impl Iterator<Item = String> {
    let is_host = |name: &String| {
        !matches!(name.as_str(), "all" | "default" | "lo") && !name.starts_with(cni_ipam::IFNAME_PREFIX)
    };
    children(key).into_iter().filter(is_host)
}

/// Whether a setting exists and its value fulfils a condition.
fn is(key: &str, condition: impl FnOnce(&str) -> bool) -> bool {
    read(key).is_ok_and(|value| condition(&value))
}

/// Sets a value that differs. A setting that does not exist belongs to a family that the kernel lacks.
fn ensure(tree: &Path, key: &str, wanted: &str) -> Option<Change> {
    let from = read(key).ok().filter(|value| value != wanted)?;
    let name = dotted(key);
    Some(match write_below(tree, key, wanted) {
        Ok(()) => Change::Set { name, from },
        Err(error) => Change::Refused(format!(
            "cannot set {name}={wanted}: {error}; pods are not reached: run sysctl -w {name}={wanted}"
        )),
    })
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// A VLAN interface has a dot in its name.
    #[test]
    fn an_interface_with_a_dot_is_checked_and_kept_online() {
        in_namespace(|| {
            let added = std::process::Command::new("ip")
                .args(["link", "add", "eth0.100", "type", "veth", "peer", "name", "far"])
                .status();
            assert!(added.unwrap().success());
            linux::sysctl::write("net/ipv4/conf/all/rp_filter", "0").unwrap();
            linux::sysctl::write("net/ipv4/conf/eth0.100/rp_filter", "1").unwrap();
            let found = strict_rp_filter();
            assert!(
                found
                    .iter()
                    .any(|text| text.starts_with("net.ipv4.conf.eth0/100.rp_filter")),
                "{found:?}"
            );
            linux::sysctl::write("net/ipv6/conf/all/forwarding", "0").unwrap();
            linux::sysctl::write("net/ipv6/conf/eth0.100/accept_ra", "1").unwrap();
            forwarding(Path::new(PROC_SYS), true);
            assert_eq!(
                linux::sysctl::read("net/ipv6/conf/eth0.100/accept_ra").unwrap(),
                "2"
            );
        });
    }

    /// In a network namespace of a thread; left out without the right to make one.
    fn in_namespace(test: fn()) {
        let thread = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => test(),
            Err(error) => println!("LEFT OUT: no network namespace: {error}"),
        });
        thread.join().unwrap();
    }

    fn set(name: &str, value: &str) {
        linux::sysctl::write(&name.replace('.', "/"), value).unwrap();
    }

    fn read(name: &str) -> Option<String> {
        linux::sysctl::read(&name.replace('.', "/")).ok()
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
            set("net/ipv4/ip_forward", "0");
            set("net/ipv6/conf/all/forwarding", "0");
            let tree = Path::new(PROC_SYS);
            assert_eq!(changes(&forwarding(tree, false)), ["net.ipv4.ip_forward"]);
            assert_eq!(
                read("net/ipv6/conf/all/forwarding").unwrap(),
                "0",
                "no block of it"
            );
            assert_eq!(changes(&forwarding(tree, true)), ["net.ipv6.conf.all.forwarding"]);
            assert_eq!(forwarding(tree, true), []);
            assert_eq!(read("net/ipv4/ip_forward").unwrap(), "1");
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
            set("net/ipv6/conf/up0/accept_ra", "1");
            set("net/ipv6/conf/up1/accept_ra", "0");
            let mut found = forwarding(Path::new(PROC_SYS), true);
            found.retain(|change| !changes(std::slice::from_ref(change))[0].starts_with("net.ipv4"));
            let names = changes(&found);
            assert_eq!(
                names.last(),
                Some(&"net.ipv6.conf.all.forwarding"),
                "last: {names:?}"
            );
            assert!(names.contains(&"net.ipv6.conf.up0.accept_ra"), "{names:?}");
            let of = |name: &str| read(&format!("net/ipv6/conf/{name}/accept_ra")).unwrap();
            assert_eq!((of("up0").as_str(), of("up1").as_str()), ("2", "0"));
        });
    }

    /// In a container without the node's tree the operator learns the command.
    #[test]
    fn what_cannot_be_set_names_the_remedy() {
        in_namespace(|| {
            set("net/ipv4/ip_forward", "0");
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
                set("net/ipv4/conf/all/rp_filter", all);
                set("net/ipv4/conf/up0/rp_filter", own);
                assert_eq!(is_named("conf.up0.rp_filter"), strict, "all {all}, own {own}");
            }
        });
    }
}
