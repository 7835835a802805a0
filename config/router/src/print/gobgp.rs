//! GoBGP, in TOML.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, groups};
use crate::side::{Group, Member, NodeAs, OwnAs, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    out.lines([
        "# GoBGP writes no kernel routes by itself: on a router that forwards, run it with zebra (FRR) and [zebra.config].",
        "[global.config]",
    ]);
    out.line(format_args!("  as = {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!("  router-id = \"{id}\""));
    }
    out.lines([
        "[global.apply-policy.config]",
        "  import-policy-list = [\"pods\"]",
        "  export-policy-list = [\"pods\"]",
        "  default-import-policy = \"reject-route\"",
        "  default-export-policy = \"reject-route\"",
        "",
    ]);
    let families = || {
        Family::ALL
            .into_iter()
            .filter(|family| side.permits_of(*family).next().is_some())
    };
    for family in families() {
        out.line("[[defined-sets.prefix-sets]]");
        out.line(format_args!("  prefix-set-name = \"{}\"", set(family)));
        for permit in side.permits_of(family) {
            out.line("  [[defined-sets.prefix-sets.prefix-list]]");
            out.line(format_args!("    ip-prefix = \"{}\"", permit.prefix));
            out.line(format_args!(
                "    masklength-range = \"{}..{}\"",
                permit.min, permit.max
            ));
        }
    }
    out.lines(["", "[[policy-definitions]]", "  name = \"pods\""]);
    for family in families() {
        out.line("  [[policy-definitions.statements]]");
        out.line(format_args!("    name = \"{}\"", set(family)));
        out.line("    [policy-definitions.statements.conditions.match-prefix-set]");
        out.line(format_args!("      prefix-set = \"{}\"", set(family)));
        out.line("    [policy-definitions.statements.actions]");
        out.line("      route-disposition = \"accept-route\"");
    }
    for (name, group) in groups(side) {
        out.line("");
        for member in &group.members {
            match member {
                Member::Address(address) => neighbor(out, &address.to_string(), group),
                Member::Range(range) => {
                    peer_group(out, &name, group);
                    out.line("[[dynamic-neighbors]]");
                    out.line("  [dynamic-neighbors.config]");
                    out.line(format_args!("    prefix = \"{range}\""));
                    out.line(format_args!("    peer-group = \"{name}\""));
                }
                Member::Interface(port) => {
                    out.line("[[neighbors]]");
                    out.line("  [neighbors.config]");
                    out.line(format_args!("    neighbor-interface = \"{port}\""));
                    session(out, "neighbors", group);
                }
            }
        }
    }
}

fn set(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "pods4",
        Family::Ipv6 => "pods6",
    }
}

fn neighbor(out: &mut Out, address: &str, group: &Group) {
    out.line("[[neighbors]]");
    out.line("  [neighbors.config]");
    out.line(format_args!("    neighbor-address = \"{address}\""));
    session(out, "neighbors", group);
}

fn peer_group(out: &mut Out, name: &str, group: &Group) {
    out.line("[[peer-groups]]");
    out.line("  [peer-groups.config]");
    out.line(format_args!("    peer-group-name = \"{name}\""));
    session(out, "peer-groups", group);
}

/// The rest of the table `[….config]`, and the tables after it.
fn session(out: &mut Out, table: &str, group: &Group) {
    let session = &group.session;
    match group.node_as {
        NodeAs::One(asn) => out.line(format_args!("    peer-as = {asn}")),
        NodeAs::Any => out.line("    # peer-as = …: GoBGP takes one number for each neighbor or group"),
    }
    out.line_if(
        session.password,
        format_args!("    auth-password = \"{PASSWORD}\""),
    );
    out.line(format_args!("  [{table}.timers.config]"));
    out.line(format_args!("    hold-time = {}", session.hold));
    out.line(format_args!("    keepalive-interval = {}", session.keepalive()));
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => {
            out.line(format_args!("  [{table}.ebgp-multihop.config]"));
            out.line("    enabled = true");
            out.line(format_args!("    multihop-ttl = {hops}"));
        }
        Ttl::Security(hops) => {
            out.line(format_args!("  [{table}.ttl-security.config]"));
            out.line("    enabled = true");
            out.line(format_args!("    ttl-min = {}", 256 - u16::from(hops)));
        }
    }
    if session.own_as != OwnAs::NotNeeded {
        // GoBGP does not send a neighbor paths with its own AS.
        out.line(format_args!("  [{table}.as-path-options.config]"));
        out.line("    replace-peer-as = true");
    }
    if session.graceful_restart {
        out.line(format_args!("  [{table}.graceful-restart.config]"));
        out.line("    enabled = true");
        out.line("    helper-only = true");
    }
    for family in session.families.iter() {
        out.line(format_args!("  [[{table}.afi-safis]]"));
        out.line(format_args!("    [{table}.afi-safis.config]"));
        out.line(format_args!("      afi-safi-name = \"{family}-unicast\""));
        if session.graceful_restart {
            out.line(format_args!("    [{table}.afi-safis.mp-graceful-restart.config]"));
            out.line("      enabled = true");
        }
        out.line(format_args!("    [{table}.afi-safis.prefix-limit.config]"));
        out.line(format_args!("      max-prefixes = {}", session.max_prefixes));
    }
}
