//! FRRouting: zebra and bgpd without watchfrr. zebra installs the routes (`proto bgp`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use super::{Speaker, json, pod_prefix};
use crate::failure::{Context, Result};
use crate::machine::{Host, command};
use crate::process::Daemon;
use crate::topology::Family;
use crate::wait;

pub(super) fn start(host: &Host, speaker: &Speaker) -> Result<Vec<Daemon>> {
    start_with(host, &render(speaker), "")
}

/// Starts zebra and bgpd with configurations of the test's own.
pub fn start_with(host: &Host, bgpd: &str, zebra: &str) -> Result<Vec<Daemon>> {
    let mut zebra = start_zebra(host, zebra)?;
    let mut bgpd = start_daemon(host, "bgpd", bgpd)?;
    wait::until(
        Duration::from_secs(10),
        format_args!("bgpd's vty on {}", host.name()),
        || {
            zebra.check_alive()?;
            bgpd.check_alive()?;
            vtysh(host, "show bgp neighbors json").map(drop)
        },
    )?;
    Ok(vec![zebra, bgpd])
}

/// bgpd gives up for ten seconds if zebra's socket is not there yet.
fn start_zebra(host: &Host, more: &str) -> Result<Daemon> {
    let socket = host.run_file("frr/zserv.api");
    // One that an earlier zebra left says nothing.
    let _ = std::fs::remove_file(&socket);
    let mut zebra = start_daemon(host, "zebra", &format!("log stdout informational\n{more}"))?;
    wait::until(
        Duration::from_secs(10),
        format_args!("zebra's socket on {}", host.name()),
        || {
            zebra.check_alive()?;
            if socket.exists() {
                Ok(())
            } else {
                wait::not_yet(format!("no {}", socket.display()))
            }
        },
    )?;
    Ok(zebra)
}

/// FRR's daemons want their user in group `frrvty`. They run as root here, so the box gets an
/// `/etc/group` of its own that says so; the host's file is not touched.
fn join_vty_group() -> Result<()> {
    static DONE: OnceLock<Result<()>> = OnceLock::new();
    let mount_groups = || {
        let groups = std::fs::read_to_string("/etc/group").context("/etc/group")?;
        let with_root = |line: &str| match line.strip_prefix("frrvty:") {
            Some(rest) if rest.ends_with(':') => format!("{line}root\n"),
            Some(_) => format!("{line},root\n"),
            None => format!("{line}\n"),
        };
        let groups: String = groups.lines().map(with_root).collect();
        std::fs::write("/run/lab/group", groups).context("/run/lab/group")?;
        let (from, none) = (Some("/run/lab/group"), None::<&str>);
        mount(from, "/etc/group", none, MsFlags::MS_BIND, none).context("mounting /etc/group")
    };
    DONE.get_or_init(mount_groups).clone()
}

/// Starts one of FRR's daemons; zebra comes first.
pub fn start_daemon(host: &Host, name: &str, config: &str) -> Result<Daemon> {
    join_vty_group()?;
    let config = host.write_config(&format!("{name}.conf"), config)?;
    std::fs::create_dir_all(host.run_file("frr")).context("/run/frr")?;
    let mut frr = command(&format!("/usr/lib/frr/{name}"));
    frr.arg("-f")
        .arg(config)
        .args(["-u", "root", "-g", "root", "-P", "0"]);
    frr.args(["-z", "/run/frr/zserv.api", "-i"])
        .arg(format!("/run/frr/{name}.pid"));
    host.spawn(name, &mut frr)
}

/// bgpd without zebra: every next hop counts as reachable, and no route goes to the kernel.
pub fn start_alone(host: &Host, config: &str) -> Result<Daemon> {
    join_vty_group()?;
    let config = host.write_config("bgpd.conf", config)?;
    std::fs::create_dir_all(host.run_file("frr")).context("/run/frr")?;
    let mut bgpd = command("/usr/lib/frr/bgpd");
    bgpd.arg("-Z").arg("-f").arg(config);
    bgpd.args(["-u", "root", "-g", "root", "-P", "0", "-i", "/run/frr/bgpd.pid"]);
    host.spawn("bgpd", &mut bgpd)
}

/// Asks FRR's shell.
pub fn vtysh(host: &Host, line: &str) -> Result<String> {
    host.run("vtysh", &["-c", line])
}

pub(super) fn sessions(host: &Host) -> Result<BTreeMap<IpAddr, String>> {
    let neighbors = json(&vtysh(host, "show bgp neighbors json")?)?;
    let states = neighbors
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(address, neighbor)| {
            Some((address.parse().ok()?, neighbor["bgpState"].as_str()?.to_owned()))
        });
    Ok(states.collect())
}

pub(super) fn reset(host: &Host, remote: IpAddr) -> Result<()> {
    vtysh(host, &format!("clear bgp {remote}")).map(drop)
}

fn render(speaker: &Speaker) -> String {
    let mut out = String::from("log stdout informational\n");
    for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ipv6")] {
        let (prefix, min, max) = pod_prefix(family);
        let _ = writeln!(
            out,
            "{ip} prefix-list pods-{ip} permit {prefix} ge {min} le {max}"
        );
        let _ = writeln!(
            out,
            "route-map pods-{ip} permit 10\n match {ip} address prefix-list pods-{ip}"
        );
    }
    let _ = write!(
        out,
        "router bgp {}\n bgp router-id {}\n no bgp default ipv4-unicast\n no bgp network import-check\n \
         timers bgp {} {}\n",
        speaker.asn,
        speaker.router_id,
        speaker.hold.as_secs() / 3,
        speaker.hold.as_secs(),
    );
    for neighbor in &speaker.neighbors {
        let (remote, local) = (neighbor.remote, neighbor.local);
        let _ = write!(
            out,
            " neighbor {remote} remote-as {}\n neighbor {remote} update-source {local}\n \
             neighbor {remote} timers connect 1\n neighbor {remote} advertisement-interval 0\n",
            neighbor.asn
        );
        if neighbor.passive {
            let _ = writeln!(out, " neighbor {remote} passive");
        }
    }
    for (family, name, ip) in [(Family::V4, "ipv4", "ip"), (Family::V6, "ipv6", "ipv6")] {
        let _ = writeln!(out, " address-family {name} unicast");
        for block in speaker
            .originates
            .iter()
            .filter(|b| Family::of(b.addr()) == family)
        {
            let _ = writeln!(out, "  network {block}");
        }
        for neighbor in speaker
            .neighbors
            .iter()
            .filter(|n| Family::of(n.remote) == family)
        {
            let remote = neighbor.remote;
            let _ = write!(
                out,
                "  neighbor {remote} activate\n  neighbor {remote} route-map pods-{ip} in\n  \
                 neighbor {remote} route-map pods-{ip} out\n"
            );
        }
        out.push_str(" exit-address-family\n");
    }
    out
}
