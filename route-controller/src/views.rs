//! Snapshots of the speaker and the kernel's routes as [`crate::status`] shows them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bgp_proto::engine::{ExportView, Lost, PathView, RouteView, RuleCounts, Trace, UnusedReason};
use bgp_proto::rib::table::Ineligible;
use bgp_proto::session::{Negotiated, State};
use bgp_proto::types::{Family, PeerId, Prefix};
use bgp_proto::wire::PathAttrs;
use bgp_speaker::PeerSnapshot;

use crate::fib::{Failure, Fib, Progress, RouteKey, RouteSpec, Target, WeightedNextHop};
use crate::status::{
    BlockStatus, Counts, ExportStatus, FibStatus, HopStatus, PathStatus, PeerStatus, RouteStatus, RuleStatus,
};
use crate::{attributes, clock, diagnostics, sysctl};

/// Peers: the configured ones in the configuration's order, then those of each range by address, however they came.
pub(crate) fn peers(peers: &[PeerSnapshot]) -> Vec<PeerStatus> {
    let mut shown: Vec<PeerStatus> = peers.iter().map(peer).collect();
    shown.sort_by_cached_key(|peer| peer.range.clone().map(|range| (range, peer.address)));
    shown
}

/// A peer.
pub(crate) fn peer(peer: &PeerSnapshot) -> PeerStatus {
    let (session, spec) = (&peer.session, &peer.spec);
    let negotiated = session.negotiated.as_ref();
    let up = session.state == State::Established;
    PeerStatus {
        name: peer.name.clone(),
        address: spec.transport.remote.ip(),
        interface: interface_of(&spec.transport.remote),
        range: peer.range.clone(),
        port: spec.transport.remote.port(),
        asn: peer.asn().map(|asn| asn.0),
        allowed_asns: spec.session.remote_asn.to_string(),
        local_asn: spec.session.local_asn.0,
        state: format!("{:?}", session.state),
        enabled: session.enabled,
        signed: session.signed,
        next_key: session.signed && session.next_key,
        last_end: session.stats.last_end.as_ref().map(ToString::to_string),
        last_end_seconds: session
            .stats
            .last_end_at
            .map(|at| clock::now().saturating_duration_since(at).as_secs()),
        uptime_seconds: peer.since.filter(|_| up).map(|since| since.as_secs()),
        received: counts(peer.counts.received),
        advertised: counts(peer.counts.advertised),
        last_error: session.stats.last_down.as_ref().map(ToString::to_string),
        hint: diagnostics::hint(peer),
        router_id: negotiated.map(|agreed| agreed.remote_id().to_string()),
        hold_seconds: negotiated.map(|agreed| agreed.hold_time.seconds()),
        families: negotiated
            .map(|agreed| agreed.families.iter().map(|family| family.to_string()).collect())
            .unwrap_or_default(),
        capabilities: negotiated.map(capabilities).unwrap_or_default(),
        not_agreed: negotiated.map(diagnostics::not_agreed).unwrap_or_default(),
        times_established: session.stats.established,
        messages_received: session.stats.received,
        messages_sent: session.messages_sent,
        updates_received: session.stats.messages_in.update,
        last_sent: session.stats.last_sent.as_ref().map(ToString::to_string),
        last_received: session.stats.last_received.as_ref().map(ToString::to_string),
        unwritten_bytes: peer.counts.outstanding,
        memory_bytes: peer.counts.memory,
        max_memory_bytes: peer.spec.routing.max_memory,
    }
}

