//! `make bench-failover`: packets lost during faults in a fabric of two racks, beside BIRD and FRR; docs/failover.md.

use std::fmt::Write;
use std::path::Path;

use lab::daemon::Kind;
use lab::failover::{Cost, FAULT_DURATION, Fault, LIMIT, Loss, RATE, RepairWhen, run};
use lab::failure::{Context, Result};

/// One daemon's run.
#[derive(Debug, Clone, serde::Serialize)]
struct Run {
    daemon: &'static str,
    seed: u64,
    costs: Vec<Cost>,
}

/// Runs inside the sandbox.
pub(crate) fn run_all(rounds: u64, daemons: &[Kind], out: Option<&Path>) -> Result<()> {
    let daemons = Kind::with_kernel_routes(daemons);
    let mut runs = Vec::new();
    for seed in 1..=rounds {
        for kind in &daemons {
            let costs = run(*kind, &Fault::ALL, seed, RepairWhen::AfterFixedTime)?;
            for cost in &costs {
                println!("{:9} seed {seed}  {}", kind.name(), line(cost));
            }
            runs.push(Run {
                daemon: kind.name(),
                seed,
                costs,
            });
        }
    }
    write(out, &daemons, &runs)
}

fn loss(loss: &Loss) -> String {
    match loss.packets {
        0 => "0".to_owned(),
        packets => format!("{packets} ({:.0} ms)", loss.longest * 1e3),
    }
}

fn line(cost: &Cost) -> String {
    let gone = cost.gone.map_or_else(String::new, |gone| {
        format!(", its routes gone after {:.0} ms", gone * 1e3)
    });
    let stuck = if cost.stuck { ", not all ways back" } else { "" };
    format!(
        "{:58} lost {}, when repaired {}{gone}{stuck}",
        cost.fault.title(),
        loss(&cost.fault_loss),
        loss(&cost.mend_loss)
    )
}

/// The run with the median loss.
fn median<'a>(runs: &'a [Run], daemon: &str, fault: Fault, of: impl Fn(&Cost) -> f64) -> Option<&'a Cost> {
    let costs = runs
        .iter()
        .filter(|run| run.daemon == daemon)
        .flat_map(|run| &run.costs);
    let mut costs: Vec<&Cost> = costs.filter(|cost| cost.fault == fault).collect();
    costs.sort_by(|a, b| of(a).total_cmp(&of(b)));
    costs.get(costs.len() / 2).copied()
}

fn table(daemons: &[Kind], runs: &[Run]) -> String {
    let mut out = String::from("| fault |");
    for kind in daemons {
        let _ = write!(out, " {} | repaired |", kind.name());
    }
    out.push_str("\n|---|");
    daemons.iter().for_each(|_| out.push_str("---:|---:|"));
    out.push('\n');
    for fault in Fault::ALL {
        let _ = write!(out, "| {} |", fault.title());
        for kind in daemons {
            let during = median(runs, kind.name(), fault, |cost| cost.fault_loss.packets as f64);
            let repaired = median(runs, kind.name(), fault, |cost| cost.mend_loss.packets as f64);
            let during = during.map_or_else(String::new, |cost| loss(&cost.fault_loss));
            let stuck = runs
                .iter()
                .filter(|run| run.daemon == kind.name())
                .flat_map(|run| &run.costs);
            let stuck = stuck.filter(|cost| cost.fault == fault && cost.stuck).count();
            let mut repaired = repaired.map_or_else(String::new, |cost| loss(&cost.mend_loss));
            if stuck > 0 {
                let _ = write!(
                    repaired,
                    "; not all ways back within {} s: {stuck}×",
                    LIMIT.as_secs()
                );
            }
            let _ = write!(out, " {during} | {repaired} |");
        }
        out.push('\n');
    }
    let _ = write!(out, "| routes of the dead node are gone after |");
    for kind in daemons {
        let gone = median(runs, kind.name(), Fault::DeadNode, |cost| {
            cost.gone.unwrap_or(0.0)
        });
        let gone = gone.and_then(|cost| cost.gone).unwrap_or(0.0);
        let _ = write!(out, " {:.0} ms | |", gone * 1e3);
    }
    out.push('\n');
    out
}

fn write(out: Option<&Path>, daemons: &[Kind], runs: &[Run]) -> Result<()> {
    let versions = Kind::versions(daemons);
    let rounds = runs.iter().map(|run| run.seed).max().unwrap_or(0);
    let text = format!(
        "# What a fault costs\n\nWritten by `make bench-failover`: {}; {}. Medians of {rounds} rounds, in each of which \
         the faults came in another order.\n\n\
         Two racks with two nodes and two ToRs each. Every node has a cable to both ToRs of its rack, every ToR one to both \
         of the other rack; eBGP and BFD (50 ms times 3) on every cable, hold time 9 s, connect retry 1 s, ECMP by flow. \
         Nodes and ToRs all run the same daemon. {RATE} packets a second go each way between two pods in different racks, in \
         32 streams that the equal paths share. A fault repair_when {} s, then it is repaired; a table cell gives the packets lost in \
         both directions together, and how long the stream that was silent longest was silent.\n\n{}\n\
         While the racks are cut off nothing can arrive: {} packets are the fault's own. Between the moment when a cable goes \
         silent and its detection 105 to 150 ms pass by BFD's timers. At SIGTERM BIRD and FRR take leave of their peers for good, whatever graceful restart says; their ways to restart without a loss are others (`birdc graceful restart`, kill -9).\n",
        crate::report::machine(),
        versions.join(", "),
        FAULT_DURATION.as_secs(),
        table(daemons, runs),
        FAULT_DURATION.as_secs() * u64::from(RATE) * 2,
    );
    println!("{text}");
    let Some(dir) = out else { return Ok(()) };
    let json = serde_json::to_string_pretty(&serde_json::json!({"versions": versions, "runs": runs}))
        .unwrap_or_default();
    std::fs::write(dir.join("failover.md"), text).context("docs/failover.md")?;
    std::fs::write(dir.join("bench/failover.json"), json + "\n").context("docs/bench/failover.json")
}
