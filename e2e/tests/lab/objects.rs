//! Nexthop objects: many routes, few messages; and nothing of others is touched.

use std::time::{Duration, Instant};

use lab::bins;
use lab::daemon::{Kind, bird, podroute};
use lab::ensure;
use lab::failure::Result;
use lab::kernel;
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::topology::Family;
use lab::wait;
use serde_json::Value;

use crate::sessions::{cable, established};
use crate::support::{prefix, wait_route};
use crate::{Scenario, scenario};

/// Routes that the router announces.
const ROUTES: usize = 1000;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let both = [Kind::Podroute, Kind::Bird];
    vec![
        scenario("objects::a_lost_link_is_one_message", both, lost_link),
        scenario("objects::a_lost_router_is_one_message", both, lost_router),
        scenario("objects::what_a_person_flushes_comes_back", both, flushed),
        scenario("objects::a_restart_takes_them_over", both, restarted),
        scenario("objects::on_and_off_by_reload", both, reloaded),
        scenario("objects::cleanup_takes_ours_alone", both, cleaned),
    ]
}

pub(crate) struct Pair {
    pub(crate) node: Host,
    agent: Daemon,
    router: Host,
    _bird: Vec<Daemon>,
}

fn yaml(objects: bool) -> String {
    yaml_with(&format!("nexthopObjects: {objects}"), "all: accept")
}

/// A node with these settings of the kernel's routes, whose peers import by `first` and `second` where there are such
/// policies, else by `all`.
pub(crate) fn yaml_with(fib: &str, policies: &str) -> String {
    let import = |name: &str| {
        let has = policies.contains(&format!("{name}:"));
        if has { name.to_owned() } else { "all".to_owned() }
    };
    let (first, second) = (import("first"), import("second"));
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64601, podCIDRs: [10.0.0.0/8]}}\n\
         node: {{name: node-a, routerId: 10.0.0.1, blocks: [10.244.1.0/24]}}\n\
         fib: {{{fib}}}\n\
         peers:\n\
         - {{name: first, address: 192.0.2.2, asn: 65001, import: {first}, export: all, timers: {{connectRetry: 200ms}}}}\n\
         - {{name: second, address: 198.51.100.2, asn: 65001, import: {second}, export: all, timers: {{connectRetry: 200ms}}}}\n\
         policies: {{{policies}}}\n"
    )
}

fn pair() -> Result<Pair> {
    let pair = pair_with(&yaml(true))?;
    pair.all_over(2)?;
    Ok(pair)
}

/// A node with two cables to one router, and a session over each.
pub(crate) fn pair_with(yaml: &str) -> Result<Pair> {
    let [node, router] = cable("node-a", "router-b", true)?;
    node.ip("link add eth1 type veth peer name eth1 netns router-b")?;
    for (host, last) in [(&node, 1), (&router, 2)] {
        host.ip(&format!("addr add 198.51.100.{last}/24 dev eth1"))?;
        host.ip("link set eth1 up")?;
    }
    let routes: String = (0..ROUTES)
        .map(|n| format!("  route 10.{}.{}.0/24 unreachable;\n", 100 + n / 250, n % 250))
        .collect();
    let session = |name: &str, network: &str| {
        format!(
            "protocol bgp {name} {{ local {network}.2 as 65001; neighbor {network}.1 as 64601; direct; \
             connect delay time 1; connect retry time 1; error wait time 1, 4; graceful restart on; \
             ipv4 {{ import all; export all; }}; }}\n"
        )
    };
    let config = format!(
        "log stderr all;\nrouter id 10.0.0.2;\nprotocol device {{}}\nprotocol static own {{ ipv4;\n{routes}}}\n{}{}",
        session("left", "192.0.2"),
        session("right", "198.51.100"),
    );
    let bird = bird::start_with(&router, &config)?;
    let agent = podroute::start_with(&node, yaml)?;
    established(&node, "first")?;
    established(&node, "second")?;
    Ok(Pair {
        node,
        agent,
        router,
        _bird: bird,
    })
}

