//! The demo: builds the rack, then proves step by step that pods reach each other over BGP.
//!
//! Each step prints one line; the first that fails names the check, shows the evidence and ends the
//! demo with a non-zero exit code.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use crate::capture::{Capture, Packet};
use crate::cni::{Plugin, Pod};
use crate::daemon::Kind;
use crate::failure::{Failure, Result};
use crate::kernel;
use crate::probe::{self, Servers};
use crate::rack::{Plan, Rack};
use crate::report::Report;
use crate::topology::{Family, Topology};

const PODS_PER_NODE: usize = 2;
/// 64 at the pod, less one for its node, less one for tor-a.
const TTL_ON_SPINE: u8 = 62;

/// What `podroute-lab demo` was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Daemon on the ToRs.
    pub tor: Kind,
    /// Daemon on the nodes.
    pub node: Kind,
    /// Who makes the pods, if not what suits the nodes.
    pub plugin: Option<Plugin>,
    /// Leave the rack up at the end.
    pub keep: bool,
}

/// Runs the demo in the box that this process is in; answers the exit code.
pub fn main(options: &Options) -> i32 {
    let report = Report::new();
    match run_demo(options, &report) {
        Ok(mut rack) if options.keep => {
            rack.leave_running();
            print_hints(&report, &rack);
            crate::sandbox::KEEP
        }
        Ok(_) => 0,
        Err(failure) => {
            report.failure(&failure);
            1
        }
    }
}

fn run_demo(options: &Options, report: &Report) -> Result<Rack> {
    options.node.available()?;
    options.tor.available()?;
    if options.node != Kind::Podroute && options.plugin != Some(Plugin::Podroute) {
        crate::cni::reference_plugins_available()?;
    }
    print_topology(report, options);
    let mut plan = Plan::new(Topology::demo(), options.node, options.tor);
    plan.plugin = options.plugin.unwrap_or(plan.plugin);
    let mut rack = report.step("rack", || {
        let topology = &plan.topology;
        let switches = topology.segments.iter().filter(|s| s.switched).count();
        let detail = format!(
            "{} nodes and {} ToRs in namespaces, {switches} switch, {} cables",
            topology.nodes().count(),
            topology.tors().count(),
            topology.machines.iter().map(|m| m.ports.len()).sum::<usize>()
                - topology.segments.iter().filter(|s| !s.switched).count(),
        );
        Ok((detail, Rack::build(plan)?))
    })?;
    report.step("daemons", || {
        rack.start_daemons()?;
        let (node, tor) = (options.node.name(), options.tor.name());
        let nodes = rack.plan.topology.nodes().count();
        Ok((
            format!("{nodes} × {node}, {} × {tor}", rack.daemons.len() - nodes),
            (),
        ))
    })?;
    report.step("sessions", || {
        let ends = rack.wait_sessions()?;
        Ok((
            format!(
                "{} of {} BGP sessions Established, seen from both ends",
                ends / 2,
                ends / 2
            ),
            (),
        ))
    })?;
    report.table(&session_table(&rack)?);
    report.step("routes", || {
        let count = rack.wait_routes()?;
        Ok((
            format!(
                "{count} learned routes in {} kernels: gateway of each block",
                rack.hosts.len()
            ),
            (),
        ))
    })?;
    report.table(&route_table(&rack, Family::V4)?);
    report.table(&route_table(&rack, Family::V6)?);
    report.step("pods", || {
        rack.add_pods(PODS_PER_NODE)?;
        let plugin = match rack.plan.plugin {
            Plugin::Podroute => "podroute-cni",
            Plugin::Reference => "ptp (reference plugin)",
        };
        Ok((format!("{} pods by CNI ADD of {plugin}", rack.pods.len()), ()))
    })?;
    report.table(&pod_table(&rack));
    run_checks(report, &rack)?;
    report.success("Every pod reaches every pod and node, with its own address and without a tunnel.");
    Ok(rack)
}

