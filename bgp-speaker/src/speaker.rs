//! Starting the speaker, and the handle that the agent holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{
    Engine, EqualPaths, Input, OriginateRule, Originated, Preview, Reach, RouteFilter, RouteView, RuleCounts,
};
use bgp_proto::types::{Family, PeerId};
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
use crate::peers::{PATIENCE, Peers};

/// Messages of peers to the engine under way.
const ENGINE_ROOM: usize = 1024;
/// Orders and queries under way.
const ORDERS_ROOM: usize = 64;

/// The whole BGP process.
#[derive(Debug)]
pub struct Speaker;

/// Talks to the speaker; cheap to clone. The speaker stops when the last handle is gone.
#[derive(Clone)]
pub struct SpeakerHandle {
    peers: Peers,
    links: Arc<Links>,
    stations: Arc<Stations>,
    /// Closed with the last handle.
    listeners: Arc<Listeners>,
}

impl std::fmt::Debug for SpeakerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpeakerHandle").finish_non_exhaustive()
    }
}

/// What a started speaker gives.
#[derive(Debug)]
pub struct Started {
    /// For orders and questions.
    pub handle: SpeakerHandle,
    /// For the kernel's routes.
    pub datapath: mpsc::Receiver<DatapathEvent>,
    /// For the agent.
    pub events: mpsc::Receiver<Event>,
}

impl Speaker {
    /// Listens and starts the engine's task. Connections are accepted from [`SpeakerHandle::accept`] on, when the peers are
    /// known. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a listening socket cannot be opened.
    pub fn start(config: SpeakerConfig) -> Result<Started, SpeakerError> {
        let registry = Arc::new(Registry::new());
        let (engine, inbox) = mpsc::channel(ENGINE_ROOM);
        let (orders, ordered) = mpsc::channel(ORDERS_ROOM);
        let (routes, datapath) = mpsc::channel(streams::ROOM);
        let (lifecycle, events) = mpsc::channel(streams::ROOM);
        let task = EngineTask::new(Engine::new(config.engine), ordered, inbox, routes, lifecycle);
        let handle = SpeakerHandle {
            peers: Peers::new(registry, orders, engine, config.seed),
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
        self.peers.order(ToEngine::Input(input)).await
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
        self.peers
            .registry
            .listeners()
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Accepts connections from now on: whoever is no peer by now is refused.
    pub fn accept(&self) {
        self.listeners.accept(&self.peers);
    }

    /// Listens on these addresses alone, one that does not exist yet included: new sockets are opened before others are closed, and
    /// sessions stay. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When one cannot be listened on: then nothing changes.
    pub fn listen(&self, wanted: &[std::net::SocketAddr]) -> Result<(), SpeakerError> {
        self.listeners.put(wanted, &self.peers)
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
        self.peers.put_range(range).await
    }

    /// Removes a range and the peers that came from it.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn remove_range(&self, name: &str) -> Result<(), Stopped> {
        for entry in self.peers.registry.remove_range(name) {
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
        let mut discovery = Discovery::new(link, self.peers.clone(), known);
        discovery.put().await?;
        self.links.insert(id, discovery.start());
        Ok(())
    }

    /// Removes a peer: Cease/Peer De-configured, and its routes go.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn remove_peer(&self, id: PeerId) -> Result<(), Stopped> {
        self.links.forget(id);
        drop(self.peers.registry.remove(id)); // the task ends with its last sender
        self.input(Input::Remove(id)).await
    }

    /// The whole set of routes to originate.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn originate(&self, routes: Vec<Originated>) -> Result<(), Stopped> {
        self.input(Input::Originate(routes)).await
    }

    /// As [`SpeakerHandle::count_rules`], for those who ask again and again: `None` where the table has more than 65,536 places.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn count_rules_of_small_table(&self) -> Result<Option<RuleCounts>, Stopped> {
        let places = self.ask(|engine| engine.places()).await?;
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
            let (some, next) = self.ask(move |engine| engine.count_rules(from)).await?;
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

    /// After a restart: what goes to peers that kept our routes waits until those with these names have sent their End-of-RIB
    /// (RFC 4724 §4.1), or until the Selection_Deferral_Timer `longest` expires: a peer of the last run may never come back.
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

    /// Other rules for equal paths.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn multipath(&self, rules: EqualPaths) -> Result<(), Stopped> {
        self.input(Input::Multipath(rules)).await
    }

    /// Whether this node is about to go: everything sent then carries GRACEFUL_SHUTDOWN (RFC 8326).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn drain(&self, on: bool) -> Result<(), Stopped> {
        self.input(Input::Drain(on)).await
    }

    /// For each of these peers, how many prefixes would be lost if all of them went.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn only_from(&self, leaving: BTreeSet<PeerId>) -> Result<BTreeMap<PeerId, usize>, Stopped> {
        let (leaving, mut counts) = (Arc::new(leaving), BTreeMap::new());
        let mut place = Some(0);
        while let Some(from) = place {
            let leaving = Arc::clone(&leaving);
            let (some, next) = self.ask(move |engine| engine.only_from(&leaving, from)).await?;
            for (peer, count) in some {
                *counts.entry(peer).or_default() += count;
            }
            place = next;
        }
        Ok(counts)
    }

    /// What would follow from these inputs to the engine: found out beside it, an excerpt of its table at a time ([`Engine::rehearse`]).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn preview(&self, inputs: Vec<Input>) -> Result<Preview, Stopped> {
        let mut rehearsal = self
            .ask(move |engine: &mut Engine| engine.rehearse(now(), inputs))
            .await?;
        loop {
            let place = rehearsal.place();
            let excerpt = self.ask(move |engine| engine.excerpt(place)).await?;
            let taken = tokio::task::spawn_blocking(move || {
                let is_last = rehearsal.take(&excerpt);
                (rehearsal, is_last)
            });
            let is_last;
            (rehearsal, is_last) = taken.await.map_err(|_| Stopped)?;
            if is_last {
                break;
            }
        }
        let preview = tokio::task::spawn_blocking(move || rehearsal.finish());
        preview.await.map_err(|_| Stopped)
    }

    /// News of next hops.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn next_hops(&self, news: Vec<(IpAddr, Reach)>) -> Result<(), Stopped> {
        self.input(Input::NextHops(news)).await
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

    /// A peer's name, dynamic ones' too.
    #[must_use]
    pub fn name(&self, id: PeerId) -> Option<String> {
        self.peers.registry.get(id).map(|entry| entry.spec.name)
    }

    /// The addresses of peers, those of unnumbered ones once they are found.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<PeerId, std::net::SocketAddr> {
        self.peers.registry.addresses()
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

    /// Routes in the table's own order, a page at a time ([`Engine::routes`]).
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn routes(
        &self,
        filter: RouteFilter,
        place: u32,
        most: usize,
    ) -> Result<(Vec<RouteView>, Option<u32>), Stopped> {
        self.ask(move |engine| engine.routes(&filter, place, most)).await
    }

    /// Ends all sessions; returns when the last words are on their way, after two seconds at the latest.
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
                let _ = answer.await; // a task that is gone has closed its connections
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
        self.stations.end().await;
    }
}

#[cfg(test)]
impl SpeakerHandle {
    pub(crate) fn peers_of_tests(&self) -> &Peers {
        &self.peers
    }

    /// How many sessions the engine's task has outboxes of.
    pub(crate) async fn outboxes_of_tests(&self) -> usize {
        let (reply, answer) = oneshot::channel();
        let message = ToEngine::Outboxes(reply);
        self.peers.order(message).await.ok();
        answer.await.unwrap_or_default()
    }
}
