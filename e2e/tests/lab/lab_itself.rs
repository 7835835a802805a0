//! Tests of the lab: its probes fail when the network is broken, its sandbox leaves nothing behind, and
//! the whole demo works without any of our programs in it (BIRD and the reference plugin).

use std::process::{Command, Stdio};
use std::time::Duration;

use lab::daemon::Kind;
use lab::demo::{self, Options};
use lab::failure::{Context, Failure, Result};
use lab::probe;
use lab::rack::{Plan, Rack};
use lab::topology::Topology;
use lab::{ensure, wait};

use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("lab::demo_with_bird_everywhere", [Kind::Bird], demo_with_bird).with_reference_plugins(),
        scenario(
            "lab::a_broken_network_fails_the_probes",
            [Kind::Bird],
            broken_network,
        )
        .with_reference_plugins(),
        scenario("lab::a_killed_box_takes_everything_along", [], killed_box),
    ]
}

fn demo_with_bird() -> Result<()> {
    let options = Options {
        tor: Kind::Bird,
        node: Kind::Bird,
        plugin: None,
        keep: false,
    };
    match demo::main(&options) {
        0 => Ok(()),
        code => Err(Failure::new(format!("the demo ended with {code}"))),
    }
}

fn broken_network() -> Result<()> {
    let mut rack = Rack::converged(Plan::new(Topology::small(), Kind::Bird, Kind::Bird))?;
    rack.add_pods(1)?;
    let (pods, nodes) = (rack.pod_endpoints(), rack.node_endpoints()?);
    probe::ping(&pods, &pods)?.check("the healthy rack")?;
    rack.host("tor-a").sysctl("net/ipv4/ip_forward", "0")?;
    let broken = probe::ping(&pods, &pods)?;
    // IPv4 is gone in both directions, IPv6 is as it was.
    ensure!(
        broken.failures.len() == 2 && broken.times.len() == 2,
        "without forwarding: {broken:?}"
    );
    ensure!(broken.check("x").is_err(), "two failures pass the check");
    // Nobody listens: a TCP probe must say so.
    let refused = probe::tcp(&pods, &nodes)?;
    ensure!(
        refused.times.is_empty() && !refused.failures.is_empty(),
        "no server, but {refused:?}"
    );
    Ok(())
}

/// Inside this scenario's box, a second one is made and its outer process killed.
fn killed_box() -> Result<()> {
    let exe = std::env::current_exe().context("own executable")?;
    let mut outer = Command::new(exe)
        .args([crate::BOX, SLEEPER])
        .stdin(Stdio::null())
        .spawn()
        .context("starting a box")?;
    let sleepers = || -> Result<Vec<String>> {
        let dirs = std::fs::read_dir("/proc").context("/proc")?.flatten();
        let cmdlines = dirs.filter_map(|dir| std::fs::read_to_string(dir.path().join("cmdline")).ok());
        let inside = cmdlines.filter(|line| line.contains(SLEEPER) && !line.contains(crate::BOX));
        Ok(inside.map(|line| line.replace('\0', " ")).collect())
    };
    wait::until(Duration::from_secs(10), "processes of the inner box", || {
        let found = sleepers()?;
        ensure!(found.len() >= 2, "there are {found:?}");
        Ok(())
    })?;
    outer.kill().context("killing the outer process")?;
    wait::until(Duration::from_secs(10), "end of the inner box", || {
        let found = sleepers()?;
        ensure!(found.is_empty(), "still there: {found:?}");
        Ok(())
    })?;
    outer.wait().context("the outer process")?;
    Ok(())
}

/// Not a scenario: what the inner box of [`killed_box`] does until it is killed.
pub(crate) const SLEEPER: &str = "__sleeper";

pub(crate) fn sleeper() -> i32 {
    loop {
        std::thread::park();
    }
}
