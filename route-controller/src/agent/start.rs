//! The start of the agent: configuration, host, speaker and the task of the kernel's routes, in this order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bgp_speaker::{Event, Speaker, SpeakerConfig, SpeakerHandle, Started};
use podroute_config::Config;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::config_file::ConfigFile;
use super::lock::lock;
use super::sessions::Sessions;
use super::{
    Agent, AgentError, DEFERRAL, MeshTransition, Node, Peers, Reports, Start, Streams, fib_config, host,
    unsent, wants_ipv6,
};
use crate::bfd_watch::BfdWatch;
use crate::cluster as kubernetes;
use crate::cni_list::{self, Dirs};
use crate::drain::Drain;
use crate::fib::task::{CAPACITY, FibTask, ToFib};
use crate::fib::{Mirror, netlink};
use crate::host::{Host, HostChoice};
use crate::measured::Measured;
use crate::metrics::Health;
use crate::network_policy::NetworkPolicies;
use crate::server::ToAgent;
use crate::{clock, sysctl};

/// Runs the agent until a signal ends it.
pub(crate) async fn run(
    path: PathBuf,
    run_dir: PathBuf,
    proc_sys: &Path,
    cni: Option<Dirs>,
) -> Result<(), AgentError> {
    // What Kubernetes said last time holds until it says otherwise.
    let (file, config) = ConfigFile::read(path, kubernetes::cache::read(&run_dir))?;
    for warning in &config.warnings {
        tracing::warn!(event = "config_warning", "{}: {warning}", file.path.display());
    }
    let lock = lock(&run_dir)?;
    let host = find_host(&config, &run_dir).await?;
    if config.fib.install {
        set_forwarding(&config, proc_sys);
    }
    let health = Health::default();
    health.measured.config.note(true);
    let tasks = Tasks::start(&config, &host, &health.measured).await?;
    let sessions = Sessions::read(&run_dir);
    let start = Start {
        restarting_until: sessions.is_restart().then(|| clock::now() + DEFERRAL),
        forwarding_preserved: tasks.adopted > 0,
    };
    let (to_agent, orders) = mpsc::channel(16);
    let agent = Agent {
        bfd: BfdWatch::start(tasks.speaker.clone(), tasks.fib.clone()),
        drain: Drain::read(&run_dir),
        sessions,
        file,
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
        speaker: tasks.speaker,
        fib: tasks.fib,
        peers: Peers::default(),
        mesh: MeshTransition::default(),
        reports: reports(cni, to_agent, health),
        sweep_at: Some(Instant::from_std(clock::now() + DEFERRAL)),
    };
    let streams = Streams {
        events: tasks.events,
        cluster: None,
        orders,
        swept: tasks.swept,
        host: tasks.host_changed,
    };
    agent.serve(streams).await
}

fn reports(cni: Option<Dirs>, orders: mpsc::Sender<ToAgent>, health: Health) -> Reports {
    Reports {
        events: None,
        allocator: None,
        condition: None,
        health: Arc::new(health),
        node_route: None,
        glass: None,
        metrics: BTreeMap::new(),
        list: cni_list::ListKeeper::new(cni),
        unsent: unsent::Unsent::default(),
        network_policies: NetworkPolicies::default(),
        orders,
    }
}

/// The host's identifier, addresses and MTU, from the kernel's tables.
async fn find_host(config: &Config, run_dir: &Path) -> Result<Host, AgentError> {
    let reading = netlink::read_all(config.fib.table)
        .await
        .map_err(AgentError::Netlink)?;
    let mut mirror = Mirror::default();
    mirror.fill(reading);
    let choice = HostChoice::of(config, host::kept_router_id(run_dir));
    let host = choice.find_out(&mirror)?;
    if choice.keeps_router_id() {
        host::keep_router_id(run_dir, host.router_id);
    }
    Ok(host)
}

fn set_forwarding(config: &Config, proc_sys: &Path) {
    for change in sysctl::forwarding(proc_sys, wants_ipv6(config)) {
        match change {
            sysctl::Change::Set { name, from } => {
                tracing::info!(event = "sysctl_set", setting = %name, %from, to = 1, "kernel setting changed")
            }
            sysctl::Change::Refused(trouble) => tracing::warn!(event = "sysctl_problem", "{trouble}"),
        }
    }
}

/// The speaker and the task of the kernel's routes, as they run.
struct Tasks {
    speaker: SpeakerHandle,
    events: mpsc::Receiver<Event>,
    fib: mpsc::Sender<ToFib>,
    swept: watch::Receiver<bool>,
    host_changed: watch::Receiver<()>,
    /// Routes of the agent before this one that were in the kernel.
    adopted: usize,
}

impl Tasks {
    async fn start(config: &Config, host: &Host, measured: &Measured) -> Result<Self, AgentError> {
        let Started {
            handle: speaker,
            datapath,
            events,
        } = Speaker::start(SpeakerConfig {
            engine: config.engine_config(host.router_id),
            listen: config.listen.sockets().collect(),
            seed: u64::from(host.router_id.get())
                ^ clock::now().elapsed().as_nanos() as u64
                ^ u64::from(std::process::id()),
        })?;
        let (fib, inbox) = mpsc::channel(CAPACITY);
        let (swept_tx, swept) = watch::channel(false);
        let (host_tx, host_changed) = watch::channel(());
        let mut task = FibTask::new(
            fib_config(config, host),
            inbox,
            datapath,
            speaker.clone(),
            swept_tx,
            host_tx,
        )
        .await
        .map_err(AgentError::Netlink)?;
        task.measure(measured.clone());
        let adopted = task.adopted();
        tokio::spawn(task.run());
        Ok(Self {
            speaker,
            events,
            fib,
            swept,
            host_changed,
            adopted,
        })
    }
}
