//! `podroute-cni` chained behind another main plugin: adds routes, a firewall mark and masquerade.
//!
//! Returns `prevResult` unchanged but for the added routes at its end. Creates no interface and claims no address. Routes
//! without a gateway use the main plugin's gateway of their family, otherwise they are on link. DEL removes the pod from the
//! nftables table `podroute-cni`; routes are removed with the pod.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::block::Family;
use crate::egress::EgressRecord;
use crate::error::{Error, Result};
use crate::kernel::link;
use crate::kernel::netns::Netns;
use crate::kernel::veth;
use crate::netconf::{Netconf, Route};
use crate::node::Node;
use crate::request::Request;
use crate::result::CniResult;
use crate::store::Disk;
use crate::{egress, ipam};
use linux::netlink::Socket;

pub(crate) fn add(request: &Request, conf: &Netconf, previous: &Value) -> Result<Value> {
    let netns = Netns::open(&request.netns)?;
    let before = CniResult::parse(previous, "prevResult")?;
    let pods = pod_addresses(&before);
    let routes: Vec<Route> = conf.routes.iter().map(|r| with_gateway(r, &before)).collect();
    let node = Node::read(&conf.run_dir).ok();
    let egress_record = EgressRecord::new(conf, node.as_ref(), &netns, &pods);
    if egress_record.is_needed() {
        egress::add(
            &ipam::open(conf)?,
            &Socket::netfilter()?,
            &request.owner,
            &egress_record,
        )?;
    }
    let made = netns.inside(|| {
        let pod = Socket::route()?;
        veth::add_routes(&pod, find(&pod, &request.owner.ifname)?.index, &routes)
    })?;
    Ok(append_routes(previous, conf, &made))
}

fn find(pod: &Socket, ifname: &str) -> Result<link::Link> {
    link::find(pod, ifname)?.ok_or_else(|| Error::Environment {
        name: "CNI_IFNAME",
        cause: format!("the pod has no interface {ifname}"),
        remedy: "put podroute-cni after the plugin that makes it, in the list of plugins",
    })
}

/// The pod's own addresses: those of interfaces inside the pod, or all where the result names no interface.
fn pod_addresses(before: &CniResult) -> Vec<IpAddr> {
    let inside = |index: Option<usize>| {
        index
            .and_then(|i| before.interfaces.get(i))
            .is_none_or(|i| !i.sandbox.is_empty())
    };
    before
        .ips
        .iter()
        .filter(|ip| inside(ip.interface))
        .map(|ip| ip.address.addr())
        .collect()
}

fn with_gateway(route: &Route, before: &CniResult) -> Route {
    let family = Family::of(route.dst.addr());
    let named = || {
        before
            .ips
            .iter()
            .filter_map(|ip| ip.gateway)
            .find(|g| Family::of(*g) == family)
    };
    Route {
        dst: route.dst,
        gw: route.gw.or_else(named),
    }
}

fn append_routes(previous: &Value, conf: &Netconf, made: &[Route]) -> Value {
    let mut result = previous.clone();
    if let Some(object) = result.as_object_mut() {
        object.insert("cniVersion".into(), conf.version.as_str().into());
        let routes = object.entry("routes").or_insert(Value::Null);
        if routes.is_null() {
            *routes = json!([]);
        }
        if let Some(list) = routes.as_array_mut() {
            let render = |r: &Route| match r.gw {
                Some(gw) => json!({ "dst": r.dst, "gw": gw }),
                None => json!({ "dst": r.dst }),
            };
            list.extend(made.iter().map(render));
        }
    }
    result
}

/// CHECK: the routes and the entries of the nftables table exist.
pub(crate) fn check(
    request: &Request,
    conf: &Netconf,
    disk: Option<&Disk>,
    previous: &CniResult,
) -> Result<()> {
    let fail = |cause: String| Error::Check {
        ifname: request.owner.ifname.clone(),
        cause,
    };
    if let Some(disk) = disk {
        let found = egress::differences(disk, &Socket::netfilter()?, &request.owner)?;
        if !found.is_empty() {
            return Err(fail(found.join("; ")));
        }
    }
    Netns::open(&request.netns)?.inside(|| {
        let pod = Socket::route()?;
        let link = find(&pod, &request.owner.ifname)?;
        for route in conf.routes.iter().map(|r| with_gateway(r, previous)) {
            let is_it = |r: &link::KernelRoute| {
                r.dst == route.dst.trunc() && (r.index == link.index || route.dst.prefix_len() == 0)
            };
            if !link::routes(&pod, Family::of(route.dst.addr()))?
                .iter()
                .any(is_it)
            {
                return Err(fail(format!("its route to {} is gone", route.dst)));
            }
        }
        Ok(())
    })
}
