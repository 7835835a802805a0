//! Agents that follow a real Kubernetes API server: three nodes on a switch, driven only through the API.
//!
//! `PODROUTE_KUBE_UP` names a program that starts etcd and kube-apiserver in the current network namespace:
//! `$PODROUTE_KUBE_UP DIR ETCD_PORT API_PORT`, with a `kube-down DIR` beside it. Or `KUBEBUILDER_ASSETS` names a directory
//! with both binaries, as for tests of other controllers. Without either these are left out.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{cabling, ensure, kernel, netns, wait};
use serde_json::{Value, json};

use crate::support::{peer, prefix, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    vec![
        scenario("kube::nodes_join_change_and_leave", ours, || {
            with_api(join_and_leave)
        }),
        scenario("kube::an_outage_of_the_api_changes_nothing", ours, || {
            with_api(outage)
        }),
        scenario("kube::reflectors_by_label", ours, || with_api(reflectors)),
    ]
}

/// What starts an API server, here or with the binaries of KUBEBUILDER_ASSETS.
fn starter() -> Option<PathBuf> {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/kube-up");
    let given = std::env::var_os("PODROUTE_KUBE_UP").map(PathBuf::from);
    given.or_else(|| std::env::var_os("KUBEBUILDER_ASSETS").map(|_| ours()))
}

/// Skips where nothing can start an API server.
pub(crate) fn with_api(test: fn(&mut Cluster) -> Result<()>) -> Result<()> {
    let Some(starter) = starter() else {
        println!(
            "LEFT OUT: neither PODROUTE_KUBE_UP nor KUBEBUILDER_ASSETS says where an API server comes from"
        );
        return Ok(());
    };
    for tool in ["curl", "openssl", "kubectl"] {
        if lab::process::find_program(tool).is_none() {
            println!("LEFT OUT: {tool} is not installed");
            return Ok(());
        }
    }
    let mut cluster = Cluster::start(&starter)?;
    let outcome = test(&mut cluster);
    cluster.stop_api();
    outcome.map_err(|failure| {
        let log = |name: &str| {
            std::fs::read_to_string(Path::new("/run/lab").join(name).join("log/podroute.log"))
                .unwrap_or_default()
        };
        ["node-1", "node-2", "node-3"]
            .iter()
            .fold(failure, |failure, name| {
                failure.evidence(format!("log of {name}"), log(name))
            })
    })
}

/// A switch with an API server and three nodes.
pub(crate) struct Cluster {
    starter: PathBuf,
    pub(crate) api: Host,
    dir: PathBuf,
    pub(crate) nodes: Vec<Host>,
    pub(crate) agents: Vec<Daemon>,
}

pub(crate) const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

impl Cluster {
    fn start(starter: &Path) -> Result<Self> {
        netns::create("switch")?;
        lab::process::run(
            "ip",
            &[
                "-n",
                "switch",
                "link",
                "add",
                "br0",
                "up",
                "type",
                "bridge",
                "forward_delay",
                "0",
            ],
        )?;
        let attach = |name: &str, last: u8| -> Result<Host> {
            let host = Host::create(name)?;
            let peer = format!("to-{name}");
            lab::process::run(
                "ip",
                &[
                    "-n", "switch", "link", "add", &peer, "master", "br0", "up", "type", "veth", "peer",
                    "name", "eth0", "netns", name,
                ],
            )?;
            host.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"))?;
            host.ip("link set lo up")?;
            host.ip("link set eth0 up")?;
            cabling::enable_forwarding(&host)?;
            Ok(host)
        };
        let api = attach("api", 100)?;
        let nodes = NAMES
            .iter()
            .zip(11..)
            .map(|(name, last)| attach(name, last))
            .collect::<Result<Vec<_>>>()?;
        let dir = api.dir().join("kube");
        let cluster = Self {
            starter: starter.to_owned(),
            api,
            dir,
            nodes,
            agents: Vec::new(),
        };
        cluster.start_api()?;
        cluster.install()?;
        Ok(cluster)
    }

    fn start_api(&self) -> Result<()> {
        let starter = self.starter.display().to_string();
        let dir = self.dir.display().to_string();
        let line = format!("APIARGS=--bind-address=0.0.0.0 exec {starter} {dir} 23790 16443");
        self.api.run("bash", &["-c", &line]).map(drop)
    }

    pub(crate) fn stop_api(&self) {
        let down = self.starter.with_file_name("kube-down");
        let dir = self.dir.display().to_string();
        // Its processes end with the box in any case.
        let _ = self.api.output(&down.display().to_string(), &[&dir]);
    }

    /// The shipped manifests as they are; the agents then run with what these allow and nothing more.
    fn install(&self) -> Result<()> {
        self.apply("overlays/full-mesh")?;
        self.write_kubeconfig(&self.token()?)
    }

