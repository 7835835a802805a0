//! The cost of a fault: lost packets between two pods while a cable is cut, a router dies or a rack is cut off.
//!
//! All machines run one daemon; the same faults, in an order that follows from the seed, for each daemon.

mod fabric;
mod loss;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

pub use fabric::{Fabric, LIMIT};
use loss::STREAMS;
pub use loss::{Loss, RATE};

use crate::daemon::Kind;
use crate::failure::{Failure, Result};
use crate::flow::Flow;
use crate::sched_latency::{LatencyMonitor, SchedLatency};
use crate::{ensure, kernel, wait};

/// How long a fault lasts before it is repaired, where figures are compared.
pub const FAULT_DURATION: Duration = Duration::from_secs(2);

/// Before each fault, so that BFD of every daemon is up and at its agreed pace.
const BFD_SETTLE_TIME: Duration = Duration::from_secs(3);

/// When a fault is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairWhen {
    /// After the same time for everybody.
    AfterFixedTime,
    /// When all streams flow again in spite of it, and after `FAULT_DURATION` where they cannot; not within the time is a failure.
    Rerouted(Duration),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Fault {
    /// A cable of a node goes down.
    Cut,
    /// A cable of a node carries nothing, and stays up.
    Silent,
    /// A cable between the racks carries nothing, and stays up.
    SilentSpine,
    /// A ToR loses its power.
    DeadTor,
    /// A node that is no end of the streams loses its power.
    DeadNode,
    /// The racks are cut off from each other.
    Partition,
    /// Every daemon ends by SIGTERM and starts again, one after the other.
    Rolling,
}

impl Fault {
    /// Streams can go another way while it lasts.
    fn leaves_alternate_path(self) -> bool {
        self != Self::Partition
    }

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cut,
        Self::Silent,
        Self::SilentSpine,
        Self::DeadTor,
        Self::DeadNode,
        Self::Partition,
        Self::Rolling,
    ];

    /// For tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cut => "a node's cable is cut",
            Self::Silent => "a node's cable carries nothing, and stays up",
            Self::SilentSpine => "a cable between the racks carries nothing, and stays up",
            Self::DeadTor => "a ToR loses its power",
            Self::DeadNode => "another node loses its power",
            Self::Partition => "the racks are cut off from each other",
            Self::Rolling => "each daemon in turn: SIGTERM, start",
        }
    }
}

/// One fault's cost.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Cost {
    /// What happened.
    pub fault: Fault,
    /// Lost while it lasted, both directions.
    pub fault_loss: Loss,
    /// Lost when it was repaired, and until all ways were back.
    pub mend_loss: Loss,
    /// Not all ways were back within the limit; the next fault met a new fabric.
    pub stuck: bool,
    /// A dead node's route was gone from a node of the other rack after this number of seconds.
    pub gone: Option<f64>,
    /// Streams that did not go another way in time, where they were waited for.
    #[serde(rename = "no_way")]
    pub not_rerouted: Option<String>,
    /// How late the machine let threads run meanwhile, at most.
    #[serde(rename = "late")]
    pub latency: SchedLatency,
}

/// A small generator, so that a seed gives the same order everywhere.
fn shuffled<T: Copy>(items: &[T], seed: &mut u64) -> Vec<T> {
    let mut items = items.to_vec();
    for last in (1..items.len()).rev() {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (*seed >> 33) as usize % (last + 1));
    }
    items
}

/// Does the faults in the seed's order, and puts all in order again.
pub fn run(kind: Kind, faults: &[Fault], seed: u64, repair_when: RepairWhen) -> Result<Vec<Cost>> {
    let mut random = seed;
    let mut fabric = Fabric::build(kind)?;
    let mut costs = Vec::new();
    for fault in shuffled(faults, &mut random) {
        let during = |failure: Failure| failure.during(format_args!("{}: {}", kind.name(), fault.title()));
        let cost = cost(&mut fabric, fault, &mut random, repair_when).map_err(during)?;
        if cost.stuck {
            fabric.remove()?;
            fabric = Fabric::build(kind)?;
        }
        costs.push(cost);
    }
    fabric.remove()?;
    Ok(costs)
}

