//! Network policies of a real API server, enforced on pods that the plugin made.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lab::cni::Runtime;
use lab::daemon::Kind;
use lab::failure::{Context, Failure, Result};
use lab::rack::CONVERGENCE;
use lab::tcp_probe::Server;
use lab::{ensure, netns, wait};
use serde_json::{Value, json};

use crate::kube::{Cluster, NAMES, with_api};
use crate::{Scenario, scenario};

/// The kernel sends a second SYN after a second: what connects within this time does so by its first packet.
const FIRST_SYN: Duration = Duration::from_millis(900);
/// A connection that is not made in this time is not made: it takes a fraction of a millisecond here.
const NO_ANSWER: Duration = Duration::from_millis(300);
const PORT: u16 = 80;
/// ADD waits long enough for an agent and an API server on a busy machine.
const POLICY: &str = "policy: {mode: kubernetes}\ncni: {policyWait: 5s}\nmesh: {mode: full, hold: 9s}\n";

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario(
            "network_policy::pods_are_isolated_before_their_first_packet",
            ours,
            || with_api(before_the_first_packet),
        ),
        scenario("network_policy::policies_come_change_and_go", ours, || {
            with_api(policies_change)
        }),
    ]
}

/// A node with an agent; namespaces `guarded`, with a policy that lets only clients in, and `open`.
struct Node<'a> {
    cluster: &'a mut Cluster,
    runtime: Runtime,
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
}

fn only_clients() -> Value {
    let clients = json!({"podSelector": {"matchLabels": {"app": "client"}}});
    policy(
        "only-clients",
        &json!({"podSelector": {}, "ingress": [{"from": [clients], "ports": [{"port": PORT}]}]}),
    )
}

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/guarded/networkpolicies";

impl<'a> Node<'a> {
    fn start(cluster: &'a mut Cluster) -> Result<Self> {
        for namespace in ["guarded", "open"] {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            cluster.create("/api/v1/namespaces", &object)?;
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            cluster.create(
                &format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
                &account,
            )?;
        }
        cluster.create(POLICIES, &only_clients())?;
        cluster.join(0, "10.244.1.0/24")?;
        cluster.start_agent(0, POLICY)?;
        let list = json!({"cniVersion": "1.0.0", "name": "podroute",
            "plugins": [{"type": "podroute-cni", "runDir": "/run/podroute"}]});
        let node = Self {
            runtime: Runtime::with_list(&cluster.nodes[0], list),
            cluster,
        };
        node.wait_synced()?;
        Ok(node)
    }

    fn wait_synced(&self) -> Result<()> {
        let file = self.cluster.nodes[0].run_file("podroute/node.json");
        wait::until(CONVERGENCE, "policies in force and a block", || {
            let shown = self.ask(&["show"])?;
            ensure!(shown["synced"] == true && shown["error"].is_null(), "{shown}");
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            ensure!(text.contains("10.244.1.0/24"), "node.json: {text}");
            Ok(())
        })
    }

    fn ask(&self, command: &[&str]) -> Result<Value> {
        let program = lab::bins::find("podroute")?.display().to_string();
        let args = [&["network-policy"], command, &["-o", "json"]].concat();
        let text = self.cluster.nodes[0].run(&program, &args)?;
        serde_json::from_str(&text).map_err(|error| Failure::new(format!("{error}: {text}")))
    }

    /// The object as the scheduler leaves it.
    fn bind(&self, namespace: &str, name: &str) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": NAMES[0], "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "none"}]}});
        self.cluster
            .create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod)
    }

    /// The status as the kubelet writes it some time after ADD.
    fn report(&self, namespace: &str, name: &str, address: IpAddr) -> Result<()> {
        let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        self.cluster.patch(
            &format!("/api/v1/namespaces/{namespace}/pods/{name}/status"),
            &status,
        )
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<IpAddr> {
        self.bind(namespace, name)?;
        let address = self.runtime.add_kubernetes_pod(namespace, name)?;
        self.report(namespace, name, address)?;
        Ok(address)
    }
}

