//! Which pod answers for which node: a pure function of the cluster's nodes and pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::error::NodeError;

/// The container with the agent, unless the pod names another as its default.
const CONTAINER: &str = "podroute";
/// Which container `kubectl exec` uses; the shipped DaemonSet sets it.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The program in the image.
const PROGRAM: &str = "/podroute";

/// A container to run the program in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Agent {
    pub(crate) pod: String,
    pub(crate) container: String,
    /// Its path in the image: what the container runs.
    pub(crate) program: String,
}

/// A node, and where its agent is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    pub(crate) node: String,
    /// The agent, or why there is none.
    pub(crate) agent: Result<Agent, NodeError>,
}

/// One target for each node, by name. `nodes` is `None` where the operator may not list nodes: then those with a pod are known.
/// With `only`, just these; a name that does not exist is a target without an agent.
pub(crate) fn targets(nodes: Option<&[Node]>, pods: &[Pod], only: &[String]) -> Vec<Target> {
    let mut agents = agents(pods);
    let mut names: BTreeSet<String> = agents.keys().cloned().collect();
    let known = nodes.unwrap_or_default().iter();
    names.extend(known.filter_map(|node| node.metadata.name.clone()));
    let exists = |name: &String| names.contains(name);
    let missing: Vec<&String> = only.iter().filter(|name| !exists(name)).collect();
    let mut targets: Vec<Target> = names
        .iter()
        .filter(|name| only.is_empty() || only.contains(name))
        .map(|node| Target {
            node: node.clone(),
            agent: agents.remove(node).unwrap_or(Err(NodeError::NoPod)),
        })
        .collect();
    targets.extend(missing.into_iter().map(|node| Target {
        node: node.clone(),
        agent: Err(NodeError::NoNode),
    }));
    targets.sort_by(|one, other| one.node.cmp(&other.node));
    targets.dedup_by(|one, other| one.node == other.node);
    targets
}

/// The best pod of each node: during an update an old one can be beside the new one.
fn agents(pods: &[Pod]) -> BTreeMap<String, Result<Agent, NodeError>> {
    let mut best: BTreeMap<String, (u8, Result<Agent, NodeError>)> = BTreeMap::new();
    for pod in pods {
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        let found = agent(pod);
        let rank = match &found {
            Ok(_) if pod.metadata.deletion_timestamp.is_none() => 2,
            Ok(_) => 1,
            Err(_) => 0,
        };
        let entry = best.entry(node).or_insert_with(|| (rank, found.clone()));
        if rank > entry.0 {
            *entry = (rank, found);
        }
    }
    best.into_iter().map(|(node, (_, agent))| (node, agent)).collect()
}

fn agent(pod: &Pod) -> Result<Agent, NodeError> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let wanted = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DEFAULT_CONTAINER))
        .map_or(CONTAINER, String::as_str);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let container = containers
        .into_iter()
        .find(|container| container.name == wanted)
        .ok_or_else(|| NodeError::NoContainer {
            pod: name.clone(),
            container: wanted.to_owned(),
        })?;
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses)
        .flatten();
    let container_state = statuses
        .filter(|status| status.name == wanted)
        .find_map(|status| status.state.as_ref());
    if container_state.is_none_or(|state| state.running.is_none()) {
        let waiting = container_state
            .and_then(|state| state.waiting.as_ref())
            .and_then(|waiting| waiting.reason.clone());
        let ended = container_state
            .and_then(|state| state.terminated.as_ref())
            .and_then(|ended| ended.reason.clone());
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        let state = waiting
            .or(ended)
            .or(phase)
            .unwrap_or_else(|| "unknown".to_owned());
        return Err(NodeError::NotRunning { pod: name, state });
    }
    let command = container.command.iter().flatten().next();
    Ok(Agent {
        pod: name,
        container: wanted.to_owned(),
        program: command.map_or_else(|| PROGRAM.to_owned(), Clone::clone),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, state: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [
                {"name": "side", "command": ["/other"]},
                {"name": "podroute", "command": ["/podroute", "run"]},
            ]},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "podroute", "state": state, "ready": true, "restartCount": 0, "image": "", "imageID": ""},
            ]},
        }))
        .unwrap()
    }

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    fn running() -> serde_json::Value {
        json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    }

    #[test]
    fn every_node_is_a_target_and_says_what_is_missing() {
        let nodes: Vec<Node> = ["a", "b", "c"].map(node).into();
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let pods = [pod("p-a", "a", &running()), pod("p-b", "b", &waiting)];
        let found = targets(Some(&nodes), &pods, &[]);
        let names: Vec<&str> = found.iter().map(|target| target.node.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(
            found[0].agent,
            Ok(Agent {
                pod: "p-a".to_owned(),
                container: "podroute".to_owned(),
                program: "/podroute".to_owned()
            })
        );
        assert_eq!(
            found[1].agent,
            Err(NodeError::NotRunning {
                pod: "p-b".to_owned(),
                state: "CrashLoopBackOff".to_owned()
            })
        );
        assert_eq!(found[2].agent, Err(NodeError::NoPod));
    }

    #[test]
    fn without_the_right_to_list_nodes_those_with_a_pod_are_known() {
        let found = targets(None, &[pod("p-a", "a", &running())], &[]);
        assert_eq!(found.len(), 1);
        assert!(found[0].agent.is_ok());
    }

    #[test]
    fn only_the_named_ones_and_a_wrong_name_is_shown() {
        let nodes: Vec<Node> = ["a", "b"].map(node).into();
        let only = ["b".to_owned(), "typo".to_owned()];
        let found = targets(Some(&nodes), &[], &only);
        let said: Vec<_> = found.iter().map(|t| (t.node.as_str(), t.agent.clone())).collect();
        assert_eq!(said[0].0, "b");
        assert_eq!(said[1], ("typo", Err(NodeError::NoNode)));
    }

    #[test]
    fn a_pod_that_is_being_deleted_answers_only_where_no_other_does() {
        let mut old = pod("old", "a", &running());
        old.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let new = pod("new", "a", &running());
        let starting = pod(
            "starting",
            "a",
            &json!({"waiting": {"reason": "ContainerCreating"}}),
        );
        let answers = |pods: &[Pod]| targets(None, pods, &[])[0].agent.clone().map(|agent| agent.pod);
        for pods in [[old.clone(), new.clone()], [new, old.clone()]] {
            assert_eq!(answers(&pods), Ok("new".to_owned()));
        }
        assert_eq!(answers(&[starting, old]), Ok("old".to_owned()));
    }
}
