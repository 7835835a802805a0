//! Deferral after a restart of this speaker (RFC 4724 §4.1). Peers that retained our routes are sent neither
//! routes nor End-of-RIB until the peers that were up before the restart have sent their own End-of-RIB. An
//! early End-of-RIB would make them remove the routes that we have not learned again yet.
//!
//! Deviation: RFC 4724 §4.1 defers route selection itself. Here selection continues: the kernel's routes were
//! adopted and are replaced one by one, and peers without graceful restart have dropped our routes and need
//! them at once.

use std::collections::BTreeSet;

use super::{Engine, SessionId};
use crate::types::{Family, PeerId};

/// The peers whose End-of-RIB is awaited.
#[derive(Clone, Debug)]
pub(super) struct Deferral {
    /// Names of peers that were up before the restart and are not up yet.
    not_up: BTreeSet<String>,
    /// Families of established peers whose End-of-RIB is awaited.
    receiving: BTreeSet<(PeerId, Family)>,
}

impl Engine {
    pub(super) fn defer(&mut self, names: BTreeSet<String>) {
        self.deferral = (!names.is_empty()).then(|| Deferral {
            not_up: names,
            receiving: BTreeSet::new(),
        });
    }

    /// A session is established. A peer that restarts as well waits for us (RFC 4724 §4.1), and one without
    /// graceful restart sends no End-of-RIB: neither is awaited.
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

    /// A peer's End-of-RIB arrived, and the routes before it are decided.
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

    /// A peer is no longer awaited: its session ended, or it was removed from the configuration.
    pub(super) fn deferral_remove(&mut self, peer: PeerId, removed: bool) {
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
            ids.into_iter().for_each(|id| self.queue_catch_up(id));
        }
    }

    /// Whether the peer is sent nothing for now.
    pub(super) fn is_deferred(&self, peer: PeerId) -> bool {
        self.deferral.is_some()
            && self.peers.get(&peer).is_some_and(|peer| {
                peer.session
                    .as_ref()
                    .is_some_and(super::peers::Established::restarts_gracefully)
            })
    }
}
