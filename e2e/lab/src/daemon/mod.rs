//! The BGP daemons of the lab behind one interface: configure, start, query, reset.
//!
//! A [`Speaker`] says in neutral words what a machine's BGP must do; each submodule renders it for
//! one daemon and knows that daemon's command-line tool. How learned routes reach the kernel:
//! podroute and BIRD install them themselves, FRR through its zebra; for GoBGP and OpenBGPD the
//! lab's own `fib-sync` copies the best routes (it says why).

pub mod bird;
pub mod fib_sync;
pub mod frr;
pub mod gobgp;
pub mod openbgpd;
pub mod podroute;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::failure::{Failure, Result};
use crate::machine::Host;
use crate::process::{Daemon, find_program};
use crate::topology::{Family, Machine, Neighbor, Role, Topology};
use crate::wait;

/// Which daemon runs on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Our own speaker.
    Podroute,
    /// BIRD 2.
    Bird,
    /// FRRouting.
    Frr,
    /// GoBGP, with the lab's fib-sync for the kernel.
    Gobgp,
    /// OpenBGPD, with the lab's fib-sync for the kernel.
    Openbgpd,
}

impl Kind {
    /// Every daemon the lab can run.
    pub const ALL: [Self; 5] = [Self::Podroute, Self::Bird, Self::Frr, Self::Gobgp, Self::Openbgpd];

    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Podroute => "podroute",
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
            Self::Openbgpd => "openbgpd",
        }
    }

    /// Programs without which it cannot run, with Debian's package for each.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Podroute => &[],
            Self::Bird => &[("bird", "bird2"), ("birdc", "bird2")],
            Self::Frr => &[
                ("/usr/lib/frr/bgpd", "frr"),
                ("/usr/lib/frr/zebra", "frr"),
                ("vtysh", "frr"),
            ],
            Self::Gobgp => &[("gobgpd", "gobgpd"), ("gobgp", "gobgpd")],
            Self::Openbgpd => &[("/usr/sbin/bgpd", "openbgpd"), ("bgpctl", "openbgpd")],
        }
    }

    /// Fails with the missing program and its package.
    pub fn available(self) -> Result<()> {
        if self == Self::Podroute {
            return crate::bins::find("podroute").map(drop);
        }
        // It changes to a user of its own, and a user namespace made without root has one user only.
        if self == Self::Openbgpd && !crate::sandbox::has_several_users() {
            return Err(Failure::new("OpenBGPD runs only when the lab is started by root"));
        }
        for (program, package) in self.needs() {
            if find_program(program).is_none() {
                return Err(Failure::new(format!(
                    "{program} is not installed: apt-get install {package}"
                )));
            }
        }
        Ok(())
    }

    /// Those of them that are installed and fill the kernel in the lab.
    pub fn with_kernel_routes(daemons: &[Self]) -> Vec<Self> {
        let able = |kind: &&Self| {
            matches!(kind, Self::Podroute | Self::Bird | Self::Frr) && kind.available().is_ok()
        };
        daemons.iter().filter(able).copied().collect()
    }

    /// Names and versions, for reports.
    pub fn versions(daemons: &[Self]) -> Vec<String> {
        let of = |kind: &Self| format!("{} {}", kind.name(), kind.version());
        daemons.iter().map(of).collect()
    }

    /// The daemon's version as its package or binary says; empty if it does not say.
    pub fn version(self) -> String {
        let (program, arg) = match self {
            Self::Podroute => return podroute::version(),
            Self::Bird => ("bird", "--version"),
            Self::Frr => ("/usr/lib/frr/zebra", "--version"),
            Self::Gobgp => ("gobgpd", "--version"),
            Self::Openbgpd => ("/usr/sbin/bgpd", "-V"),
        };
        let output = crate::machine::command(program).arg(arg).output();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let digits = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        text.split_whitespace()
            .find(digits)
            .unwrap_or_default()
            .to_owned()
    }
}

impl FromStr for Kind {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        let all = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| Failure::new(format!("no such daemon {text:?}: one of {all}")))
    }
}

/// What a machine's BGP must do, in no daemon's language.
#[derive(Debug, Clone)]
pub struct Speaker {
    /// The machine.
    pub name: String,
    /// Node or ToR.
    pub role: Role,
    /// Own AS.
    pub asn: u32,
    /// Router ID: the machine's first IPv4 address.
    pub router_id: Ipv4Addr,
    /// Prefixes to originate.
    pub originates: Vec<IpNet>,
    /// Sessions.
    pub neighbors: Vec<Neighbor>,
    /// Hold time to propose.
    pub hold: Duration,
    /// Announce and believe everything (BIRD only): the careless ToR.
    pub unfiltered: bool,
}

impl Speaker {
    /// What the drawing asks of a machine.
    pub fn of(topology: &Topology, machine: &Machine) -> Self {
        let IpAddr::V4(router_id) = topology.uplink(machine, Family::V4) else {
            unreachable!("an IPv4 uplink has an IPv4 address")
        };
        Self {
            name: machine.name.to_owned(),
            role: machine.role,
            asn: machine.asn,
            router_id,
            originates: machine.blocks.clone(),
            neighbors: topology.neighbors(machine),
            hold: Duration::from_secs(9),
            unfiltered: false,
        }
    }

