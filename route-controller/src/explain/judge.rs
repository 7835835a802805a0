//! The steps of a packet on a node, in its order.

use super::facts::{End, Facts, Probe, ServiceFacts};
use super::report::{Explanation, Fault, Hop, Step, Verdict};
use super::route;
use crate::who::Owner;

/// Explains one packet from what this node knows.
pub(crate) fn explain(facts: &Facts) -> Explanation {
    let hop = Hop {
        node: facts.node.clone(),
        role: role(facts).to_owned(),
        steps: steps(facts),
    };
    let mut explanation = Explanation {
        source: format!("{} ({})", facts.source.address, facts.source.owner),
        destination: format!("{} ({})", facts.destination.address, facts.destination.owner),
        port: facts.port.clone(),
        hops: vec![hop],
        verdict: Verdict::Unknown,
        first_fault: None,
        other_node: other_node(facts),
    };
    explanation.conclude();
    explanation
}

fn role(facts: &Facts) -> &'static str {
    match (facts.source.is_here(), facts.destination.is_here()) {
        (true, true) => "both",
        (true, false) => "source",
        (false, true) => "destination",
        (false, false) => "transit",
    }
}

fn other_node(facts: &Facts) -> Option<String> {
    let other = if facts.source.is_here() {
        &facts.destination
    } else {
        &facts.source
    };
    match &other.owner {
        Owner::Node { name } => Some(name.clone()),
        Owner::NodeBlock { node, .. } => Some(node.clone()),
        _ => None,
    }
}

fn steps(facts: &Facts) -> Vec<Step> {
    let mut steps = agent(facts);
    steps.extend(facts.source.pod.as_ref().map(|_| pod("source", &facts.source)));
    steps.extend(facts.service.iter().flat_map(service));
    steps.extend(policy(facts));
    steps.extend(host(facts));
    steps.extend(arrivals(facts));
    steps.extend(destination(facts));
    steps.extend(back(facts));
    steps.extend(probe(facts));
    steps
}

fn agent(facts: &Facts) -> Vec<Step> {
    let agent = &facts.agent;
    if let Some(error) = &agent.error {
        return vec![Step::warning(
            "agent",
            Fault::AgentDown,
            format!(
                "the agent does not answer: {error}; the kernel forwards as it was left, and BGP is not known here"
            ),
            "start the agent and look at its log",
        )];
    }
    let mut steps = Vec::new();
    let is_node_of = facts.destination.is_here() || facts.source.is_here();
    match agent.drained.as_str() {
        "withdrawn" if is_node_of => steps.push(Step::broken(
            "agent",
            Fault::NodeDrained,
            "this node is drained: its routes are withdrawn, nobody else reaches its pods",
            "podroute undrain",
        )),
        "prefer-others" if is_node_of => steps.push(Step::warning(
            "agent",
            Fault::NodeDrained,
            "this node is being drained: others prefer other paths",
            "podroute undrain",
        )),
        _ => {}
    }
    for watch in &agent.watches {
        let since = watch
            .since_seconds
            .map_or_else(String::new, |seconds| format!(" for {seconds} s"));
        let error = watch
            .error
            .as_ref()
            .map_or_else(String::new, |error| format!(": {error}"));
        steps.push(Step::warning(
            "agent",
            Fault::StaleApiData,
            format!(
                "the API server does not answer for {}{since}{error}; what is known of it is old",
                watch.resource
            ),
            "podroute show cluster names the watch; check the way to the API server",
        ));
    }
    if steps.is_empty() {
        steps.push(Step::ok(
            "agent",
            "it runs, and what it knows of the cluster is current",
        ));
    }
    steps
}

/// The state of a pod of this node.
fn pod(part: &str, end: &End) -> Step {
    let Some(pod) = &end.pod else {
        return Step::unknown(part, "not a pod of this node");
    };
    let name = &end.owner;
    if pod.is_gone || !pod.is_complete {
        return Step::broken(
            part,
            Fault::PodGone,
            format!("{name}: its network namespace does not exist, or its ADD was not finished"),
            "podroute ipam check --fix frees the address; the runtime has to start the pod again",
        );
    }
    let Some(link) = &pod.link else {
        return Step::broken(
            part,
            Fault::PodInterfaceDown,
            format!("{name}: interface {} does not exist", pod.interface),
            "podroute ipam check shows what is missing; delete the pod so that it is created again",
        );
    };
    if !link.is_up || !link.has_carrier || pod.is_up_inside == Some(false) {
        let which = if link.is_up {
            "the pod's end of it is down"
        } else {
            "it is down"
        };
        return Step::broken(
            part,
            Fault::PodInterfaceDown,
            format!("{name}: interface {}: {which}", link.name),
            format!(
                "ip link set {} up, and in the pod's namespace ip link set eth0 up",
                link.name
            ),
        );
    }
    if pod.is_own_address || pod.route_interfaces.len() > 1 {
        let where_else = if pod.is_own_address {
            "this host has the same address".to_owned()
        } else {
            format!("host routes lead to {}", pod.route_interfaces.join(" and "))
        };
        return Step::broken(
            part,
            Fault::DuplicateAddress,
            format!(
                "{name}: its address {} is in use twice: {where_else}",
                end.address
            ),
            "remove the address or the route that is not podroute's (ip addr, ip route)",
        );
    }
    if pod.route_interfaces.is_empty() {
        return Step::broken(
            part,
            Fault::PodRouteMissing,
            format!("{name}: the host has no route to {}", end.address),
            "the agent restores it; podroute ipam check says what is missing",
        );
    }
    if pod.route_interfaces != [link.name.clone()] {
        return Step::broken(
            part,
            Fault::ForeignRoute,
            format!(
                "{name}: the route to {} leads to {}, not to its interface {}",
                end.address,
                pod.route_interfaces.join(", "),
                link.name
            ),
            "remove that route: another program made it",
        );
    }
    Step::ok(part, format!("{name}: interface {} is up", link.name))
}

