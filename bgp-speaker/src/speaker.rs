//! Starting the speaker, and the handle to control it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{
    Engine, EqualPaths, Input, OriginateRule, Originated, Preview, Reach, RouteFilter, RouteView, RuleCounts,
};
use bgp_proto::types::{Family, FamilySet, PeerId};
use bgp_proto::wire::{Notification, Refresh, RefreshKind, cease};
use tokio::sync::{mpsc, oneshot};

use crate::api::{
    BmpSpec, DatapathEvent, Event, LinkSpec, PeerSnapshot, PeerSpec, RangeSpec, Shutdown, SpeakerConfig,
    SpeakerError, Stopped,
};
use crate::bmp::Stations;
use crate::clock::now;
use crate::engine::mailbox::ToEngine;
use crate::engine::streams;
use crate::engine::task::EngineTask;
use crate::peer::messages::ToPeer;
use crate::peers::listeners::Listeners;
use crate::peers::registry::Registry;
use crate::peers::unnumbered::{Discovery, Links};
use crate::peers::{ANSWER_TIMEOUT, Peers};

/// Capacity of the channel from the peers' tasks to the engine's task.
const ENGINE_CAPACITY: usize = 1024;
/// Capacity of the channel for control messages and queries.
const CONTROL_CAPACITY: usize = 64;

/// The BGP speaker: starts all tasks.
#[derive(Debug)]
pub struct Speaker;

/// Controls the speaker. Cheap to clone; the speaker stops when the last handle is dropped.
#[derive(Clone)]
pub struct SpeakerHandle {
    peers: Peers,
    links: Arc<Links>,
    stations: Arc<Stations>,
    /// Closed when the last handle is dropped.
    listeners: Arc<Listeners>,
}

impl std::fmt::Debug for SpeakerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpeakerHandle").finish_non_exhaustive()
    }
}

/// The handle and the output channels of a started speaker.
#[derive(Debug)]
pub struct Started {
    /// Control messages and queries.
    pub handle: SpeakerHandle,
    /// Wanted kernel routes and next hops.
    pub datapath: mpsc::Receiver<DatapathEvent>,
    /// Events for the agent.
    pub events: mpsc::Receiver<Event>,
}

impl Speaker {
    /// Opens the listeners and starts the engine's task. Connections are accepted after
    /// [`SpeakerHandle::accept`], once the peers are configured. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A listening socket cannot be opened.
    pub fn start(config: SpeakerConfig) -> Result<Started, SpeakerError> {
        let registry = Arc::new(Registry::new());
        let (engine, inbox) = mpsc::channel(ENGINE_CAPACITY);
        let (control, control_inbox) = mpsc::channel(CONTROL_CAPACITY);
        let (routes, datapath) = mpsc::channel(streams::CAPACITY);
        let (lifecycle, events) = mpsc::channel(streams::CAPACITY);
        let task = EngineTask::new(
            Engine::new(config.engine),
            control_inbox,
            inbox,
            routes,
            lifecycle,
        );
        let handle = SpeakerHandle {
            peers: Peers::new(registry, control, engine, config.seed),
            links: Arc::default(),
            stations: Arc::default(),
            listeners: Arc::default(),
        };
        handle.listen(&config.listen)?;
        tokio::spawn(task.run());
        Ok(Started {
            handle,
            datapath,
            events,
        })
    }
}

