//! OpenBGPD.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, groups};
use crate::side::{Group, NodeAs, PrefixRange, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    out.lines([
        "# The portable version for Linux may write no kernel routes: on a router that forwards, use OpenBSD,",
        "# where `fib-update yes` is the default.",
    ]);
    out.line(format_args!("AS {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!("router-id {id}"));
    }
    out.line("");
    for (name, group) in groups(side) {
        self::group(out, &name, group, side);
    }
    out.lines(["", "deny from any", "deny to any"]);
    for direction in ["from", "to"] {
        for permit in &side.permits {
            out.line(format_args!("allow {direction} any prefix {}", range(permit)));
        }
    }
}

fn range(permit: &PrefixRange) -> String {
    let PrefixRange { prefix, min, max } = permit;
    match (min == max, *min == prefix.len()) {
        (true, true) => prefix.to_string(),
        (true, false) => format!("{prefix} prefixlen = {min}"),
        (false, _) => format!("{prefix} prefixlen {min} - {max}"),
    }
}

fn group(out: &mut Out, name: &str, group: &Group, side: &Side) {
    let session = &group.session;
    out.line(format_args!("group \"{name}\" {{"));
    let mut say = |text: String| out.line(format_args!("\t{text}"));
    if let NodeAs::One(asn) = group.node_as {
        say(format!("remote-as {asn}"));
    }
    say(format!("holdtime {}", session.hold));
    say(format!("max-prefix {} restart 5", session.max_prefixes));
    if session.password {
        say(format!("tcp md5sig password \"{PASSWORD}\""));
    }
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => say(format!("multihop {hops}")),
        Ttl::Security(1) => say("ttl-security yes".to_owned()),
        Ttl::Security(hops) => {
            say(format!("multihop {hops}"));
            say("ttl-security yes".to_owned());
        }
    }
    say(format!(
        "announce restart {}",
        if session.graceful_restart { "yes" } else { "no" }
    ));
    if group.is_internal(side.asn) {
        say("route-reflector".to_owned());
    }
    for member in &group.members {
        say(format!("neighbor {member} {{"));
        say(format!("\tdescr \"podroute {}\"", group.peer));
        for family in Family::ALL {
            let word = match family {
                Family::Ipv4 => "IPv4",
                Family::Ipv6 => "IPv6",
            };
            let what = if session.families.contains(family) {
                "unicast"
            } else {
                "none"
            };
            say(format!("\tannounce {word} {what}"));
        }
        say("}".to_owned());
    }
    out.line("}");
}
