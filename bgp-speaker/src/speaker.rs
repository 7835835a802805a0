//! Starting the speaker, and the handle that the agent holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Engine, Input, Originated, PeerCounts, Preview, Reach, RouteFilter, RouteView};
use bgp_proto::types::{Family, PeerId};
use bgp_proto::wire::{Notification, Refresh, RefreshKind, cease};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::accept::accept;
use crate::api::{
    BmpSpec, Event, LinkSpec, PeerSnapshot, PeerSpec, RangeSpec, Shutdown, SpeakerConfig, SpeakerError,
    Stopped,
};
use crate::bmp::Stations;
use crate::clock::now;
use crate::engine_task::EngineTask;
use crate::facts::Host;
use crate::messages::{ToEngine, ToPeer};
use crate::peer_task::PeerTask;
use crate::registry::{Entry, Registry};
use crate::socket;
use crate::unnumbered::{Finder, Links};

/// Messages of peers to the engine under way.
const ENGINE_ROOM: usize = 1024;
/// Orders and queries under way.
const ORDERS_ROOM: usize = 64;
/// Events to the agent under way.
const EVENT_ROOM: usize = 1024;
/// Commands to a peer's task under way.
const COMMAND_ROOM: usize = 64;
/// How long a peer's task may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The whole BGP process.
#[derive(Debug)]
pub struct Speaker;

/// Talks to the speaker; cheap to clone. The speaker stops when the last handle is gone.
#[derive(Clone)]
pub struct SpeakerHandle {
    orders: mpsc::Sender<ToEngine>,
    registry: Arc<Registry>,
    peers: Peers,
    links: Arc<Links>,
    stations: Arc<Stations>,
    /// Aborts the accepting tasks with the last handle.
    _acceptors: Arc<Acceptors>,
}

impl std::fmt::Debug for SpeakerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpeakerHandle").finish_non_exhaustive()
    }
}

/// What it takes to start a peer's task.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) registry: Arc<Registry>,
    /// Orders and queries.
    orders: mpsc::Sender<ToEngine>,
    /// What peers' tasks send.
    engine: mpsc::Sender<ToEngine>,
    host: Arc<Host>,
    seed: u64,
}

impl Peers {
    async fn tell(&self, message: ToEngine) -> Result<(), Stopped> {
        self.orders.send(message).await.map_err(|_| Stopped)
    }

    fn task(&self, spec: PeerSpec, inbox: mpsc::Receiver<ToPeer>) -> PeerTask {
        let seed = self.seed ^ (u64::from(spec.id.0) << 32 | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        PeerTask::new(spec, seed, inbox, self.engine.clone(), Arc::clone(&self.host))
    }

    /// A new peer for the engine, and the way to its task.
    async fn register(
        &self,
        spec: &PeerSpec,
        range: Option<String>,
    ) -> Result<(mpsc::Sender<ToPeer>, mpsc::Receiver<ToPeer>), Stopped> {
        let routing = Arc::clone(&spec.routing);
        self.tell(ToEngine::Input(Input::Configure(spec.id, routing)))
            .await?;
        let (commands, inbox) = mpsc::channel(COMMAND_ROOM);
        self.tell(ToEngine::Register(spec.id, commands.downgrade()))
            .await?;
        self.registry.insert(Entry {
            spec: spec.clone(),
            commands: commands.clone(),
            range,
        });
        Ok((commands, inbox))
    }

    /// A peer of a range came by itself.
    pub(crate) async fn add_passing(
        &self,
        spec: PeerSpec,
        range: String,
        stream: TcpStream,
    ) -> Result<(), Stopped> {
        let (commands, inbox) = self.register(&spec, Some(range)).await?;
        let place = Arc::downgrade(&self.registry);
        // There is room in a new channel.
        drop(commands.try_send(ToPeer::Incoming(stream)));
        tokio::spawn(self.task(spec, inbox).passing(place).run());
        Ok(())
    }

    /// Asks the engine.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |engine: &mut Engine| {
            let _ = reply.send(question(engine)); // whoever asked may have stopped waiting
        });
        self.tell(ToEngine::Query(query)).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// All peers as they are now, by number. One whose task does not answer is left out.
    pub(crate) async fn snapshots(&self) -> Result<Vec<PeerSnapshot>, Stopped> {
        let mut snapshots = Vec::new();
        for entry in self.registry.all() {
            let (reply, answer) = oneshot::channel();
            if entry.commands.send(ToPeer::Snapshot(reply)).await.is_err() {
                continue;
            }
            let Ok(Ok(session)) = tokio::time::timeout(PATIENCE, answer).await else {
                continue;
            };
            let id = entry.spec.id;
            let mut counts: PeerCounts = self.ask(move |engine| engine.counts(id)).await?;
            counts.outstanding = counts.outstanding.saturating_sub(session.unreported);
            let since = session.stats.since.map(|since| now().duration_since(since));
            snapshots.push(PeerSnapshot {
                id,
                name: entry.spec.name.clone(),
                spec: entry.spec,
                session,
                counts,
                since,
            });
        }
        Ok(snapshots)
    }

    /// Adds a peer, or changes it.
    pub(crate) async fn put(&self, spec: PeerSpec) -> Result<(), Stopped> {
        let Some(entry) = self.registry.get(spec.id) else {
            let (_, inbox) = self.register(&spec, None).await?;
            tokio::spawn(self.task(spec, inbox).run());
            return Ok(());
        };
        let routing = Arc::clone(&spec.routing);
        self.tell(ToEngine::Input(Input::Configure(spec.id, routing)))
            .await?;
        self.registry.insert(Entry {
            spec: spec.clone(),
            commands: entry.commands.clone(),
            range: entry.range,
        });
        let _ = entry.commands.send(ToPeer::Reconfigure(Box::new(spec))).await; // one of a range may have passed
        Ok(())
    }
}

