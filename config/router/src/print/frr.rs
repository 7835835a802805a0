//! FRRouting, also of SONiC.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, ge_le, groups, has_range, interfaces, node_as, numbered};
use crate::side::{Group, Member, OwnAs, Side, Ttl};

/// Restart of a session after the limit of prefixes, in minutes.
const RESTART_MINUTES: u8 = 5;

pub(super) fn print(out: &mut Out, side: &Side) {
    filters(out, side);
    bfd(out, side);
    for (_, group) in groups(side) {
        for name in interfaces(group) {
            out.line(format_args!("interface {name}"));
            out.lines([" no ipv6 nd suppress-ra", " ipv6 nd ra-interval 10", "exit", "!"]);
        }
    }
    out.line(format_args!("router bgp {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!(" bgp router-id {id}"));
    }
    out.line(" no bgp default ipv4-unicast");
    out.line(" bgp bestpath as-path multipath-relax");
    let restart = side.groups.iter().any(|group| group.session.graceful_restart);
    out.line_if(
        restart,
        " ! bgpd keeps the routes of a node that restarts by default (bgp graceful-restart-disable is its opposite).",
    );
    for (name, group) in groups(side) {
        neighbor(out, &name, group, side);
    }
    for family in side.families().iter() {
        out.line(" !");
        out.line(format_args!(" address-family {family} unicast"));
        for (name, group) in groups(side).filter(|(_, group)| group.session.families.contains(family)) {
            in_family(out, &name, group, family, side);
        }
        out.line(" exit-address-family");
    }
    out.line("exit");
}

/// `pods` of IPv4, `pods6` of IPv6.
pub(super) fn filter(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "pods",
        Family::Ipv6 => "pods6",
    }
}

fn filters(out: &mut Out, side: &Side) {
    for family in Family::ALL {
        let (name, ip) = (filter(family), ip(family));
        for (number, permit) in numbered(side, family) {
            let (prefix, lengths) = (permit.prefix, ge_le(permit));
            out.line(format_args!(
                "{ip} prefix-list {name} seq {number} permit {prefix}{lengths}"
            ));
        }
        // A list without entries permits everything.
        if side.permits_of(family).next().is_none() {
            out.line(format_args!("{ip} prefix-list {name} seq 10 deny any"));
        }
        out.line("!");
    }
    for family in Family::ALL {
        let (name, ip) = (filter(family), ip(family));
        out.line(format_args!("route-map {name} permit 10"));
        out.line(format_args!(" match {ip} address prefix-list {name}"));
        out.lines(["exit", "!"]);
    }
}

/// The word for a family in prefix lists.
pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ipv6",
    }
}

fn bfd(out: &mut Out, side: &Side) {
    if !side.has_bfd() {
        return;
    }
    out.line("bfd");
    for (name, group) in groups(side) {
        let Some(bfd) = group.session.bfd else { continue };
        out.line(format_args!(" profile {name}"));
        out.line(format_args!("  detect-multiplier {}", bfd.multiplier));
        out.line(format_args!("  receive-interval {}", bfd.interval));
        out.line(format_args!("  transmit-interval {}", bfd.interval));
        out.line(" exit");
    }
    out.lines(["exit", "!"]);
}

fn neighbor(out: &mut Out, name: &str, group: &Group, side: &Side) {
    let session = &group.session;
    let mut say = |text: String| out.line(format_args!(" neighbor {name} {text}"));
    say("peer-group".to_owned());
    let remote = if group.is_internal(side.asn) {
        "internal".to_owned()
    } else {
        node_as(group, "external")
    };
    say(format!("remote-as {remote}"));
    say(format!("timers {} {}", session.keepalive(), session.hold));
    say("advertisement-interval 0".to_owned());
    if session.password {
        say(format!("password {PASSWORD}"));
    }
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => say(format!("ebgp-multihop {hops}")),
        Ttl::Security(hops) => say(format!("ttl-security hops {hops}")),
    }
    if session.bfd.is_some() {
        say("bfd".to_owned());
        say(format!("bfd profile {name}"));
    }
    if session.extended_next_hop {
        say("capability extended-nexthop".to_owned());
    }
    out.line_if(
        has_range(group),
        format_args!(" bgp listen limit {}", group.limit),
    );
    for member in &group.members {
        match member {
            Member::Address(address) => out.line(format_args!(" neighbor {address} peer-group {name}")),
            Member::Range(range) => out.line(format_args!(" bgp listen range {range} peer-group {name}")),
            Member::Interface(port) => {
                out.line(format_args!(" neighbor {port} interface peer-group {name}"));
            }
        }
    }
}

fn in_family(out: &mut Out, name: &str, group: &Group, family: Family, side: &Side) {
    let mut say = |text: String| out.line(format_args!("  neighbor {name} {text}"));
    let filter = filter(family);
    say("activate".to_owned());
    say(format!("route-map {filter} in"));
    say(format!("route-map {filter} out"));
    say(format!(
        "maximum-prefix {} restart {RESTART_MINUTES}",
        group.session.max_prefixes
    ));
    if group.session.own_as == OwnAs::Override {
        say("as-override".to_owned());
    }
    if group.is_internal(side.asn) {
        say("route-reflector-client".to_owned());
    }
}
