//! Addresses from `services.pools`: who gets which, what becomes of them, and what it costs the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::daemon::{Kind, podroute};
use lab::failure::Result;
use lab::rack::CONVERGENCE;
use lab::{ensure, wait};
use serde_json::{Value, json};

use crate::kube::{Cluster, FULL, NAMES, with_api};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let podroute = [Kind::Podroute];
    vec![
        scenario("kube::addresses_of_pools", podroute, || with_api(addresses)),
        scenario("kube::services_of_metallb_keep_their_addresses", podroute, || {
            with_api(migrated)
        }),
        scenario("kube::two_thousand_services_at_once", podroute, || with_api(many)),
        scenario("kube::allocators_are_killed_in_the_middle", podroute, || {
            with_api(killed)
        }),
    ]
}

const SERVICES: &str = "/api/v1/namespaces/default/services";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/podroute/leases/podroute-services";
const COUNT: usize = 2000;
/// Where two Leases have to expire first.
const FEWER: usize = 1000;
/// Services created at once while an allocator is killed.
const BATCH: usize = 50;
/// The Lease of a killed agent has to expire first.
const TAKE_OVER: Duration = Duration::from_secs(90);

fn service(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "annotations": annotations},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": name}},
    })
}

/// Addresses in the status of a Service, one after the other.
fn held(object: &Value) -> String {
    let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
    let list: Vec<&str> = ingress
        .into_iter()
        .flatten()
        .filter_map(|one| one["ip"].as_str())
        .collect();
    list.join(" ")
}

fn wait_held(cluster: &Cluster, name: &str, addresses: &str) -> Result<()> {
    wait::until(
        TAKE_OVER,
        format_args!("Service {name} has '{addresses}'"),
        || {
            let object = cluster.get(&format!("{SERVICES}/{name}"))?;
            let found = held(&object);
            if found == addresses {
                return Ok(());
            }
            wait::not_yet(format!("it has '{found}'"))
        },
    )
}

fn wait_warning(cluster: &Cluster, name: &str, reason: &str) -> Result<()> {
    wait::until(
        CONVERGENCE,
        format_args!("an Event {reason} of Service {name}"),
        || {
            let list = cluster.get("/api/v1/namespaces/default/events")?;
            let is_it = |event: &Value| event["reason"] == reason && event["involvedObject"]["name"] == name;
            ensure!(
                list["items"].as_array().is_some_and(|all| all.iter().any(is_it)),
                "{list}"
            );
            Ok(())
        },
    )
}

