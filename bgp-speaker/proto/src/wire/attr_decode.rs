//! Decoding of the path attributes of an UPDATE (RFC 4271 §4.3, §5; RFC 7606 §3–§7; RFC 6793 §4.2.3).
//!
//! One pass over the list: each attribute is framed, checked for duplicates, flags, length and value, and
//! stored in the scan. Errors become issues with an error action. Only errors of MP_REACH_NLRI and
//! MP_UNREACH_NLRI end the session here; their values are decoded by `update`.
//!
//! Deviation: a message reports each pair of attribute and fault once, so that a hostile message cannot fill
//! memory.

use std::net::Ipv4Addr;

use ::bytes::Bytes;

use super::reader::{Parsed, octet, short, take};
use super::{
    Aggregator, AsPath, AttrFault, AttrIssue, Communities, DecodeContext, DecodeError, ErrorAction,
    ExtraAttrs, NextHop, Origin, PartialSet, PathAttrs, UnknownAttr, as4,
};
use crate::types::{Asn, Community, ExtCommunity, LargeCommunity, RouterId};

/// Attribute flags (RFC 4271 §4.3).
pub(super) mod flag {
    pub(crate) const OPTIONAL: u8 = 0x80;
    pub(crate) const TRANSITIVE: u8 = 0x40;
    pub(crate) const PARTIAL: u8 = 0x20;
    pub(crate) const EXTENDED_LENGTH: u8 = 0x10;
}

/// Type codes (IANA BGP Path Attributes).
pub(super) mod code {
    pub(crate) const ORIGIN: u8 = 1;
    pub(crate) const AS_PATH: u8 = 2;
    pub(crate) const NEXT_HOP: u8 = 3;
    pub(crate) const MED: u8 = 4;
    pub(crate) const LOCAL_PREF: u8 = 5;
    pub(crate) const ATOMIC_AGGREGATE: u8 = 6;
    pub(crate) const AGGREGATOR: u8 = 7;
    pub(crate) const COMMUNITIES: u8 = 8;
    pub(crate) const ORIGINATOR_ID: u8 = 9;
    pub(crate) const CLUSTER_LIST: u8 = 10;
    pub(crate) const MP_REACH: u8 = 14;
    pub(crate) const MP_UNREACH: u8 = 15;
    pub(crate) const EXT_COMMUNITIES: u8 = 16;
    pub(crate) const AS4_PATH: u8 = 17;
    pub(crate) const AS4_AGGREGATOR: u8 = 18;
    pub(crate) const LARGE_COMMUNITIES: u8 = 32;
    pub(crate) const ONLY_TO_CUSTOMER: u8 = 35;
}

/// A framed attribute.
#[derive(Clone, Copy, Default)]
pub(super) struct Attr<'a> {
    pub(super) flags: u8,
    pub(super) code: u8,
    pub(super) value: &'a [u8],
    /// With flags, code and length, as quoted in a NOTIFICATION.
    pub(super) raw: &'a [u8],
}

/// A fault and its error action.
type AttrResult = Result<(), (AttrFault, ErrorAction)>;

const WITHDRAW: ErrorAction = ErrorAction::TreatAsWithdraw;

/// A set of type codes.
#[derive(Default)]
struct Codes([u64; 4]);

impl Codes {
    /// Adds the code and returns whether it was in the set.
    fn replace(&mut self, code: u8) -> bool {
        let bit = 1u64 << (code & 63);
        let Some(word) = self.0.get_mut(usize::from(code >> 6)) else {
            return false;
        };
        let before = *word & bit != 0;
        *word |= bit;
        before
    }

    fn contains(&self, code: u8) -> bool {
        self.0
            .get(usize::from(code >> 6))
            .is_some_and(|word| word & (1u64 << (code & 63)) != 0)
    }
}

