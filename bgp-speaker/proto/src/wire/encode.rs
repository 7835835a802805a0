//! Encoding of UPDATE (RFC 4271 §4.3): attributes are encoded once, prefixes are packed to the message size.
//!
//! MP_REACH_NLRI comes first (RFC 7606 §5.1), other attributes follow in ascending order of type (RFC 4271
//! §5). IPv4 prefixes with an IPv4 next hop use the NLRI field, with an IPv6 next hop MP_REACH_NLRI (RFC
//! 8950). A peer without 4-octet AS numbers is sent AS_TRANS, and the real numbers in AS4_PATH and
//! AS4_AGGREGATOR (RFC 6793).

use ::bytes::{BufMut, BytesMut};

use super::attr_decode::{code, flag};
use super::frame::MARKER;
use super::{
    Aggregator, AsPath, ExtraAttrs, MessageKind, NextHop, Nlri, PathAttrs, UnknownAttr, encode_nlri, nlri_len,
};
use crate::types::{Asn, Family, FamilySet, without_scope};

/// Negotiated parameters of encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EncodeContext {
    /// AS numbers have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// Families in which path identifiers are sent (RFC 7911).
    pub add_path: FamilySet,
    /// Longest message: 4096 or 65535 octets (RFC 8654).
    pub max_len: usize,
    /// The peer is in our AS: LOCAL_PREF is sent (RFC 4271 §5.1.5).
    pub internal: bool,
}

/// The attributes leave no space for a prefix in a message; nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the path attributes do not fit into a message")]
pub struct AttributesTooLarge;

/// Header, length of withdrawn routes, length of attributes.
const UPDATE_FIXED: usize = 19 + 2 + 2;
/// Attribute header with extended length, AFI, SAFI, length of the next hop, reserved.
const MP_REACH_FIXED: usize = 4 + 2 + 1 + 1 + 1;
/// Attribute header with extended length, AFI, SAFI.
const MP_UNREACH_FIXED: usize = 4 + 2 + 1;
/// Unicast (RFC 4760 §6).
const UNICAST: u8 = 1;

/// Appends as few UPDATEs as possible that announce the prefixes, all of `family`; returns their number. An
/// IPv6 prefix with an IPv4 next hop gets the IPv4-mapped address, the only well-formed encoding.
///
/// # Errors
/// [`AttributesTooLarge`], with nothing written.
pub fn encode_announce(
    out: &mut BytesMut,
    context: &EncodeContext,
    family: Family,
    attrs: &PathAttrs,
    nlri: &[Nlri],
) -> Result<u32, AttributesTooLarge> {
    let ipv4_nlri = family == Family::Ipv4 && matches!(attrs.next_hop, NextHop::V4(_));
    let mut block = Vec::with_capacity(128);
    encode_attrs(&mut block, context, attrs, ipv4_nlri);
    let next_hop = if ipv4_nlri {
        NextHopOctets::default()
    } else {
        NextHopOctets::of(family, attrs.next_hop)
    };
    let fixed = UPDATE_FIXED
        + block.len()
        + if ipv4_nlri {
            0
        } else {
            MP_REACH_FIXED + next_hop.as_slice().len()
        };
    let add_path = context.add_path.contains(family);
    let longest = nlri
        .iter()
        .map(|nlri| nlri_len(nlri, add_path))
        .max()
        .unwrap_or(0);
    let room = context
        .max_len
        .checked_sub(fixed)
        .filter(|room| *room >= longest)
        .ok_or(AttributesTooLarge)?;
    let mut messages = 0;
    for run in runs(nlri, room, add_path) {
        if ipv4_nlri {
            put_ipv4_update(out, &block, run, add_path);
        } else {
            put_mp_reach(out, &block, next_hop.as_slice(), family, run, add_path);
        }
        messages += 1;
    }
    Ok(messages)
}

/// Attributes as stored in MRT dumps: with 4-octet AS numbers and LOCAL_PREF, and MP_REACH_NLRI reduced to
/// the next hop (RFC 6396 §4.3.4).
#[must_use]
pub fn encode_stored(family: Family, attrs: &PathAttrs) -> Vec<u8> {
    let context = EncodeContext {
        four_octet_as: true,
        add_path: FamilySet::EMPTY,
        max_len: usize::MAX,
        internal: true,
    };
    let ipv4_nlri = family == Family::Ipv4 && matches!(attrs.next_hop, NextHop::V4(_));
    let mut out = Vec::with_capacity(128);
    if !ipv4_nlri {
        let next_hop = NextHopOctets::of(family, attrs.next_hop);
        let octets = next_hop.as_slice();
        let value: Vec<u8> = [u8::try_from(octets.len()).unwrap_or(0)]
            .iter()
            .chain(octets)
            .copied()
            .collect();
        attr(&mut out, flag::OPTIONAL, code::MP_REACH, &value);
    }
    encode_attrs(&mut out, &context, attrs, ipv4_nlri);
    out
}

