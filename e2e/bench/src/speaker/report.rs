//! Medians and ratios, for people and for machines.

use std::fmt::Write;
use std::path::Path;

use super::competitors::Competitor;
use super::{Run, Task};
use crate::report::{machine, median, save};
use lab::failure::{Context, Result};

/// The medians of several runs of one task by one competitor.
struct Median {
    seconds: f64,
    second: f64,
    cpu: f64,
    peak_mib: f64,
    sessions: f64,
}

fn medians(runs: &[Run], task: &Task, competitor: Competitor) -> Option<Median> {
    let of: Vec<&Run> = runs
        .iter()
        .filter(|run| run.task == task.name && run.competitor == competitor.name())
        .collect();
    if of.is_empty() {
        return None;
    }
    Some(Median {
        seconds: median(&of, |run| run.seconds),
        second: median(&of, |run| run.second),
        cpu: median(&of, |run| run.cpu),
        peak_mib: median(&of, |run| run.peak_mib),
        sessions: median(&of, |run| run.sessions),
    })
}

fn time(seconds: f64) -> String {
    if seconds < 0.1 {
        format!("{:.2} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.2} s")
    }
}

fn tables(tasks: &[Task], competitors: &[Competitor], runs: &[Run]) -> String {
    let mut out = String::new();
    for task in tasks {
        let all: Vec<(Competitor, Median)> = competitors
            .iter()
            .filter_map(|competitor| Some((*competitor, medians(runs, task, *competitor)?)))
            .collect();
        if all.is_empty() {
            continue;
        }
        let names = task.workload.columns();
        let others =
            |competitor: Competitor| competitor != Competitor::Mirror && competitor.name() != "podroute";
        let best = all
            .iter()
            .filter(|(competitor, _)| others(*competitor))
            .map(|(_, medians)| medians.seconds)
            .fold(f64::INFINITY, f64::min);
        let floor = all
            .iter()
            .find(|(competitor, _)| *competitor == Competitor::Mirror)
            .map(|(_, medians)| medians.seconds);
        let _ = write!(
            out,
            "\n### {}\n\n| | {} | to the best other | to the floor | {} | CPU | peak memory | sessions up |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|\n",
            task.title, names[0], names[1]
        );
        for (competitor, medians) in &all {
            let ratio = |to: Option<f64>| match to {
                Some(to) if to.is_finite() => format!("{:.2}×", medians.seconds / to),
                _ => "–".to_owned(),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {:.2} s | {:.1} MiB | {} |",
                competitor.name(),
                time(medians.seconds),
                ratio(Some(best)),
                ratio(floor),
                time(medians.second),
                medians.cpu,
                medians.peak_mib,
                time(medians.sessions),
            );
        }
    }
    out
}

/// Prints the tables.
pub(super) fn print(tasks: &[Task], competitors: &[Competitor], runs: &[Run]) {
    println!("{}", tables(tasks, competitors, runs));
}

/// Writes speaker.md and speaker.json.
pub(super) fn write(dir: &Path, tasks: &[Task], competitors: &[Competitor], runs: &[Run]) -> Result<()> {
    let versions: Vec<String> = competitors
        .iter()
        .filter(|competitor| **competitor != Competitor::Mirror)
        .map(|competitor| format!("{} {}", competitor.name(), competitor.version()))
        .collect();
    let rounds = runs
        .iter()
        .filter(|run| {
            runs.first()
                .is_some_and(|first| first.task == run.task && first.competitor == run.competitor)
        })
        .count();
    let text = format!(
        "# The speaker beside others\n\nWritten by `make bench`: {}; {}. Medians of {rounds} rounds in which all took turns; \
         kernel routes off; load and speaker on one machine over its loopback. The floor is a program that hands messages on \
         with no routing at all. CPU and memory are those of the whole process from its start. Lower is better throughout. \
         Every prefix that arrives is checked: once, with its own attributes, ORIGINATOR_ID and CLUSTER_LIST where reflected.\n\n\
         ![The first time of each task, log scale from 1 ms](speaker.svg)\n{}",
        machine(),
        versions.join(", "),
        tables(tasks, competitors, runs)
    );
    let json = serde_json::json!({"machine": machine(), "versions": versions, "runs": runs});
    save(dir, "speaker", &text, &json)?;
    let file = dir.join("speaker.svg");
    std::fs::write(&file, plot(tasks, competitors, runs)).context(file.display())
}

/// The first time of each task as bars, a log scale for all.
fn plot(tasks: &[Task], competitors: &[Competitor], runs: &[Run]) -> String {
    const WIDTH: f64 = 560.0;
    const LEFT: f64 = 90.0;
    /// From 1 ms to 100 s.
    const DECADES: f64 = 5.0;
    let (mut body, mut y) = (String::new(), 14.0);
    for task in tasks {
        let bars: Vec<(Competitor, f64)> = competitors
            .iter()
            .filter_map(|competitor| Some((*competitor, medians(runs, task, *competitor)?.seconds)))
            .collect();
        if bars.is_empty() {
            continue;
        }
        let _ = writeln!(
            body,
            "<text x='0' y='{y:.0}' font-weight='bold'>{}: {}</text>",
            task.title,
            task.workload.columns()[0]
        );
        for (competitor, seconds) in bars {
            y += 17.0;
            let length = ((seconds * 1000.0).max(1.0).log10() / DECADES * WIDTH).max(2.0);
            let color = match competitor.name() {
                "podroute" => "#1f6f5c",
                "floor" => "#c8c8c8",
                _ => "#8a9bb0",
            };
            let _ = writeln!(
                body,
                "<text x='{:.0}' y='{y:.0}' text-anchor='end'>{}</text><rect x='{LEFT}' y='{:.0}' width='{length:.0}' height='12' \
                 fill='{color}'/><text x='{:.0}' y='{y:.0}'>{}</text>",
                LEFT - 6.0,
                competitor.name(),
                y - 10.0,
                LEFT + length + 5.0,
                time(seconds)
            );
        }
        y += 28.0;
    }
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='760' height='{y:.0}' font-family='sans-serif' font-size='12'>\n\
         <rect width='100%' height='100%' fill='white'/>\n{body}</svg>\n"
    )
}
