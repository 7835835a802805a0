//! The route of a packet: kernel, BGP, next hop, interface; and the way back.

use super::facts::{BlockFacts, Facts, KernelAnswer, Way};
use super::report::{Fault, Step};
use crate::fib::PROTOCOL;
use crate::kernel_view::{Decision, protocol_name};
use crate::status::{PathStatus, RouteStatus};

/// The steps of a packet that leaves this node.
pub(super) fn forward(facts: &Facts) -> Vec<Step> {
    let way = &facts.forward;
    let mut steps = Vec::new();
    match &way.kernel {
        KernelAnswer::Route(decision) => steps.extend(decided(facts, way, decision)),
        KernelAnswer::Unknown(error) => steps.push(Step::unknown(
            "route",
            format!("the kernel cannot be asked: {error}"),
        )),
        KernelAnswer::NoRoute | KernelAnswer::Unreachable | KernelAnswer::Dropped => {
            steps.push(missing(facts, way, "the kernel has no route"));
        }
    }
    steps
}

fn decided(facts: &Facts, way: &Way, decision: &Decision) -> Vec<Step> {
    let mut steps = Vec::new();
    let is_wanted = facts.destination.is_pod_address;
    let matched = decision.matched.as_ref();
    let protocol = matched.map(|matched| matched.protocol);
    let prefix = matched.map_or("?", |matched| matched.prefix.as_str());
    let described = describe(decision);
    let best = way.route.as_ref().and_then(best_path);
    if protocol == Some(PROTOCOL) {
        steps.push(Step::ok("route", described));
        steps.extend(way.route.as_ref().zip(best).map(|(route, path)| bgp(route, path)));
    } else if best.is_some() && is_installed(way) {
        let made_by = protocol.map_or_else(|| "another program".to_owned(), protocol_name);
        steps.push(Step::broken(
            "route",
            Fault::ForeignRoute,
            format!(
                "{described}: a route of {made_by} takes precedence over the one of BGP ({})",
                way.route.as_ref().map_or("?", |route| &route.prefix)
            ),
            format!("remove it (ip route del {prefix} …) or choose another fib.metric"),
        ));
    } else if best.is_some() && way.fib.is_some() {
        steps.push(refused(way));
    } else if is_wanted && best.is_none() && is_default(prefix) {
        steps.push(missing(
            facts,
            way,
            &format!("packets follow {described}, which is no route to a pod"),
        ));
    } else {
        steps.push(Step::ok("route", described));
    }
    steps.extend(next_hop(facts, way, decision));
    steps
}

fn is_default(prefix: &str) -> bool {
    prefix.ends_with("/0")
}

fn is_installed(way: &Way) -> bool {
    way.fib.as_ref().is_some_and(|fib| fib.state == "installed")
}

fn refused(way: &Way) -> Step {
    let fib = way.fib.as_ref();
    let (prefix, state) = fib.map_or(("?", "?"), |fib| (fib.prefix.as_str(), fib.state.as_str()));
    let why = fib
        .and_then(|fib| fib.error.as_deref())
        .unwrap_or("not written yet");
    Step::broken(
        "route",
        Fault::KernelRefused,
        format!("the route {prefix} of BGP is not in the kernel ({state}): {why}"),
        "podroute show fib --summary; the error names the cause",
    )
}

