//! Update groups: members that are sent identical bytes, and their Adj-RIB-Out.
//!
//! The engine calls [`Group::update`] for every destination whose best path may have changed, and then
//! [`Group::flush`] once. A new group fills its Adj-RIB-Out from the table step by step (`filled`), so that a
//! peer that comes up beside a million routes delays nobody.
//!
//! In families with ADD-PATH (RFC 7911) the same is done for each path under its identifier.
//!
//! Panics: as [`AttrTable`], if the last reference of an id of the Adj-RIB-Out was released.
//!
//! ```
//! use bgp_proto::export::catch_up::JoinState;
//! use bgp_proto::export::group::Group;
//! use bgp_proto::export::rib::Rib;
//! use bgp_proto::export::rules::GroupKey;
//! use bgp_proto::peer::PeerKind;
//! use bgp_proto::types::{Asn, PeerId};
//! # use std::sync::Arc;
//! # use bgp_proto::peer::PathRules;
//! # use bgp_proto::policy::Policy;
//! # use bgp_proto::types::FamilySet;
//! # use bgp_proto::wire::{EncodeContext, MAX_LEN};
//!
//! let mut group = Group::new(GroupKey {
//! #     kind: PeerKind::External,
//! #     local_asn: Asn(64512),
//! #     own_asn: Asn(64512),
//! #     member_asn: None,
//! #     rules: PathRules::default(),
//! #     families: FamilySet::ALL,
//! #     extended_next_hop: FamilySet::EMPTY,
//! #     encode: EncodeContext {
//! #         four_octet_as: true,
//! #         add_path: FamilySet::EMPTY,
//! #         max_len: MAX_LEN,
//! #         internal: false,
//! #     },
//! #     policy: Arc::new(Policy::accept_all()),
//! #     next_hop_self: false,
//! #     local_v4: Some([192, 0, 2, 1].into()),
//! #     local_v6: None,
//! #     shared_subnets: vec![],
//! #     cluster_id: 1,
//! #     long_lived: FamilySet::EMPTY,
//! #     draining: false,
//! # });
//! group.join(PeerId(1), JoinState::new(FamilySet::ALL));
//! assert!(group.is_catching_up(PeerId(1)), "it is sent the table first");
//! assert!(group.flush(&Rib::default()).is_none(), "nothing changed");
//! assert!(group.leave(PeerId(1)), "it was the last member");
//! ```

mod catch_up_step;

use std::collections::{BTreeMap, BTreeSet};

use super::add_path::{AddPathOut, Change, Paths};
use super::adj_out::{AdjOut, Excluded, Outcome, OutcomeId, Sent};
use super::catch_up::{CatchUp, JoinState};
use super::counts::{Counts, Coverage};
use super::pack::Packer;
use super::rib::Rib;
use super::rules::GroupKey;
use super::sources::{Best, Sources};
use crate::export::chunk::Chunk;
use crate::policy::{Memo, Route};
use crate::rib::attrs::{AttrId, AttrTable};
use crate::rib::table::DestId;
use crate::types::{Family, FamilySet, PathId, PeerId, Prefix};
use crate::wire::{Nlri, PathAttrs, Refresh, RefreshKind};

/// An update group.
#[derive(Clone, Debug)]
pub struct Group {
    /// What all members have in common.
    pub key: GroupKey,
    members: BTreeSet<PeerId>,
    /// Members that do not receive flushes now.
    catching_up: BTreeMap<PeerId, CatchUp>,
    adj_out: AdjOut,
    /// Entries of families with ADD-PATH, instead of `adj_out`.
    add_path_out: AddPathOut,
    /// Destinations below are in the Adj-RIB-Out.
    filled: u32,
    /// A member has caught up once: new destinations are part of flushes.
    complete: bool,
    packer: Packer,
    counts: Counts,
    export_cache: ExportCache,
    /// Whether the policy matches prefixes.
    looks_at_prefixes: bool,
    /// Whether the policy matches the peer that a route was learned from.
    looks_at_peers: bool,
}

/// Results for the path evaluated last, within a flush: neighboring routes mostly share them.
#[derive(Clone, Debug, Default)]
struct ExportCache {
    /// Result of a policy that does not match prefixes.
    sent: Option<(AttrId, PeerId, Family, Option<Sent>)>,
    may_export: Option<(AttrId, PeerId, Family, bool)>,
    is_member: Option<(PeerId, bool)>,
    /// Results of conditions that do not depend on the prefix.
    memo: Memo,
    memo_of: Option<(AttrId, PeerId)>,
}

