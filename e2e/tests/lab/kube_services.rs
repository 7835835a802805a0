//! Services: who announces their addresses, and what their users see of a rolling update.

use std::time::Duration;

use lab::daemon::{Kind, bird, podroute};
use lab::failure::{Failure, Result};
use lab::rack::CONVERGENCE;
use lab::tcp_probe::{Server, TcpProbe};
use lab::{ensure, wait};
use serde_json::{Value, json};

use crate::kube::{Cluster, FULL, NAMES, with_api};
use crate::support::{prefix, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario("kube::services_follow_their_endpoints", ours, || {
            with_api(services)
        }),
        scenario("kube::aggregates_of_services", ours, || with_api(aggregates)),
        scenario(
            "kube::a_rolling_update_refuses_nobody",
            [Kind::Podroute, Kind::Bird],
            || with_api(rolling_update),
        ),
    ]
}

pub(crate) fn slice(name: &str, node: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.244.1.2"], "nodeName": node, "conditions": {"ready": ready}}],
        "ports": [],
    })
}

fn services(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!(
        "{FULL}services: {{advertise: [loadBalancer, external], ranges: [198.51.100.0/24]}}\n"
    ))?;
    cluster.wait_mesh()?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.2"],
            "ports": [{"port": 80}], "selector": {"app": "web"},
        },
    });
    cluster.create("/api/v1/namespaces/default/services", &service)?;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}});
    cluster.patch("/api/v1/namespaces/default/services/web/status", &status)?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let heard_from = |source: Option<&str>| {
        wait::until(
            CONVERGENCE,
            format_args!("198.51.100.1/32 at node-3 from {source:?}"),
            || {
                let routes = podroute::show(&cluster.nodes[2], "routes")?;
                let all = routes["routes"].as_array().into_iter().flatten();
                let found: Vec<&Value> = all.filter(|route| route["prefix"] == "198.51.100.1/32").collect();
                let from: Vec<&str> = found
                    .iter()
                    .flat_map(|route| route["paths"].as_array().into_iter().flatten())
                    .filter_map(|path| path["from"].as_str())
                    .collect();
                if from == source.into_iter().collect::<Vec<_>>() {
                    return Ok(());
                }
                wait::not_yet(format!("from {from:?}"))
            },
        )
    };
    heard_from(None)?;
    cluster.create(slices, &slice("web-a", "node-1", true))?;
    heard_from(Some("node-1"))?;
    // A rolling update: the next one is ready before the first one goes.
    cluster.create(slices, &slice("web-b", "node-2", true))?;
    cluster.patch(&format!("{slices}/web-a"), &json!({"endpoints": [{"addresses": ["10.244.1.2"], "nodeName": "node-1", "conditions": {"ready": false}}]}))?;
    heard_from(Some("node-2"))?;
    cluster.delete("/api/v1/namespaces/default/services/web")?;
    heard_from(None)
}

fn aggregates(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!(
        "{FULL}services: {{advertise: [external], ranges: [198.51.100.0/24], aggregates: [198.51.100.0/24]}}\n"
    ))?;
    cluster.wait_mesh()?;
    let service = |name: &str, address: &str, policy: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer", "externalTrafficPolicy": policy, "externalIPs": [address],
                "ports": [{"port": 80}], "selector": {"app": name},
            },
        });
        cluster.create("/api/v1/namespaces/default/services", &object)
    };
    let originates = |node: usize, wanted: &str, there: bool| {
        wait::until(
            CONVERGENCE,
            format_args!("{} announces {wanted}: {there}", NAMES[node]),
            || {
                let text = podroute::show(&cluster.nodes[(node + 1) % 3], "routes")?;
                let all = text["routes"].as_array().into_iter().flatten();
                let from = |path: &Value| path["from"] == NAMES[node];
                let found = all.filter(|route| route["prefix"] == wanted).any(|route| {
                    route["paths"]
                        .as_array()
                        .is_some_and(|paths| paths.iter().any(from))
                });
                ensure!(found == there, "{text}");
                Ok(())
            },
        )
    };
    service("everywhere", "198.51.100.1", "Cluster")?;
    originates(0, "198.51.100.0/24", true)?;
    originates(1, "198.51.100.0/24", true)?;
    originates(0, "198.51.100.1/32", false)?;
    // What nobody has of it ends here, and does not go back to the router.
    wait_route(
        &cluster.nodes[0],
        prefix("198.51.100.0/24"),
        CONVERGENCE,
        |route| route.kind == "unreachable",
    )?;
    service("web", "198.51.100.2", "Local")?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.create(slices, &slice("web-a", "node-1", true))?;
    originates(0, "198.51.100.2/32", true)?;
    originates(1, "198.51.100.2/32", false)?;
    cluster.delete("/api/v1/namespaces/default/services/everywhere")?;
    originates(0, "198.51.100.0/24", false)?;
    wait_no_route(&cluster.nodes[0], prefix("198.51.100.0/24"), CONVERGENCE)
}