fn service(service: &ServiceFacts) -> Vec<Step> {
    const PART: &str = "service";
    let name = &service.name;
    let mut steps = Vec::new();
    if let Some(why) = &service.rejected {
        steps.push(Step::broken(
            PART,
            Fault::ServiceRejected,
            format!("Service {name}: its address is rejected: {why}"),
            "add the address to services.ranges if it may be announced",
        ));
    }
    if !service.has_endpoint {
        steps.push(Step::broken(
            PART,
            Fault::ServiceWithoutEndpoints,
            format!("Service {name} has no ready endpoint: kube-proxy rejects its packets"),
            format!("kubectl describe endpointslices of {name}: selector and readiness of its pods"),
        ));
    }
    if !steps.is_empty() {
        return steps;
    }
    steps.push(match (&service.announced, &service.not_announced) {
        (Some(prefix), _) => Step::ok(PART, format!("Service {name}: this node announces {prefix}")),
        (None, Some(why)) => Step::warning(
            PART,
            Fault::ServiceNotAnnounced,
            format!("Service {name}: this node does not announce its address: {why}"),
            "podroute show services on the other nodes: one of them has to announce it",
        ),
        (None, None) => Step::ok(
            PART,
            format!("Service {name}: an address inside the cluster, which kube-proxy translates"),
        ),
    });
    let place = if service.has_endpoint_here {
        "on this node"
    } else {
        "on other nodes"
    };
    steps.push(Step::ok(PART, format!("Service {name}: ready endpoints {place}")));
    steps
}

fn policy(facts: &Facts) -> Vec<Step> {
    const PART: &str = "network policy";
    let Some(policy) = &facts.policy else {
        return Vec::new();
    };
    if policy.allowed {
        return vec![Step::ok(PART, format!("port {} is allowed", policy.port))];
    }
    let forbidding = policy.ends.iter().filter(|end| !end.allowed);
    forbidding
        .map(|end| {
            let pod = end.pod.clone().unwrap_or_else(|| end.address.to_string());
            let names: Vec<&str> = end.policies.keys().map(String::as_str).collect();
            let place = if end.on_this_node { "on this node" } else { "on its node" };
            Step::broken(
                PART,
                Fault::NetworkPolicy,
                format!("{} of {pod} is dropped {place}: no rule of {} allows port {}", end.direction, names.join(", "), policy.port),
                "podroute network-policy explain shows each policy; add a rule, or change the labels that it selects",
            )
        })
        .collect()
}

fn host(facts: &Facts) -> Vec<Step> {
    const PART: &str = "host";
    let mut steps = Vec::new();
    // What a host sends to itself or from itself is not forwarded.
    let is_forwarded = facts.source.owner != Owner::Host && facts.destination.owner != Owner::Host;
    if !facts.host.forwards && is_forwarded {
        let setting = if facts.source.address.is_ipv4() {
            "net.ipv4.ip_forward"
        } else {
            "net.ipv6.conf.all.forwarding"
        };
        steps.push(Step::broken(
            PART,
            Fault::ForwardingOff,
            format!("{setting} is 0: the kernel forwards nothing"),
            format!("sysctl -w {setting}=1, and find the program that changed it"),
        ));
    }
    if let Some((count, most)) = facts.host.conntrack
        && count >= most
    {
        steps.push(Step::broken(
            PART,
            Fault::ConntrackFull,
            format!("the table of connections is full ({count} of {most}): new connections are dropped"),
            "sysctl -w net.netfilter.nf_conntrack_max=…, and look for what opens so many connections",
        ));
    }
    if steps.is_empty() {
        let tracked = facts.host.conntrack.map_or_else(String::new, |(count, most)| {
            format!(", {count} of {most} connections tracked")
        });
        steps.push(Step::ok(PART, format!("it forwards{tracked}")));
    }
    steps
}

