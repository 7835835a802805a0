//! The route engine: RIB, policy and export joined behind one `handle` / `poll_output`.
//!
//! There is exactly one engine, owned by one task, without a lock. It takes decoded batches from
//! peers, the whole set of routes to originate, and the reach of next hops; it says what to send to
//! whom and what the kernel should have. It never blocks, never fails, and holds no timer.
//!
//! Changes are coalesced: [`Engine::handle`] marks prefixes dirty, [`Engine::poll_output`] decides and
//! exports them once, however often they changed in between. Work is done in slices, so that a peer
//! that comes up beside a million routes, or a storm, delays other news by milliseconds at most.
//!
//! Flow control: a peer with more than [`Engine::HIGH_WATER`] bytes unwritten leaves the fast path of
//! its update group and is served from the Adj-RIB-Out as it drains (see [`crate::export::lagging`]).

mod api;
mod feed;
mod fib_sets;
mod flush;
mod import;
mod originate;
mod peers;
mod preview;
mod restart;
mod slices;
mod view;
mod weights;

pub use api::*;
pub use feed::{FeedId, FeedItem};
pub use preview::{Heard, Preview};
pub use view::*;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::export::group::{Group, Rib};
use crate::export::rules::{GroupKey, Learned};
use crate::export::sources::Sources;
use crate::rib::attrs::AttrTable;
use crate::rib::decision::Candidate;
use crate::rib::nexthop::NextHops;
use crate::rib::table::{DestId, PathIdx, Table};
use crate::types::{Family, FamilySet, PeerId, Prefix};
use crate::wire::{Refresh, RefreshKind};
use fib_sets::FibSets;
use flush::SLICE;
use peers::{GroupId, Peer};
use std::sync::Arc;

/// The engine.
#[derive(Clone, Debug)]
pub struct Engine {
    config: EngineConfig,
    peers: BTreeMap<PeerId, Peer>,
    table: Table,
    attrs: AttrTable,
    next_hops: NextHops,
    sources: Sources,
    groups: Vec<Option<Group>>,
    fib_sets: FibSets,
    /// What we originate, as given.
    originated: BTreeMap<Prefix, Originated>,
    /// Pod blocks of ours: nobody else's path may lie inside.
    own_blocks: Vec<Prefix>,
    /// Destinations to decide, each once.
    dirty: VecDeque<DestId>,
    /// Sources that are gone, with destinations whose paths are still to be taken away.
    departing: BTreeMap<PeerId, slices::Notes>,
    /// Sources whose policy changed, with what is still to be looked at again.
    reimports: BTreeMap<PeerId, slices::Notes>,
    /// Peers that are behind and have room.
    behind: VecDeque<PeerId>,
    /// Ends of initial tables, told once the routes before them are decided.
    ends: Vec<(PeerId, Family)>,
    out: VecDeque<Output>,
    /// Scratch of a decision.
    draining: bool,
    feeds: BTreeMap<FeedId, feed::Feed>,
    candidates: Vec<Candidate>,
    chosen: Vec<PathIdx>,
    ways: Vec<(std::net::IpAddr, Option<f32>)>,
    hop_set: Vec<FibHop>,
    /// The last kernel changes were said not to be all.
    fib_goes_on: bool,
}

impl Engine {
    /// Unwritten bytes from which on a peer counts as slow.
    pub const HIGH_WATER: usize = 4 << 20;
    /// Most chunks that a peer can have been given and not written: two more than the credit holds, for the
    /// one that uses it up and for a refresh's begin.
    pub const MAX_CHUNKS: usize = Self::HIGH_WATER / Chunk::MIN_COST + 2;
    /// Unwritten bytes below which a slow peer is served again.
    pub const LOW_WATER: usize = 1 << 20;

