//! Converts objects of Kubernetes into the model's. Pods are reduced while they are decoded.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Selector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use podroute_netpol::{
    LabelSelector, NamedPort, Operator, Peer, PodInput, Policy, PortRule, Ports, Requirement, Rule,
};
use serde::Deserialize;

/// A pod, as far as policies need it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: String,
    protocol: String,
    container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Address>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Address {
    ip: String,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Namespace and name.
pub(super) fn key(meta: &ObjectMeta) -> (String, String) {
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

pub(super) fn labels(meta: &ObjectMeta) -> Vec<(String, String)> {
    meta.labels.clone().unwrap_or_default().into_iter().collect()
}

impl Pod {
    /// None: it has ended or is in the host's network, and no policy concerns it.
    pub(super) fn input(&self, node: &str) -> Option<PodInput> {
        let is_over = matches!(self.status.phase.as_str(), "Succeeded" | "Failed");
        if is_over || self.spec.host_network {
            return None;
        }
        let (namespace, name) = key(&self.metadata);
        let all = self.status.pod_ips.iter().map(|address| &address.ip);
        let mut addresses: Vec<_> = all.filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            addresses.extend(self.status.pod_ip.parse::<std::net::IpAddr>());
        }
        let containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        let ports = containers
            .flat_map(|container| container.ports.iter())
            .filter(|port| !port.name.is_empty());
        let ports = ports.filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone(),
                protocol: protocol(&port.protocol)?,
                port: port.container_port,
            })
        });
        Some(PodInput {
            namespace,
            name,
            labels: labels(&self.metadata),
            addresses,
            ports: ports.collect(),
            is_local: !node.is_empty() && self.spec.node_name == node,
            created: self
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
        })
    }
}

/// A policy, and what of it cannot be used: a peer or port that means nothing allows nothing, the rest applies.
pub(super) fn policy(object: &NetworkPolicy) -> (Policy, Vec<String>) {
    let (namespace, name) = key(&object.metadata);
    let mut problems = Vec::new();
    let spec = object.spec.clone().unwrap_or_default();
    let ingress = spec.ingress.unwrap_or_default();
    let egress = spec.egress.unwrap_or_default();
    // "If this field is not specified, it will default based on the existence of ingress or egress rules."
    let (has_ingress, has_egress) = match spec.policy_types.filter(|types| !types.is_empty()) {
        None => (true, !egress.is_empty()),
        Some(types) => {
            let has = |kind: &str| types.iter().any(|own| own == kind);
            (has("Ingress"), has("Egress"))
        }
    };
    let ingress: Vec<Rule> = ingress
        .iter()
        .map(|rule| ingress_rule(rule, &mut problems))
        .collect();
    let egress: Vec<Rule> = egress
        .iter()
        .map(|rule| egress_rule(rule, &mut problems))
        .collect();
    let policy = Policy {
        namespace,
        name,
        selects: selector(spec.pod_selector.as_ref(), &mut problems).unwrap_or_default(),
        ingress: has_ingress.then_some(ingress),
        egress: has_egress.then_some(egress),
    };
    (policy, problems)
}

fn ingress_rule(rule: &NetworkPolicyIngressRule, problems: &mut Vec<String>) -> Rule {
    Rule {
        peers: peers(rule.from.as_deref(), problems),
        ports: ports(rule.ports.as_deref(), problems),
    }
}

fn egress_rule(rule: &NetworkPolicyEgressRule, problems: &mut Vec<String>) -> Rule {
    Rule {
        peers: peers(rule.to.as_deref(), problems),
        ports: ports(rule.ports.as_deref(), problems),
    }
}

/// "If this field is empty or missing, this rule matches all sources."
fn peers(written: Option<&[NetworkPolicyPeer]>, problems: &mut Vec<String>) -> Option<Vec<Peer>> {
    let written = written.filter(|peers| !peers.is_empty())?;
    Some(written.iter().filter_map(|own| peer(own, problems)).collect())
}

fn peer(written: &NetworkPolicyPeer, problems: &mut Vec<String>) -> Option<Peer> {
    if let Some(block) = &written.ip_block {
        let mut net = |text: &str| match text.parse::<IpNet>() {
            Ok(net) => Some(net.trunc()),
            Err(_) => {
                problems.push(format!("ipBlock '{text}' is no prefix"));
                None
            }
        };
        let cidr = net(&block.cidr)?;
        let except = block.except.iter().flatten().map(|text| net(text));
        // An exception that cannot be read could be all of it.
        let except = except.collect::<Option<Vec<IpNet>>>()?;
        return Some(Peer::Block { cidr, except });
    }
    if written.pod_selector.is_none() && written.namespace_selector.is_none() {
        problems.push("a peer selects nothing".to_owned());
        return None;
    }
    let part = |own: &Option<Selector>, problems: &mut Vec<String>| match own {
        None => Some(None),
        Some(own) => selector(Some(own), problems).map(Some),
    };
    Some(Peer::Pods {
        namespaces: part(&written.namespace_selector, problems)?,
        pods: part(&written.pod_selector, problems)?,
    })
}

fn ports(written: Option<&[NetworkPolicyPort]>, problems: &mut Vec<String>) -> Ports {
    match written.filter(|ports| !ports.is_empty()) {
        None => Ports::All,
        Some(written) => Ports::Some(written.iter().filter_map(|own| port(own, problems)).collect()),
    }
}