/// Contents of the attribute list of an UPDATE.
#[derive(Default)]
pub(super) struct AttrScan<'a> {
    seen: Codes,
    /// Number of attributes other than MP_UNREACH_NLRI (RFC 7606 §5.2).
    pub(super) others: usize,
    /// An attribute causes treat-as-withdraw.
    pub(super) withdraw: bool,
    /// The first attribute that causes it, except for unrecognized ones (RFC 7606 §5.2).
    pub(super) offender: Option<(AttrFault, Attr<'a>)>,
    pub(super) mp_reach: Option<Attr<'a>>,
    pub(super) mp_unreach: Option<Attr<'a>>,
    next_hop: Option<Ipv4Addr>,
    origin: Origin,
    as_path: AsPath,
    med: Option<u32>,
    local_pref: Option<u32>,
    atomic_aggregate: bool,
    communities: Communities,
    extra: Option<Box<ExtraAttrs>>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

impl<'a> AttrScan<'a> {
    /// Decodes the whole list. Issues that do not end the session are appended to `issues`.
    pub(super) fn run(
        bytes: &'a [u8],
        ctx: &DecodeContext,
        issues: &mut Vec<AttrIssue>,
    ) -> Result<Self, DecodeError> {
        let mut scan = Self::default();
        let first_issue = issues.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            let Ok((tail, attr)) = attr(rest) else {
                scan.overrun(rest, issues, first_issue)?;
                break;
            };
            rest = tail;
            scan.others += usize::from(attr.code != code::MP_UNREACH);
            if scan.seen.replace(attr.code) {
                // RFC 7606 §3 g: a duplicate MP attribute ends the session; of others the first one counts.
                if matches!(attr.code, code::MP_REACH | code::MP_UNREACH) {
                    return Err(DecodeError::DuplicateMp { code: attr.code });
                }
                scan.record_fault(
                    attr,
                    AttrFault::Duplicate,
                    ErrorAction::Discard,
                    issues,
                    first_issue,
                );
            } else if let Err((fault, action)) = scan.accept(attr, ctx) {
                scan.record_fault(attr, fault, action, issues, first_issue);
            } else if attr.flags & flag::PARTIAL != 0 {
                scan.keep_partial(attr.code);
            }
        }
        Ok(scan)
    }

    /// Whether the attribute occurred, malformed or not.
    pub(super) fn has_seen(&self, code: u8) -> bool {
        self.seen.contains(code)
    }

    /// Records a fault and its error action.
    fn record_fault(
        &mut self,
        attr: Attr<'a>,
        fault: AttrFault,
        action: ErrorAction,
        issues: &mut Vec<AttrIssue>,
        first_issue: usize,
    ) {
        if action == WITHDRAW {
            self.withdraw = true;
            if fault != AttrFault::Unrecognized && self.offender.is_none() {
                self.offender = Some((fault, attr));
            }
        }
        push_issue(
            issues,
            first_issue,
            AttrIssue {
                code: attr.code,
                fault,
                action,
            },
        );
    }

    /// The list ends inside an attribute (RFC 7606 §4): the NLRI is treated as withdrawn, unless the NLRI
    /// itself is cut off (RFC 7606 §3 j).
    fn overrun(
        &mut self,
        rest: &'a [u8],
        issues: &mut Vec<AttrIssue>,
        first_issue: usize,
    ) -> Result<(), DecodeError> {
        let (flags, code) = (
            rest.first().copied().unwrap_or(0),
            rest.get(1).copied().unwrap_or(0),
        );
        if matches!(code, code::MP_REACH | code::MP_UNREACH) {
            if self.seen.replace(code) {
                return Err(DecodeError::DuplicateMp { code });
            }
            return Err(DecodeError::UnreadableMp {
                code,
                attribute: Bytes::copy_from_slice(rest),
            });
        }
        self.others += 1;
        let attr = Attr {
            flags,
            code,
            value: &[],
            raw: rest,
        };
        self.record_fault(attr, AttrFault::Overrun, WITHDRAW, issues, first_issue);
        Ok(())
    }

    /// Checks an attribute and stores its value.
    fn accept(&mut self, attr: Attr<'a>, ctx: &DecodeContext) -> AttrResult {
        // RFC 7606 §7.5, §7.9, §7.10 and RFC 6793 §4.1: discarded without further checks.
        let misplaced = match attr.code {
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST => ctx.external,
            code::AS4_PATH | code::AS4_AGGREGATOR => ctx.four_octet_as,
            _ => false,
        };
        if misplaced {
            return Err((AttrFault::Misplaced, ErrorAction::Discard));
        }
        let Some(expected) = expected_flags(attr.code) else {
            return self.accept_unknown(attr);
        };
        match attr.code {
            // Stored even with wrong flags: withdrawing needs their prefixes.
            code::MP_REACH => self.mp_reach = Some(attr),
            code::MP_UNREACH => self.mp_unreach = Some(attr),
            _ => {}
        }
        // RFC 7606 §3 c: the Optional and Transitive flags must be as specified.
        if (attr.flags ^ expected) & (flag::OPTIONAL | flag::TRANSITIVE) != 0 {
            return Err((AttrFault::Flags, WITHDRAW));
        }
        match attr.code {
            code::MP_REACH | code::MP_UNREACH => Ok(()),
            code::ORIGIN => self.origin(attr.value),
            code::AS_PATH => self.as_path(attr.value, ctx),
            code::NEXT_HOP => number(attr.value).map(|addr| self.next_hop = Some(Ipv4Addr::from_bits(addr))),
            code::MED => number(attr.value).map(|med| self.med = Some(med)),
            code::LOCAL_PREF => number(attr.value).map(|pref| self.local_pref = Some(pref)),
            code::COMMUNITIES => {
                let communities = list(attr.value, |octets| Community(u32::from_be_bytes(octets)))?;
                self.communities = communities.collect();
                Ok(())
            }
            _ => self.accept_extra(attr, ctx),
        }
    }

    /// Stores attributes that most paths do not have.
    fn accept_extra(&mut self, attr: Attr<'a>, ctx: &DecodeContext) -> AttrResult {
        match attr.code {
            // RFC 7606 §7.6
            code::ATOMIC_AGGREGATE if attr.value.is_empty() => self.atomic_aggregate = true,
            code::ATOMIC_AGGREGATE => return Err((AttrFault::Length, ErrorAction::Discard)),
            code::AGGREGATOR => {
                let aggregator = aggregator(attr.value, ctx.four_octet_as)?;
                self.extra().aggregator = Some(aggregator);
            }
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(aggregator(attr.value, true)?),
            code::AS4_PATH => self.as4_path = Some(as4_path(attr.value)?),
            // RFC 7606 §7.9; RFC 4456 §8: a BGP identifier, which is never 0 (RFC 6286 §2.1).
            code::ORIGINATOR_ID => {
                let id = RouterId::new(number(attr.value)?).ok_or((AttrFault::ZeroIdentifier, WITHDRAW))?;
                self.extra().originator_id = Some(id);
            }
            // RFC 7606 §7.10
            code::CLUSTER_LIST => self.extra().cluster_list = list(attr.value, u32::from_be_bytes)?.collect(),
            // RFC 7606 §7.14
            code::EXT_COMMUNITIES => {
                let communities = list(attr.value, |octets| ExtCommunity(u64::from_be_bytes(octets)))?;
                self.extra().ext_communities = communities.collect();
            }
            // RFC 9234 §5: any other length causes treat-as-withdraw.
            code::ONLY_TO_CUSTOMER => self.extra().only_to_customer = Some(Asn(number(attr.value)?)),
            code::LARGE_COMMUNITIES => self.extra().large_communities = large_communities(attr.value)?,
            _ => {}
        }
        Ok(())
    }

    /// RFC 4271 §5: an unknown optional transitive attribute is stored, a non-transitive one is ignored, and
    /// one flagged as well-known causes treat-as-withdraw.
    fn accept_unknown(&mut self, attr: Attr<'a>) -> AttrResult {
        if attr.flags & flag::OPTIONAL == 0 {
            return Err((AttrFault::Unrecognized, WITHDRAW));
        }
        if attr.flags & flag::TRANSITIVE != 0 {
            let flags = attr.flags & (flag::OPTIONAL | flag::TRANSITIVE | flag::PARTIAL);
            let kept = UnknownAttr {
                flags,
                code: attr.code,
                value: attr.value.into(),
            };
            let unknown = &mut self.extra().unknown;
            let at = unknown.partition_point(|other| other.code < kept.code);
            unknown.insert(at, kept);
        }
        Ok(())
    }

    /// RFC 4271 §5: the Partial flag stays set when the attribute is sent on.
    fn keep_partial(&mut self, code: u8) {
        let mut partial = self
            .extra
            .as_ref()
            .map_or_else(PartialSet::default, |extra| extra.partial);
        partial.insert(code);
        if partial != PartialSet::default() {
            self.extra().partial = partial;
        }
    }

    fn extra(&mut self) -> &mut ExtraAttrs {
        self.extra.get_or_insert_default()
    }

    /// RFC 7606 §7.1
    fn origin(&mut self, value: &[u8]) -> AttrResult {
        self.origin = match value {
            [0] => Origin::Igp,
            [1] => Origin::Egp,
            [2] => Origin::Incomplete,
            [_] => return Err((AttrFault::Origin, WITHDRAW)),
            _ => return Err((AttrFault::Length, WITHDRAW)),
        };
        Ok(())
    }

    /// RFC 7606 §7.2
    fn as_path(&mut self, value: &[u8], ctx: &DecodeContext) -> AttrResult {
        let path = if ctx.four_octet_as {
            AsPath::from_wire4(value)
        } else {
            AsPath::from_wire2(value)
        };
        let path = path.map_err(|_| (AttrFault::Segments, WITHDRAW))?;
        let segment_flags = path.segment_flags();
        // RFC 5065 §5: malformed from a peer outside our confederation; confederations are not supported, so
        // that is every peer. On iBGP, the border speaker should have rejected (§5) or stripped (§4.1) these
        // segments; stored, they would be sent to other ASes, which is not allowed.
        if segment_flags.confederation {
            return Err((AttrFault::Confederation, WITHDRAW));
        }
        // RFC 7607 §2
        if segment_flags.zero {
            return Err((AttrFault::ZeroAs, WITHDRAW));
        }
        self.as_path = path;
        Ok(())
    }

    /// The attributes of announced routes, if nothing causes treat-as-withdraw. The next hop is that of
    /// NEXT_HOP; the caller sets that of MP_REACH_NLRI.
    pub(super) fn finish(self) -> PathAttrs {
        let mut attrs = PathAttrs {
            origin: self.origin,
            atomic_aggregate: self.atomic_aggregate,
            next_hop: NextHop::V4(self.next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED)),
            med: self.med,
            local_pref: self.local_pref,
            as_path: self.as_path,
            communities: self.communities,
            extra: self.extra,
        };
        if self.as4_path.is_some() || self.as4_aggregator.is_some() {
            as4::merge(&mut attrs, self.as4_path, self.as4_aggregator);
        }
        attrs
    }
}

