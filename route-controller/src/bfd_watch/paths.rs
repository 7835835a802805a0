//! BFD sessions of peers and next hops: which are wanted, and what their states mean.
//!
//! BFD's thread and its sockets are created when the first peer enables BFD. The state is looked at, not queued: a session
//! that went down and came up again in between is seen by its count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bfd::{Bfd, Dampening, DampeningConfig, Down, Key, State, Status, Target};
use bgp_proto::types::{PeerId, with_scope};
use tokio::sync::Notify;

use crate::clock::now;
use crate::status::BfdStatus;

/// For whom a path is watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum WatchOwner {
    Peer(PeerId, String),
    /// No session, only routes over it.
    NextHop,
}

/// A path to watch.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) owner: WatchOwner,
    pub(crate) target: Target,
    pub(crate) dampening: Option<DampeningConfig>,
}

/// What is remembered of a path.
struct Path {
    watch: Watch,
    /// How often it was lost when last looked at.
    seen: u64,
    damped: Dampening,
    /// After the last loss packets were seen to pass.
    passes: bool,
}

/// How the path to a peer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct PathState {
    /// Its BFD session is up.
    pub(crate) is_up: bool,
    /// It was lost too often, and is held back (dampening).
    pub(crate) is_held: bool,
}

/// BFD as the agent sees it.
#[derive(Default)]
pub(crate) struct Paths {
    bfd: Option<Bfd>,
    notify: Arc<Notify>,
    known: BTreeMap<Key, Path>,
}

/// A path that was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lost {
    pub(crate) owner: WatchOwner,
    pub(crate) address: IpAddr,
    pub(crate) why: Down,
}

impl Paths {
    /// Notified of changes.
    pub(crate) fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// The whole set of paths to watch.
    pub(crate) fn put(&mut self, wanted: Vec<Watch>) {
        if wanted.is_empty() && self.bfd.is_none() {
            return;
        }
        if self.bfd.is_none() {
            let notify = self.notify();
            match Bfd::start(move || notify.notify_one()) {
                Ok(bfd) => {
                    if !bfd.has_realtime_priority() {
                        tracing::warn!(
                            event = "bfd_not_realtime",
                            "BFD has no real-time priority: on a busy node sessions may go down although the path works. The agent needs \
                             CAP_SYS_NICE, and where the kernel schedules groups in real time (CONFIG_RT_GROUP_SCHED) a cpu.rt_runtime_us of its control group"
                        );
                    }
                    self.bfd = Some(bfd);
                }
                Err(error) => {
                    return tracing::error!(event = "bfd_failed", %error, "cannot start BFD: sessions continue without it, strict ones stay down");
                }
            }
        }
        if let Some(bfd) = &self.bfd {
            bfd.put(wanted.iter().map(|watch| watch.target.clone()).collect());
        }
        let mut before = std::mem::take(&mut self.known);
        for watch in wanted {
            let old = before.remove(&watch.target.key);
            let (seen, damped, passes) = old
                .map(|path| (path.seen, path.damped, path.passes))
                .unwrap_or_default();
            let path = Path {
                watch,
                seen,
                damped,
                passes,
            };
            self.known.insert(path.watch.target.key, path);
        }
    }

    fn status(&self) -> BTreeMap<Key, Status> {
        self.bfd.as_ref().map(Bfd::status).unwrap_or_default()
    }

    /// How the paths to peers are.
    pub(super) fn states(&self) -> BTreeMap<PeerId, PathState> {
        let (status, now) = (self.status(), now());
        let mut states: BTreeMap<PeerId, PathState> = BTreeMap::new();
        for (key, path) in &self.known {
            let WatchOwner::Peer(id, _) = path.watch.owner else {
                continue;
            };
            let state = states.entry(id).or_default();
            state.is_up |= status.get(key).is_some_and(|status| status.state == State::Up);
            state.is_held |= path.damped.held_until(now).is_some();
        }
        states
    }

