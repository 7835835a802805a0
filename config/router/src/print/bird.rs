//! BIRD 2.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, groups, node_as};
use crate::side::{Group, Member, PrefixRange, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    if let Some(id) = side.router_id {
        out.line(format_args!("router id {id};"));
    }
    out.lines(["", "protocol device {}", "protocol direct { ipv4; ipv6; }"]);
    for family in Family::ALL {
        out.line(format_args!(
            "protocol kernel {{ {family} {{ export where source = RTS_BGP; }}; merge paths on; }}"
        ));
    }
    out.line_if(side.has_bfd(), "protocol bfd {}");
    out.line("");
    for family in Family::ALL {
        let permits: Vec<String> = side.permits_of(family).map(range).collect();
        let name = filter(family);
        if permits.is_empty() {
            out.line(format_args!("filter {name} {{ reject; }}"));
        } else {
            out.line(format_args!(
                "filter {name} {{ if net ~ [ {} ] then accept; reject; }}",
                permits.join(", ")
            ));
        }
    }
    for (name, group) in groups(side) {
        out.line("");
        template(out, &name, group, side);
        for (index, member) in group.members.iter().enumerate() {
            out.line("");
            protocol(out, &format!("{name}_{}", index + 1), &name, member, group);
        }
    }
}

fn range(permit: &PrefixRange) -> String {
    format!("{}{{{},{}}}", permit.prefix, permit.min, permit.max)
}

fn filter(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "pods4",
        Family::Ipv6 => "pods6",
    }
}

fn template(out: &mut Out, name: &str, group: &Group, side: &Side) {
    let session = &group.session;
    out.line(format_args!("template bgp {name} {{"));
    let mut say = |text: String| out.line(format_args!("  {text};"));
    say(format!("local as {}", side.asn));
    say(format!("hold time {}", session.hold));
    if session.password {
        say(format!("password \"{PASSWORD}\""));
    }
    match session.ttl {
        Ttl::Direct => say("direct".to_owned()),
        Ttl::Multihop(hops) => say(format!("multihop {hops}")),
        Ttl::Security(hops) => {
            say(if hops == 1 {
                "direct".to_owned()
            } else {
                format!("multihop {hops}")
            });
            say("ttl security on".to_owned());
        }
    }
    if let Some(bfd) = session.bfd {
        say(format!(
            "bfd {{ interval {} ms; multiplier {}; }}",
            bfd.interval, bfd.multiplier
        ));
    }
    say(if session.graceful_restart {
        "graceful restart aware".to_owned()
    } else {
        "graceful restart off".to_owned()
    });
    if group.is_internal(side.asn) {
        say("rr client".to_owned());
    }
    for family in session.families.iter() {
        let (filter, limit) = (filter(family), session.max_prefixes);
        let next_hop = if family == Family::Ipv4 && session.extended_next_hop {
            " extended next hop on;"
        } else {
            ""
        };
        say(format!(
            "{family} {{ import filter {filter}; export filter {filter}; import limit {limit} action restart;{next_hop} }}"
        ));
    }
    out.line("}");
}

fn protocol(out: &mut Out, name: &str, template: &str, member: &Member, group: &Group) {
    let asn = node_as(group, "external");
    out.line(format_args!("protocol bgp {name} from {template} {{"));
    match member {
        Member::Address(address) => out.line(format_args!("  neighbor {address} {};", as_of(&asn))),
        Member::Range(range) => {
            out.line(format_args!("  neighbor range {range} {};", as_of(&asn)));
            out.line(format_args!("  dynamic name \"{template}_\";"));
        }
        Member::Interface(port) => {
            // The node's link-local address is in no file: whoever connects on this interface.
            out.line(format_args!("  neighbor range fe80::/10 {};", as_of(&asn)));
            out.line(format_args!("  interface \"{port}\";"));
            out.line(format_args!("  dynamic name \"{template}_\";"));
        }
    }
    out.line("}");
}

fn as_of(asn: &str) -> String {
    if asn == "external" {
        asn.to_owned()
    } else {
        format!("as {asn}")
    }
}
