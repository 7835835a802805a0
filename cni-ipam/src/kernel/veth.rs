//! A pod's veth pair with its addresses, routes and neighbor entries: routed, not bridged.
//!
//! One batch on the host (pair, alias, up), one inside the pod, one for the host's addresses and routes. The gateway is an
//! address of the host interface with scope link, so that it is never a source address; there is no duplicate address
//! detection; hardware addresses are set on both ends; permanent neighbor entries exist inside the pod only; at the end
//! the carrier of the host interface is queried, so that its queue is active before ADD returns. Only links with
//! podroute-cni's name and alias or hardware address are changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;

use crate::block::Family;
use crate::error::{Error, Result};
use crate::kernel::link::{self, Link, NewRoute};
use crate::kernel::netns::Netns;
use crate::kernel::sys;
use crate::names::{ALIAS_PREFIX, Owner};
use crate::netconf::Route;
use linux::netlink::{APPEND, Batch, CREATE, EXCL, Outcome, REPLACE, Socket};

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Protocol of routes inside the pod: `boot`, as with the reference plugins.
const POD_PROTOCOL: u8 = 3;

/// The gateway of a family, the same for every pod.
pub(crate) fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => GATEWAY_V4.into(),
        Family::V6 => GATEWAY_V6.into(),
    }
}

/// The prefix of pods' own link-local addresses.
pub(crate) fn link_local_net() -> IpNet {
    IpNet::new_assert(GATEWAY_V6.into(), 64).trunc()
}

/// The route by which the node reaches the pod's own link-local address.
pub(crate) fn link_local_route(index: u32) -> NewRoute {
    NewRoute {
        dst: link_local_net(),
        gateway: None,
        source: None,
        index,
        protocol: link::ROUTE_PROTOCOL,
    }
}

/// A veth pair to create.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) host_ifname: String,
    pub(crate) pod_ifname: String,
    pub(crate) host_mac: [u8; 6],
    pub(crate) pod_mac: [u8; 6],
    pub(crate) alias: String,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<IpAddr>,
    /// The node's addresses: source of the node's packets to the pod.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
    /// Drop packets of the pod with a foreign source address.
    pub(crate) checks_sources: bool,
}

impl Plan {
    fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = self.addresses.iter().copied().map(Family::of).collect();
        families.sort_unstable();
        families.dedup();
        families
    }

    fn source(&self, family: Family) -> Option<IpAddr> {
        self.sources.iter().copied().find(|a| Family::of(*a) == family)
    }
}

/// A created veth pair.
#[derive(Debug, Clone)]
pub(crate) struct CreatedVeth {
    /// The pod's routes.
    pub(crate) routes: Vec<Route>,
    /// Names of the pod's other interfaces.
    pub(crate) others: Vec<String>,
}

/// Creates the pair and configures both ends. After a failure the caller removes it, except after `Error::NameTaken`: then
/// nothing was created.
pub(crate) fn create(host: &Socket, netns: &Netns, plan: &Plan) -> Result<CreatedVeth> {
    let link = make_pair(host, netns, plan)?;
    configure(host, netns, plan, &link)
}

fn configure(host: &Socket, netns: &Netns, plan: &Plan, link: &Link) -> Result<CreatedVeth> {
    let (pod, made) = netns.inside(|| {
        let pod = Socket::route()?;
        let routes = configure_pod(&pod, plan, link.peer_index)?;
        let others = link::links(&pod)?
            .into_iter()
            .filter(|l| l.index != link.peer_index && l.name != "lo")
            .map(|l| l.name)
            .collect();
        Ok((pod, CreatedVeth { routes, others }))
    })?;
    configure_host(host, plan, link.index)?;
    if plan.checks_sources {
        refuse_advertisements(&plan.host_ifname);
    }
    // Without this the first packet to one pod in three is lost: the queue of the end that came up first stays stopped
    // until the kernel's link watch runs.
    sys::ethtool_glink(host.as_fd(), &plan.host_ifname)
        .map_err(|errno| linux::Error::new("ask for the carrier of the host interface", errno))?;
    await_addresses(host, &pod, plan, link)?;
    Ok(made)
}

