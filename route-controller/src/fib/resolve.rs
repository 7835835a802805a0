//! Next-hop resolution over a mirror of the kernel's links, addresses and foreign routes.
//!
//! Pure. A next hop is reachable when the longest matching route of others leads out of a link that
//! is up: straight (connected), or through that route's own gateways. A default route does not count unless the operator
//! wants it: it matches everything, and would make every next hop look reachable. Our own routes do not count either,
//! so that no next hop can be resolved by a route that it made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_proto::engine::Reach;
use bgp_proto::types::{Prefix, scope_of, without_scope};

use super::dump::Reading;
use super::foreign::{ForeignRoute, ForeignRoutes};
use super::route::{NextHop, PODS_PROTOCOL, RouteKey, RouteSpec};
use crate::host::Uplink;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// Administratively up and with carrier.
    pub(crate) up: bool,
    /// Administratively up.
    pub(crate) enabled: bool,
    /// How often it lost its carrier (IFLA_CARRIER_DOWN_COUNT): a loss may be over before it is reported.
    pub(crate) carrier_losses: u32,
    pub(crate) mtu: u32,
    pub(crate) loopback: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Address {
    pub(crate) ifindex: u32,
    pub(crate) addr: IpAddr,
    pub(crate) len: u8,
}

/// How the host may use an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum AddressState {
    /// Duplicate address detection is not over, or found another (RFC 4862 §5.4).
    Tentative,
    /// Secondary, deprecated, temporary (RFC 8981) or of narrower scope: not what the node is known by.
    NotPreferred,
    /// None of these.
    Preferred,
}

/// What a next hop resolves to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Resolved {
    pub(crate) reach: Reach,
    /// Sorted; empty unless reachable.
    pub(crate) hops: Vec<NextHop>,
}

/// The kernel's side of things.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) addresses: BTreeMap<Address, AddressState>,
    pub(super) foreign: ForeignRoutes,
    /// Next hops may be reached over a default route.
    pub(crate) via_default: bool,
    /// Next hops that BFD found to be gone.
    pub(crate) dead: BTreeSet<IpAddr>,
    /// What changed since a reading began that is under way.
    pub(super) newer: Option<Newer>,
}

/// What is newer than a reading that is under way.
#[derive(Debug, Default)]
pub(super) struct Newer {
    /// Prefixes of routes of others.
    pub(super) prefixes: Vec<Prefix>,
    /// A link or an address.
    pub(super) host: bool,
}

impl Mirror {
    /// Takes a complete reading in place of what was known; returns the own routes in it.
    pub(crate) fn fill(&mut self, reading: Reading) -> Vec<(RouteKey, RouteSpec)> {
        *self = Self {
            via_default: self.via_default,
            dead: std::mem::take(&mut self.dead),
            ..Self::default()
        };
        self.links.extend(reading.links);
        self.addresses.extend(reading.addresses);
        self.foreign = reading.foreign;
        reading.own
    }

    /// Whether somebody else has a route of this key, and by which protocol.
    pub(crate) fn foreign(&self, key: &RouteKey) -> Option<u8> {
        self.foreign.of_key(key).map(|route| route.protocol)
    }

    /// All routes of others except those of this node's pods.
    pub(crate) fn foreign_routes(&self) -> impl Iterator<Item = (Prefix, &ForeignRoute)> {
        self.foreign
            .iter()
            .filter(|(_, route)| route.protocol != PODS_PROTOCOL)
    }

    /// Whether the address is an own one.
    pub(crate) fn is_own(&self, addr: IpAddr) -> bool {
        self.addresses.keys().any(|own| own.addr == addr)
    }

    /// Whether packets may be sent from the address.
    pub(crate) fn is_source(&self, addr: IpAddr) -> bool {
        let of =
            |(own, state): (&Address, &AddressState)| own.addr == addr && *state != AddressState::Tentative;
        self.addresses.iter().any(of)
    }

    /// How packets leave for an address by routes of others, default routes left out; for finding the uplink.
    pub(crate) fn uplinks_towards(&self, addr: IpAddr) -> Vec<Uplink> {
        if let (Some(ifindex), IpAddr::V6(addr)) = (scope_of(addr), addr) {
            let next = Some(without_scope(addr).into());
            return vec![Uplink {
                ifindex,
                source: None,
                next,
            }];
        }
        let family = Prefix::host(addr).family();
        let mut lengths = self.foreign.lengths(family, 1);
        let found = lengths.find_map(|len| {
            let routes = self.foreign.at(Prefix::new(addr, len));
            let found: Vec<Uplink> = routes
                .flat_map(|route| self.uplinks_of(route, Some(addr)))
                .collect();
            (!found.is_empty()).then_some(found)
        });
        found.unwrap_or_default()
    }

