//! What changes in a cluster under way: the mesh and one node's annotations.

use std::time::Duration;

use lab::bins;
use lab::daemon::{Kind, podroute};
use lab::failure::{Failure, Result};
use lab::flow::Flow;
use lab::rack::CONVERGENCE;
use lab::{ensure, wait};
use serde_json::{Value, json};

use crate::kube::{Cluster, FULL, NAMES, with_api};
use crate::support::{prefix, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario(
            "kube::from_full_to_reflectors_and_back_without_a_gap",
            ours,
            || with_api(full_to_reflectors),
        ),
        scenario("kube::annotations_of_one_node", ours, || with_api(annotations)),
        scenario("kube::a_drain_is_seen_and_ends_with_the_node", ours, || {
            with_api(drains)
        }),
        scenario("kube::what_is_not_taken_is_rejected_alone", ours, || {
            with_api(rejected)
        }),
        scenario("kube::both_families_over_one_session", ours, || {
            with_api(both_families)
        }),
    ]
}

fn wait_names(cluster: &Cluster, node: usize, wanted: &[&str]) -> Result<()> {
    wait::until(
        Duration::from_secs(60),
        format_args!("{} has sessions with {wanted:?}", NAMES[node]),
        || {
            let found = cluster.names(node)?;
            ensure!(found == wanted, "{found:?}");
            Ok(())
        },
    )
}

fn reload(cluster: &Cluster, node: usize, more: &str) -> Result<()> {
    let yaml = format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [10.244.0.0/16]}}\nnode: {{blocks: kubernetes}}\n{more}"
    );
    let host = &cluster.nodes[node];
    host.write_config("podroute.yaml", &yaml)?;
    host.run(&bins::find("podroute")?.to_string_lossy(), &["reload"])
        .map(drop)
}

/// The nodes receive the change one after the other, the reflector last; of the way back first.
fn full_to_reflectors(cluster: &mut Cluster) -> Result<()> {
    const REFLECTORS: &str =
        "mesh: {mode: reflectors, reflectorSelector: {podroute/reflector: \"true\"}, hold: 9s}\n";
    cluster.join_all()?;
    let reflects = json!({"metadata": {"labels": {"podroute/reflector": "true"}}});
    cluster.patch("/api/v1/nodes/node-1", &reflects)?;
    cluster.start_agents(FULL)?;
    cluster.wait_mesh()?;
    for (node, host) in cluster.nodes.iter().enumerate() {
        host.ip(&format!("addr add 10.244.{}.1/32 dev lo", node + 1))?;
    }
    let flow = |from: usize, to: usize| {
        let to_address = format!("10.244.{}.1", to + 1);
        let address = to_address.parse().map_err(|_| Failure::new("an address"))?;
        Flow::start(NAMES[from], NAMES[to], address, 1000)
    };
    let flows = [flow(1, 2)?, flow(2, 1)?];
    for node in [1, 2, 0] {
        reload(cluster, node, REFLECTORS)?;
        // Others do not know yet.
        flows.iter().try_for_each(|flow| flow.wait_for(4000))?;
        if node != 0 {
            ensure!(
                cluster.names(1)?.contains(&"node-3".to_owned()),
                "node-2 let go of node-3 before anybody reflects"
            );
        }
    }
    wait_names(cluster, 1, &["node-1"])?;
    wait_names(cluster, 2, &["node-1"])?;
    flows.iter().try_for_each(|flow| flow.wait_for(500))?;
    // And back, the reflector first: it goes on reflecting until the others have met.
    for node in 0..NAMES.len() {
        reload(cluster, node, FULL)?;
        flows.iter().try_for_each(|flow| flow.wait_for(2000))?;
    }
    wait_names(cluster, 1, &["node-1", "node-3"])?;
    wait::until(CONVERGENCE, "node-2 hears from node-3 itself", || {
        let state = crate::support::peer(&cluster.nodes[1], "node-3")?;
        ensure!(state["state"] == "Established", "{state}");
        Ok(())
    })?;
    flows.iter().try_for_each(|flow| flow.wait_for(500))?;
    for flow in flows {
        flow.finish()?.check_no_loss(16_000)?;
    }
    cluster.wait_mesh()
}

