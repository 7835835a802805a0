//! The running agent: configuration in, speaker and kernel routes joined, questions answered.
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
mod diff;
mod host;
mod mesh_transition;
mod originate;
mod peers;
mod plugins;
mod reload;
mod servers;
mod service_changes;
mod services;
mod sessions;
pub(crate) mod unsent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bgp_proto::engine::Originated;
use bgp_proto::types::{Family, PeerId};
use bgp_speaker::{Event, Shutdown, Speaker, SpeakerConfig, SpeakerHandle, Started};
use podroute_config::{ClusterFacts, Config, FromKubernetes, NodeFacts, OnShutdown, Running};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::bfd_watch::{BfdWatch, PathState};
use crate::cluster as kubernetes;
use crate::cni_list::{self, Dirs};
use crate::drain::Drain;
use crate::fib::task::{Blocks, FibTask, ROOM, ToFib};
use crate::fib::{FibConfig, Mirror, Resilience, netlink};
use crate::host::{Host, Wish};
use crate::list_files::ListFiles;
use crate::metrics::Health;
use crate::mounted::Mounted;
use crate::network_policy::NetworkPolicies;
use crate::pod_guard::PodGuard;
use crate::secrets::Secrets;
use crate::server::ToAgent;
use crate::{clock, journal, service_manager, sysctl};

