//! State per peer: its configuration, its established session, and its Adj-RIB-In.

use std::sync::Arc;

use super::adj_in::AdjIn;
use super::{PeerRouting, SessionFacts, SessionId};
use crate::rib::generation::{Generation, Generations, OlderGenerations};
use crate::types::{Asn, Family, FamilySet, PeerId};

/// Identifies an update group of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct GroupId(pub usize);

/// State with the lifetime of a session.
#[derive(Clone, Debug)]
pub(super) struct Established {
    pub(super) facts: Box<SessionFacts>,
    pub(super) group: Option<GroupId>,
    /// Bytes output and not written yet.
    pub(super) outstanding: usize,
    /// The prefix or memory limit is exceeded: the session is ending, and further routes are dropped.
    pub(super) over_limit: bool,
    /// Families whose prefix limit warning was output.
    pub(super) prefix_limit_warned: FamilySet,
    /// The path limit warning was output.
    pub(super) path_limit_warned: bool,
    /// The memory limit warning was output.
    pub(super) memory_limit_warned: bool,
}

impl Established {
    pub(super) fn new(facts: Box<SessionFacts>) -> Self {
        Self {
            facts,
            group: None,
            outstanding: 0,
            over_limit: false,
            prefix_limit_warned: FamilySet::EMPTY,
            path_limit_warned: false,
            memory_limit_warned: false,
        }
    }

    /// Whether the peer retains our routes while we restart (RFC 4724 §3).
    pub(super) fn restarts_gracefully(&self) -> bool {
        let negotiated = &self.facts.negotiated;
        negotiated.local.graceful_restart().is_some() && negotiated.remote.graceful_restart().is_some()
    }
}

/// A configured peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) routing: Arc<PeerRouting>,
    /// The epoch of the latest session.
    pub(super) epoch: u32,
    pub(super) session: Option<Established>,
    /// The session ended, and its routes are retained.
    pub(super) restarting: bool,
    pub(super) adj_in: AdjIn,
    generations: [Generations; 2],
}

impl Peer {
    pub(super) fn new(routing: Arc<PeerRouting>) -> Self {
        Self {
            routing,
            epoch: 0,
            session: None,
            restarting: false,
            adj_in: AdjIn::default(),
            generations: [Generations::default(); 2],
        }
    }

    /// Records the AS number that the peer's OPEN had.
    pub(super) fn learn_asn(&mut self, asn: Asn) {
        if self.routing.remote_asn != Some(asn) {
            Arc::make_mut(&mut self.routing).remote_asn = Some(asn);
        }
    }

    /// The same peer with the same session, but with empty Adj-RIB-In and Adj-RIB-Out.
    pub(super) fn without_routes(&self) -> Self {
        let session = self.session.as_ref().map(|session| Established {
            group: session.group,
            ..Established::new(session.facts.clone())
        });
        Self {
            epoch: self.epoch,
            session,
            restarting: self.restarting,
            generations: self.generations,
            ..Self::new(Arc::clone(&self.routing))
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.session.is_some()
    }

    /// Whether this is the peer's latest session, established or not.
    pub(super) fn is_latest(&self, session: SessionId) -> bool {
        self.epoch == session.epoch
    }

    /// Whether this session is established.
    pub(super) fn has(&self, session: SessionId) -> bool {
        self.is_latest(session) && self.is_up()
    }

    pub(super) fn id(&self, peer: PeerId) -> SessionId {
        SessionId {
            peer,
            epoch: self.epoch,
        }
    }

    pub(super) fn group(&self) -> Option<GroupId> {
        self.session.as_ref()?.group
    }

    pub(super) fn generations(&self, family: Family) -> &Generations {
        let [v4, v6] = &self.generations;
        match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        }
    }

    /// The generations of both families.
    pub(super) fn all_generations(&self) -> [Generations; 2] {
        self.generations
    }

    pub(super) fn generations_mut(&mut self, family: Family) -> &mut Generations {
        let [v4, v6] = &mut self.generations;
        match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        }
    }

    /// The generation of paths announced now.
    pub(super) fn generation(&self, family: Family) -> Generation {
        self.generations(family).current()
    }

    /// All generations older than the current one, by family.
    pub(super) fn stale_generations(&self) -> [OlderGenerations; 2] {
        Family::ALL.map(|family| self.generations(family).older())
    }

    /// All paths of these generations now have the youngest of them.
    pub(super) fn generations_merged(&mut self, before: [OlderGenerations; 2]) {
        for (generations, before) in self.generations.iter_mut().zip(before) {
            generations.merged(before);
        }
    }

    /// No path has one of these generations any more.
    pub(super) fn generations_removed(&mut self, before: [OlderGenerations; 2]) {
        for (generations, before) in self.generations.iter_mut().zip(before) {
            generations.removed(before);
        }
    }
}
