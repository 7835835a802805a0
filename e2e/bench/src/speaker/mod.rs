//! `make bench`: the speaker beside BIRD, FRR, GoBGP and OpenBGPD, and beside the floor.
//!
//! Every run is a fresh daemon in a fresh namespace; the rivals take turns within a round, so that a machine that slows
//! down slows all of them. Medians, and ratios to the best other and to the floor, go to docs/bench/.

mod competitors;
mod report;
mod workloads;

use std::time::Duration;

use competitors::{HERE, Rival};
use lab::daemon::Kind;
use lab::failure::Result;
use lab::machine::Host;
use lab::netns;
use lab::process::{Daemon, cost};
use workloads::Work;

pub(crate) use competitors::{MIRROR, run_mirror};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A line of the table.
#[derive(Debug)]
struct Task {
    name: &'static str,
    title: &'static str,
    work: Work,
    /// Rivals that take minutes for it.
    without: &'static [Kind],
}

impl Task {
    /// Whether a rival would take minutes, or cannot: the floor knows no routes, only messages that pass.
    fn leaves_out(&self, rival: Rival) -> bool {
        match rival {
            Rival::Mirror => matches!(self.work, Work::Reset { .. } | Work::Newcomer { .. }),
            Rival::Daemon(kind) => self.without.contains(&kind),
        }
    }
}

const fn task(name: &'static str, title: &'static str, work: Work, without: &'static [Kind]) -> Task {
    Task {
        name,
        title,
        work,
        without,
    }
}

const SLOW: &[Kind] = &[Kind::Gobgp, Kind::Openbgpd];

static TASKS: &[Task] = &[
    task(
        "table-100k",
        "100,000 routes in, 5 per attribute set, out to 1",
        Work::Table {
            routes: 100_000,
            per_set: 5,
            receivers: 1,
        },
        &[],
    ),
    task(
        "table-100k-50",
        "100,000 routes in, 50 per set, out to 1",
        Work::Table {
            routes: 100_000,
            per_set: 50,
            receivers: 1,
        },
        &[],
    ),
    task(
        "table-1m",
        "1,000,000 routes in, 5 per set, out to 1",
        Work::Table {
            routes: 1_000_000,
            per_set: 5,
            receivers: 1,
        },
        SLOW,
    ),
    task(
        "table-1m-50",
        "1,000,000 routes in, 50 per set, out to 1",
        Work::Table {
            routes: 1_000_000,
            per_set: 50,
            receivers: 1,
        },
        SLOW,
    ),
    task(
        "fanout-20",
        "100,000 routes in, out to 20",
        Work::Table {
            routes: 100_000,
            per_set: 5,
            receivers: 20,
        },
        &[Kind::Gobgp],
    ),
    task(
        "reflect-500",
        "reflector: 500 clients, a /24 each",
        Work::Reflect {
            clients: 500,
            each: 1,
        },
        &[Kind::Openbgpd],
    ),
    task(
        "reflect-1000",
        "reflector: 1,000 clients, a /24 each",
        Work::Reflect {
            clients: 1000,
            each: 1,
        },
        SLOW,
    ),
    task(
        "reflect-500-21",
        "reflector: 500 clients, a /24 and 20 /32 each",
        Work::Reflect {
            clients: 500,
            each: 21,
        },
        SLOW,
    ),
    task(
        "churn-500",
        "one of 500 clients flaps its /24",
        Work::Churn {
            clients: 500,
            flaps: 200,
        },
        SLOW,
    ),
    task(
        "reset-100k",
        "a session with 100,000 routes is reset and comes back, 1 receiver",
        Work::Reset { routes: 100_000 },
        SLOW,
    ),
    task(
        "newcomer-1m",
        "a receiver comes up beside 1,000,000 routes; another waits for single prefixes",
        Work::Newcomer { routes: 1_000_000 },
        SLOW,
    ),
    task(
        "deaf-100k",
        "one receiver stops reading; 100,000 routes go and come back 10 times",
        Work::Deaf {
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
    rival: &'static str,
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
    let mut rivals = vec![Rival::Mirror];
    for kind in &options.daemons {
        match kind.available() {
            Ok(()) => rivals.push(Rival::Daemon(*kind)),
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
            for rival in &rivals {
                if task.leaves_out(*rival) {
                    continue;
                }
                match run(task, *rival, round) {
                    Ok(run) => {
                        println!(
                            "{:16} {:9} {:8.4} s {:8.4} s  cpu {:6.2} s  peak {:7.1} MiB  sessions {:6.3} s  {} updates",
                            run.task,
                            run.rival,
                            run.seconds,
                            run.second,
                            run.cpu,
                            run.peak_mib,
                            run.sessions,
                            run.updates
                        );
                        runs.push(run);
                    }
                    Err(failure) => println!("{:16} {:9} {failure}", task.name, rival.name()),
                }
            }
        }
    }
    report::print(TASKS, &rivals, &runs);
    match &options.out {
        Some(dir) => report::write(dir, TASKS, &rivals, &runs),
        None => Ok(()),
    }
}

fn run(task: &Task, rival: Rival, round: usize) -> Result<Run> {
    let name = format!("{}-{}-{round}", task.name, rival.name());
    let host = Host::create(&name)?;
    host.ip(&format!("addr add {HERE}/14 dev lo"))?;
    // A burst of a thousand connections must fit the queues of whoever listens.
    host.sysctl("net/core/somaxconn", "4096")?;
    let mut processes = rival.start(&host, task.work.role())?;
    let result = host.within(|| workloads::load(task.work, rival));
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
        rival: rival.name(),
        sessions: times.sessions.as_secs_f64(),
        seconds: times.first.as_secs_f64(),
        second: times.second.as_secs_f64(),
        cpu,
        peak_mib,
        updates: times.updates,
    })
}
