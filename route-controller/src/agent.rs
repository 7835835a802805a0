//! The running agent: applies the configuration, connects the speaker with the kernel's routes, answers the operator.
//!
//! | task | owns |
//! |---|---|
//! | agent | configuration, which peers there are |
//! | speaker's | sessions and RIBs |
//! | fib | the kernel's routes, and when those from before the start go |
//! | BFD watch | which paths are lost |
//! | one per connection of the socket | a question |
//!
//! What the speaker learns goes to the fib task directly, and so does what BFD finds: however busy the agent is, the kernel's routes
//! follow. The agent waits for the fib task when that is busy; the speaker never waits for the agent.

mod bfd;
mod changes;
mod cluster;
mod commands;
mod config_file;
mod diff;
mod error;
mod host;
mod lock;
mod mesh_transition;
mod originate;
mod peers;
mod plugins;
mod reload;
mod servers;
mod services;
mod sessions;
mod start;
pub(crate) mod unsent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bgp_proto::engine::Originated;
use bgp_proto::types::{Family, PeerId};
use bgp_speaker::{Event, Shutdown, SpeakerHandle};
use podroute_config::{ClusterFacts, Config, OnShutdown};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::config_file::ConfigFile;
use self::lock::Lock;
use crate::bfd_watch::{BfdWatch, PathState};
use crate::cluster::{self as kubernetes, Throttle};
use crate::cni_list;
use crate::drain::Drain;
use crate::fib::task::{Blocks, ToFib};
use crate::fib::{FibConfig, Resilience};
use crate::host::Host;
use crate::metrics::Health;
use crate::network_policy::NetworkPolicies;
use crate::node_route::NodeRoute;
use crate::pod_guard::PodGuard;
use crate::secrets::Secrets;
use crate::server::ToAgent;
use crate::{clock, service_manager, sysctl};

pub(crate) use self::config_file::{facts_for, host_name, own_facts, read_config};
pub(crate) use self::error::{AgentError, CommandError};
pub(crate) use self::lock::is_running;
pub(crate) use self::start::run;

/// How long peers that were up before a restart are waited for (RFC 4724 §4.1, Selection_Deferral_Timer), and routes from before the
/// start stay in the kernel.
const DEFERRAL: Duration = Duration::from_secs(20);
/// How long the kernel may take for the blocks' unreachable routes before they are advertised regardless.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often password files are looked at.
const SECRETS_INTERVAL: Duration = Duration::from_secs(5);
/// How often sessions that are to be removed are checked.
const TRANSITION_INTERVAL: Duration = Duration::from_secs(1);

/// The agent's state.
struct Agent {
    file: ConfigFile,
    config: Config,
    node: Node,
    speaker: SpeakerHandle,
    fib: mpsc::Sender<ToFib>,
    bfd: BfdWatch,
    peers: Peers,
    mesh: MeshTransition,
    /// Which ones the node waits for before it is ready.
    sessions: sessions::Sessions,
    drain: Drain,
    reports: Reports,
    /// When routes from before the start go at the latest; none once they are gone.
    sweep_at: Option<Instant>,
}

/// This host.
struct Node {
    run_dir: PathBuf,
    lock: Lock,
    /// Who answers the operator's commands.
    server: Option<tokio::task::AbortHandle>,
    /// Where kernel settings are written.
    proc_sys: PathBuf,
    host: Host,
    start: Start,
    /// When to look at the host, which changed.
    look_at: Option<Instant>,
    /// The identifier that the next start takes, where it is another one.
    next_router_id: std::cell::Cell<Option<bgp_proto::types::RouterId>>,
    /// Kernel settings that are not as they should be, as last reported.
    troubles: Vec<sysctl::Trouble>,
    /// What the plugin made; none where nobody can keep it.
    pod_guard: Option<PodGuard>,
    /// Where the file wants to listen and the agent does not.
    not_listening: Option<podroute_config::Rejected>,
    /// Why node.json is not as it should be.
    no_node_file: Option<String>,
}

/// What this start of the agent follows on (RFC 4724 §3, the R and F bits).
#[derive(Clone, Copy)]
struct Start {
    /// Until then, OPENs say that it is a restart; none on the first start.
    restarting_until: Option<std::time::Instant>,
    /// Routes of the agent before this one were in the kernel, and were kept.
    forwarding_preserved: bool,
}

/// What is kept of the configuration's peers.
#[derive(Default)]
struct Peers {
    ids: BTreeMap<String, PeerId>,
    next_id: u32,
    /// Ranges of dynamic peers.
    ranges: BTreeSet<String>,
    /// Keys, as last looked at.
    secrets: Secrets,
    /// Peers of the mesh, those that retire included.
    of_mesh: BTreeSet<String>,
    /// BFD's view of their paths, as last looked at.
    paths: BTreeMap<PeerId, PathState>,
}

