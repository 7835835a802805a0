//! `make bench`: the speaker beside BIRD, FRR, GoBGP and OpenBGPD, and beside the floor.
//!
//! Every run is a fresh daemon in a fresh namespace; the competitors take turns within a round, so that a machine that slows
//! down slows all of them. Medians, and ratios to the best other and to the floor, go to docs/bench/.

mod competitors;
mod report;
mod workloads;

use std::time::Duration;

use competitors::{Competitor, DUT_ADDRESS};
use lab::daemon::Kind;
use lab::failure::Result;
use lab::machine::Host;
use lab::netns;
use lab::process::{Daemon, cost};
use workloads::Workload;

pub(crate) use competitors::{MIRROR, run_mirror};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A line of the table.
#[derive(Debug)]
struct Task {
    name: &'static str,
    title: &'static str,
    workload: Workload,
    /// Rivals that take minutes for it.
    without: &'static [Kind],
}

impl Task {
    /// Whether a competitor would take minutes, or cannot: the floor knows no routes, only messages that pass.
    fn leaves_out(&self, competitor: Competitor) -> bool {
        match competitor {
            Competitor::Mirror => matches!(self.workload, Workload::Reset { .. } | Workload::Newcomer { .. }),
            Competitor::Daemon(kind) => self.without.contains(&kind),
        }
    }
}

const fn task(name: &'static str, title: &'static str, workload: Workload, without: &'static [Kind]) -> Task {
    Task {
        name,
        title,
        workload,
        without,
    }
}

const SLOW: &[Kind] = &[Kind::Gobgp, Kind::Openbgpd];

static TASKS: &[Task] = &[
    task(
        "table-100k",
        "100,000 routes in, 5 per attribute set, out to 1",
        Workload::Table {
            routes: 100_000,
            per_set: 5,
            receivers: 1,
        },
        &[],
    ),
    task(
        "table-100k-50",
        "100,000 routes in, 50 per set, out to 1",
        Workload::Table {
            routes: 100_000,
            per_set: 50,
            receivers: 1,
        },
        &[],
    ),
    task(
        "table-1m",
        "1,000,000 routes in, 5 per set, out to 1",
        Workload::Table {
            routes: 1_000_000,
            per_set: 5,
            receivers: 1,
        },
        SLOW,
    ),
    task(
        "table-1m-50",
        "1,000,000 routes in, 50 per set, out to 1",
        Workload::Table {
            routes: 1_000_000,
            per_set: 50,
            receivers: 1,
        },
        SLOW,
    ),
    task(
        "fanout-20",
        "100,000 routes in, out to 20",
        Workload::Table {
            routes: 100_000,
            per_set: 5,
            receivers: 20,
        },
        &[Kind::Gobgp],
    ),
    task(
        "reflect-500",
        "reflector: 500 clients, a /24 each",
        Workload::Reflect {
            clients: 500,
            each: 1,
        },
        &[Kind::Openbgpd],
    ),
    task(
        "reflect-1000",
        "reflector: 1,000 clients, a /24 each",
        Workload::Reflect {
            clients: 1000,
            each: 1,
        },
        SLOW,
    ),
    task(
        "reflect-500-21",
        "reflector: 500 clients, a /24 and 20 /32 each",
        Workload::Reflect {
            clients: 500,
            each: 21,
        },
        SLOW,
    ),
    task(
        "churn-500",
        "one of 500 clients flaps its /24",
        Workload::Churn {
            clients: 500,
            flaps: 200,
        },
        SLOW,
    ),
    task(
        "reset-100k",
        "a session with 100,000 routes is reset and comes back, 1 receiver",
        Workload::Reset { routes: 100_000 },
        SLOW,
    ),
    task(
        "newcomer-1m",
        "a receiver comes up beside 1,000,000 routes; another waits for single prefixes",
        Workload::Newcomer { routes: 1_000_000 },
        SLOW,
    ),
    task(
        "deaf-100k",
        "one receiver stops reading; 100,000 routes go and come back 10 times",
        Workload::SlowReader {
            routes: 100_000,
            times: 10,
        },
        SLOW,
    ),
];

/// What one run gave.
#[derive(Debug, Clone, serde::Serialize)]
struct Run {
    task: &'static str,
    #[serde(rename = "rival")]
    competitor: &'static str,
    /// Until all sessions were up.
    sessions: f64,
    /// Until everybody had everything; for churn the median of flaps.
    seconds: f64,
    /// The same for the withdrawal; for churn the 99th percentile.
    second: f64,
    cpu: f64,
    peak_mib: f64,
    updates: u64,
}

/// Which runs.
#[derive(Debug)]
pub(crate) struct Options {
    /// Rounds of each task.
    pub(crate) rounds: usize,
    /// Only tasks whose name has this.
    pub(crate) only: Option<String>,
    /// Only these daemons (and the floor).
    pub(crate) daemons: Vec<Kind>,
    /// Write docs/bench/speaker.json and speaker.md there.
    pub(crate) out: Option<std::path::PathBuf>,
}

/// Runs the bench inside the box.
pub(crate) fn run_all(options: &Options) -> Result<()> {
    let mut competitors = vec![Competitor::Mirror];
    for kind in &options.daemons {
        match kind.available() {
            Ok(()) => competitors.push(Competitor::Daemon(*kind)),
            Err(failure) => eprintln!("left out: {}", failure.summary()),
        }
    }
    let mut runs = Vec::new();
    for task in TASKS.iter().filter(|task| {
        options
            .only
            .as_ref()
            .is_none_or(|only| task.name.contains(only.as_str()))
    }) {
        for round in 0..options.rounds {
            for competitor in &competitors {
                if task.leaves_out(*competitor) {
                    continue;
                }
                match run(task, *competitor, round) {
                    Ok(run) => {
                        println!(
                            "{:16} {:9} {:8.4} s {:8.4} s  cpu {:6.2} s  peak {:7.1} MiB  sessions {:6.3} s  {} updates",
                            run.task,
                            run.competitor,
                            run.seconds,
                            run.second,
                            run.cpu,
                            run.peak_mib,
                            run.sessions,
                            run.updates
                        );
                        runs.push(run);
                    }
                    Err(failure) => println!("{:16} {:9} {failure}", task.name, competitor.name()),
                }
            }
        }
    }
    report::print(TASKS, &competitors, &runs);
    match &options.out {
        Some(dir) => report::write(dir, TASKS, &competitors, &runs),
        None => Ok(()),
    }
}

fn run(task: &Task, competitor: Competitor, round: usize) -> Result<Run> {
    let name = format!("{}-{}-{round}", task.name, competitor.name());
    let host = Host::create(&name)?;
    host.ip(&format!("addr add {DUT_ADDRESS}/14 dev lo"))?;
    // A burst of a thousand connections must fit the queues of whoever listens.
    host.sysctl("net/core/somaxconn", "4096")?;
    let mut processes = competitor.start(&host, task.workload.role())?;
    let result = host.within(|| workloads::load(task.workload, competitor));
    let result = result.and_then(|times| Ok((times, cost(&processes)?)));
    let (times, (cpu, peak_mib)) = result.map_err(|failure| {
        processes
            .iter()
            .fold(failure, |failure, one| one.with_log(failure))
    })?;
    processes.iter_mut().for_each(Daemon::kill);
    netns::delete(&name)?;
    Ok(Run {
        task: task.name,
        competitor: competitor.name(),
        sessions: times.sessions.as_secs_f64(),
        seconds: times.first.as_secs_f64(),
        second: times.second.as_secs_f64(),
        cpu,
        peak_mib,
        updates: times.updates,
    })
}
