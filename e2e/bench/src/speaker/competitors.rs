//! The speakers of the bench, each with kernel routes off and sessions taken from ranges.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::daemon::{Kind, frr, podroute};
use lab::failure::{Context, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::wait;

/// The speaker's address; all of 10.100.0.0/14 is on its loopback.
pub(super) const DUT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 103, 0, 1);
/// The speaker's AS number.
pub(super) const ASN: u32 = 64512;

/// Whom it peers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// iBGP clients in 10.100.0.0/16.
    Reflector,
    /// AS 65001 in 10.101.0.0/16, AS 65002 in 10.102.0.0/16.
    Router,
}

/// What is measured: a daemon, or the load tool's own mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Competitor {
    /// A daemon.
    Daemon(Kind),
    /// No routing at all: the floor.
    Mirror,
}

impl Competitor {
    /// Its name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Daemon(kind) => kind.name(),
            Self::Mirror => "floor",
        }
    }

    /// Its version.
    pub(super) fn version(self) -> String {
        match self {
            Self::Daemon(kind) => kind.version(),
            Self::Mirror => String::new(),
        }
    }

    /// Starts it and waits until it listens.
    pub(super) fn start(self, host: &Host, role: Role) -> Result<Vec<Daemon>> {
        let mut processes = match self {
            Self::Mirror => vec![mirror(host)?],
            Self::Daemon(Kind::Podroute) => vec![podroute::start_with(host, &podroute_yaml(role))?],
            Self::Daemon(Kind::Bird) => lab::daemon::bird::start_with(host, &bird_conf(role))?,
            Self::Daemon(Kind::Frr) => vec![frr::start_alone(host, &frr_conf(role))?],
            Self::Daemon(Kind::Gobgp) => vec![gobgp(host, role)?],
            Self::Daemon(Kind::Openbgpd) => vec![openbgpd(host, role)?],
        };
        wait::until(
            Duration::from_secs(20),
            format_args!("{} listens", self.name()),
            || {
                processes.iter_mut().try_for_each(Daemon::check_alive)?;
                host.within(|| {
                    let there = SocketAddr::new(IpAddr::V4(DUT_ADDRESS), 179);
                    TcpStream::connect(there).context("connecting").map(drop)
                })
            },
        )?;
        Ok(processes)
    }
}

/// Argument of the process that plays the mirror.
pub(crate) const MIRROR: &str = "__mirror";

fn mirror(host: &Host) -> Result<Daemon> {
    let exe = std::env::current_exe().context("own program")?;
    let mut command = std::process::Command::new(exe);
    command.arg(MIRROR);
    host.spawn("mirror", &mut command)
}

/// The mirror's own process.
pub(crate) fn run_mirror() -> i32 {
    match lab::bgp_load::mirror::serve(DUT_ADDRESS, ASN) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{failure}");
            1
        }
    }
}

fn podroute_yaml(role: Role) -> String {
    let peers = match role {
        Role::Reflector => {
            "- {name: clients, listenRange: 10.100.0.0/16, listenLimit: 10000, asn: 64512, routeReflectorClient: true}\n"
        }
        Role::Router => {
            "- {name: senders, listenRange: 10.101.0.0/16, asn: 65001, maxPrefixes: 2000000, maxMemory: 2Gi, import: all, export: none}\n\
             - {name: receivers, listenRange: 10.102.0.0/16, asn: 65002, import: none, export: all}\n\
             policies: {all: accept, none: reject}\n"
        }
    };
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: {ASN}}}\nnode: {{name: dut, routerId: {DUT_ADDRESS}}}\nfib: off\npeers:\n{peers}"
    )
}

