//! The agent restarts, the datapath stays: restart, crash, pods while it is away.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Failure, Result};
use lab::flow::Flow;
use lab::kernel::{self, PROTO_AGENT};
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Plan, Rack};
use lab::topology::{Family, Topology};
use lab::{ensure, wait};

use crate::support::{self, prefix, small, wait_no_route, wait_route};
use crate::{Scenario, scenario};

const RATE: u32 = 1000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    // Daemons that help a restarting neighbor (RFC 4724) as the lab configures them.
    let helpers = [Kind::Podroute, Kind::Bird, Kind::Frr].map(|tor| {
        let name = format!("restart::kill_9_loses_no_packet_{}", tor.name());
        scenario(name, [Kind::Podroute, tor], move || kill_9(tor))
    });
    // One client of a router that restarts comes back much later than the other.
    let late = [Kind::Podroute, Kind::Bird, Kind::Frr].map(|node| {
        let name = format!("restart::a_router_waits_for_its_late_clients_{}", node.name());
        scenario(name, [Kind::Podroute, node], move || late_client(node)).with_program("nft", "nftables")
    });
    let mut scenarios: Vec<Scenario> = helpers.into_iter().chain(late).collect();
    scenarios.extend([
        scenario("restart::routes_are_adopted_and_not_rewritten", ours, adoption),
        scenario(
            "restart::routes_that_nobody_tells_any_more_are_swept",
            ours,
            sweep,
        ),
        scenario(
            "restart::pods_come_and_go_without_the_agent",
            ours,
            pods_without_agent,
        ),
        scenario("restart::ten_crashes_within_a_minute", ours, crash_loop),
        scenario("restart::an_upgrade_loses_no_packet", ours, upgrade),
        scenario("restart::reloads_lose_no_packet", ours, reloads),
        scenario("restart::a_second_agent_is_refused", ours, second_agent),
        scenario("restart::ready_when_the_sessions_of_before_are_up", ours, ready)
            .with_program("curl", "curl"),
    ]);
    scenarios
}

/// A flow in each direction between the pods of the two nodes.
struct Traffic([Flow; 2]);

impl Traffic {
    fn start(rack: &mut Rack) -> Result<Self> {
        rack.add_pods(1)?;
        let flow = |from: &str, to: &str| Flow::start(from, to, support::pod_address(rack, to, true)?, RATE);
        Ok(Self([
            flow("node-1-pod-a", "node-2-pod-a")?,
            flow("node-2-pod-a", "node-1-pod-a")?,
        ]))
    }

    fn wait_for(&self, more: u64) -> Result<()> {
        self.0.iter().try_for_each(|flow| flow.wait_for(more))
    }

    /// Nothing was lost, and there was something to lose.
    fn finish(self, at_least: u64) -> Result<()> {
        for flow in self.0 {
            flow.finish()?.check_no_loss(at_least)?;
        }
        Ok(())
    }
}

/// Killed ten times, at whatever it was about to do; and the route of a node that left meanwhile is gone in the end.
fn crash_loop() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let away = prefix("10.244.66.0/24");
    node.ip(&format!(
        "route add {away} via 192.0.2.1 dev eth0 proto {PROTO_AGENT}"
    ))?;
    let traffic = Traffic::start(&mut rack)?;
    // From before it has read the kernel to well after it has converged; 20 s in all.
    for millis in [3, 3000, 30, 300, 10, 1500, 100, 5, 2500, 50] {
        rack.daemon("node-1").kill();
        rack.daemon("node-1").relaunch()?;
        // A moment of its life, not a condition.
        std::thread::sleep(Duration::from_millis(millis));
        traffic.wait_for(1000)?;
    }
    rack.daemon("node-1").kill();
    rack.daemon("node-1").restart_daemons()?;
    rack.wait_sessions()?;
    wait_no_route(&node, away, Duration::from_secs(30))?;
    rack.wait_routes()?;
    traffic.wait_for(300)?;
    traffic.finish(10_000)
}

/// Another binary takes over: SIGTERM, and the next version starts.
fn upgrade() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let traffic = Traffic::start(&mut rack)?;
    let node = rack.host("node-1").clone();
    rack.daemon("node-1").terminate()?;
    let next = node.dir().join("etc/podroute-next");
    std::fs::copy(lab::bins::find("podroute")?, &next).map_err(|error| Failure::new(error.to_string()))?;
    let config = node.dir().join("etc/podroute.yaml");
    let mut command = Command::new(&next);
    command.args(["run", "--config"]).arg(config);
    rack.daemon("node-1").processes = vec![node.spawn("podroute-next", &mut command)?];
    rack.wait_sessions()?;
    rack.wait_routes()?;
    traffic.wait_for(500)?;
    traffic.finish(600)
}

