//! From a peer's batch to paths in the table: loop checks, next-hop sanity, import policy (RFC 4271 §9.1.1).
//!
//! A path that may not be used stays in the table with the reason, so that `show routes` can say it and
//! a changed policy needs no route refresh.

use std::borrow::Borrow;
use std::net::IpAddr;

use super::peers::slot;
use super::{Engine, Output, OverLimit, PeerKind, PeerRouting};
use crate::policy::{ActionContext, Route, RuleSet, Source};
use crate::rib::attrs::AttrId;
use crate::rib::table::{DestId, Ineligible, Path};
use crate::types::{Family, PeerId, Prefix, scope_of};
use crate::wire::{Nlri, Notification, PathAttrs, RouteBatch, RouteOp};

/// What import made of an announcement's attributes: its prefixes share most of it.
#[derive(Default)]
pub(super) struct Cached {
    /// Of a policy that looks at no prefixes.
    imported: Option<(Family, Result<AttrId, Ineligible>)>,
    checked: Option<(Family, Result<(), Ineligible>)>,
    /// The last policy outcome; holds a reference.
    changed: Option<(RuleSet, AttrId)>,
}

impl Cached {
    /// Releases what it holds.
    pub(super) fn let_go(self, engine: &mut Engine) {
        if let Some((_, id)) = self.changed {
            engine.attrs.release(id, &mut engine.next_hops);
        }
    }
}

impl Engine {
    /// Takes the peer's routes in.
    pub(super) fn import_batch(&mut self, peer: PeerId, mut batch: RouteBatch) {
        for op in std::mem::take(&mut batch.ops) {
            if self
                .peers
                .get(&peer)
                .is_none_or(|known| !known.is_up() || known.refused)
            {
                return;
            }
            match op {
                RouteOp::Announce { attrs, nlri } => self.announce_all(peer, attrs, batch.slice(&nlri)),
                RouteOp::Withdraw { nlri } => self.withdraw_all(peer, batch.slice(&nlri)),
                RouteOp::EndOfRib(family) => {
                    self.end_sweep(peer, family); // RFC 4724 §4.2
                    self.ends.push((peer, family));
                }
            }
        }
    }

    fn announce_all(&mut self, peer: PeerId, attrs: PathAttrs, nlri: &[Nlri]) {
        let received = self.attrs.intern(attrs, &mut self.next_hops);
        let mut cached = Cached::default();
        for (position, nlri) in nlri.iter().enumerate() {
            let imported = self.imported(peer, &nlri.prefix, received, &mut cached);
            let path = Path {
                peer,
                path_id: nlri.path_id,
                received,
                imported,
            };
            self.announce(&nlri.prefix, path);
            if position % 64 == 0 && self.over_limit(peer, nlri.prefix.family()) {
                break;
            }
        }
        cached.let_go(self);
        self.attrs.release(received, &mut self.next_hops);
        if let Some(last) = nlri.last() {
            self.over_limit(peer, last.prefix.family());
        }
    }

    /// Puts a path into the table; `path` borrows the caller's references and takes its own.
    pub(super) fn announce(&mut self, prefix: &Prefix, path: Path) {
        let dest = self.table.dest(prefix);
        let path_id = path.path_id;
        self.note_feeds(path.peer, path_id, prefix);
        self.hold(&path);
        match self.table.path(dest, path.peer, path.path_id) {
            Some((at, old)) => {
                self.table.replace(at, path);
                self.let_go(&old);
                self.forget_missing(&path, dest);
                if old == path {
                    return;
                }
            }
            None => {
                self.table.insert(dest, path);
                if let Some(peer) = self.peers.get_mut(&path.peer) {
                    peer.adj_in.added(dest, prefix.family());
                }
            }
        }
        self.mark(dest);
    }

    fn forget_missing(&mut self, path: &Path, dest: DestId) {
        if let Some(peer) = self.peers.get_mut(&path.peer) {
            for sweep in &mut peer.sweeps {
                sweep.missing.remove(&(dest, path.path_id));
            }
        }
    }

    /// Takes paths of a peer out of the table.
    pub(super) fn withdraw_all(&mut self, peer: PeerId, all: impl IntoIterator<Item = impl Borrow<Nlri>>) {
        let mut gone = [0; Family::ALL.len()];
        for nlri in all {
            let nlri = nlri.borrow();
            if self.withdraw(peer, nlri)
                && let Some(count) = gone.get_mut(slot(nlri.prefix.family()))
            {
                *count += 1;
            }
        }
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        for (family, count) in Family::ALL.into_iter().zip(gone) {
            known.adj_in.removed(family, count);
        }
        if known.adj_in.is_bloated() {
            let table = &self.table;
            known
                .adj_in
                .compact(|dest| table.paths(dest).any(|(_, path)| path.peer == peer));
        }
    }

    /// Whether the path was there.
    fn withdraw(&mut self, peer: PeerId, nlri: &Nlri) -> bool {
        let Some(dest) = self.table.find_next(&nlri.prefix) else {
            return false;
        };
        let Some(path) = self.table.take(dest, peer, nlri.path_id) else {
            return false;
        };
        self.let_go(&path);
        self.note_feeds(peer, nlri.path_id, &nlri.prefix);
        self.mark(dest);
        true
    }

