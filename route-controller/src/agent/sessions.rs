//! Which sessions were up before a restart. Two things wait for them: readiness, because a rollout must stop at a version that
//! breaks sessions, and the deferral of RFC 4724 §4.1.
//!
//! The run directory keeps the names of peers whose sessions are up. Every session that comes up or goes down appends a line at
//! once, so that an agent that is killed at any time knows its peers after the restart; from time to time the file is replaced by
//! a short one.
//!
//! Readiness: after a restart each router of the file that was up before has to be up again, and one node of the mesh if any was.
//! A node that starts for the first time waits for its first router. Others are not waited for: peers that are shut down or were
//! down before, ranges, nodes of the mesh (they come and go). Once ready, a session that is lost later does not matter.
//!
//! Deferral: every peer that was up when the last run ended. One that did not return while the last run deferred is still waited
//! for: the other peers keep its routes until this node's End-of-RIB.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use podroute_config::{Peer, Remote};

use crate::whole_file;

/// Between the name of a peer and its state; a peer that is up has none.
const STATE: char = '\t';
const DOWN: &str = "down";
/// Up before the last start and not since.
const MISSING: &str = "missing";
/// The same, and the deferral was under way.
const AWAITED: &str = "awaited";
/// In the place of a name: the node has never been ready.
const FIRST_START: &str = "\tfirst-start";

/// Names in a message; more are counted.
const NAMED: usize = 3;

/// Appended lines after which the file is replaced.
const APPENDED_MAX: usize = 4096;

/// Sessions by the names of their peers.
#[derive(Debug)]
pub(super) struct Sessions {
    file: StateFile,
    /// The node has never been ready.
    first_start: bool,
    up: BTreeSet<String>,
    /// Up when the last run ended.
    up_at_end: BTreeSet<String>,
    /// Of these, what has not come up since; empty after the deferral.
    awaited: BTreeSet<String>,
    /// What readiness waits for: up before this start, or should have been, and not since.
    before: BTreeSet<String>,
    routers: BTreeSet<String>,
    mesh: BTreeSet<String>,
    settled: bool,
}

impl Sessions {
    /// With what the last run left.
    pub(super) fn read(run_dir: &Path) -> Self {
        let path = run_dir.join("sessions");
        let text = std::fs::read_to_string(&path).ok();
        let last = LastRun::parse(text.as_deref());
        Self {
            file: StateFile::new(path),
            first_start: last.first_start,
            up: BTreeSet::new(),
            awaited: last.up.clone(),
            up_at_end: last.up,
            before: last.before,
            routers: BTreeSet::new(),
            mesh: BTreeSet::new(),
            settled: false,
        }
    }

    /// The peers whose sessions were up when the last run ended, by name. One that is not configured any more, or
    /// is shut down, comes back no more: waiting for it would hold routes back from all others. `None`: not known who is configured.
    pub(super) fn up_before(&self, configured: Option<&[Peer]>) -> BTreeSet<String> {
        let may_be =
            |name: &&String| configured.is_none_or(|peers| peers.iter().any(|peer| is_called(peer, name)));
        self.up_at_end.iter().filter(may_be).cloned().collect()
    }

    /// Whether the node has never been ready.
    pub(super) fn is_first_start(&self) -> bool {
        self.first_start
    }

    /// Whether peers may have kept routes of an earlier run.
    pub(super) fn is_restart(&self) -> bool {
        !self.first_start || !self.up_at_end.is_empty()
    }

