//! fib-sync: copies a daemon's best routes into the kernel of its machine.
//!
//! Not a part of podroute. In Debian 12, OpenBGPD (7.7) has no kernel coupling on Linux and GoBGP
//! (3.10) dies on the messages of FRR's zebra (8.4); but the lab's ToR must forward. It asks the
//! daemon's tool again and again and gives the whole set to `ip route`, under a protocol number of
//! its own. It runs as a process of the machine, so that a kept lab goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Kind, json};
use crate::failure::{Context, Result};
use crate::machine::Host;
use crate::process::{self, Daemon};

/// First argument of the process.
pub const ARG: &str = "__fib-sync";
/// Route protocol number of the routes it installs.
const PROTO: &str = "247";
const INTERVAL: Duration = Duration::from_millis(200);

/// Starts it beside GoBGP or OpenBGPD.
pub(super) fn start(host: &Host, source: Kind) -> Result<Daemon> {
    let exe = std::env::current_exe().context("own executable")?;
    host.spawn(
        "fib-sync",
        std::process::Command::new(exe).args([ARG, source.name()]),
    )
}

/// The process's job, given its arguments.
pub fn dispatch(args: &[String]) -> i32 {
    match args.first().map(|source| source.parse()) {
        Some(Ok(source)) => main(source),
        _ => 2,
    }
}

/// Ends only when it is killed.
fn main(source: Kind) -> i32 {
    let mut installed = BTreeMap::new();
    loop {
        if let Err(failure) = sync(source, &mut installed) {
            eprintln!("fib-sync: {failure}");
        }
        std::thread::sleep(INTERVAL);
    }
}

fn sync(source: Kind, installed: &mut BTreeMap<String, String>) -> Result<()> {
    let desired = best_routes(source)?;
    for (prefix, nexthop) in &desired {
        if installed.get(prefix) != Some(nexthop) {
            process::run(
                "ip",
                &["route", "replace", prefix, "via", nexthop, "proto", PROTO],
            )?;
            installed.insert(prefix.clone(), nexthop.clone());
            eprintln!("fib-sync: {prefix} via {nexthop}");
        }
    }
    let gone: Vec<String> = installed
        .keys()
        .filter(|p| !desired.contains_key(*p))
        .cloned()
        .collect();
    for prefix in gone {
        process::run("ip", &["route", "del", &prefix, "proto", PROTO])?;
        installed.remove(&prefix);
        eprintln!("fib-sync: {prefix} removed");
    }
    Ok(())
}

fn best_routes(source: Kind) -> Result<BTreeMap<String, String>> {
    let pairs = match source {
        Kind::Gobgp => [gobgp("ipv4")?, gobgp("ipv6")?].concat(),
        _ => openbgpd()?,
    };
    // A router's own routes have no next hop.
    let learned = pairs.into_iter().filter(|(_, nexthop)| !nexthop.is_unspecified());
    Ok(learned
        .map(|(prefix, nexthop)| (prefix, nexthop.to_string()))
        .collect())
}

fn openbgpd() -> Result<Vec<(String, IpAddr)>> {
    let rib = json(&process::run("bgpctl", &["-j", "show", "rib", "best"])?)?;
    let routes = rib["rib"].as_array().into_iter().flatten().filter_map(|route| {
        Some((
            route["prefix"].as_str()?.to_owned(),
            route["exit_nexthop"].as_str()?.parse().ok()?,
        ))
    });
    Ok(routes.collect())
}

fn gobgp(family: &str) -> Result<Vec<(String, IpAddr)>> {
    let rib = json(&process::run("gobgp", &["global", "rib", "-a", family, "-j"])?)?;
    let routes = rib
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(prefix, paths)| {
            let best = paths.as_array()?.iter().find(|path| path["best"] == true)?;
            let nexthop = best["attrs"]
                .as_array()?
                .iter()
                .find_map(|attr| attr["nexthop"].as_str())?;
            Some((prefix.clone(), nexthop.parse().ok()?))
        });
    Ok(routes.collect())
}
