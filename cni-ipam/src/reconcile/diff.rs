//! Compares the host sides of pods with the kernel. Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::block::Family;
use crate::kernel::link::{KernelRoute, LINK_GROUP, Link, RP_FILTER_LOOSE, RP_FILTER_STRICT};
use crate::kernel::settings::slot;
use crate::kernel::veth;
use crate::names::Owner;

/// The host's side of a pod's wiring: one end of the veth pair, its addresses and routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSide {
    pub(crate) owner: Owner,
    pub(crate) host_ifname: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// None in records of 0.1.
    pub(crate) mtu: Option<u32>,
    /// Belongs to the link group of the source address check.
    pub(crate) checks_sources: bool,
}

impl HostSide {
    fn families(&self) -> impl Iterator<Item = Family> {
        let has = |family: &Family| self.addresses.iter().any(|a| Family::of(*a) == *family);
        [Family::V4, Family::V6].into_iter().filter(has)
    }
}

/// The kernel's state.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    /// Links by name.
    links: HashMap<String, Link>,
    /// Usable addresses, by link.
    addresses: HashSet<(u32, IpAddr)>,
    /// Whether the host forwards, by family.
    forwards: [bool; 2],
    /// The plugin's routes: destination and link, with the preferred source.
    routes: HashMap<(IpNet, u32), Option<IpAddr>>,
}

impl HostState {
    pub(crate) fn new(
        links: Vec<Link>,
        addresses: impl IntoIterator<Item = (u32, IpAddr)>,
        routes: impl IntoIterator<Item = KernelRoute>,
        forwards: [bool; 2],
    ) -> Self {
        Self {
            forwards,
            links: links.into_iter().map(|link| (link.name.clone(), link)).collect(),
            addresses: addresses.into_iter().collect(),
            routes: routes
                .into_iter()
                .map(|route| ((route.dst, route.index), route.source))
                .collect(),
        }
    }

    /// The preferred source of routes to pods of a family: the first of these, if the host has it now.
    fn source(&self, sources: &[IpAddr], family: Family) -> Option<IpAddr> {
        let source = sources.iter().copied().find(|a| Family::of(*a) == family)?;
        let is_own = self.addresses.iter().any(|(_, own)| *own == source);
        is_own.then_some(source)
    }
}

/// One thing that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The host interface is down.
    Up,
    /// The host interface has another hardware address than the pod's permanent neighbor entry.
    Mac([u8; 6]),
    /// The host interface has another MTU than the pod's.
    Mtu(u32),
    /// The host interface is not in the link group.
    Group,
    /// The host interface has another reverse-path filter.
    RpFilter(u32),
    /// The host forwards, but not what comes from the pod.
    Forwarding(Family),
    /// The host takes router advertisements from the pod.
    RefusedAdvertisements,
    /// The gateway's address.
    Gateway(Family),
    /// The route to the pods' link-local addresses.
    LinkRoute,
    /// The route to the pod, with this source.
    PodRoute(IpAddr, Option<IpAddr>),
}

/// What a pod lacks, and on which link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drift {
    pub(crate) host_side: HostSide,
    pub(crate) index: u32,
    pub(crate) missing: Vec<Missing>,
}

/// What pods lack. Pods without their host interface are skipped: the pair cannot be recreated while the pod runs.
pub(crate) fn find_drift(host_sides: &[HostSide], host: &HostState, sources: &[IpAddr]) -> Vec<Drift> {
    let mut interfaces: HashMap<&str, usize> = HashMap::new();
    for host_side in host_sides {
        *interfaces.entry(&host_side.owner.container).or_default() += 1;
    }
    host_sides
        .iter()
        .filter_map(|host_side| {
            let link = host.links.get(&host_side.host_ifname);
            let link = link.filter(|link| veth::is_host_side(link, &host_side.owner))?;
            let mut missing = missing(host_side, link, host, sources);
            let is_one_of_several = interfaces.get(host_side.owner.container.as_str()) > Some(&1);
            missing.extend(settings(host_side, link, host, is_one_of_several));
            (!missing.is_empty()).then(|| Drift {
                host_side: host_side.clone(),
                index: link.index,
                missing,
            })
        })
        .collect()
}

