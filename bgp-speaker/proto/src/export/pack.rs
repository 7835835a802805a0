//! Changes of a flush, bucketed by what they have in common and encoded into one [`Chunk`].
//!
//! Prefixes that share attributes and source go into as few messages as they fit (RFC 4271 §9.2.2.2 asks
//! for nothing; peers are thankful). Buckets are ordered by the member that must not hear of them, so
//! that a member's view of the chunk is a few contiguous slices.

use ::bytes::BytesMut;

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
}

/// Collects changes and encodes them.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    items: Vec<Item>,
    scratch: Vec<Nlri>,
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
        self.items.sort_by_key(Item::bucket); // stable: prefixes stay in the order of their change
        let mut chunk = Chunk::default();
        let mut out = BytesMut::new();
        let mut last: Option<Sent> = None;
        let mut cached: Option<PathAttrs> = None;
        for run in self.items.chunk_by(|a, b| a.bucket() == b.bucket()) {
            let Some(head) = run.first() else { continue };
            self.scratch.clear();
            self.scratch.extend(run.iter().map(|item| Nlri {
                path_id: item.path_id,
                prefix: item.prefix,
            }));
            let start = out.len();
            if head.sent != last || cached.is_none() {
                cached = head.sent.and_then(|sent| attrs(head.family, head.prefix, sent));
                last = head.sent;
            }
            match &cached {
                Some(attrs) if head.sent.is_some() => {
                    if encode_announce(&mut out, context, head.family, attrs, &self.scratch).is_err() {
                        encode_withdraw(&mut out, context, head.family, &self.scratch);
                    }
                }
                _ => {
                    encode_withdraw(&mut out, context, head.family, &self.scratch);
                }
            }
            match (head.only, head.skip) {
                (Some(only), _) => chunk.private.push((only, out.split_off(start).freeze())),
                (None, Some(skip)) => note_skip(&mut chunk, skip, start, out.len()),
                (None, None) => {}
            }
        }
        chunk.common = out.freeze();
        self.items.clear();
        chunk
    }
}

/// Adds a skipped range, joined to the one before where both touch.
fn note_skip(chunk: &mut Chunk, skip: PeerId, start: usize, end: usize) {
    match chunk.skips.last_mut() {
        Some((peer, range)) if *peer == skip && range.end == start => range.end = end,
        _ => chunk.skips.push((skip, start..end)),
    }
}
