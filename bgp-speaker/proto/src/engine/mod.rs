//! The route engine: RIBs, policy and export behind `handle` and `poll_output`.
//!
//! There is exactly one engine, owned by one task, without a lock. Its inputs are decoded batches from peers,
//! the complete set of originated routes, and the reachability of next hops. Its outputs are chunks for peers
//! and kernel routes. It never blocks, never fails, and has no timer.
//!
//! Changes are coalesced: [`Engine::handle`] marks destinations dirty, [`Engine::poll_output`] decides and
//! exports each once, however often it changed in between. Work is done in slices, so that a peer that comes
//! up beside a million routes, or a storm of updates, delays other inputs by a few milliseconds.
//!
//! Flow control: a peer with more than [`Engine::HIGH_WATER`] unwritten bytes leaves the fast path of its
//! update group and is served from the Adj-RIB-Out as it drains (see [`crate::export::catch_up`]).
//!
//! ```
//! use std::time::Instant;
//!
//! use bgp_proto::engine::{Engine, EngineConfig, Input, Originated, RouteFilter};
//! use bgp_proto::policy::Source;
//! use bgp_proto::types::{Asn, RouterId};
//!
//! let mut engine = Engine::new(EngineConfig {
//!     asn: Asn(64512),
//!     router_id: RouterId::new(0x0A00_0001).unwrap(),
//!     cluster_id: None,
//!     max_paths: 8,
//!     multipath_relax: false,
//!     link_bandwidth: false,
//!     assume_reachable: false,
//! });
//! let block = Originated {
//!     prefix: "10.244.1.0/24".parse().unwrap(),
//!     source: Source::PodBlock,
//!     communities: vec![],
//! };
//! engine.handle(Instant::now(), Input::Originate(vec![block]));
//! while engine.poll_output().is_some() {} // no peer is up: nothing to send
//! let (routes, _) = engine.routes(&RouteFilter::default(), 0, 100);
//! assert!(routes[0].paths[0].best);
//! ```

mod adj_in;
mod api;
#[cfg(test)]
mod bounds;
mod conditional;
mod deferral;
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
mod table_page;
mod trial;
mod view;
mod weights;
mod work;

pub use api::*;
pub use conditional::{Aggregate, OriginateRule, When};
pub use feed::{FeedId, FeedItem};
pub use preview::{PeerPreview, Preview, PreviewRun};
pub use table_page::TablePage;
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

/// The route engine.
#[derive(Clone, Debug)]
pub struct Engine {
    config: EngineConfig,
    peers: BTreeMap<PeerId, Peer>,
    rib: Rib,
    groups: Vec<Option<Group>>,
    fib: Fib,
    local: Local,
    work: Work,
    /// Set after a restart of this speaker.
    deferral: Option<Deferral>,
    feeds: BTreeMap<FeedId, feed::Feed>,
    out: VecDeque<Output>,
    scratch: Scratch,
}

/// Kernel routes.
#[derive(Clone, Debug, Default)]
struct Fib {
    sets: FibSets,
    /// The last output announced further changes.
    more_announced: bool,
}

/// Originated routes and local state.
#[derive(Clone, Debug, Default)]
struct Local {
    /// What we originate without conditions, as given.
    given: BTreeMap<Prefix, Originated>,
    /// What else follows from the table.
    conditional: conditional::Conditional,
    /// What we originate.
    originated: BTreeMap<Prefix, conditional::OwnRoute>,
    /// Pod blocks of this node: paths of peers inside them are not eligible.
    pod_blocks: Vec<Prefix>,
    /// This node is about to shut down.
    draining: bool,
}

/// Pending work.
#[derive(Clone, Debug, Default)]
struct Work {
    /// Destinations to decide, each once.
    dirty: VecDeque<DestId>,
    /// Work over many routes, in the order of arrival.
    items: VecDeque<work::WorkItem>,
    /// Members to catch up that have credit.
    catch_up_queue: VecDeque<PeerId>,
    /// Adj-RIB-Outs of dissolved groups, whose references are to be released.
    dropped_adj_outs: Vec<Vec<Option<Sent>>>,
    /// End-of-RIBs to report once the routes before them are decided.
    ends: Vec<(SessionId, Family)>,
}

/// Buffers of a decision, kept to avoid allocations.
#[derive(Clone, Debug, Default)]
struct Scratch {
    candidates: Vec<Candidate>,
    selected: Vec<PathIdx>,
    next_hops: Vec<(std::net::IpAddr, Option<f32>)>,
    hop_set: Vec<FibNextHop>,
}

