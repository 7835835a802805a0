//! Changes of a flush, bucketed by what they have in common and encoded into one [`Chunk`].
//!
//! Prefixes that share attributes and source go into as few messages as they fit (RFC 4271 §9.2.2.2 asks
//! for nothing; peers are thankful). Buckets are ordered by the member that must not hear of them, so
//! that a member's view of the chunk is a few contiguous slices.

use std::ops::Range;

use ::bytes::{Bytes, BytesMut};

use super::adj_out::{Excluded, Sent};
use crate::export::chunk::Chunk;
use crate::types::{Family, PeerId, Prefix};
use crate::wire::{EncodeContext, Nlri, PathAttrs, encode_announce, encode_withdraw};

/// What part of the encoding a bucket shares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Bucket {
    /// Only for this member (sorts behind what is common).
    only: Option<PeerId>,
    /// Not for these members.
    skip: Excluded,
    family: Family,
    /// Announce with this, or withdraw.
    sent: Option<Sent>,
}

/// Changes for which a packer keeps room.
const RETAINED_CAPACITY: usize = 256;

/// Collects changes and encodes them.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    /// In the order of their change; the path identifier is 0 where one path is sent of a prefix (RFC 7911).
    changed: Vec<Nlri>,
    /// Those side by side that share a bucket, by their places.
    runs: Vec<(Bucket, Range<usize>)>,
    /// The prefixes of a bucket of several runs.
    scratch: Vec<Nlri>,
    /// Where messages are encoded; a chunk takes no more than it needs.
    out: BytesMut,
}

impl Packer {
    /// All members but these learn the new state of the prefix.
    pub fn queue_for_all(&mut self, nlri: Nlri, sent: Option<Sent>, skip: Excluded) {
        let family = nlri.prefix.family();
        self.queue(
            nlri,
            Bucket {
                only: None,
                skip,
                family,
                sent,
            },
        );
    }

    /// One member learns the new state of the prefix.
    pub fn queue_for_member(&mut self, nlri: Nlri, sent: Option<Sent>, only: PeerId) {
        let family = nlri.prefix.family();
        self.queue(
            nlri,
            Bucket {
                only: Some(only),
                skip: Excluded::default(),
                family,
                sent,
            },
        );
    }

    fn queue(&mut self, nlri: Nlri, bucket: Bucket) {
        let position = self.changed.len();
        self.changed.push(nlri);
        match self.runs.last_mut() {
            Some((last, range)) if *last == bucket => range.end = position + 1,
            _ => self.runs.push((bucket, position..position + 1)),
        }
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Encodes and forgets what was collected. `attrs` gives the attributes to send. A set that is not there, or too large for a
    /// message withdraws its prefixes instead: what was sent before must not stand.
    pub fn encode(
        &mut self,
        context: &EncodeContext,
        mut attrs: impl FnMut(Family, Prefix, Sent) -> Option<PathAttrs>,
    ) -> Chunk {
        self.runs.sort_by_key(|(bucket, _)| *bucket); // prefixes stay in the order of their change
        let mut chunk = Chunk::default();
        let mut out = std::mem::take(&mut self.out);
        let mut last: Option<(Family, Sent)> = None;
        let mut cached: Option<PathAttrs> = None;
        for same in self.runs.chunk_by(|(a, _), (b, _)| a == b) {
            let list = joined(same, &self.changed, &mut self.scratch);
            let (Some(&(bucket, _)), Some(head)) = (same.first(), list.first()) else {
                continue;
            };
            let start = out.len();
            // The next hop that is sent differs by family (RFC 4760 §3, RFC 8950 §4).
            let wanted = bucket.sent.map(|sent| (bucket.family, sent));
            if wanted != last || cached.is_none() {
                cached = wanted.and_then(|(family, sent)| attrs(family, head.prefix, sent));
                last = wanted;
            }
            let encoded = match &cached {
                Some(attrs) if bucket.sent.is_some() => {
                    encode_announce(&mut out, context, bucket.family, attrs, list).is_ok()
                }
                _ => false,
            };
            if !encoded {
                encode_withdraw(&mut out, context, bucket.family, list);
            }
            if let Some(only) = bucket.only {
                let octets = Bytes::copy_from_slice(out.get(start..).unwrap_or_default());
                chunk.private.push((only, octets));
                out.truncate(start);
            } else {
                let skip = bucket.skip.iter();
                skip.for_each(|skip| add_skip(&mut chunk, skip, start, out.len()));
            }
        }
        // By member; those of the second place stand anywhere.
        chunk.skips.sort_by_key(|(skip, range)| (*skip, range.start));
        chunk.common = Bytes::copy_from_slice(&out);
        self.reset(out);
        chunk
    }

    /// Keeps some room for the next time.
    fn reset(&mut self, mut out: BytesMut) {
        self.changed.clear();
        self.changed.shrink_to(RETAINED_CAPACITY);
        self.runs.clear();
        self.runs.shrink_to(RETAINED_CAPACITY);
        self.scratch.clear();
        self.scratch.shrink_to(RETAINED_CAPACITY);
        if out.capacity() <= RETAINED_CAPACITY * 256 {
            out.clear();
            self.out = out;
        }
    }
}

/// The prefixes of some runs.
fn joined<'a>(
    runs: &[(Bucket, Range<usize>)],
    changed: &'a [Nlri],
    scratch: &'a mut Vec<Nlri>,
) -> &'a [Nlri] {
    if let [(_, run)] = runs {
        return changed.get(run.clone()).unwrap_or_default();
    }
    scratch.clear();
    let runs = runs.iter().filter_map(|(_, run)| changed.get(run.clone()));
    scratch.extend(runs.flatten());
    scratch
}

/// Adds a skipped range, joined to the one before where both touch.
fn add_skip(chunk: &mut Chunk, skip: PeerId, start: usize, end: usize) {
    match chunk.skips.last_mut() {
        Some((peer, range)) if *peer == skip && range.end == start => range.end = end,
        _ => chunk.skips.push((skip, start..end)),
    }
}