    /// The peers that are wanted from now on.
    pub(super) fn want<'a>(&mut self, peers: impl Iterator<Item = &'a Peer>) {
        let waits = |peer: &&Peer| !peer.shutdown && !matches!(peer.remote, Remote::Range { .. });
        let (mesh, routers): (Vec<_>, Vec<_>) = peers.filter(waits).partition(|peer| peer.of_mesh);
        let names = |peers: Vec<&Peer>| peers.into_iter().map(|peer| peer.name.clone()).collect();
        (self.mesh, self.routers) = (names(mesh), names(routers));
    }

    /// Dynamic peers, and nodes that leave the mesh, do not count for readiness; their names are kept all the same, because after
    /// a restart their routes are.
    pub(super) fn came_up(&mut self, name: &str) {
        if self.up.insert(name.to_owned()) {
            self.file.append(name, None);
        }
        self.awaited.remove(name);
        self.before.remove(name);
        if self.mesh.contains(name) {
            // One is enough.
            self.before.retain(|name| !self.mesh.contains(name));
        }
    }

    pub(super) fn went_down(&mut self, name: &str) {
        if self.up.remove(name) {
            self.file.append(name, Some(DOWN));
        }
    }

    /// All that were awaited have sent their End-of-RIB, or the time for it is over.
    pub(super) fn deferral_ended(&mut self) {
        if !std::mem::take(&mut self.awaited).is_empty() {
            self.file.outdated = true;
        }
    }

    /// Why the node is not ready; `None` for good once there was no reason.
    pub(super) fn obstacle(&mut self) -> Option<String> {
        if self.settled {
            return None;
        }
        let obstacle = self.find_obstacle();
        if obstacle.is_none() {
            self.settled = true;
            self.file.outdated = true;
        }
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
        let waits = self.first_start && !self.routers.is_empty() && self.up.is_disjoint(&self.routers);
        waits.then(|| {
            format!(
                "no session is up: {}",
                some_of(&self.routers.iter().collect::<Vec<_>>())
            )
        })
    }

    /// The file is gone.
    pub(super) fn lost(&mut self) {
        self.file.outdated = true;
    }

    /// Replaces the file if it is outdated or long.
    pub(super) fn write(&mut self) {
        if self.file.outdated {
            let text = self.text();
            self.file.replace(&text);
        }
    }

    fn text(&self) -> String {
        // What was up before and has not come up since is still waited for after another restart, unless it is configured no more:
        // which is known at the end of the deferral, because the cluster's objects may come late.
        let deferring = !self.awaited.is_empty();
        let known = |name: &&String| deferring || self.routers.contains(*name) || self.mesh.contains(*name);
        let missing = self.before.difference(&self.up).filter(known);
        let missing = missing.filter(|name| !self.awaited.contains(*name));
        let first = (self.first_start && !self.settled).then(|| format!("{FIRST_START}\n"));
        let up = self.up.iter().map(|name| format!("{name}\n"));
        first
            .into_iter()
            .chain(up)
            .chain(missing.map(|name| format!("{name}{STATE}{MISSING}\n")))
            .chain(
                self.awaited
                    .iter()
                    .map(|name| format!("{name}{STATE}{AWAITED}\n")),
            )
            .collect()
    }
}

/// What the file of the last run says.
#[derive(Debug)]
struct LastRun {
    first_start: bool,
    up: BTreeSet<String>,
    before: BTreeSet<String>,
}

impl LastRun {
    /// Of several lines of a peer the last one counts. A line without its end was cut off by a full disk.
    fn parse(text: Option<&str>) -> Self {
        let mut states = BTreeMap::new();
        let mut first_start = text.is_none();
        let whole = text.and_then(|text| text.rsplit_once('\n'));
        for line in whole.map_or("", |(whole, _)| whole).lines() {
            match line.split_once(STATE) {
                Some(("", _)) => first_start = true,
                Some((name, state)) => drop(states.insert(name, Some(state))),
                None => drop(states.insert(line, None)),
            }
        }
        let is_up = |state: &Option<&str>| state.is_none_or(|state| state == AWAITED);
        let names = |wanted: &dyn Fn(&Option<&str>) -> bool| {
            let names = states.iter().filter(|(_, state)| wanted(state));
            names.map(|(name, _)| (*name).to_owned()).collect::<BTreeSet<_>>()
        };
        Self {
            up: names(&is_up),
            before: if first_start {
                BTreeSet::new()
            } else {
                names(&|state| *state != Some(DOWN))
            },
            first_start,
        }
    }
}

/// The file in the run directory: replaced whole, then appended to.
#[derive(Debug)]
struct StateFile {
    path: PathBuf,
    /// To append; `None` until the file is replaced.
    handle: Option<File>,
    appended: usize,
    /// The file has to be replaced.
    outdated: bool,
    /// It could not be replaced the last time.
    fails: bool,
}

