//! `make bench-fib`: learned routes into the kernel, and to another next hop after a TCP reset.
//!
//! Two senders announce the same routes; the first is preferred. The clock runs from the first octet (or the reset)
//! until the kernel's answer for every one of a sample of routes is the wanted gateway; a complete reading must then
//! agree. The floor is the kernel alone: the same routes, encoded beforehand but for their batch, over one netlink socket,
//! while nobody listens; once in the table's order, and once in the one that is the least work for it. For the silent loss
//! the first sender speaks BFD (50 ms times 3), and what it sends and should get is dropped without a link going down.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use lab::bgp_load::{Load, Rules, Spec, Table};
use lab::daemon::{Kind, bird, frr, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::process::{Daemon, cost};
use lab::topology::Family;
use lab::{ensure, kernel, netns, wait};

use crate::report::{machine, median, save};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 101, 255, 254);
const SENDERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 101, 0, 1), Ipv4Addr::new(10, 101, 0, 2)];
const LIMIT: Duration = Duration::from_secs(60);
/// What BFD is set to.
const BFD_INTERVAL: Duration = Duration::from_millis(50);
const SPREAD: &str = "kernel alone, spread";
const FLOORS: [&str; 2] = ["kernel alone", SPREAD];
/// Routes that are asked for while the clock runs.
const SAMPLE: u32 = 64;

/// One run.
#[derive(Debug, Clone, serde::Serialize)]
struct Run {
    daemon: &'static str,
    routes: u32,
    installed: f64,
    moved: Option<f64>,
    lost: Option<f64>,
    cpu: f64,
    peak_mib: f64,
}

/// Runs inside the sandbox.
pub(crate) fn run_all(rounds: usize, daemons: &[Kind], out: Option<&std::path::Path>) -> Result<()> {
    let daemons = Kind::with_kernel_routes(daemons);
    let mut runs = Vec::new();
    for routes in [10_000, 100_000] {
        for round in 0..rounds {
            for name in FLOORS {
                runs.push(floor(name, routes, round)?);
            }
            for kind in &daemons {
                let run = run(*kind, routes, round)?;
                println!(
                    "{:9} {:7} routes  installed {:7.1} ms  moved {}  silent loss {}  cpu {:5.2} s  peak {:6.1} MiB",
                    run.daemon,
                    run.routes,
                    run.installed * 1e3,
                    millis(run.moved),
                    millis(run.lost),
                    run.cpu,
                    run.peak_mib
                );
                runs.push(run);
            }
        }
    }
    let text = table(&runs);
    println!("{text}");
    match out {
        Some(dir) => write(dir, &daemons, rounds, &runs, &text),
        None => Ok(()),
    }
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{:.1} ms", seconds * 1e3))
}

fn floor(name: &'static str, routes: u32, round: usize) -> Result<Run> {
    let (node, far) = cable(&format!("floor-{routes}-{round}"))?;
    let gateway = SENDERS[0];
    node.ip(&format!("nexthop add id 1 via {gateway} dev eth0"))?;
    node.ip("nexthop add id 2 group 1")?;
    let table = Table::new(routes, 5, false);
    let mut list: Vec<(Ipv4Addr, u8)> = (0..routes).map(|route| table.prefix_of(route)).collect();
    if name == SPREAD {
        list.sort_by_key(|(address, _)| u32::from(*address).reverse_bits());
    }
    let start = Instant::now();
    node.within(|| kernel::install(&list, 2))?;
    let installed = start.elapsed().as_secs_f64();
    complete(&node, routes, gateway)?;
    netns::delete(node.name())?;
    netns::delete(far.name())?;
    Ok(Run {
        daemon: name,
        routes,
        installed,
        moved: None,
        lost: None,
        cpu: 0.0,
        peak_mib: 0.0,
    })
}