fn print_topology(report: &Report, options: &Options) {
    let label = |kind: Kind| format!("{} {}", kind.name(), kind.version()).trim().to_owned();
    report.title(&format!(
        "podroute demo: nodes run {}, ToRs run {}",
        label(options.node),
        label(options.tor)
    ));
    report.line(
        "
      node-1   node-2   node-3                          node-4
      AS64512  AS64512  AS64512                         AS64513
         └────────┼────────┘  192.0.2.0/24                 │  198.51.100.0/24
                tor-a ─────────── 203.0.113.0/30 ──────── tor-b
               AS65001                                   AS65002
",
    );
}

fn session_table(rack: &Rack) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for machine in &rack.plan.topology.machines {
        let running = &rack.daemons[machine.name];
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (neighbor, session) in running.speaker.neighbors.iter().zip(running.sessions()?) {
            if !session.established {
                return Err(Failure::new(format!(
                    "{} lost its session with {}",
                    machine.name, neighbor.name
                )));
            }
            names
                .entry(neighbor.machine)
                .or_default()
                .push(Family::of(neighbor.remote).label());
        }
        let mut row = vec![machine.name.to_owned(), format!("AS{}", machine.asn)];
        row.extend(
            names
                .iter()
                .map(|(name, families)| format!("{name} ({})", families.join(", "))),
        );
        rows.push(row);
    }
    Ok(rows)
}

fn route_table(rack: &Rack, family: Family) -> Result<Vec<Vec<String>>> {
    let topology = &rack.plan.topology;
    let blocks = topology.nodes().flat_map(|node| &node.blocks);
    let blocks: Vec<_> = blocks
        .filter(|block| Family::of(block.addr()) == family)
        .collect();
    let mut rows = vec![vec![family.label().to_owned()]];
    rows[0].extend(blocks.iter().map(ToString::to_string));
    for machine in &topology.machines {
        let routes = kernel::routes(&rack.hosts[machine.name], family)?;
        let cell = |block: &&ipnet::IpNet| {
            let route = routes.iter().find(|route| route.prefix == **block);
            route.map_or("missing".to_owned(), |route| match route.next_hops.first() {
                Some((Some(gateway), _)) => gateway.to_string(),
                _ => "own".to_owned(),
            })
        };
        let mut row = vec![machine.name.to_owned()];
        row.extend(blocks.iter().map(cell));
        rows.push(row);
    }
    Ok(rows)
}

fn pod_table(rack: &Rack) -> Vec<Vec<String>> {
    let row = |pod: &Pod| {
        let mut row = vec![pod.name.clone()];
        row.extend(pod.addresses.values().map(ToString::to_string));
        row
    };
    rack.pods.iter().map(row).collect()
}

/// The probes, and what the wire between the ToRs showed meanwhile.
fn run_checks(report: &Report, rack: &Rack) -> Result<()> {
    let (pods, nodes) = (rack.pod_endpoints(), rack.node_endpoints()?);
    let all: Vec<_> = pods.iter().chain(&nodes).cloned().collect();
    let _servers = Servers::start(&all)?;
    let wire = Capture::start("tor-a", "spine")?;
    report.step("ping", || {
        let matrix = probe::ping(&pods, &all)?.check("pods to pods and nodes")?;
        let back = probe::ping(&nodes, &pods)?.check("nodes to pods")?;
        Ok((matrix_line("pod → every pod and node", &matrix, &back), ()))
    })?;
    report
        .step("tcp", || {
            let matrix = probe::tcp(&pods, &all)?.check("pods to pods and nodes")?;
            let back = probe::tcp(&nodes, &pods)?.check("nodes to pods")?;
            let line = matrix_line("pod → every pod and node", &matrix, &back);
            Ok((line, matrix.times.len()))
        })
        .map(|connections| {
            report.line(&format!(
                "      in all {connections} connections the receiver saw the pod's own address"
            ));
        })?;
    let packets = wire.finish()?;
    let sample = report.step("wire", || check_wire(rack, &packets))?;
    report.table(&sample);
    Ok(())
}

