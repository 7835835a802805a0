//! The lab: nodes, ToR routers and pods in network namespaces, with real BGP daemons.
//!
//! | module | does |
//! |---|---|
//! | [`sandbox`] | runs everything in namespaces of its own, so that nothing is left on the host |
//! | [`topology`], [`cabling`], [`machine`], [`netns`] | a rack: what it consists of, and how it is built |
//! | [`daemon`] | runs podroute, BIRD, FRR, GoBGP or OpenBGPD on a machine |
//! | [`cni`], [`container`] | act as container runtime and kubelet |
//! | [`rack`], [`failover`] | a running rack; a fabric of two racks, with faults |
//! | [`flow`], [`tcp_probe`], [`bgp_load`] | traffic: datagrams, TCP connections, BGP routes |
//! | [`probe`], [`icmp`], [`capture`], [`kernel`], [`sched_latency`] | observe |
//! | [`wait`], [`failure`], [`process`], [`bins`] | wait for a condition, report a failure with evidence, run programs |
//! | [`demo`], [`report`] | `make demo` and its output |

pub mod bgp_load;
pub mod bins;
pub mod cabling;
pub mod capture;
pub mod cni;
pub mod container;
pub mod daemon;
pub mod demo;
pub mod failover;
pub mod failure;
pub mod flow;
pub mod icmp;
pub mod kernel;
pub mod machine;
pub mod netns;
pub mod probe;
pub mod process;
pub mod rack;
pub mod report;
pub mod sandbox;
pub mod sched_latency;
pub mod tcp_probe;
pub mod topology;
pub mod wait;

use std::process::ExitCode;

use failure::Result;

/// The main function of a program of the lab: `work` gets the arguments, unless the program started itself for a job of the lab.
pub fn main(name: &str, work: impl FnOnce(Vec<String>) -> Result<i32>) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args).map_or_else(|| work(args), Ok) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(failure) => {
            eprintln!("{name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Jobs that the lab's programs start themselves for, by their first argument; `None` if it is none
/// of these. Both the tool and the test runner ask here first.
pub fn dispatch(args: &[String]) -> Option<i32> {
    match args.first()?.as_str() {
        daemon::fib_sync::ARG => Some(daemon::fib_sync::dispatch(&args[1..])),
        _ => sandbox::dispatch(args),
    }
}
