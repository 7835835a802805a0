//! 4-octet AS numbers through 2-octet speakers (RFC 6793 §4.2).
//!
//! A 2-octet speaker sees AS_TRANS in AS_PATH and AGGREGATOR and forwards the real numbers in AS4_PATH and
//! AS4_AGGREGATOR. This module merges both.

use super::{Aggregator, AsPath, PathAttrs, SegmentKind};
use crate::types::Asn;

/// Merges AS4_PATH and AS4_AGGREGATOR into the attributes (RFC 6793 §4.2.3).
pub(super) fn merge(attrs: &mut PathAttrs, as4_path: Option<AsPath>, as4_aggregator: Option<Aggregator>) {
    let aggregator = attrs
        .extra
        .as_deref_mut()
        .and_then(|extra| extra.aggregator.as_mut());
    if let Some(aggregator) = aggregator {
        // RFC 6793 §4.2.3: another AS aggregated since then, so both attributes are stale.
        if aggregator.asn != Asn::TRANS && as4_aggregator.is_some() {
            return;
        }
        if let Some(actual) = as4_aggregator {
            *aggregator = actual;
        }
    }
    if let Some(as4_path) = as4_path {
        attrs.as_path = merge_paths(&attrs.as_path, &as4_path);
    }
}

/// The numbers of AS4_PATH, preceded by those that only AS_PATH has (RFC 6793 §4.2.3).
pub(super) fn merge_paths(as_path: &AsPath, as4_path: &AsPath) -> AsPath {
    // RFC 6793 §4.2.3: a longer AS4_PATH is ignored.
    let Some(mut missing) = as_path.hops().checked_sub(as4_path.hops()) else {
        return as_path.clone();
    };
    let mut wire = Vec::with_capacity(as_path.wire4().len());
    for (kind, asns) in as_path.segments() {
        let asns: Vec<Asn> = asns.collect();
        let take = match kind {
            // Confederation segments do not count; they are copied while they lead or adjoin copied segments.
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet => asns.len(),
            SegmentKind::Set if missing > 0 => {
                missing -= 1;
                asns.len()
            }
            SegmentKind::Sequence if missing > 0 => {
                let take = asns.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
                missing -= u32::try_from(take).unwrap_or(missing);
                take
            }
            SegmentKind::Set | SegmentKind::Sequence => break,
        };
        push_segment(&mut wire, kind, asns.get(..take).unwrap_or_default());
        if take < asns.len() {
            break;
        }
    }
    join(&mut wire, as4_path.wire4());
    AsPath::from_wire4(&wire).unwrap_or_else(|_| as_path.clone())
}

fn push_segment(wire: &mut Vec<u8>, kind: SegmentKind, asns: &[Asn]) {
    wire.push(kind.code());
    wire.push(u8::try_from(asns.len()).unwrap_or(u8::MAX));
    asns.iter()
        .for_each(|asn| wire.extend_from_slice(&asn.0.to_be_bytes()));
}

/// Appends a path; two adjoining AS_SEQUENCEs are joined if the result fits.
fn join(wire: &mut Vec<u8>, tail: &[u8]) {
    let joined = match (last_sequence(wire), tail) {
        (Some((at, have)), [2, more, ..]) => have.checked_add(*more).map(|count| (at, count)),
        _ => None,
    };
    match joined {
        Some((at, count)) => {
            if let Some(place) = wire.get_mut(at + 1) {
                *place = count;
            }
            wire.extend(tail.iter().skip(2));
        }
        None => wire.extend_from_slice(tail),
    }
}

/// Position and count of the last segment if it is an AS_SEQUENCE.
fn last_sequence(wire: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    loop {
        let (&[kind, count], _) = wire.get(at..)?.split_first_chunk()?;
        let next = at + 2 + 4 * usize::from(count);
        if next >= wire.len() {
            return (kind == SegmentKind::Sequence.code()).then_some((at, count));
        }
        at = next;
    }
}
