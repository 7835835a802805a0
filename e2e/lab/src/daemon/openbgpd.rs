//! OpenBGPD (portable): no FIB on Linux in Debian 12's version, hence the lab's fib-sync beside it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Kind, Speaker, fib_sync, json, pod_prefix, wait_answer};
use crate::failure::{Context, Result};
use crate::machine::{Host, command};
use crate::process::Daemon;
use crate::topology::{Family, Neighbor, Role};

/// FRR has a program of the same name elsewhere.
const BGPD: &str = "/usr/sbin/bgpd";

pub(super) fn start(host: &Host, speaker: &Speaker) -> Result<Vec<Daemon>> {
    let bgpd = start_with(host, &render(speaker), &["-v"])?;
    let sync = fib_sync::start(host, Kind::Openbgpd)?;
    Ok(vec![bgpd, sync])
}

/// Starts bgpd with a configuration of the test's own, and waits for its socket.
pub fn start_with(host: &Host, config: &str, more: &[&str]) -> Result<Daemon> {
    let config = host.write_config("bgpd.conf", config)?;
    // Control socket, and home of its unprivileged processes.
    std::fs::create_dir_all(host.run_file("openbgpd")).context("/run/openbgpd")?;
    let mut bgpd = host.spawn(
        "openbgpd",
        command(BGPD).arg("-d").args(more).arg("-f").arg(config),
    )?;
    wait_answer(host, &mut bgpd, Duration::from_secs(10), || {
        host.run("bgpctl", &["show", "summary"])
    })?;
    Ok(bgpd)
}

pub(super) fn sessions(host: &Host) -> Result<BTreeMap<IpAddr, String>> {
    let summary = json(&host.run("bgpctl", &["-j", "show", "neighbor"])?)?;
    let states = summary["neighbors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|neighbor| {
            let address = neighbor["remote_addr"].as_str()?.parse().ok()?;
            Some((address, neighbor["state"].as_str()?.to_owned()))
        });
    Ok(states.collect())
}

pub(super) fn reset(host: &Host, remote: IpAddr) -> Result<()> {
    host.run("bgpctl", &["neighbor", &remote.to_string(), "clear"])
        .map(drop)
}

/// Two OpenBGPDs that connect to each other in the same instant both hang up and stay idle for half
/// a minute: of two ToRs, the one with the lower address, which starts first, waits.
fn waits(neighbor: &Neighbor) -> bool {
    neighbor.role == Role::Tor && neighbor.local < neighbor.remote
}

fn render(speaker: &Speaker) -> String {
    let mut out = format!(
        "AS {}\nrouter-id {}\nholdtime {}\nfib-update no\n",
        speaker.asn,
        speaker.router_id,
        speaker.hold.as_secs()
    );
    for block in &speaker.originates {
        let _ = writeln!(out, "network {block}");
    }
    for neighbor in &speaker.neighbors {
        let (mine, other) = match Family::of(neighbor.remote) {
            Family::V4 => ("IPv4", "IPv6"),
            Family::V6 => ("IPv6", "IPv4"),
        };
        let _ = write!(
            out,
            "neighbor {} {{\n  remote-as {}\n  descr \"{}\"\n  local-address {}\n  \
             announce {mine} unicast\n  announce {other} none\n{}}}\n",
            neighbor.remote,
            neighbor.asn,
            neighbor.name,
            neighbor.local,
            if neighbor.passive || waits(neighbor) {
                "  passive\n"
            } else {
                ""
            },
        );
    }
    for direction in ["from", "to"] {
        for family in Family::BOTH {
            let (prefix, min, max) = pod_prefix(family);
            let _ = writeln!(
                out,
                "allow {direction} any prefix {prefix} prefixlen {min} - {max}"
            );
        }
    }
    out
}
