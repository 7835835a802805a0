//! The shipped files together: an overlay for Kubernetes on two nodes of a rack, and a snippet on their router.
//!
//! What an API server would say lies in the run directory, as an agent leaves it for a start while the API server is away.

use std::path::Path;

use lab::daemon::{Kind, bird, frr, gobgp, openbgpd, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{cabling, ensure, netns, process, wait};
use serde_json::json;

use crate::support::{prefix, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "overlays::as_per_rack_with_bird",
            [Kind::Podroute, Kind::Bird],
            || as_per_rack(Kind::Bird),
        ),
        scenario(
            "overlays::as_per_rack_with_frr",
            [Kind::Podroute, Kind::Frr],
            || as_per_rack(Kind::Frr),
        ),
        scenario(
            "overlays::as_per_rack_with_gobgp",
            [Kind::Podroute, Kind::Gobgp],
            || as_per_rack(Kind::Gobgp),
        ),
        scenario(
            "overlays::as_per_rack_with_openbgpd",
            [Kind::Podroute, Kind::Openbgpd],
            || as_per_rack(Kind::Openbgpd),
        ),
        scenario("overlays::as_per_rack_with_podroute", [Kind::Podroute], || {
            as_per_rack(Kind::Podroute)
        }),
        scenario("overlays::reflector_file", [Kind::Podroute], reflector_file),
        scenario(
            "overlays::as_per_node_with_frr",
            [Kind::Podroute, Kind::Frr],
            as_per_node,
        ),
    ]
    .into_iter()
    .chain(meshes())
    .collect()
}

/// The overlays with a mesh, and a router beside it that learns the pods.
fn meshes() -> impl Iterator<Item = Scenario> {
    let tors = [Kind::Bird, Kind::Frr, Kind::Gobgp, Kind::Openbgpd, Kind::Podroute];
    ["full-mesh", "reflectors"].into_iter().flat_map(move |overlay| {
        tors.map(|tor| {
            let name = format!("overlays::{}_with_{}", overlay.replace('-', "_"), tor.name());
            scenario(name, [Kind::Podroute, tor], move || beside_a_mesh(overlay, tor))
        })
    })
}

fn example(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    std::fs::read_to_string(&path).context(path.display())
}

/// Machines on one switch, with their last octets.
pub(crate) fn switch(machines: &[(&str, u8)]) -> Result<Vec<Host>> {
    netns::create("switch")?;
    let link = |line: &str| {
        let args: Vec<&str> = ["-n", "switch", "link", "add"]
            .into_iter()
            .chain(line.split(' '))
            .collect();
        process::run("ip", &args)
    };
    link("br0 up type bridge forward_delay 0")?;
    let attach = |(name, last): &(&str, u8)| -> Result<Host> {
        let host = Host::create(name)?;
        link(&format!(
            "to-{name} master br0 up type veth peer name eth0 netns {name}"
        ))?;
        host.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"))?;
        host.ip(&format!("addr add 2001:db8:a::{last}/64 dev eth0 nodad"))?;
        host.ip("link set lo up")?;
        host.ip("link set eth0 up")?;
        cabling::enable_forwarding(&host)?;
        Ok(host)
    };
    machines.iter().map(attach).collect()
}

fn start_tor(kind: Kind, tor: &Host) -> Result<Vec<Daemon>> {
    let snippet = |name: &str| example(&format!("tor-snippets/{name}"));
    match kind {
        Kind::Bird => bird::start_with(tor, &snippet("bird.conf")?),
        Kind::Frr => frr::start_with(tor, &snippet("frr.conf")?, ""),
        Kind::Gobgp => Ok(vec![gobgp::start_with(tor, &snippet("gobgp.toml")?, "info")?]),
        Kind::Openbgpd => Ok(vec![openbgpd::start_with(
            tor,
            &snippet("openbgpd.conf")?,
            &["-v"],
        )?]),
        Kind::Podroute => Ok(vec![podroute::start_with(tor, &example("tor.yaml")?)?]),
    }
}