fn attr(input: &[u8]) -> Parsed<'_, Attr<'_>> {
    let (rest, flags) = octet(input)?;
    let (rest, code) = octet(rest)?;
    let (rest, len) = if flags & flag::EXTENDED_LENGTH == 0 {
        let (rest, len) = octet(rest)?;
        (rest, usize::from(len))
    } else {
        let (rest, len) = short(rest)?;
        (rest, usize::from(len))
    };
    let (rest, value) = take(rest, len)?;
    let raw = input.get(..input.len() - rest.len()).unwrap_or_default();
    Ok((
        rest,
        Attr {
            flags,
            code,
            value,
            raw,
        },
    ))
}

/// Appends an issue unless the message has an equal one.
fn push_issue(issues: &mut Vec<AttrIssue>, first: usize, issue: AttrIssue) {
    if !issues.get(first..).unwrap_or_default().contains(&issue) {
        issues.push(issue);
    }
}

/// The specified Optional and Transitive flags; `None` for unknown attributes.
fn expected_flags(code: u8) -> Option<u8> {
    match code {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            Some(flag::TRANSITIVE)
        }
        code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::MP_REACH | code::MP_UNREACH => {
            Some(flag::OPTIONAL)
        }
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXT_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITIES
        | code::ONLY_TO_CUSTOMER => Some(flag::OPTIONAL | flag::TRANSITIVE),
        _ => None,
    }
}

