//! `podroute router-config` in the real daemons: what it prints comes up with the node it was printed for, and
//! `podroute check --against` accepts it, and what the daemon itself says of its configuration.

use std::time::Duration;

use lab::bins;
use lab::daemon::{Kind, bird, frr, gobgp, openbgpd, podroute};
use lab::failure::{Context, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{ensure, wait};

use crate::overlays::{ask, switch};
use crate::support::{prefix, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let daemons = [Kind::Frr, Kind::Bird, Kind::Gobgp, Kind::Openbgpd];
    daemons
        .into_iter()
        .flat_map(|tor| {
            let named = |what: &str| format!("router_config::{}_{what}", tor.name());
            [
                scenario(named("subnet_of_nodes"), [Kind::Podroute, tor], move || {
                    subnet_of_nodes(tor)
                }),
                scenario(named("every_option"), [Kind::Podroute, tor], move || {
                    every_option(tor)
                }),
            ]
        })
        .collect()
}

const SECRET: &str = "a-secret-of-the-lab";

/// A node of the rack; `fields` are of both peers.
fn config(n: u8, asn: u32, fields: &str) -> String {
    let peer = |name: &str, address: &str, family: &str| {
        format!(
            "- {{name: {name}, address: \"{address}\", asn: 65001, families: [{family}], {fields}, timers: {{hold: 9s, connectRetry: 1s}}, import: pods, export: own}}\n"
        )
    };
    format!(
        "apiVersion: podroute/v1\ncluster: {{podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}}\n\
         node: {{name: node-{n}, asn: {asn}, blocks: [10.244.{n}.0/24, \"fd00:10:244:{n}::/64\"], addresses: [192.0.2.1{n}, \"2001:db8:a::1{n}\"]}}\n\
         peers:\n{}{}policies:\n  pods:\n  - match: {{prefixes: [{{in: 10.244.0.0/16, length: 24-28}}, {{in: \"fd00:10:244::/48\", length: 64}}]}}\n    action: accept\n  \
         own:\n  - match: {{source: [podBlock]}}\n    action: accept\n",
        peer("tor-a", "192.0.2.1", "ipv4"),
        peer("tor-a-v6", "2001:db8:a::1", "ipv6"),
    )
}

/// Runs a command of podroute on a machine.
fn run(host: &Host, args: &[&str]) -> Result<String> {
    host.run(&bins::find("podroute")?.to_string_lossy(), args)
}

/// The router's configuration, as an operator gets it on a node.
fn printed(kind: Kind, host: &Host, yaml: &str, more: &[&str]) -> Result<String> {
    let file = host.write_config("podroute.yaml", yaml)?;
    let file = file.to_string_lossy();
    let args = ["router-config", "--for", kind.name(), &file];
    let text = run(host, &[&args, more].concat())?;
    Ok(text.replace("REPLACE-WITH-PASSWORD", SECRET))
}

/// Starts the daemon with the text, as its operator would.
fn start(kind: Kind, tor: &Host, text: &str) -> Result<Vec<Daemon>> {
    match kind {
        Kind::Bird => bird::start_with(tor, text),
        Kind::Gobgp => Ok(vec![gobgp::start_with(tor, text, "info")?]),
        Kind::Openbgpd => Ok(vec![openbgpd::start_with(tor, text, &["-v"])?]),
        // One file for all of FRR's daemons, which vtysh reads.
        _ => {
            let mut daemons = frr::start_with(tor, "", "")?;
            daemons.push(frr::start_daemon(tor, "bfdd", "")?);
            let file = tor.write_config("frr.conf", text)?;
            wait::until(Duration::from_secs(10), "bfdd's vty", || {
                frr::vtysh(tor, "show bfd peers").map(drop)
            })?;
            let said = tor.run("vtysh", &["-f", &file.to_string_lossy()])?;
            ensure!(!said.contains('%'), "vtysh: {said}");
            Ok(daemons)
        }
    }
}

fn blocks(n: u8) -> [String; 2] {
    [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")]
}

/// Routes of each node are at the router.
fn wait_known(kind: Kind, tor: &Host) -> Result<()> {
    for (n, gateways) in [
        (1, ["192.0.2.11", "2001:db8:a::11"]),
        (2, ["192.0.2.12", "2001:db8:a::12"]),
    ] {
        for (block, gateway) in blocks(n).iter().zip(gateways) {
            wait::until(CONVERGENCE, format_args!("{block} at the router"), || {
                let said = ask(kind, tor, block)?;
                ensure!(said.contains(block.as_str()) && said.contains(gateway), "{said}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Routes of each node are at the router, and those of the other at each node.
fn wait_routes(kind: Kind, tor: &Host, nodes: &[Host]) -> Result<()> {
    wait_known(kind, tor)?;
    for (host, other) in nodes.iter().zip([2, 1]) {
        for block in blocks(other) {
            wait_route(host, prefix(&block), CONVERGENCE, |route| {
                !route.next_hops.is_empty()
            })?;
        }
    }
    Ok(())
}

/// `check --against` finds nothing in what was printed, nor in what FRR says of it.
fn accepted(kind: Kind, tor: &Host, node: &Host, text: &str, more: &[&str]) -> Result<()> {
    if matches!(kind, Kind::Gobgp | Kind::Openbgpd) {
        return Ok(());
    }
    let own = node.dir().join("etc/podroute.yaml");
    let mut texts = vec![("router.conf", text.to_owned())];
    if kind == Kind::Frr {
        texts.push(("running.conf", frr::vtysh(tor, "show running-config")?));
    }
    for (name, text) in texts {
        let file = node.write_config(name, &text)?;
        let args = [
            "check",
            "--strict",
            "--against",
            &file.to_string_lossy(),
            &own.to_string_lossy(),
        ]
        .map(str::to_owned);
        let args: Vec<&str> = args
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        let said = run(node, &args).context(&text)?;
        ensure!(said.contains("agrees with tor-a, tor-a-v6"), "{said}\n{text}");
    }
    Ok(())
}

/// Whoever is in the subnet, with an AS for each node.
fn subnet_of_nodes(kind: Kind) -> Result<()> {
    let hosts = switch(&[("tor", 1), ("node-1", 11), ("node-2", 12)])?;
    let (tor, nodes) = (&hosts[0], &hosts[1..]);
    // GoBGP takes one AS for a subnet, and sends its nodes no routes of that AS, as it prints.
    let (ases, more): ([u32; 2], Vec<&str>) = match kind {
        Kind::Gobgp => ([64512, 64512], vec!["--nodes", "192.0.2.0/24,2001:db8:a::/64"]),
        _ => (
            [64512, 64513],
            vec!["--nodes", "192.0.2.0/24,2001:db8:a::/64", "--any-as"],
        ),
    };
    let yaml = |n: u8| config(n, ases[usize::from(n) - 1], "maxPrefixes: 5000");
    let text = printed(kind, &nodes[0], &yaml(1), &more)?;
    let _tor = start(kind, tor, &text)?;
    let _agents = [
        podroute::start_with(&nodes[0], &yaml(1))?,
        podroute::start_with(&nodes[1], &yaml(2))?,
    ];
    if kind == Kind::Gobgp {
        return wait_known(kind, tor);
    }
    wait_routes(kind, tor, nodes)?;
    accepted(kind, tor, &nodes[0], &text, &more)
}

/// Two nodes by address, with password, GTSM and, where the daemon has it, BFD.
fn every_option(kind: Kind) -> Result<()> {
    let hosts = switch(&[("tor", 1), ("node-1", 11), ("node-2", 12)])?;
    let (tor, nodes) = (&hosts[0], &hosts[1..]);
    let secret = nodes[0].write_config("secret", SECRET)?;
    let has_bfd = matches!(kind, Kind::Frr | Kind::Bird);
    let fields = |secret: &str| {
        let bfd = if has_bfd { ", bfd: {interval: 200ms}" } else { "" };
        format!("allowOwnAs: 1, ttlSecurity: {{hops: 1}}, password: {{file: {secret}}}{bfd}")
    };
    let fields_of_first = fields(&secret.to_string_lossy());
    let more = ["--nodes", "192.0.2.11,192.0.2.12,2001:db8:a::11,2001:db8:a::12"];
    let text = printed(kind, &nodes[0], &config(1, 64512, &fields_of_first), &more)?;
    let _tor = start(kind, tor, &text)?;
    let second = nodes[1].write_config("secret", SECRET)?;
    let _agents = [
        podroute::start_with(&nodes[0], &config(1, 64512, &fields_of_first))?,
        podroute::start_with(&nodes[1], &config(2, 64512, &fields(&second.to_string_lossy())))?,
    ];
    wait_routes(kind, tor, nodes)?;
    if has_bfd {
        wait::until(CONVERGENCE, "BFD of both sessions", || {
            let bfd = podroute::show(&nodes[0], "bfd")?.to_string();
            ensure!(bfd.matches("\"Up\"").count() >= 2, "{bfd}");
            Ok(())
        })?;
    }
    accepted(kind, tor, &nodes[0], &text, &more)
}
