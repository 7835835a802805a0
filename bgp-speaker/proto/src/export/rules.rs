//! Export rules: whether a path is sent to a group, and with which attributes (RFC 4271 §5, §9.1.3; RFC 4456;
//! RFC 1997).
//!
//! | attribute | to another AS | inside our AS |
//! |---|---|---|
//! | AS_PATH | our AS prepended (§5.1.2) | unchanged |
//! | NEXT_HOP | ourselves, or a third party on a shared subnet (§5.1.3) | unchanged; ourselves for originated routes and with `nextHopSelf` |
//! | MULTI_EXIT_DISC | only if originated or set by policy (§5.1.4) | unchanged |
//! | LOCAL_PREF | never (§5.1.5) | always; 100 if absent |
//! | ORIGINATOR_ID, CLUSTER_LIST | never (RFC 4456 §8) | set on reflected routes |
//! | non-transitive extended communities | never (RFC 4360 §6) | unchanged |
//!
//! [`crate::peer::PathRules`] change the AS path towards another AS in this order: private numbers are
//! removed, the peer's own number is replaced, our number is prepended. A route server (RFC 7947) does not
//! change AS_PATH, NEXT_HOP and MULTI_EXIT_DISC.
//!
//! The actions of the export policy are applied last, so that the operator's configuration takes precedence.
//!
//! Panics: none.
//!
//! ```
//! use bgp_proto::export::rules::{GroupKey, Learned};
//! use bgp_proto::peer::PeerKind;
//! use bgp_proto::policy::{RuleSet, Source};
//! use bgp_proto::types::{Asn, Family};
//! use bgp_proto::wire::{NextHop, PathAttrs};
//! # use std::sync::Arc;
//! # use bgp_proto::peer::PathRules;
//! # use bgp_proto::policy::Policy;
//! # use bgp_proto::types::FamilySet;
//! # use bgp_proto::wire::{EncodeContext, MAX_LEN};
//!
//! let key = GroupKey {
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
//! # };
//! let block = PathAttrs::originated(NextHop::V4([0, 0, 0, 0].into()));
//! let learned = Learned::Local(Source::PodBlock);
//! let sent = key.transform(Family::Ipv4, &block, learned, RuleSet::default());
//! assert_eq!(sent.as_path.to_string(), "64512");
//! assert_eq!(sent.next_hop, NextHop::V4([192, 0, 2, 1].into()));
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::peer::{PathRules, PeerKind, PeerRouting, PrivateAs, SessionFacts};
use crate::policy::{ActionContext, NextHopAction, Policy, RuleSet, Source, named};
use crate::types::{Asn, Community, Family, FamilySet, Prefix, RouterId, scope_of};
use crate::wire::DEFAULT_LOCAL_PREF;
use crate::wire::{AsPath, EncodeContext, MAX_LEN, MAX_LEN_EXTENDED, NextHop, PathAttrs};

/// How the best path was learned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Learned {
    /// Originated by this speaker.
    Local(Source),
    /// Received from a peer of this kind with this BGP identifier.
    Peer(PeerKind, RouterId),
}

impl Learned {
    /// The source that export policies match.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Learned::Local(source) => source,
            Learned::Peer(..) => Source::Peer,
        }
    }
}

/// Everything that determines the bytes sent to a peer: peers with equal keys share a group.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupKey {
    /// Relation to the members.
    pub kind: PeerKind,
    /// Our AS towards them.
    pub local_asn: Asn,
    /// Our real AS number.
    pub own_asn: Asn,
    /// The members' AS number, if the advertised path depends on it.
    pub member_asn: Option<Asn>,
    /// Path attribute rules.
    pub rules: PathRules,
    /// Negotiated families.
    pub families: FamilySet,
    /// Families in which IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: FamilySet,
    /// Parameters of encoding.
    pub encode: EncodeContext,
    /// Export policy.
    pub policy: Arc<Policy>,
    /// `nextHopSelf`.
    pub next_hop_self: bool,
    /// Our IPv4 next hop.
    pub local_v4: Option<Ipv4Addr>,
    /// Our IPv6 next hop.
    pub local_v6: Option<NextHop>,
    /// Subnets on which the next hop of a third party may be sent (RFC 4271 §5.1.3).
    pub shared_subnets: Vec<Prefix>,
    /// Our reflector cluster id.
    pub cluster_id: u32,
    /// Families in which the members accept long-lived stale routes (RFC 9494 §4.3).
    pub long_lived: FamilySet,
    /// This node is about to shut down (RFC 8326 §4).
    pub draining: bool,
}