fn connect(from: &str, to: IpAddr, limit: Duration) -> Result<std::io::Result<TcpStream>> {
    netns::within(from, || {
        Ok(TcpStream::connect_timeout(&SocketAddr::new(to, PORT), limit))
    })
}

fn connects(from: &str, to: IpAddr) -> Result<bool> {
    Ok(connect(from, to, FIRST_SYN)?.is_ok())
}

fn is_cut_off(from: &str, to: IpAddr) -> Result<bool> {
    Ok(connect(from, to, NO_ANSWER)?.is_err())
}

fn wait_connects(from: &str, to: IpAddr, expected: bool) -> Result<()> {
    wait::until(
        CONVERGENCE,
        format_args!("{from} reaches {to}: {expected}"),
        || {
            let ask = if expected { connects } else { is_cut_off };
            ensure!(ask(from, to)?, "not yet");
            Ok(())
        },
    )
}

fn before_the_first_packet(cluster: &mut Cluster) -> Result<()> {
    let node = Node::start(cluster)?;
    let stranger = node.pod("open", "stranger")?;
    let _stranger_serves = Server::start("stranger", PORT)?;
    // Each pod that is added is tried at once: there is no time in which a stranger gets in.
    for number in 0..10 {
        let name = format!("server-{number}");
        node.bind("guarded", &name)?;
        let address = node.runtime.add_kubernetes_pod("guarded", &name)?;
        let _serves = Server::start(&name, PORT)?;
        ensure!(
            is_cut_off("stranger", address)?,
            "a stranger reached {name} right after ADD"
        );
        // It may itself speak: only ingress is restricted.
        ensure!(connects(&name, stranger)?, "{name} cannot speak");
    }
    print_add_times(&node)?;
    // A pod whose object nobody knows waits; its rules follow when the object comes.
    let began = Instant::now();
    let unknown = node.runtime.add_kubernetes_pod("guarded", "late")?;
    let _late_serves = Server::start("late", PORT)?;
    println!(
        "ADD of a pod that the API server does not know took {:?}",
        began.elapsed()
    );
    ensure!(
        is_cut_off("stranger", unknown)? && is_cut_off("late", stranger)?,
        "it is not isolated"
    );
    node.bind("guarded", "late")?;
    wait_connects("late", stranger, true)?;
    ensure!(is_cut_off("stranger", unknown)?, "a stranger got in");
    // Without an agent: what has policies stays isolated, what has none starts at once.
    for agent in &mut node.cluster.agents {
        agent.kill();
    }
    node.bind("guarded", "orphan")?;
    let orphan = node.runtime.add_kubernetes_pod("guarded", "orphan")?;
    let _orphan_serves = Server::start("orphan", PORT)?;
    ensure!(
        is_cut_off("stranger", orphan)? && is_cut_off("orphan", stranger)?,
        "it is not isolated"
    );
    let began = Instant::now();
    node.bind("open", "free")?;
    node.runtime.add_kubernetes_pod("open", "free")?;
    let took = began.elapsed();
    println!("ADD in a namespace without policies, without an agent: {took:?}");
    ensure!(connects("free", stranger)?, "it cannot speak");
    ensure!(is_cut_off("stranger", unknown)?, "the rules went with the agent");
    // The next agent takes over what is there.
    node.cluster.start_agent(0, POLICY)?;
    wait_connects("orphan", stranger, true)?;
    ensure!(is_cut_off("stranger", orphan)?, "a stranger got in");
    Ok(())
}

