//! One agent beside thousands of nodes and Services.

use std::time::{Duration, Instant};

use lab::daemon::{Kind, podroute};
use lab::ensure;
use lab::failure::{Context, Result};
use lab::wait;
use serde_json::{Value, json};

use crate::kube::{Cluster, with_api};
use crate::{Scenario, scenario};

const NODES: usize = 5000;
const SERVICES: usize = 2000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![scenario(
        "kube::five_thousand_nodes_and_two_thousand_services",
        [Kind::Podroute],
        || with_api(thousands),
    )]
}

fn thousands(cluster: &mut Cluster) -> Result<()> {
    let node = |n: usize| {
        // Two of them reflect.
        let labels = if n < 2 {
            json!({"podroute/reflector": "true"})
        } else {
            json!({"rack": format!("r{}", n / 40)})
        };
        let cidr = format!("10.{}.{}.0/24", 64 + n / 256, n % 256);
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("far-{n}"), "labels": labels},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.20.{}.{}", n / 250, n % 250 + 1)}]},
        })
    };
    let service = |n: usize| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("service-{n}")},
            "spec": {"externalIPs": [format!("198.18.{}.{}", n / 250, n % 250 + 1)], "ports": [{"port": 80}]},
        })
    };
    let start = Instant::now();
    cluster.create_all("/api/v1/nodes", (0..NODES).map(node))?;
    cluster.create_all("/api/v1/namespaces/default/services", (0..SERVICES).map(service))?;
    println!(
        "{NODES} nodes and {SERVICES} Services made in {:?}",
        start.elapsed()
    );
    cluster.join_all()?;
    let host = cluster.nodes[0].clone();
    let octets = || -> Result<u64> {
        let text = host.ip("-s -json link show dev eth0")?;
        let parsed: Value = serde_json::from_str(&text).context("ip -s link")?;
        Ok(parsed[0]["stats64"]["rx"]["bytes"].as_u64().unwrap_or(0))
    };
    let before = octets()?;
    let start = Instant::now();
    cluster.start_agent(
        0,
        "mesh: {mode: reflectors, reflectorSelector: {podroute/reflector: \"true\"}}\nservices: {advertise: [external], ranges: [198.18.0.0/15]}\n",
    )?;
    let in_sync = || -> Result<()> {
        let peers = podroute::show(&host, "peers")?["peers"]
            .as_array()
            .map_or(0, Vec::len);
        let routes = podroute::show(&host, "routes")?["routes"]
            .as_array()
            .map_or(0, Vec::len);
        ensure!(
            peers == 2 && routes == SERVICES + 1,
            "{peers} peers, {routes} routes"
        );
        Ok(())
    };
    wait::until(Duration::from_secs(60), "the agent in sync", in_sync)?;
    let took = start.elapsed();
    let received = octets()? - before;
    let (cpu, peak) = lab::process::cost(std::slice::from_ref(&cluster.agents[0]))?;
    println!(
        "one agent, {NODES} nodes, {SERVICES} Services: in sync after {took:?}, {:.1} MiB from the API server, \
         {cpu:.2} CPU s, {peak:.1} MiB",
        received as f64 / 1048576.0
    );
    ensure!(took < Duration::from_secs(20), "in sync only after {took:?}");
    ensure!(peak < 150.0, "{peak} MiB");
    ensure!(cpu < 5.0, "{cpu} CPU s");
    // One more node is one more event, not another list.
    let before = octets()?;
    cluster.create_all("/api/v1/nodes", [node(NODES)].into_iter())?;
    cluster.patch(
        &format!("/api/v1/nodes/far-{}", NODES - 1),
        &json!({"metadata": {"labels": {"podroute/reflector": "true"}}}),
    )?;
    wait::until(Duration::from_secs(20), "a third reflector", || {
        let peers = podroute::show(&host, "peers")?["peers"]
            .as_array()
            .map_or(0, Vec::len);
        ensure!(peers == 3, "{peers} peers");
        Ok(())
    })?;
    let more = octets()? - before;
    println!("one node more and one changed: {more} octets");
    ensure!(more < 200_000, "{more} octets for two events");
    let (after, _) = lab::process::cost(std::slice::from_ref(&cluster.agents[0]))?;
    ensure!(after - cpu < 2.0, "{} CPU s for two events", after - cpu);
    Ok(())
}
