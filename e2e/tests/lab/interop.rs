//! podroute with each daemon as the ToR: the whole demo, session resets, who connects, 4-octet AS.

use std::net::IpAddr;
use std::time::Duration;

use lab::daemon::{Kind, podroute};
use lab::demo::{self, Options};
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::rack::Rack;
use lab::wait;

use crate::support::{self, only_nodes_wait, only_tors_wait, peer, small};
use crate::{Scenario, scenario};

/// Above 65535, so that AS_TRANS shows if a side loses the real number.
const NODE_1_AS: u32 = 4_200_000_001;
const NODE_2_AS: u32 = 4_200_000_002;
const TOR_AS: u32 = 4_200_065_001;

/// GoBGP refuses a peer for 30 s after a reset, whatever its configuration says.
const COMES_BACK: Duration = Duration::from_secs(60);

pub(crate) fn scenarios() -> Vec<Scenario> {
    Kind::ALL
        .into_iter()
        .flat_map(|tor| {
            let named = |what: &str| format!("interop::{}::{what}", tor.name());
            let needs = [Kind::Podroute, tor];
            vec![
                scenario(named("demo_rack"), needs, move || demo_rack(tor)),
                scenario(named("session_killed_at_tor_comes_back"), needs, move || {
                    session_killed(tor)
                }),
                scenario(named("tor_connects_node_waits"), needs, move || node_waits(tor)),
                scenario(named("node_connects_tor_waits"), needs, move || tor_waits(tor)),
                scenario(named("four_octet_as"), needs, move || four_octet_as(tor)),
            ]
        })
        .collect()
}

fn demo_rack(tor: Kind) -> Result<()> {
    match demo::main(&Options {
        tor,
        node: Kind::Podroute,
        plugin: None,
        keep: false,
    }) {
        0 => Ok(()),
        code => Err(Failure::new(format!("the demo ended with {code}"))),
    }
}

fn session_killed(tor: Kind) -> Result<()> {
    let mut rack = Rack::converged(small(tor))?;
    let node = rack.host("node-1").clone();
    let before = support::settled(&node, "tor-a")?;
    let other_before = support::settled(&node, "tor-a-v6")?;
    if tor == Kind::Podroute {
        // No lab command resets one session: the ToR's agent ends and starts again.
        rack.daemon("tor-a").terminate()?;
        rack.daemon("tor-a").restart_daemons()?;
    } else {
        let address: IpAddr = "192.0.2.11".parse().expect("literal");
        rack.daemon("tor-a").reset(address)?;
    }
    wait::until(COMES_BACK, "a new session between node-1 and tor-a", || {
        let now = support::uptime(&node, "tor-a")?;
        ensure!(now < before, "still the old session, up for {now} s");
        Ok(())
    })
    .map_err(|f| rack.daemons["tor-a"].with_logs(rack.daemons["node-1"].with_logs(f)))?;
    if tor != Kind::Podroute {
        let other = support::uptime(&node, "tor-a-v6")?;
        ensure!(
            other >= other_before,
            "the IPv6 session fell with it: up for {other} s only"
        );
    }
    rack.wait_sessions()?;
    rack.wait_routes()?;
    rack.add_pods(1)?;
    support::prove_reachability(&rack)
}

fn node_waits(tor: Kind) -> Result<()> {
    let mut rack = Rack::converged(small(tor).adjusted(only_nodes_wait))?;
    rack.add_pods(1)?;
    support::prove_reachability(&rack)
}

fn tor_waits(tor: Kind) -> Result<()> {
    let mut rack = Rack::converged(small(tor).adjusted(only_tors_wait))?;
    rack.add_pods(1)?;
    support::prove_reachability(&rack)
}

fn four_octet_as(tor: Kind) -> Result<()> {
    let mut plan = small(tor);
    for (machine, asn) in [("node-1", NODE_1_AS), ("node-2", NODE_2_AS), ("tor-a", TOR_AS)] {
        plan.topology.machine_mut(machine).asn = asn;
    }
    let rack = Rack::converged(plan)?;
    let node = rack.host("node-1");
    ensure!(
        peer(node, "tor-a")?["asn"] == TOR_AS,
        "show peers has another AS: {}",
        peer(node, "tor-a")?
    );
    let routes = podroute::show(node, "routes")?;
    for block in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
        let route = routes["routes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|r| r["prefix"] == block);
        let paths = route.map(|route| route["paths"].to_string()).unwrap_or_default();
        let whole = paths.contains(&TOR_AS.to_string()) && paths.contains(&NODE_2_AS.to_string());
        if !whole || paths.contains("23456") {
            return Err(Failure::new(format!("AS path of {block} on node-1")).evidence("paths", paths));
        }
    }
    Ok(())
}
