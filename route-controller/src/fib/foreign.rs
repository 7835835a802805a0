//! Routes of others, distinguished as the kernel does.
//!
//! Prefix, table and metric do not name a route: IPv4 keeps a list of routes with the same three (`ip route append`,
//! `prepend`, one connected route per interface), IPv6 too, and joins those with a gateway and no nexthop object to one
//! multipath route. A notification (RTM_NEWROUTE) says by its flags what became of those that were there:
//!
//! | nlmsg_flags | IPv4 | IPv6 |
//! |---|---|---|
//! | `EXCL \| CREATE` | the only one | the only one |
//! | `CREATE \| APPEND` | last | last, or in a multipath route, of which every next hop is named |
//! | `CREATE` | first | the same |
//! | `REPLACE` | in place of the first | in place of the first that is multipath as it is, or is not; else of the first |
//!
//! `REPLACE` also comes for each route of a nexthop object that changed. RTM_DELROUTE names one route, or some next hops
//! of an IPv6 multipath route. Routes that the kernel drops without a notification are found by `drop_*`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};
use rustc_hash::{FxHashMap, FxHashSet};

use super::route::{MAIN, NextHop, RouteKey, RouteSpec, Target};

/// RTPROT_RA: routes of router advertisements are never joined to multipath routes.
const ROUTER_ADVERTISEMENT: u8 = 9;

/// A route of another program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ForeignRoute {
    pub(crate) metric: u32,
    pub(crate) table: u32,
    pub(crate) protocol: u8,
    /// Sorted.
    pub(crate) hops: Vec<NextHop>,
    /// Preferred source address.
    pub(crate) source: Option<IpAddr>,
    /// The nexthop object that it refers to.
    pub(crate) object: Option<u32>,
    /// Blackhole, unreachable and the like: packets go no further.
    pub(crate) discards: bool,
}

impl ForeignRoute {
    pub(super) fn key(&self, prefix: Prefix) -> RouteKey {
        RouteKey {
            prefix,
            metric: self.metric,
            table: self.table,
        }
    }

    fn is_at(&self, key: &RouteKey) -> bool {
        (self.metric, self.table) == (key.metric, key.table)
    }

    /// Whether IPv6 joins it with others to one multipath route.
    fn joins(&self) -> bool {
        self.object.is_none()
            && self.protocol != ROUTER_ADVERTISEMENT
            && self.hops.iter().any(|hop| hop.gateway.is_some())
    }

    fn has_all_of(&self, hops: &[NextHop]) -> bool {
        hops.iter().all(|hop| self.hops.contains(hop))
    }
}

/// How a route came, by the flags of its notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// Behind those that were there.
    Last,
    /// Before those that were there.
    First,
    /// In place of one that was there.
    Replaced,
}

impl Arrival {
    /// From `nlmsg_flags` of RTM_NEWROUTE.
    pub(crate) fn of(flags: u16) -> Self {
        use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
        if flags & NLM_F_REPLACE != 0 {
            Self::Replaced
        } else if flags & (NLM_F_CREATE | NLM_F_APPEND | NLM_F_EXCL) == NLM_F_CREATE {
            Self::First
        } else {
            Self::Last
        }
    }
}

/// What a notification did beyond the route that it names.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Effect {
    /// Our own route of this key is gone.
    pub(crate) took_own: bool,
    /// It does not fit what was known: a notification is missing.
    pub(crate) unexpected: bool,
}

/// A route of others, and its place beside the own one of the same key.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    route: ForeignRoute,
    /// Before the own route.
    ahead: bool,
}

/// All routes of others.
#[derive(Debug, Default)]
pub(crate) struct ForeignRoutes {
    /// By metric and table; of the same key in the kernel's order.
    routes: FxHashMap<Prefix, Vec<Entry>>,
    /// How many prefixes there are of each length, per family.
    lengths: BTreeMap<(Family, u8), usize>,
    /// Prefixes by what their routes may go with.
    by_mark: FxHashMap<Mark, FxHashSet<Prefix>>,
}

/// What a route may go with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Mark {
    Link(u32),
    Source(IpAddr),
}

fn marks(entries: &[Entry]) -> Vec<Mark> {
    let links = |entry: &Entry| {
        entry
            .route
            .hops
            .iter()
            .map(|hop| Mark::Link(hop.ifindex))
            .collect::<Vec<_>>()
    };
    let mut marks: Vec<Mark> = entries.iter().flat_map(links).collect();
    marks.extend(
        entries
            .iter()
            .filter_map(|entry| entry.route.source)
            .map(Mark::Source),
    );
    marks
}