    /// The session with a peer is established: its path carries packets, also where BFD has not come back.
    pub(crate) fn established(&mut self, peer: PeerId) {
        for path in self.known.values_mut() {
            path.passes |= matches!(path.watch.owner, WatchOwner::Peer(id, _) if id == peer);
        }
    }

    /// Paths lost since this was last asked. What the neighbor's operator does on purpose says nothing about the path
    /// (RFC 5882 §3.2).
    pub(crate) fn lost(&mut self) -> Vec<Lost> {
        let (mut lost, status, now) = (Vec::new(), self.status(), now());
        for (key, path) in &mut self.known {
            let Some(status) = status.get(key) else { continue };
            // A session that was recreated counts from zero.
            let losses = status.downs.saturating_sub(path.seen);
            path.seen = status.downs;
            let Some(why) = status.last_down.filter(|why| losses > 0 && is_loss(*why)) else {
                continue;
            };
            path.passes = false;
            if let Some(config) = &path.watch.dampening {
                (0..losses).for_each(|_| path.damped.lost(now, config));
                notify_at(&self.notify, path.damped.held_until(now));
            }
            lost.push(Lost {
                owner: path.watch.owner.clone(),
                address: key.remote,
                why,
            });
        }
        lost
    }

    /// Next hops whose paths were lost and have not come up again, or are held back.
    pub(crate) fn dead(&self) -> BTreeSet<IpAddr> {
        let (status, now) = (self.status(), now());
        let is_dead = |(key, path): &(&Key, &Path)| {
            path.damped.held_until(now).is_some()
                || status.get(key).is_some_and(|status| {
                    !path.passes && status.state != State::Up && status.last_down.is_some_and(is_loss)
                })
        };
        self.known
            .iter()
            .filter(is_dead)
            .map(|(key, _)| match key.remote {
                IpAddr::V6(addr) if key.scope > 0 => IpAddr::V6(with_scope(addr, key.scope)),
                addr @ IpAddr::V6(_) => addr,
                addr @ IpAddr::V4(_) => addr,
            })
            .collect()
    }

    /// Neighbors learn that the silence is intended.
    pub(crate) fn set_all_admin_down(&self) {
        if let Some(bfd) = &self.bfd {
            bfd.set_all_admin_down(true);
        }
    }

    /// For `podroute show bfd`.
    pub(crate) fn show(&self) -> Vec<BfdStatus> {
        let (status, now) = (self.status(), now());
        let rows = self
            .known
            .iter()
            .filter_map(|(key, path)| Some((key, path, status.get(key)?)));
        rows.map(|(key, path, status)| BfdStatus {
            peer: match &path.watch.owner {
                WatchOwner::Peer(_, name) => name.clone(),
                WatchOwner::NextHop => String::new(),
            },
            address: key.remote,
            state: format!("{:?}", status.state),
            since_seconds: status.since.elapsed().as_secs(),
            downs: status.downs,
            last_down: status.last_down.map(words),
            detection_ms: status
                .detection_time
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            held_seconds: path
                .damped
                .held_until(now)
                .map(|until| until.saturating_duration_since(now).as_secs() + 1),
            refused: status.dropped.0,
            last_refused: status.dropped.1.map(|why| why.to_string()),
        })
        .collect()
    }
}

/// Wakes the task when a path is not held any more.
fn notify_at(notify: &Arc<Notify>, moment: Option<Instant>) {
    if let Some(moment) = moment {
        let notify = Arc::clone(notify);
        tokio::spawn(async move {
            tokio::time::sleep_until(moment.into()).await;
            notify.notify_one();
        });
    }
}

/// Whether it says that packets do not arrive.
fn is_loss(why: Down) -> bool {
    !matches!(why, Down::NeighborAdmin | Down::Admin)
}

/// A reason for people.
pub(super) fn words(why: Down) -> String {
    match why {
        Down::Expired => "no packet received within the detection time".to_owned(),
        Down::Neighbor(diagnostic) => format!("the neighbor does not receive our packets ({diagnostic:?})"),
        Down::NeighborAdmin => "the neighbor is administratively down".to_owned(),
        Down::Admin => "administratively down on this node".to_owned(),
    }
}