    /// Length and metric of the route of others that leads to an address.
    pub(crate) fn route_towards(&self, addr: IpAddr) -> Option<(u8, u32)> {
        let mut lengths = self.foreign.lengths(Prefix::host(addr).family(), 0);
        lengths.find_map(|len| {
            let route = self.foreign.at(Prefix::new(addr, len)).next()?;
            Some((len, route.metric))
        })
    }

    /// How packets leave by default routes, best metric first.
    pub(crate) fn default_uplinks(&self) -> Vec<Uplink> {
        let defaults = [Prefix::v4(0, 0), Prefix::v6(0, 0)];
        let routes = defaults.iter().flat_map(|prefix| self.foreign.at(*prefix));
        routes.flat_map(|route| self.uplinks_of(route, None)).collect()
    }

    /// The next hops of a route whose links are enabled; the source of one with a gateway is that of the gateway's subnet.
    fn uplinks_of(&self, route: &ForeignRoute, addr: Option<IpAddr>) -> Vec<Uplink> {
        let enabled = |ifindex: u32| self.links.get(&ifindex).is_some_and(|link| link.enabled);
        let uplink = |hop: &NextHop| {
            let next = hop.gateway.or(addr);
            let of_gateway = || {
                let gateway = hop.gateway?;
                let mut lengths = self.foreign.lengths(Prefix::host(gateway).family(), 1);
                lengths.find_map(|len| {
                    let mut routes = self.foreign.at(Prefix::new(gateway, len));
                    routes.find_map(|route| {
                        let mut hops = route.hops.iter();
                        hops.any(|own| own.ifindex == hop.ifindex).then_some(route.source)
                    })
                })?
            };
            Uplink {
                ifindex: hop.ifindex,
                source: route.source.or_else(of_gateway),
                next,
            }
        };
        let hops = route.hops.iter().filter(|hop| enabled(hop.ifindex));
        hops.map(uplink).collect()
    }

    /// A route of somebody else, for tests.
    #[cfg(test)]
    pub(crate) fn add_foreign(&mut self, prefix: Prefix, route: ForeignRoute) {
        self.foreign.read(prefix, route, false);
    }

    fn is_up(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_some_and(|link| link.up)
    }

    /// What a next hop resolves to now.
    pub(crate) fn resolve(&self, addr: IpAddr) -> Resolved {
        if self.dead.contains(&addr) {
            return Resolved {
                reach: Reach::Unreachable,
                hops: Vec::new(),
            };
        }
        if let (Some(ifindex), IpAddr::V6(addr)) = (scope_of(addr), addr) {
            return self.on_link(without_scope(addr).into(), ifindex);
        }
        if self.is_own(addr) || addr.is_loopback() {
            return Resolved {
                reach: Reach::Own,
                hops: Vec::new(),
            };
        }
        self.lookup(addr).unwrap_or(Resolved {
            reach: Reach::Unreachable,
            hops: Vec::new(),
        })
    }

    /// A link-local address of an unnumbered peer: on its link and nowhere else.
    fn on_link(&self, addr: IpAddr, ifindex: u32) -> Resolved {
        let own = self
            .addresses
            .keys()
            .any(|own| (own.addr, own.ifindex) == (addr, ifindex));
        let (reach, hops) = match (own, self.is_up(ifindex)) {
            (true, _) => (Reach::Own, Vec::new()),
            (false, false) => (Reach::Unreachable, Vec::new()),
            (false, true) => {
                let gateway = Some(addr);
                (Reach::Reachable { metric: 0 }, vec![NextHop { gateway, ifindex }])
            }
        };
        Resolved { reach, hops }
    }

    fn lookup(&self, addr: IpAddr) -> Option<Resolved> {
        let family = Prefix::host(addr).family();
        let shortest = if self.via_default { 0 } else { 1 };
        for len in self.foreign.lengths(family, shortest) {
            let prefix = Prefix::new(addr, len);
            let usable = self
                .foreign
                .at(prefix)
                .find_map(|route| self.through(route, addr));
            if let Some(usable) = usable {
                return Some(usable);
            }
            if self.foreign.at(prefix).any(|route| route.discards) {
                return None; // blackhole or unreachable: the kernel goes no further either
            }
        }
        None
    }

