//! Work on all that one source has told, slice by slice: a session that ended, a policy that changed.
//!
//! Between two slices what became dirty is decided and told, and the shell may do other things. Until its slice comes a path
//! counts as it did: a source that is gone is known until the last of its paths is.

use std::collections::VecDeque;

use super::Engine;
use super::import::Cached;
use crate::rib::attrs::AttrId;
use crate::rib::table::{DestId, Path, PathIdx};
use crate::types::{PeerId, Prefix};

/// Destinations looked at at a time, some milliseconds of work. What a node of a large cluster learned from one neighbor fits:
/// then the kernel hears of its loss as soon as it can.
const SLICE: usize = 32768;

/// Destinations still to be looked at.
pub(super) type Notes = VecDeque<DestId>;

/// What a source's policy made of the attributes looked at last: neighbours in a table share them.
#[derive(Default)]
pub(super) struct Again {
    of: Option<(PeerId, AttrId)>,
    cached: Cached,
}

impl Again {
    fn turn_to(&mut self, peer: PeerId, received: AttrId, engine: &mut Engine) {
        let of = Some((peer, received));
        if self.of != of {
            self.forget(engine);
            self.of = of;
        }
    }

    /// Releases what it holds.
    pub(super) fn let_go(mut self, engine: &mut Engine) {
        self.forget(engine);
    }

    fn forget(&mut self, engine: &mut Engine) {
        self.of = None;
        std::mem::take(&mut self.cached).let_go(engine);
    }
}

impl Engine {
    /// One slice of what sources that are gone have left; false when there is nothing.
    pub(super) fn departure_slice(&mut self) -> bool {
        let Some((peer, mut notes)) = self.departing.pop_first() else {
            return false;
        };
        // In the order in which they came, so that others hear of neighbours together.
        for dest in notes.drain(..SLICE.min(notes.len())) {
            self.withdraw_source(peer, dest);
        }
        if notes.is_empty() {
            self.forget_departed(peer);
        } else {
            self.departing.insert(peer, notes);
        }
        true
    }

    /// All of it at once: the peer is back, and what it tells now must not be taken for what it told before.
    pub(super) fn finish_departure(&mut self, peer: PeerId) {
        let Some(notes) = self.departing.remove(&peer) else {
            return;
        };
        for dest in notes {
            self.withdraw_source(peer, dest);
        }
        self.forget_departed(peer);
    }

    fn forget_departed(&mut self, peer: PeerId) {
        self.sources.peers.remove(&peer);
        if !self.peers.contains_key(&peer) {
            self.forget_source(peer);
        }
    }

    /// What is known of a peer that is no more.
    pub(super) fn forget_source(&mut self, peer: PeerId) {
        self.sources.addresses.remove(&peer);
        self.sources.here.remove(&peer);
    }

    /// Takes all paths of a source away from a destination.
    pub(super) fn withdraw_source(&mut self, peer: PeerId, dest: DestId) {
        while let Some(at) = self.table.path_of(dest, peer) {
            if let Some(path) = self.table.remove(dest, at) {
                self.let_go(&path);
                let path_id = path.path_id;
                if let Some(prefix) = self.table.prefix(dest) {
                    self.note_feeds(peer, path_id, &prefix);
                }
            }
            self.mark(dest);
        }
    }

    /// One slice of what came from sources whose policy changed; false when there is nothing left.
    pub(super) fn reimport_slice(&mut self) -> bool {
        let Some((peer, mut notes)) = self.reimports.pop_first() else {
            return false;
        };
        let mut again = Again::default();
        for dest in notes.drain(..SLICE.min(notes.len())) {
            self.reimport(peer, dest, &mut again);
        }
        again.let_go(self);
        if !notes.is_empty() {
            self.reimports.insert(peer, notes);
        }
        true
    }

    /// Evaluates a source's paths to a destination again, after a change of policy or of our blocks.
    pub(super) fn reimport(&mut self, peer: PeerId, dest: DestId, again: &mut Again) {
        let Some(prefix) = self.table.prefix(dest) else {
            return;
        };
        let mut next = self.table.path_of(dest, peer);
        while let Some(at) = next {
            next = self.table.next_of(at, peer);
            let Some(old) = self.table.at(at) else {
                return;
            };
            again.turn_to(peer, old.received, self);
            let imported = self.imported(peer, &prefix, old.received, &mut again.cached);
            if imported != old.imported {
                self.exchange(dest, prefix, (at, &old), Path { imported, ..old });
            }
        }
    }

    /// Puts a path in the place of another of the same source.
    pub(super) fn exchange(&mut self, dest: DestId, prefix: Prefix, (at, old): (PathIdx, &Path), new: Path) {
        self.hold(&new);
        self.table.replace(at, new);
        self.let_go(old);
        let path_id = old.path_id;
        self.note_feeds(old.peer, path_id, &prefix);
        self.mark(dest);
    }
}
