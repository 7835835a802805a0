//! `podroute check`, `run` and `show` from the operator's view.

use std::time::Duration;

use lab::bins;
use lab::daemon::{Kind, Speaker, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Rack};
use lab::topology::Topology;
use lab::{ensure, kernel, netns, wait};

use crate::support::small;
use crate::{Scenario, scenario};

/// Four faults in four sections; the numbers are the lines.
const BAD: &str = r#"apiVersion: podroute/v1
cluster:
  asn: 64512
  podCIDRs: [10.244.0.0/16]
node:
  name: node-1
  routerId: 192.0.2.11
  blocks: [10.245.1.0/24]
peers:
- name: tor-a
  address: 192.0.2.1
  asn: 65001
  import: form-tor
  export: accept-all
  timers: {hold: 2s}
  colour: blue
policies:
  from-tor:
  - action: accept
"#;

/// Where each fault stands and what the message must name.
const FAULTS: [(&str, &str); 4] = [
    ("8:", "10.245.1.0/24"),
    ("13:", "from-tor"),
    ("15:", "hold"),
    ("16:", "colour"),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario("cli::check_accepts_what_the_lab_writes", ours, good_files),
        scenario("cli::check_tells_all_errors_at_once", ours, bad_file),
        scenario("cli::run_refuses_a_bad_file", ours, run_bad_file),
        scenario("cli::show_without_an_agent", ours, show_without_agent),
        scenario("cli::show_for_people_and_programs", ours, show),
        scenario("cli::a_swapped_configmap_is_taken", ours, swapped),
        scenario("cli::pods_are_listed_checked_and_cleaned_up", ours, pods),
    ]
}

/// As the kubelet does it: files behind a link `..data`, which is renamed over.
fn swapped() -> Result<()> {
    let host = Host::create("node-1")?;
    let mount = host.dir().join("etc/mount");
    let put = |version: &str, peer: &str| -> Result<()> {
        let dir = mount.join(version);
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let text = format!(
            "apiVersion: podroute/v1\ncluster: {{asn: 64512}}\nnode: {{name: node-1, routerId: 10.0.0.1}}\n\
             peers: [{{name: {peer}, address: 192.0.2.1, asn: 65001}}]\n"
        );
        std::fs::write(dir.join("podroute.yaml"), text).context("the file")?;
        std::os::unix::fs::symlink(version, mount.join("..new")).context("the link")?;
        std::fs::rename(mount.join("..new"), mount.join("..data")).context("the swap")
    };
    put("..1", "before")?;
    let file = mount.join("podroute.yaml");
    std::os::unix::fs::symlink("..data/podroute.yaml", &file).context("the file's link")?;
    let mut command = std::process::Command::new(bins::find("podroute")?);
    command.args(["run", "--config"]).arg(&file);
    let mut agent = host.spawn("podroute", &mut command)?;
    let has = |agent: &mut lab::process::Daemon, peer: &str| {
        wait::until(Duration::from_secs(20), format_args!("peer {peer}"), || {
            agent.check_alive()?;
            let peers = podroute::show(&host, "peers")?;
            ensure!(peers["peers"][0]["name"] == peer, "{peers}");
            Ok(())
        })
    };
    has(&mut agent, "before")?;
    put("..2", "after")?;
    has(&mut agent, "after")?;
    // A bad one changes nothing, and is reported once.
    put("..3", "'{'")?;
    wait::until(Duration::from_secs(20), "a word on the bad file", || {
        ensure!(agent.log().contains("ERROR"), "{}", agent.log());
        Ok(())
    })?;
    has(&mut agent, "after")?;
    put("..4", "again")?;
    has(&mut agent, "again")
}

fn good_files() -> Result<()> {
    let host = Host::create("desk")?;
    let program = bins::find("podroute")?;
    for topology in [Topology::demo(), Topology::small()] {
        for machine in &topology.machines {
            let yaml = podroute::render(&Speaker::of(&topology, machine));
            let file = host.write_config("podroute.yaml", &yaml)?;
            host.run(&program.to_string_lossy(), &["check", &file.to_string_lossy()])
                .map_err(|f| f.during(machine.name).evidence("file", yaml))?;
        }
    }
    Ok(())
}

fn expect_all_faults(output: &std::process::Output) -> Result<()> {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(!output.status.success(), "a bad file was accepted: {text}");
    for (line, word) in FAULTS {
        let told = text
            .lines()
            .any(|l| l.contains(&format!(":{line}")) && l.contains(word));
        if !told {
            return Err(
                Failure::new(format!("no message for line {line} with {word}")).evidence("output", text)
            );
        }
    }
    Ok(())
}

fn bad_file() -> Result<()> {
    let host = Host::create("desk")?;
    let file = host.write_config("bad.yaml", BAD)?;
    let program = bins::find("podroute")?;
    expect_all_faults(&host.output(&program.to_string_lossy(), &["check", &file.to_string_lossy()])?)
}

