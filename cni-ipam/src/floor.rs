//! The lower bound of the benchmark: the system calls of ADD and DEL and nothing else.
//!
//! No configuration, no address management, no state, no result: one netlink socket, one veth pair, its addresses and
//! routes. Only for `examples/floor.rs`.

use std::net::IpAddr;

use crate::error::Result;
use crate::kernel::netns::Netns;
use crate::kernel::veth::{self, Plan};
use crate::names::Owner;
use crate::plugin::{default_routes, through_gateway};
use linux::netlink::Socket;

/// Creates a pod's interface.
pub fn add(netns: &str, owner: &Owner, addresses: &[IpAddr], sources: &[IpAddr]) -> Result<()> {
    let plan = Plan {
        host_ifname: owner.host_ifname(),
        pod_ifname: owner.ifname.clone(),
        host_mac: owner.host_mac(),
        pod_mac: owner.pod_mac(),
        alias: owner.alias("floor"),
        mtu: 1500,
        addresses: addresses.to_vec(),
        sources: sources.to_vec(),
        routes: default_routes(addresses)
            .into_iter()
            .map(through_gateway)
            .collect(),
        checks_sources: true,
    };
    veth::create(&Socket::route()?, &Netns::open(netns)?, &plan).map(drop)
}

/// Removes it.
pub fn del(owner: &Owner) -> Result<()> {
    veth::remove(&Socket::route()?, owner).map(drop)
}
