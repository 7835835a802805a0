//! Update group membership and catch-up of peers.

use std::sync::Arc;

use super::peers::{GroupId, Peer};
use super::{Chunk, Engine, Output, SessionFacts};
use crate::export::catch_up::JoinState;
use crate::export::group::Group;
use crate::export::rules::GroupKey;
use crate::types::{Family, PeerId};

impl Engine {
    pub(super) fn drain(&mut self, on: bool) {
        if std::mem::replace(&mut self.local.draining, on) != on {
            let established = self.peers.iter().filter(|(_, peer)| peer.is_up());
            let ids: Vec<PeerId> = established.map(|(id, _)| *id).collect();
            ids.into_iter().for_each(|id| self.update_group(id));
        }
    }

    /// Moves a peer to the group that its key belongs to.
    pub(super) fn update_group(&mut self, id: PeerId) {
        let session = self.peers.get(&id).and_then(|peer| peer.session.as_ref());
        let Some(facts) = session.map(|session| session.facts.clone()) else {
            return;
        };
        let key = self.group_key(id, &facts);
        let same = self
            .group_of(id)
            .is_some_and(|group| Some(&group.key) == key.as_ref());
        if let (false, Some(key)) = (same, key) {
            let bound = self.rib.table.bound();
            let known = self.group_of(id).map(Group::known_path_ids).unwrap_or_default();
            let move_state = self.group_of(id).map(|group| group.move_state(id, bound));
            let join_state = move_state.unwrap_or(JoinState::new(key.families));
            self.leave_group(id);
            self.join_group(id, key, join_state);
            if let Some(GroupId(index)) = self.peers.get(&id).and_then(Peer::group)
                && let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut)
            {
                group.add_known_path_ids(known);
            }
        }
    }

    pub(super) fn group_key(&self, id: PeerId, facts: &SessionFacts) -> Option<GroupKey> {
        self.peers.get(&id).map(|peer| {
            let key = GroupKey::of(&peer.routing, facts, self.config.asn, self.cluster_id());
            GroupKey {
                draining: self.local.draining,
                ..key
            }
        })
    }

    pub(super) fn group_of(&self, peer: PeerId) -> Option<&Group> {
        let GroupId(index) = self.peers.get(&peer)?.group()?;
        self.groups.get(index)?.as_ref()
    }

    pub(super) fn join_group(&mut self, id: PeerId, key: GroupKey, join_state: JoinState) {
        let found = self
            .groups
            .iter()
            .position(|group| group.as_ref().is_some_and(|group| group.key == key));
        let index = found.unwrap_or_else(|| self.new_group(key));
        if let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut) {
            group.join(id, join_state);
        }
        if let Some(session) = self.peers.get_mut(&id).and_then(|peer| peer.session.as_mut()) {
            session.group = Some(GroupId(index));
        }
        self.queue_catch_up(id);
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

    pub(super) fn leave_group(&mut self, id: PeerId) {
        let session = self.peers.get_mut(&id).and_then(|peer| peer.session.as_mut());
        let Some(GroupId(index)) = session.and_then(|session| session.group.take()) else {
            return;
        };
        self.rib.table.unblock();
        let Some(place) = self.groups.get_mut(index) else {
            return;
        };
        if place.as_mut().is_some_and(|group| group.leave(id))
            && let Some(group) = place.take()
        {
            self.work.dropped_adj_outs.push(group.into_sent_routes());
        }
    }

    /// Queues a member for a catch-up step, once, if it has credit and is not deferred.
    pub(super) fn queue_catch_up(&mut self, id: PeerId) {
        let Some(session) = self.peers.get(&id).and_then(|peer| peer.session.as_ref()) else {
            return;
        };
        let Some(GroupId(index)) = session.group.filter(|_| session.outstanding < Self::LOW_WATER) else {
            return;
        };
        let group = self.groups.get(index).and_then(Option::as_ref);
        if group.is_some_and(|group| group.is_catching_up(id))
            && !self.is_deferred(id)
            && !self.work.catch_up_queue.contains(&id)
        {
            self.work.catch_up_queue.push_back(id);
        }
    }

    pub(super) fn written(&mut self, session: super::SessionId, bytes: usize) {
        let peer = self.peers.get_mut(&session.peer);
        if let Some(established) = peer
            .filter(|peer| peer.is_latest(session))
            .and_then(|peer| peer.session.as_mut())
        {
            established.outstanding = established.outstanding.saturating_sub(bytes);
            self.queue_catch_up(session.peer);
        }
    }

    pub(super) fn catch_up(&mut self, id: PeerId) {
        let Some(GroupId(index)) = self.peers.get(&id).and_then(Peer::group) else {
            return;
        };
        let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let (chunk, _) = group.catch_up(id, &mut self.rib);
        self.rib.table.unblock();
        self.advertise(id, &Arc::new(chunk));
        self.queue_catch_up(id);
    }

    /// Outputs a chunk for a peer and charges its credit.
    pub(super) fn advertise(&mut self, id: PeerId, chunk: &Arc<Chunk>) {
        let octets = chunk.len_for(id);
        if octets == 0 {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let session_id = peer.id(id);
        let Some(session) = &mut peer.session else { return };
        session.outstanding += Chunk::cost_of(octets);
        self.out
            .push_back(Output::Advertise(session_id, Arc::clone(chunk)));
        if session.outstanding > Self::HIGH_WATER
            && let Some(GroupId(index)) = session.group
            && let Some(group) = self.groups.get_mut(index).and_then(Option::as_mut)
        {
            group.leave_fast_path(id);
        }
    }

    /// Sends our routes of a family to the peer again.
    pub(super) fn resend(&mut self, id: PeerId, family: Family) {
        let session = self.peers.get(&id).and_then(|peer| peer.session.as_ref());
        let Some(session) = session else { return };
        let enhanced = session.facts.negotiated.enhanced_refresh;
        let Some(GroupId(index)) = session.group else {
            return;
        };
        let group = self.groups.get_mut(index).and_then(Option::as_mut);
        if let Some(begin) = group.and_then(|group| group.refresh(id, family, enhanced)) {
            self.advertise(id, &Arc::new(begin));
        }
        self.queue_catch_up(id);
    }
}
