//! VyOS 1.4.

use bgp_proto::types::Family;

use super::frr::filter;
use super::{Out, PASSWORD, groups, has_range, node_as, numbered};
use crate::side::{Group, Member, OwnAs, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    for family in Family::ALL {
        let name = filter(family).to_uppercase();
        let (list, ip) = match family {
            Family::Ipv4 => ("prefix-list", "ip"),
            Family::Ipv6 => ("prefix-list6", "ipv6"),
        };
        for (number, permit) in numbered(side, family) {
            let mut say =
                |text: String| out.line(format_args!("set policy {list} {name} rule {number} {text}"));
            say("action permit".to_owned());
            say(format!("prefix {}", permit.prefix));
            if permit.min > permit.prefix.len() {
                say(format!("ge {}", permit.min));
            }
            if permit.max > permit.prefix.len() {
                say(format!("le {}", permit.max));
            }
        }
        if side.permits_of(family).next().is_none() {
            let all = if family == Family::Ipv4 {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            out.line(format_args!("set policy {list} {name} rule 10 action deny"));
            out.line(format_args!("set policy {list} {name} rule 10 prefix {all}"));
        }
        out.line(format_args!("set policy route-map {name} rule 10 action permit"));
        out.line(format_args!(
            "set policy route-map {name} rule 10 match {ip} address prefix-list {name}"
        ));
    }
    out.line(format_args!("set protocols bgp system-as {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!("set protocols bgp parameters router-id {id}"));
    }
    for (name, group) in groups(side) {
        bfd(out, &name, group);
        self::group(out, &name.to_uppercase(), &name, group, side);
    }
}

fn bfd(out: &mut Out, name: &str, group: &Group) {
    let Some(bfd) = group.session.bfd else { return };
    let mut say = |text: String| out.line(format_args!("set protocols bfd profile {name} interval {text}"));
    say(format!("multiplier {}", bfd.multiplier));
    say(format!("receive {}", bfd.interval));
    say(format!("transmit {}", bfd.interval));
}

fn group(out: &mut Out, name: &str, profile: &str, group: &Group, side: &Side) {
    let session = &group.session;
    let mut say = |text: String| out.line(format_args!("set protocols bgp peer-group {name} {text}"));
    let remote = if group.is_internal(side.asn) {
        "internal".to_owned()
    } else {
        node_as(group, "external")
    };
    say(format!("remote-as {remote}"));
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
        say(format!("bfd profile {profile}"));
    }
    if session.graceful_restart {
        say("graceful-restart restart-helper".to_owned());
    }
    if session.extended_next_hop {
        say("capability extended-nexthop".to_owned());
    }
    for family in session.families.iter() {
        let filter = filter(family).to_uppercase();
        let mut say = |text: String| {
            out.line(format_args!(
                "set protocols bgp peer-group {name} address-family {family}-unicast {text}"
            ));
        };
        say(format!("route-map import {filter}"));
        say(format!("route-map export {filter}"));
        say(format!("maximum-prefix {}", session.max_prefixes));
        if session.own_as == OwnAs::Override {
            say("as-override".to_owned());
        }
        if group.is_internal(side.asn) {
            say("route-reflector-client".to_owned());
        }
    }
    out.line_if(
        has_range(group),
        format_args!("set protocols bgp listen limit {}", group.limit),
    );
    for member in &group.members {
        match member {
            Member::Address(address) => {
                out.line(format_args!(
                    "set protocols bgp neighbor {address} peer-group {name}"
                ));
                timers(out, &address.to_string(), group);
            }
            Member::Range(range) => {
                out.line(format_args!(
                    "set protocols bgp listen range {range} peer-group {name}"
                ));
            }
            Member::Interface(port) => {
                out.line(format_args!(
                    "set protocols bgp neighbor {port} interface v6only peer-group {name}"
                ));
                timers(out, port, group);
            }
        }
    }
    if has_range(group) {
        // Neighbors of a range have the timers of the router.
        out.line(format_args!("set protocols bgp timers holdtime {}", session.hold));
        out.line(format_args!(
            "set protocols bgp timers keepalive {}",
            session.keepalive()
        ));
    }
}

fn timers(out: &mut Out, neighbor: &str, group: &Group) {
    let session = &group.session;
    out.line(format_args!(
        "set protocols bgp neighbor {neighbor} timers holdtime {}",
        session.hold
    ));
    out.line(format_args!(
        "set protocols bgp neighbor {neighbor} timers keepalive {}",
        session.keepalive()
    ));
}
