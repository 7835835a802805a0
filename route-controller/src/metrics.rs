//! What Prometheus and probes ask over HTTP. Gathered when asked for: nothing is counted twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bgp_proto::engine::RuleCounts;
use bgp_proto::session::State;
use bgp_proto::types::{Family, FamilySet};
use bgp_speaker::{PeerSnapshot, SpeakerHandle};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::agent::unsent;
use crate::cluster::Watches;
use crate::exposition;
use crate::fib::Fib;
use crate::fib::Progress;
use crate::fib::task::ToFib;
use crate::network_policy::NetworkPolicies;
use crate::server::ToAgent;

/// A task that does not answer within this time hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// An address that cannot be listened on is tried again after this.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// What every start waits for first.
pub(crate) const INITIAL_ROUTES: &str = "the initial routes are not all in";

/// What only the agent knows, for probes.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// The first routes are in, and those of the previous run are swept.
    pub(crate) settled: AtomicBool,
    /// What of the host keeps traffic from pods.
    pub(crate) host: Mutex<Option<String>>,
    /// Pods of which something was put back.
    pub(crate) restored: Arc<AtomicU64>,
    /// What the node still waits for, lacks, or was drained of.
    pub(crate) obstacles: Mutex<Vec<String>>,
    /// Kubernetes has not answered yet.
    pub(crate) waits_for_cluster: AtomicBool,
    /// As `Drain::level` says.
    pub(crate) drained: AtomicUsize,
    /// What Kubernetes says and is not taken.
    pub(crate) rejected: AtomicUsize,
    /// How the allocation of addresses is doing.
    pub(crate) allocation: Arc<crate::cluster::Reports>,
    /// Services by state on this node.
    pub(crate) services: Mutex<BTreeMap<&'static str, usize>>,
    /// The file on disk was refused.
    pub(crate) refused: AtomicBool,
    /// Why network policies are not enforced although they should be.
    pub(crate) policies: Mutex<Option<String>>,
    /// Key files that cannot be read now.
    pub(crate) unreadable_secrets: AtomicUsize,
    /// Families of the node's blocks that no peer was sent.
    pub(crate) unsent: Mutex<FamilySet>,
}

impl Health {
    fn unsent(&self) -> FamilySet {
        self.unsent.lock().map_or(FamilySet::EMPTY, |known| *known)
    }

    /// Why the node is not ready, as far as the agent's task knows.
    pub(crate) fn all_obstacles(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.waits_for_cluster.load(Ordering::Relaxed) {
            all.push("Kubernetes has not answered yet; 'podroute show cluster' says why".to_owned());
        } else if let Ok(known) = self.obstacles.lock() {
            all.clone_from(&known);
        }
        if !self.settled.load(Ordering::Relaxed) {
            all.push(INITIAL_ROUTES.to_owned());
        }
        for other in [&self.host, &self.policies] {
            if let Ok(other) = other.lock() {
                all.extend(other.clone());
            }
        }
        all
    }
}

/// What answers are made of.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) speaker: SpeakerHandle,
    pub(crate) fib: mpsc::Sender<ToFib>,
    pub(crate) health: Arc<Health>,
    pub(crate) agent: mpsc::Sender<ToAgent>,
    pub(crate) watches: Watches,
    pub(crate) network_policies: NetworkPolicies,
}

/// Serves until the agent ends.
pub(crate) async fn serve(addr: SocketAddr, source: Source) {
    let mut is_logged = false;
    let listener = loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => break listener,
            Err(error) if !is_logged => {
                is_logged = true;
                tracing::error!(event = "metrics_failed", %addr, %error, "cannot listen for metrics; trying again until the address is usable; otherwise choose another metrics.port");
            }
            Err(_) => {}
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .route("/healthz", get(healthy))
        .with_state(source);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(event = "metrics_failed", %error, "cannot serve metrics");
    }
}

/// Kernel routes by state.
#[derive(Clone, Copy, Default)]
struct Routes {
    installed: i64,
    pending: i64,
    failed: i64,
    refused: i64,
}

impl Routes {
    /// What is wanted in the kernel and is not there.
    fn obstacles(self) -> impl Iterator<Item = String> {
        let pending = (self.pending > 0).then(|| "kernel routes are pending".to_owned());
        let failed = (self.failed > 0).then(|| {
            let count = self.failed;
            format!("the kernel refused routes ({count}): 'podroute show fib' says why")
        });
        pending.into_iter().chain(failed)
    }

    fn of(fib: &Fib) -> Self {
        let mut counts = Self {
            refused: i64::try_from(fib.refused().filter(|(_, rule)| rule.is_trouble()).count())
                .unwrap_or(i64::MAX),
            ..Self::default()
        };
        for progress in fib.delta.progresses() {
            match progress {
                Progress::Installed => counts.installed += 1,
                Progress::Pending => counts.pending += 1,
                Progress::Failed(_) => counts.failed += 1,
            }
        }
        counts
    }
}

