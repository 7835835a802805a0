//! `podroute diff` says what a reload then does.

use lab::bins;
use lab::daemon::Kind;
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::rack::{CONVERGENCE, Rack};

use crate::support::{prefix, settled, small, uptime, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![scenario(
        "diff::a_reload_does_what_was_said",
        [Kind::Podroute],
        what_was_said,
    )]
}

fn what_was_said() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let tor = rack.host("tor-a").clone();
    let file = node.dir().join("etc/podroute.yaml");
    let base = std::fs::read_to_string(&file).map_err(|error| Failure::new(error.to_string()))?;
    let podroute = bins::find("podroute")?.to_string_lossy().into_owned();
    let diff = |text: &str| -> Result<String> {
        let next = node.write_config("next.yaml", text)?;
        node.run(&podroute, &["diff", &next.to_string_lossy()])
    };
    let says = |text: &str, wanted: &[&str]| -> Result<()> {
        let said = diff(text)?;
        ensure!(
            wanted.iter().all(|line| said.contains(line)),
            "wanted {wanted:?}, it says:\n{said}"
        );
        Ok(())
    };
    settled(&node, "tor-a")?;
    says(&base, &["nothing that peers or the kernel would see changes"])?;
    let silent = base.replace("  export: to-tor\n", "  export: nobody\n") + "  nobody: reject\n";
    says(&silent, &["advertised to tor-a\n", "  - 10.244.1.0/24"])?;
    let deaf = base.replace("  import: from-tor\n", "  import: nobody\n") + "  nobody: reject\n";
    says(&deaf, &["kernel routes\n", "  - 10.244.2.0/24"])?;
    let community =
        "  - match: {source: [podBlock]}\n    set: {communities: {add: [\"64512:7\"]}}\n    action: accept\n";
    let marked = base.replace("  - match: {source: [podBlock]}\n    action: accept\n", community);
    says(&marked, &["advertised to tor-a\n", "  ~ 10.244.1.0/24"])?;
    let faster = base.replacen("hold: 9s", "hold: 6s", 1);
    says(&faster, &["peers\n", "(its session restarts)"])?;
    says(
        &base.replace(
            "apiVersion: podroute/v1\n",
            "apiVersion: podroute/v1\nfib: {table: 1790}\n",
        ),
        &["! fib.table: changes only"],
    )?;
    let wrong = node.output(&podroute, &["diff", "/run/lab/node-1/etc/nothing.yaml"])?;
    ensure!(!wrong.status.success(), "a file that is not there was compared");
    // Nothing of it happened.
    ensure!(uptime(&node, "tor-a")? >= 2, "the session began anew");
    rack.wait_routes()?;
    // And what was said comes true.
    node.write_config("podroute.yaml", &deaf)?;
    node.run(&podroute, &["reload"])?;
    wait_no_route(&node, prefix("10.244.2.0/24"), CONVERGENCE)?;
    node.write_config("podroute.yaml", &silent)?;
    node.run(&podroute, &["reload"])?;
    wait_route(&node, prefix("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    wait_no_route(&tor, prefix("10.244.1.0/24"), CONVERGENCE)?;
    node.write_config("podroute.yaml", &base)?;
    node.run(&podroute, &["reload"])?;
    rack.wait_routes().map(drop)
}
