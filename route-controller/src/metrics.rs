//! Metrics and probes over HTTP. Values are gathered for each request.

mod cluster;
mod node;
mod page;
mod peers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::get;
use bgp_proto::types::{FamilySet, Prefix};
use bgp_speaker::SpeakerHandle;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::agent::unsent;
use crate::cluster::Watches;
use crate::fib::Fib;
use crate::fib::Progress;
use crate::fib::task::ToFib;
use crate::measured::Measured;
use crate::network_policy::NetworkPolicies;
use crate::server::ToAgent;

pub(crate) use peers::Series;

/// A task that does not answer within this time hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Durations and counts of the agent's tasks.
    pub(crate) measured: Measured,
    /// Which peers have series of their own.
    series: Mutex<Series>,
    /// This node's blocks.
    blocks: Mutex<Vec<Prefix>>,
}

impl Health {
    fn unsent(&self) -> FamilySet {
        self.unsent.lock().map_or(FamilySet::EMPTY, |known| *known)
    }

    /// What the configuration says of series, and the blocks that pods have addresses of.
    pub(crate) fn configure(&self, series: Series, blocks: &[Prefix]) {
        *self.series.lock().unwrap_or_else(PoisonError::into_inner) = series;
        blocks.clone_into(&mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn blocks(&self) -> Vec<Prefix> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn series(&self) -> Series {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    pub(crate) run_dir: PathBuf,
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
        .route("/metrics", get(page::metrics))
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
        tokio::time::timeout(ANSWER_TIMEOUT, asked)
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

#[cfg(test)]
#[path = "metrics/openmetrics_tests.rs"]
mod openmetrics;
#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
