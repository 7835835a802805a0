//! `podroute-cni`: the CNI main plugin. Reads a request from the environment and standard input,
//! writes one JSON document to standard output, and exits 0 or 1. All logic is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni_ipam::run(cni_ipam::Plugin::Main)
}
