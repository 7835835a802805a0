//! The image, and the DaemonSet as a kubelet runs it: a container with exactly the manifest's rights and mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::cni::Runtime;
use lab::container::{Image, Kubelet};
use lab::daemon::Kind;
use lab::failure::{Context, Result};
use lab::flow::Flow;
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::topology::Family;
use lab::{ensure, wait};
use serde_json::Value;

use crate::kube::{Cluster, NAMES, with_api};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let with_tools = |scenario: Scenario| {
        scenario
            .with_program("podman", "podman")
            .with_program("runc", "runc")
    };
    vec![
        with_tools(scenario(
            "image::three_programs_and_nothing_else",
            [],
            three_programs,
        )),
        with_tools(scenario(
            "kube::the_daemonset_as_a_kubelet_runs_it",
            [Kind::Podroute],
            || with_api(daemonset),
        )),
    ]
}

fn three_programs() -> Result<()> {
    let image = Image::build(Path::new("/run/image"))?;
    let wanted = ["/podroute", "/podroute-cni", "/podroute-ipam"].map(PathBuf::from);
    ensure!(image.files()? == wanted, "in the image: {:?}", image.files()?);
    let host = Host::create("somewhere")?;
    let said = image.run(&host, &["podroute", "--version"])?;
    ensure!(said.starts_with("podroute "), "{said}");
    Ok(())
}

/// The ConfigMap as a kubelet mounts it.
fn mount_config(cluster: &Cluster, host: &Host) -> Result<PathBuf> {
    let map = cluster.get("/api/v1/namespaces/podroute/configmaps/podroute")?;
    let dir = host.dir().join("configmap");
    std::fs::create_dir_all(dir.join("..1")).context(dir.display())?;
    for (name, text) in map["data"].as_object().into_iter().flatten() {
        std::fs::write(dir.join("..1").join(name), text.as_str().unwrap_or_default()).context(name)?;
        std::os::unix::fs::symlink(Path::new("..data").join(name), dir.join(name)).context(name)?;
    }
    std::os::unix::fs::symlink("..1", dir.join("..data")).context("..data")?;
    Ok(dir)
}

fn kubelet<'a>(cluster: &Cluster, node: usize, host: &'a Host) -> Result<Kubelet<'a>> {
    let account = host.dir().join("account");
    std::fs::create_dir_all(&account).context(account.display())?;
    for (name, content) in cluster.account()? {
        std::fs::write(account.join(name), content).context(name)?;
    }
    Ok(Kubelet {
        host,
        node: NAMES[node],
        config_maps: BTreeMap::from([("podroute".to_owned(), mount_config(cluster, host)?)]),
        account,
        api: cluster.service_of_api()?,
    })
}

fn wait_ready(host: &Host, agent: &mut Daemon) -> Result<()> {
    wait::until(CONVERGENCE, format_args!("{} is ready", host.name()), || {
        agent.check_alive()?;
        host.run("curl", &["-sf", "http://127.0.0.1:9179/readyz"])
            .map(drop)
    })
}

/// A pod of `node` by the plugin and the list that the init container put there.
fn pod(kubelet: &Kubelet, name: &str) -> Result<lab::cni::Pod> {
    let list = kubelet.on_host("/etc/cni/net.d/10-podroute.conflist");
    let list = std::fs::read_to_string(&list).context(list.display())?;
    let list: Value = serde_json::from_str(&list).context("the list")?;
    Runtime::with_list(kubelet.host, list)
        .with_plugins(kubelet.on_host("/opt/cni/bin"))
        .add_pod_with(name, &[Family::V4])
}

/// Commands for an operator, and what each says in the container.
const COMMANDS: [(&str, &str); 29] = [
    ("show peers", "Established"),
    ("show peer node-2", "Established"),
    ("show routes", "10.244.3.0/24"),
    ("show fib", "installed"),
    ("show blocks", "advertised"),
    ("show bfd", "BFD"),
    ("show cluster", "answers"),
    ("show services", ""),
    ("show policies", ""),
    ("schema", "podCIDRs"),
    ("completions bash", "undrain"),
    ("show pods", "ready"),
    ("show pods -o json", "\"life\": \"alive\""),
    ("ipam check", "fit together"),
    ("ipam check --fix", "fit together"),
    ("check /etc/podroute/podroute.yaml", "good"),
    ("check --explain /etc/podroute/podroute.yaml", "AS"),
    ("diff /etc/podroute/podroute.yaml", "nothing"),
    ("reload", "reloaded"),
    ("log-level debug", "debug"),
    ("peer clear node-2 --soft in", "requested"),
    ("peer disable node-2", "disabled"),
    ("peer enable node-2", "enabled"),
    ("dump -", ""),
    ("install-cni", "as it was"),
    ("drain --wait 0", "safe to stop"),
    ("show cluster", "routes are withdrawn"),
    ("show blocks", "withdrawn (drained)"),
    ("undrain", "not drained"),
];

