//! Adj-RIB-Ins for somebody who watches (BMP): everything first, then what changes.
//!
//! A feed is pulled. It keeps a cursor over the table and the set of paths that changed since they were last
//! taken; a path that changes often is told once, as it is when it is taken. Without a feed nothing is kept.

use std::collections::VecDeque;

use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

use super::Engine;
use crate::rib::table::{DestId, Path};
use crate::types::{PathId, PeerId, Prefix};
use crate::wire::{Nlri, PathAttrs};

/// Names a feed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeedId(pub u32);

/// A path as a peer sent it and as import left it; gone when `received` is none.
#[derive(Clone, PartialEq, Debug)]
pub struct FeedItem {
    /// Whose.
    pub peer: PeerId,
    /// Which.
    pub nlri: Nlri,
    /// Before import policy.
    pub received: Option<PathAttrs>,
    /// After it; none when it is not used.
    pub imported: Option<PathAttrs>,
}

type Key = (PeerId, Nlri);

/// A feed that has so many changes to hear is ended: whoever watches begins anew.
const MOST_QUEUED: usize = 1 << 20;

/// What a feed still has to hear.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed {
    cursor: u32,
    queue: VecDeque<Key>,
    queued: HashSet<Key, FxBuildHasher>,
}

impl Feed {
    fn note(&mut self, key: Key) {
        if self.queue.len() < MOST_QUEUED && self.queued.insert(key) {
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
    /// Begins a feed, or begins it anew.
    pub fn begin_feed(&mut self, id: FeedId) {
        self.feeds.insert(id, Feed::default());
    }

    /// Ends a feed.
    pub fn end_feed(&mut self, id: FeedId) {
        self.feeds.remove(&id);
    }

    /// At most `most` paths of what the feed has not heard yet; an empty list when it has heard all. `None`: it was not taken
    /// for so long that it was ended, or never begun.
    pub fn take_feed(&mut self, id: FeedId, most: usize) -> Option<Vec<FeedItem>> {
        let mut feed = self
            .feeds
            .remove(&id)
            .filter(|feed| feed.queue.len() < MOST_QUEUED)?;
        let mut items = Vec::new();
        while items.len() < most
            && let Some((peer, nlri)) = feed.next()
        {
            items.push(self.feed_item(peer, nlri));
        }
        let bound = self.rib.table.bound();
        while items.len() < most && feed.cursor < bound {
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

    /// A path came, changed or went.
    #[inline]
    pub(super) fn note_feeds(&mut self, peer: PeerId, path_id: PathId, prefix: &Prefix) {
        if !self.feeds.is_empty() && peer != PeerId::LOCAL {
            let prefix = *prefix;
            let nlri = Nlri { path_id, prefix };
            self.feeds.values_mut().for_each(|feed| feed.note((peer, nlri)));
        }
    }

    /// Notes the peer's paths to a destination for those who watch.
    pub(super) fn repeat_to_feeds(&mut self, peer: PeerId, dest: DestId) {
        let Some(prefix) = self.rib.table.prefix(dest) else {
            return;
        };
        let paths = self.rib.table.paths(dest).filter(|(_, path)| path.peer == peer);
        let ids: Vec<_> = paths.map(|(_, path)| path.path_id).collect();
        for path_id in ids {
            self.note_feeds(peer, path_id, &prefix);
        }
    }
}
