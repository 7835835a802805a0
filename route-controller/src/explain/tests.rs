//! Each fault is named, and a healthy packet has none.

use std::net::IpAddr;

use super::report::Fault;
use super::*;
use crate::kernel_view::{Decision, Link, Matched, Neighbor};
use crate::network_policy::{EndStatus, ExplanationStatus};
use crate::status::{FibStatus, HopStatus, PathStatus, RouteStatus};
use crate::who::Owner;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(name: &str, index: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        is_up: true,
        has_carrier: true,
        address: vec![2, 0, 0, 0, 0, 1],
    }
}

fn decision(prefix: &str, gateway: Option<&str>, interface: &str, protocol: u8) -> Decision {
    Decision {
        is_local: false,
        gateway: gateway.map(address),
        interface: Some(interface.to_owned()),
        source: None,
        mtu: None,
        matched: Some(Matched {
            prefix: prefix.to_owned(),
            protocol,
            table: 254,
            metric: 20,
        }),
    }
}

fn path() -> PathStatus {
    serde_json::from_value(serde_json::json!({
        "best": true, "eligible": true, "used": true, "nextHop": "192.0.2.1", "from": "tor-a", "asPath": "65001",
        "localPref": null, "med": null, "communities": [], "largeCommunities": [], "extCommunities": [], "pathId": 0,
        "originatorId": null, "clusterList": [], "reason": null,
    }))
    .unwrap()
}

fn route(prefix: &str, paths: Vec<PathStatus>) -> RouteStatus {
    RouteStatus {
        prefix: prefix.to_owned(),
        paths,
        exports: Default::default(),
        export: None,
    }
}

fn unused(code: &str, reason: &str) -> Vec<PathStatus> {
    let mut path = path();
    (path.best, path.used, path.eligible) = (false, false, false);
    (path.unused, path.reason) = (Some(code.to_owned()), Some(reason.to_owned()));
    vec![path]
}

fn fib(state: &str, error: Option<&str>) -> FibStatus {
    FibStatus {
        prefix: "10.244.2.0/24".to_owned(),
        kind: "unicast".to_owned(),
        metric: 20,
        next_hops: Vec::new(),
        nexthop_object: None,
        state: state.to_owned(),
        error: error.map(str::to_owned),
    }
}

fn neighbor(state: &str) -> Option<Neighbor> {
    Some(Neighbor {
        state: state.to_owned(),
        link_address: Vec::new(),
    })
}

fn pod_here() -> End {
    End {
        address: address("10.244.1.7"),
        owner: Owner::Pod {
            name: "default/web".to_owned(),
            interface: "pod0".to_owned(),
        },
        pod: Some(PodFacts {
            interface: "pod0".to_owned(),
            is_complete: true,
            link: Some(link("pod0", 7)),
            is_up_inside: Some(true),
            route_interfaces: vec!["pod0".to_owned()],
            listens: Some(true),
            ..PodFacts::default()
        }),
        block: Some(BlockFacts {
            prefix: "10.244.1.0/24".to_owned(),
            state: "advertised".to_owned(),
            peers: vec![("tor-a".to_owned(), None)],
        }),
        is_pod_address: true,
    }
}

fn pod_there() -> End {
    End {
        address: address("10.244.2.9"),
        owner: Owner::NodeBlock {
            node: "node-2".to_owned(),
            block: "10.244.2.0/24".to_owned(),
        },
        pod: None,
        block: None,
        is_pod_address: true,
    }
}

fn way_out() -> Way {
    Way {
        kernel: KernelAnswer::Route(decision("10.244.2.0/24", Some("192.0.2.1"), "eth0", 245)),
        route: Some(route("10.244.2.0/24", vec![path()])),
        fib: Some(fib("installed", None)),
        link: Some(link("eth0", 2)),
        neighbor: neighbor("REACHABLE"),
    }
}

