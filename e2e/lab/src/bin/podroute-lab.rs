//! `podroute-lab`: brings the demo rack up, proves it, lets people look around in it.

use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use lab::cni::Plugin;
use lab::daemon::Kind;
use lab::demo::{self, Options};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::{bins, netns, sandbox};

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

fn main() -> ExitCode {
    lab::main("podroute-lab", |args| run(Cli::parse().verb, args))
}

fn run(verb: Verb, mut args: Vec<String>) -> Result<i32> {
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
            args.push("--inside".to_owned());
            sandbox::run(&args, keep)
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
