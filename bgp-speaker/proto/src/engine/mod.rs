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

mod adj_in;
mod api;
#[cfg(test)]
mod bounds;
mod conditional;
mod deferral;
mod excerpt;
mod feed;
mod fib_sets;
mod flush;
mod import;
mod members;
mod originate;
mod peers;
mod preview;
mod restart;
mod sessions;
mod trial;
mod view;
mod weights;
mod work;

pub use api::*;
pub use conditional::{Aggregate, OriginateRule, When};
pub use excerpt::Excerpt;
pub use feed::{FeedId, FeedItem};
pub use preview::{Heard, Preview, Rehearsal};
pub use trial::{RuleCounts, Trace, Trial, TrialSession, neighbor, try_export, try_import};
pub use view::*;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::export::adj_out::Sent;
use crate::export::group::Group;
use crate::export::rib::Rib;
use crate::export::sources::Sources;
use crate::rib::decision::Candidate;
use crate::rib::table::{DestId, PathIdx};
use crate::types::{Family, PeerId, Prefix};
use deferral::Deferral;
use fib_sets::FibSets;
use flush::SLICE;
use peers::Peer;

/// The engine.
#[derive(Clone, Debug)]
pub struct Engine {
    config: EngineConfig,
    peers: BTreeMap<PeerId, Peer>,
    rib: Rib,
    groups: Vec<Option<Group>>,
    fib: Fib,
    local: Local,
    work: Work,
    /// After our restart.
    deferral: Option<Deferral>,
    feeds: BTreeMap<FeedId, feed::Feed>,
    out: VecDeque<Output>,
    scratch: Scratch,
}

/// What the kernel should have.
#[derive(Clone, Debug, Default)]
struct Fib {
    sets: FibSets,
    /// The last changes were announced not to be all.
    goes_on: bool,
}

/// What is our own.
#[derive(Clone, Debug, Default)]
struct Local {
    /// What we originate without conditions, as given.
    given: BTreeMap<Prefix, Originated>,
    /// What else follows from the table.
    conditional: conditional::Conditional,
    /// What we originate.
    originated: BTreeMap<Prefix, Originated>,
    /// Pod blocks of ours: nobody else's path may lie inside.
    blocks: Vec<Prefix>,
    /// We are about to go.
    draining: bool,
}

/// What is still to be done.
#[derive(Clone, Debug, Default)]
struct Work {
    /// Destinations to decide, each once.
    dirty: VecDeque<DestId>,
    /// Work over many routes, in the order in which it came up.
    items: VecDeque<work::Item>,
    /// Peers that are behind and have room.
    behind: VecDeque<PeerId>,
    /// Adj-RIB-Outs that nobody has any more, whose references are to be released.
    dissolved: Vec<Vec<Option<Sent>>>,
    /// Ends of initial tables, reported once the routes before them are decided.
    ends: Vec<(SessionId, Family)>,
}