    /// An engine without peers.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        let sources = Sources {
            assume_reachable: config.assume_reachable,
            ..Sources::default()
        };
        Self {
            config,
            sources,
            peers: BTreeMap::new(),
            table: Table::default(),
            attrs: AttrTable::default(),
            next_hops: NextHops::default(),
            groups: Vec::new(),
            fib_sets: FibSets::default(),
            originated: BTreeMap::new(),
            own_blocks: Vec::new(),
            dirty: VecDeque::new(),
            departing: BTreeMap::new(),
            reimports: BTreeMap::new(),
            behind: VecDeque::new(),
            ends: Vec::new(),
            out: VecDeque::new(),
            draining: false,
            feeds: BTreeMap::new(),
            candidates: Vec::new(),
            chosen: Vec::new(),
            ways: Vec::new(),
            hop_set: Vec::new(),
            fib_goes_on: false,
        }
    }

    /// Takes an input. Nothing is decided or sent before [`Engine::poll_output`].
    pub fn handle(&mut self, _now: Instant, input: Input) {
        match input {
            Input::Configure(peer, routing) => self.configure(peer, routing),
            Input::Remove(peer) => self.remove(peer),
            Input::Up(peer, facts) => self.up(peer, facts),
            Input::Down(peer) => self.down(peer),
            Input::Restarting(peer, families) => self.restarting(peer, families),
            Input::LongLived(peer, families) => self.long_lived(peer, families),
            Input::Swept(peer) => Family::ALL
                .into_iter()
                .for_each(|family| self.end_sweep(peer, family)),
            Input::Routes(peer, batch) => self.import_batch(peer, batch),
            Input::Refresh(peer, refresh) => self.refresh(peer, refresh),
            Input::Originate(routes) => self.originate(routes),
            Input::Drain(on) => self.drain(on),
            Input::NextHops(news) => self.learn_next_hops(&news),
            Input::Written(peer, bytes) => self.written(peer, bytes),
        }
    }

    /// What to do next; `None` when everything is done. Does the work of deciding and encoding.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.next_output() {
                return Some(output);
            }
            if !self.work() && !self.tidy() {
                return None;
            }
        }
    }

    /// What came of the work done so far. With [`Engine::work`] instead of [`Engine::poll_output`] others get a turn
    /// between two slices.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Destinations that changed and were not decided yet.
    #[must_use]
    pub fn undecided(&self) -> usize {
        self.dirty.len()
    }

    /// One slice of work, some milliseconds at the most; false when there is none and nothing came of it.
    pub fn work(&mut self) -> bool {
        self.report_next_hops();
        if !self.dirty.is_empty() {
            self.flush_slice();
            return true;
        }
        if self.departure_slice() || self.reimport_slice() || self.end_fib() {
            return true;
        }
        self.tell_ends();
        if let Some(peer) = self.behind.pop_front() {
            self.catch_up(peer);
            return true;
        }
        if self.table.is_short() {
            self.reclaim();
        }
        !self.out.is_empty()
    }

    /// What can wait until nobody waits for anything: frees some of what is not used any more. False when there is nothing left.
    pub fn tidy(&mut self) -> bool {
        self.attrs.free_unheld();
        self.reclaim()
    }

    /// A member that is behind still has to hear of prefixes that are gone.
    fn reclaim(&mut self) -> bool {
        !self.groups.iter().flatten().any(Group::has_lagging) && self.table.reclaim(SLICE)
    }

    /// An End-of-RIB counts when the routes before it are decided, and for that their next hops are known.
    fn tell_ends(&mut self) {
        if !self.ends.is_empty() && (self.config.assume_reachable || !self.next_hops.is_waiting()) {
            let ends = self
                .ends
                .drain(..)
                .map(|(peer, family)| Output::EndOfRib(peer, family));
            self.out.extend(ends);
        }
    }

    fn report_next_hops(&mut self) {
        let (started, stopped) = self.next_hops.take_changes();
        if self.config.assume_reachable {
            return;
        }
        if !started.is_empty() {
            self.out.push_back(Output::Watch(started));
        }
        if !stopped.is_empty() {
            self.out.push_back(Output::Unwatch(stopped));
        }
    }

    fn cluster_id(&self) -> u32 {
        self.config.cluster_id.unwrap_or(self.config.router_id.get())
    }

    fn mark(&mut self, dest: DestId) {
        if self.table.mark(dest) {
            self.dirty.push_back(dest);
        }
    }

    fn configure(&mut self, id: PeerId, routing: Arc<PeerRouting>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            self.peers.insert(id, Peer::new(routing));
            return;
        };
        let old = std::mem::replace(&mut peer.routing, routing);
        let Some(facts) = peer.facts.clone() else { return };
        let import_changed = old.import != peer.routing.import
            || (old.allow_own_as, old.local_asn, old.kind, old.rules)
                != (
                    peer.routing.allow_own_as,
                    peer.routing.local_asn,
                    peer.routing.kind,
                    peer.routing.rules,
                );
        if import_changed {
            let notes = peer.adj_in.notes().iter().copied().collect();
            self.reimports.insert(id, notes);
        }
        self.learn_source(id, &facts);
        self.regroup(id);
    }

    fn drain(&mut self, on: bool) {
        if std::mem::replace(&mut self.draining, on) != on {
            let established = self.peers.iter().filter(|(_, peer)| peer.is_up());
            let ids: Vec<PeerId> = established.map(|(id, _)| *id).collect();
            ids.into_iter().for_each(|id| self.regroup(id));
        }
    }

    /// Puts a peer into the group that it belongs to now.
    fn regroup(&mut self, id: PeerId) {
        let Some(facts) = self.peers.get(&id).and_then(|peer| peer.facts.clone()) else {
            return;
        };
        let key = self.group_key(id, &facts);
        let same = self
            .group_of(id)
            .is_some_and(|group| Some(&group.key) == key.as_ref());
        if let (false, Some(key)) = (same, key) {
            let known = self.group_of(id).map(Group::known_paths).unwrap_or_default();
            self.leave_group(id);
            self.join_group(id, key, true);
            if let Some(GroupId(index)) = self.peers.get(&id).and_then(|peer| peer.group)
                && let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut)
            {
                group.expect_known(known);
            }
        }
    }

    fn remove(&mut self, peer: PeerId) {
        self.down(peer);
        self.peers.remove(&peer);
        if !self.departing.contains_key(&peer) {
            self.forget_source(peer);
        }
    }

    fn up(&mut self, id: PeerId, facts: Box<SessionFacts>) {
        if self.peers.get(&id).is_some_and(Peer::is_up) {
            self.down(id);
        }
        self.finish_departure(id);
        self.forget_unkept(id, &facts);
        self.learn_source(id, &facts);
        let key = self.group_key(id, &facts);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        self.sources.addresses.insert(id, facts.remote_addr);
        if facts.remote_addr.is_loopback() {
            self.sources.here.insert(id);
        } else {
            self.sources.here.remove(&id);
        }
        peer.facts = Some(facts);
        peer.outstanding = 0;
        peer.refused = false;
        peer.warned = FamilySet::EMPTY;
        self.repeat_to_feeds(id);
        if let Some(key) = key {
            self.join_group(id, key, false);
        }
    }

    fn learn_source(&mut self, id: PeerId, facts: &SessionFacts) {
        if let Some(peer) = self.peers.get(&id) {
            let learned = Learned::Peer(peer.routing.kind, facts.negotiated.remote_id());
            self.sources.peers.insert(id, learned);
        }
    }

    fn group_key(&self, id: PeerId, facts: &SessionFacts) -> Option<GroupKey> {
        self.peers.get(&id).map(|peer| {
            let key = GroupKey::of(&peer.routing, facts, self.config.asn, self.cluster_id());
            GroupKey {
                draining: self.draining,
                ..key
            }
        })
    }

    fn down(&mut self, id: PeerId) {
        let down = |peer: &&mut Peer| peer.is_up() || !peer.sweeps.is_empty();
        let Some(peer) = self.peers.get_mut(&id).filter(down) else {
            return;
        };
        self.reimports.remove(&id);
        peer.facts = None;
        peer.outstanding = 0;
        peer.sweeps.clear();
        let notes = peer.adj_in.take_notes();
        self.departing.insert(id, notes.into());
        self.leave_group(id);
        self.behind.retain(|behind| *behind != id);
    }

    fn group_of(&self, peer: PeerId) -> Option<&Group> {
        let GroupId(index) = self.peers.get(&peer)?.group?;
        self.groups.get(index)?.as_ref()
    }

    fn join_group(&mut self, id: PeerId, key: GroupKey, resync: bool) {
        let found = self
            .groups
            .iter()
            .position(|group| group.as_ref().is_some_and(|group| group.key == key));
        let index = found.unwrap_or_else(|| self.new_group(key));
        if let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut) {
            group.join(id, resync);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.group = Some(GroupId(index));
        }
        self.serve(id);
    }

    fn new_group(&mut self, key: GroupKey) -> usize {
        let index = self.groups.iter().position(Option::is_none).unwrap_or_else(|| {
            self.groups.push(None);
            self.groups.len() - 1
        });
        if let Some(place) = self.groups.get_mut(index) {
            *place = Some(Group::new(key));
        }
        index
    }

    fn leave_group(&mut self, id: PeerId) {
        let Some(GroupId(index)) = self.peers.get_mut(&id).and_then(|peer| peer.group.take()) else {
            return;
        };
        let Some(place) = self.groups.get_mut(index) else {
            return;
        };
        if place.as_mut().is_some_and(|group| group.leave(id))
            && let Some(group) = place.take()
        {
            group.dissolve(&mut self.attrs, &mut self.next_hops);
        }
    }

    fn serve(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get(&id) {
            let (outstanding, group) = (peer.outstanding, peer.group);
            self.put_in_line(id, outstanding, group);
        }
    }

    /// Puts a peer that is behind in line, once, if it has room.
    fn put_in_line(&mut self, id: PeerId, outstanding: usize, group: Option<GroupId>) {
        let Some(GroupId(index)) = group.filter(|_| outstanding < Self::LOW_WATER) else {
            return;
        };
        let group = self.groups.get(index).and_then(Option::as_ref);
        if group.is_some_and(|group| group.is_lagging(id)) && !self.behind.contains(&id) {
            self.behind.push_back(id);
        }
    }

    fn written(&mut self, id: PeerId, bytes: usize) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.outstanding = peer.outstanding.saturating_sub(bytes);
            let (outstanding, group) = (peer.outstanding, peer.group);
            self.put_in_line(id, outstanding, group);
        }
    }

    fn catch_up(&mut self, id: PeerId) {
        let Some(GroupId(index)) = self.peers.get(&id).and_then(|peer| peer.group) else {
            return;
        };
        let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let mut rib = Rib {
            table: &self.table,
            attrs: &mut self.attrs,
            next_hops: &mut self.next_hops,
            sources: &self.sources,
        };
        let (chunk, _) = group.catch_up(id, &mut rib);
        self.advertise(id, &Arc::new(chunk));
        self.serve(id);
    }

    /// Hands a chunk to a peer, and takes note of what it owes.
    fn advertise(&mut self, id: PeerId, chunk: &Arc<Chunk>) {
        let octets = chunk.len_for(id);
        if octets == 0 {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.outstanding += Chunk::cost_of(octets);
        self.out.push_back(Output::Advertise(id, Arc::clone(chunk)));
        if peer.outstanding > Self::HIGH_WATER
            && let Some(GroupId(index)) = peer.group
            && let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut)
        {
            group.fall_behind(id);
        }
    }

    fn refresh(&mut self, id: PeerId, refresh: Refresh) {
        match refresh.kind {
            RefreshKind::Request => self.send_again(id, refresh.family),
            RefreshKind::Begin => self.begin_sweep(id, refresh.family),
            RefreshKind::End => self.end_sweep(id, refresh.family),
        }
    }

    fn send_again(&mut self, id: PeerId, family: Family) {
        let Some(peer) = self.peers.get(&id) else { return };
        let enhanced = peer
            .facts
            .as_ref()
            .is_some_and(|facts| facts.negotiated.enhanced_refresh);
        let Some(GroupId(index)) = peer.group else { return };
        let group = self.groups.get_mut(index).and_then(Option::as_mut);
        if let Some(begin) = group.and_then(|group| group.refresh(id, family, enhanced)) {
            self.advertise(id, &Arc::new(begin));
        }
        self.serve(id);
    }

    fn learn_next_hops(&mut self, news: &[(std::net::IpAddr, Reach)]) {
        let mut changed: Vec<_> = news
            .iter()
            .filter_map(|(addr, reach)| self.next_hops.learn(*addr, *reach))
            .collect();
        if changed.is_empty() {
            return;
        }
        changed.sort_unstable();
        let (table, attrs) = (&self.table, &self.attrs);
        let uses = |dest: &DestId| {
            table
                .paths(*dest)
                .filter_map(|(_, path)| path.imported.ok())
                .any(|id| changed.binary_search(&attrs.next_hop(id)).is_ok())
        };
        let affected: Vec<DestId> = table.dests().map(|(dest, _)| dest).filter(uses).collect();
        affected.into_iter().for_each(|dest| self.mark(dest));
    }
}
