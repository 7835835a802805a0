//! The CNI plugins as a runtime sees them: verbs, chains and clear errors. No agent runs here; the lab
//! writes node.json in its place.

use std::collections::BTreeSet;

use lab::cni::{IFNAME, Plugin, Reply, Runtime};
use lab::daemon::Kind;
use lab::failure::{Failure, Result};
use lab::kernel::{self, PROTO_CNI};
use lab::probe::Endpoint;
use lab::rack::{Plan, Rack};
use lab::topology::{Family, Topology};
use lab::{ensure, netns, probe};
use serde_json::{Value, json};

use crate::support::prefix;
use crate::{Scenario, scenario};

const TRY_AGAIN_LATER: u64 = 11;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("cni::add_check_del", [], add_check_del),
        scenario("cni::first_packets_both_ways", [], first_packets),
        scenario("cni::input_that_is_not_json", [], not_json),
        scenario("cni::missing_namespace", [], missing_namespace),
        scenario("cni::the_hosts_own_namespace_is_refused", [], host_namespace),
        scenario("cni::no_agent_yet_means_try_again_later", [], no_agent),
        scenario("cni::exhausted_block", [], exhausted),
        scenario("cni::del_is_idempotent", [], del_twice),
        scenario("cni::parallel_adds_give_distinct_addresses", [], parallel),
        scenario("cni::versions", [], versions),
        scenario("cni::podroute_ipam_under_ptp", [], || {
            delegated(json!({"type": "ptp"}))
        })
        .with_reference_plugins(),
        scenario("cni::podroute_ipam_under_bridge", [], || {
            delegated(json!({"type": "bridge", "bridge": "cni0", "isGateway": true}))
        })
        .with_reference_plugins(),
    ]
}

/// Machines and cables, no daemon; node-1 has its node.json.
fn rack() -> Result<Rack> {
    rack_with_block("10.244.1.0/24")
}

fn rack_with_block(block: &str) -> Result<Rack> {
    let mut plan = Plan::new(Topology::small(), Kind::Bird, Kind::Bird);
    plan.plugin = Plugin::Podroute;
    plan.topology.machine_mut("node-1").blocks[0] = prefix(block);
    let rack = Rack::build(plan)?;
    rack.write_node_json("node-1")?;
    Ok(rack)
}

/// The interfaces of node-1 but for its loopback and uplink.
fn pod_links(rack: &Rack) -> Result<BTreeSet<String>> {
    let text = rack.host("node-1").ip("-json link show")?;
    let links: Value = serde_json::from_str(&text).unwrap_or_default();
    let names = links
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|link| link["ifname"].as_str());
    Ok(names
        .filter(|name| !["lo", "eth0"].contains(name))
        .map(str::to_owned)
        .collect())
}

fn expect_error(reply: &Reply, code: u64, words: &[&str]) -> Result<()> {
    let message = reply.json["msg"].as_str().unwrap_or_default();
    let details = reply.json["details"].as_str().unwrap_or_default();
    let text = format!("{message} {details}");
    if reply.code() == Some(code) && words.iter().all(|word| text.contains(word)) {
        return Ok(());
    }
    Err(Failure::new(format!("not CNI error {code} with {words:?}")).evidence("answer", &reply.text))
}

fn plugin_config(runtime: &Runtime) -> Value {
    runtime.config_of(&runtime.plugins()[0])
}

