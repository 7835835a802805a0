//! Changes that the kernel makes without a notification, routes that others replace, and addresses that move.

use std::time::Duration;

use lab::daemon::{Kind, bird, podroute};
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::kernel::{self, PROTO_AGENT};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::topology::Family;
use lab::wait;

use crate::sessions::{cable, established};
use crate::{Scenario, scenario};

/// Routes where their number does not matter.
const FEW: usize = 20;
/// Routes of the scenario of carrier losses.
const MANY: usize = 5000;
/// Carrier losses; each ends with a kernel that has every route.
const LOSSES: usize = 40;
/// Within this every route is there again; the kernel reports a link's state once a second.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn scenarios() -> Vec<Scenario> {
    let both = [Kind::Podroute, Kind::Bird];
    vec![
        scenario("datapath::an_address_moves_to_a_bridge", both, bridge),
        scenario("datapath::short_carrier_losses_lose_no_route", both, carrier),
        scenario("datapath::a_short_shutdown_loses_no_route", both, shutdown),
        scenario("datapath::a_foreign_replacement_is_seen", both, replaced),
        scenario(
            "datapath::objects_that_others_change_are_put_right",
            both,
            objects,
        ),
        scenario(
            "datapath::lost_notifications_are_made_up_for",
            both,
            lost_notifications,
        ),
        scenario("datapath::all_of_it_without_objects", both, without_objects),
    ]
}

/// A node and a router with many routes of both families, over one cable.
struct Line {
    node: Host,
    agent: Daemon,
    router: Host,
    _bird: Vec<Daemon>,
    routes: usize,
}

/// `routes` of each family.
fn line(routes: usize) -> Result<Line> {
    line_with(routes, true)
}

/// With nexthop objects or without.
fn line_with(routes: usize, objects: bool) -> Result<Line> {
    let [node, router] = cable("node-a", "router-b", true)?;
    for (host, last) in [(&node, 1), (&router, 2)] {
        // The node keeps it while its link is down, as it does its IPv4 address.
        host.sysctl("net/ipv6/conf/eth0/keep_addr_on_down", "1")?;
        host.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"))?;
    }
    let v4: String = (0..routes)
        .map(|n| format!("  route 10.{}.{}.0/24 unreachable;\n", 100 + n / 250, n % 250))
        .collect();
    let v6: String = (0..routes)
        .map(|n| format!("  route fd00:10:{n:x}::/64 unreachable;\n"))
        .collect();
    // Multihop: the router keeps the session while its own link is down.
    let config = format!(
        "log stderr all;\nrouter id 10.0.0.2;\nprotocol device {{}}\nprotocol static four {{ ipv4;\n{v4}}}\n\
         protocol static six {{ ipv6;\n{v6}}}\n\
         protocol bgp node {{ local 192.0.2.2 as 65001; neighbor 192.0.2.1 as 64601; multihop 2; \
         connect delay time 1; connect retry time 1; error wait time 1, 4; graceful restart on; \
         ipv4 {{ import all; export all; next hop self; }};\n\
         ipv6 {{ import all; export filter {{ bgp_next_hop = 2001:db8::2; accept; }}; }}; }}\n"
    );
    let bird = bird::start_with(&router, &config)?;
    let yaml = format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64601, podCIDRs: [10.0.0.0/8, \"fd00:10::/32\"]}}\nfib: {{nexthopObjects: {objects}}}\n\
         metrics: {{port: 9179}}\nnode: {{name: node-a, routerId: 10.0.0.1, blocks: [10.244.1.0/24]}}\n\
         peers:\n\
         - {{name: router, address: 192.0.2.2, asn: 65001, import: all, export: all, timers: {{connectRetry: 200ms}}}}\n\
         policies: {{all: accept}}\n"
    );
    let agent = podroute::start_with(&node, &yaml)?;
    established(&node, "router")?;
    let line = Line {
        node,
        agent,
        router,
        _bird: bird,
        routes,
    };
    line.all_over("eth0")?;
    Ok(line)
}

impl Line {
    /// The kernel has every route of both families, over this interface.
    fn has_all(&self, interface: &str) -> Result<()> {
        for family in ["-4", "-6"] {
            let text = self
                .node
                .ip(&format!("{family} -o -N route show proto {PROTO_AGENT}"))?;
            let over = format!(" dev {interface} ");
            let count = text.lines().filter(|line| line.contains(&over)).count();
            ensure!(
                count == self.routes,
                "{count} of {} routes ({family})",
                self.routes
            );
        }
        Ok(())
    }

