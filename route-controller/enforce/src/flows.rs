//! Established connections that are forbidden now: their entries in connection tracking are deleted, so that their packets count
//! as new ones.

use std::collections::HashSet;
use std::net::IpAddr;

use podroute_netfilter::{Conntrack, Flow, Result};
use podroute_netpol::{Direction, Model};

/// Deletes the flows of pods here that the model forbids; gives how many.
pub(crate) fn end_forbidden(conntrack: &mut Conntrack, model: &Model) -> Result<usize> {
    let flows = forbidden(conntrack, model)?;
    conntrack.delete(&flows)
}

/// The flows of pods here that the model forbids. What the node itself is an end of is always allowed.
pub(crate) fn forbidden(conntrack: &mut Conntrack, model: &Model) -> Result<Vec<Flow>> {
    let own = own_addresses();
    conntrack.list(|flow| {
        !own.contains(&flow.source) && !own.contains(&flow.destination) && is_forbidden(model, flow)
    })
}

fn is_forbidden(model: &Model, flow: &Flow) -> bool {
    let (source, destination) = (flow.source, flow.destination);
    let (protocol, port) = (flow.protocol, flow.destination_port);
    !model.allows(Direction::Egress, source, destination, protocol, port)
        || !model.allows(Direction::Ingress, destination, source, protocol, port)
}

/// Addresses of this node.
fn own_addresses() -> HashSet<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return HashSet::new();
    };
    let addresses = all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    addresses.collect()
}