impl GroupKey {
    /// The key of an established peer.
    #[must_use]
    pub fn of(routing: &PeerRouting, facts: &SessionFacts, own_asn: Asn, cluster_id: u32) -> Self {
        let negotiated = &facts.negotiated;
        let internal = routing.kind != PeerKind::External;
        // RFC 2545 §3: the link-local address only on a shared subnet with the peer.
        let unnumbered = matches!(facts.remote_addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        let link_local = facts
            .link_local
            .filter(|_| unnumbered || !facts.shared_subnets.is_empty());
        let pair = |global| link_local.map_or(NextHop::V6(global), |local| NextHop::V6Pair(global, local));
        // On an unnumbered link the link-local address stands for both.
        let local_v6 = facts.local_v6.or(link_local.filter(|_| unnumbered)).map(pair);
        // The peer of an IPv6 session may have no IPv4 address on the link: if it accepts IPv6 next hops for
        // IPv4, they are used (RFC 8950 §4).
        let over_v6 = facts.remote_addr.is_ipv6()
            && local_v6.is_some()
            && negotiated.extended_next_hop.contains(Family::Ipv4);
        let (member_asn, rules) = path_rules(routing);
        Self {
            kind: routing.kind,
            local_asn: routing.local_asn,
            own_asn,
            member_asn,
            rules,
            families: negotiated.families,
            extended_next_hop: negotiated.extended_next_hop,
            encode: EncodeContext {
                four_octet_as: negotiated.four_octet_as,
                add_path: negotiated.add_path_send,
                max_len: if negotiated.extended_message {
                    MAX_LEN_EXTENDED
                } else {
                    MAX_LEN
                },
                internal,
            },
            policy: Arc::clone(&routing.export),
            next_hop_self: routing.next_hop_self,
            local_v4: facts.local_v4.filter(|_| !over_v6),
            local_v6,
            shared_subnets: facts.shared_subnets.clone(),
            cluster_id,
            long_lived: negotiated.long_lived,
            draining: false,
        }
    }

    /// Whether a route may be sent to the group, before policy.
    #[must_use]
    pub fn may_export(&self, prefix: &Prefix, attrs: &PathAttrs, learned: Learned) -> bool {
        self.families.contains(prefix.family())
            && self.reflection_allows(learned)
            && self.communities_allow(prefix.family(), attrs)
            && self.next_hop(prefix.family(), attrs, learned).is_some()
    }

    /// RFC 4271 §9.2.1, RFC 4456 §6: only a reflector sends routes of an iBGP peer to another.
    fn reflection_allows(&self, learned: Learned) -> bool {
        match (learned, self.kind) {
            (Learned::Peer(PeerKind::Internal, _), PeerKind::Internal) => false,
            (_, PeerKind::External | PeerKind::Internal | PeerKind::Client) => true,
        }
    }

    /// RFC 1997: well-known communities. Confederations are not supported: NO_EXPORT_SUBCONFED is treated as
    /// NO_EXPORT.
    fn communities_allow(&self, family: Family, attrs: &PathAttrs) -> bool {
        !attrs.communities.iter().any(|community| match *community {
            Community::NO_ADVERTISE => true,
            Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED => self.kind == PeerKind::External,
            // RFC 9494 §4.3: only for members that negotiated it.
            Community::LLGR_STALE => !self.long_lived.contains(family),
            _ => false,
        })
    }

    /// The next hop to send, before policy; `None` without an address of a suitable family.
    fn next_hop(&self, family: Family, attrs: &PathAttrs, learned: Learned) -> Option<NextHop> {
        let own = || self.own_next_hop(family);
        // A link-local next hop has no meaning on other links (RFC 4291 §2.5.6).
        let link_local = scope_of(attrs.next_hop.addr()).is_some();
        match (learned, self.kind) {
            (Learned::Local(_), _) => own(),
            _ if link_local => own(),
            (Learned::Peer(..), PeerKind::External) => {
                let unchanged = self.rules.next_hop_unchanged || self.rules.route_server;
                if unchanged || self.is_shared(attrs.next_hop.addr()) {
                    Some(self.unchanged_next_hop(attrs.next_hop))
                } else {
                    own()
                }
            }
            _ if self.next_hop_self => own(),
            // RFC 4456 §10: a reflector does not change NEXT_HOP, unless `nextHopSelf` is configured.
            _ => Some(self.unchanged_next_hop(attrs.next_hop)),
        }
    }

    /// The next hop to send, after policy; `None` if the members do not accept it.
    #[must_use]
    pub fn next_hop_after(
        &self,
        matched: RuleSet,
        family: Family,
        attrs: &PathAttrs,
        learned: Learned,
    ) -> Option<NextHop> {
        let link_local = scope_of(attrs.next_hop.addr()).is_some();
        let named = match self.policy.next_hop(matched) {
            Some(NextHopAction::Address(addr)) => Some(named(addr)),
            Some(NextHopAction::OwnAddress) => self.own_next_hop(family).map(|own| own.addr().into()),
            Some(NextHopAction::Unchanged) if !link_local => Some(self.unchanged_next_hop(attrs.next_hop)),
            Some(NextHopAction::Unchanged | NextHopAction::PeerAddress) | None => None,
        };
        let next_hop = named.or_else(|| self.next_hop(family, attrs, learned));
        next_hop.filter(|next_hop| self.can_carry(family, *next_hop))
    }

    /// Whether an address is the one that we send as our own.
    #[must_use]
    pub fn is_own(&self, addr: IpAddr, family: Family) -> bool {
        self.own_next_hop(family).is_some_and(|own| own.addr() == addr)
    }

    /// An IPv6 next hop for IPv4 only to members that negotiated it (RFC 8950 §4).
    fn can_carry(&self, family: Family, next_hop: NextHop) -> bool {
        let is_plain = family == Family::Ipv6 || matches!(next_hop, NextHop::V4(_));
        is_plain || self.extended_next_hop.contains(family)
    }

    /// The received next hop. Its link-local address is sent only to members on the link of the global one
    /// (RFC 2545 §3).
    fn unchanged_next_hop(&self, next_hop: NextHop) -> NextHop {
        match next_hop {
            NextHop::V6Pair(global, _) if !self.is_shared(global.into()) => NextHop::V6(global),
            _ => next_hop,
        }
    }

    fn own_next_hop(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv6 => self.local_v6,
            Family::Ipv4 => self.local_v4.map(NextHop::V4).or_else(|| {
                self.local_v6
                    .filter(|_| self.extended_next_hop.contains(Family::Ipv4)) // RFC 8950 §4
            }),
        }
    }

