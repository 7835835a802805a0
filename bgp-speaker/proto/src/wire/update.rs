//! Decoding of UPDATE (RFC 4271 §4.3, §6.3; RFC 7606; RFC 4760).
//!
//! The sections are located by their lengths, all attributes are framed and checked, and the most severe
//! error action applies. Checks of single attributes are in `attr_decode`. A message is added to the batch
//! completely, or not at all if it ends the session.
//!
//! Withdrawn routes come first, then MP_UNREACH_NLRI, then announcements: a prefix in several of them ends
//! announced (RFC 4271 §4.3). Families that were not negotiated are skipped.
//!
//! The engine checks next hops (zero, multicast, our own) and shows them. The one exception is a link-local
//! next hop with bits set that must be zero: it is treated as withdrawn here, because these bits identify an
//! interface inside the speaker (see [`crate::types::with_scope`]), which a peer must not choose.
//!
//! Multicast prefixes are discarded (RFC 4271 §6.3).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ::bytes::Bytes;

use super::attr_decode::{Attr, AttrScan, code};
use super::nlri::decode_nlri;
use super::reader::{Parsed, afi_safi, octet, short, take};
use super::{AttrFault, AttrIssue, DecodeError, ErrorAction, NextHop, RouteBatch, RouteOp};
use crate::types::{Family, FamilySet, Prefix, is_malformed_link_local};

/// Parameters of decoding: what was negotiated, and the kind of peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeContext {
    /// AS numbers have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Families in which the peer sends path identifiers (RFC 7911).
    pub add_path: FamilySet,
    /// Families of the session; others are skipped.
    pub families: FamilySet,
    /// Families in which IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: FamilySet,
    /// The peer is in another AS (eBGP).
    pub external: bool,
}

/// Decodes the body of an UPDATE and appends its operations to `batch`.
///
/// Attribute errors that do not end the session are appended to [`RouteBatch::issues`], each kind once per
/// message.
///
/// # Errors
/// Errors that end the session (RFC 7606 §3); `batch` is then unchanged.
pub fn decode_update(body: &[u8], ctx: &DecodeContext, batch: &mut RouteBatch) -> Result<(), DecodeError> {
    let mark = (batch.ops.len(), batch.nlri.len(), batch.issues.len());
    let result = decode_into(body, ctx, batch);
    if result.is_ok() {
        batch.messages = batch.messages.saturating_add(1);
    } else {
        batch.ops.truncate(mark.0);
        batch.nlri.truncate(mark.1);
        batch.issues.truncate(mark.2);
    }
    result
}

/// The code of the NLRI field in an issue.
const NLRI: u8 = 0;

/// The three sections of an UPDATE.
struct Sections<'a> {
    withdrawn: &'a [u8],
    attrs: &'a [u8],
    nlri: &'a [u8],
}

fn sections(body: &[u8]) -> Parsed<'_, Sections<'_>> {
    let (rest, len) = short(body)?;
    let (rest, withdrawn) = take(rest, usize::from(len))?;
    let (rest, len) = short(rest)?;
    // RFC 7606 §4: the total attribute length determines where the NLRI begins.
    let (nlri, attrs) = take(rest, usize::from(len))?;
    Ok((
        &[],
        Sections {
            withdrawn,
            attrs,
            nlri,
        },
    ))
}

fn decode_into(body: &[u8], ctx: &DecodeContext, batch: &mut RouteBatch) -> Result<(), DecodeError> {
    // RFC 4271 §6.3: lengths beyond the message are a Malformed Attribute List.
    let (_, parts) = sections(body).map_err(|_| DecodeError::MalformedSections)?;
    let Sections {
        withdrawn,
        attrs,
        nlri,
    } = parts;
    if attrs.is_empty() && nlri.is_empty() && withdrawn.is_empty() {
        // RFC 4724 §2: the empty UPDATE is the End-of-RIB of IPv4.
        end_of_rib(Family::Ipv4, ctx, batch);
        return Ok(());
    }
    if !withdrawn.is_empty() {
        withdraw(Family::Ipv4, withdrawn, ctx, batch)
            .map_err(|fault| DecodeError::InvalidNetwork { fault })?;
    }
    if attrs.is_empty() && nlri.is_empty() {
        return Ok(());
    }
    let scan = AttrScan::run(attrs, ctx, &mut batch.issues)?;
    if let Some(attr) = scan.mp_unreach {
        let alone = withdrawn.is_empty() && nlri.is_empty() && scan.others == 0;
        mp_unreach(attr, alone, ctx, batch)?;
    }
    announce(scan, nlri, ctx, batch)
}

fn end_of_rib(family: Family, ctx: &DecodeContext, batch: &mut RouteBatch) {
    if ctx.families.contains(family) {
        batch.ops.push(RouteOp::EndOfRib(family));
    }
}

