//! What watches the agent: Debian's Prometheus with the shipped rules, and a log that nobody reads.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use lab::bins;
use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::{Host, command};
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{ensure, wait};

use crate::overlays::{example, switch};
use crate::support::{prefix, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "monitoring::alerts_fire_in_prometheus",
            [Kind::Podroute],
            alerts_fire,
        )
        .with_program("prometheus", "prometheus")
        .with_program("curl", "curl"),
        scenario("monitoring::alert_rules_pass_their_tests", [], rules_pass)
            .with_program("promtool", "prometheus"),
        scenario(
            "monitoring::a_log_that_nobody_reads",
            [Kind::Podroute],
            nobody_reads,
        ),
    ]
}

const NODE: &str = "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}\n\
    node: {name: node-1, blocks: [10.244.1.0/24]}\nmetrics: {port: 9179}\n\
    peers:\n- {name: tor-a, address: 192.0.2.1, asn: 65001, families: [ipv4], timers: {hold: 9s, connectRetry: 1s}, import: all, export: all}\n\
    - {name: tor-b, address: 192.0.2.99, asn: 65001, families: [ipv4], shutdown: true, import: all, export: all}\n\
    policies: {all: accept}\n";

const TOR: &str = "apiVersion: podroute/v1\ncluster: {asn: 65001, podCIDRs: [10.244.0.0/16]}\n\
    node: {name: tor-a, routerId: 192.0.2.1, blocks: [10.244.9.0/24]}\n\
    peers:\n- {name: node-1, address: 192.0.2.11, asn: 64512, families: [ipv4], timers: {hold: 9s, connectRetry: 1s}, import: all, export: all}\n\
    policies: {all: accept}\n";

fn start_prometheus(host: &Host, rules: &str) -> Result<Daemon> {
    // The lab does not wait for minutes.
    let rules: String = rules
        .lines()
        .map(|line| match line.trim_start().starts_with("for: ") {
            true => "    for: 0s\n".to_owned(),
            false => format!("{line}\n"),
        })
        .collect();
    let rules = host.write_config("alerts.yaml", &rules)?;
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n- job_name: podroute\n  \
         static_configs:\n  - targets: [\"127.0.0.1:9179\"]\n",
        rules.display()
    );
    let config = host.write_config("prometheus.yml", &config)?;
    let mut prometheus = command("prometheus");
    prometheus.arg(format!("--config.file={}", config.display()));
    prometheus.arg("--storage.tsdb.path=/run/prometheus");
    prometheus.arg("--web.listen-address=127.0.0.1:9090");
    host.spawn("prometheus", &mut prometheus)
}

/// What Prometheus answers.
fn ask(host: &Host, path: &str) -> Result<serde_json::Value> {
    let url = format!("http://127.0.0.1:9090/api/v1/{path}");
    let text = host.run("curl", &["-s", &url])?;
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("{path}: {error}: {text}")))
}

/// The names of alerts that fire, with the peer they are about.
fn firing(host: &Host) -> Result<Vec<(String, String)>> {
    let alerts = ask(host, "alerts")?;
    let alerts = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    Ok(firing
        .map(|alert| {
            (
                text(&alert["labels"]["alertname"]),
                text(&alert["labels"]["peer"]),
            )
        })
        .collect())
}