impl Pair {
    /// Waits until every route leads over this number of links.
    pub(crate) fn all_over(&self, links: usize) -> Result<()> {
        wait::until(
            CONVERGENCE,
            format_args!("{ROUTES} routes over {links} links"),
            || {
                let routes = kernel::routes(&self.node, Family::V4)?;
                let ours = routes.iter().filter(|route| {
                    route.prefix.to_string().starts_with("10.10") && route.next_hops.len() == links
                });
                let count = ours.count();
                ensure!(count == ROUTES, "{count} so far");
                Ok(())
            },
        )
    }

    fn objects(&self) -> Result<Vec<Value>> {
        let text = self.node.ip("-json -N nexthop show")?;
        Ok(serde_json::from_str::<Vec<Value>>(&text).unwrap_or_default())
    }

    pub(crate) fn ours(&self) -> Result<Vec<Value>> {
        let mut all = self.objects()?;
        all.retain(|object| object["protocol"].as_str() == Some("245") || object["protocol"] == 245);
        Ok(all)
    }

    pub(crate) fn podroute(&self, args: &[&str]) -> Result<String> {
        self.node.run(&bins::find("podroute")?.to_string_lossy(), args)
    }

    /// Notifications of routes and nexthop objects, from now on.
    fn monitor(&self) -> Result<Daemon> {
        let mut command = lab::machine::command("ip");
        command.args(["-o", "monitor", "route", "nexthop"]);
        let mut monitor = self.node.spawn("monitor", &mut command)?;
        // A route of the test's own shows that it listens.
        wait::until(CONVERGENCE, "the monitor's first line", || {
            self.node.ip("route replace blackhole 203.0.113.0/24")?;
            self.node.ip("route del blackhole 203.0.113.0/24")?;
            monitor.check_alive()?;
            ensure!(monitor.log().contains("203.0.113.0/24"), "it is silent");
            Ok(())
        })?;
        Ok(monitor)
    }
}

fn nothing_taken_away(monitor: &Daemon) -> Result<()> {
    let log = monitor.log();
    let deleted = log
        .lines()
        .filter(|line| line.starts_with("Deleted 10.10"))
        .count();
    ensure!(deleted == 0, "{deleted} routes were taken away meanwhile");
    Ok(())
}

fn lost_link() -> Result<()> {
    let pair = pair()?;
    let ours = pair.ours()?;
    // Two gateways, and their group; the session's first moments may have left groups of one.
    ensure!(
        ours.len() >= 3 && ours.len() <= 6,
        "{} objects for {ROUTES} routes: {ours:?}",
        ours.len()
    );
    let monitor = pair.monitor()?;
    let start = Instant::now();
    pair.router.ip("link set eth1 down")?;
    pair.all_over(1)?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    // The group lost its member by the kernel's own doing or by one message of the agent; routes were not written for it.
    nothing_taken_away(&monitor)?;
    pair.router.ip("link set eth1 up")?;
    pair.all_over(2)
}

/// Of two routers with the same routes the one in use goes, on a link that stays up.
fn lost_router() -> Result<()> {
    let pair = pair_with(&yaml_with("maxPaths: 1", "all: accept"))?;
    let all_via = |gateway: &str| {
        let gateway: std::net::IpAddr = gateway
            .parse()
            .map_err(|_| lab::failure::Failure::new("an address"))?;
        wait::until(CONVERGENCE, format_args!("{ROUTES} routes via {gateway}"), || {
            let routes = kernel::routes(&pair.node, Family::V4)?;
            let there = routes.iter().filter(|route| {
                route.prefix.to_string().starts_with("10.10")
                    && route.next_hops.iter().all(|(via, _)| *via == Some(gateway))
            });
            let count = there.count();
            ensure!(count == ROUTES, "{count} so far");
            Ok(())
        })
    };
    all_via("192.0.2.2")?;
    wait::until(CONVERGENCE, "nothing left of how it began", || {
        let ours = pair.ours()?;
        ensure!(ours.len() == 2, "{ours:?}");
        Ok(())
    })?;
    // Else the kernel itself notifies of every route whose group changed.
    let compat = |value: &str| {
        pair.node.run(
            "sysctl",
            &["-qw", &format!("net.ipv4.nexthop_compat_mode={value}")],
        )
    };
    compat("0")?;
    let monitor = pair.monitor()?;
    pair.router.run("birdc", &["disable", "left"])?;
    wait::until(CONVERGENCE, "a route over the other router", || {
        let way = pair.node.ip("route get 10.100.7.1")?;
        ensure!(way.contains("via 198.51.100.2"), "{way}");
        Ok(())
    })?;
    let log = monitor.log();
    compat("1")?;
    all_via("198.51.100.2")?;
    let written = log.lines().filter(|line| line.contains("10.10")).count();
    ensure!(written == 0, "{written} messages of routes: {log}");
    nothing_taken_away(&monitor)
}