fn port(written: &NetworkPolicyPort, problems: &mut Vec<String>) -> Option<PortRule> {
    let text = written.protocol.as_deref().unwrap_or("TCP");
    let Some(protocol) = protocol(text) else {
        problems.push(format!("protocol '{text}' is not TCP, UDP or SCTP"));
        return None;
    };
    let number = |value: i32, problems: &mut Vec<String>| {
        let port = u16::try_from(value).ok();
        if port.is_none() {
            problems.push(format!("port {value} is not in 0–65535"));
        }
        port
    };
    match &written.port {
        None => Some(PortRule::Range {
            protocol,
            from: 0,
            to: u16::MAX,
        }),
        Some(IntOrString::String(name)) => Some(PortRule::Named {
            protocol,
            name: name.clone(),
        }),
        Some(IntOrString::Int(port)) => {
            let from = number(*port, problems)?;
            let to = written.end_port.map_or(Some(from), |end| number(end, problems))?;
            Some(PortRule::Range { protocol, from, to })
        }
    }
}

fn protocol(text: &str) -> Option<u8> {
    match text {
        "" | "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// None: one of its requirements cannot be read. It then selects nothing, or as a policy's subject everything.
fn selector(written: Option<&Selector>, problems: &mut Vec<String>) -> Option<LabelSelector> {
    let Some(written) = written else {
        return Some(LabelSelector::default());
    };
    let labels = written.match_labels.iter().flatten().map(|(key, value)| {
        Some(Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        })
    });
    let expressions = written.match_expressions.iter().flatten().map(|expression| {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                problems.push(format!("operator '{other}' is not known"));
                return None;
            }
        };
        Some(Requirement {
            key: expression.key.clone(),
            operator,
            values: expression.values.clone().unwrap_or_default(),
        })
    });
    let requirements = labels.chain(expressions).collect::<Option<Vec<_>>>()?;
    Some(LabelSelector { requirements })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_of(text: &str) -> (Policy, Vec<String>) {
        policy(&serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn types_have_their_defaults() {
        let with = |spec: &str| policy_of(&format!("metadata: {{namespace: x, name: p}}\nspec: {spec}")).0;
        let directions = |policy: &Policy| (policy.ingress.is_some(), policy.egress.is_some());
        assert_eq!(directions(&with("{podSelector: {}}")), (true, false));
        assert_eq!(directions(&with("{podSelector: {}, egress: [{}]}")), (true, true));
        assert_eq!(directions(&with("{podSelector: {}, egress: []}")), (true, false));
        assert_eq!(
            directions(&with("{podSelector: {}, policyTypes: [Egress]}")),
            (false, true)
        );
        assert_eq!(
            directions(&with("{podSelector: {}, policyTypes: [Ingress, Egress]}")),
            (true, true)
        );
    }

    #[test]
    fn rules_are_read() {
        let (policy, problems) = policy_of(
            "
metadata: {namespace: x, name: p}
spec:
  podSelector: {matchLabels: {app: a}, matchExpressions: [{key: tier, operator: NotIn, values: [b]}]}
  ingress:
  - {}
  - from: [{ipBlock: {cidr: 10.0.0.5/8, except: [10.1.0.0/16]}}, {podSelector: {}}, {namespaceSelector: {}, podSelector: {}}]
    ports: [{port: 80}, {port: 53, protocol: UDP}, {port: web}, {port: 1000, endPort: 2000, protocol: SCTP}, {protocol: UDP}]
",
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(policy.selects.requirements.len(), 2);
        let rules = policy.ingress.unwrap();
        assert_eq!((&rules[0].peers, &rules[0].ports), (&None, &Ports::All));
        let everything = LabelSelector::default();
        assert_eq!(
            rules[1].peers,
            Some(vec![
                Peer::Block {
                    cidr: "10.0.0.0/8".parse().unwrap(),
                    except: vec!["10.1.0.0/16".parse().unwrap()],
                },
                Peer::Pods {
                    namespaces: None,
                    pods: Some(everything.clone()),
                },
                Peer::Pods {
                    namespaces: Some(everything.clone()),
                    pods: Some(everything),
                },
            ])
        );
        let range = |protocol, from, to| PortRule::Range { protocol, from, to };
        let web = PortRule::Named {
            protocol: 6,
            name: "web".to_owned(),
        };
        let expected = vec![
            range(6, 80, 80),
            range(17, 53, 53),
            web,
            range(132, 1000, 2000),
            range(17, 0, 65535),
        ];
        assert_eq!(rules[1].ports, Ports::Some(expected));
    }

    #[test]
    fn what_cannot_be_used_allows_nothing_and_is_named() {
        let (policy, problems) = policy_of(
            "
metadata: {namespace: x, name: p}
spec:
  podSelector: {}
  ingress:
  - from: [{ipBlock: {cidr: nonsense}}, {}, {podSelector: {matchExpressions: [{key: a, operator: Like}]}}]
  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]
    ports: [{port: 80, protocol: ICMP}, {port: 70000}]
",
        );
        assert_eq!(problems.len(), 6, "{problems:?}");
        let rules = policy.ingress.unwrap();
        assert!(
            rules.iter().all(|rule| rule.peers == Some(Vec::new())),
            "{rules:?}"
        );
        assert_eq!(rules[1].ports, Ports::Some(Vec::new()));
    }

    #[test]
    fn pods_are_reduced_to_what_policies_need() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "x", "name": "a", "labels": {"app": "a"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "node-1", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}, {"containerPort": 81}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .unwrap();
        let input = pod.input("node-1").unwrap();
        assert_eq!(
            (input.addresses.len(), input.ports.len(), input.is_local),
            (2, 1, true)
        );
        assert!(!pod.input("node-2").unwrap().is_local);
        for (field, value) in [("phase", "Succeeded"), ("phase", "Failed")] {
            let mut over = pod.clone();
            assert_eq!(field, "phase");
            over.status.phase = value.to_owned();
            assert!(over.input("node-1").is_none());
        }
        let mut host = pod;
        host.spec.host_network = true;
        assert!(host.input("node-1").is_none());
    }
}
