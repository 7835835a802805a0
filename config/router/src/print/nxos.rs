//! Cisco NX-OS.

use bgp_proto::types::Family;

use super::frr::{filter, ip};
use super::{Out, PASSWORD, ge_le, node_as, numbered};
use crate::side::{Group, Member, NodeAs, OwnAs, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    out.line("feature bgp");
    out.line_if(side.has_bfd(), "feature bfd");
    out.line("!");
    for family in Family::ALL {
        let (name, ip) = (filter(family).to_uppercase(), ip(family));
        for (number, permit) in numbered(side, family) {
            let (prefix, lengths) = (permit.prefix, ge_le(permit));
            out.line(format_args!(
                "{ip} prefix-list {name} seq {number} permit {prefix}{lengths}"
            ));
        }
        if side.permits_of(family).next().is_none() {
            let all = if family == Family::Ipv4 {
                "0.0.0.0/0 le 32"
            } else {
                "::/0 le 128"
            };
            out.line(format_args!("{ip} prefix-list {name} seq 10 deny {all}"));
        }
        out.line(format_args!("route-map {name} permit 10"));
        out.line(format_args!("  match {ip} address prefix-list {name}"));
        out.line("!");
    }
    if side.groups.iter().any(|group| group.node_as == NodeAs::Any) {
        out.line("ip as-path access-list NODE-AS seq 10 permit \".*\"");
        out.line("route-map NODE-AS permit 10");
        out.line("  match as-number as-path-list NODE-AS");
        out.line("!");
    }
    out.line(format_args!("router bgp {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!("  router-id {id}"));
    }
    let restart = side.groups.iter().any(|group| group.session.graceful_restart);
    out.line_if(restart, "  graceful-restart-helper");
    for family in side.families().iter() {
        out.line(format_args!("  address-family {family} unicast"));
        out.line("    maximum-paths 16");
    }
    for group in &side.groups {
        for member in &group.members {
            neighbor(out, member, group, side);
        }
    }
}

fn neighbor(out: &mut Out, member: &Member, group: &Group, side: &Side) {
    let session = &group.session;
    out.line(format_args!("  neighbor {member}"));
    let mut say = |text: String| out.line(format_args!("    {text}"));
    say(format!("remote-as {}", node_as(group, "route-map NODE-AS")));
    say(format!("description podroute {}", group.peer));
    say(format!("timers {} {}", session.keepalive(), session.hold));
    if matches!(member, Member::Range(_)) {
        say(format!("maximum-peers {}", group.limit));
    }
    if session.password {
        say(format!("password 0 {PASSWORD}"));
    }
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => say(format!("ebgp-multihop {hops}")),
        Ttl::Security(hops) => say(format!("ttl-security hops {hops}")),
    }
    if let Some(bfd) = session.bfd {
        let (word, interval, multiplier) = (
            if bfd.multihop { "bfd multihop" } else { "bfd" },
            bfd.interval,
            bfd.multiplier,
        );
        say(word.to_owned());
        say(format!(
            "{word} interval {interval} min_rx {interval} multiplier {multiplier}"
        ));
    }
    for family in session.families.iter() {
        in_family(out, group, family, side);
    }
}

fn in_family(out: &mut Out, group: &Group, family: Family, side: &Side) {
    let filter = filter(family).to_uppercase();
    out.line(format_args!("    address-family {family} unicast"));
    let mut say = |text: String| out.line(format_args!("      {text}"));
    say(format!("route-map {filter} in"));
    say(format!("route-map {filter} out"));
    say(format!("maximum-prefix {} restart 5", group.session.max_prefixes));
    match group.session.own_as {
        OwnAs::NotNeeded => {}
        OwnAs::Override => {
            say("as-override".to_owned());
            say("disable-peer-as-check".to_owned());
        }
        OwnAs::Send => say("disable-peer-as-check".to_owned()),
    }
    if group.is_internal(side.asn) {
        say("route-reflector-client".to_owned());
    }
}
