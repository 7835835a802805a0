//! Which sessions the node waits for before it calls itself ready: a rollout must stop at a version that breaks them.
//!
//! The run directory keeps the names of peers whose sessions are up. After a restart each router of the file that was up
//! before has to be up again, and somebody of the mesh if anybody was. A node that starts afresh waits for the first
//! router. All others are excused: peers that are shut down or were down before, ranges, nodes of the mesh (they come
//! and go). Once the obstacle is gone it does not come back: a session that is lost later is the peer's affair.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podroute_config::{Peer, Remote};

use crate::whole_file;

/// Behind the name of a peer that was not up when the file was written.
const MISSING: char = '\t';

/// Names in a message; more are counted.
const NAMED: usize = 3;

/// Sessions by the names of their peers.
#[derive(Debug)]
pub(super) struct Sessions {
    file: PathBuf,
    /// This is no restart: nothing was kept.
    fresh: bool,
    up: BTreeSet<String>,
    /// The file says something else.
    dirty: bool,
    /// What was up before this start, or should have been, and is not yet.
    before: BTreeSet<String>,
    /// Of these, what was up when the last run ended.
    up_at_end: BTreeSet<String>,
    routers: BTreeSet<String>,
    mesh: BTreeSet<String>,
    settled: bool,
}

impl Sessions {
    /// With what the last run left.
    pub(super) fn read(run_dir: &Path) -> Self {
        let file = run_dir.join("sessions");
        let text = std::fs::read_to_string(&file).ok();
        let fresh = text.is_none();
        let text = text.unwrap_or_default();
        let (mut before, mut up_at_end) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            match line.split_once(MISSING) {
                Some((name, _)) => drop(before.insert(name.to_owned())),
                None => {
                    before.insert(line.to_owned());
                    up_at_end.insert(line.to_owned());
                }
            }
        }
        Self {
            fresh,
            before,
            up_at_end,
            file,
            up: BTreeSet::new(),
            dirty: true,
            routers: BTreeSet::new(),
            mesh: BTreeSet::new(),
            settled: false,
        }
    }

    /// The peers whose sessions were up before the restart, by name; nobody after a fresh start. One that is not configured any more, or
    /// is shut down, comes back no more: waiting for it would hold routes back from all others. `None`: not known who is configured.
    pub(super) fn up_before(&self, configured: Option<&[Peer]>) -> BTreeSet<String> {
        let may_be =
            |name: &&String| configured.is_none_or(|peers| peers.iter().any(|peer| is_called(peer, name)));
        self.up_at_end.iter().filter(may_be).cloned().collect()
    }

    /// Whether the node has just come up: nothing is known of an earlier run.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The peers that are wanted from now on.
    pub(super) fn want<'a>(&mut self, peers: impl Iterator<Item = &'a Peer>) {
        let waits = |peer: &&Peer| !peer.shutdown && !matches!(peer.remote, Remote::Range { .. });
        let (mesh, routers): (Vec<_>, Vec<_>) = peers.filter(waits).partition(|peer| peer.of_mesh);
        let names = |peers: Vec<&Peer>| peers.into_iter().map(|peer| peer.name.clone()).collect();
        (self.mesh, self.routers) = (names(mesh), names(routers));
    }

    /// Dynamic peers, and nodes that retire from the mesh, are not waited for before the node is ready; their names are kept
    /// all the same, because after a restart their routes are.
    pub(super) fn came_up(&mut self, name: &str) {
        self.dirty |= self.up.insert(name.to_owned());
        self.before.remove(name);
        if self.mesh.contains(name) {
            // One is enough.
            self.before.retain(|name| !self.mesh.contains(name));
        }
    }

    pub(super) fn went_down(&mut self, name: &str) {
        self.dirty |= self.up.remove(name);
    }

    /// Why the node is not ready; `None` for good once there was no reason.
    pub(super) fn obstacle(&mut self) -> Option<String> {
        if self.settled {
            return None;
        }
        let obstacle = self.find_obstacle();
        self.settled = obstacle.is_none();
        obstacle
    }

    fn find_obstacle(&self) -> Option<String> {
        let again: Vec<&String> = self.before.intersection(&self.routers).collect();
        if !again.is_empty() {
            return Some(format!("not up again since the restart: {}", some_of(&again)));
        }
        if self.before.intersection(&self.mesh).next().is_some() {
            return Some("no session with another node is up again since the restart".to_owned());
        }
        let waits = self.fresh && !self.routers.is_empty() && self.up.is_disjoint(&self.routers);
        waits.then(|| {
            format!(
                "no session is up: {}",
                some_of(&self.routers.iter().collect::<Vec<_>>())
            )
        })
    }

    /// The file is gone.
    pub(super) fn lost(&mut self) {
        self.dirty = true;
    }

    /// Keeps the names for the next start. A fresh start that came to nothing leaves nothing.
    pub(super) fn write(&mut self) {
        if (self.fresh && !self.settled) || !std::mem::take(&mut self.dirty) {
            return;
        }
        // What was up before and has not come back yet is still waited for after another restart, unless it is gone for good.
        let known = |name: &&String| self.routers.contains(*name) || self.mesh.contains(*name);
        let missing = self.before.difference(&self.up).filter(known);
        let up = self.up.iter().map(|name| format!("{name}\n"));
        let text: String = up
            .chain(missing.map(|name| format!("{name}{MISSING}missing\n")))
            .collect();
        if let Err(error) = whole_file::replace(&self.file, text.as_bytes()) {
            tracing::warn!(file = %self.file.display(), %error, "the names of sessions cannot be kept for a restart");
        }
    }
}