fn add_check_del() -> Result<()> {
    let rack = rack()?;
    let runtime = rack.runtime("node-1");
    netns::create("pod")?;
    let added = runtime.add("pod")?;
    ensure!(added.success, "ADD failed: {}", added.text);
    let node = rack.host("node-1");
    for family in Family::BOTH {
        let routes = kernel::routes(node, family)?;
        let host_routes = routes
            .iter()
            .filter(|r| r.protocol == PROTO_CNI && r.prefix.prefix_len() == r.prefix.max_prefix_len())
            .count();
        ensure!(
            host_routes == 1,
            "{} host routes of the plugin: {host_routes}, {routes:?}",
            family.label()
        );
    }
    let mut config = plugin_config(&runtime);
    config["prevResult"] = added.json.clone();
    let check = runtime.exec("podroute-cni", "CHECK", "pod", &config.to_string())?;
    ensure!(check.success, "CHECK of a good pod failed: {}", check.text);
    // CHECK notices what somebody broke.
    let address = added.json["ips"][0]["address"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let address = address.split('/').next().unwrap_or_default();
    node.ip(&format!("route del {address}/32 proto {PROTO_CNI}"))?;
    let broken = runtime.exec("podroute-cni", "CHECK", "pod", &config.to_string())?;
    ensure!(!broken.success, "CHECK did not notice the missing host route");
    let deleted = runtime.del("pod")?;
    ensure!(deleted.success, "DEL failed: {}", deleted.text);
    ensure!(
        pod_links(&rack)?.is_empty(),
        "after DEL there are {:?}",
        pod_links(&rack)?
    );
    ensure!(
        kernel::route(node, prefix(&format!("{address}/32")))?.is_none(),
        "the host route stayed"
    );
    Ok(())
}

/// The packet right after ADD is not lost, in either direction and family.
fn first_packets() -> Result<()> {
    let rack = rack()?;
    let runtime = rack.runtime("node-1");
    let node = rack.node_endpoints()?.swap_remove(0);
    let limit = std::time::Duration::from_secs(2);
    for number in 0..20 {
        let pod = runtime.add_pod(&format!("pod-{number}"))?;
        let addresses: Vec<_> = pod.addresses.values().copied().collect();
        // Even: the node speaks first. Odd: the pod does.
        let (from, to) = if number % 2 == 0 {
            (node.name.clone(), addresses)
        } else {
            (pod.name.clone(), node.addresses.clone())
        };
        let answered = netns::within(&from, || lab::icmp::ping_all(&to, number, limit))?;
        ensure!(
            answered.len() == to.len(),
            "pod {number}: from {from} only {answered:?} of {to:?} answered"
        );
    }
    Ok(())
}

fn not_json() -> Result<()> {
    let rack = rack()?;
    netns::create("pod")?;
    let runtime = rack.runtime("node-1");
    for garbage in ["", "{", "not json", "\u{0}"] {
        let reply = runtime.exec("podroute-cni", "ADD", "pod", garbage)?;
        expect_error(&reply, 6, &[]).map_err(|f| f.during(format_args!("input {garbage:?}")))?;
    }
    ensure!(
        pod_links(&rack)?.is_empty(),
        "a refused ADD left {:?}",
        pod_links(&rack)?
    );
    Ok(())
}

fn missing_namespace() -> Result<()> {
    let rack = rack()?;
    let reply = rack.runtime("node-1").add("gone")?;
    expect_error(&reply, 3, &["/run/netns/gone"])?;
    ensure!(
        pod_links(&rack)?.is_empty(),
        "a refused ADD left {:?}",
        pod_links(&rack)?
    );
    Ok(())
}

fn host_namespace() -> Result<()> {
    let rack = rack()?;
    let runtime = rack.runtime("node-1");
    let env = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "self"),
        ("CNI_NETNS", "/proc/self/ns/net"),
        ("CNI_IFNAME", IFNAME),
    ];
    let reply = runtime.exec_with("podroute-cni", &env, &plugin_config(&runtime).to_string())?;
    ensure!(
        !reply.success,
        "ADD into the host's own namespace succeeded: {}",
        reply.text
    );
    ensure!(
        pod_links(&rack)?.is_empty(),
        "a refused ADD left {:?}",
        pod_links(&rack)?
    );
    Ok(())
}

fn no_agent() -> Result<()> {
    let rack = rack()?;
    netns::create("pod")?;
    let file = rack.host("node-1").run_file("podroute/node.json");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    std::fs::remove_file(&file).map_err(|e| Failure::new(e.to_string()))?;
    let runtime = rack.runtime("node-1");
    let reply = runtime.add("pod")?;
    expect_error(&reply, TRY_AGAIN_LATER, &["node.json", "podroute run"])?;
    ensure!(
        pod_links(&rack)?.is_empty(),
        "a refused ADD left {:?}",
        pod_links(&rack)?
    );
    // The same request succeeds as soon as the agent has spoken.
    std::fs::write(&file, text).map_err(|e| Failure::new(e.to_string()))?;
    let reply = runtime.add("pod")?;
    ensure!(reply.success, "ADD failed with node.json there: {}", reply.text);
    Ok(())
}

fn exhausted() -> Result<()> {
    let rack = rack_with_block("10.244.1.0/29")?;
    let runtime = rack.runtime("node-1");
    let mut pods = Vec::new();
    // A /29 has eight addresses: at the ninth pod at the latest it is full.
    let refused = loop {
        let name = format!("pod-{}", pods.len());
        netns::create(&name)?;
        let reply = runtime.add(&name)?;
        if !reply.success {
            break reply;
        }
        pods.push(name);
        ensure!(pods.len() <= 8, "a /29 gave {} addresses", pods.len());
    };
    ensure!(
        pods.len() >= 4,
        "a /29 gave only {} addresses: {}",
        pods.len(),
        refused.text
    );
    expect_error(&refused, TRY_AGAIN_LATER, &["10.244.1.0/29", "no free address"])?;
    let links = pod_links(&rack)?;
    ensure!(
        links.len() == pods.len(),
        "{} pods but links {links:?}",
        pods.len()
    );
    // One pod goes, the next ADD gets its place.
    let freed = runtime.del(&pods[1])?;
    ensure!(freed.success, "DEL failed: {}", freed.text);
    let reply = runtime.add(&format!("pod-{}", pods.len()))?;
    ensure!(reply.success, "no address after a DEL: {}", reply.text);
    Ok(())
}

