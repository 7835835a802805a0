//! Nokia SR Linux, as `set` commands of a candidate.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, groups};
use crate::side::{Group, Member, NodeAs, OwnAs, Side, Ttl};

const BGP: &str = "set / network-instance default protocols bgp";

pub(super) fn print(out: &mut Out, side: &Side) {
    for permit in &side.permits {
        out.line(format_args!(
            "set / routing-policy prefix-set pods prefix {} mask-length-range {}..{}",
            permit.prefix, permit.min, permit.max
        ));
    }
    out.lines([
        "set / routing-policy policy pods default-action policy-result reject",
        "set / routing-policy policy pods statement 10 match prefix-set pods",
        "set / routing-policy policy pods statement 10 action policy-result accept",
    ]);
    if side.groups.iter().any(|group| group.session.password) {
        out.line(format_args!(
            "set / system authentication keychain podroute type tcp-md5 key 1 authentication-key {PASSWORD}"
        ));
    }
    out.line(format_args!("{BGP} admin-state enable"));
    out.line(format_args!("{BGP} autonomous-system {}", side.asn));
    if let Some(id) = side.router_id {
        out.line(format_args!("{BGP} router-id {id}"));
    }
    for family in side.families().iter() {
        out.line(format_args!("{BGP} afi-safi {family}-unicast admin-state enable"));
    }
    for (name, group) in groups(side) {
        self::group(out, &name, group, side);
        members(out, &name, group);
    }
}

fn group(out: &mut Out, name: &str, group: &Group, side: &Side) {
    let session = &group.session;
    let mut say = |text: String| out.line(format_args!("{BGP} group {name} {text}"));
    if let NodeAs::One(asn) = group.node_as {
        say(format!("peer-as {asn}"));
    }
    say("import-policy [ pods ]".to_owned());
    say("export-policy [ pods ]".to_owned());
    say(format!("timers hold-time {}", session.hold));
    say(format!("timers keepalive-interval {}", session.keepalive()));
    if session.password {
        say("authentication keychain podroute".to_owned());
    }
    if let Ttl::Multihop(hops) | Ttl::Security(hops @ 2..) = session.ttl {
        say("multihop admin-state enable".to_owned());
        say(format!("multihop maximum-hops {hops}"));
    }
    if session.bfd.is_some() {
        say("failure-detection enable-bfd true".to_owned());
    }
    if session.graceful_restart {
        say("graceful-restart admin-state enable".to_owned());
    }
    if session.own_as == OwnAs::Override {
        say("as-path-options replace-peer-as true".to_owned());
    }
    if group.is_internal(side.asn) {
        say("route-reflector client true".to_owned());
    }
    for family in Family::ALL {
        let state = if session.families.contains(family) {
            "enable"
        } else {
            "disable"
        };
        say(format!("afi-safi {family}-unicast admin-state {state}"));
    }
    for family in session.families.iter() {
        say(format!(
            "afi-safi {family}-unicast prefix-limit max-received-routes {}",
            session.max_prefixes
        ));
        if family == Family::Ipv4 && session.extended_next_hop {
            say(format!(
                "afi-safi {family}-unicast ipv4-unicast advertise-ipv6-next-hops true"
            ));
            say(format!(
                "afi-safi {family}-unicast ipv4-unicast receive-ipv6-next-hops true"
            ));
        }
    }
    if let Ttl::Security(hops) = session.ttl {
        out.line(format_args!(
            "# GTSM is a filter of the CPM: drop TCP port 179 from the nodes with a TTL below {}.",
            256 - u16::from(hops)
        ));
    }
    if let Some(bfd) = session.bfd {
        out.line(format_args!(
            "# set / bfd subinterface INTERFACE desired-minimum-transmit-interval {0} required-minimum-receive {0} detection-multiplier {1}",
            u64::from(bfd.interval) * 1000,
            bfd.multiplier
        ));
    }
}

fn members(out: &mut Out, name: &str, group: &Group) {
    let allowed = match group.node_as {
        NodeAs::One(asn) => asn.to_string(),
        NodeAs::Any => "1..4294967295".to_owned(),
    };
    for member in &group.members {
        match member {
            Member::Address(address) => out.line(format_args!("{BGP} neighbor {address} peer-group {name}")),
            Member::Range(range) => {
                out.line(format_args!(
                    "{BGP} dynamic-neighbors accept match {range} peer-group {name}"
                ));
                out.line(format_args!(
                    "{BGP} dynamic-neighbors accept match {range} allowed-peer-as [ {allowed} ]"
                ));
                out.line(format_args!(
                    "{BGP} dynamic-neighbors accept max-sessions {}",
                    group.limit
                ));
            }
            Member::Interface(port) => {
                out.line(format_args!(
                    "{BGP} dynamic-neighbors interface {port}.0 peer-group {name}"
                ));
                out.line(format_args!(
                    "{BGP} dynamic-neighbors interface {port}.0 allowed-peer-as [ {allowed} ]"
                ));
            }
        }
    }
}
