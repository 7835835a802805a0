//! GoBGP as the router.

use std::fmt::Write;

use lab::daemon::gobgp;
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;

use super::Ask;

pub(super) fn start(host: &Host, ask: &Ask) -> Result<Vec<Daemon>> {
    let gobgpd = gobgp::start_with(host, &render(ask), "info")?;
    for network in &ask.networks {
        let network = network.to_string();
        let family = if network.contains(':') { "ipv6" } else { "ipv4" };
        let mut args = vec!["global", "rib", "add", "-a", family, &network];
        let hop = ask.local().to_string();
        if ask.extended_next_hop {
            args.extend(["nexthop", &hop]);
        }
        if ask.tagged {
            args.extend([
                "community",
                "64512:77",
                "large-community",
                "64512:7:8",
                "rt",
                "64512:99",
            ]);
        }
        host.run("gobgp", &args)?;
    }
    Ok(vec![gobgpd])
}

pub(super) fn route(host: &Host, prefix: &str) -> Result<String> {
    let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
    let text = host.run("gobgp", &["global", "rib", "-a", family])?;
    let lines: Vec<_> = text.lines().filter(|line| line.contains(prefix)).collect();
    // Further paths of a prefix have no prefix in their line.
    let more = if lines.is_empty() { "" } else { text.as_str() };
    Ok(more.to_owned())
}

fn render(ask: &Ask) -> String {
    let mut out = format!(
        "[global.config]\n  as = {}\n  router-id = \"10.0.0.2\"\n  port = 179\n\
         [[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"{}\"\n    peer-as = {}\n",
        ask.asn,
        ask.node(),
        ask.node_asn
    );
    if let Some(secret) = ask.secret {
        let _ = writeln!(out, "    auth-password = \"{secret}\"");
    }
    let _ = write!(
        out,
        "  [neighbors.transport.config]\n    local-address = \"{}\"\n  [neighbors.timers.config]\n    \
         hold-time = {}\n    keepalive-interval = {}\n    connect-retry = 1\n    idle-hold-time-after-reset = 1\n",
        ask.local(),
        ask.hold,
        ask.hold / 3
    );
    if ask.gtsm {
        out.push_str("  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255\n");
    }
    if let Some(seconds) = ask.restart {
        let long = if ask.long_lived {
            "    long-lived-enabled = true\n"
        } else {
            ""
        };
        let _ = write!(
            out,
            "  [neighbors.graceful-restart.config]\n    enabled = true\n    restart-time = {seconds}\n{long}"
        );
    }
    for family in ask.families(["ipv4-unicast", "ipv6-unicast"]) {
        let _ = write!(
            out,
            "  [[neighbors.afi-safis]]\n    [neighbors.afi-safis.config]\n      afi-safi-name = \"{family}\"\n"
        );
        if ask.restart.is_some() {
            out.push_str("    [neighbors.afi-safis.mp-graceful-restart.config]\n      enabled = true\n");
        }
        if ask.long_lived {
            out.push_str(
                "    [neighbors.afi-safis.long-lived-graceful-restart.config]\n      enabled = true\n      \
                 restart-time = 60\n",
            );
        }
        if ask.add_path {
            out.push_str(
                "    [neighbors.afi-safis.add-paths.config]\n      receive = true\n      send-max = 8\n",
            );
        }
    }
    out
}