    fn all_over(&self, interface: &str) -> Result<()> {
        wait::until(LIMIT, format_args!("all routes over {interface}"), || {
            self.has_all(interface)
        })
        .map_err(|failure| self.evidence(failure))
    }

    /// Nothing is lost later either: the kernel acts on a lost carrier up to a second after it.
    fn stays(&self, interface: &str) -> Result<()> {
        self.all_over(interface)?;
        wait::until(LIMIT, "two quiet seconds", || {
            wait::throughout(Duration::from_secs(2), "all routes", || self.has_all(interface))
        })
        .map_err(|failure| self.evidence(failure))
    }

    fn evidence(&self, failure: Failure) -> Failure {
        let show = |args: &str| self.node.ip(args).unwrap_or_default();
        let fib = podroute::show(&self.node, "fib").unwrap_or_default();
        let mut routes = fib["routes"].as_array().cloned().unwrap_or_default();
        routes.retain(|route| route["state"] != "installed");
        routes.truncate(3);
        self.agent.with_log(
            failure
                .evidence("nexthop objects", show("-N nexthop show"))
                .evidence("links", show("-br link show"))
                .evidence("not installed", format!("{routes:?}")),
        )
    }
}

/// First on the bridge, then away from the port: what `ip`, netplan and NetworkManager do.
fn bridge() -> Result<()> {
    move_to_bridge(&line(FEW)?)
}

fn move_to_bridge(line: &Line) -> Result<()> {
    for one in [
        "link add br0 type bridge",
        "link set br0 up",
        "addr add 192.0.2.1/24 dev br0",
        "addr add 2001:db8::1/64 dev br0 nodad",
        "link set eth0 master br0",
        "addr del 192.0.2.1/24 dev eth0",
        "addr del 2001:db8::1/64 dev eth0",
    ] {
        line.node.ip(one)?;
    }
    line.all_over("br0")?;
    // And back.
    for one in [
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        "link set eth0 nomaster",
        "addr del 192.0.2.1/24 dev br0",
        "addr del 2001:db8::1/64 dev br0",
    ] {
        line.node.ip(one)?;
    }
    line.all_over("eth0")
}

fn carrier() -> Result<()> {
    lose_carrier(&line(MANY)?, LOSSES)
}

fn lose_carrier(line: &Line, losses: usize) -> Result<()> {
    for loss in 0..losses {
        line.router.ip("link set eth0 down")?;
        // From a loss that is over before anybody acts on it to one in the middle of the removal of routes.
        std::thread::sleep(Duration::from_millis(10 * (loss as u64 % 10)));
        line.router.ip("link set eth0 up")?;
        line.all_over("eth0")?;
    }
    line.stays("eth0")
}

/// The node's own link, by its own operator.
fn shutdown() -> Result<()> {
    shut_down(&line(MANY)?, LOSSES)
}

fn shut_down(line: &Line, losses: usize) -> Result<()> {
    for loss in 0..losses {
        line.node.ip("link set eth0 down")?;
        std::thread::sleep(Duration::from_millis(5 * (loss as u64 % 5)));
        line.node.ip("link set eth0 up")?;
        line.all_over("eth0")?;
    }
    line.stays("eth0")
}

/// Somebody else's `ip route replace` with our metric takes our route away; ours is back when theirs is gone.
fn replaced() -> Result<()> {
    replace(&line(FEW)?)
}

fn replace(line: &Line) -> Result<()> {
    let metric = |block: &str| -> Result<String> {
        let family = if block.contains(':') { "-6" } else { "-4" };
        let text = line.node.ip(&format!("{family} -N route show {block}"))?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "metric");
        Ok(words.nth(1).unwrap_or("0").to_owned())
    };
    for (block, gateway, family) in [
        ("10.100.7.0/24", "192.0.2.2", Family::V4),
        ("fd00:10:7::/64", "2001:db8::2", Family::V6),
    ] {
        let metric = metric(block)?;
        for verb in ["replace", "change"] {
            line.node.ip(&format!(
                "route {verb} {block} via {gateway} metric {metric} proto 99"
            ))?;
            wait::until(CONVERGENCE, "the agent sees that its route is gone", || {
                let fib = podroute::show(&line.node, "fib")?;
                let found = fib["routes"].as_array().into_iter().flatten();
                let state = found
                    .filter(|route| route["prefix"] == block)
                    .map(|route| route["state"].clone());
                let states: Vec<_> = state.collect();
                ensure!(states == ["failed"], "{states:?}");
                is_ready(line, false)
            })
            .map_err(|failure| {
                let routes = line
                    .node
                    .ip(&format!("-N route show {block}"))
                    .unwrap_or_default();
                line.evidence(failure.evidence(format!("{verb} {block} metric {metric}"), routes))
            })?;
            let there = kernel::routes(&line.node, family)?;
            let theirs = there.iter().filter(|route| route.prefix.to_string() == block);
            let protocols: Vec<_> = theirs.map(|route| route.protocol.as_str()).collect();
            ensure!(protocols == ["99"], "{block} has routes of {protocols:?}");
            line.node
                .ip(&format!("route del {block} metric {metric} proto 99"))?;
            line.all_over("eth0")?;
            wait::until(CONVERGENCE, "ready with all routes", || is_ready(line, true))?;
        }
    }
    Ok(())
}