    /// The hops of a route whose links are up.
    fn through(&self, route: &ForeignRoute, addr: IpAddr) -> Option<Resolved> {
        let live = route.hops.iter().filter(|hop| self.is_up(hop.ifindex));
        let connected = route.hops.iter().any(|hop| hop.gateway.is_none());
        let mut hops: Vec<NextHop> = live
            .map(|hop| NextHop {
                gateway: Some(hop.gateway.unwrap_or(addr)),
                ifindex: hop.ifindex,
            })
            .collect();
        hops.sort_unstable();
        hops.dedup();
        let metric = if connected { 0 } else { route.metric.max(1) };
        (!hops.is_empty()).then_some(Resolved {
            reach: Reach::Reachable { metric },
            hops,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        let mut mirror = Mirror::default();
        for (ifindex, name) in [(1, "lo"), (2, "eth0"), (3, "eth1")] {
            let link = Link {
                name: name.into(),
                up: true,
                enabled: true,
                carrier_losses: 0,
                mtu: 1500,
                loopback: ifindex == 1,
            };
            mirror.links.insert(ifindex, link);
        }
        let own = Address {
            ifindex: 2,
            addr: ip("192.0.2.11"),
            len: 24,
        };
        mirror.addresses.insert(own, AddressState::Preferred);
        mirror.foreign.read(prefix("192.0.2.0/24"), connected(2), false);
        mirror
            .foreign
            .read(prefix("0.0.0.0/0"), via("192.0.2.1", 2, 0), false);
        mirror
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn connected(ifindex: u32) -> ForeignRoute {
        ForeignRoute {
            metric: 0,
            table: super::super::route::MAIN,
            protocol: 2,
            hops: vec![NextHop {
                gateway: None,
                ifindex,
            }],
            source: None,
            object: None,
            discards: false,
        }
    }

    fn via(gateway: &str, ifindex: u32, metric: u32) -> ForeignRoute {
        ForeignRoute {
            metric,
            table: super::super::route::MAIN,
            protocol: 4,
            hops: vec![NextHop {
                gateway: Some(ip(gateway)),
                ifindex,
            }],
            source: None,
            object: None,
            discards: false,
        }
    }

    #[test]
    fn connected_gateway_own_and_default() {
        let mut mirror = mirror();
        let direct = mirror.resolve(ip("192.0.2.1"));
        assert_eq!(direct.reach, Reach::Reachable { metric: 0 });
        assert_eq!(
            direct.hops,
            [NextHop {
                gateway: Some(ip("192.0.2.1")),
                ifindex: 2
            }]
        );
        assert_eq!(mirror.resolve(ip("192.0.2.11")).reach, Reach::Own);
        assert_eq!(
            mirror.resolve(ip("198.51.100.1")).reach,
            Reach::Unreachable,
            "a default route does not count"
        );
        mirror
            .foreign
            .read(prefix("198.51.100.0/24"), via("192.0.2.7", 2, 30), false);
        let far = mirror.resolve(ip("198.51.100.1"));
        assert_eq!(
            (far.reach, far.hops[0].gateway),
            (Reach::Reachable { metric: 30 }, Some(ip("192.0.2.7")))
        );
        let gone = mirror
            .foreign
            .remove(prefix("198.51.100.0/24"), &via("192.0.2.7", 2, 30));
        assert!(gone);
        assert_eq!(mirror.resolve(ip("198.51.100.1")).reach, Reach::Unreachable);
        mirror.via_default = true;
        let far = mirror.resolve(ip("198.51.100.1"));
        assert_eq!(far.hops[0].gateway, Some(ip("192.0.2.1")));
    }

    #[test]
    fn what_bfd_found_to_be_gone_is_gone() {
        let mut mirror = mirror();
        mirror.dead.insert(ip("192.0.2.1"));
        assert_eq!(mirror.resolve(ip("192.0.2.1")).reach, Reach::Unreachable);
        assert_eq!(
            mirror.resolve(ip("192.0.2.2")).reach,
            Reach::Reachable { metric: 0 }
        );
    }

    #[test]
    fn a_link_that_is_down_takes_its_next_hops_out() {
        let mut mirror = mirror();
        mirror.foreign.read(prefix("192.0.2.0/25"), connected(3), false);
        assert_eq!(mirror.resolve(ip("192.0.2.1")).hops[0].ifindex, 3);
        mirror.links.get_mut(&3).unwrap().up = false;
        assert_eq!(mirror.resolve(ip("192.0.2.1")).hops[0].ifindex, 2);
        mirror.links.get_mut(&2).unwrap().up = false;
        assert_eq!(mirror.resolve(ip("192.0.2.1")).reach, Reach::Unreachable);
    }

    #[test]
    fn an_unreachable_route_ends_the_search() {
        let mut mirror = mirror();
        mirror.foreign.read(
            prefix("192.0.2.128/25"),
            ForeignRoute {
                metric: 0,
                table: super::super::route::MAIN,
                protocol: 4,
                hops: Vec::new(),
                source: None,
                object: None,
                discards: true,
            },
            false,
        );
        assert_eq!(mirror.resolve(ip("192.0.2.200")).reach, Reach::Unreachable);
    }
}