fn way_to_pod() -> Way {
    Way {
        kernel: KernelAnswer::Route(decision("10.244.1.7/32", None, "pod0", 246)),
        route: None,
        fib: None,
        link: Some(link("pod0", 7)),
        neighbor: neighbor("REACHABLE"),
    }
}

fn agent() -> AgentFacts {
    AgentFacts {
        error: None,
        drained: "no".to_owned(),
        sessions: vec![Session {
            peer: "tor-a".to_owned(),
            is_up: true,
            is_enabled: true,
            cause: None,
        }],
        watches: Vec::new(),
    }
}

/// From a pod of this node to one of another.
fn leaving() -> Facts {
    Facts {
        node: "node-1".to_owned(),
        source: pod_here(),
        destination: pod_there(),
        port: Some("80".to_owned()),
        agent: agent(),
        host: HostFacts {
            forwards: true,
            conntrack: Some((5, 100)),
            arrivals: Vec::new(),
        },
        forward: way_out(),
        back: way_to_pod(),
        policy: None,
        service: None,
        probe: None,
    }
}

/// The other way.
fn arriving() -> Facts {
    let facts = leaving();
    let arrival = Arrival {
        interface: "eth0".to_owned(),
        rp_filter: 0,
    };
    Facts {
        source: facts.destination,
        destination: facts.source,
        forward: way_to_pod(),
        back: way_out(),
        host: HostFacts {
            arrivals: vec![arrival],
            ..facts.host
        },
        ..facts
    }
}

fn pod_of(facts: &mut Facts) -> &mut PodFacts {
    let end = if facts.source.pod.is_some() {
        &mut facts.source
    } else {
        &mut facts.destination
    };
    end.pod.as_mut().unwrap()
}

#[test]
fn a_healthy_packet_has_no_fault() {
    for facts in [leaving(), arriving()] {
        let one = explain(&facts);
        assert_eq!(one.fault(), None, "{one:#?}");
        assert_eq!(one.verdict, Verdict::Ok);
        assert_eq!(one.other_node.as_deref(), Some("node-2"));
    }
    let local = Facts {
        destination: pod_here(),
        ..leaving()
    };
    let one = explain(&local);
    assert_eq!((one.hops[0].role.as_str(), one.verdict), ("both", Verdict::Ok));
}

type Change = fn(&mut Facts);

