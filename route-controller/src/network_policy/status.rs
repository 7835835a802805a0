//! Answers for the command `podroute network-policy`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use podroute_netpol::{EndReport, Explanation, Model, Policy};
use serde::{Deserialize, Serialize};

use super::worker::Worker;
use super::{NetworkPolicies, QuestionError, convert};

/// `podroute network-policy show`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoliciesStatus {
    /// Pods, namespaces and policies are all known.
    pub(crate) synced: bool,
    pub(crate) error: Option<String>,
    pub(crate) policies: Vec<PolicyStatus>,
    pub(crate) dropped: Vec<DroppedStatus>,
    pub(crate) waiting_dropped: u64,
    pub(crate) midstream_dropped: u64,
    pub(crate) accepted: u64,
    pub(crate) ended_connections: u64,
    pub(crate) repairs: u64,
}

/// A policy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) directions: Vec<String>,
    /// Pods of this node that it isolates.
    pub(crate) local_pods: usize,
    /// What of it cannot be used.
    pub(crate) problems: Vec<String>,
}

/// Packets that the policies of a namespace dropped.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DroppedStatus {
    pub(crate) direction: String,
    pub(crate) namespace: String,
    pub(crate) packets: u64,
}

/// `podroute network-policy explain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplainQuestion {
    /// An address, or `namespace/pod`.
    pub(crate) source: String,
    pub(crate) destination: String,
    /// `80`, `53/udp`.
    pub(crate) port: String,
}

/// An answer for each family that both ends have.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplanationStatus {
    pub(crate) port: String,
    pub(crate) allowed: bool,
    pub(crate) itself: bool,
    /// Source and destination.
    pub(crate) ends: Vec<EndStatus>,
}

/// One end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndStatus {
    pub(crate) address: IpAddr,
    pub(crate) pod: Option<String>,
    pub(crate) on_this_node: bool,
    pub(crate) direction: String,
    pub(crate) allowed: bool,
    /// Policies that select the pod, each with the number of the rule that allows, counted from 1.
    pub(crate) policies: BTreeMap<String, Option<usize>>,
    /// Packets that these policies have dropped on this node, where it is this node's pod.
    pub(crate) dropped_in_namespace: Option<u64>,
}

/// An established connection that a policy would end.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CutStatus {
    pub(crate) source: IpAddr,
    pub(crate) source_pod: Option<String>,
    pub(crate) destination: IpAddr,
    pub(crate) destination_pod: Option<String>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

impl NetworkPolicies {
    pub(crate) async fn show(&self) -> Result<PoliciesStatus, QuestionError> {
        self.ask(show).await
    }

    pub(crate) async fn explain(
        &self,
        question: ExplainQuestion,
    ) -> Result<Vec<ExplanationStatus>, QuestionError> {
        self.ask(move |worker| explain(worker, &question)).await?
    }

    /// Connections that these policies would cut, in addition to those that are there or in their place.
    pub(crate) async fn cut_by(&self, text: String) -> Result<Vec<CutStatus>, QuestionError> {
        let policies = parse(&text)?;
        self.ask(move |worker| cut_by(worker, policies)).await?
    }
}

fn show(worker: &mut Worker) -> PoliciesStatus {
    let totals = worker.enforcer.totals().unwrap_or_default();
    let model = &worker.enforcer.model;
    let local = model.local_pods_by_policy();
    let mut policies: Vec<PolicyStatus> = model
        .policies()
        .map(|policy| {
            let key = (policy.namespace.clone(), policy.name.clone());
            PolicyStatus {
                directions: podroute_netpol::Direction::BOTH
                    .into_iter()
                    .filter(|direction| policy.rules(*direction).is_some())
                    .map(|direction| direction.to_string())
                    .collect(),
                local_pods: local.get(&key).copied().unwrap_or_default(),
                problems: worker.problems_of(&key),
                namespace: key.0,
                name: key.1,
            }
        })
        .collect();
    policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let dropped = totals
        .dropped
        .iter()
        .map(|((direction, namespace), packets)| DroppedStatus {
            direction: direction.to_string(),
            namespace: namespace.clone(),
            packets: *packets,
        });
    PoliciesStatus {
        synced: worker.is_synced(),
        error: worker.last_error.clone(),
        policies,
        dropped: dropped.collect(),
        waiting_dropped: totals.waiting,
        midstream_dropped: totals.midstream,
        accepted: totals.accepted,
        ended_connections: worker.counts.ended,
        repairs: worker.counts.repairs,
    }
}