struct Acceptors(Vec<tokio::task::AbortHandle>);

impl Drop for Acceptors {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

impl Speaker {
    /// Listens and starts the engine's task. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a listening socket cannot be had.
    pub fn start(config: SpeakerConfig) -> Result<(SpeakerHandle, mpsc::Receiver<Event>), SpeakerError> {
        let listen = |addr: &std::net::SocketAddr| {
            let listener =
                socket::listen(*addr).map_err(|source| SpeakerError::Listen { addr: *addr, source })?;
            Ok(Arc::new(listener))
        };
        let listeners: Vec<_> = config
            .listen
            .iter()
            .map(listen)
            .collect::<Result<_, SpeakerError>>()?;
        let registry = Arc::new(Registry::new(listeners));
        let (engine, inbox) = mpsc::channel(ENGINE_ROOM);
        let (orders, ordered) = mpsc::channel(ORDERS_ROOM);
        let (events, agent) = mpsc::channel(EVENT_ROOM);
        tokio::spawn(EngineTask::new(Engine::new(config.engine), ordered, inbox, events).run());
        let peers = Peers {
            registry: Arc::clone(&registry),
            orders: orders.clone(),
            engine,
            host: Arc::default(),
            seed: config.seed,
        };
        let acceptors = registry
            .listeners()
            .iter()
            .map(|listener| tokio::spawn(accept(Arc::clone(listener), peers.clone())).abort_handle());
        let acceptors = Arc::new(Acceptors(acceptors.collect()));
        Ok((
            SpeakerHandle {
                orders,
                registry,
                peers,
                links: Arc::default(),
                stations: Arc::default(),
                _acceptors: acceptors,
            },
            agent,
        ))
    }
}

impl SpeakerHandle {
    async fn tell(&self, message: ToEngine) -> Result<(), Stopped> {
        self.orders.send(message).await.map_err(|_| Stopped)
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        self.peers.ask(question).await
    }

    /// The local addresses that are listened on.
    #[must_use]
    pub fn listening(&self) -> Vec<std::net::SocketAddr> {
        self.registry
            .listeners()
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Adds a peer, or changes it: the session restarts only if its OPEN or its connection changes.
    ///
    /// # Errors
    /// [`Stopped`], as for all of these.
    pub async fn put_peer(&self, spec: PeerSpec) -> Result<(), Stopped> {
        self.links.forget(spec.id);
        self.peers.put(spec).await
    }

    /// Peers that come by themselves from a range; changes apply to those that are there.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn put_range(&self, range: RangeSpec) -> Result<(), Stopped> {
        let template = range.template.clone();
        let there = self.registry.insert_range(range);
        for entry in there {
            let mut spec = template.clone();
            (spec.id, spec.name) = (entry.spec.id, entry.spec.name);
            spec.transport.remote = entry.spec.transport.remote;
            self.peers.put(spec).await?;
        }
        Ok(())
    }

    /// Removes a range and the peers that came from it.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn remove_range(&self, name: &str) -> Result<(), Stopped> {
        for entry in self.registry.remove_range(name) {
            self.remove_peer(entry.spec.id).await?;
        }
        Ok(())
    }

    /// A peer at the other end of a link, in place of one of the same number. It is looked for until it is
    /// removed by [`SpeakerHandle::remove_peer`].
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn put_link(&self, link: LinkSpec) -> Result<(), Stopped> {
        let id = link.template.id;
        if self.links.is_same(id, &link) {
            return Ok(());
        }
        let known = self.links.take(id).and_then(|old| old.found());
        let mut finder = Finder::new(link, self.peers.clone(), known);
        finder.tell().await?;
        self.links.insert(id, finder.start());
        Ok(())
    }