/// Decodes a list of withdrawn prefixes; those of a skipped family are only checked.
fn withdraw(
    family: Family,
    bytes: &[u8],
    ctx: &DecodeContext,
    batch: &mut RouteBatch,
) -> Result<(), super::NlriFault> {
    let start = batch.nlri.len();
    decode_nlri(family, ctx.add_path.contains(family), bytes, &mut batch.nlri)?;
    if !ctx.families.contains(family) {
        batch.nlri.truncate(start);
    } else if batch.nlri.len() > start {
        batch.ops.push(RouteOp::Withdraw {
            nlri: start..batch.nlri.len(),
        });
    }
    Ok(())
}

/// MP_UNREACH_NLRI (RFC 4760 §4); empty and `alone` in its message it is an End-of-RIB (RFC 4724 §2).
fn mp_unreach(
    attr: Attr<'_>,
    alone: bool,
    ctx: &DecodeContext,
    batch: &mut RouteBatch,
) -> Result<(), DecodeError> {
    // RFC 7606 §5.3: AFI and SAFI are missing.
    let (nlri, (afi, safi)) = afi_safi(attr.value).map_err(|_| unreadable(attr))?;
    let Some(family) = Family::from_afi_safi(afi, safi).filter(|family| ctx.families.contains(*family))
    else {
        return Ok(()); // RFC 4760 §7: not negotiated, ignored
    };
    if alone && nlri.is_empty() {
        end_of_rib(family, ctx, batch);
    }
    withdraw(family, nlri, ctx, batch).map_err(|_| unreadable(attr))
}

/// MP_REACH_NLRI of a family of the session.
struct MpReach<'a> {
    family: Family,
    next_hop: NextHop,
    nlri: &'a [u8],
}

/// MP_REACH_NLRI (RFC 4760 §3); `None` for a skipped family.
fn mp_reach<'a>(attr: Attr<'a>, ctx: &DecodeContext) -> Result<Option<MpReach<'a>>, DecodeError> {
    let (rest, (afi, safi)) = afi_safi(attr.value).map_err(|_| unreadable(attr))?;
    let Some(family) = Family::from_afi_safi(afi, safi).filter(|family| ctx.families.contains(*family))
    else {
        return Ok(None); // RFC 4760 §7: not negotiated, ignored
    };
    let read = |input| -> Parsed<'a, &'a [u8]> {
        let (input, len) = octet(input)?;
        let (input, next_hop) = take(input, usize::from(len))?;
        let (input, _) = octet(input)?; // RFC 4760 §3: reserved, ignored on receipt
        Ok((input, next_hop))
    };
    let (nlri, octets) = read(rest).map_err(|_| unreadable(attr))?;
    // RFC 7606 §7.11: with an unexpected next hop length the NLRI cannot be located reliably.
    let next_hop = mp_next_hop(family, octets, ctx).ok_or_else(|| unreadable(attr))?;
    Ok(Some(MpReach {
        family,
        next_hop,
        nlri,
    }))
}

/// 4 octets for IPv4; 16 or 32 for IPv6 (RFC 2545 §3), and for IPv4 if RFC 8950 is negotiated.
fn mp_next_hop(family: Family, octets: &[u8], ctx: &DecodeContext) -> Option<NextHop> {
    if family == Family::Ipv4 && octets.len() == 4 {
        let addr: [u8; 4] = octets.try_into().ok()?;
        return Some(NextHop::V4(Ipv4Addr::from(addr)));
    }
    if family == Family::Ipv4 && !ctx.extended_next_hop.contains(family) {
        return None;
    }
    match octets.as_chunks::<16>() {
        ([global], []) => Some(NextHop::V6(Ipv6Addr::from(*global))),
        ([global, local], []) => Some(NextHop::V6Pair(Ipv6Addr::from(*global), Ipv6Addr::from(*local))),
        _ => None,
    }
}

/// RFC 4291 §2.5.6, RFC 2545 §2: only the interface identifier of a link-local address may differ from
/// fe80::.
fn is_malformed(next_hop: NextHop) -> bool {
    match next_hop {
        NextHop::V4(_) => false,
        NextHop::V6(addr) => is_malformed_link_local(addr),
        NextHop::V6Pair(global, local) => is_malformed_link_local(global) || is_malformed_link_local(local),
    }
}

fn unreadable(attr: Attr<'_>) -> DecodeError {
    DecodeError::UnreadableMp {
        code: attr.code,
        attribute: Bytes::copy_from_slice(attr.raw),
    }
}

/// The announcements of a message: ranges of the batch's prefixes.
struct Reachable {
    /// From the NLRI field.
    ipv4_nlri: Range<usize>,
    /// From MP_REACH_NLRI; behind `ipv4_nlri`, without a gap.
    mp_reach: Range<usize>,
    /// Of MP_REACH_NLRI.
    mp_next_hop: Option<NextHop>,
    /// The message has reachable NLRI, perhaps of a skipped family (RFC 7606 §5.2).
    has_routes: bool,
}