impl SpeakerHandle {
    async fn input(&self, input: Input) -> Result<(), Stopped> {
        self.peers.control(ToEngine::Input(input)).await
    }

    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        self.peers.query(query).await
    }

    /// The local addresses of the listeners.
    #[must_use]
    pub fn listening(&self) -> Vec<std::net::SocketAddr> {
        self.peers
            .registry
            .listeners()
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Starts to accept connections. Connections from unknown peers are refused.
    pub fn accept(&self) {
        self.listeners.accept(&self.peers);
    }

    /// Listens on exactly these addresses; an address that no interface has yet is allowed. New listeners are
    /// opened before others are closed, and sessions are not affected. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A listener cannot be opened; nothing changes then.
    pub fn listen(&self, wanted: &[std::net::SocketAddr]) -> Result<(), SpeakerError> {
        self.listeners.put(wanted, &self.peers)
    }

    /// Adds or changes a peer. The session restarts only if its OPEN or its connection changes.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn put_peer(&self, spec: PeerSpec) -> Result<(), Stopped> {
        self.links.forget(spec.id);
        self.peers.put(spec).await
    }

    /// Adds or changes a range of dynamic peers; changes apply to its present peers.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn put_range(&self, range: RangeSpec) -> Result<(), Stopped> {
        self.peers.put_range(range).await
    }

    /// Removes a range and its peers.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn remove_range(&self, name: &str) -> Result<(), Stopped> {
        for entry in self.peers.registry.remove_range(name) {
            self.remove_peer(entry.spec.id).await?;
        }
        Ok(())
    }

    /// Adds or replaces an unnumbered peer on a link. Discovery runs until [`SpeakerHandle::remove_peer`].
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn put_link(&self, link: LinkSpec) -> Result<(), Stopped> {
        let id = link.template.id;
        if self.links.is_same(id, &link) {
            return Ok(());
        }
        let known = self.links.take(id).and_then(|old| old.found());
        let mut discovery = Discovery::new(link, self.peers.clone(), known);
        discovery.update_peer().await?;
        self.links.insert(id, discovery.start());
        Ok(())
    }

    /// Removes a peer: its session ends with Cease/Peer De-configured, and its routes are removed.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn remove_peer(&self, id: PeerId) -> Result<(), Stopped> {
        self.links.forget(id);
        drop(self.peers.registry.remove(id)); // the task ends with its last sender
        self.input(Input::Remove(id)).await
    }

    /// Sets the complete list of routes to originate.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn originate(&self, routes: Vec<Originated>) -> Result<(), Stopped> {
        self.input(Input::Originate(routes)).await
    }

    /// Waits until the engine has decided on all inputs before this call: UPDATEs of them are written, or queued for their peers.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn decided(&self) -> Result<(), Stopped> {
        // An input is work first, and decisions in the turn after that.
        let mut quiet = 0;
        while quiet < 2 {
            let pending = self.query(|engine| engine.pending_decisions()).await?;
            quiet = if pending == 0 { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    /// As [`SpeakerHandle::count_rules`], for those who ask again and again: `None` where the table has more than 65,536 places.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn count_rules_of_small_table(&self) -> Result<Option<RuleCounts>, Stopped> {
        let places = self.query(|engine| engine.slots()).await?;
        if places > 65_536 {
            return Ok(None);
        }
        self.count_rules().await.map(Some)
    }

    /// How many routes each rule of each policy matches now.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn count_rules(&self) -> Result<RuleCounts, Stopped> {
        let (mut counts, mut place) = (RuleCounts::new(), Some(0));
        while let Some(from) = place {
            let (some, next) = self.query(move |engine| engine.count_rules(from)).await?;
            for (rule, count) in some {
                *counts.entry(rule).or_default() += count;
            }
            place = next;
        }
        Ok(counts)
    }

    /// The whole set of routes to originate under conditions.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn originate_by_rules(&self, rules: Vec<OriginateRule>) -> Result<(), Stopped> {
        self.input(Input::OriginateByRules(rules)).await
    }

    /// After a restart: peers that retained our routes are sent nothing until the named peers have sent their
    /// End-of-RIB (RFC 4724 §4.1), or until the Selection_Deferral_Timer `longest` expires, because a peer of
    /// the last run may not return.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn defer(&self, names: BTreeSet<String>, longest: Duration) -> Result<(), Stopped> {
        self.input(Input::Defer(names)).await?;
        let speaker = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(longest).await;
            let _ = speaker.input(Input::EndDeferral).await; // the speaker may have stopped
        });
        Ok(())
    }

    /// Changes the multipath rules.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn multipath(&self, rules: EqualPaths) -> Result<(), Stopped> {
        self.input(Input::Multipath(rules)).await
    }

    /// Sends all routes with GRACEFUL_SHUTDOWN (RFC 8326) while `on` is set, before the node shuts down.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn drain(&self, on: bool) -> Result<(), Stopped> {
        self.input(Input::Drain(on)).await
    }

    /// Families of which an established peer was sent a route; `None` while no session is established.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn advertised_families(&self) -> Result<Option<FamilySet>, Stopped> {
        self.query(|engine| engine.advertised_families()).await
    }

    /// Counts for each of these peers the prefixes that become unreachable if all of them leave.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn count_exclusive_prefixes(
        &self,
        leaving: BTreeSet<PeerId>,
    ) -> Result<BTreeMap<PeerId, usize>, Stopped> {
        let (leaving, mut counts) = (Arc::new(leaving), BTreeMap::new());
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let leaving = Arc::clone(&leaving);
            let (some, next) = self
                .query(move |engine| engine.count_exclusive_prefixes(&leaving, from))
                .await?;
            for (peer, count) in some {
                *counts.entry(peer).or_default() += count;
            }
            cursor = next;
        }
        Ok(counts)
    }

    /// Computes the effect of these inputs without applying them. It runs outside the engine's task, on one
    /// page of the table at a time ([`Engine::begin_preview`]).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn preview(&self, inputs: Vec<Input>) -> Result<Preview, Stopped> {
        let mut run = self
            .query(move |engine: &mut Engine| engine.begin_preview(now(), inputs))
            .await?;
        loop {
            let cursor = run.cursor();
            let page = self.query(move |engine| engine.table_page(cursor)).await?;
            let taken = tokio::task::spawn_blocking(move || {
                let is_last = run.add_page(&page);
                (run, is_last)
            });
            let is_last;
            (run, is_last) = taken.await.map_err(|_| Stopped)?;
            if is_last {
                break;
            }
        }
        let preview = tokio::task::spawn_blocking(move || run.finish());
        preview.await.map_err(|_| Stopped)
    }

    /// Sets the reachability of next hops.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn next_hops(&self, updates: Vec<(IpAddr, Reach)>) -> Result<(), Stopped> {
        self.input(Input::NextHops(updates)).await
    }

    /// Ends a peer's session and keeps it down until [`SpeakerHandle::enable`]. The text is sent to the peer
    /// (RFC 9003). Returns false if the peer does not exist.
    pub async fn disable(&self, id: PeerId, message: &str) -> bool {
        self.command(id, ToPeer::Stop(cease::ADMIN_SHUTDOWN, message.to_owned()))
            .await
    }

    /// Lets the session of a disabled peer come up again. Returns false if the peer does not exist.
    pub async fn enable(&self, id: PeerId) -> bool {
        self.command(id, ToPeer::Start).await
    }

    /// Restarts a peer's session (Cease/Administrative Reset). Returns false if the peer does not exist.
    pub async fn clear(&self, id: PeerId, message: &str) -> bool {
        self.command(id, ToPeer::Restart(cease::ADMIN_RESET, message.to_owned()))
            .await
    }

    /// Ends a peer's session with this NOTIFICATION; it is retried as after any failure. Returns false if the
    /// peer does not exist.
    pub async fn fail(&self, id: PeerId, notification: Notification) -> bool {
        self.command(id, ToPeer::Fail(notification, Duration::ZERO)).await
    }

    /// Requests the peer's routes again (RFC 2918). Returns false if the peer does not exist.
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

    /// Sends our routes to the peer again, as for a route refresh.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn refresh_out(&self, id: PeerId) -> Result<(), Stopped> {
        for family in Family::ALL {
            self.input(Input::Resend(id, family)).await?;
        }
        Ok(())
    }

    async fn command(&self, id: PeerId, command: ToPeer) -> bool {
        match self.peers.registry.get(id) {
            Some(entry) => entry.commands.send(command).await.is_ok(),
            None => false,
        }
    }

    /// The name of a peer, dynamic peers included.
    #[must_use]
    pub fn name(&self, id: PeerId) -> Option<String> {
        self.peers.registry.get(id).map(|entry| entry.spec.name)
    }

    /// The addresses of the peers; unnumbered peers are included once they are found.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<PeerId, std::net::SocketAddr> {
        self.peers.registry.addresses()
    }

    /// All peers, by id. A peer whose task does not reply in time is left out.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn peers(&self) -> Result<Vec<PeerSnapshot>, Stopped> {
        self.peers.snapshots().await
    }

    /// Sets the complete list of BMP stations.
    pub fn put_stations(&self, wanted: Vec<BmpSpec>) {
        self.stations.put(wanted, &self.peers);
    }

    /// A page of routes, in the order of the table ([`Engine::routes`]).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn routes(
        &self,
        filter: RouteFilter,
        cursor: u32,
        limit: usize,
    ) -> Result<(Vec<RouteView>, Option<u32>), Stopped> {
        self.query(move |engine| engine.routes(&filter, cursor, limit))
            .await
    }

    /// Ends all sessions. Returns when the last messages are written, after two seconds at most.
    pub async fn shutdown(&self, how: Shutdown) {
        let mut answers = Vec::new();
        for entry in self.peers.registry.all() {
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
                let _ = answer.await; // a task that has ended has closed its connections
            }
        };
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, all).await;
        self.stations.end().await;
    }
}

#[cfg(test)]
impl SpeakerHandle {
    pub(crate) fn peers_of_tests(&self) -> &Peers {
        &self.peers
    }

    /// The number of sessions for which the engine's task has an outbox.
    pub(crate) async fn outboxes_of_tests(&self) -> usize {
        let (reply, answer) = oneshot::channel();
        let message = ToEngine::Outboxes(reply);
        self.peers.control(message).await.ok();
        answer.await.unwrap_or_default()
    }
}