impl ForeignRoutes {
    /// Routes to just this prefix, best first.
    pub(crate) fn at(&self, prefix: Prefix) -> impl Iterator<Item = &ForeignRoute> {
        self.routes
            .get(&prefix)
            .into_iter()
            .flatten()
            .map(|entry| &entry.route)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Prefix, &ForeignRoute)> {
        let all = self.routes.iter();
        all.flat_map(|(prefix, entries)| entries.iter().map(|entry| (*prefix, &entry.route)))
    }

    /// The first route of this key.
    pub(crate) fn of_key(&self, key: &RouteKey) -> Option<&ForeignRoute> {
        self.at(key.prefix).find(|route| route.is_at(key))
    }

    /// Lengths that prefixes of a family have, longest first.
    pub(crate) fn lengths(&self, family: Family, shortest: u8) -> impl Iterator<Item = u8> {
        let lengths = self.lengths.range((family, shortest)..=(family, 128)).rev();
        lengths.filter(|(_, count)| **count > 0).map(|((_, len), _)| *len)
    }

    /// The next route of a complete reading. `behind_own`: an own one with the same key was read before it.
    pub(crate) fn read(&mut self, prefix: Prefix, route: ForeignRoute, behind_own: bool) {
        self.insert(prefix, route, false, !behind_own);
    }

    /// A notification of a new route. `own`: the own route that the kernel has under the same key.
    pub(crate) fn add(
        &mut self,
        prefix: Prefix,
        mut route: ForeignRoute,
        arrival: Arrival,
        own: Option<&RouteSpec>,
    ) -> Effect {
        route.hops.dedup();
        let has_own = own.is_some();
        if self.refresh(prefix, &route) {
            return Effect::default();
        }
        match arrival {
            Arrival::Replaced => self.replace(prefix, route, own),
            _ if prefix.family() == Family::Ipv6 && route.hops.len() > 1 => {
                self.join(prefix, route, own);
                Effect::default()
            }
            Arrival::First if prefix.family() == Family::Ipv4 => {
                self.insert(prefix, route, true, has_own);
                Effect::default()
            }
            Arrival::First | Arrival::Last => {
                self.insert(prefix, route, false, false);
                Effect::default()
            }
        }
    }

    /// A route that is there already: by the reading, or with an object that changed since.
    fn refresh(&mut self, prefix: Prefix, route: &ForeignRoute) -> bool {
        let same = |known: &ForeignRoute| {
            let by_object = route.object.is_some()
                && (known.object, known.protocol, known.source)
                    == (route.object, route.protocol, route.source)
                && known.is_at(&route.key(prefix));
            known == route || by_object
        };
        if !self.at(prefix).any(same) {
            return false;
        }
        self.edit(prefix, |entries| {
            if let Some(entry) = entries.iter_mut().find(|entry| same(&entry.route)) {
                entry.route.hops.clone_from(&route.hops);
            }
        });
        true
    }

    /// In place of the first of its kind.
    fn replace(&mut self, prefix: Prefix, route: ForeignRoute, own: Option<&RouteSpec>) -> Effect {
        let key = route.key(prefix);
        let is_v6 = prefix.family() == Family::Ipv6;
        let alike = |joins: bool| !is_v6 || joins == route.joins();
        let own_alike = own.map(|spec| alike(joins(spec)));
        let entries = self.routes.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        let find = |any: bool| {
            let of_key = |entry: &&Entry| entry.route.is_at(&key);
            let fits = |entry: &Entry| any || alike(entry.route.joins());
            let first = entries.iter().filter(of_key).find(|entry| fits(entry));
            let own = own_alike.is_some_and(|alike| any || alike);
            match first {
                Some(entry) if !own || entry.ahead => Some(Replaced::Foreign(entry.route.clone())),
                _ if own => Some(Replaced::Own),
                _ => None,
            }
        };
        let place = find(false).or_else(|| find(true));
        let effect = Effect {
            took_own: place == Some(Replaced::Own),
            unexpected: place.is_none(),
        };
        match place {
            Some(Replaced::Foreign(old)) => self.edit(prefix, |entries| {
                if let Some(entry) = entries.iter_mut().find(|entry| entry.route == old) {
                    entry.route = route;
                }
            }),
            Some(Replaced::Own) | None => self.insert(prefix, route, true, false),
        }
        effect
    }