fn explain(worker: &mut Worker, question: &ExplainQuestion) -> Result<Vec<ExplanationStatus>, QuestionError> {
    let totals = worker.enforcer.totals().unwrap_or_default();
    let model = &worker.enforcer.model;
    let (protocol, port) = port_of(&question.port)?;
    let (sources, destinations) = (
        addresses(model, &question.source)?,
        addresses(model, &question.destination)?,
    );
    let mut answers = Vec::new();
    for source in &sources {
        for destination in destinations
            .iter()
            .filter(|other| other.is_ipv4() == source.is_ipv4())
        {
            let explanation = model.explain(*source, *destination, protocol, port);
            let dropped = |end: &EndReport| {
                let namespace = end
                    .pod
                    .as_deref()
                    .and_then(|pod| pod.split('/').next())
                    .unwrap_or_default();
                let key = (end.direction.direction, namespace.to_owned());
                end.is_local
                    .then(|| totals.dropped.get(&key).copied().unwrap_or_default())
            };
            answers.push(status(&explanation, &question.port, dropped));
        }
    }
    if answers.is_empty() {
        return Err(QuestionError::NoCommonFamily {
            source_: question.source.clone(),
            destination: question.destination.clone(),
        });
    }
    Ok(answers)
}

fn status(
    explanation: &Explanation,
    port: &str,
    dropped: impl Fn(&EndReport) -> Option<u64>,
) -> ExplanationStatus {
    let end = |end: &EndReport| EndStatus {
        address: end.address,
        pod: end.pod.clone(),
        on_this_node: end.is_local,
        direction: end.direction.direction.to_string(),
        allowed: end.direction.is_allowed(),
        policies: end
            .direction
            .policies
            .iter()
            .map(|policy| (policy.name.clone(), policy.rule.map(|rule| rule + 1)))
            .collect(),
        dropped_in_namespace: dropped(end),
    };
    ExplanationStatus {
        port: port.to_owned(),
        allowed: explanation.is_allowed(),
        itself: explanation.is_own,
        ends: vec![end(&explanation.source), end(&explanation.destination)],
    }
}

fn addresses(model: &Model, text: &str) -> Result<Vec<IpAddr>, QuestionError> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let (namespace, name) = text
        .split_once('/')
        .ok_or_else(|| QuestionError::NoAddress(text.to_owned()))?;
    let found = model.addresses_of(namespace, name);
    let found = found.ok_or_else(|| QuestionError::UnknownPod(text.to_owned()))?;
    if found.is_empty() {
        return Err(QuestionError::PodWithoutAddress(text.to_owned()));
    }
    Ok(found.to_vec())
}

fn port_of(text: &str) -> Result<(u8, u16), QuestionError> {
    let bad = || QuestionError::NoPort(text.to_owned());
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        _ => return Err(bad()),
    };
    Ok((protocol, number.parse().map_err(|_| bad())?))
}

fn parse(text: &str) -> Result<Vec<Policy>, QuestionError> {
    let mut policies = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document)?;
        if value.is_null() {
            continue;
        }
        let kind = value
            .get("kind")
            .and_then(serde_yaml::Value::as_str)
            .unwrap_or("nothing");
        if kind != "NetworkPolicy" {
            return Err(QuestionError::OtherKind(kind.to_owned()));
        }
        let mut object: NetworkPolicy = serde_yaml::from_value(value)?;
        object
            .metadata
            .namespace
            .get_or_insert_with(|| "default".to_owned());
        let (policy, problems) = convert::policy(&object);
        if !problems.is_empty() {
            return Err(QuestionError::Unusable {
                policy: format!("{}/{}", policy.namespace, policy.name),
                problems,
            });
        }
        policies.push(policy);
    }
    if policies.is_empty() {
        return Err(QuestionError::NoPolicy);
    }
    Ok(policies)
}

/// The policies are in the model for the time of the comparison only, and never in the kernel.
fn cut_by(worker: &mut Worker, policies: Vec<Policy>) -> Result<Vec<CutStatus>, QuestionError> {
    let model = &mut worker.enforcer.model;
    let mut before = Vec::new();
    for policy in policies {
        let key = (policy.namespace.clone(), policy.name.clone());
        before.push((key.clone(), model.policy(&key.0, &key.1).cloned()));
        model.put_policy(policy);
    }
    let flows = worker.enforcer.forbidden_flows();
    let model = &mut worker.enforcer.model;
    for ((namespace, name), old) in before.into_iter().rev() {
        match old {
            Some(policy) => model.put_policy(policy),
            None => model.remove_policy(&namespace, &name),
        }
    }
    let cut = flows?.into_iter().map(|flow| CutStatus {
        source: flow.source,
        source_pod: model.pod_at(flow.source),
        destination: flow.destination,
        destination_pod: model.pod_at(flow.destination),
        protocol: flow.protocol,
        port: flow.destination_port,
    });
    Ok(cut.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_people_write_them() {
        assert_eq!(port_of("80").unwrap(), (6, 80));
        assert_eq!(port_of("53/UDP").unwrap(), (17, 53));
        assert_eq!(port_of("1/sctp").unwrap(), (132, 1));
        for bad in ["", "x", "70000", "80/icmp"] {
            assert!(port_of(bad).unwrap_err().to_string().contains("53/udp"), "{bad}");
        }
    }

    #[test]
    fn a_file_of_policies_is_read() {
        let policy = "kind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";
        let read = parse(&format!("{policy}---\n{policy}")).unwrap();
        assert_eq!((read.len(), read[0].namespace.as_str()), (2, "default"));
        assert!(parse("kind: Pod").unwrap_err().to_string().contains("has a Pod"));
        assert!(parse("").is_err());
    }
}