fn matrix_line(what: &str, forward: &probe::Matrix, back: &probe::Matrix) -> String {
    format!(
        "{what}: {} of {}; node → pod: {} of {}; median {:.2} ms",
        forward.times.len(),
        forward.attempts,
        back.times.len(),
        back.attempts,
        forward.median().as_secs_f64() * 1000.0
    )
}

/// Every pair of pods across the spine must have been seen there as it left the pod.
fn check_wire(rack: &Rack, packets: &[Packet]) -> Result<(String, Vec<Vec<String>>)> {
    if let Some(tunnel) = packets.iter().find(|packet| packet.is_tunnel()) {
        return Err(Failure::new(format!(
            "a tunnel packet is on the wire: {tunnel:?}"
        )));
    }
    let (far, near): (Vec<&Pod>, Vec<&Pod>) = rack.pods.iter().partition(|pod| pod.node == "node-4");
    let mut rows = Vec::new();
    let mut seen = 0;
    for (family, icmp) in [(Family::V4, 1u8), (Family::V6, 58)] {
        for (from, to) in near
            .iter()
            .flat_map(|near| far.iter().map(move |far| (near, far)))
        {
            let (source, destination) = (from.addresses[&family], to.addresses[&family]);
            let packet = find(packets, source, destination, icmp).ok_or_else(|| {
                Failure::new(format!(
                    "no echo from {source} to {destination} on tor-a's spine port"
                ))
                .evidence("packets on the wire", some_packets(packets))
            })?;
            if packet.ttl != TTL_ON_SPINE {
                let found = format!(
                    "{source} → {destination} has TTL {}, not {TTL_ON_SPINE}",
                    packet.ttl
                );
                return Err(Failure::new(found));
            }
            seen += 1;
            if rows
                .iter()
                .filter(|row: &&Vec<String>| row[0] == family.label())
                .count()
                == 0
            {
                let path = format!("TTL {} = 64 − {} − tor-a", packet.ttl, from.node);
                rows.push(vec![
                    family.label().to_owned(),
                    format!("{source} → {destination}"),
                    path,
                ]);
            }
        }
    }
    let detail = format!("tor-a spine port: {seen} of {seen} pod pairs bare, TTL {TTL_ON_SPINE}, no tunnel");
    Ok((detail, rows))
}

fn find(packets: &[Packet], source: IpAddr, destination: IpAddr, protocol: u8) -> Option<&Packet> {
    packets.iter().find(|packet| {
        packet.outgoing
            && packet.source == source
            && packet.destination == destination
            && packet.protocol == protocol
    })
}

fn some_packets(packets: &[Packet]) -> String {
    packets.iter().take(20).fold(String::new(), |mut text, packet| {
        let _ = writeln!(text, "{packet:?}");
        text
    })
}

fn print_hints(report: &Report, rack: &Rack) {
    let lab = std::env::current_exe()
        .map(|exe| exe.display().to_string())
        .unwrap_or_default();
    let lab = std::env::current_dir()
        .ok()
        .and_then(|here| {
            lab.strip_prefix(&format!("{}/", here.display()))
                .map(str::to_owned)
        })
        .unwrap_or(lab);
    let last = rack
        .pods
        .last()
        .and_then(|pod| pod.addresses.get(&Family::V4))
        .map(ToString::to_string);
    let ask = match rack.plan.node {
        Kind::Bird => "birdc show protocols",
        _ => "podroute show peers",
    };
    report.line("\nThe rack stays up. Try:");
    for command in [
        format!("enter node-1 -- {ask}"),
        "enter node-1 -- ip route".to_owned(),
        format!("enter node-1-pod-a -- ping -c 3 {}", last.unwrap_or_default()),
        "enter tor-a      # a shell; exit leaves it".to_owned(),
        "list             # machines and pods".to_owned(),
    ] {
        report.line(&format!("  {lab} {command}"));
    }
    report.line("and take it down with:\n  make demo-down");
}