/// Sessions of the mesh between one design and another.
#[derive(Default)]
struct MeshTransition {
    retiring: BTreeMap<String, mesh_transition::Retiring>,
    reflecting: mesh_transition::Reflecting,
    trusting: mesh_transition::Reflecting,
}

/// Where the agent says how it is.
struct Reports {
    /// Events, where Kubernetes is followed.
    events: Option<kubernetes::Events>,
    /// Gives Services their addresses, where there are pools.
    allocator: Option<kubernetes::Allocator>,
    /// The node's condition, where nodes are followed.
    condition: Option<kubernetes::Condition>,
    health: Arc<Health>,
    /// The node's NodeRoute object, where Kubernetes is followed.
    node_route: Option<NodeRoute>,
    /// Where the looking glass is served.
    glass: Option<(SocketAddr, tokio::task::AbortHandle)>,
    /// Where metrics are served.
    metrics: BTreeMap<SocketAddr, tokio::task::AbortHandle>,
    list: cni_list::ListKeeper,
    /// Blocks that no peer was sent.
    unsent: unsent::Unsent,
    network_policies: NetworkPolicies,
    orders: mpsc::Sender<ToAgent>,
}

/// What the agent's loop waits for beside signals.
struct Streams {
    events: mpsc::Receiver<Event>,
    cluster: Option<kubernetes::Facts>,
    orders: mpsc::Receiver<ToAgent>,
    /// The routes from before the start are gone.
    swept: watch::Receiver<bool>,
    /// The host may have changed.
    host: watch::Receiver<()>,
}

fn wants_ipv6(config: &Config) -> bool {
    config
        .cluster
        .pod_cidrs
        .iter()
        .any(|cidr| cidr.family() == Family::Ipv6)
}

fn fib_config(config: &Config, host: &Host) -> FibConfig {
    FibConfig {
        metric: config.fib.metric,
        table: config.fib.table,
        rule_priority: config.fib.rule_priority,
        via_default: config.fib.resolve_via_default,
        pod_cidrs: config.cluster.pod_cidrs.clone(),
        services: config.services.ranges.clone(),
        sources: host.addresses.clone(),
        objects: config.fib.nexthop_objects,
        resilience: config.fib.resilient_groups.map(|groups| Resilience {
            buckets: groups.buckets,
            idle_seconds: groups.idle_seconds,
        }),
        install: config.fib.install,
    }
}

impl Agent {
    async fn serve(mut self, mut streams: Streams) -> Result<(), AgentError> {
        self.follow_cluster(&mut streams.cluster, self.config.from_kubernetes);
        self.install_blocks().await;
        // Before plugins get addresses: pods are isolated from the first one on.
        self.enforce_policies();
        self.write_node_file();
        // Without the cluster's objects it is not known which peers this node has.
        let configured = self.knows_cluster().then_some(self.config.peers.as_slice());
        let before = self.sessions.up_before(configured);
        self.speaker.defer(before, DEFERRAL).await?;
        self.speaker.drain(self.drain.on).await?;
        self.speaker.originate(self.originated()).await?;
        let rules = self.originate_rules().await;
        self.speaker.originate_by_rules(rules).await?;
        self.put_peers().await?;
        self.speaker.accept();
        self.start_server()?;
        self.serve_metrics();
        self.serve_glass();
        self.reports.list.look(&self.config.cni);
        self.report_cluster();
        self.help_plugins();
        self.run_loop(streams).await?;
        service_manager::stopping();
        // The kernel keeps its routes in either case.
        let how = match self.config.shutdown {
            OnShutdown::Preserve => Shutdown::Preserve,
            OnShutdown::Withdraw => Shutdown::Withdraw("podroute was stopped".to_owned()),
        };
        self.sessions.write();
        self.keep_facts();
        // First: what becomes of the sessions now does not concern the kernel's routes any more.
        let (done, stopped) = oneshot::channel();
        self.to_fib(ToFib::Stop(done)).await;
        let _ = tokio::time::timeout(BLOCK_TIMEOUT, stopped).await; // a kernel that does not answer holds nobody up
        self.bfd.set_all_admin_down().await;
        if let Some(allocator) = self.reports.allocator.take() {
            allocator.stop().await;
        }
        self.speaker.shutdown(how).await;
        tracing::info!(event = "agent_stopping", "agent stopping; kernel routes are kept");
        Ok(())
    }