/// What both sides agreed on, in words.
fn capabilities(agreed: &Negotiated) -> Vec<String> {
    let on = [
        (agreed.four_octet_as, "4-octet AS"),
        (agreed.refresh, "route refresh"),
        (agreed.enhanced_refresh, "enhanced route refresh"),
        (agreed.extended_message, "extended messages"),
        (
            agreed.extended_next_hop.contains(Family::Ipv4),
            "IPv4 over IPv6 next hops",
        ),
        (!agreed.add_path_receive.is_empty(), "several paths received"),
        (!agreed.add_path_send.is_empty(), "several paths sent"),
        (
            agreed.local.graceful_restart().is_some() && agreed.remote.graceful_restart().is_some(),
            "graceful restart",
        ),
        (!agreed.long_lived.is_empty(), "long-lived graceful restart"),
    ];
    on.into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// A prefix with its paths.
pub(crate) fn route(route: &RouteView) -> RouteStatus {
    RouteStatus {
        prefix: route.prefix.to_string(),
        paths: route.paths.iter().map(path).collect(),
        exports: route
            .exports
            .iter()
            .map(|(peer, trace)| (peer.clone(), trace.to_string()))
            .collect(),
        export: route.export.as_ref().map(export),
    }
}

fn export(export: &ExportView) -> ExportStatus {
    let withheld = |why: String| ExportStatus {
        sent: None,
        withheld: Some(why),
    };
    match export {
        ExportView::Sent(attrs) => ExportStatus {
            sent: Some(named_attributes(attrs)),
            withheld: None,
        },
        ExportView::Withheld(trace) => withheld(trace.to_string()),
        ExportView::OwnRoute => withheld("not sent: the best path was received from this peer".to_owned()),
        ExportView::OwnNextHop => {
            withheld("not sent: its next hop is this peer's address (RFC 4271 §5.1.3)".to_owned())
        }
        ExportView::OtherFamily => withheld("not sent: the session does not carry this family".to_owned()),
        ExportView::NotYet => withheld(
            "not sent yet: the session is not established, or the initial routes are on their way".to_owned(),
        ),
    }
}

/// Attributes that are there, by their names in the configuration.
fn named_attributes(attrs: &PathAttrs) -> BTreeMap<String, String> {
    let fields = attributes::fields(attrs).into_iter();
    fields
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The step of the decision process, and the peer of the preferred path.
fn not_best(lost: &Lost) -> String {
    match &lost.to {
        Some(peer) => format!("{} (preferred: {peer})", lost.step),
        None => format!("{} (preferred: local)", lost.step),
    }
}

fn path(path: &PathView) -> PathStatus {
    let local = path.peer == PeerId::LOCAL;
    let extra = path.attrs.extra.as_deref();
    PathStatus {
        best: path.best,
        next_hop: if local {
            "self".to_owned()
        } else {
            with_interface_name(&path.attrs.next_hop.to_string())
        },
        from: path.peer_name.clone().unwrap_or_else(|| "local".to_owned()),
        as_path: path.attrs.as_path.to_string(),
        local_pref: path.attrs.local_pref,
        med: path.attrs.med,
        communities: path.attrs.communities.iter().map(ToString::to_string).collect(),
        large_communities: texts(extra.map_or(&[], |extra| &extra.large_communities)),
        ext_communities: texts(extra.map_or(&[], |extra| &extra.ext_communities)),
        path_id: path.path_id.0,
        originator_id: extra
            .and_then(|extra| extra.originator_id)
            .map(|id| id.to_string()),
        cluster_list: extra.map_or_else(Vec::new, |extra| {
            let ids = extra.cluster_list.iter();
            ids.map(|id| std::net::Ipv4Addr::from_bits(*id).to_string())
                .collect()
        }),
        eligible: path.unused.is_none(),
        used: path.used,
        stale: path.stale,
        reason: path.unused.map(|why| reason(why, path.import.as_ref())),
        unused: path.unused.map(|why| unused_code(why).to_owned()),
        policy: path.import.as_ref().map(ToString::to_string),
        not_best: path.lost.as_ref().map(not_best),
        received: path.received.as_ref().map(named_attributes),
        changes: path
            .received
            .as_ref()
            .map(|received| attributes::changes(received, &path.attrs))
            .unwrap_or_default(),
    }
}

/// Rules of policies with the routes that they match.
pub(crate) fn rules(counts: &RuleCounts) -> Vec<RuleStatus> {
    let rules = counts.iter().map(|((policy, export, rule), routes)| RuleStatus {
        policy: policy.clone(),
        direction: if *export { "export" } else { "import" }.to_owned(),
        rule: rule.clone(),
        routes: *routes,
    });
    rules.collect()
}

fn unused_code(why: UnusedReason) -> &'static str {
    match why {
        UnusedReason::Refused(Ineligible::Policy) => "policy",
        UnusedReason::Refused(_) => "invalid",
        UnusedReason::Unresolved => "unresolved",
        UnusedReason::OwnNextHop => "ownNextHop",
        UnusedReason::Resolving => "resolving",
    }
}

/// Why a path is not used; of one that its import policy rejects with the rule.
fn reason(why: UnusedReason, import: Option<&Trace>) -> String {
    let rule = import.filter(|_| why == UnusedReason::Refused(Ineligible::Policy));
    match rule {
        None => why.to_string(),
        Some(trace) => match &trace.by {
            Some(label) => format!("{why}: {label}"),
            None => format!("{why}: no rule of {} accepts it", trace.policy),
        },
    }
}

/// `fe80::1%3` as people say it: `fe80::1%eth1`.
fn with_interface_name(text: &str) -> String {
    let named = text.split_once('%').and_then(|(address, index)| {
        let name = interface_name(index.parse().ok()?)?;
        Some(format!("{address}%{name}"))
    });
    named.unwrap_or_else(|| text.to_owned())
}

fn interface_of(remote: &SocketAddr) -> Option<String> {
    match remote {
        SocketAddr::V6(remote) if remote.scope_id() != 0 => interface_name(remote.scope_id()),
        _ => None,
    }
}

fn interface_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    name.into_string().ok().filter(|name| !name.is_empty())
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// Kernel routes, by prefix.
pub(crate) fn fib(fib: &Fib) -> Vec<FibStatus> {
    let installed = fib
        .delta
        .routes()
        .into_iter()
        .map(|(key, (spec, progress))| kernel_route(fib, key, spec, progress));
    let refused = fib.refused().map(|(prefix, rule)| FibStatus {
        prefix: prefix.to_string(),
        kind: "unicast".to_owned(),
        metric: fib.key(*prefix).metric,
        next_hops: Vec::new(),
        nexthop_object: None,
        state: if rule.is_trouble() {
            "refused"
        } else {
            "not needed"
        }
        .to_owned(),
        error: Some(rule.to_string()),
    });
    installed.chain(refused).collect()
}

fn kernel_route(fib: &Fib, key: RouteKey, spec: &RouteSpec, progress: Progress) -> FibStatus {
    let kind = match &spec.target {
        Target::Unreachable => "unreachable",
        Target::Throw => "throw",
        Target::Blackhole => "blackhole",
        Target::NextHops(_) | Target::Group(_) => "unicast",
    };
    let next_hops = fib
        .next_hops(spec)
        .iter()
        .map(|next_hop| hop_status(fib, next_hop))
        .collect();
    let (state, error) = match progress {
        Progress::Installed => ("installed", None),
        Progress::Pending => ("pending", None),
        Progress::Failed(failure) => ("failed", Some(explain(fib, key, failure))),
    };
    FibStatus {
        prefix: key.prefix.to_string(),
        kind: kind.to_owned(),
        metric: key.metric,
        next_hops,
        nexthop_object: spec.group(),
        state: state.to_owned(),
        error,
    }
}

fn hop_status(fib: &Fib, next_hop: &WeightedNextHop) -> HopStatus {
    let hop = next_hop.hop;
    let name = fib.mirror.links.get(&hop.ifindex).map(|link| link.name.clone());
    HopStatus {
        gateway: hop.gateway,
        interface: name.unwrap_or_else(|| format!("#{}", hop.ifindex)),
        weight: next_hop.weight,
    }
}

fn explain(fib: &Fib, key: RouteKey, failure: Failure) -> String {
    match failure {
        Failure::Exists => {
            let protocol = fib.mirror.foreign(&key);
            let whose = protocol.map_or_else(String::new, |protocol| format!(" (protocol {protocol})"));
            format!(
                "another program{whose} has a route with this prefix and metric {}; choose another fib.metric",
                key.metric
            )
        }
        Failure::Missing => "the kernel has no such route".to_owned(),
        Failure::Errno(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

/// Own blocks.
pub(crate) fn blocks(fib: &Fib) -> Vec<BlockStatus> {
    let troubles = sysctl::strict_rp_filter();
    fib.blocks()
        .map(|(prefix, ready)| BlockStatus {
            prefix: prefix.to_string(),
            state: if ready || !fib.config().install {
                "advertised"
            } else {
                "pending"
            }
            .to_owned(),
            troubles: troubles.clone(),
        })
        .collect()
}

/// A block is advertised when a peer was sent routes of its family.
pub(crate) fn note_unsent(blocks: &mut [BlockStatus], peers: &[PeerSnapshot]) {
    let up = || {
        peers
            .iter()
            .filter(|peer| peer.session.state == State::Established)
    };
    for block in blocks.iter_mut().filter(|block| block.state == "advertised") {
        let Some(family) = block.prefix.parse().ok().map(|prefix: Prefix| prefix.family()) else {
            continue;
        };
        let sent = |peer: &PeerSnapshot| {
            let counts = Family::ALL.into_iter().zip(peer.counts.advertised);
            counts.into_iter().any(|(of, count)| of == family && count > 0)
        };
        if up().any(sent) {
            continue;
        }
        block.state = "unsent".to_owned();
        block.troubles.insert(0, match up().next() {
            None => "no session is established: no peer was sent this block".to_owned(),
            Some(_) => format!(
                "no peer was sent {family} routes: the sessions' families, an export policy that rejects them, or, for IPv4 on \
                 IPv6 sessions, a peer without RFC 8950"
            ),
        });
    }
}

/// Counts by family as shown.
fn counts(numbers: [usize; 2]) -> Counts {
    Family::ALL.iter().map(ToString::to_string).zip(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn peers_of_a_range_are_in_the_order_of_their_addresses() {
        let peer = |id, name: &str, range: Option<&str>, address: &str| {
            let mut peer = testing::peer();
            (peer.id, peer.name) = (PeerId(id), name.to_owned());
            peer.range = range.map(str::to_owned);
            peer.spec.transport.remote = SocketAddr::new(address.parse().unwrap(), 179);
            peer
        };
        let came = [
            peer(1, "tor-b", None, "192.0.2.2"),
            peer(2, "tor-a", None, "192.0.2.1"),
            peer(100, "pods-10", Some("pods"), "198.51.100.10"),
            peer(101, "nodes-12", Some("nodes"), "192.0.2.12"),
            peer(102, "pods-9", Some("pods"), "198.51.100.9"),
            peer(103, "nodes-11", Some("nodes"), "192.0.2.11"),
        ];
        let shown = peers(&came).into_iter().map(|peer| peer.name);
        let expected = ["tor-b", "tor-a", "nodes-11", "nodes-12", "pods-9", "pods-10"];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_link_local_next_hop_has_its_interfaces_name() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        assert_eq!(with_interface_name(&format!("fe80::1%{index}")), "fe80::1%lo");
        assert_eq!(
            with_interface_name("fe80::1%4294967295"),
            "fe80::1%4294967295",
            "it is gone"
        );
        assert_eq!(with_interface_name("192.0.2.1"), "192.0.2.1");
    }
}
