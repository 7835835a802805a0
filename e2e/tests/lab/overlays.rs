//! The shipped files together: an overlay for Kubernetes on two nodes of a rack, and a snippet on their router.
//!
//! What an API server would say lies in the run directory, as an agent leaves it for a start while the API server is away.

use std::path::Path;

use lab::daemon::{Kind, bird, frr, gobgp, openbgpd, podroute};
use lab::failure::{Context, Result};
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
    ]
}

fn example(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    std::fs::read_to_string(&path).context(path.display())
}

/// Machines on one switch, with their last octets.
fn switch(machines: &[(&str, u8)]) -> Result<Vec<Host>> {
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
fn ask(kind: Kind, tor: &Host, prefix: &str) -> Result<String> {
    match kind {
        Kind::Bird => tor.run("birdc", &["show", "route", "for", prefix]),
        Kind::Frr => frr::vtysh(tor, &format!("show bgp ipv4 unicast {prefix}")),
        Kind::Gobgp => tor.run("gobgp", &["global", "rib", prefix]),
        Kind::Openbgpd => tor.run("bgpctl", &["show", "rib", prefix]),
        Kind::Podroute => podroute::show(tor, "routes").map(|routes| routes.to_string()),
    }
}

/// Pods of the rack's nodes reach each other over the router, and the router knows a Service's address.
fn as_per_rack(kind: Kind) -> Result<()> {
    const SERVICE: &str = "203.0.113.200";
    let hosts = switch(&[("tor", 1), ("node-1", 11), ("node-2", 12)])?;
    let (tor, nodes) = (&hosts[0], &hosts[1..]);
    let _tor = start_tor(kind, tor)?;
    let overlay = example("kubernetes/overlays/as-per-rack/podroute.yaml")?;
    // As its comment says.
    let overlay = overlay.replace("\n# services:", "\nservices:");
    ensure!(
        overlay.contains("\nservices: {advertise: [loadBalancer]"),
        "no services in {overlay}"
    );
    let mut agents = Vec::new();
    for (host, here) in nodes.iter().zip([true, false]) {
        let node = |n: u8| {
            json!({
                "uid": format!("uid-{n}"), "labels": {"rack": "a"}, "blocks": [format!("10.244.{n}.0/24")],
                "addresses": [format!("192.0.2.1{n}")],
            })
        };
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
        agents.push(podroute::start_in(host, &overlay, &[("NODE_NAME", host.name())])?);
    }
    // GoBGP sends no neighbor routes with its own AS, as its snippet says.
    let meet = kind != Kind::Gobgp;
    for (host, other) in nodes
        .iter()
        .zip(["10.244.2.0/24", "10.244.1.0/24"])
        .filter(|_| meet)
    {
        wait_route(host, prefix(other), CONVERGENCE, |route| {
            !route.next_hops.is_empty()
        })?;
    }
    wait::until(CONVERGENCE, "the Service at the router", || {
        let said = ask(kind, tor, &format!("{SERVICE}/32"))?;
        ensure!(said.contains(SERVICE) && said.contains("192.0.2.11"), "{said}");
        Ok(())
    })
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
