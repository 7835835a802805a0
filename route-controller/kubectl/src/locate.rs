//! On which node an end of a packet is: a pure function of the cluster's pods and nodes.

use k8s_openapi::api::core::v1::{Node, Pod};

/// The node of an address, a pod as `namespace/name`, or a node; `None` for what is outside, and for Services.
pub(crate) fn node_of(end: &str, nodes: &[Node], pods: &[Pod]) -> Option<String> {
    if let Some((namespace, name)) = end.split_once('/') {
        let is_it = |pod: &&Pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        return pods.iter().find(is_it).and_then(placed);
    }
    let has = |node: &&Node| {
        let addresses = node.status.iter().flat_map(|status| &status.addresses).flatten();
        node.metadata.name.as_deref() == Some(end) || addresses.into_iter().any(|one| one.address == end)
    };
    let node = nodes.iter().find(has).and_then(|node| node.metadata.name.clone());
    node.or_else(|| pods.iter().find(|pod| has_address(pod, end)).and_then(placed))
}

fn placed(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone()
}

/// Pods that have ended keep their address in their status, while another one may have it.
fn has_address(pod: &Pod, address: &str) -> bool {
    let Some(status) = &pod.status else { return false };
    let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    !has_ended && all.chain(status.pod_ip.as_deref()).any(|ip| ip == address)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_nodes_and_addresses() {
        let nodes: Vec<Node> = serde_json::from_value(json!([
            {"metadata": {"name": "node-1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}},
        ]))
        .unwrap();
        let pod = |name: &str, node: &str, phase: &str| {
            json!({"metadata": {"namespace": "default", "name": name}, "spec": {"nodeName": node, "containers": []},
                   "status": {"phase": phase, "podIP": "10.244.1.7", "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00::7"}]}})
        };
        let pods: Vec<Pod> = serde_json::from_value(json!([
            pod("old", "node-9", "Succeeded"),
            pod("web", "node-2", "Running")
        ]))
        .unwrap();
        for (end, node) in [
            ("default/web", Some("node-2")),
            ("default/other", None),
            ("10.244.1.7", Some("node-2")),
            ("fd00::7", Some("node-2")),
            ("192.0.2.11", Some("node-1")),
            ("node-1", Some("node-1")),
            ("198.51.100.1", None),
        ] {
            assert_eq!(node_of(end, &nodes, &pods).as_deref(), node, "{end}");
        }
    }
}