fn cost(fabric: &mut Fabric, fault: Fault, random: &mut u64, repair_when: RepairWhen) -> Result<Cost> {
    let between = |from: &str, to: &str| {
        let ends = (fabric::pod(from).into(), fabric::pod(to).into());
        Flow::start_many(from, to, ends, STREAMS, RATE)
    };
    let both = [between("a1", "b1")?, between("b1", "a1")?];
    std::thread::sleep(BFD_SETTLE_TIME);
    fabric.bfd_up()?;
    let monitor = LatencyMonitor::of_machine("a1")?;
    let begin = both.each_ref().map(Flow::mark);
    let start = Instant::now();
    let gone = inject(fabric, fault, random)?;
    let not_rerouted = match repair_when {
        RepairWhen::Rerouted(limit) if fault.leaves_alternate_path() => {
            let marks = both.each_ref().map(Flow::mark);
            let moved = wait::until(limit, "all streams go another way", || {
                let mut streams = both.iter().zip(marks);
                streams.try_for_each(|(streams, mark)| streams.all_arrive_since(mark))
            });
            moved.err().map(|failure| failure.to_string())
        }
        // As long for everybody, whatever they make of it.
        _ => {
            std::thread::sleep(FAULT_DURATION.saturating_sub(start.elapsed()));
            None
        }
    };
    let repaired = both.each_ref().map(Flow::mark);
    repair(fabric, fault)?;
    let stuck = !converges(fabric)?;
    both.iter()
        .try_for_each(|streams| streams.wait_for(u64::from(RATE) / 2))?;
    let latency = monitor.latency();
    let (mut fault_loss, mut mend_loss) = (Loss::default(), Loss::default());
    for ((streams, begin), repaired) in both.into_iter().zip(begin).zip(repaired) {
        let outcome = streams.finish()?;
        fault_loss = fault_loss.and(Loss::of(&outcome, begin..repaired));
        mend_loss = mend_loss.and(Loss::of(&outcome, repaired..outcome.sent));
    }
    Ok(Cost {
        fault,
        fault_loss,
        mend_loss,
        stuck,
        gone,
        not_rerouted,
        latency,
    })
}

/// Whether all ways are back in time. Of ours it is asked.
fn converges(fabric: &mut Fabric) -> Result<bool> {
    match fabric.converged() {
        Ok(()) => Ok(true),
        Err(failure) if fabric.kind() == Kind::Podroute => Err(failure),
        Err(_) => Ok(false),
    }
}

fn inject(fabric: &mut Fabric, fault: Fault, random: &mut u64) -> Result<Option<f64>> {
    match fault {
        Fault::Cut => fabric.link("a1", "ta1", false)?,
        Fault::Silent => fabric.drop_silently("a1", "ta2", true)?,
        Fault::SilentSpine => fabric.drop_silently("ta1", "tb1", true)?,
        Fault::Partition => fabric.spine(false)?,
        Fault::DeadTor => {
            fabric.power("tb1", false)?;
            fabric.stop("tb1", false)?;
        }
        Fault::DeadNode => {
            let start = Instant::now();
            fabric.power("b2", false)?;
            fabric.stop("b2", false)?;
            return route_removal_time(fabric, start).map(Some);
        }
        Fault::Rolling => {
            for machine in shuffled(&["a1", "a2", "b1", "b2", "ta1", "ta2", "tb1", "tb2"], random) {
                fabric.stop(machine, true)?;
                fabric.start(machine)?;
                if !converges(fabric)? {
                    break;
                }
            }
        }
    }
    Ok(None)
}

fn repair(fabric: &mut Fabric, fault: Fault) -> Result<()> {
    match fault {
        Fault::Cut => fabric.link("a1", "ta1", true),
        Fault::Silent => fabric.drop_silently("a1", "ta2", false),
        Fault::SilentSpine => fabric.drop_silently("ta1", "tb1", false),
        Fault::Partition => fabric.spine(true),
        Fault::DeadTor => {
            fabric.power("tb1", true)?;
            fabric.start("tb1")
        }
        Fault::DeadNode => {
            fabric.power("b2", true)?;
            fabric.start("b2")
        }
        Fault::Rolling => Ok(()),
    }
}

/// How long a node of the other rack has a route to the dead one.
fn route_removal_time(fabric: &Fabric, start: Instant) -> Result<f64> {
    let address: Ipv4Addr = fabric::pod("b2");
    fabric.host("a2").within(|| {
        let mut kernel = kernel::Lookup::open()?;
        wait::until(Duration::from_secs(30), "no route to the dead node", || {
            ensure!(kernel.gateway(address)?.is_none(), "there is one");
            Ok(start.elapsed().as_secs_f64())
        })
    })
}