    /// Applies one of the shipped directories.
    pub(crate) fn apply(&self, directory: &str) -> Result<()> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kubernetes");
        let config = self.dir.join("kubeconfig").display().to_string();
        let directory = shipped.join(directory).display().to_string();
        let args = ["--kubeconfig", &config, "apply", "-k", &directory];
        self.api.run("kubectl", &args).map(drop)
    }

    /// A token of the shipped service account.
    fn token(&self) -> Result<String> {
        let account = "/api/v1/namespaces/podroute/serviceaccounts/podroute/token";
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.ask("POST", account, "application/json", &wanted)?;
        let token = answer["status"]["token"].as_str().unwrap_or_default();
        ensure!(!token.is_empty(), "no token: {answer}");
        Ok(token.to_owned())
    }

    /// For the nodes: the API server by its address on the switch, under the name in its certificate.
    fn write_kubeconfig(&self, token: &str) -> Result<()> {
        let ca = self.dir.join("pki/ca.crt");
        for node in &self.nodes {
            let text = format!(
                "apiVersion: v1\nkind: Config\nclusters:\n- name: t\n  cluster: {{server: \"https://192.0.2.100:16443\", \
                 tls-server-name: localhost, certificate-authority: {}}}\nusers:\n- name: t\n  user: {{token: {token}}}\n\
                 contexts:\n- name: t\n  context: {{cluster: t, user: t, namespace: podroute}}\ncurrent-context: t\n",
                ca.display()
            );
            node.write_config("kubeconfig", &text)?;
        }
        Ok(())
    }

    pub(crate) fn start_agent(&mut self, node: usize, more: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [10.244.0.0/16]}}\nnode: {{blocks: kubernetes}}\n{more}"
        );
        self.start_agent_with(node, &yaml)
    }

    pub(crate) fn start_agent_with(&mut self, node: usize, yaml: &str) -> Result<()> {
        let host = &self.nodes[node];
        let config = host.dir().join("etc/kubeconfig").display().to_string();
        let environment = [("KUBECONFIG", config.as_str()), ("NODE_NAME", NAMES[node])];
        let agent = podroute::start_in(host, yaml, &environment)?;
        self.agents.push(agent);
        Ok(())
    }

    pub(crate) fn start_agents(&mut self, more: &str) -> Result<()> {
        (0..NAMES.len()).try_for_each(|node| self.start_agent(node, more))
    }

    /// One request as the cluster's administrator.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let (header, body) = (format!("Content-Type: {kind}"), body.to_string());
        self.request(&["-X", method, "-H", &header, "--data-binary", &body], path)
    }

    /// An object or a list. A request without a body: a server that answers before it has read one ends the stream.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.request(&[], path)
    }

    fn request(&self, how: &[&str], path: &str) -> Result<Value> {
        let text = self.send(how, path)?;
        let answer: Value = serde_json::from_str(&text).context(format!("{path}: {text}"))?;
        ensure!(answer["status"] != "Failure", "{how:?} {path}: {answer}");
        Ok(answer)
    }

    /// What is no object.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        self.send(&[], path)
    }

    fn send(&self, how: &[&str], path: &str) -> Result<String> {
        let file = |name: &str| self.dir.join("pki").join(name).display().to_string();
        let (cert, key) = (file("admin.crt"), file("admin.key"));
        let url = format!("https://127.0.0.1:16443{path}");
        let args = [&["-sk", "--cert", &cert, "--key", &key], how, &[&url]].concat();
        self.api.run("curl", &args)
    }

    /// Many objects over one connection.
    pub(crate) fn create_all(&self, path: &str, objects: impl Iterator<Item = Value>) -> Result<()> {
        use std::fmt::Write;
        let pki = self.dir.join("pki");
        let mut requests = String::new();
        for object in objects {
            let body = object.to_string().replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(
                requests,
                "{}url = \"https://127.0.0.1:16443{path}\"\nsilent\ninsecure\ncert = \"{}\"\nkey = \"{}\"\n\
                 header = \"Content-Type: application/json\"\ndata-binary = \"{body}\"\noutput = /dev/null\nfail\n",
                if requests.is_empty() { "" } else { "next\n" },
                pki.join("admin.crt").display(),
                pki.join("admin.key").display(),
            );
        }
        let file = self.api.write_config("requests", &requests)?;
        self.api
            .run("curl", &["--config", &file.to_string_lossy()])
            .map(drop)
    }

    /// The service account's files, as a pod finds them.
    pub(crate) fn account(&self) -> Result<[(&'static str, String); 3]> {
        let ca = self.dir.join("pki/ca.crt");
        let ca = std::fs::read_to_string(&ca).context(ca.display())?;
        Ok([
            ("token", self.token()?),
            ("ca.crt", ca),
            ("namespace", "podroute".to_owned()),
        ])
    }

    /// The address of the API server's own Service, which no kube-proxy serves here: a route does.
    pub(crate) fn service_of_api(&self) -> Result<(String, u16)> {
        const SERVICE: &str = "10.96.0.1";
        self.api.ip(&format!("addr replace {SERVICE}/32 dev lo"))?;
        for node in &self.nodes {
            node.ip(&format!("route replace {SERVICE}/32 via 192.0.2.100"))?;
        }
        Ok((SERVICE.to_owned(), 16443))
    }

    pub(crate) fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.ask("POST", path, "application/json", object).map(drop)
    }

    pub(crate) fn patch(&self, path: &str, change: &Value) -> Result<()> {
        self.ask("PATCH", path, "application/merge-patch+json", change)
            .map(drop)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        let now = json!({"gracePeriodSeconds": 0});
        self.ask("DELETE", path, "application/json", &now).map(drop)
    }

    /// A Node object with a pod CIDR and its internal address.
    pub(crate) fn join(&self, node: usize, cidr: &str) -> Result<()> {
        let name = NAMES[node];
        self.create(
            "/api/v1/nodes",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}}),
        )?;
        let address = format!("192.0.2.{}", 11 + node);
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        self.patch(&format!("/api/v1/nodes/{name}/status"), &status)
    }

    pub(crate) fn join_all(&self) -> Result<()> {
        (0..NAMES.len()).try_for_each(|node| self.join(node, &format!("10.244.{}.0/24", node + 1)))
    }

    /// The peers of a node, by name.
    pub(crate) fn names(&self, node: usize) -> Result<Vec<String>> {
        let peers = podroute::show(&self.nodes[node], "peers")?;
        let all = peers["peers"].as_array().into_iter().flatten();
        let mut names: Vec<String> = all
            .filter_map(|peer| peer["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Every node has a route to the block of every other.
    pub(crate) fn wait_mesh(&self) -> Result<()> {
        for (node, host) in self.nodes.iter().enumerate() {
            for other in (0..NAMES.len()).filter(|other| *other != node) {
                let via = format!("192.0.2.{}", 11 + other);
                wait_route(
                    host,
                    prefix(&format!("10.244.{}.0/24", other + 1)),
                    CONVERGENCE,
                    |route| {
                        route
                            .next_hops
                            .iter()
                            .any(|(gateway, _)| gateway.is_some_and(|addr| addr.to_string() == via))
                    },
                )?;
            }
        }
        Ok(())
    }
}

pub(crate) const FULL: &str = "mesh: {mode: full, hold: 9s}\n";

/// The taint makes others prefer other paths, as long as it is there.
fn drained_by_taint(cluster: &Cluster) -> Result<()> {
    for there in [true, false] {
        let taints = if there {
            json!([{"key": "podroute/drain", "effect": "NoSchedule"}])
        } else {
            Value::Null
        };
        cluster.patch("/api/v1/nodes/node-2", &json!({"spec": {"taints": taints}}))?;
        wait::until(
            CONVERGENCE,
            format_args!("GRACEFUL_SHUTDOWN on node-2's block: {there}"),
            || {
                let routes = podroute::show(&cluster.nodes[0], "routes")?;
                let all = routes["routes"].as_array().into_iter().flatten();
                let text: String = all
                    .filter(|route| route["prefix"] == "10.244.2.0/24")
                    .map(ToString::to_string)
                    .collect();
                ensure!(
                    !text.is_empty() && text.contains("graceful-shutdown") == there,
                    "{text}"
                );
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn join_and_leave(cluster: &mut Cluster) -> Result<()> {
    cluster.start_agents(FULL)?;
    cluster.join_all()?;
    cluster.wait_mesh()?;
    let file = cluster.nodes[0].run_file("podroute/node.json");
    let text = std::fs::read_to_string(&file).context(file.display())?;
    ensure!(text.contains("10.244.1.0/24"), "node.json: {text}");
    wait::until(CONVERGENCE, "condition NetworkUnavailable", || {
        let node = cluster.get("/api/v1/nodes/node-1")?;
        let conditions = node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let told = conditions
            .iter()
            .find(|condition| condition["type"] == "NetworkUnavailable");
        if told.is_some_and(|condition| condition["status"] == "False") {
            return Ok(());
        }
        wait::not_yet(format!("{conditions:?}"))
    })?;
    wait::until(CONVERGENCE, "an Event about a session", || {
        let list = cluster.get("/api/v1/namespaces/default/events")?;
        let told = |event: &&Value| {
            event["reason"] == "SessionUp"
                && event["involvedObject"]["name"] == "node-1"
                && event["message"]
                    .as_str()
                    .is_some_and(|text| text.contains("node-2"))
        };
        let events = list["items"].as_array().cloned().unwrap_or_default();
        ensure!(
            events.iter().any(|event| told(&event)),
            "{} Events: {list}",
            events.len()
        );
        Ok(())
    })?;
    drained_by_taint(cluster)?;
    let ups = peer(&cluster.nodes[0], "node-2")?["timesEstablished"].clone();
    // It leaves: its route goes within a second, and nobody else's session is touched.
    let begun = Instant::now();
    cluster.delete("/api/v1/nodes/node-3")?;
    wait_no_route(&cluster.nodes[0], prefix("10.244.3.0/24"), CONVERGENCE)?;
    let took = begun.elapsed();
    println!("a node's route was gone {took:?} after its object");
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    // It comes back with another block.
    cluster.join(2, "10.244.9.0/24")?;
    let begun = Instant::now();
    wait_route(&cluster.nodes[0], prefix("10.244.9.0/24"), CONVERGENCE, |_| true)?;
    println!(
        "its new block was reachable {:?} after its object",
        begun.elapsed()
    );
    wait_route(&cluster.nodes[1], prefix("10.244.9.0/24"), CONVERGENCE, |_| true)?;
    ensure!(
        kernel::route(&cluster.nodes[0], prefix("10.244.3.0/24"))?.is_none(),
        "the old block is still there"
    );
    ensure!(
        peer(&cluster.nodes[0], "node-2")?["timesEstablished"] == ups,
        "node-2's session was reset"
    );
    // A label is not news for sessions.
    cluster.patch(
        "/api/v1/nodes/node-2",
        &json!({"metadata": {"labels": {"rack": "b"}}}),
    )?;
    wait::throughout(Duration::from_secs(1), "sessions as they were", || {
        ensure!(
            peer(&cluster.nodes[0], "node-2")?["timesEstablished"] == ups,
            "node-2's session was reset"
        );
        Ok(())
    })
}

fn outage(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(FULL)?;
    cluster.wait_mesh()?;
    cluster.stop_api();
    // With the API server gone an agent starts again, from what it saved.
    let mut agent = cluster.agents.remove(1);
    agent.kill();
    drop(agent);
    cluster.start_agent(1, FULL)?;
    wait::throughout(
        Duration::from_secs(2),
        "routes while the API server is away",
        || {
            for (host, block) in [(0, "10.244.2.0/24"), (1, "10.244.1.0/24"), (2, "10.244.2.0/24")] {
                let route = kernel::route(&cluster.nodes[host], prefix(block))?;
                ensure!(route.is_some(), "{block} is gone from {}", NAMES[host]);
            }
            Ok(())
        },
    )?;
    wait::until(CONVERGENCE, "node-2's sessions", || {
        let state = peer(&cluster.nodes[1], "node-1")?;
        if state["state"] == "Established" {
            Ok(())
        } else {
            wait::not_yet(state.to_string())
        }
    })?;
    // It comes back and is listened to.
    cluster.start_api()?;
    cluster.patch(
        "/api/v1/nodes/node-3",
        &json!({"metadata": {"labels": {"later": "yes"}}}),
    )?;
    cluster.delete("/api/v1/nodes/node-3")?;
    wait_no_route(
        &cluster.nodes[0],
        prefix("10.244.3.0/24"),
        Duration::from_secs(60),
    )
    .map_err(|failure: Failure| failure.during("after the outage"))
}

fn reflectors(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    let reflects = json!({"metadata": {"labels": {"podroute/reflector": "true"}}});
    cluster.patch("/api/v1/nodes/node-1", &reflects)?;
    // One file for all: clients take what their reflectors of that cluster reflect.
    for node in 0..NAMES.len() {
        cluster.start_agent_with(
            node,
            "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16], clusterId: 192.0.2.250}\n\
             node: {blocks: kubernetes}\n\
             mesh: {mode: reflectors, reflectorSelector: {podroute/reflector: \"true\"}, hold: 9s}\n",
        )?;
    }
    cluster.wait_mesh()?;
    ensure!(
        cluster.names(1)? == ["node-1"],
        "a client has sessions with {:?}",
        cluster.names(1)?
    );
    ensure!(
        cluster.names(0)? == ["node-2", "node-3"],
        "the reflector has sessions with {:?}",
        cluster.names(0)?
    );
    // A second reflector, without a restart.
    cluster.patch("/api/v1/nodes/node-2", &reflects)?;
    wait::until(CONVERGENCE, "both reflectors at node-3", || {
        let found = cluster.names(2)?;
        if found == ["node-1", "node-2"] {
            Ok(())
        } else {
            wait::not_yet(format!("{found:?}"))
        }
    })?;
    cluster.wait_mesh()
}
