//! FRRouting as the router.

use std::fmt::Write;

use lab::daemon::frr;
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;

use super::Ask;

pub(super) fn start(host: &Host, ask: &Ask) -> Result<Vec<Daemon>> {
    frr::start_with(host, &render(ask), "")
}

pub(super) fn route(host: &Host, prefix: &str) -> Result<String> {
    let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
    let text = frr::vtysh(host, &format!("show bgp {family} unicast {prefix}"))?;
    Ok(if text.contains("not in table") {
        String::new()
    } else {
        text
    })
}

fn render(ask: &Ask) -> String {
    let (node, mut out) = (ask.node(), String::from("log stdout informational\n"));
    let _ = write!(
        out,
        "router bgp {}\n bgp router-id 10.0.0.2\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         no bgp network import-check\n",
        ask.asn
    );
    if let Some(seconds) = ask.restart {
        let _ = write!(
            out,
            " bgp graceful-restart\n bgp graceful-restart restart-time {seconds}\n"
        );
        out.push_str(" bgp graceful-restart preserve-fw-state\n");
    }
    if ask.long_lived {
        out.push_str(" bgp long-lived-graceful-restart stale-time 60\n");
    }
    let _ = write!(
        out,
        " neighbor {node} remote-as {}\n neighbor {node} timers {} {}\n neighbor {node} timers connect 1\n \
         neighbor {node} advertisement-interval 0\n",
        ask.node_asn,
        ask.hold / 3,
        ask.hold
    );
    if let Some(secret) = ask.secret {
        let _ = writeln!(out, " neighbor {node} password {secret}");
    }
    if ask.gtsm {
        let _ = writeln!(out, " neighbor {node} ttl-security hops 1");
    }
    if ask.extended_next_hop {
        let _ = writeln!(out, " neighbor {node} capability extended-nexthop");
    }
    for (v4, family) in [(true, "ipv4"), (false, "ipv6")] {
        if !ask.has(v4) {
            continue;
        }
        let _ = writeln!(out, " address-family {family} unicast");
        for network in ask.of_family(v4) {
            let tag = if ask.tagged { " route-map tag" } else { "" };
            let _ = writeln!(out, "  network {network}{tag}");
        }
        let _ = writeln!(out, "  neighbor {node} activate");
        if ask.add_path {
            let _ = writeln!(out, "  neighbor {node} addpath-tx-all-paths");
        }
        out.push_str(" exit-address-family\n");
    }
    out.push_str(
        "route-map tag permit 10\n set community 64512:77\n set large-community 64512:7:8\n \
         set extcommunity rt 64512:99\n",
    );
    out
}