/// Exactly four octets (RFC 7606 §7.3, §7.4, §7.5, §7.9).
fn number(value: &[u8]) -> Result<u32, (AttrFault, ErrorAction)> {
    value
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| (AttrFault::Length, WITHDRAW))
}

/// Items of N octets, at least one (RFC 7606 §7.8, §7.10, §7.14).
fn list<const N: usize, T>(
    value: &[u8],
    item: impl Fn([u8; N]) -> T,
) -> Result<impl Iterator<Item = T>, (AttrFault, ErrorAction)> {
    match value.as_chunks::<N>() {
        (items @ [_, ..], []) => Ok(items.iter().map(move |octets| item(*octets))),
        _ => Err((AttrFault::Length, WITHDRAW)),
    }
}

/// RFC 7606 §7.7, RFC 6793 §6, RFC 7607 §2: a malformed AGGREGATOR is discarded.
fn aggregator(value: &[u8], four_octet_as: bool) -> Result<Aggregator, (AttrFault, ErrorAction)> {
    let (asn, id) = match (value, four_octet_as) {
        ([a, b, c, d, id @ ..], true) if id.len() == 4 => (u32::from_be_bytes([*a, *b, *c, *d]), id),
        ([a, b, id @ ..], false) if id.len() == 4 => (u32::from(u16::from_be_bytes([*a, *b])), id),
        _ => return Err((AttrFault::Length, ErrorAction::Discard)),
    };
    if asn == 0 {
        return Err((AttrFault::ZeroAs, ErrorAction::Discard));
    }
    Ok(Aggregator {
        asn: Asn(asn),
        id: Ipv4Addr::from_bits(number(id)?),
    })
}

