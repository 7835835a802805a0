//! Make before break: sessions of the mesh that are not wanted any more stay until nothing depends on them.
//!
//! When the mesh turns from `full` to `reflectors`, or a reflector's label moves, each node learns of it at another time.
//! A session with a node that is still there goes when all that it brings has come from others too for a while: then
//! reflectors reflect, in both directions. A node that left is another matter: its sessions go at once.
//!
//! The other way round, a reflector whose clients have sessions with each other from now on goes on reflecting for a while: it cannot see
//! whether they have met. Who has both paths prefers the direct one (shorter CLUSTER_LIST, RFC 4456 §9).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bgp_proto::engine::PeerKind;
use bgp_proto::types::PeerId;
use podroute_config::{IMPORT_OF_NODE, IMPORT_OF_REFLECTOR, Mesh};

use super::{Agent, AgentError, MeshTransition};
use crate::clock::now;

/// Everything has been there from others for this time.
const QUIET: Duration = Duration::from_secs(3);
/// Longer than this nobody waits.
const LONGEST: Duration = Duration::from_secs(120);

/// A session that is to be removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retiring {
    since: Instant,
    /// Since when nothing depends on it.
    idle_since: Option<Instant>,
}

impl Retiring {
    /// Whether it may go, when this number of prefixes comes from it alone.
    fn may_go(&mut self, now: Instant, alone: usize) -> bool {
        self.idle_since = match alone {
            0 => Some(self.idle_since.unwrap_or(now)),
            _ => None,
        };
        let quiet = self
            .idle_since
            .is_some_and(|since| now.duration_since(since) >= QUIET);
        quiet || now.duration_since(self.since) >= LONGEST
    }
}

/// Clients that a reflector no longer has to reflect to, and until when it does; or reflectors that are plain nodes now, and until
/// when what they reflect is taken.
#[derive(Debug, Default)]
pub(super) struct Reflecting {
    clients: BTreeSet<String>,
    until: BTreeMap<String, Instant>,
}

impl Reflecting {
    /// The nodes of the mesh as they are wanted from now on: clients, and those that are plain peers.
    fn update(&mut self, now: Instant, clients: BTreeSet<String>, plain: &BTreeSet<String>) {
        let before = std::mem::replace(&mut self.clients, clients);
        self.until.retain(|name, _| plain.contains(name));
        for name in before.intersection(plain) {
            self.until.entry(name.clone()).or_insert(now + LONGEST);
        }
    }

    /// Whether this plain peer is still treated as a client.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.until.contains_key(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    /// Whether somebody's time is over.
    fn expire(&mut self, now: Instant) -> bool {
        let before = self.until.len();
        self.until.retain(|_, until| *until > now);
        self.until.len() < before
    }
}

impl MeshTransition {
    /// Whether there is anything to look at.
    pub(super) fn is_under_way(&self) -> bool {
        !self.retiring.is_empty() || !self.reflecting.is_empty() || !self.trusting.is_empty()
    }
}

impl Agent {
    /// Notes whom this node reflects to, before the peers are put.
    pub(super) fn note_clients(&mut self) {
        let names = |kind: PeerKind| -> BTreeSet<String> {
            let peers = self.config.peers.iter();
            peers
                .filter(|peer| peer.of_mesh && peer.kind == kind)
                .map(|peer| peer.name.clone())
                .collect()
        };
        let (clients, plain) = (names(PeerKind::Client), names(PeerKind::Internal));
        self.mesh.reflecting.update(now(), clients, &plain);
        let with_import = |name: &str| -> BTreeSet<String> {
            let peers = self.config.peers.iter();
            peers
                .filter(|peer| peer.of_mesh && peer.routing.import.name == name)
                .map(|peer| peer.name.clone())
                .collect()
        };
        let (reflectors, nodes) = (with_import(IMPORT_OF_REFLECTOR), with_import(IMPORT_OF_NODE));
        self.mesh.trusting.update(now(), reflectors, &nodes);
    }

    /// Of the peers that the configuration does not have any more, those that can go at once.
    pub(super) fn start_retiring(&mut self, gone: Vec<String>) -> Vec<String> {
        let (now, mesh) = (now(), self.config.mesh != Mesh::Off);
        let known = |name: &String| {
            let cluster = self.file.facts.cluster.as_ref();
            cluster.is_some_and(|cluster| cluster.nodes.contains_key(name))
        };
        let (stay, go): (Vec<_>, Vec<_>) = gone
            .into_iter()
            .partition(|name| mesh && self.peers.of_mesh.contains(name) && known(name));
        let before = std::mem::take(&mut self.mesh.retiring);
        self.mesh.retiring = stay
            .into_iter()
            .map(|name| {
                let fresh = Retiring {
                    since: now,
                    idle_since: None,
                };
                let retiring = before.get(&name).copied().unwrap_or(fresh);
                (name, retiring)
            })
            .collect();
        if self.mesh.retiring.len() > before.len() {
            tracing::info!(
                event = "mesh_changing",
                sessions = self.mesh.retiring.len(),
                "mesh sessions that are no longer configured stay up until other sessions provide their routes"
            );
        }
        go
    }

    /// Looks whether retiring sessions may go; called every second.
    pub(super) async fn check_retiring(&mut self) -> Result<(), AgentError> {
        let this_moment = now();
        if self.mesh.reflecting.expire(this_moment) | self.mesh.trusting.expire(this_moment) {
            self.put_peers().await?;
        }
        if self.mesh.retiring.is_empty() {
            return Ok(());
        }
        let ids: BTreeMap<PeerId, String> = self
            .mesh
            .retiring
            .keys()
            .filter_map(|name| Some((*self.peers.ids.get(name)?, name.clone())))
            .collect();
        let alone = self
            .speaker
            .count_exclusive_prefixes(ids.keys().copied().collect())
            .await?;
        let now = now();
        let mut gone = BTreeSet::new();
        for (id, name) in &ids {
            let count = alone.get(id).copied().unwrap_or(0);
            if self
                .mesh
                .retiring
                .get_mut(name)
                .is_some_and(|one| one.may_go(now, count))
            {
                gone.insert(name.clone());
            }
        }
        for name in gone {
            self.mesh.retiring.remove(&name);
            self.remove_peer(&name).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_goes_when_nothing_depends_on_it_for_a_while() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut one = Retiring {
            since: start,
            idle_since: None,
        };
        assert!(!one.may_go(after(10), 4));
        assert!(!one.may_go(after(11), 0));
        assert!(!one.may_go(after(13), 1), "something came back");
        assert!(!one.may_go(after(14), 0));
        assert!(one.may_go(after(17), 0));
        assert!(one.may_go(after(121), 4), "nobody waits forever");
    }

    #[test]
    fn a_reflector_goes_on_for_a_while() {
        let start = Instant::now();
        let names =
            |list: &[&str]| -> BTreeSet<String> { list.iter().map(|&name| name.to_owned()).collect() };
        let mut reflecting = Reflecting::default();
        reflecting.update(start, names(&["a", "b"]), &names(&["other"]));
        assert!(reflecting.is_empty());
        // All have sessions with each other from now on; b left.
        reflecting.update(start, names(&[]), &names(&["a", "other"]));
        assert!(reflecting.holds("a") && !reflecting.holds("b") && !reflecting.holds("other"));
        // News in between do not make it longer.
        let later = start + Duration::from_secs(60);
        reflecting.update(later, names(&[]), &names(&["a", "other"]));
        assert!(!reflecting.expire(later));
        assert!(reflecting.expire(start + LONGEST));
        assert!(reflecting.is_empty());
    }
}
