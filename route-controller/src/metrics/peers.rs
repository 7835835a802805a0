//! Series of peers. Each of a peer that `metrics.perPeer` leaves out is counted in `podroute_sessions` alone.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use bgp_proto::engine::RuleCounts;
use bgp_proto::session::{DownReason, State};
use bgp_proto::types::Family;
use bgp_proto::wire::Notification;
use bgp_speaker::PeerSnapshot;
use podroute_config::PerPeer;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::page::Labels;

/// Which peers have series of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) per_peer: PerPeer,
    /// Nodes of the mesh.
    pub(crate) of_mesh: BTreeSet<String>,
}

impl Series {
    fn has(&self, peer: &PeerSnapshot) -> bool {
        match self.per_peer {
            PerPeer::All => true,
            PerPeer::Configured => peer.range.is_none() && !self.of_mesh.contains(&peer.name),
            PerPeer::None => false,
        }
    }
}

/// Adds all of them.
pub(super) fn put(registry: &mut Registry, peers: &[PeerSnapshot], series: &Series) {
    put_sessions(registry, peers);
    let own: Vec<&PeerSnapshot> = peers.iter().filter(|peer| series.has(peer)).collect();
    put_states(registry, &own);
    put_peers(registry, &own);
}

/// All sessions, whichever peers have series of their own.
fn put_sessions(registry: &mut Registry, peers: &[PeerSnapshot]) {
    let mut counts = BTreeMap::from([("established", 0), ("down", 0), ("disabled", 0)]);
    for peer in peers {
        let state = match (peer.session.state, peer.session.enabled) {
            (State::Established, _) => "established",
            (_, false) => "disabled",
            (_, true) => "down",
        };
        *counts.entry(state).or_default() += 1;
    }
    let sessions = Metric::<Labels, Gauge>::default();
    for (state, count) in counts {
        sessions
            .get_or_create(&vec![("state", state.to_owned())])
            .set(count);
    }
    registry.register("sessions", "Sessions of all peers by state", sessions);
}

/// Since when sessions are as they are, and why those that are down ended.
fn put_states(registry: &mut Registry, peers: &[&PeerSnapshot]) {
    let uptime = Metric::<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    let reasons = Metric::<Labels, Gauge>::default();
    let enabled = Metric::<Labels, Gauge>::default();
    let flaps = Metric::<Labels, Counter>::default();
    let updates = Metric::<Labels, Counter>::default();
    for peer in peers {
        let name = || ("peer", peer.name.clone());
        let is_up = peer.session.state == State::Established;
        let since = peer.since.filter(|_| is_up).unwrap_or_default();
        uptime.get_or_create(&vec![name()]).set(since.as_secs_f64());
        enabled
            .get_or_create(&vec![name()])
            .set(i64::from(peer.session.enabled));
        let stats = &peer.session.stats;
        let ended = stats.established.saturating_sub(u64::from(is_up));
        flaps.get_or_create(&vec![name()]).inc_by(ended);
        updates
            .get_or_create(&vec![name()])
            .inc_by(stats.messages_in.update);
        if let Some(reason) = stats.last_down.as_ref().filter(|_| !is_up) {
            let labels = vec![name(), ("reason", reason_of(reason).to_owned())];
            reasons.get_or_create(&labels).set(1);
        }
    }
    registry.register(
        "peer_uptime_seconds",
        "Time in Established; 0 in other states",
        uptime,
    );
    registry.register("peer_enabled", "0 while administratively down", enabled);
    registry.register(
        "peer_down_reason",
        "Why the session is down; absent while it is established",
        reasons,
    );
    registry.register("peer_flaps", "Established sessions that ended", flaps);
    registry.register("peer_updates_received", "UPDATE messages received", updates);
}

