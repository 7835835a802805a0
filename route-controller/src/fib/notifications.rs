//! Applies the kernel's notifications, and the changes that the kernel makes without one.
//!
//! The kernel notifies of no IPv4 route that it drops because a link was shut or removed, an address went away or a nexthop
//! object was removed with its link; and of no such object. IPv6 routes are dropped without a notification too where
//! `net.ipv6.route.skip_notify_on_dev_down` is set.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use bgp_proto::types::{Family, Prefix};

use super::dump::{ObjectReading, Reading};
use super::foreign::{Arrival, Effect, ForeignRoute};
use super::resolve::Newer;
use super::{Address, AddressState, Failure, Fib, Link, Op, RouteKey, RouteSpec, Target};

/// What a reading corrected.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Corrected {
    /// Keys of others' routes, links and addresses that were not as known.
    pub(crate) count: usize,
    /// Something that was left out because it changed meanwhile differs too.
    pub(crate) left_out: bool,
}

impl Fib {
    fn note_host(&mut self) {
        if let Some(newer) = &mut self.mirror.newer {
            newer.host = true;
        }
    }

    fn note_prefix(&mut self, prefix: Prefix) {
        if let Some(newer) = &mut self.mirror.newer {
            newer.prefixes.push(prefix);
        }
    }

    /// Routes of others are gone without a word: what they stood in the way of is tried again.
    fn dropped(&mut self, keys: Vec<RouteKey>) {
        for key in keys {
            self.note_prefix(key.prefix);
            self.delta.retry_now(key);
        }
    }

    /// A link is as given; `true` when routes and objects on it were lost.
    pub(crate) fn link_new(&mut self, ifindex: u32, link: Link) -> bool {
        self.note_host();
        let (up, enabled, losses) = (link.up, link.enabled, link.carrier_losses);
        let before = self.mirror.links.insert(ifindex, link);
        let lost = before.as_ref().is_some_and(|before| {
            (before.up && !up) || (before.enabled && !enabled) || before.carrier_losses != losses
        });
        if lost {
            let gone = self.mirror.foreign.drop_objects(ifindex);
            self.dropped(gone);
            if !enabled {
                self.drop_link(ifindex, false);
            }
            self.link_lost(ifindex);
        }
        if up && before.is_none_or(|before| !before.up) {
            self.objects.retry_now();
        }
        lost
    }

    /// A link is gone.
    pub(crate) fn link_gone(&mut self, ifindex: u32) {
        self.note_host();
        self.mirror.links.remove(&ifindex);
        let gone = self.mirror.foreign.drop_objects(ifindex);
        self.dropped(gone);
        self.drop_link(ifindex, true);
        self.link_lost(ifindex);
    }

    fn drop_link(&mut self, ifindex: u32, removed: bool) {
        let links = &self.mirror.links;
        let is_shut = |ifindex: u32| links.get(&ifindex).is_none_or(|link| !link.enabled);
        let gone = self.mirror.foreign.drop_link(ifindex, removed, is_shut);
        self.dropped(gone);
    }

    /// An address of the host is there, or stands differently.
    pub(crate) fn address_new(&mut self, address: Address, state: AddressState) {
        self.note_host();
        let before = self.sources(address);
        if self.mirror.addresses.insert(address, state) != Some(state) {
            self.objects.retry_now();
            if self.sources(address) != before {
                self.sources_again();
            }
        }
    }

    /// An address of the host is gone.
    pub(crate) fn address_gone(&mut self, address: Address) {
        self.note_host();
        let before = self.sources(address);
        self.mirror.addresses.remove(&address);
        if !self.mirror.is_own(address.addr) {
            let gone = self.mirror.foreign.drop_source(address.addr);
            self.dropped(gone);
        }
        let of_link = |own: &Address| own.ifindex == address.ifindex && own.addr.is_ipv4();
        if address.addr.is_ipv4() && !self.mirror.addresses.keys().any(of_link) {
            let gone = self.mirror.foreign.drop_addressless(address.ifindex);
            self.dropped(gone);
        }
        self.address_lost(address);
        if self.sources(address) != before {
            self.sources_again();
        }
    }

    /// The node's own addresses that routes have as sources, and whether this address is the source of some.
    fn sources(&self, address: Address) -> ([Option<IpAddr>; 2], bool) {
        let is_wanted = self.options.wants_source(address.addr);
        (
            [Family::Ipv4, Family::Ipv6].map(|family| self.source(family)),
            is_wanted && self.mirror.is_source(address.addr),
        )
    }

    /// Somebody else has a new route.
    pub(crate) fn foreign_new(&mut self, prefix: Prefix, route: ForeignRoute, arrival: Arrival) -> Effect {
        self.note_prefix(prefix);
        let (own, unsure) = self.delta.kernel_spec(&route.key(prefix));
        let mut effect = self.mirror.foreign.add(prefix, route, arrival, own.as_deref());
        effect.unexpected |= unsure;
        effect
    }