/// The node whose agent allocates.
fn holder(cluster: &Cluster) -> Result<usize> {
    let lease = cluster.get(LEASE)?;
    let name = lease["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let node = name.split('_').next().unwrap_or_default();
    let found = NAMES.iter().position(|known| *known == node);
    found.ok_or_else(|| lab::failure::Failure::new(format!("no holder in {lease}")))
}

fn wait_holder(cluster: &Cluster, not: Option<usize>) -> Result<usize> {
    let mut found = 0;
    wait::until(TAKE_OVER, format_args!("an allocator other than {not:?}"), || {
        found = holder(cluster)?;
        ensure!(Some(found) != not, "it is still {found}");
        Ok(())
    })?;
    Ok(found)
}

const TWO_POOLS: &str = "services:\n  advertise: [loadBalancer]\n  compatibility: [metallb]\n  pools:\n  \
    - {name: edge, addresses: [198.51.100.1-198.51.100.2], communities: [\"64512:80\"]}\n  \
    - {name: asked, addresses: [203.0.113.0/30], automatic: false}\n  \
    - {name: team, addresses: [203.0.113.8/30], namespaceSelector: {team: a}, priority: 5}\n";

fn addresses(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!("{FULL}{TWO_POOLS}"))?;
    cluster.wait_mesh()?;
    let create = |name: &str, annotations: Value| cluster.create(SERVICES, &service(name, &annotations));
    create("a", json!({}))?;
    wait_held(cluster, "a", "198.51.100.1")?;
    let object = cluster.get(&format!("{SERVICES}/a"))?;
    let ports = &object["status"]["loadBalancer"]["ingress"][0]["ports"];
    ensure!(
        ports[0]["port"] == 80 && ports[0]["protocol"] == "TCP",
        "{object}"
    );
    create("exact", json!({"podroute/addresses": "203.0.113.2"}))?;
    wait_held(cluster, "exact", "203.0.113.2")?;
    create("named", json!({"metallb.universe.tf/address-pool": "asked"}))?;
    wait_held(cluster, "named", "203.0.113.0")?;
    create("b", json!({}))?;
    wait_held(cluster, "b", "198.51.100.2")?;
    // Namespaces are followed for the selector of the pool.
    let team = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"team": "a"}}});
    cluster.create("/api/v1/namespaces", &team)?;
    cluster.create("/api/v1/namespaces/team/services", &service("own", &json!({})))?;
    wait::until(TAKE_OVER, "an address of the namespace's pool", || {
        let object = cluster.get("/api/v1/namespaces/team/services/own")?;
        ensure!(held(&object) == "203.0.113.8", "{object}");
        Ok(())
    })?;
    // What cannot be had is said, with the remedy.
    create("late", json!({}))?;
    wait_warning(cluster, "late", "AddressPoolExhausted")?;
    create("evil", json!({"podroute/addresses": "192.0.2.100"}))?;
    wait_warning(cluster, "evil", "AddressRequestRejected")?;
    let allocator = holder(cluster)?;
    let shown = podroute::show(&cluster.nodes[allocator], "services")?;
    ensure!(
        shown["isAllocator"] == true
            && shown["pools"][0] == json!({"name": "edge", "size": 2, "used": 2, "free": 0}),
        "{shown}"
    );
    let of = |name: &str| {
        let all = shown["services"].as_array().into_iter().flatten();
        all.filter(|one| one["name"] == format!("default/{name}"))
            .cloned()
            .collect::<Value>()
    };
    let late = of("late")[0].clone();
    ensure!(
        late["pending"] == true && late["problems"].to_string().contains("add a range"),
        "{late}"
    );
    let a = of("a")[0]["addresses"][0].clone();
    ensure!(
        a["pool"] == "edge" && a["announced"] == "198.51.100.1/32" && a["communities"] == json!(["64512:80"]),
        "{a}"
    );
    wait::until(
        CONVERGENCE,
        "the address with the pool's community at node-3",
        || {
            let routes = podroute::show(&cluster.nodes[2], "routes")?.to_string();
            ensure!(
                routes.contains("198.51.100.1/32") && routes.contains("64512:80"),
                "{routes}"
            );
            Ok(())
        },
    )?;
    // A freed address goes to the one that waits.
    cluster.delete(&format!("{SERVICES}/a"))?;
    wait_held(cluster, "late", "198.51.100.1")?;
    // An agent that ends releases the Lease; nothing changes.
    let mut agent = cluster.agents.remove(allocator);
    agent.terminate(Duration::from_secs(10))?;
    wait_holder(cluster, Some(allocator))?;
    let change = json!({"metadata": {"annotations": {"podroute/addresses": "203.0.113.3"}}});
    cluster.patch(&format!("{SERVICES}/exact"), &change)?;
    wait_held(cluster, "exact", "203.0.113.3")?;
    for (name, address) in [
        ("b", "198.51.100.2"),
        ("late", "198.51.100.1"),
        ("named", "203.0.113.0"),
    ] {
        wait_held(cluster, name, address)?;
    }
    // A Service of another type gives its address back.
    cluster.patch(
        &format!("{SERVICES}/b"),
        &json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}}),
    )?;
    wait_held(cluster, "b", "")?;
    Ok(())
}