fn flushed() -> Result<()> {
    let pair = pair()?;
    // Takes every object, and every route that refers to one.
    pair.node.ip("nexthop flush proto 245")?;
    pair.all_over(2).map_err(|failure| {
        let objects = pair.node.ip("-N nexthop show").unwrap_or_default();
        let fib = podroute::show(&pair.node, "fib").map(|fib| fib["routes"][1].to_string());
        let failure = failure.evidence("nexthop objects", objects);
        pair.agent
            .with_log(failure.evidence("a route", fib.unwrap_or_default()))
    })?;
    ensure!(pair.ours()?.len() >= 3, "{:?}", pair.ours()?);
    Ok(())
}

fn restarted() -> Result<()> {
    let mut pair = pair()?;
    let id = |pair: &Pair| -> Result<Value> {
        let fib = podroute::show(&pair.node, "fib")?;
        let found = fib["routes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|route| route["prefix"] == "10.100.7.0/24");
        Ok(found
            .map(|route| route["nexthopObject"].clone())
            .unwrap_or_default())
    };
    let before = id(&pair)?;
    ensure!(before.is_number(), "show fib has no object: {before}");
    let monitor = pair.monitor()?;
    pair.agent.kill();
    pair.agent = podroute::start_with(&pair.node, &yaml(true))?;
    established(&pair.node, "first")?;
    established(&pair.node, "second")?;
    pair.all_over(2)?;
    wait::until(CONVERGENCE, "the same object as before", || {
        let now = id(&pair)?;
        ensure!(now == before, "{now} instead of {before}");
        Ok(())
    })?;
    nothing_taken_away(&monitor)
}

fn reloaded() -> Result<()> {
    let pair = pair()?;
    let monitor = pair.monitor()?;
    for objects in [false, true] {
        pair.node.write_config("podroute.yaml", &yaml(objects))?;
        pair.podroute(&["reload"])?;
        wait::until(CONVERGENCE, format_args!("objects in use: {objects}"), || {
            let text = pair.node.ip("-o -N route show proto 245")?;
            let with = text.lines().filter(|line| line.contains("nhid")).count();
            let wanted = if objects { ROUTES } else { 0 };
            ensure!(with == wanted, "{with} routes refer to objects");
            Ok(())
        })?;
        pair.all_over(2)?;
    }
    nothing_taken_away(&monitor)
}

fn cleaned() -> Result<()> {
    let mut pair = pair()?;
    let foreign = [
        "nexthop add id 77 via 192.0.2.2 dev eth0 proto 99",
        "nexthop add id 4110418920 via 192.0.2.3 dev eth0",
        "nexthop add id 78 group 77 proto 99",
        "route add 203.0.113.0/24 nhid 78 proto 99",
        "route add 10.100.7.128/25 via 192.0.2.2 proto 99",
        "route add 10.100.7.0/24 via 192.0.2.2 table 1000 proto 99",
        "rule add from 10.100.0.0/16 lookup 1000 pref 700",
    ];
    for one in foreign {
        pair.node.ip(one)?;
    }
    let state = |pair: &Pair| -> Result<String> {
        let mut all = String::new();
        for what in ["-o -N route show table all", "-N nexthop show", "-N rule show"] {
            all += &pair.node.ip(what)?;
        }
        Ok(all)
    };
    let others = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.contains("proto 245"))
            .map(|line| line.trim().to_owned())
            .collect()
    };
    let before = state(&pair)?;
    pair.agent.terminate(Duration::from_secs(5))?;
    pair.podroute(&["cleanup"])?;
    let after = state(&pair)?;
    ensure!(
        !after.contains("proto 245"),
        "something of podroute is left: {after}"
    );
    ensure!(
        others(&before) == others(&after),
        "others' before:\n{before}\nafter:\n{after}"
    );
    wait_route(&pair.node, prefix("203.0.113.0/24"), CONVERGENCE, |_| true)?;
    Ok(())
}
