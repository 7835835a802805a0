//! The works: what a speaker is asked to do, and how long it takes.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::LIMIT;
use super::competitors::{ASN, Competitor, DUT_ADDRESS, Role};
use lab::bgp_load::{Load, Rules, Spec, Table, address, shares};
use lab::daemon::Kind;
use lab::failure::{Failure, Result};

/// What a speaker is asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Workload {
    /// One sender, this number of receivers, all eBGP.
    Table {
        routes: u32,
        per_set: u32,
        receivers: u32,
    },
    /// Clients with this number of routes each, advertised to all others.
    Reflect { clients: u32, each: u32 },
    /// The same; then single prefixes go and come back.
    Churn { clients: u32, flaps: u32 },
    /// The sender's session is reset, and comes back with all its routes.
    Reset { routes: u32 },
    /// A receiver comes up beside a table; another receiver waits for single prefixes meanwhile.
    Newcomer { routes: u32 },
    /// A receiver stops reading; the table goes and comes back this number of times.
    SlowReader { routes: u32, times: u32 },
}

impl Workload {
    /// What the two times are.
    pub(super) fn columns(self) -> [&'static str; 2] {
        match self {
            Self::Table { .. } | Self::Reflect { .. } => ["announced", "withdrawn"],
            Self::Churn { .. } => ["p50", "p99"],
            Self::Reset { .. } => ["back", "gone"],
            Self::Newcomer { .. } => ["newcomer has all", "others meanwhile, p99"],
            Self::SlowReader { .. } => ["all rounds", "single prefixes, p99"],
        }
    }

    /// How the speaker is configured.
    pub(super) fn role(self) -> Role {
        match self {
            Self::Reflect { .. } | Self::Churn { .. } => Role::Reflector,
            _ => Role::Router,
        }
    }
}