fn bird_conf(role: Role) -> String {
    let peers = match role {
        Role::Reflector => {
            "protocol bgp clients from common { neighbor range 10.100.0.0/16 as 64512; rr client; \
             ipv4 { import all; export all; gateway direct; }; }\n"
        }
        Role::Router => {
            "protocol bgp senders from common { neighbor range 10.101.0.0/16 as 65001; \
             ipv4 { import all; export none; gateway direct; }; }\n\
             protocol bgp receivers from common { neighbor range 10.102.0.0/16 as 65002; \
             ipv4 { import none; export all; gateway direct; }; }\n"
        }
    };
    format!(
        "log stderr {{ warning, error, fatal, bug }};\nrouter id {DUT_ADDRESS};\nprotocol device {{}}\n\
         template bgp common {{ local {DUT_ADDRESS} as {ASN}; direct; }}\n{peers}"
    )
}

fn frr_conf(role: Role) -> String {
    let groups: &[(&str, &str, u32, &str)] = match role {
        Role::Reflector => &[("c", "10.100.0.0/16", ASN, "  neighbor c route-reflector-client\n")],
        Role::Router => &[
            ("s", "10.101.0.0/16", 65001, "  neighbor s prefix-list none out\n"),
            ("r", "10.102.0.0/16", 65002, "  neighbor r prefix-list none in\n"),
        ],
    };
    let mut out = format!(
        "log stdout warnings\nip prefix-list none deny any\nrouter bgp {ASN}\n bgp router-id {DUT_ADDRESS}\n \
         no bgp ebgp-requires-policy\n no bgp network import-check\n bgp listen limit 5000\n coalesce-time 50\n"
    );
    for (name, range, asn, _) in groups {
        out.push_str(&format!(
            " neighbor {name} peer-group\n neighbor {name} remote-as {asn}\n neighbor {name} advertisement-interval 0\n \
             bgp listen range {range} peer-group {name}\n"
        ));
    }
    out.push_str(" address-family ipv4 unicast\n");
    groups.iter().for_each(|(_, _, _, more)| out.push_str(more));
    out.push_str(" exit-address-family\n");
    out
}

fn gobgp(host: &Host, role: Role) -> Result<Daemon> {
    let groups: &[(&str, &str, u32)] = match role {
        Role::Reflector => &[("c", "10.100.0.0/16", ASN)],
        Role::Router => &[("s", "10.101.0.0/16", 65001), ("r", "10.102.0.0/16", 65002)],
    };
    let mut out = format!("[global.config]\n  as = {ASN}\n  router-id = \"{DUT_ADDRESS}\"\n  port = 179\n");
    for (name, range, asn) in groups {
        out.push_str(&format!(
            "[[peer-groups]]\n  [peer-groups.config]\n    peer-group-name = \"{name}\"\n    peer-as = {asn}\n"
        ));
        if role == Role::Reflector {
            out.push_str(&format!(
                "  [peer-groups.route-reflector.config]\n    route-reflector-client = true\n    \
                 route-reflector-cluster-id = \"{DUT_ADDRESS}\"\n"
            ));
        }
        out.push_str(&format!(
            "  [[peer-groups.afi-safis]]\n    [peer-groups.afi-safis.config]\n      afi-safi-name = \"ipv4-unicast\"\n\
             [[dynamic-neighbors]]\n  [dynamic-neighbors.config]\n    prefix = \"{range}\"\n    peer-group = \"{name}\"\n"
        ));
    }
    lab::daemon::gobgp::start_with(host, &out, "error")
}

fn openbgpd(host: &Host, role: Role) -> Result<Daemon> {
    let groups: &[(&str, u32, &str)] = match role {
        Role::Reflector => &[("10.100.0.0/16", ASN, "  route-reflector\n")],
        Role::Router => &[("10.101.0.0/16", 65001, ""), ("10.102.0.0/16", 65002, "")],
    };
    let mut out = format!("AS {ASN}\nrouter-id {DUT_ADDRESS}\nfib-update no\nlisten on {DUT_ADDRESS}\n");
    for (range, asn, more) in groups {
        out.push_str(&format!(
            "neighbor {range} {{\n  remote-as {asn}\n  announce IPv6 none\n{more}}}\n"
        ));
    }
    out.push_str("allow from any\nallow to any\n");
    lab::daemon::openbgpd::start_with(host, &out, &[])
}
