//! Questions of operators, each answered by one command on a node.

use std::process::Command;

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Result};
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Rack};
use lab::{bins, ensure, wait};
use serde_json::Value;

use crate::sessions::established;
use crate::support::{prefix, small, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![scenario(
        "questions::what_changed",
        [Kind::Podroute],
        what_changed,
    )]
}

/// What a command answers as JSON.
fn ask(host: &Host, arguments: &str) -> Result<Value> {
    let program = bins::find("podroute")?;
    let arguments: Vec<&str> = arguments.split(' ').chain(["-o", "json"]).collect();
    let text = host.run(&program.to_string_lossy(), &arguments)?;
    serde_json::from_str(&text).context(arguments.join(" "))
}

fn run(host: &Host, arguments: &[&str]) -> Result<String> {
    host.run(&bins::find("podroute")?.to_string_lossy(), arguments)
}

/// Waits for an event with this name and these words.
fn wait_event(host: &Host, event: &str, words: &[&str]) -> Result<Value> {
    wait::until(CONVERGENCE, format_args!("event {event} with {words:?}"), || {
        let all = ask(host, "events")?;
        ensure!(all["schema"] == "podroute.events/v1", "{all}");
        let events = all["events"].as_array().cloned().unwrap_or_default();
        let is_it = |entry: &Value| {
            let text = entry.to_string();
            entry["event"] == event && words.iter().all(|word| text.contains(word))
        };
        match events.into_iter().rev().find(is_it) {
            Some(entry) => Ok(entry),
            None => wait::not_yet(all.to_string()),
        }
    })
}

fn what_changed() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let (node, tor) = (rack.host("node-1").clone(), rack.host("tor-a").clone());
    let far = prefix("10.244.2.0/24");
    wait_event(&node, "session_up", &["tor-a"])?;
    wait_event(&node, "route_learned", &["10.244.2.0/24", "192.0.2.1"])?;
    let runtime = rack.runtime("node-1");
    let address = runtime.add_kubernetes_pod("default", "web")?;
    let added = wait_event(&node, "pod_added", &[&address.to_string()])?;
    ensure!(
        added["subject"] == "default/web" && added["kind"] == "pod",
        "{added}"
    );
    runtime.delete_pod("web")?;
    wait_event(&node, "pod_removed", &["default/web"])?;

    // A session that ends: the cause, and the route that goes with it.
    run(&tor, &["peer", "disable", "node-1", "--message", "cable test"])?;
    let down = wait_event(&node, "session_down", &["tor-a", "cable test"])?;
    ensure!(down["severity"] == "warn" && down["cause"].is_string(), "{down}");
    wait_no_route(&node, far, CONVERGENCE)?;
    wait_event(&node, "route_lost", &["10.244.2.0/24"])?;
    run(&tor, &["peer", "enable", "node-1"])?;
    established(&node, "tor-a")?;
    wait_route(&node, far, CONVERGENCE, |_| true)?;
    let again = wait_event(&node, "route_learned", &["10.244.2.0/24", "\"flaps\":2"])?;

    // Another program removes a route.
    node.ip("route del 10.244.2.0/24")?;
    wait_event(&node, "route_restored", &[])?;
    let file = node.dir().join("etc/podroute.yaml");
    let text = std::fs::read_to_string(&file).context("the file")?;
    std::fs::write(&file, format!("{text}metrics: {{port: 9179}}\n")).context("the file")?;
    run(&node, &["reload"])?;
    wait_event(&node, "reloaded", &["changed metrics"])?;

    // The journal survives the agent's death, and whoever follows it too.
    let mut follow = Command::new(bins::find("podroute")?);
    follow.args(["events", "--follow", "--kind", "node"]);
    let follower = node.spawn("follower", &mut follow)?;
    wait::until(CONVERGENCE, "what is there already", || {
        let log = follower.log();
        ensure!(log.contains("agent started"), "{log}");
        Ok(())
    })?;
    rack.daemon("node-1").kill();
    rack.daemon("node-1").restart_daemons()?;
    wait::until(CONVERGENCE, "the second start of the agent", || {
        let log = follower.log();
        ensure!(log.matches("agent started").count() == 2, "{log}");
        Ok(())
    })?;
    let kept = wait_event(&node, "session_down", &["cable test"])?;
    ensure!(kept == down, "{kept}, it was {down}");
    wait_event(
        &node,
        "route_learned",
        &[&format!("\"number\":{}", again["number"])],
    )?;
    let none = ask(&node, "events --since 0s")?;
    ensure!(none["events"] == Value::Array(Vec::new()), "{none}");
    let table = run(&node, &["events", "--since", "1h", "--kind", "session"])?;
    ensure!(
        table.contains("cable test") && !table.contains("agent started"),
        "{table}"
    );
    let podroute = bins::find("podroute")?;
    let bad = node.output(&podroute.to_string_lossy(), &["events", "--since", "soon"])?;
    ensure!(bad.status.code() == Some(2), "{bad:?}");
    // A file that is cut off in the middle of a line.
    rack.daemon("node-1").kill();
    let journal = node.run_file("podroute/journal");
    let text = std::fs::read(&journal).context("the journal")?;
    std::fs::write(&journal, &text[..text.len() - 7]).context("the journal")?;
    rack.daemon("node-1").restart_daemons()?;
    let kept = wait_event(&node, "session_down", &["cable test"])?;
    ensure!(kept == down, "{kept}");
    podroute::show(&node, "peers").map(drop)
}
