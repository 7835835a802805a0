//! `podroute-ipam`: the delegated IPAM, for `ptp`, `bridge`, `macvlan`, `ipvlan` and the like. Hands
//! out addresses of the node's blocks and touches no interface. All logic is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cni_ipam::run(cni_ipam::Plugin::Ipam)
}
