//! What the engine keeps of each peer: its configuration, its established session, and what came from it.

use std::sync::Arc;

use super::adj_in::AdjIn;
use super::{PeerRouting, SessionFacts, SessionId};
use crate::rib::generation::{Before, Generation, Generations};
use crate::types::{Family, FamilySet, PeerId};

/// Names an update group of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct GroupId(pub usize);

/// What ends with a session.
#[derive(Clone, Debug)]
pub(super) struct Established {
    pub(super) facts: Box<SessionFacts>,
    pub(super) group: Option<GroupId>,
    /// Bytes given to the shell and not yet written.
    pub(super) outstanding: usize,
    /// Prefixes over the limit: the session is being ended, what still comes is dropped.
    pub(super) refused: bool,
    /// Families in which the operator was warned of the number of prefixes.
    pub(super) warned: FamilySet,
    /// The operator was warned of too many paths of a prefix.
    pub(super) warned_of_paths: bool,
    /// The operator was warned of the memory that its routes take.
    pub(super) warned_of_memory: bool,
}

impl Established {
    pub(super) fn new(facts: Box<SessionFacts>) -> Self {
        Self {
            facts,
            group: None,
            outstanding: 0,
            refused: false,
            warned: FamilySet::EMPTY,
            warned_of_paths: false,
            warned_of_memory: false,
        }
    }

    /// Whether the peer keeps our routes while we restart (RFC 4724 §3).
    pub(super) fn restarts_gracefully(&self) -> bool {
        let negotiated = &self.facts.negotiated;
        negotiated.local.graceful_restart().is_some() && negotiated.remote.graceful_restart().is_some()
    }
}

/// A configured peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) routing: Arc<PeerRouting>,
    /// Of its latest session.
    pub(super) epoch: u32,
    pub(super) session: Option<Established>,
    /// Its session ended, and its routes stay for now.
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

    /// The same peer with the same session, as if it had announced nothing and had been told nothing.
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

    /// Of both families.
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

    /// The generation of what the peer announces now.
    pub(super) fn generation(&self, family: Family) -> Generation {
        self.generations(family).current()
    }

    /// The generations before the current ones, by family.
    pub(super) fn stale(&self) -> [Before; 2] {
        Family::ALL.map(|family| self.generations(family).older())
    }

    /// All paths of these generations have the youngest of them now.
    pub(super) fn merged(&mut self, before: [Before; 2]) {
        for (generations, before) in self.generations.iter_mut().zip(before) {
            generations.merged(before);
        }
    }

    /// No path has one of these generations any more.
    pub(super) fn removed(&mut self, before: [Before; 2]) {
        for (generations, before) in self.generations.iter_mut().zip(before) {
            generations.removed(before);
        }
    }
}
