//! AS_PATH (RFC 4271 §5.1.2, RFC 5065 segments, RFC 6793) in its 4-octet wire form.
//!
//! A path is one run of octets, in the form that is sent to 4-octet peers. Only validated bytes are stored,
//! so that iteration never fails: each segment is type (1–4), count (1–255), count × 4 octets.

use std::fmt;

use super::inline_bytes::InlineBytes;
use crate::types::Asn;

/// Kind of a path segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// AS_SET (1): counts as one hop.
    Set,
    /// AS_SEQUENCE (2): each number counts as one hop.
    Sequence,
    /// AS_CONFED_SEQUENCE (3): does not count (RFC 5065 §5.3).
    ConfedSequence,
    /// AS_CONFED_SET (4): does not count.
    ConfedSet,
}

impl SegmentKind {
    /// The type octet, 1–4.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
            SegmentKind::ConfedSequence => 3,
            SegmentKind::ConfedSet => 4,
        }
    }
}

/// Contents of a path that are errors in some contexts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SegmentFlags {
    /// Contains AS number 0 (RFC 7607).
    pub(super) zero: bool,
    /// Contains confederation segments (RFC 5065).
    pub(super) confederation: bool,
}

/// An AS path. Empty for routes of our own AS.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AsPath(InlineBytes);

/// The bytes are not an AS path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedAsPath;

fn kind_of(code: u8) -> Option<SegmentKind> {
    match code {
        1 => Some(SegmentKind::Set),
        2 => Some(SegmentKind::Sequence),
        3 => Some(SegmentKind::ConfedSequence),
        4 => Some(SegmentKind::ConfedSet),
        _ => None,
    }
}

/// Splits off the first segment: kind, its numbers, the rest.
fn split_segment(bytes: &[u8], width: usize) -> Option<(SegmentKind, &[u8], &[u8])> {
    let (&[kind, count], rest) = bytes.split_first_chunk::<2>()?;
    let (numbers, rest) = rest.split_at_checked(usize::from(count) * width)?;
    (count > 0).then_some((kind_of(kind)?, numbers, rest))
}