    /// RFC 4271 §5.1.3: the address of a third party on a subnet that we share with the peer.
    fn is_shared(&self, addr: IpAddr) -> bool {
        self.shared_subnets
            .iter()
            .any(|subnet| subnet.contains_addr(addr))
    }

    /// The attributes to send for an accepted route.
    #[must_use]
    pub fn transform(
        &self,
        family: Family,
        attrs: &PathAttrs,
        learned: Learned,
        matched: RuleSet,
    ) -> PathAttrs {
        let mut out = attrs.clone();
        match self.kind {
            PeerKind::External => self.transform_external(&mut out, learned, matched),
            PeerKind::Internal | PeerKind::Client => self.transform_internal(&mut out, learned),
        }
        let context = ActionContext {
            local_asn: self.local_asn,
            peer_addr: None, // the next hop is set below
            others_prepended: self.kind == PeerKind::External && !self.is_transparent(learned),
        };
        self.policy.apply(matched, &mut out, context);
        if let Some(next_hop) = self.next_hop_after(matched, family, attrs, learned) {
            out.next_hop = next_hop;
        }
        if self.draining {
            mark_graceful_shutdown(&mut out);
        }
        if self.kind == PeerKind::External {
            out.local_pref = None; // RFC 4271 §5.1.5
        }
        out.normalize();
        out
    }

