//! Questions of operators, each answered by one command on a node.

use std::process::Command;

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Result};
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Rack};
use lab::{bins, ensure, wait};
use serde_json::Value;

use crate::sessions::{cable, established, yaml};
use crate::support::{prefix, small, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario("questions::what_changed", ours, what_changed),
        scenario("questions::routes_of_an_address_and_of_a_peer", ours, routes),
        scenario("questions::why_a_path_is_not_the_best", ours, decision),
    ]
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

/// A command's exit status and output.
fn outcome(host: &Host, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = host.output(&bins::find("podroute")?.to_string_lossy(), arguments)?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

/// Whose an address is, what a peer sent and is sent, why a path is not the best, whether the kernel is in sync.
fn routes() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    rack.add_pods(1)?;
    let node = rack.host("node-1").clone();
    let file = node.dir().join("etc/podroute.yaml");
    let text = std::fs::read_to_string(&file).context("the file")?;
    let first = "  from-tor:\n";
    let marking = "  from-tor:\n  - match: {prefixes: [{in: 10.244.2.0/24, length: 24-32}]}\n    set: {localPreference: 200, communities: {add: [\"64512:7\"]}}\n    action: accept\n";
    ensure!(text.contains(first), "{text}");
    std::fs::write(&file, text.replace(first, marking)).context("the file")?;
    run(&node, &["reload"])?;

    let pod = rack.pods.iter().find(|pod| pod.node == "node-1");
    let pod = pod.ok_or_else(|| lab::failure::Failure::new("no pod"))?.clone();
    let own = pod.addresses[&lab::topology::Family::V4].to_string();
    let answer = ask(&node, &format!("show routes {own}"))?;
    ensure!(
        answer["schema"] == "podroute.routes/v1"
            && answer["address"]["owner"]["kind"] == "pod"
            && answer["address"]["owner"]["name"] == pod.name.as_str()
            && answer["address"]["kernel"]["matched"]["protocol"] == 246
            && answer["routes"][0]["prefix"] == "10.244.1.0/24",
        "{answer}"
    );
    let far = run(&node, &["show", "routes", "10.244.2.77"])?;
    for word in ["10.244.2.0/24 via 192.0.2.1 dev eth0, protocol podroute", "tor-a"] {
        ensure!(far.contains(word), "no {word:?} in {far}");
    }
    let (_, nobody) = outcome(&node, &["show", "routes", "8.8.8.8"])?;
    ensure!(
        nobody.contains("no routes") && nobody.contains("neither a pod"),
        "{nobody}"
    );

    let received = wait::until(CONVERGENCE, "what the policy changes", || {
        let received = run(&node, &["show", "routes", "--from", "tor-a", "--pre-policy"])?;
        ensure!(received.contains("localPreference: none -> 200"), "{received}");
        Ok(received)
    })?;
    ensure!(
        received.contains("communities: none -> 64512:7") && received.contains("from-tor"),
        "{received}"
    );
    let sent = ask(&node, "show routes --to tor-a")?;
    let of = |prefix: &str| -> Value {
        let all = sent["routes"].as_array().into_iter().flatten();
        let found = all.into_iter().find(|route| route["prefix"] == prefix);
        found.map(|route| route["export"].clone()).unwrap_or_default()
    };
    ensure!(
        of("10.244.1.0/24")["sent"]["asPath"] == "64512"
            && of("10.244.1.0/24")["sent"]["nextHop"] == "192.0.2.11",
        "{sent}"
    );
    let withheld = of("10.244.2.0/24")["withheld"].to_string();
    ensure!(withheld.contains("received from this peer"), "{sent}");
    let (code, unknown) = outcome(&node, &["show", "routes", "--to", "tor-z"])?;
    ensure!(
        code == Some(1) && unknown.contains("there are: tor-a"),
        "{code:?} {unknown}"
    );

    // The ToR receives each block from its node only: the path of another one loses by its AS path.
    let (code, summary) = outcome(&node, &["show", "fib", "--summary"])?;
    ensure!(
        code == Some(0) && summary.starts_with("in sync: "),
        "{code:?} {summary}"
    );
    node.ip("route add 10.244.2.0/24 via 192.0.2.1 metric 20 proto static")
        .or_else(|_| node.ip("route replace 10.244.2.0/24 via 192.0.2.1 metric 20 proto static"))?;
    wait::until(CONVERGENCE, "a kernel that is not in sync", || {
        let (code, summary) = outcome(&node, &["show", "fib", "--summary"])?;
        ensure!(
            code == Some(3) && summary.starts_with("not in sync") && summary.contains("10.244.2.0/24"),
            "{code:?} {summary}"
        );
        Ok(())
    })?;
    for form in ["json", "yaml", "wide"] {
        for what in [
            "peers", "routes", "fib", "blocks", "bfd", "cluster", "services", "policies", "pods",
        ] {
            let text = run(&node, &["show", what, "-o", form])?;
            ensure!(
                form == "wide" || text.contains(&format!("podroute.{what}/v1")),
                "{what} {form}: {text}"
            );
        }
    }
    Ok(())
}

/// Two sessions with one router: the path of one is not the best, and why.
fn decision() -> Result<()> {
    let [node, router] = cable("node-a", "tor-b", true)?;
    node.ip("addr add 192.0.2.3/24 dev eth0")?;
    router.ip("addr add 192.0.2.4/24 dev eth0")?;
    let more = "peers:\n- {name: one, address: 192.0.2.2, localAddress: 192.0.2.1, asn: 65001, import: all, export: all}\n\
                - {name: two, address: 192.0.2.4, localAddress: 192.0.2.3, asn: 65001, import: all, export: all}\n\
                policies: {all: accept}\n";
    let _node = podroute::start_with(&node, &yaml("node-a", 64601, "10.244.1.0/24", more))?;
    let more = "peers:\n- {name: one, address: 192.0.2.1, localAddress: 192.0.2.2, asn: 64601, import: all, export: all}\n\
                - {name: two, address: 192.0.2.3, localAddress: 192.0.2.4, asn: 64601, import: all, export: longer}\n\
                policies:\n  all: accept\n  longer:\n  - {set: {prepend: 1}, action: accept}\n";
    let _router = podroute::start_with(&router, &yaml("tor-b", 65001, "10.244.2.0/24", more))?;
    established(&node, "one")?;
    established(&node, "two")?;
    wait::until(CONVERGENCE, "the step of the decision", || {
        let text = run(&node, &["show", "routes", "10.244.2.0/24"])?;
        ensure!(text.contains("longer AS path (preferred: one)"), "{text}");
        Ok(())
    })?;
    let answer = ask(&node, "show routes 10.244.2.0/24")?;
    let paths = answer["routes"][0]["paths"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        paths.len() == 2 && paths[0]["notBest"].is_null() && paths[1]["from"] == "two",
        "{answer}"
    );
    Ok(())
}