fn del_twice() -> Result<()> {
    let rack = rack()?;
    let runtime = rack.runtime("node-1");
    let never_added = runtime.del("unknown")?;
    ensure!(
        never_added.success,
        "DEL of what was never added: {}",
        never_added.text
    );
    runtime.add_pod("pod")?;
    // The namespace goes first, as after a crash of the runtime.
    netns::delete("pod")?;
    for _ in 0..2 {
        let reply = runtime.del("pod")?;
        ensure!(reply.success, "DEL failed: {}", reply.text);
    }
    ensure!(
        pod_links(&rack)?.is_empty(),
        "after DEL there are {:?}",
        pod_links(&rack)?
    );
    Ok(())
}

fn parallel() -> Result<()> {
    const PODS: usize = 24;
    let rack = rack()?;
    let runtime = rack.runtime("node-1");
    let pods = std::thread::scope(|scope| {
        let add = |number: usize| runtime.add_pod(&format!("pod-{number}"));
        let jobs: Vec<_> = (0..PODS).map(|number| scope.spawn(move || add(number))).collect();
        let done = jobs
            .into_iter()
            .map(|job| job.join().unwrap_or_else(|_| Err(Failure::new("panic"))));
        done.collect::<Result<Vec<_>>>()
    })?;
    let addresses: BTreeSet<_> = pods
        .iter()
        .flat_map(|pod| pod.addresses.values().copied())
        .collect();
    ensure!(
        addresses.len() == 2 * PODS,
        "{PODS} pods share addresses: {addresses:?}"
    );
    let endpoints: Vec<Endpoint> = pods
        .iter()
        .map(|pod| Endpoint {
            name: pod.name.clone(),
            addresses: pod.addresses.values().copied().collect(),
            seen_as: Vec::new(),
        })
        .collect();
    probe::ping(&endpoints, &endpoints)?
        .check("pods of one node")
        .map(drop)
}

fn versions() -> Result<()> {
    let rack = rack()?;
    let runtime = rack.runtime("node-1");
    for plugin in ["podroute-cni", "podroute-ipam"] {
        let reply = runtime.exec_with(
            plugin,
            &[("CNI_COMMAND", "VERSION")],
            r#"{"cniVersion": "1.0.0"}"#,
        )?;
        let versions = reply.json["supportedVersions"].to_string();
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            ensure!(
                versions.contains(version),
                "{plugin} does not support {version}: {}",
                reply.text
            );
        }
    }
    for (number, version) in ["0.4.0", "1.0.0", "1.1.0"].iter().enumerate() {
        let pod = format!("pod-{number}");
        netns::create(&pod)?;
        let mut config = plugin_config(&runtime);
        config["cniVersion"] = json!(version);
        let reply = runtime.exec("podroute-cni", "ADD", &pod, &config.to_string())?;
        ensure!(
            reply.success && reply.json["cniVersion"] == *version,
            "ADD in {version}: {}",
            reply.text
        );
    }
    let mut config = plugin_config(&runtime);
    config["cniVersion"] = json!("9.9.9");
    let reply = runtime.exec("podroute-cni", "ADD", "pod-0", &config.to_string())?;
    expect_error(&reply, 1, &["9.9.9"])
}

/// Two pods by a reference plugin that asks our IPAM: they reach each other and the addresses return.
fn delegated(plugin: Value) -> Result<()> {
    let rack = rack_with_block("10.244.1.0/29")?;
    let node = rack.host("node-1");
    let mut plugin = plugin;
    plugin["ipMasq"] = json!(false);
    plugin["ipam"] = json!({"type": "podroute-ipam", "runDir": "/run/podroute"});
    plugin["runDir"] = json!("/run/podroute");
    let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [plugin]});
    let runtime = Runtime::with_list(node, list);
    let pods = [runtime.add_pod("pod-a")?, runtime.add_pod("pod-b")?];
    let endpoints = pods.clone().map(|pod| Endpoint {
        name: pod.name.clone(),
        addresses: pod.addresses.values().copied().collect(),
        seen_as: Vec::new(),
    });
    for pod in &pods {
        for (family, address) in &pod.addresses {
            let block = rack
                .plan
                .topology
                .machine("node-1")
                .blocks
                .iter()
                .find(|b| Family::of(b.addr()) == *family);
            ensure!(
                block.is_some_and(|b| b.contains(address)),
                "{address} is not in the node's block"
            );
        }
    }
    probe::ping(&endpoints, &endpoints)?.check("pods under the reference plugin")?;
    // More pods, one after the other, than the block has addresses: DEL gives them back.
    for number in 0..8 {
        let name = format!("pod-{number}");
        runtime.add_pod(&name)?;
        runtime.delete_pod(&name)?;
    }
    runtime.delete_pod("pod-a")?;
    runtime.delete_pod("pod-b")
}