fn make_pair(host: &Socket, netns: &Netns, plan: &Plan) -> Result<Link> {
    let mut batch = Batch::default();
    let mtu = plan.mtu.to_ne_bytes();
    let action = format!("make the veth pair {} and {}", plan.host_ifname, plan.pod_ifname);
    batch.begin(link::RTM_NEWLINK, CREATE | EXCL, &link::ifinfo(0, false), action);
    batch.text(link::IFLA_IFNAME, &plan.host_ifname);
    batch.attr(link::IFLA_MTU, &mtu);
    batch.attr(link::IFLA_ADDRESS, &plan.host_mac);
    if plan.checks_sources {
        batch.attr(link::IFLA_GROUP, &link::LINK_GROUP.to_ne_bytes());
    }
    batch.nest(link::IFLA_LINKINFO | link::NESTED, |info| {
        info.text(link::IFLA_INFO_KIND, "veth");
        info.nest(link::IFLA_INFO_DATA | link::NESTED, |data| {
            data.nest(link::VETH_INFO_PEER | link::NESTED, |peer| {
                peer.raw(&link::ifinfo(0, false));
                peer.text(link::IFLA_IFNAME, &plan.pod_ifname);
                peer.attr(link::IFLA_MTU, &mtu);
                peer.attr(link::IFLA_ADDRESS, &plan.pod_mac);
                peer.attr(link::IFLA_NET_NS_FD, &netns.as_fd().as_raw_fd().to_ne_bytes());
            });
        });
    });
    link::get_link(&mut batch, &plan.host_ifname);
    let outcome = host.try_run(&mut batch)?;
    let found = outcome.replies.first().and_then(Link::read);
    match outcome.failures.first() {
        Some(failure) if failure.index == 0 && failure.errno == Errno::EEXIST => {
            return Err(taken(found, plan));
        }
        Some(failure) => return Err(batch.error(failure).into()),
        None => {}
    }
    let link = found.ok_or_else(|| linux::Error::new("read back the veth pair", Errno::ENODEV))?;
    // Only now, and by its index: another interface with this name must not change.
    let mut batch = Batch::default();
    let action = format!("set up {}", plan.host_ifname);
    batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(link.index, true), action);
    batch.attr(link::IFLA_IFALIAS, plan.alias.as_bytes());
    host.run(batch)?;
    Ok(link)
}

fn taken(found: Option<Link>, plan: &Plan) -> Error {
    let (name, cause) = match found {
        Some(link) if link.alias.starts_with(ALIAS_PREFIX) => (
            link.name,
            "is there already, of an earlier pod; 'podroute ipam check --fix' removes what is left over",
        ),
        Some(link) => (
            link.name,
            "exists on the host and is not of podroute-cni; rename or remove it",
        ),
        None => (
            plan.pod_ifname.clone(),
            "exists in the pod, of another plugin; choose another CNI_IFNAME",
        ),
    };
    Error::NameTaken { name, cause }
}

/// Adds the gateway addresses to the host interface, and the routes to the pod.
fn configure_host(host: &Socket, plan: &Plan, index: u32) -> Result<()> {
    let build = |with_source: bool| {
        let mut batch = Batch::default();
        set_modes(&mut batch, plan, index);
        for family in plan.families() {
            // With a /64 the kernel would join an anycast group; leaving it doubles the time of a DEL.
            let net = IpNet::from(gateway(family));
            link::add_address(&mut batch, CREATE | REPLACE, index, net, link::SCOPE_LINK);
            if family == Family::V6 {
                link::add_route(&mut batch, CREATE | APPEND, link_local_route(index));
            }
        }
        for address in &plan.addresses {
            let family = Family::of(*address);
            let source = plan.source(family).filter(|_| with_source);
            let dst = IpNet::from(*address);
            let route = NewRoute {
                dst,
                gateway: None,
                source,
                index,
                protocol: link::ROUTE_PROTOCOL,
            };
            link::add_route(&mut batch, CREATE | EXCL, route);
        }
        batch
    };
    let mut batch = build(true);
    let mut outcome = host.try_run(&mut batch)?;
    if needs_ipv6(&outcome) {
        enable_ipv6(&plan.host_ifname);
        outcome = retry(host, &mut batch)?;
    }
    if outcome.failures.iter().any(|f| f.errno == Errno::EINVAL) {
        // The host lacks the node's address at present: let the kernel choose the source.
        let mut batch = build(false);
        let outcome = retry(host, &mut batch)?;
        return outcome
            .failures
            .first()
            .map_or(Ok(()), |f| Err(batch.error(f).into()));
    }
    outcome
        .failures
        .first()
        .map_or(Ok(()), |f| Err(batch.error(f).into()))
}

