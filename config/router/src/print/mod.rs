//! A side in the language of a router.

mod bird;
mod eos;
mod frr;
mod gobgp;
mod ios_xe;
mod junos;
mod nxos;
mod openbgpd;
mod routeros;
mod srlinux;
mod vyos;

use std::fmt::Display;

use bgp_proto::types::Family;

use crate::format::Format;
use crate::side::{Group, Member, NodeAs, OwnAs, PrefixRange, Side};

/// Stands where the operator puts the secret.
pub(crate) const PASSWORD: &str = "REPLACE-WITH-PASSWORD";

/// The router's configuration of its sessions with nodes.
#[must_use]
pub fn print(format: Format, side: &Side) -> String {
    let mut out = Out::default();
    header(&mut out, format, side);
    match format {
        Format::Eos => eos::print(&mut out, side),
        Format::Junos => junos::print(&mut out, side),
        Format::Nxos => nxos::print(&mut out, side),
        Format::IosXe => ios_xe::print(&mut out, side),
        Format::Frr | Format::Sonic => frr::print(&mut out, side),
        Format::Bird => bird::print(&mut out, side),
        Format::RouterOs => routeros::print(&mut out, side),
        Format::Vyos => vyos::print(&mut out, side),
        Format::SrLinux => srlinux::print(&mut out, side),
        Format::Gobgp => gobgp::print(&mut out, side),
        Format::Openbgpd => openbgpd::print(&mut out, side),
    }
    out.text
}

/// Text, line by line.
#[derive(Debug, Default)]
pub(crate) struct Out {
    text: String,
}

impl Out {
    pub(crate) fn line(&mut self, line: impl Display) {
        self.text.push_str(&format!("{line}\n"));
    }

    pub(crate) fn line_if(&mut self, condition: bool, line: impl Display) {
        if condition {
            self.line(line);
        }
    }

    pub(crate) fn lines<T: Display>(&mut self, lines: impl IntoIterator<Item = T>) {
        lines.into_iter().for_each(|line| self.line(line));
    }
}

/// A name for a group that every language takes: `nodes`, `nodes6`, and with more peers `nodes-2`.
pub(crate) fn group_name(side: &Side, index: usize) -> String {
    let family = |group: &Group| group.family();
    let this = side.groups.get(index).map(family);
    let before = side
        .groups
        .iter()
        .take(index)
        .filter(|group| Some(group.family()) == this);
    let suffix = if this == Some(Family::Ipv6) { "6" } else { "" };
    match before.count() {
        0 => format!("nodes{suffix}"),
        more => format!("nodes{suffix}_{}", more + 1),
    }
}

/// Each group with its name.
pub(crate) fn groups(side: &Side) -> impl Iterator<Item = (String, &Group)> {
    let named = |(index, group)| (group_name(side, index), group);
    side.groups.iter().enumerate().map(named)
}

/// Prefixes of a family, numbered 10, 20, ….
pub(crate) fn numbered(side: &Side, family: Family) -> impl Iterator<Item = (usize, &PrefixRange)> {
    side.permits_of(family)
        .enumerate()
        .map(|(index, permit)| (10 * (index + 1), permit))
}

/// `ge 24 le 28` of prefix lists, without what the prefix says already.
pub(crate) fn ge_le(permit: &PrefixRange) -> String {
    let longest = permit.prefix.family().max_len();
    let own = permit.prefix.len();
    let ge = (permit.min > own).then(|| format!(" ge {}", permit.min));
    let le = permit.max > own && (permit.max < longest || permit.min < longest);
    let le = le.then(|| format!(" le {}", permit.max));
    format!("{}{}", ge.unwrap_or_default(), le.unwrap_or_default())
}

/// A list of addresses and ranges is no interface.
pub(crate) fn interfaces(group: &Group) -> impl Iterator<Item = &String> {
    group.members.iter().filter_map(|member| match member {
        Member::Interface(name) => Some(name),
        Member::Address(_) | Member::Range(_) => None,
    })
}

pub(crate) fn has_range(group: &Group) -> bool {
    group
        .members
        .iter()
        .any(|member| matches!(member, Member::Range(_)))
}

/// `64512`, or the word for any other AS.
pub(crate) fn node_as(group: &Group, any: &str) -> String {
    match group.node_as {
        NodeAs::One(asn) => asn.to_string(),
        NodeAs::Any => any.to_owned(),
    }
}

fn header(out: &mut Out, format: Format, side: &Side) {
    let comment = format.comment();
    let peers: Vec<&str> = side.groups.iter().map(|group| group.peer.as_str()).collect();
    out.line(format_args!(
        "{comment} The router's side of podroute's peer {}.",
        peers.join(" and ")
    ));
    if format == Format::Sonic {
        out.line(format_args!(
            "{comment} SONiC: set docker_routing_config_mode to separated or split in DEVICE_METADATA|localhost, put this into"
        ));
        out.line(format_args!(
            "{comment} /etc/sonic/frr/bgpd.conf, and run: systemctl restart bgp"
        ));
    }
    if side.groups.iter().any(|group| group.session.password) {
        out.line(format_args!(
            "{comment} Replace {PASSWORD} with the content of the file that password.file names."
        ));
    }
    for group in side.groups.iter().filter(|group| group.members.is_empty()) {
        out.line(format_args!(
            "{comment} No address of a node is known for peer {}: name the nodes' subnet with --nodes.",
            group.peer
        ));
    }
    for name in side.groups.iter().flat_map(interfaces) {
        out.line(format_args!(
            "{comment} {name} stands for the router's interface to the node; repeat its statements for each port."
        ));
    }
    let missing = unsupported(format, side);
    out.lines(missing.iter().map(|line| format!("{comment} {line}")));
}

/// What the language cannot say.
fn unsupported(format: Format, side: &Side) -> Vec<String> {
    let mut lines = Vec::new();
    let needs_override = side
        .groups
        .iter()
        .any(|group| group.session.own_as == OwnAs::Override);
    let has_no_override = matches!(format, Format::Bird | Format::Openbgpd | Format::IosXe);
    if needs_override && has_no_override {
        lines.push(format!(
            "{format} cannot replace the nodes' AS in paths between nodes of one AS: set allowOwnAs: 1 for the peer in podroute.yaml."
        ));
    }
    if side.has_bfd() && matches!(format, Format::Gobgp | Format::Openbgpd) {
        lines.push(format!(
            "{format} has no BFD: run another daemon for it, or remove bfd in podroute.yaml."
        ));
    }
    let needs_own_as = |group: &Group| has_range(group) && group.session.own_as != OwnAs::NotNeeded;
    if format == Format::Gobgp && side.groups.iter().any(needs_own_as) {
        lines.push("GoBGP sends the nodes of a subnet no routes of other nodes of their AS: name nodes by address (--nodes).".to_owned());
    }
    lines
}
