//! `make bench-mesh`: many agents on one bridge, beside BIRD: start, restarts, silent loss, partition; random faults.
//!
//! Each machine is a namespace with a real daemon, an IPv4 /24 and an IPv6 /64. Observed are the kernels alone: a machine
//! has started when all kernels hold all routes of both families. Blocks that are always there must not be gone at any
//! moment of a restart; so that its end is seen too, whoever restarts comes back with other blocks beside its own, and finds
//! half of its kernel's routes missing.

mod bridge;
mod config;
mod members;
mod report;
mod routes;
mod soak;
mod watch;

use std::time::{Duration, Instant};

use bridge::BridgedNodes;
use config::{Peering, REFLECTORS};
use members::{Cost, Mesh};

use lab::daemon::Kind;
use lab::ensure;
use lab::failure::Result;

/// Hold time in seconds.
const HOLD: u32 = 30;
/// Everything that does not wait for the hold time.
const LIMIT: Duration = Duration::from_secs(90);
/// How long it is looked whether routes stay.
const STABLE_TIME: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
enum Scenario {
    Start,
    RestartOne,
    RestartAll,
    Loss,
    Return,
    Partition,
    Healing,
    ReflectorsStart,
    ReflectorRestart,
    ReflectorsRestart,
}

impl Scenario {
    const ALL: [Self; 10] = [
        Self::Start,
        Self::RestartOne,
        Self::RestartAll,
        Self::Loss,
        Self::Return,
        Self::Partition,
        Self::Healing,
        Self::ReflectorsStart,
        Self::ReflectorRestart,
        Self::ReflectorsRestart,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::RestartOne => "restart-one",
            Self::RestartAll => "restart-all",
            Self::Loss => "loss",
            Self::Return => "return",
            Self::Partition => "partition",
            Self::Healing => "healing",
            Self::ReflectorsStart => "reflectors-start",
            Self::ReflectorRestart => "reflector-restart",
            Self::ReflectorsRestart => "reflectors-restart",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Start => "full mesh: all start",
            Self::RestartOne => "one is killed and starts again",
            Self::RestartAll => "all are killed and start again",
            Self::Loss => "one falls silent, until its routes are gone",
            Self::Return => "it is back",
            Self::Partition => "a half is cut off, until its routes are gone",
            Self::Healing => "the halves are joined again",
            Self::ReflectorsStart => "two reflectors: all start",
            Self::ReflectorRestart => "a reflector is killed and starts again",
            Self::ReflectorsRestart => "both reflectors are killed and start again",
        }
    }
}

/// Which runs.
#[derive(Debug)]
pub(crate) struct Options {
    /// Sizes of the mesh.
    pub(crate) nodes: Vec<usize>,
    /// Rounds of each size.
    pub(crate) rounds: usize,
    /// Only works whose name has one of these; the start of a mesh always.
    pub(crate) only: Vec<String>,
    /// The daemons.
    pub(crate) daemons: Vec<Kind>,
    /// The random faults at the end.
    pub(crate) soak: SoakOptions,
    /// Write mesh.md and mesh.json there.
    pub(crate) out: Option<std::path::PathBuf>,
}

/// Random faults, and quiet.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct SoakOptions {
    /// Size of the mesh.
    pub(crate) nodes: usize,
    /// How long faults go on.
    pub(crate) seconds: u64,
    /// What they follow from.
    pub(crate) seed: u64,
}

impl Options {
    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| scenario.name() == only)
    }
}

/// What one daemon did in one scenario.
#[derive(Debug, Clone, serde::Serialize)]
struct Run {
    scenario: Scenario,
    daemon: &'static str,
    nodes: usize,
    round: usize,
    /// Until every kernel had every route; `None`: not within the limit.
    there: Option<f64>,
    /// And nothing else.
    equal: Option<f64>,
    cpu: f64,
    removed: usize,
    /// Peak memory of a daemon in the middle of all.
    peak_mib: f64,
}