    /// An IPv6 multipath route, with every next hop it has now; those of an own route are left out.
    fn join(&mut self, prefix: Prefix, mut route: ForeignRoute, own: Option<&RouteSpec>) {
        let key = route.key(prefix);
        self.retain(prefix, |known| {
            !(known.is_at(&key) && known.joins() && route.has_all_of(&known.hops))
        });
        if let Some(Target::NextHops(next_hops)) = own.map(|spec| &spec.target) {
            route
                .hops
                .retain(|hop| next_hops.iter().all(|next_hop| next_hop.hop != *hop));
        }
        if !route.hops.is_empty() {
            self.insert(prefix, route, false, false);
        }
    }

    /// A notification that a route is gone; `true` when it was known.
    pub(crate) fn remove(&mut self, prefix: Prefix, route: &ForeignRoute) -> bool {
        let key = route.key(prefix);
        let exact = |known: &ForeignRoute| known == route;
        let by_object = |known: &ForeignRoute| {
            known.is_at(&key)
                && route.object.is_some()
                && (known.object, known.protocol) == (route.object, route.protocol)
        };
        if self.remove_first(prefix, exact) || self.remove_first(prefix, by_object) {
            return true;
        }
        // Some next hops of a multipath route, whose other members may have other protocols.
        let mut found = false;
        self.change(prefix, |known| {
            let of_it =
                prefix.family() == Family::Ipv6 && known.is_at(&key) && known.joins() && route.joins();
            if of_it && known.hops.iter().any(|hop| route.hops.contains(hop)) {
                known.hops.retain(|hop| !route.hops.contains(hop));
                found = true;
                return !known.hops.is_empty();
            }
            true
        });
        found
    }

    fn remove_first(&mut self, prefix: Prefix, wanted: impl Fn(&ForeignRoute) -> bool) -> bool {
        let mut found = false;
        self.retain(prefix, |known| {
            let hit = !found && wanted(known);
            found |= hit;
            !hit
        });
        found
    }

    /// A link was shut (`all_down`: whether a link is shut): IPv4 drops the routes that have no other. `removed`: the link
    /// is there no more, and with it goes every IPv4 route that names it. Gives what was dropped.
    pub(crate) fn drop_link(
        &mut self,
        ifindex: u32,
        removed: bool,
        is_shut: impl Fn(u32) -> bool,
    ) -> Vec<RouteKey> {
        self.drop_where(Mark::Link(ifindex), |prefix, route| {
            let names = route.hops.iter().any(|hop| hop.ifindex == ifindex);
            let all = || {
                route
                    .hops
                    .iter()
                    .all(|hop| hop.ifindex == ifindex || is_shut(hop.ifindex))
            };
            names && (all() || (removed && route.object.is_none() && prefix.family() == Family::Ipv4))
        })
    }

    /// A link lost its carrier: the kernel removes the nexthop objects on it, and routes that lead nowhere without.
    pub(crate) fn drop_objects(&mut self, ifindex: u32) -> Vec<RouteKey> {
        let mut gone = Vec::new();
        for prefix in self.prefixes_of(Mark::Link(ifindex)) {
            self.change(prefix, |route| {
                if route.object.is_none() || route.hops.is_empty() {
                    return true;
                }
                route.hops.retain(|hop| hop.ifindex != ifindex);
                if route.hops.is_empty() {
                    gone.push(route.key(prefix));
                }
                !route.hops.is_empty()
            });
        }
        gone
    }

    fn prefixes_of(&self, mark: Mark) -> Vec<Prefix> {
        self.by_mark.get(&mark).into_iter().flatten().copied().collect()
    }

    /// An IPv4 address is on no interface any more: routes of the main table that prefer it as their source go.
    pub(crate) fn drop_source(&mut self, addr: IpAddr) -> Vec<RouteKey> {
        if addr.is_ipv6() {
            return Vec::new();
        }
        self.drop_where(Mark::Source(addr), |_, route| {
            route.source == Some(addr) && route.table == MAIN
        })
    }

    /// An interface has no IPv4 address any more: its IPv4 routes go, but for those of nexthop objects.
    pub(crate) fn drop_addressless(&mut self, ifindex: u32) -> Vec<RouteKey> {
        self.drop_where(Mark::Link(ifindex), |prefix, route| {
            prefix.family() == Family::Ipv4
                && route.object.is_none()
                && !route.hops.is_empty()
                && route.hops.iter().all(|hop| hop.ifindex == ifindex)
        })
    }

    fn drop_where(&mut self, mark: Mark, goes: impl Fn(Prefix, &ForeignRoute) -> bool) -> Vec<RouteKey> {
        let mut keys = Vec::new();
        for prefix in self.prefixes_of(mark) {
            let going = self.at(prefix).filter(|route| goes(prefix, route));
            let before = keys.len();
            keys.extend(going.map(|route| route.key(prefix)));
            if keys.len() > before {
                self.retain(prefix, |route| !goes(prefix, route));
            }
        }
        keys
    }