fn missing(host_side: &HostSide, link: &Link, host: &HostState, sources: &[IpAddr]) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mac = host_side.owner.host_mac();
    if link.mac != mac {
        missing.push(Missing::Mac(mac));
    }
    missing.extend(host_side.mtu.filter(|mtu| *mtu != link.mtu).map(Missing::Mtu));
    if host_side.checks_sources && link.group != LINK_GROUP {
        missing.push(Missing::Group);
    }
    if !link.is_up {
        missing.push(Missing::Up);
    }
    for family in host_side.families() {
        if !host.addresses.contains(&(link.index, veth::gateway(family))) {
            missing.push(Missing::Gateway(family));
        }
    }
    let has_v6 = host_side.families().any(|family| family == Family::V6);
    if has_v6 && !host.routes.contains_key(&(veth::link_local_net(), link.index)) {
        missing.push(Missing::LinkRoute);
    }
    for address in &host_side.addresses {
        let source = host.source(sources, Family::of(*address));
        let known = host.routes.get(&(IpNet::from(*address), link.index));
        if known != Some(&source) {
            missing.push(Missing::PodRoute(*address, source));
        }
    }
    missing
}

/// A pod of several interfaces sends with each one's addresses through any.
fn settings<'a>(
    host_side: &'a HostSide,
    link: &'a Link,
    host: &'a HostState,
    is_one_of_several: bool,
) -> impl Iterator<Item = Missing> + 'a {
    let found = link.settings;
    // A second interface that is being added has loosened the first one's filter before it counts.
    let rp_filter = match (found.rp_filter, is_one_of_several) {
        (RP_FILTER_LOOSE, _) | (RP_FILTER_STRICT, false) => None,
        (_, false) => Some(RP_FILTER_STRICT),
        (_, true) => Some(RP_FILTER_LOOSE),
    };
    let rp_filter = rp_filter
        .filter(|_| host_side.checks_sources)
        .map(Missing::RpFilter);
    let is_shut = move |family: &Family| {
        let of = |list: [bool; 2]| list.get(slot(*family)).copied().unwrap_or(false);
        of(host.forwards) && !of(found.forwarding)
    };
    let forwarding = host_side.families().filter(is_shut).map(Missing::Forwarding);
    let has_v6 = host_side.families().any(|family| family == Family::V6);
    let takes = (has_v6 && found.accept_ra != 0).then_some(Missing::RefusedAdvertisements);
    rp_filter.into_iter().chain(forwarding).chain(takes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::settings::Settings;

    const POD4: &str = "10.244.1.5";
    const POD6: &str = "fd00::5";
    const GOOD: Settings = Settings {
        rp_filter: 1,
        forwarding: [true; 2],
        accept_ra: 0,
    };
    const NODE4: &str = "192.0.2.11";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn host_side() -> HostSide {
        let owner = Owner {
            container: "c".into(),
            ifname: "eth0".into(),
        };
        HostSide {
            host_ifname: owner.host_ifname(),
            owner,
            addresses: vec![ip(POD4), ip(POD6)],
            mtu: Some(1500),
            checks_sources: true,
        }
    }

    fn link(is_up: bool) -> Link {
        let owner = host_side().owner;
        Link {
            index: 7,
            name: owner.host_ifname(),
            alias: owner.alias("pods"),
            mtu: 1500,
            mac: owner.host_mac().to_vec(),
            peer_index: 2,
            group: LINK_GROUP,
            is_up,
            settings: GOOD,
        }
    }

    fn host(
        link: Option<Link>,
        addresses: Vec<(u32, IpAddr)>,
        routes: impl IntoIterator<Item = KernelRoute>,
    ) -> HostState {
        HostState::new(link.into_iter().collect(), addresses, routes, [true; 2])
    }

    fn route(dst: IpNet, source: Option<&str>) -> KernelRoute {
        KernelRoute {
            dst,
            index: 7,
            protocol: 246,
            gateway: None,
            source: source.map(ip),
            is_local: false,
        }
    }

    fn addresses() -> Vec<(u32, IpAddr)> {
        vec![(2, ip(NODE4)), (7, ip("169.254.1.1")), (7, ip("fe80::1"))]
    }

    fn routes() -> Vec<KernelRoute> {
        vec![
            route(ip(POD4).into(), Some(NODE4)),
            route(ip(POD6).into(), None),
            route(veth::link_local_net(), None),
        ]
    }

    fn found(host: &HostState) -> Vec<Missing> {
        let drifts = find_drift(&[host_side()], host, &[ip(NODE4), ip("2001:db8::11")]);
        drifts.into_iter().flat_map(|drift| drift.missing).collect()
    }

    #[test]
    fn nothing_is_missing_of_a_pod_as_the_plugin_left_it() {
        assert_eq!(found(&host(Some(link(true)), addresses(), routes())), []);
    }

    #[test]
    fn the_nodes_address_goes_and_comes_back() {
        let mut without = addresses();
        without.remove(0);
        let gone = host(Some(link(true)), without.clone(), routes().into_iter().skip(1));
        assert_eq!(
            found(&gone),
            [Missing::PodRoute(ip(POD4), None)],
            "the kernel chooses the source meanwhile"
        );
        let mut sourceless = routes();
        sourceless[0].source = None;
        let restored = host(Some(link(true)), without, sourceless.clone());
        assert_eq!(found(&restored), []);
        let back = host(Some(link(true)), addresses(), sourceless);
        assert_eq!(found(&back), [Missing::PodRoute(ip(POD4), Some(ip(NODE4)))]);
    }

    #[test]
    fn an_interface_that_went_down_lost_most() {
        let node = vec![(2, ip(NODE4)), (7, ip("169.254.1.1"))];
        let mut link = link(false);
        link.mac = vec![2, 0, 0, 0, 0, 1];
        link.mtu = 1400;
        link.group = 0;
        assert_eq!(
            found(&host(Some(link), node, [])),
            [
                Missing::Mac(host_side().owner.host_mac()),
                Missing::Mtu(1500),
                Missing::Group,
                Missing::Up,
                Missing::Gateway(Family::V6),
                Missing::LinkRoute,
                Missing::PodRoute(ip(POD4), Some(ip(NODE4))),
                Missing::PodRoute(ip(POD6), None),
            ]
        );
    }

    #[test]
    fn a_link_that_is_gone_or_foreign_is_left_alone() {
        assert_eq!(found(&host(None, addresses(), routes())), []);
        let mut foreign = link(false);
        foreign.alias = String::new();
        foreign.mac = vec![2, 0, 0, 0, 0, 1];
        assert_eq!(found(&host(Some(foreign), addresses(), [])), []);
    }

    #[test]
    fn a_route_to_another_link_is_not_the_pods() {
        let mut elsewhere = routes();
        elsewhere[0].index = 9;
        assert_eq!(
            found(&host(Some(link(true)), addresses(), elsewhere)),
            [Missing::PodRoute(ip(POD4), Some(ip(NODE4)))]
        );
    }

    #[test]
    fn settings_that_others_changed() {
        let with = |settings: Settings| {
            let mut link = link(true);
            link.settings = settings;
            host(Some(link), addresses(), routes())
        };
        let bad = Settings {
            rp_filter: 0,
            forwarding: [false; 2],
            accept_ra: 2,
        };
        let all = [
            Missing::RpFilter(RP_FILTER_STRICT),
            Missing::Forwarding(Family::V4),
            Missing::Forwarding(Family::V6),
            Missing::RefusedAdvertisements,
        ];
        assert_eq!(found(&with(bad)), all);
        // A host that does not forward is not the pods' business.
        let mut quiet = with(bad);
        quiet.forwards = [false; 2];
        assert_eq!(found(&quiet), [all[0], all[3]]);
        let mut unchecked = host_side();
        unchecked.checks_sources = false;
        unchecked.addresses.pop();
        let drift = find_drift(&[unchecked], &with(bad), &[ip(NODE4)]);
        assert_eq!(drift[0].missing, [Missing::Forwarding(Family::V4)]);
        // Loose is what a second interface needs, and may be on its way.
        let loose = Settings { rp_filter: 2, ..GOOD };
        assert_eq!(found(&with(loose)), []);
        let mut second = host_side();
        second.owner.ifname = "net1".into();
        second.host_ifname = second.owner.host_ifname();
        let both = find_drift(&[host_side(), second], &with(GOOD), &[ip(NODE4)]);
        assert_eq!(both[0].missing, [Missing::RpFilter(RP_FILTER_LOOSE)]);
    }
}
