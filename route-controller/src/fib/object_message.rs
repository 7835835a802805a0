//! Nexthop objects as netlink messages (linux/nexthop.h), which netlink-packet-route does not know. Pure.

use std::net::IpAddr;

use bgp_proto::types::Family;

use linux::netlink::frame::{self, Attributes, Message, attribute, u16_at, u32_at};
use linux::netlink::{ACK, CREATE, DUMP, NESTED, REPLACE, REQUEST};

use super::objects::{Content, ObjectOp, Resilience};
use super::route::{NextHop, PROTOCOL};

/// RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP.
pub(crate) const NEW: u16 = 104;
pub(crate) const DEL: u16 = 105;
const GET: u16 = 106;

const ID: u16 = 1;
const GROUP: u16 = 2;
const GROUP_TYPE: u16 = 3;
const OIF: u16 = 5;
const GATEWAY: u16 = 6;
const RES_GROUP: u16 = 12;

/// NEXTHOP_GRP_TYPE_RES.
const RESILIENT: u16 = 1;
/// In RES_GROUP.
const BUCKETS: u16 = 1;
const IDLE_TIMER: u16 = 2;
/// The kernel reports times to programs in these (USER_HZ).
const TICKS_PER_SECOND: u32 = 100;

/// Octets of `nhmsg`.
const NHMSG: usize = 8;

/// A message about objects: `nhmsg` (family, scope, protocol, reserved, flags), then what `attributes` appends.
fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    attributes: impl FnOnce(&mut Vec<u8>),
) {
    let protocol = if kind == NEW { PROTOCOL } else { 0 };
    frame::message(out, kind, REQUEST | flags, sequence, |out| {
        out.extend([family, 0, protocol, 0, 0, 0, 0, 0]);
        attributes(out);
    });
}

fn put_id(out: &mut Vec<u8>, id: u32) {
    attribute(out, ID, |out| out.extend(id.to_ne_bytes()));
}

fn family_number(family: Family) -> u8 {
    let number = match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    };
    u8::try_from(number).unwrap_or(0)
}

/// A change, appended to a buffer.
pub(crate) fn encode(op: &ObjectOp, sequence: u32, out: &mut Vec<u8>) {
    match op {
        ObjectOp::Put(id, content) => {
            let family = match content {
                Content::Single(family, _) => family_number(*family),
                Content::Group(..) => 0,
            };
            message(out, NEW, ACK | CREATE | REPLACE, sequence, family, |out| {
                put_id(out, *id);
                put_content(out, content);
            });
        }
        ObjectOp::Remove(id) => message(out, DEL, ACK, sequence, 0, |out| put_id(out, *id)),
    }
}

fn put_content(out: &mut Vec<u8>, content: &Content) {
    match content {
        Content::Single(_, hop) => {
            attribute(out, OIF, |out| out.extend(hop.ifindex.to_ne_bytes()));
            match hop.gateway {
                Some(IpAddr::V4(addr)) => attribute(out, GATEWAY, |out| out.extend(addr.octets())),
                Some(IpAddr::V6(addr)) => attribute(out, GATEWAY, |out| out.extend(addr.octets())),
                None => {}
            }
        }
        // `struct nexthop_grp`: id, weight less one, reserved.
        Content::Group(members, resilience) => {
            attribute(out, GROUP, |out| {
                for (id, weight) in members {
                    out.extend(id.to_ne_bytes());
                    out.extend([weight.saturating_sub(1), 0, 0, 0]);
                }
            });
            if let Some(resilience) = resilience {
                put_resilience(out, *resilience);
            }
        }
    }
}

fn put_resilience(out: &mut Vec<u8>, resilience: Resilience) {
    attribute(out, GROUP_TYPE, |out| out.extend(RESILIENT.to_ne_bytes()));
    attribute(out, RES_GROUP | NESTED, |out| {
        attribute(out, BUCKETS, |out| out.extend(resilience.buckets.to_ne_bytes()));
        let ticks = resilience.idle_seconds.saturating_mul(TICKS_PER_SECOND);
        attribute(out, IDLE_TIMER, |out| out.extend(ticks.to_ne_bytes()));
    });
}

