//! Feeds of Adj-RIB-Ins for monitoring (BMP): first the whole table, then changes.
//!
//! The consumer pulls. A feed keeps a cursor over the table and the set of paths that changed since it was
//! last read, so that a path that changes often is reported once, in its present state. Without a feed
//! nothing is recorded.

use std::collections::VecDeque;

use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

use super::Engine;
use crate::rib::table::{DestId, Path};
use crate::types::{PathId, PeerId, Prefix};
use crate::wire::{Nlri, PathAttrs};

/// Identifies a feed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeedId(pub u32);

/// A path as received and after import policy. `received` is `None` for a path that was removed.
#[derive(Clone, PartialEq, Debug)]
pub struct FeedItem {
    /// The peer.
    pub peer: PeerId,
    /// Prefix and path identifier.
    pub nlri: Nlri,
    /// Before import policy.
    pub received: Option<PathAttrs>,
    /// After import policy; `None` when it is not used.
    pub imported: Option<PathAttrs>,
}

type Key = (PeerId, Nlri);

/// A feed with this many unread changes ends, and its consumer has to begin again.
const MAX_QUEUED: usize = 1 << 20;

/// What a feed has not reported yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed {
    cursor: u32,
    queue: VecDeque<Key>,
    queued: HashSet<Key, FxBuildHasher>,
}

impl Feed {
    fn push(&mut self, key: Key) {
        if self.queue.len() < MAX_QUEUED && self.queued.insert(key) {
            self.queue.push_back(key);
        }
    }

    fn next(&mut self) -> Option<Key> {
        let key = self.queue.pop_front()?;
        self.queued.remove(&key);
        Some(key)
    }
}

impl Engine {
    /// Begins a feed, from the beginning if it exists.
    pub fn begin_feed(&mut self, id: FeedId) {
        self.feeds.insert(id, Feed::default());
    }

    /// Ends a feed.
    pub fn end_feed(&mut self, id: FeedId) {
        self.feeds.remove(&id);
    }

    /// Up to `limit` unreported paths; an empty list when there are none. `None` when the feed does not
    /// exist, or ended because it was not read.
    pub fn take_feed(&mut self, id: FeedId, limit: usize) -> Option<Vec<FeedItem>> {
        let mut feed = self
            .feeds
            .remove(&id)
            .filter(|feed| feed.queue.len() < MAX_QUEUED)?;
        let mut items = Vec::new();
        while items.len() < limit
            && let Some((peer, nlri)) = feed.next()
        {
            items.push(self.feed_item(peer, nlri));
        }
        let bound = self.rib.table.bound();
        while items.len() < limit && feed.cursor < bound {
            let dest = DestId(feed.cursor);
            feed.cursor += 1;
            let Some(prefix) = self.rib.table.prefix(dest) else {
                continue;
            };
            let paths: Vec<Path> = self.rib.table.paths(dest).map(|(_, path)| path).collect();
            let others = paths.into_iter().filter(|path| path.peer != PeerId::LOCAL);
            items.extend(others.map(|path| self.item_of(prefix, &path)));
        }
        self.feeds.insert(id, feed);
        Some(items)
    }

    fn feed_item(&self, peer: PeerId, nlri: Nlri) -> FeedItem {
        let dest = self.rib.table.find(&nlri.prefix);
        match dest.and_then(|dest| self.rib.table.path(dest, peer, nlri.path_id)) {
            Some((_, path)) => self.item_of(nlri.prefix, &path),
            None => FeedItem {
                peer,
                nlri,
                received: None,
                imported: None,
            },
        }
    }

    fn item_of(&self, prefix: Prefix, path: &Path) -> FeedItem {
        FeedItem {
            peer: path.peer,
            nlri: Nlri {
                path_id: path.path_id,
                prefix,
            },
            received: Some(self.rib.attrs.get(path.received).clone()),
            imported: path.imported.ok().map(|id| self.rib.attrs.get(id).clone()),
        }
    }

    /// Records a new, changed or removed path.
    #[inline]
    pub(super) fn queue_to_feeds(&mut self, peer: PeerId, path_id: PathId, prefix: &Prefix) {
        if !self.feeds.is_empty() && peer != PeerId::LOCAL {
            let prefix = *prefix;
            let nlri = Nlri { path_id, prefix };
            self.feeds.values_mut().for_each(|feed| feed.push((peer, nlri)));
        }
    }

    /// Records all paths of a peer to a destination.
    pub(super) fn requeue_to_feeds(&mut self, peer: PeerId, dest: DestId) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let paths = self.rib.table.paths(dest).filter(|(_, path)| path.peer == peer);
        let ids: Vec<_> = paths.map(|(_, path)| path.path_id).collect();
        for path_id in ids {
            self.queue_to_feeds(peer, path_id, &prefix);
        }
    }
}