/// What the router says of a prefix.
pub(crate) fn ask(kind: Kind, tor: &Host, prefix: &str) -> Result<String> {
    match kind {
        Kind::Bird => tor.run("birdc", &["show", "route", "for", prefix]),
        Kind::Frr if prefix.contains(':') => frr::vtysh(tor, &format!("show bgp ipv6 unicast {prefix}")),
        Kind::Frr => frr::vtysh(tor, &format!("show bgp ipv4 unicast {prefix}")),
        Kind::Gobgp if prefix.contains(':') => tor.run("gobgp", &["global", "rib", "-a", "ipv6", prefix]),
        Kind::Gobgp => tor.run("gobgp", &["global", "rib", prefix]),
        Kind::Openbgpd => tor.run("bgpctl", &["show", "rib", prefix]),
        Kind::Podroute => podroute::show(tor, "routes").map(|routes| routes.to_string()),
    }
}

const SERVICE: &str = "203.0.113.200";
/// The blocks of a node, by its number.
fn blocks(n: u8) -> [String; 2] {
    [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")]
}

/// The configuration of an overlay, with the Services that its comment has.
fn overlay(name: &str) -> Result<String> {
    let text = example(&format!("kubernetes/overlays/{name}/podroute.yaml"))?;
    let comment = "\n# services:\n#   advertise: [loadBalancer]\n#   pools:";
    ensure!(text.contains(comment), "no services in {text}");
    let text = text.replace(comment, "\nservices:\n  advertise: [loadBalancer]\n  pools:");
    Ok(text)
}

/// Starts the agent of `node-1` or `node-2` with what Kubernetes says of both, and of a Service with an endpoint on the first.
fn start_node(host: &Host, overlay: &str, labels: &serde_json::Value) -> Result<Daemon> {
    let node = |n: u8| {
        json!({
            "uid": format!("uid-{n}"), "labels": labels, "blocks": blocks(n), "addresses": [format!("192.0.2.1{n}")],
        })
    };
    let here = host.name() == "node-1";
    let service = json!({
        "labels": {}, "balanced": [SERVICE], "external": [], "cluster": [], "class": null,
        "external_local": true, "internal_local": false, "here": [here, false], "anywhere": [true, false],
    });
    let known = json!({
        "version": 2, "nodes": {"node-1": node(1), "node-2": node(2)}, "services": {"default/web": service},
    });
    let file = host.run_file("podroute/cluster.json");
    std::fs::create_dir_all(host.run_file("podroute")).context("/run/podroute")?;
    std::fs::write(&file, known.to_string()).context(file.display())?;
    podroute::start_in(host, overlay, &[("NODE_NAME", host.name())])
}

/// Each node has the other's blocks of both families in its kernel.
fn wait_blocks_of_others(nodes: &[Host]) -> Result<()> {
    for (host, other) in nodes.iter().zip([2, 1]) {
        for block in blocks(other) {
            wait_route(host, prefix(&block), CONVERGENCE, |route| {
                !route.next_hops.is_empty()
            })?;
        }
    }
    Ok(())
}

/// The router knows the blocks of both nodes, of both families, and the Service's address, from the node that has its endpoint.
fn wait_known(kind: Kind, tor: &Host) -> Result<()> {
    for (n, blocks) in [(1, blocks(1)), (2, blocks(2))] {
        for (block, gateway) in blocks
            .iter()
            .zip([format!("192.0.2.1{n}"), format!("2001:db8:a::1{n}")])
        {
            wait::until(CONVERGENCE, format_args!("{block} at the router"), || {
                let said = ask(kind, tor, block)?;
                ensure!(said.contains(block.as_str()) && said.contains(&gateway), "{said}");
                Ok(())
            })?;
        }
    }
    wait::until(CONVERGENCE, "the Service at the router", || {
        let said = ask(kind, tor, &format!("{SERVICE}/32"))?;
        ensure!(said.contains(SERVICE) && said.contains("192.0.2.11"), "{said}");
        Ok(())
    })
}

/// Pods of the rack's nodes reach each other over the router, in both families.
fn as_per_rack(kind: Kind) -> Result<()> {
    let hosts = switch(&[("tor", 1), ("node-1", 11), ("node-2", 12)])?;
    let (tor, nodes) = (&hosts[0], &hosts[1..]);
    let _tor = start_tor(kind, tor)?;
    let overlay = overlay("as-per-rack")?;
    let start = |host| start_node(host, &overlay, &json!({"rack": "a"}));
    let _agents: Vec<Daemon> = nodes.iter().map(start).collect::<Result<_>>()?;
    // GoBGP sends no neighbor routes with its own AS, as its snippet says.
    if kind != Kind::Gobgp {
        wait_blocks_of_others(nodes)?;
    }
    wait_known(kind, tor)
}

/// Nodes reach each other by their mesh, and the router beside it knows the pods of both families.
fn beside_a_mesh(name: &str, kind: Kind) -> Result<()> {
    let hosts = switch(&[("tor", 1), ("node-1", 11), ("node-2", 12)])?;
    let (tor, nodes) = (&hosts[0], &hosts[1..]);
    let _tor = start_tor(kind, tor)?;
    let text = overlay(name)?;
    let (head, routers) = text
        .split_once("\npeers: []\n")
        .ok_or_else(|| Failure::new(format!("no peers in {text}")))?;
    let routers = routers.split_once("# peers:\n").map(|(_, rest)| rest);
    let routers = routers.ok_or_else(|| Failure::new(format!("no router in {text}")))?;
    let routers: String = routers
        .lines()
        .map(|line| format!("{}\n", line.trim_start_matches("# ")))
        .collect();
    let file = format!("{head}\npeers:\n{routers}");
    let labels = json!({"rack": "a", "node-restriction.kubernetes.io/podroute-reflector": "true"});
    let _agents: Vec<Daemon> = nodes
        .iter()
        .map(|host| start_node(host, &file, &labels))
        .collect::<Result<_>>()?;
    wait_blocks_of_others(nodes)?;
    wait_known(kind, tor)
}

/// Without addresses on the links, one session carries both families.
fn as_per_node() -> Result<()> {
    let (tor, nodes) = (
        Host::create("tor")?,
        [Host::create("node-1")?, Host::create("node-2")?],
    );
    for (host, port) in nodes.iter().zip(["swp1", "swp2"]) {
        host.ip(&format!("link add eth0 type veth peer name {port} netns tor"))?;
        tor.ip(&format!("link set {port} up"))?;
    }
    for host in nodes.iter().chain([&tor]) {
        host.ip("link set lo up")?;
        cabling::enable_forwarding(host)?;
    }
    for (n, host) in (1..).zip(&nodes) {
        host.ip("link set eth0 up")?;
        host.ip(&format!("addr add 192.0.2.1{n}/32 dev lo"))?;
        host.ip(&format!("addr add 2001:db8:a::1{n}/128 dev lo"))?;
    }
    let snippet = example("tor-snippets/frr-unnumbered.conf")?;
    let (zebra, bgpd) = snippet
        .split_once("ip prefix-list")
        .ok_or_else(|| Failure::new("no prefix list"))?;
    let _tor = frr::start_with(&tor, &format!("ip prefix-list{bgpd}"), zebra)?;
    let overlay = overlay("as-per-node")?;
    let start = |host| start_node(host, &overlay, &json!({}));
    let _agents: Vec<Daemon> = nodes.iter().map(start).collect::<Result<_>>()?;
    wait_blocks_of_others(&nodes)
}

/// `reflector.yaml` on two reflectors and their clients: each file is the shipped one with the changes that it names.
fn reflector_file() -> Result<()> {
    let hosts = switch(&[
        ("rr-1", 251),
        ("rr-2", 252),
        ("node-1", 11),
        ("node-2", 12),
        ("node-3", 13),
    ])?;
    let file = example("reflector.yaml")?;
    let mut agents = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let name = host.name();
        let own = match name.strip_prefix("node-") {
            None => file.replace("name: rr-1\n", &format!("name: {name}\n")),
            Some(number) => file
                .replace(
                    "  name: rr-1\n",
                    &format!("  name: {name}\n  blocks: [10.244.{number}.0/24]\n"),
                )
                .replace("labels: {role: reflector}", "labels: {role: node}")
                .lines()
                .filter(|line| !line.starts_with("fib:"))
                .map(|line| format!("{line}\n"))
                .collect(),
        };
        ensure!(index == 0 || own != file, "{name} has rr-1's file");
        agents.push(podroute::start_with(host, &own)?);
    }
    for node in 1..=3 {
        for other in (1..=3).filter(|other| *other != node) {
            let via = format!("192.0.2.1{other}");
            // From both reflectors, straight to the other node.
            wait_route(
                &hosts[1 + node],
                prefix(&format!("10.244.{other}.0/24")),
                CONVERGENCE,
                |route| {
                    let mut hops = route.next_hops.iter();
                    hops.all(|(gateway, _)| gateway.is_some_and(|addr| addr.to_string() == via))
                },
            )?;
        }
    }
    Ok(())
}
