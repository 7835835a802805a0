//! Two racks with two nodes and two ToRs each; every node has a cable to both ToRs of its rack, every ToR one to both of
//! the other rack. eBGP on every cable with BFD at 50 ms times 3, ECMP over all equal paths.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::daemon::{Kind, bird, frr, podroute};
use crate::failure::{Failure, Result};
use crate::machine::Host;
use crate::process::Daemon;
use crate::topology::Family;
use crate::{ensure, kernel, netns, wait};

/// The machines: nodes have a number, from which their block follows; ToRs have none.
pub(super) const NODES: [&str; 4] = ["a1", "a2", "b1", "b2"];
const TORS: [&str; 4] = ["ta1", "ta2", "tb1", "tb2"];
const CABLES: [(&str, &str); 12] = [
    ("a1", "ta1"),
    ("a1", "ta2"),
    ("a2", "ta1"),
    ("a2", "ta2"),
    ("b1", "tb1"),
    ("b1", "tb2"),
    ("b2", "tb1"),
    ("b2", "tb2"),
    ("ta1", "tb1"),
    ("ta1", "tb2"),
    ("ta2", "tb1"),
    ("ta2", "tb2"),
];
/// All ways have to be back within this.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A cable as one of its ends sees it.
#[derive(Debug, Clone)]
struct End {
    peer: &'static str,
    local: Ipv4Addr,
    remote: Ipv4Addr,
}

/// All machines and what runs on them.
#[derive(Debug)]
pub struct Fabric {
    kind: Kind,
    hosts: Vec<Host>,
    daemons: Vec<(&'static str, Vec<Daemon>)>,
}

fn machines() -> impl Iterator<Item = &'static str> {
    NODES.into_iter().chain(TORS)
}

/// 1 to 4 for nodes.
fn number(node: &str) -> Option<u8> {
    let at = NODES.iter().position(|name| *name == node)?;
    u8::try_from(at + 1).ok()
}

/// The address of a node that stands for its pods.
pub(super) fn pod(node: &str) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number(node).unwrap_or(0), 1)
}

fn asn(machine: &str) -> u32 {
    match number(machine) {
        Some(number) => 64600 + u32::from(number),
        None if machine.starts_with("ta") => 65001,
        None => 65002,
    }
}

fn router_id(machine: &str) -> Ipv4Addr {
    let at = machines().position(|name| name == machine).unwrap_or(0);
    Ipv4Addr::new(10, 0, 0, u8::try_from(at + 1).unwrap_or(0))
}

fn address(cable: usize, end: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, u8::try_from(cable).unwrap_or(0), end)
}

fn ends(machine: &str) -> Vec<End> {
    let cables = CABLES.iter().enumerate();
    let end = |(cable, (one, two)): (usize, &(&'static str, &'static str))| {
        let (peer, mine, theirs) = if *one == machine {
            (*two, 1, 2)
        } else if *two == machine {
            (*one, 2, 1)
        } else {
            return None;
        };
        Some(End {
            peer,
            local: address(cable, mine),
            remote: address(cable, theirs),
        })
    };
    cables.filter_map(end).collect()
}

impl Fabric {
    /// Builds it and waits until every machine has every way.
    pub fn build(kind: Kind) -> Result<Self> {
        let hosts = machines().map(Host::create).collect::<Result<Vec<_>>>()?;
        let mut fabric = Self {
            kind,
            hosts,
            daemons: Vec::new(),
        };
        for (cable, (one, two)) in CABLES.iter().enumerate() {
            let (left, right) = (fabric.host(one), fabric.host(two));
            left.ip(&format!(
                "link add {two} type veth peer name {one} netns {}",
                right.name()
            ))?;
            left.ip(&format!("addr add {}/24 dev {two}", address(cable, 1)))?;
            right.ip(&format!("addr add {}/24 dev {one}", address(cable, 2)))?;
            left.ip(&format!("link set {two} up"))?;
            right.ip(&format!("link set {one} up"))?;
        }
        for host in &fabric.hosts {
            host.ip("link set lo up")?;
            for (key, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv4/fib_multipath_hash_policy", "1"),
                ("net/ipv4/conf/all/rp_filter", "0"),
                ("net/ipv4/conf/default/rp_filter", "0"),
            ] {
                host.sysctl(key, value)?;
            }
        }
        for node in NODES {
            fabric
                .host(node)
                .ip(&format!("addr add {}/32 dev lo", pod(node)))?;
        }
        for machine in machines() {
            fabric.start(machine)?;
        }
        fabric.converged()?;
        Ok(fabric)
    }