impl AsPath {
    /// Decodes wire bytes with 4-octet numbers (RFC 6793).
    ///
    /// # Errors
    /// [`MalformedAsPath`] for an unknown segment type, an empty segment or a count beyond the bytes (RFC
    /// 7606 §7.2: treat-as-withdraw).
    pub fn from_wire4(bytes: &[u8]) -> Result<Self, MalformedAsPath> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, _, rest) = split_segment(rest, 4).ok_or(MalformedAsPath)?;
        }
        Ok(Self(bytes.into()))
    }

    /// Decodes wire bytes with 2-octet numbers, as sent by a speaker without RFC 6793.
    ///
    /// # Errors
    /// As [`AsPath::from_wire4`].
    pub fn from_wire2(bytes: &[u8]) -> Result<Self, MalformedAsPath> {
        let mut wide = Vec::with_capacity(bytes.len() * 2);
        let mut rest = bytes;
        while let (Some(&kind), Some(&count)) = (rest.first(), rest.get(1)) {
            let (_, numbers, tail) = split_segment(rest, 2).ok_or(MalformedAsPath)?;
            wide.extend_from_slice(&[kind, count]);
            for number in numbers.as_chunks::<2>().0 {
                wide.extend_from_slice(&u32::from(u16::from_be_bytes(*number)).to_be_bytes());
            }
            rest = tail;
        }
        if rest.is_empty() {
            Ok(Self(wide.into()))
        } else {
            Err(MalformedAsPath)
        }
    }

    /// Octets that the path allocates on the heap.
    pub(crate) fn heap_octets(&self) -> usize {
        self.0.heap_octets()
    }

    /// Looks for AS 0 and confederation segments.
    pub(super) fn segment_flags(&self) -> SegmentFlags {
        let mut segment_flags = SegmentFlags::default();
        let mut rest: &[u8] = &self.0;
        while let Some((kind, numbers, tail)) = split_segment(rest, 4) {
            segment_flags.zero |= numbers.as_chunks::<4>().0.contains(&[0; 4]);
            segment_flags.confederation |=
                matches!(kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet);
            rest = tail;
        }
        segment_flags
    }

    /// The path without its confederation segments (RFC 6793 §4.2.2, §6).
    pub(super) fn without_confederation(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len());
        let mut rest: &[u8] = &self.0;
        while let Some((kind, _, tail)) = split_segment(rest, 4) {
            if matches!(kind, SegmentKind::Set | SegmentKind::Sequence) {
                bytes.extend(rest.iter().take(rest.len() - tail.len()));
            }
            rest = tail;
        }
        Self(bytes.into())
    }

    /// The wire bytes for a 4-octet peer.
    #[must_use]
    pub fn wire4(&self) -> &[u8] {
        &self.0
    }

    /// Appends the wire bytes for a 2-octet peer, with AS_TRANS for numbers that do not fit; returns whether
    /// there was one.
    pub fn write_wire2(&self, out: &mut Vec<u8>) -> bool {
        let mut lossy = false;
        let mut rest: &[u8] = &self.0;
        while let Some((_, numbers, tail)) = split_segment(rest, 4) {
            out.extend(rest.iter().take(2));
            for number in numbers.as_chunks::<4>().0 {
                let asn = Asn(u32::from_be_bytes(*number));
                lossy |= asn.0 > 0xFFFF;
                out.extend_from_slice(&asn.to_two_octets().to_be_bytes());
            }
            rest = tail;
        }
        lossy
    }

    /// The segments, nearest AS first.
    pub fn segments(&self) -> impl Iterator<Item = (SegmentKind, impl Iterator<Item = Asn>)> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (kind, numbers, tail) = split_segment(rest, 4)?;
            rest = tail;
            Some((
                kind,
                numbers
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|number| Asn(u32::from_be_bytes(*number))),
            ))
        })
    }

    /// All numbers of the path, nearest first.
    pub fn asns(&self) -> impl Iterator<Item = Asn> {
        self.segments().flat_map(|(_, asns)| asns)
    }

    /// Length in the decision process (RFC 4271 §9.1.2.2 a, RFC 5065 §5.3).
    #[must_use]
    pub fn hops(&self) -> u32 {
        self.segments()
            .map(|(kind, asns)| match kind {
                SegmentKind::Set => 1,
                SegmentKind::Sequence => u32::try_from(asns.count()).unwrap_or(u32::MAX),
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .fold(0, u32::saturating_add)
    }

    /// How often the number occurs (loop detection, RFC 4271 §9.1.2).
    #[must_use]
    pub fn count(&self, asn: Asn) -> usize {
        self.asns().filter(|found| *found == asn).count()
    }

    /// The neighbor AS: the first number of a leading AS_SEQUENCE.
    #[must_use]
    pub fn neighbor(&self) -> Option<Asn> {
        let (kind, mut asns) = self.segments().next()?;
        (kind == SegmentKind::Sequence).then(|| asns.next()).flatten()
    }

    /// The origin AS: the last number of a trailing AS_SEQUENCE.
    #[must_use]
    pub fn origin(&self) -> Option<Asn> {
        let (kind, asns) = self.segments().last()?;
        (kind == SegmentKind::Sequence).then(|| asns.last()).flatten()
    }

    /// Whether the path has confederation segments (RFC 5065), which are malformed from outside a
    /// confederation.
    #[must_use]
    pub fn has_confed_segments(&self) -> bool {
        self.segments()
            .any(|(kind, _)| matches!(kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet))
    }

    /// Whether the path is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The path with `asn` prepended `times` times (RFC 4271 §5.1.2 b). A new segment is added if the first
    /// one is no AS_SEQUENCE or is full (255 numbers).
    #[must_use]
    pub fn prepend(&self, asn: Asn, times: usize) -> Self {
        (0..times).fold(self.clone(), |path, _| path.prepend_once(asn))
    }

    fn prepend_once(&self, asn: Asn) -> Self {
        let number = asn.0.to_be_bytes();
        let mut bytes = Vec::with_capacity(self.0.len() + 6);
        match &*self.0 {
            [2, count @ 1..=254, rest @ ..] => {
                bytes.extend_from_slice(&[2, count + 1]);
                bytes.extend_from_slice(&number);
                bytes.extend_from_slice(rest);
            }
            rest => {
                bytes.extend_from_slice(&[2, 1]);
                bytes.extend_from_slice(&number);
                bytes.extend_from_slice(rest);
            }
        }
        Self(bytes.into())
    }

    /// The path with every number mapped by `change`; `None` removes the number. A segment without numbers is
    /// removed.
    #[must_use]
    pub fn map(&self, mut change: impl FnMut(Asn) -> Option<Asn>) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len());
        for (kind, asns) in self.segments() {
            let start = bytes.len();
            bytes.extend_from_slice(&[kind.code(), 0]);
            let kept = asns.filter_map(&mut change).fold(0u8, |count, asn| {
                bytes.extend_from_slice(&asn.0.to_be_bytes());
                count.saturating_add(1) // a segment has at most 255
            });
            match bytes.get_mut(start + 1) {
                Some(count) if kept > 0 => *count = kept,
                _ => bytes.truncate(start),
            }
        }
        Self(bytes.into())
    }

    /// A path of one AS_SEQUENCE; more than 255 numbers need several segments.
    #[must_use]
    pub fn sequence(asns: &[Asn]) -> Self {
        asns.iter()
            .rev()
            .fold(Self::default(), |path, asn| path.prepend_once(*asn))
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (kind, asns)) in self.segments().enumerate() {
            let (open, close) = match kind {
                SegmentKind::Sequence => ("", ""),
                SegmentKind::Set => ("{", "}"),
                SegmentKind::ConfedSequence => ("(", ")"),
                SegmentKind::ConfedSet => ("[", "]"),
            };
            let text: Vec<String> = asns.map(|asn| asn.to_string()).collect();
            write!(
                f,
                "{}{open}{}{close}",
                if position > 0 { " " } else { "" },
                text.join(" ")
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepends_and_counts() {
        let path = AsPath::sequence(&[Asn(65001), Asn(4_200_000_000)]);
        assert_eq!(
            path.prepend(Asn(64512), 2).to_string(),
            "64512 64512 65001 4200000000"
        );
        assert_eq!(path.prepend(Asn(64512), 2).hops(), 4);
        assert_eq!(path.neighbor(), Some(Asn(65001)));
        assert_eq!(path.origin(), Some(Asn(4_200_000_000)));
        let long = AsPath::default().prepend(Asn(1), 300);
        assert_eq!((long.hops(), long.segments().count()), (300, 2));
    }

    #[test]
    fn numbers_are_replaced_and_taken_out() {
        let path = AsPath::from_wire4(&[
            2, 2, 0, 0, 0xFC, 0, 0, 0, 0, 7, 1, 1, 0, 0, 0xFC, 1, 2, 1, 0, 0, 0, 9,
        ])
        .unwrap();
        assert_eq!(path.to_string(), "64512 7 {64513} 9");
        let public = path.map(|asn| (!asn.is_private()).then_some(asn));
        assert_eq!(public.to_string(), "7 9");
        assert_eq!(public.segments().count(), 2);
        let replaced = path.map(|asn| Some(if asn == Asn(7) { Asn(8) } else { asn }));
        assert_eq!(replaced.to_string(), "64512 8 {64513} 9");
        assert!(path.map(|_| None).is_empty());
    }

    #[test]
    fn two_octet_form() {
        let path = AsPath::sequence(&[Asn(65001), Asn(4_200_000_000)]);
        let mut narrow = Vec::new();
        assert!(path.write_wire2(&mut narrow));
        assert_eq!(narrow, [2, 2, 0xFD, 0xE9, 0x5B, 0xA0]);
        assert_eq!(AsPath::from_wire2(&narrow).unwrap().to_string(), "65001 23456");
    }

    #[test]
    fn malformed_bytes() {
        for bytes in [&[2u8, 0][..], &[2], &[5, 1, 0, 0, 0, 1], &[2, 2, 0, 0, 0, 1]] {
            assert_eq!(AsPath::from_wire4(bytes), Err(MalformedAsPath));
        }
        assert_eq!(AsPath::from_wire2(&[2, 1, 0]), Err(MalformedAsPath));
        assert!(AsPath::from_wire4(&[]).unwrap().is_empty());
    }
}
