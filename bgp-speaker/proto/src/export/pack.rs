//! Packing: the changes of a flush, grouped by attributes and encoded into one [`Chunk`].
//!
//! Prefixes with the same attributes and source are packed into as few messages as possible. Buckets are
//! ordered by the members that are excluded, so that a member's part of the chunk consists of few contiguous
//! slices.
//!
//! ```
//! use bgp_proto::export::adj_out::Excluded;
//! use bgp_proto::export::pack::Packer;
//! use bgp_proto::types::{FamilySet, PathId, PeerId};
//! use bgp_proto::wire::{EncodeContext, MAX_LEN, Nlri};
//!
//! let (source, other) = (PeerId(1), PeerId(2));
//! let mut packer = Packer::default();
//! let excluded = Excluded { source: Some(source), next_hop_of: None };
//! let nlri = Nlri { path_id: PathId(0), prefix: "10.0.0.0/8".parse().unwrap() };
//! packer.queue_for_all(nlri, None, excluded); // a withdrawal
//! let context = EncodeContext {
//!     four_octet_as: true,
//!     add_path: FamilySet::EMPTY,
//!     max_len: MAX_LEN,
//!     internal: false,
//! };
//! let chunk = packer.encode(&context, |_, _, _| None);
//! assert_eq!(chunk.data_for(source).count(), 0);
//! assert_eq!(chunk.data_for(other).count(), 1);
//! ```

use std::ops::Range;

use ::bytes::{Bytes, BytesMut};

use super::adj_out::{Excluded, Sent};
use crate::export::chunk::Chunk;
use crate::types::{Family, PeerId, Prefix};
use crate::wire::{EncodeContext, Nlri, PathAttrs, encode_announce, encode_withdraw};

/// What the prefixes of a bucket share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Bucket {
    /// For this member only (sorted behind the common part).
    only: Option<PeerId>,
    /// Not for these members.
    skip: Excluded,
    family: Family,
    /// Advertise this route, or withdraw.
    sent: Option<Sent>,
}

/// Capacity, in changes, that a packer retains between flushes.
const RETAINED_CAPACITY: usize = 256;

/// Collects changes and encodes them.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    /// Changed prefixes in order; the path identifier is 0 without ADD-PATH (RFC 7911).
    changed: Vec<Nlri>,
    /// Runs of consecutive prefixes with the same bucket.
    runs: Vec<(Bucket, Range<usize>)>,
    /// Buffer for the prefixes of a bucket with several runs.
    scratch: Vec<Nlri>,
    /// Buffer for encoding; a chunk copies what it needs.
    out: BytesMut,
}

impl Packer {
    /// Queues the new state of a prefix for all members but these.
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

    /// Queues the new state of a prefix for one member.
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

    /// Whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Encodes the queued changes and clears the queue. `attrs` returns the attributes to send. A set that
    /// does not exist or does not fit into a message withdraws its prefixes instead, since the earlier
    /// advertisement is no longer valid.
    pub fn encode(
        &mut self,
        context: &EncodeContext,
        mut attrs: impl FnMut(Family, Prefix, Sent) -> Option<PathAttrs>,
    ) -> Chunk {
        self.runs.sort_by_key(|(bucket, _)| *bucket); // stable: prefixes keep their order
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
            // The advertised next hop differs by family (RFC 4760 §3, RFC 8950 §4).
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
        // By member, because a run may exclude two members.
        chunk.skips.sort_by_key(|(skip, range)| (*skip, range.start));
        chunk.common = Bytes::copy_from_slice(&out);
        self.reset(out);
        chunk
    }

    /// Clears the buffers and retains some capacity.
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

/// Adds a skipped range, joined to the previous one if they touch.
fn add_skip(chunk: &mut Chunk, skip: PeerId, start: usize, end: usize) {
    match chunk.skips.last_mut() {
        Some((peer, range)) if *peer == skip && range.end == start => range.end = end,
        _ => chunk.skips.push((skip, start..end)),
    }
}