/// RFC 6793 §6, RFC 7607 §2: a malformed AS4_PATH is discarded; confederation segments are removed.
fn as4_path(value: &[u8]) -> Result<AsPath, (AttrFault, ErrorAction)> {
    let path = AsPath::from_wire4(value).ok().filter(|path| !path.is_empty());
    let path = path.ok_or((AttrFault::Segments, ErrorAction::Discard))?;
    let segment_flags = path.segment_flags();
    if segment_flags.zero {
        return Err((AttrFault::ZeroAs, ErrorAction::Discard));
    }
    Ok(if segment_flags.confederation {
        path.without_confederation()
    } else {
        path
    })
}

/// RFC 8092 §5, §3: multiples of 12 octets; duplicates are removed silently.
fn large_communities(value: &[u8]) -> Result<Vec<LargeCommunity>, (AttrFault, ErrorAction)> {
    let word = |a, b, c, d| u32::from_be_bytes([a, b, c, d]);
    let all = list(value, |[a, b, c, d, e, f, g, h, i, j, k, l]: [u8; 12]| {
        LargeCommunity(word(a, b, c, d), word(e, f, g, h), word(i, j, k, l))
    })?;
    let mut seen = std::collections::BTreeSet::new();
    Ok(all
        .into_iter()
        .filter(|community| seen.insert(*community))
        .collect())
}