/// A packet from elsewhere: the reverse path filter of each interface that it may come by.
fn arrivals(facts: &Facts) -> Vec<Step> {
    const PART: &str = "arrival";
    let back = facts.back.interfaces();
    let source = facts.source.address;
    let mut steps = Vec::new();
    for arrival in &facts.host.arrivals {
        let interface = arrival.interface.as_str();
        let is_dropped = match arrival.rp_filter {
            0 => false,
            1 => !back.contains(interface),
            _ => back.is_empty(),
        };
        if !is_dropped {
            continue;
        }
        let answers = match back.first() {
            Some(out) => format!("answers leave by {out}"),
            None => "there is no way back".to_owned(),
        };
        steps.push(Step::broken(
            PART,
            Fault::ReversePathFilter,
            format!("packets from {source} that arrive on {interface} are dropped by the reverse path filter: {answers}"),
            format!("sysctl -w net.ipv4.conf.{interface}.rp_filter=2 (loose), and the same for all; or make both ways the same"),
        ));
    }
    steps
}

/// From here on to the destination.
fn destination(facts: &Facts) -> Vec<Step> {
    const PART: &str = "destination";
    match &facts.destination.owner {
        Owner::Pod { .. } => {
            let state = pod(PART, &facts.destination);
            let mut steps = vec![state];
            steps.extend(port(facts));
            steps
        }
        Owner::Host => vec![Step::ok(PART, "this node itself")],
        Owner::FreeInBlock { block } => vec![Step::broken(
            PART,
            Fault::PodGone,
            format!(
                "{} is in this node's block {block}, and no pod has it",
                facts.destination.address
            ),
            "the pod has ended or has another address: kubectl get pods -o wide",
        )],
        // kube-proxy chooses an endpoint before the packet is routed.
        Owner::Service { .. } => Vec::new(),
        Owner::Node { .. } | Owner::NodeBlock { .. } | Owner::Unknown => route::forward(facts),
    }
}

fn port(facts: &Facts) -> Option<Step> {
    const PART: &str = "port";
    let port = facts.port.as_ref()?;
    let listens = facts.destination.pod.as_ref()?.listens?;
    Some(if listens {
        Step::ok(PART, format!("a socket of the pod listens on port {port}"))
    } else {
        Step::broken(
            PART,
            Fault::PortClosed,
            format!("nothing in the pod listens on port {port}"),
            "start the server, or have it listen on all addresses and not on 127.0.0.1",
        )
    })
}

/// The answer's way: back to the source, and whether others know where this node's pods are.
fn back(facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    // Who sends needs its block advertised as well as who is reached: the answer comes back to it.
    let local = [&facts.source, &facts.destination]
        .into_iter()
        .filter(|end| end.is_here());
    let is_one_node = facts.source.is_here() && facts.destination.is_here();
    if !is_one_node {
        steps.extend(local.filter_map(|end| end.block.as_ref()).map(route::block));
    }
    if !facts.source.is_here() {
        steps.extend(route::back(facts));
    }
    steps
}

fn probe(facts: &Facts) -> Vec<Step> {
    const PART: &str = "probe";
    let probe = match &facts.probe {
        None => return Vec::new(),
        Some(Probe::NotSent(error)) => {
            return vec![Step::unknown(PART, format!("probes cannot be sent: {error}"))];
        }
        Some(Probe::Found(probe)) => probe,
    };
    let mut steps: Vec<Step> = probe
        .hops
        .iter()
        .map(|hop| {
            let who = hop
                .address
                .map_or_else(|| "nobody".to_owned(), |address| address.to_string());
            let time = hop.micros.map_or_else(String::new, |micros| {
                format!(", {}.{:03} ms", micros / 1000, micros % 1000)
            });
            let lost = hop.sent.saturating_sub(hop.answered);
            Step::ok(
                PART,
                format!(
                    "{} hops away: {who} answers{time}, {lost} of {} lost",
                    hop.distance, hop.sent
                ),
            )
        })
        .collect();
    if probe.answered == 0 {
        let last = probe.hops.iter().rev().find_map(|hop| hop.address);
        let after = last.map_or_else(|| "the first router".to_owned(), |last| last.to_string());
        steps.push(Step::broken(
            PART,
            Fault::PacketsLost,
            format!("no answer to {} probes: lost behind {after}", probe.sent),
            "run podroute explain on the next node or router",
        ));
    } else if probe.answered < probe.sent {
        steps.push(Step::warning(
            PART,
            Fault::PacketsLost,
            format!("{} of {} probes lost", probe.sent - probe.answered, probe.sent),
            "look for errors and full queues on the interfaces of the path (ip -s link)",
        ));
    }
    if let Some(mtu) = probe.path_mtu.filter(|mtu| *mtu < probe.first_mtu) {
        steps.push(Step::broken(
            PART,
            Fault::SmallerMtu,
            format!(
                "packets of more than {mtu} octets do not pass; the interface sends up to {}",
                probe.first_mtu
            ),
            format!("set cni.mtu to {mtu}, or raise the MTU of the link behind the last router that answers"),
        ));
    }
    if probe.port_is_open == Some(false) {
        let port = facts.port.as_deref().unwrap_or_default();
        steps.push(Step::broken(
            PART,
            Fault::PortClosed,
            format!("a connection to port {port} is refused"),
            "start the server, or have it listen on all addresses and not on 127.0.0.1",
        ));
    }
    steps
}
