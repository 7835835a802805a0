//! The paths to peers, watched by BFD: which sessions there shall be, and what their news mean.
//!
//! The thread and its sockets are had with the first peer that wants BFD. News are looked at, not queued: a session
//! that went down and came up again in between is seen by its count.

use std::collections::BTreeMap;
use std::sync::Arc;

use bfd::{Bfd, Down, Key, State, Status, Target};
use bgp_proto::types::PeerId;
use tokio::sync::Notify;

use crate::status::BfdStatus;

/// BFD as the agent sees it.
#[derive(Default)]
pub(crate) struct Paths {
    bfd: Option<Bfd>,
    notify: Arc<Notify>,
    /// Who is watched.
    peers: BTreeMap<Key, (PeerId, String)>,
    /// How often each was down when last looked at.
    seen: BTreeMap<Key, u64>,
}

/// A path that was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lost {
    pub(crate) peer: PeerId,
    pub(crate) name: String,
    pub(crate) why: Down,
}

impl Paths {
    /// Told when there are news.
    pub(crate) fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// The whole set of peers to watch.
    pub(crate) fn put(&mut self, wanted: Vec<(PeerId, String, Target)>) {
        if wanted.is_empty() && self.bfd.is_none() {
            return;
        }
        if self.bfd.is_none() {
            let notify = self.notify();
            match Bfd::start(move || notify.notify_one()) {
                Ok(bfd) => self.bfd = Some(bfd),
                Err(error) => {
                    return tracing::error!(%error, "no BFD: sessions go on without it, strict ones stay down");
                }
            }
        }
        let targets = wanted.iter().map(|(.., target)| *target).collect();
        let peers = wanted
            .into_iter()
            .map(|(id, name, target)| (target.key, (id, name)));
        self.peers = peers.collect();
        self.seen.retain(|key, _| self.peers.contains_key(key));
        if let Some(bfd) = &self.bfd {
            bfd.put(targets);
        }
    }

    fn status(&self) -> BTreeMap<Key, Status> {
        self.bfd.as_ref().map(Bfd::status).unwrap_or_default()
    }

    /// Whether the path to a peer is up.
    pub(crate) fn is_up(&self, peer: PeerId) -> bool {
        let status = self.status();
        let mut own = self.peers.iter().filter(|(_, (id, _))| *id == peer);
        own.any(|(key, _)| status.get(key).is_some_and(|status| status.state == State::Up))
    }

    /// Paths lost since this was last asked. What the neighbor's operator does on purpose says nothing about the path
    /// (RFC 5882 §3.2).
    pub(crate) fn lost(&mut self) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (key, status) in self.status() {
            let seen = self.seen.insert(key, status.downs).unwrap_or_default();
            let (Some((peer, name)), Some(why)) = (self.peers.get(&key), status.last_down) else {
                continue;
            };
            if status.downs != seen && !matches!(why, Down::NeighborAdmin | Down::Admin) {
                lost.push(Lost {
                    peer: *peer,
                    name: name.clone(),
                    why,
                });
            }
        }
        lost
    }

    /// Neighbors shall know that our silence is meant.
    pub(crate) fn say_goodbye(&self) {
        if let Some(bfd) = &self.bfd {
            bfd.admin_down(true);
        }
    }

    /// For `podroute show bfd`.
    pub(crate) fn show(&self) -> Vec<BfdStatus> {
        let status = self.status();
        let rows = self
            .peers
            .iter()
            .filter_map(|(key, (_, name))| Some((key, name, status.get(key)?)));
        rows.map(|(key, name, status)| BfdStatus {
            peer: name.clone(),
            address: key.remote,
            state: format!("{:?}", status.state),
            since_seconds: status.since.elapsed().as_secs(),
            downs: status.downs,
            last_down: status.last_down.map(words),
            detection_ms: status
                .detection_time
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        })
        .collect()
    }
}

/// A reason for people.
pub(crate) fn words(why: Down) -> String {
    match why {
        Down::Expired => "nothing heard for the detection time".to_owned(),
        Down::Neighbor(diagnostic) => format!("the neighbor does not hear us ({diagnostic:?})"),
        Down::NeighborAdmin => "the neighbor was taken down on purpose".to_owned(),
        Down::Admin => "taken down here on purpose".to_owned(),
    }
}