/// An alert comes with the fault, for what is faulty alone, and goes with it.
fn alerts_fire() -> Result<()> {
    let hosts = switch(&[("tor", 1), ("node-1", 11)])?;
    let (tor, node) = (&hosts[0], &hosts[1]);
    let _agent = podroute::start_with(node, NODE)?;
    let mut prometheus = start_prometheus(node, &example("monitoring/alerts.yaml")?)?;
    let down = ("PodrouteSessionDown".to_owned(), "tor-a".to_owned());
    wait::until(CONVERGENCE, "the alert of the session", || {
        prometheus.check_alive()?;
        let firing = firing(node)?;
        ensure!(firing.contains(&down), "{firing:?}");
        Ok(())
    })?;
    let all = firing(node)?;
    ensure!(
        all.iter().all(|(_, peer)| peer != "tor-b"),
        "a peer that is shut down: {all:?}"
    );
    let targets = ask(node, "targets")?;
    let target = &targets["data"]["activeTargets"][0];
    ensure!(target["health"] == "up" && target["lastError"] == "", "{target}");
    // Histograms and counters are what Prometheus takes them for.
    let kind = ask(node, "metadata?metric=podroute_update_to_kernel_seconds")?;
    ensure!(
        kind["data"]["podroute_update_to_kernel_seconds"][0]["type"] == "histogram",
        "{kind}"
    );
    let _tor = podroute::start_with(tor, TOR)?;
    wait::until(CONVERGENCE, "the end of the alert", || {
        let firing = firing(node)?;
        ensure!(!firing.contains(&down), "{firing:?}");
        Ok(())
    })?;
    wait_route(node, prefix("10.244.9.0/24"), CONVERGENCE, |route| {
        !route.next_hops.is_empty()
    })?;
    // The next hop is known now, so that the next UPDATE goes to the kernel at once and is measured.
    let two = TOR.replace(
        "blocks: [10.244.9.0/24]",
        "blocks: [10.244.9.0/24, 10.244.8.0/24]",
    );
    tor.write_config("podroute.yaml", &two)?;
    tor.run(&bins::find("podroute")?.to_string_lossy(), &["reload"])?;
    wait::until(CONVERGENCE, "a measured UPDATE", || {
        let found = ask(node, "query?query=podroute_update_to_kernel_seconds_count")?;
        let count = found["data"]["result"][0]["value"][1]
            .as_str()
            .unwrap_or("0")
            .to_owned();
        ensure!(count != "0", "{found}");
        Ok(())
    })
}

fn rules_pass() -> Result<()> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/monitoring");
    let mut promtool = command("promtool");
    let tested = promtool
        .args(["test", "rules", "alerts_test.yaml"])
        .current_dir(dir)
        .output()
        .context("promtool")?;
    let said = String::from_utf8_lossy(&[tested.stdout, tested.stderr].concat()).into_owned();
    ensure!(tested.status.success(), "promtool: {said}");
    Ok(())
}

/// Standard error is a pipe that is full: the agent answers, and routes as ever.
fn nobody_reads() -> Result<()> {
    let hosts = switch(&[("tor", 1), ("node-1", 11)])?;
    let (tor, node) = (&hosts[0], &hosts[1]);
    let pipe = node.dir().join("stderr");
    node.run("mkfifo", &[&pipe.to_string_lossy()])?;
    // A reader that does not read; the pipe is a page long.
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .context(pipe.display())?;
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).context("F_SETPIPE_SZ")?;
    let mut probe = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(&pipe)
        .context(pipe.display())?;
    let file = node.write_config("podroute.yaml", NODE)?;
    let program = bins::find("podroute")?;
    let line = format!(
        "exec {} run --config {} 2>{}",
        program.display(),
        file.display(),
        pipe.display()
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &line]).env("PODROUTE_LOG", "trace");
    let mut agent = node.spawn("podroute", &mut shell)?;
    wait::until(CONVERGENCE, "a full pipe", || {
        agent.check_alive()?;
        // What is full takes no octet more.
        match probe.write(b"x") {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            other => wait::not_yet(format!("{other:?}")),
        }
    })?;
    let _tor = podroute::start_with(tor, TOR)?;
    wait_route(node, prefix("10.244.9.0/24"), CONVERGENCE, |route| {
        !route.next_hops.is_empty()
    })?;
    // It still answers commands, and takes them.
    let level = node.run(&program.to_string_lossy(), &["log-level", "warn"])?;
    ensure!(level.trim() == "warn", "{level}");
    wait::until(Duration::from_secs(10), "the session", || {
        let peers = podroute::show(node, "peers")?.to_string();
        ensure!(peers.contains("Established"), "{peers}");
        Ok(())
    })
}
