//! Cisco IOS XE.

use bgp_proto::types::Family;

use super::frr::{filter, ip};
use super::{Out, PASSWORD, ge_le, groups, has_range, node_as, numbered};
use crate::side::{Group, Member, NodeAs, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
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
        out.line("!");
        out.line(format_args!("route-map {name} permit 10"));
        out.line(format_args!(" match {ip} address prefix-list {name}"));
        out.line("!");
    }
    bfd(out, side);
    out.line(format_args!("router bgp {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!(" bgp router-id {id}"));
    }
    out.line(" bgp log-neighbor-changes");
    out.line(" no bgp default ipv4-unicast");
    let restart = side.groups.iter().any(|group| group.session.graceful_restart);
    out.line_if(restart, " bgp graceful-restart");
    for (name, group) in groups(side) {
        neighbor(out, &name.to_uppercase(), group);
    }
    for family in side.families().iter() {
        out.line(" !");
        out.line(format_args!(" address-family {family}"));
        for (name, group) in groups(side).filter(|(_, group)| group.session.families.contains(family)) {
            in_family(out, &name.to_uppercase(), group, family, side);
        }
        out.line(" exit-address-family");
    }
}

fn bfd(out: &mut Out, side: &Side) {
    for bfd in side.groups.iter().filter_map(|group| group.session.bfd) {
        let (interval, multiplier) = (bfd.interval, bfd.multiplier);
        if bfd.multihop {
            out.line("bfd-template multi-hop PODROUTE");
            out.line(format_args!(
                " interval min-tx {interval} min-rx {interval} multiplier {multiplier}"
            ));
            out.line("! bfd map for the nodes' addresses belongs to this template");
        } else {
            out.line(format_args!(
                "! on the interface to the nodes: bfd interval {interval} min_rx {interval} multiplier {multiplier}"
            ));
        }
        out.line("!");
    }
}

fn neighbor(out: &mut Out, name: &str, group: &Group) {
    let session = &group.session;
    let mut say = |text: String| out.line(format_args!(" neighbor {name} {text}"));
    say("peer-group".to_owned());
    match group.node_as {
        NodeAs::One(_) => say(format!("remote-as {}", node_as(group, ""))),
        NodeAs::Any => say("remote-as 1 alternate-as 2 3 4 5".to_owned()),
    }
    say(format!("timers {} {}", session.keepalive(), session.hold));
    if session.password {
        say(format!("password {PASSWORD}"));
    }
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => say(format!("ebgp-multihop {hops}")),
        Ttl::Security(hops) => say(format!("ttl-security hops {hops}")),
    }
    match session.bfd {
        Some(bfd) if bfd.multihop => say("fall-over bfd multi-hop".to_owned()),
        Some(_) => say("fall-over bfd".to_owned()),
        None => {}
    }
    out.line_if(
        group.node_as == NodeAs::Any,
        " ! alternate-as takes at most 5 numbers: put the nodes' own ones in place of 1 2 3 4 5",
    );
    out.line_if(
        has_range(group),
        format_args!(" bgp listen limit {}", group.limit),
    );
    for member in &group.members {
        match member {
            Member::Address(address) => out.line(format_args!(" neighbor {address} peer-group {name}")),
            Member::Range(range) => out.line(format_args!(" bgp listen range {range} peer-group {name}")),
            Member::Interface(port) => out.line(format_args!(
                " ! IOS XE has no sessions without addresses: give {port} an address, and the peer address: in podroute.yaml"
            )),
        }
    }
}

fn in_family(out: &mut Out, name: &str, group: &Group, family: Family, side: &Side) {
    let filter = filter(family).to_uppercase();
    let mut say = |text: String| out.line(format_args!("  neighbor {name} {text}"));
    say("activate".to_owned());
    say(format!("route-map {filter} in"));
    say(format!("route-map {filter} out"));
    say(format!("maximum-prefix {} restart 5", group.session.max_prefixes));
    if group.is_internal(side.asn) {
        say("route-reflector-client".to_owned());
    }
}