/// A node, and a machine with both senders' addresses.
fn cable(name: &str) -> Result<(Host, Host)> {
    let (node, far) = (
        Host::create(&format!("node-{name}"))?,
        Host::create(&format!("far-{name}"))?,
    );
    node.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {}",
        far.name()
    ))?;
    node.ip(&format!("addr add {NODE}/16 dev eth0"))?;
    for sender in SENDERS {
        far.ip(&format!("addr add {sender}/16 dev eth0"))?;
    }
    for host in [&node, &far] {
        host.ip("link set eth0 up")?;
    }
    Ok((node, far))
}

fn run(kind: Kind, routes: u32, round: usize) -> Result<Run> {
    let (node, far) = cable(&format!("{}-{routes}-{round}", kind.name()))?;
    let processes = start(kind, &node)?;
    let result = far
        .within(|| times(&node, &far, routes))
        .and_then(|times| Ok((times, cost(&processes)?)));
    let (times, (cpu, peak_mib)) = result.map_err(|failure| {
        processes
            .iter()
            .fold(failure, |failure, one| one.with_log(failure))
    })?;
    drop(processes);
    netns::delete(node.name())?;
    netns::delete(far.name())?;
    Ok(Run {
        daemon: kind.name(),
        routes,
        installed: times.installed.as_secs_f64(),
        moved: Some(times.moved.as_secs_f64()),
        lost: Some(times.lost.as_secs_f64()),
        cpu,
        peak_mib,
    })
}

fn start(kind: Kind, node: &Host) -> Result<Vec<Daemon>> {
    let processes = match kind {
        Kind::Podroute => {
            let peers: String = SENDERS
                .iter()
                .zip(["first", "second"])
                .map(|(sender, name)| {
                    let bfd = if name == "first" { " bfd: {interval: 50ms, multiplier: 3}," } else { "" };
                    format!("- {{name: {name}, address: {sender}, asn: 65001, passive: true,{bfd} import: all, export: none}}\n")
                })
                .collect();
            let yaml = format!(
                "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [16.0.0.0/4]}}\n\
                 node: {{name: dut, routerId: {NODE}}}\nfib: {{maxPaths: 1}}\npeers:\n{peers}\
                 policies: {{all: accept, none: reject}}\n"
            );
            vec![podroute::start_with(node, &yaml)?]
        }
        Kind::Bird => {
            let peers: String = SENDERS
                .iter()
                .zip(["one", "two"])
                .map(|(sender, name)| {
                    let bfd = if name == "one" { "bfd on; " } else { "" };
                    format!(
                        "protocol bgp {name} {{ local {NODE} as 64512; neighbor {sender} as 65001; direct; passive; {bfd}\
                         ipv4 {{ import all; export none; }}; }}\n"
                    )
                })
                .collect();
            bird::start_with(
                node,
                &format!(
                    "log stderr {{ warning, error, fatal, bug }};\nrouter id {NODE};\nprotocol device {{}}\n\
                     protocol bfd {{ interface \"eth0\" {{ interval 50 ms; multiplier 3; }}; }}\n\
                     protocol kernel {{ ipv4 {{ import none; export all; }}; }}\n{peers}"
                ),
            )?
        }
        Kind::Frr => {
            let peers: String = SENDERS
                .iter()
                .map(|sender| format!(" neighbor {sender} remote-as 65001\n neighbor {sender} passive\n"))
                .collect();
            let peers = format!(
                " bgp bestpath compare-routerid\n{peers} neighbor {} bfd 3 50 50\n",
                SENDERS[0]
            );
            let bgpd = format!(
                "log stdout warnings\nrouter bgp 64512\n bgp router-id {NODE}\n no bgp ebgp-requires-policy\n{peers} \
                 address-family ipv4 unicast\n  maximum-paths 1\n exit-address-family\n"
            );
            let mut processes = frr::start_with(node, &bgpd, "")?;
            processes.push(frr::start_daemon(node, "bfdd", "log stdout warnings\n")?);
            processes
        }
        Kind::Gobgp | Kind::Openbgpd => return Err(Failure::new("it has no kernel routes here")),
    };
    wait::until(Duration::from_secs(20), "the speaker listens", || {
        node.within(|| {
            std::net::TcpStream::connect((NODE, 179))
                .map(drop)
                .map_err(|error| Failure::new(error.to_string()))
        })
    })?;
    Ok(processes)
}