/// Runs inside the box; whether every kernel was right after the random faults.
pub(crate) fn run_all(options: &Options) -> Result<bool> {
    let daemons: Vec<Kind> = Kind::with_kernel_routes(&options.daemons)
        .into_iter()
        .filter(|kind| matches!(kind, Kind::Podroute | Kind::Bird))
        .collect();
    let mut runs = Vec::new();
    for nodes in &options.nodes {
        ensure!(
            (4..=bridge::MOST - REFLECTORS).contains(nodes),
            "a mesh here has 4 to {} nodes",
            bridge::MOST - REFLECTORS
        );
        if !Scenario::ALL.iter().any(|scenario| options.wants(*scenario)) {
            break;
        }
        let bridge = BridgedNodes::build(nodes + REFLECTORS)?;
        for round in 0..options.rounds {
            // Who goes first changes, so that nobody always meets what the other left.
            let mut order = daemons.clone();
            order.rotate_left(round % daemons.len().max(1));
            for kind in order {
                let mut recorder = Recorder {
                    options,
                    runs: &mut runs,
                    kind,
                    nodes: *nodes,
                    round,
                };
                full(&bridge, &mut recorder)?;
                reflectors(&bridge, &mut recorder)?;
            }
        }
        bridge.remove()?;
    }
    let soaks = options.only.is_empty() || options.only.iter().any(|only| only == "soak");
    let deviations = soaks.then(|| soak::soak(&options.soak)).transpose()?;
    report::write(options, &daemons, &runs, deviations)?;
    Ok(deviations.is_none_or(|count| count == 0))
}

/// Where results go.
struct Recorder<'a> {
    options: &'a Options,
    runs: &'a mut Vec<Run>,
    kind: Kind,
    nodes: usize,
    round: usize,
}

impl Recorder<'_> {
    /// Notes a result; whether the mesh is as it should be, so that it can go on.
    fn record(&mut self, scenario: Scenario, mesh: &Mesh<'_>, cost: &Cost) -> Result<bool> {
        let run = Run {
            scenario,
            daemon: self.kind.name(),
            nodes: self.nodes,
            round: self.round,
            there: cost.reached.map(|reached| reached.there.as_secs_f64()),
            equal: cost.reached.map(|reached| reached.equal.as_secs_f64()),
            cpu: cost.cpu,
            removed: cost.removed,
            peak_mib: mesh.memory()?,
        };
        println!("{}", report::line(&run));
        self.runs.push(run);
        Ok(cost.reached.is_some())
    }
}

/// Everything with everybody as everybody's peer.
fn full(bridge: &BridgedNodes, recorder: &mut Recorder<'_>) -> Result<()> {
    let works = &Scenario::ALL[..7];
    if !works.iter().any(|scenario| recorder.options.wants(*scenario)) {
        return Ok(());
    }
    let mut mesh = Mesh::new(bridge, recorder.kind, Peering::Full, recorder.nodes, HOLD)?;
    let outcome = full_mesh_scenarios(&mut mesh, recorder);
    // Whatever it left is repaired for who comes next.
    bridge.side(0..recorder.nodes, 0)?;
    mesh.end()?;
    outcome
}

fn full_mesh_scenarios(mesh: &mut Mesh<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    if !start(mesh, recorder, Scenario::Start)? {
        return Ok(());
    }
    let (all, victim) = (mesh.all(), recorder.nodes / 2);
    if recorder.options.wants(Scenario::RestartOne)
        && !restart(mesh, recorder, Scenario::RestartOne, victim..victim + 1)?
    {
        return Ok(());
    }
    if recorder.options.wants(Scenario::RestartAll)
        && !restart(mesh, recorder, Scenario::RestartAll, all.clone())?
    {
        return Ok(());
    }
    if recorder.options.wants(Scenario::Loss) && !loss(mesh, recorder, victim)? {
        return Ok(());
    }
    if recorder.options.wants(Scenario::Partition) {
        partition(mesh, recorder)?;
    }
    Ok(())
}

/// Two reflectors, and as many clients.
fn reflectors(bridge: &BridgedNodes, recorder: &mut Recorder<'_>) -> Result<()> {
    let works = &Scenario::ALL[7..];
    if !works.iter().any(|scenario| recorder.options.wants(*scenario)) {
        return Ok(());
    }
    let mut mesh = Mesh::new(
        bridge,
        recorder.kind,
        Peering::Reflectors,
        recorder.nodes + REFLECTORS,
        HOLD,
    )?;
    let outcome = reflector_scenarios(&mut mesh, recorder);
    mesh.end()?;
    outcome
}

