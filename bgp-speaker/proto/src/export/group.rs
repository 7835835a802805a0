//! An update group: members that get identical bytes, and what they were told.
//!
//! The engine calls [`Group::update`] for every destination whose best path may have changed, and
//! [`Group::flush`] once for the lot. A new group fills its Adj-RIB-Out from the table step by step
//! (`filled`), so that a peer that comes up beside a million routes delays nobody.
//!
//! In families with several paths per prefix (RFC 7911) the same is done for each path under its identifier.

mod catch_up;

use std::collections::{BTreeMap, BTreeSet};

use super::adj_out::{AdjOut, Excluded, Outcome, OutcomeId, Sent};
use super::counts::{Counts, Coverage};
use super::lagging::{Joining, Lagging};
use super::pack::Packer;
use super::rib::Rib;
use super::rules::GroupKey;
use super::several::{Change, Paths, SeveralOut};
use super::sources::{Best, Sources};
use crate::export::chunk::Chunk;
use crate::policy::Route;
use crate::rib::attrs::{AttrId, AttrTable};
use crate::rib::table::DestId;
use crate::types::{Family, FamilySet, PathId, PeerId, Prefix};
use crate::wire::{Nlri, PathAttrs, Refresh, RefreshKind};

/// An update group.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the members have in common.
    pub key: GroupKey,
    members: BTreeSet<PeerId>,
    /// Members that do not follow the flushes yet.
    lagging: BTreeMap<PeerId, Lagging>,
    adj_out: AdjOut,
    /// In families with several paths, instead of `adj_out`.
    several: SeveralOut,
    /// Destinations below were taken into the Adj-RIB-Out.
    filled: u32,
    /// A member has caught up once: new destinations are all in the flushes.
    complete: bool,
    packer: Packer,
    counts: Counts,
    asked: Asked,
    /// Whether the policy does.
    looks_at_prefixes: bool,
    /// Whether it looks at the peer that a route came from.
    looks_at_peers: bool,
}

/// Answers for the path looked at last, within one flush: neighbours in a table share them.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Of a policy that looks at no prefixes.
    sent: Option<(AttrId, PeerId, Family, Option<Sent>)>,
    may_export: Option<(AttrId, PeerId, Family, bool)>,
    is_member: Option<(PeerId, bool)>,
}

impl Group {
    /// A group without members.
    #[must_use]
    pub fn new(key: GroupKey) -> Self {
        Self {
            looks_at_prefixes: key.policy.looks_at_prefixes(),
            looks_at_peers: key.policy.looks_at_peers(),
            key,
            members: BTreeSet::new(),
            lagging: BTreeMap::new(),
            adj_out: AdjOut::default(),
            several: SeveralOut::default(),
            filled: 0,
            complete: false,
            packer: Packer::default(),
            counts: Counts::default(),
            asked: Asked::default(),
        }
    }

    /// The same group before it told anybody anything, with all members following.
    #[must_use]
    pub fn without_routes(&self) -> Self {
        Self {
            members: self.members.clone(),
            complete: true,
            ..Self::new(self.key.clone())
        }
    }

    /// Takes a peer in; it is to be told everything.
    pub fn join(&mut self, peer: PeerId, joining: Joining) {
        self.members.insert(peer);
        self.lagging.insert(peer, Lagging::from_start(joining));
    }

    /// What a member that moves to another group now, with so many destinations, may know, and which ends are still to be sent to it.
    #[must_use]
    pub fn moving(&self, peer: PeerId, bound: u32) -> Joining {
        let lagging = self.lagging.get(&peer);
        Joining {
            end_of_rib: lagging.map_or(FamilySet::EMPTY, |lagging| lagging.end_of_rib),
            end_of_refresh: lagging.map_or(FamilySet::EMPTY, |lagging| lagging.end_of_refresh),
            resync_below: bound,
        }
    }

    /// The identifiers of paths that members may know (RFC 7911), for a member that moves to another group.
    #[must_use]
    pub fn known_paths(&self) -> Vec<(DestId, PathId)> {
        self.several.known()
    }

    /// Takes note of what a member that moved here may know.
    pub fn expect_known(&mut self, known: Vec<(DestId, PathId)>) {
        self.several.expect(known);
    }

    /// Lets a peer go; true when the group is empty now.
    pub fn leave(&mut self, peer: PeerId) -> bool {
        self.members.remove(&peer);
        self.lagging.remove(&peer);
        self.members.is_empty()
    }

    /// What the Adj-RIB-Out holds, to be released.
    #[must_use]
    pub fn dissolve(self) -> Vec<Option<Sent>> {
        let mut all = self.adj_out.into_entries();
        all.extend(self.several.into_sent().map(Some));
        all
    }