/// For so long, peers that were up before a restart are waited for (RFC 4724 §4.1, Selection_Deferral_Timer), and routes from before the
/// start stay in the kernel.
const DEFERRAL: Duration = Duration::from_secs(20);
/// How long the kernel may take for the blocks' unreachable routes before we advertise regardless.
const BLOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How often password files are looked at.
const SECRETS_LOOKED_AT: Duration = Duration::from_secs(5);
/// How often sessions that are on their way out are looked at.
const TRANSITION_LOOKED_AT: Duration = Duration::from_secs(1);
/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("{path}: {source}; name the file with --config", path = path.display())]
    ReadConfig { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Config(String),
    #[error("run directory {path}: {source}; name another with --run-dir", path = path.display())]
    RunDir { path: PathBuf, source: std::io::Error },
    #[error("another podroute agent runs with {path}; stop it first (systemctl stop podroute), or name another directory with --run-dir", path = path.display())]
    Running { path: PathBuf },
    #[error("the kernel's routes cannot be read or written: {0}; podroute needs CAP_NET_ADMIN")]
    Netlink(std::io::Error),
    #[error(transparent)]
    RouterId(#[from] crate::host::NoRouterId),
    #[error(transparent)]
    Speaker(#[from] bgp_speaker::SpeakerError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error("the speaker's task has stopped; this is a bug in podroute, please report it")]
    Stopped,
}

impl From<bgp_speaker::Stopped> for AgentError {
    fn from(_: bgp_speaker::Stopped) -> Self {
        AgentError::Stopped
    }
}

/// Reads and checks the file, for this host and without Kubernetes.
pub(crate) fn read_config(path: &Path) -> Result<Config, AgentError> {
    let text = read_text(path)?;
    config_of(&text, path, &facts_for(own_facts(None), &text))
}

fn read_text(path: &Path) -> Result<String, AgentError> {
    std::fs::read_to_string(path).map_err(|source| AgentError::ReadConfig {
        path: path.to_owned(),
        source,
    })
}

/// With what the files of lists hold that a configuration names.
pub(crate) fn facts_for(mut facts: NodeFacts, text: &str) -> NodeFacts {
    let mut lists = ListFiles::default();
    lists.look(text);
    facts.list_files = lists.contents();
    facts
}

fn config_of(text: &str, path: &Path, facts: &NodeFacts) -> Result<Config, AgentError> {
    podroute_config::load_for(text, facts)
        .map_err(|errors| AgentError::Config(errors.in_file(&path.display().to_string())))
}

/// What the host and its surroundings say. `NODE_NAME` is what a DaemonSet sets.
pub(crate) fn own_facts(cluster: Option<ClusterFacts>) -> NodeFacts {
    let given = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    NodeFacts {
        name: given.or_else(host_name),
        cluster,
        ..NodeFacts::default()
    }
}

/// The host's name.
pub(crate) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

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

/// The file as last applied, and what it was applied to.
struct ConfigFile {
    path: PathBuf,
    text: String,
    mounted: Mounted,
    facts: NodeFacts,
    lists: ListFiles,
    followed: cluster::Followed,
    /// It is applied as soon as Kubernetes says this.
    waits: Option<FromKubernetes>,
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
    /// Where metrics are served.
    metrics: BTreeMap<SocketAddr, tokio::task::AbortHandle>,
    list: cni_list::Keeper,
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

/// Runs the agent until a signal ends it.
pub(crate) async fn run(
    path: PathBuf,
    run_dir: PathBuf,
    proc_sys: &Path,
    cni: Option<Dirs>,
) -> Result<(), AgentError> {
    let text = read_text(&path)?;
    // What Kubernetes said last time holds until it says otherwise.
    let mut facts = own_facts(kubernetes::cache::read(&run_dir));
    let mut lists = ListFiles::default();
    lists.look(&text);
    facts.list_files = lists.contents();
    let config = config_of(&text, &path, &facts)?;
    facts.running = Some(Running {
        asn: config.node.asn,
        cluster_id: config.cluster.cluster_id,
        fib: config.fib.clone(),
    });
    config
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!(event = "config_warning", "{}: {warning}", path.display()));
    let lock = lock(&run_dir)?;
    if let Err(error) = journal::start(&run_dir) {
        tracing::error!(event = "journal_failed", %error, "the journal's thread cannot be started: 'podroute events' has nothing to show");
    }
    let mirror = read_mirror(config.fib.table).await?;
    let wish = Wish::of(&config, host::kept_router_id(&run_dir));
    let host = wish.find_out(&mirror)?;
    if wish.keeps_router_id() {
        host::keep_router_id(&run_dir, host.router_id);
    }
    if config.fib.install {
        for change in sysctl::forwarding(proc_sys, wants_ipv6(&config)) {
            match change {
                sysctl::Change::Set { name, from } => {
                    tracing::info!(event = "sysctl_set", setting = %name, %from, to = 1, "kernel setting changed")
                }
                sysctl::Change::Refused(trouble) => tracing::warn!(event = "sysctl_problem", "{trouble}"),
            }
        }
    }
    let speaker_config = SpeakerConfig {
        engine: config.engine_config(host.router_id),
        listen: config.listen.sockets().collect(),
        seed: u64::from(host.router_id.get())
            ^ clock::now().elapsed().as_nanos() as u64
            ^ u64::from(std::process::id()),
    };
    let Started {
        handle: speaker,
        datapath,
        events,
    } = Speaker::start(speaker_config)?;
    let (fib, inbox) = mpsc::channel(ROOM);
    let (swept_tx, swept) = watch::channel(false);
    let (host_tx, host_changed) = watch::channel(());
    let task = FibTask::new(
        fib_config(&config, &host),
        inbox,
        datapath,
        speaker.clone(),
        swept_tx,
        host_tx,
    )
    .await
    .map_err(AgentError::Netlink)?;
    let sessions = sessions::Sessions::read(&run_dir);
    let start = Start {
        restarting_until: sessions.is_restart().then(|| clock::now() + DEFERRAL),
        forwarding_preserved: task.adopted() > 0,
    };
    tokio::spawn(task.run());
    let (to_agent, orders) = mpsc::channel(16);
    let agent = Agent {
        bfd: BfdWatch::start(speaker.clone(), fib.clone()),
        drain: Drain::read(&run_dir),
        sessions,
        file: ConfigFile {
            mounted: Mounted::new(&path, &text),
            path,
            text,
            facts,
            lists,
            followed: cluster::Followed::default(),
            waits: None,
        },
        node: Node {
            run_dir,
            lock,
            server: None,
            proc_sys: proc_sys.to_owned(),
            host,
            start,
            look_at: None,
            next_router_id: std::cell::Cell::default(),
            troubles: Vec::new(),
            pod_guard: None,
            not_listening: None,
            no_node_file: None,
        },
        config,
        speaker,
        fib,
        peers: Peers::default(),
        mesh: MeshTransition::default(),
        reports: Reports {
            events: None,
            allocator: None,
            condition: None,
            health: Arc::default(),
            metrics: BTreeMap::new(),
            list: cni_list::Keeper::new(cni),
            unsent: unsent::Unsent::default(),
            network_policies: NetworkPolicies::default(),
            orders: to_agent,
        },
        sweep_at: Some(Instant::from_std(clock::now() + DEFERRAL)),
    };
    let streams = Streams {
        events,
        cluster: None,
        orders,
        swept,
        host: host_changed,
    };
    agent.serve(streams).await
}

fn wants_ipv6(config: &Config) -> bool {
    config
        .cluster
        .pod_cidrs
        .iter()
        .any(|cidr| cidr.family() == Family::Ipv6)
}

async fn read_mirror(table: u32) -> Result<Mirror, AgentError> {
    let reading = netlink::read_all(table).await.map_err(AgentError::Netlink)?;
    let mut mirror = Mirror::default();
    mirror.fill(reading);
    Ok(mirror)
}

/// Held as long as the agent runs.
type Lock = nix::fcntl::Flock<std::fs::File>;

/// Whether an agent runs with this directory.
pub(crate) fn is_running(run_dir: &Path) -> bool {
    let Ok(file) = std::fs::File::open(run_dir.join("agent.lock")) else {
        return false;
    };
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock).is_err()
}

/// One agent per run directory.
fn lock(run_dir: &Path) -> Result<Lock, AgentError> {
    let fail = |source| AgentError::RunDir {
        path: run_dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(run_dir).map_err(fail)?;
    let file = std::fs::File::create(run_dir.join("agent.lock")).map_err(fail)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|_| {
        AgentError::Running {
            path: run_dir.to_owned(),
        }
    })
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
        let _ = tokio::time::timeout(BLOCK_PATIENCE, stopped).await; // a kernel that does not answer holds nobody up
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
        let mut look = tokio::time::interval(SECRETS_LOOKED_AT);
        let mut transition = tokio::time::interval(TRANSITION_LOOKED_AT);
        let mut settings = tokio::time::interval(host::SETTINGS_LOOKED_AT);
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
                Some(facts) = changed(&mut streams.cluster) => self.learn(facts).await,
                Some(order) = streams.orders.recv() => self.order(order).await,
                _ = hangup.recv() => drop(self.reload().await.map_err(|error| tracing::error!(event = "reload_failed", %error, "configuration not reloaded; the previous one stays in force"))),
                _ = end.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = paths_changed.notified() => self.look_at_paths().await,
                _ = look.tick() => {
                    self.look_at_run_dir();
                    self.enforce_policies();
                    self.look_at_secrets().await;
                    self.look_at_file().await;
                    self.look_at_lists().await;
                    self.look_at_listeners();
                    self.look_at_unsent().await;
                    self.reports.list.look(&self.config.cni);
                    self.sessions.write();
                    self.keep_facts();
                }
                _ = transition.tick(), if self.mesh.is_under_way() => self.look_at_retiring().await?,
                Ok(()) = streams.swept.changed(), if self.sweep_at.is_some() => self.swept(),
                () = at(self.sweep_at), if self.sweep_at.is_some() => self.deferral_expired().await,
                Ok(()) = streams.host.changed() => self.node.note_change(),
                () = at(self.node.look_at), if self.node.look_at.is_some() => {
                    self.look_at_host().await?;
                    self.look_at_kernel_routes().await;
                }
                _ = settings.tick() => self.look_at_settings(),
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

    /// The blocks' unreachable routes must be in before anybody hears of the blocks.
    async fn install_blocks(&self) {
        let (done, answer) = oneshot::channel();
        let blocks = Blocks {
            own: self.config.node.blocks.clone(),
            aggregates: self.config.services.aggregates.keys().copied().collect(),
        };
        if self.fib.send(ToFib::Blocks(blocks, done)).await.is_ok()
            && tokio::time::timeout(BLOCK_PATIENCE, answer).await.is_err()
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
                self.tell("SessionUp", false, &name, message);
                self.bfd.established(peer).await;
                self.sessions.came_up(&name);
                self.look_at_sessions();
            }
            Event::PeerDown { name, why, .. } => {
                let message = format!("BGP session with {name} is down: {why}");
                self.tell("SessionDown", true, &name, message);
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
        self.look_at_sessions();
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

/// News of the cluster; never where it is not followed.
async fn changed(facts: &mut Option<kubernetes::Facts>) -> Option<ClusterFacts> {
    match facts {
        Some(facts) => {
            facts.changed().await.ok()?;
            facts.borrow_and_update().clone()
        }
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}
