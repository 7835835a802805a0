//! Changes of a flush, bucketed by what they have in common and encoded into one [`Chunk`].
//!
//! Prefixes that share attributes and source go into as few messages as they fit (RFC 4271 §9.2.2.2 asks
//! for nothing; peers are thankful). Buckets are ordered by the member that must not hear of them, so
//! that a member's view of the chunk is a few contiguous slices.

use std::ops::Range;

use ::bytes::{Bytes, BytesMut};

use super::adj_out::Sent;
use crate::export::chunk::Chunk;
use crate::types::{Family, PathId, PeerId, Prefix};
use crate::wire::{EncodeContext, Nlri, PathAttrs, encode_announce, encode_withdraw};

/// One change to tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Item {
    /// Only for this member (sorts behind what is common).
    only: Option<PeerId>,
    /// Not for this member.
    skip: Option<PeerId>,
    family: Family,
    /// Announce with this, or withdraw.
    sent: Option<Sent>,
    prefix: Prefix,
    /// 0 where one path is sent of a prefix (RFC 7911).
    path_id: PathId,
}

/// What part of the encoding a bucket shares.
type Bucket = (Option<PeerId>, Option<PeerId>, Family, Option<Sent>);

impl Item {
    fn bucket(&self) -> Bucket {
        (self.only, self.skip, self.family, self.sent)
    }

    fn nlri(&self) -> Nlri {
        Nlri {
            path_id: self.path_id,
            prefix: self.prefix,
        }
    }
}

/// Changes for which a packer keeps room.
const KEPT: usize = 256;

/// Collects changes and encodes them.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    items: Vec<Item>,
    /// Items side by side that share a bucket, by their places.
    runs: Vec<(Bucket, Range<usize>)>,
    scratch: Vec<Nlri>,
    /// Where messages are encoded; a chunk takes no more than it needs.
    out: BytesMut,
}

impl Packer {
    /// All members but `skip` learn the new state of the prefix.
    pub fn tell_all(&mut self, nlri: Nlri, sent: Option<Sent>, skip: Option<PeerId>) {
        let Nlri { path_id, prefix } = nlri;
        self.items.push(Item {
            only: None,
            skip,
            family: prefix.family(),
            sent,
            prefix,
            path_id,
        });
    }

    /// One member learns the new state of the prefix.
    pub fn tell_one(&mut self, nlri: Nlri, sent: Option<Sent>, only: PeerId) {
        let Nlri { path_id, prefix } = nlri;
        self.items.push(Item {
            only: Some(only),
            skip: None,
            family: prefix.family(),
            sent,
            prefix,
            path_id,
        });
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Encodes and forgets what was collected. `attrs` gives the attributes to send. A set that is not there, or too large for a
    /// message withdraws its prefixes instead: what was sent before must not stand.
    pub fn encode(
        &mut self,
        context: &EncodeContext,
        mut attrs: impl FnMut(Family, Prefix, Sent) -> Option<PathAttrs>,
    ) -> Chunk {
        self.find_runs();
        let mut chunk = Chunk::default();
        let mut out = std::mem::take(&mut self.out);
        let mut last: Option<Sent> = None;
        let mut cached: Option<PathAttrs> = None;
        for same in self.runs.chunk_by(|(a, _), (b, _)| a == b) {
            self.scratch.clear();
            let runs = same.iter().filter_map(|(_, run)| self.items.get(run.clone()));
            self.scratch.extend(runs.flatten().map(Item::nlri));
            let (Some(&((only, skip, family, sent), _)), Some(head)) = (same.first(), self.scratch.first())
            else {
                continue;
            };
            let start = out.len();
            if sent != last || cached.is_none() {
                cached = sent.and_then(|sent| attrs(family, head.prefix, sent));
                last = sent;
            }
            match &cached {
                Some(attrs) if sent.is_some() => {
                    if encode_announce(&mut out, context, family, attrs, &self.scratch).is_err() {
                        encode_withdraw(&mut out, context, family, &self.scratch);
                    }
                }
                _ => {
                    encode_withdraw(&mut out, context, family, &self.scratch);
                }
            }
            match (only, skip) {
                (Some(only), _) => {
                    let octets = Bytes::copy_from_slice(out.get(start..).unwrap_or_default());
                    chunk.private.push((only, octets));
                    out.truncate(start);
                }
                (None, Some(skip)) => note_skip(&mut chunk, skip, start, out.len()),
                (None, None) => {}
            }
        }
        chunk.common = Bytes::copy_from_slice(&out);
        self.forget(out);
        chunk
    }

    /// Sorts by bucket; prefixes stay in the order of their change.
    fn find_runs(&mut self) {
        let mut start = 0;
        for run in self.items.chunk_by(|a, b| a.bucket() == b.bucket()) {
            let end = start + run.len();
            if let Some(head) = run.first() {
                self.runs.push((head.bucket(), start..end));
            }
            start = end;
        }
        self.runs.sort_by_key(|(bucket, _)| *bucket);
    }

    /// Keeps some room for the next time.
    fn forget(&mut self, mut out: BytesMut) {
        self.items.clear();
        self.items.shrink_to(KEPT);
        self.runs.clear();
        self.runs.shrink_to(KEPT);
        self.scratch.clear();
        self.scratch.shrink_to(KEPT);
        if out.capacity() <= KEPT * 256 {
            out.clear();
            self.out = out;
        }
    }
}

/// Adds a skipped range, joined to the one before where both touch.
fn note_skip(chunk: &mut Chunk, skip: PeerId, start: usize, end: usize) {
    match chunk.skips.last_mut() {
        Some((peer, range)) if *peer == skip && range.end == start => range.end = end,
        _ => chunk.skips.push((skip, start..end)),
    }
}