/// Appends UPDATEs that withdraw the prefixes, all of `family`; returns their number.
pub fn encode_withdraw(out: &mut BytesMut, context: &EncodeContext, family: Family, nlri: &[Nlri]) -> u32 {
    let add_path = context.add_path.contains(family);
    let fixed = UPDATE_FIXED
        + if family == Family::Ipv4 {
            0
        } else {
            MP_UNREACH_FIXED
        };
    let mut messages = 0;
    for run in runs(nlri, context.max_len.saturating_sub(fixed), add_path) {
        message(out, |out| match family {
            Family::Ipv4 => {
                out.put_u16(length(octets(run, add_path)));
                run.iter().for_each(|nlri| encode_nlri(out, nlri, add_path));
                out.put_u16(0);
            }
            Family::Ipv6 => put_mp_unreach(out, family, run, add_path),
        });
        messages += 1;
    }
    messages
}

/// Appends End-of-RIB (RFC 4724 §2): an empty UPDATE, or one with an empty MP_UNREACH_NLRI.
pub fn encode_end_of_rib(out: &mut BytesMut, family: Family) {
    message(out, |out| match family {
        Family::Ipv4 => out.put_u32(0),
        Family::Ipv6 => put_mp_unreach(out, family, &[], false),
    });
}

/// A next hop of MP_REACH_NLRI: 4, 16 or 32 octets.
#[derive(Default)]
struct NextHopOctets {
    octets: [u8; 32],
    len: usize,
}

impl NextHopOctets {
    fn of(family: Family, next_hop: NextHop) -> Self {
        let mut this = Self::default();
        match next_hop {
            // RFC 7606 §7.11: four octets would end the session of an IPv6 family.
            NextHop::V4(addr) if family == Family::Ipv6 => this.push(&addr.to_ipv6_mapped().octets()),
            NextHop::V4(addr) => this.push(&addr.octets()),
            // The interface of a link-local address is local and not sent.
            NextHop::V6(addr) => this.push(&without_scope(addr).octets()),
            NextHop::V6Pair(global, link_local) => {
                this.push(&global.octets());
                this.push(&link_local.octets());
            }
        }
        this
    }

    fn push(&mut self, octets: &[u8]) {
        self.octets
            .iter_mut()
            .skip(self.len)
            .zip(octets)
            .for_each(|(place, octet)| *place = *octet);
        self.len += octets.len();
    }

    fn as_slice(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// Splits prefixes into runs of at most `room` octets, at least one prefix each.
fn runs(nlri: &[Nlri], room: usize, add_path: bool) -> impl Iterator<Item = &[Nlri]> {
    let mut rest = nlri;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fits = rest.iter().take_while(|nlri| {
            used += nlri_len(nlri, add_path);
            used <= room
        });
        let (run, tail) = rest.split_at_checked(fits.count().max(1))?;
        rest = tail;
        Some(run)
    })
}

fn octets(run: &[Nlri], add_path: bool) -> usize {
    run.iter().map(|nlri| nlri_len(nlri, add_path)).sum()
}

/// Lengths are below 65536 because messages are.
fn length(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

/// Appends an UPDATE and fills in its length.
fn message(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_slice(&MARKER);
    out.put_u16(0);
    out.put_u8(MessageKind::Update.code());
    body(out);
    let total = length(out.len() - start).to_be_bytes();
    if let Some(place) = out.get_mut(start + MARKER.len()..start + MARKER.len() + 2) {
        place.copy_from_slice(&total);
    }
}

fn put_ipv4_update(out: &mut BytesMut, block: &[u8], run: &[Nlri], add_path: bool) {
    message(out, |out| {
        out.put_u16(0);
        out.put_u16(length(block.len()));
        out.put_slice(block);
        run.iter().for_each(|nlri| encode_nlri(out, nlri, add_path));
    });
}

/// MP_REACH_NLRI (RFC 4760 §3).
fn put_mp_reach(
    out: &mut BytesMut,
    block: &[u8],
    next_hop: &[u8],
    family: Family,
    run: &[Nlri],
    add_path: bool,
) {
    let value = MP_REACH_FIXED - 4 + next_hop.len() + octets(run, add_path);
    message(out, |out| {
        out.put_u16(0);
        out.put_u16(length(4 + value + block.len()));
        out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, code::MP_REACH]);
        out.put_u16(length(value));
        out.put_u16(family.afi());
        out.put_u8(UNICAST);
        out.put_u8(u8::try_from(next_hop.len()).unwrap_or(0));
        out.put_slice(next_hop);
        out.put_u8(0);
        run.iter().for_each(|nlri| encode_nlri(out, nlri, add_path));
        out.put_slice(block);
    });
}

