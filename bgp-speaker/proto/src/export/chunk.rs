//! What an update group's flush puts on the wire, shared by all members (docs/adr/0002).

use std::ops::Range;

use ::bytes::Bytes;

use crate::types::PeerId;

/// What a flush of an update group sends: encoded once, shared by all members.
///
/// `common` goes to every member but for the ranges that `skips` names: a route is not sent back to the
/// peer it came from. `private` holds what goes to one member alone. Within a chunk each prefix (with its path identifier, RFC 7911) occurs
/// at most once for a member, so that the order of the parts does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chunk {
    pub(crate) common: Bytes,
    pub(crate) skips: Vec<(PeerId, Range<usize>)>,
    pub(crate) private: Vec<(PeerId, Bytes)>,
}

impl Chunk {
    /// What goes to one member alone.
    #[must_use]
    pub fn only_for(peer: PeerId, data: Bytes) -> Self {
        Self {
            private: vec![(peer, data)],
            ..Self::default()
        }
    }

    /// The bytes of the chunk that the member gets: whole messages, in order, as few slices as there can be.
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

    /// The least a chunk costs its member's credit, so that the number of chunks under way is bounded too.
    pub const MIN_COST: usize = 1024;

    /// What the chunk costs the member's credit until the shell has written it and says so by `Input::Written`:
    /// its bytes, at least [`Chunk::MIN_COST`].
    #[must_use]
    pub fn cost_for(&self, peer: PeerId) -> usize {
        Self::cost_of(self.len_for(peer))
    }

    /// What so many bytes of a chunk cost.
    pub(crate) fn cost_of(octets: usize) -> usize {
        octets.max(Self::MIN_COST)
    }

    /// How many bytes the member gets.
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

/// The entries of one peer in a list sorted by peer.
fn entries<T>(list: &[(PeerId, T)], peer: PeerId) -> impl Iterator<Item = &(PeerId, T)> + Clone {
    let first = list.partition_point(|(entry, _)| *entry < peer);
    list.iter()
        .skip(first)
        .take_while(move |(entry, _)| *entry == peer)
}
