//! Features × daemons: every cell of docs/interop.md is a scenario here.
//!
//! Our agent on `node-a`, the daemon on `other-b`, one cable; where a feature needs more paths, two more agents of
//! ours stand behind the node. A cell's wire is recorded, and tshark must find no fault in it. `make interop` writes
//! the table from the run; each whole run compares it.

mod bird;
mod exabgp;
mod frr;
mod gobgp;
mod openbgpd;
mod rows;
mod table;
mod wire;

use std::net::IpAddr;

use ipnet::IpNet;
use lab::daemon::{Kind, podroute};
use lab::failure::{Failure, Result};
use lab::machine::Host;
use lab::process::Daemon;

use crate::{Scenario, scenario};

pub(crate) use table::{compare, write};

/// A daemon in the place of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Bird,
    Frr,
    Gobgp,
    Openbgpd,
    Exabgp,
}

impl Other {
    const ALL: [Self; 5] = [Self::Bird, Self::Frr, Self::Gobgp, Self::Openbgpd, Self::Exabgp];

    fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
            Self::Openbgpd => "openbgpd",
            Self::Exabgp => "exabgp",
        }
    }

    fn kind(self) -> Option<Kind> {
        match self {
            Self::Bird => Some(Kind::Bird),
            Self::Frr => Some(Kind::Frr),
            Self::Gobgp => Some(Kind::Gobgp),
            Self::Openbgpd => Some(Kind::Openbgpd),
            Self::Exabgp => None,
        }
    }
}

/// What the daemon is asked to do, in no daemon's language.
#[derive(Debug, Clone)]
struct Ask {
    asn: u32,
    node_asn: u32,
    /// The session runs over IPv6.
    over_v6: bool,
    networks: Vec<IpNet>,
    /// The networks carry one community of each kind.
    tagged: bool,
    secret: Option<&'static str>,
    gtsm: bool,
    /// IPv4 with IPv6 next hops.
    extended_next_hop: bool,
    add_path: bool,
    /// There is a second path to each network, with community 64512:78.
    two_paths: bool,
    enhanced_refresh: bool,
    extended_messages: bool,
    /// Seconds of restart time.
    restart: Option<u16>,
    long_lived: bool,
    hold: u16,
}

impl Ask {
    fn new() -> Self {
        Self {
            asn: 65001,
            node_asn: 64601,
            over_v6: false,
            networks: vec![net("10.244.2.0/24")],
            tagged: false,
            secret: None,
            gtsm: false,
            extended_next_hop: false,
            add_path: false,
            two_paths: false,
            enhanced_refresh: false,
            extended_messages: false,
            restart: None,
            long_lived: false,
            hold: 90,
        }
    }

    fn local(&self) -> IpAddr {
        literal(if self.over_v6 { "2001:db8::2" } else { "192.0.2.2" })
    }

    fn node(&self) -> IpAddr {
        literal(if self.over_v6 { "2001:db8::1" } else { "192.0.2.1" })
    }

    /// The families of the networks.
    fn has(&self, v4: bool) -> bool {
        self.networks.iter().any(|net| net.addr().is_ipv4() == v4)
    }

    /// The families of the session, in a daemon's words.
    fn families<'a>(&self, words: [&'a str; 2]) -> Vec<&'a str> {
        let [v4, v6] = words;
        [(true, v4), (false, v6)]
            .into_iter()
            .filter(|(family, _)| self.has(*family))
            .map(|(_, word)| word)
            .collect()
    }

    fn of_family(&self, v4: bool) -> impl Iterator<Item = &IpNet> {
        self.networks.iter().filter(move |net| net.addr().is_ipv4() == v4)
    }
}

/// A daemon that runs, and what one can ask of it.
struct There {
    other: Other,
    host: Host,
    ask: Ask,
    processes: Vec<Daemon>,
}

impl There {
    fn start(other: Other, host: &Host, ask: &Ask) -> Result<Self> {
        let start = match other {
            Other::Bird => bird::start,
            Other::Frr => frr::start,
            Other::Gobgp => gobgp::start,
            Other::Openbgpd => openbgpd::start,
            Other::Exabgp => exabgp::start,
        };
        Ok(Self {
            other,
            host: host.clone(),
            ask: ask.clone(),
            processes: start(host, ask)?,
        })
    }

    /// All that the daemon shows of a prefix that it received; empty if it did not, or if it was withdrawn.
    fn route(&self, prefix: &str) -> Result<String> {
        match self.other {
            Other::Bird => bird::route(&self.host, prefix),
            Other::Frr => frr::route(&self.host, prefix),
            Other::Gobgp => gobgp::route(&self.host, prefix),
            Other::Openbgpd => openbgpd::route(&self.host, prefix),
            Other::Exabgp => exabgp::route(&self.host, prefix),
        }
    }