    /// RFC 4486 §4: more prefixes than configured end the session with Cease/1.
    fn over_limit(&mut self, peer: PeerId, family: Family) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else {
            return false;
        };
        let Some(limit) = known.routing.max_prefixes else {
            return false;
        };
        let count = known.adj_in.count(family);
        let over = count > limit.limit as usize;
        let many = over || limit.warn_at.is_some_and(|at| count >= at as usize);
        if many && !known.warned.contains(family) {
            known.warned.insert(family);
            self.out.push_back(Output::ManyPrefixes(peer, family, count));
        }
        let OverLimit::Cease { restart_after } = limit.action else {
            return false;
        };
        if over && !known.refused {
            known.refused = true;
            let notification = Notification::max_prefixes(family, limit.limit);
            self.out
                .push_back(Output::Fail(peer, notification, restart_after));
        }
        over
    }

    /// What import makes of a path: attributes after policy (with a reference held by `cached` or
    /// `received`), or why it may not be used.
    pub(super) fn imported(
        &mut self,
        peer: PeerId,
        prefix: &Prefix,
        received: AttrId,
        cached: &mut Cached,
    ) -> Result<AttrId, Ineligible> {
        if self.own_blocks.iter().any(|block| block.contains(prefix)) {
            return Err(Ineligible::OwnBlock);
        }
        if let Some((family, imported)) = cached.imported
            && family == prefix.family()
        {
            return imported;
        }
        let imported = self.evaluated(peer, prefix, received, cached);
        let known = self.peers.get(&peer);
        if known.is_some_and(|known| !known.routing.import.looks_at_prefixes()) {
            cached.imported = Some((prefix.family(), imported));
        }
        imported
    }

    fn evaluated(
        &mut self,
        peer: PeerId,
        prefix: &Prefix,
        received: AttrId,
        cached: &mut Cached,
    ) -> Result<AttrId, Ineligible> {
        let Some(known) = self.peers.get(&peer) else {
            return Err(Ineligible::Policy);
        };
        let attrs = self.attrs.get(received);
        match cached.checked {
            Some((family, outcome)) if family == prefix.family() => outcome?,
            _ => {
                let outcome = self.check_attrs(&known.routing, prefix.family(), attrs);
                cached.checked = Some((prefix.family(), outcome));
                outcome?;
            }
        }
        let policy = &known.routing.import;
        let rules = policy
            .evaluate(Route {
                prefix: *prefix,
                attrs,
                source: Source::Peer,
            })
            .ok_or(Ineligible::Policy)?;
        // RFC 7705 §3.1: the number that the peer knows us by stands in the path too.
        let prepend = known
            .routing
            .rules
            .local_as
            .is_some_and(|local_as| !local_as.no_prepend);
        if rules.is_empty() && !prepend {
            return Ok(received);
        }
        if let Some((_, id)) = cached.changed.filter(|(last, _)| *last == rules) {
            return Ok(id);
        }
        let mut changed = attrs.clone();
        if prepend {
            changed.as_path = changed.as_path.prepend(known.routing.local_asn, 1);
        }
        let context = ActionContext {
            local_asn: known.routing.local_asn,
            local_addr: None,
        };
        policy.apply(rules, &mut changed, context);
        if changed.next_hop != attrs.next_hop && !is_usable(changed.next_hop.addr(), prefix.family()) {
            return Err(Ineligible::BadNextHop);
        }
        let id = self.attrs.intern(changed, &mut self.next_hops);
        if let Some((_, old)) = cached.changed.replace((rules, id)) {
            // A path that uses the old one holds its own reference by now.
            self.attrs.release(old, &mut self.next_hops);
        }
        Ok(id)
    }

    /// Loops and next hops that cannot be (RFC 4271 §9.1.2, §6.3; RFC 4456 §8).
    fn check_attrs(
        &self,
        routing: &PeerRouting,
        family: Family,
        attrs: &PathAttrs,
    ) -> Result<(), Ineligible> {
        let own = |asn| attrs.as_path.count(asn) > usize::from(routing.allow_own_as);
        if own(routing.local_asn) || (self.config.asn != routing.local_asn && own(self.config.asn)) {
            return Err(Ineligible::AsLoop);
        }
        let external = routing.kind == PeerKind::External;
        if external && routing.rules.enforce_first_as && attrs.as_path.neighbor() != Some(routing.remote_asn)
        {
            return Err(Ineligible::FirstAs);
        }
        if !external && let Some(rare) = attrs.rare.as_deref() {
            if rare.originator_id == Some(self.config.router_id) {
                return Err(Ineligible::OriginatorLoop);
            }
            if rare.cluster_list.contains(&self.cluster_id()) {
                return Err(Ineligible::ClusterLoop);
            }
        }
        if is_usable(attrs.next_hop.addr(), family) {
            Ok(())
        } else {
            Err(Ineligible::BadNextHop)
        }
    }

    /// A path refers once to each set that it names.
    pub(super) fn hold(&mut self, path: &Path) {
        self.attrs.retain(path.received);
        if let Some(imported) = changed_by_import(path) {
            self.attrs.retain(imported);
        }
    }

    pub(super) fn let_go(&mut self, path: &Path) {
        self.attrs.release(path.received, &mut self.next_hops);
        if let Some(imported) = changed_by_import(path) {
            self.attrs.release(imported, &mut self.next_hops);
        }
    }
}

fn changed_by_import(path: &Path) -> Option<AttrId> {
    path.imported.ok().filter(|imported| *imported != path.received)
}

/// Whether packets can be sent to the address, for a prefix of this family. A link-local address says where only together
/// with the interface of a session on that link (RFC 4291 §2.5.6, RFC 2545 §2).
fn is_usable(addr: IpAddr, family: Family) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            family == Family::Ipv4 && !(addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast())
        }
        IpAddr::V6(addr) if addr.is_unicast_link_local() => scope_of(addr.into()).is_some(),
        IpAddr::V6(addr) => !(addr.is_unspecified() || addr.is_multicast()),
    }
}