/// Faults of a packet that leaves.
fn of_leaving() -> Vec<(Fault, Change)> {
    vec![
        (Fault::AgentDown, |f| f.agent.error = Some("no answer".to_owned())),
        (Fault::NodeDrained, |f| f.agent.drained = "withdrawn".to_owned()),
        (Fault::StaleApiData, |f| {
            f.agent.watches.push(Watch {
                resource: "services".to_owned(),
                since_seconds: Some(60),
                error: None,
            });
        }),
        (Fault::PodGone, |f| pod_of(f).is_gone = true),
        (Fault::PodInterfaceDown, |f| pod_of(f).link = None),
        (Fault::PodInterfaceDown, |f| pod_of(f).is_up_inside = Some(false)),
        (Fault::DuplicateAddress, |f| pod_of(f).is_own_address = true),
        (Fault::DuplicateAddress, |f| {
            pod_of(f).route_interfaces.push("eth9".to_owned())
        }),
        (Fault::ForeignRoute, |f| {
            pod_of(f).route_interfaces = vec!["eth9".to_owned()]
        }),
        (Fault::PodRouteMissing, |f| pod_of(f).route_interfaces.clear()),
        (Fault::ForwardingOff, |f| f.host.forwards = false),
        (Fault::ConntrackFull, |f| f.host.conntrack = Some((100, 100))),
        (Fault::NetworkPolicy, |f| f.policy = Some(forbidden())),
        (Fault::SessionDown, |f| {
            no_route(f, Vec::new());
            f.agent.sessions[0].is_up = false;
            f.agent.sessions[0].cause = Some("hold timer expired (5s ago)".to_owned());
        }),
        (Fault::ImportRejected, |f| {
            no_route(f, unused("policy", "rejected by the import policy: from-tor[2]"))
        }),
        (Fault::NextHopUnresolved, |f| {
            no_route(f, unused("unresolved", "no route to the next hop"))
        }),
        (Fault::PathUnusable, |f| {
            no_route(f, unused("invalid", "our own AS is in the AS path"))
        }),
        (Fault::RouteMissing, |f| no_route(f, Vec::new())),
        (Fault::RouteMissing, |f| {
            no_route(f, Vec::new());
            f.forward.kernel = KernelAnswer::Route(decision("0.0.0.0/0", Some("192.0.2.254"), "eth0", 3));
        }),
        (Fault::KernelRefused, |f| {
            f.forward.kernel = KernelAnswer::NoRoute;
            f.forward.fib = Some(fib("failed", Some("Invalid argument")));
        }),
        (Fault::ForeignRoute, |f| {
            f.forward.kernel = KernelAnswer::Route(decision("10.244.2.0/25", Some("192.0.2.66"), "eth0", 4));
        }),
        (Fault::NeighborFailed, |f| f.forward.neighbor = neighbor("FAILED")),
        (Fault::InterfaceDown, |f| {
            f.forward.link.as_mut().unwrap().has_carrier = false
        }),
        (Fault::SmallerMtu, |f| f.forward.link.as_mut().unwrap().mtu = 1400),
        (Fault::ExportRejected, |f| {
            withhold(f, Some("rejected by to-tor[1]"))
        }),
        (Fault::BlockNotAdvertised, |f| {
            f.source.block.as_mut().unwrap().peers.clear()
        }),
        (Fault::PortClosed, |f| {
            f.probe = Some(probe(10, None, Some(false)))
        }),
        (Fault::SmallerMtu, |f| f.probe = Some(probe(10, Some(1400), None))),
        (Fault::PacketsLost, |f| f.probe = Some(probe(0, None, None))),
    ]
}

/// Faults of a packet that arrives.
fn of_arriving() -> Vec<(Fault, Change)> {
    vec![
        (Fault::PortClosed, |f| pod_of(f).listens = Some(false)),
        (Fault::PodGone, |f| {
            f.destination.pod = None;
            f.destination.owner = Owner::FreeInBlock {
                block: "10.244.1.0/24".to_owned(),
            };
        }),
        (Fault::ReversePathFilter, |f| {
            f.host.arrivals[0].rp_filter = 1;
            f.back.kernel = KernelAnswer::Route(decision("10.244.2.0/24", Some("198.51.100.1"), "eth1", 245));
            f.back.fib = None;
        }),
        (Fault::ReversePathFilter, |f| {
            f.host.arrivals[0].rp_filter = 2;
            f.back.kernel = KernelAnswer::NoRoute;
        }),
        (Fault::NoReturnRoute, |f| f.back.kernel = KernelAnswer::NoRoute),
        (Fault::AsymmetricReturn, |f| {
            f.back.kernel = KernelAnswer::Route(decision("10.244.2.0/24", Some("198.51.100.1"), "eth1", 245));
        }),
        (Fault::NeighborFailed, |f| {
            f.back.neighbor = neighbor("INCOMPLETE")
        }),
        (Fault::NodeDrained, |f| {
            f.agent.drained = "prefer-others".to_owned()
        }),
    ]
}

fn no_route(facts: &mut Facts, paths: Vec<PathStatus>) {
    facts.forward.kernel = KernelAnswer::NoRoute;
    facts.forward.fib = None;
    facts.forward.route = (!paths.is_empty()).then(|| route("10.244.2.0/24", paths));
}

fn withhold(facts: &mut Facts, why: Option<&str>) {
    let block = facts.source.block.as_mut().unwrap();
    block.peers = vec![("tor-a".to_owned(), why.map(str::to_owned))];
}

