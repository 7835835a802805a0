//! MikroTik RouterOS 7.

use bgp_proto::types::Family;

use super::{Out, PASSWORD, groups};
use crate::side::{Group, Member, NodeAs, OwnAs, PrefixRange, Side, Ttl};

pub(super) fn print(out: &mut Out, side: &Side) {
    for permit in &side.permits {
        out.line(format_args!(
            "/routing filter rule add chain=pods rule=\"if ({}) {{ accept }}\"",
            condition(permit)
        ));
    }
    out.line("/routing filter rule add chain=pods rule=\"reject\"");
    for (name, group) in groups(side) {
        bfd(out, group);
        for (index, member) in group.members.iter().enumerate() {
            connection(out, &format!("{name}-{}", index + 1), member, group, side);
        }
    }
}

fn condition(permit: &PrefixRange) -> String {
    let PrefixRange { prefix, min, max } = permit;
    if min == max && *min == prefix.len() {
        format!("dst == {prefix}")
    } else {
        format!("dst in {prefix} && dst-len in {min}-{max}")
    }
}

fn bfd(out: &mut Out, group: &Group) {
    let Some(bfd) = group.session.bfd else { return };
    for member in &group.members {
        let place = match member {
            Member::Interface(port) => format!("interfaces={port}"),
            other => format!("addresses={other}"),
        };
        out.line(format_args!(
            "/routing bfd configuration add {place} min-tx={0}ms min-rx={0}ms multiplier={1}",
            bfd.interval, bfd.multiplier
        ));
    }
}

fn connection(out: &mut Out, name: &str, member: &Member, group: &Group, side: &Side) {
    let session = &group.session;
    let families: Vec<&str> = session
        .families
        .iter()
        .map(|family| match family {
            Family::Ipv4 => "ip",
            Family::Ipv6 => "ipv6",
        })
        .collect();
    let role = if group.is_internal(side.asn) {
        "ibgp-rr"
    } else {
        "ebgp"
    };
    let mut words = vec![
        format!("name={name}"),
        format!("as={}", side.asn),
        format!("local.role={role}"),
        format!("address-families={}", families.join(",")),
        format!("hold-time={}s", session.hold),
        format!("keepalive-time={}s", session.keepalive()),
        "input.filter=pods".to_owned(),
        "output.filter-chain=pods".to_owned(),
    ];
    words.extend(side.router_id.map(|id| format!("router-id={id}")));
    words.push(match member {
        Member::Address(address) => format!("remote.address={address}"),
        Member::Range(range) => format!("remote.address={range} listen=yes connect=no"),
        Member::Interface(port) => {
            format!("local.address={port} remote.address=fe80::/10 listen=yes connect=no")
        }
    });
    if let NodeAs::One(asn) = group.node_as {
        words.push(format!("remote.as={asn}"));
    }
    if session.password {
        words.push(format!("tcp-md5-key=\"{PASSWORD}\""));
    }
    match session.ttl {
        Ttl::Direct => words.push("multihop=no".to_owned()),
        Ttl::Multihop(hops) => words.push(format!("multihop=yes local.ttl={hops}")),
        Ttl::Security(hops) => words.push(format!("local.ttl=255 remote.ttl={}", 256 - u16::from(hops))),
    }
    if session.bfd.is_some() {
        words.push("use-bfd=yes".to_owned());
    }
    for family in session.families.iter() {
        words.push(format!(
            "input.limit-process-routes-{family}={}",
            session.max_prefixes
        ));
    }
    if session.own_as == OwnAs::Override {
        words.push("output.as-override=yes".to_owned());
    }
    out.line(format_args!("/routing bgp connection add {}", words.join(" ")));
}