/// ADD with and without policies, in turns, of pods that the agent knows already, as the kubelet does it.
fn print_add_times(node: &Node<'_>) -> Result<()> {
    let name = |namespace: &str, number| format!("timed-{namespace}-{number}");
    let mut times: [(&str, Vec<Duration>); 2] = [("guarded", Vec::new()), ("open", Vec::new())];
    for number in 0..20 {
        for (namespace, _) in &times {
            node.bind(namespace, &name(namespace, number))?;
        }
    }
    for number in 0..20 {
        for (namespace, times) in &mut times {
            let began = Instant::now();
            node.runtime
                .add_kubernetes_pod(namespace, &name(namespace, number))?;
            times.push(began.elapsed());
        }
    }
    for (namespace, mut times) in times {
        times.sort_unstable();
        println!("ADD in namespace {namespace}: {:?} (median of 20)", times[10]);
    }
    Ok(())
}

fn policies_change(cluster: &mut Cluster) -> Result<()> {
    let node = Node::start(cluster)?;
    let server = node.pod("guarded", "server")?;
    let stranger = node.pod("open", "stranger")?;
    node.pod("guarded", "client")?;
    let _serves = Server::start("server", PORT)?;
    wait_connects("client", server, true)?;
    ensure!(is_cut_off("stranger", server)?, "a stranger got in");
    let said = node.ask(&["explain", "open/stranger", "guarded/server", "80"])?;
    ensure!(said[0]["allowed"] == false, "{said}");
    ensure!(said[0]["ends"][1]["policies"]["only-clients"].is_null(), "{said}");
    ensure!(
        said[0]["ends"][1]["droppedInNamespace"].as_u64() > Some(0),
        "{said}"
    );
    let said = node.ask(&["explain", "guarded/client", &server.to_string(), "80/tcp"])?;
    ensure!(
        said[0]["allowed"] == true && said[0]["ends"][1]["policies"]["only-clients"] == 1,
        "{said}"
    );
    // Without the policy everybody gets in; what a policy would cut is said before it cuts.
    node.cluster.delete(&format!("{POLICIES}/only-clients"))?;
    wait_connects("stranger", server, true)?;
    let held = connect("stranger", server, FIRST_SYN)?.context("connecting")?;
    let text = only_clients().to_string().replace(
        "\"name\":\"only-clients\"",
        "\"name\":\"only-clients\",\"namespace\":\"guarded\"",
    );
    let file = node.cluster.nodes[0].write_config("policy.yaml", &text)?;
    let cut = node.ask(&["diff", &file.to_string_lossy()])?;
    let is_cut =
        |flow: &Value| flow["source"] == stranger.to_string() && flow["destination"] == server.to_string();
    ensure!(
        cut.as_array().is_some_and(|flows| flows.iter().any(is_cut)),
        "{cut}"
    );
    drop(held);
    ensure!(connects("stranger", server)?, "a comparison changed something");
    node.cluster.create(POLICIES, &only_clients())?;
    wait_connects("stranger", server, false)?;
    ensure!(connects("client", server)?, "the client cannot");
    // Somebody flushes everything: it is back before anybody gets in for long.
    let began = Instant::now();
    node.cluster.nodes[0].run("nft", &["flush", "ruleset"])?;
    wait::until(CONVERGENCE, "the table is back", || {
        node.cluster.nodes[0]
            .run("nft", &["list", "chain", "inet", "podroute-policy", "ingress"])
            .map(drop)
    })?;
    println!("the table was back {:?} after a flush", began.elapsed());
    ensure!(is_cut_off("stranger", server)?, "a stranger got in");
    let shown = node.ask(&["show"])?;
    ensure!(shown["repairs"].as_u64() > Some(0), "{shown}");
    // A relabelled pod is another one.
    let labels = json!({"metadata": {"labels": {"app": "client"}}});
    node.cluster
        .patch("/api/v1/namespaces/open/pods/stranger", &labels)?;
    ensure!(
        is_cut_off("stranger", server)?,
        "clients of other namespaces got in"
    );
    let gone = json!({"metadata": {"labels": {"app": "other"}}});
    node.cluster
        .patch("/api/v1/namespaces/guarded/pods/client", &gone)?;
    wait_connects("client", server, false)?;
    // By now the agent knows the stranger's label too.
    ensure!(
        is_cut_off("stranger", server)?,
        "clients of other namespaces got in"
    );
    Ok(())
}