impl Source {
    async fn routes(&self) -> Option<Routes> {
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |fib: &Fib| {
            let _ = reply.send(Routes::of(fib)); // whoever asked may have gone
        });
        self.fib.send(ToFib::Query(query)).await.ok()?;
        answer.await.ok()
    }

    /// Why the node is not ready; `None` when it is.
    fn obstacle(&self, routes: Option<Routes>) -> Option<String> {
        let mut all = self.health.all_obstacles();
        match routes {
            None => all.push("the kernel route task has stopped".to_owned()),
            Some(routes) => all.extend(routes.obstacles()),
        }
        Some(all.join("\n")).filter(|all| !all.is_empty())
    }

    /// Whether the tasks of the agent and the speaker answer.
    async fn is_alive(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.agent.send(ToAgent::Ping(reply)).await.ok()?;
            answer.await.ok()?;
            self.speaker.peers().await.ok()
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .is_ok_and(|answer| answer.is_some())
    }
}

async fn healthy(Shared(source): Shared<Source>) -> StatusCode {
    if source.is_alive().await {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn ready(Shared(source): Shared<Source>) -> (StatusCode, String) {
    let warnings: String = source
        .health
        .unsent()
        .iter()
        .map(|family| format!("warning: {}\n", unsent::warning(family)))
        .collect();
    match source.obstacle(source.routes().await) {
        None if source.health.drained.load(Ordering::Relaxed) > 0 => (
            StatusCode::OK,
            format!("ready, but drained: peers prefer other paths\n{warnings}"),
        ),
        None => (StatusCode::OK, format!("ready\n{warnings}")),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n{warnings}")),
    }
}

type Labels = Vec<(&'static str, String)>;

async fn metrics(
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
    let is_refused = source.health.refused.load(Ordering::Relaxed);
    let mut registry = Registry::with_prefix("podroute");
    let plain = [
        (
            "ready",
            "The first routes are in the kernel and nothing is pending",
            is_ready,
        ),
        ("config_ok", "The file on disk is the one that runs", !is_refused),
    ];
    for (name, help, value) in plain {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::from(value));
        registry.register(name, help, gauge);
    }
    let unreadable = Gauge::<i64>::default();
    let count = source.health.unreadable_secrets.load(Ordering::Relaxed);
    unreadable.set(i64::try_from(count).unwrap_or(i64::MAX));
    registry.register(
        "secrets_unreadable",
        "Key files that cannot be read now; sessions keep the keys that were read before",
        unreadable,
    );
    let unsent = Metric::<Labels, Gauge>::default();
    for family in Family::ALL {
        let labels = vec![("family", family.to_string())];
        let is_unsent = source.health.unsent().contains(family);
        unsent.get_or_create(&labels).set(i64::from(is_unsent));
    }
    registry.register(
        "blocks_unsent",
        "Sessions are up, and no peer was sent the node's blocks of this family",
        unsent,
    );
    let restored = Counter::<u64>::default();
    restored.inc_by(source.health.restored.load(Ordering::Relaxed));
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
    let build = Metric::<Labels, Gauge>::default();
    build
        .get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())])
        .set(1);
    registry.register("build_info", "Version", build);
    put_cluster(&mut registry, &source);
    put_services(&mut registry, &source.health);
    crate::network_policy::put_metrics(&mut registry, &source.network_policies).await;
    put_peers(&mut registry, &peers);
    if let Some(rules) = rules {
        put_rules(&mut registry, &rules);
    }
    put_routes(&mut registry, routes);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let accepted = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let (kind, text) = exposition::negotiated(accepted, text);
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

fn put_cluster(registry: &mut Registry, source: &Source) {
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
    for (resource, watch) in source
        .watches
        .all()
        .into_iter()
        .chain(source.network_policies.watches())
    {
        let labels = vec![("resource", resource.to_owned())];
        up.get_or_create(&labels).set(i64::from(watch.answers));
        failures.get_or_create(&labels).inc_by(watch.failures);
    }
    registry.register("kubernetes_watch_up", "The API server answers", up);
    registry.register(
        "kubernetes_watch_failures",
        "Requests and watches that failed",
        failures,
    );
}

fn put_services(registry: &mut Registry, health: &Health) {
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

/// How many routes the rules of policies match. Left out where the table is large: `show policies` counts when asked.
fn put_rules(registry: &mut Registry, counts: &RuleCounts) {
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

fn put_peers(registry: &mut Registry, peers: &[PeerSnapshot]) {
    let up = Metric::<Labels, Gauge>::default();
    let prefixes = Metric::<Labels, Gauge>::default();
    let unwritten = Metric::<Labels, Gauge>::default();
    let memory = Metric::<Labels, Gauge>::default();
    let counters = [(); 4].map(|()| Metric::<Labels, Counter>::default());
    for peer in peers {
        let name = || ("peer", peer.name.clone());
        let address = peer.spec.transport.remote.ip().to_string();
        let asn = peer.spec.session.remote_asn.to_string();
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

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