/// RFC 4271 §6.3: discards multicast prefixes and records an issue of their attribute.
fn discard_multicast(batch: &mut RouteBatch, start: usize, code: u8) {
    let added = batch.nlri.get(start..).unwrap_or_default();
    if !added.iter().any(|nlri| is_multicast(&nlri.prefix)) {
        return;
    }
    let kept = added.iter().filter(|nlri| !is_multicast(&nlri.prefix));
    let kept: Vec<_> = kept.copied().collect();
    batch.nlri.truncate(start);
    batch.nlri.extend(kept);
    batch.issues.push(AttrIssue {
        code,
        fault: AttrFault::Multicast,
        action: ErrorAction::Discard,
    });
}

/// In 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291 §2.7).
fn is_multicast(prefix: &Prefix) -> bool {
    match prefix.family() {
        Family::Ipv4 => prefix.len() >= 4 && (prefix.aligned_bits() >> 96) >> 28 == 0xE,
        Family::Ipv6 => prefix.len() >= 8 && (prefix.aligned_bits() >> 96) >> 24 == 0xFF,
    }
}

/// Decodes the NLRI field and MP_REACH_NLRI.
fn reachable(
    nlri: &[u8],
    mp_attr: Option<Attr<'_>>,
    ctx: &DecodeContext,
    batch: &mut RouteBatch,
) -> Result<Reachable, DecodeError> {
    let add_path = |family| ctx.add_path.contains(family);
    let start = batch.nlri.len();
    decode_nlri(Family::Ipv4, add_path(Family::Ipv4), nlri, &mut batch.nlri)
        .map_err(|fault| DecodeError::InvalidNetwork { fault })?;
    if !ctx.families.contains(Family::Ipv4) {
        batch.nlri.truncate(start);
    }
    discard_multicast(batch, start, NLRI);
    let middle = batch.nlri.len();
    let mut found = Reachable {
        ipv4_nlri: start..middle,
        mp_reach: middle..middle,
        mp_next_hop: None,
        has_routes: !nlri.is_empty(),
    };
    let Some(attr) = mp_attr else {
        return Ok(found);
    };
    let Some(mp) = mp_reach(attr, ctx)? else {
        found.has_routes = true;
        return Ok(found);
    };
    decode_nlri(mp.family, add_path(mp.family), mp.nlri, &mut batch.nlri).map_err(|_| unreadable(attr))?;
    discard_multicast(batch, middle, code::MP_REACH);
    found.mp_reach.end = batch.nlri.len();
    found.mp_next_hop = Some(mp.next_hop);
    found.has_routes |= !mp.nlri.is_empty();
    Ok(found)
}

/// Announces the NLRI, or withdraws it if an error action says so.
fn announce(
    mut scan: AttrScan<'_>,
    nlri: &[u8],
    ctx: &DecodeContext,
    batch: &mut RouteBatch,
) -> Result<(), DecodeError> {
    let found = reachable(nlri, scan.mp_reach, ctx, batch)?;
    // RFC 7606 §5.2: without routes in the message it may have been misread.
    if let Some((fault, attr)) = scan.offender.filter(|_| !found.has_routes && scan.others > 0) {
        let attribute = Bytes::copy_from_slice(attr.raw);
        return Err(DecodeError::AttributeWithoutRoutes {
            code: attr.code,
            fault,
            attribute,
        });
    }
    let Reachable {
        ipv4_nlri, mp_reach, ..
    } = found;
    if ipv4_nlri.is_empty() && mp_reach.is_empty() {
        return Ok(());
    }
    // RFC 7606 §3 d: mandatory attributes; NEXT_HOP only if the NLRI field is used (RFC 4760 §3).
    for code in [code::ORIGIN, code::AS_PATH, code::NEXT_HOP] {
        if !scan.has_seen(code) && (code != code::NEXT_HOP || !ipv4_nlri.is_empty()) {
            scan.withdraw = true;
            let (fault, action) = (AttrFault::Missing, ErrorAction::TreatAsWithdraw);
            batch.issues.push(AttrIssue { code, fault, action });
        }
    }
    if found.mp_next_hop.is_some_and(is_malformed) {
        // RFC 7606 §2, §7.11: the length is valid, so the prefixes are known.
        scan.withdraw = true;
        let (code, fault, action) = (code::MP_REACH, AttrFault::LinkLocal, ErrorAction::TreatAsWithdraw);
        batch.issues.push(AttrIssue { code, fault, action });
    }
    if scan.withdraw {
        let nlri = ipv4_nlri.start..mp_reach.end;
        batch.ops.push(RouteOp::Withdraw { nlri });
        return Ok(());
    }
    let mut attrs = scan.finish();
    if let Some(next_hop) = found.mp_next_hop.filter(|_| !mp_reach.is_empty()) {
        if !ipv4_nlri.is_empty() {
            let attrs = attrs.clone();
            batch.ops.push(RouteOp::Announce {
                attrs,
                nlri: ipv4_nlri,
            });
        }
        attrs.next_hop = next_hop;
        batch.ops.push(RouteOp::Announce {
            attrs,
            nlri: mp_reach,
        });
    } else {
        batch.ops.push(RouteOp::Announce {
            attrs,
            nlri: ipv4_nlri,
        });
    }
    Ok(())
}
