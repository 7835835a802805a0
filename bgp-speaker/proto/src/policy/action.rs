//! What a policy rule changes in a path's attributes.

use std::net::IpAddr;

use super::communities::{CommunityKind, CommunitySet};
use crate::types::{Asn, Community, ExtCommunity, LargeCommunity, without_scope};
use crate::wire::DEFAULT_LOCAL_PREF;
use crate::wire::{AsPath, KernelRoute, NextHop, Origin, PathAttrs};

/// What actions may refer to besides the route.
#[derive(Clone, Copy, Debug)]
pub struct ActionContext {
    /// Our AS number towards the peer, for prepending.
    pub local_asn: Asn,
    /// In import the peer's address on the session, for `nextHop: peer`.
    pub peer_addr: Option<IpAddr>,
    /// Other AS numbers than ours are in the path already ([`Actions::prepend_others`]).
    pub others_prepended: bool,
}

/// A next hop set by policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NextHopAction {
    /// Our own address on the session; export only.
    OwnAddress,
    /// The address of the peer that the route comes from; import only.
    PeerAddress,
    /// Leave what the route has, also where BGP would put ourselves; export only.
    Unchanged,
    /// This address.
    Address(IpAddr),
}

/// A change of a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NumberAction {
    /// To this.
    Set(u32),
    /// By this, down to 0 and up to 4294967295.
    Add(i64),
}

impl NumberAction {
    fn apply(self, number: u32) -> u32 {
        match self {
            Self::Set(number) => number,
            Self::Add(change) => {
                let changed = i64::from(number).saturating_add(change);
                u32::try_from(changed.max(0)).unwrap_or(u32::MAX)
            }
        }
    }
}

/// Which AS number goes in front of the path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Prepend {
    /// Ours.
    Own,
    /// This one.
    Asn(Asn),
    /// The one that is first already.
    Neighbor,
}

/// Changes of the communities of one kind: clear, else remove; then add.
#[derive(Clone, PartialEq, Debug)]
pub struct Edit<C: CommunityKind> {
    /// All go first.
    pub clear: bool,
    /// These go.
    pub remove: Option<CommunitySet<C>>,
    /// These are added, each once.
    pub add: Vec<C>,
}

impl<C: CommunityKind> Default for Edit<C> {
    fn default() -> Self {
        Self {
            clear: false,
            remove: None,
            add: Vec::new(),
        }
    }
}

impl<C: CommunityKind> Edit<C> {
    /// Adds these.
    pub fn add(communities: impl IntoIterator<Item = C>) -> Self {
        Self {
            add: communities.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.clear && self.remove.is_none() && self.add.is_empty()
    }

    fn apply(&self, list: &mut Vec<C>) {
        if self.clear {
            list.clear();
        }
        if let Some(remove) = &self.remove {
            list.retain(|community| !remove.contains(*community));
        }
        for community in &self.add {
            if !list.contains(community) {
                list.push(*community);
            }
        }
    }
}

/// What the kernel's route of a prefix is to be; `None` leaves it as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KernelActions {
    /// The route goes into the kernel also where only pod prefixes do.
    pub install: Option<bool>,
    /// Packets are dropped.
    pub blackhole: Option<bool>,
    /// The metric of the route.
    pub metric: Option<u32>,
    /// The table that the route goes into.
    pub table: Option<u32>,
    /// The preferred source address of packets from this node.
    pub source: Option<IpAddr>,
    /// The share of the traffic beside other paths.
    pub weight: Option<u8>,
}

/// The changes of one rule, applied in the order of the fields.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Actions {
    /// LOCAL_PREF; higher wins. Relative to 100 where it is absent.
    pub local_pref: Option<NumberAction>,
    /// MULTI_EXIT_DISC; lower wins. Relative to 0 where it is absent.
    pub med: Option<NumberAction>,
    /// ORIGIN.
    pub origin: Option<Origin>,
    /// Communities.
    pub communities: Edit<Community>,
    /// Large communities.
    pub large_communities: Edit<LargeCommunity>,
    /// Extended communities.
    pub ext_communities: Edit<ExtCommunity>,
    /// An AS number in front of the path, this many times.
    pub prepend: Option<(Prepend, u8)>,
    /// Next hop.
    pub next_hop: Option<NextHopAction>,
    /// The kernel's route; for import policies.
    pub kernel: KernelActions,
}

impl Actions {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies the changes.
    pub fn apply(&self, attrs: &mut PathAttrs, context: ActionContext) {
        if let Some(action) = self.local_pref {
            let number = attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
            attrs.local_pref = Some(action.apply(number));
        }
        if let Some(action) = self.med {
            attrs.med = Some(action.apply(attrs.med.unwrap_or(0)));
        }
        attrs.origin = self.origin.unwrap_or(attrs.origin);
        self.apply_communities(attrs);
        match self.prepend {
            Some((Prepend::Own, times)) => {
                attrs.as_path = attrs.as_path.prepend(context.local_asn, usize::from(times));
            }
            Some(_) if !context.others_prepended => attrs.as_path = self.prepend_others(&attrs.as_path),
            _ => {}
        }
        if self.kernel != KernelActions::default() {
            self.kernel.apply(&mut attrs.extra_mut().kernel);
        }
        match (self.next_hop, context.peer_addr) {
            (Some(NextHopAction::Address(addr)), _) => attrs.next_hop = named(addr),
            (Some(NextHopAction::PeerAddress), Some(addr)) => attrs.next_hop = NextHop::from(addr),
            _ => {}
        }
    }

