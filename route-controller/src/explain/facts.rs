//! What a node knows of a packet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::kernel_view::{Decision, Link, Neighbor};
use crate::network_policy::ExplanationStatus;
use crate::status::{FibStatus, RouteStatus};
use crate::who::Owner;

/// Everything that is known of one packet and its answer on one node.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) node: String,
    pub(crate) source: End,
    pub(crate) destination: End,
    /// `80`, `53/udp`.
    pub(crate) port: Option<String>,
    pub(crate) agent: AgentFacts,
    pub(crate) host: HostFacts,
    /// To the destination.
    pub(crate) forward: Way,
    /// Back to the source.
    pub(crate) back: Way,
    /// What network policies say; none where they are not enforced or no port is named.
    pub(crate) policy: Option<ExplanationStatus>,
    pub(crate) service: Option<ServiceFacts>,
    pub(crate) probe: Option<Probe>,
}

/// One end.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) address: IpAddr,
    pub(crate) owner: Owner,
    /// Of a pod of this node.
    pub(crate) pod: Option<PodFacts>,
    /// The block of this node that it is in.
    pub(crate) block: Option<BlockFacts>,
    /// It is inside `cluster.podCIDRs`.
    pub(crate) is_pod_address: bool,
}

impl End {
    /// A pod of this node, this host, or an address of its blocks.
    pub(crate) fn is_here(&self) -> bool {
        matches!(
            self.owner,
            Owner::Pod { .. } | Owner::Host | Owner::FreeInBlock { .. }
        )
    }
}

/// A pod of this node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodFacts {
    pub(crate) interface: String,
    /// Its ADD succeeded.
    pub(crate) is_complete: bool,
    /// Its network namespace does not exist any more.
    pub(crate) is_gone: bool,
    /// The host's end of its interface.
    pub(crate) link: Option<Link>,
    /// The pod's end is up; none where its namespace cannot be entered.
    pub(crate) is_up_inside: Option<bool>,
    /// Interfaces that host routes of its address lead to.
    pub(crate) route_interfaces: Vec<String>,
    /// The host has the same address.
    pub(crate) is_own_address: bool,
    /// A socket listens on the port; none where that is not known.
    pub(crate) listens: Option<bool>,
}

/// A block of this node.
#[derive(Clone, Debug)]
pub(crate) struct BlockFacts {
    pub(crate) prefix: String,
    /// As `show blocks` says it.
    pub(crate) state: String,
    /// Peers with an established session, and why each is not sent the block; none: it is sent.
    pub(crate) peers: Vec<(String, Option<String>)>,
}

/// The agent.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentFacts {
    /// Why it does not answer.
    pub(crate) error: Option<String>,
    /// `no`, `prefer-others` or `withdrawn`.
    pub(crate) drained: String,
    pub(crate) sessions: Vec<Session>,
    pub(crate) watches: Vec<Watch>,
}

/// A BGP session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) peer: String,
    pub(crate) is_up: bool,
    pub(crate) is_enabled: bool,
    /// Why it is down, and since when.
    pub(crate) cause: Option<String>,
}

/// A watch of the API server that does not answer.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) resource: String,
    pub(crate) since_seconds: Option<u64>,
    pub(crate) error: Option<String>,
}

/// The host.
#[derive(Clone, Debug)]
pub(crate) struct HostFacts {
    /// The kernel forwards packets of the family.
    pub(crate) forwards: bool,
    /// Tracked connections and how many there may be.
    pub(crate) conntrack: Option<(u64, u64)>,
    /// Where a packet from elsewhere may arrive.
    pub(crate) arrivals: Vec<Arrival>,
}

/// An interface that a packet may arrive on.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) interface: String,
    /// `rp_filter` (RFC 3704): 0 off, 1 strict, 2 loose.
    pub(crate) rp_filter: u8,
}

/// What the kernel says of a packet.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum KernelAnswer {
    Route(Decision),
    NoRoute,
    /// An unreachable route, or forwarding is off on the interface.
    Unreachable,
    /// A blackhole or prohibit route, or a packet that may not arrive where it does.
    Dropped,
    /// The question failed.
    Unknown(String),
}

impl KernelAnswer {
    pub(crate) fn of(answer: Result<Decision, Errno>) -> Self {
        match answer {
            Ok(decision) => Self::Route(decision),
            Err(Errno::ENETUNREACH) => Self::NoRoute,
            Err(Errno::EHOSTUNREACH) => Self::Unreachable,
            Err(Errno::EINVAL | Errno::EACCES | Errno::EXDEV) => Self::Dropped,
            Err(errno) => Self::Unknown(errno.desc().to_owned()),
        }
    }

    pub(crate) fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Route(decision) => Some(decision),
            _ => None,
        }
    }
}

/// A way of a packet out of this node.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) kernel: KernelAnswer,
    /// The route of the RIB: the longest match.
    pub(crate) route: Option<RouteStatus>,
    /// The kernel route that the agent wants for it.
    pub(crate) fib: Option<FibStatus>,
    pub(crate) link: Option<Link>,
    /// The entry of the next hop.
    pub(crate) neighbor: Option<Neighbor>,
}

impl Way {
    /// The interfaces that packets may take: all of a route with several next hops.
    pub(crate) fn interfaces(&self) -> BTreeSet<&str> {
        let decision = self.kernel.decision();
        let matched = decision.and_then(|decision| decision.matched.as_ref());
        let fib = self
            .fib
            .as_ref()
            .filter(|fib| matched.is_some_and(|matched| matched.prefix == fib.prefix));
        let hops = fib.into_iter().flat_map(|fib| &fib.next_hops);
        let first = decision.and_then(|decision| decision.interface.as_deref());
        first
            .into_iter()
            .chain(hops.map(|hop| hop.interface.as_str()))
            .collect()
    }
}

/// A Service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceFacts {
    pub(crate) name: String,
    /// The prefix that this node announces.
    pub(crate) announced: Option<String>,
    pub(crate) not_announced: Option<String>,
    /// Why an address of it is rejected.
    pub(crate) rejected: Option<String>,
    pub(crate) has_endpoint_here: bool,
    pub(crate) has_endpoint: bool,
}

/// Probes that were asked for.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    Found(ProbeFacts),
    /// They cannot be sent, for this reason.
    NotSent(String),
}

/// What probes found.
#[derive(Clone, Debug)]
pub(crate) struct ProbeFacts {
    /// Routers by distance.
    pub(crate) hops: Vec<ProbedHop>,
    /// Of probes to the destination.
    pub(crate) sent: u32,
    pub(crate) answered: u32,
    /// The largest packet that passes without fragments.
    pub(crate) path_mtu: Option<u32>,
    /// The MTU of the first interface.
    pub(crate) first_mtu: u32,
    /// A connection to the port: established, refused or not answered.
    pub(crate) port_is_open: Option<bool>,
}

/// Who answered a probe with a limited TTL.
#[derive(Clone, Debug)]
pub(crate) struct ProbedHop {
    pub(crate) distance: u8,
    pub(crate) address: Option<IpAddr>,
    pub(crate) sent: u32,
    pub(crate) answered: u32,
    /// The fastest answer.
    pub(crate) micros: Option<u64>,
}