/// Sets the reverse path filter, and disables the kernel's generated link-local address: fe80::1 suffices, and needs no
/// duplicate address detection.
fn set_modes(batch: &mut Batch, plan: &Plan, index: u32) {
    let families = plan.families();
    let action = "set the modes of the host interface";
    let begin = |batch: &mut Batch| batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, false), action);
    if plan.checks_sources {
        begin(batch);
        batch.nest(link::IFLA_AF_SPEC | link::NESTED, |spec| {
            link::put_rp_filter(spec, link::RP_FILTER_STRICT);
        });
    }
    if families.contains(&Family::V6) {
        begin(batch);
        batch.nest(link::IFLA_AF_SPEC | link::NESTED, |spec| {
            let inet6 = u16::from(link::af(Family::V6)) | link::NESTED;
            spec.nest(inet6, |inet6| inet6.attr(link::IFLA_INET6_ADDR_GEN_MODE, &[1]));
        });
    }
}

/// Permits a pod with several interfaces to use all its addresses on each of them: replies leave through the default route's
/// interface. The strict filter compares one interface only; the nftables table lists the permitted pairs.
pub(crate) fn set_rp_filter_loose(host: &Socket, names: &[String]) -> Result<()> {
    let mut batch = Batch::default();
    for name in names {
        batch.begin(
            link::RTM_NEWLINK,
            0,
            &link::ifinfo(0, false),
            format!("loosen the reverse-path filter of {name}"),
        );
        batch.text(link::IFLA_IFNAME, name);
        batch.nest(link::IFLA_AF_SPEC | link::NESTED, |spec| {
            link::put_rp_filter(spec, link::RP_FILTER_LOOSE);
        });
    }
    let outcome = host.try_run(&mut batch)?;
    // An interface that another plugin created has no host interface.
    let failure = outcome.failures.iter().find(|f| f.errno != Errno::ENODEV);
    failure.map_or(Ok(()), |f| Err(batch.error(f).into()))
}

/// Ignores router advertisements: a pod must not become its node's router. With forwarding the value 1 would suffice, but
/// other programs write 2.
fn refuse_advertisements(host_ifname: &str) {
    // Without IPv6 there is no such file.
    let _ = linux::sysctl::write(&format!("net/ipv6/conf/{host_ifname}/accept_ra"), "0");
}

/// Repeats a batch of which a part has succeeded: existing objects are those of the first attempt.
fn retry(socket: &Socket, batch: &mut Batch) -> Result<Outcome> {
    let mut outcome = socket.try_run(batch)?;
    outcome.failures.retain(|f| f.errno != Errno::EEXIST);
    Ok(outcome)
}

