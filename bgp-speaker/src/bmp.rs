//! Telling BMP stations (RFC 7854): one task and one connection each.
//!
//! A task takes what is new of the engine's feed a few times a second, and looks at the peers when a session came up or went down: what
//! it reports follows from what is, not from events that might be lost. A station that does not read is waited for; the feed keeps each
//! changed path once meanwhile, and ends when it would grow too large. Then, as after any fault, the connection is closed
//! and begun anew with everything (§3.2), after a back-off of 1–30 s.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bgp_proto::engine::{FeedId, FeedItem};
use bgp_proto::session::{DownReason, State};
use bgp_proto::types::{Family, FamilySet, PeerId};
use bgp_proto::wire::bmp::{self, BmpPeer, PeerDownReason, View};
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::api::{BmpSpec, PeerSnapshot, Stopped};
use crate::clock::wall;
use crate::peers::Peers;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Paths taken at a time.
const PAGE: usize = 1000;
/// A station may take so long to read.
const PATIENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// For the last words of all stations.
const FAREWELL: Duration = Duration::from_secs(1);

/// The tasks of the stations; they end with this.
#[derive(Default)]
pub(crate) struct Stations {
    running: Mutex<BTreeMap<BmpSpec, Running>>,
    next_feed: AtomicU32,
}

struct Running {
    task: JoinHandle<()>,
    ending: watch::Sender<bool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stations {
    /// Has tasks for exactly these. One that is the same goes on.
    pub(crate) fn put(&self, wanted: Vec<BmpSpec>, peers: &Peers) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|spec, _| wanted.contains(spec));
        for spec in wanted {
            running.entry(spec.clone()).or_insert_with(|| {
                let (ending, watched) = watch::channel(false);
                let station = Station {
                    spec,
                    peers: peers.clone(),
                    feed: FeedId(self.next_feed.fetch_add(1, Ordering::Relaxed)),
                    ending: watched,
                    told: BTreeMap::new(),
                    out: BytesMut::new(),
                };
                Running {
                    task: tokio::spawn(station.run()),
                    ending,
                }
            });
        }
    }

    /// Lets every station know that this is the end, and waits a little.
    pub(crate) async fn end(&self) {
        let all = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for running in all.values() {
            running.ending.send_replace(true);
        }
        let until = Instant::now() + FAREWELL;
        for mut running in all.into_values() {
            let _ = tokio::time::timeout_at(until, &mut running.task).await; // it is aborted otherwise
        }
    }
}

/// A peer that the station knows as up.
#[derive(Clone, Copy)]
struct Told {
    peer: BmpPeer,
    /// Which of its sessions.
    session: u64,
    add_path: FamilySet,
    families: FamilySet,
}

struct Station {
    spec: BmpSpec,
    peers: Peers,
    feed: FeedId,
    ending: watch::Receiver<bool>,
    told: BTreeMap<PeerId, Told>,
    out: BytesMut,
}

/// Why a connection ended.
enum End {
    Speaker,
    Fault(String),
}

impl From<Stopped> for End {
    fn from(_: Stopped) -> Self {
        End::Speaker
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        End::Fault(error.to_string())
    }
}

impl Station {
    async fn run(mut self) {
        let mut pause = SHORTEST;
        let station = self.spec.station;
        while !*self.ending.borrow() {
            let begun = Instant::now();
            let end = match timeout(CONNECT, TcpStream::connect(station)).await {
                Ok(Ok(stream)) => self.serve(stream).await,
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(End::Fault("no answer".to_owned())),
            };
            let feed = self.feed;
            let ended = self.peers.ask(move |engine| engine.end_feed(feed)).await;
            match (end, ended) {
                (Err(End::Fault(error)), Ok(())) => tracing::warn!(%station, %error, "BMP station lost"),
                _ => return,
            }
            pause = if begun.elapsed() > LONGEST {
                SHORTEST
            } else {
                (pause * 2).min(LONGEST)
            };
            let _ = timeout(pause, self.ending.changed()).await; // the time is what is waited for
        }
    }

    /// One connection; `Ok` at the speaker's end.
    async fn serve(&mut self, mut stream: TcpStream) -> Result<(), End> {
        tracing::info!(station = %self.spec.station, "BMP station connected");
        let feed = self.feed;
        self.told.clear();
        self.out.clear();
        self.peers.ask(move |engine| engine.begin_feed(feed)).await?;
        let description = format!("podroute {}", env!("CARGO_PKG_VERSION"));
        bmp::initiation(&mut self.out, &description, &self.spec.name);
        let mut report = Instant::now() + self.spec.statistics;
        let mut fresh = true;
        let mut seen = None;
        loop {
            let changes = self.peers.registry.changes();
            if seen.replace(changes) != Some(changes) {
                self.look_at_peers().await?;
            }
            while self.tell_routes().await? {
                self.write(&mut stream).await?;
            }
            if std::mem::take(&mut fresh) {
                self.end_initial_routes();
            }
            if !self.spec.statistics.is_zero() && Instant::now() >= report {
                report += self.spec.statistics;
                self.tell_statistics().await?;
            }
            self.write(&mut stream).await?;
            if *self.ending.borrow() {
                bmp::termination(&mut self.out);
                self.write(&mut stream).await?;
                stream.shutdown().await?;
                return Ok(());
            }
            // A station has nothing to say (§3.2): readable means that it has closed, or is no station.
            match timeout(LOOK, stream.readable()).await {
                Ok(_) if stream.try_read(&mut [0; 64])? == 0 => {
                    return Err(End::Fault("it closed the connection".to_owned()));
                }
                _ => {}
            }
        }
    }