fn rules(role: Role, competitor: Competitor) -> Rules {
    let real = competitor != Competitor::Mirror;
    Rules {
        reflected: real && role == Role::Reflector,
        own_may_return: competitor == Competitor::Daemon(Kind::Frr),
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

/// How long it took, and what came.
#[derive(Debug)]
pub(super) struct Times {
    /// Until all sessions were up.
    pub(super) sessions: Duration,
    /// The work's two times: [`Workload::columns`].
    pub(super) first: Duration,
    pub(super) second: Duration,
    /// UPDATEs that everybody got.
    pub(super) updates: u64,
}

fn sender(sends: Range<u32>, index: u32) -> Spec {
    Spec {
        local: address([10, 101], index),
        asn: 65001,
        sends,
        receives: false,
    }
}

fn receiver(index: u32) -> Spec {
    Spec {
        local: address([10, 102], index),
        asn: 65002,
        sends: 0..0,
        receives: true,
    }
}

/// Does the work from within the daemon's network.
pub(super) fn load(workload: Workload, competitor: Competitor) -> Result<Times> {
    let rules = rules(workload.role(), competitor);
    match workload {
        Workload::Table {
            routes,
            per_set,
            receivers,
        } => {
            let mut specs = vec![sender(0..routes, 0)];
            specs.extend((0..receivers).map(receiver));
            let table = Table::new(routes, per_set, false);
            announce_and_withdraw(&specs, table, rules)
        }
        Workload::Reflect { clients: count, each } => {
            let table = Table::new(count * each, each, true).with_hosts(each);
            announce_and_withdraw(&clients(count, each), table, rules)
        }
        Workload::Churn {
            clients: count,
            flaps,
        } => {
            let table = Table::new(count, 1, true);
            churn(&clients(count, 1), table, rules, flaps)
        }
        Workload::Reset { routes } => reset(routes, rules),
        Workload::Newcomer { routes } => newcomer(routes, rules),
        Workload::SlowReader { routes, times } => slow_reader(routes, times, rules),
    }
}

fn announce_and_withdraw(specs: &[Spec], table: Table, rules: Rules) -> Result<Times> {
    let (mut load, sessions) = Load::connect(DUT_ADDRESS, specs, table, rules, LIMIT)?;
    let announced = load.announce(LIMIT)?;
    let updates = load.updates();
    let withdrawn = load.withdraw(LIMIT)?;
    Ok(Times {
        sessions,
        first: announced,
        second: withdrawn,
        updates,
    })
}

fn churn(specs: &[Spec], table: Table, rules: Rules, flaps: u32) -> Result<Times> {
    let (mut load, sessions) = Load::connect(DUT_ADDRESS, specs, table, rules, LIMIT)?;
    load.announce(LIMIT)?;
    let mut times = Vec::new();
    for flap in 0..flaps {
        let index = (flap as usize * 7) % specs.len();
        times.extend(load.flap(index, LIMIT)?);
    }
    Ok(Times {
        sessions,
        first: percentile(&mut times, 0.5)?,
        second: percentile(&mut times, 0.99)?,
        updates: load.updates(),
    })
}

/// The time that so large a share stays below.
fn percentile(times: &mut [Duration], share: f64) -> Result<Duration> {
    times.sort();
    let index = (times.len() as f64 * share) as usize;
    let found = times.get(index.min(times.len().saturating_sub(1)));
    found.copied().ok_or_else(|| Failure::new("no flap"))
}

/// The receiver, then the sender: the one that is reset is the last.
fn reset(routes: u32, rules: Rules) -> Result<Times> {
    const TIMES: usize = 3;
    let specs = [receiver(0), sender(0..routes, 0)];
    let (mut load, sessions) =
        Load::connect(DUT_ADDRESS, &specs, Table::new(routes, 5, false), rules, LIMIT)?;
    load.announce(LIMIT)?;
    let (mut gone, mut back) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let start = Instant::now();
        load.reset(1)?;
        load.wait_count(0, 0, LIMIT)?;
        gone.push(start.elapsed());
        let start = Instant::now();
        let sender = load.join(DUT_ADDRESS, sender(0..routes, 0))?;
        load.wait_up(sender, LIMIT)?;
        load.send_part(sender, true)?;
        load.wait_for_all(0, LIMIT)?;
        back.push(start.elapsed());
    }
    Ok(Times {
        sessions,
        first: percentile(&mut back, 0.5)?,
        second: percentile(&mut gone, 0.5)?,
        updates: load.updates(),
    })
}

/// A sender of the table, one of single prefixes, and the receiver that waits for these.
fn three(routes: u32) -> [Spec; 3] {
    [
        sender(0..routes - 1, 0),
        sender(routes - 1..routes, 1),
        receiver(0),
    ]
}

fn newcomer(routes: u32, rules: Rules) -> Result<Times> {
    let table = Table::new(routes, 5, false);
    let (mut load, sessions) = Load::connect(DUT_ADDRESS, &three(routes), table, rules, LIMIT)?;
    load.announce(LIMIT)?;
    let start = Instant::now();
    let newcomer = load.join(DUT_ADDRESS, receiver(1))?;
    let mut times = Vec::new();
    let took = loop {
        times.extend(load.flap_to(1, 2, LIMIT)?);
        if load.has_all(newcomer) {
            break start.elapsed();
        }
    };
    Ok(Times {
        sessions,
        first: took,
        second: percentile(&mut times, 0.99)?,
        updates: load.updates(),
    })
}

fn slow_reader(routes: u32, rounds: u32, rules: Rules) -> Result<Times> {
    const FLAPS: u32 = 100;
    let table = Table::new(routes, 5, false);
    let (mut load, sessions) = Load::connect(DUT_ADDRESS, &three(routes), table, rules, LIMIT)?;
    let deaf = load.join(DUT_ADDRESS, receiver(1))?;
    load.wait_up(deaf, LIMIT)?;
    load.stop_reading(deaf)?;
    let start = Instant::now();
    load.send_part(1, true)?;
    for _ in 0..rounds {
        load.send_part(0, true)?;
        load.wait_for_all(2, LIMIT)?;
        load.send_part(0, false)?;
        load.wait_count(2, 1, LIMIT)?;
    }
    let took = start.elapsed();
    let mut times = Vec::new();
    for _ in 0..FLAPS {
        times.extend(load.flap_to(1, 2, LIMIT)?);
    }
    Ok(Times {
        sessions,
        first: took,
        second: percentile(&mut times, 0.99)?,
        updates: load.updates(),
    })
}
