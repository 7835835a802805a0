//! What changes in a cluster under way: the mesh and one node's annotations.

use std::time::Duration;

use e2e::bins;
use e2e::daemon::Kind;
use e2e::failure::{Failure, Result};
use e2e::flow::Flow;
use e2e::rack::CONVERGENCE;
use e2e::{ensure, wait};
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

/// The nodes hear of it one after the other, the reflector last; of the way back first.
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
        flow.finish()?.nothing_lost(16_000)?;
    }
    cluster.wait_mesh()
}

fn annotations(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(FULL)?;
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
    // What cannot be read changes nothing.
    annotate(json!("- {name: lab, asn: 65007}\n"))?;
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
    wait_names(cluster, 1, &["node-1"])
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
