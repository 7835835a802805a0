//! Whether a packet passes, from the objects alone, sentence by sentence of Kubernetes' documentation ("Network Policies", "The two
//! sorts of pod isolation", "The NetworkPolicy resource"). Uses nothing of the compiler.

use std::net::IpAddr;

use podroute_netpol::{Direction, LabelSelector, Operator, Peer, Policy, PortRule, Ports, Rule};

use super::world::{Labels, Pod, World};

/// "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod and the
/// ingress policy on the destination pod need to allow the connection." Only the ends on this node are asked.
pub fn allows(world: &World, source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> bool {
    let (from, to) = (pod_of(world, source), pod_of(world, destination));
    // "A Pod cannot block access to itself."
    if let (Some(from), Some(to)) = (from, to)
        && std::ptr::eq(from, to)
    {
        return true;
    }
    let egress = from.filter(|pod| pod.local);
    let ingress = to.filter(|pod| pod.local);
    egress.is_none_or(|pod| one_end(world, pod, Direction::Egress, destination, to, (protocol, port)))
        && ingress.is_none_or(|pod| one_end(world, pod, Direction::Ingress, source, to, (protocol, port)))
}

fn pod_of(world: &World, address: IpAddr) -> Option<&Pod> {
    world.pods.iter().find(|pod| pod.addresses.contains(&address))
}

fn one_end(
    world: &World,
    pod: &Pod,
    direction: Direction,
    other: IpAddr,
    receiver: Option<&Pod>,
    port: (u8, u16),
) -> bool {
    // "By default, a pod is non-isolated … all connections are allowed. A pod is isolated if there is any NetworkPolicy that
    // both selects the pod and has the direction in its policyTypes."
    let applying: Vec<&Policy> = world
        .policies
        .iter()
        .filter(|policy| policy.namespace == pod.namespace && selects(&policy.selects, &pod.labels))
        .filter(|policy| policy.rules(direction).is_some())
        .collect();
    if applying.is_empty() {
        return true;
    }
    // "The effects of those policies combine additively."
    applying.iter().any(|policy| {
        policy
            .rules(direction)
            .unwrap()
            .iter()
            .any(|rule| rule_allows(world, policy, rule, direction, other, receiver, port))
    })
}

/// "Each rule allows traffic which matches both the from (to) and ports sections."
fn rule_allows(
    world: &World,
    policy: &Policy,
    rule: &Rule,
    direction: Direction,
    other: IpAddr,
    receiver: Option<&Pod>,
    (protocol, port): (u8, u16),
) -> bool {
    let at_port = |names: bool| match &rule.ports {
        // "If this field is empty or missing, this rule matches all ports."
        Ports::All => true,
        Ports::Some(ports) => ports.iter().any(|own| match own {
            PortRule::Range {
                protocol: p,
                from,
                to,
            } => *p == protocol && *from <= port && port <= *to,
            PortRule::Named { protocol: p, name } => {
                let first = receiver.and_then(|pod| {
                    pod.ports
                        .iter()
                        .find(|own| own.name == *name && own.protocol == *p)
                });
                names && *p == protocol && first.is_some_and(|own| own.port == port)
            }
        }),
    };
    let Some(peers) = &rule.peers else {
        // "If this field is empty or missing, this rule matches all sources."
        return at_port(true);
    };
    peers.iter().any(|peer| match peer {
        Peer::Block { cidr, except } => {
            let inside = cidr.contains(&other) && !except.iter().any(|net| net.contains(&other));
            inside && at_port(direction == Direction::Ingress)
        }
        Peer::Pods { namespaces, pods } => {
            let Some(pod) = pod_of(world, other) else {
                return false;
            };
            let in_namespace = match namespaces {
                None => pod.namespace == policy.namespace,
                Some(selector) => world
                    .namespaces
                    .get(&pod.namespace)
                    .is_some_and(|labels| selects(selector, labels)),
            };
            in_namespace
                && pods
                    .as_ref()
                    .is_none_or(|selector| selects(selector, &pod.labels))
                && at_port(true)
        }
    })
}

/// "The result of matchLabels and matchExpressions are ANDed."
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.requirements.iter().all(|one| {
        let value = labels.get(&one.key);
        match one.operator {
            Operator::In => value.is_some() && one.values.contains(value.unwrap()),
            Operator::NotIn => value.is_none() || !one.values.contains(value.unwrap()),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    })
}
