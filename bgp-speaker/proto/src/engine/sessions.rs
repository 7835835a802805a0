//! Peers and their sessions: configured, established, ended; and next hops that change.
//!
//! Every input of a session carries its [`SessionId`]; one of an ended session changes nothing.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::peers::{Established, Peer};
use super::work::{Item, Job, Lost};
use super::{Engine, PeerRouting, Reach, SessionFacts, SessionId};
use crate::export::lagging::Joining;
use crate::export::rules::Learned;
use crate::export::sources::PeerName;
use crate::rib::nexthop::NextHopId;
use crate::rib::table::DestId;
use crate::types::{Family, PeerId, Prefix};
use crate::wire::{Refresh, RefreshKind};

impl Engine {
    pub(super) fn configure(&mut self, id: PeerId, routing: Arc<PeerRouting>) {
        let reflected = self.reflects();
        self.configure_peer(id, routing);
        self.reflecting_changed(reflected);
    }

    /// The first client makes loops of paths that passed our cluster, and with the last one they are none any more.
    fn reflecting_changed(&mut self, before: bool) {
        if self.reflects() != before {
            let everything = vec![Prefix::v4(0, 0), Prefix::v6(0, 0)];
            self.work.items.push_back(Item {
                peer: PeerId::LOCAL,
                dests: VecDeque::new(),
                job: Job::Blocks(everything, DestId(0)),
            });
        }
    }

