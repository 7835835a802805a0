//! BMP stations (RFC 7854): one task and one connection each.
//!
//! A task reads new items of its engine feed a few times per second, and checks the peers when a session went
//! up or down. What it sends follows from the present state, so that no lost event matters. A station that
//! does not read delays only its own task; meanwhile the feed keeps each changed path once, and ends when it
//! grows too large. Then, as after any error, the connection is closed, and a new one starts with the whole
//! state (§3.2) after a back-off of 1–30 s.

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
use crate::clock::unix_time;
use crate::peers::Peers;

/// Interval between reads of the feed.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Paths read from the feed at a time.
const PAGE_SIZE: usize = 1000;
/// Longest time in which a station must read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Time to send Termination to all stations.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(1);

/// The tasks of the stations, which end when this is dropped.
#[derive(Default)]
pub(crate) struct Stations {
    running: Mutex<BTreeMap<BmpSpec, Running>>,
    next_feed: AtomicU32,
}

struct Running {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stations {
    /// Sets the stations. Unchanged ones continue.
    pub(crate) fn put(&self, wanted: Vec<BmpSpec>, peers: &Peers) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|spec, _| wanted.contains(spec));
        for spec in wanted {
            running.entry(spec.clone()).or_insert_with(|| {
                let (stop, stopped) = watch::channel(false);
                let station = Station {
                    spec,
                    peers: peers.clone(),
                    feed: FeedId(self.next_feed.fetch_add(1, Ordering::Relaxed)),
                    stop: stopped,
                    reported: BTreeMap::new(),
                    out: BytesMut::new(),
                };
                Running {
                    task: tokio::spawn(station.run()),
                    stop,
                }
            });
        }
    }

    /// Ends all stations with a Termination message.
    pub(crate) async fn end(&self) {
        let all = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for running in all.values() {
            running.stop.send_replace(true);
        }
        let until = Instant::now() + TERMINATION_TIMEOUT;
        for mut running in all.into_values() {
            let _ = tokio::time::timeout_at(until, &mut running.task).await; // the task is aborted on timeout
        }
    }
}

/// A peer that was reported as up.
#[derive(Clone, Copy)]
struct ReportedPeer {
    peer: BmpPeer,
    /// The number of its session.
    session: u64,
    add_path: FamilySet,
    families: FamilySet,
}

struct Station {
    spec: BmpSpec,
    peers: Peers,
    feed: FeedId,
    stop: watch::Receiver<bool>,
    reported: BTreeMap<PeerId, ReportedPeer>,
    out: BytesMut,
}

/// Why a connection ended.
enum ConnectionEnd {
    Speaker,
    Fault(String),
}

impl From<Stopped> for ConnectionEnd {
    fn from(_: Stopped) -> Self {
        ConnectionEnd::Speaker
    }
}

impl From<io::Error> for ConnectionEnd {
    fn from(error: io::Error) -> Self {
        ConnectionEnd::Fault(error.to_string())
    }
}

