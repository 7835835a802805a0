//! Random faults from a seed, then quiet: after it every kernel must hold what it should, and go on holding it.
//!
//! The faults and their times follow from the seed alone; what the machine makes late is done at once, in the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::SoakOptions;
use super::bridge::{BridgedNodes, address};
use super::config::Peering;
use super::members::Mesh;
use lab::daemon::Kind;
use lab::ensure;
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::topology::Family;

/// Hold time in seconds, short so that some faults outlast it.
const HOLD: u32 = 9;
/// From the last fault's end until every kernel is right.
const QUIET: Duration = Duration::from_secs(120);
/// Longer than routes from before a restart may wait for their peers.
const STABLE_TIME: Duration = Duration::from_secs(30);

/// What happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL, and a start later.
    Kill,
    /// SIGTERM, and a start later.
    Terminate,
    /// SIGSTOP, and SIGCONT later.
    Stop,
    /// Its cable is pulled: it sees no carrier.
    Cable,
    /// Its interface is set down, and loses its IPv6 addresses.
    Interface,
    /// It is cut off from the others, which no link shows.
    Silence,
    /// Its IPv4 address is away.
    AddressV4,
    /// Its IPv6 address is away.
    AddressV6,
    /// All routes are deleted.
    FlushRoutes,
    /// Some routes are deleted.
    FlushSome,
    /// All nexthop objects are deleted, and all routes with them.
    FlushNexthops,
    /// It gets other blocks beside its own.
    Blocks,
}

impl Fault {
    const ALL: [Self; 12] = [
        Self::Kill,
        Self::Terminate,
        Self::Stop,
        Self::Cable,
        Self::Interface,
        Self::Silence,
        Self::AddressV4,
        Self::AddressV6,
        Self::FlushRoutes,
        Self::FlushSome,
        Self::FlushNexthops,
        Self::Blocks,
    ];

    /// The longest that it lasts, in milliseconds.
    fn longest(self) -> u64 {
        match self {
            Self::Kill | Self::Terminate | Self::Interface => 5_000,
            Self::Stop | Self::Cable | Self::Silence | Self::AddressV4 | Self::AddressV6 => 15_000,
            Self::FlushRoutes | Self::FlushSome | Self::FlushNexthops | Self::Blocks => 0,
        }
    }
}

/// Numbers that follow from a seed (xorshift64*).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

/// One action: a fault begins, or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Action {
    at: u64,
    node: usize,
    fault: Fault,
    ends: bool,
}

/// All acts in their order. A node has one fault at a time.
fn plan(nodes: usize, span: Duration, seed: u64) -> Vec<Action> {
    // 0 would stay 0.
    let mut random = Random(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let (mut acts, mut now) = (Vec::new(), 0);
    let mut busy = vec![0; nodes];
    let end = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    while now < end {
        now += 50 + random.below(700);
        let node = usize::try_from(random.below(nodes as u64)).unwrap_or(0);
        let fault = Fault::ALL[usize::try_from(random.below(Fault::ALL.len() as u64)).unwrap_or(0)];
        // As many short ones as long ones.
        let shorter = 2 * random.below(6);
        let repair_when = random.below(fault.longest() >> shorter);
        if busy[node] > now {
            continue;
        }
        // A moment of peace between two.
        busy[node] = now + repair_when + 200;
        let action = |at, ends| Action {
            at,
            node,
            fault,
            ends,
        };
        acts.push(action(now, false));
        if fault.longest() > 0 {
            acts.push(action(now + repair_when, true));
        }
    }
    acts.sort_by_key(|action| action.at);
    acts
}

/// Runs it inside the box; the number of deviations.
pub(super) fn soak(options: &SoakOptions) -> Result<usize> {
    let bridge = BridgedNodes::build(options.nodes)?;
    let mut mesh = Mesh::new(&bridge, Kind::Podroute, Peering::Full, options.nodes, HOLD)?;
    let begin = mesh.launch_all(mesh.all(), false, |_| Ok(()))?;
    let cost = mesh.wait_until_expected(&begin, QUIET)?;
    ensure!(cost.reached.is_some(), "the mesh of the soak does not start");
    let acts = plan(options.nodes, Duration::from_secs(options.seconds), options.seed);
    let mut counts = BTreeMap::new();
    for action in acts.iter().filter(|action| !action.ends) {
        *counts.entry(action.fault).or_insert(0) += 1;
    }
    println!(
        "soak: {} nodes, seed {}, {} s of faults: {counts:?}",
        options.nodes, options.seed, options.seconds
    );
    let start = Instant::now();
    for action in &acts {
        let due = start + Duration::from_millis(action.at);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        perform(&mut mesh, *action).map_err(|failure| failure.during(format_args!("{action:?}")))?;
        mesh.watch.read()?;
    }
    let deviations = final_check(&mut mesh)?;
    mesh.end()?;
    bridge.remove()?;
    Ok(deviations)
}

/// After the faults: until all kernels are right, and whether they stay so.
fn final_check(mesh: &mut Mesh<'_>) -> Result<usize> {
    let begin = mesh.begin();
    let cost = mesh.wait_until_expected(&begin, QUIET)?;
    let mut deviations = mesh.watch.deviations();
    if let Some(reached) = cost.reached {
        let took = reached.equal.as_secs_f64();
        println!("soak: every kernel is right {took:.1} s after the last fault's end");
        deviations = mesh.watch.stays_as_expected(STABLE_TIME)?;
    }
    mesh.check_alive()?;
    for host in &mesh.bridge.hosts {
        deviations.extend(unused_objects(host)?);
    }
    for line in &deviations {
        println!("soak: {line}");
    }
    explain(mesh, &deviations);
    println!("soak: {} deviations", deviations.len());
    Ok(deviations.len())
}

/// Nexthop objects of podroute that no route and no group in use refers to.
fn unused_objects(host: &Host) -> Result<Vec<String>> {
    let list = |what: &str| -> Result<Vec<serde_json::Value>> {
        let text = host.ip(what)?;
        // Nothing at all is printed for an empty list.
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text).context(format!("output of ip {what}"))
    };
    let objects = list("-json -N nexthop show proto 245")?;
    let mut used: BTreeSet<u64> = BTreeSet::new();
    for family in ["-4", "-6"] {
        let routes = list(&format!("-json -N {family} route show proto 245"))?;
        used.extend(routes.iter().filter_map(|route| route["nhid"].as_u64()));
    }
    let id = |object: &serde_json::Value| object["id"].as_u64().unwrap_or(0);
    for group in objects
        .iter()
        .filter(|object| used.contains(&id(object)))
        .collect::<Vec<_>>()
    {
        let members = group["group"].as_array().into_iter().flatten();
        used.extend(members.filter_map(|member| member["id"].as_u64()));
    }
    let unused = objects.iter().filter(|object| !used.contains(&id(object)));
    Ok(unused
        .map(|object| format!("{}: nothing uses nexthop object {object}", host.name()))
        .collect())
}