    fn configure_peer(&mut self, id: PeerId, routing: Arc<PeerRouting>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            // A peer that was removed and comes back at once: what is left of it is not its own any more.
            self.finish_items(id);
            self.peers.insert(id, Peer::new(routing));
            return;
        };
        let old = std::mem::replace(&mut peer.routing, routing);
        let facts = peer.session.as_ref().map(|session| session.facts.clone());
        let import_changed = old.import != peer.routing.import
            || (old.allow_own_as, old.local_asn, old.kind, old.rules)
                != (
                    peer.routing.allow_own_as,
                    peer.routing.local_asn,
                    peer.routing.kind,
                    peer.routing.rules,
                );
        // Routes that are kept while the peer restarts follow the policy too.
        if import_changed && (facts.is_some() || peer.restarting) {
            self.drop_items(id, |job| matches!(job, Job::Reimport));
            self.queue(id, Job::Reimport);
        }
        let Some(facts) = facts else { return };
        self.learn_source(id, &facts);
        self.regroup(id);
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        let reflected = self.reflects();
        self.remove_peer(id);
        self.reflecting_changed(reflected);
    }

    fn remove_peer(&mut self, id: PeerId) {
        self.deferral_gone(id, true);
        self.depart(id);
        self.peers.remove(&id);
        // Without the peer its generations say nothing; all that is left of it goes.
        let items = self.work.items.iter_mut().filter(|item| item.peer == id);
        items.for_each(|item| item.job = Job::WithdrawAll);
        if !self.work.items.iter().any(|item| item.peer == id) {
            self.forget_source(id);
        }
    }

    pub(super) fn up(&mut self, session: SessionId, facts: Box<SessionFacts>) {
        let id = session.peer;
        let newer = |peer: &Peer| session.epoch > peer.epoch;
        if !self.peers.get(&id).is_some_and(newer) {
            return;
        }
        if self.peers.get(&id).is_some_and(Peer::is_up) {
            self.depart(id);
        }
        self.remove_unkept(id, &facts);
        self.learn_source(id, &facts);
        let families = facts.negotiated.families;
        let key = self.group_key(id, &facts);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.epoch = session.epoch;
        peer.session = Some(Established::new(facts));
        peer.restarting = false;
        if !self.feeds.is_empty() {
            self.queue(id, Job::Feeds);
        }
        self.deferral_up(session);
        // Nothing will come of these.
        let absent = Family::ALL
            .into_iter()
            .filter(|family| !families.contains(*family));
        self.work.ends.extend(absent.map(|family| (session, family)));
        if let Some(key) = key {
            let everything = Joining::new(key.families);
            self.join_group(id, key, everything);
        }
    }

    /// What the host says of a session changed: the peer moves to the group that it belongs to now.
    pub(super) fn new_facts(&mut self, session: SessionId, facts: Box<SessionFacts>) {
        let Some(peer) = self.peers.get_mut(&session.peer).filter(|peer| peer.has(session)) else {
            return;
        };
        if let Some(established) = &mut peer.session {
            established.facts = facts;
        }
        self.regroup(session.peer);
    }

    /// Takes note of who the source is. Of paths that it left from before, decisions and what was sent of them follow anew: a path may
    /// say the same and be another's, as an identifier is part of what goes out (RFC 4456 §8) and of what decides (RFC 4271 §9.1.2.2).
    fn learn_source(&mut self, id: PeerId, facts: &SessionFacts) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let learned = Learned::Peer(peer.routing.kind, facts.negotiated.remote_id());
        let addr = facts.remote_addr;
        let sources = &mut self.rib.sources;
        let before = sources.peers.insert(id, learned);
        let name = PeerName {
            name: peer.routing.name.as_str().into(),
            asn: peer.routing.remote_asn,
        };
        let renamed = sources.names.insert(id, name.clone());
        let changed =
            before.is_some_and(|before| before != learned) || renamed.is_some_and(|before| before != name);
        let old_addr = sources.address(id);
        let moved = old_addr != Some(addr);
        if moved || sources.at(addr) != Some(id) {
            sources.learn_address(id, addr);
            self.peers_changed_at([old_addr, Some(addr)]);
        }
        if changed || (moved && before.is_some()) {
            self.queue_with_leftovers(id, Job::Source);
        }
    }

    pub(super) fn forget_source(&mut self, id: PeerId) {
        let addr = self.rib.sources.address(id);
        self.rib.sources.forget(id);
        self.peers_changed_at([addr, None]);
    }

    /// Which peer has these addresses changed. It is not sent routes over its own (RFC 4271 §5.1.3).
    fn peers_changed_at(&mut self, addrs: [Option<IpAddr>; 2]) {
        let addrs = addrs.into_iter().flatten();
        let mut policies = self.groups.iter().flatten().map(|group| &group.key.policy);
        if policies.any(|policy| addrs.clone().any(|addr| policy.names_next_hop(addr))) {
            return self.queue_all(Job::Everything(DestId(0)));
        }
        let next_hops = addrs.filter_map(|addr| self.rib.next_hops.find(addr));
        let next_hops: FxHashSet<NextHopId> = next_hops.collect();
        if !next_hops.is_empty() {
            let item = self.over_next_hops(next_hops, Lost::default());
            self.work.items.push_back(item);
        }
    }

    pub(super) fn down(&mut self, session: SessionId) {
        if self
            .peers
            .get(&session.peer)
            .is_some_and(|peer| peer.is_latest(session))
        {
            self.depart(session.peer);
        }
    }

    /// The session is over, if there is one, and all routes of the peer go, also those that were kept.
    fn depart(&mut self, id: PeerId) {
        self.end_session(id);
        self.drop_items(id, |job| {
            matches!(
                job,
                Job::Reimport | Job::LongLived | Job::Unreachable(_) | Job::Merge(_)
            )
        });
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.restarting = false;
        self.make_room(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let gone = Family::ALL.map(|family| peer.generations_mut(family).end_all());
        let dests = peer.adj_in.take_notes();
        self.work.items.push_back(Item {
            peer: id,
            dests,
            job: Job::Withdraw(gone),
        });
    }

    /// The session is over; what becomes of the peer's routes is for the caller to say.
    pub(super) fn end_session(&mut self, id: PeerId) {
        self.leave_group(id);
        self.work.behind.retain(|behind| *behind != id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.session = None;
        }
        self.deferral_gone(id, false);
    }

    pub(super) fn drop_items(&mut self, id: PeerId, unwanted: impl Fn(&Job) -> bool) {
        self.work
            .items
            .retain(|item| item.peer != id || !unwanted(&item.job));
    }

    pub(super) fn refresh(&mut self, session: SessionId, refresh: Refresh) {
        let id = session.peer;
        if !self.peers.get(&id).is_some_and(|peer| peer.has(session)) {
            return;
        }
        match refresh.kind {
            RefreshKind::Request => self.resend(id, refresh.family),
            RefreshKind::Begin => self.begin_refresh(id, refresh.family),
            RefreshKind::End => self.end_refresh(id, refresh.family),
        }
    }

    pub(super) fn learn_next_hops(&mut self, news: &[(IpAddr, Reach)]) {
        let (mut changed, mut lost) = (FxHashSet::default(), Lost::default());
        for (addr, reach) in news {
            if let Some(id) = self.rib.next_hops.learn(*addr, *reach) {
                changed.insert(id);
                if *reach == Reach::Unreachable {
                    lost.next_hops.insert(id);
                }
            }
        }
        if changed.is_empty() {
            return;
        }
        if !lost.next_hops.is_empty() {
            let restarting = self.peers.iter().filter(|(_, peer)| peer.restarting);
            lost.stale = restarting.map(|(id, peer)| (*id, peer.stale())).collect();
        }
        let item = self.over_next_hops(changed, lost);
        // Before what is under way: packets may be lost.
        self.work.items.push_front(item);
    }

    /// What leads over these next hops is decided and sent again.
    fn over_next_hops(&self, next_hops: FxHashSet<NextHopId>, lost: Lost) -> Item {
        let peers = self.peers.values();
        Item {
            peer: PeerId::LOCAL,
            dests: peers.flat_map(|peer| peer.adj_in.notes_of(&next_hops)).collect(),
            job: Job::NextHops(next_hops, lost),
        }
    }
}