struct Times {
    installed: Duration,
    moved: Duration,
    lost: Duration,
}

/// BFD of the first sender.
fn bfd() -> Result<bfd::Bfd> {
    let bfd = bfd::Bfd::start(|| ()).context("BFD of the senders")?;
    let target = bfd::Target {
        key: bfd::Key {
            remote: IpAddr::V4(NODE),
            scope: 0,
        },
        local: Some(IpAddr::V4(SENDERS[0])),
        multihop: false,
        min_ttl: 0,
        interval: BFD_INTERVAL,
        multiplier: 3,
        auth: None,
    };
    bfd.put(vec![target]);
    Ok(bfd)
}

fn times(node: &Host, far: &Host, routes: u32) -> Result<Times> {
    let specs = SENDERS.map(|local| Spec {
        local,
        asn: 65001,
        sends: 0..routes,
        receives: false,
    });
    let rules = Rules {
        reflected: false,
        own_may_return: true,
        first_as: None,
    };
    let table = Table::new(routes, 5, false);
    let sample: Vec<Ipv4Addr> = (0..SAMPLE)
        .map(|n| {
            table.host(
                u32::try_from(u64::from(n) * u64::from(routes - 1) / u64::from(SAMPLE - 1)).unwrap_or(0),
            )
        })
        .collect();
    let path = bfd()?;
    let (mut load, _) = Load::connect(NODE, &specs, table, rules, LIMIT)?;
    let start = Instant::now();
    load.announce_from(0, LIMIT)?;
    leads(node, &sample, SENDERS[0])?;
    let installed = start.elapsed();
    complete(node, routes, SENDERS[0])?;
    load.announce_from(1, LIMIT)?;
    // The second table changes nothing in the kernel; its last route in the speaker is enough to go on.
    load.settle(Duration::from_millis(200))?;
    let start = Instant::now();
    load.reset(0)?;
    leads(node, &sample, SENDERS[1])?;
    let moved = start.elapsed();
    complete(node, routes, SENDERS[1])?;
    // The first is back, and is lost without a word.
    let table = Table::new(routes, 5, false);
    let (mut first, _) = Load::connect(NODE, &specs[..1], table, rules, LIMIT)?;
    first.announce_from(0, LIMIT)?;
    first.settle(Duration::from_secs(1))?;
    // FRR stays with the older one.
    if kernel_gateway(node, sample[0])? != Some(SENDERS[0]) {
        load.reset(0)?;
        complete(node, routes, SENDERS[0])?;
        let table = Table::new(routes, 5, false);
        (load, _) = Load::connect(NODE, &specs[1..], table, rules, LIMIT)?;
        load.announce_from(0, LIMIT)?;
        load.settle(Duration::from_secs(1))?;
    }
    complete(node, routes, SENDERS[0])?;
    wait::until(LIMIT, "BFD up", || {
        let up = path
            .status()
            .values()
            .any(|status| status.state == bfd::State::Up);
        ensure!(up, "{:?}", path.status());
        Ok(())
    })?;
    // The agreed interval holds when the first packets at it have come.
    load.settle(BFD_INTERVAL * 20)?;
    let lost = SENDERS[0];
    let silence = format!(
        "table ip loss {{ chain in {{ type filter hook input priority 0; ip daddr {lost} drop; }}; \
         chain out {{ type filter hook output priority 0; ip saddr {lost} drop; }}; }}"
    );
    far.run("nft", &[&silence])?;
    let start = Instant::now();
    leads(node, &sample, SENDERS[1])?;
    let lost = start.elapsed();
    complete(node, routes, SENDERS[1])?;
    drop((load, first));
    Ok(Times {
        installed,
        moved,
        lost,
    })
}