fn annotations(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    for node in 0..NAMES.len() {
        let yaml = format!(
            "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [10.244.0.0/16]}}\n\
             node: {{blocks: kubernetes, annotations: [peers]}}\n{FULL}"
        );
        cluster.start_agent_with(node, &yaml)?;
    }
    cluster.wait_mesh()?;
    let annotate = |peers: Value| {
        cluster.patch(
            "/api/v1/nodes/node-2",
            &json!({"metadata": {"annotations": {"podroute/peers": peers}}}),
        )
    };
    annotate(json!("- {name: lab, address: 192.0.2.77, asn: 65007}\n"))?;
    wait_names(cluster, 1, &["lab", "node-1", "node-3"])?;
    ensure!(cluster.names(2)? == ["node-1", "node-2"], "another node took it");
    // What cannot be read is rejected alone, and says so; nor may an annotation name a file.
    for bad in [
        "- {name: lab, asn: 65007}\n",
        "- {name: lab, address: 192.0.2.77, asn: 65007, password: {file: /dev/zero}}\n",
    ] {
        annotate(json!(bad))?;
        wait_cluster(cluster, 1, |status| {
            let rejected = status["rejected"].to_string();
            rejected.contains("annotation podroute/peers[0]") && status["notReady"] != json!([])
        })?;
    }
    cluster
        .patch(
            "/api/v1/nodes/node-3",
            &json!({"spec": {"podCIDR": null, "podCIDRs": null}}),
        )
        .or_else(|_| cluster.delete("/api/v1/nodes/node-3"))?;
    wait_no_route(&cluster.nodes[0], prefix("10.244.3.0/24"), CONVERGENCE)?;
    ensure!(
        cluster.names(1)?.contains(&"lab".to_owned()),
        "a bad annotation took the peer away: {:?}",
        cluster.names(1)?
    );
    annotate(Value::Null)?;
    wait_names(cluster, 1, &["node-1"])?;
    wait_cluster(cluster, 1, |status| {
        status["rejected"] == json!([]) && status["notReady"] == json!([])
    })
}

/// Waits for what `podroute show cluster` of a node says.
fn wait_cluster(cluster: &Cluster, node: usize, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    wait::until(
        CONVERGENCE,
        format_args!("show cluster of {}", NAMES[node]),
        || {
            let status = podroute::show(&cluster.nodes[node], "cluster")?;
            ensure!(wanted(&status["cluster"]), "{status}");
            Ok(())
        },
    )
}

fn condition(cluster: &Cluster, node: usize) -> Result<Value> {
    let object = cluster.get(&format!("/api/v1/nodes/{}", NAMES[node]))?;
    let all = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = all.into_iter().find(|one| one["type"] == "NetworkUnavailable");
    Ok(found.unwrap_or_default())
}

fn wait_condition(cluster: &Cluster, node: usize, reason: &str) -> Result<()> {
    wait::until(
        CONVERGENCE,
        format_args!("condition {reason} of {}", NAMES[node]),
        || {
            let found = condition(cluster, node)?;
            ensure!(found["reason"] == reason, "{found}");
            Ok(())
        },
    )
}

fn readyz(cluster: &Cluster, node: usize) -> Result<String> {
    let url = "http://127.0.0.1:9179/readyz";
    cluster.nodes[node].run("curl", &["-s", "-w", " %{http_code}", url])
}

fn wait_readyz(cluster: &Cluster, node: usize, code: &str, words: &str) -> Result<()> {
    wait::until(CONVERGENCE, format_args!("readyz {code} {words}"), || {
        let said = readyz(cluster, node)?;
        ensure!(said.ends_with(code) && said.contains(words), "{said}");
        Ok(())
    })
}

fn metric(cluster: &Cluster, node: usize, wanted: &str) -> Result<()> {
    let text = cluster.nodes[node].run("curl", &["-s", "http://127.0.0.1:9179/metrics"])?;
    ensure!(text.lines().any(|line| line == wanted), "no {wanted} in {text}");
    Ok(())
}

const METRICS: &str = "metrics: {port: 9179}\n";

/// A drain is seen everywhere, outlives the agent, and ends with the Node object.
fn drains(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!("{FULL}{METRICS}"))?;
    cluster.wait_mesh()?;
    wait_condition(cluster, 1, "PodrouteReady")?;
    let command = bins::find("podroute")?.to_string_lossy().into_owned();
    cluster.nodes[1].run(&command, &["drain", "--wait", "0"])?;
    wait_condition(cluster, 1, "PodrouteDrained")?;
    wait_readyz(cluster, 1, "503", "routes are withdrawn")?;
    metric(cluster, 1, "podroute_drained 2")?;
    wait_cluster(cluster, 1, |status| status["drained"] == "withdrawn")?;
    wait_no_route(&cluster.nodes[0], prefix("10.244.2.0/24"), CONVERGENCE)?;
    // The agent restarts: still drained, and not reset by the facts of the same object.
    let mut agent = cluster.agents.remove(1);
    agent.terminate(Duration::from_secs(10))?;
    cluster.start_agent(1, &format!("{FULL}{METRICS}"))?;
    wait_cluster(cluster, 1, |status| {
        status["drained"] == "withdrawn" && status["watches"][0]["answers"] == true
    })?;
    // The node is deleted and registers again: a new node, which gets pods.
    cluster.delete("/api/v1/nodes/node-2")?;
    cluster.join(1, "10.244.2.0/24")?;
    wait_cluster(cluster, 1, |status| status["drained"] == "no")?;
    wait_condition(cluster, 1, "PodrouteReady")?;
    wait_readyz(cluster, 1, "200", "ready")?;
    cluster.wait_mesh()?;
    // Also without a drain the new object has its condition.
    cluster.delete("/api/v1/nodes/node-1")?;
    cluster.join(0, "10.244.1.0/24")?;
    wait_condition(cluster, 0, "PodrouteReady")?;
    cluster.wait_mesh()
}

