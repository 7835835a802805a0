//! The nftables table `inet podroute-cni`.
//!
//! Masquerade, per network: a set of pod addresses, an interval set of exempt prefixes, and one base chain (`nat`,
//! postrouting). Marks: a map from pod address to mark and one base chain (`filter`, prerouting, mangle priority). Source
//! check: one base chain (`filter`, prerouting, raw priority) for the interfaces of the link group, which drops packets of
//! pods with a foreign source address, and router advertisements. No other table is changed.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::block::Family;
use crate::kernel::link::LINK_GROUP;
use crate::kernel::nft::{
    ACCEPT, Chain, DROP, Element, REG_1, REG_2, RETURN, SetKeys, equals, expression, intervals, load_address,
    load_meta, look_up, match_family, match_transport, number, rule, verdict,
};
use crate::names::hash;
use linux::netlink::Batch;

const PREROUTING: u32 = 0;
const POSTROUTING: u32 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// A hash for names of sets: a network's name may be longer than a set's.
fn tag(network: &str) -> String {
    format!("{:016x}", hash(&[network.as_bytes()]))
        .split_at(12)
        .0
        .to_owned()
}

fn masqueraded_set(network: &str, family: Family) -> String {
    format!("pods{}-{}", digit(family), tag(network))
}

fn exempt_set(network: &str, family: Family) -> String {
    format!("exempt{}-{}", digit(family), tag(network))
}

/// Masquerades packets of a network's pods to destinations outside the exempt prefixes. BGP and BFD are excluded: with the
/// node's address a pod could impersonate the node.
pub(crate) fn masquerade(network: &str, exempt: &[IpNet]) -> Chain {
    const DESTINATION_PORT: u32 = 2;
    let mut sets = Vec::new();
    let mut fixed_elements = Vec::new();
    let ports = [(TCP, 179_u16), (UDP, 3784), (UDP, 3785), (UDP, 4784)];
    let control = |(protocol, port): (u8, u16)| {
        rule(|e| {
            match_transport(e, protocol, DESTINATION_PORT, &port.to_be_bytes());
            verdict(e, RETURN);
        })
    };
    let mut rules: Vec<Vec<u8>> = ports.into_iter().map(control).collect();
    for family in FAMILIES {
        let (pods, exempt_set) = (masqueraded_set(network, family), exempt_set(network, family));
        sets.push((pods.clone(), SetKeys::Addresses(family)));
        sets.push((exempt_set.clone(), SetKeys::Prefixes(family)));
        fixed_elements.push((exempt_set.clone(), intervals(exempt, family)));
        rules.push(rule(|e| {
            match_family(e, family);
            load_address(e, family, true, REG_1);
            look_up(e, &pods, false, None);
            load_address(e, family, false, REG_1);
            look_up(e, &exempt_set, true, None);
            expression(e, "masq", |_| {});
        }));
    }
    Chain {
        name: format!("masquerade-{}", tag(network)),
        kind: "nat",
        hook: POSTROUTING,
        priority: 100,
        sets,
        fixed_elements,
        rules,
    }
}

/// A pod's elements among a network's masqueraded ones.
pub(crate) fn masquerade_elements(network: &str, pods: &[IpAddr]) -> Vec<(String, Element)> {
    pods.iter()
        .map(|a| {
            (
                masqueraded_set(network, Family::of(*a)),
                Element::address(*a, None),
            )
        })
        .collect()
}

fn marks_set(family: Family) -> String {
    format!("marks{}", digit(family))
}

/// Sets a firewall mark on packets of pods.
pub(crate) fn marks() -> Chain {
    const META_MARK: u32 = 3;
    let sets = FAMILIES.map(|family| (marks_set(family), SetKeys::Marks(family)));
    let rules = FAMILIES.map(|family| {
        rule(|e| {
            match_family(e, family);
            load_address(e, family, true, REG_1);
            look_up(e, &marks_set(family), false, Some(REG_1));
            expression(e, "meta", |d| {
                number(d, 2, META_MARK);
                number(d, 3, REG_1);
            });
        })
    });
    Chain {
        name: "marks".into(),
        kind: "filter",
        hook: PREROUTING,
        priority: -150,
        sets: sets.into(),
        fixed_elements: Vec::new(),
        rules: rules.into(),
    }
}

/// A pod's elements among the marks.
pub(crate) fn mark_elements(pods: &[IpAddr], mark: u32) -> Vec<(String, Element)> {
    pods.iter()
        .map(|a| (marks_set(Family::of(*a)), Element::address(*a, Some(mark))))
        .collect()
}

fn also_set(family: Family) -> String {
    format!("also{}", digit(family))
}

fn match_link_group(batch: &mut Batch) {
    const META_IIFGROUP: u32 = 21;
    load_meta(batch, META_IIFGROUP, REG_1);
    equals(batch, &LINK_GROUP.to_ne_bytes());
}

/// Drops packets of pods whose source address the host does not reach through the input interface, unless interface and
/// address are listed, and router advertisements.
pub(crate) fn sources() -> Chain {
    const META_IIFNAME: u32 = 6;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const FIB_RESULT_OIF: u32 = 1;
    const FIB_SOURCE_IN_PRESENT: u32 = 1 | 8 | 32;
    let sets = FAMILIES.map(|family| (also_set(family), SetKeys::InterfaceAddresses(family)));
    let mut rules = vec![rule(|e| {
        match_link_group(e);
        match_family(e, Family::V6);
        match_transport(e, ICMPV6, 0, &[ROUTER_ADVERTISEMENT]);
        verdict(e, DROP);
    })];
    rules.extend(FAMILIES.map(|family| {
        rule(|e| {
            match_link_group(e);
            match_family(e, family);
            load_meta(e, META_IIFNAME, REG_1);
            load_address(e, family, true, REG_2);
            look_up(e, &also_set(family), false, None);
            verdict(e, ACCEPT);
        })
    }));
    rules.push(rule(|e| {
        match_link_group(e);
        expression(e, "fib", |d| {
            number(d, 1, REG_1);
            number(d, 2, FIB_RESULT_OIF);
            number(d, 3, FIB_SOURCE_IN_PRESENT);
        });
        equals(e, &0_u32.to_ne_bytes());
        verdict(e, DROP);
    }));
    Chain {
        name: "sources".into(),
        kind: "filter",
        hook: PREROUTING,
        priority: -300,
        sets: sets.into(),
        fixed_elements: Vec::new(),
        rules,
    }
}

/// Elements for addresses that a pod may also use on its other interfaces.
pub(crate) fn source_elements(pairs: &[(String, IpAddr)]) -> Vec<(String, Element)> {
    pairs
        .iter()
        .map(|(interface, a)| {
            (
                also_set(Family::of(*a)),
                Element::interface_address(interface, *a),
            )
        })
        .collect()
}
