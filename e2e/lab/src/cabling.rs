//! Builds a topology: namespaces, switches, cables, addresses and the physical network's routes.
//!
//! Everything of one kind goes to one `ip -batch` call, so a whole rack takes a fraction of a second.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Result};
use crate::machine::Host;
use crate::netns;
use crate::topology::{Family, Machine, Port, Role, Topology};

/// Makes every machine of the drawing and wires it; answers the hosts by name.
pub fn build(topology: &Topology) -> Result<BTreeMap<&'static str, Host>> {
    let mut hosts = BTreeMap::new();
    for machine in &topology.machines {
        hosts.insert(machine.name, Host::create(machine.name)?);
    }
    wire(topology)?;
    for machine in &topology.machines {
        let host = &hosts[machine.name];
        configure(topology, machine)?;
        if machine.role == Role::Tor {
            enable_forwarding(host)?;
        }
    }
    underlay(topology)?;
    Ok(hosts)
}

/// What a router's installation sets; on nodes the agent does it.
pub fn enable_forwarding(host: &Host) -> Result<()> {
    host.sysctl("net/ipv4/ip_forward", "1")?;
    host.sysctl("net/ipv6/conf/all/forwarding", "1")
}

fn wire(topology: &Topology) -> Result<()> {
    for (index, segment) in topology.segments.iter().enumerate() {
        let ends: Vec<(&Machine, &Port)> = topology
            .machines
            .iter()
            .flat_map(|m| m.ports.iter().map(move |p| (m, p)))
            .filter(|(_, port)| port.segment == index)
            .collect();
        let mut batch = Vec::new();
        match (segment.switched, ends.as_slice()) {
            (true, ends) => {
                netns::create(segment.name)?;
                batch.push("link add br0 up type bridge forward_delay 0".to_owned());
                for (machine, port) in ends {
                    batch.push(cable(machine, port, machine.name));
                    batch.push(format!("link set {} master br0 up", machine.name));
                }
                ip_batch(segment.name, &batch)?;
            }
            (false, [(a, pa), (b, pb)]) => {
                ip_batch(b.name, &[cable(a, pa, pb.ifname)])?;
            }
            (false, ends) => {
                return Err(Failure::new(format!(
                    "cable {} has {} ends",
                    segment.name,
                    ends.len()
                )));
            }
        }
    }
    Ok(())
}

/// A veth pair: `far` in the current namespace, the machine's port in its own.
fn cable(machine: &Machine, port: &Port, far: &str) -> String {
    format!(
        "link add {far} type veth peer name {} netns {}",
        port.ifname, machine.name
    )
}

fn configure(topology: &Topology, machine: &Machine) -> Result<()> {
    let mut batch = Vec::new();
    for port in &machine.ports {
        for family in Family::BOTH {
            let address = topology.address(port, family);
            let length = topology.subnet(port.segment, family).prefix_len();
            let nodad = if family == Family::V6 { " nodad" } else { "" };
            batch.push(format!("addr add {address}/{length} dev {}{nodad}", port.ifname));
        }
        batch.push(format!("link set {} up", port.ifname));
    }
    ip_batch(machine.name, &batch)
}

/// Adds the routes of the physical network; the links must be up.
fn underlay(topology: &Topology) -> Result<()> {
    for machine in &topology.machines {
        for (family, flag) in [(Family::V4, "-4"), (Family::V6, "-6")] {
            for (prefix, gateway) in topology.underlay(machine, family) {
                let gateway = gateway.to_string();
                let args = ["-n", machine.name, flag, "route", "add", &prefix, "via", &gateway];
                crate::process::run("ip", &args)?;
            }
        }
    }
    Ok(())
}

fn ip_batch(namespace: &str, lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip -batch")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(lines.join("\n").as_bytes())
            .context("writing to ip -batch")?;
    }
    let output = child.wait_with_output().context("ip -batch")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("wiring {namespace} with ip -batch"))
        .evidence("commands", lines.join("\n"))
        .evidence("standard error", String::from_utf8_lossy(&output.stderr)))
}
