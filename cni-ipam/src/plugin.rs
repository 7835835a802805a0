//! `podroute-cni`: the verbs of the main plugin (CNI spec 1.1.0, section 2).
//!
//! ADD makes the pod's interface, or, behind another main plugin (`prevResult` present), only adds to
//! it. Every verb is one pass; DEL needs no namespace, no node.json and no earlier success. Order and
//! crash safety are `own`'s, the kernel's part is `veth`'s.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde_json::Value;

use crate::attachment::{Attachment, Record};
use crate::block::Family;
use crate::delegate::{self, Given};
use crate::error::{Error, Result};
use crate::kernel::link;
use crate::kernel::netlink::Socket;
use crate::kernel::netns::Netns;
use crate::kernel::veth::{self, Plan};
use crate::names::{Owner, mac_text};
use crate::netconf::{Netconf, Route};
use crate::node::Node;
use crate::request::Request;
use crate::result::{CniResult, Interface, Ip, ResultRoute};
use crate::store::Disk;
use crate::{chain, egress, gc, own, remover};

const DEFAULT_MTU: u32 = 1500;

/// What the record calls the maker of an interface.
pub(crate) const MAIN: &str = "podroute-cni";

pub(crate) fn add(request: &Request, conf: &Netconf) -> Result<Value> {
    if let Some(previous) = &conf.prev_result {
        return chain::add(request, conf, previous);
    }
    let netns = Netns::open(&request.netns)?;
    let node = Node::read(&conf.run_dir);
    // Another IPAM brings its own addresses; then node.json only tells the MTU and the node's address.
    let node = if conf.own_ipam() { Some(node?) } else { node.ok() };
    let host = Socket::route()?;
    let disk = own::open(conf)?;
    let making = Making {
        request,
        conf,
        node: node.as_ref(),
        netns: &netns,
        host: &host,
        disk: &disk,
    };
    let mut attachment = own::begin(&disk, &request.owner, || making.undo())?;
    match making.make(&mut attachment) {
        Ok(result) => Ok(result.render(conf.version)),
        // The interface, if it came to be, is gone again: that is `veth::create`'s own affair.
        Err(error) => Err(match making.undo_rest() {
            Ok(()) => own::give_up(&disk, attachment, error),
            // The record stays, so that the runtime's DEL finishes what could not be undone now.
            Err(_) => error,
        }),
    }
}

struct Making<'a> {
    request: &'a Request,
    conf: &'a Netconf,
    node: Option<&'a Node>,
    netns: &'a Netns,
    host: &'a Socket,
    disk: &'a Disk,
}

impl Making<'_> {
    fn make(&self, attachment: &mut Attachment) -> Result<CniResult> {
        let owner = &self.request.owner;
        let given = self.addresses()?;
        let mut plan = self.plan(&given)?;
        attachment.write(Record {
            network: self.conf.name.clone(),
            plugin: MAIN.to_owned(),
            addresses: given.addresses.clone(),
            host_interface: plan.host_ifname.clone(),
            netns: self.request.netns.clone(),
            netns_inode: self.netns.inode(),
            pod: pod_name(self.request),
            created: created_now(),
        })?;
        if egress::is_wanted(self.conf) {
            egress::add(
                self.disk,
                self.conf,
                self.node,
                self.netns,
                owner,
                &given.addresses,
            )?;
        }
        plan.routes = veth::create(self.host, self.netns, &plan)?;
        attachment.done()?;
        Ok(CniResult {
            dns: given.dns,
            ..result(&plan, &self.request.netns)
        })
    }

    fn addresses(&self) -> Result<Given> {
        match self.node {
            Some(node) if self.conf.own_ipam() => {
                let addresses = own::allocate(self.disk, &self.request.owner, self.conf, node)?;
                Ok(Given {
                    addresses,
                    routes: self.conf.ipam_routes.clone(),
                    dns: Value::Null,
                })
            }
            _ => delegate::add(self.request, self.conf),
        }
    }

    /// Takes back what a killed ADD made, but for our own claims and the record.
    fn undo(&self) -> Result<()> {
        veth::remove(self.host, &self.request.owner.host_ifname())?;
        self.undo_rest()
    }

    /// The same without the interface.
    fn undo_rest(&self) -> Result<()> {
        egress::remove(self.disk, &self.request.owner)?;
        if self.conf.own_ipam() {
            return Ok(());
        }
        match delegate::other(self.request, self.conf, "DEL") {
            // What could not be started for the ADD gave nothing.
            Err(Error::DelegateMissing { .. }) => Ok(()),
            done => done,
        }
    }

    fn plan(&self, given: &Given) -> Result<Plan> {
        let owner = &self.request.owner;
        let addresses = given.addresses.as_slice();
        let mtu = self
            .conf
            .mtu
            .or(self.node.and_then(|n| n.mtu))
            .unwrap_or(DEFAULT_MTU);
        if mtu < 1280 && addresses.iter().any(IpAddr::is_ipv6) {
            let cause = format!("{mtu} is too small for IPv6");
            return Err(Error::config(
                "mtu",
                cause,
                "use 1280 or more, or families [\"ipv4\"]",
            ));
        }
        let routes = given.routes.clone().unwrap_or_else(|| default_routes(addresses));
        Ok(Plan {
            host_ifname: owner.host_ifname(),
            pod_ifname: owner.ifname.clone(),
            host_mac: owner.host_mac(),
            pod_mac: owner.pod_mac(),
            alias: owner.alias(&self.conf.name),
            mtu,
            addresses: addresses.to_vec(),
            sources: self.node.map(|n| n.node_addresses.clone()).unwrap_or_default(),
            routes: routes.into_iter().map(through_gateway).collect(),
        })
    }
}