/// A request for all objects.
pub(crate) fn dump(sequence: u32) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, GET, DUMP, sequence, 0, |_| ());
    out
}

/// An object as read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadObject {
    Own(u32, Content),
    Foreign(u32),
}

/// The object that a message is about.
pub(crate) fn id(message: &Message<'_>) -> Option<u32> {
    Attributes(message.body().get(NHMSG..)?).u32(ID)
}

/// The object of a message; `None` for other messages.
pub(crate) fn read_one(message: &Message<'_>) -> Option<ReadObject> {
    if message.kind != NEW {
        return None;
    }
    let [family, _, protocol, ..] = message.body() else {
        return None;
    };
    let (mut id, mut hop, mut gateway) = (None, None, None);
    let (mut group, mut resilience) = (None, None);
    for (kind, value) in Attributes(message.body().get(NHMSG..)?) {
        match kind {
            ID => id = u32_at(value, 0),
            OIF => hop = u32_at(value, 0),
            GATEWAY => gateway = address(value),
            GROUP => group = Some(members(value)),
            RES_GROUP => resilience = read_resilience(value),
            _ => {}
        }
    }
    let id = id?;
    if *protocol != PROTOCOL {
        return Some(ReadObject::Foreign(id));
    }
    let family = if i32::from(*family) == libc::AF_INET6 {
        Family::Ipv6
    } else {
        Family::Ipv4
    };
    let content = match (group, hop) {
        (Some(members), _) => Content::Group(members, resilience),
        (None, Some(ifindex)) => Content::Single(family, NextHop { gateway, ifindex }),
        // Nothing that podroute makes.
        (None, None) => return Some(ReadObject::Foreign(id)),
    };
    Some(ReadObject::Own(id, content))
}

/// Ids and weights of `struct nexthop_grp`, sorted.
fn members(value: &[u8]) -> Vec<(u32, u8)> {
    let member = |one: &[u8]| Some((u32_at(one, 0)?, one.get(4)?.saturating_add(1)));
    let mut members: Vec<(u32, u8)> = value.chunks_exact(8).filter_map(member).collect();
    members.sort_unstable();
    members
}

fn read_resilience(value: &[u8]) -> Option<Resilience> {
    let find = |wanted: u16| Attributes(value).get(wanted);
    Some(Resilience {
        buckets: u16_at(find(BUCKETS)?, 0)?,
        idle_seconds: u32_at(find(IDLE_TIMER)?, 0)? / TICKS_PER_SECOND,
    })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let hop = |gateway: &str| NextHop {
            gateway: gateway.parse().ok(),
            ifindex: 7,
        };
        let contents = [
            Content::Single(Family::Ipv4, hop("192.0.2.1")),
            Content::Single(Family::Ipv6, hop("fe80::1")),
            Content::Single(Family::Ipv6, hop("none")),
            Content::Group(vec![(5, 1), (9, 255)], None),
            Content::Group(
                vec![(5, 1)],
                Some(Resilience {
                    buckets: 128,
                    idle_seconds: 120,
                }),
            ),
        ];
        let mut bytes = Vec::new();
        for (id, content) in (1..).zip(&contents) {
            encode(&ObjectOp::Put(id, content.clone()), id, &mut bytes);
        }
        let found: Vec<ReadObject> = frame::messages(&bytes)
            .filter_map(|message| read_one(&message))
            .collect();
        let wanted: Vec<ReadObject> = (1..)
            .zip(contents)
            .map(|(id, content)| ReadObject::Own(id, content))
            .collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn any_bytes_are_read() {
        let mut bytes = Vec::new();
        encode(
            &ObjectOp::Put(3, Content::Group(vec![(1, 1), (2, 3)], None)),
            1,
            &mut bytes,
        );
        for cut in 0..bytes.len() {
            frame::messages(&bytes[..cut]).for_each(|message| drop(read_one(&message)));
            let mut changed = bytes.clone();
            changed[cut] ^= 0xff;
            frame::messages(&changed).for_each(|message| drop(read_one(&message)));
        }
    }
}
