//! `podroute-cni`: the verbs of the main plugin (CNI spec 1.1.0, section 2).
//!
//! ADD creates the pod's interface; behind another main plugin (`prevResult` is present) it only adds to
//! the existing one. DEL needs no namespace, no node.json and no earlier success. `ipam` keeps the order that makes
//! killed processes harmless, `veth` configures the kernel.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use serde_json::Value;

use crate::attachment::{self, Attachment, Record, State};
use crate::block::Family;
use crate::delegate::{self, IpamResult};
use crate::egress::EgressRecord;
use crate::error::{Error, Result};
use crate::kernel::netns::Netns;
use crate::kernel::veth::{self, Plan};
use crate::names::{Owner, mac_text};
use crate::netconf::{Netconf, Route};
use crate::node::Node;
use crate::policy::Isolated;
use crate::request::Request;
use crate::result::{CniResult, Interface, Ip, ResultRoute};
use crate::store::Disk;
use crate::wiring::{self, ExpectedWiring};
use crate::{chained, egress, forwarding, gc, ipam};
use linux::netlink::Socket;

const DEFAULT_MTU: u32 = 1500;

/// The value of `plugin` in a record of the main plugin.
pub(crate) const MAIN_PLUGIN: &str = "podroute-cni";

pub(crate) fn add(request: &Request, conf: &Netconf) -> Result<Value> {
    if let Some(previous) = &conf.prev_result {
        return chained::add(request, conf, previous);
    }
    let netns = Netns::open(&request.netns)?;
    let node = Node::read(&conf.run_dir);
    // With a delegated IPAM, node.json is only needed for the MTU and the node's address.
    let node = if conf.uses_builtin_ipam() {
        Some(node?)
    } else {
        node.ok()
    };
    let host = Socket::route()?;
    let disk = ipam::open(conf)?;
    let operation = AddOperation {
        request,
        conf,
        node: node.as_ref(),
        netns: &netns,
        host: &host,
        disk: &disk,
        may_have_veth: Cell::new(false),
    };
    let mut attachment = ipam::begin_add(&disk, &request.owner, || operation.remove_leftovers())?;
    match operation.run(&mut attachment) {
        Ok(result) => Ok(result.render(conf.version)),
        Err(error) => Err(match operation.roll_back() {
            Ok(()) => ipam::abort_add(&disk, attachment, error),
            // The record stays, so that the runtime's DEL finishes the removal.
            Err(_) => error,
        }),
    }
}

struct AddOperation<'a> {
    request: &'a Request,
    conf: &'a Netconf,
    node: Option<&'a Node>,
    netns: &'a Netns,
    host: &'a Socket,
    disk: &'a Disk,
    /// Whether this ADD may have created the veth pair.
    may_have_veth: Cell<bool>,
}

