//! `/metrics`: what is asked of the tasks, and how it is written.

use std::sync::atomic::Ordering;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use bgp_proto::types::Family;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Health, Routes, Source, cluster, node, peers};
use crate::{exposition, process_stats};

pub(super) type Labels = Vec<(&'static str, String)>;

pub(super) async fn metrics(
    Shared(source): Shared<Source>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, StatusCode> {
    let gone = StatusCode::SERVICE_UNAVAILABLE;
    let peers = source.speaker.peers().await.map_err(|_| gone)?;
    let rules = source
        .speaker
        .count_rules_of_small_table()
        .await
        .map_err(|_| gone)?;
    let routes = source.routes().await.ok_or(gone)?;
    let is_ready = source.obstacle(Some(routes)).is_none();
    let mut registry = Registry::with_prefix("podroute");
    put_agent(&mut registry, &source.health, is_ready);
    node::put(&mut registry, &source).await;
    cluster::put_cluster(&mut registry, &source);
    cluster::put_services(&mut registry, &source.health);
    crate::network_policy::put_metrics(&mut registry, &source.network_policies).await;
    peers::put(&mut registry, &peers, &source.health.series());
    if let Some(rules) = rules {
        peers::put_rules(&mut registry, &rules);
    }
    put_routes(&mut registry, routes);
    let mut text = String::new();
    let written = encode_registry(&mut text, &registry)
        .and_then(|()| encode_registry(&mut text, &process_stats::registry()))
        .and_then(|()| encode_eof(&mut text));
    written.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let accepted = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let (kind, text) = exposition::negotiated(accepted, text);
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

/// What of the agent itself can be said without labels.
fn put_agent(registry: &mut Registry, health: &Health, is_ready: bool) {
    let plain = [
        (
            "ready",
            "The first routes are in the kernel and nothing is pending",
            is_ready,
        ),
        (
            "config_ok",
            "The file on disk is the one that runs",
            !health.refused.load(Ordering::Relaxed),
        ),
    ];
    for (name, help, value) in plain {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::from(value));
        registry.register(name, help, gauge);
    }
    let unreadable = Gauge::<i64>::default();
    let count = health.unreadable_secrets.load(Ordering::Relaxed);
    unreadable.set(i64::try_from(count).unwrap_or(i64::MAX));
    registry.register(
        "secrets_unreadable",
        "Key files that cannot be read now; sessions keep the keys that were read before",
        unreadable,
    );
    let unsent = Metric::<Labels, Gauge>::default();
    for family in Family::ALL {
        let labels = vec![("family", family.to_string())];
        let is_unsent = health.unsent().contains(family);
        unsent.get_or_create(&labels).set(i64::from(is_unsent));
    }
    registry.register(
        "blocks_unsent",
        "Sessions are up, and no peer was sent the node's blocks of this family",
        unsent,
    );
    let restored = Counter::<u64>::default();
    restored.inc_by(health.restored.load(Ordering::Relaxed));
    registry.register(
        "pods_restored",
        "How often something of a pod was missing on the host and was put back",
        restored,
    );
    let dropped = Counter::<u64>::default();
    dropped.inc_by(crate::log::dropped() as u64);
    registry.register(
        "log_lines_dropped",
        "Log lines dropped because they were not read in time",
        dropped,
    );
    let suppressed = Counter::<u64>::default();
    suppressed.inc_by(crate::log::suppressed());
    registry.register(
        "log_lines_suppressed",
        "Log lines that were not written because equal ones had been",
        suppressed,
    );
    let build = Metric::<Labels, Gauge>::default();
    build
        .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
        .set(1);
    registry.register("build_info", "Version", build);
}

fn put_routes(registry: &mut Registry, routes: Routes) {
    let metric = Metric::<Labels, Gauge>::default();
    let states = [
        ("installed", routes.installed),
        ("pending", routes.pending),
        ("failed", routes.failed),
        ("refused", routes.refused),
    ];
    for (state, count) in states {
        metric
            .get_or_create(&vec![("state", state.to_owned())])
            .set(count);
    }
    registry.register("fib_routes", "Kernel routes", metric);
}
