//! `podroute explain`: faults are injected one after the other, and each is named on the node that can see it.

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::rack::{CONVERGENCE, Rack};
use lab::{bins, ensure, netns, process, wait};
use serde_json::{Value, json};

use crate::kube::{Cluster, FULL, with_api};
use crate::support::{pod_address, small};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario("explain::faults_of_sessions_and_policies", ours, leaving),
        scenario("explain::faults_of_a_node", ours, on_the_node),
        scenario("explain::faults_of_a_packet_that_arrives", ours, arriving),
        scenario("explain::probes", ours, probes),
        scenario("explain::faults_of_the_cluster", ours, || with_api(of_cluster)),
    ]
}

/// A node, and what it is asked.
struct Question {
    host: Host,
    arguments: Vec<String>,
}

impl Question {
    fn new(host: &Host, source: &str, destination: &str, more: &[&str]) -> Self {
        let all = ["explain", source, destination, "-o", "json"];
        let all = all.iter().chain(more).map(|word| (*word).to_owned());
        Self {
            host: host.clone(),
            arguments: all.collect(),
        }
    }

    /// The report, and whether its exit status fits.
    fn ask(&self) -> Result<Value> {
        let program = bins::find("podroute")?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let output = self.host.output(&program.to_string_lossy(), &arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Value = serde_json::from_str(&text).context(format!("{arguments:?}: {stderr}"))?;
        ensure!(report["schema"] == "podroute.explain/v1", "{report}");
        let all = report["explanations"].as_array().into_iter().flatten();
        let is_broken = all.into_iter().any(|one| one["verdict"] == "broken");
        let expected = if is_broken { 3 } else { 0 };
        ensure!(
            output.status.code() == Some(expected),
            "exit status {:?}: {report}",
            output.status
        );
        Ok(report)
    }

    /// Waits until the first fault of the first pair of addresses is this one, with these words.
    fn names(&self, fault: &str, words: &[&str]) -> Result<()> {
        wait::until(CONVERGENCE, format_args!("fault {fault} with {words:?}"), || {
            let report = self.ask()?;
            let step = first_fault(&report);
            let text = step.to_string();
            let is_it = step["fault"] == fault && words.iter().all(|word| text.contains(word));
            if is_it && step["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()) {
                return Ok(());
            }
            wait::not_yet(serde_json::to_string_pretty(&report).unwrap_or_default())
        })
    }

    /// Waits until nothing is wrong.
    fn is_healthy(&self) -> Result<()> {
        wait::until(CONVERGENCE, "no fault", || {
            let report = self.ask()?;
            if first_fault(&report).is_null() {
                return Ok(());
            }
            wait::not_yet(serde_json::to_string_pretty(&report).unwrap_or_default())
        })
    }

    /// A fault is named while it is there, and not any more when it is gone.
    fn around(
        &self,
        fault: &str,
        words: &[&str],
        inject: impl FnOnce() -> Result<()>,
        repair: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        inject()?;
        self.names(fault, words)?;
        repair()?;
        self.is_healthy()
    }
}

fn first_fault(report: &Value) -> Value {
    let one = &report["explanations"][0];
    let at = |number: usize| {
        one["firstFault"][number]
            .as_u64()
            .and_then(|at| usize::try_from(at).ok())
    };
    match (at(0), at(1)) {
        (Some(hop), Some(step)) => one["hops"][hop]["steps"][step].clone(),
        _ => Value::Null,
    }
}

fn run(host: &Host, arguments: &[&str]) -> Result<()> {
    host.run(&bins::find("podroute")?.to_string_lossy(), arguments)
        .map(drop)
}

/// Replaces a part of a machine's file and has it read again.
fn edit(host: &Host, old: &str, new: &str) -> Result<()> {
    let file = host.dir().join("etc/podroute.yaml");
    let text = std::fs::read_to_string(&file).context(file.display())?;
    ensure!(text.contains(old), "no {old:?} in {text}");
    std::fs::write(&file, text.replace(old, new)).context(file.display())?;
    run(host, &["reload"])
}

fn in_pod(pod: &str, arguments: &str) -> Result<()> {
    let words = ["-n", pod].into_iter().chain(arguments.split(' '));
    process::run("ip", &words.collect::<Vec<_>>()).map(drop)
}

/// The small rack with a pod on each node; gives their names and addresses.
fn rack() -> Result<(Rack, [(String, String); 2])> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    rack.add_pods(1)?;
    let mut pods = Vec::new();
    for node in ["node-1", "node-2"] {
        let pod = pod_of(&rack, node)?;
        let address = pod_address(&rack, &pod, true)?.to_string();
        pods.push((pod, address));
    }
    let [near, far] = <[_; 2]>::try_from(pods).expect("two nodes");
    Ok((rack, [near, far]))
}