impl StateFile {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            handle: None,
            appended: 0,
            outdated: true,
            fails: false,
        }
    }

    fn append(&mut self, name: &str, state: Option<&str>) {
        let line = match state {
            Some(state) => format!("{name}{STATE}{state}\n"),
            None => format!("{name}\n"),
        };
        let written = self
            .handle
            .as_mut()
            .is_some_and(|handle| handle.write_all(line.as_bytes()).is_ok());
        if !written {
            self.handle = None; // the line may be there in part: nothing is appended to it
        }
        self.appended += 1;
        self.outdated |= !written || self.appended > APPENDED_MAX;
    }

    fn replace(&mut self, text: &str) {
        self.handle = None;
        self.appended = 0;
        match self.try_replace(text) {
            Ok(handle) => {
                self.handle = Some(handle);
                self.outdated = false;
                self.fails = false;
            }
            // It is retried; only the first failure is logged.
            Err(error) if !std::mem::replace(&mut self.fails, true) => {
                tracing::warn!(event = "state_not_saved", state = "sessions", file = %self.path.display(), %error, "cannot save which sessions are up for a restart; trying again");
            }
            Err(_) => {}
        }
    }

    fn try_replace(&self, text: &str) -> io::Result<File> {
        whole_file::replace(&self.path, text.as_bytes())?;
        File::options()
            .append(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)
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
            file: StateFile::new(PathBuf::new()),
            first_start: before.is_none(),
            up: BTreeSet::new(),
            before: before.map(names).unwrap_or_default(),
            awaited: BTreeSet::new(),
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

    /// A start with the names of its routers; dropped without a word, as by a kill.
    fn start(dir: &Path, routers: &[&str]) -> Sessions {
        let mut sessions = Sessions::read(dir);
        sessions.routers = routers.iter().map(|&name| name.to_owned()).collect();
        sessions.write();
        sessions
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_was_up_is_kept_until_it_was_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = start(dir.path(), &["a", "b"]);
        assert!(!first.is_restart());
        first.came_up("a");
        first.came_up("b");
        assert_eq!(first.obstacle(), None);
        first.write();
        let mut second = start(dir.path(), &["a", "b"]);
        assert!(!second.is_first_start());
        second.came_up("a");
        let mut third = start(dir.path(), &["a", "b"]);
        assert_eq!(third.obstacle().unwrap(), "not up again since the restart: a, b");
        assert_eq!(
            third.up_before(None),
            set(&["a", "b"]),
            "the second run was still waiting for b"
        );
        third.came_up("a");
        third.deferral_ended();
        third.write();
        let mut fourth = start(dir.path(), &["a", "b"]);
        assert_eq!(
            fourth.up_before(None),
            set(&["a"]),
            "b was down when the third run ended"
        );
        assert_eq!(fourth.obstacle().unwrap(), "not up again since the restart: a, b");
    }

    #[test]
    fn a_kill_at_any_time_leaves_the_names_of_those_that_are_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = start(dir.path(), &["a", "b"]);
        first.came_up("dynamic");
        first.came_up("a");
        first.came_up("b");
        first.went_down("b");
        // No write.
        let second = start(dir.path(), &["a", "b"]);
        assert_eq!(second.up_before(None), set(&["a", "dynamic"]));
        assert!(second.is_restart());
        assert!(second.is_first_start(), "it has never been ready");
        let mut second = second;
        assert_eq!(second.obstacle().unwrap(), "no session is up: a, b");
    }

    #[test]
    fn a_file_that_is_appended_to_is_replaced_when_it_is_long() {
        let dir = tempfile::tempdir().unwrap();
        let mut sessions = start(dir.path(), &["a"]);
        for _ in 0..APPENDED_MAX {
            sessions.came_up("a");
            sessions.went_down("a");
        }
        sessions.came_up("a");
        sessions.write();
        let text = std::fs::read_to_string(dir.path().join("sessions")).unwrap();
        assert_eq!(text, "\tfirst-start\na\n");
    }

    /// Otherwise a peer whose line says that it is down would be up, and the names of two peers one.
    #[test]
    fn a_line_that_a_full_disk_cut_off_is_not_read() {
        let last = LastRun::parse(Some("a\nb\na\tdown\nb"));
        assert_eq!((last.up, last.before), (set(&["b"]), set(&["b"])));
        let last = LastRun::parse(Some("a\tdo"));
        assert_eq!((last.up, last.before), (set(&[]), set(&[])));
        assert!(!last.first_start);
    }

    #[test]
    fn nothing_is_appended_after_a_failure_until_the_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut sessions = start(dir.path(), &["a"]);
        sessions.file.handle = Some(File::options().append(true).open("/dev/full").unwrap());
        sessions.came_up("a");
        assert!(sessions.file.handle.is_none() && sessions.file.outdated);
        sessions.came_up("b");
        sessions.write();
        assert_eq!(start(dir.path(), &["a"]).up_before(None), set(&["a", "b"]));
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let last = LastRun::parse(Some("a\nb\tmissing\n"));
        assert_eq!((last.up, last.before), (set(&["a"]), set(&["a", "b"])));
        assert!(!last.first_start);
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
