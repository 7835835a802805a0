//! What a policy rule changes in a path's attributes.

use std::net::IpAddr;

use crate::types::{Asn, Community, ExtCommunity, LargeCommunity, without_scope};
use crate::wire::{NextHop, PathAttrs};

/// What actions may refer to besides the route.
#[derive(Clone, Copy, Debug)]
pub struct ActionContext {
    /// Our AS number towards the peer, for prepending.
    pub local_asn: Asn,
    /// Our address on the session, for `nextHop: self`; unknown before the session is up.
    pub local_addr: Option<IpAddr>,
}

/// A next hop set by policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NextHopAction {
    /// Our own address on the session.
    OwnAddress,
    /// Leave what the route has, also where BGP would put ourselves.
    Unchanged,
    /// This address.
    Address(IpAddr),
}

/// The changes of one rule, applied in the order of the fields.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Actions {
    /// LOCAL_PREF, 0–4294967295; higher wins.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC; lower wins.
    pub med: Option<u32>,
    /// Drop all communities first.
    pub clear_communities: bool,
    /// Communities to remove.
    pub remove_communities: Vec<Community>,
    /// Communities to add, each once.
    pub add_communities: Vec<Community>,
    /// Large communities to remove.
    pub remove_large: Vec<LargeCommunity>,
    /// Large communities to add, each once.
    pub add_large: Vec<LargeCommunity>,
    /// Extended communities to remove.
    pub remove_ext: Vec<ExtCommunity>,
    /// Extended communities to add, each once.
    pub add_ext: Vec<ExtCommunity>,
    /// How often to prepend: our own AS, or the given one.
    pub prepend: Option<(Option<Asn>, u8)>,
    /// Next hop.
    pub next_hop: Option<NextHopAction>,
    /// The route goes into the kernel also where only pod prefixes do; for import policies.
    pub install: Option<bool>,
}

impl Actions {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies the changes.
    pub fn apply(&self, attrs: &mut PathAttrs, context: ActionContext) {
        attrs.local_pref = self.local_pref.or(attrs.local_pref);
        attrs.med = self.med.or(attrs.med);
        self.apply_communities(attrs);
        self.apply_large(attrs);
        if let Some((asn, times)) = self.prepend {
            attrs.as_path = attrs
                .as_path
                .prepend(asn.unwrap_or(context.local_asn), usize::from(times));
        }
        if let Some(install) = self.install {
            attrs.extra_mut().install = install;
        }
        match (self.next_hop, context.local_addr) {
            (Some(NextHopAction::Address(addr)), _) => attrs.next_hop = named(addr),
            (Some(NextHopAction::OwnAddress), Some(addr)) => attrs.next_hop = NextHop::from(addr),
            _ => {}
        }
    }

    fn apply_communities(&self, attrs: &mut PathAttrs) {
        if !self.clear_communities && self.remove_communities.is_empty() && self.add_communities.is_empty() {
            return;
        }
        let mut list = if self.clear_communities {
            Vec::new()
        } else {
            attrs.communities.to_vec()
        };
        edit(&mut list, &self.remove_communities, &self.add_communities);
        attrs.communities = list.into();
    }

    fn apply_large(&self, attrs: &mut PathAttrs) {
        if !self.remove_large.is_empty() || !self.add_large.is_empty() {
            edit(
                &mut attrs.extra_mut().large_communities,
                &self.remove_large,
                &self.add_large,
            );
        }
        if !self.remove_ext.is_empty() || !self.add_ext.is_empty() {
            edit(
                &mut attrs.extra_mut().ext_communities,
                &self.remove_ext,
                &self.add_ext,
            );
        }
    }
}

fn edit<T: PartialEq + Copy>(list: &mut Vec<T>, remove: &[T], add: &[T]) {
    list.retain(|item| !remove.contains(item));
    for item in add {
        if !list.contains(item) {
            list.push(*item);
        }
    }
}

/// An address that somebody wrote: whatever it has in the place of an interface is none.
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

    #[test]
    fn edits_in_order() {
        let mut attrs = PathAttrs::originated(NextHop::V4([192, 0, 2, 1].into()));
        attrs.communities = [Community(1), Community(2)].into();
        let actions = Actions {
            remove_communities: vec![Community(1)],
            add_communities: vec![Community(2), Community(3)],
            add_large: vec![LargeCommunity(1, 2, 3)],
            add_ext: vec![ExtCommunity(9)],
            prepend: Some((None, 2)),
            next_hop: Some(NextHopAction::OwnAddress),
            med: Some(5),
            ..Actions::default()
        };
        let local_addr = Some("192.0.2.9".parse().unwrap());
        actions.apply(
            &mut attrs,
            ActionContext {
                local_asn: Asn(64512),
                local_addr,
            },
        );
        assert_eq!(&attrs.communities[..], [Community(2), Community(3)]);
        assert_eq!(attrs.as_path.to_string(), "64512 64512");
        assert_eq!(attrs.next_hop.to_string(), "192.0.2.9");
        let extra = attrs.extra.unwrap();
        assert_eq!(extra.large_communities, [LargeCommunity(1, 2, 3)]);
        assert_eq!(extra.ext_communities, [ExtCommunity(9)]);
    }
}
