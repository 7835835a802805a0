//! `podroute`: the agent and the operator's commands.
//!
//! The agent joins three things that know nothing of each other: the configuration, the BGP speaker
//! (`bgp-speaker`) and the kernel's routes (`fib`). Each runs in tasks of its own and is told whole
//! desired states; see ARCHITECTURE.md.

mod agent;
mod answers;
mod bfd_watch;
mod cli;
mod clock;
mod cluster;
mod drain;
mod dump;
mod fib;
mod heap;
mod hints;
mod host;
mod metrics;
mod mounted;
mod node_file;
mod secrets;
mod server;
mod status;
mod sysctl;
mod whole_file;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// What is said by default. The Kubernetes client's own words about a lost stream name neither thing nor remedy; ours do.
const LOG: &str = "info,netlink_proto=error,kube_client=off,kube_runtime=off";

fn main() -> ExitCode {
    heap::tune();
    let filter = EnvFilter::try_from_env("PODROUTE_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("PODROUTE_LOG_JSON").is_some() {
        log.json().init()
    } else {
        log.init()
    }
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podroute: {}", error.trim_end());
            ExitCode::FAILURE
        }
    }
}
