//! `make bench`: the speaker beside BIRD, FRR, GoBGP and OpenBGPD, and beside the floor.
//!
//! Every run is a fresh daemon in a fresh namespace; the rivals take turns within a round, so that a machine that slows
//! down slows all of them. Medians, and ratios to the best other and to the floor, go to docs/bench/.

mod fib;
mod report;
mod rivals;

use std::ops::Range;
use std::time::Duration;

use crate::blast::{Load, Rules, Spec, Table, address, shares};
use crate::daemon::Kind;
use crate::failure::{Failure, Result};
use crate::machine::Host;
use crate::netns;
use rivals::{ASN, HERE, Rival, Role};

pub use fib::fib;
pub(crate) use report::machine;
pub use rivals::cost;
pub(crate) use rivals::{MIRROR, be_mirror};

/// No run takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What a speaker is asked to do.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// One sender, so many receivers, all eBGP.
    Table {
        routes: u32,
        per_set: u32,
        receivers: u32,
    },
    /// Clients with so many routes each, everybody to everybody.
    Reflect { clients: u32, each: u32 },
    /// The same; then single prefixes go and come back.
    Churn { clients: u32, flaps: u32 },
}

/// A line of the table.
#[derive(Debug)]
struct Task {
    name: &'static str,
    title: &'static str,
    work: Work,
    /// Rivals that take minutes for it.
    without: &'static [Kind],
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
pub struct Options {
    /// Rounds of each task.
    pub rounds: usize,
    /// Only tasks whose name has this.
    pub only: Option<String>,
    /// Only these daemons (and the floor).
    pub daemons: Vec<Kind>,
    /// Write docs/bench/speaker.json and speaker.md there.
    pub out: Option<std::path::PathBuf>,
}

/// Runs the bench inside the box; answers the exit code.
pub fn speaker(options: &Options) -> Result<()> {
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
                if matches!(rival, Rival::Daemon(kind) if task.without.contains(kind)) {
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
    let role = match task.work {
        Work::Table { .. } => Role::Router,
        Work::Reflect { .. } | Work::Churn { .. } => Role::Reflector,
    };
    let mut processes = rival.start(&host, role)?;
    let result = host.within(|| load(task, rival));
    let result = result.and_then(|times| Ok((times, cost(&processes)?)));
    let ((sessions, seconds, second, updates), (cpu, peak_mib)) = result.map_err(|failure| {
        processes
            .iter()
            .fold(failure, |failure, one| one.with_log(failure))
    })?;
    processes.iter_mut().for_each(crate::process::Daemon::kill);
    netns::delete(&name)?;
    Ok(Run {
        task: task.name,
        rival: rival.name(),
        sessions,
        seconds,
        second,
        cpu,
        peak_mib,
        updates,
    })
}

fn rules(role: Role, rival: Rival) -> Rules {
    let real = rival != Rival::Mirror;
    Rules {
        reflected: real && role == Role::Reflector,
        own_may_return: rival == Rival::Daemon(Kind::Frr),
        first_as: (real && role == Role::Router).then_some(ASN),
    }
}

fn clients(count: u32, each: u32) -> Vec<Spec> {
    let spec = |(index, sends): (u32, Range<u32>)| Spec {
        local: address([10, 100], index),
        asn: ASN,
        sends,
        receives: true,
    };
    (0..count).zip(shares(count, each)).map(spec).collect()
}

fn load(task: &Task, rival: Rival) -> Result<(f64, f64, f64, u64)> {
    match task.work {
        Work::Table {
            routes,
            per_set,
            receivers,
        } => {
            let mut specs = vec![Spec {
                local: address([10, 101], 0),
                asn: 65001,
                sends: 0..routes,
                receives: false,
            }];
            specs.extend((0..receivers).map(|index| Spec {
                local: address([10, 102], index),
                asn: 65002,
                sends: 0..0,
                receives: true,
            }));
            let table = Table::new(routes, per_set, false);
            both(&specs, table, rules(Role::Router, rival))
        }
        Work::Reflect { clients: count, each } => {
            let table = Table::new(count * each, each, true).with_hosts(each);
            both(&clients(count, each), table, rules(Role::Reflector, rival))
        }
        Work::Churn {
            clients: count,
            flaps,
        } => {
            let table = Table::new(count, 1, true);
            churn(&clients(count, 1), table, rules(Role::Reflector, rival), flaps)
        }
    }
}

fn both(specs: &[Spec], table: Table, rules: Rules) -> Result<(f64, f64, f64, u64)> {
    let (mut load, sessions) = Load::connect(HERE, specs, table, rules, LIMIT)?;
    let announced = load.announce(LIMIT)?;
    let updates = load.updates();
    let withdrawn = load.withdraw(LIMIT)?;
    Ok((
        sessions.as_secs_f64(),
        announced.as_secs_f64(),
        withdrawn.as_secs_f64(),
        updates,
    ))
}

fn churn(specs: &[Spec], table: Table, rules: Rules, flaps: u32) -> Result<(f64, f64, f64, u64)> {
    let (mut load, sessions) = Load::connect(HERE, specs, table, rules, LIMIT)?;
    load.announce(LIMIT)?;
    let mut times = Vec::new();
    for flap in 0..flaps {
        let index = (flap as usize * 7) % specs.len();
        times.extend(load.flap(index, LIMIT)?.map(|time| time.as_secs_f64()));
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (times.len() as f64 * share) as usize;
        times
            .get(index.min(times.len() - 1))
            .copied()
            .ok_or_else(|| Failure::new("no flap"))
    };
    Ok((sessions.as_secs_f64(), at(0.5)?, at(0.99)?, load.updates()))
}
