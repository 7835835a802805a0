//! The agent on a host that changes: addresses, interfaces, MTU, kernel settings, rules of others.

use std::time::Duration;

use lab::daemon::{Kind, podroute};
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::flow::Flow;
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Rack};
use lab::wait;
use serde_json::Value;

use crate::support::{self, small};
use crate::{Scenario, scenario};

/// What is followed is followed within a second; a busy machine gets longer.
const SOON: Duration = Duration::from_secs(10);
const RATE: u32 = 1000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario(
            "host::pods_outlive_what_others_do_to_the_host",
            ours,
            pods_outlive,
        ),
        scenario("host::addresses_and_mtu_are_followed", ours, followed),
        scenario("host::forwarding_is_set_again", ours, forwarding),
        scenario("host::a_block_that_nobody_was_sent_says_so", ours, unsent),
        scenario("host::a_deleted_run_directory_is_made_again", ours, run_directory),
        scenario(
            "host::virtual_addresses_are_not_the_nodes",
            ours,
            virtual_addresses,
        ),
    ]
}

fn node_file(rack: &Rack) -> Result<Value> {
    let text = rack.host("node-1").run("cat", &["/run/podroute/node.json"])?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("node.json: {error}")).evidence("node.json", text))
}

fn wait_node_file(rack: &Rack, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
    wait::until(SOON, format_args!("{what} in node.json"), || {
        let file = node_file(rack)?;
        if is_so(&file) {
            Ok(())
        } else {
            wait::not_yet(file.to_string())
        }
    })
}

/// From the node to its pod: what others take away is put back within moments.
fn pods_outlive() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    rack.add_pods(1)?;
    let node = rack.host("node-1");
    let pod = support::pod_address(&rack, "node-1-pod-a", true)?;
    let pod6 = support::pod_address(&rack, "node-1-pod-a", false)?;
    let route = node.ip(&format!("-o route get {pod}"))?;
    let interface = word_after(&route, "dev")?;
    let (down, up) = (
        format!("link set {interface} down"),
        format!("link set {interface} up"),
    );
    let faults = [
        (
            "the node's address away and back",
            "addr del 192.0.2.11/24 dev eth0",
            "addr add 192.0.2.11/24 dev eth0",
        ),
        ("the pod's interface down and up", down.as_str(), up.as_str()),
        ("the pod's interface down", &down, "link show lo"),
        (
            "the routes flushed",
            "route flush proto 246",
            "-6 route flush proto 246",
        ),
    ];
    for (what, first, second) in faults {
        let flow = Flow::start("node-1", "node-1-pod-a", pod, RATE)?;
        let mark = flow.mark();
        node.ip(first)?;
        node.ip(second)?;
        flow.wait_for(200)?;
        let outcome = flow.finish()?;
        let lost = outcome.lost.iter().filter(|number| **number >= mark).count();
        println!("{what}: {lost} ms without the pod");
        let answered = node.within(|| lab::icmp::ping_all(&[pod, pod6], 1, SOON))?;
        ensure!(answered.len() == 2, "{what}: only {answered:?} answer");
    }
    // The kernel dropped the routes by the node's own gateway with its address; those are the operator's to bring back.
    rack.wait_sessions().map(drop)
}

fn word_after(text: &str, key: &str) -> Result<String> {
    let mut words = text.split_whitespace().skip_while(|word| *word != key).skip(1);
    let word = words
        .next()
        .ok_or_else(|| Failure::new(format!("no {key} in {text}")))?;
    Ok(word.to_owned())
}

