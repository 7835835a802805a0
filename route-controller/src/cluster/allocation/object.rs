//! Services as the allocator sees them, and what is written into their status.

use std::net::IpAddr;

use bgp_proto::types::Family;
use k8s_openapi::api::core::v1::{Service as Object, ServiceSpec};
use kube::ResourceExt;
use podroute_services::{
    Change, Compatibility, Families, FamilyPolicy, Key, Request, Service, Traffic, Wants,
};
use serde_json::{Value, json};

/// The annotation that a fence writes.
const FENCE: &str = "podroute/allocator";

/// Namespace and name.
pub(super) fn key(object: &Object) -> Key {
    Key {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// What matters to the allocator.
pub(super) fn service(object: &Object, compatibility: &[Compatibility]) -> Service {
    let nothing = ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&nothing);
    let created = object.creation_timestamp();
    Service {
        wants: wants(object, spec),
        labels: object.labels().clone(),
        created: created.map_or(0, |time| time.0.as_second()),
        class: spec.load_balancer_class.clone(),
        families: families(spec),
        traffic: Traffic {
            ports: spec.ports.iter().flatten().filter_map(port).collect(),
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            backends: spec.selector.clone().unwrap_or_default(),
        },
        request: Request::read(
            spec.load_balancer_ip.as_deref(),
            object.annotations(),
            compatibility,
        ),
        held: held(object),
        reserved: None,
    }
}

fn wants(object: &Object, spec: &ServiceSpec) -> Wants {
    if object.metadata.deletion_timestamp.is_some() {
        Wants::Deleted
    } else if spec.type_.as_deref() == Some("LoadBalancer") {
        Wants::Addresses
    } else {
        Wants::Nothing
    }
}

/// `ipFamilies`, or those of its clusterIPs where the API server is older than these.
fn families(spec: &ServiceSpec) -> Families {
    let named = spec.ip_families.iter().flatten();
    let mut list: Vec<Family> = named.filter_map(|name| family(name)).collect();
    if list.is_empty() {
        let texts = spec
            .cluster_ips
            .clone()
            .unwrap_or_default()
            .into_iter()
            .chain(spec.cluster_ip.clone());
        for addr in texts.filter_map(|text| text.parse::<IpAddr>().ok()) {
            let family = if addr.is_ipv4() {
                Family::Ipv4
            } else {
                Family::Ipv6
            };
            if !list.contains(&family) {
                list.push(family);
            }
        }
    }
    Families {
        list,
        policy: match spec.ip_family_policy.as_deref() {
            Some("RequireDualStack") => FamilyPolicy::RequireDual,
            Some("PreferDualStack") => FamilyPolicy::PreferDual,
            _ => FamilyPolicy::Single,
        },
    }
}

fn family(name: &str) -> Option<Family> {
    match name {
        "IPv4" => Some(Family::Ipv4),
        "IPv6" => Some(Family::Ipv6),
        _ => None,
    }
}

fn port(port: &k8s_openapi::api::core::v1::ServicePort) -> Option<(String, u16)> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    Some((protocol, u16::try_from(port.port).ok()?))
}

fn held(object: &Object) -> Vec<IpAddr> {
    let balancer = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten();
    ingress
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// The body of the request that changes a Service only if it has this version.
pub(super) fn patch(object: &Object, version: &str, what: &Change, holder: &str) -> Value {
    match what {
        Change::Fence => json!({
            "metadata": {"resourceVersion": version, "annotations": {FENCE: holder}},
        }),
        Change::Addresses(list) if list.is_empty() => json!({
            "metadata": {"resourceVersion": version},
            "status": {"loadBalancer": {"ingress": null}},
        }),
        Change::Addresses(list) => json!({
            "metadata": {"resourceVersion": version},
            "status": {"loadBalancer": {"ingress": ingress(object, list)}},
        }),
    }
}

fn ingress(object: &Object, list: &[IpAddr]) -> Vec<Value> {
    let ports = object.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let ports: Vec<Value> = ports
        .into_iter()
        .flatten()
        .map(|port| json!({"port": port.port, "protocol": port.protocol.as_deref().unwrap_or("TCP")}))
        .collect();
    let one = |addr: &IpAddr| json!({"ip": addr, "ipMode": "VIP", "ports": ports});
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_service_is_read_and_written() {
        let web = object(json!({
            "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"podroute/share": "k"}, "labels": {"tier": "edge"}},
            "spec": {"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"],
                "externalTrafficPolicy": "Local", "selector": {"app": "web"}, "loadBalancerIP": "192.0.2.7",
                "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "x"}]}},
        }));
        let read = service(&web, &[]);
        assert_eq!(
            (read.wants, read.created > 1_700_000_000),
            (Wants::Addresses, true)
        );
        assert_eq!(read.families.list, [Family::Ipv6, Family::Ipv4]);
        assert_eq!(
            read.traffic.ports,
            [("TCP".to_owned(), 80), ("UDP".to_owned(), 53)].into()
        );
        assert!(read.traffic.local && read.request.share.is_some() && read.request.addresses.len() == 1);
        assert_eq!(read.held, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        let list = vec!["2001:db8::1".parse().unwrap()];
        assert_eq!(
            patch(&web, "7", &Change::Addresses(list), "node-1_0"),
            json!({"metadata": {"resourceVersion": "7"}, "status": {"loadBalancer": {"ingress": [
                {"ip": "2001:db8::1", "ipMode": "VIP", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
            ]}}})
        );
    }

    #[test]
    fn older_api_servers_name_no_families() {
        let web = object(
            json!({"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", "clusterIP": "fd00::1"}}),
        );
        let read = service(&web, &[]);
        assert_eq!(
            (read.families.list, read.wants),
            (vec![Family::Ipv6], Wants::Nothing)
        );
    }
}
