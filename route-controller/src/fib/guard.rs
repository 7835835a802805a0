//! Which learned prefixes never go into the kernel, whatever an import policy says: those that would take traffic from the host
//! itself.
//!
//! A longer prefix wins over a connected route, so any router could draw the traffic of a neighbor on the link, of a next
//! hop, or of the pods' gateway.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::LazyLock;

use bgp_proto::types::Prefix;

use super::Fib;

/// Not to be routed (RFC 6890, RFC 5771, RFC 4291): this network, loopback, link-local (with the pods' gateways), multicast,
/// reserved.
const SPECIAL: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "fe80::/10",
    "ff00::/8",
];

static PARSED: LazyLock<Vec<Prefix>> =
    LazyLock::new(|| SPECIAL.iter().filter_map(|text| text.parse().ok()).collect());

/// The rule that keeps a learned prefix out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    OutsideCluster,
    Service(Prefix),
    OwnBlock(Prefix),
    Special,
    OwnAddress,
    Connected(Prefix),
    NextHop(IpAddr),
}

impl Refusal {
    /// False for what is left out because nobody needs it.
    pub(crate) fn is_trouble(&self) -> bool {
        !matches!(self, Self::Service(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideCluster => {
                write!(
                    f,
                    "outside cluster.podCIDRs, and no import policy says install: true"
                )
            }
            Self::Service(range) => write!(
                f,
                "of a Service (services.ranges {range}): kube-proxy answers for it on each node"
            ),
            Self::OwnBlock(block) => write!(f, "inside {block}, a block of this node"),
            Self::Special => write!(
                f,
                "loopback, link-local, multicast or reserved addresses are never routed (RFC 6890)"
            ),
            Self::OwnAddress => write!(f, "an address of this node"),
            Self::Connected(subnet) => write!(f, "inside {subnet}, which is connected to this node"),
            Self::NextHop(hop) => write!(f, "it would change how this node reaches the next hop {hop}"),
        }
    }
}

/// What of the host learned routes must not override.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Guard {
    /// Subnets of the host's addresses.
    connected: BTreeSet<Prefix>,
    own: BTreeSet<Prefix>,
}

impl Fib {
    /// The guard that the host's addresses come to.
    fn guard_now(&self) -> Guard {
        let mut guard = Guard::default();
        for address in self.mirror.addresses.keys() {
            let host = Prefix::host(address.addr);
            guard.own.insert(host);
            if address.len < host.len() && address.len > 0 {
                guard.connected.insert(Prefix::new(address.addr, address.len));
            }
        }
        guard
    }

    /// Why a learned prefix may not go in; `None` when it may.
    pub(super) fn refusal(&self, prefix: &Prefix) -> Option<Refusal> {
        if !self.config.admits(prefix, self.options(*prefix).is_wanted()) {
            let services = self.config.services.iter().find(|range| range.contains(prefix));
            return Some(services.map_or(Refusal::OutsideCluster, |range| Refusal::Service(*range)));
        }
        if let Some(block) = self.blocks.iter().find(|block| block.contains(prefix)) {
            return Some(Refusal::OwnBlock(*block));
        }
        if PARSED.iter().any(|special| special.contains(prefix)) {
            return Some(Refusal::Special);
        }
        if self.guard.own.contains(prefix) {
            return Some(Refusal::OwnAddress);
        }
        if let Some(subnet) = self.guard.connected.iter().find(|subnet| subnet.contains(prefix)) {
            return Some(Refusal::Connected(*subnet));
        }
        self.hidden_hop(prefix).map(Refusal::NextHop)
    }

    /// A watched next hop that the host would reach by this prefix from then on.
    fn hidden_hop(&self, prefix: &Prefix) -> Option<IpAddr> {
        // Ordered: the prefix's first address comes before all others of it.
        let from = self.watched.range(prefix.addr()..).map(|(addr, _)| *addr);
        let mut inside = from.take_while(|addr| prefix.contains(&Prefix::host(*addr)));
        inside.find(|addr| {
            let route = self.mirror.route_towards(*addr);
            route.is_some_and(|(len, metric)| {
                len < prefix.len() || (len == prefix.len() && metric > self.key(*prefix).metric)
            })
        })
    }

    /// The host's addresses may have changed: learned prefixes that this concerns are judged again.
    pub(super) fn guard_again(&mut self) {
        let guard = self.guard_now();
        if guard == self.guard {
            return;
        }
        let before = std::mem::replace(&mut self.guard, guard);
        let subnets = before.connected.symmetric_difference(&self.guard.connected);
        let own = before.own.symmetric_difference(&self.guard.own);
        let changed: Vec<Prefix> = subnets.chain(own).copied().collect();
        let concerns = |prefix: &&Prefix| changed.iter().any(|changed| changed.contains(prefix));
        let learned: Vec<Prefix> = self.learned.keys().filter(concerns).copied().collect();
        learned.into_iter().for_each(|prefix| self.want_learned(prefix));
    }