    /// What was sent of this source's path is not known any more: the source is another now.
    pub fn doubt(&mut self, dest: DestId, family: Family, source: PeerId) {
        let before = self.coverage(dest);
        if self.takes_several(family) {
            let paths = self.several.get_mut(dest).iter_mut();
            let mine = paths.filter(|(_, sent)| sent.source == source);
            mine.for_each(|(_, sent)| sent.outcome = OutcomeId::UNKNOWN);
        } else if let Some(sent) = self.adj_out.get(dest).filter(|sent| sent.source == source) {
            let outcome = OutcomeId::UNKNOWN;
            self.adj_out.set(dest, Some(Sent { outcome, ..sent }));
        }
        let now = self.coverage(dest);
        self.counts.changed(family, before, now);
    }

    /// To whom anything of a destination is sent.
    fn coverage(&self, dest: DestId) -> Coverage {
        Coverage::of(self.sent(dest).map(|sent| self.adj_out.excluded(&sent)))
    }

    /// The entries of a destination.
    fn sent(&self, dest: DestId) -> impl Iterator<Item = Sent> {
        let several = self.several.get(dest).iter().map(|(_, sent)| *sent);
        self.adj_out.get(dest).into_iter().chain(several)
    }

    /// Whether the members take several paths of a prefix.
    #[must_use]
    pub fn takes_several(&self, family: Family) -> bool {
        self.key.encode.add_path.contains(family)
    }

    /// A member has too much unwritten: it leaves the fast path.
    pub fn fall_behind(&mut self, peer: PeerId) {
        if self.members.contains(&peer) {
            self.lagging.entry(peer).or_insert_with(Lagging::from_now);
        }
    }

    /// Everything of a family is to be told again (RFC 2918; with BoRR and EoRR where `enhanced`, RFC 7313 §4).
    /// The result is to be sent first.
    pub fn refresh(&mut self, peer: PeerId, family: Family, enhanced: bool) -> Option<Chunk> {
        if !self.members.contains(&peer) {
            return None;
        }
        let lagging = self.lagging.entry(peer).or_insert_with(Lagging::from_now);
        // The other family is told again too: harmless, and refreshes are rare.
        lagging.restart();
        if !enhanced || !self.key.families.contains(family) {
            return None;
        }
        lagging.end_of_refresh.insert(family);
        let kind = RefreshKind::Begin;
        Some(Chunk::only_for(peer, Refresh { family, kind }.encode()))
    }

    /// Whether the member is behind.
    #[must_use]
    pub fn is_lagging(&self, peer: PeerId) -> bool {
        self.has_lagging() && self.lagging.contains_key(&peer)
    }