    /// The path with what is prepended to it and is not our own number. On the way to another AS this comes first, so that our number
    /// stays in front of the path: others may refuse it otherwise (RFC 4271 §6.3).
    #[must_use]
    pub fn prepend_others(&self, path: &AsPath) -> AsPath {
        let (asn, times) = match self.prepend {
            Some((Prepend::Asn(asn), times)) => (Some(asn), times),
            Some((Prepend::Neighbor, times)) => (path.neighbor(), times),
            Some((Prepend::Own, _)) | None => (None, 0),
        };
        asn.map_or_else(|| path.clone(), |asn| path.prepend(asn, usize::from(times)))
    }

    fn apply_communities(&self, attrs: &mut PathAttrs) {
        if !self.communities.is_empty() {
            let mut list = attrs.communities.to_vec();
            self.communities.apply(&mut list);
            attrs.communities = list.into();
        }
        if !self.large_communities.is_empty() {
            self.large_communities
                .apply(&mut attrs.extra_mut().large_communities);
        }
        if !self.ext_communities.is_empty() {
            self.ext_communities.apply(&mut attrs.extra_mut().ext_communities);
        }
    }
}

impl KernelActions {
    fn apply(&self, route: &mut KernelRoute) {
        route.install = self.install.unwrap_or(route.install);
        route.blackhole = self.blackhole.unwrap_or(route.blackhole);
        route.metric = self.metric.or(route.metric);
        route.table = self.table.or(route.table);
        route.source = self.source.or(route.source);
        route.weight = self.weight.or(route.weight);
    }
}

/// An address that an operator wrote: whatever it has in the place of an interface is none.
#[must_use]
pub fn named(addr: IpAddr) -> NextHop {
    match addr {
        IpAddr::V4(addr) => NextHop::V4(addr),
        IpAddr::V6(addr) => NextHop::V6(without_scope(addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: ActionContext = ActionContext {
        local_asn: Asn(64512),
        peer_addr: None,
        others_prepended: false,
    };

    fn attrs() -> PathAttrs {
        PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()))
    }

    #[test]
    fn edits_in_order() {
        let mut attrs = attrs();
        attrs.communities = [Community(1), Community(2)].into();
        let actions = Actions {
            communities: Edit {
                remove: Some([Community(1)].into_iter().collect()),
                ..Edit::add([Community(2), Community(3)])
            },
            large_communities: Edit::add([LargeCommunity(1, 2, 3)]),
            ext_communities: Edit::add([ExtCommunity(9)]),
            prepend: Some((Prepend::Own, 2)),
            next_hop: Some(NextHopAction::PeerAddress),
            med: Some(NumberAction::Set(5)),
            origin: Some(Origin::Incomplete),
            ..Actions::default()
        };
        let peer_addr = Some("192.0.2.9".parse().unwrap());
        actions.apply(&mut attrs, ActionContext { peer_addr, ..CONTEXT });
        assert_eq!(&attrs.communities[..], [Community(2), Community(3)]);
        assert_eq!(attrs.as_path.to_string(), "64512 64512");
        assert_eq!(
            (attrs.next_hop.to_string().as_str(), attrs.origin),
            ("192.0.2.9", Origin::Incomplete)
        );
        let extra = attrs.extra.unwrap();
        assert_eq!(extra.large_communities, [LargeCommunity(1, 2, 3)]);
        assert_eq!(extra.ext_communities, [ExtCommunity(9)]);
    }

    #[test]
    fn relative_numbers_stay_in_their_range() {
        let change = |local_pref: i64, med: i64| {
            let mut attrs = attrs();
            let actions = Actions {
                local_pref: Some(NumberAction::Add(local_pref)),
                med: Some(NumberAction::Add(med)),
                ..Actions::default()
            };
            actions.apply(&mut attrs, CONTEXT);
            (attrs.local_pref, attrs.med)
        };
        assert_eq!(change(-50, 10), (Some(50), Some(10)));
        assert_eq!(change(-500, -1), (Some(0), Some(0)));
        assert_eq!(change(i64::from(u32::MAX), 1), (Some(u32::MAX), Some(1)));
    }

    #[test]
    fn the_neighbor_in_front_again() {
        let mut attrs = attrs();
        let actions = Actions {
            prepend: Some((Prepend::Neighbor, 2)),
            ..Actions::default()
        };
        actions.apply(&mut attrs, CONTEXT);
        assert!(attrs.as_path.is_empty(), "nobody is there to be repeated");
        attrs.as_path = AsPath::sequence(&[Asn(65001), Asn(7)]);
        actions.apply(&mut attrs, CONTEXT);
        assert_eq!(attrs.as_path.to_string(), "65001 65001 65001 7");
    }
}
