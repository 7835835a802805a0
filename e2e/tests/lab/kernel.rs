//! The agent and the kernel's tables: what it restores, never touches and refuses.

use std::net::IpAddr;
use std::time::Duration;

use lab::bins;
use lab::capture::Capture;
use lab::daemon::{Kind, Speaker, podroute};
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::kernel::{self, PROTO_AGENT};
use lab::machine::Host;
use lab::rack::Rack;
use lab::{icmp, wait};

use crate::support::{self, prefix, small, wait_no_route, wait_route};
use crate::{Scenario, scenario};

/// A route that comes back "at once" comes back within this time.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    let with_bird = [Kind::Podroute, Kind::Bird];
    vec![
        scenario("kernel::a_deleted_route_comes_back_at_once", ours, deleted_route),
        scenario("kernel::a_changed_route_is_corrected", ours, changed_route),
        scenario("kernel::foreign_routes_are_never_touched", ours, foreign_routes),
        scenario("kernel::withdrawn_routes_go", ours, withdrawn_routes),
        scenario(
            "kernel::a_free_address_of_the_block_is_unreachable",
            ours,
            free_address,
        ),
        scenario("kernel::forwarding_is_enabled", ours, forwarding),
        scenario("kernel::strict_rp_filter_is_reported", ours, rp_filter),
        scenario(
            "kernel::prefixes_outside_the_cluster_stay_out",
            with_bird,
            outside_prefixes,
        ),
    ]
}

fn deleted_route() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    let lost = [
        "10.244.2.0/24",
        "fd00:10:244:2::/64",
        "10.244.1.0/24",
        "fd00:10:244:1::/64",
    ];
    for block in lost {
        let before = wait_route(node, prefix(block), AT_ONCE, |_| true)?;
        let kind = if before.kind == "unreachable" {
            "unreachable"
        } else {
            ""
        };
        node.ip(&format!("route del {kind} {block} proto {PROTO_AGENT}"))?;
        let after = wait_route(node, prefix(block), AT_ONCE, |_| true)?;
        ensure!(
            after == before,
            "{block} came back as {after:?}, it was {before:?}"
        );
    }
    Ok(())
}

/// Somebody replaces our route in place: same prefix, another gateway, still our protocol number.
fn changed_route() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    let block = prefix("10.244.2.0/24");
    let before = wait_route(node, block, AT_ONCE, |_| true)?;
    let text = node.ip(&format!("-N route show {block}"))?;
    let metric = text
        .split_whitespace()
        .skip_while(|word| *word != "metric")
        .nth(1)
        .unwrap_or("0")
        .to_owned();
    node.ip(&format!(
        "route replace {block} via 192.0.2.99 dev eth0 metric {metric} proto {PROTO_AGENT}"
    ))?;
    wait_route(node, block, AT_ONCE, |route| *route == before).map(drop)
}

fn foreign_routes() -> Result<()> {
    let mut rack = Rack::build(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let foreign = [
        // The very prefix that BGP will bring, the own block's parent, and one inside the pods' range.
        "10.244.2.0/24 via 192.0.2.1 dev eth0 proto 99",
        "10.244.0.0/16 via 192.0.2.1 dev eth0 proto 99",
        "10.244.77.0/24 via 192.0.2.1 dev eth0 proto 4",
        "fd00:10:244:2::/64 via 2001:db8:a::1 dev eth0 proto 99",
    ];
    for route in foreign {
        node.ip(&format!("route add {route}"))?;
    }
    let theirs = |node: &Host| -> Result<String> {
        let all = node.ip("-o -N -4 route show")? + &node.ip("-o -N -6 route show")?;
        let others = all
            .lines()
            .filter(|line| !line.contains(&format!("proto {PROTO_AGENT}")));
        Ok(others.map(|line| format!("{}\n", line.trim())).collect())
    };
    let before = theirs(&node)?;
    rack.start_daemons()?;
    rack.wait_sessions()?;
    // Both have reported what they know about the taken prefix when node-1 reports its state.
    wait::until(
        Duration::from_secs(10),
        "a path to node-2's block on node-1",
        || has_path(&node, "10.244.2.0/24"),
    )?;
    let unchanged = |when: &str| -> Result<()> {
        let now = theirs(&node)?;
        if now == before {
            return Ok(());
        }
        Err(Failure::new(format!("somebody else's routes changed {when}"))
            .evidence("before", &before)
            .evidence("now", now))
    };
    unchanged("while learning")?;
    order_peers(rack.host("node-2"), "disable")?;
    wait::until(
        Duration::from_secs(15),
        "withdrawal of node-2's block on node-1",
        || match has_path(&node, "10.244.2.0/24") {
            Ok(()) => wait::not_yet("the path is still there"),
            Err(_) => Ok(()),
        },
    )?;
    unchanged("at the withdrawal")?;
    rack.daemon("node-1").terminate()?;
    unchanged("at the agent's end")
}

fn has_path(node: &Host, block: &str) -> Result<()> {
    let routes = podroute::show(node, "routes")?;
    let route = routes["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["prefix"] == block);
    let paths = route.and_then(|r| r["paths"].as_array()).map_or(0, Vec::len);
    ensure!(paths > 0, "no path to {block}: {routes}");
    Ok(())
}

fn withdrawn_routes() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    // node-2's operator shuts its sessions: the ToR receives Cease, withdraws, and node-1 removes.
    // (An agent that merely ends keeps its routes at the ToR: graceful restart.)
    order_peers(rack.host("node-2"), "disable")?;
    for block in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
        wait_no_route(&node, prefix(block), Duration::from_secs(15))?;
    }
    // Nobody advertises anything to node-2 any more either; its own block stays what it is.
    let other = rack.host("node-2").clone();
    for block in ["10.244.1.0/24", "fd00:10:244:1::/64"] {
        wait_no_route(&other, prefix(block), AT_ONCE)?;
    }
    for block in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
        wait_route(&other, prefix(block), AT_ONCE, |r| r.kind == "unreachable")?;
    }
    order_peers(rack.host("node-2"), "enable")?;
    rack.wait_sessions()?;
    rack.wait_routes().map(drop)
}