    /// Removes a peer: Cease/Peer De-configured, and its routes go.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn remove_peer(&self, id: PeerId) -> Result<(), Stopped> {
        self.links.forget(id);
        drop(self.registry.remove(id)); // the task ends with its last sender
        self.tell(ToEngine::Input(Input::Remove(id))).await
    }

    /// The whole set of routes to originate.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn originate(&self, routes: Vec<Originated>) -> Result<(), Stopped> {
        self.tell(ToEngine::Input(Input::Originate(routes))).await
    }

    /// Whether this node is about to go: everything sent then carries GRACEFUL_SHUTDOWN (RFC 8326).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn drain(&self, on: bool) -> Result<(), Stopped> {
        self.tell(ToEngine::Input(Input::Drain(on))).await
    }

    /// For each of these peers, how many prefixes would be lost if all of them went.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn only_from(&self, leaving: BTreeSet<PeerId>) -> Result<BTreeMap<PeerId, usize>, Stopped> {
        self.ask(move |engine| engine.only_from(&leaving)).await
    }

    /// What would follow from these inputs to the engine; found out on a copy, so that nobody waits for it longer than
    /// copying takes.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn preview(&self, inputs: Vec<Input>) -> Result<Preview, Stopped> {
        let copy = self.ask(|engine: &mut Engine| engine.clone()).await?;
        let preview = tokio::task::spawn_blocking(move || copy.preview(now(), inputs));
        preview.await.map_err(|_| Stopped)
    }

    /// News of next hops.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn next_hops(&self, news: Vec<(IpAddr, Reach)>) -> Result<(), Stopped> {
        self.tell(ToEngine::Input(Input::NextHops(news))).await
    }

    /// Ends a peer's session and keeps it down until [`SpeakerHandle::enable`]; the text goes to the peer
    /// (RFC 9003). False when there is no such peer.
    pub async fn disable(&self, id: PeerId, message: &str) -> bool {
        self.command(id, ToPeer::Stop(cease::ADMIN_SHUTDOWN, message.to_owned()))
            .await
    }

    /// Lets a disabled peer's session come up again.
    pub async fn enable(&self, id: PeerId) -> bool {
        self.command(id, ToPeer::Start).await
    }

    /// Ends a peer's session and begins anew (Cease/Administrative Reset).
    pub async fn clear(&self, id: PeerId, message: &str) -> bool {
        self.command(id, ToPeer::Restart(cease::ADMIN_RESET, message.to_owned()))
            .await
    }

    /// Ends a peer's session with this NOTIFICATION; it is tried again as after any failure.
    pub async fn fail(&self, id: PeerId, notification: Notification) -> bool {
        self.command(id, ToPeer::Fail(notification, Duration::ZERO)).await
    }

    /// Asks the peer for its routes again (RFC 2918).
    pub async fn refresh_in(&self, id: PeerId) -> bool {
        let ask = |family| {
            self.command(
                id,
                ToPeer::Refresh(Refresh {
                    family,
                    kind: RefreshKind::Request,
                }),
            )
        };
        ask(Family::Ipv4).await && ask(Family::Ipv6).await
    }

    /// Sends the peer our routes again, as if it had asked.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn refresh_out(&self, id: PeerId) -> Result<(), Stopped> {
        for family in Family::ALL {
            let refresh = Refresh {
                family,
                kind: RefreshKind::Request,
            };
            self.tell(ToEngine::Input(Input::Refresh(id, refresh))).await?;
        }
        Ok(())
    }

    async fn command(&self, id: PeerId, command: ToPeer) -> bool {
        match self.registry.get(id) {
            Some(entry) => entry.commands.send(command).await.is_ok(),
            None => false,
        }
    }

    /// All peers as they are now, by number. One whose task does not answer is left out.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn peers(&self) -> Result<Vec<PeerSnapshot>, Stopped> {
        self.peers.snapshots().await
    }

    /// The whole set of BMP stations to tell.
    pub fn put_stations(&self, wanted: Vec<BmpSpec>) {
        self.stations.put(wanted, &self.peers);
    }

    /// Routes, a page at a time.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn routes(&self, filter: RouteFilter) -> Result<Vec<RouteView>, Stopped> {
        self.ask(move |engine| engine.routes(&filter)).await
    }

    /// Routes in the table's own order, a page at a time ([`Engine::routes_from`]).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn routes_from(
        &self,
        place: u32,
        most: usize,
    ) -> Result<(Vec<RouteView>, Option<u32>), Stopped> {
        self.ask(move |engine| engine.routes_from(place, most)).await
    }

    /// Ends all sessions; returns when the last words are on their way, after two seconds at the latest.
    pub async fn shutdown(&self, how: Shutdown) {
        let mut answers = Vec::new();
        for entry in self.registry.all() {
            let (done, answer) = oneshot::channel();
            let command = match &how {
                Shutdown::Withdraw(text) => ToPeer::Shutdown(cease::ADMIN_SHUTDOWN, text.clone(), done),
                Shutdown::Preserve => ToPeer::Abandon(done),
            };
            if entry.commands.send(command).await.is_ok() {
                answers.push(answer);
            }
        }
        let all = async {
            for answer in answers {
                let _ = answer.await; // a task that is gone has closed its connections
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
        self.stations.end().await;
    }
}