fn leaving() -> Result<()> {
    let (rack, [(pod, near), (_, far)]) = rack()?;
    let (node, tor) = (rack.host("node-1").clone(), rack.host("tor-a").clone());
    let question = Question::new(&node, &near, &far, &[]);
    question.is_healthy()?;
    let by_name = Question::new(&node, &pod, &far, &[]);
    by_name.is_healthy()?;
    let report = by_name.ask()?;
    ensure!(
        report.to_string().contains("from tor-a with next hop 192.0.2.1"),
        "the path is not named: {report}"
    );

    question.around(
        "sessionDown",
        &["tor-a", "cable test", "no peer advertises it"],
        || run(&node, &["peer", "disable", "tor-a", "--message", "cable test"]),
        || run(&node, &["peer", "enable", "tor-a"]),
    )?;
    let import = "  from-tor:\n";
    let rejecting =
        "  from-tor:\n  - match: {prefixes: [{in: 10.244.2.0/24, length: 24-32}]}\n    action: reject\n";
    question.around(
        "importRejected",
        &["from-tor", "tor-a"],
        || edit(&node, import, rejecting),
        || edit(&node, rejecting, import),
    )?;
    let elsewhere = "  from-tor:\n  - match: {prefixes: [{in: 10.244.2.0/24, length: 24-32}]}\n    set: {nextHop: 203.0.113.77}\n    action: accept\n";
    question.around(
        "nextHopUnresolved",
        &["203.0.113.77"],
        || edit(&node, import, elsewhere),
        || edit(&node, elsewhere, import),
    )?;
    let own = "  - match: {source: [podBlock]}\n    action: accept\n";
    let none = "  - match: {source: [podBlock]}\n    action: reject\n";
    question.around(
        "exportRejected",
        &["10.244.1.0/24", "to-tor"],
        || edit(&node, own, none),
        || edit(&node, none, own),
    )?;
    let to_nodes = "  to-node:\n";
    let withheld =
        "  to-node:\n  - match: {prefixes: [{in: 10.244.2.0/24, length: 24-32}]}\n    action: reject\n";
    question.around(
        "routeMissing",
        &["all sessions are up"],
        || edit(&tor, to_nodes, withheld),
        || edit(&tor, withheld, to_nodes),
    )?;
    question.around(
        "nodeDrained",
        &["podroute undrain"],
        || run(&node, &["drain", "--wait", "0"]),
        || run(&node, &["undrain"]),
    )
}

/// Other programs, interfaces, kernel settings, the agent itself.
fn on_the_node() -> Result<()> {
    let (mut rack, [(pod, near), (_, far)]) = rack()?;
    let (node, tor) = (rack.host("node-1").clone(), rack.host("tor-a").clone());
    let question = Question::new(&node, &near, &far, &[]);
    question.is_healthy()?;
    question.around(
        "foreignRoute",
        &["10.244.2.0/25", "static"],
        || {
            node.ip("route add 10.244.2.0/25 via 192.0.2.77 proto static")
                .map(drop)
        },
        || node.ip("route del 10.244.2.0/25").map(drop),
    )?;
    question.around(
        "duplicateAddress",
        &[&near],
        || node.ip(&format!("addr add {near}/32 dev lo")).map(drop),
        || node.ip(&format!("addr del {near}/32 dev lo")).map(drop),
    )?;
    question.around(
        "podInterfaceDown",
        &["the pod's end of it is down"],
        || in_pod(&pod, "link set eth0 down"),
        || in_pod(&pod, "link set eth0 up"),
    )?;
    question.around(
        "smallerMtu",
        &["1400"],
        || node.ip("link set eth0 mtu 1400").map(drop),
        || node.ip("link set eth0 mtu 1500").map(drop),
    )?;
    // The agent sets it again within seconds: it is asked at once.
    wait::until(CONVERGENCE, "forwarding that is off", || {
        node.sysctl("net/ipv4/ip_forward", "0")?;
        let step = first_fault(&question.ask()?);
        ensure!(step["fault"] == "forwardingOff", "{step}");
        Ok(())
    })?;
    question.is_healthy()?;
    question.around(
        "neighborFailed",
        &["192.0.2.1", "arping"],
        || {
            tor.ip("link set rack arp off")?;
            node.ip("neigh flush dev eth0")?;
            // Something has to ask for the address.
            node.output("ping", &["-c1", "-W1", "192.0.2.1"]).map(drop)
        },
        || tor.ip("link set rack arp on").map(drop),
    )?;
    rack.daemon("node-1").kill();
    question.names("agentDown", &["no answer from the agent"])?;
    rack.daemon("node-1").restart_daemons()?;
    question.is_healthy()
}

