//! BIRD 2 as the router.

use std::fmt::Write;

use lab::daemon::bird;
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;

use super::Ask;

pub(super) fn start(host: &Host, ask: &Ask) -> Result<Vec<Daemon>> {
    bird::start_with(host, &render(ask))
}

/// As after a crash: with graceful restart recovery.
pub(super) fn recover(host: &Host, ask: &Ask) -> Result<Vec<Daemon>> {
    bird::recover_with(host, &render(ask))
}

pub(super) fn route(host: &Host, prefix: &str) -> Result<String> {
    let told = host.output(
        "birdc",
        &["show", "route", "for", prefix, "protocol", "node", "all"],
    )?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    Ok(if text.contains(prefix) {
        text
    } else {
        String::new()
    })
}

fn render(ask: &Ask) -> String {
    let mut out = String::from("log stderr all;\nrouter id 10.0.0.2;\nprotocol device {}\n");
    for (v4, channel) in [(true, "ipv4"), (false, "ipv6")] {
        let _ = writeln!(out, "protocol static own_{channel} {{ {channel};");
        for network in ask.of_family(v4) {
            let tags = if ask.tagged {
                "bgp_community.add((64512,77)); bgp_large_community.add((64512,7,8)); \
                 bgp_ext_community.add((rt,64512,99));"
            } else {
                ""
            };
            let _ = writeln!(out, "  route {network} unreachable {{ {tags} }};");
        }
        out.push_str("}\n");
        if ask.two_paths {
            let _ = writeln!(out, "protocol static second_{channel} {{ {channel};");
            for network in ask.of_family(v4) {
                let _ = writeln!(
                    out,
                    "  route {network} unreachable {{ bgp_community.add((64512,78)); }};"
                );
            }
            out.push_str("}\n");
        }
    }
    let _ = write!(
        out,
        "protocol bgp node {{\n  local {} as {};\n  neighbor {} as {};\n  direct;\n  hold time {};\n  \
         connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 4;\n",
        ask.local(),
        ask.asn,
        ask.node(),
        ask.node_asn,
        ask.hold
    );
    if let Some(secret) = ask.secret {
        let _ = writeln!(out, "  password \"{secret}\";");
    }
    for (wanted, line) in [
        (ask.gtsm, "ttl security on;"),
        (ask.extended_messages, "enable extended messages on;"),
        (
            ask.long_lived,
            "long lived graceful restart on; long lived stale time 60;",
        ),
    ] {
        if wanted {
            let _ = writeln!(out, "  {line}");
        }
    }
    if let Some(seconds) = ask.restart {
        let _ = writeln!(out, "  graceful restart on; graceful restart time {seconds};");
    }
    for channel in ask.families(["ipv4", "ipv6"]) {
        let more = [
            (ask.add_path, "add paths on;"),
            (ask.extended_next_hop, "extended next hop on;"),
        ];
        let more: String = more
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, line)| *line)
            .collect();
        let _ = writeln!(
            out,
            "  {channel} {{ import all; export all; gateway direct; {more} }};"
        );
    }
    out.push_str("}\n");
    out
}