fn kernel_gateway(node: &Host, address: Ipv4Addr) -> Result<Option<Ipv4Addr>> {
    node.within(|| kernel::Lookup::open()?.gateway(address))
}

/// Waits until every sampled address is reached through the gateway.
fn leads(node: &Host, sample: &[Ipv4Addr], gateway: Ipv4Addr) -> Result<()> {
    node.within(|| {
        let end = Instant::now() + LIMIT;
        let mut kernel = kernel::Lookup::open()?;
        // From the last on: whatever order the speaker writes in, all must be right in one pass.
        loop {
            let mut all = true;
            for address in sample.iter().rev() {
                if kernel.gateway(*address)? != Some(gateway) {
                    all = false;
                    break;
                }
            }
            if all {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "not all routes lead to {gateway} within {LIMIT:?}"
            );
            std::thread::sleep(Duration::from_micros(500));
        }
    })
}

/// The whole table agrees.
fn complete(node: &Host, routes: u32, gateway: Ipv4Addr) -> Result<()> {
    wait::until(
        Duration::from_secs(20),
        format_args!("{routes} routes via {gateway}"),
        || {
            let there = kernel::routes(node, Family::V4)?;
            let count = there
                .iter()
                .filter(|route| {
                    route.prefix.prefix_len() == 24
                        && route
                            .next_hops
                            .iter()
                            .all(|(via, _)| *via == Some(IpAddr::V4(gateway)))
                })
                .count();
            ensure!(count == routes as usize, "{count} so far");
            Ok(())
        },
    )
}

fn table(runs: &[Run]) -> String {
    use std::fmt::Write;
    let mut out = String::from(
        "| routes | | installed | moved after a reset | moved after a silent loss | CPU | peak memory |\n\
         |---:|---|---:|---:|---:|---:|---:|\n",
    );
    for routes in [10_000, 100_000] {
        let names = Kind::ALL.iter().map(|kind| kind.name());
        for name in FLOORS.into_iter().chain(names) {
            let of: Vec<&Run> = runs
                .iter()
                .filter(|run| run.routes == routes && run.daemon == name)
                .collect();
            if of.is_empty() {
                continue;
            }
            let installed = median(&of, |run| run.installed) * 1e3;
            if FLOORS.contains(&name) {
                let _ = writeln!(out, "| {routes} | {name} | {installed:.1} ms | | | | |");
                continue;
            }
            let _ = writeln!(
                out,
                "| {routes} | {name} | {installed:.1} ms | {:.1} ms | {:.1} ms | {:.2} s | {:.1} MiB |",
                median(&of, |run| run.moved.unwrap_or(0.0)) * 1e3,
                median(&of, |run| run.lost.unwrap_or(0.0)) * 1e3,
                median(&of, |run| run.cpu),
                median(&of, |run| run.peak_mib)
            );
        }
    }
    out
}

fn write(dir: &std::path::Path, daemons: &[Kind], rounds: usize, runs: &[Run], table: &str) -> Result<()> {
    let versions = Kind::versions(daemons);
    let text = format!(
        "# Routes into the kernel\n\nWritten by `make bench-fib`: {}; {}. Medians of {rounds} rounds in which all took \
         turns. \"Installed\": from the first octet on the session until the kernel forwards by all routes. \"Moved\": a \
         second router announces the same routes; from the TCP reset of the first until all routes lead to the second. \
         \"Silent loss\": what the first sends and should get is dropped, BFD runs at 50 ms times 3; what stands is counted from \
         the loss, of which 105 to 150 ms are silence. \"Kernel alone\": the same messages from one socket, nobody listening, in \
         the table's order; \"spread\": in podroute's (ADR 14). \
         CPU and memory are those of the whole process (FRR: zebra and bgpd), from its start. Lower is better.\n\n{table}",
        machine(),
        versions.join(", ")
    );
    save(
        dir,
        "fib",
        &text,
        &serde_json::json!({"versions": versions, "runs": runs}),
    )
}