fn reflector_scenarios(mesh: &mut Mesh<'_>, recorder: &mut Recorder<'_>) -> Result<()> {
    if !start(mesh, recorder, Scenario::ReflectorsStart)? {
        return Ok(());
    }
    if recorder.options.wants(Scenario::ReflectorRestart)
        && !restart(mesh, recorder, Scenario::ReflectorRestart, 0..1)?
    {
        return Ok(());
    }
    if recorder.options.wants(Scenario::ReflectorsRestart) {
        restart(mesh, recorder, Scenario::ReflectorsRestart, 0..REFLECTORS)?;
    }
    Ok(())
}

/// All start at once; until every kernel has every route.
fn start(mesh: &mut Mesh<'_>, recorder: &mut Recorder<'_>, scenario: Scenario) -> Result<bool> {
    let begin = mesh.launch_all(mesh.all(), false, |_| Ok(()))?;
    let cost = mesh.wait_until_expected(&begin, LIMIT)?;
    recorder.record(scenario, mesh, &cost)
}

/// Some are killed and start again at once.
fn restart(
    mesh: &mut Mesh<'_>,
    recorder: &mut Recorder<'_>,
    scenario: Scenario,
    which: std::ops::Range<usize>,
) -> Result<bool> {
    let everybody = which.len() == mesh.members.len();
    for at in which.clone() {
        mesh.members[at].generation += 1;
    }
    let lost = |at: usize, other: usize| !everybody && which.contains(&at) && other.is_multiple_of(2);
    mesh.watch_permanent(lost)?;
    let begin = mesh.launch_all(which.clone(), true, |mesh| {
        for at in which.clone().filter(|_| !everybody) {
            let half: Vec<_> = mesh.all().filter(|other| lost(at, *other)).collect();
            mesh.delete_blocks(at, &half)?;
        }
        Ok(())
    })?;
    let cost = mesh.wait_until_expected(&begin, LIMIT)?;
    let cost = check_stable(mesh, cost)?;
    recorder.record(scenario, mesh, &cost)
}

/// A machine's port goes down, which the others cannot see; after the hold time its routes are gone. Then it is back.
fn loss(mesh: &mut Mesh<'_>, recorder: &mut Recorder<'_>, victim: usize) -> Result<bool> {
    mesh.watch_permanent(|at, other| at == victim || other == victim)?;
    mesh.members[victim].side = 1;
    mesh.members[victim].counts = false;
    let begin = mesh.begin();
    mesh.bridge.port(victim, false)?;
    let cost = mesh.wait_until_expected(&begin, LIMIT + Duration::from_secs(HOLD.into()))?;
    if !recorder.record(Scenario::Loss, mesh, &cost)? {
        return Ok(false);
    }
    mesh.members[victim].side = 0;
    mesh.members[victim].counts = true;
    let begin = mesh.begin();
    mesh.bridge.port(victim, true)?;
    let cost = mesh.wait_until_expected(&begin, LIMIT)?;
    let cost = check_stable(mesh, cost)?;
    recorder.record(Scenario::Return, mesh, &cost)
}

/// Every second machine moves to a bridge of its own, and comes back when all routes of the other half are gone.
fn partition(mesh: &mut Mesh<'_>, recorder: &mut Recorder<'_>) -> Result<bool> {
    let odd: Vec<usize> = mesh.all().filter(|at| at % 2 == 1).collect();
    mesh.watch_permanent(|at, other| at % 2 != other % 2)?;
    odd.iter().for_each(|at| mesh.members[*at].side = 1);
    let begin = mesh.begin();
    mesh.bridge.side(odd.iter().copied(), 1)?;
    let cost = mesh.wait_until_expected(&begin, LIMIT + Duration::from_secs(HOLD.into()))?;
    if !recorder.record(Scenario::Partition, mesh, &cost)? {
        return Ok(false);
    }
    odd.iter().for_each(|at| mesh.members[*at].side = 0);
    let begin = mesh.begin();
    mesh.bridge.side(odd.iter().copied(), 0)?;
    let cost = mesh.wait_until_expected(&begin, LIMIT)?;
    let cost = check_stable(mesh, cost)?;
    recorder.record(Scenario::Healing, mesh, &cost)
}

/// What is right has to stay so; what goes then counts as removed.
fn check_stable(mesh: &mut Mesh<'_>, cost: Cost) -> Result<Cost> {
    let start = Instant::now();
    while cost.reached.is_some() && start.elapsed() < STABLE_TIME {
        mesh.watch.read()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    mesh.watch.dump()?;
    let removed = mesh.watch.removed();
    Ok(Cost { removed, ..cost })
}