    /// RFC 7947 §2.2: a route server does not change the paths of others.
    fn is_transparent(&self, learned: Learned) -> bool {
        self.rules.route_server && !matches!(learned, Learned::Local(_))
    }

    fn transform_external(&self, out: &mut PathAttrs, learned: Learned, matched: RuleSet) {
        let local = matches!(learned, Learned::Local(_));
        let transparent = self.is_transparent(learned);
        if !transparent {
            out.as_path = self.external_as_path(&out.as_path, matched);
        }
        if !local && !transparent {
            out.med = None; // RFC 4271 §5.1.4
        }
        if let Some(extra) = out.extra.as_deref_mut() {
            extra.originator_id = None;
            extra.cluster_list.clear();
            extra
                .ext_communities
                .retain(|community| community.is_transitive());
        }
    }

    fn external_as_path(&self, path: &AsPath, matched: RuleSet) -> AsPath {
        // The peer's own number stays, so that it can detect a loop.
        let private = |asn: Asn| asn.is_private() && Some(asn) != self.member_asn;
        let mut path = match self.rules.private_as {
            PrivateAs::Keep => path.clone(),
            PrivateAs::Remove => path.map(|asn| (!private(asn)).then_some(asn)),
            PrivateAs::Replace => path.map(|asn| Some(if private(asn) { self.local_asn } else { asn })),
        };
        if let Some(member_asn) = self.member_asn.filter(|_| self.rules.as_override) {
            path = path.map(|asn| Some(if asn == member_asn { self.local_asn } else { asn }));
        }
        // What a policy prepends follows our own number, which is to be the first one (RFC 4271 §6.3).
        path = self.policy.prepend_others(matched, path);
        // RFC 7705 §3.2: the real number stays in the path unless it is replaced.
        if self.rules.local_as.is_some_and(|local_as| !local_as.replace_as) {
            path = path.prepend(self.own_asn, 1);
        }
        path.prepend(self.local_asn, 1) // RFC 4271 §5.1.2 b
    }

    fn transform_internal(&self, out: &mut PathAttrs, learned: Learned) {
        let local = matches!(learned, Learned::Local(_));
        let shuts_down = local && out.has_community(Community::GRACEFUL_SHUTDOWN);
        let default = if shuts_down { 0 } else { DEFAULT_LOCAL_PREF }; // RFC 8326 §4
        out.local_pref.get_or_insert(default);
        if let Learned::Peer(PeerKind::Internal | PeerKind::Client, source) = learned {
            let extra = out.extra_mut();
            extra.originator_id.get_or_insert(source); // RFC 4456 §8
            extra.cluster_list.insert(0, self.cluster_id);
        }
    }
}

/// What paths sent to a peer depend on: its AS number, if it occurs in them, and the rules of export.
pub(crate) fn path_rules(routing: &PeerRouting) -> (Option<Asn>, PathRules) {
    let needs_asn = routing.rules.as_override || routing.rules.private_as != PrivateAs::Keep;
    let rules = PathRules {
        enforce_first_as: false, // only for import
        ..routing.rules
    };
    (needs_asn.then_some(routing.remote_asn), rules)
}

/// RFC 8326 §4: makes other paths preferred, in our AS and in others.
fn mark_graceful_shutdown(out: &mut PathAttrs) {
    out.local_pref = Some(0);
    if !out.has_community(Community::GRACEFUL_SHUTDOWN) {
        let communities = out.communities.iter().copied();
        out.communities = communities.chain([Community::GRACEFUL_SHUTDOWN]).collect();
    }
}