/// A rollout stops at a version that breaks sessions: it is not ready before they are up again.
fn ready() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let wait_for = |words: &str| {
        wait::until(Duration::from_secs(40), format_args!("readyz: {words}"), || {
            let said = node.run("curl", &["-s", "http://127.0.0.1:9179/readyz"])?;
            ensure!(said.contains(words), "{said}");
            Ok(())
        })
    };
    let yaml = node.dir().join("etc/podroute.yaml");
    let yaml = std::fs::read_to_string(&yaml).context(yaml.display())?;
    let yaml = format!("{yaml}metrics: {{port: 9179}}\n");
    rack.daemon("node-1").terminate()?;
    let mut agent = podroute::start_with(&node, &yaml)?;
    wait_for("ready\n")?;
    agent.terminate(Duration::from_secs(10))?;
    rack.daemon("tor-a").kill();
    let _agent = podroute::start_with(&node, &yaml)?;
    wait_for("not up again since the restart: tor-a")?;
    rack.daemon("tor-a").restart_daemons()?;
    wait_for("ready\n")
}

/// What a new configuration changes in the kernel is changed without a gap.
fn reloads() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let traffic = Traffic::start(&mut rack)?;
    let node = rack.host("node-1").clone();
    let file = node.dir().join("etc/podroute.yaml");
    let base = std::fs::read_to_string(&file).map_err(|error| Failure::new(error.to_string()))?;
    let podroute = lab::bins::find("podroute")?;
    for (fib, shown) in [
        ("fib: {metric: 30}", "metric 30"),
        ("fib: {metric: 30, nexthopObjects: false}", "metric 30"),
        ("fib: {metric: 40, resilientGroups: {}}", "metric 40"),
        ("", "metric 20"),
    ] {
        node.write_config("podroute.yaml", &format!("{base}{fib}\n"))?;
        node.run(&podroute.to_string_lossy(), &["reload"])?;
        lab::wait::until(
            Duration::from_secs(10),
            format_args!("routes as {fib:?} says"),
            || {
                for family in ["-4", "-6"] {
                    let text = node.ip(&format!(
                        "{family} -N route show proto {PROTO_AGENT} type unicast"
                    ))?;
                    ensure!(!text.is_empty(), "no route");
                    ensure!(
                        text.lines()
                            .all(|line| line.contains(shown) || !line.contains("metric")),
                        "{text}"
                    );
                }
                Ok(())
            },
        )?;
        traffic.wait_for(200)?;
    }
    traffic.finish(800)
}

/// Two agents by mistake: the second says why it does not start, and the first goes on.
fn second_agent() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let podroute = lab::bins::find("podroute")?;
    let config = node.dir().join("etc/podroute.yaml");
    let args = ["run", "--config", &config.to_string_lossy()];
    match node.run(&podroute.to_string_lossy(), &args) {
        Ok(output) => return Err(Failure::new("a second agent ran").evidence("output", output)),
        Err(failure) => {
            let text = failure.to_string();
            ensure!(
                text.contains("another") && text.contains("podroute"),
                "it says: {text}"
            );
        }
    }
    rack.wait_sessions()?;
    rack.wait_routes().map(drop)
}

fn our_routes(host: &Host) -> Result<Vec<kernel::Route>> {
    let mut routes = kernel::routes(host, Family::V4)?;
    routes.extend(kernel::routes(host, Family::V6)?);
    routes.retain(|route| route.protocol == PROTO_AGENT);
    Ok(routes)
}

/// Watches the kernel's own announcements: adoption means that not one of our routes is deleted.
fn adoption() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    let before = our_routes(&node)?;
    ensure!(before.len() == 4, "node-1 has {before:?}");
    let monitor = node.spawn("ip-monitor", Command::new("ip").args(["-N", "monitor", "route"]))?;
    // The monitor listens when it shows a change of the test's own.
    mark(&node, &monitor, "10.200.0.1")?;
    rack.daemon("node-1").terminate()?;
    ensure!(
        our_routes(&node)? == before,
        "routes changed when the agent ended: {:?}",
        our_routes(&node)?
    );
    rack.daemon("node-1").restart_daemons()?;
    rack.wait_sessions()?;
    rack.wait_routes()?;
    mark(&node, &monitor, "10.200.0.2")?;
    let log = monitor.log();
    let touched: BTreeSet<&str> = log.lines().filter(|line| line.contains("proto 245")).collect();
    let deleted = touched.iter().any(|line| line.starts_with("Deleted"));
    if deleted {
        return Err(Failure::new("routes were deleted at the restart").evidence("ip monitor", log));
    }
    ensure!(
        our_routes(&node)? == before,
        "routes changed: {:?}, before {before:?}",
        our_routes(&node)?
    );
    Ok(())
}

/// Adds a route of the test's own and waits until the monitor has shown it.
fn mark(node: &Host, monitor: &lab::process::Daemon, address: &str) -> Result<()> {
    lab::wait::until(Duration::from_secs(5), "the monitor's view", || {
        let _ = node.ip(&format!("route del {address}/32 proto 99"));
        node.ip(&format!("route add {address}/32 via 192.0.2.1 dev eth0 proto 99"))?;
        ensure!(monitor.log().contains(address), "nothing of {address}");
        Ok(())
    })
}