/// Room for one decision, kept for the next.
#[derive(Clone, Debug, Default)]
struct Scratch {
    candidates: Vec<Candidate>,
    chosen: Vec<PathIdx>,
    next_hops: Vec<(std::net::IpAddr, Option<f32>)>,
    hop_set: Vec<FibHop>,
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
        let sources = Sources::new(config.assume_reachable);
        Self {
            config,
            peers: BTreeMap::new(),
            rib: Rib {
                sources,
                ..Rib::default()
            },
            groups: Vec::new(),
            fib: Fib::default(),
            local: Local::default(),
            work: Work::default(),
            deferral: None,
            feeds: BTreeMap::new(),
            out: VecDeque::new(),
            scratch: Scratch::default(),
        }
    }

    /// Takes an input. Nothing is decided or sent before [`Engine::poll_output`].
    pub fn handle(&mut self, _now: Instant, input: Input) {
        match input {
            Input::Configure(peer, routing) => self.configure(peer, routing),
            Input::Remove(peer) => self.remove(peer),
            Input::Up(session, facts) => self.up(session, facts),
            Input::Facts(session, facts) => self.new_facts(session, facts),
            Input::Down(session) => self.down(session),
            Input::Restarting(session, families) => self.restarting(session, families),
            Input::LongLived(session, families) => self.long_lived(session, families),
            Input::Swept(session) => self.swept(session),
            Input::Routes(session, batch) => self.import_batch(session, batch),
            Input::Refresh(session, refresh) => self.refresh(session, refresh),
            Input::Resend(peer, family) => self.resend(peer, family),
            Input::Defer(names) => self.defer(names),
            Input::EndDeferral => self.end_deferral(),
            Input::Multipath(rules) => self.change_multipath(rules),
            Input::Originate(routes) => self.originate(routes),
            Input::OriginateByRules(rules) => self.originate_by_rules(rules),
            Input::Drain(on) => self.drain(on),
            Input::NextHops(news) => self.learn_next_hops(&news),
            Input::Written(session, bytes) => self.written(session, bytes),
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
        self.work.dirty.len()
    }

    /// One slice of work, some milliseconds at the most; false when there is none and nothing came of it.
    pub fn work(&mut self) -> bool {
        self.report_next_hops();
        if !self.work.dirty.is_empty() {
            self.flush_slice();
            return true;
        }
        if self.work_slice() || self.end_fib() {
            return true;
        }
        self.report_ends();
        if let Some(peer) = self.work.behind.pop_front() {
            self.catch_up(peer);
            return true;
        }
        if self.release_dissolved() {
            return true;
        }
        if self.rib.table.is_short() {
            self.reclaim();
        }
        !self.out.is_empty()
    }

    /// What can wait until nobody waits for anything: frees some of what is not used any more. False when there is nothing left.
    pub fn tidy(&mut self) -> bool {
        self.rib.attrs.free_unheld();
        self.reclaim()
    }

    fn release_dissolved(&mut self) -> bool {
        let Some(sent) = self.work.dissolved.last_mut() else {
            return false;
        };
        let rest = sent.len().saturating_sub(work::SLICE);
        for sent in sent.drain(rest..).flatten() {
            self.rib.attrs.release(sent.attrs, &mut self.rib.next_hops);
        }
        if rest == 0 {
            self.work.dissolved.pop();
        }
        true
    }

    /// A member that is behind still has to be sent withdrawals of prefixes that it knows.
    fn reclaim(&mut self) -> bool {
        let behind: Vec<&Group> = self
            .groups
            .iter()
            .flatten()
            .filter(|group| group.has_lagging())
            .collect();
        let needed = |dest| behind.iter().any(|group| group.needs(dest));
        let needed: Option<&dyn Fn(DestId) -> bool> = if behind.is_empty() { None } else { Some(&needed) };
        self.rib.table.reclaim(SLICE, needed)
    }

    /// An End-of-RIB counts when the routes before it are decided, and for that their next hops are known.
    fn report_ends(&mut self) {
        if !self.work.ends.is_empty() && (self.config.assume_reachable || !self.rib.next_hops.is_waiting()) {
            for (session, family) in std::mem::take(&mut self.work.ends) {
                self.out.push_back(Output::EndOfRib(session, family));
                self.deferral_end_of_rib(session, family);
            }
        }
    }

    fn report_next_hops(&mut self) {
        let (started, stopped) = self.rib.next_hops.take_changes();
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

    fn change_multipath(&mut self, rules: EqualPaths) {
        let EqualPaths {
            max_paths,
            multipath_relax,
            link_bandwidth,
        } = rules;
        let old = self.config.clone();
        self.config.max_paths = max_paths;
        self.config.multipath_relax = multipath_relax;
        self.config.link_bandwidth = link_bandwidth;
        if self.config != old {
            self.queue_all(work::Job::Everything(DestId(0)));
        }
    }

    /// Work over the whole table, in place of such work that has begun.
    fn queue_all(&mut self, job: work::Job) {
        let kind = std::mem::discriminant(&job);
        self.work
            .items
            .retain(|item| std::mem::discriminant(&item.job) != kind);
        self.work.items.push_back(work::Item {
            peer: PeerId::LOCAL,
            dests: VecDeque::new(),
            job,
        });
    }

    /// Whether this node reflects routes: only then is our cluster in a CLUSTER_LIST a loop (RFC 4456 §8). The file gives all
    /// nodes the same number, and a client takes what its reflectors of that cluster reflect.
    fn reflects(&self) -> bool {
        self.peers
            .values()
            .any(|peer| peer.routing.kind == PeerKind::Client)
    }

    fn cluster_id(&self) -> u32 {
        self.config.cluster_id.unwrap_or(self.config.router_id.get())
    }

    fn mark(&mut self, dest: DestId) {
        if self.rib.table.mark(dest) {
            self.work.dirty.push_back(dest);
        }
    }
}