    /// Sets who waits for the connection on every session of this speaker.
    pub fn set_passive(&mut self, passive: bool) {
        self.neighbors.iter_mut().for_each(|n| n.passive = passive);
    }
}

/// State of one session as the daemon reports it.
#[derive(Debug, Clone)]
pub struct SessionState {
    /// The neighbor's address.
    pub remote: IpAddr,
    /// Whether it is in state Established.
    pub established: bool,
    /// The state's name in the daemon's words.
    pub state: String,
}

/// A daemon that runs on a machine.
#[derive(Debug)]
pub struct Running {
    /// Which daemon.
    pub kind: Kind,
    /// Where.
    pub host: Host,
    /// What it was asked to do.
    pub speaker: Speaker,
    /// Its processes; the last one speaks BGP unless `fib-sync` follows it.
    pub processes: Vec<Daemon>,
}

impl Running {
    /// Renders the configuration and starts the daemon on its machine.
    pub fn start(kind: Kind, host: &Host, speaker: &Speaker) -> Result<Self> {
        kind.available()?;
        let processes = match kind {
            Kind::Podroute => podroute::start(host, speaker),
            Kind::Bird => bird::start(host, speaker),
            Kind::Frr => frr::start(host, speaker),
            Kind::Gobgp => gobgp::start(host, speaker),
            Kind::Openbgpd => openbgpd::start(host, speaker),
        }
        .map_err(|f| f.during(format_args!("{} on {}", kind.name(), host.name())))?;
        Ok(Self {
            kind,
            host: host.clone(),
            speaker: speaker.clone(),
            processes,
        })
    }

    /// Asks the daemon for its sessions, one for each configured neighbor.
    pub fn sessions(&self) -> Result<Vec<SessionState>> {
        let host = &self.host;
        let states: BTreeMap<IpAddr, String> = match self.kind {
            Kind::Podroute => podroute::sessions(host),
            Kind::Bird => bird::sessions(host, &self.speaker),
            Kind::Frr => frr::sessions(host),
            Kind::Gobgp => gobgp::sessions(host),
            Kind::Openbgpd => openbgpd::sessions(host),
        }?;
        Ok(self
            .speaker
            .neighbors
            .iter()
            .map(|neighbor| {
                let state = states
                    .get(&neighbor.remote)
                    .cloned()
                    .unwrap_or_else(|| "not known".to_owned());
                SessionState {
                    remote: neighbor.remote,
                    established: state == "Established",
                    state,
                }
            })
            .collect())
    }

    /// Resets the session with a neighbor, as an operator would.
    pub fn reset(&self, remote: IpAddr) -> Result<()> {
        match self.kind {
            Kind::Podroute => Err(Failure::new("podroute has no command to reset a session")),
            Kind::Bird => bird::reset(&self.host, &self.speaker, remote),
            Kind::Frr => frr::reset(&self.host, remote),
            Kind::Gobgp => gobgp::reset(&self.host, remote),
            Kind::Openbgpd => openbgpd::reset(&self.host, remote),
        }
    }

    /// Fails, with the log, if one of the processes has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Daemon::check_alive)
    }

    /// Adds the tails of all logs to a failure.
    pub fn with_logs(&self, failure: Failure) -> Failure {
        self.processes
            .iter()
            .fold(failure, |failure, process| process.with_log(failure))
    }

    /// Ends the daemon at once, as a crash would.
    pub fn kill(&mut self) {
        self.processes.iter_mut().for_each(Daemon::kill);
    }

    /// Ends the daemon as a service manager does.
    pub fn terminate(&mut self) -> Result<()> {
        self.processes
            .iter_mut()
            .rev()
            .try_for_each(|p| p.terminate(Duration::from_secs(10)))
    }

    /// The same for our agent without waiting until it answers.
    pub fn relaunch(&mut self) -> Result<()> {
        self.processes = vec![podroute::launch(&self.host)?];
        Ok(())
    }

    /// Starts it again with the same configuration; it must have been stopped.
    pub fn restart_daemons(&mut self) -> Result<()> {
        *self = Self::start(self.kind, &self.host, &self.speaker)?;
        Ok(())
    }
}

/// Waits until a daemon that was just started answers a question.
fn wait_answer<T>(
    host: &Host,
    daemon: &mut Daemon,
    limit: Duration,
    ask: impl Fn() -> Result<T>,
) -> Result<()> {
    let what = format!("an answer of {} on {}", daemon.name(), host.name());
    wait::until(limit, what, || {
        daemon.check_alive()?;
        ask().map(drop)
    })
}

/// Parses a daemon's JSON; what does not parse is the evidence.
fn json(text: &str) -> Result<serde_json::Value> {
    serde_json::from_str(text)
        .map_err(|error| Failure::new(format!("not JSON: {error}")).evidence("output", text))
}

/// Prefixes of the cluster's pods of one family, with the longest length that a block may have.
fn pod_prefix(family: Family) -> (&'static str, u8, u8) {
    match family {
        Family::V4 => (crate::topology::POD_CIDRS[0], 24, 32),
        Family::V6 => (crate::topology::POD_CIDRS[1], 64, 128),
    }
}