    /// A next hop is watched from now on, or no more: learned prefixes that it lies in are judged again.
    pub(super) fn judge_around(&mut self, hop: IpAddr) {
        let longest = Prefix::host(hop).len();
        for len in 0..=longest {
            let prefix = Prefix::new(hop, len);
            if self.learned.contains_key(&prefix) {
                self.want_learned(prefix);
            }
        }
    }

    /// Learned prefixes that are kept out of the kernel, each with the rule.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&Prefix, Refusal)> {
        let judged = |prefix| Some((prefix, self.refusal(prefix)?));
        self.refused.iter().filter_map(judged)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fib, learned, prefix};
    use super::*;
    use crate::fib::{Address, AddressState, FibChange, KernelRoute};

    fn rules(fib: &Fib) -> Vec<(String, Refusal)> {
        fib.refused()
            .map(|(prefix, rule)| (prefix.to_string(), rule))
            .collect()
    }

    fn want(fib: &mut Fib, prefixes: &[&str]) {
        let wanted = |text: &&str| {
            let hop = if text.contains(':') {
                "2001:db8::9"
            } else {
                "192.0.2.1"
            };
            FibChange {
                route: KernelRoute {
                    install: true,
                    ..KernelRoute::default()
                },
                ..learned(text, &[hop])
            }
        };
        fib.routes(prefixes.iter().map(wanted).collect(), false);
    }

    /// Other nodes announce Services to routers, and a mesh carries that to all nodes.
    #[test]
    fn addresses_of_services_are_not_needed() {
        let mut fib = fib();
        fib.reconfigure(crate::fib::FibConfig {
            services: vec![prefix("203.0.113.0/24")],
            ..fib.config().clone()
        });
        let hops = &["192.0.2.1"];
        fib.routes(
            vec![learned("203.0.113.7/32", hops), learned("198.51.100.7/32", hops)],
            false,
        );
        let range = prefix("203.0.113.0/24");
        assert_eq!(
            rules(&fib),
            [
                ("198.51.100.7/32".to_owned(), Refusal::OutsideCluster),
                ("203.0.113.7/32".to_owned(), Refusal::Service(range)),
            ]
        );
        assert!(!Refusal::Service(range).is_trouble());
    }

    #[test]
    fn what_the_host_itself_needs_is_never_overridden() {
        let mut fib = fib();
        let _ = fib.watch(vec!["192.0.2.1".parse().unwrap()]);
        fib.guard_again();
        let all = [
            "192.0.2.1/32",
            "192.0.2.0/24",
            "192.0.2.128/25",
            "192.0.2.11/32",
            "127.0.0.0/8",
            "169.254.1.1/32",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "fe80::/10",
            "192.0.0.0/16",
            "0.0.0.0/0",
            "198.51.100.0/24",
        ];
        want(&mut fib, &all);
        let found: Vec<String> = rules(&fib).into_iter().map(|(prefix, _)| prefix).collect();
        let fine = ["192.0.0.0/16", "0.0.0.0/0", "198.51.100.0/24"];
        let mut refused: Vec<&str> = all.into_iter().filter(|text| !fine.contains(text)).collect();
        refused.sort_by_key(|text| prefix(text));
        assert_eq!(found, refused);
        let rule = |text: &str| fib.refusal(&prefix(text));
        assert_eq!(rule("192.0.2.11/32"), Some(Refusal::OwnAddress));
        assert_eq!(
            rule("192.0.2.128/25"),
            Some(Refusal::Connected(prefix("192.0.2.0/24")))
        );
        assert_eq!(rule("169.254.1.1/32"), Some(Refusal::Special));
    }

    #[test]
    fn the_rule_follows_addresses_and_next_hops() {
        let mut fib = fib();
        want(&mut fib, &["198.51.100.0/25", "203.0.113.0/24"]);
        assert_eq!(rules(&fib), []);
        let own = Address {
            ifindex: 2,
            addr: "198.51.100.9".parse().unwrap(),
            len: 24,
        };
        fib.address_new(own, AddressState::Preferred);
        let _ = fib.resolve_again();
        assert_eq!(
            rules(&fib),
            [(
                "198.51.100.0/25".to_owned(),
                Refusal::Connected(prefix("198.51.100.0/24"))
            )]
        );
        fib.address_gone(own);
        let _ = fib.resolve_again();
        assert_eq!(rules(&fib), []);
        // A next hop behind a default route.
        fib.mirror.add_foreign(prefix("0.0.0.0/0"), default_route());
        let hop: IpAddr = "203.0.113.7".parse().unwrap();
        let _ = fib.watch(vec![hop]);
        assert_eq!(
            rules(&fib),
            [("203.0.113.0/24".to_owned(), Refusal::NextHop(hop))]
        );
        fib.unwatch(&[hop]);
        assert_eq!(rules(&fib), []);
    }

    fn default_route() -> crate::fib::ForeignRoute {
        crate::fib::ForeignRoute {
            metric: 0,
            table: 254,
            protocol: 3,
            hops: vec![crate::fib::NextHop {
                gateway: Some("192.0.2.1".parse().unwrap()),
                ifindex: 2,
            }],
            source: None,
            object: None,
            discards: false,
        }
    }
}
