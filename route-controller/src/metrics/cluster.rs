//! Series of Kubernetes: watches, Services and their pools.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::page::Labels;
use super::{Health, Source};

pub(super) fn put_cluster(registry: &mut Registry, source: &Source) {
    let numbers = [
        (
            "drained",
            "0: no; 1: peers are asked to prefer other paths; 2: the node's routes are withdrawn",
            source.health.drained.load(Ordering::Relaxed),
        ),
        (
            "rejected_facts",
            "Rejected annotations and Service addresses: podroute show cluster",
            source.health.rejected.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in numbers {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let up = Metric::<Labels, Gauge>::default();
    let failures = Metric::<Labels, Counter>::default();
    let age = Metric::<Labels, Gauge<f64, AtomicU64>>::default();
    let now = Instant::now();
    for (resource, watch) in source
        .watches
        .all()
        .into_iter()
        .chain(source.network_policies.watches())
    {
        let labels = vec![("resource", resource.to_owned())];
        up.get_or_create(&labels).set(i64::from(watch.answers));
        failures.get_or_create(&labels).inc_by(watch.failures);
        if let Some(heard) = watch.heard {
            age.get_or_create(&labels)
                .set(now.saturating_duration_since(heard).as_secs_f64());
        }
    }
    registry.register("kubernetes_watch_up", "The API server answers", up);
    registry.register(
        "kubernetes_watch_failures",
        "Requests and watches that failed",
        failures,
    );
    registry.register(
        "kubernetes_watch_age_seconds",
        "Since the API server last sent something on this watch",
        age,
    );
}

pub(super) fn put_services(registry: &mut Registry, health: &Health) {
    let clamp = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
    let states = Metric::<Labels, Gauge>::default();
    if let Ok(counts) = health.services.lock() {
        for (state, count) in counts.iter() {
            let labels = vec![("state", (*state).to_owned())];
            states.get_or_create(&labels).set(clamp(*count as u128));
        }
    }
    registry.register(
        "services",
        "Services with addresses for clients outside, by state on this node",
        states,
    );
    let report = health.allocation.get();
    let pools = Metric::<Labels, Gauge>::default();
    for pool in &report.pools {
        let free = pool.size.saturating_sub(pool.used);
        for (state, count) in [("size", pool.size), ("used", pool.used), ("free", free)] {
            let labels = vec![("pool", pool.name.clone()), ("state", state.to_owned())];
            pools.get_or_create(&labels).set(clamp(count));
        }
    }
    registry.register(
        "service_pool_addresses",
        "Addresses of services.pools, on the agent that allocates",
        pools,
    );
    let numbers = [
        (
            "service_allocator",
            "This agent allocates the addresses of Services",
            u128::from(report.is_own),
        ),
        (
            "service_allocation_problems",
            "Services that lack an address, or did not get the one that they ask for",
            report.problems.len() as u128,
        ),
    ];
    for (name, help, value) in numbers {
        let gauge = Gauge::<i64>::default();
        gauge.set(clamp(value));
        registry.register(name, help, gauge);
    }
    for (name, help, value) in [
        (
            "service_status_writes",
            "Writes of Services' status that the API server answered",
            report.writes,
        ),
        (
            "service_status_write_failures",
            "Requests of the allocation that failed",
            report.failures,
        ),
    ] {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
}