/// Another address and MTU of the uplink are in node.json, and in the sources of routes.
fn followed() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    rack.add_pods(1)?;
    let node = rack.host("node-1");
    node.ip("link set eth0 mtu 1400")?;
    wait_node_file(&rack, "the MTU", |file| file["mtu"] == 1400)?;
    node.ip("addr add 192.0.2.111/24 dev eth0")?; // a secondary one
    node.ip("link set eth0 mtu 1450")?;
    wait_node_file(&rack, "the MTU", |file| file["mtu"] == 1450)?;
    ensure!(
        node_file(&rack)?["nodeAddresses"][0] == "192.0.2.11",
        "{}",
        node_file(&rack)?
    );
    node.sysctl("net/ipv4/conf/eth0/promote_secondaries", "1")?;
    node.ip("addr del 192.0.2.11/24 dev eth0")?;
    wait_node_file(&rack, "the other address", |file| {
        file["nodeAddresses"][0] == "192.0.2.111"
    })?;
    let pod = support::pod_address(&rack, "node-1-pod-a", true)?;
    wait::until(SOON, "the source of the route to the pod", || {
        let route = node.ip(&format!("-o route show {pod}"))?;
        if route.contains("src 192.0.2.111") {
            Ok(())
        } else {
            wait::not_yet(route)
        }
    })?;
    Ok(())
}

fn setting(node: &Host, key: &str) -> Result<String> {
    Ok(node.run("cat", &[&format!("/proc/sys/{key}")])?.trim().to_owned())
}

fn forwarding() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        node.sysctl(key, "0")?;
        wait::until(SOON, format_args!("{key}=1"), || {
            match setting(&node, key)?.as_str() {
                "1" => Ok(()),
                other => wait::not_yet(other.to_owned()),
            }
        })?;
    }
    support::wait_log(&mut rack, "node-1", &["WARN", "net.ipv4.ip_forward"])?;
    node.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    support::wait_log(&mut rack, "node-1", &["WARN", "rp_filter is strict"]).map(drop)
}

/// keepalived, kube-vip and kube-proxy in IPVS mode add addresses that are lower than the node's.
fn virtual_addresses() -> Result<()> {
    let mut rack = Rack::build(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    node.ip("addr add 192.0.2.5/32 dev eth0")?;
    node.ip("addr add 192.0.2.6/24 dev eth0")?;
    node.ip("-6 addr add 2001:db8:a::2/128 dev eth0 nodad")?;
    node.ip("-6 addr add 2001:db8:a::3/64 dev eth0 nodad preferred_lft 0")?;
    node.ip("link add ipvs0 type veth peer name ipvs1")?;
    node.ip("addr add 10.96.0.1/32 dev ipvs0")?;
    rack.start_daemons()?;
    rack.wait_sessions()?;
    let file = node_file(&rack)?;
    let addresses: Vec<&str> = file["nodeAddresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure!(
        addresses == ["192.0.2.11", "2001:db8:a::11"],
        "the node's addresses are {addresses:?}"
    );
    Ok(())
}

/// A clean-up of /run by somebody else does not cut the operator and the plugins off.
fn run_directory() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    node.run("sh", &["-c", "rm -r /run/podroute/*"])?;
    wait_node_file(&rack, "the MTU", |file| file["mtu"] == 1500)?;
    wait::until(SOON, "an answer of the agent", || {
        podroute::show(node, "peers").map(drop)
    })?;
    let second = node.output("sh", &["-c", "test -e /run/podroute/agent.lock"])?;
    ensure!(second.status.success(), "the lock is not there again");
    // One file alone: without it no pod can be added.
    node.run("rm", &["/run/podroute/node.json"])?;
    wait_node_file(&rack, "the MTU", |file| file["mtu"] == 1500)
}

fn unsent() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let all_are = |state: &str| {
        wait::until(SOON, format_args!("blocks that are {state}"), || {
            let blocks = podroute::show(&node, "blocks")?;
            let found = blocks["blocks"].as_array().cloned().unwrap_or_default();
            let are = !found.is_empty() && found.iter().all(|block| block["state"] == state);
            if are {
                Ok(())
            } else {
                wait::not_yet(blocks.to_string())
            }
        })
    };
    all_are("advertised")?;
    // A family alone: the node stays ready, and says so.
    let podroute = lab::bins::find("podroute")?;
    node.run(&podroute.to_string_lossy(), &["peer", "disable", "tor-a-v6"])?;
    wait::until(CONVERGENCE, "a warning about the IPv6 blocks", || {
        let log = rack.daemon("node-1").processes[0].log();
        ensure!(log.contains("no peer was sent the node's ipv6 blocks"), "{log}");
        Ok(())
    })?;
    rack.daemon("tor-a").kill();
    all_are("unsent")
}