/// Adds addresses, routes and the gateways' neighbor entries inside the pod. Returns the routes that were added.
fn configure_pod(pod: &Socket, plan: &Plan, index: u32) -> Result<Vec<Route>> {
    let mut batch = Batch::default();
    for address in &plan.addresses {
        let net = IpNet::from(*address);
        link::add_address(&mut batch, CREATE | REPLACE, index, net, link::SCOPE_UNIVERSE);
    }
    let action = format!("set up {} in the pod", plan.pod_ifname);
    batch.begin(link::RTM_NEWLINK, 0, &link::ifinfo(index, true), action);
    for family in plan.families() {
        let gateway = gateway(family);
        if family == Family::V4 {
            // Appended: another interface of the pod may have the same route.
            let dst = IpNet::from(gateway);
            let route = NewRoute {
                dst,
                gateway: None,
                source: None,
                index,
                protocol: POD_PROTOCOL,
            };
            link::add_route(&mut batch, CREATE | APPEND, route);
        }
        link::add_neighbor(&mut batch, CREATE | REPLACE, index, gateway, plan.host_mac);
    }
    let mut outcome = pod.try_run(&mut batch)?;
    if needs_ipv6(&outcome) {
        enable_ipv6(&plan.pod_ifname);
        outcome = retry(pod, &mut batch)?;
    }
    if let Some(failure) = outcome.failures.first() {
        return Err(batch.error(failure).into());
    }
    add_routes(pod, index, &plan.routes)
}

/// Waits until the IPv6 addresses of both ends are usable. The kernel joins their solicited-node groups and adds their local
/// routes asynchronously; a solicitation or advertisement before that is lost and repeated a second later. Usually there is
/// nothing to wait for.
fn await_addresses(host: &Socket, pod: &Socket, plan: &Plan, link: &Link) -> Result<()> {
    let of_pod = plan
        .addresses
        .iter()
        .filter(|a| a.is_ipv6())
        .map(|a| (pod, *a, link.peer_index));
    let mut awaited: Vec<(&Socket, IpAddr, u32)> = of_pod.collect();
    if !awaited.is_empty() {
        awaited.push((host, gateway(Family::V6), link.index));
    }
    let deadline = Instant::now() + Duration::from_millis(500);
    for (socket, address, index) in awaited {
        // The local route is added last.
        let is_installed =
            || Ok::<bool, Error>(link::route_to(socket, address, index)?.is_some_and(|r| r.is_local));
        while !is_installed()? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(())
}

/// Adds routes, except a default route if another interface has one. Returns those that were added.
pub(crate) fn add_routes(pod: &Socket, index: u32, routes: &[Route]) -> Result<Vec<Route>> {
    let mut batch = Batch::default();
    for route in routes {
        let new = NewRoute {
            dst: route.dst,
            gateway: route.gw,
            source: None,
            index,
            protocol: POD_PROTOCOL,
        };
        link::add_route(&mut batch, CREATE | EXCL, new);
    }
    let outcome = pod.try_run(&mut batch)?;
    let mut made = routes.to_vec();
    for failure in outcome.failures.iter().rev() {
        let is_default = routes.get(failure.index).is_some_and(|r| r.dst.prefix_len() == 0);
        if failure.errno != Errno::EEXIST || !is_default {
            return Err(batch.error(failure).into());
        }
        made.remove(failure.index);
    }
    Ok(made)
}

/// Whether IPv6 is disabled on the interface: some runtimes disable it in a new namespace.
fn needs_ipv6(outcome: &Outcome) -> bool {
    outcome.failures.iter().any(|f| f.errno == Errno::EACCES)
}

/// Enables IPv6 on an interface in the calling thread's namespace. The repeated batch shows whether it worked.
fn enable_ipv6(ifname: &str) {
    let _ = linux::sysctl::write(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "0");
}

/// Whether this link is an attachment's host interface. Its hardware address is set at creation, its alias afterwards.
pub(crate) fn is_host_side(link: &Link, owner: &Owner) -> bool {
    link.name == owner.host_ifname()
        && (link.alias.starts_with(ALIAS_PREFIX) || link.mac == owner.host_mac().as_slice())
}

/// Removes the pair; false: there is none. A link with this name that is not podroute-cni's stays.
pub(crate) fn remove(host: &Socket, owner: &Owner) -> Result<bool> {
    match link::find(host, &owner.host_ifname())? {
        Some(link) if is_host_side(&link, owner) => link::delete_found(host, &link),
        _ => Ok(false),
    }
}
