//! OpenBGPD as the router.

use std::fmt::Write;

use lab::daemon::openbgpd;
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;

use super::Ask;

pub(super) fn start(host: &Host, ask: &Ask) -> Result<Vec<Daemon>> {
    openbgpd::start_with(host, &render(ask), &["-v"]).map(|bgpd| vec![bgpd])
}

pub(super) fn route(host: &Host, prefix: &str) -> Result<String> {
    host.run("bgpctl", &["show", "rib", "detail", prefix])
}

fn render(ask: &Ask) -> String {
    let mut out = format!(
        "AS {}\nrouter-id 10.0.0.2\nholdtime {}\nfib-update no\n",
        ask.asn, ask.hold
    );
    for network in &ask.networks {
        let tags = if ask.tagged {
            " set { community 64512:77 large-community 64512:7:8 ext-community rt 64512:99 }"
        } else {
            ""
        };
        let _ = writeln!(out, "network {network}{tags}");
    }
    let _ = write!(
        out,
        "neighbor {} {{\n  remote-as {}\n  descr \"node\"\n  local-address {}\n",
        ask.node(),
        ask.node_asn,
        ask.local()
    );
    for (v4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let wanted = if ask.has(v4) { "unicast" } else { "none" };
        let _ = writeln!(out, "  announce {family} {wanted}");
    }
    if let Some(secret) = ask.secret {
        let _ = writeln!(out, "  tcp md5sig password {secret}");
    }
    for (wanted, line) in [
        (ask.gtsm, "ttl-security yes"),
        (
            ask.add_path,
            "announce add-path recv yes\n  announce add-path send all",
        ),
        (ask.enhanced_refresh, "announce enhanced refresh yes"),
        (ask.restart.is_some(), "announce restart yes"),
    ] {
        if wanted {
            let _ = writeln!(out, "  {line}");
        }
    }
    out.push_str("}\nallow from any\nallow to any\n");
    out
}