/// MP_UNREACH_NLRI (RFC 4760 §4).
fn put_mp_unreach(out: &mut BytesMut, family: Family, run: &[Nlri], add_path: bool) {
    let value = MP_UNREACH_FIXED - 4 + octets(run, add_path);
    out.put_u16(0);
    out.put_u16(length(4 + value));
    out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, code::MP_UNREACH]);
    out.put_u16(length(value));
    out.put_u16(family.afi());
    out.put_u8(UNICAST);
    run.iter().for_each(|nlri| encode_nlri(out, nlri, add_path));
}

const WELL_KNOWN: u8 = flag::TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

/// All attributes except MP_REACH_NLRI, in ascending order of type.
fn encode_attrs(out: &mut Vec<u8>, context: &EncodeContext, attrs: &PathAttrs, ipv4_nlri: bool) {
    let extra = attrs.extra.as_deref();
    attr(out, WELL_KNOWN, code::ORIGIN, &[attrs.origin as u8]);
    let as4_path = encode_as_path(out, context, attrs);
    if let (true, NextHop::V4(addr)) = (ipv4_nlri, attrs.next_hop) {
        attr(out, WELL_KNOWN, code::NEXT_HOP, &addr.octets());
    }
    if let Some(med) = attrs.med {
        attr(out, flag::OPTIONAL, code::MED, &med.to_be_bytes());
    }
    if let Some(preference) = attrs.local_pref.filter(|_| context.internal) {
        attr(out, WELL_KNOWN, code::LOCAL_PREF, &preference.to_be_bytes());
    }
    if attrs.atomic_aggregate {
        attr(out, WELL_KNOWN, code::ATOMIC_AGGREGATE, &[]);
    }
    if let Some((extra, aggregator)) = extra.and_then(|extra| Some((extra, extra.aggregator?))) {
        let value = aggregator_value(aggregator, context.four_octet_as);
        attr(
            out,
            transit_flags(extra, code::AGGREGATOR),
            code::AGGREGATOR,
            &value,
        );
    }
    let flags = extra.map_or(OPTIONAL_TRANSITIVE, |extra| {
        transit_flags(extra, code::COMMUNITIES)
    });
    let items = attrs.communities.iter().map(|item| item.0.to_be_bytes());
    list(out, flags, code::COMMUNITIES, items);
    let as4_path = as4_path.then(|| attrs.as_path.without_confederation());
    match extra {
        Some(extra) => encode_extra(out, context, extra, as4_path),
        None => encode_as4_path(out, as4_path),
    }
}

/// Flags of a known optional transitive attribute. RFC 4271 §5: Partial stays set.
fn transit_flags(extra: &ExtraAttrs, code: u8) -> u8 {
    match extra.partial.contains(code) {
        true => OPTIONAL_TRANSITIVE | flag::PARTIAL,
        false => OPTIONAL_TRANSITIVE,
    }
}

/// Encodes AS_PATH; returns whether AS4_PATH is needed (RFC 6793 §4.2.2).
fn encode_as_path(out: &mut Vec<u8>, context: &EncodeContext, attrs: &PathAttrs) -> bool {
    if context.four_octet_as {
        attr(out, WELL_KNOWN, code::AS_PATH, attrs.as_path.wire4());
        return false;
    }
    let mut narrow = Vec::with_capacity(attrs.as_path.wire4().len());
    let lossy = attrs.as_path.write_wire2(&mut narrow);
    attr(out, WELL_KNOWN, code::AS_PATH, &narrow);
    lossy
}

/// Encodes AS4_PATH. RFC 6793 §4.2.2: never empty, and without confederation segments.
fn encode_as4_path(out: &mut Vec<u8>, path: Option<AsPath>) {
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        attr(out, OPTIONAL_TRANSITIVE, code::AS4_PATH, path.wire4());
    }
}