/// What /readyz says.
fn is_ready(line: &Line, wanted: bool) -> Result<()> {
    let text = line.node.run("curl", &["-s", "http://127.0.0.1:9179/readyz"])?;
    ensure!(
        wanted == (text == "ready\n") && (wanted || text.contains("the kernel refused routes (1)")),
        "{text}"
    );
    Ok(())
}

/// The same where routes carry their gateways themselves, which the kernel treats in other ways.
fn without_objects() -> Result<()> {
    let line = line_with(FEW, false)?;
    lose_carrier(&line, 10)?;
    shut_down(&line, 10)?;
    replace(&line)?;
    move_to_bridge(&line)
}

/// `ip nexthop replace` and `del` of the agent's objects by another program, and a flush of the table.
fn objects() -> Result<()> {
    let line = line(FEW)?;
    let text = line.node.ip("-o -N nexthop show proto 245")?;
    let ids = |group: bool| -> Vec<&str> {
        let lines = text.lines().filter(|line| line.contains(" group ") == group);
        lines.filter_map(|line| line.split_whitespace().nth(1)).collect()
    };
    let first = |ids: Vec<&str>| ids.first().map(|id| (*id).to_owned()).unwrap_or_default();
    let (single, group) = (first(ids(false)), first(ids(true)));
    let before = wait::until(LIMIT, "objects", || line.node.ip("-N nexthop show proto 245"))?;
    for one in [
        format!("nexthop replace id {single} via 192.0.2.77 dev eth0"),
        format!("nexthop replace id {single} blackhole"),
        format!("nexthop del id {single}"),
        format!("nexthop del id {group}"),
        "-4 route flush table main proto 245".to_owned(),
        "-6 route flush table main proto 245".to_owned(),
    ] {
        // A flush by this iproute2 removes the first route and says that it failed.
        let _ = line.node.ip(&one);
        wait::until(LIMIT, format_args!("everything as before ip {one}"), || {
            line.has_all("eth0")?;
            let now = line.node.ip("-N nexthop show proto 245")?;
            ensure!(now == before, "{now} instead of {before}");
            Ok(())
        })
        .map_err(|failure| line.evidence(failure))?;
    }
    Ok(())
}

/// The agent stands still while more happens than its socket holds: what it missed it reads.
fn lost_notifications() -> Result<()> {
    use nix::sys::signal::Signal;
    let line = line(FEW)?;
    line.agent.signal(Signal::SIGSTOP)?;
    let lines = |verb: &str| -> String {
        let lines = (0..20_000).map(|n| format!("route {verb} blackhole 10.{}.{}.0/24\n", n / 250, n % 250));
        lines.collect()
    };
    let batch = line.node.write_config("batch", &(lines("add") + &lines("del")))?;
    line.node.ip(&format!("-batch {}", batch.display()))?;
    for one in [
        "route del 10.100.7.0/24 proto 245",
        "route add 203.0.113.0/24 via 192.0.2.2 proto 245 metric 20",
        "nexthop flush proto 245",
        "link set eth0 down",
        "link set eth0 up",
    ] {
        line.node.ip(one)?;
    }
    line.agent.signal(Signal::SIGCONT)?;
    wait::until(LIMIT, "all routes and no other", || {
        line.has_all("eth0")?;
        let stray = line.node.ip("route show 203.0.113.0/24")?;
        ensure!(stray.is_empty(), "{stray}");
        Ok(())
    })
    .map_err(|failure| line.evidence(failure))
}
