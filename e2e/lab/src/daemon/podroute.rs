//! podroute itself, as a node's agent and as a ToR: one YAML per machine, asked over its socket.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Speaker, json, wait_answer};
use crate::bins;
use crate::failure::Result;
use crate::machine::Host;
use crate::process::Daemon;
use crate::topology::{Family, Neighbor, POD_CIDRS, Role};

pub(super) fn start(host: &Host, speaker: &Speaker) -> Result<Vec<Daemon>> {
    start_with(host, &render(speaker)).map(|daemon| vec![daemon])
}

/// Starts the agent with a configuration of the test's own and waits for its socket.
pub fn start_with(host: &Host, yaml: &str) -> Result<Daemon> {
    start_in(host, yaml, &[])
}

/// The same with these environment variables.
pub fn start_in(host: &Host, yaml: &str, environment: &[(&str, &str)]) -> Result<Daemon> {
    let config = host.write_config("podroute.yaml", yaml)?;
    let mut command = std::process::Command::new(bins::find("podroute")?);
    command.args(["run", "--config"]).arg(config);
    command.envs(environment.iter().copied());
    let mut agent = host.spawn("podroute", &mut command)?;
    wait_answer(host, &mut agent, Duration::from_secs(10), || show(host, "peers"))?;
    Ok(agent)
}

/// Starts the agent with the configuration that it had before.
pub(super) fn launch(host: &Host) -> Result<Daemon> {
    let mut command = std::process::Command::new(bins::find("podroute")?);
    command
        .args(["run", "--config"])
        .arg(host.dir().join("etc/podroute.yaml"));
    host.spawn("podroute", &mut command)
}

/// `podroute show WHAT -o json`.
pub fn show(host: &Host, what: &str) -> Result<serde_json::Value> {
    let podroute = bins::find("podroute")?;
    json(&host.run(&podroute.to_string_lossy(), &["show", what, "-o", "json"])?)
}

pub(super) fn sessions(host: &Host) -> Result<BTreeMap<IpAddr, String>> {
    let peers = show(host, "peers")?;
    let states = peers["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|peer| {
            Some((
                peer["address"].as_str()?.parse().ok()?,
                peer["state"].as_str()?.to_owned(),
            ))
        });
    Ok(states.collect())
}

pub(super) fn version() -> String {
    let Ok(podroute) = bins::find("podroute") else {
        return String::new();
    };
    let output = std::process::Command::new(podroute).arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// The machine's YAML.
pub fn render(speaker: &Speaker) -> String {
    let [v4, v6] = POD_CIDRS;
    let mut out = format!(
        "apiVersion: podroute/v1\ncluster:\n  asn: {}\n  podCIDRs: [{v4}, \"{v6}\"]\nnode:\n  name: {}\n  routerId: {}\n",
        speaker.asn, speaker.name, speaker.router_id
    );
    if !speaker.originates.is_empty() {
        let blocks: Vec<String> = speaker.originates.iter().map(|b| format!("\"{b}\"")).collect();
        let _ = writeln!(out, "  blocks: [{}]", blocks.join(", "));
    }
    out.push_str("peers:\n");
    speaker
        .neighbors
        .iter()
        .for_each(|neighbor| peer(&mut out, speaker, neighbor));
    policies(&mut out, speaker);
    out
}

fn peer(out: &mut String, speaker: &Speaker, neighbor: &Neighbor) {
    let family = Family::of(neighbor.remote).keyword();
    let _ = write!(
        out,
        "- name: {}\n  address: \"{}\"\n  asn: {}\n  families: [{family}]\n  passive: {}\n  \
         timers: {{hold: {}s, connectRetry: 1s}}\n",
        neighbor.name,
        neighbor.remote,
        neighbor.asn,
        neighbor.passive,
        speaker.hold.as_secs(),
    );
    if neighbor.asn != speaker.asn {
        let (import, export) = match neighbor.role {
            Role::Tor => ("from-tor", "to-tor"),
            Role::Node => ("from-node", "to-node"),
        };
        let _ = writeln!(out, "  import: {import}\n  export: {export}");
    }
}

/// A ToR passes on what lies in the pods' ranges; a node announces its own blocks only.
fn policies(out: &mut String, speaker: &Speaker) {
    let [v4, v6] = POD_CIDRS;
    let pods = format!(
        "  - match: {{prefixes: [{{in: {v4}, length: 24-32}}, {{in: \"{v6}\", length: 64-128}}]}}\n    action: accept\n"
    );
    let own = "  - match: {source: [podBlock]}\n    action: accept\n";
    let export = match speaker.role {
        Role::Node => own,
        Role::Tor => &pods,
    };
    out.push_str("policies:\n");
    for (role, name) in [(Role::Tor, "tor"), (Role::Node, "node")] {
        let outside = |n: &Neighbor| n.role == role && n.asn != speaker.asn;
        if speaker.neighbors.iter().any(outside) {
            let _ = write!(out, "  from-{name}:\n{pods}  to-{name}:\n{export}");
        }
    }
}