    /// Somebody else's route is gone.
    pub(crate) fn foreign_gone(&mut self, prefix: Prefix, route: &ForeignRoute) -> Effect {
        self.note_prefix(prefix);
        let key = route.key(prefix);
        let known = self.mirror.foreign.remove(prefix, route);
        // Without objects the own route may have been a part of one multipath route with it (IPv6).
        let (own, _) = self.delta.kernel_spec(&key);
        if let Some(Target::NextHops(next_hops)) = own.as_deref().map(|spec| &spec.target)
            && next_hops
                .iter()
                .any(|next_hop| route.hops.contains(&next_hop.hop))
        {
            self.delta.doubt_key(key);
        }
        self.delta.retry_now(key);
        Effect {
            took_own: false,
            unexpected: !known,
        }
    }

    /// At most `most` changes of routes to make now. Where somebody else has a route of the same key, it is never replaced:
    /// an own route beside it that has to change goes.
    pub(crate) fn take_routes(&mut self, now: Instant, most: usize) -> Vec<Op> {
        let mut ops = self.delta.take(now, most);
        let mirror = &self.mirror;
        let is_blocked = |op: &Op| !matches!(op, Op::Remove(_)) && mirror.foreign(&op.key()).is_some();
        for blocked in ops.extract_if(.., |op| is_blocked(op)).collect::<Vec<_>>() {
            match blocked {
                Op::Replace(key, _) => ops.push(Op::Remove(key)),
                op => self.delta.done(now, op, Err(Failure::Exists)),
            }
        }
        ops
    }

    /// A reading of links, addresses and others' routes begins.
    pub(crate) fn begin_audit(&mut self) {
        self.mirror.newer = Some(Newer::default());
        self.delta.begin_audit();
    }

    /// There is no reading.
    pub(crate) fn abandon_audit(&mut self) {
        self.mirror.newer = None;
        self.delta.abandon_audit();
    }

    /// The reading, but for what changed since it began, takes the place of what was known; own routes in it are
    /// given back.
    pub(crate) fn correct_mirror(&mut self, reading: Reading) -> (Corrected, OwnRoutes) {
        let newer = self.mirror.newer.take().unwrap_or_default();
        let (keys, mut left_out) = self.mirror.foreign.correct(reading.foreign, &newer.prefixes);
        left_out |= reading.is_doubtful;
        let mut count = keys.len();
        keys.into_iter().for_each(|key| self.delta.retry_now(key));
        let links = reading.links.into_iter().collect();
        let addresses = reading.addresses.into_iter().collect();
        let differ =
            usize::from(self.mirror.links != links) + usize::from(self.mirror.addresses != addresses);
        if newer.host {
            left_out |= differ > 0;
        } else if differ > 0 {
            (self.mirror.links, self.mirror.addresses) = (links, addresses);
            self.sources_again();
            count += differ;
        }
        (Corrected { count, left_out }, reading.own)
    }

    /// The kernel has dropped objects and routes on this link: what led over no other, and routes without objects.
    fn link_lost(&mut self, ifindex: u32) {
        if !self.concerns(ifindex) {
            return;
        }
        let emptied = self.objects.link_lost(ifindex);
        let objects = &self.objects;
        self.delta.doubt(|spec| match spec.target {
            Target::Group(id) => emptied.contains(&id) || objects.uses(id, ifindex, true),
            _ => spec.uses(ifindex),
        });
    }

    /// Whether an own route may lead over this link; most links of a node are pods'.
    fn concerns(&self, ifindex: u32) -> bool {
        let mut hops = self.resolved.values().flat_map(|resolved| &resolved.hops);
        // Routes without objects may still be as they were before the last change.
        !self.objects.enabled() || self.objects.touches(ifindex) || hops.any(|hop| hop.ifindex == ifindex)
    }

    /// The kernel drops IPv4 routes with this preferred source, and leaves IPv6 routes without it.
    fn address_lost(&mut self, address: Address) {
        let is_source =
            self.config.sources.contains(&address.addr) || self.options.wants_source(address.addr);
        if !is_source && !self.concerns(address.ifindex) {
            return;
        }
        let objects = &self.objects;
        self.delta.doubt(|spec| {
            let uses = match spec.target {
                Target::Group(id) => objects.uses(id, address.ifindex, false),
                _ => spec.uses(address.ifindex),
            };
            uses || spec.source == Some(address.addr)
        });
    }

    /// A reading of nexthop objects; routes of lost ones may have gone with them. Gives how many were not as known.
    pub(crate) fn objects_read(&mut self, (own, foreign): ObjectReading) -> usize {
        let (lost, differ) = self.objects.observe(own, foreign);
        self.objects_gone(&lost);
        differ
    }

    /// Somebody took these objects away, with the routes that refer to them; they may be there again already.
    pub(crate) fn objects_gone(&mut self, gone: &BTreeSet<u32>) {
        if !gone.is_empty() {
            self.delta
                .doubt(|spec| spec.group().is_some_and(|id| gone.contains(&id)));
        }
    }

    /// Wanted routes that the kernel refuses.
    pub(crate) fn failed(&self) -> usize {
        self.delta.refused()
    }

    /// Nexthop objects were put that the kernel had not: routes that were refused for want of them go again.
    pub(crate) fn objects_put(&mut self, there: &BTreeSet<u32>) {
        if !there.is_empty() {
            self.delta.retry_groups(there);
        }
    }
}

/// Own routes in a reading.
pub(crate) type OwnRoutes = Vec<(RouteKey, RouteSpec)>;