fn probe(answered: u32, path_mtu: Option<u32>, port_is_open: Option<bool>) -> Probe {
    let hop = ProbedHop {
        distance: 1,
        address: Some(address("10.244.1.1")),
        sent: 3,
        answered: 3,
        micros: Some(1234),
    };
    Probe::Found(ProbeFacts {
        hops: vec![hop],
        sent: 10,
        answered,
        path_mtu,
        first_mtu: 1500,
        port_is_open,
    })
}

fn forbidden() -> ExplanationStatus {
    ExplanationStatus {
        port: "80".to_owned(),
        allowed: false,
        itself: false,
        ends: vec![EndStatus {
            address: address("10.244.2.9"),
            pod: Some("default/db".to_owned()),
            on_this_node: false,
            direction: "ingress".to_owned(),
            allowed: false,
            policies: [("default/deny".to_owned(), None)].into(),
            dropped_in_namespace: None,
        }],
    }
}

#[test]
fn each_fault_is_named_with_a_remedy() {
    let cases = of_leaving()
        .into_iter()
        .map(|case| (leaving as fn() -> Facts, case));
    let cases = cases.chain(
        of_arriving()
            .into_iter()
            .map(|case| (arriving as fn() -> Facts, case)),
    );
    for (number, (facts, (fault, change))) in cases.enumerate() {
        let mut facts = facts();
        change(&mut facts);
        let one = explain(&facts);
        let step = one
            .fault()
            .unwrap_or_else(|| panic!("case {number}, {fault:?}: {one:#?}"));
        assert_eq!(step.fault, Some(fault), "case {number}: {one:#?}");
        assert!(
            step.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()),
            "{step:?}"
        );
    }
}

/// The filter takes any of several equal next hops for the way back.
#[test]
fn one_of_several_ways_back_is_enough() {
    let mut facts = arriving();
    facts.host.arrivals[0].rp_filter = 1;
    let other = decision("10.244.2.0/24", Some("198.51.100.1"), "eth1", 245);
    facts.back.kernel = KernelAnswer::Route(other);
    let hops = ["eth1", "eth0"].map(|interface| HopStatus {
        gateway: None,
        interface: interface.to_owned(),
        weight: 1,
    });
    facts.back.fib.as_mut().unwrap().next_hops = hops.into();
    assert_eq!(explain(&facts).fault(), None);
}

#[test]
fn a_service_names_its_own_faults() {
    let service = |change: fn(&mut ServiceFacts)| {
        let mut service = ServiceFacts {
            name: "default/web".to_owned(),
            announced: Some("203.0.113.5/32".to_owned()),
            not_announced: None,
            rejected: None,
            has_endpoint_here: true,
            has_endpoint: true,
        };
        change(&mut service);
        let mut facts = leaving();
        facts.destination.owner = Owner::Service {
            name: "default/web".to_owned(),
            address_kind: "loadBalancer".to_owned(),
        };
        facts.service = Some(service);
        explain(&facts).fault().and_then(|step| step.fault)
    };
    assert_eq!(service(|_| {}), None);
    assert_eq!(
        service(|s| s.has_endpoint = false),
        Some(Fault::ServiceWithoutEndpoints)
    );
    assert_eq!(
        service(|s| s.rejected = Some("outside services.ranges".to_owned())),
        Some(Fault::ServiceRejected)
    );
    assert_eq!(
        service(|s| (s.announced, s.not_announced) = (None, Some("no endpoint here".to_owned()))),
        Some(Fault::ServiceNotAnnounced)
    );
}

/// The cluster-wide command adds the steps of the other node.
#[test]
fn steps_of_another_node_are_added() {
    let mut one = explain(&leaving());
    let mut other = arriving();
    pod_of(&mut other).listens = Some(false);
    one.hops.extend(explain(&other).hops);
    one.conclude();
    assert_eq!(one.first_fault.map(|(hop, _)| hop), Some(1));
    let text = serde_json::to_string(&Report {
        schema: SCHEMA.to_owned(),
        explanations: vec![one.clone()],
    });
    let read: Report = serde_json::from_str(&text.unwrap()).unwrap();
    assert_eq!(read.explanations, [one]);
}
