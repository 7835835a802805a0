//! From a peer's batch to paths in the table: loop checks, next-hop sanity, import policy (RFC 4271 §9.1.1).
//!
//! A path that may not be used stays in the table with the reason, so that `show routes` can say it and
//! a changed policy needs no route refresh.

use std::net::IpAddr;

use super::{Engine, Output, OverLimit, PeerKind, PeerRouting};
use crate::policy::{ActionContext, Route, RuleSet, Source};
use crate::rib::attrs::AttrId;
use crate::rib::table::{DestId, Ineligible, Path};
use crate::types::{Family, PeerId, Prefix};
use crate::wire::{Nlri, Notification, PathAttrs, RouteBatch, RouteOp};

/// The last policy outcome of an announcement: most of its prefixes share it.
pub(super) type Cached = Option<(RuleSet, AttrId)>;

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
                RouteOp::Withdraw { nlri } => {
                    for nlri in batch.slice(&nlri) {
                        self.withdraw(peer, *nlri);
                    }
                }
                RouteOp::EndOfRib(family) => {
                    self.end_sweep(peer, family); // RFC 4724 §4.2
                    self.ends.push((peer, family));
                }
            }
        }
    }

    fn announce_all(&mut self, peer: PeerId, attrs: Box<PathAttrs>, nlri: &[Nlri]) {
        let received = self.attrs.intern(attrs, &mut self.next_hops);
        let mut cached: Cached = None;
        for (position, nlri) in nlri.iter().enumerate() {
            let imported = self.imported(peer, nlri.prefix, received, &mut cached);
            let path = Path {
                peer,
                path_id: nlri.path_id,
                received,
                imported,
            };
            self.announce(nlri.prefix, path);
            if position % 64 == 0 && self.over_limit(peer, nlri.prefix.family()) {
                break;
            }
        }
        if let Some((_, id)) = cached {
            self.attrs.release(id, &mut self.next_hops);
        }
        self.attrs.release(received, &mut self.next_hops);
        if let Some(last) = nlri.last() {
            self.over_limit(peer, last.prefix.family());
        }
    }

    /// Puts a path into the table; `path` borrows the caller's references and takes its own.
    pub(super) fn announce(&mut self, prefix: Prefix, path: Path) {
        let dest = self.table.dest(prefix);
        let path_id = path.path_id;
        self.note_feeds(path.peer, Nlri { path_id, prefix });
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

    pub(super) fn withdraw(&mut self, peer: PeerId, nlri: Nlri) {
        let Some(dest) = self.table.find(&nlri.prefix) else {
            return;
        };
        let Some((at, _)) = self.table.path(dest, peer, nlri.path_id) else {
            return;
        };
        if let Some(path) = self.table.remove(dest, at) {
            self.let_go(&path);
            self.note_feeds(peer, nlri);
        }
        self.mark(dest);
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        known.adj_in.removed(nlri.prefix.family());
        if known.adj_in.is_bloated() {
            self.compact(peer);
        }
    }

    /// Drops stale notes of the peer's destinations.
    fn compact(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        let notes = known.adj_in.take();
        let table = &self.table;
        let live = notes
            .into_iter()
            .flat_map(|dest| {
                table
                    .paths(dest)
                    .filter(|(_, path)| path.peer == peer)
                    .map(move |_| dest)
            })
            .collect();
        known.adj_in.restore(live);
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
        prefix: Prefix,
        received: AttrId,
        cached: &mut Cached,
    ) -> Result<AttrId, Ineligible> {
        let Some(known) = self.peers.get(&peer) else {
            return Err(Ineligible::Policy);
        };
        let attrs = self.attrs.get(received);
        if self.own_blocks.iter().any(|block| block.contains(&prefix)) {
            return Err(Ineligible::OwnBlock);
        }
        self.check_attrs(&known.routing, prefix, attrs)?;
        let policy = &known.routing.import;
        let rules = policy
            .evaluate(Route {
                prefix,
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
        if let Some((_, id)) = cached.filter(|(last, _)| *last == rules) {
            return Ok(id);
        }
        let mut changed = Box::new(attrs.clone());
        if prepend {
            changed.as_path = changed.as_path.prepend(known.routing.local_asn, 1);
        }
        let context = ActionContext {
            local_asn: known.routing.local_asn,
            local_addr: None,
        };
        policy.apply(rules, &mut changed, context);
        let id = self.attrs.intern(changed, &mut self.next_hops);
        if let Some((_, old)) = cached.replace((rules, id)) {
            // A path that uses the old one holds its own reference by now.
            self.attrs.release(old, &mut self.next_hops);
        }
        Ok(id)
    }

    /// Loops and next hops that cannot be (RFC 4271 §9.1.2, §6.3; RFC 4456 §8).
    fn check_attrs(
        &self,
        routing: &PeerRouting,
        prefix: Prefix,
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
        if is_usable(attrs.next_hop.addr(), prefix.family()) {
            Ok(())
        } else {
            Err(Ineligible::BadNextHop)
        }
    }

    pub(super) fn hold(&mut self, path: &Path) {
        self.attrs.retain(path.received);
        if let Ok(imported) = path.imported {
            self.attrs.retain(imported);
        }
    }

    pub(super) fn let_go(&mut self, path: &Path) {
        self.attrs.release(path.received, &mut self.next_hops);
        if let Ok(imported) = path.imported {
            self.attrs.release(imported, &mut self.next_hops);
        }
    }
}

/// Whether packets can be sent to the address, for a prefix of this family.
fn is_usable(addr: IpAddr, family: Family) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            family == Family::Ipv4 && !(addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast())
        }
        IpAddr::V6(addr) => !(addr.is_unspecified() || addr.is_multicast()),
    }
}