    /// All that the daemon says of the session, and its log.
    fn session(&self) -> String {
        let told = match self.other {
            Other::Bird => self.host.run("birdc", &["show", "protocols", "all", "node"]),
            Other::Frr => lab::daemon::frr::vtysh(&self.host, "show bgp neighbors json"),
            Other::Gobgp => self
                .host
                .run("gobgp", &["neighbor", &self.ask.node().to_string()]),
            Other::Openbgpd => self.host.run("bgpctl", &["show", "neighbor"]),
            Other::Exabgp => Ok(exabgp::received(&self.host)),
        };
        let logs: String = self.processes.iter().map(Daemon::log).collect();
        told.unwrap_or_else(|failure| failure.to_string()) + &logs
    }

    /// Makes the daemon ask for our routes again.
    fn ask_again(&self) -> Result<()> {
        let node = self.ask.node().to_string();
        let run = |program: &str, args: &[&str]| self.host.run(program, args).map(drop);
        match self.other {
            Other::Bird => run("birdc", &["reload", "in", "node"]),
            Other::Frr => run("vtysh", &["-c", &format!("clear bgp {node} soft in")]),
            Other::Gobgp => run("gobgp", &["neighbor", &node, "softresetin"]),
            Other::Openbgpd => run("bgpctl", &["neighbor", &node, "refresh"]),
            Other::Exabgp => Err(Failure::new("ExaBGP asks only through its API")),
        }
    }

    /// Shuts the session down with a text.
    fn shut(&self, text: &str) -> Result<()> {
        let node = self.ask.node().to_string();
        let run = |program: &str, args: &[&str]| self.host.run(program, args).map(drop);
        match self.other {
            Other::Bird => run("birdc", &["disable", "node", &format!("\"{text}\"")]),
            Other::Frr => run(
                "vtysh",
                &[
                    "-c",
                    "configure terminal",
                    "-c",
                    &format!("router bgp {}", self.ask.asn),
                    "-c",
                    &format!("neighbor {node} shutdown message {text}"),
                ],
            ),
            Other::Gobgp => run("gobgp", &["neighbor", &node, "shutdown", "--reason", text]),
            Other::Openbgpd => run("bgpctl", &["neighbor", &node, "down", text]),
            Other::Exabgp => Err(Failure::new("ExaBGP ends a session only through its API")),
        }
    }

    fn kill(&mut self) {
        self.processes.iter_mut().for_each(Daemon::kill);
    }

    fn again(&mut self) -> Result<()> {
        self.processes = match self.other {
            // Without being asked to recover it says that it forwards nothing, and its routes go (RFC 4724 §4.2).
            Other::Bird => bird::recover(&self.host, &self.ask)?,
            _ => Self::start(self.other, &self.host, &self.ask)?.processes,
        };
        Ok(())
    }

    fn with_words(&self, failure: Failure) -> Failure {
        let node = podroute::show(&Host::existing("node-a"), "routes").map(|routes| routes.to_string());
        failure
            .evidence(self.other.name(), self.session())
            .evidence("node-a", node.unwrap_or_else(|failure| failure.to_string()))
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal prefix")
}

fn literal(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// Our agent, with fields of its peer and of the file.
fn agent(host: &Host, ask: &Ask, fields: &str, top: &str) -> Result<Daemon> {
    let v6 = if ask.has(false) {
        ", \"fd00:10:244:1::/64\""
    } else {
        ""
    };
    podroute::start_with(
        host,
        &format!(
            "apiVersion: podroute/v1\ncluster: {{asn: {}, podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}}\n\
             node: {{name: node-a, routerId: 10.0.0.1, blocks: [10.244.1.0/24{v6}]}}\n\
             peers:\n- {{name: other, address: \"{}\", asn: {}, families: [{}], import: all, export: tagged, \
             timers: {{connectRetry: 200ms}}{fields}}}\n{top}\
             policies:\n  all: accept\n  tagged:\n  - set:\n      communities: {{add: [\"64512:55\"]}}\n      \
             largeCommunities: {{add: [\"64512:5:6\"]}}\n      extCommunities: {{add: [\"rt:64512:44\"]}}\n    \
             action: accept\n",
            ask.node_asn,
            ask.local(),
            ask.asn,
            ask.families(["ipv4", "ipv6"]).join(", "),
        ),
    )
}

/// One scenario per row and daemon that the row names.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for row in rows::ALL {
        for other in Other::ALL {
            if row.without(other).is_some() {
                continue;
            }
            let needs = [Some(Kind::Podroute), other.kind()].into_iter().flatten();
            let mut one = scenario(table::name(row, other), needs, move || rows::run(row, other));
            if other == Other::Exabgp {
                one = one.with_program("exabgp", "exabgp");
            }
            all.push(one);
        }
    }
    all
}
