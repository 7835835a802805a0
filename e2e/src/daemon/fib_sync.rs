//! fib-sync: copies OpenBGPD's best routes into the kernel of its machine.
//!
//! Not a part of podroute: OpenBGPD in Debian 12 has no kernel coupling on Linux, and the lab's ToR
//! must forward. It asks `bgpctl` again and again and gives the whole set to `ip route`, under a
//! protocol number of its own. It runs as a process of the machine, so that a kept lab goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::json;
use crate::failure::{Context, Result};
use crate::machine::Host;
use crate::process::{self, Daemon};

/// First argument of the process.
pub const ARG: &str = "__fib-sync";
/// Route protocol number of the routes it installs.
const PROTO: &str = "247";
const INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn start(host: &Host) -> Result<Daemon> {
    let exe = std::env::current_exe().context("own executable")?;
    host.spawn("fib-sync", std::process::Command::new(exe).arg(ARG))
}

/// The process's job; ends only when it is killed or bgpd is gone for good.
pub fn main() -> i32 {
    let mut installed = BTreeMap::new();
    loop {
        if let Err(failure) = sync(&mut installed) {
            eprintln!("fib-sync: {failure}");
        }
        std::thread::sleep(INTERVAL);
    }
}

fn sync(installed: &mut BTreeMap<String, String>) -> Result<()> {
    let desired = best_routes()?;
    for (prefix, nexthop) in &desired {
        if installed.get(prefix) != Some(nexthop) {
            process::run("ip", &["route", "replace", prefix, "via", nexthop, "proto", PROTO])?;
            installed.insert(prefix.clone(), nexthop.clone());
            eprintln!("fib-sync: {prefix} via {nexthop}");
        }
    }
    let gone: Vec<String> = installed.keys().filter(|p| !desired.contains_key(*p)).cloned().collect();
    for prefix in gone {
        process::run("ip", &["route", "del", &prefix, "proto", PROTO])?;
        installed.remove(&prefix);
        eprintln!("fib-sync: {prefix} removed");
    }
    Ok(())
}

fn best_routes() -> Result<BTreeMap<String, String>> {
    let rib = json(&process::run("bgpctl", &["-j", "show", "rib", "best"])?)?;
    let routes = rib["rib"].as_array().into_iter().flatten().filter_map(|route| {
        let nexthop = route["true_nexthop"].as_str().or(route["exit_nexthop"].as_str())?;
        (nexthop != "0.0.0.0" && nexthop != "::").then(|| Some((route["prefix"].as_str()?.to_owned(), nexthop.to_owned())))?
    });
    Ok(routes.collect())
}