/// A reason as one of a few words: texts of peers are no labels.
fn reason_of(reason: &DownReason) -> &'static str {
    let notification = |notification: &Notification, sent: bool| match (notification.code, sent) {
        (1, true) => "sent_header_error",
        (2, true) => "sent_open_error",
        (3, true) => "sent_update_error",
        (4, true) => "sent_hold_timer_expired",
        (5, true) => "sent_state_machine_error",
        (6, true) => "sent_cease",
        (_, true) => "sent_other",
        (1, false) => "received_header_error",
        (2, false) => "received_open_error",
        (3, false) => "received_update_error",
        (4, false) => "received_hold_timer_expired",
        (5, false) => "received_state_machine_error",
        (6, false) => "received_cease",
        (_, false) => "received_other",
    };
    match reason {
        DownReason::Sent(sent) => notification(sent, true),
        DownReason::Received(received) => notification(received, false),
        DownReason::Closed(_) => "connection_closed",
        DownReason::Abandoned => "restart",
    }
}

/// How many routes the rules of policies match. Left out where the table is large: `show policies` counts when asked.
pub(super) fn put_rules(registry: &mut Registry, counts: &RuleCounts) {
    let routes = Metric::<Labels, Gauge>::default();
    for ((policy, export, rule), count) in counts {
        let direction = if *export { "export" } else { "import" };
        let labels = vec![
            ("policy", policy.clone()),
            ("direction", direction.to_owned()),
            ("rule", rule.clone()),
        ];
        routes
            .get_or_create(&labels)
            .set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    registry.register(
        "policy_rule_routes",
        "Routes that a rule of a policy matches",
        routes,
    );
}

fn put_peers(registry: &mut Registry, peers: &[&PeerSnapshot]) {
    let up = Metric::<Labels, Gauge>::default();
    let prefixes = Metric::<Labels, Gauge>::default();
    let unwritten = Metric::<Labels, Gauge>::default();
    let memory = Metric::<Labels, Gauge>::default();
    let counters = [(); 4].map(|()| Metric::<Labels, Counter>::default());
    for peer in peers {
        let name = || ("peer", peer.name.clone());
        let address = peer.spec.transport.remote.ip().to_string();
        let asn = peer
            .asn()
            .map_or_else(|| peer.spec.session.remote_asn.to_string(), |asn| asn.to_string());
        let labels = vec![name(), ("address", address), ("asn", asn)];
        up.get_or_create(&labels)
            .set(i64::from(peer.session.state == State::Established));
        for (direction, counts) in [("in", peer.counts.received), ("out", peer.counts.advertised)] {
            for (family, count) in Family::ALL.into_iter().zip(counts) {
                let labels = vec![
                    name(),
                    ("family", family.to_string()),
                    ("direction", direction.to_owned()),
                ];
                prefixes
                    .get_or_create(&labels)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        let bytes = i64::try_from(peer.counts.outstanding).unwrap_or(i64::MAX);
        unwritten.get_or_create(&vec![name()]).set(bytes);
        let octets = i64::try_from(peer.counts.memory).unwrap_or(i64::MAX);
        memory.get_or_create(&vec![name()]).set(octets);
        let stats = &peer.session.stats;
        for (counter, value) in counters.iter().zip([
            stats.established,
            stats.received,
            peer.session.messages_sent,
            stats.update_issues,
        ]) {
            counter.get_or_create(&vec![name()]).inc_by(value);
        }
    }
    registry.register("peer_up", "Session is established", up);
    registry.register("peer_prefixes", "Prefixes received and advertised", prefixes);
    registry.register(
        "peer_unwritten_bytes",
        "What the peer has not read yet",
        unwritten,
    );
    registry.register(
        "peer_memory_bytes",
        "Approximate memory of the peer's routes",
        memory,
    );
    let [sessions, received, sent, errors] = counters;
    registry.register("peer_sessions", "How often the session came up", sessions);
    registry.register("peer_messages_received", "Messages received", received);
    registry.register("peer_messages_sent", "Messages sent", sent);
    registry.register(
        "peer_update_errors",
        "Faults in UPDATEs that did not end the session",
        errors,
    );
}