/// `podroute peer VERB` for every peer of the host.
fn order_peers(host: &Host, verb: &str) -> Result<()> {
    let program = bins::find("podroute")?;
    let peers = podroute::show(host, "peers")?;
    for name in peers["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|peer| peer["name"].as_str())
    {
        host.run(&program.to_string_lossy(), &["peer", verb, name])?;
    }
    Ok(())
}

/// A packet to an address that no pod has gets an answer and does not travel back and forth.
fn free_address() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    for (text, from) in [
        ("10.244.1.200", "192.0.2.1"),
        ("fd00:10:244:1::200", "2001:db8:a::1"),
    ] {
        let free: IpAddr = text.parse().expect("literal");
        let source: IpAddr = from.parse().expect("literal");
        let wire = Capture::start("tor-a", "rack")?;
        let answered = rack
            .host("tor-a")
            .within(|| icmp::ping_all(&[free], 1, Duration::from_millis(700)))?;
        ensure!(answered.is_empty(), "a free address answered: {answered:?}");
        let packets = wire.finish()?;
        let crossings = packets.iter().filter(|packet| packet.destination == free).count();
        ensure!(
            crossings == 1,
            "the packet to {free} crossed the wire {crossings} times: {packets:?}"
        );
        let errors = packets
            .iter()
            .filter(|p| !p.outgoing && p.destination == source && matches!(p.protocol, 1 | 58));
        let errors = errors.count();
        ensure!(errors >= 1, "no ICMP error came back for {free}: {packets:?}");
    }
    Ok(())
}

fn forwarding() -> Result<()> {
    let rack = Rack::converged(small(Kind::Podroute))?;
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        let file = format!("/proc/sys/{key}");
        let value = rack.host("node-1").run("cat", &[&file])?;
        ensure!(value.trim() == "1", "{key} is {} on node-1", value.trim());
    }
    Ok(())
}

fn rp_filter() -> Result<()> {
    let mut rack = Rack::build(small(Kind::Podroute))?;
    for key in ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter"] {
        rack.host("node-1").sysctl(key, "1")?;
        rack.host("node-2").sysctl(key, "0")?;
    }
    rack.start_daemons()?;
    support::wait_log(&mut rack, "node-1", &["rp_filter", "eth0"])?;
    rack.wait_sessions()?;
    let silent = !rack.daemon("node-2").processes[0].log().contains("rp_filter");
    ensure!(
        silent,
        "node-2's agent complains of rp_filter, which is off there"
    );
    Ok(())
}

/// A ToR without filters announces what a node must not believe.
fn outside_prefixes() -> Result<()> {
    let announce = |speaker: &mut Speaker| {
        if speaker.name == "tor-a" {
            speaker.unfiltered = true;
            // Foreign, a piece of node-1's own block, the default route, and one that is fine.
            let blocks = ["10.99.0.0/16", "10.244.1.128/25", "0.0.0.0/0", "10.244.50.0/24"];
            speaker.originates = blocks.map(prefix).to_vec();
        }
    };
    let rack = Rack::converged(small(Kind::Bird).adjusted(announce))?;
    let node = rack.host("node-1");
    wait_route(node, prefix("10.244.50.0/24"), Duration::from_secs(10), |r| {
        r.protocol == PROTO_AGENT
    })?;
    for refused in ["10.99.0.0/16", "10.244.1.128/25"] {
        let found = kernel::route(node, prefix(refused))?;
        ensure!(found.is_none(), "{refused} is in the kernel of node-1: {found:?}");
    }
    let default = kernel::route(node, prefix("0.0.0.0/0"))?;
    let untouched = default
        .as_ref()
        .is_some_and(|route| route.protocol != PROTO_AGENT);
    ensure!(untouched, "the default route became {default:?}");
    Ok(())
}