impl Engine {
    /// Unwritten bytes above which a peer counts as slow.
    pub const HIGH_WATER: usize = 4 << 20;
    /// Most unwritten chunks of a peer: two more than the credit allows, for the chunk that exceeds it and
    /// for the BoRR of a refresh.
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
            Input::StaleExpired(session) => self.stale_expired(session),
            Input::Routes(session, batch) => self.import_batch(session, batch),
            Input::Refresh(session, refresh) => self.refresh(session, refresh),
            Input::Resend(peer, family) => self.resend(peer, family),
            Input::Defer(names) => self.defer(names),
            Input::EndDeferral => self.end_deferral(),
            Input::Multipath(rules) => self.change_multipath(rules),
            Input::Originate(routes) => self.originate(routes),
            Input::OriginateByRules(rules) => self.originate_by_rules(rules),
            Input::Drain(on) => self.drain(on),
            Input::NextHops(updates) => self.update_next_hops(&updates),
            Input::Written(session, bytes) => self.written(session, bytes),
        }
    }

    /// Does pending work and returns the next output; `None` when there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            if let Some(output) = self.next_output() {
                return Some(output);
            }
            if !self.work() && !self.free_unused() {
                return None;
            }
        }
    }

    /// An output of the work done so far. Together with [`Engine::work`] it replaces [`Engine::poll_output`]
    /// for callers that have other things to do between two slices.
    pub fn next_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Number of changed destinations that are not decided yet.
    #[must_use]
    pub fn pending_decisions(&self) -> usize {
        self.work.dirty.len()
    }

    /// Does one slice of work, a few milliseconds. Returns false when there was none and it had no output.
    pub fn work(&mut self) -> bool {
        self.report_next_hops();
        if !self.work.dirty.is_empty() {
            self.flush_slice();
            return true;
        }
        if self.work_slice() || self.close_fib_burst() {
            return true;
        }
        self.report_ends();
        if let Some(peer) = self.work.catch_up_queue.pop_front() {
            self.catch_up(peer);
            return true;
        }
        if self.release_dropped() {
            return true;
        }
        if self.rib.table.needs_reclaim() {
            self.reclaim();
        }
        !self.out.is_empty()
    }

    /// Frees unused memory, a part at a time. To be called when there is no other work. Returns false when
    /// nothing is left to free.
    pub fn free_unused(&mut self) -> bool {
        self.rib.attrs.free_unreferenced();
        self.reclaim()
    }

    fn release_dropped(&mut self) -> bool {
        let Some(sent) = self.work.dropped_adj_outs.last_mut() else {
            return false;
        };
        let rest = sent.len().saturating_sub(work::SLICE);
        for sent in sent.drain(rest..).flatten() {
            self.rib.attrs.release(sent.attrs, &mut self.rib.next_hops);
        }
        if rest == 0 {
            self.work.dropped_adj_outs.pop();
        }
        true
    }

    /// Frees destinations without paths. Those that a member may still have to be sent a withdrawal of are
    /// kept.
    fn reclaim(&mut self) -> bool {
        let groups: Vec<&Group> = self
            .groups
            .iter()
            .flatten()
            .filter(|group| group.has_catching_up())
            .collect();
        let needed = |dest| groups.iter().any(|group| group.needs_withdrawal(dest));
        let needed: Option<&dyn Fn(DestId) -> bool> = if groups.is_empty() { None } else { Some(&needed) };
        self.rib.table.reclaim(SLICE, needed)
    }

    /// Reports End-of-RIBs once the routes before them are decided, which needs the reachability of their
    /// next hops.
    fn report_ends(&mut self) {
        if !self.work.ends.is_empty()
            && (self.config.assume_reachable || !self.rib.next_hops.has_unresolved())
        {
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
            self.queue_table_walk(work::Job::Everything(DestId(0)));
        }
    }

    /// Queues a walk over the whole table, in place of a pending one of the same kind.
    fn queue_table_walk(&mut self, job: work::Job) {
        let kind = std::mem::discriminant(&job);
        self.work
            .items
            .retain(|item| std::mem::discriminant(&item.job) != kind);
        self.work.items.push_back(work::WorkItem {
            peer: PeerId::LOCAL,
            dests: VecDeque::new(),
            job,
        });
    }

    /// Whether this node reflects routes. Only then is our cluster id in a CLUSTER_LIST a loop (RFC 4456 §8):
    /// all nodes may be configured with the same id, and a client accepts what the reflectors of that cluster
    /// reflect.
    fn is_reflector(&self) -> bool {
        self.peers
            .values()
            .any(|peer| peer.routing.kind == PeerKind::Client)
    }

    fn cluster_id(&self) -> u32 {
        self.config.cluster_id.unwrap_or(self.config.router_id.get())
    }

    fn mark_dirty(&mut self, dest: DestId) {
        if self.rib.table.mark(dest) {
            self.work.dirty.push_back(dest);
        }
    }
}