fn wait_event(cluster: &Cluster, reason: &str, words: &str) -> Result<()> {
    wait::until(CONVERGENCE, format_args!("an Event {reason}: {words}"), || {
        let list = cluster.get("/api/v1/namespaces/default/events")?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        let told = |event: &Value| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == reason && message.contains(words)
        };
        ensure!(all.iter().any(told), "{} Events: {list}", all.len());
        Ok(())
    })
}

/// What Kubernetes says wrongly is rejected alone, and is seen in /readyz, the condition, Events and metrics.
fn rejected(cluster: &mut Cluster) -> Result<()> {
    let file = format!("{FULL}{METRICS}services: {{advertise: [external], ranges: [198.51.100.0/24]}}\n");
    // There is no such Node object yet.
    cluster.start_agents(&file)?;
    wait_readyz(cluster, 0, "503", "there is no Node object 'node-1'")?;
    // One without a pod CIDR.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
    cluster.create("/api/v1/nodes", &node)?;
    wait_readyz(cluster, 0, "503", "Node node-1 has no pod CIDR")?;
    wait_event(cluster, "NotReady", "Node node-1 has no pod CIDR")?;
    wait_condition(cluster, 0, "PodrouteNotReady")?;
    metric(cluster, 0, "podroute_ready 0")?;
    cluster.delete("/api/v1/nodes/node-1")?;
    cluster.join_all()?;
    cluster.wait_mesh()?;
    wait_readyz(cluster, 0, "200", "ready")?;
    wait_condition(cluster, 0, "PodrouteReady")?;
    // A tenant's Service, with one address of the ranges.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "evil"},
        "spec": {"externalIPs": ["8.8.8.8", "192.0.2.12", "10.244.3.9", "198.51.100.7"], "ports": [{"port": 80}]},
    });
    cluster.create("/api/v1/namespaces/default/services", &service)?;
    wait::until(CONVERGENCE, "the good address at node-2", || {
        let routes = podroute::show(&cluster.nodes[1], "routes")?.to_string();
        ensure!(routes.contains("198.51.100.7/32"), "{routes}");
        for bad in ["8.8.8.8/32", "192.0.2.12/32", "10.244.3.9/32"] {
            ensure!(!routes.contains(bad), "{bad} is announced: {routes}");
        }
        Ok(())
    })?;
    for words in [
        "8.8.8.8: lies outside services.ranges",
        "192.0.2.12: is the address of node node-2",
    ] {
        wait_event(cluster, "Rejected", words)?;
    }
    metric(cluster, 0, "podroute_rejected_facts 3")?;
    metric(
        cluster,
        0,
        "podroute_kubernetes_watch_up{resource=\"services\"} 1",
    )?;
    // What can change while the agent runs does, and the rest waits alone.
    reload(
        cluster,
        0,
        "fib: {maxPaths: 2, table: 100}\nmesh: {mode: full, hold: 9s}\nmetrics: {port: 9180}\n",
    )?;
    let url = "http://127.0.0.1:9180/metrics";
    wait::until(CONVERGENCE, "metrics at the new port alone", || {
        cluster.nodes[0].run("curl", &["-sf", url])?;
        ensure!(readyz(cluster, 0).is_err(), "the old port still answers");
        Ok(())
    })?;
    wait_cluster(cluster, 0, |status| {
        status["nextStart"] == json!(["fib.table"])
            && status["rejected"] == json!([])
            && status["announced"] == 0
    })
}

/// Dual-stack nodes: one session between two of them carries both families.
fn both_families(cluster: &mut Cluster) -> Result<()> {
    for (node, host) in cluster.nodes.iter().enumerate() {
        let (n, last) = (node + 1, 11 + node);
        host.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"))?;
        let cidrs = [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")];
        cluster.create(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAMES[node]},
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}}),
        )?;
        let addresses = [format!("192.0.2.{last}"), format!("2001:db8::{last}")]
            .map(|address| json!({"type": "InternalIP", "address": address}));
        let status = json!({"status": {"addresses": addresses}});
        cluster.patch(&format!("/api/v1/nodes/{}/status", NAMES[node]), &status)?;
    }
    let yaml = FULL.replace(
        "mesh:",
        "cluster: {asn: 64512, podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}\nmesh:",
    );
    for node in 0..NAMES.len() {
        cluster.start_agent_with(
            node,
            &format!("apiVersion: podroute/v1\nnode: {{blocks: kubernetes}}\n{yaml}"),
        )?;
    }
    cluster.wait_mesh()?;
    for (node, host) in cluster.nodes.iter().enumerate() {
        ensure!(
            cluster.names(node)?.len() == 2,
            "{} sessions",
            cluster.names(node)?.len()
        );
        for other in (0..NAMES.len()).filter(|other| *other != node) {
            let via = format!("2001:db8::{}", 11 + other);
            wait_route(
                host,
                prefix(&format!("fd00:10:244:{}::/64", other + 1)),
                CONVERGENCE,
                |route| {
                    let is_it = |addr: &std::net::IpAddr| addr.to_string() == via;
                    route
                        .next_hops
                        .iter()
                        .any(|(gateway, _)| gateway.as_ref().is_some_and(is_it))
                },
            )?;
        }
    }
    Ok(())
}