const ADDRESS: &str = "198.51.100.1";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// A pod's terminationGracePeriodSeconds: how long it still serves after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

fn conditions(name: &str, node: &str, conditions: Value) -> Value {
    let mut slice = slice(name, node, true);
    slice["endpoints"][0]["conditions"] = conditions;
    slice
}

fn terminating(name: &str, node: &str) -> Value {
    conditions(
        name,
        node,
        json!({"ready": false, "serving": true, "terminating": true}),
    )
}

/// A router that is not ours at the nodes' switch, with the users behind it.
fn router(cluster: &Cluster) -> Result<Vec<lab::process::Daemon>> {
    let session = |n: usize| {
        format!(
            "protocol bgp node{n} {{ local 192.0.2.100 as 65001; neighbor 192.0.2.1{n} as 64512; connect retry time 1; \
             error wait time 1, 2; ipv4 {{ import all; export none; }}; }}\n"
        )
    };
    let config = format!(
        "log stderr all;\nrouter id 192.0.2.100;\nprotocol device {{}}\nprotocol kernel {{ ipv4 {{ export all; }}; }}\n{}{}",
        session(1),
        session(2)
    );
    bird::start_with(&cluster.api, &config)
}

/// An endpoint moves from node to node, as Deployments do it: with the next pod ready before the old one gets SIGTERM
/// (maxSurge), and only while the old one is ending (maxUnavailable). What stands in for kube-proxy is a server on the node
/// that has the Service's address.
fn rolling_update(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!(
        "{FULL}services: {{advertise: [loadBalancer], ranges: [198.51.100.0/24]}}\npeers:\n- {{name: router, address: 192.0.2.100, asn: 65001, \
         export: own}}\npolicies:\n  own:\n  - {{match: {{source: [podBlock, service]}}, action: accept}}\n"
    ))?;
    cluster.wait_mesh()?;
    let _router = router(cluster)?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]},
    });
    cluster.create("/api/v1/namespaces/default/services", &service)?;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}});
    cluster.patch("/api/v1/namespaces/default/services/web/status", &status)?;
    for node in &cluster.nodes[..2] {
        node.ip(&format!("addr add {ADDRESS}/32 dev lo"))?;
    }
    let mut serving = Server::start(NAMES[0], 80)?;
    cluster.create(SLICES, &slice("web-0", NAMES[0], true))?;
    wait_route(&cluster.api, prefix("198.51.100.1/32"), CONVERGENCE, |_| true)?;
    let address = ([198, 51, 100, 1], 80).into();
    let probe = TcpProbe::start("api", address, Duration::from_millis(2));
    const ROLLS: usize = 4;
    for roll in 0..ROLLS {
        let (old, new) = (NAMES[roll % 2], NAMES[(roll + 1) % 2]);
        let (from, to) = (format!("web-{roll}"), format!("web-{}", roll + 1));
        let next = Server::start(new, 80)?;
        let told = || cluster.patch(&format!("{SLICES}/{from}"), &terminating(&from, old));
        if roll % 2 == 0 {
            cluster.create(SLICES, &slice(&to, new, true))?;
            told()?;
        } else {
            cluster.create(SLICES, &slice(&to, new, false))?;
            told()?;
            // It takes its time to become ready, while the old one is ending.
            std::thread::sleep(GRACE / 2);
            cluster.patch(&format!("{SLICES}/{to}"), &slice(&to, new, true))?;
        }
        std::thread::sleep(GRACE);
        drop(std::mem::replace(&mut serving, next));
        cluster.delete(&format!("{SLICES}/{from}"))?;
        let before = probe.outcome().of(new);
        wait::until(CONVERGENCE, format_args!("{new} answers"), || {
            ensure!(probe.outcome().of(new) > before, "{:?}", probe.outcome());
            Ok(())
        })?;
    }
    let seen = probe.outcome();
    println!("{seen:?}");
    ensure!(seen.refused.is_empty(), "refused: {seen:?}");
    // A connection that is open while its route moves arrives where nobody knows it.
    ensure!(seen.aborted.len() <= ROLLS, "{seen:?}");
    // An endpoint that dies without a word is noticed, by the visitors too.
    drop(serving);
    wait::until(CONVERGENCE, "the visitors notice", || {
        if probe.outcome().refused.is_empty() {
            return Err(Failure::new("all are still answered"));
        }
        Ok(())
    })?;
    probe.finish().map(drop)
}