fn arriving() -> Result<()> {
    let (rack, [(_, near), (pod, far)]) = rack()?;
    let node = rack.host("node-2").clone();
    let question = Question::new(&node, &near, &far, &[]);
    question.is_healthy()?;
    Question::new(&node, &near, "10.244.2.200", &[]).names("podGone", &["10.244.2.200", "10.244.2.0/24"])?;
    let with_port = Question::new(&node, &near, &far, &["--port", "8080"]);
    with_port.names("portClosed", &["8080"])?;
    let listener = netns::within(&pod, || {
        std::net::TcpListener::bind("0.0.0.0:8080").context("a server")
    })?;
    with_port.is_healthy()?;
    drop(listener);
    with_port.names("portClosed", &["8080"])?;

    // Answers leave by another interface.
    node.ip("link add up1 type veth peer name up2")?;
    node.ip("addr add 203.0.113.1/24 dev up1")?;
    for name in ["up1", "up2"] {
        node.ip(&format!("link set {name} up"))?;
    }
    let strict = |value: &str| node.sysctl("net/ipv4/conf/eth0/rp_filter", value);
    strict("2")?;
    let another = || {
        node.ip("neigh replace 203.0.113.9 dev up1 lladdr 02:00:00:00:00:09 nud permanent")?;
        node.ip("route add 10.244.1.0/25 via 203.0.113.9").map(drop)
    };
    question.around("asymmetricReturn", &["arrive on eth0", "up1"], another, || {
        node.ip("route del 10.244.1.0/25").map(drop)
    })?;
    question.around(
        "reversePathFilter",
        &["eth0", "up1", "rp_filter=2"],
        || {
            another()?;
            strict("1")
        },
        || {
            strict("2")?;
            node.ip("route del 10.244.1.0/25").map(drop)
        },
    )?;
    strict("0")?;
    question.around(
        "noReturnRoute",
        &["no route back"],
        || node.ip("route add unreachable 10.244.1.0/24").map(drop),
        || node.ip("route del unreachable 10.244.1.0/24").map(drop),
    )
}

fn probes() -> Result<()> {
    let (rack, [(_, near), (pod, far)]) = rack()?;
    let (node, tor) = (rack.host("node-1").clone(), rack.host("tor-a").clone());
    let question = Question::new(&node, &near, &far, &["--measure", "--port", "8080"]);
    let listener = netns::within(&pod, || {
        std::net::TcpListener::bind("0.0.0.0:8080").context("a server")
    })?;
    question.is_healthy()?;
    let report = question.ask()?.to_string();
    // The node, the ToR, the other node, the pod.
    for word in ["1 hops away", "3 hops away", "4 hops away", &far] {
        ensure!(report.contains(word), "no {word:?} in {report}");
    }
    question.around(
        "smallerMtu",
        &["more than 1400 octets"],
        || tor.ip("link set rack-2 mtu 1400").map(drop),
        || {
            tor.ip("link set rack-2 mtu 1500")?;
            // What the router said is kept for minutes.
            in_pod(&pod_of(&rack, "node-1")?, "route flush cache")
        },
    )?;
    drop(listener);
    question.names("portClosed", &["8080"])?;
    let packets = Question::new(&node, &near, &far, &["--measure"]);
    in_pod(&pod, "link set eth0 down")?;
    packets.names("packetsLost", &["no answer"])
}

fn pod_of(rack: &Rack, node: &str) -> Result<String> {
    let pod = rack.pods.iter().find(|pod| pod.node == node);
    let pod = pod.ok_or_else(|| Failure::new(format!("no pod on {node}")))?;
    Ok(pod.name.clone())
}

/// What only Kubernetes says: Services, policies, the API server itself.
fn of_cluster(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!(
        "{FULL}services: {{advertise: [loadBalancer, external], ranges: [198.51.100.0/24]}}\n"
    ))?;
    cluster.wait_mesh()?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {
            "type": "LoadBalancer", "externalIPs": ["198.51.100.2", "203.0.113.8"],
            "ports": [{"port": 80}], "selector": {"app": "web"},
        },
    });
    cluster.create("/api/v1/namespaces/default/services", &service)?;
    let node = cluster.nodes[0].clone();
    let own = "192.0.2.1";
    let ask = |destination: &str| Question::new(&node, own, destination, &[]);
    ask("203.0.113.8").names("serviceRejected", &["203.0.113.8", "services.ranges"])?;
    ask("198.51.100.2").names("serviceWithoutEndpoints", &["default/web"])?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.create(slices, &crate::kube_services::slice("web-a", "node-1", true))?;
    ask("198.51.100.2").is_healthy()?;
    cluster.stop_api();
    ask("198.51.100.2").names("staleApiData", &["API server"])?;
    podroute::show(&node, "cluster").map(drop)
}