/// Not for a running node, what the container runs by itself, or what needs a file or network policies (other scenarios run these).
const OTHERS: [&str; 8] = [
    "run",
    "cleanup",
    "cluster",
    "help",
    "man",
    "policy",
    "network-policy",
    "router-config",
];

/// As `kubectl exec ds/podroute -- podroute …`: none of them hurts the pods.
fn every_command(kubelet: &Kubelet, spec: &Value) -> Result<()> {
    let run = |command: &str| {
        let args: Vec<&str> = std::iter::once("/podroute").chain(command.split(' ')).collect();
        kubelet.exec(spec, 0, &args)
    };
    for (command, wanted) in COMMANDS {
        let done = || -> Result<()> {
            let output = run(command)?;
            let said = [&output.stdout[..], &output.stderr[..]].concat();
            let said = String::from_utf8_lossy(&said);
            ensure!(
                output.status.success() && said.contains(wanted),
                "podroute {command}: {said}"
            );
            Ok(())
        };
        wait::until(
            CONVERGENCE,
            format_args!("podroute {command} in the container"),
            done,
        )?;
    }
    let help = run("help")?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.map_while(|line| line.strip_prefix("  ")?.split_whitespace().next());
    for name in names {
        let is_run = COMMANDS
            .iter()
            .any(|(command, _)| command.split(' ').next() == Some(name));
        ensure!(
            is_run || OTHERS.contains(&name),
            "nobody tries podroute {name}: {help}"
        );
    }
    Ok(())
}

/// Nodes as they come: nothing forwards, no plugin is there.
fn daemonset(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    let image = Image::build(Path::new("/run/image"))?;
    let set = cluster.get("/apis/apps/v1/namespaces/podroute/daemonsets/podroute")?;
    let spec = &set["spec"]["template"]["spec"];
    let hosts = cluster.nodes.clone();
    let mut agents = Vec::new();
    let mut kubelets = Vec::new();
    for (node, host) in hosts.iter().enumerate() {
        host.sysctl("net/ipv4/ip_forward", "0")?;
        let kubelet = kubelet(cluster, node, host)?;
        kubelet.init(&image, spec, 0)?;
        agents.push(kubelet.start(&image, spec, 0)?);
        kubelets.push(kubelet);
    }
    for (host, agent) in hosts.iter().zip(&mut agents) {
        wait_ready(host, agent)?;
    }
    cluster.wait_mesh()?;
    let from = pod(&kubelets[0], "from")?;
    let to = pod(&kubelets[2], "to")?;
    let flow = Flow::start(&from.name, &to.name, to.addresses[&Family::V4], 1000)?;
    flow.wait_for(200)?;
    every_command(&kubelets[0], spec)?;
    flow.wait_for(200)?;
    // A rolling update: each container ends and another starts.
    for ((kubelet, agent), host) in kubelets.iter().zip(&mut agents).zip(&hosts) {
        agent.terminate(Duration::from_secs(10))?;
        kubelet.init(&image, spec, 0)?;
        *agent = kubelet.start(&image, spec, 0)?;
        wait_ready(host, agent)?;
    }
    flow.wait_for(200)?;
    flow.finish()?.check_no_loss(400)?;
    agents
        .iter_mut()
        .try_for_each(|agent| agent.terminate(Duration::from_secs(10)))?;
    uninstall(cluster, &image, &kubelets)
}

/// What docs/operations.md says of uninstalling: the agents are gone, and this leaves nothing of podroute on a node.
fn uninstall(cluster: &Cluster, image: &Image, kubelets: &[Kubelet]) -> Result<()> {
    cluster.apply("uninstall")?;
    let set = cluster.get("/apis/apps/v1/namespaces/podroute/daemonsets/podroute-uninstall")?;
    let spec = &set["spec"]["template"]["spec"];
    for kubelet in kubelets {
        let said = kubelet.init(image, spec, 0)?;
        ensure!(said.contains("removed"), "{said}");
        let mut stays = kubelet.start(image, spec, 0)?;
        for line in [
            "route show proto 245",
            "route show proto 246",
            "nexthop show proto 245",
        ] {
            let left = kubelet.host.ip(line)?;
            ensure!(left.trim().is_empty(), "ip {line}: {left}");
        }
        let links = kubelet.host.ip("-o link show")?;
        ensure!(
            !links.contains("podroute:"),
            "an interface of a pod is left: {links}"
        );
        let list = kubelet.on_host("/etc/cni/net.d/10-podroute.conflist");
        ensure!(!list.exists(), "{} is left", list.display());
        // A signal before its program runs is lost with the first process of a container.
        wait::until(CONVERGENCE, "the container that stays", || {
            stays.check_alive()?;
            let output = kubelet.exec(spec, 0, &["/podroute", "--version"])?;
            ensure!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(())
        })?;
        stays.terminate(Duration::from_secs(10))?;
    }
    Ok(())
}