/// A default route for each family among the addresses.
pub(crate) fn default_routes(addresses: &[IpAddr]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for address in addresses {
        let zero: IpAddr = match Family::of(*address) {
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let route = Route {
            dst: IpNet::new_assert(zero, 0),
            gw: None,
        };
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    routes
}

/// All that leaves the pod goes through the link's gateway, whatever an IPAM says.
pub(crate) fn through_gateway(route: Route) -> Route {
    Route {
        gw: Some(veth::gateway(Family::of(route.dst.addr()))),
        ..route
    }
}

fn result(plan: &Plan, netns: &str) -> CniResult {
    let interface = |name: &str, mac, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: mac_text(mac),
        mtu: Some(plan.mtu),
        sandbox: sandbox.to_owned(),
    };
    let ip = |address: &IpAddr| Ip {
        address: IpNet::from(*address),
        gateway: Some(veth::gateway(Family::of(*address))),
        interface: Some(1),
    };
    CniResult {
        interfaces: vec![
            interface(&plan.host_ifname, plan.host_mac, ""),
            interface(&plan.pod_ifname, plan.pod_mac, netns),
        ],
        ips: plan.addresses.iter().map(ip).collect(),
        routes: plan
            .routes
            .iter()
            .map(|r| ResultRoute { dst: r.dst, gw: r.gw })
            .collect(),
        dns: Value::Null,
    }
}

pub(crate) fn del(request: &Request, conf: &Netconf) -> Result<()> {
    let owner = &request.owner;
    let host = Socket::route()?;
    let disk = Disk::open(&conf.state_dir, false)?;
    let attachment = match &disk {
        Some(disk) => Attachment::lock(disk, owner, false)?,
        None => None,
    };
    // Interface first: an address is free only when no route leads to its old pod any more.
    if !remover::ask(&conf.run_dir, &owner.host_ifname()) {
        veth::remove(&host, &owner.host_ifname())?;
    }
    if !conf.own_ipam() {
        delegate::other(request, conf, "DEL")?;
    }
    let Some(disk) = disk else { return Ok(()) };
    egress::remove(&disk, owner)?;
    attachment
        .filter(|a| a.is_of(MAIN))
        .map_or(Ok(()), |attachment| own::end(&disk, attachment))
}

pub(crate) fn check(request: &Request, conf: &Netconf) -> Result<()> {
    let owner = &request.owner;
    let fail = |cause: String| Error::Check {
        ifname: owner.ifname.clone(),
        cause,
    };
    let Some(previous) = &conf.prev_result else {
        return Err(Error::config(
            "prevResult",
            "is missing",
            "the container runtime must pass ADD's result",
        ));
    };
    let previous = CniResult::parse(previous, "prevResult")?;
    let host_ifname = owner.host_ifname();
    if !previous.interfaces.iter().any(|i| i.name == host_ifname) {
        return chain::check(request, conf, &previous);
    }
    if !conf.own_ipam() {
        delegate::other(request, conf, "CHECK")?;
    }
    let record = own::check(conf, owner)?;
    let said: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
    if let Some(missing) = record.addresses.iter().find(|a| !said.contains(a)) {
        return Err(fail(format!("prevResult lacks its address {missing}")));
    }
    let netns = Netns::open(&request.netns)?;
    check_host(&Socket::route()?, owner, &record.addresses)?;
    netns.inside(|| check_pod(&Socket::route()?, &owner.ifname, &record.addresses))
}

fn check_host(host: &Socket, owner: &Owner, addresses: &[IpAddr]) -> Result<()> {
    let fail = |cause: String| Error::Check {
        ifname: owner.ifname.clone(),
        cause,
    };
    let name = owner.host_ifname();
    let found = link::find(host, &name)?;
    let link = found.ok_or_else(|| fail(format!("host interface {name} is gone")))?;
    if !link.is_up {
        return Err(fail(format!("host interface {name} is down")));
    }
    let held = link::addresses(host, link.index)?;
    for address in addresses {
        let gateway = veth::gateway(Family::of(*address));
        if !held.contains(&gateway) {
            return Err(fail(format!(
                "host interface {name} lacks the gateway address {gateway}"
            )));
        }
        let route = link::route_to(host, *address, 0)?;
        if route.is_none_or(|r| r.index != link.index) {
            return Err(fail(format!(
                "the host's route to {address} does not lead to {name}"
            )));
        }
    }
    Ok(())
}

fn check_pod(pod: &Socket, ifname: &str, addresses: &[IpAddr]) -> Result<()> {
    let fail = |cause: String| Error::Check {
        ifname: ifname.to_owned(),
        cause,
    };
    let found = link::find(pod, ifname)?;
    let link = found.ok_or_else(|| fail("the interface is gone".into()))?;
    if !link.is_up {
        return Err(fail("the interface is down".into()));
    }
    let held = link::addresses(pod, link.index)?;
    if let Some(missing) = addresses.iter().find(|a| !held.contains(a)) {
        return Err(fail(format!("address {missing} is gone")));
    }
    Ok(())
}

pub(crate) fn gc(request: &Request, conf: &Netconf) -> Result<()> {
    if !conf.own_ipam() {
        delegate::other(request, conf, "GC")?;
    }
    let Some(valid) = &conf.valid else { return Ok(()) };
    gc::collect(conf, valid)
}

pub(crate) fn status(request: &Request, conf: &Netconf) -> Result<()> {
    if conf.own_ipam() {
        own::status(conf)
    } else {
        delegate::other(request, conf, "STATUS")
    }
}

/// `namespace/name`, where the runtime is Kubernetes'.
pub(crate) fn pod_name(request: &Request) -> String {
    match (request.arg("K8S_POD_NAMESPACE"), request.arg("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    }
}

pub(crate) fn created_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
