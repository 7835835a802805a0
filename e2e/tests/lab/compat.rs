//! The run directory of an earlier version, as its agent and plugins left it, in the hands of this one; and the other way round as
//! far as files tell. `compat/run-VERSION.json` has the files of a node with one pod, one released address and one session, drained.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::{bins, ensure};
use serde_json::Value;

use crate::sessions::{cable, established};
use crate::support::peer;
use crate::{Scenario, scenario};

const RUN_0_1_0: &str = include_str!("compat/run-0.1.0.json");

const YAML: &str = "apiVersion: podroute/v1\n\
    cluster: {asn: 64512, podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}\n\
    node: {name: node-1, blocks: [10.244.1.0/24, \"fd00:10:244:1::/64\"]}\n\
    peers: [{name: other, address: 192.0.2.2, asn: 65001, import: all, export: all, timers: {connectRetry: 200ms}}]\n\
    policies: {all: accept}\n";

const ROUTER: &str = "apiVersion: podroute/v1\ncluster: {asn: 65001, podCIDRs: [10.244.0.0/16]}\n\
    node: {name: router, routerId: 10.0.0.2, blocks: [10.244.2.0/24]}\n\
    peers: [{name: node-1, address: 192.0.2.1, asn: 64512, import: all, export: all}]\npolicies: {all: accept}\n";

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("compat::a_run_directory_of_0_1_0", [Kind::Podroute], upgrade),
        scenario(
            "compat::a_rollback_finds_what_0_1_0_reads",
            [Kind::Podroute],
            rollback,
        ),
    ]
}

fn run_dir(host: &Host) -> PathBuf {
    host.dir().join("run/podroute")
}

fn boot_id() -> Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("boot_id")?;
    Ok(id.trim().to_owned())
}

fn recorded() -> Result<BTreeMap<String, Value>> {
    serde_json::from_str(RUN_0_1_0).context("run-0.1.0.json")
}

/// Lays the recorded files into a directory, below this boot's id.
fn lay(dir: &Path) -> Result<()> {
    let boot = boot_id()?;
    for (path, what) in recorded()? {
        let path = dir.join(path.replace("BOOT", &boot));
        let parent = if what["dir"] == true {
            Some(path.as_path())
        } else {
            path.parent()
        };
        if let Some(parent) = parent {
            std::fs::create_dir_all(parent).context(parent.display())?;
        }
        if let Some(text) = what["file"].as_str() {
            std::fs::write(&path, text).context(path.display())?;
        }
        if let Some(target) = what["link"].as_str() {
            symlink(target, &path).context(path.display())?;
        }
    }
    Ok(())
}

fn node(host: &Host) -> Result<Daemon> {
    podroute::start_with(host, YAML)
}

/// The plugin with the host's run directory; what it answers.
fn plugin(host: &Host, verb: &str, container: &str) -> Result<String> {
    let plugin = bins::find("podroute-cni")?;
    let dir = plugin
        .parent()
        .map(Path::display)
        .map(|dir| dir.to_string())
        .unwrap_or_default();
    let config = r#"{"cniVersion":"1.0.0","name":"podroute","type":"podroute-cni"}"#;
    let netns = format!("/run/netns/pod-{container}");
    let script = format!(
        "echo '{config}' | CNI_COMMAND={verb} CNI_CONTAINERID={container} CNI_NETNS={netns} CNI_IFNAME=eth0 CNI_PATH={dir} {}",
        plugin.display()
    );
    host.run("sh", &["-c", &script])
}

fn upgrade() -> Result<()> {
    let [a, b] = cable("node-1", "router", true)?;
    lay(&run_dir(&a))?;
    let _node = node(&a)?;

    // The drain goes on, the identifier stays, and the session that was up is waited for.
    let cluster = a.run(&bins::find("podroute")?.to_string_lossy(), &["show", "cluster"])?;
    ensure!(cluster.contains("this node's routes are withdrawn"), "{cluster}");
    let _router = podroute::start_with(&b, ROUTER)?;
    established(&a, "other")?;
    let router_id = peer(&b, "node-1")?["routerId"].clone();
    ensure!(
        router_id == "192.0.2.1",
        "the identifier of 0.1.0 is kept: {router_id}"
    );

    // The claim holds, what was released is not given out again at once, and the pod of 0.1.0 can be deleted.
    netns("pod-c")?;
    let added = plugin(&a, "ADD", "c")?;
    ensure!(added.contains("10.244.1.4/"), "{added}");
    plugin(&a, "DEL", "a")?;
    let claims = run_dir(&a).join("ipam").join(boot_id()?).join("addr");
    ensure!(
        !claims.join("10.244.1.2").is_symlink(),
        "the claim of the deleted pod is gone"
    );
    ensure!(
        claims.join("10.244.1.4").is_symlink(),
        "the claim of the new pod is there"
    );
    Ok(())
}

fn netns(name: &str) -> Result<()> {
    lab::netns::create(name)
}

/// Every file that 0.1.0 reads is there with this version too, of the same kind, and JSON has at least the same fields with values of
/// the same type.
fn rollback() -> Result<()> {
    let [a, b] = cable("node-1", "router", true)?;
    let _node = node(&a)?;
    let _router = podroute::start_with(&b, ROUTER)?;
    established(&a, "other")?;
    for container in ["a", "b"] {
        netns(&format!("pod-{container}"))?;
        plugin(&a, "ADD", container)?;
    }
    plugin(&a, "DEL", "b")?;
    a.run(&bins::find("podroute")?.to_string_lossy(), &["drain"])?;
    let boot = boot_id()?;
    for (name, old) in recorded()? {
        let path = run_dir(&a).join(name.replace("BOOT", &boot));
        let present = path.symlink_metadata().context(path.display())?;
        ensure!(
            present.is_symlink() == old["link"].is_string(),
            "{name} is of another kind"
        );
        if let Some(link) = old["link"].as_str() {
            let target = std::fs::read_link(&path).context(path.display())?;
            ensure!(
                target == Path::new(link),
                "{name}: {} is not {link}",
                target.display()
            );
        }
        let Some(before) = old["file"].as_str() else {
            continue;
        };
        let now = std::fs::read_to_string(&path).context(path.display())?;
        // A record of the plugin has a mark behind the object.
        let json = |text: &str| {
            serde_json::Deserializer::from_str(text)
                .into_iter::<Value>()
                .next()?
                .ok()
        };
        if let (Some(before), Some(now)) = (json(before).filter(Value::is_object), json(&now)) {
            same_shape(&name, &before, &now)?;
        }
    }
    Ok(())
}

fn same_shape(place: &str, before: &Value, now: &Value) -> Result<()> {
    if let (Some(before), Some(now)) = (before.as_object(), now.as_object()) {
        for (key, value) in before {
            let place = format!("{place}: {key}");
            let found = now
                .get(key)
                .ok_or_else(|| Failure::new(format!("{place} is gone")))?;
            same_shape(&place, value, found)?;
        }
        return Ok(());
    }
    let same = std::mem::discriminant(before) == std::mem::discriminant(now);
    ensure!(same, "{place}: {before} became {now}");
    if place.ends_with("version") {
        ensure!(before == now, "{place}: {before} became {now}");
    }
    Ok(())
}