    fn insert(&mut self, prefix: Prefix, route: ForeignRoute, first: bool, ahead: bool) {
        let order = (route.metric, route.table);
        self.edit(prefix, |entries| {
            let place = entries.partition_point(|entry| {
                let known = (entry.route.metric, entry.route.table);
                known < order || (known == order && !first)
            });
            entries.insert(place, Entry { route, ahead });
        });
    }

    fn retain(&mut self, prefix: Prefix, mut stays: impl FnMut(&ForeignRoute) -> bool) {
        self.change(prefix, |route| stays(route));
    }

    fn change(&mut self, prefix: Prefix, mut stays: impl FnMut(&mut ForeignRoute) -> bool) {
        if self.routes.contains_key(&prefix) {
            self.edit(prefix, |entries| {
                entries.retain_mut(|entry| stays(&mut entry.route))
            });
        }
    }

    /// Changes the list of a prefix; all that is kept of it elsewhere follows.
    fn edit(&mut self, prefix: Prefix, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut entries = self.routes.remove(&prefix).unwrap_or_default();
        let (was, before) = (!entries.is_empty(), marks(&entries));
        change(&mut entries);
        let (is, after) = (!entries.is_empty(), marks(&entries));
        for mark in before.iter().filter(|mark| !after.contains(mark)) {
            if let Some(prefixes) = self.by_mark.get_mut(mark) {
                prefixes.remove(&prefix);
                if prefixes.is_empty() {
                    self.by_mark.remove(mark);
                }
            }
        }
        for mark in after.iter().filter(|mark| !before.contains(mark)) {
            self.by_mark.entry(*mark).or_default().insert(prefix);
        }
        let count = self.lengths.entry((prefix.family(), prefix.len())).or_default();
        *count = (*count + usize::from(is)).saturating_sub(usize::from(was));
        if is {
            self.routes.insert(prefix, entries);
        }
    }

    /// The keys of prefixes that have other routes there.
    pub(super) fn differences(&self, other: &Self) -> Vec<RouteKey> {
        let mut keys = self.not_in(other);
        keys.extend(other.not_in(self));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn not_in(&self, other: &Self) -> Vec<RouteKey> {
        let differs = |prefix: &Prefix, entries: &[Entry]| {
            let there = other.routes.get(prefix);
            there.is_none_or(|there| !alike(there, entries))
        };
        let changed = self
            .routes
            .iter()
            .filter(|(prefix, entries)| differs(prefix, entries));
        let keys = changed.flat_map(|(prefix, entries)| entries.iter().map(|entry| entry.route.key(*prefix)));
        keys.collect()
    }

    /// Takes a later reading in place of what was known, but for these prefixes, of which more is known. Gives the keys
    /// of prefixes with other routes than were known, and whether a prefix that was left out differs.
    pub(crate) fn correct(&mut self, mut read: Self, newer: &[Prefix]) -> (Vec<RouteKey>, bool) {
        let mut left_out = false;
        for prefix in newer {
            left_out |= read.at(*prefix).ne(self.at(*prefix));
            read.retain(*prefix, |_| false);
            for entry in self.routes.get(prefix).into_iter().flatten() {
                read.insert(*prefix, entry.route.clone(), false, entry.ahead);
            }
        }
        let changed = self.differences(&read);
        *self = read;
        (changed, left_out)
    }
}

/// Except for their places beside own routes, and for protocols of IPv6 multipath routes, whose members may have several.
fn alike(one: &[Entry], other: &[Entry]) -> bool {
    let same = |(one, other): (&Entry, &Entry)| {
        let mut one = one.route.clone();
        if one.joins() && other.route.joins() && one.hops.iter().all(NextHop::is_ipv6) {
            one.protocol = other.route.protocol;
        }
        one == other.route
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// The route that a notification with NLM_F_REPLACE replaced.
#[derive(PartialEq, Eq)]
enum Replaced {
    Own,
    Foreign(ForeignRoute),
}

/// Whether IPv6 joins an own route with others to one multipath route.
fn joins(spec: &RouteSpec) -> bool {
    match &spec.target {
        Target::NextHops(next_hops) => next_hops.iter().any(|next_hop| next_hop.hop.gateway.is_some()),
        Target::Group(_) | Target::Unreachable | Target::Blackhole | Target::Throw => false,
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