/// What the agents of the first nodes with deviations say.
fn explain(mesh: &Mesh<'_>, deviations: &[String]) {
    let mut names: Vec<&str> = deviations
        .iter()
        .filter_map(|line| line.split(':').next())
        .collect();
    names.dedup();
    let Ok(podroute) = lab::bins::find("podroute") else {
        return;
    };
    for name in names.into_iter().take(3) {
        let Some(host) = mesh.bridge.hosts.iter().find(|host| host.name() == name) else {
            continue;
        };
        for what in ["peers", "fib"] {
            let text = host.run(&podroute.to_string_lossy(), &["show", what]);
            let text = text.unwrap_or_else(|failure| failure.to_string());
            let odd = |line: &&str| !line.contains("Established") && !line.contains("installed");
            let lines: Vec<&str> = text.lines().filter(odd).take(20).collect();
            println!("soak: {name}: show {what}, what is odd:\n{}", lines.join("\n"));
        }
    }
}

fn perform(mesh: &mut Mesh<'_>, action: Action) -> Result<()> {
    let (node, bridge) = (action.node, mesh.bridge);
    let host = &bridge.hosts[node];
    match (action.fault, action.ends) {
        (Fault::Kill, false) => {
            let daemon = mesh.members[node].daemon.as_mut();
            daemon.ok_or_else(|| Failure::new("it does not run"))?.kill();
            Ok(())
        }
        (Fault::Terminate, false) => signal(mesh, node, Signal::SIGTERM),
        (Fault::Terminate, true) => {
            if let Some(mut daemon) = mesh.members[node].daemon.take() {
                daemon.terminate(Duration::from_secs(20))?;
            }
            mesh.launch(node, true)
        }
        (Fault::Kill, true) => mesh.launch(node, true),
        (Fault::Stop, false) => signal(mesh, node, Signal::SIGSTOP),
        (Fault::Stop, true) => signal(mesh, node, Signal::SIGCONT),
        (Fault::Cable, ends) => bridge.port(node, ends),
        (Fault::Silence, ends) => bridge.side(std::iter::once(node), usize::from(!ends)),
        (Fault::Interface, false) => host.ip("link set eth0 down").map(drop),
        (Fault::AddressV4, false) => remove_address(mesh, node, Family::V4),
        (Fault::AddressV6, false) => remove_address(mesh, node, Family::V6),
        (Fault::Interface | Fault::AddressV4 | Fault::AddressV6, true) => bridge.restore(node),
        (Fault::FlushRoutes, _) => mesh.watch.delete(node, |_| true),
        (Fault::FlushSome, _) => mesh.watch.delete(node, |prefix| {
            let network = prefix.to_string();
            network.bytes().map(u32::from).sum::<u32>().is_multiple_of(3)
        }),
        (Fault::FlushNexthops, _) => host.ip("nexthop flush proto 245").map(drop),
        (Fault::Blocks, _) => {
            mesh.members[node].generation += 1;
            mesh.write_config(node)?;
            signal(mesh, node, Signal::SIGHUP)
        }
    }
}

fn signal(mesh: &Mesh<'_>, node: usize, signal: Signal) -> Result<()> {
    let daemon = mesh.members[node].daemon.as_ref();
    daemon
        .ok_or_else(|| Failure::new("it does not run"))?
        .signal(signal)
}

fn remove_address(mesh: &Mesh<'_>, node: usize, family: Family) -> Result<()> {
    let length = if family == Family::V4 { 16 } else { 64 };
    let address = address(node, family);
    mesh.bridge.hosts[node]
        .ip(&format!("addr del {address}/{length} dev eth0"))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_plan_and_every_fault_ends() {
        let span = Duration::from_secs(600);
        let acts = plan(40, span, 7);
        assert_eq!(acts, plan(40, span, 7));
        assert_ne!(acts, plan(40, span, 8));
        for fault in Fault::ALL {
            let of = |ends: bool| {
                acts.iter()
                    .filter(|action| action.fault == fault && action.ends == ends)
                    .count()
            };
            assert!(of(false) > 10, "{fault:?}");
            assert_eq!(of(true), if fault.longest() > 0 { of(false) } else { 0 });
        }
        // One at a time on each node.
        let mut busy = [false; 40];
        for action in acts.iter().filter(|action| action.fault.longest() > 0) {
            assert_eq!(busy[action.node], action.ends, "{action:?}");
            busy[action.node] = !action.ends;
        }
    }
}
