//! docs/bench/mesh.md, from the runs.

use std::fmt::Write;

use super::config::RETRY;
use super::{HOLD, Options, Run, Scenario};
use lab::daemon::Kind;
use lab::failure::Result;

pub(super) fn line(run: &Run) -> String {
    let time =
        |seconds: Option<f64>| seconds.map_or_else(|| "not in time".to_owned(), |s| format!("{s:.2} s"));
    format!(
        "{:8} {:3} nodes  round {}  {:18}  all there {:>11}  nothing else {:>11}  cpu {:6.2} s  removed {:4}  peak {:5.1} MiB",
        run.daemon,
        run.nodes,
        run.round + 1,
        run.scenario.name(),
        time(run.there),
        time(run.equal),
        run.cpu,
        run.removed,
        run.peak_mib
    )
}

/// The median of runs; one that was not in time is longer than all others.
fn median(runs: &[&Run], of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().map(|run| of(run).unwrap_or(f64::INFINITY)).collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .filter(|value| value.is_finite())
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2} s"))
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> String {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}×", ours / theirs),
        _ => "–".to_owned(),
    }
}

fn table(sizes: &[usize], runs: &[Run]) -> String {
    let mut out = String::from(
        "| nodes | | podroute | bird | | CPU podroute | CPU bird | | removed podroute | removed bird |\n\
         |---:|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for nodes in sizes {
        for scenario in Scenario::ALL {
            let of = |kind: Kind| -> Vec<&Run> {
                let all = runs
                    .iter()
                    .filter(|run| run.nodes == *nodes && run.scenario == scenario);
                all.filter(|run| run.daemon == kind.name()).collect()
            };
            let (ours, theirs) = (of(Kind::Podroute), of(Kind::Bird));
            if ours.is_empty() && theirs.is_empty() {
                continue;
            }
            let time = [&ours, &theirs].map(|runs| median(runs, |run| run.equal));
            let cpu = [&ours, &theirs].map(|runs| median(runs, |run| Some(run.cpu)));
            let removed = [&ours, &theirs].map(|runs| {
                let most = runs.iter().map(|run| run.removed).max();
                most.map_or_else(|| "–".to_owned(), |most| most.to_string())
            });
            let _ = writeln!(
                out,
                "| {nodes} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                scenario.title(),
                seconds(time[0]),
                seconds(time[1]),
                ratio(time[0], time[1]),
                seconds(cpu[0]),
                seconds(cpu[1]),
                ratio(cpu[0], cpu[1]),
                removed[0],
                removed[1],
            );
        }
    }
    out
}

/// Peak memory of a daemon after everything, by size.
fn memory(sizes: &[usize], daemons: &[Kind], runs: &[Run]) -> String {
    let of = |nodes: usize| {
        let each = daemons.iter().map(|kind| {
            let all: Vec<&Run> = runs
                .iter()
                .filter(|run| {
                    run.nodes == nodes && run.daemon == kind.name() && run.scenario == Scenario::Start
                })
                .collect();
            let peak = median(&all, |run| Some(run.peak_mib));
            format!("{} {:.1} MiB", kind.name(), peak.unwrap_or(0.0))
        });
        format!("{nodes} nodes: {}", each.collect::<Vec<_>>().join(", "))
    };
    sizes
        .iter()
        .map(|nodes| of(*nodes))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Prints the table, and writes it where it is wanted.
pub(super) fn write(
    options: &Options,
    daemons: &[Kind],
    runs: &[Run],
    deviations: Option<usize>,
) -> Result<()> {
    let versions = Kind::versions(daemons);
    let sizes: Vec<usize> = options
        .nodes
        .iter()
        .filter(|nodes| runs.iter().any(|run| run.nodes == **nodes))
        .copied()
        .collect();
    let soak = options.soak;
    let soak = deviations.map_or_else(String::new, |deviations| {
        format!(
            "\nRandom faults: {} podroute nodes, seed {}, {} s of kills, pulled cables, lost addresses, stopped processes, \
             flushed routes and nexthop objects, silence and changed blocks. After them {deviations} routes were not as they \
             should be.\n",
            soak.nodes, soak.seed, soak.seconds
        )
    });
    let text = format!(
        "# A mesh of real nodes\n\nWritten by `make bench-mesh`: {}; {}. Medians of {} rounds in which both took turns.\n\n\
         Each node is a network namespace with its own daemon, kernel routes on, an IPv4 /24 and an IPv6 /64; all are on one \
         bridge with iBGP over IPv4, both families on one session, hold time {HOLD} s, connect retry {RETRY} s. The clock runs until \
         every kernel has every route of both families through the right gateway, and no other; CPU is that of all daemons \
         together by then. Killed is by SIGKILL; all that are killed start again at the same moment, with other blocks beside \
         their own, and one that restarts alone has lost half of its kernel's routes meanwhile. \"Removed\": routes that should \
         have stayed and were gone from a kernel at some moment, the most of all rounds. The two reflectors have no session \
         with each other, so that each of their sessions is seen to be up. BIRD is configured as in \
         other meshes of it: of two nodes one connects, with a delay of 1 s; graceful restart is on for its sessions and its \
         kernel routes, and it restarts with `-R`.\n\n{}\n\
         Peak memory of a daemon in the middle of all, after the start: {}.\n{soak}",
        crate::report::machine(),
        versions.join(", "),
        options.rounds,
        table(&sizes, runs),
        memory(&sizes, daemons, runs)
    );
    // Without a table there is nothing to say but what the soak said.
    if !runs.is_empty() {
        println!("{text}");
    }
    match &options.out {
        Some(dir) => crate::report::save(
            dir,
            "mesh",
            &text,
            &serde_json::json!({"versions": versions, "runs": runs, "soak": options.soak, "deviations": deviations}),
        ),
        None => Ok(()),
    }
}