    /// Ends the daemons and takes the machines away.
    pub fn remove(mut self) -> Result<()> {
        self.daemons.clear();
        self.hosts.iter().try_for_each(|host| netns::delete(host.name()))
    }

    /// What runs on all of them.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A machine.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .expect("a machine of the fabric")
    }

    /// Starts what runs on a machine.
    pub fn start(&mut self, machine: &'static str) -> Result<()> {
        let host = self.host(machine).clone();
        let daemons = match self.kind {
            Kind::Podroute => vec![podroute::start_with(&host, &podroute_yaml(machine))?],
            Kind::Bird => bird::start_with(&host, &bird_conf(machine))?,
            Kind::Frr => {
                let mut daemons = frr::start_with(&host, &frr_conf(machine), "")?;
                daemons.push(frr::start_daemon(&host, "bfdd", "log stdout warnings\n")?);
                daemons
            }
            Kind::Gobgp | Kind::Openbgpd => return Err(Failure::new("it does not fill the kernel here")),
        };
        self.daemons.push((machine, daemons));
        Ok(())
    }

    /// Ends what runs on a machine, by SIGTERM or at once.
    pub fn stop(&mut self, machine: &str, gently: bool) -> Result<()> {
        for (_, daemons) in self.daemons.extract_if(.., |(name, _)| *name == machine) {
            for mut daemon in daemons.into_iter().rev() {
                if gently {
                    daemon.terminate(Duration::from_secs(10))?;
                } else {
                    daemon.kill();
                }
            }
        }
        Ok(())
    }

    /// All cables of a machine go down, or come up.
    pub fn power(&self, machine: &str, on: bool) -> Result<()> {
        ends(machine)
            .iter()
            .try_for_each(|end| self.link(machine, end.peer, on))
    }

    /// One cable goes down, or comes up.
    pub fn link(&self, one: &str, two: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.host(one).ip(&format!("link set {two} {state}")).map(drop)
    }

    /// One cable carries nothing, though it is up; or carries again.
    pub fn drop_silently(&self, one: &str, two: &str, on: bool) -> Result<()> {
        let rules = format!(
            "table netdev swallow {{ chain in {{ type filter hook ingress device \"{two}\" priority 0; drop; }}; \
             chain out {{ type filter hook egress device \"{two}\" priority 0; drop; }}; }}"
        );
        let rules = if on {
            rules.as_str()
        } else {
            "delete table netdev swallow"
        };
        self.host(one).run("nft", &[rules]).map(drop)
    }

    /// The spine between the racks goes, or comes back.
    pub fn spine(&self, up: bool) -> Result<()> {
        CABLES
            .iter()
            .filter(|(one, _)| one.starts_with('t'))
            .try_for_each(|(one, two)| self.link(one, two, up))
    }

    /// Waits until all BFD sessions of our own daemon are up, at the pace that is configured; others are not asked.
    pub fn bfd_up(&self) -> Result<()> {
        if self.kind != Kind::Podroute {
            return Ok(());
        }
        for host in &self.hosts {
            wait::until(
                LIMIT,
                format_args!("all BFD sessions of {} up", host.name()),
                || {
                    let bfd = podroute::show(host, "bfd")?;
                    let all = bfd["bfd"].as_array().map_or(&[][..], Vec::as_slice);
                    let up = all
                        .iter()
                        .filter(|path| path["state"] == "Up" && path["detectionMs"] == 150);
                    let (up, wanted) = (up.count(), ends(host.name()).len());
                    ensure!(up == wanted, "{up} of {wanted}: {bfd}");
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// Waits until every machine has every way to every node.
    pub fn converged(&mut self) -> Result<()> {
        let hosts = &self.hosts;
        let outcome = wait::until(LIMIT, "every way to every node", || {
            hosts.iter().try_for_each(has_all_next_hops)
        });
        outcome.map_err(|failure| {
            let all = self.daemons.iter().flat_map(|(_, daemons)| daemons);
            all.fold(failure, |failure, daemon| daemon.with_log(failure))
        })
    }
}

fn has_all_next_hops(host: &Host) -> Result<()> {
    let routes = kernel::routes(host, Family::V4)?;
    let rack = |name: &str| name.trim_start_matches('t').chars().next();
    for node in NODES.into_iter().filter(|node| *node != host.name()) {
        // A ToR has one cable to a node of its rack; everything else goes over two.
        let near = host.name().starts_with('t') && rack(host.name()) == rack(node);
        let wanted = if near { 1 } else { 2 };
        let block = format!("{}/24", Ipv4Addr::from(u32::from(pod(node)) & !0xff));
        let found = routes
            .iter()
            .find(|route| route.prefix.to_string() == block && route.kind == "unicast")
            .map_or(0, |route| route.next_hops.len());
        ensure!(
            found == wanted,
            "{} has {found} of {wanted} ways to {node}",
            host.name()
        );
    }
    Ok(())
}

fn podroute_yaml(machine: &str) -> String {
    let blocks = number(machine).map_or_else(String::new, |n| format!(", blocks: [10.244.{n}.0/24]"));
    let export = if number(machine).is_some() { "own" } else { "all" };
    let mut out = format!(
        "apiVersion: podroute/v1\ncluster: {{asn: {}, podCIDRs: [10.244.0.0/16]}}\n\
         node: {{name: {machine}, routerId: {}{blocks}}}\npeers:\n",
        asn(machine),
        router_id(machine)
    );
    for end in ends(machine) {
        let _ = writeln!(
            out,
            "- {{name: {}, address: {}, asn: {}, timers: {{hold: 9s, connectRetry: 1s}}, \
             bfd: {{interval: 50ms, multiplier: 3}}, import: all, export: {export}}}",
            end.peer,
            end.remote,
            asn(end.peer)
        );
    }
    out.push_str("policies: {all: accept, own: [{match: {source: [podBlock]}, action: accept}]}\n");
    out
}

fn bird_conf(machine: &str) -> String {
    let mut out = format!(
        "log stderr {{ warning, error, fatal, bug }};\nrouter id {};\nprotocol device {{ scan time 5; }}\n\
         protocol kernel {{ persist; merge paths on limit 8; ipv4 {{ import none; export all; }}; }}\n\
         protocol bfd {{ interface \"*\" {{ interval 50 ms; multiplier 3; }}; }}\n",
        router_id(machine)
    );
    let export = match number(machine) {
        Some(n) => {
            let _ = writeln!(
                out,
                "protocol static own {{ ipv4; route 10.244.{n}.0/24 unreachable; }}"
            );
            "where source = RTS_STATIC"
        }
        None => "all",
    };
    for end in ends(machine) {
        let _ = writeln!(
            out,
            "protocol bgp {} {{ local {} as {}; neighbor {} as {}; direct; bfd on; hold time 9; connect delay time 1; \
             connect retry time 1; error wait time 1, 2; graceful restart on; ipv4 {{ import all; export {export}; }}; }}",
            end.peer,
            end.local,
            asn(machine),
            end.remote,
            asn(end.peer)
        );
    }
    out
}

fn frr_conf(machine: &str) -> String {
    let mut out = format!(
        "log stdout warnings\nrouter bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n bgp graceful-restart\n timers bgp 3 9\n",
        asn(machine),
        router_id(machine)
    );
    for end in ends(machine) {
        let remote = end.remote;
        let _ = write!(
            out,
            " neighbor {remote} remote-as {}\n neighbor {remote} timers connect 1\n neighbor {remote} bfd 3 50 50\n",
            asn(end.peer)
        );
    }
    out.push_str(" address-family ipv4 unicast\n  maximum-paths 8\n");
    if let Some(n) = number(machine) {
        let _ = writeln!(out, "  network 10.244.{n}.0/24");
        for end in ends(machine) {
            let _ = writeln!(out, "  neighbor {} prefix-list own out", end.remote);
        }
    }
    out.push_str(" exit-address-family\n");
    if let Some(n) = number(machine) {
        let _ = writeln!(out, "ip prefix-list own permit 10.244.{n}.0/24");
    }
    out
}