impl AddOperation<'_> {
    fn run(&self, attachment: &mut Attachment) -> Result<CniResult> {
        let owner = &self.request.owner;
        let ipam_result = self.addresses()?;
        let plan = self.plan(&ipam_result)?;
        attachment.write(Record {
            network: self.conf.name.clone(),
            plugin: MAIN_PLUGIN.to_owned(),
            addresses: ipam_result.addresses.clone(),
            host_interface: plan.host_ifname.clone(),
            netns: self.request.netns.clone(),
            netns_inode: self.netns.inode(),
            pod: pod_name(self.request),
            created: unix_time(),
            mtu: Some(plan.mtu),
            routes: plan.routes.iter().map(|r| r.dst).collect(),
            checks_sources: plan.checks_sources,
        })?;
        // Before there is an interface, and after the record by which the agent finds the pod.
        let isolated = Isolated::begin(&self.conf.run_dir, &pod_name(self.request), &plan.host_ifname)?;
        let egress_record = EgressRecord::new(self.conf, self.node, self.netns, &ipam_result.addresses);
        if egress_record.is_needed() {
            egress::add(self.disk, &Socket::netfilter()?, owner, &egress_record)?;
        }
        if plan.checks_sources {
            ensure_source_check();
        }
        let made = self.create(&plan)?;
        self.allow_other_interfaces(&plan, egress_record, &made.others)?;
        if let Some(isolated) = isolated {
            isolated.wait()?;
        }
        attachment.mark_complete()?;
        Ok(CniResult {
            dns: ipam_result.dns,
            ..result(&plan, made.routes, &self.request.netns)
        })
    }

    fn create(&self, plan: &Plan) -> Result<veth::CreatedVeth> {
        self.may_have_veth.set(true);
        veth::create(self.host, self.netns, plan)
            .inspect_err(|e| self.may_have_veth.set(!matches!(e, Error::NameTaken { .. })))
    }

    /// A pod with several interfaces sends all replies through the default route's interface: each interface may use the
    /// addresses of all.
    fn allow_other_interfaces(
        &self,
        plan: &Plan,
        egress_record: EgressRecord,
        others: &[String],
    ) -> Result<()> {
        let mut pairs = Vec::new();
        let mut names = Vec::new();
        for ifname in others.iter().filter(|_| plan.checks_sources) {
            let other = Owner {
                container: self.request.owner.container.clone(),
                ifname: ifname.clone(),
            };
            let Some(State::Complete(record)) = attachment::read(self.disk, &other)? else {
                continue;
            };
            if record.plugin == MAIN_PLUGIN {
                let name = other.host_ifname();
                pairs.extend(plan.addresses.iter().map(|a| (name.clone(), *a)));
                pairs.extend(record.addresses.iter().map(|a| (plan.host_ifname.clone(), *a)));
                names.push(name);
            }
        }
        if pairs.is_empty() {
            return Ok(());
        }
        names.push(plan.host_ifname.clone());
        veth::set_rp_filter_loose(self.host, &names)?;
        egress::add_with_interfaces(
            self.disk,
            &Socket::netfilter()?,
            &self.request.owner,
            egress_record,
            pairs,
        )
    }

    fn addresses(&self) -> Result<IpamResult> {
        match self.node {
            Some(node) if self.conf.uses_builtin_ipam() => {
                let addresses =
                    ipam::allocate(self.disk, &self.request.owner, self.conf, node, Some(self.host))?;
                Ok(IpamResult {
                    addresses,
                    routes: self.conf.ipam_routes.clone(),
                    dns: Value::Null,
                })
            }
            _ => delegate::add(self.request, self.conf),
        }
    }

    /// Removes what this ADD created before it failed.
    fn roll_back(&self) -> Result<()> {
        if self.may_have_veth.get() {
            return self.remove_leftovers();
        }
        self.remove_leftovers_but_veth()
    }

    /// Removes what a killed ADD created, except claims and record.
    fn remove_leftovers(&self) -> Result<()> {
        veth::remove(self.host, &self.request.owner)?;
        self.remove_leftovers_but_veth()
    }

    /// Like [`Self::remove_leftovers`], without the interface.
    fn remove_leftovers_but_veth(&self) -> Result<()> {
        egress::remove(self.disk, &self.request.owner)?;
        if self.conf.uses_builtin_ipam() {
            return Ok(());
        }
        match delegate::call(self.request, self.conf, "DEL") {
            // A plugin that is not installed has allocated nothing.
            Err(Error::DelegateMissing { .. }) => Ok(()),
            done => done,
        }
    }

    fn plan(&self, ipam_result: &IpamResult) -> Result<Plan> {
        let owner = &self.request.owner;
        let addresses = ipam_result.addresses.as_slice();
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
        let routes = ipam_result
            .routes
            .clone()
            .unwrap_or_else(|| default_routes(addresses));
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
            checks_sources: self.conf.source_check,
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

/// Every route of the pod uses the link's gateway, whatever gateway the IPAM names.
pub(crate) fn through_gateway(route: Route) -> Route {
    Route {
        gw: Some(veth::gateway(Family::of(route.dst.addr()))),
        ..route
    }
}

fn result(plan: &Plan, routes: Vec<Route>, netns: &str) -> CniResult {
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
        routes: routes
            .into_iter()
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
    // Interface first: an address may be released only when no route leads to its old pod.
    veth::remove(&host, owner)?;
    if !conf.uses_builtin_ipam() {
        delegate::call(request, conf, "DEL")?;
    }
    let Some(disk) = disk else { return Ok(()) };
    egress::remove(&disk, owner)?;
    attachment
        .filter(|a| a.belongs_to(MAIN_PLUGIN))
        .map_or(Ok(()), |attachment| ipam::end_attachment(&disk, attachment))
}

/// Without the nftables expression `fib` only the reverse path filter remains, which covers IPv4; `ipam check` reports it.
fn ensure_source_check() {
    let checked = Socket::netfilter()
        .map_err(Error::from)
        .and_then(|socket| egress::ensure_source_check(&socket));
    if !matches!(checked, Ok(true)) {
        let cause = checked.err().map_or_else(
            || "the kernel lacks the nftables expression fib".to_owned(),
            |e| e.to_string(),
        );
        eprintln!(
            "podroute-cni: IPv6 source addresses of pods are not checked: {cause}; load the kernel module nft_fib_inet"
        );
    }
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
    let disk = Disk::open(&conf.state_dir, false)?;
    let is_ours = match &disk {
        Some(disk) => attachment::read(disk, owner)?
            .and_then(|state| state.record().cloned())
            .is_some_and(|record| record.plugin == MAIN_PLUGIN),
        None => false,
    };
    let host_ifname = owner.host_ifname();
    let named = previous.interfaces.iter().any(|i| i.name == host_ifname);
    match (is_ours, named) {
        (true, false) => return Err(fail(format!("prevResult lacks its interface {host_ifname}"))),
        (false, false) => return chained::check(request, conf, disk.as_ref(), &previous),
        (_, true) => {}
    }
    if !conf.uses_builtin_ipam() {
        delegate::call(request, conf, "CHECK")?;
    }
    let record = ipam::check(conf, owner)?;
    let reported: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
    if let Some(missing) = record.addresses.iter().find(|a| !reported.contains(a)) {
        return Err(fail(format!("prevResult lacks its address {missing}")));
    }
    let netns = Netns::open(&request.netns)?;
    let expected = expected_wiring(owner, &record, Some(&previous));
    let mut found = expected.differences(&wiring::observe(&Socket::route()?, Some(&netns), &expected)?);
    let socket = Socket::netfilter()?;
    if let Some(disk) = &disk {
        found.extend(egress::differences(disk, &socket, owner)?);
    }
    if record.checks_sources && !egress::has_source_check(&socket)? {
        found.push("the chain sources, which checks source addresses of pods, is gone".into());
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(fail(found.join("; ")))
}

/// The wiring that a record and, if available, the result of its ADD describe.
pub(crate) fn expected_wiring(owner: &Owner, record: &Record, result: Option<&CniResult>) -> ExpectedWiring {
    let interface = |is_host: bool, name: &str| {
        let interfaces = result.into_iter().flat_map(|r| r.interfaces.iter());
        interfaces
            .filter(|i| i.sandbox.is_empty() == is_host)
            .find(|i| i.name == name)
    };
    let pod = interface(false, &owner.ifname);
    let reported = result.into_iter().flat_map(|r| r.routes.iter());
    let ours = reported.filter(|r| r.gw == Some(veth::gateway(Family::of(r.dst.addr()))));
    ExpectedWiring {
        owner: owner.clone(),
        addresses: record.addresses.clone(),
        routes: match result {
            Some(_) => ours.map(|r| r.dst).collect(),
            None => record.routes.clone(),
        },
        host_mtu: interface(true, &owner.host_ifname())
            .and_then(|i| i.mtu)
            .or(record.mtu),
        pod_mtu: pod.and_then(|i| i.mtu),
        pod_mac: pod.map(|i| i.mac.clone()).filter(|mac| !mac.is_empty()),
        checks_sources: record.checks_sources,
    }
}

pub(crate) fn gc(request: &Request, conf: &Netconf) -> Result<()> {
    if !conf.uses_builtin_ipam() {
        delegate::call(request, conf, "GC")?;
    }
    let Some(valid) = &conf.valid else { return Ok(()) };
    gc::collect(conf, valid)
}

pub(crate) fn status(request: &Request, conf: &Netconf) -> Result<()> {
    if conf.uses_builtin_ipam() {
        ipam::status(conf)?;
    } else {
        ipam::check_state_is_writable(conf)?;
        delegate::call(request, conf, "STATUS")?;
    }
    forwarding::status(conf)
}

/// `namespace/name` of the Kubernetes pod; empty for other runtimes.
pub(crate) fn pod_name(request: &Request) -> String {
    match (request.arg("K8S_POD_NAMESPACE"), request.arg("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => String::new(),
    }
}

pub(crate) fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