    /// Until a signal ends it.
    async fn run_loop(&mut self, mut streams: Streams) -> Result<(), AgentError> {
        let mut end = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(AgentError::Signals)?;
        let mut look = tokio::time::interval(SECRETS_INTERVAL);
        let mut transition = tokio::time::interval(TRANSITION_INTERVAL);
        let mut settings = tokio::time::interval(host::SETTINGS_INTERVAL);
        let mut watchdog = service_manager::Watchdog::from_environment();
        let paths_changed = self.bfd.changed();
        tracing::info!(event = "agent_started", node = %self.name(), router_id = %self.node.host.router_id, peers = self.peers.ids.len(), "agent started");
        service_manager::started();
        loop {
            tokio::select! {
                event = streams.events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None => return Err(AgentError::Stopped),
                },
                Some(facts) = changed(&mut streams.cluster, self.file.followed.throttle) => {
                    let start = Instant::now();
                    self.learn(facts).await;
                    self.file.followed.throttle.ran(start, Instant::now());
                }
                Some(order) = streams.orders.recv() => self.order(order).await,
                _ = hangup.recv() => drop(self.reload().await), // logged
                _ = end.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = paths_changed.notified() => self.check_paths().await,
                _ = look.tick() => {
                    crate::log::report_floods();
                    self.check_run_dir();
                    self.enforce_policies();
                    self.check_secrets().await;
                    self.check_file().await;
                    self.check_lists().await;
                    self.check_listeners();
                    self.check_unsent().await;
                    self.reports.list.look(&self.config.cni);
                    self.sessions.write();
                    self.keep_facts();
                }
                _ = transition.tick(), if self.mesh.is_under_way() => self.check_retiring().await?,
                Ok(()) = streams.swept.changed(), if self.sweep_at.is_some() => self.swept(),
                () = clock::sleep_until(self.sweep_at) => self.deferral_expired().await,
                Ok(()) = streams.host.changed() => self.node.note_change(),
                () = clock::sleep_until(self.node.look_at) => {
                    self.check_host().await?;
                    self.check_kernel_routes().await;
                }
                _ = settings.tick() => self.check_settings(),
                () = watchdog.tick() => {}
            }
            let wanted = self.file.waits.unwrap_or(self.config.from_kubernetes);
            self.follow_cluster(&mut streams.cluster, wanted);
        }
    }

    fn name(&self) -> String {
        self.config
            .node
            .name
            .clone()
            .or_else(host_name)
            .unwrap_or_default()
    }

    /// The blocks' unreachable routes must be in the kernel before the blocks are advertised.
    async fn install_blocks(&self) {
        let (done, answer) = oneshot::channel();
        let blocks = Blocks {
            own: self.config.node.blocks.clone(),
            aggregates: self.config.services.aggregates.keys().copied().collect(),
        };
        if self.fib.send(ToFib::Blocks(blocks, done)).await.is_ok()
            && tokio::time::timeout(BLOCK_TIMEOUT, answer).await.is_err()
        {
            tracing::error!(
                event = "block_routes_missing",
                "the unreachable routes of this node's blocks are not in the kernel; packets to unused addresses may loop"
            );
        }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::PeerUp { peer, name, .. } => {
                let message = format!("BGP session with {name} is up");
                self.post_event("SessionUp", false, &name, message);
                self.bfd.established(peer).await;
                self.sessions.came_up(&name);
                self.check_sessions();
            }
            Event::PeerDown { name, why, .. } => {
                let message = format!("BGP session with {name} is down: {why}");
                self.post_event("SessionDown", true, &name, message);
                self.sessions.went_down(&name);
            }
            Event::NeighborFound(..) => self.watch_paths().await,
            Event::PrefixLimitWarning(peer, family, count) => self.warn_of_prefixes(peer, family, count),
            Event::PathLimitWarning(peer, prefix) => self.warn_of_paths(peer, prefix),
            Event::MemoryLimitWarning(peer, octets) => self.warn_of_memory(peer, octets),
        }
    }

    /// What this node originates: nothing, once it is drained.
    fn originated(&self) -> Vec<Originated> {
        if self.drain.withdraw {
            return Vec::new();
        }
        self.config.originated()
    }

    /// The routes from before the start that nobody announced again are gone from the kernel.
    fn swept(&mut self) {
        self.sweep_at = None;
        self.sessions.deferral_ended();
        self.reports.health.settled.store(true, Ordering::Relaxed);
        self.check_sessions();
    }

    /// Some peers did not send their initial routes in time: nobody waits for them any more (RFC 4724 §4.1). Without the cluster's
    /// objects it is not known which peers and blocks this node has.
    async fn deferral_expired(&mut self) {
        if self.knows_cluster() {
            self.to_fib(ToFib::Sweep).await;
            self.swept();
        } else {
            self.sweep_at = Some(Instant::from_std(clock::now() + DEFERRAL));
        }
    }

    async fn to_fib(&self, command: ToFib) {
        if self.fib.send(command).await.is_err() {
            tracing::error!(
                event = "task_stopped",
                task = "fib",
                "the kernel route task has stopped; please report this"
            );
        }
    }
}

/// An update of the cluster; never where it is not followed.
async fn changed(facts: &mut Option<kubernetes::Facts>, throttle: Throttle) -> Option<ClusterFacts> {
    match facts {
        Some(facts) => {
            tokio::time::sleep_until(throttle.due(Instant::now())).await;
            facts.changed().await.ok()?;
            facts.borrow_and_update().clone()
        }
        None => std::future::pending().await,
    }
}