/// What a dead agent left behind and no peer advertises any more must go, after the peers' End-of-RIB.
fn sweep() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1").clone();
    rack.daemon("node-1").kill();
    node.ip(&format!(
        "route add 10.244.66.0/24 via 192.0.2.1 dev eth0 proto {PROTO_AGENT}"
    ))?;
    rack.daemon("node-1").restart_daemons()?;
    rack.wait_sessions()?;
    wait_no_route(&node, prefix("10.244.66.0/24"), Duration::from_secs(30))?;
    rack.wait_routes().map(drop)
}

/// The agent is killed and started again under a flow in each direction and family: the kernel keeps the
/// routes on the node, and the ToR keeps the node's routes (graceful restart).
fn kill_9(tor: Kind) -> Result<()> {
    let mut rack = Rack::converged(small(tor))?;
    rack.add_pods(1)?;
    let mut flows = Vec::new();
    for (from, to) in [("node-1-pod-a", "node-2-pod-a"), ("node-2-pod-a", "node-1-pod-a")] {
        for v4 in [true, false] {
            let target = support::pod_address(&rack, to, v4)?;
            // One after the other: each has the sink's port for itself.
            let flow = Flow::start(from, to, target, RATE)?;
            rack.daemon("node-1").kill();
            flow.wait_for(300)?;
            rack.daemon("node-1").restart_daemons()?;
            rack.wait_sessions()?;
            rack.wait_routes()?;
            flow.wait_for(300)?;
            flows.push(flow.finish()?);
        }
    }
    flows.iter().try_for_each(|outcome| outcome.check_no_loss(600))
}

/// RFC 4724 §4.1: tor-a is killed and starts again, but node-2 cannot reach it for another six seconds. An End-of-RIB to node-1 in the
/// meantime would make it remove the routes of node-2, which tor-a does not know again yet.
fn late_client(node: Kind) -> Result<()> {
    let mut rack = Rack::build(Plan::new(Topology::small(), node, Kind::Podroute))?;
    rack.start_daemons()?;
    // Other daemons on a node have no unreachable routes of their blocks: only what is learned counts.
    let learned = |rack: &Rack| {
        for (host, block) in [("node-1", "10.244.2.0/24"), ("node-2", "10.244.1.0/24")] {
            wait_route(rack.host(host), prefix(block), CONVERGENCE, |_| true)?;
        }
        Ok::<(), Failure>(())
    };
    rack.wait_sessions()?;
    learned(&rack)?;
    rack.add_pods(1)?;
    // A default route over tor-a would hide that the other's route is gone.
    for node in ["node-1", "node-2"] {
        rack.host(node).ip("route del default")?;
    }
    // The names of those that are up are written every few seconds.
    let kept = "/run/podroute/sessions";
    wait::until(CONVERGENCE, "tor-a keeps the names of its sessions", || {
        let text = rack.host("tor-a").run("cat", &[kept])?;
        ensure!(text.contains("node-1") && text.contains("node-2"), "{text}");
        Ok(())
    })?;
    let target = support::pod_address(&rack, "node-2-pod-a", true)?;
    let flow = Flow::start("node-1-pod-a", "node-2-pod-a", target, RATE)?;
    rack.daemon("tor-a").kill();
    let rules = "table inet late { chain in { type filter hook input priority 0; iifname \"rack-2\" tcp dport 179 drop; \
                 iifname \"rack-2\" tcp sport 179 drop; }; }";
    rack.host("tor-a").run("nft", &[rules])?;
    rack.daemon("tor-a").restart_daemons()?;
    wait::until(Duration::from_secs(60), "six seconds of node-1 alone", || {
        let seconds = support::uptime(rack.host("tor-a"), "node-1")?;
        ensure!(seconds >= 6, "up for {seconds} s");
        Ok(())
    })?;
    // FRR 8.4 as the late client loses a second of packets when it is back, which is another matter.
    let whole = node != Kind::Frr;
    let mut flow = Some(flow);
    if !whole && let Some(flow) = flow.take() {
        flow.finish()?.check_no_loss(6 * u64::from(RATE))?;
    }
    rack.host("tor-a").run("nft", &["delete table inet late"])?;
    rack.wait_sessions()?;
    learned(&rack)?;
    let Some(flow) = flow else { return Ok(()) };
    // Stale routes would go with the End-of-RIBs, which come now.
    flow.wait_for(2 * u64::from(RATE))?;
    flow.finish()?.check_no_loss(6 * u64::from(RATE))
}

fn pods_without_agent() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    rack.add_pods(1)?;
    rack.daemon("node-1").kill();
    let runtime = rack.runtime("node-1");
    let late = runtime.add_pod("node-1-late")?;
    rack.pods.push(late);
    runtime.delete_pod("node-1-pod-a")?;
    rack.pods.retain(|pod| pod.name != "node-1-pod-a");
    rack.daemon("node-1").restart_daemons()?;
    rack.wait_sessions()?;
    rack.wait_routes()?;
    support::prove_reachability(&rack)
}
