//! The output of a flush, shared by all members of an update group (docs/adr/0002).
//!
//! ```
//! use bgp_proto::export::chunk::Chunk;
//! use bgp_proto::types::PeerId;
//! use bgp_proto::wire::keepalive;
//!
//! let chunk = Chunk::only_for(PeerId(1), keepalive());
//! assert_eq!((chunk.len_for(PeerId(1)), chunk.len_for(PeerId(2))), (19, 0));
//! ```

use std::ops::Range;

use ::bytes::Bytes;

use crate::types::PeerId;

/// The messages of a flush: encoded once, shared by all members.
///
/// `common` is for every member except for the ranges in `skips`: a route is not sent back to the peer it
/// came from. `private` holds messages for single members. In a chunk each prefix (with its path identifier,
/// RFC 7911) occurs at most once per member, so that the order of the parts does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chunk {
    pub(crate) common: Bytes,
    pub(crate) skips: Vec<(PeerId, Range<usize>)>,
    pub(crate) private: Vec<(PeerId, Bytes)>,
}

impl Chunk {
    /// A chunk for a single member.
    #[must_use]
    pub fn only_for(peer: PeerId, data: Bytes) -> Self {
        Self {
            private: vec![(peer, data)],
            ..Self::default()
        }
    }

    /// The member's part: whole messages, in order, in as few slices as possible.
    pub fn data_for(&self, peer: PeerId) -> impl Iterator<Item = Bytes> {
        let skips = entries(&self.skips, peer);
        let ends = std::iter::once(self.common.len());
        let starts = std::iter::once(0).chain(skips.clone().map(|(_, range)| range.end));
        let ranges = starts.zip(skips.map(|(_, range)| range.start).chain(ends));
        let common = ranges
            .filter(|(start, end)| start < end)
            .map(|(start, end)| self.common.slice(start..end));
        common.chain(entries(&self.private, peer).map(|(_, data)| data.clone()))
    }

    /// The least cost of a chunk, which bounds the number of unwritten chunks.
    pub const MIN_COST: usize = 1024;

    /// The credit that the chunk uses until `Input::Written` returns it: its size in bytes, at least
    /// [`Chunk::MIN_COST`].
    #[must_use]
    pub fn cost_for(&self, peer: PeerId) -> usize {
        Self::cost_of(self.len_for(peer))
    }

    /// The cost of this number of bytes.
    pub(crate) fn cost_of(octets: usize) -> usize {
        octets.max(Self::MIN_COST)
    }

    /// Size of the member's part in bytes.
    #[must_use]
    pub fn len_for(&self, peer: PeerId) -> usize {
        if self.skips.is_empty() && self.private.is_empty() {
            return self.common.len();
        }
        let skips = entries(&self.skips, peer).map(|(_, range)| range.len());
        let private = entries(&self.private, peer).map(|(_, data)| data.len());
        self.common.len() - skips.sum::<usize>() + private.sum::<usize>()
    }
}

/// The entries of a peer in a list sorted by peer.
fn entries<T>(list: &[(PeerId, T)], peer: PeerId) -> impl Iterator<Item = &(PeerId, T)> + Clone {
    let first = list.partition_point(|(entry, _)| *entry < peer);
    list.iter()
        .skip(first)
        .take_while(move |(entry, _)| *entry == peer)
}
