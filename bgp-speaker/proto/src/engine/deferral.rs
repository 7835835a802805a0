//! After our restart: peers that kept our routes get none, and no End-of-RIB, before those that were up earlier have sent theirs
//! (RFC 4724 §4.1). An End-of-RIB that came too early would make them remove the routes of those that are not back yet.
//!
//! Deviation: RFC 4724 §4.1 defers route selection itself. Here selection goes on, for the kernel, whose routes were adopted and
//! are replaced one by one, and for peers without graceful restart, which have lost our routes and need them at once.

use std::collections::BTreeSet;

use super::{Engine, SessionId};
use crate::types::{Family, PeerId};

/// Whose End-of-RIB is still to come.
#[derive(Clone, Debug)]
pub(super) struct Deferral {
    /// Peers that were up before the restart and are not yet, by name.
    not_up: BTreeSet<String>,
    /// Families of peers that are up.
    receiving: BTreeSet<(PeerId, Family)>,
}

impl Engine {
    pub(super) fn defer(&mut self, names: BTreeSet<String>) {
        self.deferral = (!names.is_empty()).then(|| Deferral {
            not_up: names,
            receiving: BTreeSet::new(),
        });
    }

    /// A session came up. One whose peer restarts too waits for us (RFC 4724 §4.1), one without graceful restart sends no
    /// End-of-RIB that could be waited for.
    pub(super) fn deferral_up(&mut self, session: SessionId) {
        let Some(deferral) = &mut self.deferral else {
            return;
        };
        let Some(peer) = self.peers.get(&session.peer) else {
            return;
        };
        let Some(established) = peer
            .session
            .as_ref()
            .filter(|_| deferral.not_up.remove(&peer.routing.name))
        else {
            return;
        };
        let negotiated = &established.facts.negotiated;
        let restart = negotiated.remote.graceful_restart();
        if established.restarts_gracefully() && restart.is_some_and(|restart| !restart.restarting) {
            let families = negotiated.families.iter();
            deferral
                .receiving
                .extend(families.map(|family| (session.peer, family)));
        }
        self.end_deferral_if_complete();
    }

    /// An End-of-RIB came, and the routes before it are decided.
    pub(super) fn deferral_end_of_rib(&mut self, session: SessionId, family: Family) {
        let is_latest = self
            .peers
            .get(&session.peer)
            .is_some_and(|peer| peer.has(session));
        if let Some(deferral) = self.deferral.as_mut().filter(|_| is_latest) {
            deferral.receiving.remove(&(session.peer, family));
            self.end_deferral_if_complete();
        }
    }

    /// A peer is not waited for any more: its session ended again, or it is not configured.
    pub(super) fn deferral_gone(&mut self, peer: PeerId, removed: bool) {
        let Some(deferral) = &mut self.deferral else {
            return;
        };
        deferral.receiving.retain(|(id, _)| *id != peer);
        if let Some(peer) = self.peers.get(&peer).filter(|_| removed) {
            deferral.not_up.remove(&peer.routing.name);
        }
        self.end_deferral_if_complete();
    }

    fn end_deferral_if_complete(&mut self) {
        let complete = |deferral: &Deferral| deferral.not_up.is_empty() && deferral.receiving.is_empty();
        if self.deferral.as_ref().is_some_and(complete) {
            self.end_deferral();
        }
    }

    pub(super) fn end_deferral(&mut self) {
        if self.deferral.take().is_some() {
            let ids: Vec<PeerId> = self.peers.keys().copied().collect();
            ids.into_iter().for_each(|id| self.serve(id));
        }
    }

    /// Whether nothing is sent to the peer for now.
    pub(super) fn is_deferred(&self, peer: PeerId) -> bool {
        self.deferral.is_some()
            && self.peers.get(&peer).is_some_and(|peer| {
                peer.session
                    .as_ref()
                    .is_some_and(super::peers::Established::restarts_gracefully)
            })
    }
}
