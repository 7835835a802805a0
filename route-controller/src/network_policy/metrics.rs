//! Counts of network policies for Prometheus.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::NetworkPolicies;

type Labels = Vec<(&'static str, String)>;

/// Namespaces that have a series of their own; the packets of others are counted together.
const NAMESPACES: usize = 100;

/// Adds them, where policies are enforced.
pub(crate) async fn put(registry: &mut Registry, policies: &NetworkPolicies) {
    let asked = policies.ask(|worker| {
        let totals = worker.enforcer.totals().unwrap_or_default();
        let state = (
            worker.is_synced(),
            worker.last_error.is_none(),
            worker.problems.len() + worker.excesses.len(),
        );
        (totals, worker.counts, state, worker.enforcer.model.sizes())
    });
    let Ok((totals, counts, (is_synced, is_well, problems), sizes)) = asked.await else {
        return;
    };
    let dropped = Metric::<Labels, Counter>::default();
    for (index, ((direction, namespace), packets)) in totals.dropped.into_iter().enumerate() {
        let namespace = if index < NAMESPACES {
            namespace
        } else {
            "(others)".to_owned()
        };
        let labels = vec![("direction", direction.to_string()), ("namespace", namespace)];
        dropped.get_or_create(&labels).inc_by(packets);
    }
    registry.register(
        "network_policy_dropped_packets",
        "Packets that policies dropped, by direction and namespace of the policies, since the rules are there",
        dropped,
    );
    let ok = Gauge::<i64>::default();
    ok.set(i64::from(is_synced && is_well));
    registry.register("network_policy_ok", "All policies are in force", ok);
    let last = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
    last.set(counts.last.as_secs_f64());
    registry.register(
        "network_policy_last_seconds",
        "From the last event to the kernel's answer",
        last,
    );
    let objects = Metric::<Labels, Gauge>::default();
    for (kind, count) in sizes.into_iter().chain([("unusable policies", problems)]) {
        let gauge = objects.get_or_create(&vec![("kind", kind.to_owned())]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "network_policy_objects",
        "What policies are made from and compiled to",
        objects,
    );
    let numbers = [
        (
            "network_policy_waiting_dropped_packets",
            "Packets of pods whose rules were not there yet",
            totals.waiting,
        ),
        (
            "network_policy_midstream_dropped_packets",
            "TCP packets of connections that are not tracked",
            totals.midstream,
        ),
        (
            "network_policy_accepted_packets",
            "First packets of connections that rules accepted",
            totals.accepted,
        ),
        (
            "network_policy_transactions",
            "Changes of the kernel's rules",
            counts.transactions,
        ),
        (
            "network_policy_failures",
            "Changes that failed and were tried again",
            counts.failures,
        ),
        (
            "network_policy_repairs",
            "Changes by other programs that were taken back",
            counts.repairs,
        ),
        (
            "network_policy_ended_connections",
            "Established connections that policies ended",
            counts.ended,
        ),
    ];
    for (name, help, value) in numbers {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
}