/// Why there is no route: what BGP knows of the destination.
fn missing(facts: &Facts, way: &Way, what: &str) -> Step {
    const PART: &str = "route";
    let destination = facts.destination.address;
    let paths = way.route.as_ref().map_or(&[][..], |route| &route.paths);
    let remote: Vec<&PathStatus> = paths.iter().filter(|path| path.from != "local").collect();
    if way
        .route
        .as_ref()
        .and_then(best_path)
        .is_some_and(|path| path.from != "local")
    {
        return refused(way);
    }
    let unused = |code: &str| remote.iter().find(|path| path.unused.as_deref() == Some(code));
    if let Some(path) = unused("policy") {
        let why = path.reason.clone().unwrap_or_default();
        return Step::broken(
            PART,
            Fault::ImportRejected,
            format!("{what}: the route from {} is {why}", path.from),
            format!(
                "change the import policy of {}, or try it with podroute policy test --peer {} --import",
                path.from, path.from
            ),
        );
    }
    if let Some(path) = unused("unresolved") {
        return Step::broken(
            PART,
            Fault::NextHopUnresolved,
            format!(
                "{what}: the next hop {} of the route from {} is not reachable",
                path.next_hop, path.from
            ),
            "the node needs a route to the next hop; or set nextHopSelf at the peer",
        );
    }
    if let Some(path) = remote.first() {
        return Step::broken(
            PART,
            Fault::PathUnusable,
            format!(
                "{what}: the route from {} cannot be used: {}",
                path.from,
                path.reason.as_deref().unwrap_or("?")
            ),
            "podroute show routes names each path and the reason",
        );
    }
    if facts.agent.error.is_some() {
        return Step::broken(
            PART,
            Fault::AgentDown,
            format!("{what}, and the agent does not run"),
            "start the agent",
        );
    }
    let down: Vec<String> = facts
        .agent
        .sessions
        .iter()
        .filter(|session| !session.is_up)
        .map(|session| match &session.cause {
            Some(cause) => format!("{} is down: {cause}", session.peer),
            None => format!("{} is down", session.peer),
        })
        .collect();
    if !down.is_empty() {
        let disabled = facts.agent.sessions.iter().find(|session| !session.is_enabled);
        return Step::broken(
            PART,
            Fault::SessionDown,
            format!(
                "{what} to {destination}: no peer advertises it, and {}",
                down.join("; ")
            ),
            match disabled {
                Some(session) => format!("podroute peer enable {}", session.peer),
                None => "podroute show peers names the cause; repair the session".to_owned(),
            },
        );
    }
    Step::broken(
        PART,
        Fault::RouteMissing,
        format!("{what} to {destination}: all sessions are up and no peer advertises it"),
        "the other node does not advertise its block (podroute show blocks there), or a router between withholds it (podroute explain there)",
    )
}

fn best_path(route: &RouteStatus) -> Option<&PathStatus> {
    route.paths.iter().find(|path| path.best)
}

fn bgp(route: &RouteStatus, best: &PathStatus) -> Step {
    let others: Vec<String> = route
        .paths
        .iter()
        .filter(|path| !path.best && !path.used)
        .map(|path| {
            let why = path.reason.as_ref().or(path.not_best.as_ref());
            format!("not {}: {}", path.from, why.map_or("?", String::as_str))
        })
        .collect();
    let equal = route.paths.iter().filter(|path| path.used && !path.best).count();
    let equal = match equal {
        0 => String::new(),
        count => format!(", with {count} equal"),
    };
    let why = if others.is_empty() {
        String::new()
    } else {
        format!("; {}", others.join("; "))
    };
    Step::ok(
        "bgp",
        format!(
            "{} from {} with next hop {}{equal}{why}",
            route.prefix, best.from, best.next_hop
        ),
    )
}

/// The gateway's neighbor entry, the interface and its MTU.
fn next_hop(facts: &Facts, way: &Way, decision: &Decision) -> Vec<Step> {
    let mut steps = Vec::new();
    let interface = decision.interface.as_deref().unwrap_or("?");
    if let Some(link) = &way.link {
        if !link.is_up || !link.has_carrier {
            let what = if link.is_up { "has no carrier" } else { "is down" };
            steps.push(Step::broken(
                "interface",
                Fault::InterfaceDown,
                format!("interface {interface} {what}"),
                format!("ip link set {interface} up; check the cable and the port of the switch"),
            ));
        } else {
            steps.push(Step::ok(
                "interface",
                format!("{interface} is up, MTU {}", link.mtu),
            ));
        }
        steps.extend(mtu(facts, decision, link.mtu));
    }
    let address = decision.gateway.unwrap_or(facts.destination.address);
    match &way.neighbor {
        Some(neighbor) if neighbor.has_failed() => steps.push(Step::broken(
            "next hop",
            Fault::NeighborFailed,
            format!(
                "{address} does not answer on {interface} (neighbor entry {})",
                neighbor.state
            ),
            format!("check that {address} is up and on the same link (arping -I {interface} {address})"),
        )),
        Some(neighbor) => steps.push(Step::ok(
            "next hop",
            format!("{address} on {interface}: {}", neighbor.state),
        )),
        None => steps.push(Step::unknown(
            "next hop",
            format!("{address} on {interface}: no neighbor entry yet"),
        )),
    }
    steps
}