    async fn write(&mut self, stream: &mut TcpStream) -> Result<(), End> {
        let bytes = self.out.split();
        match timeout(PATIENCE, stream.write_all(&bytes)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(End::Fault("it does not read".to_owned())),
        }
    }

    /// Tells which peers went and which came.
    async fn look_at_peers(&mut self) -> Result<(), End> {
        let peers = self.peers.snapshots().await?;
        let now: BTreeMap<PeerId, &PeerSnapshot> = peers.iter().map(|peer| (peer.id, peer)).collect();
        let session = |peer: &PeerSnapshot| {
            (peer.session.state == State::Established).then_some(peer.session.stats.established)
        };
        let gone: Vec<PeerId> = self
            .told
            .iter()
            .filter(|(id, told)| now.get(id).and_then(|peer| session(peer)) != Some(told.session))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(told) = self.told.remove(&id) {
                let why = now
                    .get(&id)
                    .map_or(PeerDownReason::Deconfigured, |peer| why(peer));
                bmp::peer_down(&mut self.out, &told.peer, wall(), &why);
            }
        }
        for (id, peer) in now {
            if !self.told.contains_key(&id)
                && let Some(told) = self.greet(peer)
            {
                self.told.insert(id, told);
            }
        }
        Ok(())
    }

    fn greet(&mut self, peer: &PeerSnapshot) -> Option<Told> {
        let session = &peer.session;
        let (agreed, opens, ends) = (
            session.negotiated.as_ref()?,
            session.opens.as_ref()?,
            session.ends?,
        );
        let told = Told {
            peer: BmpPeer {
                address: ends.1.ip().to_canonical(),
                asn: agreed.remote.asn,
                router_id: agreed.remote_id(),
            },
            session: session.stats.established,
            add_path: agreed.add_path_receive,
            families: agreed.families,
        };
        bmp::peer_up(&mut self.out, &told.peer, wall(), ends, (&opens.0, &opens.1));
        Some(told)
    }

    /// Tells a page of routes; false when there was none.
    async fn tell_routes(&mut self) -> Result<bool, End> {
        let feed = self.feed;
        let items = self.peers.ask(move |engine| engine.take_feed(feed, PAGE)).await?;
        let items = items.ok_or_else(|| End::Fault("it was too slow: beginning anew".to_owned()))?;
        if items.iter().any(|item| !self.told.contains_key(&item.peer)) {
            self.look_at_peers().await?; // it came up a moment ago, or is gone
        }
        items.iter().for_each(|item| self.tell_route(item));
        Ok(!items.is_empty())
    }

    fn tell_route(&mut self, item: &FeedItem) {
        let Some(told) = self.told.get(&item.peer).copied() else {
            return;
        };
        let views = [
            (self.spec.pre_policy, View::PrePolicy, &item.received),
            (self.spec.post_policy, View::PostPolicy, &item.imported),
        ];
        for (_, view, attrs) in views.into_iter().filter(|(on, ..)| *on) {
            let attrs = attrs.as_ref();
            bmp::route(
                &mut self.out,
                &told.peer,
                view,
                wall(),
                item.nlri,
                attrs,
                told.add_path,
            );
        }
    }

    fn end_initial_routes(&mut self) {
        for told in self.told.values() {
            for family in told.families.iter() {
                for (on, view) in [
                    (self.spec.pre_policy, View::PrePolicy),
                    (self.spec.post_policy, View::PostPolicy),
                ] {
                    if on {
                        bmp::end_of_rib(&mut self.out, &told.peer, view, wall(), family);
                    }
                }
            }
        }
    }

    async fn tell_statistics(&mut self) -> Result<(), End> {
        for peer in self.peers.snapshots().await? {
            if let Some(told) = self.told.get(&peer.id) {
                let counts = Family::ALL.into_iter().zip(peer.counts.received);
                let counts: Vec<(Family, u64)> =
                    counts.map(|(family, count)| (family, count as u64)).collect();
                bmp::statistics(&mut self.out, &told.peer, wall(), &counts);
            }
        }
        Ok(())
    }
}

fn why(peer: &PeerSnapshot) -> PeerDownReason {
    match &peer.session.stats.last_down {
        Some(DownReason::Sent(notification)) => PeerDownReason::Sent(notification.clone()),
        Some(DownReason::Received(notification)) => PeerDownReason::Received(notification.clone()),
        Some(DownReason::Abandoned) => PeerDownReason::Closed,
        Some(DownReason::Closed(_)) | None => PeerDownReason::Lost,
    }
}
