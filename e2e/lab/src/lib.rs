//! The lab: nodes, ToR routers and pods in network namespaces, with real BGP daemons.
//!
//! [`sandbox`] gives a box that leaves nothing on the host; [`topology`] draws the rack,
//! [`cabling`] builds it out of [`machine`]s; [`daemon`] runs podroute, BIRD, FRR, GoBGP or OpenBGPD
//! on them; [`cni`] plays the container runtime, [`container`] the kubelet; [`rack`] joins these. [`flow`] and
//! [`visits`] use the network; [`probe`], [`capture`] and [`kernel`] observe, [`wait`] waits, [`failure`] says what
//! went wrong and shows the evidence. [`blast`] loads speakers, [`bench`] compares them, [`failover`] breaks a fabric
//! under traffic, [`mesh`] starts and breaks many nodes on one bridge. [`demo`] is the story that `make demo` tells.

pub mod bins;
pub mod blast;
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
pub mod tcp_probe;
pub mod topology;
pub mod wait;
pub mod witness;

/// Jobs that the lab's programs start themselves for, by their first argument; `None` if it is none
/// of these. Both the tool and the test runner ask here first.
pub fn dispatch(args: &[String]) -> Option<i32> {
    match args.first()?.as_str() {
        daemon::fib_sync::ARG => Some(daemon::fib_sync::dispatch(&args[1..])),
        _ => sandbox::dispatch(args),
    }
}