fn mtu(facts: &Facts, decision: &Decision, link: u32) -> Option<Step> {
    let pod = facts.source.pod.as_ref().and_then(|pod| pod.link.as_ref())?;
    let smallest = decision.mtu.unwrap_or(link).min(link);
    (smallest < pod.mtu).then(|| {
        Step::warning(
            "mtu",
            Fault::SmallerMtu,
            format!(
                "the path takes {smallest} octets, the pod sends up to {}: large packets depend on ICMP",
                pod.mtu
            ),
            format!("set cni.mtu to {smallest}, or raise the MTU of the path"),
        )
    })
}

/// Whether others know where the pods of a block are.
pub(super) fn block(block: &BlockFacts) -> Step {
    const PART: &str = "advertisement";
    let prefix = &block.prefix;
    let withheld: Vec<String> = block
        .peers
        .iter()
        .filter_map(|(peer, why)| why.as_ref().map(|why| format!("{peer}: {why}")))
        .collect();
    let is_sent = block.peers.iter().any(|(_, why)| why.is_none());
    if is_sent && withheld.is_empty() {
        let peers: Vec<&str> = block.peers.iter().map(|(peer, _)| peer.as_str()).collect();
        return Step::ok(
            PART,
            format!("block {prefix} is advertised to {}", peers.join(", ")),
        );
    }
    if is_sent {
        return Step::warning(
            PART,
            Fault::ExportRejected,
            format!(
                "block {prefix} is not advertised to all peers: {}",
                withheld.join("; ")
            ),
            "podroute show routes --to PEER names the rule",
        );
    }
    if withheld.is_empty() {
        return Step::broken(
            PART,
            Fault::BlockNotAdvertised,
            format!(
                "block {prefix} is advertised to nobody ({}): no session is established",
                block.state
            ),
            "podroute show peers names the cause; repair a session",
        );
    }
    Step::broken(
        PART,
        Fault::ExportRejected,
        format!("block {prefix} is advertised to nobody: {}", withheld.join("; ")),
        "change the export policy: podroute policy test --peer PEER --export tries it",
    )
}

/// The way of the answer.
pub(super) fn back(facts: &Facts) -> Vec<Step> {
    const PART: &str = "return";
    let source = facts.source.address;
    let decision = match &facts.back.kernel {
        KernelAnswer::Route(decision) => decision,
        KernelAnswer::Unknown(error) => {
            return vec![Step::unknown(
                PART,
                format!("the kernel cannot be asked: {error}"),
            )];
        }
        _ => {
            return vec![Step::broken(
                PART,
                Fault::NoReturnRoute,
                format!("there is no route back to {source}: answers are dropped"),
                format!(
                    "podroute explain {} {source} on this node names the cause",
                    facts.destination.address
                ),
            )];
        }
    };
    let out = decision.interface.as_deref().unwrap_or("?");
    let mut steps = vec![Step::ok(
        PART,
        format!("answers to {source}: {}", describe(decision)),
    )];
    let back = facts.back.interfaces();
    let arrivals: Vec<&str> = facts
        .host
        .arrivals
        .iter()
        .map(|arrival| arrival.interface.as_str())
        .collect();
    if !arrivals.is_empty() && !arrivals.iter().any(|interface| back.contains(interface)) {
        steps.push(Step::warning(
            PART,
            Fault::AsymmetricReturn,
            format!("packets arrive on {} and answers leave by {out}", arrivals.join(", ")),
            "a firewall on the path that sees one direction only drops them: make both ways the same, or exempt them there",
        ));
    }
    if let Some(neighbor) = facts
        .back
        .neighbor
        .as_ref()
        .filter(|neighbor| neighbor.has_failed())
    {
        let address = decision.gateway.unwrap_or(source);
        steps.push(Step::broken(
            PART,
            Fault::NeighborFailed,
            format!(
                "{address} does not answer on {out} (neighbor entry {})",
                neighbor.state
            ),
            format!("check that {address} is up and on the same link (arping -I {out} {address})"),
        ));
    }
    steps
}

/// `10.244.3.0/24 via 192.0.2.13 dev eth0 (podroute)`
fn describe(decision: &Decision) -> String {
    let prefix = decision
        .matched
        .as_ref()
        .map_or("?", |matched| matched.prefix.as_str());
    let via = decision
        .gateway
        .map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let interface = decision.interface.as_deref().unwrap_or("?");
    let protocol = decision.matched.as_ref().map_or_else(String::new, |matched| {
        format!(" ({})", protocol_name(matched.protocol))
    });
    format!("{prefix}{via} dev {interface}{protocol}")
}
