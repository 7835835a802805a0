//! Queries that several scenarios share: an agent's peers, routes and log.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use lab::daemon::{Kind, Speaker, podroute};
use lab::failure::{Failure, Result};
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Plan, Rack};
use lab::topology::{Role, Topology};
use lab::{ensure, kernel, wait};
use serde_json::Value;

/// The small rack with our agent on the nodes.
pub(crate) fn small(tor: Kind) -> Plan {
    Plan::new(Topology::small(), Kind::Podroute, tor)
}

/// A prefix written as a literal.
pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

/// What `podroute show peers` says of one peer.
pub(crate) fn peer(host: &Host, name: &str) -> Result<Value> {
    let peers = podroute::show(host, "peers")?;
    let found = peers["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|peer| peer["name"] == name);
    found.cloned().ok_or_else(|| {
        Failure::new(format!("{}: no peer {name}", host.name())).evidence("show peers", peers.to_string())
    })
}

/// Seconds since a peer's session came up; fails if it is not up.
pub(crate) fn uptime(host: &Host, name: &str) -> Result<u64> {
    let peer = peer(host, name)?;
    ensure!(
        peer["state"] == "Established",
        "{}: {name} is {}",
        host.name(),
        peer["state"]
    );
    let text = peer.to_string();
    peer["uptimeSeconds"]
        .as_f64()
        .map(|seconds| seconds as u64)
        .ok_or_else(|| Failure::new("an established peer has no uptimeSeconds").evidence("peer", text))
}

/// Waits until a session has been up for so long that a later reset shows in its uptime.
pub(crate) fn settled(host: &Host, name: &str) -> Result<u64> {
    wait::until(
        CONVERGENCE,
        format_args!("2 s of uptime of {name} on {}", host.name()),
        || {
            let seconds = uptime(host, name)?;
            ensure!(seconds >= 2, "up for {seconds} s");
            Ok(seconds)
        },
    )
}

/// Waits until the kernel has a route to the prefix with these properties.
pub(crate) fn wait_route(
    host: &Host,
    prefix: IpNet,
    limit: Duration,
    wanted: impl Fn(&kernel::Route) -> bool,
) -> Result<kernel::Route> {
    wait::until(
        limit,
        format_args!("route to {prefix} on {}", host.name()),
        || match kernel::route(host, prefix)? {
            Some(route) if wanted(&route) => Ok(route),
            Some(route) => wait::not_yet(format!("it is {route:?}")),
            None => wait::not_yet("there is none"),
        },
    )
    .map_err(|f| f.evidence(format!("routes of {}", host.name()), kernel::dump(host)))
}

/// Waits until the kernel has no route to the prefix.
pub(crate) fn wait_no_route(host: &Host, prefix: IpNet, limit: Duration) -> Result<()> {
    wait::until(
        limit,
        format_args!("no route to {prefix} on {}", host.name()),
        || match kernel::route(host, prefix)? {
            None => Ok(()),
            Some(route) => wait::not_yet(format!("there is {route:?}")),
        },
    )
}

/// Waits until the daemon's log has a line with all of these words.
pub(crate) fn wait_log(rack: &mut Rack, machine: &str, words: &[&str]) -> Result<String> {
    let daemon = rack.daemon(machine);
    wait::until(
        Duration::from_secs(10),
        format_args!("a log line of {machine} with {words:?}"),
        || {
            let log = daemon.processes[0].log();
            match log
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)))
            {
                Some(line) => Ok(line.to_owned()),
                None => wait::not_yet("no such line"),
            }
        },
    )
    .map_err(|f| daemon.with_logs(f))
}

/// Makes the ToRs (or the nodes) wait for the other side's connection.
pub(crate) fn only_tors_wait(speaker: &mut Speaker) {
    speaker.set_passive(speaker.role == Role::Tor);
}

/// Makes the nodes wait for the ToRs' connections.
pub(crate) fn only_nodes_wait(speaker: &mut Speaker) {
    speaker.set_passive(speaker.role == Role::Node);
}

/// The first IPv4 pod address, and the like.
pub(crate) fn pod_address(rack: &Rack, pod: &str, v4: bool) -> Result<IpAddr> {
    let pod = rack.pods.iter().find(|p| p.name == pod);
    let pod = pod.ok_or_else(|| Failure::new("no such pod"))?;
    pod.addresses
        .values()
        .copied()
        .find(|a| a.is_ipv4() == v4)
        .ok_or_else(|| Failure::new("no address"))
}

/// Pings and connects between all pods and nodes of the rack.
pub(crate) fn prove_reachability(rack: &Rack) -> Result<()> {
    use lab::probe::{Servers, ping, tcp};
    let (pods, nodes) = (rack.pod_endpoints(), rack.node_endpoints()?);
    let all: Vec<_> = pods.iter().chain(&nodes).cloned().collect();
    let _servers = Servers::start(&all)?;
    ping(&pods, &all)?.check("ping from pods")?;
    ping(&nodes, &pods)?.check("ping from nodes")?;
    tcp(&pods, &all)?.check("TCP from pods")?;
    tcp(&nodes, &pods)?.check("TCP from nodes")?;
    Ok(())
}