impl Station {
    async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        let station = self.spec.station;
        while !*self.stop.borrow() {
            let started = Instant::now();
            let end = match timeout(CONNECT_TIMEOUT, TcpStream::connect(station)).await {
                Ok(Ok(stream)) => self.serve(stream).await,
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(ConnectionEnd::Fault("connecting timed out".to_owned())),
            };
            let feed = self.feed;
            let ended = self.peers.query(move |engine| engine.end_feed(feed)).await;
            match (end, ended) {
                (Err(ConnectionEnd::Fault(error)), Ok(())) => {
                    tracing::warn!(event = "bmp_lost", %station, %error, "connection to the BMP station lost; reconnecting")
                }
                _ => return,
            }
            backoff = if started.elapsed() > BACKOFF_MAX {
                BACKOFF_MIN
            } else {
                (backoff * 2).min(BACKOFF_MAX)
            };
            let _ = timeout(backoff, self.stop.changed()).await; // either event ends the wait
        }
    }

    /// Serves one connection; returns `Ok` when the speaker ends.
    async fn serve(&mut self, mut stream: TcpStream) -> Result<(), ConnectionEnd> {
        tracing::info!(event = "bmp_connected", station = %self.spec.station, "connected to the BMP station");
        let feed = self.feed;
        self.reported.clear();
        self.out.clear();
        self.peers.query(move |engine| engine.begin_feed(feed)).await?;
        let description = format!("podroute {}", env!("CARGO_PKG_VERSION"));
        bmp::initiation(&mut self.out, &description, &self.spec.name);
        let mut report = Instant::now() + self.spec.statistics;
        let mut initial = true;
        let mut seen = None;
        loop {
            let changes = self.peers.registry.changes();
            if seen.replace(changes) != Some(changes) {
                self.report_peer_changes().await?;
            }
            while self.queue_routes().await? {
                self.write(&mut stream).await?;
            }
            if std::mem::take(&mut initial) {
                self.end_initial_routes();
            }
            if !self.spec.statistics.is_zero() && Instant::now() >= report {
                report += self.spec.statistics;
                self.queue_statistics().await?;
            }
            self.write(&mut stream).await?;
            if *self.stop.borrow() {
                bmp::termination(&mut self.out);
                self.write(&mut stream).await?;
                stream.shutdown().await?;
                return Ok(());
            }
            // A station sends nothing (§3.2): a readable socket was closed, or is no station.
            match timeout(POLL_INTERVAL, stream.readable()).await {
                Ok(_) if stream.try_read(&mut [0; 64])? == 0 => {
                    return Err(ConnectionEnd::Fault(
                        "the station closed the connection".to_owned(),
                    ));
                }
                _ => {}
            }
        }
    }

    async fn write(&mut self, stream: &mut TcpStream) -> Result<(), ConnectionEnd> {
        let bytes = self.out.split();
        match timeout(WRITE_TIMEOUT, stream.write_all(&bytes)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(ConnectionEnd::Fault("the station does not read".to_owned())),
        }
    }

    /// Reports peers that went up or down.
    async fn report_peer_changes(&mut self) -> Result<(), ConnectionEnd> {
        let peers = self.peers.snapshots().await?;
        let now: BTreeMap<PeerId, &PeerSnapshot> = peers.iter().map(|peer| (peer.id, peer)).collect();
        let session = |peer: &PeerSnapshot| {
            (peer.session.state == State::Established).then_some(peer.session.stats.established)
        };
        let removed: Vec<PeerId> = self
            .reported
            .iter()
            .filter(|(id, reported)| now.get(id).and_then(|peer| session(peer)) != Some(reported.session))
            .map(|(id, _)| *id)
            .collect();
        for id in removed {
            if let Some(reported) = self.reported.remove(&id) {
                let down_reason = now
                    .get(&id)
                    .map_or(PeerDownReason::Deconfigured, |peer| down_reason(peer));
                bmp::peer_down(&mut self.out, &reported.peer, unix_time(), &down_reason);
            }
        }
        for (id, peer) in now {
            if !self.reported.contains_key(&id)
                && let Some(reported) = self.report_peer_up(peer)
            {
                self.reported.insert(id, reported);
            }
        }
        Ok(())
    }

    fn report_peer_up(&mut self, peer: &PeerSnapshot) -> Option<ReportedPeer> {
        let session = &peer.session;
        let (agreed, opens, ends) = (
            session.negotiated.as_ref()?,
            session.opens.as_ref()?,
            session.ends?,
        );
        let reported = ReportedPeer {
            peer: BmpPeer {
                address: ends.1.ip().to_canonical(),
                asn: agreed.remote.asn,
                router_id: agreed.remote_id(),
            },
            session: session.stats.established,
            add_path: agreed.add_path_receive,
            families: agreed.families,
        };
        bmp::peer_up(
            &mut self.out,
            &reported.peer,
            unix_time(),
            ends,
            (&opens.0, &opens.1),
        );
        Some(reported)
    }

    /// Queues a page of routes; returns false when there was none.
    async fn queue_routes(&mut self) -> Result<bool, ConnectionEnd> {
        let feed = self.feed;
        let items = self
            .peers
            .query(move |engine| engine.take_feed(feed, PAGE_SIZE))
            .await?;
        let items = items.ok_or_else(|| {
            ConnectionEnd::Fault("the station is too slow; starting again with all routes".to_owned())
        })?;
        if items.iter().any(|item| !self.reported.contains_key(&item.peer)) {
            self.report_peer_changes().await?; // the peer just came up, or is gone
        }
        items.iter().for_each(|item| self.queue_route(item));
        Ok(!items.is_empty())
    }

    fn queue_route(&mut self, item: &FeedItem) {
        let Some(reported) = self.reported.get(&item.peer).copied() else {
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
                &reported.peer,
                view,
                unix_time(),
                item.nlri,
                attrs,
                reported.add_path,
            );
        }
    }

    fn end_initial_routes(&mut self) {
        for reported in self.reported.values() {
            for family in reported.families.iter() {
                for (on, view) in [
                    (self.spec.pre_policy, View::PrePolicy),
                    (self.spec.post_policy, View::PostPolicy),
                ] {
                    if on {
                        bmp::end_of_rib(&mut self.out, &reported.peer, view, unix_time(), family);
                    }
                }
            }
        }
    }

    async fn queue_statistics(&mut self) -> Result<(), ConnectionEnd> {
        for peer in self.peers.snapshots().await? {
            if let Some(reported) = self.reported.get(&peer.id) {
                let counts = Family::ALL.into_iter().zip(peer.counts.received);
                let counts: Vec<(Family, u64)> =
                    counts.map(|(family, count)| (family, count as u64)).collect();
                bmp::statistics(&mut self.out, &reported.peer, unix_time(), &counts);
            }
        }
        Ok(())
    }
}

fn down_reason(peer: &PeerSnapshot) -> PeerDownReason {
    match &peer.session.stats.last_down {
        Some(DownReason::Sent(notification)) => PeerDownReason::Sent(notification.clone()),
        Some(DownReason::Received(notification)) => PeerDownReason::Received(notification.clone()),
        Some(DownReason::Abandoned) => PeerDownReason::Closed,
        Some(DownReason::Closed(_)) | None => PeerDownReason::Lost,
    }
}