/// Encodes the attributes after COMMUNITIES, AS4_PATH included.
fn encode_extra(out: &mut Vec<u8>, context: &EncodeContext, extra: &ExtraAttrs, as4_path: Option<AsPath>) {
    // RFC 4456 §8: non-transitive attributes, not sent outside the AS.
    if context.internal {
        if let Some(id) = extra.originator_id {
            attr(out, flag::OPTIONAL, code::ORIGINATOR_ID, &id.get().to_be_bytes());
        }
        let ids = extra.cluster_list.iter().map(|id| id.to_be_bytes());
        list(out, flag::OPTIONAL, code::CLUSTER_LIST, ids);
    }
    let later = encode_unknown(out, &extra.unknown, code::EXT_COMMUNITIES);
    let items = extra.ext_communities.iter().map(|item| item.0.to_be_bytes());
    list(
        out,
        transit_flags(extra, code::EXT_COMMUNITIES),
        code::EXT_COMMUNITIES,
        items,
    );
    encode_as4_path(out, as4_path);
    // RFC 6793 §4.2.2: the number replaced by AS_TRANS in AGGREGATOR.
    let hidden = extra
        .aggregator
        .filter(|aggregator| !context.four_octet_as && aggregator.asn.0 > 0xFFFF);
    if let Some(aggregator) = hidden {
        attr(
            out,
            OPTIONAL_TRANSITIVE,
            code::AS4_AGGREGATOR,
            &aggregator_value(aggregator, true),
        );
    }
    let later = encode_unknown(out, later, code::LARGE_COMMUNITIES);
    let items = extra.large_communities.iter().map(|item| {
        let mut octets = [0; 12];
        let fields = [item.0, item.1, item.2].map(u32::to_be_bytes);
        octets.as_chunks_mut::<4>().0.copy_from_slice(&fields);
        octets
    });
    list(
        out,
        transit_flags(extra, code::LARGE_COMMUNITIES),
        code::LARGE_COMMUNITIES,
        items,
    );
    let later = encode_unknown(out, later, code::ONLY_TO_CUSTOMER);
    if let Some(asn) = extra.only_to_customer {
        let flags = transit_flags(extra, code::ONLY_TO_CUSTOMER);
        attr(out, flags, code::ONLY_TO_CUSTOMER, &asn.0.to_be_bytes());
    }
    encode_unknown(out, later, u8::MAX);
}

/// Encodes unknown attributes up to the type code and returns the rest. RFC 4271 §5: only transitive ones are
/// sent on, with Partial set.
fn encode_unknown<'a>(out: &mut Vec<u8>, unknown: &'a [UnknownAttr], last: u8) -> &'a [UnknownAttr] {
    let count = unknown.iter().take_while(|unknown| unknown.code <= last).count();
    let (now, later) = unknown.split_at_checked(count).unwrap_or_default();
    for unknown in now.iter().filter(|unknown| unknown.flags & flag::TRANSITIVE != 0) {
        attr(
            out,
            OPTIONAL_TRANSITIVE | flag::PARTIAL,
            unknown.code,
            &unknown.value,
        );
    }
    later
}

fn aggregator_value(aggregator: Aggregator, four_octet_as: bool) -> Vec<u8> {
    let Aggregator { asn: Asn(number), id } = aggregator;
    let mut value = if four_octet_as {
        number.to_be_bytes().to_vec()
    } else {
        aggregator.asn.to_two_octets().to_be_bytes().to_vec()
    };
    value.extend_from_slice(&id.octets());
    value
}

/// Encodes an attribute; the length takes two octets only if necessary.
fn attr(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    header(out, flags, code, value.len());
    out.extend_from_slice(value);
}

fn header(out: &mut Vec<u8>, flags: u8, code: u8, len: usize) {
    match u8::try_from(len) {
        Ok(len) => out.extend_from_slice(&[flags, code, len]),
        Err(_) => {
            out.extend_from_slice(&[flags | flag::EXTENDED_LENGTH, code]);
            out.extend_from_slice(&length(len).to_be_bytes());
        }
    }
}

/// Encodes an attribute of items of N octets; nothing without items.
fn list<const N: usize>(
    out: &mut Vec<u8>,
    flags: u8,
    code: u8,
    items: impl ExactSizeIterator<Item = [u8; N]>,
) {
    if items.len() > 0 {
        header(out, flags, code, items.len() * N);
        items.for_each(|item| out.extend_from_slice(&item));
    }
}
