//! ExaBGP as the router: it keeps no table; what it received is what it logged, message by message.

use std::fmt::Write;
use std::time::Duration;

use lab::failure::Result;
use lab::machine::{Host, command};
use lab::process::Daemon;
use lab::wait;

use super::Ask;

const HEARD: &str = "exabgp.json";

pub(super) fn start(host: &Host, ask: &Ask) -> Result<Vec<Daemon>> {
    let _ = std::fs::remove_file(host.run_file(HEARD));
    let config = host.write_config("exabgp.conf", &render(ask))?;
    let mut exabgp = command("exabgp");
    exabgp.arg(config);
    for (name, value) in [
        ("exabgp.daemon.user", "root"),
        ("exabgp.daemon.drop", "false"),
        ("exabgp.log.destination", "stdout"),
        ("exabgp.api.cli", "false"),
    ] {
        exabgp.env(name, value);
    }
    let mut exabgp = host.spawn("exabgp", &mut exabgp)?;
    wait::until(Duration::from_secs(15), "ExaBGP's first words", || {
        exabgp.check_alive()?;
        if received(host).is_empty() {
            return wait::not_yet("none yet");
        }
        Ok(())
    })
    .map_err(|failure| exabgp.with_log(failure))?;
    Ok(vec![exabgp])
}

pub(super) fn received(host: &Host) -> String {
    std::fs::read_to_string(host.run_file(HEARD)).unwrap_or_default()
}

/// Every message that announced the prefix, unless the last one that has it takes it back.
pub(super) fn route(host: &Host, prefix: &str) -> Result<String> {
    let all = received(host);
    let lines: Vec<_> = all
        .lines()
        .filter(|line| line.contains(&format!("\"{prefix}\"")))
        .collect();
    Ok(match lines.last() {
        Some(last) if !last.contains("\"withdraw\"") => lines.join("\n"),
        _ => String::new(),
    })
}

fn render(ask: &Ask) -> String {
    let mut out = format!(
        "process log {{ run /bin/sh -c \"cat >> /run/{HEARD}\"; encoder json; }}\n\
         neighbor {} {{\n  router-id 10.0.0.2;\n  local-address {};\n  local-as {};\n  peer-as {};\n  hold-time {};\n",
        ask.node(),
        ask.local(),
        ask.asn,
        ask.node_asn,
        ask.hold
    );
    if let Some(secret) = ask.secret {
        let _ = writeln!(out, "  md5-password \"{secret}\";");
    }
    if ask.gtsm {
        out.push_str("  outgoing-ttl 255;\n  incoming-ttl 255;\n");
    }
    out.push_str("  capability {\n    route-refresh enable;\n");
    if let Some(seconds) = ask.restart {
        let _ = writeln!(out, "    graceful-restart {seconds};");
    }
    if ask.add_path {
        out.push_str("    add-path send/receive;\n");
    }
    if ask.extended_next_hop {
        out.push_str("    nexthop true;\n");
    }
    out.push_str("  }\n  family {\n");
    for family in ask.families(["ipv4", "ipv6"]) {
        let _ = writeln!(out, "    {family} unicast;");
    }
    if ask.extended_next_hop {
        // It takes the family of the next hop only if it is one of the session's.
        out.push_str("    ipv6 unicast;\n");
    }
    out.push_str("  }\n");
    if ask.extended_next_hop {
        out.push_str("  nexthop { ipv4 unicast ipv6; }\n");
    }
    if ask.add_path {
        out.push_str("  add-path { ipv4 unicast; }\n");
    }
    out.push_str("  announce {\n");
    for (v4, family) in [(true, "ipv4"), (false, "ipv6")] {
        let _ = writeln!(out, "    {family} {{");
        for network in ask.of_family(v4) {
            let tags = if ask.tagged {
                " community [ 64512:77 ] large-community [ 64512:7:8 ] extended-community [ target:64512:99 ]"
            } else {
                ""
            };
            if ask.two_paths {
                for (id, community) in [(1, 77), (2, 78)] {
                    let _ = writeln!(
                        out,
                        "      unicast {network} next-hop {} path-information {id} community [ 64512:{community} ];",
                        ask.local()
                    );
                }
                continue;
            }
            let _ = writeln!(out, "      unicast {network} next-hop {}{tags};", ask.local());
        }
        out.push_str("    }\n");
    }
    out.push_str(
        "  }\n  api { processes [ log ]; neighbor-changes; receive { parsed; update; notification; open; refresh; } }\n}\n",
    );
    out
}