/// Services that MetalLB's controller gave their addresses, also by its annotations: nothing of them changes, and nobody gets
/// what they have.
fn migrated(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    let metallb = |name: &str, annotation: &str, value: &str, port: u16, address: &str| -> Result<()> {
        let annotations = json!({ format!("metallb.universe.tf/{annotation}"): value });
        let mut object = service(name, &annotations);
        object["spec"]["ports"][0]["port"] = json!(port);
        cluster.create(SERVICES, &object)?;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        cluster.patch(&format!("{SERVICES}/{name}/status"), &status)
    };
    metallb("plain", "ip-allocated-from-pool", "edge", 80, "198.51.100.2")?;
    metallb("exact", "loadBalancerIPs", "203.0.113.1", 80, "203.0.113.1")?;
    metallb("shared-a", "allow-shared-ip", "k", 80, "203.0.113.2")?;
    metallb("shared-b", "allow-shared-ip", "k", 443, "203.0.113.2")?;
    cluster.create(SERVICES, &service("new", &json!({})))?;
    let versions = |cluster: &Cluster| -> Result<BTreeMap<String, String>> {
        let list = cluster.get(SERVICES)?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = all.iter().map(|one| &one["metadata"]);
        let named = named.map(|metadata| (text(&metadata["name"]), text(&metadata["resourceVersion"])));
        Ok(named.filter(|(name, _)| name != "new").collect())
    };
    let before = versions(cluster)?;
    cluster.start_agents(&format!("{FULL}{TWO_POOLS}"))?;
    wait_held(cluster, "new", "198.51.100.1")?;
    let after = versions(cluster)?;
    ensure!(
        before == after,
        "Services were written: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Requests that changed something, as the API server counts them, without those for Leases.
fn writes(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let text = cluster.text("/metrics")?;
    let mut counts = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
    {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        let (resource, verb) = (
            label("resource").unwrap_or_default(),
            label("verb").unwrap_or_default(),
        );
        let subresource = label("subresource").unwrap_or_default();
        let is_write = ["POST", "PUT", "PATCH", "APPLY", "DELETE"].contains(&verb.as_str());
        let is_own = resource == "events" || (resource == "services" && subresource == "status");
        if is_write && is_own {
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|text| text.parse::<f64>().ok())
                .unwrap_or(0.0);
            *counts
                .entry(format!("{verb} {resource}/{subresource}"))
                .or_default() += count as u64;
        }
    }
    Ok(counts)
}

const LARGE: &str =
    "services: {advertise: [loadBalancer], pools: [{name: large, addresses: [198.18.0.0/20]}]}\n";

fn create_many(cluster: &Cluster, numbers: Range<usize>) -> Result<()> {
    let none = json!({});
    cluster.create_all(SERVICES, numbers.map(|n| service(&format!("s{n}"), &none)))
}

/// Creates Services until the allocator is killed, and some after that. Returns how many there are then.
fn create_until(cluster: &Cluster, mut count: usize, is_killed: &AtomicBool) -> Result<usize> {
    loop {
        let is_last = is_killed.load(Ordering::Acquire);
        create_many(cluster, count..count + BATCH)?;
        count += BATCH;
        if is_last {
            return Ok(count);
        }
    }
}

/// Addresses by Service, of those that have one.
fn all_held(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let list = cluster.get(SERVICES)?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    let named = all.iter().map(|one| {
        (
            one["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            held(one),
        )
    });
    Ok(named
        .filter(|(name, addresses)| name.starts_with('s') && !addresses.is_empty())
        .collect())
}

fn wait_all(cluster: &Cluster, count: usize) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    wait::until(TAKE_OVER, format_args!("{count} Services with addresses"), || {
        found = all_held(cluster)?;
        if found.len() == count {
            return Ok(());
        }
        wait::not_yet(format!("{} have one", found.len()))
    })?;
    let different: BTreeSet<&String> = found.values().collect();
    ensure!(
        different.len() == count,
        "{count} Services have {} addresses",
        different.len()
    );
    let is_inside = |text: &String| {
        text.parse::<std::net::Ipv4Addr>()
            .is_ok_and(|addr| addr.octets()[..2] == [198, 18] && addr.octets()[2] < 16)
    };
    ensure!(
        found.values().all(is_inside),
        "addresses outside the pool: {found:?}"
    );
    Ok(found)
}

fn many(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!("{FULL}{LARGE}"))?;
    wait_holder(cluster, None)?;
    let before: u64 = writes(cluster)?.values().sum();
    let start = Instant::now();
    create_many(cluster, 0..COUNT)?;
    let (created, after) = (start.elapsed(), Instant::now());
    wait_all(cluster, COUNT)?;
    println!(
        "{COUNT} Services made in {created:?}; all have addresses {:?} after that",
        after.elapsed()
    );
    let counts = writes(cluster)?;
    let count = counts.values().sum::<u64>() - before;
    println!("{count} writes: {counts:?}");
    ensure!(
        count as usize * 10 <= COUNT * 11,
        "{count} writes for {COUNT} Services: {counts:?}"
    );
    // An API server that is behind ends watches; then they begin again after a pause.
    wait::until(TAKE_OVER, "all announced by node-1", || {
        let shown = podroute::show(&cluster.nodes[0], "services")?;
        let all = shown["services"].as_array().into_iter().flatten();
        let announced = all
            .filter(|one| !one["addresses"][0]["announced"].is_null())
            .count();
        ensure!(announced == COUNT, "{announced} of {COUNT}");
        Ok(())
    })?;
    println!(
        "node-1 announces all {:?} after the last was made",
        after.elapsed()
    );
    println!(
        "watches: {}",
        podroute::show(&cluster.nodes[0], "cluster")?["watches"]
    );
    Ok(())
}

/// Two allocators are killed while Services are created and get addresses; the third one does the rest.
fn killed(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    create_many(cluster, 0..FEWER)?;
    cluster.start_agents(&format!("{FULL}{LARGE}"))?;
    let mut gone: Vec<usize> = Vec::new();
    let (mut kept, mut count) = (BTreeMap::new(), FEWER);
    for round in ["first", "second"] {
        let node = wait_holder(cluster, gone.last().copied())?;
        wait::until(
            TAKE_OVER,
            format_args!("addresses of the {round} allocator"),
            || {
                let now = all_held(cluster)?.len();
                ensure!(now > kept.len(), "{now} Services have addresses");
                Ok(())
            },
        )?;
        let place = node - gone.iter().filter(|other| **other < node).count();
        let mut agent = cluster.agents.remove(place);
        let is_killed = AtomicBool::new(false);
        let others = &*cluster;
        count = std::thread::scope(|scope| {
            let created = scope.spawn(|| create_until(others, count, &is_killed));
            agent.kill();
            is_killed.store(true, Ordering::Release);
            created.join().expect("it does not panic")
        })?;
        gone.push(node);
        let now = all_held(cluster)?;
        println!(
            "{} was killed when {} of {count} Services had addresses",
            NAMES[node],
            now.len()
        );
        ensure!(now.len() < count, "the {round} one had done everything");
        kept.extend(now);
    }
    let found = wait_all(cluster, count)?;
    for (name, address) in &kept {
        ensure!(
            found.get(name) == Some(address),
            "{name} had {address} and has {:?}",
            found.get(name)
        );
    }
    println!("writes: {:?}", writes(cluster)?);
    Ok(())
}
