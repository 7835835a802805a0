//! UPDATE messages out: attributes once, prefixes packed to the full message size.
use ::bytes::{BufMut, BytesMut};

use super::*;
use crate::types::{Family, FamilySet};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EncodeContext {
    pub four_octet_as: bool,
    pub add_path: FamilySet,
    pub max_len: usize,
    pub internal: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge;

fn attr(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    if value.len() > 255 {
        out.extend_from_slice(&[flags | 0x10, code]);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    } else {
        out.extend_from_slice(&[flags, code, value.len() as u8]);
    }
    out.extend_from_slice(value);
}

fn block(ctx: &EncodeContext, attrs: &PathAttrs, classic: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    attr(&mut out, 0x40, 1, &[attrs.origin as u8]);
    attr(&mut out, 0x40, 2, attrs.as_path.wire4());
    if let (true, NextHop::V4(addr)) = (classic, attrs.next_hop) {
        attr(&mut out, 0x40, 3, &addr.octets());
    }
    if let Some(med) = attrs.med {
        attr(&mut out, 0x80, 4, &med.to_be_bytes());
    }
    if let (true, Some(pref)) = (ctx.internal, attrs.local_pref) {
        attr(&mut out, 0x40, 5, &pref.to_be_bytes());
    }
    if !attrs.communities.is_empty() {
        let value: Vec<u8> = attrs.communities.iter().flat_map(|c| c.0.to_be_bytes()).collect();
        attr(&mut out, 0xC0, 8, &value);
    }
    if let Some(rare) = attrs.rare.as_deref() {
        if let Some(id) = rare.originator_id {
            attr(&mut out, 0x80, 9, &id.get().to_be_bytes());
        }
        if !rare.cluster_list.is_empty() {
            let value: Vec<u8> = rare.cluster_list.iter().flat_map(|c| c.to_be_bytes()).collect();
            attr(&mut out, 0x80, 10, &value);
        }
    }
    out
}

fn message(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0xFF, 16);
    out.put_u16(0);
    out.put_u8(2);
    body(out);
    let len = (out.len() - start) as u16;
    out[start + 16..start + 18].copy_from_slice(&len.to_be_bytes());
}

fn take<'a>(nlri: &'a [Nlri], room: usize, add_path: bool) -> (&'a [Nlri], usize) {
    let mut used = 0;
    for (n, item) in nlri.iter().enumerate() {
        let len = 1 + usize::from(item.prefix.len()).div_ceil(8) + if add_path { 4 } else { 0 };
        if used + len > room {
            return (&nlri[..n], used);
        }
        used += len;
    }
    (nlri, used)
}

pub fn encode_announce(
    out: &mut BytesMut,
    ctx: &EncodeContext,
    family: Family,
    attrs: &PathAttrs,
    nlri: &[Nlri],
) -> Result<u32, TooLarge> {
    let classic = family == Family::Ipv4 && matches!(attrs.next_hop, NextHop::V4(_));
    let block = block(ctx, attrs, classic);
    let hop: Vec<u8> = match attrs.next_hop {
        NextHop::V4(a) => a.octets().to_vec(),
        NextHop::V6(a) => a.octets().to_vec(),
        NextHop::V6Pair(a, b) => [a.octets(), b.octets()].concat(),
    };
    let fixed = 23 + block.len() + if classic { 0 } else { 9 + hop.len() };
    let room = ctx
        .max_len
        .checked_sub(fixed)
        .filter(|room| *room >= 21)
        .ok_or(TooLarge)?;
    let add_path = ctx.add_path.contains(family);
    let (mut rest, mut count) = (nlri, 0);
    while !rest.is_empty() {
        let (now, used) = take(rest, room, add_path);
        rest = &rest[now.len()..];
        message(out, |out| {
            out.put_u16(0);
            if classic {
                out.put_u16(block.len() as u16);
                out.put_slice(&block);
            } else {
                out.put_u16((block.len() + 9 + hop.len() + used) as u16);
                out.put_slice(&[0x90, 14]);
                out.put_u16((5 + hop.len() + used) as u16);
                out.put_u16(family.afi());
                out.put_u8(1);
                out.put_u8(hop.len() as u8);
                out.put_slice(&hop);
                out.put_u8(0);
            }
            for item in now {
                encode_nlri(out, item, add_path);
            }
            if !classic {
                out.put_slice(&block);
            }
        });
        count += 1;
    }
    Ok(count)
}

pub fn encode_withdraw(out: &mut BytesMut, ctx: &EncodeContext, family: Family, nlri: &[Nlri]) -> u32 {
    let add_path = ctx.add_path.contains(family);
    let (mut rest, mut count) = (nlri, 0);
    while !rest.is_empty() {
        let (now, used) = take(rest, ctx.max_len - 30, add_path);
        rest = &rest[now.len()..];
        message(out, |out| {
            if family == Family::Ipv4 {
                out.put_u16(used as u16);
                for item in now {
                    encode_nlri(out, item, add_path);
                }
                out.put_u16(0);
            } else {
                out.put_u16(0);
                out.put_u16((7 + used) as u16);
                out.put_slice(&[0x90, 15]);
                out.put_u16((3 + used) as u16);
                out.put_u16(family.afi());
                out.put_u8(1);
                for item in now {
                    encode_nlri(out, item, add_path);
                }
            }
        });
        count += 1;
    }
    count
}

pub fn encode_end_of_rib(out: &mut BytesMut, family: Family) {
    message(out, |out| match family {
        Family::Ipv4 => out.put_u32(0),
        Family::Ipv6 => {
            out.put_u16(0);
            out.put_slice(&[0, 6, 0x80, 15, 3, 0, 2, 1]);
        }
    });
}
