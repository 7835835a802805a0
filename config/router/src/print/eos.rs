//! Arista EOS.

use bgp_proto::types::Family;

use super::frr::filter;
use super::{Out, PASSWORD, ge_le, groups, has_range, node_as, numbered};
use crate::side::{Group, Member, NodeAs, OwnAs, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    out.lines([
        "service routing protocols model multi-agent",
        "ip routing",
        "ipv6 unicast-routing",
        "!",
    ]);
    filters(out, side);
    if side.groups.iter().any(|group| group.node_as == NodeAs::Any) {
        out.line("peer-filter NODE-AS");
        out.line("   10 match as-range 1-4294967295 result accept");
        out.line("!");
    }
    out.line(format_args!("router bgp {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!("   router-id {id}"));
    }
    out.line("   no bgp default ipv4-unicast");
    out.line("   maximum-paths 16");
    let restart = side.groups.iter().any(|group| group.session.graceful_restart);
    out.line_if(restart, "   graceful-restart-helper");
    for (name, group) in groups(side) {
        neighbor(out, &name.to_uppercase(), group);
    }
    for family in side.families().iter() {
        out.line("   !");
        out.line(format_args!("   address-family {family}"));
        for (name, group) in groups(side).filter(|(_, group)| group.session.families.contains(family)) {
            in_family(out, &name.to_uppercase(), group, family, side);
        }
    }
    out.line("!");
}

fn filters(out: &mut Out, side: &Side) {
    for family in Family::ALL {
        let name = filter(family).to_uppercase();
        match family {
            Family::Ipv4 => {
                for (number, permit) in numbered(side, family) {
                    let (prefix, lengths) = (permit.prefix, ge_le(permit));
                    out.line(format_args!(
                        "ip prefix-list {name} seq {number} permit {prefix}{lengths}"
                    ));
                }
                if side.permits_of(family).next().is_none() {
                    out.line(format_args!("ip prefix-list {name} seq 10 deny 0.0.0.0/0 le 32"));
                }
            }
            Family::Ipv6 => {
                out.line(format_args!("ipv6 prefix-list {name}"));
                for (number, permit) in numbered(side, family) {
                    let (prefix, lengths) = (permit.prefix, ge_le(permit));
                    out.line(format_args!("   seq {number} permit {prefix}{lengths}"));
                }
                if side.permits_of(family).next().is_none() {
                    out.line("   seq 10 deny ::/0 le 128");
                }
            }
        }
        out.line("!");
        let ip = super::frr::ip(family);
        out.line(format_args!("route-map {name} permit 10"));
        out.line(format_args!("   match {ip} address prefix-list {name}"));
        out.line("!");
    }
}

fn neighbor(out: &mut Out, name: &str, group: &Group) {
    let session = &group.session;
    let mut say = |text: String| out.line(format_args!("   neighbor {name} {text}"));
    say("peer group".to_owned());
    if let NodeAs::One(asn) = group.node_as {
        say(format!("remote-as {asn}"));
    }
    say(format!("timers {} {}", session.keepalive(), session.hold));
    if session.password {
        say(format!("password {PASSWORD}"));
    }
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => say(format!("ebgp-multihop {hops}")),
        // EOS counts the routers in between.
        Ttl::Security(hops) => say(format!("ttl maximum-hops {}", hops.saturating_sub(1))),
    }
    if let Some(bfd) = session.bfd {
        say("bfd".to_owned());
        say(format!(
            "bfd interval {0} min-rx {0} multiplier {1}",
            bfd.interval, bfd.multiplier
        ));
    }
    say(format!("maximum-routes {}", session.max_prefixes));
    if session.own_as == OwnAs::Override {
        say("as-path remote-as replace out".to_owned());
    }
    out.line_if(
        has_range(group),
        format_args!("   bgp listen limit {}", group.limit),
    );
    for member in &group.members {
        match member {
            Member::Address(address) => {
                out.line(format_args!("   neighbor {address} peer group {name}"));
                out.line_if(
                    group.node_as == NodeAs::Any,
                    format_args!("   ! neighbor {address} remote-as AS-OF-THE-NODE"),
                );
            }
            Member::Range(range) => {
                let whose = match group.node_as {
                    NodeAs::One(_) => format!("remote-as {}", node_as(group, "")),
                    NodeAs::Any => "peer-filter NODE-AS".to_owned(),
                };
                out.line(format_args!(
                    "   bgp listen range {range} peer-group {name} {whose}"
                ));
            }
            Member::Interface(port) => out.line(format_args!(
                "   neighbor interface {port} peer-group {name} {}",
                match group.node_as {
                    NodeAs::One(asn) => format!("remote-as {asn}"),
                    NodeAs::Any => "peer-filter NODE-AS".to_owned(),
                }
            )),
        }
    }
}

fn in_family(out: &mut Out, name: &str, group: &Group, family: Family, side: &Side) {
    let filter = filter(family).to_uppercase();
    let mut say = |text: String| out.line(format_args!("      neighbor {name} {text}"));
    say("activate".to_owned());
    say(format!("route-map {filter} in"));
    say(format!("route-map {filter} out"));
    if group.is_internal(side.asn) {
        say("route-reflector-client".to_owned());
    }
    if family == Family::Ipv4 && group.session.extended_next_hop {
        say("next-hop address-family ipv6 originate".to_owned());
    }
}
