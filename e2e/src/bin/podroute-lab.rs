//! `podroute-lab`: brings the demo rack up, proves it, lets people look around in it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test tool")]

use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use e2e::cni::Plugin;
use e2e::daemon::Kind;
use e2e::demo::{self, Options};
use e2e::failure::{Context, Failure, Result};
use e2e::machine::Host;
use e2e::{bins, netns, sandbox};

/// Nodes, ToR routers and pods in network namespaces of this machine.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the demo rack and prove that pods reach each other.
    Demo {
        /// Daemon on the ToRs: podroute, bird, frr, gobgp or openbgpd.
        #[arg(long, default_value = "podroute")]
        tor: Kind,
        /// Daemon on the nodes: podroute or, for comparison, bird.
        #[arg(long, default_value = "podroute")]
        node: Kind,
        /// Plugin that makes the pods: podroute, or ptp (default where the nodes run BIRD).
        #[arg(long)]
        cni: Option<Plugin>,
        /// Leave the rack up and print commands to try.
        #[arg(long)]
        keep: bool,
        /// Set by the program itself when it is inside the box.
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// The speaker beside other daemons: load over TCP, checked; medians and ratios.
    Bench {
        /// Rounds of each task.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only tasks whose name has this: table-1m, reflect, churn …
        #[arg(long)]
        only: Option<String>,
        /// The daemons.
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "podroute,bird,frr,gobgp,openbgpd"
        )]
        daemons: Vec<Kind>,
        /// Directory for speaker.md and speaker.json.
        #[arg(long)]
        out: Option<std::path::PathBuf>,
        /// Set by the program itself when it is inside the box.
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Learned routes into the kernel, beside BIRD and FRR: fib.md and fib.json.
    BenchFib(Beside),
    /// Faults in a fabric of two racks under traffic, beside BIRD and FRR: failover.md and bench/failover.json. Each round
    /// has another order of faults.
    BenchFailover(Beside),
    /// Many nodes on one bridge in a mesh of sessions, beside BIRD: start, restarts, silent loss, partition: mesh.md and
    /// mesh.json.
    BenchMesh {
        /// Sizes of the mesh.
        #[arg(long, value_delimiter = ',', default_value = "50,100,150")]
        nodes: Vec<usize>,
        /// Only these: start, restart-one, restart-all, loss, partition, reflectors-start, reflector-restart,
        /// reflectors-restart, soak.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Size of the mesh with random faults.
        #[arg(long, default_value_t = 40)]
        soak_nodes: usize,
        /// Seconds of random faults.
        #[arg(long, default_value_t = 120)]
        soak_seconds: u64,
        /// What the random faults follow from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        beside: Beside,
    },
    /// Remove a rack that was kept, with all that is in it.
    DemoDown,
    /// Run a command (default: a shell) on a machine or in a pod of the kept rack.
    Enter {
        /// Machine or pod: node-1, tor-a, node-1-pod-a …
        place: String,
        /// The command, after `--`.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// List the machines and pods of the kept rack.
    List,
}

/// What is compared with daemons that fill the kernel.
#[derive(clap::Args)]
struct Beside {
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The daemons.
    #[arg(long, value_delimiter = ',', default_value = "podroute,bird,frr")]
    daemons: Vec<Kind>,
    /// Directory for what is written.
    #[arg(long)]
    out: Option<std::path::PathBuf>,
    /// Set by the program itself when it is inside the box.
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = e2e::dispatch(&args) {
        return exit(code);
    }
    match run(Cli::parse().verb, &args) {
        Ok(code) => exit(code),
        Err(failure) => {
            eprintln!("podroute-lab: {failure}");
            exit(1)
        }
    }
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn run(verb: Verb, args: &[String]) -> Result<i32> {
    match verb {
        Verb::Demo {
            tor,
            node,
            cni,
            keep,
            inside: true,
        } => Ok(demo::main(&Options {
            tor,
            node,
            plugin: cni,
            keep,
        })),
        Verb::Demo { keep, .. } => {
            if let (true, Some(up)) = (keep, sandbox::find_kept().first()) {
                let text = format!("a rack is up already (process {up}); take it down first: make demo-down");
                return Err(Failure::new(text));
            }
            let mut inside = args.to_vec();
            inside.push("--inside".to_owned());
            sandbox::run(&inside, keep)
        }
        Verb::Bench {
            rounds,
            only,
            daemons,
            out,
            inside: true,
        } => e2e::bench::speaker(&e2e::bench::Options {
            rounds,
            only,
            daemons,
            out,
        })
        .map(|()| 0),
        Verb::BenchFib(Beside {
            rounds,
            daemons,
            out,
            inside: true,
        }) => e2e::bench::fib(rounds, &daemons, out.as_deref()).map(|()| 0),
        Verb::BenchFailover(Beside {
            rounds,
            daemons,
            out,
            inside: true,
        }) => e2e::failover::bench(rounds as u64, &daemons, out.as_deref()).map(|()| 0),
        Verb::BenchMesh {
            nodes,
            only,
            soak_nodes,
            soak_seconds,
            seed,
            beside:
                Beside {
                    rounds,
                    daemons,
                    out,
                    inside: true,
                },
        } => e2e::mesh::bench(&e2e::mesh::Options {
            nodes,
            rounds,
            only,
            daemons,
            soak: e2e::mesh::SoakOptions {
                nodes: soak_nodes,
                seconds: soak_seconds,
                seed,
            },
            out,
        })
        .map(|right| i32::from(!right)),
        Verb::Bench { .. } | Verb::BenchFib(_) | Verb::BenchFailover(_) | Verb::BenchMesh { .. } => {
            let mut inside = args.to_vec();
            inside.push("--inside".to_owned());
            sandbox::run(&inside, false)
        }
        Verb::DemoDown => {
            let kept = sandbox::find_kept();
            kept.iter().try_for_each(|init| sandbox::end(*init))?;
            println!(
                "{}",
                if kept.is_empty() {
                    "no rack is up"
                } else {
                    "the rack is gone"
                }
            );
            Ok(0)
        }
        Verb::Enter { place, command } => enter(&place, command),
        Verb::List => {
            join()?;
            in_box(&["ls".to_owned(), "/run/netns".to_owned()])
        }
    }
}

fn join() -> Result<()> {
    let kept = sandbox::find_kept();
    let init = kept
        .first()
        .ok_or_else(|| Failure::new("no rack is up: make demo KEEP=1"))?;
    sandbox::join(*init)
}

fn enter(place: &str, command: Vec<String>) -> Result<i32> {
    let search = bins::search_path();
    join()?;
    let host = Host::existing(place);
    if !netns::path(place).exists() {
        return Err(Failure::new(format!(
            "no machine or pod {place}: see `podroute-lab list`"
        )));
    }
    let command = if command.is_empty() {
        vec![std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned())]
    } else {
        command
    };
    if host.exists() {
        host.enter()?;
    } else {
        netns::enter(place)?;
    }
    std::env::set_current_dir("/").context("/")?;
    run_here(&command, &search)
}

fn in_box(command: &[String]) -> Result<i32> {
    run_here(command, &bins::search_path())
}

fn run_here(command: &[String], search: &std::ffi::OsStr) -> Result<i32> {
    let (program, args) = command.split_first().ok_or_else(|| Failure::new("no command"))?;
    // Resolve on the lab's PATH, which the child gets too.
    let found = std::env::split_paths(search)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    let status = Command::new(found.unwrap_or_else(|| program.into()))
        .args(args)
        .env("PATH", search)
        .status()
        .context(program)?;
    Ok(sandbox::exit_code(status))
}
