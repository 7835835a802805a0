//! `podroute-bench`: podroute beside other BGP daemons, in network namespaces of this machine.
//!
//! [`speaker`] measures the BGP speaker alone, [`fib`] learned routes in the kernel, [`failover`] packets lost during
//! faults, [`mesh`] many nodes with full-mesh or reflected sessions. [`report`] writes tables and JSON.

mod failover;
mod fib;
mod mesh;
mod report;
mod speaker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::daemon::Kind;
use lab::failure::Result;
use lab::sandbox;

/// Benchmarks beside other BGP daemons.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Set by the program itself when it is inside the sandbox.
    #[arg(long, global = true, hide = true)]
    inside: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// The speaker beside other daemons: load over TCP, checked; medians and ratios.
    Speaker {
        /// Rounds of each task.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only tasks whose name contains this: table-1m, reflect, churn …
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
    },
    /// Learned routes in the kernel, beside BIRD and FRR: fib.md and fib.json.
    Fib(Comparison),
    /// Faults in a fabric of two racks under traffic, beside BIRD and FRR: failover.md and bench/failover.json. Each round
    /// has another order of faults.
    Failover(Comparison),
    /// Many nodes on one bridge with full-mesh sessions, beside BIRD: start, restarts, silent loss, partition: mesh.md and
    /// mesh.json.
    Mesh {
        /// Numbers of nodes.
        #[arg(long, value_delimiter = ',', default_value = "50,100,150")]
        nodes: Vec<usize>,
        /// Only these: start, restart-one, restart-all, loss, partition, reflectors-start, reflector-restart,
        /// reflectors-restart, soak.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Number of nodes with random faults.
        #[arg(long, default_value_t = 40)]
        soak_nodes: usize,
        /// Seconds of random faults.
        #[arg(long, default_value_t = 120)]
        soak_seconds: u64,
        /// Seed of the random faults.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        comparison: Comparison,
    },
}

/// A comparison with daemons that write kernel routes.
#[derive(clap::Args)]
struct Comparison {
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The daemons.
    #[arg(long, value_delimiter = ',', default_value = "podroute,bird,frr")]
    daemons: Vec<Kind>,
    /// Directory for the report.
    #[arg(long)]
    out: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    lab::main("podroute-bench", |mut args| {
        if args.first().is_some_and(|arg| arg == speaker::MIRROR) {
            return Ok(speaker::run_mirror());
        }
        let cli = Cli::parse();
        if cli.inside {
            return run(cli.verb);
        }
        args.push("--inside".to_owned());
        sandbox::run(&args, false)
    })
}

fn run(verb: Verb) -> Result<i32> {
    match verb {
        Verb::Speaker {
            rounds,
            only,
            daemons,
            out,
        } => speaker::run_all(&speaker::Options {
            rounds,
            only,
            daemons,
            out,
        })
        .map(|()| 0),
        Verb::Fib(options) => {
            fib::run_all(options.rounds, &options.daemons, options.out.as_deref()).map(|()| 0)
        }
        Verb::Failover(options) => {
            failover::run_all(options.rounds as u64, &options.daemons, options.out.as_deref()).map(|()| 0)
        }
        Verb::Mesh {
            nodes,
            only,
            soak_nodes,
            soak_seconds,
            seed,
            comparison: Comparison { rounds, daemons, out },
        } => mesh::run_all(&mesh::Options {
            nodes,
            rounds,
            only,
            daemons,
            soak: mesh::SoakOptions {
                nodes: soak_nodes,
                seconds: soak_seconds,
                seed,
            },
            out,
        })
        .map(|is_right| i32::from(!is_right)),
    }
}