fn run_bad_file() -> Result<()> {
    let host = Host::create("desk")?;
    let file = host.write_config("bad.yaml", BAD)?;
    let before = kernel::dump(&host);
    let program = bins::find("podroute")?;
    expect_all_faults(&host.output(
        &program.to_string_lossy(),
        &["run", "--config", &file.to_string_lossy()],
    )?)?;
    ensure!(
        kernel::dump(&host) == before,
        "a refused run changed routes: {}",
        kernel::dump(&host)
    );
    ensure!(
        !host.run_file("podroute/node.json").exists(),
        "a refused run wrote node.json"
    );
    Ok(())
}

fn show_without_agent() -> Result<()> {
    let host = Host::create("desk")?;
    let program = bins::find("podroute")?;
    let output = host.output(&program.to_string_lossy(), &["show", "peers"])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success(),
        "`podroute show` succeeded without an agent"
    );
    ensure!(
        text.contains("/run/podroute") && text.contains("podroute run"),
        "no remedy in: {text}"
    );
    Ok(())
}

fn show() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    let program = bins::find("podroute")?;
    let program = program.to_string_lossy();
    for (what, words) in [
        ("peers", ["tor-a", "192.0.2.1", "65001", "Established"].as_slice()),
        ("routes", &["10.244.2.0/24", "fd00:10:244:2::/64"]),
        ("fib", &["10.244.2.0/24", "192.0.2.1", "installed"]),
        ("blocks", &["10.244.1.0/24", "fd00:10:244:1::/64"]),
    ] {
        let text = node.run(&program, &["show", what])?;
        for word in words {
            if !text.contains(word) {
                return Err(
                    Failure::new(format!("`podroute show {what}` lacks {word}")).evidence("output", text)
                );
            }
        }
    }
    let fib = podroute::show(node, "fib")?;
    let states = fib["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| r["state"].as_str().unwrap_or("?"));
    let states: Vec<_> = states.collect();
    ensure!(
        !states.is_empty() && states.iter().all(|s| *s == "installed"),
        "states of the FIB: {states:?}"
    );
    let peers = podroute::show(node, "peers")?;
    for peer in peers["peers"].as_array().into_iter().flatten() {
        let v4 = peer["received"]["ipv4"].as_u64().unwrap_or(0);
        let v6 = peer["received"]["ipv6"].as_u64().unwrap_or(0);
        ensure!(
            v4 + v6 == 1,
            "{} gave {v4} IPv4 and {v6} IPv6 routes, not one",
            peer["name"]
        );
    }
    Ok(())
}

/// Two pods; one loses its namespace behind the plugin's back. Then podroute leaves the node.
fn pods() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    let runtime = rack.runtime("node-1");
    let program = bins::find("podroute")?;
    let program = program.to_string_lossy();
    let [kept, lost] = ["pods-kept", "pods-lost"].map(|name| runtime.add_pod(name));
    let (kept, lost) = (kept?, lost?);
    let table = node.run(&program, &["show", "pods"])?;
    for pod in [&kept, &lost] {
        for word in pod
            .addresses
            .values()
            .map(ToString::to_string)
            .chain([pod.name.clone()])
        {
            ensure!(
                table.contains(&word),
                "`podroute show pods` lacks {word}: {table}"
            );
        }
    }
    node.run(&program, &["ipam", "check"])?;
    netns::delete(&lost.name)?;
    // The kernel ends a namespace in the background; until then its interfaces are there.
    wait::until(CONVERGENCE, "a pod whose namespace is gone is found", || {
        let found = node.output(&program, &["ipam", "check"])?;
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        ensure!(
            !found.status.success() && text.contains("pods-lost"),
            "not found: {text}"
        );
        Ok(())
    })?;
    let repaired = node.run(&program, &["ipam", "check", "--fix"])?;
    ensure!(
        repaired.contains("repaired: pods-lost"),
        "not repaired: {repaired}"
    );
    let json: serde_json::Value = serde_json::from_str(&node.run(&program, &["show", "pods", "-o", "json"])?)
        .map_err(|error| Failure::new(format!("show pods -o json: {error}")))?;
    let names: Vec<_> = json["pods"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| &pod["container"])
        .collect();
    ensure!(names == ["pods-kept"], "pods after --fix: {names:?}");
    let refused = node.output(&program, &["cleanup"])?;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && words.contains("--force"),
        "cleanup beside a running agent says: {words}"
    );
    node.run(&program, &["cleanup", "--force"])?;
    let after = node.run(&program, &["show", "pods"])?;
    ensure!(
        after.contains("no pod has an address"),
        "pods after cleanup: {after}"
    );
    let links = node.ip("link show")?;
    ensure!(!links.contains(": pod"), "interfaces after cleanup: {links}");
    netns::delete(&kept.name)
}
