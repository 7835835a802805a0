//! `podroute`: the agent and the operator's commands.
//!
//! The agent joins three things that know nothing of each other: the configuration, the BGP speaker
//! (`bgp-speaker`) and the kernel's routes (`fib`). Each runs in tasks of its own and receives whole
//! desired states; see ARCHITECTURE.md.

mod agent;
mod attributes;
mod bfd_watch;
mod cli;
mod clock;
mod cluster;
mod cni_list;
mod count;
mod diagnostics;
mod drain;
mod dump;
mod exposition;
mod fib;
mod glass;
mod heap;
mod host;
mod list_files;
mod log;
mod measured;
mod metrics;
mod mounted;
mod network_policy;
mod node_file;
mod node_route;
mod pipe;
mod pod_guard;
mod process_stats;
mod regular_file;
mod secrets;
mod server;
mod service_manager;
mod status;
mod sysctl;
#[cfg(test)]
mod testing;
mod views;
mod whole_file;

use std::process::ExitCode;

fn main() -> ExitCode {
    heap::tune();
    let cli = cli::parse();
    if !cli.is_agent() {
        pipe::end_quietly();
    }
    let _log = log::start(cli.is_agent());
    match cli::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("podroute: {}", error.to_string().trim_end());
            ExitCode::FAILURE
        }
    }
}