/// Whether a session of this name may come from the peer.
fn is_called(peer: &Peer, name: &str) -> bool {
    if peer.shutdown {
        return false;
    }
    let Remote::Range { prefix, .. } = peer.remote else {
        return peer.name == name;
    };
    // The speaker calls those of a range NAME-ADDRESS.
    let address = name
        .strip_prefix(&peer.name)
        .and_then(|rest| rest.strip_prefix('-'));
    let address = address.and_then(|text| text.parse().ok());
    address.is_some_and(|address| prefix.contains_addr(address))
}

fn some_of(names: &[&String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED).map(|name| name.as_str()).collect();
    let more = names.len().saturating_sub(NAMED);
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(before: Option<&[&str]>, routers: &[&str], mesh: &[&str]) -> Sessions {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        Sessions {
            file: PathBuf::new(),
            fresh: before.is_none(),
            up: BTreeSet::new(),
            dirty: true,
            before: before.map(names).unwrap_or_default(),
            up_at_end: before.map(names).unwrap_or_default(),
            routers: names(routers),
            mesh: names(mesh),
            settled: false,
        }
    }

    #[test]
    fn a_fresh_node_waits_for_its_first_router() {
        assert_eq!(of(None, &[], &["node-2"]).obstacle(), None);
        let mut sessions = of(None, &["tor-a", "tor-b"], &["node-2"]);
        sessions.came_up("node-2");
        assert_eq!(sessions.obstacle().unwrap(), "no session is up: tor-a, tor-b");
        sessions.came_up("tor-b");
        assert_eq!(sessions.obstacle(), None);
        sessions.went_down("tor-b");
        assert_eq!(sessions.obstacle(), None, "it does not come back");
    }

    #[test]
    fn a_restart_waits_for_the_routers_that_were_up_and_for_one_node() {
        let before = ["tor-a", "tor-b", "gone", "node-2", "node-3"];
        let mut sessions = of(Some(&before), &["tor-a", "tor-b", "tor-c"], &["node-2", "node-3"]);
        sessions.came_up("tor-a");
        assert_eq!(
            sessions.obstacle().unwrap(),
            "not up again since the restart: tor-b"
        );
        sessions.came_up("tor-b");
        assert!(
            sessions
                .obstacle()
                .unwrap()
                .starts_with("no session with another node")
        );
        sessions.came_up("node-3");
        assert_eq!(
            sessions.obstacle(),
            None,
            "tor-c was down before, node-2 may be gone"
        );
    }

    #[test]
    fn what_was_up_is_kept_until_it_was_up_again() {
        let dir = std::env::temp_dir().join(format!("podroute-sessions-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let start = |routers: &[&str]| {
            let mut sessions = Sessions::read(&dir);
            sessions.routers = routers.iter().map(|&name| name.to_owned()).collect();
            sessions
        };
        let mut first = start(&["a", "b"]);
        first.write();
        assert!(start(&["a"]).is_fresh(), "nothing came of it");
        first.came_up("a");
        first.came_up("b");
        assert_eq!(first.obstacle(), None);
        first.write();
        let mut second = start(&["a", "b"]);
        second.came_up("a");
        second.write();
        let mut third = start(&["a", "b"]);
        assert_eq!(third.obstacle().unwrap(), "not up again since the restart: a, b");
        assert_eq!(
            third.up_at_end,
            ["a".to_owned()].into(),
            "b was down when the second run ended"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn who_cannot_come_back_is_not_waited_for() {
        let up = [
            "tor-a",
            "tor-b",
            "node-9",
            "pods-192.0.2.2",
            "pods-198.51.100.2",
            "pods-x",
            "old-192.0.2.3",
        ];
        let sessions = of(Some(&up), &[], &[]);
        let head = "apiVersion: podroute/v1\ncluster: {asn: 64512}\nnode: {name: n}\npeers:\n";
        let peers = "- {name: tor-a, address: 192.0.2.1, asn: 64512}\n\
                     - {name: tor-b, address: 192.0.2.4, asn: 64512, shutdown: true}\n\
                     - {name: pods, listenRange: 192.0.2.0/24, asn: 64512}\n";
        let config = podroute_config::load(&format!("{head}{peers}")).unwrap();
        let expected: BTreeSet<String> = ["tor-a", "pods-192.0.2.2"].map(str::to_owned).into();
        assert_eq!(sessions.up_before(Some(&config.peers)), expected);
        assert_eq!(sessions.up_before(None).len(), up.len());
        assert!(of(None, &[], &[]).up_before(Some(&config.peers)).is_empty());
    }

    #[test]
    fn many_names_are_counted() {
        let sessions = of(Some(&["a", "b", "c", "d", "e"]), &["a", "b", "c", "d", "e"], &[]).obstacle();
        assert_eq!(
            sessions.unwrap(),
            "not up again since the restart: a, b, c and 2 more"
        );
    }
}