    /// Whether any member is behind: then destinations must keep their ids.
    #[must_use]
    pub fn has_lagging(&self) -> bool {
        !self.lagging.is_empty()
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = PeerId> {
        self.members.iter().copied()
    }

    /// Members that follow the flushes.
    pub fn followers(&self) -> impl Iterator<Item = PeerId> {
        self.members
            .iter()
            .copied()
            .filter(|peer| !self.is_lagging(*peer))
    }

    /// Who is not told some path of a destination that others are told.
    pub fn excepted(&self, dest: DestId) -> impl Iterator<Item = PeerId> {
        self.sent(dest)
            .flat_map(|sent| self.adj_out.excluded(&sent).iter())
    }

    /// Whether a member was told a path of a destination.
    #[must_use]
    pub fn was_told(&self, peer: PeerId, dest: DestId) -> bool {
        self.sent(dest).any(|sent| self.adj_out.is_for(&sent, peer))
    }

    /// What a member was told of a destination, the best path where it was told several.
    #[must_use]
    pub fn told(
        &self,
        peer: PeerId,
        dest: DestId,
        prefix: Prefix,
        (attrs, sources): (&AttrTable, &Sources),
    ) -> Option<PathAttrs> {
        let sent = self.sent(dest).find(|sent| self.adj_out.is_for(sent, peer))?;
        let learned = sources.learned(sent.source, &prefix)?;
        let rules = self.adj_out.outcome(sent.outcome).rules;
        Some(
            self.key
                .transform(prefix.family(), attrs.get(sent.attrs), learned, rules),
        )
    }

    /// How many prefixes of a family a member was sent.
    #[must_use]
    pub fn count_for(&self, member: PeerId, family: Family) -> usize {
        self.counts.sent_to(member, family)
    }

    /// Takes in the best path of a destination, and collects what the followers have to hear.
    pub fn update(&mut self, dest: DestId, prefix: Prefix, best: Option<Best>, rib: &mut Rib) {
        if dest.0 >= self.filled {
            if !self.complete {
                return; // the fill will come by
            }
            self.filled = dest.0 + 1;
        }
        if self.takes_several(prefix.family()) {
            return self.update_several(dest, prefix, rib);
        }
        let (old, new) = self.replace(dest, prefix, best, rib);
        if old == new {
            release(old, rib);
            return;
        }
        self.mark_lagging(dest, old.is_some());
        if !self.looks_alike(prefix, old, new, rib) {
            self.tell(single(prefix), old, new);
        }
        release(old, rib);
    }

    /// `was_sent`: the members that follow had something of it.
    fn mark_lagging(&mut self, dest: DestId, was_sent: bool) {
        if self.has_lagging() {
            self.lagging
                .values_mut()
                .for_each(|lagging| lagging.mark(dest, was_sent));
        }
    }

    /// Whether a member that is behind may still have to be sent a withdrawal of this destination, which has no path.
    #[must_use]
    pub fn needs(&self, dest: DestId) -> bool {
        self.lagging.values().any(|lagging| lagging.needs(dest))
    }

    fn update_several(&mut self, dest: DestId, prefix: Prefix, rib: &mut Rib) {
        let was_sent = !self.several.get(dest).is_empty();
        let changes = self.replace_several(dest, prefix, rib);
        if !changes.is_empty() {
            self.mark_lagging(dest, was_sent);
        }
        for (path_id, old, new) in changes {
            if !self.looks_alike(prefix, old, new, rib) {
                self.tell(Nlri { path_id, prefix }, old, new);
            }
            release(old, rib);
        }
    }

    /// Puts the new paths in place; the caller releases the references of the old ones.
    fn replace_several(&mut self, dest: DestId, prefix: Prefix, rib: &mut Rib) -> Vec<Change> {
        let most = self.key.rules.add_path_most;
        let paths = rib
            .sources
            .several(&rib.table, dest, &rib.attrs, &rib.next_hops, most);
        let new: Paths = paths
            .into_iter()
            .filter_map(|(id, best)| Some((id, self.evaluate(prefix, best, rib)?)))
            .collect();
        let before = self.coverage(dest);
        // One that is not current knows what it knew, whatever came since.
        let behind = self.lagging.values().any(|lagging| lagging.is_current(dest));
        let changes = self.several.set(dest, new, behind);
        for sent in changes.iter().filter_map(|(_, _, new)| *new) {
            rib.attrs.retain(sent.attrs);
        }
        let now = self.coverage(dest);
        self.counts.changed(prefix.family(), before, now);
        changes
    }

    /// Puts the new entry in place; the caller releases the old one's reference.
    #[inline]
    fn replace(
        &mut self,
        dest: DestId,
        prefix: Prefix,
        best: Option<Best>,
        rib: &mut Rib,
    ) -> (Option<Sent>, Option<Sent>) {
        let new = best.and_then(|best| self.evaluate(prefix, best, rib));
        if let Some(sent) = new {
            rib.attrs.retain(sent.attrs);
        }
        let old = self.adj_out.set(dest, new);
        let coverage = |sent: Option<Sent>| match sent {
            Some(sent) => Coverage::AllBut(self.adj_out.excluded(&sent)),
            None => Coverage::Nothing,
        };
        let (before, now) = (coverage(old), coverage(new));
        self.counts.changed(prefix.family(), before, now);
        (old, new)
    }

    fn evaluate(&mut self, prefix: Prefix, best: Best, rib: &Rib) -> Option<Sent> {
        if !rib.sources.replaced.is_empty() && rib.sources.is_replaced(&prefix) {
            return None;
        }
        let asked = (best.attrs, best.source, prefix.family());
        if let Some((attrs, source, family, sent)) = self.asked.sent
            && (attrs, source, family) == asked
        {
            return sent;
        }
        let sent = self.evaluated(prefix, best, rib);
        // What is our own differs by prefix, not by source.
        if best.source != PeerId::LOCAL && !self.looks_at_prefixes {
            let (attrs, source, family) = asked;
            self.asked.sent = Some((attrs, source, family, sent));
        }
        sent
    }

    fn evaluated(&mut self, prefix: Prefix, best: Best, rib: &Rib) -> Option<Sent> {
        let set = rib.attrs.get(best.attrs);
        if !self.may_export(prefix, best, set) {
            return None;
        }
        let route = Route {
            prefix,
            attrs: set,
            source: best.learned.source(),
            from: self
                .looks_at_peers
                .then(|| rib.sources.neighbor(best.source, best.learned))
                .flatten(),
        };
        let rules = self.key.policy.evaluate(route)?;
        let family = prefix.family();
        let next_hop = self.key.next_hop_after(rules, family, set, best.learned)?.addr();
        let mut next_hop_of = None;
        if !self.key.is_own(next_hop, family) {
            let peer = rib.sources.at(next_hop);
            next_hop_of = peer.filter(|peer| *peer != best.source);
        }
        Some(Sent {
            attrs: best.attrs,
            source: best.source,
            outcome: self.adj_out.outcome_id(Outcome { rules, next_hop_of }),
        })
    }

    fn may_export(&mut self, prefix: Prefix, best: Best, set: &PathAttrs) -> bool {
        if best.source == PeerId::LOCAL {
            return self.key.may_export(&prefix, set, best.learned);
        }
        let family = prefix.family();
        if let Some((attrs, source, of, answer)) = self.asked.may_export
            && (attrs, source, of) == (best.attrs, best.source, family)
        {
            return answer;
        }
        let answer = self.key.may_export(&prefix, set, best.learned);
        self.asked.may_export = Some((best.attrs, best.source, family, answer));
        answer
    }

    fn is_member(&mut self, peer: PeerId) -> bool {
        match self.asked.is_member {
            Some((asked, answer)) if asked == peer => answer,
            _ => {
                let answer = self.members.contains(&peer);
                self.asked.is_member = Some((peer, answer));
                answer
            }
        }
    }

    /// Whether the members would get the same bytes again (only worth asking when something was sent before).
    fn looks_alike(&self, prefix: Prefix, old: Option<Sent>, new: Option<Sent>, rib: &Rib) -> bool {
        let (Some(old), Some(new)) = (old, new) else {
            return false;
        };
        if old.outcome == OutcomeId::UNKNOWN || self.adj_out.excluded(&old) != self.adj_out.excluded(&new) {
            return false; // others are told
        }
        let Some(learned) = rib.sources.learned(new.source, &prefix) else {
            return false;
        };
        let family = prefix.family();
        let form = |sent: Sent| {
            self.key.transform(
                family,
                rib.attrs.get(sent.attrs),
                learned,
                self.adj_out.outcome(sent.outcome).rules,
            )
        };
        form(old) == form(new)
    }

    fn tell(&mut self, nlri: Nlri, old: Option<Sent>, new: Option<Sent>) {
        let (before, now) = (self.excluded_members(old), self.excluded_members(new));
        if new.is_none() {
            return self.packer.tell_all(nlri, None, before);
        }
        self.packer.tell_all(nlri, new, now);
        if old.is_none() || before == now {
            return;
        }
        // Who is not sent it any more, the new source for example, must forget what it was sent before.
        for member in now.iter().filter(|member| !before.contains(*member)) {
            if !self.lagging.contains_key(&member) {
                self.packer.tell_one(nlri, None, member);
            }
        }
    }

    fn excluded_members(&mut self, sent: Option<Sent>) -> Excluded {
        let Some(sent) = sent else {
            return Excluded::default();
        };
        let mut excluded = self.adj_out.excluded(&sent);
        if !self.is_member(sent.source) {
            excluded.source = None;
        }
        if let Some(peer) = excluded.next_hop_of
            && !self.members.contains(&peer)
        {
            excluded.next_hop_of = None;
        }
        excluded
    }

    /// Encodes what was collected, for all followers; `None` when there is nothing to tell.
    pub fn flush(&mut self, rib: &Rib) -> Option<Chunk> {
        self.asked = Asked::default();
        if !self.has_lagging() {
            self.several.forget_gone();
        }
        if self.packer.is_empty() {
            return None;
        }
        Some(self.encode(rib))
    }

    fn encode(&mut self, rib: &Rib) -> Chunk {
        let (key, adj_out) = (&self.key, &self.adj_out);
        self.packer.encode(&key.encode, |family, prefix, sent| {
            let learned = rib.sources.learned(sent.source, &prefix)?;
            Some(key.transform(
                family,
                rib.attrs.get(sent.attrs),
                learned,
                adj_out.outcome(sent.outcome).rules,
            ))
        })
    }
}

/// A prefix of which one path is sent.
fn single(prefix: Prefix) -> Nlri {
    Nlri {
        path_id: PathId(0),
        prefix,
    }
}

fn release(sent: Option<Sent>, rib: &mut Rib) {
    if let Some(sent) = sent {
        rib.attrs.release(sent.attrs, &mut rib.next_hops);
    }
}
