//! The nodes' NodeRoute objects, and the looking glass of a node.

use std::time::Duration;

use lab::daemon::Kind;
use lab::failure::Result;
use lab::{ensure, wait};
use serde_json::{Value, json};

use crate::kube::{Cluster, FULL, with_api};
use crate::{Scenario, scenario};

/// Longer than convergence: an object is written at most every ten seconds.
const WRITTEN: Duration = Duration::from_secs(60);
const OBJECTS: &str = "/apis/podroute.io/v1alpha1/noderoutes";

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("kube::noderoutes_say_how_nodes_are", [Kind::Podroute], || {
            with_api(noderoutes)
        }),
        scenario("kube::the_looking_glass_of_a_node", [Kind::Podroute], || {
            with_api(looking_glass)
        }),
    ]
}

/// Waits until the object of a node is as wanted, and returns it.
fn wait_object(cluster: &Cluster, node: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = Value::Null;
    wait::until(WRITTEN, format_args!("{node}: {what}"), || {
        found = cluster.get(&format!("{OBJECTS}/{node}"))?;
        ensure!(is(&found["status"]), "{found}");
        Ok(())
    })?;
    Ok(found)
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.into_iter()
        .find(|condition| condition["type"] == name)
        .unwrap_or(&Value::Null)
}

/// With the shipped definition and rights: sessions, a session that goes down, a drain; unchanged objects are not written.
fn noderoutes(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(FULL)?;
    let up = |status: &Value| {
        status["sessions"]["summary"] == "2/2"
            && condition(status, "Ready")["status"] == "True"
            && status["routes"]["installed"] == 3
    };
    let object = wait_object(cluster, "node-1", "two sessions, ready, three routes", up)?;
    let (meta, status) = (&object["metadata"], &object["status"]);
    let node = cluster.get("/api/v1/nodes/node-1")?;
    ensure!(
        meta["ownerReferences"][0]["uid"] == node["metadata"]["uid"],
        "the Node owns it: {meta}"
    );
    ensure!(status["blocks"][0]["prefix"] == "10.244.1.0/24", "{status}");
    ensure!(
        status["problem"].is_null() && status["drained"] == "No",
        "{status}"
    );
    let other = wait_object(cluster, "node-2", "ready", |status| up(status))?;
    ensure!(
        other["status"]["configuration"]["hash"] == status["configuration"]["hash"],
        "nodes with one file have one hash: {other}"
    );
    let since = condition(status, "Ready")["lastTransitionTime"].clone();
    let version = meta["resourceVersion"].clone();
    drop(cluster.agents.pop());
    let down = |status: &Value| status["sessions"]["summary"] == "1/2";
    let object = wait_object(cluster, "node-1", "a session is down", down)?;
    let status = &object["status"];
    ensure!(object["metadata"]["resourceVersion"] != version, "{object}");
    ensure!(
        condition(status, "SessionsEstablished")["status"] == "False",
        "{status}"
    );
    ensure!(
        condition(status, "Ready")["lastTransitionTime"] == since,
        "a condition that did not change keeps its time: {status}"
    );
    ensure!(
        status["problem"]
            .as_str()
            .is_some_and(|text| text.contains("node-3 is down")),
        "{status}"
    );
    let drain = json!({"spec": {"taints": [{"key": "podroute/drain", "effect": "NoSchedule"}]}});
    cluster.patch("/api/v1/nodes/node-1", &drain)?;
    wait_object(cluster, "node-1", "drained", |status| {
        status["drained"] == "PreferOthers" && condition(status, "Drained")["status"] == "True"
    })?;
    // Somebody deletes it: it is there again with the next change.
    cluster.delete(&format!("{OBJECTS}/node-1"))?;
    cluster.patch("/api/v1/nodes/node-1", &json!({"spec": {"taints": null}}))?;
    wait_object(cluster, "node-1", "not drained", |status| {
        status["drained"] == "No"
    })?;
    Ok(())
}

/// On the loopback address only, with what the agent knows, and for its own name only.
fn looking_glass(cluster: &mut Cluster) -> Result<()> {
    cluster.join_all()?;
    cluster.start_agents(&format!("{FULL}web: {{port: 9180}}\n"))?;
    cluster.wait_mesh()?;
    let host = &cluster.nodes[0];
    let get = |view: &str| -> Result<Value> {
        let url = format!("http://127.0.0.1:9180/api/v1/{view}");
        let text = host.run("curl", &["-sf", &url])?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    };
    wait::until(WRITTEN, "the sessions in the looking glass", || {
        let peers = get("peers")?;
        let items = peers["items"].as_array().cloned().unwrap_or_default();
        let up = items.iter().filter(|peer| peer["state"] == "Established").count();
        ensure!(up == 2 && items[0]["node"] == "node-1", "{peers}");
        Ok(())
    })?;
    for (view, text) in [
        ("routes", "10.244.3.0/24"),
        ("blocks", "10.244.1.0/24"),
        ("pods", "\"items\":[]"),
        ("services", "\"items\""),
        ("policies", "mesh-node"),
        ("events", "session_up"),
    ] {
        let document = get(view)?;
        ensure!(document["nodes"]["answered"] == 1, "{view}: {document}");
        ensure!(document.to_string().contains(text), "{view}: {document}");
    }
    let page = host.run("curl", &["-sf", "http://127.0.0.1:9180/"])?;
    ensure!(page.contains("podroute looking glass"), "{page}");
    let rebound = [
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "Host: evil.example",
        "http://127.0.0.1:9180/",
    ];
    let status = host.run("curl", &rebound)?;
    ensure!(status == "421", "{status}");
    let outside = cluster.nodes[1].output("curl", &["-s", "http://192.0.2.11:9180/"])?;
    ensure!(!outside.status.success(), "served to other machines");
    Ok(())
}
