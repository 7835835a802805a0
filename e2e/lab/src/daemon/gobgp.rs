//! GoBGP: gobgpd, with the lab's fib-sync beside it for the kernel's routes: it has no FIB of its own,
//! and Debian 12's GoBGP (3.10) does not understand the zebra of Debian 12's FRR (8.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Kind, Speaker, fib_sync, json, wait_answer};
use crate::failure::Result;
use crate::machine::{Host, command};
use crate::process::Daemon;
use crate::topology::Family;

pub(super) fn start(host: &Host, speaker: &Speaker) -> Result<Vec<Daemon>> {
    let gobgpd = start_with(host, &render(speaker), "info")?;
    for block in &speaker.originates {
        let family = Family::of(block.addr()).keyword();
        host.run(
            "gobgp",
            &["global", "rib", "add", &block.to_string(), "-a", family],
        )?;
    }
    Ok(vec![gobgpd, fib_sync::start(host, Kind::Gobgp)?])
}

/// Starts gobgpd with a configuration of the test's own, and waits for its API.
pub fn start_with(host: &Host, toml: &str, log_level: &str) -> Result<Daemon> {
    let config = host.write_config("gobgpd.toml", toml)?;
    let mut gobgpd = command("gobgpd");
    gobgpd.arg("-f").arg(config).args(["-t", "toml"]);
    gobgpd.args(["--api-hosts", "127.0.0.1:50051", "--pprof-disable"]);
    gobgpd.args(["--log-plain", "--log-level", log_level]);
    let mut gobgpd = host.spawn("gobgpd", &mut gobgpd)?;
    wait_answer(host, &mut gobgpd, Duration::from_secs(10), || {
        host.run("gobgp", &["global"])
    })?;
    Ok(gobgpd)
}

pub(super) fn sessions(host: &Host) -> Result<BTreeMap<IpAddr, String>> {
    let neighbors = json(&host.run("gobgp", &["neighbor", "-j"])?)?;
    let states = neighbors.as_array().into_iter().flatten().filter_map(|neighbor| {
        let address = neighbor["conf"]["neighbor_address"].as_str()?.parse().ok()?;
        let state = match neighbor["state"]["session_state"].as_u64() {
            Some(6) => "Established",
            Some(5) => "OpenConfirm",
            Some(4) => "OpenSent",
            Some(3) => "Active",
            Some(2) => "Connect",
            _ => "Idle",
        };
        Some((address, state.to_owned()))
    });
    Ok(states.collect())
}

pub(super) fn reset(host: &Host, remote: IpAddr) -> Result<()> {
    host.run("gobgp", &["neighbor", &remote.to_string(), "reset"])
        .map(drop)
}

fn render(speaker: &Speaker) -> String {
    let mut out = format!(
        "[global.config]\n  as = {}\n  router-id = \"{}\"\n  port = 179\n",
        speaker.asn, speaker.router_id
    );
    for neighbor in &speaker.neighbors {
        let family = Family::of(neighbor.remote).keyword();
        let _ = write!(
            out,
            "\n[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    peer-as = {}\n  \
             [neighbors.transport.config]\n    local-address = \"{}\"\n    passive-mode = {}\n  \
             [neighbors.timers.config]\n    hold-time = {}\n    keepalive-interval = {}\n    connect-retry = 1\n  \
             [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}-unicast\"\n",
            neighbor.remote,
            neighbor.asn,
            neighbor.local,
            neighbor.passive,
            speaker.hold.as_secs(),
            speaker.hold.as_secs() / 3,
        );
    }
    out
}
