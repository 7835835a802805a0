//! Juniper Junos, as `set` commands.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, groups};
use crate::side::{Group, Member, NodeAs, OwnAs, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    if let Some(id) = side.router_id {
        out.line(format_args!("set routing-options router-id {id}"));
    }
    out.line(format_args!("set routing-options autonomous-system {}", side.asn));
    out.line("set policy-options policy-statement ECMP then load-balance per-packet");
    out.line("set routing-options forwarding-table export ECMP");
    filters(out, side);
    if side.groups.iter().any(|group| group.node_as == NodeAs::Any) {
        out.line("set policy-options as-list NODE-AS members 1-4294967295");
    }
    for (name, group) in groups(side) {
        self::group(out, &name.to_uppercase(), group, side);
    }
}

fn filters(out: &mut Out, side: &Side) {
    for family in Family::ALL {
        let (term, inet) = (term(family), inet(family));
        let mut say = |text: String| {
            out.line(format_args!(
                "set policy-options policy-statement PODS term {term} {text}"
            ))
        };
        let mut is_empty = true;
        for permit in side.permits_of(family) {
            if is_empty {
                say(format!("from family {inet}"));
            }
            is_empty = false;
            say(format!(
                "from route-filter {} prefix-length-range /{}-/{}",
                permit.prefix, permit.min, permit.max
            ));
        }
        if !is_empty {
            say("then accept".to_owned());
        }
    }
    out.line("set policy-options policy-statement PODS term rest then reject");
}

fn term(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "v4",
        Family::Ipv6 => "v6",
    }
}

fn inet(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "inet",
        Family::Ipv6 => "inet6",
    }
}

fn group(out: &mut Out, name: &str, group: &Group, side: &Side) {
    let session = &group.session;
    let is_internal = group.is_internal(side.asn);
    let mut say = |text: String| out.line(format_args!("set protocols bgp group {name} {text}"));
    say(format!(
        "type {}",
        if is_internal { "internal" } else { "external" }
    ));
    if let (NodeAs::One(asn), false) = (group.node_as, is_internal) {
        say(format!("peer-as {asn}"));
    }
    if let (true, Some(id)) = (is_internal, side.router_id) {
        say(format!("cluster {id}"));
    }
    say(format!("hold-time {}", session.hold));
    if session.password {
        say(format!("authentication-key \"{PASSWORD}\""));
    }
    match session.ttl {
        Ttl::Direct => {}
        Ttl::Multihop(hops) => say(format!("multihop ttl {hops}")),
        Ttl::Security(1) => say("ttl 255".to_owned()),
        Ttl::Security(_) => say("multihop ttl 255".to_owned()),
    }
    if let Some(bfd) = session.bfd {
        say(format!(
            "bfd-liveness-detection minimum-interval {}",
            bfd.interval
        ));
        say(format!("bfd-liveness-detection multiplier {}", bfd.multiplier));
        if bfd.multihop {
            say("bfd-liveness-detection session-mode multihop".to_owned());
        }
    }
    for family in session.families.iter() {
        let inet = inet(family);
        say(format!(
            "family {inet} unicast prefix-limit maximum {}",
            session.max_prefixes
        ));
        say(format!(
            "family {inet} unicast prefix-limit teardown idle-timeout 5"
        ));
        if family == Family::Ipv4 && session.extended_next_hop {
            say(format!("family {inet} unicast extended-nexthop"));
        }
    }
    say("import PODS".to_owned());
    say("export PODS".to_owned());
    say("multipath".to_owned());
    match session.own_as {
        OwnAs::NotNeeded => {}
        OwnAs::Override => {
            say("as-override".to_owned());
            say("advertise-peer-as".to_owned());
        }
        OwnAs::Send => say("advertise-peer-as".to_owned()),
    }
    for member in &group.members {
        match (member, group.node_as) {
            (Member::Address(address), NodeAs::One(_)) => say(format!("neighbor {address}")),
            (Member::Address(address), NodeAs::Any) => {
                say(format!("neighbor {address} peer-as AS-OF-THE-NODE"))
            }
            (Member::Range(range), NodeAs::One(_)) => say(format!("allow {range}")),
            (Member::Range(range), NodeAs::Any) => {
                say(format!("dynamic-neighbor NODES allow {range}"));
                say("dynamic-neighbor NODES peer-as-list NODE-AS".to_owned());
            }
            (Member::Interface(port), node_as) => {
                say("dynamic-neighbor NODES peer-auto-discovery family inet6 ipv6-nd".to_owned());
                say(format!(
                    "dynamic-neighbor NODES peer-auto-discovery interface {port}"
                ));
                if node_as == NodeAs::Any {
                    say("dynamic-neighbor NODES peer-as-list NODE-AS".to_owned());
                }
            }
        }
    }
    if let Ttl::Security(hops) = session.ttl {
        out.line(format_args!(
            "# GTSM on receipt is a firewall filter on lo0: discard TCP port 179 from the nodes with a TTL below {}.",
            256 - u16::from(hops)
        ));
    }
}
