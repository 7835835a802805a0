//! Where traffic goes: shares by link bandwidth, resilient groups, a table of its own with its rules.

use lab::daemon::{Kind, podroute};
use lab::failure::Result;
use lab::rack::CONVERGENCE;
use lab::{ensure, wait};
use serde_json::Value;

use crate::objects::{Pair, pair_with, yaml_with};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let both = [Kind::Podroute, Kind::Bird];
    vec![
        scenario("resolution::shares_follow_the_link_bandwidth", both, shares),
        scenario("resolution::resilient_groups", both, resilient),
        scenario("resolution::a_table_of_its_own", both, own_table),
        scenario("resolution::what_a_policy_wants_installed", both, wanted),
    ]
}

/// 10 and 40 Gbit/s.
const BANDWIDTH: &str = "all: accept, \
    first: [{set: {extCommunities: {add: [\"bandwidth:64601:1250000000\"]}}, action: accept}], \
    second: [{set: {extCommunities: {add: [\"bandwidth:64601:5000000000\"]}}, action: accept}]";

/// Gateways and weights of a route, as `ip route` shows them.
fn weights(pair: &Pair, prefix: &str) -> Result<Vec<(String, u64)>> {
    let text = pair.node.ip(&format!("-json -N route show {prefix}"))?;
    let routes: Value = serde_json::from_str(&text).unwrap_or_default();
    let hops = routes[0]["nexthops"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<(String, u64)> = hops
        .iter()
        .map(|hop| {
            let gateway = hop["gateway"].as_str().unwrap_or_default().to_owned();
            (gateway, hop["weight"].as_u64().unwrap_or(0))
        })
        .collect();
    all.sort();
    Ok(all)
}

fn wait_weights(pair: &Pair, wanted: [u64; 2]) -> Result<()> {
    wait::until(CONVERGENCE, format_args!("weights {wanted:?}"), || {
        let now = weights(pair, "10.100.7.0/24")?;
        let right = [
            ("192.0.2.2".to_owned(), wanted[0]),
            ("198.51.100.2".to_owned(), wanted[1]),
        ];
        ensure!(now == right, "{now:?}");
        Ok(())
    })
}

fn shares() -> Result<()> {
    let pair = pair_with(&yaml_with("metric: 20", BANDWIDTH))?;
    pair.all_over(2)?;
    wait_weights(&pair, [1, 4])?;
    let fib = podroute::show(&pair.node, "fib")?.to_string();
    ensure!(fib.contains("\"weight\":4"), "show fib: {fib}");
    // The same with gateways in each route.
    pair.node
        .write_config("podroute.yaml", &yaml_with("nexthopObjects: false", BANDWIDTH))?;
    pair.podroute(&["reload"])?;
    wait::until(CONVERGENCE, "no objects", || {
        ensure!(pair.ours()?.is_empty(), "{:?}", pair.ours()?);
        Ok(())
    })?;
    wait_weights(&pair, [1, 4])?;
    // One path without a bandwidth: equal shares.
    let one = BANDWIDTH.replace(
        "second: [{set: {extCommunities: {add: [\"bandwidth:64601:5000000000\"]}}, action: accept}]",
        "second: accept",
    );
    pair.node
        .write_config("podroute.yaml", &yaml_with("nexthopObjects: true", &one))?;
    pair.podroute(&["reload"])?;
    wait_weights(&pair, [1, 1])
}

fn resilient() -> Result<()> {
    let pair = pair_with(&yaml_with(
        "resilientGroups: {buckets: 64, idleTimer: 30s}",
        "all: accept",
    ))?;
    pair.all_over(2)?;
    let groups = || -> Result<String> { pair.node.ip("-d nexthop show groups") };
    let text = groups()?;
    ensure!(
        text.contains("type resilient buckets 64 idle_timer 30") && !text.contains("mpath"),
        "groups: {text}"
    );
    // Another kind of group is another object; routes follow.
    let plain = yaml_with("metric: 20", "all: accept");
    pair.node.write_config("podroute.yaml", &plain)?;
    pair.podroute(&["reload"])?;
    wait::until(CONVERGENCE, "plain groups alone", || {
        let text = groups()?;
        ensure!(!text.is_empty() && !text.contains("resilient"), "{text}");
        Ok(())
    })?;
    pair.all_over(2)
}

/// Outside the pod CIDRs a route goes into the kernel only where an import policy says so.
fn wanted() -> Result<()> {
    let plain =
        yaml_with("metric: 20", "all: accept").replace("podCIDRs: [10.0.0.0/8]", "podCIDRs: [10.244.0.0/16]");
    let pair = pair_with(&plain)?;
    let state = |wanted: &str, kernel: bool| {
        wait::until(CONVERGENCE, format_args!("10.100.7.0/24 is {wanted}"), || {
            let fib = podroute::show(&pair.node, "fib")?;
            let all = fib["routes"].as_array().into_iter().flatten();
            let found: Vec<&Value> = all.filter(|route| route["prefix"] == "10.100.7.0/24").collect();
            ensure!(found.len() == 1 && found[0]["state"] == wanted, "{found:?}");
            let there = !pair.node.ip("route show 10.100.7.0/24")?.is_empty();
            ensure!(there == kernel, "in the kernel: {there}");
            Ok(())
        })
    };
    state("refused", false)?;
    let policy =
        "all: accept, first: [{match: {prefixes: [10.100.7.0/24]}, set: {install: true}, action: accept}]";
    let with = yaml_with("metric: 20", policy).replace("podCIDRs: [10.0.0.0/8]", "podCIDRs: [10.244.0.0/16]");
    pair.node.write_config("podroute.yaml", &with)?;
    pair.podroute(&["reload"])?;
    state("installed", true)?;
    pair.node.write_config("podroute.yaml", &plain)?;
    pair.podroute(&["reload"])?;
    state("refused", false)
}

fn own_table() -> Result<()> {
    let own = yaml_with("table: 1000, rulePriority: 500", "all: accept");
    let pair = pair_with(&own)?;
    let rules = |wanted: usize| {
        wait::until(CONVERGENCE, format_args!("{wanted} rules in each family"), || {
            for family in ["-4", "-6"] {
                let text = pair.node.ip(&format!("{family} -N rule show pref 500"))?;
                let count = text
                    .lines()
                    .filter(|line| line.contains("lookup 1000 proto 245"))
                    .count();
                ensure!(
                    count == wanted && text.lines().count() == wanted,
                    "{family}: {text}"
                );
            }
            Ok(())
        })
    };
    rules(1)?;
    let leads = |address: &str, via: &str| {
        wait::until(CONVERGENCE, format_args!("{address} is reached by {via}"), || {
            let way = pair.node.ip(&format!("route get {address}"))?;
            ensure!(way.contains(via), "{way}");
            Ok(())
        })
    };
    leads("10.100.7.1", "table 1000")?;
    let main = pair.node.ip("route show proto 245")?;
    ensure!(
        main.trim() == "unreachable 10.244.1.0/24 metric 4294967295",
        "the main table has {main}"
    );
    let table = pair.node.ip("route show table 1000 type throw")?;
    ensure!(table.contains("throw 10.244.1.0/24"), "the own table has {table}");
    // A pod of this node, whose route is in the main table, and an address that nobody has.
    pair.node.ip("route add 10.244.1.7/32 dev eth1")?;
    leads("10.244.1.7", "dev eth1")?;
    let free = pair.node.ip("route get 10.244.1.8");
    ensure!(free.is_err(), "a free address of the block is reached: {free:?}");
    // Somebody flushes the rules.
    for family in ["-4", "-6"] {
        pair.node.ip(&format!("{family} rule del pref 500"))?;
    }
    rules(1)?;
    pair.podroute(&["cleanup", "--force"])?; // what cleanup takes comes back as long as the agent runs
    rules(1)?;
    leads("10.100.7.1", "table 1000")?;
    // A rule of somebody else at the same priority is left alone.
    let other = yaml_with("table: 1000", "all: accept");
    pair.node.ip("rule add to 203.0.113.0/24 lookup main pref 501")?;
    pair.node.write_config("podroute.yaml", &other)?;
    pair.podroute(&["reload"])?;
    rules(0)?;
    let others = pair.node.ip("rule show pref 501")?;
    ensure!(others.contains("203.0.113.0/24"), "{others}");
    Ok(())
}