impl ExportCache {
    fn clear(&mut self) {
        let mut memo = std::mem::take(&mut self.memo);
        memo.clear();
        *self = Self {
            memo,
            ..Self::default()
        };
    }

    fn memo(&mut self, best: Best) -> &mut Memo {
        let key = Some((best.attrs, best.source));
        if self.memo_of != key {
            self.memo.clear();
            self.memo_of = key;
        }
        &mut self.memo
    }
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
            catching_up: BTreeMap::new(),
            adj_out: AdjOut::default(),
            add_path_out: AddPathOut::default(),
            filled: 0,
            complete: false,
            packer: Packer::default(),
            counts: Counts::default(),
            export_cache: ExportCache::default(),
        }
    }

    /// The same group with an empty Adj-RIB-Out and all members on the fast path.
    #[must_use]
    pub fn without_routes(&self) -> Self {
        Self {
            members: self.members.clone(),
            complete: true,
            ..Self::new(self.key.clone())
        }
    }

    /// Adds a member, which is then to be sent everything.
    pub fn join(&mut self, peer: PeerId, join_state: JoinState) {
        self.members.insert(peer);
        self.catching_up.insert(peer, CatchUp::from_start(join_state));
    }

    /// The state of a member that moves to another group now: the end markers still to be sent, and the bound
    /// of destinations that it may know.
    #[must_use]
    pub fn move_state(&self, peer: PeerId, bound: u32) -> JoinState {
        let catch_up = self.catching_up.get(&peer);
        JoinState {
            end_of_rib: catch_up.map_or(FamilySet::EMPTY, |catch_up| catch_up.end_of_rib),
            end_of_refresh: catch_up.map_or(FamilySet::EMPTY, |catch_up| catch_up.end_of_refresh),
            resync_below: bound,
        }
    }

    /// Path identifiers that members may know (RFC 7911), for a member that moves to another group.
    #[must_use]
    pub fn known_path_ids(&self) -> Vec<(DestId, PathId)> {
        self.add_path_out.known()
    }

    /// Adds path identifiers known to a member that joined.
    pub fn add_known_path_ids(&mut self, known: Vec<(DestId, PathId)>) {
        self.add_path_out.add_known(known);
    }

    /// Removes a member; returns true when the group is empty.
    pub fn leave(&mut self, peer: PeerId) -> bool {
        self.members.remove(&peer);
        self.catching_up.remove(&peer);
        self.members.is_empty()
    }

    /// All entries of the Adj-RIB-Out, whose references are to be released.
    #[must_use]
    pub fn into_sent_routes(self) -> Vec<Option<Sent>> {
        let mut all = self.adj_out.into_entries();
        all.extend(self.add_path_out.into_sent().map(Some));
        all
    }

    /// The advertised form of this source's paths is unknown: the source's identity changed.
    pub fn invalidate_sent(&mut self, dest: DestId, family: Family, source: PeerId) {
        let before = self.coverage(dest);
        if self.uses_add_path(family) {
            let paths = self.add_path_out.get_mut(dest).iter_mut();
            let mine = paths.filter(|(_, sent)| sent.source == source);
            mine.for_each(|(_, sent)| sent.outcome = OutcomeId::UNKNOWN);
        } else if let Some(sent) = self.adj_out.get(dest).filter(|sent| sent.source == source) {
            let outcome = OutcomeId::UNKNOWN;
            self.adj_out.set(dest, Some(Sent { outcome, ..sent }));
        }
        let now = self.coverage(dest);
        self.counts.changed(family, before, now);
    }

    /// The members that are sent a path of a destination.
    fn coverage(&self, dest: DestId) -> Coverage {
        Coverage::of(self.sent(dest).map(|sent| self.adj_out.excluded(&sent)))
    }

    /// The entries of a destination.
    fn sent(&self, dest: DestId) -> impl Iterator<Item = Sent> {
        let add_path_out = self.add_path_out.get(dest).iter().map(|(_, sent)| *sent);
        self.adj_out.get(dest).into_iter().chain(add_path_out)
    }

    /// Whether the members use ADD-PATH in this family.
    #[must_use]
    pub fn uses_add_path(&self, family: Family) -> bool {
        self.key.encode.add_path.contains(family)
    }

    /// A member has too many unwritten bytes: it leaves the fast path.
    pub fn leave_fast_path(&mut self, peer: PeerId) {
        if self.members.contains(&peer) {
            self.catching_up.entry(peer).or_insert_with(CatchUp::from_now);
        }
    }

    /// Sends everything of a family again (RFC 2918; with BoRR and EoRR where `enhanced`, RFC 7313 §4). The
    /// returned chunk is to be sent first.
    pub fn refresh(&mut self, peer: PeerId, family: Family, enhanced: bool) -> Option<Chunk> {
        if !self.members.contains(&peer) {
            return None;
        }
        let catch_up = self.catching_up.entry(peer).or_insert_with(CatchUp::from_now);
        // The other family is sent again too: harmless, and refreshes are rare.
        catch_up.restart();
        if !enhanced || !self.key.families.contains(family) {
            return None;
        }
        catch_up.end_of_refresh.insert(family);
        let kind = RefreshKind::Begin;
        Some(Chunk::only_for(peer, Refresh { family, kind }.encode()))
    }

    /// Whether the member is catching up.
    #[must_use]
    pub fn is_catching_up(&self, peer: PeerId) -> bool {
        self.has_catching_up() && self.catching_up.contains_key(&peer)
    }

    /// Whether any member is catching up: then destinations must keep their ids.
    #[must_use]
    pub fn has_catching_up(&self) -> bool {
        !self.catching_up.is_empty()
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = PeerId> {
        self.members.iter().copied()
    }

    /// Members that receive flushes.
    pub fn fast_path_members(&self) -> impl Iterator<Item = PeerId> {
        self.members
            .iter()
            .copied()
            .filter(|peer| !self.is_catching_up(*peer))
    }

    /// Members that are not sent some path of a destination that others are sent.
    pub fn excluded_from(&self, dest: DestId) -> impl Iterator<Item = PeerId> {
        self.sent(dest)
            .flat_map(|sent| self.adj_out.excluded(&sent).iter())
    }

    /// Whether a path of a destination was advertised to a member.
    #[must_use]
    pub fn was_advertised(&self, peer: PeerId, dest: DestId) -> bool {
        self.sent(dest).any(|sent| self.adj_out.is_sent_to(&sent, peer))
    }

    /// The attributes advertised to a member; with ADD-PATH, those of the first path.
    #[must_use]
    pub fn advertised_attrs(
        &self,
        peer: PeerId,
        dest: DestId,
        prefix: Prefix,
        (attrs, sources): (&AttrTable, &Sources),
    ) -> Option<PathAttrs> {
        let sent = self.sent(dest).find(|sent| self.adj_out.is_sent_to(sent, peer))?;
        let learned = sources.learned(sent.source, &prefix)?;
        let rules = self.adj_out.outcome(sent.outcome).rules;
        Some(
            self.key
                .transform(prefix.family(), attrs.get(sent.attrs), learned, rules),
        )
    }

    /// Number of prefixes of a family advertised to a member.
    #[must_use]
    pub fn count_for(&self, member: PeerId, family: Family) -> usize {
        self.counts.sent_to(member, family)
    }

    /// Updates the Adj-RIB-Out entry of a destination and queues the change.
    pub fn update(&mut self, dest: DestId, prefix: Prefix, best: Option<Best>, rib: &mut Rib) {
        if dest.0 >= self.filled {
            if !self.complete {
                return; // it will be filled later
            }
            self.filled = dest.0 + 1;
        }
        if self.uses_add_path(prefix.family()) {
            return self.update_add_path(dest, prefix, rib);
        }
        let (old, new) = self.replace(dest, prefix, best, rib);
        if old == new {
            release(old, rib);
            return;
        }
        self.mark_catching_up(dest, old.is_some());
        if !self.same_on_wire(prefix, old, new, rib) {
            self.queue_change(without_path_id(prefix), old, new);
        }
        release(old, rib);
    }

    /// `was_sent`: members on the fast path had been sent a route of it.
    fn mark_catching_up(&mut self, dest: DestId, was_sent: bool) {
        if self.has_catching_up() {
            self.catching_up
                .values_mut()
                .for_each(|catch_up| catch_up.mark(dest, was_sent));
        }
    }

    /// Whether a member may still have to be sent a withdrawal of this destination, which has no path.
    #[must_use]
    pub fn needs_withdrawal(&self, dest: DestId) -> bool {
        self.catching_up
            .values()
            .any(|catch_up| catch_up.needs_withdrawal(dest))
    }

    fn update_add_path(&mut self, dest: DestId, prefix: Prefix, rib: &mut Rib) {
        let was_sent = !self.add_path_out.get(dest).is_empty();
        let changes = self.replace_add_path(dest, prefix, rib);
        if !changes.is_empty() {
            self.mark_catching_up(dest, was_sent);
        }
        for (path_id, old, new) in changes {
            if !self.same_on_wire(prefix, old, new, rib) {
                self.queue_change(Nlri { path_id, prefix }, old, new);
            }
            release(old, rib);
        }
    }

    /// Sets the new paths; the caller releases the references of the old ones.
    fn replace_add_path(&mut self, dest: DestId, prefix: Prefix, rib: &mut Rib) -> Vec<Change> {
        let limit = self.key.rules.add_path_limit;
        let paths = rib
            .sources
            .add_path_set(&rib.table, dest, &rib.attrs, &rib.next_hops, limit);
        let new: Paths = paths
            .into_iter()
            .filter_map(|(id, best)| Some((id, self.evaluate(prefix, best, rib)?)))
            .collect();
        let before = self.coverage(dest);
        // A member that is not current does not learn of the paths in between.
        let behind = self
            .catching_up
            .values()
            .any(|catch_up| catch_up.is_current(dest));
        let changes = self.add_path_out.set(dest, new, behind);
        for sent in changes.iter().filter_map(|(_, _, new)| *new) {
            rib.attrs.retain(sent.attrs);
        }
        let now = self.coverage(dest);
        self.counts.changed(prefix.family(), before, now);
        changes
    }

    /// Sets the new entry; the caller releases the old one's reference.
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
        let key = (best.attrs, best.source, prefix.family());
        if let Some((attrs, source, family, sent)) = self.export_cache.sent
            && (attrs, source, family) == key
        {
            return sent;
        }
        let sent = self.evaluate_uncached(prefix, best, rib);
        // Originated routes differ by prefix, not by source.
        if best.source != PeerId::LOCAL && !self.looks_at_prefixes {
            let (attrs, source, family) = key;
            self.export_cache.sent = Some((attrs, source, family, sent));
        }
        sent
    }

    fn evaluate_uncached(&mut self, prefix: Prefix, best: Best, rib: &Rib) -> Option<Sent> {
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
        let policy = &self.key.policy;
        let rules = if self.looks_at_prefixes {
            policy.evaluate_with(route, self.export_cache.memo(best))
        } else {
            policy.evaluate(route)
        }?;
        let family = prefix.family();
        let next_hop = self.key.next_hop_after(rules, family, set, best.learned)?.addr();
        let mut next_hop_of = None;
        if !self.key.is_own(next_hop, family) {
            let peer = rib.sources.peer_at(next_hop);
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
        if let Some((attrs, source, of, answer)) = self.export_cache.may_export
            && (attrs, source, of) == (best.attrs, best.source, family)
        {
            return answer;
        }
        let answer = self.key.may_export(&prefix, set, best.learned);
        self.export_cache.may_export = Some((best.attrs, best.source, family, answer));
        answer
    }

    fn is_member(&mut self, peer: PeerId) -> bool {
        match self.export_cache.is_member {
            Some((key, answer)) if key == peer => answer,
            _ => {
                let answer = self.members.contains(&peer);
                self.export_cache.is_member = Some((peer, answer));
                answer
            }
        }
    }

    /// Whether the members would be sent the same bytes again.
    fn same_on_wire(&self, prefix: Prefix, old: Option<Sent>, new: Option<Sent>, rib: &Rib) -> bool {
        let (Some(old), Some(new)) = (old, new) else {
            return false;
        };
        if old.outcome == OutcomeId::UNKNOWN || self.adj_out.excluded(&old) != self.adj_out.excluded(&new) {
            return false; // other members are sent it
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

    fn queue_change(&mut self, nlri: Nlri, old: Option<Sent>, new: Option<Sent>) {
        let (before, now) = (self.excluded_members(old), self.excluded_members(new));
        if new.is_none() {
            return self.packer.queue_for_all(nlri, None, before);
        }
        self.packer.queue_for_all(nlri, new, now);
        if old.is_none() || before == now {
            return;
        }
        // A member that is not sent it any more, such as the new source, is sent a withdrawal.
        for member in now.iter().filter(|member| !before.contains(*member)) {
            if !self.catching_up.contains_key(&member) {
                self.packer.queue_for_member(nlri, None, member);
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

    /// Encodes the queued changes for the fast path members; `None` when there are none.
    pub fn flush(&mut self, rib: &Rib) -> Option<Chunk> {
        self.export_cache.clear();
        if !self.has_catching_up() {
            self.add_path_out.clear_withdrawn();
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

/// NLRI of a prefix without ADD-PATH.
fn without_path_id(prefix: Prefix) -> Nlri {
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
